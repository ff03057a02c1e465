"""One stream of several resources: ``GET /stream/?resources=tasks,comments``.

Each resource's viewset decides about it as for its own stream: who may open it, which rows it has, how they are shown.
``?tasks.completed=false`` is the parameter ``completed`` of the stream of tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from rowcast.errors import ParseError, did_you_mean
from rowcast.query.store import STORE
from rowcast.rest.request import Request
from rowcast.rest.routers import has_stream
from rowcast.rest.stream_action import PAGES, last_position, wants_snapshot
from rowcast.rest.viewset import SERVICE, GenericViewSet, Service
from rowcast.streams.subscription import Subscription, Subscriptions

PARAMETERS: Final = ("resources", "snapshot", "last_event_id", "access_token")


async def stream(http: web.Request) -> web.StreamResponse:
    """Every committed change that the streams of the named resources tell, on one connection and in one order."""
    service = http.app[SERVICE]
    STORE.set(service.store)
    given = Request(http).query_params
    views = _named(service, given.get("resources", ""))
    own = _parameters(views, given)
    opened = [await _open(name, view, http, own[name]) for name, view in views.items()]
    limit = sum(view.max_page_size * PAGES for view in views.values())
    return await service.hub.stream(
        http,
        Subscriptions(subscription for subscription, _ in opened),
        last_position(http, given),
        auths=[auth for _, auth in opened],
        limit=limit if wants_snapshot(given) else None,
    )


def _named(service: Service, text: str) -> dict[str, type[GenericViewSet]]:
    """The viewsets of the resources that are named."""
    there = {name: view for name, view in service.views.items() if has_stream(view) and not view.hooked("stream")}
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        told = f"resources: name those to watch, with commas between them; {did_you_mean('', there)}"
        raise ParseError(told, code="invalid_parameter")
    for name in names:
        if name not in there:
            raise ParseError(
                f"resources: there is no stream of {name[:50]!r}; {did_you_mean(name, there)}", code="invalid_parameter"
            )
    return {name: there[name] for name in names}


def _parameters(views: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The parameters of each resource's stream, without its name in front."""
    own: dict[str, dict[str, str]] = {name: {} for name in views}
    for name, text in given.items():
        resource, point, parameter = name.partition(".")
        if point and resource in own and parameter not in PARAMETERS:
            own[resource][parameter] = text
        elif name not in PARAMETERS:
            valid = [*PARAMETERS, *(f"{resource}.<parameter>" for resource in views)]
            raise ParseError(f"{name[:50]}: unknown parameter; {did_you_mean(name, valid)}", code="unknown_parameter")
    shared = {name: given[name] for name in ("access_token",) if name in given}
    return {resource: {**parameters, **shared} for resource, parameters in own.items()}


async def _open(
    name: str, bound: type[GenericViewSet], http: web.Request, parameters: Mapping[str, str]
) -> tuple[Subscription, object]:
    """What the caller sees of one resource, and what he was recognised by; raises what its own stream would."""
    view: Any = bound(action_map={"GET": "stream", "HEAD": "stream"})
    view.request = view.initialize_request(http.clone(rel_url=http.rel_url.with_query(parameters)))
    await view.initial(view.request)
    try:
        subscription: Subscription = await view.get_subscription()
    except ParseError as error:
        error.detail = f"{name}.{error.detail}"
        raise
    return subscription, view.request.auth
