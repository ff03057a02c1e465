"""Steps of a write of one row about which the plan, the body and the database decide.

Both ways to such a row take them: ``actions`` with an instance of the viewset, and ``direct_writing`` without one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from functools import partial as with_arguments
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import orjson
from aiohttp import web

from rowcast.errors import ApiError, NotFound, PreconditionFailed
from rowcast.query.conditions import Query
from rowcast.query.projection import Projection
from rowcast.query.store import StoredRow
from rowcast.resources.lossless_json import encode
from rowcast.rest.etags import tag_of_row
from rowcast.rest.plan import ModelPlan
from rowcast.rest.request import Request, url_of
from rowcast.rest.response import json_response
from rowcast.rest.serializers import Serializer

_UNRESERVED: Final = re.compile(r"[A-Za-z0-9_.~-]*")  # what quote() leaves as it is


async def validated(
    plan: ModelPlan,
    request: Request,
    body: Any,
    fixed: Mapping[str, Any],
    *,
    partial: bool = False,
    updating: bool = False,
) -> dict[str, Any]:
    """The values of a body, and for a new row those that are ``fixed``, as ``Serializer.validate_body`` has them.

    A long body is validated in a thread, which takes turns with other requests; not if users' code takes part.
    """
    validate = with_arguments(plan.serializer.validate_body, body, partial=partial, updating=updating, fixed=fixed)
    in_thread = request.has_long_body and not any(type(plan.serializer)._hooks.values())  # noqa: SLF001, marshmallow has no other way
    return await asyncio.to_thread(validate) if in_thread else validate()


def created(plan: ModelPlan, http: web.Request, row: StoredRow, serializer: Serializer) -> web.Response:
    """The response with a new row; ``serializer`` is that of ``retrieve``."""
    headers = {
        **location(plan, http, key_of_new(plan, row)),
        **tag_header(plan, serializer, row.version, row.body),
    }
    return json_response(row.body, HTTPStatus.CREATED, headers)


def key_of_new(plan: ModelPlan, row: StoredRow) -> object:
    """The value by which addresses name a new row; ``None`` if its ``lookup_field`` is null."""
    return row.key if plan.lookup_field is None else orjson.loads(row.body)[plan.key_column]


def changed(plan: ModelPlan, row: StoredRow, serializer: Serializer) -> web.Response:
    """The response with a row that was changed; ``serializer`` is that of ``retrieve``."""
    return json_response(row.body, headers=tag_header(plan, serializer, row.version, row.body))


async def missing_or_changed(plan: ModelPlan, query: Query, versions: tuple[str, ...] | None) -> ApiError:
    """The error for a row that a write did not find: it has another version, or does not exist.

    If it is there in the right version, a policy of the table has refused the change, or a trigger has skipped it.
    """
    found = await plan.service.store.one(query, Projection(plan.resource.name, ()))
    if found is None:
        return NotFound()
    if versions is not None and found.version not in versions:
        return PreconditionFailed()
    return plan.service.store.refusal(plan.resource.name)


def tag_header(plan: ModelPlan, serializer: Serializer, version: str | None, body: bytes) -> dict[str, str]:
    """The ``ETag`` of a row as this serializer shows it by default; empty if the version is not known."""
    if version is None:
        return {}
    shown = plan.default_projection(serializer)
    return {"ETag": tag_of_row(version, shown, None if serializer.plain and not shown.related else body)}


def location(plan: ModelPlan, http: web.Request, key: object) -> dict[str, str]:
    """The ``Location`` of a new row, below the list that it was created in; empty if its ``lookup_field`` is null."""
    return location_below(plan, url_of(plan.service.settings.server, http), key)


def location_below(plan: ModelPlan, address: str, key: object) -> dict[str, str]:
    """The ``Location`` of a new row below the address of a list."""
    if key is None:
        return {}
    field = plan.key
    if field.parts:
        part = field.field_type.dump(field, field.field_type.load(field, key))
    else:
        part = key if isinstance(key, str) else encode(key).decode()
        part = part if _UNRESERVED.fullmatch(part) else quote(part, safe="")
    return {"Location": f"{address.rstrip('/')}/{part}/"}
