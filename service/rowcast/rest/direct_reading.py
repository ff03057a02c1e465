"""Lists and rows by the shortest way: from the address to the statement, without an instance of the viewset.

It is open where data decide alone: the caller's own attributes, the option ``scope``, and no Python of the user's. Whatever
has to be refused, expanded, or sent in another form goes through ``ViewSet.dispatch``, with the same answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from aiohttp import web

from rowcast.errors import NotFound
from rowcast.identity.authentication import identify
from rowcast.identity.permissions import allowed
from rowcast.query.conditions import Query
from rowcast.resources.full_text import HIGHLIGHT
from rowcast.rest.declared_scope import EVERYTHING, CallerScope
from rowcast.rest.etags import tag_of_list, tag_of_row
from rowcast.rest.plan import ModelPlan
from rowcast.rest.reading import AnyReader, memory_answers, reader_for
from rowcast.rest.rendering import requested_projection
from rowcast.rest.request import Request, query_parameters
from rowcast.rest.response_cache import (
    Answer,
    is_plain,
    key_of_answer,
    list_address,
    list_dependencies,
    read_page,
    respond_from,
    row_dependencies,
)
from rowcast.rest.scope import in_default_order, parse_key, row_at, rows_of_caller

Direct: TypeAlias = Callable[[web.Request], Awaitable[web.Response | None]]
_Answering: TypeAlias = Callable[[web.Request, dict[str, str], Query, AnyReader], Awaitable[web.Response]]
_DECIDED: Final = frozenset({"expand", "deleted", HIGHLIGHT})  # the parameters about which more has to be decided


def direct_reader(plan: ModelPlan, action: str) -> Direct | None:
    """The function that answers GETs of an action; ``None`` if the viewset has no such way.

    It returns ``None`` for a request that takes the long way.
    """
    shows_otherwise = any(plan.attribute(name) is not None for name in ("response_serializer", "list_serializer_class"))
    if not plan.data_alone or plan.takes_natives or not plan.serializer.plain or shows_otherwise:
        return None
    if action not in _ANSWERING or not plan.answers_plainly():
        return None
    answer = _ANSWERING[action](plan)

    async def read(http: web.Request) -> web.Response | None:
        if not is_plain(http):
            return None
        text = http.rel_url.raw_query_string
        if text and any(name in text for name in _DECIDED):
            return None
        asks_nobody = plan.is_public and "Authorization" not in http.headers
        request = None if asks_nobody else Request(http)
        scope = EVERYTHING if request is None else await recognised(plan, request)
        if scope is None:
            return None
        params = query_parameters(http)
        if params and not _DECIDED.isdisjoint(params):  # in percent-encoding
            return None
        reader = reader_for(plan, http, None if request is None else request.user)
        return await answer(http, params, rows_of_caller(plan, scope), reader)

    return read


async def recognised(plan: ModelPlan, request: Request) -> CallerScope | None:
    """What the option ``scope`` means for the caller of a request; ``None`` if the request has to be refused."""
    await identify(request, plan.authenticators)
    for permission in plan.permissions:
        if not await allowed(permission.has_permission(request, None)):
            return None
    return EVERYTHING if plan.declared_scope is None else await plan.declared_scope.of(request, None)


def _row_answering(plan: ModelPlan) -> _Answering:
    part, serializer = plan.lookup_url_kwarg, plan.serializer
    by_default = plan.default_projection(serializer)

    async def answer(http: web.Request, params: dict[str, str], scope: Query, reader: AnyReader) -> web.Response:
        plan.check_parameters("retrieve", params)
        query = row_at(plan, scope, parse_key(plan, http.match_info[part]))
        shown = requested_projection(plan, serializer, params)

        async def load() -> Answer:
            found = await reader.one(query, shown)
            if found is None:
                raise NotFound()
            tag = tag_of_row(found.version, shown, found.body if shown.related else None)
            return found.body, tag, found.snapshot

        key = key_of_answer(plan, http, "retrieve", by_default, query) if plan.cache == "responses" else None
        return await respond_from(plan, http, key, query, lambda: row_dependencies(plan, query, shown), load, reader)

    return answer


def _list_answering(plan: ModelPlan) -> _Answering:
    serializer, paginator = plan.serializer, plan.paginator
    by_default = plan.default_projection(serializer)

    async def answer(http: web.Request, params: dict[str, str], scope: Query, reader: AnyReader) -> web.Response:
        plan.check_parameters("list", params)
        query = scope
        for backend in plan.filters:
            query = backend.apply(query, params)
        query = in_default_order(plan, query)
        shown = requested_projection(plan, serializer, params)
        page = paginator.page_request(query, shown, plan.count, params)
        address = list_address(plan, http, params)

        async def load() -> Answer:
            rows = await read_page(plan, reader, query, page, params, kept=memory_answers(plan.service, http))
            body = paginator.body(page, query, rows, address)
            return body, tag_of_list(body), rows.snapshot

        key = key_of_answer(plan, http, "list", by_default, query) if plan.cache == "responses" else None
        return await respond_from(plan, http, key, query, lambda: list_dependencies(plan, query, shown), load, reader)

    return answer


_ANSWERING: Final[dict[str, Callable[[ModelPlan], _Answering]]] = {
    "list": _list_answering,
    "retrieve": _row_answering,
}
