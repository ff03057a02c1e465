"""Work that needs one connection all the time: it is opened, lost, and opened again."""

from __future__ import annotations

import asyncio
import contextlib
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, Self

import asyncpg
import structlog

from rowcast.database.connection import Connect, Connection
from rowcast.database.errors import DRIVER_ERRORS
from rowcast.tasks import Supervisor

RECONNECT_SECONDS: Final = 0.1, 5.0  # the pause before connecting again: at first, and at most
SAFETY_POLL_SECONDS: Final = 0.250  # between looks for changes, where no notification came for the last one,
QUIET_POLL_SECONDS: Final = 0.750  # and where one came; within the second in which caches want to be confirmed
LISTEN_RETRY_SECONDS: Final = 60.0  # with a connection that gets no notifications

_logger = structlog.get_logger(__name__)


class OriginLost(ConnectionError):
    """The origin of an edge cannot be reached, or does not answer as it should."""


class Reconnecting(ABC):
    """A background task with a connection of its own; if that is lost, the task goes on with a new one.

    A subclass defines two hooks: ``_prepare`` makes a connection ready, and ``_work`` uses it and does not return. Use
    as ``async with …``; entering it waits for nothing. ``connect`` opens a direct connection to the primary server. Other
    errors than those of the connection are the supervisor's.
    """

    def __init__(self, connect: Connect, name: str, supervisor: Supervisor | None = None) -> None:
        self._connect = connect
        self._name = name
        self._supervisor = supervisor or Supervisor()
        self._tasks: list[asyncio.Task[None]] = []
        self._bell = asyncio.Event()
        self._rang = False  # when the last look began
        self._heard = False  # whether notifications arrive, as far as the last change shows
        self._lost = False
        self.connections = 0  # that have been made ready so far

    async def start(self) -> None:
        """Start the task; returns at once."""
        self._tasks = [self._supervisor.run(self._name, self._run)]

    async def stop(self) -> None:
        """End the task, and wait until it has ended."""
        await cancel(self._tasks)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def ring(self, *_: Any) -> None:
        """Wake the task if it waits; a callback for notifications."""
        self._bell.set()

    @abstractmethod
    async def _prepare(self, connection: Connection) -> None:
        """Make a new connection ready for work."""

    @abstractmethod
    async def _work(self, connection: Connection) -> None:
        """Work until the connection is lost, which is an error of the driver or of ``_wait``."""

    async def _run(self) -> None:
        shortest, longest = RECONNECT_SECONDS
        delay = shortest
        while True:
            try:
                async with session(self._connect, self._lose) as connection:
                    self._lost = False
                    await self._prepare(connection)
                    self.connections += 1
                    delay = shortest
                    await self._work(connection)
            except DRIVER_ERRORS as error:
                _logger.warning(f"{self._name}_connection_lost", error=str(error) or type(error).__name__)
            await asyncio.sleep(delay * random.uniform(0.5, 1))
            delay = min(2 * delay, longest)

    def _lose(self) -> None:
        self._lost = True
        self._bell.set()

    def _begin_look(self) -> None:
        """Look for changes from now on; what rings the bell later is for the next look."""
        self._rang = self._bell.is_set()
        self._bell.clear()

    def _note_change(self) -> None:
        """The look has found a change, of which a notification should have come."""
        self._heard = self._rang or self._bell.is_set()

    @property
    def _safety_pause(self) -> float:
        """Seconds to the next look if no notification comes before."""
        return QUIET_POLL_SECONDS if self._heard else SAFETY_POLL_SECONDS

    async def _wait(self, seconds: float) -> None:
        """Wait until the bell rings, at most ``seconds``; ``ConnectionError`` if the connection is lost."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._bell.wait()
        self._check_connection()

    async def _listen(self, connection: Connection, channel: str) -> None:
        """Let notifications of a channel ring the bell.

        LISTEN reads what is left in the queue of notifications. It fails, whenever it is tried, where the state of a
        transaction in the queue has been vacuumed away. A look at how full the queue is removes what no session waits for.
        As long as another session keeps the queue, the task polls, and tries again with a new connection after a while.
        """
        self._heard = True
        self._bell.set()  # what is there already, a look finds without a notification
        try:
            await connection.add_listener(channel, self.ring)
            return
        except asyncpg.UndefinedFileError as error:  # "could not access status of transaction …"
            _logger.warning("listen_failed", channel=channel, error=str(error))
        try:
            await connection.execute("SELECT pg_notification_queue_usage()", timeout=10)
            await connection.add_listener(channel, self.ring)
        except asyncpg.UndefinedFileError as error:
            note = (
                "a session that listens and is in a transaction keeps the queue of notifications; changes arrive later"
            )
            self._heard = False
            _logger.error("listen_keeps_failing", channel=channel, error=str(error), note=note)
            asyncio.get_running_loop().call_later(LISTEN_RETRY_SECONDS, _terminate, connection)

    def _check_connection(self) -> None:
        if self._lost:
            raise ConnectionError("the connection to PostgreSQL has ended")


def _terminate(connection: Connection) -> None:
    if not connection.is_closed():
        connection.terminate()


@contextlib.asynccontextmanager
async def session(connect: Connect, lost: Callable[[], None] = lambda: None) -> AsyncIterator[Connection]:
    """Open a connection and drop it at the end, without a long goodbye; ``lost`` is called if it ends by itself."""
    connection = await connect()
    connection.add_termination_listener(lambda *_: lost())
    try:
        yield connection
    finally:
        with contextlib.suppress(*DRIVER_ERRORS):
            if not connection.is_closed():
                await asyncio.shield(connection.close(timeout=1))
        connection.terminate()


async def cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
