"""Viewsets: a class whose methods are actions, bound to a site when the service starts.

What a request needs that does not depend on the request (filters, paginator, serializers, permissions, how each handler
is called) is made once, by ``bind``. A request then makes one instance: who is calling, may they, are they too fast, then
the action; read ``dispatch`` downwards. The actions of the mixins answer with JSON that PostgreSQL has made. A handler
written by a user runs in the bridge, inside one transaction if its method is unsafe, and may return what it likes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import _lru_cache_wrapper, lru_cache
from http import HTTPStatus
from typing import Any, ClassVar, Final, Self, TypeAlias
from urllib.parse import quote
from uuid import UUID

import orjson
from aiohttp import web

from rowcast.changes.cache import Cache
from rowcast.changes.feed import Feed
from rowcast.configuration import viewset_options
from rowcast.configuration.settings import Settings
from rowcast.errors import (
    ApiError,
    AuthenticationFailed,
    ConfigurationError,
    MethodNotAllowed,
    NotAcceptable,
    NotAuthenticated,
    NotFound,
    ParseError,
    PermissionDenied,
    PreconditionFailed,
    PreconditionRequired,
    ValidationError,
    did_you_mean,
)
from rowcast.identity import throttling
from rowcast.identity.authentication import BUILT_IN, identify, refusal
from rowcast.identity.permissions import (
    OPEN_TO_READERS,
    SAFE_METHODS,
    BasePermission,
    allowed,
    check_columns,
    checks_objects,
    refusing_part,
)
from rowcast.orm.bridge import spawn, wait
from rowcast.orm.model import Model, document, loaded, model, query_for
from rowcast.orm.queryset import QuerySet
from rowcast.query import conditions
from rowcast.query.conditions import Query, equals, total_order
from rowcast.query.pages import BETWEEN, FetchedPage, PageShape
from rowcast.query.projection import Projection, expand, with_all_columns
from rowcast.query.store import STORE, Store
from rowcast.resources.fields import Field
from rowcast.resources.resource import Resource, Resources
from rowcast.rest import actions, stream_action
from rowcast.rest.decorators import VERBS, collect, is_action
from rowcast.rest.etags import expected, known, tag_of_row
from rowcast.rest.filters import BaseFilterBackend, FieldFilter, OrderingFilter, SearchFilter
from rowcast.rest.options_method import describe
from rowcast.rest.pagination import Address, BasePagination, NoPagination, PageNumberPagination, Slice
from rowcast.rest.request import Request
from rowcast.rest.response import Response, encode, json_response
from rowcast.rest.serializers import CONTEXT, Serializer, has_hooks, serializer_for
from rowcast.rest.signatures import KEY_NAMES, Call, call_of
from rowcast.streams import hub

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MAX_PATHS: Final = 32  # of one ?expand=
MAX_DEPTH: Final = 8  # of each of them
PART: Final = re.compile(r"\{([^\W\d]\w*)(?::[^{}]*(?:\{[^{}]*\}[^{}]*)*)?\}")  # of an address: {name} or {name:regex}
READ_PARAMETERS: Final = ("fields", "expand")
STREAM_PARAMETERS: Final = ("fields", "snapshot", "last_event_id", "access_token")
STANDARD_ACTIONS: Final[Mapping[str, tuple[str, bool]]] = {  # action → method, and whether it is about one row
    "list": ("GET", False),
    "create": ("POST", False),
    "retrieve": ("GET", True),
    "update": ("PUT", True),
    "partial_update": ("PATCH", True),
    "destroy": ("DELETE", True),
}
READING_ACTIONS: Final = frozenset({"list", "retrieve"})
CHANGING_ACTIONS: Final = frozenset({"update", "partial_update", "destroy"})
RESERVED_ACTIONS: Final = frozenset({*STANDARD_ACTIONS, "stream", "metadata"})


Targets: TypeAlias = "tuple[tuple[type[GenericViewSet], str], ...]"


@dataclass(slots=True)
class Service:
    """What the viewsets of one service share.

    ``secret`` signs what the service hands out to get back; it is known once the service has started. ``permissions``
    and the like are the settings' classes, for viewsets that name none.
    """

    settings: Settings
    resources: Resources
    store: Store
    feed: Feed
    cache: Cache
    hub: hub.Hub
    permissions: tuple[type[BasePermission], ...]
    authenticators: tuple[type[Any], ...] = ()
    throttles: tuple[type[Any], ...] = ()
    secret: bytes = b""
    routes: dict[str, str] = field(default_factory=dict)  # name → path
    bound: dict[type[ViewSet], type[ViewSet]] = field(default_factory=dict)
    views: dict[str, type[GenericViewSet]] = field(
        default_factory=dict
    )  # resource → its own viewset, which is bound first

    def projections(self) -> dict[str, Projection]:
        """What each resource's own viewset shows of a row, which is also what others show of it."""
        return {name: view.serializer.shown for name, view in self.views.items()}

    def resolve_related(self) -> None:
        """Let every viewset show related rows as their own viewsets do, once all of them are bound."""
        for view in self.views.values():
            view._shown = view.shown_by(view.serializer)

    def may_expand(self, resource: str) -> bool:
        """Whether rows of a resource are shown to clients who ask for them beside others."""
        return resource in self.views and self.views[resource].read_by is not None


SERVICE: Final = web.AppKey("site", Service)


