"""Groups that a stream keeps up to date: read on the connections on which the filters of streams are evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rowcast.query.aggregation import AggregateShape
from rowcast.query.conditions import Query
from rowcast.query.logged import fetch_about
from rowcast.query.pages import FetchedPage
from rowcast.query.store import Store
from rowcast.query.tallies import GroupKey
from rowcast.resources.lossless_json import parse


async def read_groups(
    store: Store, query: Query, shape: AggregateShape, values: Sequence[Any], limit: int
) -> FetchedPage:
    """Up to ``limit`` groups of the rows of a query, with the snapshot of the statement; ``size`` is one more if there are."""
    statement = store.queries.aggregate_page(shape, query.shape)
    row = await store.judge.read(statement.sql, statement.arguments([*query.values, *values, limit, 0]))
    assert row is not None
    return FetchedPage.of(row, [])


async def groups_of_logged(
    store: Store, shape: AggregateShape, zones: Sequence[str], logged: Sequence[bytes]
) -> set[GroupKey]:
    """The groups that logged rows are in. ``zones`` are those of the buckets."""
    statement = store.queries.groups_of_logged(shape.resource, shape.groups)
    rows = await fetch_about(store, statement, logged, before=zones)
    return {tuple(parse(row["document"].encode()).values()) for row in rows}
