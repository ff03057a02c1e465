"""The addresses that describe the service: ``/``, ``/openapi.json``, ``/asyncapi.json``, ``/docs/`` and the API catalog.

``server.openapi`` says who may read them. The pages of error codes are the same for every service, and always there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import orjson
from aiohttp import web

from rowcast import __version__
from rowcast.configuration.settings import Server
from rowcast.error_codes import ERROR_CODES, PAGES
from rowcast.errors import NotFound, ParseError, did_you_mean
from rowcast.identity.authentication import identify, refusal
from rowcast.openapi.error_pages import POLICY, STYLE_NAME, STYLE_SHEET, error_page, index_page
from rowcast.openapi.page import FILES, START, START_SCRIPT, page, security_policy
from rowcast.resources.lossless_json import encode
from rowcast.rest.addresses import Link, link_header
from rowcast.rest.handlers import Handler
from rowcast.rest.permitted import permitted
from rowcast.rest.plan import ModelPlan, Service, policy_instances
from rowcast.rest.request import Request, base_url, root_path
from rowcast.rest.routers import Route
from rowcast.rest.soft_deletion import plan_without
from rowcast.rest.stream_tickets import ticket_route

CATALOG: Final = "/.well-known/api-catalog"
LINKSET: Final = "application/linkset+json"
CATALOG_PROFILE: Final = "https://www.rfc-editor.org/info/rfc9727"
_Allowed: TypeAlias = frozenset[
    tuple[str, str, frozenset[str]]
]  # paths and methods, with the parameters that are refused
DOCUMENTS_MAX: Final = 16  # of callers
DESCRIBED_BY: Final = Link("/openapi.json", 'rel="describedby"; type="application/json"')


def register_descriptions(app: web.Application, service: Service, routes: Sequence[Route]) -> None:
    """Add the addresses that describe every resource, for those whom ``server.openapi`` names."""
    lists = [route.path for route in routes if route.name.endswith("-list")]
    whole, callers = _Whole(service, routes), _OfCallers(service, routes)
    server, api = service.settings.server, service.settings.api

    async def root(request: web.Request) -> web.Response:
        """The resources and their addresses."""
        origin = base_url(server, request)
        addresses = {path[1:]: f"{origin}{path}/" for path in lists}
        return web.Response(body=orjson.dumps(addresses), content_type="application/json")

    async def describe(request: web.Request) -> web.Response:
        """The OpenAPI document, whole or as the caller's."""
        body = encode(await callers.document(request)) if _caller_alone(request) else await whole.body()
        if not api.servers and (below := root_path(server, request)):
            body = b'{"servers":%b,%b' % (encode([{"url": below}]), body.removeprefix(b"{"))
        return web.Response(body=body, content_type="application/json", headers=_NOT_STORED)

    async def streams(request: web.Request) -> web.Response:
        """The AsyncAPI document, whole or as the caller's."""
        from rowcast.openapi.asyncapi import asyncapi_document

        shown = await (callers.document(request) if _caller_alone(request) else whole.document())
        found = asyncapi_document(shown, base_url(server, request))
        return web.Response(body=encode(found), content_type="application/json", headers=_NOT_STORED)

    async def catalog(request: web.Request) -> web.Response:
        """The API catalog (RFC 9727): a linkset (RFC 9264) of what describes the service."""
        found = _catalog(base_url(server, request))
        response = web.Response(body=orjson.dumps(found))
        response.headers["Content-Type"] = f'{LINKSET}; profile="{CATALOG_PROFILE}"'
        response.headers["Link"] = link_header([Link(CATALOG, 'rel="api-catalog"')], root_path(server, request))
        return response

    policy = security_policy(api.servers)

    async def docs(request: web.Request) -> web.Response:
        """The document as a page."""
        html = page(api.title, root_path(server, request))
        return web.Response(text=html, content_type="text/html", headers={"Content-Security-Policy": policy})

    closed = server.openapi == "authenticated"
    for path, handler in (
        ("/", root),
        ("/openapi.json", describe),
        ("/openapi.json/", describe),
        ("/asyncapi.json", streams),
        ("/asyncapi.json/", streams),
        ("/docs", docs),
        ("/docs/", docs),
        (CATALOG, catalog),
    ):
        app.router.add_get(path, _for_authenticated(service, handler) if closed else handler)
    _register_files(app)


_NOT_STORED: Final = {"Vary": "Authorization", "Cache-Control": "no-cache"}


def _caller_alone(request: web.Request) -> bool:
    """Whether a request is for what its caller may do: ``?as=me``. ``ParseError`` for any other parameter."""
    for name, value in request.query.items():
        if name != "as":
            raise ParseError(f"{name[:50]}: unknown parameter; {did_you_mean(name, ['as'])}", code="unknown_parameter")
        if value != "me":
            raise ParseError("as: must be me, or be left out.", code="invalid_parameter")
    return "as" in request.query


def _document(service: Service, routes: Sequence[Route], *, tickets: bool = True) -> dict[str, Any]:
    from rowcast.openapi.document import document

    return document(service, routes, version=__version__, tickets=tickets)


