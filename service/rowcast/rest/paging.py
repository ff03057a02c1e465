"""Pages inside a user's handler: ``paginate_queryset`` and ``get_paginated_response``."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import orjson

from rowcast.orm.model import RelatedRows
from rowcast.orm.queryset import QuerySet
from rowcast.query.conditions import Query
from rowcast.query.pages import BETWEEN, FetchedPage
from rowcast.query.projection import Projection
from rowcast.rest.expansion_budget import adds_lists, check_size
from rowcast.rest.pagination import PageRequest
from rowcast.rest.protocols import ModelView
from rowcast.rest.rendering import (
    current_serializer,
    instance_of,
    prepare_result,
    read_parameters,
    read_projection,
    requested_projection,
)
from rowcast.rest.request import url_of
from rowcast.rest.response import Response, encode
from rowcast.rest.response_cache import list_address, may_be_cached, read_page
from rowcast.rest.scope import in_default_order
from rowcast.rest.stream_position import position_header


class InstancePage(list[Any]):
    """The rows of a page. Awaiting it gives itself, so ``paginate_queryset`` works with and without ``await``."""

    def __await__(self) -> Generator[Any, Any, Self]:
        return self
        yield


@dataclass(frozen=True, slots=True)
class OpenPage:
    """A page that a handler has read and not yet answered with."""

    request: PageRequest
    query: Query
    fetched: FetchedPage


async def read_instances(view: ModelView, rows: Any) -> tuple[InstancePage, OpenPage]:
    """The page that the query string asks for, of a query set, of related rows, or of rows that are read already."""
    plan = view.view_plan
    if isinstance(rows, RelatedRows):
        rows = rows.all()
    elif not isinstance(rows, QuerySet) and hasattr(rows, "__await__"):
        return await read_instances(view, await rows)
    whole = isinstance(rows, QuerySet) and rows.is_whole and rows.model.resource().name == plan.resource.name
    if not (whole or isinstance(rows, Query)):
        return await _read_items(view, rows)
    query = in_default_order(plan, rows if isinstance(rows, Query) else rows.query)
    serializer = current_serializer(view)
    read = read_projection(plan, serializer, query, read_parameters(view))
    request = plan.paginator.page_request(query, read, plan.count, view.request.query_params)
    already = plan.default_projection(serializer)
    shown = requested_projection(plan, serializer, read_parameters(view))
    if adds_lists(plan, already, shown):
        await check_size(
            plan, plan.service.store, query, replace(request.shape, projection=shown), request.values, already
        )
    fetched = await read_page(
        plan, plan.service.store, query, request, view.request.query_params, kept=may_be_cached(view)
    )
    return InstancePage(instance_of(plan, each, read) for each in fetched.documents), OpenPage(request, query, fetched)


async def _read_items(view: ModelView, rows: Any) -> tuple[InstancePage, OpenPage]:
    """The page of a slice, of dictionaries, of rows of another model, or of any items."""
    plan = view.view_plan
    if isinstance(rows, QuerySet):
        total = await rows.count()
    elif isinstance(rows, Iterable) and not isinstance(rows, str | bytes | Mapping):
        rows = list(rows)
        total = len(rows)
    else:
        given = type(rows).__name__ if rows is not None else "None"
        raise TypeError(f"paginate_queryset() needs a query set or a list of rows, not {given}")
    query = Query(plan.resource.name)
    page = plan.paginator.page_request(query, Projection(query.resource, ()), plan.count, view.request.query_params)
    if page.shape.keyset:
        given = "" if isinstance(rows, QuerySet) else ", not a list"
        raise TypeError(f"{type(plan.paginator).__name__} needs a query set without slice and values(){given}")
    part = rows[page.offset : page.offset + page.limit + 1]
    items = await part if isinstance(rows, QuerySet) else part
    count = None if page.shape.count == "none" else total
    return InstancePage(items[: page.limit]), OpenPage(page, query, FetchedPage(b"", len(items), count, [], ""))


def envelope(view: ModelView, page: OpenPage, data: Sequence[Any]) -> Response:
    """The response of a page, with these data in place of its rows."""
    plan = view.view_plan
    prepare_result(view, data)
    shown = replace(page.fetched, results=BETWEEN.join(encode(item, view.serialize) for item in data))
    url = url_of(plan.service.settings.server, view.request.http)
    body = plan.paginator.body(page.request, page.query, shown, list_address(url, view.request.query_params))
    headers = position_header(plan, page.fetched.snapshot) if page.fetched.snapshot else {}
    return Response(orjson.Fragment(body), headers=headers)
