"""Many rows in one request: arrays in ``POST`` and ``PATCH``, ``DELETE ?id__in=1,2``, and changes by filter.

A request is one transaction: all rows are written, or none. Each row goes through what a request for it alone goes through: the
scope, the permissions about single rows, the serializer and the hooks. Errors have the place of the row in the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial as with_arguments
from http import HTTPStatus
from typing import Any, Final, TypeVar

from aiohttp import web

from rowcast.errors import (
    MAX_MESSAGES,
    ApiError,
    NotFound,
    ParseError,
    PayloadTooLarge,
    TooManyRows,
    ValidationError,
    parameter_hint,
)
from rowcast.orm.bridge import spawn
from rowcast.orm.model import query_for
from rowcast.query import many, removal
from rowcast.query.conditions import Comparison, Condition, Junction, Negation, Query, equals
from rowcast.query.many import Key, ManyRow, at_places
from rowcast.query.projection import Projection
from rowcast.resources.lookups import LOOKUPS
from rowcast.resources.lossless_json import encode
from rowcast.rest.actions import destroy_instance, save_row
from rowcast.rest.conditional import required_versions
from rowcast.rest.etags import is_conditional
from rowcast.rest.filter_groups import FilterParameter
from rowcast.rest.plan import ModelPlan
from rowcast.rest.preferences import AffectedRows
from rowcast.rest.protocols import ModelView, WritableView
from rowcast.rest.request import Request
from rowcast.rest.response import json_response
from rowcast.rest.row_keys import key_fields, key_names, key_parameter, key_path, read_keys
from rowcast.rest.scope import caller_scope, list_query, scope_of
from rowcast.rest.serializers import NO_VALUES, Serializer
from rowcast.rest.write_scope import check_keys, check_keys_of_rows

Result = TypeVar("Result")


def at_list(view: ModelView) -> bool:
    """Whether a changing action runs at the address of a list, where it is about many rows."""
    return view.detail is False and view.view_plan.lookup_url_kwarg not in view.kwargs and view.action in _AT_LIST


_AT_LIST = ("update", "partial_update", "destroy")

# --- arrays


async def create_rows(view: WritableView, request: Request, body: list[Any]) -> web.Response:
    """Insert the rows of an array; the response has them in its order."""
    plan, affected = view.view_plan, AffectedRows(request.http)
    check_count(plan, len(body))
    affected.check(len(body))
    if body and not (plan.simple_writes and plan.answers_plainly()):
        bodies = await _create_by_python(view, body)
    else:
        values = await validated(view, request, body)
        await check_keys_of_rows(view, values)
        store, shown = plan.service.store, plan.default_projection(plan.serializer)
        rows = await write_in_scope(view, lambda within: many.insert_many(store, shown, values, within))
        bodies = [row.body for row in rows]
    return answer(bodies, HTTPStatus.CREATED, affected.headers)


async def _create_by_python(view: WritableView, body: Sequence[Any]) -> list[bytes]:
    """Insert rows through the serializer and the hook of the viewset."""
    async with view.view_plan.service.store.database.transaction():
        serializers = [view.get_serializer(data=item) for item in body]
        await check_serializers(view, serializers)
        return [await saved(view, view.perform_create, each, place) for place, each in enumerate(serializers)]


async def change_rows(view: WritableView, request: Request) -> web.Response:
    """Change the rows that the objects of an array name by their keys, or by filter those that match."""
    required_versions(view)
    body = await request.read_json()
    plan, affected = view.view_plan, AffectedRows(request.http)
    if isinstance(body, list):
        if request.query_params:
            name = next(iter(request.query_params))
            raise ParseError(f"{name[:50]}: an array has the keys of its rows.", code="unknown_parameter")
        check_count(plan, len(body))
        affected.check(len(body))
        names = key_names(plan)
        keys = read_keys(plan, names, body)
        items = [{name: value for name, value in item.items() if name not in names} for item in body]
        return answer(await _change(view, request, keys, items), HTTPStatus.OK, affected.headers)
    if not isinstance(body, dict):
        raise ValidationError("The body must be an array of objects with keys, or an object to change rows by filter.")
    query = await _filtered(view, request, "update", ())
    async with plan.service.store.database.transaction():
        keys = await _locked_keys(plan, query, affected)
        bodies = await _change(view, request, keys, [body] * len(keys) or [body])
    return answer(bodies, HTTPStatus.OK, {"X-Updated": str(len(bodies)), **affected.headers})


async def _change(view: WritableView, request: Request, keys: Sequence[Key], items: Sequence[Any]) -> list[bytes]:
    """Change rows by key; without keys the items are only validated."""
    plan = view.view_plan
    store, names = plan.service.store, key_names(plan)
    simple = plan.simple_writes and not plan.asks_about_objects and plan.answers_plainly()

    async def change() -> list[bytes]:
        if not simple:
            return await _change_by_python(view, keys, items)
        values = await validated(view, request, items, partial=True, updating=True)
        scope = await scope_of(view)
        await check_keys_of_rows(view, values, [row_of(plan, scope, key) for key in keys] or None)
        shown = plan.default_projection(plan.serializer)
        values = values[: len(keys)]
        try:
            rows = await write_in_scope(
                view, lambda within: many.update_many(store, scope, shown, names, keys, values, within)
            )
        except NotFound as error:
            raise await missing(view, keys, map(int, error.errors or ())) from None
        return [row.body for row in rows]

    return await as_they_are(view, keys, change)


async def _change_by_python(view: WritableView, keys: Sequence[Key], items: Sequence[Any]) -> list[bytes]:
    """Change rows through ``get_object``, the serializer and the hook of the viewset."""
    async with view.view_plan.service.store.database.transaction():
        instances = await instances_of(view, keys)
        pairs = zip(instances, items, strict=False)
        serializers = [view.get_serializer(instance, data=item, partial=True) for instance, item in pairs]
        await check_serializers(view, serializers)
        bodies = []
        for place, serializer in enumerate(serializers):
            with naming(view, keys[place]):
                bodies.append(await saved(view, view.perform_update, serializer, place))
        return bodies


# --- DELETE


async def delete_rows(view: WritableView, request: Request) -> web.Response:
    """Delete the rows that ``?id__in=`` names, or those that match a filter. ``X-Deleted`` is their number."""
    required_versions(view)
    plan, affected = view.view_plan, AffectedRows(request.http)
    store = plan.service.store
    named, name = _named_keys(plan, request), key_parameter(plan)
    query = await _filtered(view, request, "destroy", () if named is None else (name,))
    if named is not None:
        query = query.restrict(*named)
    simple = not (plan.overrides("perform_destroy") or plan.asks_about_objects)

    async def delete() -> int:
        async with store.database.transaction():
            if simple and named is not None and not is_conditional(request.http):
                count = await removal.remove_all(store, query, hard=plan.purges)
            else:
                keys = await _locked_keys(plan, query, affected)
                count = len(keys)
                await as_they_are(view, keys, with_arguments(delete_locked, view, keys, simple=simple))
            affected.check(count)
        return count

    count = await (store.database.retrying(delete) if simple else delete())
    return web.Response(status=HTTPStatus.NO_CONTENT, headers={"X-Deleted": str(count), **affected.headers})


async def delete_locked(view: WritableView, keys: Sequence[Key], *, simple: bool) -> None:
    """Delete rows that are locked: at once, or each through ``get_object`` and the hook of the viewset."""
    plan = view.view_plan
    if simple and keys:
        await removal.remove_all(plan.service.store, rows_of(plan, Query(plan.resource.name), keys), hard=plan.purges)
    elif keys:
        for key, instance in zip(keys, await instances_of(view, keys), strict=True):
            with naming(view, key):
                await destroy_instance(view, instance)


def _named_keys(plan: ModelPlan, request: Request) -> tuple[Condition, ...] | None:
    """The condition of ``?id__in=``; ``None`` without it."""
    name = key_parameter(plan)
    text = request.query_params.get(name)
    if text is None:
        return None
    parameter = FilterParameter(key_path(plan), LOOKUPS[plan.key.field_type.kind, "in"], plan.key)
    try:
        condition = parameter.of_text(text)
    except ValueError as error:
        raise ParseError(f"{name}: {error}", code="invalid_parameter") from None
    if isinstance(condition, Comparison):
        check_count(plan, len(condition.argument))
    return (condition,)


# --- by filter


async def _filtered(view: ModelView, request: Request, opened: str, named: Sequence[str]) -> Query:
    """The rows of the scope that the filters of the query string match.

    ``named`` are parameters that name rows. ``ParseError`` for a filter that ``bulk`` does not open, or if there is none.
    """
    plan, params = view.view_plan, request.query_params
    by_filter = opened in plan.bulk
    naming_keys = (key_parameter(plan),) if opened == "destroy" else ()
    deleting = plan.allowed_parameters.get("destroy", frozenset()) if opened == "destroy" else frozenset()
    valid = [*naming_keys, *deleting, *(sorted(plan.filter_parameters - {*naming_keys}) if by_filter else ())]
    for name in params:
        if name not in valid and (plan.strict_query or name in plan.filter_parameters):
            raise ParseError(f"{name[:50]}: unknown parameter; {parameter_hint(name, valid)}", code="unknown_parameter")
    scope = await scope_of(view)
    if not by_filter:
        if not named:
            how = (
                "an array of objects with keys" if opened == "update" else f"the keys of rows in {key_parameter(plan)}"
            )
            raise ParseError(f"Send {how}: changes by filter are not open here.", code="invalid_parameter")
        return scope.unsorted()
    query = (await list_query(view)).unsorted()
    added = [each for each in query.where if each not in scope.where]
    if not named and (not params or all(map(_is_everything, added))):
        raise ParseError("A filter is required here: without one, all rows would be changed.", code="invalid_parameter")
    return query


_PARTS: Final = frozenset(
    ("contains", "icontains", "startswith", "istartswith", "endswith", "iendswith", "regex", "iregex")
)  # of texts and arrays: an empty one is in all of them


def _is_everything(condition: Condition) -> bool:
    """Whether a condition holds for every row that has a value, whatever that is."""
    match condition:
        case Comparison(_, lookup, "" | (), _) if lookup in _PARTS:
            return True
        case Junction("and", parts):
            return all(map(_is_everything, parts))
        case Junction(_, parts):
            return any(map(_is_everything, parts))
        case Comparison(_, "not_in", (), _) | Negation(Comparison(_, "in", (), _)):
            return True
        case Negation(Negation(part)):
            return _is_everything(part)
        case Negation(Junction("or", parts)):
            return not parts
    return False


async def _locked_keys(plan: ModelPlan, query: Query, affected: AffectedRows) -> list[Key]:
    """The keys of the rows of a query, which are locked; ``TooManyRows`` if there are more than may be changed."""
    most = plan.max_bulk if affected.most is None else min(plan.max_bulk, affected.most)
    names = key_names(plan)
    records = await many.lock_keys(plan.service.store, query, most + 1, names)
    affected.check(len(records))
    if len(records) > plan.max_bulk:
        raise TooManyRows(f"More than {plan.max_bulk} rows match, which is the greatest number for one request.")
    fields = key_fields(plan)
    return [tuple(field.field_type.parse(field, row[field_name]) for field_name, field in fields) for row in records]


# --- what these have in common


def check_count(plan: ModelPlan, count: int) -> None:
    """Raise ``PayloadTooLarge`` for more rows than one request may have."""
    if count > plan.max_bulk:
        raise PayloadTooLarge(f"At most {plan.max_bulk} rows in one request; send {count} in several.")


async def validated(
    view: ModelView, request: Request, body: Sequence[Any], *, partial: bool = False, updating: bool = False
) -> list[dict[str, Any]]:
    """The values of the objects of an array; a long one is validated in a thread, unless users' code takes part."""
    plan = view.view_plan
    serializer = plan.serializer
    fixed = NO_VALUES if plan.declared_scope is None else (await caller_scope(view)).fixed

    def validate() -> list[dict[str, Any]]:
        values: list[dict[str, Any]] = []
        wrong: dict[int, ApiError] = {}
        for place, item in enumerate(body):
            try:
                values.append(serializer.validate_body(item, partial=partial, updating=updating, fixed=fixed))
            except ValidationError as error:
                wrong[place] = error
                if len(wrong) == MAX_MESSAGES:
                    break
        if wrong:
            raise at_places(wrong)
        return values

    in_thread = request.has_long_body and not any(type(serializer)._hooks.values())  # noqa: SLF001, marshmallow has no other way
    return await asyncio.to_thread(validate) if in_thread else validate()