class _Whole:
    """The document for everybody. It is made when it is first asked for, so that a service starts without it."""

    def __init__(self, service: Service, routes: Sequence[Route]) -> None:
        self._service = service
        self._routes = routes
        self._making: asyncio.Task[tuple[dict[str, Any], bytes]] | None = None

    async def document(self) -> dict[str, Any]:
        return (await self._made())[0]

    async def body(self) -> bytes:
        return (await self._made())[1]

    async def _made(self) -> tuple[dict[str, Any], bytes]:
        if self._making is None or (self._making.done() and self._making.exception() is not None):
            self._making = asyncio.create_task(asyncio.to_thread(self._make), name="openapi document")
        return await asyncio.shield(self._making)

    def _make(self) -> tuple[dict[str, Any], bytes]:
        document = _document(self._service, self._routes)
        return document, encode(document)


class _OfCallers:
    """The documents of callers: as many as there are sets of actions that some caller may take, the last ones in memory."""

    def __init__(self, service: Service, routes: Sequence[Route]) -> None:
        self._service = service
        self._routes = routes
        self._tickets = ticket_route(service)
        self._made: dict[_Allowed, dict[str, Any]] = {}

    async def document(self, http: web.Request) -> dict[str, Any]:
        """The document with what the request's caller may do, and what every caller may."""
        await identify(Request(http), policy_instances(self._service.authentication_classes))  # wrong ones are a 401
        allowed = frozenset(
            [
                (each.route.path, each.method, each.refused)
                async for each in permitted(http, [*self._routes, self._tickets])
            ]
        )
        if allowed not in self._made:
            made = await asyncio.to_thread(self._make, allowed)
            if len(self._made) >= DOCUMENTS_MAX:
                self._made.pop(next(iter(self._made)), None)
            self._made[allowed] = made
        return self._made[allowed]

    def _make(self, allowed: _Allowed) -> dict[str, Any]:
        routes, refused = [], {(path, method): parameters for path, method, parameters in allowed}
        for route in self._routes:
            actions = {method: action for method, action in route.actions.items() if (route.path, method) in refused}
            if not actions:
                continue
            parameters = frozenset[str]().union(*(refused[route.path, method] for method in actions))
            plan = (
                plan_without(route.plan, parameters) if parameters and isinstance(route.plan, ModelPlan) else route.plan
            )
            routes.append(replace(route, actions=actions, plan=plan))
        return _document(self._service, routes, tickets=(self._tickets.path, "POST") in refused)


def _catalog(origin: str) -> dict[str, Any]:
    """The linkset: one context, the service itself."""
    return {
        "linkset": [
            {
                "anchor": f"{origin}/",
                "service-desc": [
                    {"href": f"{origin}/openapi.json", "type": "application/json", "title": "OpenAPI"},
                    {"href": f"{origin}/asyncapi.json", "type": "application/json", "title": "AsyncAPI"},
                ],
                "service-doc": [{"href": f"{origin}/docs/", "type": "text/html"}],
                "status": [{"href": f"{origin}/health/ready", "type": "application/json"}],
            }
        ]
    }


def register_error_pages(app: web.Application, server: Server) -> None:
    """Add the pages to which the ``type`` of problem documents leads."""
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}

    async def index(request: web.Request) -> web.Response:
        return web.Response(text=index_page(root_path(server, request)), content_type="text/html", headers=headers)

    async def one(request: web.Request) -> web.Response:
        code = request.match_info["code"]
        if code not in ERROR_CODES:
            raise NotFound(f"There is no error code {code[:50]!r}; {did_you_mean(code, ERROR_CODES)}")
        return web.Response(
            text=error_page(code, root_path(server, request)), content_type="text/html", headers=headers
        )

    async def style(request: web.Request) -> web.Response:
        return web.Response(text=STYLE_SHEET, content_type="text/css", headers={"Cache-Control": "no-cache"})

    app.router.add_get(f"/docs/{STYLE_NAME}", style)
    for path, handler in (
        (PAGES.rstrip("/"), index),
        (PAGES, index),
        (f"{PAGES}{{code}}", one),
        (f"{PAGES}{{code}}/", one),
    ):
        app.router.add_get(path, handler)


def _register_files(app: web.Application) -> None:
    """Add the files that the page ``/docs/`` loads: a public library, and the two lines that start it."""

    def sending(path: Path) -> Handler:
        async def send(request: web.Request) -> web.StreamResponse:
            return web.FileResponse(path, headers={"Cache-Control": "no-cache"})

        return send

    async def start(request: web.Request) -> web.Response:
        return web.Response(text=START_SCRIPT, content_type="text/javascript", headers={"Cache-Control": "no-cache"})

    app.router.add_get(f"/docs/{START}", start)
    for name, path in FILES.items():
        app.router.add_get(f"/docs/{name}", sending(path))


def _for_authenticated(service: Service, handler: Handler) -> Handler:
    """A handler that only callers with credentials reach, by ``auth.default_authentication_classes``."""

    async def answer(http: web.Request) -> web.StreamResponse:
        request, authenticators = Request(http), policy_instances(service.authentication_classes)
        await identify(request, authenticators)
        if not request.user.is_authenticated:
            raise refusal(request, authenticators)
        return await handler(http)

    return answer
