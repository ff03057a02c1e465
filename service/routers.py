"""Viewsets as routes: which addresses a resource has, and which action answers each method there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aiohttp import web

from service.viewsets import STANDARD_ACTIONS, GenericViewSet, Handler


@dataclass(frozen=True, slots=True)
class Route:
    """One address of a resource. ``path`` ends without a slash; the one with a slash is the same address."""

    path: str
    name: str
    actions: dict[str, str]  # method → action
    handler: Handler


def actions_of(view: type[GenericViewSet], *, detail: bool) -> dict[str, str]:
    """The standard actions that a viewset has and its options leave, by method."""
    return {
        method: action
        for action, (method, about_one) in STANDARD_ACTIONS.items()
        if about_one == detail
        and hasattr(view, action)
        and (view.allowed_actions is None or action in view.allowed_actions)
        and action not in view.excluded_actions
    }


def routes(prefix: str, view: type[GenericViewSet]) -> Iterator[Route]:
    """The addresses of a viewset under a prefix; fixed ones come before those that hold a key."""
    base = f"/{prefix}"
    listing = actions_of(view, detail=False)
    if listing:
        handler = view.as_view(listing, basename=prefix, detail=False, suffix="List")
        yield Route(base, f"{prefix}-list", listing, handler)
    if has_stream(view):
        streaming = {"GET": "stream"}
        handler = view.as_view(streaming, basename=prefix, detail=False, suffix="Stream")
        yield Route(f"{base}/stream", f"{prefix}-stream", streaming, handler)
    one = actions_of(view, detail=True)
    if one:
        handler = view.as_view(one, basename=prefix, detail=True, suffix="Instance")
        yield Route(f"{base}/{{id}}", f"{prefix}-detail", one, handler)


def has_stream(view: type[GenericViewSet]) -> bool:
    """Whether a viewset has a stream: unless it is switched off or left out of the allowed actions."""
    return (
        view.stream_enabled
        and hasattr(view, "stream")
        and "stream" not in view.excluded_actions
        and (view.allowed_actions is None or bool({"stream", "list"} & set(view.allowed_actions)))
    )


def register(app: web.Application, route: Route) -> None:
    """Add a route to an application, with and without the slash at its end."""
    path = route.path.replace("{id}", "{id:[^/]+}")  # braces, too, may stand in a key
    app.router.add_route("*", path + "/", route.handler, name=route.name)
    app.router.add_route("*", path, route.handler)
