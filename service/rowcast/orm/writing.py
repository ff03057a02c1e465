"""Writing rows from Python values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from inspect import iscoroutine
from types import TracebackType
from typing import Any

import asyncpg

from rowcast.errors import ApiError, Conflict, DoesNotFit, ValidationError
from rowcast.orm import statements
from rowcast.orm.bridge import spawn
from rowcast.orm.expressions import F
from rowcast.orm.state import Row, RowState, set_state, state_of
from rowcast.query.compilation import Statement
from rowcast.query.conditions import Condition, Query, Shape
from rowcast.query.explaining import explained
from rowcast.query.store import NOT_MADE, Store, current_store
from rowcast.resources.resource import Resource


class transaction(AbstractAsyncContextManager[None]):
    """``async with transaction():`` is one transaction; inside another one, as a request is, a savepoint.

    The writes inside are committed, or rolled back if an error is raised. ``transaction.atomic()`` is the same.
    """

    def __init__(self) -> None:
        self._inner = current_store().database.transaction()

    async def __aenter__(self) -> None:
        await self._inner.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._inner.__aexit__(kind, error, traceback)

    @classmethod
    def atomic(cls) -> AbstractAsyncContextManager[None]:
        """Commit the writes inside, or roll them back if an error is raised."""
        return cls()

    @staticmethod
    def on_commit(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call a function once the current transaction has committed; never if it, or a savepoint around, is rolled back.

        It runs in a task, with models, and the response does not wait for it. Functions of one transaction run one after
        the other, and an error of one is logged. Outside a transaction it runs at once.

        Args:
            function: A coroutine function or a plain one, which is called later, with these arguments.

        Raises:
            TypeError: It is a coroutine: the function has been called already.
        """
        if not callable(function):
            if iscoroutine(function):
                function.close()
            raise TypeError(
                f"on_commit() takes a function and its arguments, not {type(function).__name__}: on_commit(send, 1)"
            )
        current_store().database.on_commit(partial(spawn, function, *args, **kwargs))


async def insert_row(store: Store, resource: str, values: Mapping[str, Any]) -> list[Any]:
    """Insert a row, and return it alone in a list."""
    columns = tuple(values)
    statement = store.queries.compiled(statements.insert_row)(resource, columns)
    arguments = statement.arguments([values[name] for name in columns])
    declared = store.queries.resources[resource]
    insert = partial(store.insert_rows, declared, columns, store.database.fetch_all, statement, arguments)
    try:
        if "insert" in store.queries.resources.traits_of(resource).skipping:
            return await _insert_or_redirect(store, declared, values, insert)
        return await insert()
    except (ApiError, asyncpg.PostgresError) as error:
        raise await explained(store.queries, store.database, error, declared, values) from error.__cause__


async def _insert_or_redirect(
    store: Store, resource: Resource, values: Mapping[str, Any], insert: Callable[[], Awaitable[list[Any]]]
) -> list[Any]:
    """Insert a row into a table whose triggers may skip it, or write it to a table that inherits from this one."""
    with suppress(_Skipped):
        async with store.database.transaction():
            if records := await insert():
                return records
            raise _Skipped
    async with store.database.transaction():
        return await _select(store, store.by_keys(resource, await store.insert_redirected(resource, values)))


class _Skipped(Exception):
    """A trigger has skipped a row; what else it has done is rolled back."""


async def _select(store: Store, query: Query) -> list[Any]:
    """The rows of a query with their columns."""
    select = store.queries.compiled(statements.select_instances)(query.resource, (), query.shape, (), False, False)
    return await store.database.fetch_all(select.sql, select.arguments(query.values))


async def insert_instances(store: Store, resource: Resource, rows: Sequence[Row]) -> None:
    """Insert rows, one statement for those with values for the same columns, and give them the state that was written."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(name for name in resource.columns if name in state_of(row).values), []).append(row)
    for columns, group in groups.items():
        fields = {name: store.queries.resources.key_of(resource.columns[name]) for name in columns}
        documents = []
        for row in group:
            values = state_of(row).values
            documents.append(
                {
                    name: None if values[name] is None else field.field_type.dump(field, values[name])
                    for name, field in fields.items()
                }
            )
        if columns:
            records = await _insert_documents(store, resource.name, columns, documents)
        else:  # for which one statement has no form
            async with store.database.transaction():
                records = [record for _ in group for record in await insert_row(store, resource.name, {})]
        if len(records) != len(group):
            raise Conflict(NOT_MADE)
        for row, record in zip(group, records, strict=True):
            set_state(row, RowState(resource, dict(zip(resource.columns, record, strict=True)), saved=True))


async def _insert_documents(
    store: Store, resource: str, columns: tuple[str, ...], documents: list[dict[str, Any]]
) -> list[Any]:
    """Insert rows that are given as JSON in one statement, and return them."""
    statement = store.queries.compiled(statements.insert_rows)(resource, columns)
    arguments = statement.arguments([documents])
    declared = store.queries.resources[resource]
    try:
        return await store.database.retrying(
            lambda: store.insert_rows(declared, columns, store.database.fetch_all, statement, arguments)
        )
    except (ApiError, asyncpg.PostgresError) as error:
        raise await explained(store.queries, store.database, error, declared, *documents) from error.__cause__


async def update_rows(store: Store, resource: str, values: Mapping[str, Any], *where: Condition) -> list[Any]:
    """Set columns of the rows that meet all conditions, and return these rows as they are afterwards.

    A value may be an ``F``. ``ValidationError`` names the columns whose computed value does not fit.
    """
    query = Query(resource, where)
    arguments: list[Any] = list(query.values)
    sets: list[tuple[str, Shape | None]] = []
    for name, value in values.items():
        if isinstance(value, F):
            field = store.queries.resources.key_of(store.queries.resources[resource].columns[name])
            expression = value.resolve(store.queries.resources, resource, field)
            sets.append((name, expression.shape))
            arguments += expression.values
        else:
            sets.append((name, None))
            arguments.append(value)
    by_rules = "update" in store.queries.resources.traits_of(resource).rules
    statement = store.queries.compiled(statements.update_rows)(resource, tuple(sets), query.shape, by_rules)
    try:
        if by_rules:
            return await _update_by_rules(store, query, statement, arguments)
        return await store.database.fetch_all(statement.sql, statement.arguments(arguments), changes=statement.changes)
    except (ApiError, asyncpg.PostgresError) as error:
        plain = {name: value for name, value in values.items() if not isinstance(value, F)}
        named = await explained(store.queries, store.database, error, store.queries.resources[resource], plain)
        computed = [name for name, shape in sets if shape is not None]
        if named is error and isinstance(error, DoesNotFit) and computed:
            raise ValidationError({name: ["The result does not fit."] for name in computed}) from None
        raise named from error.__cause__


async def _update_by_rules(store: Store, query: Query, statement: Statement, arguments: Sequence[Any]) -> list[Any]:
    """Change rows of a table whose rules do not allow to return them, and read those that have changed."""
    async with store.database.transaction():
        before = await store.lock_places(query)
        await store.database.fetch_all(statement.sql, statement.arguments(arguments), changes=statement.changes)
        if not before:
            return []
        resource = store.queries.resources[query.resource]
        after = await store.lock_places(store.by_keys(resource, *before))
        changed = [key for key, place in after.items() if before[key] != place]
        if not changed:
            return []
        return await _select(store, store.by_keys(resource, *changed))
