"""Deleting and restoring rows. Rows of a resource with ``soft_delete`` are marked, and stay until they are deleted for good."""

from __future__ import annotations

from typing import Final

import structlog

from rowcast.database.errors import RefusedByRule
from rowcast.errors import ApiError, Conflict, Unavailable
from rowcast.query import write
from rowcast.query.conditions import Query, without_deleted
from rowcast.query.store import NOT_CHANGED, NOT_DELETED, Store
from rowcast.resources.resource import Resource

PURGED_AT_ONCE: Final = 200  # rows of one statement
_logger = structlog.get_logger(__name__)


async def remove(store: Store, query: Query, *, hard: bool = False) -> bool:
    """Delete the rows of a query, for good if their resource marks none, or with ``hard``; whether there were any.

    ``Conflict`` if the database has kept all as they are.
    """
    if hard or store.queries.resources[query.resource].soft_delete is None:
        return await store.delete(query)
    return await store.database.retrying(lambda: _mark(store, query, deleted=True)) > 0


async def remove_all(store: Store, query: Query, *, hard: bool = False) -> int:
    """As ``remove``, and return the number of rows; it does not retry."""
    if hard or store.queries.resources[query.resource].soft_delete is None:
        return await store.delete_all(query)
    return await _mark(store, query, deleted=True)


async def restore(store: Store, query: Query) -> int:
    """Take back the deletion of those rows of a query that are marked as deleted, and return their number.

    ``Conflict`` if another row has a unique value of one of them.
    """
    return await _mark(store, query, deleted=False)


async def _mark(store: Store, query: Query, *, deleted: bool) -> int:
    """Mark the rows of a query that are not marked so yet, and return their number."""
    resource = store.queries.resources[query.resource]
    wanted = without_deleted(resource, "" if deleted else "only")
    query = query.unsorted().restrict(*(each for each in wanted if each not in query.where))
    traits = store.queries.resources.traits_of(query.resource)
    if "update" in traits.skipping | traits.rules:
        return await _mark_with_care(store, query, deleted=deleted)
    statement = store.queries.compiled(write.mark)(query.resource, query.shape, deleted)
    try:
        rows = await store.database.fetch_all(
            statement.sql, statement.arguments(query.values), changes=statement.changes
        )
    except RefusedByRule:
        await store.read_traits()
        if store.database.in_transaction:  # which has failed; the next one finds the rule
            raise
        return await _mark_with_care(store, query, deleted=deleted)
    return len(rows)


async def _mark_with_care(store: Store, query: Query, *, deleted: bool) -> int:
    """The same in a table whose triggers or rules may keep rows as they are; ``Conflict`` if they have kept all."""
    resource = store.queries.resources[query.resource]
    statement = store.queries.compiled(write.mark)(query.resource, query.shape, deleted, True)
    async with store.database.transaction():
        before = await store.lock_places(query)
        if not before:
            return 0
        await store.database.fetch_all(statement.sql, statement.arguments(query.values), changes=statement.changes)
        after = await store.lock_places(store.by_keys(resource, *before))
    changed = len(before.items() - after.items())
    if not changed:
        raise Conflict(NOT_DELETED if deleted else NOT_CHANGED)
    return changed


async def purge(store: Store, resource: Resource, seconds: float) -> int:
    """Delete the rows for good that were deleted longer ago than so many seconds, a few at a time; return their number.

    Rows that the database keeps, since others refer to them, are left for the next time.
    """
    statement = store.queries.compiled(write.expired)(resource.name)
    purged = kept = 0
    reason = ""
    while True:
        rows = await store.database.fetch_all(statement.sql, statement.arguments([seconds, PURGED_AT_ONCE, kept]))
        keys = [row["key"] for row in rows]
        count, refused = await _purge_keys(store, resource, keys)
        purged += count
        kept += len(keys) - count
        reason = refused or reason
        if len(keys) < PURGED_AT_ONCE:
            break
    if kept:
        _logger.warning("rows_not_purged", resource=resource.name, rows=kept, reason=reason or NOT_DELETED)
    if purged:
        _logger.info("rows_purged", resource=resource.name, rows=purged)
    return purged


async def _purge_keys(store: Store, resource: Resource, keys: list[str]) -> tuple[int, str]:
    """Delete the rows with these keys that are still marked, at once or one by one: their number, and why not all."""
    if not keys:
        return 0, ""
    query = store.by_keys(resource, *keys).restrict(*without_deleted(resource, "only"))
    try:
        async with store.database.transaction():
            return await store.delete_all(query), ""
    except ApiError as error:
        if isinstance(error, Unavailable):
            raise
        if len(keys) == 1:
            return 0, error.detail
    middle = len(keys) // 2
    first, one = await _purge_keys(store, resource, keys[:middle])
    second, other = await _purge_keys(store, resource, keys[middle:])
    return first + second, one or other
