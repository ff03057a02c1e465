"""Lists and rows by the shortest way: from the address to the statement, without an instance of the viewset.

It is open where data decide alone: the caller's own attributes, the option ``scope``, and no Python of the user's. Whatever
has to be refused, expanded, or sent in another form goes through ``ViewSet.dispatch``, with the same answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

import asyncpg
from aiohttp import web

from rowcast.errors import NotFound
from rowcast.identity.authentication import identify
from rowcast.identity.permissions import allowed
from rowcast.query.coalescing import Waiting
from rowcast.query.conditions import Query, equals
from rowcast.query.projection import Projection
from rowcast.resources.fields import Kind
from rowcast.resources.full_text import HIGHLIGHT
from rowcast.rest.declared_scope import EVERYTHING, CallerScope
from rowcast.rest.etags import tag_of_list, tag_of_row
from rowcast.rest.plan import ModelPlan
from rowcast.rest.reading import AnyReader, memory_answers, reader_for
from rowcast.rest.rendering import requested_projection
from rowcast.rest.request import Request, base_url, not_decoded, query_parameters
from rowcast.rest.response_cache import (
    Answer,
    is_plain,
    kept_answer,
    kept_or_loaded,
    key_of_address,
    list_address,
    list_dependencies,
    read_page,
    respond,
    row_dependencies,
)
from rowcast.rest.scope import in_default_order, parse_key, row_at, rows_of_caller

Direct: TypeAlias = Callable[[web.Request], Awaitable[web.Response | None]]
_DECIDED: Final = frozenset({"expand", "deleted", HIGHLIGHT})  # the parameters about which more has to be decided


@dataclass(frozen=True, slots=True)
class Target:
    """What a GET asks for.

    ``sent`` is the target as its client has sent it; ``path`` and ``query`` are its parts, percent-encoded. ``base`` returns the
    scheme, host and prefix as the client sees them. ``key`` is the part of the path that names a row; a list has none.
    ``memory_answers`` if what is kept in memory is as recent as the client wants.
    """

    sent: str
    path: str
    query: str
    params: Mapping[str, str]
    base: Callable[[], str]
    key: str
    memory_answers: bool = True

    @property
    def takes_longer(self) -> bool:
        """Whether more has to be decided about it than data can."""
        if not self.query:
            return False
        return (
            any(name in self.query for name in _DECIDED)
            or not _DECIDED.isdisjoint(self.params)
            or not_decoded(self.params)
        )


Answering: TypeAlias = Callable[[Target, Query, AnyReader], Awaitable[tuple[Answer, bool]]]
"""The answer to a GET from what a caller may read, and whether it was kept in memory."""


def direct_answering(plan: ModelPlan, action: str) -> Answering | None:
    """The function that answers GETs of an action; ``None`` if Python of the user's has a say about it."""
    if action not in _ANSWERING or not plan.shows_data or not plan.answers_plainly():
        return None
    return _ANSWERING[action](plan)


def direct_reader(reads: DirectRead) -> Direct:
    """The function that responds to such GETs as aiohttp handles them; ``None`` for a request that takes the long way."""
    plan, answer = reads.plan, reads.answering
    part = plan.lookup_url_kwarg

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
        base, key = partial(base_url, plan.service.settings.server, http), http.match_info.get(part, "")
        recent = memory_answers(plan.service, http)
        target = Target(http.raw_path, http.rel_url.raw_path, text, query_parameters(http), base, key, recent)
        if target.takes_longer:  # in percent-encoding
            return None
        reader = reader_for(plan, http, None if request is None else request.user)
        found, kept = await answer(target, rows_of_caller(plan, scope), reader)
        return respond(plan, http, *found, from_cache=kept)

    return read


class PublicRow:
    """A row of a viewset that everybody may read, by its key, as the viewset shows it without parameters.

    The statements of such reads differ in the key alone, so they are compiled, and can be shared, without a query for each.
    """

    def __init__(self, plan: ModelPlan, rows: Query) -> None:
        by_key = equals(plan.lookup_field or plan.resource.key.name, plan.key, None)
        self._plan = plan
        self._rows = rows
        self._shown = plan.default_projection(plan.serializer)
        self._shape = self._shown, rows.restrict(by_key).shape
        self._values = rows.values
        self._prepare = by_key.lookup_spec.prepare

    @classmethod
    def of(cls, plan: ModelPlan, rows: Query) -> PublicRow | None:
        """The reads of single rows; ``None`` if their statements may not be shared."""
        store, resource = plan.service.store, plan.resource
        shares = resource.coalesce and not store.database.acts_as_callers
        if not shares or rows.related or plan.key.field_type.kind is Kind.KEY:
            return None
        return cls(plan, rows)

    def offer(self, key: str, waiting: Waiting) -> bool:
        """Let ``waiting`` get a row together with others that are being read; ``False`` if there are none, or it is no key."""
        try:
            value = parse_key(self._plan, key)
        except NotFound:
            return False
        return self._plan.service.store.rows.offer(self._shape, (*self._values, self._prepare(value)), waiting)

    def answer(self, row: asyncpg.Record) -> Answer:
        """The answer with a row."""
        body, shown = row["result"], self._shown
        return body, tag_of_row(row["version"], shown, body if shown.related else None), row["snapshot"]

    def keep(self, answer: Answer, target: Target, since: int) -> None:
        """Keep the answer with a row in memory, with ``cache: responses``, unless it has changed ``since`` a generation of the cache."""
        plan = self._plan
        if plan.cache != "responses":
            return
        query = row_at(plan, self._rows, parse_key(plan, target.key))
        found = row_dependencies(plan, query, self._shown)
        if found is not None:
            key, size = _key(plan, target, "retrieve", self._shown, query), len(answer[0]) + query.size
            plan.service.cache.put(key, answer, since=since, resources=found.resources, row=found.row, size=size)


