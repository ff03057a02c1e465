"""The stream of a viewset: what its caller may see, as a subscription of the hub."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

import structlog
from aiohttp import web

from rowcast.configuration.caller_value import caller_value
from rowcast.errors import (
    InvalidPattern,
    NotAuthenticated,
    NotFound,
    ParseError,
    PermissionDenied,
)
from rowcast.identity.authentication import BUILT_IN
from rowcast.identity.permissions import IsOwner
from rowcast.identity.throttling import caller_of
from rowcast.identity.tickets import TICKET_PARAMETER, TICKET_PATTERN
from rowcast.identity.users import Credentials, User
from rowcast.orm.awaiting import run_checked
from rowcast.orm.bridge import spawn
from rowcast.orm.loading import fill_readable_columns, load_missing_columns
from rowcast.orm.model import ColumnNotLoaded, Model
from rowcast.orm.queryset import QuerySet
from rowcast.query.conditions import Comparison, Query, equals
from rowcast.query.projection import Projection
from rowcast.query.store import STORE
from rowcast.resources.actions import STREAM
from rowcast.resources.lossless_json import parse
from rowcast.rest.direct_streams import (
    PRIVATE_PARAMETERS,
    SNAPSHOT_MAX_PAGES,
    bounded_patterns,
    plain_subscription,
    wants_snapshot,
    watched_names,
)
from rowcast.rest.expansion import reading
from rowcast.rest.plan import ModelPlan
from rowcast.rest.protocols import ModelView
from rowcast.rest.rendering import (
    current_serializer,
    instance_of,
    is_plain,
    related_paths,
    render,
    requested_projection,
)
from rowcast.rest.request import Request, named_host
from rowcast.rest.scope import list_query, row_query
from rowcast.rest.serializers import Serializer
from rowcast.streams.expansion import Bound, Expansion
from rowcast.streams.subscription import Subscription, Subscriptions

TOKEN_CLAIMS: Final = frozenset({"exp", "iat", "nbf", "jti"})  # of the token rather than of its user
CONNECTION_HEADERS: Final = frozenset({"authorization", "last-event-id", "x-request-id"})
_AROUND_STREAMS: Final = (STREAM, "dispatch", "finalize_response")  # which may wait for the end of a stream
Value = TypeVar("Value")
_logger = structlog.get_logger(__name__)


class ViewsetRowAccess:
    """The object permissions and the serializer of a viewset, for the caller who has opened a stream with ``view``.

    Callers share a stream if nothing differs that its Python may look at: Rowcast's own authentication has identified the
    same user by the same kind of credentials, and they have sent the same parameters and headers to the same address. With
    ``stream_varies_on`` it looks at nothing but that, the parameters and the address.
    """

    def __init__(self, view: ModelView, shown: Projection, expanded: Projection, expansion: Expansion | None) -> None:
        plan, request = view.view_plan, view.request
        serializer = view.get_serializer()
        varies_on = plan.attribute("stream_varies_on")
        self.key: Hashable
        if varies_on is None:
            self.key = (plan, _caller(view), *_request_key(request))
        else:
            self.key = (plan, request.http.path, _params(request), *[_declared(request, name) for name in varies_on])
        self.plain = serializer.plain if expansion is None else is_plain(plan, serializer, expanded)
        self._expanded = expanded
        self._expansion = expansion
        self._view = view
        self._plan = plan
        self._serializer = serializer
        self._related = related_paths(plan, plan.default_projection(serializer))
        self._columns = Projection(plan.resource.name, tuple(plan.resource.columns))
        self._links = tuple(name for name, _ in shown.related if name in plan.resource.links)
        self._database_caller = plan.service.store.database.caller()
        self._reads_unlogged = False  # whether Python has read columns that are not in the log

    async def may_see(self, rows: Sequence[bytes]) -> list[bool]:
        """For each row whether the object permissions let the caller see it.

        Columns that are not in the log are read from the row as it is now. Of a row that is gone they are not known, so
        permissions that read them do not let the caller see it.
        """
        if not self._plan.asks_about_objects:
            return [True] * len(rows)

        async def decide(row: Model) -> bool:
            try:
                return await self._may(row)
            except ColumnNotLoaded:
                if not self._reads_unlogged:
                    raise
                return False

        return await self._for_each(rows, lambda row, _: decide(row))

    async def render_rows(self, rows: Sequence[bytes]) -> list[bytes]:
        """Each row as the serializer shows it, as JSON, with links as keys."""
        params = self._view.request.query_params
        if self._expansion is not None:
            return await self._render_expanded(self._expansion, rows, params)
        shown = Projection(self._columns.resource, ())  # the serializer's fields alone, without related rows

        def rendered(instance: Model, row: bytes) -> Awaitable[bytes]:
            fill_readable_columns(instance)
            return spawn(render, self._view, self._serializer, instance, shown, params, self._linked(row))

        return await self._for_each(rows, rendered)

    async def _render_expanded(
        self, expansion: Expansion, rows: Sequence[bytes], params: Mapping[str, str]
    ) -> list[bytes]:
        """Each row as the list shows it, with its related rows."""
        store = self._plan.service.store
        STORE.set(store)
        for database in (store.database, store.judge):
            database.act_for(self._database_caller)
        documents = await expansion.documents(store, rows)
        instances = [instance_of(self._plan, each, expansion.projection) for each in documents]
        if any(field.write_only for field in self._plan.resource.columns.values()):
            await load_missing_columns(instances)

        def rendered(instance: Model) -> Awaitable[bytes]:
            return spawn(render, self._view, self._serializer, instance, self._expanded, params)

        return [await rendered(instance) for instance in instances]

    async def _for_each(self, rows: Sequence[bytes], call: Callable[[Model, bytes], Awaitable[Value]]) -> list[Value]:
        """The result for each logged row; if Python reads columns that are not in the log, with them."""
        instances = await self._instances(rows)
        if not self._reads_unlogged:
            try:
                return [await call(instance, row) for instance, row in zip(instances, rows, strict=True)]
            except ColumnNotLoaded:
                self._reads_unlogged = True
        await load_missing_columns(instances)
        return [await call(instance, row) for instance, row in zip(instances, rows, strict=True)]

    def _linked(self, row: bytes) -> dict[str, list[Any]]:
        """The keys of the links that are shown of a row: as logged, or as objects that a snapshot has read."""
        if not self._links:
            return {}
        parsed = parse(row)
        return {
            name: [next(iter(item.values())) if isinstance(item, dict) else item for item in parsed[name]]
            for name in self._links
            if name in parsed
        }

    async def _may(self, row: Model) -> bool:
        try:
            await run_checked(self._view.check_object_permissions(self._view.request, row))
        except (PermissionDenied, NotAuthenticated, NotFound):
            return False
        return True

    async def _instances(self, rows: Sequence[bytes]) -> list[Model]:
        """Logged rows as instances, with their related rows as they are now."""
        STORE.set(self._plan.service.store)
        self._plan.service.store.database.act_for(self._database_caller)
        made = [instance_of(self._plan, row, self._columns) for row in rows]
        if made and self._related:
            await QuerySet(type(made[0])).prefetch_related(*self._related).attach(made)
        return made


def _caller(view: ModelView) -> Hashable:
    """Equal for callers whom Python cannot tell apart; equal to nothing if authentication is in Python itself."""
    plan, user, auth = view.view_plan, view.request.user, view.request.auth
    custom = plan.overrides("get_authenticators", "perform_authentication", "initial", "dispatch") or not all(
        type(authenticator) in BUILT_IN for authenticator in view.get_authenticators()
    )
    if custom or type(user) is not User or not (auth is None or type(auth) is Credentials):
        return object()
    claims = sorted((name, claim) for name, claim in user.claims.items() if name not in TOKEN_CLAIMS)
    token = auth.token if isinstance(auth, Credentials) else None
    return user.id, user.is_authenticated, user.is_staff, repr(claims), token  # claims may be lists, and 1 is not True


def _request_key(request: Request) -> tuple[Hashable, ...]:
    """What a request has sent, without the credentials and what differs by connection."""
    http = request.http
    headers = [(name.lower(), text) for name, text in http.headers.items() if name.lower() not in CONNECTION_HEADERS]
    return http.remote, named_host(http), http.path, _params(request), tuple(sorted(headers))


def _params(request: Request) -> tuple[tuple[str, str], ...]:
    """The parameters that a request has sent, without the credentials and the position."""
    found = [(name, text) for name, text in request.http.query.items() if name not in PRIVATE_PARAMETERS]
    return tuple(sorted(found))


def _declared(request: Request, name: str) -> Hashable:
    """The value of an entry of ``stream_varies_on``, with its type: 1 is not true."""
    if name.startswith("header:"):
        return tuple(request.http.headers.getall(name.removeprefix("header:"), ()))
    return repr(caller_value(request.user, name))


def last_position(http: web.Request, params: Mapping[str, str]) -> str | None:
    """The position that a client resumes from; the header that browsers send takes precedence over the parameter."""
    return http.headers.get("Last-Event-ID") or params.get("last_event_id")


def check_ticket(params: Mapping[str, str]) -> None:
    """Raise ``ParseError`` for a ticket that is none; one that is has been redeemed."""
    if TICKET_PARAMETER in params and not TICKET_PATTERN.fullmatch(params[TICKET_PARAMETER]):
        raise ParseError("ticket: not one of POST /stream-ticket/.", code="invalid_parameter")


class StreamMixin:
    """``GET /tasks/stream/`` and ``GET /tasks/{id}/stream/``"""

    async def stream(self: ModelView, request: Request, **kwargs: str) -> web.StreamResponse:
        """Every committed change of the rows that ``list`` shows with the same filters, or of one of them."""
        return await open_stream(self, request)


async def open_stream(view: ModelView, request: Request) -> web.StreamResponse:
    """Respond with a viewset's stream. With methods of the user's around it, it is sent before this returns."""
    plan, params = view.view_plan, request.query_params
    response = await plan.service.hub.stream(
        request.http,
        Subscriptions([await subscription_of(view)]),
        last_position(request.http, params),
        auths=[request.auth],
        caller=caller_of(request),
        limit=plan.max_page_size * SNAPSHOT_MAX_PAGES if wants_snapshot(params) else None,
    )
    if view.action != STREAM or plan.overrides(*_AROUND_STREAMS):
        with contextlib.suppress(ConnectionError):  # the client has gone; aiohttp drops the response
            await response.write_eof()
    return response


async def subscription_of(view: ModelView) -> Subscription:
    """What the caller may see with the parameters of the request; raises what ``list`` would raise."""
    plan, params = view.view_plan, view.request.query_params
    plan.check_parameters(view.action, params)
    if TICKET_PARAMETER not in plan.allowed_parameters.get("list", ()):  # no filter has this name
        check_ticket(params)
    query = (await list_query(view)).unsorted()
    serializer = current_serializer(view)
    await check_filters(plan, query, params)
    if view.kwargs:
        query = await _one_row(view, query)
    watched = watched_names(plan, serializer)
    plain = plain_subscription(plan, serializer, query, params, watched, list(_owned(view)))
    shown, expansion = plain.projection, None
    if "expand" in params:
        shown, expansion = _expansion(view, serializer, query)
    python = not (serializer.plain if expansion is None else is_plain(plan, serializer, shown))
    if not (python or plan.asks_about_objects or expansion is not None):
        return plain
    access = ViewsetRowAccess(view, plain.projection, shown, expansion) if python or plan.asks_about_objects else None
    return replace(plain, access=access, expansion=expansion)


async def check_filters(plan: ModelPlan, query: Query, params: Mapping[str, str]) -> None:
    """Raise an error if the rows of a stream depend on too much, on wrong patterns, or on what the log does not have."""
    expressions = bounded_patterns(plan, query, params)
    try:
        await plan.service.store.check_patterns(expressions)
    except InvalidPattern as error:
        raise plan.pattern_error(error, params) from None
    _check_logged(plan, query)


def _expansion(view: ModelView, serializer: Serializer, query: Query) -> tuple[Projection, Expansion]:
    """What a list with the same ``?expand=`` and ``?fields=`` shows, and what is read of each row for that."""
    plan = view.view_plan
    shown = requested_projection(plan, serializer, view.request.query_params)
    query, read, grown = reading(view, serializer, query, shown, plain=is_plain(plan, serializer, shown))
    logged = tuple(name for name in read.columns if not plan.resource.columns[name].write_only)
    server = plan.service.settings.server
    limits = server.expand_limit, server.expand_size_limit
    bound = None if grown is None else Bound(grown, plan.default_projection(serializer), *limits)
    return shown, Expansion(replace(read, columns=logged), query.related, bound)


def _check_logged(plan: ModelPlan, query: Query) -> None:
    """Refuse a stream whose rows depend on a column that no logged row has: it would send wrong rows, or none."""
    field = plan.service.store.queries.unlogged(query.resource, query.shape)
    if field is not None:
        _logger.warning("stream_refused", resource=query.resource, write_only_field=field)
        raise NotFound(
            f"There is no stream of {query.resource}: which rows a caller may see depends on a write_only field, and "
            "the change log has none of those.",
            code="no_stream",
        )


def _owned(view: ModelView) -> Iterator[Comparison]:
    """Conditions that every row meets which the object permissions let the caller see."""
    plan = view.view_plan
    if plan.overrides("get_permissions", "check_object_permissions", "permission_denied"):
        return
    for permission in view.get_permissions():
        own_rule = type(permission).has_object_permission is not IsOwner.has_object_permission
        if isinstance(permission, IsOwner) and not own_rule:
            values = plan.service.resources.resolve(plan.resource.name, permission.owner_field).values
            with contextlib.suppress(ValueError):
                owner = values.field_type.parse(values, str(view.request.user.id))
                yield equals(permission.owner_field, values, owner)


async def _one_row(view: ModelView, query: Query) -> Query:
    """The query for the row that the address names; ``NotFound`` or a refusal if the caller may not see it."""
    plan = view.view_plan
    if plan.finds_objects:
        await spawn(view.get_object)
    query = row_query(view, query)
    read = plan.python_projection(plan.default_projection(current_serializer(view)), ())
    found = await plan.service.store.one(query, read)
    if found is None:
        raise NotFound()
    if plan.asks_about_objects:
        await run_checked(view.check_object_permissions(view.request, instance_of(plan, found.body, read)))
    return query
