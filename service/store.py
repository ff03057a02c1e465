"""Rows: what a query finds and what a write leaves behind."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from service.database.connections import Database
from service.query import Comparison, Page, Queries, Query
from service.resources import Link, Resource
from service.serializers import Projection


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a page: their JSON with commas between, whether others follow, and what sorts each by.

    ``snapshot`` is what the statement saw (``pg_current_snapshot``).
    """

    results: bytes
    more: bool
    count: int | None
    keys: list[bytes]
    snapshot: str


@dataclass(frozen=True, slots=True)
class Store:
    """Runs queries: statements of ``queries``, on connections of ``database``."""

    queries: Queries
    database: Database

    async def page(self, query: Query, page: Page, values: Sequence[Any]) -> Rows:
        """One page of a query; ``values`` are the page's own, behind the condition's."""
        statement = self.queries.page(page, query.shape)
        row = await self.database.read(statement.sql, statement.arguments([*query.values, *values]))
        assert row is not None
        keys = row["keys"] if page.keyset else []
        return Rows(row["results"], row["more"], row["count"], keys, row["snapshot"])

    async def one(self, query: Query, projection: Projection) -> tuple[bytes, str] | None:
        """The only row of a query as JSON, and the snapshot; ``None`` when there is none."""
        statement = self.queries.one(projection, query.shape)
        row = await self.database.read(statement.sql, statement.arguments(query.values))
        return None if row is None else (row["result"], row["snapshot"])

    async def insert(self, projection: Projection, values: Mapping[str, Any]) -> tuple[bytes, str]:
        """Insert a row and its links; the row as JSON, and its key as text."""
        resource, columns, links = self._parts(projection, values)
        statement = self.queries.insert(projection, columns, links)
        arguments = statement.arguments([values[name] for name in (*columns, *links)])

        async def write() -> tuple[bytes, str]:
            row = await self.database.fetch(statement.sql, arguments)
            assert row is not None
            return row["result"], row["key"]

        if not self._stale(projection, links):
            return await self.database.retrying(write)

        async def write_and_read() -> tuple[bytes, str]:
            async with self.database.transaction():
                _, key = await write()
                return await self._again(resource, projection, key), key

        return await self.database.retrying(write_and_read)

    async def update(self, query: Query, projection: Projection, values: Mapping[str, Any]) -> bytes | None:
        """Change the only row of a query, and its links; the row as JSON, ``None`` when there is none."""
        resource, columns, links = self._parts(projection, values)
        statement = self.queries.update(projection, columns, links, query.shape)
        arguments = statement.arguments([*query.values, *(values[name] for name in (*columns, *links))])

        async def write() -> bytes | None:
            async with self.database.transaction():
                if links:
                    await self._lock(query)
                row = await self.database.fetch(statement.sql, arguments)
                if row is None or not self._stale(projection, links):
                    return None if row is None else row["result"]
                return await self._again(resource, projection, row["key"])

        async def write_alone() -> bytes | None:
            row = await self.database.fetch(statement.sql, arguments)
            return None if row is None else row["result"]

        alone = not links and not self._stale(projection, links)
        return await self.database.retrying(write_alone if alone else write)

    async def delete(self, query: Query) -> bool:
        """Delete the rows of a query; whether there were any."""
        return await self.database.retrying(lambda: self.delete_all(query)) > 0

    async def delete_all(self, query: Query) -> int:
        """Delete the rows of a query; how many there were."""
        statement = self.queries.delete(query.resource, query.shape)
        rows = await self.database.fetch_all(statement.sql, statement.arguments(query.values), deleting=True)
        return len(rows)

    async def insert_row(self, resource: str, values: Mapping[str, Any]) -> list[Any]:
        """Insert a row and give it back as Python values, alone in a list."""
        columns = tuple(values)
        statement = self.queries.insert_row(resource, columns)
        return await self.database.fetch_all(statement.sql, statement.arguments([values[name] for name in columns]))

    async def add(self, resource: str, columns: tuple[str, ...], documents: list[dict[str, Any]]) -> list[Any]:
        """Insert rows given as JSON in one statement, and give them back as Python values."""
        statement = self.queries.add(resource, columns)
        return await self.database.retrying(
            lambda: self.database.fetch_all(statement.sql, statement.arguments([documents]))
        )

    async def relink(self, query: Query, keys: Mapping[str, Sequence[Any]]) -> None:
        """Link the row of a query to these keys, by many_to_many field, and to no others."""
        links = tuple(keys)
        projection = Projection(query.resource, ())
        statement = self.queries.update(projection, (), links, query.shape)
        async with self.database.transaction():
            await self._lock(query)
            await self.database.fetch(statement.sql, statement.arguments([*query.values, *keys.values()]))

    async def _lock(self, query: Query) -> None:
        """Wait for the row of a query, so that the next statement sees all links that others have given it."""
        statement = self.queries.update(Projection(query.resource, ()), (), (), query.shape)
        await self.database.fetch(statement.sql, statement.arguments(query.values))

    async def pairs(self, link: Link, near: Collection[Any]) -> list[tuple[Any, Any]]:
        """The links of some rows: the key on this side and on the other, in order."""
        statement = self.queries.pairs(link)
        rows = await self.database.fetch_all(statement.sql, statement.arguments([list(near)]))
        return [(row[0], row[1]) for row in rows]

    async def snapshot(self) -> str:
        """What is committed now, as ``pg_current_snapshot``."""
        row = await self.database.read("SELECT pg_current_snapshot()::text AS snapshot", ())
        assert row is not None
        return str(row["snapshot"])

    async def check_patterns(self, patterns: Sequence[str]) -> None:
        """``InvalidPattern`` if PostgreSQL cannot read one of these regular expressions."""
        if patterns:
            await self.database.read("SELECT count(*) FROM unnest($1::text[]) AS p (p) WHERE '' ~ p", [patterns])

    async def matching(self, query: Query, logged: Sequence[bytes]) -> set[int]:
        """Which of some logged rows a query has, by their place in the list, from 1."""
        if not logged:
            return set()
        statement = self.queries.match(query.resource, query.shape)
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
        """Whether the projection shows what the same statement writes and cannot see: links, or the row once more."""
        return any(name in links or _shows(inner, projection.resource) for name, inner in projection.related)

    async def _again(self, resource: Resource, projection: Projection, key: str) -> bytes:
        found = await self.one(by_key(self.queries, resource.name, key), projection)
        assert found is not None
        return found[0]


def _shows(projection: Projection, resource: str) -> bool:
    """Whether rows of a resource are anywhere in a projection."""
    return projection.resource == resource or any(_shows(inner, resource) for _, inner in projection.related)


def by_key(queries: Queries, resource: str, text: str) -> Query:
    """The query for the row with a key, given as the text that stands in a URL; ``ValueError`` if it cannot be one."""
    key = queries.resources[resource].key
    values = queries.resources.key_of(key)
    return Query(resource, (Comparison(key.name, "exact", values.facts.parse(values, text), values.facts.kind),))