@dataclass(frozen=True, slots=True)
class DirectRead:
    """The GETs of an address about which data decide alone.

    ``rows`` are what everybody may read; ``None`` if that differs by the caller. ``headers`` are those of responses, on top of an
    answer's own. ``row`` reads without parameters. If it ``is_shared``, those who ask for one address at the same time get one
    answer.
    """

    plan: ModelPlan
    answering: Answering
    headers: Mapping[str, str]
    rows: Query | None = None
    row: PublicRow | None = None
    is_shared: bool = False

    @classmethod
    def of(cls, plan: ModelPlan, action: str, headers: Mapping[str, str]) -> DirectRead | None:
        """The reads of an action; ``None`` if more than data decide."""
        answering = direct_answering(plan, action)
        if answering is None:
            return None
        if not plan.is_public:
            return cls(plan, answering, headers)
        rows = rows_of_caller(plan, EVERYTHING)
        row = PublicRow.of(plan, rows) if action == "retrieve" else None
        return cls(plan, answering, headers, rows, row, is_shared=action == "list" and plan.resource.coalesce)

    def kept(self, sent: str, base: str) -> Answer | None:
        """The answer that is kept for a target, for everybody."""
        return kept_answer(self.plan, sent, base) if self.plan.public_and_cacheable else None

    async def answer(self, target: Target, *, alone: bool = False) -> tuple[Answer, bool]:
        """The answer from the rows that everybody may read, and whether it was kept; raises the errors of the action.

        If it is read ``alone``, its statement is not shared.
        """
        assert self.rows is not None
        store = self.plan.service.store
        return await self.answering(target, self.rows, store.alone if alone else store)

    async def answer_to(self, request: Request, target: Target) -> tuple[Answer, bool] | None:
        """The same for the caller of a request; ``None`` if that has to be refused. Raises the errors of authentication as well."""
        scope = await recognised(self.plan, request)
        if scope is None:
            return None
        return await self.answering(target, rows_of_caller(self.plan, scope), self.plan.service.store)


async def recognised(plan: ModelPlan, request: Request, *, stream: bool = False) -> CallerScope | None:
    """What the option ``scope`` means for the caller of a request, or of a stream; ``None`` if that has to be refused."""
    await identify(request, plan.authenticators, stream=stream)
    for permission in plan.permissions:
        if not await allowed(permission.has_permission(request, None)):
            return None
    return EVERYTHING if plan.declared_scope is None else await plan.declared_scope.of(request, None)


def _row_answering(plan: ModelPlan) -> Answering:
    serializer = plan.serializer
    by_default = plan.default_projection(serializer)

    async def answer(target: Target, scope: Query, reader: AnyReader) -> tuple[Answer, bool]:
        plan.check_parameters("retrieve", target.params)
        query = row_at(plan, scope, parse_key(plan, target.key))
        shown = requested_projection(plan, serializer, target.params)

        async def load() -> Answer:
            found = await reader.one(query, shown)
            if found is None:
                raise NotFound()
            tag = tag_of_row(found.version, shown, found.body if shown.related else None)
            return found.body, tag, found.snapshot

        key = _key(plan, target, "retrieve", by_default, query)
        return await kept_or_loaded(plan, key, query, lambda: row_dependencies(plan, query, shown), load, reader)

    return answer


def _list_answering(plan: ModelPlan) -> Answering:
    serializer, paginator = plan.serializer, plan.paginator
    by_default = plan.default_projection(serializer)

    async def answer(target: Target, scope: Query, reader: AnyReader) -> tuple[Answer, bool]:
        params = target.params
        plan.check_parameters("list", params)
        query = scope
        for backend in plan.filters:
            query = backend.apply(query, params)
        query = in_default_order(plan, query)
        shown = requested_projection(plan, serializer, params)
        page = paginator.page_request(query, shown, plan.count, params)
        address = list_address(target.base() + target.path, params)

        async def load() -> Answer:
            rows = await read_page(plan, reader, query, page, params, kept=target.memory_answers)
            body = paginator.body(page, query, rows, address)
            return body, tag_of_list(body), rows.snapshot

        key = _key(plan, target, "list", by_default, query)
        return await kept_or_loaded(plan, key, query, lambda: list_dependencies(plan, query, shown), load, reader)

    return answer


def _key(plan: ModelPlan, target: Target, action: str, shown: Projection, query: Query) -> Hashable:
    """The key of the answer that is kept; ``None`` if it is not."""
    if plan.cache != "responses" or not target.memory_answers:
        return None
    address = key_of_address(plan, target.sent, target.base())
    return address if plan.public_and_cacheable else (*address, action, shown, query)


_ANSWERING: Final[Mapping[str, Callable[[ModelPlan], Answering]]] = {
    "list": _list_answering,
    "retrieve": _row_answering,
}
