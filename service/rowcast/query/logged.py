"""Questions to PostgreSQL about rows of the change log, on the connections on which the filters of streams are evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg
import orjson

from rowcast.query.compilation import Statement
from rowcast.query.conditions import Query
from rowcast.query.projection import Projection
from rowcast.query.store import Store


async def fetch_about(
    store: Store,
    statement: Statement,
    logged: Sequence[bytes],
    *,
    before: Sequence[Any] = (),
    after: Sequence[Any] = (),
) -> list[asyncpg.Record]:
    """The result of a statement about logged rows, whose other values come ``before`` these or ``after`` them."""
    values = [*before, [orjson.Fragment(row) for row in logged], *after]
    rows: list[asyncpg.Record] = await store.judge.fetch_all(statement.sql, statement.arguments(values))
    return rows


async def matching(store: Store, query: Query, logged: Sequence[bytes]) -> set[int]:
    """The positions, from 1, of the logged rows that meet the conditions of a query."""
    if not logged:
        return set()
    statement = store.queries.match_logged(query.resource, query.shape)
    return {row["position"] for row in await fetch_about(store, statement, logged, before=query.values)}


async def show_logged(store: Store, query: Query, projection: Projection, logged: Sequence[bytes]) -> list[bytes]:
    """Logged rows as JSON with their related rows as they are now; ``query`` has the conditions on these."""
    statement = store.queries.show_logged(projection)
    return [row["result"] for row in await fetch_about(store, statement, logged, before=query.related_values)]


async def related_size_of_logged(
    store: Store, query: Query, projection: Projection, logged: Sequence[bytes], already: Projection, most: int
) -> tuple[int, int]:
    """As ``Store.related_size``, for what ``show_logged`` would read."""
    statement = store.queries.related_size_of_logged(projection, already, most)
    (row,) = await fetch_about(store, statement, logged, after=query.related_values)
    return row["rows"], row["bytes"]