async def write_in_scope(view: ModelView, write: Callable[[Query | None], Awaitable[list[ManyRow]]]) -> list[ManyRow]:
    """Write rows, and take them back with ``OutsideScope`` if the viewset's scope does not contain each afterwards."""
    plan = view.view_plan
    store = plan.service.store
    if plan.unscoped_query is not None:
        return await write(None)
    if plan.scope_is_data:
        within = await scope_of(view)
        return await write(within if within.where else None)

    async def write_and_check() -> list[ManyRow]:
        async with store.database.transaction():
            rows = await write(None)
            await many.require_all(store, await scope_of(view), {place: row.key for place, row in enumerate(rows)})
            return rows

    return await store.database.retrying(write_and_check)


async def as_they_are(view: ModelView, keys: Sequence[Key], work: Callable[[], Awaitable[Result]]) -> Result:
    """Do work in which rows are written; if the request has a precondition, they are locked before it is checked again."""
    plan = view.view_plan
    if not is_conditional(view.request.http):
        return await work()
    async with plan.service.store.database.transaction():
        if keys:
            await plan.service.store.lock_places(rows_of(plan, await scope_of(view), keys))
        await view.check_representation()
        return await work()


def row_of(plan: ModelPlan, scope: Query, key: Key) -> Query:
    """The row of a scope with a key."""
    return scope.restrict(equals(key_path(plan), plan.key, key if plan.key.parts else key[0]))


