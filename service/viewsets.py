"""Viewsets: a class whose methods are actions, bound to a resource and a site when the service starts.

What a request needs that does not depend on the request (filters, paginator, serializer, permissions, the set of known
parameters) is made once, by ``bind``. A request then makes one instance, finds its action by its method, asks the
permissions and calls the action: read ``dispatch`` downwards.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import _lru_cache_wrapper, lru_cache
from http import HTTPStatus
from typing import Any, ClassVar, Final, Self
from urllib.parse import quote

import orjson
from aiohttp import web

from service import mixins, streams
from service.authentication import ANONYMOUS
from service.changes.feed import Feed
from service.errors import (
    MethodNotAllowed,
    NotAcceptable,
    NotAuthenticated,
    NotFound,
    ParseError,
    PermissionDenied,
    choices,
)
from service.filters import FieldFilter, OrderingFilter, SearchFilter
from service.metadata import describe
from service.store import Store, by_field
from service.pagination import Address, BasePagination, PageNumberPagination
from service.permissions import BasePermission, IsAuthenticatedOrReadOnly, allowed
from service.query import Query
from service.requests import Request
from service.resources import Resource, Resources
from service.serializers import Projection, Serializer, expanded, serializer_for
from service.settings import Settings

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
FILTER_BACKENDS: Final = (FieldFilter, SearchFilter, OrderingFilter)
MAX_PATHS: Final = 32  # of one ?expand=
MAX_DEPTH: Final = 8  # of each of them
READ_PARAMETERS: Final = ("fields", "expand")
STREAM_PARAMETERS: Final = ("fields", "last_event_id", "access_token")
STANDARD_ACTIONS: Final[Mapping[str, tuple[str, bool]]] = {  # action → method, and whether it is about one row
    "list": ("GET", False),
    "create": ("POST", False),
    "retrieve": ("GET", True),
    "update": ("PUT", True),
    "partial_update": ("PATCH", True),
    "destroy": ("DELETE", True),
}


@dataclass(slots=True)
class Site:
    """What the viewsets of one service share.

    ``secret`` signs what the service hands out to get back; it is known once the service has started.
    """

    settings: Settings
    resources: Resources
    store: Store
    feed: Feed
    hub: streams.Hub
    secret: bytes = b""


class ViewSet:
    """A class of actions. ``as_view`` makes a handler that maps methods to them."""

    permission_classes: ClassVar[tuple[type[BasePermission], ...]] = (IsAuthenticatedOrReadOnly,)

    site: ClassVar[Site]
    basename: str | None = None
    detail: bool | None = None
    suffix: str | None = None
    name: str | None = None
    description: str | None = None
    action: str = ""
    action_map: Mapping[str, str] = {}

    def __init__(self, **initkwargs: Any) -> None:
        self.__dict__.update(initkwargs)

    @classmethod
    def as_view(cls, actions: Mapping[str, str], **initkwargs: Any) -> Handler:
        """A handler that answers each method with an action: ``as_view({"get": "list", "post": "create"})``."""
        action_map = {method.upper(): action for method, action in actions.items()}
        if "GET" in action_map:
            action_map.setdefault("HEAD", action_map["GET"])
        action_map.setdefault("OPTIONS", "metadata")

        async def view(http: web.Request) -> web.StreamResponse:
            return await cls(action_map=action_map, **initkwargs).dispatch(http)

        return view

    async def dispatch(self, http: web.Request) -> web.StreamResponse:
        """Answer one request: who is calling, may they, then the action."""
        request = self.request = Request(http)
        self.kwargs: Mapping[str, str] = http.match_info
        action = self.action_map.get(http.method)
        if action is None:
            raise MethodNotAllowed(http.method, self.action_map)
        self.action = action
        _check_accept(http.headers.get("Accept"), stream=action == "stream")
        await self.check_permissions(request)
        response: web.StreamResponse = await getattr(self, action)(request, **self.kwargs)
        return response

    def get_permissions(self) -> tuple[BasePermission, ...]:
        """The permissions to ask for this action."""
        return tuple(permission() for permission in self.permission_classes)

    async def check_permissions(self, request: Request) -> None:
        """Raise ``PermissionDenied``, or ``NotAuthenticated`` for a caller without credentials, unless all agree."""
        for permission in self.get_permissions():
            if not await allowed(permission.has_permission(request, self)):
                self.permission_denied(request, permission)

    def permission_denied(self, request: Request, permission: BasePermission) -> None:
        """Refuse, in the words of the permission."""
        if request.user is ANONYMOUS:
            raise NotAuthenticated(headers={"WWW-Authenticate": "Bearer"})
        raise PermissionDenied(permission.message, code=permission.code)

    async def metadata(self, request: Request, **kwargs: str) -> web.Response:
        """``OPTIONS``: what this address is and takes."""
        methods = sorted(self.action_map)
        document = {"name": type(self).__name__, "description": self.description or "", "methods": methods}
        return web.json_response(document, headers={"Allow": ", ".join(methods)})


class GenericViewSet(ViewSet):
    """A viewset over the rows of a resource; its options are those of the two reference pages."""

    filterset_fields: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    search_fields: ClassVar[tuple[str, ...]] = ()
    ordering_fields: ClassVar[tuple[str, ...]] = ()
    ordering: ClassVar[tuple[str, ...]] = ()
    page_size: ClassVar[int] = 20
    max_page_size: ClassVar[int] = 100
    pagination_class: ClassVar[type[BasePagination]] = PageNumberPagination
    select_related: ClassVar[tuple[str, ...]] = ()
    prefetch_related: ClassVar[tuple[str, ...]] = ()
    allowed_actions: ClassVar[tuple[str, ...] | None] = None
    excluded_actions: ClassVar[tuple[str, ...]] = ()
    stream_enabled: ClassVar[bool] = True
    lookup_field: ClassVar[str | None] = None
    count: ClassVar[str] = "exact"
    strict_query: ClassVar[bool] = True

    # made by bind
    resource: ClassVar[Resource]
    serializer: ClassVar[Serializer]
    shown: ClassVar[Projection]
    paginator: ClassVar[BasePagination]
    filters: ClassVar[tuple[Any, ...]]
    known: ClassVar[Mapping[str, frozenset[str]]]
    patterns: ClassVar[tuple[str, ...]]  # the parameters that are regular expressions
    _permissions: ClassVar[tuple[BasePermission, ...]]
    project: ClassVar[_lru_cache_wrapper[Projection]]  # (fields, expand) of a query string → what is shown

    @classmethod
    def bind(cls, site: Site, resource: Resource, options: Mapping[str, Any]) -> type[Self]:
        """The subclass that serves a resource: with the config's options, and with all that requests share made."""
        members = {"__doc__": cls.__doc__, "__module__": cls.__module__, **options, "site": site}
        bound: type[Self] = type(cls.__name__, (cls,), members)
        bound.resource = resource
        bound.serializer = serializer_for(site.resources, resource)()
        bound.shown = expanded(site.resources, bound.serializer.shown, (*bound.select_related, *bound.prefetch_related))
        bound.paginator = bound.pagination_class(
            site.resources, bound.page_size, bound.max_page_size, lambda: site.secret
        )
        bound.filters = (
            FieldFilter(site.resources, resource.name, bound.filterset_fields),
            SearchFilter(site.resources, resource.name, bound.search_fields),
            OrderingFilter(site.resources, resource.name, bound.ordering_fields, bound.ordering),
        )
        bound.patterns = tuple(name for backend in bound.filters[:2] for name in backend.patterns())
        narrowing = {name for backend in bound.filters for name in backend.parameters()}
        bound.known = {
            "list": frozenset({*narrowing, *READ_PARAMETERS, *bound.paginator.parameters}),
            "retrieve": frozenset(READ_PARAMETERS),
            "stream": frozenset({*bound.filters[0].parameters(), *bound.filters[1].parameters(), *STREAM_PARAMETERS}),
        }
        bound._permissions = tuple(permission() for permission in bound.permission_classes)
        bound.project = staticmethod(lru_cache(maxsize=256)(bound._project))  # type: ignore[assignment]
        return bound

    @classmethod
    def _project(cls, fields: str, expand: str) -> Projection:
        paths = _names(expand) if expand else ()
        if len(paths) > MAX_PATHS or any(path.count("__") >= MAX_DEPTH for path in paths):
            raise ParseError(f"expand: at most {MAX_PATHS} paths of {MAX_DEPTH} relations.", code="invalid_parameter")
        shown = expanded(cls.site.resources, cls.shown, paths)
        return shown.only(_names(fields)) if fields else shown

    def get_permissions(self) -> tuple[BasePermission, ...]:
        return self._permissions

    def get_queryset(self) -> Query:
        """The rows that this viewset is about: its scope for every action and for the stream."""
        return Query(self.resource.name)

    def filter_queryset(self, query: Query) -> Query:
        """The query with what the query string asks for."""
        given = self.request.query_params
        for backend in self.filters:
            query = backend.apply(query, given)
        return query

    def get_object_query(self) -> Query:
        """The query for the row that the URL names, within the scope; ``NotFound`` if it cannot name one."""
        path = self.lookup_field or self.resource.key.name
        try:
            row = by_field(self.site.store.queries, self.resource.name, path, self.kwargs["id"])
        except ValueError:
            raise NotFound() from None
        return self.get_queryset().restrict(*row.where)

    def get_projection(self, given: Mapping[str, str]) -> Projection:
        """What is shown of a row: by default, cut by ``?fields=`` and grown by ``?expand=``."""
        if not given:
            return self.shown
        return self.project(given.get("fields", ""), given.get("expand", ""))

    def check_parameters(self, given: Mapping[str, str]) -> None:
        """Refuse a parameter that nothing here reads, unless ``strict_query`` is off."""
        known = self.known[self.action]
        if self.strict_query and not given.keys() <= known:
            name = next(name for name in given if name not in known)
            raise ParseError(
                f"{name[:50]}: unknown parameter; {choices(name, sorted(known))}", code="unknown_parameter"
            )

    def get_address(self) -> Address:
        """The absolute address of this list, for the links to its other pages."""
        return Address(
            site_url(self.site.settings, self.request.http) + self.request.http.rel_url.raw_path,
            tuple(self.request.query_params.items()),
        )

    def get_location(self, body: bytes, key: str) -> str:
        """The absolute address of a row, given as its JSON and its key."""
        if self.lookup_field is not None:
            key = str(orjson.loads(body).get(self.resource.fields[self.lookup_field].column_name, key))
        return f"{site_url(self.site.settings, self.request.http)}/{self.resource.name}/{quote(key, safe='')}/"

    def get_position(self, snapshot: str) -> dict[str, str]:
        """The header that says where a stream goes on from what a statement saw."""
        position = self.site.feed.stream_position(snapshot)
        return {} if position is None else {"X-Stream-Position": position}

    def json_response(
        self, body: bytes, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
    ) -> web.Response:
        """A response of JSON that is already made."""
        return web.Response(body=body, status=status, headers=headers, content_type="application/json")

    async def metadata(self, request: Request, **kwargs: str) -> web.Response:
        return web.json_response(describe(self), headers={"Allow": ", ".join(sorted(self.action_map))})


