"""The ticker: one replica at a time cuts the log into ticks.

Whoever holds the lock ``LEADING`` makes ticks; the others try to get it four times a second. The lock belongs to a
session, so that it is free when the session ends, however that comes; a server that hears nothing from the holder for a
while ends the session itself. Each tick is one statement in that session, so there are never two tickers.

**Awake**, it polls every 2 to 20 ms, faster after a change and slower where the server is busy. That is cheap for it
and free for writers: NOTIFY in each writing transaction would line them all up at their commits. **Asleep**, it is
woken by NOTIFY. A writer must know which, and learns it from the *gate*, a second lock that the ticker holds while it
is awake: a writer that can get it notifies.

A writer may have found the gate shut just before the ticker opens it, and commit later without a word. Such a writer
has a transaction number when it looks. So the ticker opens the gate, takes a number of its own, and stays up until
every transaction with a smaller one has ended; whoever looks later finds the gate open. A poll every 250 ms is there
for the case that all this is wrong, or that NOTIFY does not come through.

With ``wakeup="poll"`` the triggers never notify, and neither does the ticker; it polls more slowly the longer nothing
changes.

A tick commits synchronously whatever the server's settings, and its commit cannot be on disk before those that it sees.
So nothing is told that a crash could take back.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from time import monotonic
from typing import Final

import asyncpg
import structlog

from rowcast.changes import log, retention
from rowcast.changes.log import GATE, LEADING, LOCKS, WAKE, Connection
from rowcast.changes.triggers import orderly
from rowcast.errors import ConfigurationError

Connect = Callable[[], Awaitable[Connection]]

SHORTEST: Final = 0.002  # seconds between polls
LONGEST: Final = 0.020
DROWSY: Final = 0.020  # without a change, before it goes to sleep
SAFETY: Final = 0.250  # between polls while asleep, and between attempts to lead
SILENCE: Final = 10  # seconds after which the server takes a ticker for dead
BACKOFF: Final = (0.1, 5.0)
LOST: Final = (  # the last is what asyncpg raises for a server that says goodbye amid a statement
    OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError,
)  # fmt: skip

_logger = structlog.get_logger(__name__)


class Ticker:
    """Makes ticks while it leads, and keeps the log to ``retention`` seconds and ``size`` bytes.

    ``connect`` gives a direct connection to the primary. Use as ``async with Ticker(connect): …``.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        wakeup: str = "notify",
        retention: float = 24 * 3600,
        size: int = 4 << 30,
    ) -> None:
        self._connect = connect
        self._notify = wakeup == "notify"
        self._retention = retention
        self._size = size
        self._tasks: list[asyncio.Task[None]] = []
        self._bell = asyncio.Event()
        self._lost = False
        self.leading = asyncio.Event()  # set while this replica makes ticks
        self.asleep = asyncio.Event()  # set while it waits to be woken
        self.polls = 0  # statements run, for tests and metrics
        self.ticks = 0  # of them those that made a tick

    async def start(self) -> None:
        """Begin; returns at once."""
        self._tasks = [
            asyncio.create_task(self._run(), name="ticker"),
            asyncio.create_task(self._keep(), name="log retention"),
        ]

    async def stop(self) -> None:
        """End; another replica takes over."""
        await cancel(self._tasks)

    async def __aenter__(self) -> Ticker:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _run(self) -> None:
        delay, longest = BACKOFF
        while True:
            try:
                async with session(self._connect, self._ring) as connection:
                    await self._prepare(connection)
                    delay = BACKOFF[0]
                    await self._get_to_lead(connection)
                    await self._lead(connection)
            except LOST as error:
                _logger.warning("ticker_connection_lost", error=str(error) or type(error).__name__)
            except Exception:
                _logger.exception("ticker_failed")
            finally:
                self.leading.clear()
                self.asleep.clear()
            await asyncio.sleep(delay * random.uniform(0.5, 1))
            delay = min(2 * delay, longest)

    def _ring(self, lost: bool) -> None:
        self._lost = self._lost or lost
        self._bell.set()

    async def _prepare(self, connection: Connection) -> None:
        self._lost = False
        if await connection.fetchval("SELECT pg_is_in_recovery()", timeout=10):
            raise ConfigurationError("the database is a standby: ticks are made on the primary server")
        await log.prepare(connection)
        await connection.execute(
            "SET application_name = 'rowcast ticker'; SET synchronous_commit = on;"
            f" SET idle_session_timeout = '{SILENCE}s'; SET tcp_keepalives_idle = 5;"
            " SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3"
        )
        if self._notify:
            await connection.add_listener(WAKE, lambda *_: self._ring(False))

    async def _get_to_lead(self, connection: Connection) -> None:
        while not await _try(connection, LEADING):
            await self._wait(SAFETY * random.uniform(0.8, 1.2))
        if not await orderly(connection):
            raise ConfigurationError("the sequence rowcast.change_seq must have CACHE 1, INCREMENT 1 and NO CYCLE")

    async def _lead(self, connection: Connection) -> None:
        epoch = await log.keep_epoch(connection)
        _logger.info("ticker_leads", epoch=epoch)
        self.leading.set()
        await self._tick(connection, epoch)

    async def _tick(self, connection: Connection, epoch: int) -> None:
        """Poll for ever: the states are awake, going to sleep (until ``bound`` is reached), and asleep."""
        interval = SHORTEST
        changed = monotonic()
        gate = False
        bound: int | None = None
        while True:
            self._bell.clear()
            asked = monotonic()
            tick, oldest = await log.make_tick(connection, epoch, notify=self._notify)
            answered = monotonic()
            self.polls += 1
            if tick is not None:
                self.ticks += 1
                interval, changed, bound = min(max(SHORTEST, 4 * (answered - asked)), LONGEST), answered, None
                self.asleep.clear()
            elif not self.asleep.is_set():
                interval = min(1.25 * interval, LONGEST if self._notify else SAFETY)
            if not self._notify:
                await self._wait(interval)
            elif self.asleep.is_set():
                await self._wait(SAFETY)
            elif bound is not None and oldest > bound:
                self.asleep.set()
                await self._wait(SAFETY)
            elif bound is None and answered - changed > DROWSY:
                if gate:
                    await self._release_gate(connection)
                    gate = False
                bound = await connection.fetchval("SELECT pg_current_xact_id()::text::bigint", timeout=10)
            else:
                if bound is None and not gate:
                    gate = await _try(connection, GATE)
                await self._wait(interval)

    async def _release_gate(self, connection: Connection) -> None:
        await connection.fetchval("SELECT pg_advisory_unlock($1, $2)", LOCKS, GATE, timeout=10)

    async def _keep(self) -> None:
        """Let go of what is too old or too much now and then while leading, on a connection of its own."""
        period = max(0.5, min(10.0, self._retention / retention.SHARES / 4))
        while True:
            await self.leading.wait()
            try:
                async with session(self._connect, lambda _lost: None) as connection:
                    done = await retention.maintain(connection, self._retention, self._size)
                    if not done:
                        _logger.info("log_maintenance_postponed")
            except LOST as error:
                _logger.warning("log_maintenance_failed", error=str(error) or type(error).__name__)
            except Exception:
                _logger.exception("log_maintenance_failed")
            await asyncio.sleep(period)

    async def _wait(self, seconds: float) -> None:
        """Until the bell rings, or ``seconds`` have passed; an error if the connection is lost."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._bell.wait()
        if self._lost:
            raise ConnectionError("the connection to PostgreSQL has ended")


async def cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


async def _try(connection: Connection, lock: int) -> bool:
    return bool(await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", LOCKS, lock, timeout=10))


@contextlib.asynccontextmanager
async def session(connect: Connect, ring: Callable[[bool], None]) -> AsyncIterator[Connection]:
    """A connection that rings with ``True`` when it ends by itself; dropped without ceremony at the end."""
    connection = await connect()
    connection.add_termination_listener(lambda *_: ring(True))
    try:
        yield connection
    finally:
        with contextlib.suppress(*LOST):
            if not connection.is_closed():
                await asyncio.shield(connection.close(timeout=1))
        connection.terminate()
