"""What a caller may write: rows inside the viewset's scope, with keys of rows that the caller could see.

Both are checked only where a viewset has a scope or checks single rows: in the statement of the write, or in its
transaction. They hold for what serializers of the viewset save. What the author's Python writes otherwise is the author's
decision.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from rowcast.database.errors import NO_ROW
from rowcast.errors import NotAuthenticated, NotFound, OutsideScope, PermissionDenied, ValidationError
from rowcast.orm.awaiting import run_checked
from rowcast.orm.model import Model, query_for
from rowcast.query.conditions import Query, by_key, equals
from rowcast.query.explaining import with_missing_rows
from rowcast.query.many import at_places
from rowcast.query.projection import Projection
from rowcast.query.store import StoredRow
from rowcast.rest.plan import ModelPlan, RestrictedKey, new_view
from rowcast.rest.protocols import ModelView
from rowcast.rest.scope import scope_of, scoped_rows
from rowcast.rest.serializers import Serializer

Written = TypeVar("Written", StoredRow, StoredRow | None)


async def write_in_scope(view: ModelView, write: Callable[[Query | None], Awaitable[Written]]) -> Written:
    """Write a row, and take it back with ``OutsideScope`` if the viewset's scope does not contain it afterwards.

    ``write`` gets a query that must contain the row, where the scope is data: the statement that writes checks that itself.
    """
    plan = view.view_plan
    if plan.scope_is_data:
        within = await scope_of(view)
        return await write(within if within.where else None)

    async def write_and_check() -> Written:
        async with plan.service.store.database.transaction():
            row = await write(None)
            if row is not None:
                key = plan.service.resources.key_of(plan.resource.key)
                await check_scope(view, key.field_type.parse(key, row.key))
            return row

    return await plan.service.store.database.retrying(write_and_check)


async def save_in_scope(
    view: ModelView,
    serializer: Serializer,
    extra: Mapping[str, Any],
    save: Callable[[Mapping[str, Any]], Awaitable[Any]],
) -> Any:
    """Save what a handler has validated with a serializer of its viewset; ``extra`` are the handler's own values."""
    plan = view.view_plan
    if serializer.resource is not plan.resource:
        return await save(extra)
    instance = serializer.instance if isinstance(serializer.instance, Model) else None
    current = None if instance is None else query_for(instance)
    for item in serializer.validated_data if serializer.many else [serializer.validated_data]:
        await check_keys(view, {name: value for name, value in item.items() if name not in extra}, current)
    if plan.unscoped_query is not None:
        return await save(extra)
    async with plan.service.store.database.transaction():
        saved = await save(extra)
        for row in saved if isinstance(saved, list) else [saved]:
            if isinstance(row, Model) and row.resource() is plan.resource:
                await check_scope(view, row.pk)
    return saved


async def check_scope(view: ModelView, key: object) -> None:
    """Raise ``OutsideScope`` unless the row with this key is in the viewset's scope."""
    plan = view.view_plan
    if plan.unscoped_query is None:
        query = (await scope_of(view)).restrict(by_key(plan.service.resources, plan.resource.name, key))
        if not await _exists(plan, query):
            raise OutsideScope()


async def check_keys(view: ModelView, values: Mapping[str, Any], current: Query | None = None) -> None:
    """Raise ``ValidationError`` if a body names rows that their own viewsets would not show this caller.

    ``current`` is the query of the row that is changed. Keys that it has already may stay, so that an object that was read
    can be sent back.
    """
    errors: dict[str, list[str]] = {}
    for key in view.view_plan.restricted_keys():
        value = values.get(key.name)
        if value is None:
            continue
        wanted = set(value) if key.many else {value}
        hidden = wanted - await _visible(view, key.target, wanted)
        if current is not None:
            hidden = {each for each in hidden if not await _has_key(view.view_plan, current, key, each)}
        if hidden:
            errors[key.name] = [NO_ROW]
    if errors:
        raise await _with_missing_rows(view, errors, values)


async def check_keys_of_rows(
    view: ModelView, rows: Sequence[Mapping[str, Any]], current: Sequence[Query] | None = None
) -> None:
    """``check_keys`` for many rows, with the place of each in the messages; ``current`` has the query of each."""
    errors: dict[str, dict[str, list[str]]] = {}
    for key in view.view_plan.restricted_keys():
        wanted = [
            set() if (value := values.get(key.name)) is None else set(value) if key.many else {value} for values in rows
        ]
        visible = await _visible(view, key.target, set().union(*wanted))
        for place, keys in enumerate(wanted):
            hidden = keys - visible
            if current is not None:
                hidden = {each for each in hidden if not await _has_key(view.view_plan, current[place], key, each)}
            if hidden:
                errors.setdefault(str(place), {})[key.name] = [NO_ROW]
    if errors:
        wrong = {int(place): await _with_missing_rows(view, each, rows[int(place)]) for place, each in errors.items()}
        raise at_places(wrong)


async def _with_missing_rows(
    view: ModelView, errors: Mapping[str, list[str]], values: Mapping[str, Any]
) -> ValidationError:
    """The error for a row with these messages, and with one on each other key of a row that does not exist."""
    plan, store = view.view_plan, view.view_plan.service.store
    error = ValidationError(dict(errors), code="does_not_exist")
    return await with_missing_rows(store.queries, store.database, error, plan.resource, values)


async def _visible(view: ModelView, target: ModelPlan, keys: Collection[Any]) -> set[Any]:
    """The keys of the rows that another viewset's scope and object permissions show this caller."""
    if not keys:
        return set()
    other: ModelView = new_view(target, action="retrieve", detail=True, request=view.request.as_get())
    rows = await (await scoped_rows(other)).filter(pk__in=list(keys))
    if not target.asks_about_objects:
        return {row.pk for row in rows}
    return {row.pk for row in rows if await may_see(other, row)}


async def may_see(view: ModelView, row: Any) -> bool:
    """Whether the object permissions of a viewset show a row to its caller."""
    try:
        await run_checked(view.check_object_permissions(view.request, row))
    except (PermissionDenied, NotAuthenticated, NotFound):
        return False
    return True


async def _has_key(plan: ModelPlan, query: Query, key: RestrictedKey, value: object) -> bool:
    return await _exists(plan, query.restrict(equals(key.path, key.values, value)))


async def _exists(plan: ModelPlan, query: Query) -> bool:
    return await plan.service.store.one(query, Projection(plan.resource.name, ())) is not None
