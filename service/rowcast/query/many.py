"""Writing many rows at once, all or nothing, with errors that have the place of the row.

Rows with values for the same columns are one statement, where nothing in the database may skip or redirect rows, and none has
links. Otherwise they are written one after the other. If the one statement fails, the rows are written again one by one, to
find those that are wrong, and taken back.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import asyncpg

from rowcast.database.errors import RefusedByRule, TryAgain
from rowcast.errors import MAX_MESSAGES, ApiError, Conflict, NotFound, OutsideScope, Unavailable, ValidationError
from rowcast.query import write_many
from rowcast.query.compilation import Statement
from rowcast.query.conditions import Query, equals
from rowcast.query.explaining import names_missing_row, with_missing_rows
from rowcast.query.projection import Projection
from rowcast.query.store import NOT_MADE, Store
from rowcast.query.write_many import KEY_PREFIX, PLACE
from rowcast.resources.resource import Resource
from rowcast.resources.rules import UniqueRule

Values = Mapping[str, Any]
Key = tuple[Any, ...]  # the values of the columns that name a row


class ManyRow(NamedTuple):
    """A row that was written: its JSON, its key as text, and whether it is new; ``kept`` if it stayed as it was."""

    body: bytes
    key: str
    created: bool = False
    kept: bool = False


def at_places(errors: Mapping[int, ApiError]) -> ApiError:
    """One error for those of several rows, by their places; its status and code are those of the first."""
    first = copy.copy(errors[min(errors)])
    first.errors = {
        str(place): error.errors or {"non_field_errors": [error.detail]} for place, error in sorted(errors.items())
    }
    return first


def has_place(error: ApiError, count: int) -> bool:
    """Whether an error has the messages of each of ``count`` rows by its place."""
    return bool(error.errors) and all(name.isdecimal() and int(name) < count for name in error.errors or ())


async def insert_many(
    store: Store, shown: Projection, rows: Sequence[Values], within: Query | None = None
) -> list[ManyRow]:
    """Insert rows with their links, all or none, and return them in their order.

    ``OutsideScope`` if the query ``within`` does not contain each of them. Errors have the messages by place.
    """

    async def at_once(columns: tuple[str, ...], places: Sequence[int]) -> dict[int, ManyRow]:
        statement = store.queries.compiled(write_many.insert_many)(shown, columns)
        chosen = [rows[place] for place in places]
        if write_many.can_unnest(store.queries.tables, shown.resource, columns):
            arguments = statement.arguments([[row[name] for row in chosen] for name in columns])
        else:
            arguments = statement.arguments([_documents(store, shown.resource, columns, chosen)])
        declared = store.queries.resources[shown.resource]
        records = await store.insert_rows(declared, columns, store.database.fetch_all, statement, arguments)
        if len(records) != len(places):
            raise Conflict(NOT_MADE)
        return {place: ManyRow(row["result"], row["key"], True) for place, row in zip(places, records, strict=True)}

    async def one(place: int) -> ManyRow:
        row = await store.insert(shown, rows[place])
        return ManyRow(row.body, row.key, True)

    return await _write(store, "insert", shown, rows, at_once, one, within)


async def update_many(
    store: Store,
    scope: Query,
    shown: Projection,
    by: tuple[str, ...],
    keys: Sequence[Key],
    rows: Sequence[Values],
    within: Query | None = None,
) -> list[ManyRow]:
    """Change the rows of a scope with these keys, which are the values of the columns ``by``; all or none.

    ``NotFound`` if one is not there. Errors have the messages by place.
    """

    async def at_once(columns: tuple[str, ...], places: Sequence[int]) -> dict[int, ManyRow]:
        statement = store.queries.compiled(write_many.update_many)(shown, by, columns, scope.shape)
        found = await _run(store, statement, _keyed(store, shown.resource, by, keys, columns, rows, places), scope)
        return {row[PLACE]: ManyRow(row["result"], row["key"]) for row in found}

    async def one(place: int) -> ManyRow:
        row = await store.update(_row_of(store, scope, by, keys[place]), shown, rows[place])
        if row is None:
            raise NotFound()
        return ManyRow(row.body, row.key)

    return await _write(store, "update", shown, rows, at_once, one, within)


async def upsert_many(
    store: Store,
    scope: Query,
    shown: Projection,
    on: UniqueRule,
    rows: Sequence[Values],
    within: Query | None = None,
    *,
    keep: bool = False,
) -> list[ManyRow]:
    """Insert rows, or change those of a scope that have the same values of the rule ``on``; all or none.

    With ``keep`` a row that is there stays as it is. A row that is there outside the scope is a ``Conflict``, as for
    ``insert_many``. Errors have the messages by place.
    """

    async def at_once(columns: tuple[str, ...], places: Sequence[int]) -> dict[int, ManyRow]:
        shape = () if keep else scope.shape
        statement = store.queries.compiled(write_many.upsert_many)(shown, on, columns, shape, keep)
        documents = _documents(store, shown.resource, columns, (rows[n] for n in places), places)
        declared = store.queries.resources[shown.resource]
        arguments = statement.arguments([documents, *([] if keep else scope.values)])
        try:
            records = await store.insert_rows(declared, columns, store.database.fetch_all, statement, arguments)
        except asyncpg.CardinalityViolationError:
            raise ValidationError(f"Two of the rows have the same {', '.join(on.columns)}.") from None
        except asyncpg.InvalidColumnReferenceError:
            message = f"The database has no unique rule of {', '.join(on.columns)}."
            raise Unavailable(message, code="schema_mismatch") from None
        written = {row[PLACE]: ManyRow(row["result"], row["key"], row["created"]) for row in records}
        missing = [place for place in places if place not in written]
        if keep and missing:
            written |= await there(missing)
            missing = [place for place in missing if place not in written]
        if missing:
            raise at_places({place: taken(on) for place in missing})
        return written

    async def there(places: Sequence[int]) -> dict[int, ManyRow]:
        statement = store.queries.compiled(write_many.select_many)(shown, on, scope.shape)
        keys = {place: tuple(rows[place][name] for name in on.columns) for place in places}
        found = await _run(store, statement, _keyed(store, shown.resource, on.columns, keys, (), rows, places), scope)
        return {row[PLACE]: ManyRow(row["result"], row["key"], kept=True) for row in found}

    async def one(place: int) -> ManyRow:
        if (found := await change(place)) is not None:
            return found
        try:
            async with store.database.transaction():
                row = await store.insert(shown, rows[place])
        except Conflict as error:
            if error.code != "unique" or (found := await change(place)) is None:  # one that has just been inserted
                raise
            return found
        return ManyRow(row.body, row.key, True)

    async def change(place: int) -> ManyRow | None:
        if keep:
            return (await there([place])).get(place)
        fixed = {*on.columns, *store.queries.resources[shown.resource].key_columns}
        values = {name: value for name, value in rows[place].items() if name not in fixed}
        if on.plain:
            query = _row_of(store, scope, on.columns, tuple(rows[place][name] for name in on.columns))
        else:
            found = await lock_by_rule(store, scope, on, rows[place])
            if not found:
                return None
            query = scope.restrict(*store.by_keys(store.queries.resources[scope.resource], found[0]["key"]).where)
        row = await store.update(query, shown, values)
        return None if row is None else ManyRow(row.body, row.key)

    return await _write(store, "upsert", shown, rows, at_once, one, within)


def taken(rule: UniqueRule) -> Conflict:
    """The error for a row whose values of a unique rule another row has."""
    return Conflict(rule.taken, code="unique", errors={name: [rule.taken] for name in rule.columns})


async def lock_by_rule(
    store: Store, query: Query, rule: UniqueRule, values: Values, by: tuple[str, ...] = ()
) -> list[Any]:
    """Lock the row of a query that has the values of a unique rule: records of ``key`` and the columns ``by`` as text."""
    statement = store.queries.compiled(write_many.lock_by_rule)(query.resource, rule, query.shape, by)
    key = tuple(values[name] for name in rule.columns)
    documents = _keyed(store, query.resource, rule.columns, [key], (), [values], [0])
    return await store.database.fetch_all(statement.sql, statement.arguments([documents, *query.values]))


async def lock_keys(store: Store, query: Query, most: int, by: tuple[str, ...] = ()) -> list[Any]:
    """Lock the first rows of a query, at most so many: records of ``key`` and the columns ``by`` as text."""
    statement = store.queries.compiled(write_many.lock_keys)(query.resource, query.shape, by)
    return await store.database.fetch_all(statement.sql, statement.arguments([*query.values, most]))


async def require_all(store: Store, within: Query, rows: Mapping[int, str]) -> None:
    """``OutsideScope``, with the places, unless a query contains each of the rows, which are given by key as text."""
    if not rows:
        return
    resource = store.queries.resources[within.resource]
    inside = await store.lock_places(within.restrict(*store.by_keys(resource, *rows.values()).where))
    if outside := {place: OutsideScope() for place, key in rows.items() if key not in inside}:
        raise at_places(outside)


async def _write(
    store: Store,
    event: str,
    shown: Projection,
    rows: Sequence[Values],
    at_once: Callable[[tuple[str, ...], Sequence[int]], Awaitable[dict[int, ManyRow]]],
    one: Callable[[int], Awaitable[ManyRow]],
    within: Query | None,
) -> list[ManyRow]:
    """Write rows at once, or one by one where that is needed, in one transaction."""
    resource = store.queries.resources[shown.resource]
    columns = [tuple(name for name in resource.columns if name in row) for row in rows]
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, names in enumerate(columns):
        groups.setdefault(names, []).append(place)

    async def write() -> list[ManyRow]:
        written: dict[int, ManyRow] = {}
        async with store.database.transaction():
            if _needs_each(store, event, resource, shown, rows):
                for place in range(len(rows)):
                    try:
                        written[place] = await one(place)
                    except (NotFound, OutsideScope) as error:
                        raise at_places({place: error}) from error
            else:
                for names, places in groups.items():
                    written |= await at_once(names, places)
            missing = [place for place in range(len(rows)) if place not in written]
            if missing:
                raise at_places({place: NotFound() for place in missing})
            if within is not None:
                await require_all(store, within, {place: row.key for place, row in written.items()})
        return [written[place] for place in range(len(rows))]

    async def write_and_explain() -> list[ManyRow]:
        try:
            return await write()
        except (TryAgain, Unavailable, NotFound, OutsideScope):
            raise
        except (ApiError, asyncpg.PostgresError) as error:
            if isinstance(error, RefusedByRule) and not store.database.in_transaction:
                await store.read_traits()
                return await write()
            if not isinstance(error, ApiError) or not has_place(error, len(rows)):
                await find()
            raise

    async def find() -> None:
        """Raise the error with the places of the rows that are wrong; the transaction takes the others back."""
        wrong: dict[int, ApiError] = {}
        with suppress(_Undone):
            async with store.database.transaction():
                for place in range(len(rows)):
                    try:
                        async with store.database.transaction():
                            await one(place)
                    except (TryAgain, Unavailable):
                        raise
                    except ApiError as error:
                        wrong[place] = error
                        if names_missing_row(error):
                            wrong[place] = await with_missing_rows(
                                store.queries, store.database, error, resource, rows[place]
                            )
                        if len(wrong) == MAX_MESSAGES:
                            break
                raise _Undone
        if wrong:
            raise at_places(wrong)

    return await store.database.retrying(write_and_explain)


def _needs_each(store: Store, event: str, resource: Resource, shown: Projection, rows: Iterable[Values]) -> bool:
    """Whether rows are written one by one."""
    traits = store.queries.resources.traits_of(resource.name)
    events = {"insert", "update"} if event == "upsert" else {event}
    return (
        bool(events & (traits.rules | traits.skipping))
        or traits.partitioned
        or (event == "upsert" and traits.triggered)
        or any(shown.resource in inner.resources for _, inner in shown.related)
        or any(name in row for name in resource.links for row in rows)
        or (event == "insert" and any(resource.columns.keys().isdisjoint(row) for row in rows))
    )


async def _run(store: Store, statement: Statement, documents: list[Any], scope: Query) -> list[Any]:
    arguments = statement.arguments([documents, *scope.values])
    return await store.database.fetch_all(statement.sql, arguments, changes=statement.changes)


def _documents(
    store: Store,
    resource: str,
    columns: Sequence[str],
    rows: Iterable[Values],
    places: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Rows as JSON by column, with their places."""
    resources = store.queries.resources
    fields = [(name, resources.key_of(resources[resource].columns[name])) for name in columns]
    dumps = [(name, field.field_type.dump, field) for name, field in fields]
    documents = [
        {name: None if (value := row[name]) is None else dump(field, value) for name, dump, field in dumps}
        for row in rows
    ]
    for place, document in zip(places or (), documents, strict=bool(places)):
        document[PLACE] = place
    return documents


def _keyed(
    store: Store,
    resource: str,
    by: Sequence[str],
    keys: Mapping[int, Key] | Sequence[Key],
    columns: Sequence[str],
    rows: Sequence[Values],
    places: Sequence[int],
) -> list[dict[str, Any]]:
    """Rows as JSON by column, with their places and the values that name them."""
    documents = _documents(store, resource, columns, (rows[place] for place in places), places)
    named = [dict(zip(by, keys[place], strict=True)) for place in places]
    for document, key in zip(documents, _documents(store, resource, by, named), strict=True):
        document.update({f"{KEY_PREFIX}{number}": key[name] for number, name in enumerate(by)})
    return documents


def _row_of(store: Store, scope: Query, by: Sequence[str], key: Key) -> Query:
    """The row of a scope with these values of columns."""
    resources = store.queries.resources
    fields = [resources.resolve(scope.resource, name).values for name in by]
    return scope.restrict(*(equals(name, field, value) for name, field, value in zip(by, fields, key, strict=True)))


class _Undone(Exception):
    """Every row could be written when they were written one by one, which is taken back."""
