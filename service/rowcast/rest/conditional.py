"""Conditional requests: ``If-Match`` and ``If-None-Match``, and the ``ETag`` of responses (RFC 9110, 13).

A write of one row, by a standard action or by one of the user's, is conditional on the version of that row. Any other
unsafe request is conditional on what a GET of its address shows (``representation``), and reads are in
``response_cache.respond``.
"""

from __future__ import annotations

from typing import Any

from rowcast.errors import PreconditionFailed, PreconditionRequired
from rowcast.orm.bridge import spawn
from rowcast.orm.model import Model, query_for
from rowcast.query.conditions import Query, unchanged
from rowcast.query.projection import Projection
from rowcast.resources.actions import CHANGING_ACTIONS
from rowcast.rest import etags
from rowcast.rest.plain_writing import missing_or_changed, tag_header
from rowcast.rest.plan import ModelPlan
from rowcast.rest.protocols import ModelView
from rowcast.rest.rendering import current_serializer
from rowcast.rest.scope import object_query


def required_versions(view: ModelView) -> tuple[str, ...] | None:
    """The versions that ``If-Match`` accepts, ``None`` for any; ``PreconditionRequired`` if the viewset requires one."""
    required = view.view_plan.require_if_match and view.action in CHANGING_ACTIONS
    if required and "If-Match" not in view.request.http.headers:
        raise PreconditionRequired()
    return etags.expected_versions(view.request.http)


async def check_version(view: ModelView) -> None:
    """Lock the row for the rest of the transaction; ``PreconditionFailed`` if the request excludes its version.

    A caller whom an object permission refuses gets that error, whatever the version is.
    """
    plan = view.view_plan
    versions, refused = required_versions(view), etags.refused_versions(view.request.http)
    if versions is None and refused is None:
        return
    query = await object_query(view)
    locked = await plan.service.store.lock(unchanged(query, versions))
    if locked and not (refused and await _has_version(plan, query, refused)):
        return
    if plan.asks_about_objects:
        await spawn(view.get_object)
    if locked:
        raise PreconditionFailed("If-None-Match excludes the row as it is now.")
    raise await missing_or_changed(plan, query, versions)


async def _has_version(plan: ModelPlan, query: Query, versions: tuple[str, ...]) -> bool:
    found = await plan.service.store.one(query, Projection(plan.resource.name, ()))
    return found is not None and (etags.ANY in versions or found.version in versions)


async def version_of(plan: ModelPlan, row: Any) -> str | None:
    """The version of a row; ``None`` if it is not a row of this resource."""
    if not isinstance(row, Model) or row.resource().name != plan.resource.name:
        return None
    found = await plan.service.store.one(query_for(row), Projection(plan.resource.name, ()))
    return None if found is None else found.version


def etag_header(view: ModelView, version: str | None, body: bytes) -> dict[str, str]:
    """The ``ETag`` of what ``retrieve`` shows of a row by default; empty if the version is not known."""
    return {} if version is None else tag_header(view.view_plan, current_serializer(view), version, body)
