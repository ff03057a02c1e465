"""Answers kept in memory, for ``cache: counts`` and ``cache: responses``, and the response to a read.

An answer is the body, its tag, and the snapshot of the statement that read it. The cache drops it when the change feed
reports a change of what it depends on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import replace
from functools import lru_cache
from http import HTTPStatus
from typing import Final, TypeAlias
from uuid import UUID

from aiohttp import web

from rowcast.changes.cache import Dependencies
from rowcast.errors import InvalidPattern, PreconditionFailed
from rowcast.query.conditions import Query
from rowcast.query.pages import FetchedPage, PageShape
from rowcast.query.projection import Projection
from rowcast.resources.actions import READING_ACTIONS
from rowcast.resources.composite import key_text
from rowcast.rest.etags import client_has, matches
from rowcast.rest.negotiation import accepts_json_as_sent
from rowcast.rest.pagination import ListAddress, PageRequest
from rowcast.rest.places import read_at_offset
from rowcast.rest.plan import ModelPlan, ViewPlan
from rowcast.rest.preferences import PREFER
from rowcast.rest.protocols import ModelView
from rowcast.rest.reading import AnyReader, memory_answers, wants_the_newest
from rowcast.rest.request import base_url
from rowcast.rest.response import json_response
from rowcast.rest.serializers import Serializer
from rowcast.rest.stream_position import position_header

NOTHING_KEPT: Final = "max-age=0"
"""The ``Cache-Control`` of a browser that wants nothing out of its own cache: what this service keeps is as good as the database."""
Answer: TypeAlias = tuple[bytes, str, str]  # body, tag, snapshot


def cached_response(plan: ViewPlan, http: web.Request) -> web.Response | None:
    """The response kept for a public address, for which no caller has to be recognised; ``None`` if there is none."""
    if not plan.public_and_cacheable or "Authorization" in http.headers or not is_plain(http):
        return None
    if not memory_answers(plan.service, http):
        return None
    answer = kept_answer(plan, http.raw_path, base_url(plan.service.settings.server, http))
    return None if answer is None else respond(plan, http, *answer, from_cache=True)


def kept_answer(plan: ViewPlan, sent: str, base: str) -> Answer | None:
    """The answer that is kept for a public address; see ``key_of_address``."""
    answer: Answer | None = plan.service.cache.get(key_of_address(plan, sent, base))
    return answer


async def respond_from(
    plan: ModelPlan,
    http: web.Request,
    key: Hashable,
    query: Query,
    dependencies: Callable[[], Dependencies | None],
    load: Callable[[], Awaitable[Answer]],
    reader: AnyReader,
) -> web.Response:
    """The response with the answer that is kept under a key, or loaded and kept then; just loaded if the key is ``None``.

    ``reader`` is what ``load`` reads with.
    """
    usable = key if memory_answers(plan.service, http) else None
    found, kept = await kept_or_loaded(plan, usable, query, dependencies, load, reader)
    return respond(plan, http, *found, from_cache=kept)


async def kept_or_loaded(
    plan: ModelPlan,
    key: Hashable,
    query: Query,
    dependencies: Callable[[], Dependencies | None],
    load: Callable[[], Awaitable[Answer]],
    reader: AnyReader,
) -> tuple[Answer, bool]:
    """The answer that is kept under a key, or loaded and kept then, just loaded if the key is ``None``; and whether it was kept."""
    if key is None:
        return await load(), False
    return await plan.service.cache.get_or_load(
        key, dependencies, load, size=lambda made: len(made[0]) + query.size, as_of=reader.as_of
    )


def cache_key(view: ModelView, serializer: Serializer, query: Query) -> Hashable:
    """The key of the answer to this request; ``None`` if it is not kept."""
    plan, http = view.view_plan, view.request.http
    if plan.cache != "responses" or not serializer.plain or not may_be_cached(view):
        return None
    shown = plan.default_projection(serializer)
    return key_of_answer(
        plan, http, view.action, shown, query, expanded=_expands_restricted_rows(view, serializer, shown)
    )


def _expands_restricted_rows(view: ModelView, serializer: Serializer, shown: Projection) -> bool:
    """Whether a request expands rows that not everybody may read."""
    plan, text = view.view_plan, view.request.query_params.get("expand")
    if not text or view.action not in READING_ACTIONS:
        return False
    return not all(target.is_public for target, _ in plan.expansion_targets(plan, shown, serializer.readable, text))


def key_of_answer(
    plan: ModelPlan, http: web.Request, action: str, shown: Projection, query: Query, *, expanded: bool = False
) -> Hashable:
    """The key of an answer that is kept; ``shown`` is what the action shows by default.

    The address alone is the key where that is public; not if the answer has ``expanded`` rows about which other viewsets
    decide by the caller. Otherwise the query has the caller's scope.
    """
    key = key_of_address(plan, http.raw_path, base_url(plan.service.settings.server, http))
    public = plan.public_and_cacheable and action in READING_ACTIONS and http.method == "GET"
    return key if public and not expanded else (*key, action, shown, query)


def key_of_address(plan: ViewPlan, sent: str, base: str) -> tuple[Hashable, ...]:
    """The key of a public answer: the target as its client has sent it, and its origin, to which the links to other pages belong."""
    return plan, sent, base


def is_plain(http: web.Request) -> bool:
    """Whether a request asks for no other representation, and for no answer that is fresher than what this service keeps."""
    headers = http.headers
    return (
        ("Cache-Control" not in headers or headers.getall("Cache-Control") == [NOTHING_KEPT])
        and PREFER not in headers
        and accepts_json_as_sent(http)
    )


def may_be_cached(view: ModelView) -> bool:
    """Whether memory may answer: not if the client wants what it does not have, or a fresh answer, or inside a transaction."""
    service, http = view.view_plan.service, view.request.http
    return not wants_the_newest(http) and not service.store.database.in_transaction and memory_answers(service, http)


def row_dependencies(plan: ModelPlan, query: Query, shown: Projection) -> Dependencies | None:
    """What an answer about one row depends on: that row alone, or every resource that is read."""
    alone = plan.unscoped_query is not None and plan.lookup_field is None and not shown.related
    loose = plan.service.resources.traits_of(plan.resource.name).loose
    if alone and loose.isdisjoint(plan.resource.key_columns):
        values = query.where[-1].values
        if all(isinstance(value, UUID | int | str) for value in values):
            key = key_text(values) if plan.resource.primary_key else str(values[0])
            return Dependencies(row=(plan.resource.name, key))
    return list_dependencies(plan, query, shown)


def list_dependencies(plan: ModelPlan, query: Query, shown: Projection | None = None) -> Dependencies | None:
    """What an answer about many rows, or their count without ``shown``, depends on; ``None`` if that is not known."""
    queries = plan.service.store.queries
    order = query.order if shown is not None else ()
    reads = queries.reads(query.resource, query.shape, order, shown)
    return None if reads is None else Dependencies(reads)


def list_address(url: str, params: Mapping[str, str]) -> ListAddress:
    """The address of a list, without its query and with it, for the links to its other pages."""
    return ListAddress(url, tuple(each for each in params.items() if each[0] != "access_token"))


async def read_page(
    plan: ModelPlan, reader: AnyReader, query: Query, page: PageRequest, params: Mapping[str, str], *, kept: bool
) -> FetchedPage:
    """A page of a query. Its exact count comes from the cache if what is ``kept`` may answer, and is there.

    ``ParseError`` names the parameter whose regular expression PostgreSQL refuses.
    """
    try:
        return await _read_page(plan, reader, query, page, kept=kept)
    except InvalidPattern as error:
        raise plan.pattern_error(error, params) from None


async def _read_page(plan: ModelPlan, reader: AnyReader, query: Query, page: PageRequest, *, kept: bool) -> FetchedPage:
    if plan.cache == "off" or not kept:
        return await reader.page(query, page.shape, page.values)
    if page.shape.count != "exact":
        return await read_at_offset(plan, reader, query, page, page.shape)
    counted: FetchedPage | None = None

    async def count() -> int | None:
        nonlocal counted
        counted = await reader.page(query, page.shape, page.values)
        return counted.count

    number, _ = await plan.service.cache.get_or_load(
        ("count", query.resource, query.where),
        lambda: list_dependencies(plan, query),
        count,
        size=lambda _: query.size,
        wait=True,
        as_of=reader.as_of,
    )
    if counted is not None:  # the page was read with its count
        return counted
    rows = await read_at_offset(plan, reader, query, page, _uncounted(page.shape))
    assert number is not None
    return replace(rows, count=page.count(rows.size, number))


@lru_cache(maxsize=2048)
def _uncounted(shape: PageShape) -> PageShape:
    """The shape of the same page without its count."""
    return replace(shape, count="none")


def respond(
    plan: ViewPlan, http: web.Request, body: bytes, tag: str, snapshot: str, *, from_cache: bool = False
) -> web.Response:
    """The response to a read; a 304 for a client that has this representation, ``PreconditionFailed`` by ``If-Match``."""
    headers = headers_of(plan, tag, snapshot, from_cache=from_cache)
    if not matches(http, tag):
        raise PreconditionFailed("If-Match excludes what this address shows now; read it again.")
    if client_has(http, tag):
        return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
    return json_response(body, headers=headers)


def headers_of(plan: ViewPlan, tag: str, snapshot: str, *, from_cache: bool) -> dict[str, str]:
    """The headers of an answer: its tag, and the position from which a stream continues it."""
    return {"ETag": tag, **position_header(plan, snapshot, kept=from_cache)}
