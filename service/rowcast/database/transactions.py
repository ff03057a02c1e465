"""Transactions on a connection of the pool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

import asyncpg
import structlog

from rowcast.database.connection import Connection

Work: TypeAlias = Callable[[], Awaitable[object]]

_logger = structlog.get_logger(__name__)


class Transaction:
    """An open transaction: its connection, a lock for its turns, the resources that it may have changed, and the work that
    is to follow its commit. ``caller`` is as whom its statements run now; it changes if ``follows_callers``."""

    __slots__ = ("caller", "changes", "connection", "following", "follows_callers", "open", "turn")

    def __init__(self, connection: Connection) -> None:
        self.caller: Hashable = None
        self.follows_callers = False
        self.connection = connection
        self.changes: set[str] = set()
        self.following: list[Work] = []
        self.open = True
        self.turn = asyncio.Lock()


class FollowingWork:
    """What is done after commits, in tasks that nobody waits for. An error is logged."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, all_work: Sequence[Work]) -> None:
        """Do what follows one commit, one after the other."""

        async def follow() -> None:
            for work in all_work:
                try:
                    await work()
                except Exception as error:
                    _logger.error("on_commit_failed", exc_info=error)

        task = asyncio.create_task(follow(), name="on_commit")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self, seconds: float) -> None:
        """Wait until all has been done, at most so many seconds; then cancel what is left."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            for task in late:
                _logger.error("on_commit_took_too_long", seconds=seconds)
                task.cancel()


@asynccontextmanager
async def begun(connection: Connection) -> AsyncIterator[None]:
    """A transaction, or a savepoint inside one: committed at the end, and rolled back by an error.

    The connection is closed if it is not certain that the transaction has ended, as when its task is cancelled while BEGIN or
    COMMIT is on its way. Otherwise the driver would make a savepoint of the next transaction on the connection.
    """
    transaction = connection.transaction()
    ended = False
    try:
        await transaction.start()
        try:
            yield
        except BaseException:
            await transaction.rollback()
            ended = True
            raise
        try:
            await transaction.commit()
        except asyncpg.PostgresError:  # a deferred constraint, for example: PostgreSQL has rolled back
            ended = True
            raise
        ended = True
    finally:
        if not ended:
            connection.terminate()
