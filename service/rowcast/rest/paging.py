"""Pages inside a user's handler: ``paginate_queryset`` and ``get_paginated_response``."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import orjson

from rowcast.query.conditions import Query
from rowcast.query.pages import BETWEEN, FetchedPage
from rowcast.rest.pagination import ListAddress, PageRequest
from rowcast.rest.protocols import ModelView
from rowcast.rest.rendering import current_serializer, instance_of, read_parameters, read_projection
from rowcast.rest.request import base_url
from rowcast.rest.response import Response, encode
from rowcast.rest.response_cache import read_page
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
    """The page of a query set that the query string asks for."""
    plan = view.view_plan
    query = in_default_order(plan, rows if isinstance(rows, Query) else rows.query)
    read = read_projection(plan, current_serializer(view), query, read_parameters(view))
    request = plan.paginator.page_request(query, read, plan.count, view.request.query_params)
    fetched = await read_page(view, query, request)
    return InstancePage(instance_of(plan, each, read) for each in fetched.documents), OpenPage(request, query, fetched)


def envelope(view: ModelView, page: OpenPage, data: Sequence[Any]) -> Response:
    """The response of a page, with these data in place of its rows."""
    plan = view.view_plan
    shown = replace(page.fetched, results=BETWEEN.join(encode(item, view.serialize) for item in data))
    body = plan.paginator.body(page.request, page.query, shown, list_address(view))
    return Response(orjson.Fragment(body), headers=position_header(plan, page.fetched.snapshot))


def list_address(view: ModelView) -> ListAddress:
    """The absolute address of this list, for the links to its other pages."""
    http = view.request.http
    params = tuple(each for each in view.request.query_params.items() if each[0] != "access_token")
    return ListAddress(base_url(view.view_plan.service.settings.server, http) + http.rel_url.raw_path, params)
