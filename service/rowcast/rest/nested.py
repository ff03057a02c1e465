"""Rows with their children in one body (the option ``nested``), written in one transaction.

Children go through their own viewset, as if they had come alone: its permissions, throttles, scope, serializer, object
permissions and hooks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web

from rowcast.errors import ParseError
from rowcast.orm.bridge import spawn
from rowcast.rest.actions import headers_of_row
from rowcast.rest.conditional import check_version, required_versions
from rowcast.rest.many_rows import (
    answer,
    as_they_are,
    at_list,
    check_count,
    instances_of,
    naming,
)
from rowcast.rest.nested_bodies import has_children, parent_row
from rowcast.rest.nested_writing import NestedWriting, instance_of_row
from rowcast.rest.plan import ModelPlan
from rowcast.rest.protocols import WritableView
from rowcast.rest.request import Request
from rowcast.rest.response import json_response
from rowcast.rest.row_keys import key_names, read_keys
from rowcast.rest.serializers import NO_VALUES


async def with_children(view: WritableView, request: Request) -> web.Response | None:
    """The answer to a request whose body has children; ``None`` if it has none, and the usual way is enough.

    Raises:
        ParseError: the action does not take children: by filter, or ``PUT ?on=``.
    """
    plan = view.view_plan
    if not (plan.nested_names and request.has_body):
        return None
    body = await request.read_json()
    if not has_children(plan, body):
        return None
    if view.action == "create":
        return await create(view, request, body)
    if not at_list(view):
        return await change(view, request, body, partial=view.action == "partial_update")
    if view.action == "update" or not isinstance(body, list):
        how = "PUT ?on=" if view.action == "update" else "a change by filter"
        name = next(name for item in (body if isinstance(body, list) else [body]) for name in _names_in(plan, item))
        raise ParseError(f"{name}: {how} takes no rows inside others.", code="invalid_parameter")
    return await change_many(view, request, body)


def _names_in(plan: ModelPlan, item: Any) -> Iterator[str]:
    if isinstance(item, dict):
        yield from (name for name in item if name in plan.nested_names)


async def create(
    view: WritableView, request: Request, body: Any, addressed: Mapping[str, Any] = NO_VALUES
) -> web.Response:
    """Insert a row, or the rows of an array, with their children.

    ``addressed`` has the values of columns that the address fixes.
    """
    plan = view.view_plan
    single = not isinstance(body, list)
    rows = [
        parent_row(plan, () if single else (str(place),), item) for place, item in enumerate([body] if single else body)
    ]
    check_count(plan, len(rows))
    async with plan.service.store.database.transaction():
        writing = NestedWriting(view)
        for row in rows:
            row.serializer = view.get_serializer(data=row.body)
            row.serializer.fixed = {**row.serializer.fixed, **addressed}
        families = await writing.check_parents(rows)
        for row in rows:
            await writing.save_parent(row, view.perform_create)
        await writing.write(families)
        bodies = [await writing.show_parent(row, families) for row in rows]
        if single:
            headers = await headers_of_row(view, instance_of_row(rows[0]), bodies[0][0], created=True)
            return json_response(bodies[0][1], HTTPStatus.CREATED, {**headers, **writing.affected.headers})
    return answer([shown for _, shown in bodies], HTTPStatus.CREATED, writing.affected.headers)


async def change(view: WritableView, request: Request, body: Any, *, partial: bool) -> web.Response:
    """Change the row that the address names, and its children."""
    plan = view.view_plan
    async with plan.service.store.database.transaction():
        await check_version(view)
        row = parent_row(plan, (), body)
        writing = NestedWriting(view)
        row.serializer = view.get_serializer(await spawn(view.get_object), data=row.body, partial=partial)
        versions = await writing.lock_parents([row])
        families = await writing.check_parents([row])
        await writing.save_parent(row, view.perform_update)
        await writing.write(families)
        await writing.touch([row], versions)
        default, shown = await writing.show_parent(row, families)
        headers = await headers_of_row(view, instance_of_row(row), default, created=False)
    return json_response(shown, HTTPStatus.OK, {**headers, **writing.affected.headers})


async def change_many(view: WritableView, request: Request, body: list[Any]) -> web.Response:
    """Change the rows that the objects of an array name by their keys, and their children."""
    plan = view.view_plan
    required_versions(view)
    if request.query_params:
        name = next(iter(request.query_params))
        raise ParseError(f"{name[:50]}: an array has the keys of its rows.", code="unknown_parameter")
    check_count(plan, len(body))
    names = key_names(plan)
    keys = read_keys(plan, names, body)
    rows = [parent_row(plan, (str(place),), item) for place, item in enumerate(body)]
    writing = NestedWriting(view)

    async def work() -> list[bytes]:
        async with plan.service.store.database.transaction():
            instances = await instances_of(view, keys)
            for row, key, instance in zip(rows, keys, instances, strict=True):
                row.name = key
                values = {name: value for name, value in row.body.items() if name not in names}
                row.serializer = view.get_serializer(instance, data=values, partial=True)
            versions = await writing.lock_parents(rows)
            families = await writing.check_parents(rows)
            for row in rows:
                with naming(view, row.name):
                    await writing.save_parent(row, view.perform_update)
            await writing.write(families)
            await writing.touch(rows, versions)
            return [(await writing.show_parent(row, families))[1] for row in rows]

    return answer(await as_they_are(view, keys, work), HTTPStatus.OK, writing.affected.headers)
