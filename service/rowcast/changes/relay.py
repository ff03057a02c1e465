"""The relay: the node that makes ticks sends their changes over a message bus, and the other nodes read them there.

A *node* is a process with a feed and a ticker. The leader's feed follows the log and passes each batch on; in between it
sends beats with its head, which the relay repeats. A node that hears the leader is *fed*: it neither listens nor reads ticks. It applies a batch
that begins at its own head, and ignores one that it already has. If a batch begins later, or a beat is ahead of its head,
something was lost, and the feed reads the log from its head on. So the bus may lose, double and reorder messages.

Each message has the time of the look at the log that it follows, by the clock of the database, which all nodes can read. So one that
is late, or that somebody has recorded and sends again, counts for no more than it did when it was sent.

A leader that is silent for ``SILENCE_SECONDS``, says that it has ended, or cannot be heard because the bus is away, feeds
nobody: each feed follows the log by itself, and the tickers look for the lead as often as without a relay.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import monotonic
from typing import Final

import structlog

from rowcast.changes.bus import Bus, BusLost, BusSession
from rowcast.changes.connection import RECONNECT_SECONDS, cancel
from rowcast.changes.database_clock import DatabaseClock
from rowcast.changes.epochs import current_history
from rowcast.changes.events import Batch
from rowcast.changes.install import read_secret
from rowcast.changes.nats_bus import NatsBus
from rowcast.changes.position import Position
from rowcast.changes.redis_bus import RedisBus
from rowcast.changes.relay_messages import Beat, NotGenuine, RelayKey, decode, encode
from rowcast.configuration.relay_url import parse_relay_url
from rowcast.database.connection import Connection
from rowcast.tasks import Supervisor

BEAT_SECONDS: Final = 0.25  # between two beats of a leader
SILENCE_SECONDS: Final = 1.0  # of the leader, after which it feeds nobody
LATE_SECONDS: Final = 3.0  # since the leader looked at the log, after which its messages are dropped
INBOX_BYTES: Final = 16 << 20  # of batches that have arrived, and wait for the feed
OUTBOX_BYTES: Final = 16 << 20  # of batches that wait to be sent
FAREWELL_SECONDS: Final = 1.0  # for what waits to be sent when the relay stops
DROPPED_BECAUSE: Final = ("foreign", "late", "inbox_full", "outbox_full")

_logger = structlog.get_logger(__name__)


def open_bus(url: str) -> Bus:
    """The bus of ``stream.relay``. ``ConfigurationError`` if its client is not installed."""
    parsed = parse_relay_url(url)
    return RedisBus(parsed) if parsed.scheme.startswith("redis") else NatsBus(parsed)


class Relay:
    """Sends the batches of this node while it leads, and has those of the leader while it does not."""

    def __init__(self, bus: Bus, supervisor: Supervisor | None = None) -> None:
        self.bus = bus
        self.leads = False
        self.connected = False
        self.published = 0  # messages
        self.received = 0  # messages of this log
        self.dropped: Counter[str] = Counter()  # messages, by reason
        self.filled = 0  # ticks that the feed has read from the log although it was fed
        self._supervisor = supervisor or Supervisor()
        self._tasks: list[asyncio.Task[None]] = []
        self._name = secrets.token_hex(8)
        self._key: RelayKey | None = None
        self._bell = asyncio.Event()  # there is something to send, another key, or no connection any more
        self._lost = False
        self.clock = DatabaseClock()
        self._outbox: deque[tuple[float, Batch | Beat]] = deque()  # with the time of the look before, in the database
        self._outbox_bytes = 0
        self._sent = asyncio.Event()  # nothing waits to be sent
        self._sent.set()
        self._own_beat: tuple[float, Beat] | None = None  # the last one of the feed,
        self._beat_at = float("-inf")  # and when it was sent
        self._alarms = 0
        self._inbox: deque[Batch] = deque()
        self._inbox_bytes = 0
        self._heard = False
        self._heard_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._announced: Position | None = None
        self._current: tuple[float, Position] | None = (
            None  # when nothing was after a head, by the newest beat that says so
        )
        self._alarmed_by: tuple[str, int] = "", 0
        self._alarmed = False
        self._on_message: list[Callable[[], None]] = []
        self._on_change: list[Callable[[], None]] = []

    async def start(self) -> None:
        """Start to connect; returns at once."""
        self._tasks = [self._supervisor.run("relay", self._run)]

    async def stop(self) -> None:
        """Send what waits to be sent, if that is soon done, and disconnect."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS if self.connected else 0):
                await self._sent.wait()
        await cancel(self._tasks)

    @property
    def key(self) -> RelayKey | None:
        """The channel and the key of the log that is relayed; ``None`` before one is."""
        return self._key

    async def use(self, connection: Connection) -> None:
        """Relay the log of this connection's database."""
        history = await current_history(connection)
        self.use_key(RelayKey.of(await read_secret(connection), tuple(history.values())))

    def use_key(self, key: RelayKey) -> None:
        """Relay the log that has this key."""
        if key != self._key:
            self._key = key
            self.clock.forget()
            self._bell.set()

    def notify(self, *, of_changes: Callable[[], None], of_messages: Callable[[], None] | None = None) -> None:
        """Call the first function when this node begins or ceases to be fed, the second when something has arrived."""
        self._on_change.append(of_changes)
        if of_messages is not None:
            self._on_message.append(of_messages)

    # --- the leader

    def lead(self, leads: bool) -> None:
        """Whether this node makes the ticks, from now on."""
        if leads == self.leads:
            return
        self.leads = leads
        self._own_beat = None
        self._forget()
        if not leads and self.connected and self.clock.newest is not None:
            self._put(self.clock.newest, Beat(Position(0, 0), current=False, ended=True))
        self._call(self._on_change)

    def pass_on(self, batch: Batch) -> None:
        """Send a batch, if this node leads."""
        at = self.clock.newest
        if not self.leads or not self.connected or at is None:
            return
        if self._outbox_bytes + batch.size > OUTBOX_BYTES:
            self._drop("outbox_full")
            return
        self._outbox_bytes += batch.size
        self._put(at, batch)

    def beat(self, head: Position, *, current: bool) -> None:
        """The feed has looked at the log: send a beat, if this node leads and the last one was long enough ago."""
        now, at = monotonic(), self.clock.newest
        if self.leads and self.connected and at is not None and now - self._beat_at >= BEAT_SECONDS:
            self._beat_at = now
            self._own_beat = at, Beat(head, current, self._alarms)
            self._put(*self._own_beat)

    def _repeat_beat(self) -> None:
        """Send the last beat again between two looks of the feed, as one that is not current, if the feed works."""
        if self.leads and self._own_beat is not None and monotonic() - self._beat_at < SILENCE_SECONDS:
            at, beat = self._own_beat
            self._put(at, replace(beat, current=False))

    def alarm(self) -> None:
        """Have all nodes look for tables that are not logged, if this node leads."""
        self._alarms += 1
        self._beat_at = float("-inf")

    def _put(self, at: float, message: Batch | Beat) -> None:
        self._outbox.append((at, message))
        self._sent.clear()
        self._bell.set()

    # --- the others

    @property
    def feeds(self) -> bool:
        """Whether this node is fed: another one leads, and is heard."""
        return self._heard and not self.leads

    def take(self, head: Position) -> Iterator[Batch]:
        """The batches that continue a head, one after the other."""
        while self._inbox and self._inbox[0].start.sort_key <= head.sort_key:
            batch = self._inbox.popleft()
            self._inbox_bytes -= batch.size
            if batch.end.sort_key > head.sort_key:
                yield batch.after(head)
                head = batch.end

    def lacks(self, head: Position) -> bool:
        """Whether something after this head was announced, and has not been looked for in the log since."""
        return self._announced is not None and self._announced.sort_key > head.sort_key

    def begin_look(self) -> None:
        """The feed is about to read from the log all that has been announced."""
        self._announced = None

    def current_at(self, head: Position) -> float | None:
        """When nothing was after this head, as far as the leader could see; as ``monotonic()``."""
        if self._current is None or self._current[1].sort_key > head.sort_key:
            return None
        return self._current[0]

    def take_alarm(self) -> bool:
        """Whether the leader has found tables that are not logged, since the last call."""
        alarmed, self._alarmed = self._alarmed, False
        return alarmed

    def _receive(self, message: bytes) -> None:
        if self.leads or self._key is None:
            return
        try:
            sender, at, content = decode(self._key, message)
        except NotGenuine:
            self._drop("foreign")
            return
        if sender == self._name or (looked := self.clock.time_of(at)) is None:  # from when this node led, or too early
            return
        if monotonic() - looked > LATE_SECONDS:
            self._drop("late")
            return
        self.received += 1
        if isinstance(content, Batch):
            self._keep(content)
            self._announce(content.end)
        elif content.ended:
            self._fall_silent()
            return
        else:
            self._follow_beat(sender, content, min(looked, monotonic()))
        self._hear()
        self._call(self._on_message)

    def _keep(self, batch: Batch) -> None:
        self._inbox.append(batch)
        self._inbox_bytes += batch.size
        while len(self._inbox) > 1 and self._inbox_bytes > INBOX_BYTES:
            self._inbox_bytes -= self._inbox.popleft().size
            if self.feeds:
                self._drop("inbox_full")

    def _announce(self, end: Position) -> None:
        if self._announced is None or end.sort_key > self._announced.sort_key:
            self._announced = end

    def _follow_beat(self, sender: str, beat: Beat, looked: float) -> None:
        if beat.current and (self._current is None or looked > self._current[0]):
            self._current = looked, beat.head
        self._announce(beat.head)
        if beat.alarms and self._alarmed_by != (sender, beat.alarms):
            self._alarmed_by = sender, beat.alarms
            self._alarmed = True

    def _hear(self) -> None:
        self._heard_at = monotonic()
        if not self._heard:
            self._heard = True
            self._watch_silence(SILENCE_SECONDS)
            self._call(self._on_change)

    def _watch_silence(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._check_silence)

    def _check_silence(self) -> None:
        left = self._heard_at + SILENCE_SECONDS - monotonic()
        if left <= 0:
            self._fall_silent()
        else:
            self._watch_silence(left)

    def _fall_silent(self) -> None:
        """The leader feeds nobody any more."""
        if self._heard:
            self._heard = False
            if self._timer is not None:
                self._timer.cancel()
            self._call(self._on_change)

    def _forget(self) -> None:
        """What has arrived has no use."""
        self._inbox.clear()
        self._inbox_bytes = 0
        self._announced = self._current = None

    # --- the connection

    async def _run(self) -> None:
        shortest, longest = RECONNECT_SECONDS
        delay = shortest
        while True:
            while (key := self._key) is None:
                self._bell.clear()
                await self._bell.wait()
            self._lost = False
            try:
                async with self.bus.session(key.channel, self._receive, self._lose) as session:
                    _logger.info("relay_connected", bus=self.bus.place)
                    self.connected = True
                    delay = shortest
                    await self._send(session, key)
            except BusLost as error:
                _logger.warning("relay_lost", bus=self.bus.place, error=str(error))
            finally:
                self._disconnect()
            if key == self._key:
                await asyncio.sleep(delay * random.uniform(0.5, 1))
                delay = min(2 * delay, longest)

    async def _send(self, session: BusSession, key: RelayKey) -> None:
        """Send what is put into the outbox, until there is another key."""
        while key == self._key:
            self._bell.clear()
            if self._lost:
                raise BusLost("the connection has ended")
            while self._outbox:
                at, message = self._outbox.popleft()
                if isinstance(message, Batch):
                    self._outbox_bytes -= message.size
                for part in encode(key, self._name, at, message, session.limit):
                    await session.publish(part)
                    self.published += 1
            self._sent.set()
            try:
                async with asyncio.timeout(BEAT_SECONDS if self.leads else None):
                    await self._bell.wait()
            except TimeoutError:
                self._repeat_beat()

    def _lose(self) -> None:
        self._lost = True
        self._fall_silent()
        self._bell.set()

    def _disconnect(self) -> None:
        self.connected = False
        self._outbox.clear()
        self._outbox_bytes = 0
        self._sent.set()
        self._forget()
        self._fall_silent()

    def _drop(self, reason: str) -> None:
        self.dropped[reason] += 1
        _logger.warning("relay_message_dropped", reason=reason, bus=self.bus.place)

    @staticmethod
    def _call(callbacks: list[Callable[[], None]]) -> None:
        for callback in callbacks:
            callback()
