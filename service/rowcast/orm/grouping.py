"""Aggregates by group: ``Task.objects.group_by("owner").aggregate(n=("count", "*"))``."""

from __future__ import annotations

from typing import Any

from rowcast.orm import statements
from rowcast.orm.awaiting import must_be_awaited
from rowcast.query.conditions import Query
from rowcast.query.store import current_store


class GroupedRows:
    """The rows of a query in groups of equal values."""

    def __init__(self, query: Query, names: tuple[str, ...]) -> None:
        self._query = query
        self._names = names

    @must_be_awaited
    async def aggregate(self, **functions: tuple[str, str]) -> list[dict[str, Any]]:
        """One dictionary for each group, sorted by the groups: their values, and the results.

        Args:
            functions: By name of the result, a function (count, sum, avg, min or max) and a path; ``("count", "*")`` counts
                rows.
        """
        store, query = current_store(), self._query
        statement = store.queries.compiled(statements.grouped)(
            query.resource, self._names, tuple(functions.values()), query.shape
        )
        found = await store.database.fetch_all(statement.sql, statement.arguments(query.values))
        return [dict(zip((*self._names, *functions), row, strict=True)) for row in found]
