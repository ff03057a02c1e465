"""The rows that a request is about: the viewset's scope, narrowed by the query string or by the key in the address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rowcast.errors import NotFound, ParseError, ValidationError
from rowcast.orm.bridge import spawn
from rowcast.orm.expressions import fitting
from rowcast.orm.queryset import QuerySet
from rowcast.query.conditions import Query, equals
from rowcast.query.explaining import is_native
from rowcast.resources.fields import Field
from rowcast.rest.declared_scope import EVERYTHING, CallerScope
from rowcast.rest.plan import ModelPlan
from rowcast.rest.protocols import ModelView


async def scope_of(view: ModelView) -> Query:
    """The viewset's scope as a query."""
    plan = view.view_plan
    if plan.unscoped_query is not None:
        return plan.unscoped_query
    if plan.scope_is_data:
        return rows_of_caller(plan, await caller_scope(view))
    return (await scoped_rows(view)).query


def rows_of_caller(plan: ModelPlan, scope: CallerScope) -> Query:
    """The viewset's scope for a caller, where it is all rows, or all that the option ``scope`` leaves."""
    return plan.unscoped_query or Query(plan.resource.name, plan.live + scope.conditions)


async def caller_scope(view: ModelView) -> CallerScope:
    """What the option ``scope`` means for the caller of this request; computed once."""
    declared = view.view_plan.declared_scope
    if view.caller_scope is None:
        view.caller_scope = EVERYTHING if declared is None else await declared.of(view.request, view)
    return view.caller_scope


async def scoped_rows(view: ModelView) -> QuerySet[Any]:
    """The query set that ``get_queryset`` returns, which may be a coroutine."""
    found: Any = await spawn(view.get_queryset)
    if not isinstance(found, QuerySet):
        raise TypeError(f"{type(view).__name__}.get_queryset() must return a query set, not {type(found).__name__}")
    rows: QuerySet[Any] = found
    rows.unsliced("a viewset's scope")
    if view.view_plan.deleted:
        rows = rows.showing(view.view_plan.deleted)
    if view.view_plan.declared_scope is None:
        return rows
    return within(rows, await caller_scope(view))


def within(rows: QuerySet[Any], declared: CallerScope) -> QuerySet[Any]:
    """The rows that also meet the conditions of the option ``scope``."""
    added = tuple(each for each in declared.conditions if each not in rows.query.where)
    return rows.narrowed(Query(rows.query.resource, added)) if added else rows


async def list_query(view: ModelView) -> Query:
    """The scope, filtered and sorted by the query string; the order is total."""
    plan = view.view_plan
    if plan.native_filters:
        query: Query = view.filter_queryset(await scope_of(view))
    else:
        query = (await spawn(view.filter_queryset, await scoped_rows(view))).query
    if plan.takes_natives:
        await _check_natives(view)
    return in_default_order(plan, query)


async def _check_natives(view: ModelView) -> None:
    """Raise ``ParseError`` for a filter that PostgreSQL does not take as a value of its field."""
    plan = view.view_plan
    for backend in plan.filters:
        for each in backend.native_values(view.request.query_params):
            if not await is_native(plan.service.store.database, each.field, *each.values):
                raise ParseError(f"{each.place}: not a valid {each.field.native_type}.", code="invalid_parameter")


def in_default_order(plan: ModelPlan, query: Query) -> Query:
    """A query in its own order, or in the viewset's if it has none."""
    return query if query.order else query.sort(tuple(plan.ordering))


def apply_filters(view: ModelView, rows: Any) -> Any:
    """A query, or a query set, with the filters that the query string asks for."""
    plan, params = view.view_plan, view.request.query_params
    query = rows if isinstance(rows, Query) else Query(plan.resource.name)
    for backend in plan.filters:
        if backend.native:
            query = backend.apply(query, params)
        elif isinstance(rows, QuerySet):
            rows = backend.filter_queryset(view.request, rows, view)
        else:
            raise TypeError(f"{type(backend).__name__} needs a query set")
    return query if isinstance(rows, Query) else rows.narrowed(query)


async def object_query(view: ModelView, key: object = None) -> Query:
    """The query for the row that the address, or ``key``, names within the scope; ``NotFound`` if it names none."""
    return row_query(view, view.view_plan.unscoped_query or await scope_of(view), key)


def row_query(view: ModelView, scope: Query, key: object = None) -> Query:
    """The query for the row of a scope that the address, or ``key``, names; ``NotFound`` if it names none."""
    return row_at(view.view_plan, scope, key_value(view, key))


def row_at(plan: ModelPlan, rows: Query, key: Any) -> Query:
    """The query for the row among others that addresses name by this key."""
    return rows.restrict(equals(plan.lookup_field or plan.resource.key.name, plan.key, key))


def key_value(view: ModelView, key: object = None) -> Any:
    """The value of the address's key, or of ``key``; ``NotFound`` if no row can have it.

    A key of several fields is a string as in addresses or a sequence of their values. An integer has one form in addresses: ``/tasks/01/`` is not another address of ``/tasks/1/``.
    """
    plan = view.view_plan
    if plan.key.parts and isinstance(key, list | tuple):
        return _fitting_key(plan.key, key)
    return parse_key(plan, str(view.kwargs[plan.lookup_url_kwarg] if key is None else key))


def parse_key(plan: ModelPlan, text: str) -> Any:
    """The value of a key as it is written in addresses; ``NotFound`` if no row can have it."""
    try:
        value = plan.key.field_type.parse(plan.key, text)
    except ValueError:
        raise NotFound() from None
    if type(value) is int and str(value) != text:
        raise NotFound()
    return value


def _fitting_key(key: Field, values: Sequence[object]) -> Any:
    try:
        return fitting(key, tuple(values))
    except ValidationError:
        raise NotFound() from None
