"""Reading what is no longer in memory: a part of the log for one reader after the other, from the primary or a standby.

A standby has the log as the primary has it, up to a point. The commits of a tick's transactions come before that of the
tick in the write-ahead log, and a standby replays in this order. So if a statement on a standby sees a tick, all changes
up to it are there, and the numbers in the log are the same. A tick counts if the standby was in recovery when it was read, and
if its number and its epoch are not above those of the feed's head. A standby that was promoted, or that follows another
primary, makes further ticks only in an epoch of its own.

What a standby lacks, or fails to return, comes from the primary.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from time import monotonic
from typing import Final

import structlog

from rowcast.changes import ticks
from rowcast.changes.events import Batch
from rowcast.changes.position import Position
from rowcast.changes.reader import Pruned, prepare_session, read_batches
from rowcast.changes.standbys import LOOK_TIMEOUT_SECONDS, StandbyWatch, read_standby_end
from rowcast.changes.ticks import Tick
from rowcast.database.connection import Connect, Connection
from rowcast.database.errors import DRIVER_ERRORS

STANDBY_PAUSE_SECONDS: Final = 2.0  # for which a standby that has failed is left alone
PRIMARY: Final = "primary"

_STANDBY_SESSION: Final = "SET application_name = 'rowcast log'; SET lock_timeout = '1s'"
"""Replaying may hold a lock for as long as it is paused."""

_logger = structlog.get_logger(__name__)


class LogConnection:
    """A connection that reads the log, for one reader at a time; it is opened when it is needed."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def turn(self, connection: Connection | None = None) -> AsyncIterator[Connection]:
        """The connection, while no one else uses it: the current one, or the one that the caller had before."""
        async with self._turn:
            if connection is None:
                connection = self._connection
            if connection is None or connection.is_closed():
                connection = self._connection = await self._open()
            yield connection

    async def read_ticks(self, connection: Connection, first: int) -> list[Tick]:
        """The next ticks from a number on."""
        return await ticks.read_ticks(connection, first)

    def close(self) -> None:
        """Close the connection without a goodbye."""
        if self._connection is not None:
            self._connection.terminate()

    async def _open(self) -> Connection:
        connection = await self._connect()
        try:
            await self._prepare(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _prepare(self, connection: Connection) -> None:
        """Make a new connection ready."""
        await prepare_session(connection)


class StandbyLog(LogConnection):
    """The log of a standby, which is not read if that may lack what was committed more than ``max_lag`` seconds ago.

    ``connect`` opens a direct connection to the standby that ``watch`` examines.
    """

    def __init__(self, connect: Connect, watch: StandbyWatch, max_lag: float) -> None:
        super().__init__(connect)
        self.watch = watch
        self.readers = 0  # that read it now
        self._max_lag = max_lag
        self._fails_until = float("-inf")

    def has(self, after: Position, limit: Position) -> bool:
        """Whether it has a part of what comes after a position in the history of ``limit``, as far as is known."""
        moment, now = self.watch.moment, monotonic()
        if moment is None or now < self._fails_until or moment.time < now - self._max_lag:
            return False
        return moment.end.epoch == limit.epoch and moment.end.tick > after.tick

    def fail(self, error: Exception) -> None:
        """Leave it alone for a while."""
        self._fails_until = monotonic() + STANDBY_PAUSE_SECONDS
        _logger.warning("replica_log_failed", replica=self.watch.server, error=str(error) or type(error).__name__)

    async def read_ticks(self, connection: Connection, first: int) -> list[Tick]:
        """The next ticks that the standby has replayed; none if it is not a standby any more."""
        return await ticks.read_ticks(connection, first, standby=True)

    async def _open(self) -> Connection:
        async with asyncio.timeout(LOOK_TIMEOUT_SECONDS):
            return await super()._open()

    async def _prepare(self, connection: Connection) -> None:
        await super()._prepare(connection)
        await connection.execute(_STANDBY_SESSION)
        if (problem := self.watch.problem(await read_standby_end(connection))) is not None:
            raise ConnectionError(problem)


class History:
    """The log before what is in memory. ``connect`` opens a direct connection to the primary."""

    def __init__(self, connect: Connect) -> None:
        self.primary = LogConnection(connect)
        self.standbys: Sequence[StandbyLog] = ()
        self.reads: Counter[str] = Counter()  # by the server that was read

    def close(self) -> None:
        """Close all connections."""
        for each in (self.primary, *self.standbys):
            each.close()

    async def read(self, after: Position, limit: Position) -> AsyncGenerator[Batch, None]:
        """The batches of the next ticks after a position, up to ``limit`` at most: one in memory, after the other one.

        Raises ``Pruned`` if the batches are not kept any more, and the driver's error if the primary cannot be read.
        """
        standby = min((each for each in self.standbys if each.has(after, limit)), key=_readers, default=None)
        if standby is not None:
            found = False
            standby.readers += 1
            try:
                async with contextlib.aclosing(_read(standby, after, limit)) as batches:
                    async for batch in batches:
                        found = True
                        yield batch
            except (Pruned, *DRIVER_ERRORS) as error:
                standby.fail(error)
            finally:
                standby.readers -= 1
                self.reads[standby.watch.server] += found
            if found:
                return
        self.reads[PRIMARY] += 1
        async with contextlib.aclosing(_read(self.primary, after, limit)) as batches:
            async for batch in batches:
                yield batch


def _readers(standby: StandbyLog) -> int:
    return standby.readers


async def _read(log: LogConnection, after: Position, limit: Position) -> AsyncGenerator[Batch, None]:
    async with log.turn() as connection:
        read = await log.read_ticks(connection, after.tick)
    read = [tick for tick in read if (tick.tick - 1, 0) < limit.sort_key and tick.epoch <= limit.epoch]
    if not read or read[0].tick != after.tick:
        raise Pruned
    batches = read_batches(connection, after, read)
    while True:
        async with log.turn(connection):
            batch = await anext(batches, None)
        if batch is None:
            return
        if batch.end.sort_key > limit.sort_key:
            batch = batch.until(limit)
        yield batch
        if batch.end.sort_key >= limit.sort_key:
            return
