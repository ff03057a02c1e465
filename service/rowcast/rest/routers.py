"""Viewsets as routes: which addresses a viewset has, and which action answers each method there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from rowcast.errors import ConfigurationError, did_you_mean
from rowcast.rest.signatures import call_of
from rowcast.rest.viewset import STANDARD_ACTIONS, GenericViewSet, Handler, ViewSet, actions_in, allows, parts_of


@dataclass(frozen=True, slots=True)
class Route:
    """One address of a viewset. ``path`` ends without a slash; the one with a slash is the same address."""

    path: str
    name: str
    actions: dict[str, str]  # method → action
    handler: Handler


class SimpleRouter:
    """Viewsets under prefixes, as ``config/urls.py`` registers them: ``router.register("users", UserViewSet)``."""

    def __init__(self) -> None:
        self.registry: list[tuple[str, type[ViewSet], str | None]] = []

    def register(self, prefix: str, viewset: type[ViewSet], basename: str | None = None) -> None:
        """Serve a viewset under ``/<prefix>/``. A viewset without a model needs a ``basename`` for its routes' names."""
        self.registry.append((prefix.strip("/"), viewset, basename))


DefaultRouter = SimpleRouter  # the root with all addresses is always there


def default_basename(view: type[ViewSet]) -> str | None:
    """The name that a viewset's routes begin with: its model's."""
    return view.resource.model.lower() if issubclass(view, GenericViewSet) else None


def routes(prefix: str, view: type[ViewSet], basename: str) -> Iterator[Route]:
    """The addresses of a bound viewset under a prefix; fixed ones come before those that hold a key.

    ``ConfigurationError`` for a handler that cannot be called at its address.
    """
    base = f"/{prefix}"
    key = view.lookup_url_kwarg or "id"
    one = f"{base}/{{{key}:{view.lookup_value_regex or '[^/]+'}}}" if view.lookup_value_regex else f"{base}/{{{key}}}"
    extra = sorted(view.get_extra_actions(), key=lambda function: function.__name__)
    found = [_standard(view, base, f"{basename}-list", basename, detail=False, suffix="List")]
    if has_stream(view):
        found.append(_route(view, f"{base}/stream", f"{basename}-stream", {"GET": "stream"}, basename, suffix="Stream"))
    found += [_extra(view, base, function, basename) for function in extra if not function.detail]
    found += [_standard(view, one, f"{basename}-detail", basename, detail=True, suffix="Instance")]
    if has_stream(view):
        label = f"{basename}-detail-stream"
        found.append(
            _route(view, f"{one}/stream", label, {"GET": "stream"}, basename, detail=True, suffix="Instance Stream")
        )
    found += [_extra(view, one, function, basename) for function in extra if function.detail]
    for route in found:
        if route is not None:
            parts = parts_of(route.path)
            for action in route.actions.values():
                call_of(view, action, parts, key if key in parts else None)
            yield route


def _standard(view: type[ViewSet], path: str, label: str, basename: str, *, detail: bool, suffix: str) -> Route | None:
    actions = {
        method: action
        for action, (method, about_one) in STANDARD_ACTIONS.items()
        if about_one == detail and hasattr(view, action) and allows(view, action)
    }
    return _route(view, path, label, actions, basename, detail=detail, suffix=suffix) if actions else None


def _extra(view: type[ViewSet], base: str, function: Any, basename: str) -> Route | None:
    if not allows(view, function.__name__):
        return None
    actions = {verb.upper(): name for verb, name in function.mapping.items()}
    try:
        path = _path(function.url_path)
    except ConfigurationError as error:
        raise ConfigurationError(f"{view.__module__}.{view.__name__}.{function.__name__}: {error}") from None
    label = f"{basename}-{function.url_name}"
    return _route(view, f"{base}/{path}", label, actions, basename, detail=function.detail, **function.kwargs)


CONVERTERS: Final[Mapping[str, str]] = {
    "str": "[^/]+", "int": "[0-9]+", "slug": "[-a-zA-Z0-9_]+", "uuid": "[0-9a-fA-F-]{36}", "path": ".+",
}  # fmt: skip
"""Django's path converters, for ``url_path="since/<int:year>"``: what each matches. Handlers get the text."""


def _path(text: str) -> str:
    """A ``url_path`` in aiohttp's form."""

    def convert(match: re.Match[str]) -> str:
        kind = match[1] or "str"
        if kind not in CONVERTERS:
            raise ConfigurationError(
                f"url_path {text!r}: there is no converter {kind!r}; {did_you_mean(kind, CONVERTERS)}"
            )
        return f"{{{match[2]}:{CONVERTERS[kind]}}}"

    path = re.sub(r"(?<!\?P)<(?:(\w+):)?(\w+)>", convert, text)
    return re.sub(r"\(\?P<(\w+)>((?:[^()]|\([^()]*\))*)\)", r"{\1:\2}", path).strip("^$/")


def _route(view: type[ViewSet], path: str, label: str, actions: dict[str, str], basename: str, **kwargs: Any) -> Route:
    try:
        handler = view.as_view(actions, basename=basename, **kwargs)
    except TypeError as error:
        raise ConfigurationError(f"{view.__module__}.{view.__name__}: {error}") from None
    return Route(path, label, actions, handler)


def check_distinct(routes: Iterable[Route]) -> None:
    """``ConfigurationError`` if two routes have one name, or one address, where the first would hide the second."""
    names: dict[str, Route] = {}
    paths: dict[str, Route] = {}
    for route in routes:
        same = names.setdefault(route.name, route)
        if same is not route:
            raise ConfigurationError(
                f"{route.path}/ and {same.path}/ have the same route name {route.name!r}: give one another url_name"
            )
        same = paths.setdefault(route.path, route)
        if same is not route:
            first, second = (next(iter(each.actions.values())) for each in (same, route))
            raise ConfigurationError(
                f"{first!r} and {second!r} have the same address {route.path}/, where the first would hide the second: "
                f"give one another url_path, or make them methods of one action with @{first}.mapping"
            )


def has_stream(view: type[ViewSet]) -> bool:
    """Whether a viewset has a stream: unless it is switched off, left out, or lists are not allowed."""
    return (
        issubclass(view, GenericViewSet)
        and view.stream_enabled
        and hasattr(view, "stream")
        and "stream" not in view.excluded_actions
        and (view.allowed_actions is None or bool({"stream", "list"} & set(view.allowed_actions)))
    )


def register(app: web.Application, route: Route) -> None:
    """Add a route to an application, with and without the slash at its end."""
    path = re.sub(r"\{([^\W\d]\w*)\}", r"{\1:[^/]+}", route.path)  # braces, too, may stand in a key
    try:
        app.router.add_route("*", path + "/", route.handler)
        app.router.add_route("*", path, route.handler)
    except ValueError as error:
        raise ConfigurationError(f"{route.name}: {route.path} is no address: {error}") from None


__all__ = [
    "DefaultRouter", "Route", "SimpleRouter", "actions_in", "check_distinct", "default_basename", "has_stream",
    "register", "routes",
]  # fmt: skip
