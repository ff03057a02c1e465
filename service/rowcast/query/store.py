"""The store: runs the statements of queries on the connections of a database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import orjson

from rowcast.database.pool import Database
from rowcast.query.conditions import Query, by_key
from rowcast.query.pages import FetchedPage, PageShape
from rowcast.query.projection import Projection
from rowcast.query.statements import Queries
from rowcast.resources.resource import Resource


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
    """Reads and writes rows as JSON."""

    queries: Queries
    database: Database

    async def page(self, query: Query, page: PageShape, values: Sequence[Any]) -> FetchedPage:
        """One page of a query; ``values`` are those of the page, which come after those of the condition."""
        statement = self.queries.page(page, query.shape)
        row = await self.database.read(statement.sql, statement.arguments([*query.values, *values]))
        assert row is not None
        keys = row["keys"] if page.keyset else []
        return FetchedPage(row["results"], row["size"], row["count"], keys, row["snapshot"])

    async def one(self, query: Query, projection: Projection) -> StoredRow | None:
        """The only row of a query; ``None`` if there is none."""
        statement = self.queries.select_row(projection, query.shape)
        row = await self.database.read(statement.sql, statement.arguments(query.values))
        return None if row is None else StoredRow(row[0], row[1], snapshot=row[2])

    async def insert(self, projection: Projection, values: Mapping[str, Any]) -> StoredRow:
        """Insert a row and its links."""
        resource, columns, links = self._parts(projection, values)
        statement = self.queries.insert(projection, columns, links)
        arguments = statement.arguments([values[name] for name in (*columns, *links)])

        async def write() -> StoredRow:
            row = await self.database.fetch(statement.sql, arguments, changes=statement.changes)
            assert row is not None
            return StoredRow(row["result"], row["version"], row["key"])

        partitioned = self.queries.resources.traits_of(resource.name).partitioned  # its version is not returned
        if not self._stale(projection, links) and not partitioned:
            return await self.database.retrying(write)

        async def write_and_read() -> StoredRow:
            async with self.database.transaction():
                return await self._read_again(resource, projection, (await write()).key)

        return await self.database.retrying(write_and_read)

    async def update(self, query: Query, projection: Projection, values: Mapping[str, Any]) -> StoredRow | None:
        """Change the only row of a query, and its links; ``None`` if there is none."""
        resource, columns, links = self._parts(projection, values)
        statement = self.queries.update(projection, columns, links, query.shape)
        arguments = statement.arguments([*query.values, *(values[name] for name in (*columns, *links))])

        async def write() -> StoredRow | None:
            async with self.database.transaction():
                if links:
                    await self.lock(query)
                row = await write_alone()
                if row is None or not self._stale(projection, links):
                    return row
                return await self._read_again(resource, projection, row.key)

        async def write_alone() -> StoredRow | None:
            row = await self.database.fetch(statement.sql, arguments, changes=statement.changes)
            return None if row is None else StoredRow(row["result"], row["version"], row["key"])

        alone = not links and not self._stale(projection, links)
        return await self.database.retrying(write_alone if alone else write)

    async def delete(self, query: Query) -> bool:
        """Delete the rows of a query; whether there were any."""
        return await self.database.retrying(lambda: self.delete_all(query)) > 0

    async def delete_all(self, query: Query) -> int:
        """Delete the rows of a query, and return their number. Unlike ``delete`` it does not retry."""
        statement = self.queries.delete(query.resource, query.shape)
        arguments = statement.arguments(query.values)
        rows = await self.database.fetch_all(statement.sql, arguments, deleting=True, changes=statement.changes)
        return len(rows)

    async def relink(self, query: Query, keys: Mapping[str, Sequence[Any]]) -> None:
        """Link the row of a query to these keys, by many_to_many field, and to no others."""
        links = tuple(keys)
        projection = Projection(query.resource, ())
        statement = self.queries.update(projection, (), links, query.shape)
        async with self.database.transaction():
            await self.lock(query)
            arguments = statement.arguments([*query.values, *keys.values()])
            await self.database.fetch(statement.sql, arguments, changes=statement.changes)

    async def lock(self, query: Query) -> bool:
        """Lock the row of a query until the transaction ends; whether there is such a row.

        It waits for other transactions that hold the lock. The next statement sees their changes, links included.
        """
        statement = self.queries.update(Projection(query.resource, ()), (), (), query.shape)
        return await self.database.fetch(statement.sql, statement.arguments(query.values)) is not None

    async def snapshot(self) -> str:
        """The current ``pg_current_snapshot``."""
        row = await self.database.read("SELECT pg_current_snapshot()::text AS snapshot", ())
        assert row is not None
        return str(row["snapshot"])

    async def check_patterns(self, patterns: Sequence[str]) -> None:
        """``InvalidPattern`` if one of these regular expressions is not valid in PostgreSQL."""
        if patterns:
            await self.database.read("SELECT count(*) FROM unnest($1::text[]) AS p (p) WHERE '' ~ p", [patterns])

    async def matching(self, query: Query, logged: Sequence[bytes]) -> set[int]:
        """The positions, from 1, of the logged rows that meet the conditions of a query."""
        if not logged:
            return set()
        statement = self.queries.match_logged(query.resource, query.shape)
        rows = await self.database.fetch_all(
            statement.sql, statement.arguments([*query.values, [orjson.Fragment(row) for row in logged]])
        )
        return {row["position"] for row in rows}

    def _parts(
        self, projection: Projection, values: Mapping[str, Any]
    ) -> tuple[Resource, tuple[str, ...], tuple[str, ...]]:
        resource = self.queries.resources[projection.resource]
        columns = tuple(name for name in resource.columns if name in values)
        return resource, columns, tuple(name for name in resource.links if name in values)

    def _stale(self, projection: Projection, links: tuple[str, ...]) -> bool:
        """Whether the projection has something that the writing statement cannot see: new links, or the row again."""
        return any(name in links or projection.resource in inner.resources for name, inner in projection.related)

    async def _read_again(self, resource: Resource, projection: Projection, key: str) -> StoredRow:
        values = self.queries.resources.key_of(resource.key)
        value = values.field_type.parse(values, key)
        found = await self.one(
            Query(resource.name, (by_key(self.queries.resources, resource.name, value),)), projection
        )
        assert found is not None
        return replace(found, key=key)
