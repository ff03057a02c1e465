"""The feed: every committed change, delivered to this process in the one order of the log.

It follows the ticks over one connection, however many subscribers there are. After each connect it listens first, then
reads the newest tick, and then goes on from its own head, so no change is lost in between. The batches stay in a ring
that is bounded in events and bytes. A reader whose position is older than the ring reads the log, one page at a time,
over a connection that all such readers share (``rowcast.changes.history``).

With a relay, the feed of the node that makes ticks passes its batches on, and the feeds of the others apply these instead of
reading ticks, while they hear it (``rowcast.changes.relay``). After each connect a feed looks at the log first.

``head`` moves and subscribers are called in one step of the event loop. So code that reads ``head`` and subscribes
without an ``await`` in between misses nothing and gets nothing twice.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from enum import StrEnum
from itertools import islice
from time import monotonic
from typing import Any, Final

import structlog

from rowcast.changes import sql, ticks
from rowcast.changes.connection import RECONNECT_SECONDS, Reconnecting
from rowcast.changes.coordination import TICK_CHANNEL
from rowcast.changes.epochs import read_epochs
from rowcast.changes.events import Batch
from rowcast.changes.history import History
from rowcast.changes.position import POSITION_MAX_LENGTH, WITH_SNAPSHOT, Position, Snapshot
from rowcast.changes.reader import Pruned, prepare_session, read_batches
from rowcast.changes.relay import FED_POLL_SECONDS, Relay
from rowcast.changes.standbys import position_on_standby
from rowcast.changes.state import LogState, read_state
from rowcast.changes.ticks import Tick
from rowcast.database.connection import Connect, Connection
from rowcast.database.errors import DRIVER_ERRORS
from rowcast.tasks import Supervisor

POLL_MIN_SECONDS: Final = 0.002  # between polls, without notifications
POLL_MAX_SECONDS: Final = 0.250
STATE_MAX_AGE_SECONDS: Final = 1.0  # of the state of the log that is returned again
LOOK_MAX_AGE_SECONDS: Final = 1.0  # since the last look, within which new ticks show that a ticker works
SNAPSHOT_MAX_AGE_SECONDS: Final = 60.0  # of a statement whose snapshot can still be turned into a position

_UNLOGGED_TABLES: Final = sql.load("unlogged_tables")
_logger = structlog.get_logger(__name__)

Subscriber = Callable[[Batch], None]


class Reason(StrEnum):
    """Why a reader cannot go on from its position, and must load its data again."""

    MALFORMED = "malformed"  # not a position
    AHEAD = "ahead"  # later than the newest change
    FORKED = "forked"  # in another history than this database's
    EXPIRED = "expired"  # the changes after it are not kept any more


class Reset(Exception):
    """The reader cannot go on, for this ``reason``."""

    def __init__(self, reason: Reason) -> None:
        self.reason = reason
        super().__init__(reason.value)


class Feed(Reconnecting):
    """Follows the log. ``connect`` opens a direct connection to the primary server.

    The ring holds at most ``events`` events and about ``size`` bytes, and at least the newest batch. Use as
    ``async with Feed(connect) as feed: …``, which waits for nothing; ``await feed.ready.wait()`` does.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        wakeup: str = "notify",
        events: int = 100_000,
        size: int = 64 << 20,
        relay: Relay | None = None,
        supervisor: Supervisor | None = None,
    ) -> None:
        super().__init__(connect, "feed", supervisor)
        self.relay = relay
        if relay is not None:
            relay.notify(of_changes=self.ring, of_messages=self.ring)
        self.confirmed_at = float("-inf")  # when nothing was after the head, as the feed has seen itself
        self.fed = False  # the relay's batches are applied, and notifications do not arrive
        self._notify = wakeup == "notify"
        self._bounds = events, size
        self._ring: deque[Batch] = deque()
        self._held = [0, 0]  # events and bytes in the ring
        self._ticks: deque[tuple[float, Tick]] = deque()  # the newest ones and when they were applied
        self._continued: tuple[Any, str | None] = None, None  # the last arguments and result of stream_position
        self._tick: Tick  # the newest that is complete
        self._head: Position | None = None
        self._jumps = 0  # how often the head has jumped to another history
        self._subscribers: dict[Subscriber, Callable[[Reason], None]] = {}
        self._current_at = monotonic()  # when the head was the newest change, as far as the feed could see
        self.history = History(connect)
        self._state: tuple[float, LogState] | None = None  # and when it was read
        self.ready = asyncio.Event()  # set once the head is known; from then on it always is
        self.connected = False

    async def stop(self) -> None:
        """Stop following; no subscriber is called any more."""
        await super().stop()
        self.history.close()

    @property
    def head(self) -> Position:
        """The position after the newest event that subscribers were called with. Known once ``ready`` is set."""
        assert self._head is not None, "the feed has not been ready yet"
        return self._head

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot of the newest tick whose events subscribers were called with."""
        return self._tick.snap

    def has_delivered(self, wanted: Position | int) -> bool:
        """Whether subscribers were called with all events up to a position, or of a transaction, for certain."""
        return self.head.with_snapshot(self._tick.snap).includes(wanted)

    @property
    def lag(self) -> float:
        """Seconds since the head was the newest change, as far as the feed could see."""
        return monotonic() - self._current_at

    async def state(self) -> LogState:
        """The state of the log, a second old at most. Raises the driver's error if the database cannot be read."""
        async with self.history.primary.turn() as connection:
            if self._state is None or monotonic() - self._state[0] > STATE_MAX_AGE_SECONDS:
                self._state = monotonic(), await read_state(connection)
            return self._state[1]

    async def unlogged_tables(self, names: Sequence[str]) -> list[str]:
        """Those of the tables, given with their schemas, whose changes do not reach the log."""
        async with self.history.primary.turn() as connection:
            return [name for (name,) in await connection.fetch(_UNLOGGED_TABLES, list(names), timeout=10)]

    def subscribe(self, apply: Subscriber, reset: Callable[[Reason], None]) -> Callable[[], None]:
        """Call ``apply`` with each new batch, in order, from ``head`` on; return a function that unsubscribes.

        ``reset`` is called instead when the feed cannot go on from its head: the head has jumped, and the changes in
        between are lost to this process. Both are called from the event loop and must not block or raise.
        """
        self._subscribers[apply] = reset

        def unsubscribe() -> None:
            self._subscribers.pop(apply, None)

        return unsubscribe

    def stream_position(self, snapshot: str) -> str | None:
        """The position that continues a response whose statement had this ``snapshot``, or what a standby returns in its place.

        It follows the newest tick that the snapshot includes, so the time of the call does not matter. ``None`` if the
        feed was not ready when the statement ran, or the statement took longer than ``SNAPSHOT_MAX_AGE_SECONDS``.
        """
        arguments = (snapshot, self._ticks[-1] if self._ticks else None)
        if arguments != self._continued[0]:  # while nothing is written, all statements have the same snapshot
            if WITH_SNAPSHOT in snapshot:
                self._continued = (arguments, position_on_standby(snapshot))
            else:
                self._continued = (arguments, self._continuing(Snapshot.parse(snapshot)))
        return self._continued[1]

    def kept_position(self, snapshot: str) -> str:
        """``stream_position`` of an answer that was kept, and that nothing has changed since; ``head`` if the feed does not know it.

        The position of a standby says itself which tick it follows, however long ago that was; the log may not have it any more.
        """
        position = self.stream_position(snapshot)
        if position is None or (WITH_SNAPSHOT in snapshot and Position.parse(position).tick < self._ticks[0][1].tick):
            return str(self.head)
        return position

    def _continuing(self, seen: Snapshot) -> str | None:
        for _, tick in reversed(self._ticks):
            if tick.snap <= seen:
                text = str(Position(tick.epoch, tick.tick, 0, seen))
                return text if len(text) <= POSITION_MAX_LENGTH else str(Position(tick.epoch, tick.tick))
        return None

    async def check(self, position: Position | str) -> Reason | None:
        """The reason why a reader cannot go on from a position, or ``None`` if it can."""
        if isinstance(position, str):
            try:
                position = Position.parse(position)
            except ValueError:
                return Reason.MALFORMED
        if position.epoch == self.head.epoch and self._start.sort_key <= position.sort_key <= self.head.sort_key:
            return None
        async with self.history.primary.turn() as connection:
            epochs = await read_epochs(connection)
            newest = await ticks.newest_tick(connection)
            oldest = await ticks.oldest_tick(connection)
        if all(epoch.epoch != position.epoch for epoch in epochs):
            return Reason.FORKED
        if any(epoch.epoch > position.epoch and position.sort_key > (epoch.base, 0) for epoch in epochs):
            return Reason.FORKED
        if position.sort_key > (newest.tick, 0):
            return Reason.AHEAD
        return Reason.EXPIRED if position.tick < oldest else None

    async def read(self, after: Position) -> AsyncGenerator[Batch, None]:
        """Every batch from a position up to ``head``, from memory or the log; check the position first.

        When the iteration ends the reader is at ``head``, and it stays there up to the caller's next ``await``. While
        PostgreSQL cannot be reached, the iteration waits. Raises ``Reset`` if the batches are not kept any more.
        """
        jumps = self._jumps
        while after.sort_key < self.head.sort_key:
            if after.sort_key >= self._start.sort_key:
                first = bisect_right(self._ring, after.sort_key, key=lambda batch: batch.end.sort_key)
                for batch in tuple(islice(self._ring, first, None)):
                    yield batch.after(after)
                    after = batch.end
            else:
                try:
                    async with contextlib.aclosing(self.history.read(after, self.head)) as batches:
                        async for batch in batches:
                            yield batch
                            after = batch.end
                except Pruned:
                    raise Reset(Reason.EXPIRED) from None
                except DRIVER_ERRORS as error:
                    _logger.warning("feed_reader_lost", error=str(error) or type(error).__name__)
                    await asyncio.sleep(RECONNECT_SECONDS[0])
            if jumps != self._jumps:
                raise Reset(Reason.FORKED)

    async def read_seen(self, after: Position, snapshot: Snapshot) -> AsyncGenerator[Batch, None]:
        """The events that a snapshot sees and the tick of a position does not, whether ``head`` has reached them or not.

        The batches are in no order that others use. Raises ``Reset`` if some events are not kept any more, and the driver's
        error if the database cannot be read.
        """
        async with self.history.primary.turn() as connection:
            read = await ticks.read_ticks(connection, after.tick, 1)
        if not read or read[0].tick != after.tick:
            raise Reset(Reason.EXPIRED)
        wanted = [read[0], Tick(after.tick + 1, after.epoch, snapshot)]
        batches = read_batches(connection, Position(after.epoch, after.tick), wanted)
        try:
            while True:
                async with self.history.primary.turn(connection):
                    batch = await anext(batches, None)
                if batch is None:
                    return
                yield batch
        except Pruned:
            raise Reset(Reason.EXPIRED) from None

    async def _prepare(self, connection: Connection) -> None:
        """Listen first, and only then look for the newest tick."""
        await prepare_session(connection)
        await connection.execute("SET application_name = 'rowcast feed'")
        self.fed = False
        if self._notify:
            await self._listen(connection, TICK_CHANNEL)
        if self.relay is not None:
            await self.relay.use(connection)
        if self._head is None:
            self._move(await ticks.newest_tick(connection))
            self.ready.set()

    async def _work(self, connection: Connection) -> None:
        _logger.info("feed_connected", head=str(self._head))
        try:
            await self._follow(connection)
        finally:
            self.connected = False

    async def _follow(self, connection: Connection) -> None:
        """Apply the changes of new ticks, for ever."""
        pause = POLL_MIN_SECONDS
        looked = float("-inf")
        behind = False
        while True:
            self._begin_look()
            await self._follow_relay(connection, self.fed and self._is_heard)
            if self.fed and not behind and self._take_from_relay():
                left = looked + FED_POLL_SECONDS - monotonic()
                if left > 0:
                    await self._wait(left)
                    continue
            started = monotonic()
            read = await self._look(connection)
            behind = read == ticks.TICKS_PER_READ
            if read > 1:
                pause = POLL_MIN_SECONDS
            if behind:
                self._check_connection()
                continue
            if not self.fed:
                ticking = read > 1 and started - looked < LOOK_MAX_AGE_SECONDS
                if ticking or not await ticks.changes_are_waiting(connection):
                    self._current_at = self.confirmed_at = started
            looked = started
            self.connected = True
            await self._follow_relay(connection, self._is_heard)
            if not self.fed:
                pause = self._safety_pause if self._notify else min(1.25 * pause, POLL_MAX_SECONDS)
                if self.relay is not None:
                    self.relay.beat(self.head, current=self._current_at == started)
                await self._wait(pause)

    async def _look(self, connection: Connection) -> int:
        """Read new ticks, and apply their changes. Returns how many ticks were read, the one at the head included."""
        if self.relay is not None:
            self.relay.begin_look()
        sent = monotonic()
        read, began = await ticks.look(connection, self._tick.tick)
        if self.relay is not None and began is not None:
            self.relay.clock.note(sent, began)
        if not read or read[0] != self._tick:
            await self._reset(connection)
        elif len(read) > 1:
            self._note_change()
            if self.relay is not None and self.fed:
                self.relay.filled += len(read) - 1
            try:
                async for batch in read_batches(connection, self.head, read):
                    self._apply(batch)
            except Pruned:
                await self._reset(connection)
        return len(read)

    @property
    def _is_heard(self) -> bool:
        return self.relay is not None and self.relay.feeds

    async def _follow_relay(self, connection: Connection, fed: bool) -> None:
        """Follow the relay, or the notifications of ticks: these arrive before the next look."""
        if fed == self.fed:
            return
        if self._notify and fed:
            await connection.remove_listener(TICK_CHANNEL, self.ring)
        elif self._notify:
            await self._listen(connection, TICK_CHANNEL)
        self.fed = fed
        _logger.info("feed_follows", source="relay" if fed else "log", head=str(self.head))

    def _take_from_relay(self) -> bool:
        """Apply what has arrived. Returns whether it is all that was announced."""
        assert self.relay is not None
        for batch in self.relay.take(self.head):
            self._apply(batch)
        if (current_at := self.relay.current_at(self.head)) is not None:
            self._current_at = max(self._current_at, current_at)
        return not self.relay.lacks(self.head)

    def _apply(self, batch: Batch) -> None:
        self._ring.append(batch)
        self._held[0] += len(batch.events)
        self._held[1] += batch.size
        while len(self._ring) > 1 and (self._held[0] > self._bounds[0] or self._held[1] > self._bounds[1]):
            gone = self._ring.popleft()
            self._held[0] -= len(gone.events)
            self._held[1] -= gone.size
        self._head = batch.end
        if batch.last:
            self._pass(Tick(batch.tick, batch.epoch, batch.snap))
        if self.relay is not None:
            self.relay.pass_on(batch)
        for apply in tuple(self._subscribers):
            try:
                apply(batch)
            except Exception:
                _logger.exception("feed_subscriber_failed")

    def _pass(self, tick: Tick) -> None:
        self._tick = tick
        now = monotonic()
        self._ticks.append((now, tick))
        while len(self._ticks) > 1 and self._ticks[0][0] < now - SNAPSHOT_MAX_AGE_SECONDS:
            self._ticks.popleft()

    def _move(self, tick: Tick) -> None:
        """Go to the end of this tick, from wherever the head was."""
        self._ring.clear()
        self._held = [0, 0]
        self._ticks.clear()
        self._head = Position(tick.epoch, tick.tick)
        self._pass(tick)

    async def _reset(self, connection: Connection) -> None:
        """Go on from the newest tick, because the changes after the head cannot be read."""
        newest, oldest = await ticks.newest_tick(connection), await ticks.oldest_tick(connection)
        reason = Reason.EXPIRED if self._tick.tick < oldest else Reason.FORKED
        _logger.warning("feed_reset", reason=reason.value, head=str(self._head), newest=newest.tick)
        self._jumps += 1
        self._move(newest)
        for reset in tuple(self._subscribers.values()):
            try:
                reset(reason)
            except Exception:
                _logger.exception("feed_subscriber_failed")

    @property
    def _start(self) -> Position:
        """The oldest position that can be read from the ring."""
        return self._ring[0].start if self._ring else self.head
