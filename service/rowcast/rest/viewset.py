"""``ViewSet``: a class whose methods are actions, and how a request reaches one.

A request makes one instance. Read ``dispatch`` downwards: who is calling, may they, are they too fast; then the body, and
the action. A handler written by a user runs in the greenlet bridge, inside one transaction if its method is unsafe.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import web

from rowcast.configuration.viewset_options import VIEWSET_OPTIONS
from rowcast.errors import ConfigurationError, MethodNotAllowed, NotAcceptable, did_you_mean
from rowcast.identity import throttling
from rowcast.identity.authentication import identify, refusal
from rowcast.identity.permissions import SAFE_METHODS, BasePermission, allowed, refusing_part
from rowcast.orm.awaiting import must_be_awaited, run_checked
from rowcast.orm.bridge import spawn
from rowcast.orm.model import Model
from rowcast.orm.queryset import QuerySet
from rowcast.query.replicas import Replicas
from rowcast.query.store import STORE
from rowcast.resources.actions import METADATA, RESERVED_ACTIONS, STANDARD_ACTIONS, STREAM
from rowcast.rest.addresses import fill, variable_parts
from rowcast.rest.decorators import VERBS, collect, is_action
from rowcast.rest.etags import is_conditional
from rowcast.rest.handlers import Handler, handler_for
from rowcast.rest.idempotency import KEY, KEYED, answer_once
from rowcast.rest.introspection import actions_of, is_ours
from rowcast.rest.media_types import is_json
from rowcast.rest.negotiation import EXPORT_TYPES, VARY, accepts_json, export_type
from rowcast.rest.plan import NO_POLICIES, SERVICE, ViewPlan, policy_instances
from rowcast.rest.preferences import PREFER, answer_preferred
from rowcast.rest.reading import note_writer, user_key, writers_of
from rowcast.rest.rendering import default_projection_of, show_related
from rowcast.rest.representation import check_representation
from rowcast.rest.request import Request, base_url
from rowcast.rest.response import Response, encode, json_response, noting_transaction, verbatim_response
from rowcast.rest.signatures import KEY_NAMES
from rowcast.traces import recorded

INSTANCE_ATTRIBUTES = ("name", "suffix", "description", "basename", "detail")  # that as_view takes besides options


class ViewSet:
    """A class of actions. ``as_view`` makes a handler that maps methods to them."""

    authentication_classes: Sequence[type[Any]] | None = None
    permission_classes: Sequence[type[BasePermission]] | None = None
    throttle_classes: Sequence[type[Any]] | None = None
    throttle_scope: str | None = None
    require_idempotency_key: bool = False

    basename: str | None = None
    detail: bool | None = None
    suffix: str | None = None
    name: str | None = None
    description: str | None = None
    lookup_field: str | None = None
    lookup_url_kwarg: str | None = None
    lookup_value_regex: str | None = None

    sends_events: bool = False  # whether this address is the stream of an action
    action: str = ""
    action_map: Mapping[str, str] = {}  # method → action, at this address
    view_plan: ViewPlan
    request: Request
    importing: bool = False  # whether the body at this address is a file of rows

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        collect(cls)
        for name, member in vars(cls).items():
            if is_action(member) and name in RESERVED_ACTIONS:
                raise ConfigurationError(
                    f"{cls.__name__}.{name}: {name!r} is a standard action and has its route; override it without @action"
                )
            if is_action(member) and any(name in vars(owner) for owner in cls.__mro__ if is_ours(owner)):
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
        """An aiohttp handler that answers each method with an action.

        Args:
            actions: The action of each method: ``as_view({"get": "list", "post": "create"})``.
            **initkwargs: Options and attributes of the instances that it makes.

        Raises:
            TypeError: for methods, actions or attributes that do not exist.
        """
        action_map = action_map_of(cls, actions, initkwargs)

        async def view(http: web.Request) -> web.StreamResponse:
            plan = http.app[SERVICE].plan_of(view, cls, initkwargs)
            return await handler_for(plan, action_map)(http)

        vars(view).update(cls=cls, actions=actions, initkwargs=initkwargs)  # as in Django REST framework
        return view

    @classmethod
    def get_extra_actions(cls) -> list[Any]:
        """The methods that ``@action`` has marked."""
        return [member for name in dir(cls) if is_action(member := getattr(cls, name, None))]

    def reverse_action(
        self, url_name: str, *key: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> str:
        """The absolute address of an action of this viewset: ``reverse_action("set-password", args=["1"])``.

        Raises:
            LookupError: names the routes that exist, or the missing parts of the address.
        """
        service = self.view_plan.service
        path = service.routes.get(f"{self.basename}-{url_name}")
        if path is None:
            prefix = f"{self.basename}-"
            own = [name.removeprefix(prefix) for name in service.routes if name.startswith(prefix)]
            raise LookupError(f"{self.basename} has no route {url_name!r}; {did_you_mean(url_name, own)}")
        names = variable_parts(path)
        parts = {**dict(zip(names, (*key, *args), strict=False)), **(kwargs or {})}
        for other in KEY_NAMES:
            if other in parts and other not in names and names:
                parts[names[0]] = parts.pop(other)
        if missing := [name for name in names if name not in parts]:
            raise LookupError(f"{url_name!r} needs {', '.join(missing)}: pass args=[…] or kwargs={{…}}")
        filled = fill(path, [self.view_plan.part_of_address(name, parts[name]) for name in names])
        return f"{base_url(service.settings.server, self.request.http)}{filled}/"

    def get_extra_action_url_map(self) -> dict[str, str]:
        """The names and addresses of the other extra actions at this address; empty where ``detail`` is not known."""
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
        plan = self.view_plan
        STORE.set(plan.service.store)
        self.kwargs = dict(http.match_info)
        request = self.request = self.initialize_request(http, **self.kwargs)
        if plan.acts_as_caller:
            plan.service.store.database.act_for(lambda: request.user)
        if not self.action:
            raise MethodNotAllowed(http.method, self.action_map)
        await (run_checked(self.initial(request)) if plan.checks_initial else self.initial(request))
        if (
            not accepts_json(http) and self.action != STREAM and not self.sends_events
        ):  # a stream is sent as it is, whatever is accepted
            await self._check_acceptable(http)
        if PREFER in http.headers:
            return await answer_preferred(self, self._answer_once)
        return await self._answer_once()

    async def _answer_once(self) -> web.StreamResponse:
        """The answer, or the one that the same request has had before."""
        plan, request, http = self.view_plan, self.request, self.request.http
        if http.method in SAFE_METHODS:
            return await (
                self._answer() if plan.service.replicas is None else self._answer_reading(plan.service.replicas)
            )
        if KEY in http.headers or (self.require_idempotency_key and KEYED not in http):
            database, repeatable = plan.service.store.database, plan.may_repeat(self.action)
            limit = plan.service.settings.server.import_limit
            file = partial(request.receive_file, limit) if self.importing else None
            return await answer_once(database, request, self._answer_change, repeatable=repeatable, receive_file=file)
        return await self._answer_change()

    async def _answer_reading(self, replicas: Replicas) -> web.StreamResponse:
        """The answer of a safe request, whose handler may write nevertheless: then its caller reads from the primary."""
        service = self.view_plan.service
        with service.store.database.noting() as written:
            try:
                return await self._answer()
            finally:
                if written.changes:
                    replicas.writers.note({user_key(self.request.user), *writers_of(service, self.request.http)})

    async def _answer_change(self) -> web.StreamResponse:
        """The answer of an unsafe request, with the transaction that its events name."""
        note_writer(self.request.user)
        return await noting_transaction(self.view_plan.service.store.database, self._answer)

    async def _answer(self) -> web.StreamResponse:
        """The action of a caller who is permitted, if the row or list is as the request requires it."""
        plan, request, http = self.view_plan, self.request, self.request.http
        if http.method not in SAFE_METHODS and is_conditional(http):
            await self.check_representation()
        call = plan.call(self.action, tuple(self.kwargs))
        arguments = {name: self.kwargs[part] for name, part in call.arguments}
        if call.own is not None:
            return await self.finalize_response(await call.own(self, request, **arguments))
        handler = getattr(self, self.action)
        plan.check_parameters(self.action, request.query_params)
        await _read_body(request)
        if request.method in SAFE_METHODS:
            return await self.finalize_response(await spawn(handler, request, **arguments))
        database = plan.service.store.database
        async with nullcontext() if KEY in http.headers else database.transaction():  # of answer_once
            await self.check_version()
            return await self.finalize_response(await spawn(handler, request, **arguments))

    async def _check_acceptable(self, http: web.Request) -> None:
        """Raise ``NotAcceptable`` for a client that takes no JSON, unless it wants all rows of a list in another form."""
        listing = self.action == "list"
        wanted = export_type(http) if listing else None
        if wanted is not None and self.view_plan.exports:
            return
        await self.check_address()
        if wanted is not None:
            raise NotAcceptable(
                f"This route returns application/json: Python code of the service makes its list, which has no form as {wanted}.",
                headers=VARY,
            )
        if listing and self.view_plan.exports:
            raise NotAcceptable(f"This route returns application/json, {' or '.join(EXPORT_TYPES)}.", headers=VARY)
        raise NotAcceptable()

    def initialize_request(self, request: web.Request, *args: Any, **kwargs: Any) -> Request:
        """The request as handlers get it; sets ``action`` by its method."""
        self.action = self.action_map.get(request.method, "")
        return Request(request)

    async def initial(self, request: Request) -> None:
        """Everything that happens before the action."""
        await self.perform_authentication(request)
        with recorded("permissions", self):
            await self.check_permissions(request)
        await self.check_throttles(request)

    async def finalize_response(self, result: Any) -> web.StreamResponse:
        """The response to what a handler returned.

        Args:
            result: data, ``(data, status)``, ``(data, status, headers)``, ``None``, a row, a query set, ``Response``, or an
                aiohttp response.

        Raises:
            TypeError: for data that has no JSON form.
        """
        if isinstance(result, web.StreamResponse):
            return result
        status, headers = None, None
        if isinstance(result, Response):
            if not is_json(result.content_type):
                return verbatim_response(result.data, result.status, result.headers, result.content_type)
            result, status, headers = result.data, result.status, result.headers
        elif isinstance(result, tuple) and len(result) in (2, 3) and isinstance(result[1], int):
            result, status, headers = (*result, None)[:3]
        if isinstance(result, QuerySet):
            result = await result
        if result is None and status in (None, HTTPStatus.NO_CONTENT):
            return web.Response(status=HTTPStatus.NO_CONTENT, headers=headers)
        return json_response(await spawn(self.encode_result, result), status or HTTPStatus.OK, headers)

    def encode_result(self, result: Any) -> bytes:
        """The JSON of what a handler returned."""
        return encode(result, self.serialize)

    def serialize(self, row: Any) -> Any:
        """A row as a dictionary of its JSON."""
        if isinstance(row, Model):
            return show_related(self, row, default_projection_of(self.view_plan, row))
        raise TypeError(f"{type(row).__name__} has no JSON form: return data, a Response or an aiohttp response")

    async def metadata(self, request: Request, **kwargs: str) -> web.Response:
        """``OPTIONS``: what this address is, and what it takes."""
        methods = sorted(self.action_map)
        description = inspect.cleandoc(self.description or type(self).__doc__ or "")
        body = {"name": self.name or type(self).__name__, "description": description, "methods": methods}
        return json_response(orjson.dumps(body), headers={"Allow": ", ".join(methods)})

    # --- policies

    def get_authenticators(self) -> Sequence[Any]:
        """The authenticators, in the order in which they are tried."""
        if self.authentication_classes is self.view_plan.authentication_classes:
            return self.view_plan.authenticators
        return policy_instances(self.authentication_classes or ())  # the user's code has set others on the instance

    def get_permissions(self) -> Sequence[BasePermission]:
        """The permissions that must all allow this action."""
        if self.permission_classes is self.view_plan.permission_classes:
            return self.view_plan.permissions
        return policy_instances(self.permission_classes or ())

    def get_throttles(self) -> Sequence[Any]:
        """The throttles that count this request; each is a new instance."""
        return policy_instances(self.throttle_classes) if self.throttle_classes else NO_POLICIES

    async def perform_authentication(self, request: Request) -> None:
        """Recognise the caller. Bad credentials are an error even where none are needed."""
        await identify(
            request, policy_instances(self.get_authenticators()), stream=self.action == STREAM or self.sends_events
        )

    @must_be_awaited
    async def check_permissions(self, request: Request) -> None:
        """Raise ``PermissionDenied``, or ``NotAuthenticated`` for a caller without credentials, unless all allow it."""
        for permission in policy_instances(self.get_permissions()):
            if not await allowed(permission.has_permission(request, self)):
                self.permission_denied(request, await refusing_part(permission, request, self))

    @must_be_awaited
    async def check_object_permissions(self, request: Request, row: Any) -> None:
        """The same for one row."""
        for permission in policy_instances(self.get_permissions()):
            if not await allowed(permission.has_object_permission(request, self, row)):
                self.permission_denied(request, await refusing_part(permission, request, self, row))

    async def check_throttles(self, request: Request) -> None:
        """Count the request, and raise ``Throttled`` if there were too many."""
        throttles = self.get_throttles()
        if throttles is not NO_POLICIES:
            await throttling.check(request, self, policy_instances(throttles))

    def permission_denied(self, request: Request, permission: BasePermission) -> None:
        """Refuse the request with the permission's message and code."""
        raise refusal(request, policy_instances(self.get_authenticators()), permission.message, permission.code)

    async def check_address(self) -> None:
        """Raise ``NotFound`` or ``PermissionDenied`` if a standard action would, for the row that the address names."""

    async def check_representation(self) -> None:
        """Raise ``PreconditionFailed`` if an unsafe request excludes what a GET of its address shows."""
        await check_representation(self)

    async def check_version(self) -> None:
        """Raise ``PreconditionFailed`` unless ``If-Match`` accepts the row that a handler is about to change."""


