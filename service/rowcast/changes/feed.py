"""The feed: what has been committed, told to this process in the one order there is, from memory where possible.

It follows the ticks with one connection, however many listen here. On every connect it listens first, then looks for
the newest tick, and then reads on from its own head, so nothing falls between. What it has read stays in a ring that is
bounded in events and bytes; whoever is behind the ring's start reads the log over a second connection, one page at a
time, shared by all of them.

``head`` moves and subscribers are called in one step of the event loop. So code that looks at ``head`` and subscribes
without an ``await`` in between misses nothing and gets nothing twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from enum import StrEnum
from itertools import islice
from time import monotonic
from typing import Any, Final

import structlog

from rowcast.changes import log
from rowcast.changes.log import TICKED, Batch, Connection, Pruned, State, Tick
from rowcast.changes.position import MAX_TEXT, Position, Snapshot
from rowcast.changes.ticker import BACKOFF, LOST, SAFETY, SHORTEST, Connect, cancel, session

FRESH: Final = 1.0  # seconds for which what is known of the log's state will do
KEPT: Final = 60.0  # seconds for which a statement may run and still get a position from its snapshot

_logger = structlog.get_logger(__name__)

Subscriber = Callable[[Batch], None]


class Reason(StrEnum):
    """Why a reader cannot go on from where it was, and must load its data anew."""

    MALFORMED = "malformed"  # no position at all
    AHEAD = "ahead"  # of everything that there is
    FORKED = "forked"  # in a history that is not this database's
    EXPIRED = "expired"  # what came after it is not kept any more


class Reset(Exception):
    """The reader cannot go on; ``reason`` says why."""

    def __init__(self, reason: Reason) -> None:
        self.reason = reason
        super().__init__(reason.value)


class Feed:
    """Follows the log. ``connect`` gives a direct connection to the primary.

    The ring holds at most ``events`` events and about ``size`` bytes, and at least the newest batch. Use as
    ``async with Feed(connect) as feed: …``, which waits for nothing; ``await feed.ready.wait()`` does.
    """

    def __init__(
        self, connect: Connect, *, wakeup: str = "notify", events: int = 100_000, size: int = 64 << 20
    ) -> None:
        self._connect = connect
        self._notify = wakeup == "notify"
        self._bounds = events, size
        self._ring: deque[Batch] = deque()
        self._held = [0, 0]  # events and bytes in the ring
        self._ticks: deque[tuple[float, Tick]] = deque()  # the newest ones and when they were applied
        self._told: tuple[Any, str | None] = None, None  # the last answer of stream_position, and what was asked
        self._tick: Tick  # the newest that is complete
        self._head: Position | None = None
        self._history = 0  # how often the head has jumped
        self._subscribers: dict[Subscriber, Callable[[Reason], None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._bell = asyncio.Event()
        self._lost = False
        self._current = monotonic()  # when the feed last knew of nothing newer
        self._reader: Connection | None = None
        self._reading = asyncio.Lock()
        self._state: tuple[float, State] | None = None  # and when it was asked for
        self.ready = asyncio.Event()  # set once the head is known; from then on it always is
        self.connected = False

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to follow; returns at once."""
        self._tasks = [asyncio.create_task(self._run(), name="feed")]

    async def stop(self) -> None:
        """End; nobody is called any more."""
        await cancel(self._tasks)
        if self._reader is not None:
            self._reader.terminate()

    async def __aenter__(self) -> Feed:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # --- what there is ------------------------------------------------------------------------------------------------

    @property
    def head(self) -> Position:
        """The position behind the newest event that subscribers were called with. Known once ``ready`` is set."""
        assert self._head is not None, "the feed has not been ready yet"
        return self._head

    @property
    def lag(self) -> float:
        """Seconds since the feed last knew of nothing newer than its head."""
        return monotonic() - self._current

    async def state(self) -> State:
        """How the log is, as it was a moment ago at most. Raises what the driver does when the database cannot be asked."""
        async with self._log() as connection:
            if self._state is None or monotonic() - self._state[0] > FRESH:
                self._state = monotonic(), await log.state(connection)
            return self._state[1]

    def subscribe(self, apply: Subscriber, reset: Callable[[Reason], None]) -> Callable[[], None]:
        """Call ``apply`` with each new batch, in order, from the one after ``head`` on; returns how to stop.

        ``reset`` is called instead when the feed cannot go on from its head: what was between is lost to everybody
        here, and the head has moved. Both are called from the event loop and must not wait or raise.
        """
        self._subscribers[apply] = reset

        def unsubscribe() -> None:
            self._subscribers.pop(apply, None)

        return unsubscribe

    def stream_position(self, snapshot: str) -> str | None:
        """The position that continues a response, whose statement ran under ``snapshot``.

        It is behind the newest tick that the snapshot includes, so it does not matter when this is asked. ``None`` if
        the feed was not ready then, or the statement took longer than ``KEPT``.
        """
        asked = (snapshot, self._ticks[-1] if self._ticks else None)
        if asked != self._told[0]:  # while nothing is written, everybody sees the same
            self._told = (asked, self._continuing(Snapshot.parse(snapshot)))
        return self._told[1]

    def _continuing(self, seen: Snapshot) -> str | None:
        for _, tick in reversed(self._ticks):
            if tick.snap <= seen:
                text = str(Position(tick.epoch, tick.tick, 0, seen))
                return text if len(text) <= MAX_TEXT else str(Position(tick.epoch, tick.tick))
        return None

    async def check(self, position: Position | str) -> Reason | None:
        """Why one cannot go on from a position, or ``None`` if one can."""
        if isinstance(position, str):
            try:
                position = Position.parse(position)
            except ValueError:
                return Reason.MALFORMED
        if position.epoch == self.head.epoch and self._start.sort_key <= position.sort_key <= self.head.sort_key:
            return None
        async with self._log() as connection:
            epochs = await log.epochs(connection)
            newest = await log.newest_tick(connection)
            oldest = await log.oldest_tick(connection)
        if all(epoch.epoch != position.epoch for epoch in epochs):
            return Reason.FORKED
        if any(epoch.epoch > position.epoch and position.sort_key > (epoch.base, 0) for epoch in epochs):
            return Reason.FORKED
        if position.sort_key > (newest.tick, 0):
            return Reason.AHEAD
        return Reason.EXPIRED if position.tick < oldest else None

    async def read(self, after: Position) -> AsyncGenerator[Batch, None]:
        """Every batch from a position up to ``head``, from memory or the log; check the position first.

        The iteration ends when the reader is at ``head``, and without giving the event loop a chance to move that: what
        the caller does next, up to its next ``await``, it does at ``head``. While PostgreSQL cannot be reached this
        waits. Raises ``Reset`` if what is to be read goes away.
        """
        history = self._history
        while after.sort_key < self.head.sort_key:
            if after.sort_key >= self._start.sort_key:
                first = bisect_right(self._ring, after.sort_key, key=lambda batch: batch.end.sort_key)
                for batch in tuple(islice(self._ring, first, None)):
                    yield batch.after(after)
                    after = batch.end
            else:
                async with contextlib.aclosing(self._read_log(after)) as batches:
                    async for batch in batches:
                        yield batch
                        after = batch.end
            if history != self._history:
                raise Reset(Reason.FORKED)

    # --- following ----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        delay, longest = BACKOFF
        while True:
            try:
                async with session(self._connect, self._ring_bell) as connection:
                    await self._prepare(connection)
                    _logger.info("feed_connected", head=str(self._head))
                    delay = BACKOFF[0]
                    await self._follow(connection)
            except LOST as error:
                _logger.warning("feed_connection_lost", error=str(error) or type(error).__name__)
            except Exception:
                _logger.exception("feed_failed")
            finally:
                self.connected = False
            await asyncio.sleep(delay * random.uniform(0.5, 1))
            delay = min(2 * delay, longest)

    def _ring_bell(self, lost: bool) -> None:
        self._lost = self._lost or lost
        self._bell.set()

    async def _prepare(self, connection: Connection) -> None:
        """Listen first, and only then look where the log is."""
        self._lost = False
        await log.prepare(connection)
        await connection.execute("SET application_name = 'rowcast feed'")
        if self._notify:
            await connection.add_listener(TICKED, lambda *_: self._ring_bell(False))
        if self._head is None:
            self._move(await log.newest_tick(connection))
            self.ready.set()

    async def _follow(self, connection: Connection) -> None:
        pause = SHORTEST
        looked = float("-inf")
        while True:
            self._bell.clear()
            asked = monotonic()
            known = await log.ticks(connection, self._tick.tick)
            if not known or known[0] != self._tick:
                await self._reset(connection)
            elif len(known) > 1:
                try:
                    async for batch in log.batches(connection, self.head, known):
                        self._apply(batch)
                except Pruned:
                    await self._reset(connection)
                pause = SHORTEST
            if len(known) < log.CHUNK:
                made = len(known) > 1 and asked - looked < FRESH  # since the last look, if that was just now
                if made or not await log.untold(connection):  # else nobody has made a tick of it yet
                    self._current = asked
                looked = asked
                self.connected = True
                pause = SAFETY if self._notify else min(1.25 * pause, SAFETY)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._bell.wait()
            if self._lost:
                raise ConnectionError("the connection to PostgreSQL has ended")

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
        for apply in tuple(self._subscribers):
            try:
                apply(batch)
            except Exception:
                _logger.exception("feed_subscriber_failed")

    def _pass(self, tick: Tick) -> None:
        self._tick = tick
        now = monotonic()
        self._ticks.append((now, tick))
        while len(self._ticks) > 1 and self._ticks[0][0] < now - KEPT:
            self._ticks.popleft()

    def _move(self, tick: Tick) -> None:
        """Be behind this tick, whatever was before."""
        self._ring.clear()
        self._held = [0, 0]
        self._ticks.clear()
        self._head = Position(tick.epoch, tick.tick)
        self._pass(tick)

    async def _reset(self, connection: Connection) -> None:
        """Go on from the newest tick, since there is no way from the head."""
        newest, oldest = await log.newest_tick(connection), await log.oldest_tick(connection)
        reason = Reason.EXPIRED if self._tick.tick < oldest else Reason.FORKED
        _logger.warning("feed_reset", reason=reason.value, head=str(self._head), newest=newest.tick)
        self._history += 1
        self._move(newest)
        for reset in tuple(self._subscribers.values()):
            try:
                reset(reason)
            except Exception:
                _logger.exception("feed_subscriber_failed")

    # --- reading behind the ring --------------------------------------------------------------------------------------

    @property
    def _start(self) -> Position:
        """The position that the ring goes back to."""
        return self._ring[0].start if self._ring else self.head

    async def _read_log(self, after: Position) -> AsyncGenerator[Batch, None]:
        """A few ticks from the log, up to ``head`` at most."""
        try:
            async with self._log() as connection:
                known = await log.ticks(connection, after.tick)
            limit = self.head
            known = [tick for tick in known if (tick.tick - 1, 0) < limit.sort_key]
            if not known or known[0].tick != after.tick:
                raise Reset(Reason.EXPIRED)
            batches = log.batches(connection, after, known)
            while True:
                async with self._log(connection):
                    batch = await anext(batches, None)
                if batch is None:
                    return
                if batch.end.sort_key > limit.sort_key:
                    batch = batch.until(limit)
                yield batch
                if batch.end.sort_key >= limit.sort_key:
                    return
        except Pruned:
            raise Reset(Reason.EXPIRED) from None
        except LOST as error:
            _logger.warning("feed_reader_lost", error=str(error) or type(error).__name__)
            await asyncio.sleep(BACKOFF[0])

    @contextlib.asynccontextmanager
    async def _log(self, connection: Connection | None = None) -> AsyncIterator[Connection]:
        """The connection that reads the log, for one at a time: any, or the very one that was had before."""
        async with self._reading:
            if connection is None:
                connection = self._reader
            if connection is None or connection.is_closed():
                connection = await self._connect()
                await log.prepare(connection)
                self._reader = connection
            yield connection
