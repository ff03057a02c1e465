"""The feed of an edge: every committed change, without a connection to the database.

The batches come over the message bus of ``stream.relay``, as those of a node that is fed do. Each batch says where in the log it
begins. So an edge applies one that begins at its head, ignores one that it has, and reads from the origin, over HTTP, what was lost
before one that begins later. While nobody is heard on the bus, and without a bus, it asks the origin for each next
piece of the log, and the origin answers when there is one.

A reader whose position is older than what is in memory reads the log at the origin. At its start an edge reads
what the origin has in memory, so that clients which were connected before find their positions.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Callable
from time import monotonic
from typing import Final

import structlog

from rowcast.changes.bus import FED_POLL_SECONDS
from rowcast.changes.connection import RECONNECT_SECONDS, OriginLost, cancel
from rowcast.changes.events import Batch
from rowcast.changes.origin import End, Origin, OriginState
from rowcast.changes.position import Position, Snapshot
from rowcast.changes.relay import Relay
from rowcast.changes.tail import Reason, Reset, Tail
from rowcast.changes.ticks import Tick
from rowcast.database.absent import NeedsDatabase
from rowcast.tasks import Supervisor

WAIT_SECONDS: Final = 1.0  # for which the origin waits for a change, where the bus brings none
READS_AT_ONCE: Final = 4  # pieces of the log, for readers whose positions are not in memory
PIECE_BYTES: Final = 4 << 20  # of such a piece, in memory, about

_logger = structlog.get_logger(__name__)


class EdgeFeed(Tail):
    """Follows the log of an origin. ``note`` is called with each end of the log that the origin has reported.

    Args:
        origin: Has the log.
        note: Must not block or raise.
        relay: The message bus, which may be another server of the same bus as the origin's.
        supervisor: Runs the background task.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        note: Callable[[End], None] = lambda _: None,
        relay: Relay | None = None,
        supervisor: Supervisor | None = None,
        events: int = 100_000,
        size: int = 64 << 20,
    ) -> None:
        super().__init__(relay, events=events, size=size)
        self._origin = origin
        self._note = note
        self._supervisor = supervisor or Supervisor()
        self._tasks: list[asyncio.Task[None]] = []
        self._bell = asyncio.Event()
        self._reading = asyncio.Semaphore(READS_AT_ONCE)
        if relay is not None:
            relay.notify(of_changes=self._bell.set, of_messages=self._bell.set)

    async def start(self) -> None:
        self._tasks = [self._supervisor.run("feed", self._run)]

    async def stop(self) -> None:
        self._recall.close()
        await cancel(self._tasks)

    async def begin(self, state: OriginState) -> None:
        """Read what the origin has in memory, and be ready. Raises ``OriginLost``."""
        self._move(state.oldest)
        await self._look(0)
        self.connections += 1
        self.connected = True
        self.ready.set()

    async def _run(self) -> None:
        """Apply the changes of the bus, and look at the origin for what it does not bring, for ever."""
        shortest, longest = RECONNECT_SECONDS
        delay = shortest
        looked = retry = float("-inf")
        while True:
            self._bell.clear()
            heard = self._is_heard
            complete = self.relay is None or self._take_from_relay()
            self._follow_relay(heard)
            now = monotonic()
            due = max(retry, looked + FED_POLL_SECONDS if heard and complete else now)
            if due > now:
                await self._wait(due - now)
                continue
            try:
                await self._look(0 if heard else WAIT_SECONDS)
            except OriginLost as error:
                if self.connected:
                    _logger.warning("origin_lost", origin=self._origin.place, error=str(error))
                self.connected = False
                retry = monotonic() + delay * random.uniform(0.5, 1)
                delay = min(2 * delay, longest)
            else:
                if not self.connected:
                    self.connections += 1
                    _logger.info("origin_found", origin=self._origin.place, head=str(self.head))
                self.connected = True
                looked, retry, delay = now, float("-inf"), shortest

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._bell.wait()

    def _follow_relay(self, fed: bool) -> None:
        if fed != self.fed:
            self.fed = fed
            _logger.info("feed_follows", source="relay" if fed else "origin", head=str(self.head))

    async def _look(self, wait: float) -> None:
        """Apply everything that is after the head in the origin's log, and wait for it for a while if there is nothing."""
        started = monotonic()
        if self.relay is not None:
            self.relay.begin_look()
        try:
            async with contextlib.aclosing(self._origin.read(self.head, wait=wait)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, End):
                        self._reach(piece, started)
                    elif piece.end.sort_key > self.head.sort_key:
                        self._fill(piece)
        except Reset as reset:
            self._jump((await self._origin.state()).newest, reset.reason)

    def _fill(self, batch: Batch) -> None:
        """Apply a batch of the origin."""
        if batch.start.sort_key > self.head.sort_key:
            raise OriginLost("its log has a gap")
        self._apply(batch.after(self.head))
        if self.relay is not None and self.fed and batch.last:
            self.relay.filled += 1

    def _reach(self, end: End, started: float) -> None:
        """The origin has no more."""
        if end.head.sort_key <= self.head.sort_key:
            self._current_at = max(self._current_at, started - end.lag)
        if self.relay is not None and end.relay is not None:
            self.relay.use_key(end.relay)
            if end.at is not None:
                self.relay.clock.note(started, end.at)
        self._note(end)

    # --- readers

    async def _check_log(self, position: Position) -> Reason | None:
        return await self._origin.check(position)

    async def find_tick(self, position: Position) -> Tick | None:
        """Nobody begins with what an edge has in memory, so its snapshot does not matter."""
        return Tick(position.tick, position.epoch, self._base.snap)

    async def _read_log(self, after: Position, until: Position) -> AsyncGenerator[Batch, None]:
        try:
            piece = await self._piece(after, until)
        except OriginLost as error:
            _logger.warning("feed_reader_lost", error=str(error))
            piece = []
        if not piece:  # the origin is away, or is another process, which is behind this one
            await asyncio.sleep(RECONNECT_SECONDS[0])
        for batch in piece:
            yield batch

    async def _piece(self, after: Position, until: Position) -> list[Batch]:
        """The next batches after a position. They are all in memory, so that no reader keeps others from the origin."""
        found: list[Batch] = []
        size = 0
        async with self._reading, contextlib.aclosing(self._origin.read(after, until=until)) as pieces:
            async for piece in pieces:
                if isinstance(piece, End) or size > PIECE_BYTES:
                    break
                if piece.start.sort_key > after.sort_key:
                    raise OriginLost("its log has a gap")
                found.append(piece.after(after))
                after = piece.end
                size += piece.size
        return found

    def read_seen(self, after: Position, snapshot: Snapshot) -> AsyncGenerator[Batch, None]:
        raise NeedsDatabase