def rows_of(plan: ModelPlan, scope: Query, keys: Sequence[Key]) -> Query:
    """The rows of a scope with these keys."""
    values = tuple(key if plan.key.parts else key[0] for key in keys)
    return scope.restrict(Comparison(key_path(plan), "in", values, plan.key.field_type.kind))


async def missing(view: ModelView, keys: Sequence[Key], places: Iterable[int]) -> ApiError:
    """The error for rows that a write has not found: they are not there, or the database has refused to change them."""
    plan = view.view_plan
    scope = await scope_of(view)
    wrong: dict[int, ApiError] = {}
    for place in places:
        if len(wrong) < MAX_MESSAGES:
            there = await plan.service.store.one(row_of(plan, scope, keys[place]), Projection(plan.resource.name, ()))
            if there is not None:
                return at_places({place: plan.service.store.refusal(plan.resource.name)})
        wrong[place] = _not_found(plan)
    return at_places(wrong)


def _not_found(plan: ModelPlan) -> NotFound:
    return NotFound(errors={name: ["Not found."] for name in key_names(plan)})


async def instances_of(view: ModelView, keys: Sequence[Key]) -> list[Any]:
    """The rows with these keys, as ``get_object`` of the viewset finds each; ``NotFound`` with the places of the others."""
    found: list[Any] = []
    wrong: dict[int, ApiError] = {}
    for place, key in enumerate(keys):
        try:
            with naming(view, key):
                found.append(await spawn(view.get_object))
        except NotFound:
            wrong[place] = _not_found(view.view_plan)
        except ApiError as error:
            raise at_places({place: error}) from error
    if wrong:
        raise at_places(wrong)
    return found