class ReadOnlyModelViewSet(mixins.RetrieveModelMixin, mixins.ListModelMixin, streams.StreamMixin, GenericViewSet):
    """``list``, ``retrieve`` and the stream."""


class ModelViewSet(
    mixins.CreateModelMixin,
    mixins.RetrieveModelMixin,
    mixins.UpdateModelMixin,
    mixins.DestroyModelMixin,
    mixins.ListModelMixin,
    streams.StreamMixin,
    GenericViewSet,
):
    """All six actions, and the stream of what they and everybody else change."""


def site_url(settings: Settings, http: web.Request) -> str:
    """Scheme and host as the client sees them; what proxies say counts where ``trusted_proxies`` allows it."""
    scheme, host = http.scheme, http.host
    if settings.server.trusted_proxies:
        scheme = http.headers.get("X-Forwarded-Proto", scheme).split(",")[-1].strip()
        host = http.headers.get("X-Forwarded-Host", host).split(",")[-1].strip()
    return f"{scheme}://{host}"


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _check_accept(accept: str | None, *, stream: bool) -> None:
    """Refuse an ``Accept`` that leaves out what this route answers in; a stream answers as it is, always."""
    if accept is None or stream or accept == "*/*" or accept == "application/json":
        return
    for part in accept.split(","):
        kind, _, parameters = part.partition(";")
        if kind.strip().lower() in ("*/*", "application/*", "application/json", "application/problem+json"):
            if parameters.replace(" ", "").lower() not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
                return
    raise NotAcceptable()