class ViewSet:
    """A class of actions. ``as_view`` makes a handler that maps methods to them."""

    authentication_classes: ClassVar[Sequence[type[Any]] | None] = None
    permission_classes: ClassVar[Sequence[type[BasePermission]] | None] = None
    throttle_classes: ClassVar[Sequence[type[Any]] | None] = None
    throttle_scope: ClassVar[str | None] = None

    service: ClassVar[Service]
    basename: str | None = None
    detail: bool | None = None
    suffix: str | None = None
    name: str | None = None
    description: str | None = None
    lookup_field: str | None = None
    lookup_url_kwarg: str | None = None
    lookup_value_regex: str | None = None
    action: str = ""
    action_map: Mapping[str, str] = {}

    _authenticators: ClassVar[list[Any]] = []
    _permissions: ClassVar[tuple[BasePermission, ...]] = ()
    _calls: ClassVar[dict[tuple[str, tuple[str, ...]], Call]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        collect(cls)
        for name, member in vars(cls).items():
            if is_action(member) and name in RESERVED_ACTIONS:
                raise ConfigurationError(
                    f"{cls.__name__}.{name}: {name!r} is a standard action and has its route; override it without @action"
                )
            if is_action(member) and any(name in vars(owner) for owner in cls.__mro__ if _is_ours(owner)):
                raise ConfigurationError(
                    f"{cls.__name__}.{name}: viewsets have an attribute {name!r} of their own; give the method another "
                    f"name and @action url_path={name!r}"
                )

    def __init__(self, **initkwargs: Any) -> None:
        self.__dict__.update(initkwargs)
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, str] = {}

    # --- routing

    @classmethod
    def as_view(cls, actions: Mapping[str, str] | None = None, **initkwargs: Any) -> Handler:
        """A handler that answers each method with an action: ``as_view({"get": "list", "post": "create"})``.

        ``initkwargs`` are attributes of the instance. Raises ``TypeError`` for arguments that make no sense.
        """
        if not actions:
            raise TypeError(f"{cls.__name__}.as_view() needs actions, such as as_view({{'get': 'list'}})")
        for verb, action in actions.items():
            if verb.lower() not in VERBS:
                raise TypeError(f"{verb!r} is no HTTP method; {did_you_mean(verb, VERBS)}")
            if not callable(getattr(cls, action, None)):
                raise TypeError(f"{cls.__name__} has no action {action!r}; {did_you_mean(action, actions_in(cls))}")
        for name in initkwargs:
            if name in VERBS or not hasattr(cls, name):
                hint = did_you_mean(
                    name, (*viewset_options.VIEWSET_OPTIONS, "name", "suffix", "description", "basename", "detail")
                )
                raise TypeError(f"{cls.__name__} has no attribute {name!r} to set; {hint}")
        if initkwargs.get("name") and initkwargs.get("suffix"):
            raise TypeError("a view has a name or a suffix, not both")
        action_map = {verb.upper(): action for verb, action in actions.items()}
        if "GET" in action_map:
            action_map.setdefault("HEAD", action_map["GET"])
        action_map.setdefault("OPTIONS", "metadata")

        served = cls.varied(initkwargs) if hasattr(cls, "service") else None
        reading = action_map.get("GET") in READING_ACTIONS

        async def view(http: web.Request) -> web.StreamResponse:
            bound = served or bound_in(http.app[SERVICE], cls).varied(initkwargs)
            if reading and http.method == "GET" and (known := bound._recall(http)) is not None:
                return known
            return await bound(action_map=action_map, **initkwargs).dispatch(http)

        vars(view).update(cls=cls, actions=actions, initkwargs=initkwargs)
        return view

    @classmethod
    def varied(cls, given: Mapping[str, Any]) -> type[Self]:
        """The viewset with other options, for one action."""
        return cls

    @classmethod
    def _recall(cls, http: web.Request) -> web.Response | None:
        """The answer to a request where that is known before anything is asked; ``None`` where it is not."""
        return None

    @classmethod
    def get_extra_actions(cls) -> list[Any]:
        """The methods that ``@action`` has marked."""
        return [member for _, member in inspect.getmembers(cls, is_action)]

    def reverse_action(
        self, url_name: str, *key: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> str:
        """The absolute address of an action of this viewset: ``reverse_action("set-password", args=["1"])``.

        ``LookupError`` names the routes there are, or the parts of the address that are missing.
        """
        args = (*key, *args)
        path = self.service.routes.get(f"{self.basename}-{url_name}")
        if path is None:
            own = [
                name.removeprefix(f"{self.basename}-")
                for name in self.service.routes
                if name.startswith(f"{self.basename}-")
            ]
            raise LookupError(f"{self.basename} has no route {url_name!r}; {did_you_mean(url_name, own)}")
        names = parts_of(path)
        given = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
        for other in KEY_NAMES:
            if other in given and other not in names and names:
                given[names[0]] = given.pop(other)
        if missing := [name for name in names if name not in given]:
            raise LookupError(f"{url_name!r} needs {', '.join(missing)}: pass args=[…] or kwargs={{…}}")
        for name in names:
            path = PART.sub(quote(str(given[name]), safe=""), path, count=1)  # which leaves no backslash
        return f"{site_url(self.service.settings, self.request.http)}{path}/"

    def get_extra_action_url_map(self) -> dict[str, str]:
        """The names and addresses of the extra actions beside the one at hand; none where ``detail`` is not known."""
        if self.detail is None:
            return {}
        found = {}
        for function in self.get_extra_actions():
            if function.detail == self.detail:
                name = function.kwargs.get("name") or function.kwargs.get("suffix") or function.__name__
                found[name] = self.reverse_action(function.url_name, kwargs=self.kwargs)
        return found

    # --- dispatch

    async def dispatch(self, http: web.Request) -> web.StreamResponse:
        """Answer one request: who is calling, may they, are they too fast; then the body, and the action."""
        STORE.set(self.service.store)
        self.kwargs = dict(http.match_info)
        request = self.request = self.initialize_request(http, **self.kwargs)
        if not self.action:
            raise MethodNotAllowed(http.method, self.action_map)
        if http.headers.get("Accept", "*/*") not in ("*/*", "application/json"):
            _check_accept(http.headers.getall("Accept"), stream=self.action == "stream")
        await self.initial(request)
        call = self._call()
        arguments = {name: self.kwargs[part] for name, part in call.arguments}
        handler = getattr(self, self.action)
        if call.own:
            return await self.finalize_response(await handler(request, **arguments))
        await self._read_body(request)
        if request.method in SAFE_METHODS:
            return await self._run(handler, request, arguments)
        async with self.service.store.database.transaction():
            if self.action in CHANGING_ACTIONS:
                await self.check_version()
            return await self._run(handler, request, arguments)

    def initialize_request(self, request: web.Request, *args: Any, **kwargs: Any) -> Request:
        """The request as handlers see it; sets ``action`` by its method."""
        self.action = self.action_map.get(request.method, "")
        return Request(request)

    async def initial(self, request: Request) -> None:
        """All that comes before the action."""
        await self.perform_authentication(request)
        await self.check_permissions(request)
        await self.check_throttles(request)

    async def _run(
        self, handler: Callable[..., Any], request: Request, arguments: dict[str, str]
    ) -> web.StreamResponse:
        return await self.finalize_response(await spawn(handler, request, **arguments))

    async def _read_body(self, request: Request) -> None:
        """Have ``request.data`` before a handler runs; without a body it is an empty object."""
        request.data = {}
        if request.method not in SAFE_METHODS and request.http.can_read_body:
            await request.read_json()

    def _call(self) -> Call:
        """How the action's handler is called at this address."""
        key = (self.action, tuple(self.kwargs))
        known = type(self)._calls
        if key not in known:
            known[key] = call_of(type(self), self.action, key[1], self._key_name())
        return known[key]

    def _key_name(self) -> str | None:
        name = self.lookup_url_kwarg or "id"
        return name if name in self.kwargs else None

    async def finalize_response(self, result: Any) -> web.StreamResponse:
        """The response of what a handler returned: data, ``(data, status)``, ``None``, a row, a query set, a response."""
        if isinstance(result, web.StreamResponse):
            return result
        status, headers = None, None
        if isinstance(result, Response):
            result, status, headers = result.data, result.status, result.headers
        elif isinstance(result, tuple) and len(result) in (2, 3) and isinstance(result[1], int):
            result, status, headers = (*result, None)[:3]
        if isinstance(result, QuerySet):
            result = await result
        if result is None and status in (None, HTTPStatus.NO_CONTENT):
            return web.Response(status=HTTPStatus.NO_CONTENT, headers=headers)
        return json_response(await spawn(self._encode, result), status or HTTPStatus.OK, headers)

    def _encode(self, result: Any) -> bytes:
        """The JSON of what a handler returned."""
        return encode(result, self.serialize)

    def serialize(self, row: Any) -> Any:
        """A row as a dictionary of its JSON."""
        if isinstance(row, Model):
            return document(self.service.resources, row)
        raise TypeError(f"{type(row).__name__} has no JSON form: return data, a Response or an aiohttp response")

    # --- policies

    def get_authenticators(self) -> list[Any]:
        """The authentication classes' instances, in the order in which they are asked."""
        classes = self.authentication_classes
        if classes is type(self).authentication_classes:
            return self._authenticators
        return [authenticator() for authenticator in classes or ()]

    def get_permissions(self) -> Sequence[BasePermission]:
        """The permissions that must all agree to this action."""
        classes = self.permission_classes
        if classes is type(self).permission_classes:
            return self._permissions
        return [permission() for permission in classes or ()]

    def get_throttles(self) -> list[Any]:
        """The throttles that count this request."""
        return [throttle() for throttle in self.throttle_classes or ()]

    async def perform_authentication(self, request: Request) -> None:
        """Find out who is calling; bad credentials are an error even where none are needed."""
        await identify(request, _instances(self.get_authenticators()), stream=self.action == "stream")

    async def check_permissions(self, request: Request) -> None:
        """Raise ``PermissionDenied``, or ``NotAuthenticated`` for a caller without credentials, unless all agree."""
        for permission in _instances(self.get_permissions()):
            if not await allowed(permission.has_permission(request, self)):
                self.permission_denied(request, await refusing_part(permission, request, self))

    async def check_object_permissions(self, request: Request, row: Any) -> None:
        """The same for one row."""
        for permission in _instances(self.get_permissions()):
            if not await allowed(permission.has_object_permission(request, self, row)):
                self.permission_denied(request, await refusing_part(permission, request, self, row))

    async def check_throttles(self, request: Request) -> None:
        """Count the request, and raise ``Throttled`` if there were too many."""
        if throttles := _instances(self.get_throttles()):
            await throttling.check(request, self, throttles)

    def permission_denied(self, request: Request, permission: BasePermission) -> None:
        """Refuse, in the words of the permission."""
        raise refusal(request, _instances(self.get_authenticators()), permission.message, permission.code)

    async def check_version(self) -> None:
        """Raise ``PreconditionFailed`` unless the row that is to be changed is as the client knows it."""

    async def metadata(self, request: Request, **kwargs: str) -> web.Response:
        """``OPTIONS``: what this address is and takes."""
        body: dict[str, Any] = {"name": self.name or type(self).__name__, "description": self._description()}
        body["methods"] = sorted(self.action_map)
        return json_response(orjson.dumps(body), headers={"Allow": ", ".join(sorted(self.action_map))})

    def _description(self) -> str:
        return inspect.cleandoc(self.description or type(self).__doc__ or "")

    # --- binding

    @classmethod
    def hooked(cls, name: str) -> bool:
        """Whether a user's class overrides a method of the service's."""
        return not getattr(cls, name).__module__.startswith("rowcast.")

    @classmethod
    def bind(cls, service: Service) -> type[Self]:
        """The subclass that serves a site."""
        bound = cls._served_by(service)
        bound._set_policies()
        return bound

    @classmethod
    def _served_by(cls, service: Service) -> type[Self]:
        members: dict[str, Any] = {
            "__doc__": cls.__doc__,
            "__module__": cls.__module__,
            "service": service,
            "_calls": {},
        }
        served: type[Self] = type(cls.__name__, (cls,), members)
        return served

    @classmethod
    def _set_policies(cls) -> None:
        """Make the policies and check the throttles, once every option has its value."""
        if cls.permission_classes is None:
            cls.permission_classes = cls.service.permissions
        if cls.authentication_classes is None:
            cls.authentication_classes = cls.service.authenticators
        if cls.throttle_classes is None:
            cls.throttle_classes = cls.service.throttles
        cls._permissions = tuple(permission() for permission in cls.permission_classes)
        cls._authenticators = [authenticator() for authenticator in cls.authentication_classes]
        throttling.check_rates(cls.throttle_classes, cls, cls.service.settings.throttle.rates)


ViewSetMixin = ViewSet  # its as_view is here the only one


class InstancePage(list[Any]):
    """The rows of a page. Awaiting it gives itself, so ``paginate_queryset`` may be called with or without ``await``."""

    def __await__(self) -> Generator[Any, Any, Self]:
        return self
        yield


class GenericViewSet(ViewSet):
    """A viewset over the rows of a resource; its options are those of the two reference pages."""

    model: ClassVar[type[Model] | None] = None
    queryset: ClassVar[QuerySet[Any] | None] = None
    serializer_class: ClassVar[type[Serializer] | None] = None
    list_serializer_class: ClassVar[type[Serializer] | None] = None
    filter_backends: ClassVar[Sequence[type[BaseFilterBackend]]] = (FieldFilter, SearchFilter, OrderingFilter)
    filterset_fields: ClassVar[Any] = {}
    search_fields: ClassVar[Sequence[str]] = ()
    ordering_fields: ClassVar[Sequence[str]] = ()
    ordering: ClassVar[Sequence[str]] = ()
    page_size: ClassVar[int] = 20
    max_page_size: ClassVar[int] = 100
    pagination_class: ClassVar[type[BasePagination] | None] = PageNumberPagination
    select_related: ClassVar[Sequence[str]] = ()
    prefetch_related: ClassVar[Sequence[str]] = ()
    allowed_actions: ClassVar[Sequence[str] | None] = None
    excluded_actions: ClassVar[Sequence[str]] = ()
    stream_enabled: ClassVar[bool] = True
    count: ClassVar[str] = "exact"
    strict_query: ClassVar[bool] = True
    cache: ClassVar[str] = "counts"
    require_if_match: ClassVar[bool] = False

    # made by bind_to
    resource: ClassVar[Resource]
    paginator: ClassVar[BasePagination]
    _filters: ClassVar[tuple[BaseFilterBackend, ...]]
    _known: ClassVar[Mapping[str, frozenset[str]]]
    _patterns: ClassVar[tuple[str, ...]]  # the parameters that are regular expressions
    serializer: ClassVar[Serializer]
    _shown: ClassVar[Projection]  # of a row, by default
    _projected: ClassVar[_lru_cache_wrapper[Projection]]  # (shown, fields, expand) → what is shown
    _seeing: ClassVar[
        _lru_cache_wrapper[Projection]
    ]  # (shown, relations) → what Python reads: also what the options name
    _targeted: ClassVar[_lru_cache_wrapper[Targets]]  # (shown, expand) → who else has a say in it
    read_by: ClassVar[str | None]  # the action that shows any row to who may run it; none where rows are told apart
    asks_about_objects: ClassVar[bool]  # whether Python has a say about single rows
    finds_objects: ClassVar[bool]  # whether a user's ``get_object`` does it
    native_filters: ClassVar[bool]  # whether the query string is read without Python of the user's
    simple_writes: ClassVar[bool]  # whether a valid body is all that creating and updating take
    _open: ClassVar[bool]  # whether an address shows the same to everybody, without credentials, and answers are kept
    _key: ClassVar[Field]  # what the address names a row by
    _everything: ClassVar[Query | None]  # the scope, where it is all rows
    _generated: ClassVar[type[Serializer]]
    _serializers: ClassVar[dict[type[Serializer], Serializer]]

    @classmethod
    def bind_to(cls, service: Service, resource: Resource, given: Mapping[str, Any]) -> type[Self]:
        """The subclass that serves a resource: with the config's options, and with all that requests share made.

        ``ConfigurationError`` says what is wrong with the class's attributes and handlers.
        """
        bound = cls._served_by(service)
        for name, value in {**class_options(cls, service.resources, resource, given), **given}.items():
            setattr(bound, name, value)
        bound.resource = resource
        bound.model = model(resource.name)
        bound._generated = serializer_for(service.resources, resource, bound.model)
        bound._serializers = {}
        for name in ("serializer_class", "list_serializer_class"):
            own = getattr(bound, name)
            if own is not None and (named := own.opts.model) is not None and named.resource() is not resource:
                told = f"{own.__name__} is of {named.resource().name}, not of {resource.name}"
                raise ConfigurationError(f"{cls.__name__}.{name}: {told}")
        bound._prepare(sized="page_size" in given, limited="max_page_size" in given)
        service.views.setdefault(resource.name, bound)
        return bound

    @classmethod
    def varied(cls, given: Mapping[str, Any]) -> type[Self]:
        """The viewset with other options, for one action: ``@action(…, filter_backends=[…])``."""
        found = {name: value for name, value in given.items() if name in viewset_options.VIEWSET_OPTIONS}
        if not found:
            return cls
        plain = {name: value for name, value in found.items() if name not in _CLASSES}
        changed: type[Self] = type(
            cls.__name__, (cls,), {**found, "__module__": cls.__module__, "__doc__": cls.__doc__}
        )
        checked = class_options(changed, cls.service.resources, cls.resource, {}, only=plain)
        for name, value in checked.items():
            setattr(changed, name, value)
        changed._calls, changed._serializers = {}, {}
        changed._prepare(sized="page_size" in found, limited="max_page_size" in found)
        return changed

    @classmethod
    def _prepare(cls, *, sized: bool, limited: bool) -> None:
        """Make what requests share; ``sized`` and ``limited`` if page sizes are set where they beat the paginator's."""
        service = cls.service
        cls._set_policies()
        for permission in cls._permissions:
            try:
                check_columns(permission, cls.resource.columns)
            except ConfigurationError as error:
                raise ConfigurationError(f"{cls.__module__}.{cls.__name__}.permission_classes: {error}") from None
        by_hand = ("get_permissions", "check_object_permissions", "get_object")
        cls.asks_about_objects = any(map(checks_objects, cls._permissions)) or any(map(cls.hooked, by_hand))
        cls.finds_objects = cls.hooked("get_object")
        cls._key = service.resources.resolve(cls.resource.name, cls.lookup_field or cls.resource.key.name).values
        cls.serializer = cls.bound_serializer(cls.serializer_class or cls._generated)
        cls._shown = cls.shown_by(cls.serializer)
        pagination = cls.pagination_class or NoPagination
        cls.paginator = pagination(
            service.resources,
            pagination.page_size if pagination.page_size and not sized else cls.page_size,
            pagination.max_page_size if pagination.max_page_size and not limited else cls.max_page_size,
            lambda: service.secret,
        )
        cls._filters = tuple(backend.for_view(cls) for backend in cls.filter_backends)
        cls._patterns = tuple(name for backend in cls._filters for name in backend.patterns())
        narrowing = {name for backend in cls._filters for name in backend.parameters() if not backend.sorts}
        sorting = {name for backend in cls._filters for name in backend.parameters() if backend.sorts}
        cls._known = {
            "list": frozenset({*narrowing, *sorting, *READ_PARAMETERS, *cls.paginator.parameters}),
            "retrieve": frozenset(READ_PARAMETERS),
            "stream": frozenset({*narrowing, *STREAM_PARAMETERS}),
        }
        cls._projected = staticmethod(lru_cache(maxsize=256)(cls._project))  # type: ignore[assignment]
        cls._seeing = staticmethod(lru_cache(maxsize=256)(cls._see))  # type: ignore[assignment]
        cls._targeted = staticmethod(lru_cache(maxsize=256)(cls._targets))  # type: ignore[assignment]
        hooks = ("perform_create", "perform_update", "get_serializer_class", "get_serializer", "get_serializer_context")
        own_saving = any(
            getattr(type(cls.serializer), name) is not getattr(Serializer, name)
            for name in ("create", "update", "save")
        )
        cls.simple_writes = (
            cls.serializer.plain
            and not own_saving
            and not any(hasattr(cls, name) and cls.hooked(name) for name in hooks)
        )
        cls.native_filters = all(backend.native for backend in cls._filters) and not cls.hooked("filter_queryset")
        plain_scope = not cls.hooked("get_queryset") and cls.queryset is None
        cls._everything = Query(cls.resource.name) if plain_scope else None
        cls.read_by = cls._read_by()
        cls._open = (
            cls.cache == "responses"
            and plain_scope
            and cls.native_filters
            and all(type(permission) in OPEN_TO_READERS for permission in cls._permissions)
            and all(type(authenticator) in BUILT_IN for authenticator in cls._authenticators)
            and not cls.throttle_classes
            and not any(map(cls.hooked, _methods(cls)))
        )

    @classmethod
    def _read_by(cls) -> str | None:
        """``read_by``: unless a scope, a permission about rows or Python of the user's may keep some of them back."""
        reading = next((name for name in ("retrieve", "list") if hasattr(cls, name) and allows(cls, name)), None)
        by_hand = ("get_queryset", "get_object", "check_object_permissions", "get_serializer_class", reading or "")
        scoped = cls.queryset is not None and bool(cls.queryset.query.where)
        told_apart = (
            scoped
            or not cls.native_filters
            or has_hooks(type(cls.serializer))
            or (not cls.hooked("get_permissions") and any(map(checks_objects, cls._permissions)))
            or any(map(cls.hooked, filter(None, by_hand)))
        )
        return None if told_apart else reading

    # --- rows

    def get_queryset(self) -> QuerySet[Any]:
        """The rows that this viewset is about: its scope for every action and for the stream."""
        if self.queryset is not None:
            return self.queryset.all()
        assert self.model is not None
        rows: QuerySet[Any] = self.model.objects
        return rows

    async def dispatch(self, http: web.Request) -> web.StreamResponse:
        token = CONTEXT.set(self._context)
        try:
            return await super().dispatch(http)
        finally:
            CONTEXT.reset(token)

    async def get_scope(self) -> Query:
        """The scope as a query."""
        return self._everything or (await self._scope()).query

    async def _scope(self) -> QuerySet[Any]:
        """What ``get_queryset`` gives, which may be a coroutine."""
        rows: Any = await spawn(self.get_queryset)
        if not isinstance(rows, QuerySet):
            raise TypeError(f"{type(self).__name__}.get_queryset() must return a query set, not {type(rows).__name__}")
        rows.unsliced("what a viewset is about")
        return rows

    def filter_queryset(self, rows: Any) -> Any:
        """The query set with what the query string asks for."""
        given = self.request.query_params
        query = rows if isinstance(rows, Query) else Query(self.resource.name)
        for backend in self._filters:
            if not backend.native and isinstance(rows, QuerySet):
                rows = backend.filter_queryset(self.request, rows, self)
            elif not backend.native:
                raise TypeError(f"{type(backend).__name__} needs a query set")
            else:
                query = backend.apply(query, given)
        return query if isinstance(rows, Query) else rows.narrowed(query)

    async def get_list_query(self) -> Query:
        """The scope narrowed and sorted by the query string."""
        if self.native_filters:
            query: Query = self.filter_queryset(await self.get_scope())
        else:
            query = (await spawn(self.filter_queryset, await self._scope())).query
        return query if query.order else query.sort(total_order(self.resource, self.ordering))

    async def get_object_query(self, key: Any = None) -> Query:
        """The query for the row that the URL, or ``key``, names, within the scope; ``NotFound`` if it names none."""
        return self.get_row_query(self._everything or (await self._scope()).query, key)

    def get_row_query(self, scope: Query, key: Any = None) -> Query:
        """The row of a query that the URL, or ``key``, names; ``NotFound`` if it names none."""
        text = str(self.kwargs[self.lookup_url_kwarg or "id"] if key is None else key)
        try:
            value = self._key.field_type.parse(self._key, text)
        except ValueError:
            raise NotFound() from None
        path = self.lookup_field or self.resource.key.name
        return scope.restrict(equals(path, self._key, value))

    async def get_object(self, id: Any = None) -> Any:
        """The row that the URL, or ``id``, names, within the scope and with its related rows; ``NotFound`` if none.

        Object permissions are asked.
        """
        query = await self.get_object_query(id)
        seen = self._seeing(self._shown, query.expand)
        found = await self.service.store.one(query, seen)
        if found is None:
            raise NotFound()
        row = self._instance(found.body, seen)
        await self.check_object_permissions(self.request, row)
        return row

    def _instance(self, document: bytes, seen: Projection) -> Model:
        """The row of a JSON document that has all columns."""
        assert self.model is not None
        return self.model.from_document(self.service.resources, seen, document)

    # --- what is shown

    def get_serializer_class(self) -> type[Serializer]:
        """The serializer of this action."""
        if self.action in ("list", "stream") and self.list_serializer_class is not None:
            return self.list_serializer_class
        return self.serializer_class or self._generated

    def get_serializer_context(self) -> dict[str, Any]:
        """What a serializer of this viewset finds in its ``context``."""
        return {"request": self.request, "view": self}

    def _context(self) -> dict[str, Any]:
        """The context of this request, which is made once."""
        if self._made_context is None:
            self._made_context = self.get_serializer_context()
        return self._made_context

    _made_context: dict[str, Any] | None = None

    def get_serializer(self, *args: Any, **kwargs: Any) -> Serializer:
        """A serializer of this action: ``get_serializer(rows, many=True).data``, ``get_serializer(data=…)``."""
        kwargs.setdefault("context", self.get_serializer_context())
        return self._own(self.get_serializer_class())(*args, **kwargs)

    def current_serializer(self) -> Serializer:
        """The serializer of this action, which requests share."""
        return self.bound_serializer(self.get_serializer_class())

    @classmethod
    def bound_serializer(cls, serializer: type[Serializer]) -> Serializer:
        """One instance of a serializer for this resource."""
        if serializer not in cls._serializers:
            cls._serializers[serializer] = cls._own(serializer).shared()
        return cls._serializers[serializer]

    @classmethod
    def _own(cls, serializer: type[Serializer]) -> type[Serializer]:
        """A serializer of this service: of its model's resource, or of this one if it has no model."""
        if serializer.resource is not None:
            return serializer
        named = serializer.opts.model
        return serializer.bound_to(cls.service.resources, named.resource() if named else cls.resource)

    @classmethod
    def shown_by(cls, serializer: Serializer) -> Projection:
        """What a serializer shows of a row, related rows of the viewset's options included."""
        related = serializer.related
        if related is None:
            related = (*cls.select_related, *cls.prefetch_related)
        return expand(cls.service.resources, serializer.shown, tuple(related), cls.service.projections())

    @classmethod
    def _project(cls, shown: Projection, fields: str, added: str) -> Projection:
        if added:
            shown = expand(cls.service.resources, shown, _paths(added), cls.service.projections())
        return shown.only(_names(fields)) if fields else shown

    @classmethod
    def _targets(cls, shown: Projection, expand: str) -> Targets:
        """The viewsets whose rows ``?expand=`` adds to what is shown, each with a path that leads to them.

        ``ParseError`` for a path to rows that only their own viewset may show.
        """
        found: dict[type[GenericViewSet], str] = {}
        for path in _paths(expand):
            here, seen = shown.resource, dict(shown.related)
            for step in path.split("__"):
                relation = cls.service.resources.relations(here).get(step)
                if relation is None:
                    break  # ``project`` says so
                here = relation.target
                if step not in seen:
                    found.setdefault(cls.service.views[here], path)
                seen = dict(seen[step].related) if step in seen else {}
        for view, path in found.items():
            if view.read_by is None:
                raise _own_rows(view, path)
        return tuple(found.items())

    async def check_expansions(self, request: Request) -> None:
        """Refuse an ``?expand=`` to rows that their own viewset would not show this caller.

        What the options of this viewset always show is not asked about.
        """
        if "expand" not in self._known.get(self.action, ()) or not request.query_params.get("expand"):
            return
        shown = self._shown_anyway(self.current_serializer())
        for view, path in self._targeted(shown, request.query_params["expand"]):
            await view.check_reader(self, request, path)

    @classmethod
    async def check_reader(cls, asking: GenericViewSet, request: Request, path: str) -> None:
        """Refuse a request that another viewset gets unless its caller may read any row here."""
        view = cls(action=cls.read_by, detail=cls.read_by == "retrieve", request=request)
        try:
            if not cls._knows_callers_as(type(asking)):
                view.request = request = Request(request.http)
                await view.perform_authentication(request)
            if any(map(checks_objects, _instances(view.get_permissions()))):
                raise _own_rows(cls, path)
            await view.check_permissions(request)
        except (NotAuthenticated, AuthenticationFailed, PermissionDenied) as error:
            error.detail = f"expand: {path}: {error.detail}"
            raise

    @classmethod
    def _knows_callers_as(cls, other: type[GenericViewSet]) -> bool:
        """Whether both viewsets authenticate in the same way."""
        return (cls.authentication_classes, cls.get_authenticators, cls.perform_authentication) == (
            other.authentication_classes,
            other.get_authenticators,
            other.perform_authentication,
        )

    @classmethod
    def _see(cls, shown: Projection, relations: tuple[str, ...]) -> Projection:
        related = (*cls.select_related, *cls.prefetch_related, *relations)
        return with_all_columns(cls.service.resources, expand(cls.service.resources, shown, related))

    def get_seen(self, serializer: Serializer, query: Query, given: Mapping[str, str]) -> Projection:
        """What of a row is read for Python to look at, whatever part of it ``?fields=`` shows."""
        return self._seeing(self.get_projection(serializer, {"expand": given.get("expand", "")}), query.expand)

    def _shown_anyway(self, serializer: Serializer) -> Projection:
        """What is shown of a row by default."""
        return self._shown if serializer is self.serializer else self.shown_by(serializer)

    def get_projection(self, serializer: Serializer, given: Mapping[str, str]) -> Projection:
        """What is shown of a row: by default, cut by ``?fields=`` and grown by ``?expand=``."""
        shown = self._shown_anyway(serializer)
        if not given:
            return shown
        fields = given.get("fields", "")
        if fields and not serializer.plain:
            made = {name for name, each in serializer.fields.items() if not each.load_only}
            made -= {*shown.columns, *dict(shown.related)}
            fields = ",".join(name for name in _names(fields) if name not in made)
        return self._projected(shown, fields, given.get("expand", ""))

    def _present(self, serializer: Serializer, row: Model, shown: Projection) -> dict[str, Any]:
        """A row as a serializer with Python in it shows it, and related rows besides."""
        data: dict[str, Any] = serializer.dump(row)
        related = {name: inner for name, inner in shown.related if name not in data}
        return {**data, **document(self.service.resources, row, Projection(shown.resource, (), tuple(related.items())))}

    def serialize(self, row: Any) -> Any:
        """A row as ``retrieve`` shows it, as a dictionary. Related rows that are not loaded are, inside a handler."""
        if not isinstance(row, Model):
            return super().serialize(row)
        if row.resource().name != self.resource.name:
            return document(self.service.resources, row)
        serializer = self.current_serializer()
        shown = self.get_projection(serializer, self._asked())
        self._complete([row], shown)
        return self._only(self._show(serializer, row, shown), self._asked())

    def _complete(self, rows: Sequence[Model], shown: Projection) -> None:
        """Read for rows at once which of the related rows that they are shown with are not there."""
        missing = [
            path for path in self._paths_of(shown) if not all(loaded(row, path.partition("__")[0]) for row in rows)
        ]
        if missing:
            wait(QuerySet(type(rows[0])).prefetch_related(*missing).attach(rows))

    def _paths_of(self, shown: Projection) -> tuple[str, ...]:
        """The relations that are shown, and those of the options, which Python may read."""
        return (*(name for name, _ in shown.related), *self.select_related, *self.prefetch_related)

    def _encode(self, result: Any) -> bytes:
        if isinstance(result, list | tuple):
            rows = [row for row in result if isinstance(row, Model) and row.resource().name == self.resource.name]
            if rows:
                self._complete(rows, self.get_projection(self.current_serializer(), self._asked()))
        return super()._encode(result)

    def _show(self, serializer: Serializer, row: Model, shown: Projection) -> dict[str, Any]:
        """A row as a serializer shows it."""
        return (
            document(self.service.resources, row, shown) if serializer.plain else self._present(serializer, row, shown)
        )

    def _only(self, data: dict[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
        """The part of what is shown that ``?fields=`` asks for."""
        if not given.get("fields"):
            return data
        names = _names(given["fields"])
        return {name: value for name, value in data.items() if name in names}

    def _pieces(
        self, serializer: Serializer, documents: Iterable[bytes], seen: Projection, shown: Projection, given: Any
    ) -> list[bytes]:
        """The JSON of each row of a page as a serializer shows it."""
        return [self._json(serializer, self._instance(document, seen), shown, given) for document in documents]

    def _json(self, serializer: Serializer, row: Model, shown: Projection, given: Mapping[str, str]) -> bytes:
        """The JSON of a row as a serializer shows it, cut by ``?fields=``."""
        return encode(self._only(self._show(serializer, row, shown), given), self.serialize)

    async def _write(
        self, hook: Callable[[Serializer], Any], serializer: Serializer, status: HTTPStatus
    ) -> web.Response:
        """Save a body by way of a ``perform_…`` hook, in a transaction; the row as ``retrieve`` shows it."""
        serializer.is_valid(raise_exception=True)
        async with self.service.store.database.transaction():
            await spawn(hook, serializer)
            row = serializer.instance
            shows = self.current_serializer()
            shown = self.get_projection(shows, {})
            await QuerySet(type(row)).prefetch_related(*self._paths_of(shown)).attach([row])
            body = await spawn(self._json, shows, row, shown, {})
            tag = self.get_tag(await self.get_version(row), body)
        if status != HTTPStatus.CREATED:
            return json_response(body, status, tag)
        key = row.pk if self.lookup_field is None else getattr(row, self.lookup_field)
        return json_response(body, status, {"Location": self.get_location(str(key)), **tag})

    def _asked(self) -> dict[str, str]:
        """What the query string asks to be shown, for the actions that read it."""
        if self.action not in self._known:
            return {}
        return {name: text for name, text in self.request.query_params.items() if name in READ_PARAMETERS}

    # --- pages

    async def _page(self, rows: Any) -> InstancePage | None:
        if self.pagination_class is None:
            return None
        query = rows if isinstance(rows, Query) else rows.query
        if not query.order:
            query = query.sort(total_order(self.resource, self.ordering))
        seen = self.get_seen(self.current_serializer(), query, self._asked())
        part = self.paginator.slice(query, seen, self.count, self.request.query_params)
        found = await self.read_page(query, part)
        page = InstancePage(self._instance(document, seen) for document in found.documents)
        self._paged = part, query, found
        return page

    async def read_page(self, query: Query, part: Slice) -> FetchedPage:
        """A page of a query; its count is the one that is known, where the cache has it."""
        store, cache = self.service.store, self.service.cache
        if part.page.count != "exact" or self.cache == "off" or not self.may_be_cached():
            return await store.page(query, part.page, part.values)
        reads = store.queries.reads(query.resource, query.shape)
        if reads is None:
            return await store.page(query, part.page, part.values)
        key = ("count", query.unsorted())
        if (known := await cache.wait_for(key)) is not None:
            rows = await store.page(query, _uncounted(part.page), part.values)
            return replace(rows, count=part.count(rows.size, known))
        with cache.loading(key, reads) as since:
            rows = await store.page(query, part.page, part.values)
            cache.put(key, rows.count, since=since, resources=reads, size=query.size)
        return rows

    @classmethod
    def _recall(cls, http: web.Request) -> web.Response | None:
        """What is kept for an address that is open: nobody has to be asked who is calling."""
        if not cls._open or not _is_plain(http):
            return None
        kept = cls.service.cache.get(cls._place_of(http))
        return None if kept is None else cls._answer(http, *kept, stands=True)

    @classmethod
    def _place_of(cls, http: web.Request) -> tuple[type, str, str]:
        """Where the answer of an address is kept, which has links to others of the same origin."""
        return cls, http.raw_path, site_url(cls.service.settings, http)

    def _place(self, serializer: Serializer, query: Query) -> Hashable:
        """Where the answer to this request is kept: by its address alone if that is open; ``None`` where it is not.

        With ``?expand=`` others have a say in it, whose rows may be shown to this caller and to no other.
        """
        if self.cache != "responses" or not serializer.plain or not self.may_be_cached():
            return None
        http = self.request.http
        place = self._place_of(http)
        if self._open and self.action in READING_ACTIONS and http.method == "GET" and "expand" not in http.query:
            return place
        return (*place, self.action, serializer, query)

    def may_be_cached(self) -> bool:
        """Whether this request may be answered from memory: not for a client, or a transaction, that wants it newest."""
        asked = self.request.headers.get("Cache-Control")
        return (asked is None or "no-cache" not in asked.lower()) and not self.service.store.database.in_transaction

    def get_dependencies(self, query: Query, shown: Projection, reads: frozenset[str]) -> dict[str, Any]:
        """What an answer about a row depends on: that row alone, or the resources that were read."""
        value = query.where[-1].values[0]
        alone = self._everything is not None and self.lookup_field is None and not shown.related
        if alone and isinstance(value, UUID | int | str):
            return {"resources": (), "row": (self.resource.name, str(value))}
        return {"resources": reads}

    def paginate_queryset(self, rows: Any) -> Any:
        """The rows of the page that the query string asks for, or ``None`` without pagination.

        With or without ``await``, inside a handler.
        """
        return wait(self._page(rows))

    def get_paginated_response(self, data: Sequence[Any]) -> Response:
        """The envelope of the page that ``paginate_queryset`` has read, around these data."""
        part, query, found = self._paged
        shown = replace(found, results=BETWEEN.join(encode(item, self.serialize) for item in data))
        body = self.paginator.body(part, query, shown, self.get_address())
        return Response(orjson.Fragment(body), headers=self.get_position(found.snapshot))

    _paged: tuple[Slice, Query, Any]

    # --- requests

    async def get_request_data(self, request: Request) -> dict[str, Any]:
        """A copy of the body, which must be an object."""
        if not isinstance(request.data, dict):
            raise ValidationError("The body must be a JSON object.")
        return dict(request.data)

    def validate_data(self, data: Any, *, partial: bool | None = None) -> dict[str, Any]:
        """The values of a body as Python has them; ``ValidationError`` has the messages of every field."""
        if partial is None:
            partial = self.action == "partial_update"
        updating = self.action in ("update", "partial_update")
        return self.current_serializer().validate_body(data, partial=partial, updating=updating)

    def check_parameters(self, given: Mapping[str, str]) -> None:
        """Refuse a parameter that nothing here reads, unless ``strict_query`` is off."""
        known = self._known[self.action]
        if self.strict_query and not given.keys() <= known:
            name = next(name for name in given if name not in known)
            hint = did_you_mean(name, sorted(known))
            raise ParseError(f"{name[:50]}: unknown parameter; {hint}", code="unknown_parameter")

    async def initial(self, request: Request) -> None:
        await super().initial(request)
        await self.check_expansions(request)

    async def _run(
        self, handler: Callable[..., Any], request: Request, arguments: dict[str, str]
    ) -> web.StreamResponse:
        if self.action in self._known:
            self.check_parameters(request.query_params)
        return await super()._run(handler, request, arguments)

    def get_address(self) -> Address:
        """The absolute address of this list, for the links to its other pages."""
        origin = site_url(self.service.settings, self.request.http)
        kept = tuple(each for each in self.request.query_params.items() if each[0] != "access_token")
        return Address(origin + self.request.http.rel_url.raw_path, kept)

    def get_location(self, key: str) -> str:
        """The absolute address of a row, beside the list that it was created in."""
        path = self.request.http.rel_url.raw_path.rstrip("/")
        return f"{site_url(self.service.settings, self.request.http)}{path}/{quote(key, safe='')}/"

    # --- versions

    def expected_versions(self) -> tuple[str, ...] | None:
        """The versions of the row that the client wants to change, by ``If-Match``; ``None`` is any."""
        if self.require_if_match and "If-Match" not in self.request.headers:
            raise PreconditionRequired()
        return expected(self.request.http)

    async def check_version(self) -> None:
        """Keep the row as it is for the transaction; ``PreconditionFailed`` unless it is as the client knows it."""
        if (versions := self.expected_versions()) is not None:
            query = await self.get_object_query()
            if not await self.service.store.lock(conditions.unchanged(query, versions)):
                raise await self._refused(query, versions)

    async def _refused(self, query: Query, versions: tuple[str, ...] | None) -> ApiError:
        """Why there is no such row: it has another version, or is not there."""
        there = versions is not None and await self.service.store.one(query, Projection(self.resource.name, ()))
        return PreconditionFailed() if there else NotFound()

    async def get_version(self, row: Any) -> str | None:
        """The version of a row, if it is one of this resource."""
        if not isinstance(row, Model) or row.resource().name != self.resource.name:
            return None
        found = await self.service.store.one(query_for(row), Projection(self.resource.name, ()))
        return None if found is None else found.version

    def get_tag(self, version: str | None, body: bytes) -> dict[str, str]:
        """The header that names what ``retrieve`` shows of a row by default; none where the version is not known."""
        if version is None:
            return {}
        serializer = self.current_serializer()
        shown = self.get_projection(serializer, {})
        return {"ETag": tag_of_row(version, shown, None if serializer.plain and not shown.related else body)}

    @classmethod
    def _answer(cls, http: web.Request, body: bytes, tag: str, snapshot: str, *, stands: bool = False) -> web.Response:
        """What was read; without the body for a client that has it. ``stands`` if nothing has changed since."""
        headers = {"ETag": tag, **cls.get_position(snapshot)}
        if stands and len(headers) == 1:
            headers["X-Stream-Position"] = str(cls.service.feed.head)
        if known(http, tag):
            return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        return json_response(body, headers=headers)

    @classmethod
    def get_position(cls, snapshot: str) -> dict[str, str]:
        """The header that says where a stream goes on from what a statement saw."""
        position = cls.service.feed.stream_position(snapshot)
        return {} if position is None else {"X-Stream-Position": position}

    async def metadata(self, request: Request, **kwargs: str) -> web.Response:
        return json_response(orjson.dumps(describe(self)), headers={"Allow": ", ".join(sorted(self.action_map))})


class ReadOnlyModelViewSet(
    actions.RetrieveModelMixin, actions.ListModelMixin, stream_action.StreamMixin, GenericViewSet
):
    """``list``, ``retrieve`` and the stream."""


class ModelViewSet(
    actions.CreateModelMixin,
    actions.RetrieveModelMixin,
    actions.UpdateModelMixin,
    actions.DestroyModelMixin,
    actions.ListModelMixin,
    stream_action.StreamMixin,
    GenericViewSet,
):
    """All six actions, and the stream of what they and everybody else change."""


_CLASSES: Final = frozenset(
    {
        "serializer_class", "list_serializer_class", "permission_classes", "authentication_classes", "throttle_classes",
        "filter_backends", "pagination_class",
    }
)  # fmt: skip


def class_options(
    cls: type[GenericViewSet],
    resources: Resources,
    resource: Resource,
    given: Mapping[str, Any],
    only: Iterable[str] = viewset_options.VIEWSET_OPTIONS,
) -> dict[str, Any]:
    """The options, or ``only`` some, that a class sets as attributes, checked as the config's and in the same form.

    ``given`` are the config's, which come before them.
    """
    problems = list(_near_misses(cls))
    found: dict[str, Any] = {}
    for name in only:
        value = getattr(cls, name, None)
        if name in given or value is getattr(GenericViewSet, name, None) or name in _CLASSES:
            continue
        try:
            found[name] = viewset_options.read(name, value)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    extra = [function.__name__ for function in cls.get_extra_actions()]
    for path, message in viewset_options.check(resources, resource.name, {**found, **given}, extra):
        problems.append(f"{'.'.join(map(str, path))}: {message}")
    if problems:
        raise ConfigurationError("\n".join(f"{cls.__module__}.{cls.__name__}.{problem}" for problem in problems))
    return viewset_options.normalize(resources, resource.name, found)


def _near_misses(cls: type[GenericViewSet]) -> Iterator[str]:
    """Attributes of a user's class that are almost options, or are set when it is bound."""
    names = [*viewset_options.VIEWSET_OPTIONS, "model", "queryset", "lookup_url_kwarg", "lookup_value_regex"]
    for owner in cls.__mro__:
        if _is_ours(owner) or "_calls" in vars(owner):
            continue
        for name, value in vars(owner).items():
            if name in GenericViewSet.__annotations__ and not hasattr(GenericViewSet, name):
                yield f"{name}: viewsets have an attribute of this name; give yours another"
            if name.startswith("_") or callable(value) or hasattr(GenericViewSet, name):
                continue
            if near := get_close_matches(name, names, n=1, cutoff=0.75):
                yield f"{name} is no option; did you mean {near[0]}?"


def _methods(cls: type[ViewSet]) -> list[str]:
    """The names of a viewset's methods that the service defines, wherever they are overridden."""
    return [
        name
        for name, _ in inspect.getmembers(cls, inspect.isroutine)
        if any(name in vars(owner) for owner in cls.__mro__ if owner.__module__.startswith("rowcast."))
    ]


def _is_ours(owner: type) -> bool:
    """Whether a class is the service's, or Python's, rather than a user's."""
    return owner.__module__.startswith("rowcast.") or owner is object


def actions_in(cls: type) -> list[str]:
    """The names of the actions that a class has."""
    extra = [name for name, _ in inspect.getmembers(cls, is_action)]
    return [*(name for name in STANDARD_ACTIONS if hasattr(cls, name)), *extra]


def allows(view: type[ViewSet], action: str) -> bool:
    """Whether the options ``allowed_actions`` and ``excluded_actions`` leave an action."""
    if not issubclass(view, GenericViewSet):
        return True
    return action not in view.excluded_actions and (view.allowed_actions is None or action in view.allowed_actions)


def bound_in(service: Service, cls: type[ViewSet]) -> type[ViewSet]:
    """A class bound to a site, once."""
    if cls not in service.bound:
        if issubclass(cls, GenericViewSet):
            named = cls.model or (cls.queryset.model if cls.queryset is not None else None)
            if named is None:
                raise ConfigurationError(f"{cls.__name__} needs a model or a queryset")
            STORE.set(service.store)
            service.bound[cls] = cls.bind_to(service, named.resource(), {})
        else:
            service.bound[cls] = cls.bind(service)
    return service.bound[cls]


@lru_cache(maxsize=2048)
def _uncounted(page: PageShape) -> PageShape:
    """The page without its count."""
    return replace(page, count="none")


def parts_of(path: str) -> list[str]:
    """The names of the variable parts of an address, in order."""
    return [match[1] for match in PART.finditer(path)]


def site_url(settings: Settings, http: web.Request) -> str:
    """Scheme and host as the client sees them; what proxies say counts where ``trusted_proxies`` allows it."""
    scheme, host = http.scheme, http.host
    if settings.server.trusted_proxies:
        scheme = http.headers.get("X-Forwarded-Proto", scheme).split(",")[-1].strip()
        host = http.headers.get("X-Forwarded-Host", host).split(",")[-1].strip()
    return f"{scheme}://{host}"


def _is_plain(http: web.Request) -> bool:
    """Whether a request brings no credentials to be checked, and asks for no form of the answer, nor for the newest."""
    headers = http.headers
    return (
        "Authorization" not in headers
        and "Cache-Control" not in headers
        and headers.get("Accept", "*/*") in ("*/*", "application/json")
    )


def _instances(policies: Iterable[Any]) -> list[Any]:
    """What an overridden ``get_permissions`` or the like returns, where a class stands for its instance."""
    return [policy() if isinstance(policy, type) else policy for policy in policies]


def _paths(expand: str) -> tuple[str, ...]:
    """The relations that ``?expand=`` names."""
    paths = tuple(dict.fromkeys(_names(expand)))
    if len(paths) > MAX_PATHS or any(path.count("__") >= MAX_DEPTH for path in paths):
        raise ParseError(f"expand: at most {MAX_PATHS} paths of {MAX_DEPTH} relations.", code="invalid_parameter")
    return paths


def _own_rows(view: type[GenericViewSet], path: str) -> ParseError:
    """The answer to an ``?expand=`` that leads to rows of which a viewset may show some and not others."""
    told = f"expand: {path}: the rows of {view.resource.name} are shown at their own address only."
    return ParseError(told, code="invalid_parameter")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _check_accept(given: Sequence[str], *, stream: bool) -> None:
    """Refuse ``Accept`` headers that leave out what this route answers in; a stream answers as it is, always."""
    accept = ",".join(given)
    if accept and not stream and not any(_accepts_json(part) for part in accept.split(",")):
        raise NotAcceptable()


def _accepts_json(part: str) -> bool:
    kind, _, parameters = part.partition(";")
    refused = parameters.replace(" ", "").lower() in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return not refused and kind.strip().lower() in (
        "*/*",
        "application/*",
        "application/json",
        "application/problem+json",
    )
