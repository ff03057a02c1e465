"""Rows written by the shortest way: from the body to the statement, without an instance of the viewset.

It is open where data decide alone, as for ``direct_reading``: the caller's own attributes, the option ``scope``, and a
serializer without Python of the user's. A request that has to be refused, has a precondition, a preference or a key of its
own, or writes more than one row, goes through ``ViewSet.dispatch``, with the same answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import Final, TypeAlias

from aiohttp import web

from rowcast.identity.permissions import AllowAny
from rowcast.query import removal
from rowcast.query.conditions import Query
from rowcast.rest.declared_scope import EVERYTHING, CallerScope
from rowcast.rest.direct_reading import Direct, recognised
from rowcast.rest.etags import is_conditional
from rowcast.rest.idempotency import KEY
from rowcast.rest.media_types import JSON
from rowcast.rest.negotiation import accepts_json_as_sent
from rowcast.rest.plain_writing import changed, created, missing_or_changed, validated
from rowcast.rest.plan import ModelPlan
from rowcast.rest.preferences import PREFER
from rowcast.rest.public_writing import PublicWrite
from rowcast.rest.reading import note_writer
from rowcast.rest.request import Request
from rowcast.rest.response import noting_transaction
from rowcast.rest.scope import parse_key, row_at, rows_of_caller

_Writing: TypeAlias = Callable[[Request, CallerScope], Awaitable[web.Response | None]]


def direct_writer(plan: ModelPlan, action: str) -> Direct | None:
    """The function that answers requests for an action that writes one row; ``None`` if the viewset has no such way.

    It returns ``None`` for a request that takes the long way.
    """
    if action not in _WRITING or not _is_plain(plan) or (action == "update" and plan.put_creates):
        return None
    write, database = _WRITING[action](plan), plan.service.store.database
    open_to_all = _is_open_to_all(plan)

    async def answer(http: web.Request) -> web.Response | None:
        if not _is_usual(http):
            return None
        request = Request(http)
        anonymous = open_to_all and "Authorization" not in http.headers
        scope = EVERYTHING if anonymous else await recognised(plan, request)
        if scope is None:
            return None
        note_writer(request.user)
        return await noting_transaction(database, lambda: write(request, scope))

    return answer


def _is_open_to_all(plan: ModelPlan) -> bool:
    """Whether everybody may write all rows."""
    return plan.declared_scope is None and all(type(each) is AllowAny for each in plan.permissions)


@dataclass(frozen=True, slots=True)
class DirectWrite:
    """The writes of an address by one method about which data decide alone.

    ``answer`` is ``direct_writer``'s. ``headers`` are those of responses, on top of an answer's own. ``public`` writes for everybody;
    ``None`` if it depends on the caller who may write, or the statements may not be shared.
    """

    plan: ModelPlan
    answer: Direct
    headers: Mapping[str, str]
    public: PublicWrite | None

    @classmethod
    def of(cls, plan: ModelPlan, action: str, headers: Mapping[str, str]) -> DirectWrite | None:
        """The writes of an action; ``None`` if more than data decide."""
        answer = direct_writer(plan, action)
        if answer is None:
            return None
        return cls(plan, answer, headers, PublicWrite.of(plan, action) if _is_open_to_all(plan) else None)


def _is_plain(plan: ModelPlan) -> bool:
    """Whether the plan, the body and the database decide about every usual write."""
    requires = plan.require_if_match or plan.attribute("require_idempotency_key")
    return (
        plan.data_alone
        and plan.simple_writes
        and plan.serializer.codeless
        and not (requires or plan.nested_names or plan.attribute("importing"))
        and plan.answers_plainly()
        and not plan.restricted_keys()
    )


def _is_usual(http: web.Request) -> bool:
    """Whether a request has nothing beside its address, its caller and its body that has a say."""
    headers = http.headers
    return (
        accepts_json_as_sent(http)
        and not http.rel_url.raw_query_string
        and PREFER not in headers
        and KEY not in headers
        and not is_conditional(http)
    )


def _has_usual_body(http: web.Request) -> bool:
    return http.content_type == JSON and "Content-Encoding" not in http.headers


def _within(plan: ModelPlan, rows: Query) -> Query | None:
    """The query that must contain a written row; ``None`` if every row may be written."""
    return None if plan.unscoped_query is not None or not rows.where else rows


def _creating(plan: ModelPlan) -> _Writing:
    store, serializer, shown = plan.service.store, plan.serializer, plan.default_projection(plan.serializer)

    async def create(request: Request, scope: CallerScope) -> web.Response | None:
        if not _has_usual_body(request.http) or (await request.receive()).lstrip()[:1] == b"[":  # of rows
            return None
        values = await validated(plan, request, await request.read_json(), scope.fixed)
        row = await store.insert(shown, values, _within(plan, rows_of_caller(plan, scope)))
        return created(plan, request.http, row, serializer)

    return create


def _changing(plan: ModelPlan, *, partial: bool) -> _Writing:
    store, serializer, shown = plan.service.store, plan.serializer, plan.default_projection(plan.serializer)

    async def change(request: Request, scope: CallerScope) -> web.Response | None:
        key = request.http.match_info.get(plan.lookup_url_kwarg)
        if key is None or not _has_usual_body(request.http):
            return None
        rows = rows_of_caller(plan, scope)
        query = row_at(plan, rows, parse_key(plan, key))
        body = await request.read_json()
        values = await validated(plan, request, body, scope.fixed, partial=partial, updating=True)
        row = await store.update(query, shown, values, _within(plan, rows))
        if row is None:
            raise await missing_or_changed(plan, query, None)
        return changed(plan, row, serializer)

    return change


def _deleting(plan: ModelPlan) -> _Writing:
    store = plan.service.store

    async def delete(request: Request, scope: CallerScope) -> web.Response | None:
        key = request.http.match_info.get(plan.lookup_url_kwarg)
        if key is None:
            return None
        query = row_at(plan, rows_of_caller(plan, scope), parse_key(plan, key))
        if not await removal.remove(store, query):
            raise await missing_or_changed(plan, query, None)
        return web.Response(status=HTTPStatus.NO_CONTENT)

    return delete


_WRITING: Final[Mapping[str, Callable[[ModelPlan], _Writing]]] = MappingProxyType(
    {
        "create": _creating,
        "update": lambda plan: _changing(plan, partial=False),
        "partial_update": lambda plan: _changing(plan, partial=True),
        "destroy": _deleting,
    }
)
