"""The store: runs the statements of queries on the connections of a database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import asyncpg

from rowcast.database.errors import POLICY_REFUSES, RefusedByRule, TryAgain, violated_guard
from rowcast.database.key_defaults import key_defaults
from rowcast.database.pool import Database
from rowcast.database.sequences import counted_field, move_sequence
from rowcast.database.table_traits import read_traits
from rowcast.errors import ApiError, Conflict, OutsideScope, PermissionDenied
from rowcast.query.aggregation import AggregateShape
from rowcast.query.coalescing import Coalescing
from rowcast.query.compilation import Statement
from rowcast.query.conditions import Comparison, Query, by_key
from rowcast.query.dependencies import paths_in, subqueries_in
from rowcast.query.explaining import explained
from rowcast.query.pages import FetchedPage, PageShape
from rowcast.query.projection import Projection
from rowcast.query.statements import Queries
from rowcast.resources.resource import Resource

Result = TypeVar("Result")
_NO_CONDITION: Final = Query("")

# A trigger has skipped the row, or a rule has put another statement in place of the one that was sent.
NOT_MADE: Final = "The database did not make this row."
NOT_CHANGED: Final = "The database did not make this change."
NOT_DELETED: Final = "The database did not delete this row."


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row as JSON, and its version, which is ``None`` if a write could not read it back.

    A row that was written has its ``key`` as text, and a row that was read the ``pg_current_snapshot`` of the statement.
    """

    body: bytes
    version: str | None
    key: str = ""
    snapshot: str = ""


STORE: ContextVar[Store] = ContextVar("store")  # of the service that handles the current request


def current_store() -> Store:
    """The store of the current service; ``RuntimeError`` if none is running."""
    try:
        return STORE.get()
    except LookupError:
        raise RuntimeError("models can be used while the service runs: in handlers, hooks and permissions") from None


