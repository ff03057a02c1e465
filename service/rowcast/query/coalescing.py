"""Requests that meet share a statement: rows that are read or written at the same time, by statements of one shape.

The first request of a group begins it, and those that arrive in the same turn of the event loop, or before a connection is
free, join it. A request that meets no other does not wait. If the statement fails, each is executed alone, so that its result
does not depend on those of others.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from time import monotonic
from typing import Any, Final, Protocol, TypeAlias

import asyncpg
import structlog

from rowcast.database.pool import Database
from rowcast.database.written import note
from rowcast.errors import ApiError, Unavailable
from rowcast.query.compilation import Statement
from rowcast.traces import TRACE

MAX_GROUP: Final = 64  # executions of one statement
PAUSE_SECONDS: Final = 1.0  # after a failure

_logger = structlog.get_logger(__name__)

Row: TypeAlias = asyncpg.Record | None
Join: TypeAlias = Callable[[tuple[Hashable, ...], Sequence[Any]], Awaitable[Any]]


ALONE: Final = object()  # the result of an execution that has to be executed alone


class Waiting(Protocol):
    """What gets the row of an execution, as a future does: ``None`` if there is none, or ``ALONE``."""

    def done(self) -> bool:
        """Whether nobody waits for the row any more."""

    def set_result(self, result: Any, /) -> None:
        """Take the row. Raises nothing."""

    def set_exception(self, exception: Any, /) -> None:
        """Take the error of a write of which nobody knows whether it has happened. Raises nothing."""


class _Group:
    """Executions of one statement: the values of each, and what waits for its row."""

    __slots__ = ("offered", "values", "waiting")

    def __init__(self) -> None:
        self.values: list[Sequence[Any]] = []
        self.waiting: list[Waiting] = []
        self.offered = 0  # those of ``offer``


class Coalescing:
    """Executions of one kind of statement by the service's own role, outside of transactions.

    A write that belongs to a trace is executed alone: the changes of one transaction have one trace.

    ``many`` builds the statement of a shape for several executions. Its values are an array for each value of the statement for
    one, and its rows have the ``position`` of an execution, from 1. An execution that has no row there has found none if it
    reads; if it writes, it is executed alone.
    """

    def __init__(self, database: Database, many: Callable[..., Statement], *, writes: bool = False) -> None:
        self._database = database
        self._many = many
        self._writes = writes
        self._active = 0  # executions that have not ended
        self._open: dict[Hashable, _Group] = {}  # groups that others may join, by shape
        self._tasks: set[asyncio.Task[None]] = set()
        self._pause_until = 0.0  # monotonic time

    def instrument(self, wrap: Callable[[Join], Join]) -> None:
        """Let what ``wrap`` makes of it join groups. The task that executes a group has the context of its first execution."""
        self._join = wrap(self._join)  # type: ignore[method-assign,assignment]

    async def row(self, shape: tuple[Hashable, ...], values: Sequence[Any], alone: Callable[[], Awaitable[Row]]) -> Row:
        """The row of one execution, which is done by ``alone`` if no other one comes at the same time, or a shared one fails.

        ``Unavailable`` if nobody knows whether a write has happened.
        """
        self._active += 1
        try:
            found: Any = ALONE
            if self._active > 1 and self._may_share(values):
                found = await self._join(shape, values)
            if found is ALONE:
                return await alone()
            if self._writes:
                note(found)
            return found
        finally:
            self._active -= 1

    def offer(self, shape: tuple[Hashable, ...], values: Sequence[Any], waiting: Waiting) -> bool:
        """Let an execution join others, without a task that waits for it; ``False`` if it has to be done alone.

        ``waiting`` gets ``ALONE`` if it meets none.
        """
        if not self._may_share(values):
            return False
        self._active += 1
        self._group(shape, values, waiting).offered += 1
        return True

    def _may_share(self, values: Sequence[Any]) -> bool:
        """Whether an execution may share a statement: its values fit into arrays, and a write belongs to no trace."""
        if self._writes and TRACE.get() is not None:
            return False
        return not any(type(value) in (list, tuple) for value in values)

    def _join(self, shape: tuple[Hashable, ...], values: Sequence[Any]) -> Awaitable[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._group(shape, values, future)
        return future

    def _group(self, shape: tuple[Hashable, ...], values: Sequence[Any], waiting: Waiting) -> _Group:
        """The group that an execution has joined, or begun."""
        group = self._open.get(shape)
        if group is None:
            group = self._open[shape] = _Group()
            asyncio.get_running_loop().call_soon(self._begin, shape, group)
        group.values.append(values)
        group.waiting.append(waiting)
        if len(group.values) == MAX_GROUP:
            self._close(shape, group)
        return group

    def _begin(self, shape: tuple[Hashable, ...], group: _Group) -> None:
        """Execute a group, if it is one; after the others of this turn of the event loop have joined."""
        if self._database.is_free and (len(group.values) == 1 or monotonic() < self._pause_until):
            self._end(shape, group, {}, ALONE)
            return
        task = asyncio.create_task(self._execute(shape, group), name="coalescing")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _execute(self, shape: tuple[Hashable, ...], group: _Group) -> None:
        """Execute a group once a connection is free, and pass the rows on.

        After a failure, which costs each of a group a second statement, groups are paused.
        """

        def statement() -> tuple[str, Sequence[Any], frozenset[str]]:
            self._close(shape, group)
            made = self._many(*shape)
            return made.sql, made.arguments(list(zip(*group.values, strict=True))), made.changes

        rows: dict[int, Any] = {}
        missing: object = ALONE
        failure: Unavailable | None = None
        try:
            records = await self._database.fetch_when_free(statement)
            rows = {record["position"]: record for record in records}
            missing = ALONE if self._writes else None
        except Exception as error:  # each of the group gets its own error, alone
            self._pause_until = monotonic() + PAUSE_SECONDS
            if not isinstance(error, ApiError | asyncpg.PostgresError | asyncpg.InterfaceError):
                _logger.exception("shared_statement_failed")  # which would go unnoticed, since each succeeds alone
            if self._writes and isinstance(error, Unavailable) and error.code == "database_unavailable":
                failure = error
        finally:
            self._end(shape, group, rows, missing, failure)

    def _end(
        self,
        shape: Hashable,
        group: _Group,
        rows: Mapping[int, Any],
        missing: object,
        failure: Unavailable | None = None,
    ) -> None:
        """Pass the rows of a group on, by position, or what stands for a ``missing`` one; or a failure."""
        self._close(shape, group)
        self._active -= group.offered
        for position, waiting in enumerate(group.waiting, 1):
            if waiting.done():
                continue
            try:
                if failure is None:
                    waiting.set_result(rows.get(position, missing))
                else:
                    waiting.set_exception(copy.copy(failure))
            except Exception:
                _logger.exception("row_not_passed_on")  # the others get theirs

    def _close(self, shape: Hashable, group: _Group) -> None:
        if self._open.get(shape) is group:
            del self._open[shape]
