"""Lists and rows by the shortest way: from the address to the statement, without an instance of the viewset.

It is open where a request leaves nothing to decide: anybody may read, no Python of the user's takes part, and the request
has no credentials. Every other request goes through ``ViewSet.dispatch``, with the same answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from aiohttp import web

from rowcast.errors import NotFound
from rowcast.query.conditions import equals
from rowcast.resources.full_text import HIGHLIGHT
from rowcast.rest.etags import tag_of_list, tag_of_row
from rowcast.rest.plan import ModelPlan
from rowcast.rest.rendering import requested_projection
from rowcast.rest.request import query_parameters
from rowcast.rest.response_cache import (
    Answer,
    address_key,
    is_plain,
    list_address,
    list_dependencies,
    read_page,
    respond_from,
    row_dependencies,
)
from rowcast.rest.scope import in_default_order, parse_key

Reader: TypeAlias = Callable[[web.Request], Awaitable[web.Response | None]]
_DECIDED: Final = frozenset({"expand", "deleted", HIGHLIGHT})  # the parameters about which somebody decides


def direct_reader(plan: ModelPlan, action: str | None) -> Reader | None:
    """The function that answers such requests for an action; ``None`` if the viewset leaves something to decide.

    It returns ``None`` where the parameters of a request leave something to decide.
    """
    decides = plan.attribute("response_serializer") is not None or plan.attribute("list_serializer_class") is not None
    if not plan.is_public or plan.takes_natives or not plan.serializer.plain or decides or not plan.answers_plainly():
        return None
    return {"list": _list_reader, "retrieve": _row_reader}.get(action or "", lambda _: None)(plan)


def asks_plainly(http: web.Request) -> bool:
    """Whether a request is a GET without credentials and preferences."""
    return http.method == "GET" and is_plain(http)


def _row_reader(plan: ModelPlan) -> Reader:
    scope, part, one = plan.unscoped_query, plan.lookup_url_kwarg, plan.service.store.one
    name = plan.lookup_field or plan.resource.key.name
    assert scope is not None

    async def read(http: web.Request) -> web.Response | None:
        params = query_parameters(http)
        if not _DECIDED.isdisjoint(params):
            return None
        plan.check_parameters("retrieve", params)
        query = scope.restrict(equals(name, plan.key, parse_key(plan, http.match_info[part])))
        shown = requested_projection(plan, plan.serializer, params)

        async def load() -> Answer:
            found = await one(query, shown)
            if found is None:
                raise NotFound()
            tag = tag_of_row(found.version, shown, found.body if shown.related else None)
            return found.body, tag, found.snapshot

        key = address_key(plan, http) if plan.public_and_cacheable else None
        return await respond_from(plan, http, key, query, lambda: row_dependencies(plan, query, shown), load)

    return read


def _list_reader(plan: ModelPlan) -> Reader:
    scope = plan.unscoped_query
    assert scope is not None

    async def read(http: web.Request) -> web.Response | None:
        params = query_parameters(http)
        if not _DECIDED.isdisjoint(params):
            return None
        plan.check_parameters("list", params)
        query = scope
        for backend in plan.filters:
            query = backend.apply(query, params)
        query = in_default_order(plan, query)
        shown = requested_projection(plan, plan.serializer, params)
        page = plan.paginator.page_request(query, shown, plan.count, params)
        address = list_address(plan, http, params)

        async def load() -> Answer:
            rows = await read_page(plan, query, page, params, kept=True)
            body = plan.paginator.body(page, query, rows, address)
            return body, tag_of_list(body), rows.snapshot

        key = address_key(plan, http) if plan.public_and_cacheable else None
        return await respond_from(plan, http, key, query, lambda: list_dependencies(plan, query, shown), load)

    return read