@dataclass(frozen=True, slots=True)
class Store:
    """Reads and writes rows as JSON.

    ``judges`` is a pool of its own for the filters of streams, so that no other request waits for one that takes long. Unless it
    ``shares``, each statement is of one request; ``alone`` is the same store without that.
    """

    queries: Queries
    database: Database
    judges: Database | None = None
    shares: bool = True
    rows: Coalescing = field(init=False)  # the statements that requests share
    inserts: Coalescing = field(init=False)
    updates: Coalescing = field(init=False)
    alone: Store = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        queries, database, put = self.queries, self.database, object.__setattr__
        put(self, "rows", Coalescing(database, queries.select_rows))
        put(self, "inserts", Coalescing(database, queries.insert_each, writes=True))
        put(self, "updates", Coalescing(database, queries.update_each, writes=True))
        put(self, "alone", replace(self, shares=False) if self.shares else self)

    def as_of(self) -> None:
        """What is read is current."""

    @property
    def judge(self) -> Database:
        """Where the filters of streams are evaluated."""
        return self.judges or self.database

    def _shares(self, resource: Resource) -> bool:
        """Whether the caller's statements about a resource may be shared with other requests."""
        return self.shares and resource.coalesce and not (self.database.acts_as_callers or self.database.in_transaction)

    async def page(self, query: Query, page: PageShape, values: Sequence[Any]) -> FetchedPage:
        """One page of a query, or ``ListTooLarge``; ``values`` are those of the page, which come after the condition's."""
        statement = self.queries.page(page, query.shape)
        row = await self.database.read(
            statement.sql, statement.arguments([*query.values, *values, *query.related_values])
        )
        assert row is not None
        return FetchedPage.of(row, row["keys"] if page.keyset else [])

    async def groups(self, query: Query, shape: AggregateShape, values: Sequence[Any]) -> FetchedPage:
        """One page of groups of the rows of a query; ``values`` come after those of the condition."""
        statement = self.queries.aggregate_page(shape, query.shape)
        row = await self.database.read(statement.sql, statement.arguments([*query.values, *values]))
        assert row is not None
        return FetchedPage.of(row, [])

    async def related_size(
        self, query: Query, page: PageShape, values: Sequence[Any], already: Projection, most: int
    ) -> tuple[int, int]:
        """How many related rows a page would have beside those that ``already`` has, counted up to ``most``, and bytes."""
        statement = self.queries.related_size(page, query.shape, already, most)
        row = await self.database.read(
            statement.sql, statement.arguments([*query.values, *values, *query.related_values])
        )
        assert row is not None
        return row["rows"], row["bytes"]

    async def one(self, query: Query, projection: Projection) -> StoredRow | None:
        """The only row of a query; ``None`` if there is none."""
        values = (*query.values, *query.related_values) if query.related else query.values

        def read() -> Awaitable[asyncpg.Record | None]:
            statement = self.queries.select_row(projection, query.shape)
            return self.database.read(statement.sql, statement.arguments(values))

        row = await (
            self.rows.row((projection, query.shape), values, read)
            if self._shares(self.queries.resources[projection.resource])
            else read()
        )
        return None if row is None else StoredRow(row["result"], row["version"], snapshot=row["snapshot"])

    async def insert(self, projection: Projection, values: Mapping[str, Any], within: Query | None = None) -> StoredRow:
        """Insert a row and its links; ``OutsideScope`` if the query ``within`` does not contain the row."""
        resource, columns, links = self._parts(projection, values)
        inline, later = self._checks(within)
        to_link = {name: values[name] for name in links if values[name]}
        together = len(to_link) == 1 and not self.database.in_transaction
        (linked,) = to_link if together else (None,)
        statement = self.queries.insert(projection, columns, linked, inline.shape)
        given = [*(values[name] for name in columns), *([values[linked]] if linked else []), *inline.values]
        arguments = statement.arguments(given)

        def write_alone() -> Awaitable[asyncpg.Record | None]:
            return self.insert_rows(resource, columns, self.database.fetch, statement, arguments)

        async def write() -> StoredRow:
            row = await (self.inserts.row((projection, columns), given, write_alone) if shared else write_alone())
            if row is None:
                raise Conflict(NOT_MADE)
            return StoredRow(row["result"], None if links else row["version"], row["key"])

        async def write_whole() -> StoredRow:
            async with self.database.transaction():
                row = await write()
                if not together:
                    await self._link(self.by_keys(resource, row.key), to_link)
                await self._require(later, row.key)
                return await self._read_again(resource, projection, row.key) if again else row

        async def write_or_redirect() -> StoredRow:
            try:
                return await write_whole()
            except Conflict as error:
                if error.detail != NOT_MADE:
                    raise
            async with self.database.transaction():
                key = await self.insert_redirected(resource, {name: values[name] for name in columns})
                await self._link(self.by_keys(resource, key), to_link)
                await self._require(within, key)
                return await self._read_again(resource, projection, key)

        async def write_by_rules() -> StoredRow:
            async with self.database.transaction():
                made = self.queries.insert_by_rules(resource.name, columns)
                arguments = made.arguments([values[name] for name in columns])
                row = await self.insert_rows(resource, columns, self.database.fetch, made, arguments)
                if row is None:
                    raise Conflict(NOT_MADE)
                await self._link(self.by_keys(resource, row["key"]), to_link)
                await self._require(within, row["key"])
                return await self._read_again(resource, projection, row["key"])

        traits = self.queries.resources.traits_of(resource.name)
        again = traits.partitioned or self._stale(projection, links)
        usual = write_whole if again or later is not None or (to_link and not together) else write
        skipping = "insert" in traits.skipping
        alone = links or inline.where or skipping or not columns
        shared = usual is write and not alone and self._shares(resource)
        try:
            return await self._write("insert", resource, write_or_redirect if skipping else usual, write_by_rules)
        except (ApiError, asyncpg.PostgresError) as error:
            raise await explained(self.queries, self.database, error, resource, values) from error.__cause__

    async def insert_redirected(self, resource: Resource, values: Mapping[str, Any]) -> str:
        """Insert a row that a trigger has skipped before, in a transaction, and return its key as text.

        The trigger may have written it to a table that inherits from this one, so that it is a row of this one. ``Conflict``
        if it is not, or if it was there before. ``values`` are those of columns.
        """
        missing = [name for name in resource.key_columns if name not in values]
        values = {**values, **await key_defaults(self.database.fetch_all, resource, missing)}
        key = tuple(values.get(name) for name in resource.key_columns)
        row = Query(resource.name, (by_key(self.queries.resources, resource.name, key if len(key) > 1 else key[0]),))
        if None in key or await self.lock_places(row):
            raise Conflict(NOT_MADE)
        made = self.queries.insert_by_rules(resource.name, tuple(values))
        await self.database.fetch(made.sql, made.arguments(list(values.values())), changes=made.changes)
        (text,) = await self.lock_places(row) or [None]
        if text is None:
            raise Conflict(NOT_MADE)
        return text

    async def insert_rows(
        self,
        resource: Resource,
        columns: Sequence[str],
        fetch: Callable[..., Awaitable[Result]],
        statement: Statement,
        arguments: Sequence[Any],
    ) -> Result:
        """Run a statement that inserts rows; ``TryAgain`` if the database has given a key that another row has.

        The sequence that gives the keys has been moved on then.
        """
        try:
            return await fetch(statement.sql, arguments, changes=statement.changes)
        except Conflict as error:
            taken = error.__cause__
            if (
                isinstance(taken, asyncpg.UniqueViolationError)
                and (counted := counted_field(resource)) is not None
                and counted.column_name not in columns
                and not self._is_other_rule(resource, taken)
                and await move_sequence(self.database.fetch_outside, resource, counted, taken)
            ):
                raise TryAgain() from error
            raise

    def _is_other_rule(self, resource: Resource, taken: asyncpg.UniqueViolationError) -> bool:
        """Whether a violated rule is certainly not about the key: to find out otherwise takes a second connection."""
        guard = violated_guard(taken, self.queries.tables.guards)
        return guard is not None and guard.fields != resource.key_columns

    async def update(
        self, query: Query, projection: Projection, values: Mapping[str, Any], within: Query | None = None
    ) -> StoredRow | None:
        """Change the only row of a query, and its links; ``None`` if there is none.

        ``OutsideScope`` if the query ``within`` does not contain the row afterwards.
        """
        resource, columns, links = self._parts(projection, values)
        inline, later = self._checks(within)
        to_link = {name: values[name] for name in links}
        statement = self.queries.update(projection, columns, query.shape, inline.shape, bool(links))
        given = [*query.values, *(values[name] for name in columns), *inline.values]
        arguments = statement.arguments(given)

        def execute() -> Awaitable[asyncpg.Record | None]:
            return self.database.fetch(statement.sql, arguments, changes=statement.changes)

        async def write() -> StoredRow | None:
            async with self.database.transaction():
                if links:
                    await self.lock(query)
                row = await write_alone()
                if row is None and skipping and await self.one(query, Projection(resource.name, ())) is not None:
                    raise Conflict(NOT_CHANGED)
                if row is not None:
                    await self._link(self.by_keys(resource, row.key), to_link, replace=True)
                    await self._require(later, row.key)
                if row is None or not self._stale(projection, links):
                    return row
                return await self._read_again(resource, projection, row.key)

        async def write_alone() -> StoredRow | None:
            shape = projection, columns, query.shape
            row = await (self.updates.row(shape, given, execute) if shared else execute())
            return row and StoredRow(row["result"], None if links else row["version"], row["key"])

        async def write_by_rules() -> StoredRow | None:
            async with self.database.transaction():
                before = await self.lock_places(query)
                if not before:
                    return None
                made = self.queries.update_by_rules(resource.name, columns, query.shape)
                arguments = made.arguments([*query.values, *(values[name] for name in columns)])
                await self.database.fetch(made.sql, arguments, changes=made.changes)
                (key,) = before
                changed = self.by_keys(resource, key)
                if links:
                    await self.relink(changed, to_link)
                elif await self.lock_places(changed) == before:
                    raise Conflict(NOT_CHANGED)
                await self._require(within, key)
                return await self._read_again(resource, projection, key)

        traits = self.queries.resources.traits_of(resource.name)
        skipping = "update" in traits.skipping
        alone = later is None and not links and not skipping and not self._stale(projection, links)
        shared = alone and bool(columns) and not inline.where and not query.related and self._shares(resource)
        try:
            return await self._write("update", resource, write_alone if alone else write, write_by_rules)
        except (ApiError, asyncpg.PostgresError) as error:
            raise await explained(self.queries, self.database, error, resource, values) from error.__cause__

    async def delete(self, query: Query) -> bool:
        """Delete the rows of a query; whether there were any. ``Conflict`` if the database has kept all as they are."""
        resource = self.queries.resources[query.resource]

        async def delete() -> bool:
            statement = self.queries.delete_and_compare(query.resource, query.shape)
            rows = await self.database.fetch_all(
                statement.sql, statement.arguments(query.values), deleting=True, changes=statement.changes
            )
            kept = {row["key"]: row["place"] for row in rows if not row["deleted"]}
            if len(kept) < len(rows) or not rows:
                return bool(rows)
            await self.read_traits()
            if "delete" not in self.queries.resources.traits_of(query.resource).skipping:
                return False  # a concurrent change
            if await self.lock_places(self.by_keys(resource, *kept)) == kept:
                raise Conflict(NOT_DELETED)
            return True

        async def delete_with_care() -> bool:
            async with self.database.transaction():
                found, deleted = await self._delete_with_care(query)
                if found and not deleted:
                    raise Conflict(NOT_DELETED)
                return found > 0

        skipping = "delete" in self.queries.resources.traits_of(query.resource).skipping
        return await self._write("delete", resource, delete_with_care if skipping else delete, delete_with_care)

    async def delete_all(self, query: Query) -> int:
        """Delete the rows of a query, and return their number. Unlike ``delete`` it does not retry."""
        traits = self.queries.resources.traits_of(query.resource)
        if "delete" in traits.skipping | traits.rules:
            return (await self._delete_with_care(query))[1]
        statement = self.queries.delete(query.resource, query.shape)
        arguments = statement.arguments(query.values)
        rows = await self.database.fetch_all(statement.sql, arguments, deleting=True, changes=statement.changes)
        return len(rows)

    def refusal(self, resource: str) -> ApiError:
        """The error for a row that is there, and that the database has not changed."""
        if self.queries.resources.traits_of(resource).policies:
            return PermissionDenied(POLICY_REFUSES)
        return Conflict(NOT_CHANGED)

    async def lock_places(self, query: Query) -> dict[str, str]:
        """Lock the rows of a query until the transaction ends: where each is stored, by its key as text.

        A row that is changed is stored in another place.
        """
        statement = self.queries.lock_rows(query.resource, query.shape)
        rows = await self.database.fetch_all(statement.sql, statement.arguments(query.values))
        return {row["key"]: row["place"] for row in rows}

    async def read_traits(self) -> None:
        """Read the traits of the tables again: a trigger or a rule is newer than the service's start."""
        tables = self.queries.tables
        tables.learn(await read_traits(self.database.fetch_outside, tables))

    async def _delete_with_care(self, query: Query) -> tuple[int, int]:
        """Delete the rows of a table whose triggers or rules may keep or change them: how many met the query, how many
        of them are gone or changed.
        """
        resource = self.queries.resources[query.resource]
        rules = "delete" in self.queries.resources.traits_of(query.resource).rules
        async with self.database.transaction():
            before = await self.lock_places(query)
            if not before:
                return 0, 0
            build = self.queries.delete_by_rules if rules else self.queries.delete
            statement = build(query.resource, query.shape)
            arguments = statement.arguments(query.values)
            await self.database.fetch_all(statement.sql, arguments, deleting=True, changes=statement.changes)
            after = await self.lock_places(self.by_keys(resource, *before))
        return len(before), len(before.items() - after.items())

    def _checks(self, within: Query | None) -> tuple[Query, Query | None]:
        """What the statement that writes a row checks of it, and what has to be checked after it, in its transaction.

        A statement does not see what triggers change after it, nor the rows and links that it writes itself.
        """
        if within is None:
            return _NO_CONDITION, None
        resources = self.queries.resources
        traits = resources.traits_of(within.resource)
        steps = [step for path in paths_in(within.shape) for step in resources.resolve(within.resource, path).steps]
        if (
            traits.triggered
            or traits.rules
            or traits.partitioned
            or any(step.many or step.target == within.resource for step in steps)
            or any(subqueries_in(within.shape))
        ):
            return _NO_CONDITION, within
        return within, None

    async def _require(self, within: Query | None, key: str) -> None:
        """``OutsideScope`` unless a query contains the row with this key."""
        if within is not None:
            resource = self.queries.resources[within.resource]
            row = within.restrict(*self.by_keys(resource, key).where)
            if await self.one(row, Projection(resource.name, ())) is None:
                raise OutsideScope()

    async def _write(
        self,
        event: str,
        resource: Resource,
        write: Callable[[], Awaitable[Result]],
        write_by_rules: Callable[[], Awaitable[Result]],
    ) -> Result:
        """Write in the usual way, or in the other one where a rule of the table does not allow that."""
        if event in self.queries.resources.traits_of(resource.name).rules:
            return await self.database.retrying(write_by_rules)
        try:
            return await self.database.retrying(write)
        except RefusedByRule:
            await self.read_traits()
            if self.database.in_transaction:  # which has failed; the next one finds the rule
                raise
        return await self.database.retrying(write_by_rules)

    async def relink(self, query: Query, keys: Mapping[str, Sequence[Any]]) -> None:
        """Link the row of a query to these keys, by many_to_many field, and to no others."""
        touch = self.queries.update(Projection(query.resource, ()), (), query.shape, (), True)
        async with self.database.transaction():
            await self.lock(query)
            await self.database.fetch(touch.sql, touch.arguments(query.values), changes=touch.changes)
            await self._link(query, keys, replace=True)

    async def _link(self, query: Query, keys: Mapping[str, Sequence[Any]], *, replace: bool = False) -> None:
        """Link the rows of a query to keys, by many_to_many field; with ``replace`` to no others.

        Triggers run after a statement, so of one that does more they would log what a row never was.
        """
        for name, listed in keys.items():
            for build in [self.queries.unlink] * replace + [self.queries.link] * bool(listed):
                statement = build(query.resource, name, query.shape)
                arguments = statement.arguments([*query.values, listed])
                await self.database.fetch(statement.sql, arguments, changes=statement.changes)

    async def lock(self, query: Query) -> bool:
        """Lock the row of a query until the transaction ends; whether there is such a row.

        It waits for other transactions that hold the lock. The next statement sees their changes, links included.
        """
        statement = self.queries.update(Projection(query.resource, ()), (), query.shape)
        return await self.database.fetch(statement.sql, statement.arguments(query.values)) is not None

    async def snapshot(self) -> str:
        """The current ``pg_current_snapshot``."""
        row = await self.database.read("SELECT pg_current_snapshot()::text AS snapshot", ())
        assert row is not None
        return str(row["snapshot"])

    async def check_patterns(self, patterns: Sequence[str]) -> None:
        """``InvalidPattern`` if one of these regular expressions is not valid in PostgreSQL."""
        if patterns:
            await self.judge.read("SELECT count(*) FROM unnest($1::text[]) AS p (p) WHERE '' ~ p", [patterns])

    def _parts(
        self, projection: Projection, values: Mapping[str, Any]
    ) -> tuple[Resource, tuple[str, ...], tuple[str, ...]]:
        resource = self.queries.resources[projection.resource]
        columns = tuple(name for name in resource.columns if name in values)
        return resource, columns, tuple(name for name in resource.links if name in values)

    def _stale(self, projection: Projection, links: tuple[str, ...]) -> bool:
        """Whether the projection has something that the writing statement cannot see: new links, or the row again."""
        return any(name in links or projection.resource in inner.resources for name, inner in projection.related)

    def by_keys(self, resource: Resource, *keys: str) -> Query:
        """The query for the rows with these keys, which are given as text."""
        field = self.queries.resources.key_of(resource.key)
        values = tuple(field.field_type.parse(field, key) for key in keys)
        if len(values) == 1:
            return Query(resource.name, (by_key(self.queries.resources, resource.name, values[0]),))
        return Query(resource.name, (Comparison(resource.key.name, "in", values, field.field_type.kind),))

    async def _read_again(self, resource: Resource, projection: Projection, key: str) -> StoredRow:
        """The row that was just written; ``Conflict`` if the database has removed it at once."""
        found = await self.one(self.by_keys(resource, key), projection)
        if found is None:
            raise Conflict(NOT_CHANGED)
        return replace(found, key=key)