ViewSetMixin = ViewSet  # Django REST framework has as_view in a mixin of its own


def action_map_of(
    cls: type[ViewSet], actions: Mapping[str, str] | None, initkwargs: Mapping[str, Any]
) -> dict[str, str]:
    """The action of each method at an address, ``HEAD`` and ``OPTIONS`` included; ``TypeError`` says what is wrong."""
    if not actions:
        raise TypeError(f"{cls.__name__}.as_view() needs actions, such as as_view({{'get': 'list'}})")
    for verb, action in actions.items():
        if verb.lower() not in VERBS:
            raise TypeError(f"{verb!r} is not an HTTP method; {did_you_mean(verb, VERBS)}")
        if not callable(getattr(cls, action, None)):
            valid = actions_of(cls, STANDARD_ACTIONS)
            raise TypeError(f"{cls.__name__} has no action {action!r}; {did_you_mean(action, valid)}")
    for name in initkwargs:
        if name in VERBS or not hasattr(cls, name):
            hint = did_you_mean(name, (*VIEWSET_OPTIONS, *INSTANCE_ATTRIBUTES))
            raise TypeError(f"{cls.__name__} has no attribute {name!r} to set; {hint}")
    if initkwargs.get("name") and initkwargs.get("suffix"):
        raise TypeError("a view has a name or a suffix, not both")
    action_map = {verb.upper(): action for verb, action in actions.items()}
    if "GET" in action_map:
        action_map.setdefault("HEAD", action_map["GET"])
    action_map.setdefault("OPTIONS", METADATA)
    return action_map


async def _read_body(request: Request) -> None:
    """Read ``request.data`` before a handler runs; without a body it is an empty object."""
    request.data = {}
    if request.method not in SAFE_METHODS and request.has_body:
        await request.read_json()
