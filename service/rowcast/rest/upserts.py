"""``PUT /books/?on=isbn``: rows are inserted, or changed where a unique rule finds them; and PUT that creates a row.

The caller needs the rights of ``create`` and ``update``. A row that is there outside the caller's scope is a 409, as in a POST.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final

import orjson
from aiohttp import web

from rowcast.errors import (
    MAX_MESSAGES,
    ApiError,
    Conflict,
    NotFound,
    ParseError,
    PreconditionFailed,
    ValidationError,
    did_you_mean,
)
from rowcast.orm.awaiting import run_checked
from rowcast.orm.bridge import spawn
from rowcast.query import many
from rowcast.query.many import at_places
from rowcast.resources.rules import UniqueRule
from rowcast.resources.validators import REQUIRED
from rowcast.rest import etags
from rowcast.rest.actions import change_row, create_row, save_row, show_row
from rowcast.rest.conditional import required_versions
from rowcast.rest.many_rows import answer, check_count, check_serializer, naming, validated, write_in_scope
from rowcast.rest.nested import create, with_children
from rowcast.rest.nested_bodies import has_children
from rowcast.rest.plain_writing import location
from rowcast.rest.plan import ModelPlan
from rowcast.rest.preferences import AffectedRows
from rowcast.rest.protocols import ModelView, WritableView
from rowcast.rest.request import Request, base_url
from rowcast.rest.response import json_response
from rowcast.rest.row_keys import NOT_AN_OBJECT, key_fields, key_names
from rowcast.rest.scope import key_value, scope_of
from rowcast.rest.write_scope import check_keys_of_rows

EXISTING: Final = ("update", "keep")


async def upsert_rows(view: WritableView, request: Request) -> web.Response:
    """Insert the row of an object or the rows of an array, or change those that have the same values of ``?on=``."""
    required_versions(view)
    plan, affected = view.view_plan, AffectedRows(request.http)
    on, keep = _parameters(plan, request)
    await check_permission_of(view, "create", "POST")
    body = await request.read_json()
    items = body if isinstance(body, list) else [body]
    check_count(plan, len(items))
    affected.check(len(items))
    simple = plan.simple_writes and not plan.asks_about_objects and plan.answers_plainly()
    write = _upsert if simple or not items else _upsert_by_python
    try:
        if etags.ANY in (etags.refused_versions(request.http) or ()):
            async with plan.service.store.database.transaction():
                written = await write(view, request, items, on, keep=keep)
                if not all(row.created for row in written):
                    raise PreconditionFailed("If-None-Match: a row with these values is there.")
        else:
            written = await write(view, request, items, on, keep=keep)
    except ApiError as error:
        raise error if isinstance(body, list) else of_one(error) from None
    created = sum(row.created for row in written)
    updated = sum(not (row.created or row.kept) for row in written)
    headers = {"X-Created": str(created), "X-Updated": str(updated), **affected.headers}
    status = HTTPStatus.CREATED if created == len(items) else HTTPStatus.OK
    if isinstance(body, list):
        return answer([row.body for row in written], status, headers)
    (row,) = written
    if row.created:
        key: Any = row.key if plan.lookup_field is None else orjson.loads(row.body)[plan.key_column]
        headers |= location(plan, request.http, key)
    return json_response(row.body, status, headers)


async def put_row(view: WritableView, request: Request) -> web.Response:
    """Change the row that the address names to a whole body, or insert it if there is none (``put_creates``)."""
    try:
        return await _change(view, request)
    except NotFound:
        plan, http = view.view_plan, request.http
        value = key_value(view)  # NotFound for a key that no row can have
        if "If-Match" in http.headers:
            raise PreconditionFailed("If-Match: there is no row at this address.") from None
    await check_permission_of(view, "create", "POST")
    body = await request.read_json()
    if not isinstance(body, dict):
        raise ValidationError(NOT_AN_OBJECT)
    names = key_names(plan)
    key = dict(zip(names, value if plan.key.parts else (value,), strict=True))
    members = {name: each for name, each in body.items() if name not in names}
    try:
        with acting(view, "create"):
            insert = create if has_children(plan, members) else create_row
            response = await insert(view, request, members, key)
    except Conflict as error:
        if error.code != "unique":
            raise
        try:
            return await _change(view, request)  # another request has just inserted it
        except NotFound:
            raise error from None
    path = http.rel_url.raw_path.rstrip("/")
    response.headers["Location"] = f"{base_url(plan.service.settings.server, http)}{path}/"
    return response


async def _change(view: WritableView, request: Request) -> web.Response:
    written = await with_children(view, request)
    return await change_row(view, request, partial=False) if written is None else written


def of_one(error: ApiError) -> ApiError:
    """The error of a body that is one object: without the place of the row."""
    if error.errors and set(error.errors) == {"0"}:
        messages = error.errors["0"]
        nothing_more = messages == {"non_field_errors": [error.detail]} and not isinstance(error, ValidationError)
        error.errors = None if nothing_more else messages
    return error


def _parameters(plan: ModelPlan, request: Request) -> tuple[UniqueRule, bool]:
    """The rule of ``on``, and whether rows that are there stay as they are."""
    params = request.query_params
    valid = list(dict.fromkeys(",".join(rule.columns) for rule in plan.upserts))
    for name in params:
        if name not in ("on", "existing"):
            hint = did_you_mean(name, ("on", "existing"))
            raise ParseError(f"{name[:50]}: unknown parameter; {hint}", code="unknown_parameter")
    if "on" not in params:
        raise ParseError(f"on: name a unique rule; valid here: {' or '.join(valid)}", code="invalid_parameter")
    found = rule_named(plan, plan.upserts, params["on"])
    existing = params.get("existing", "update")
    if existing not in EXISTING:
        raise ParseError(f"existing: {did_you_mean(existing, EXISTING)}", code="invalid_parameter")
    return found, existing == "keep"


def rule_named(plan: ModelPlan, rules: Sequence[UniqueRule], text: str) -> UniqueRule:
    """The unique rule of ``rules`` that a parameter names; ``ParseError`` if there is none."""
    names = [name.strip() for name in text.split(",")]
    fields = plan.resource.fields
    columns = [fields[name].column_name if name in fields else name for name in names]
    found = next((rule for rule in rules if sorted(rule.columns) == sorted(columns)), None)
    if found is None:
        hint = (
            did_you_mean(text, [",".join(each.columns) for each in rules])
            if rules
            else "no rule of this viewset can be used"
        )
        raise ParseError(f"on: {text[:50]!r} is not a unique rule; {hint}", code="invalid_parameter")
    return found


async def check_permission_of(view: ModelView, action: str, method: str) -> None:
    """Raise what ``check_permissions`` raises for another action and its method."""
    request = view.request
    with acting(view, action):
        view.request = request.as_method(method)
        try:
            await run_checked(view.check_permissions(view.request))
        finally:
            view.request = request


@contextmanager
def acting(view: ModelView, action: str) -> Iterator[None]:
    """The viewset does another action meanwhile."""
    outer, view.action = view.action, action
    try:
        yield
    finally:
        view.action = outer


async def _upsert(
    view: WritableView, request: Request, items: Sequence[Any], on: UniqueRule, *, keep: bool
) -> list[many.ManyRow]:
    """Write rows in one statement."""
    plan = view.view_plan
    values = await validated(view, request, items)
    _check_rule(values, on)
    await check_keys_of_rows(view, values)
    scope = await scope_of(view)
    store, shown = plan.service.store, plan.default_projection(plan.serializer)
    return await write_in_scope(
        view, lambda within: many.upsert_many(store, scope.unsorted(), shown, on, values, within, keep=keep)
    )


def _check_rule(rows: Sequence[dict[str, Any]], rule: UniqueRule) -> None:
    """``ValidationError`` for a row without a value of the rule, or with those of another row of the request."""
    wrong: dict[int, ApiError] = {}
    places: dict[Any, int] = {}
    for place, row in enumerate(rows):
        errors = {name: [REQUIRED] for name in rule.columns if rule.lacks(row, name)}
        if not errors and (first := places.setdefault(rule.compared(row), place)) != place:
            errors = {name: [f"The same value as at {first}."] for name in rule.columns}
        if errors:
            wrong[place] = ValidationError(errors)
    if wrong:
        raise at_places(wrong)


async def _upsert_by_python(
    view: WritableView, request: Request, items: Sequence[Any], on: UniqueRule, *, keep: bool
) -> list[many.ManyRow]:
    """Write rows through the serializers, hooks and object permissions of the viewset."""
    plan = view.view_plan
    store = plan.service.store
    async with store.database.transaction():
        wrong: dict[int, ApiError] = {}
        values = []
        for place, item in enumerate(items):
            try:
                with acting(view, "create"):
                    serializer = view.get_serializer(data=item)
                    serializer.is_valid(raise_exception=True)
                values.append(dict(serializer.validated_data))
            except ValidationError as error:
                wrong[place] = error
                if len(wrong) == MAX_MESSAGES:
                    break
        if wrong:
            raise at_places(wrong)
        _check_rule(values, on)
        written = []
        for place, item in enumerate(items):
            try:
                written.append(await upsert_row(view, item, values[place], on, keep=keep))
            except ApiError as error:
                if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise
                raise at_places({place: error}) from error
        return written


async def upsert_row(
    view: WritableView, item: Any, values: dict[str, Any], on: UniqueRule, *, keep: bool
) -> many.ManyRow:
    """Write one row in the caller's transaction."""
    plan = view.view_plan
    store = plan.service.store

    async def existing() -> many.ManyRow | None:
        query = (await scope_of(view)).unsorted()
        found = await many.lock_by_rule(store, query, on, values, key_names(plan))
        if not found:
            return None
        key = tuple(field.field_type.parse(field, found[0][name]) for name, field in key_fields(plan))
        with naming(view, key):
            instance = await spawn(view.get_object)
            if keep:
                return many.ManyRow(await show_row(view, instance), found[0]["key"], kept=True)
            serializer = view.get_serializer(instance, data=item)
            await check_serializer(view, serializer)
            return many.ManyRow((await save_row(view, view.perform_update, serializer))[1], found[0]["key"])

    if (row := await existing()) is not None:
        return row
    try:
        async with store.database.transaction():
            with acting(view, "create"):
                serializer = view.get_serializer(data=item)
                await check_serializer(view, serializer)
                saved, body = await save_row(view, view.perform_create, serializer)
                return many.ManyRow(body, str(saved.pk), True)
    except Conflict as error:
        if error.code != "unique" or (row := await existing()) is None:
            raise
        return row
