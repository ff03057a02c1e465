"""The feed: every committed change, delivered to this process in the one order of the log.

It follows the ticks over one connection, however many subscribers there are. After each connect it listens first, then
reads the newest tick, and then goes on from its own head, so no change is lost in between. A reader whose position is
older than what is in memory (``rowcast.changes.tail``) reads the log, one page at a time, over a connection that all such
readers share (``rowcast.changes.history``); if it is not much older, this is done once for all of them.

With a relay, the feed of the node that makes ticks passes its batches on, and the feeds of the others apply these instead of
reading ticks, while they hear it (``rowcast.changes.relay``). After each connect a feed looks at the log first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Final

import structlog

from rowcast.changes import sql, ticks
from rowcast.changes.bus import FED_POLL_SECONDS
from rowcast.changes.connection import RECONNECT_SECONDS, Reconnecting
from rowcast.changes.coordination import TICK_CHANNEL
from rowcast.changes.epochs import Epoch, read_epochs
from rowcast.changes.events import Batch
from rowcast.changes.history import History
from rowcast.changes.position import Position, Snapshot
from rowcast.changes.reader import Pruned, prepare_session, read_batches
from rowcast.changes.state import LogState, read_state
from rowcast.changes.tail import Reason, Reset, Tail
from rowcast.changes.ticks import Tick
from rowcast.database.connection import Connect, Connection
from rowcast.database.errors import DRIVER_ERRORS
from rowcast.tasks import Supervisor

if TYPE_CHECKING:
    from rowcast.changes.relay import Relay

POLL_MIN_SECONDS: Final = 0.002  # between polls, without notifications
POLL_MAX_SECONDS: Final = 0.250
STATE_MAX_AGE_SECONDS: Final = 1.0  # of the state of the log that is returned again
EXTENT_MAX_AGE_SECONDS: Final = 1.0  # of what the log has, for readers that can go on by it
LOOK_MAX_AGE_SECONDS: Final = 1.0  # since the last look, within which new ticks show that a ticker works

_UNLOGGED_TABLES: Final = sql.load("unlogged_tables")
_logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Extent:
    """What the log has, as it was read at a time ``began`` after ``jumps`` of the feed: its histories, and its ticks."""

    epochs: Sequence[Epoch]
    newest: int
    oldest: int
    began: float
    jumps: int

    def serves(self, since: float, jumps: int) -> bool:
        """Whether it was read since a time, and the feed has not gone to another history since."""
        return self.began >= since and self.jumps == jumps

    def refusal(self, position: Position) -> Reason | None:
        """Why a reader cannot go on from a position in this log, or ``None`` if it can."""
        if all(epoch.epoch != position.epoch for epoch in self.epochs):
            return Reason.FORKED
        if any(epoch.epoch > position.epoch and position.sort_key > (epoch.base, 0) for epoch in self.epochs):
            return Reason.FORKED
        if position.sort_key > (self.newest, 0):
            return Reason.AHEAD
        return Reason.EXPIRED if position.tick < self.oldest else None


class Feed(Tail, Reconnecting):
    """Follows the log. ``connect`` opens a direct connection to the primary server.

    Use as ``async with Feed(connect) as feed: …``, which waits for nothing; ``await feed.ready.wait()`` does.
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
        Reconnecting.__init__(self, connect, "feed", supervisor)
        Tail.__init__(self, relay, events=events, size=size)
        if relay is not None:
            relay.notify(of_changes=self.ring, of_messages=self.ring)
        self._notify = wakeup == "notify"
        self.history = History(connect)
        self._state: tuple[float, LogState] | None = None  # and when it was read
        self._extent: Extent | None = None  # as it was read last

    async def start(self) -> None:
        await Reconnecting.start(self)

    async def stop(self) -> None:
        await Reconnecting.stop(self)
        self._recall.close()
        self.history.close()

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

    async def read_seen(self, after: Position, snapshot: Snapshot) -> AsyncGenerator[Batch, None]:
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
        """Read new ticks, and apply their changes, or pass over them. Returns how many ticks were read, the one at the head included."""
        if not self._rows_are_needed:
            read, resources = await ticks.skim(connection, self._tick.tick)
            if read and read[0] == self._tick and not self._rows_are_needed:  # also by nobody who has come meanwhile
                if len(read) > 1:
                    self._note_change()
                    self._pass_over(read[1:], resources)
                return len(read)
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

    async def _reset(self, connection: Connection) -> None:
        """Go on from the newest tick, because the changes after the head cannot be read."""
        newest, oldest = await ticks.newest_tick(connection), await ticks.oldest_tick(connection)
        self._jump(newest, Reason.EXPIRED if self._tick.tick < oldest else Reason.FORKED)

    async def _check_log(self, position: Position) -> Reason | None:
        asked = monotonic()
        kept = self._extent
        is_recent = kept is not None and kept.serves(asked - EXTENT_MAX_AGE_SECONDS, self.jumps)
        if kept is not None and is_recent and kept.refusal(position) is None:
            return None
        async with self.history.primary.turn() as connection:
            kept = self._extent  # which another reader may have renewed meanwhile
            if kept is None or not kept.serves(asked, self.jumps):
                kept = self._extent = await self._read_extent(connection)
        return kept.refusal(position)

    async def _read_extent(self, connection: Connection) -> Extent:
        jumps, began = self.jumps, monotonic()
        epochs = await read_epochs(connection)
        newest = await ticks.newest_tick(connection)
        return Extent(epochs, newest.tick, await ticks.oldest_tick(connection), began, jumps)

    async def find_tick(self, position: Position) -> Tick | None:
        try:
            async with self.history.primary.turn() as connection:
                read = await ticks.read_ticks(connection, position.tick, 1)
        except DRIVER_ERRORS:
            return None
        return read[0] if read and read[0].tick == position.tick else None

    async def _read_log(self, after: Position, until: Position) -> AsyncGenerator[Batch, None]:
        try:
            async with contextlib.aclosing(self.history.read(after, until)) as batches:
                async for batch in batches:
                    yield batch
        except Pruned:
            self._extent = None
            raise Reset(Reason.EXPIRED) from None
        except DRIVER_ERRORS as error:
            _logger.warning("feed_reader_lost", error=str(error) or type(error).__name__)
            await asyncio.sleep(RECONNECT_SECONDS[0])