class naming:
    """``with naming(view, key):`` the viewset's ``kwargs`` have the key, as at the address of its row."""

    def __init__(self, view: ModelView, key: Key) -> None:
        self._view, self._outer = view, view.kwargs
        plan = view.view_plan
        dumped = plan.key.field_type.dump(plan.key, key if plan.key.parts else key[0])
        text = dumped if isinstance(dumped, str) else encode(dumped).decode()
        self._inner = {**view.kwargs, plan.lookup_url_kwarg: text}

    def __enter__(self) -> None:
        self._view.kwargs = self._inner

    def __exit__(self, *_: object) -> None:
        self._view.kwargs = self._outer


async def check_serializers(view: ModelView, serializers: Sequence[Serializer]) -> None:
    """Validate the bodies of serializers; ``ValidationError`` with the places of those that are not valid."""
    wrong: dict[int, ApiError] = {}
    for place, serializer in enumerate(serializers):
        try:
            await check_serializer(view, serializer)
        except ValidationError as error:
            wrong[place] = error
            if len(wrong) == MAX_MESSAGES:
                break
    if wrong:
        raise at_places(wrong)


async def check_serializer(view: ModelView, serializer: Serializer) -> None:
    """Validate the body of a serializer, and the keys in it; ``ValidationError`` if it is not valid."""
    serializer.guard = None  # the same is checked here, whatever the hook saves
    serializer.is_valid(raise_exception=True)
    current = None if serializer.instance is None else query_for(serializer.instance)
    await check_keys(view, serializer.validated_data, current)


async def saved(view: ModelView, hook: Callable[[Serializer], Any], serializer: Serializer, place: int) -> bytes:
    """Save a valid body through a hook; an error has the place of the row."""
    try:
        return (await save_row(view, hook, serializer))[1]
    except ApiError as error:
        if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise
        raise at_places({place: error}) from error


def answer(bodies: Sequence[bytes], status: HTTPStatus, headers: Mapping[str, str]) -> web.Response:
    """The JSON array of rows."""
    return json_response(b"[" + b",".join(bodies) + b"]", status, dict(headers))
