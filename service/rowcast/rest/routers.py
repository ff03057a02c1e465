"""Routes: the addresses of a viewset, and the action of each method at an address."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from rowcast.errors import ConfigurationError, did_you_mean
from rowcast.resources.actions import AGGREGATE, CHANGING_ACTIONS, RESTORE, STANDARD_ACTIONS, STREAM
from rowcast.rest.addresses import variable_parts
from rowcast.rest.binding import at_address
from rowcast.rest.handlers import Handler
from rowcast.rest.introspection import is_ours, owner_of
from rowcast.rest.plan import ModelPlan, ViewPlan
from rowcast.rest.soft_deletion import restore_address
from rowcast.rest.viewset import ViewSet, action_map_of


@dataclass(frozen=True, slots=True)
class Route:
    """One address of a viewset. ``path`` has no slash at its end; with a slash it is the same address."""

    path: str
    name: str
    actions: Mapping[str, str]  # HTTP method → action
    action_map: Mapping[str, str]  # the same, with HEAD and OPTIONS
    plan: ViewPlan
    initkwargs: Mapping[str, Any]  # the attributes that the action sets

    @property
    def sends_events(self) -> bool:
        """Whether the address is a stream."""
        return STREAM in self.actions.values() or bool(self.initkwargs.get("sends_events"))


class SimpleRouter:
    """The viewsets that ``config/urls.py`` registers under prefixes: ``router.register("users", UserViewSet)``."""

    def __init__(self) -> None:
        self.registry: list[tuple[str, type[ViewSet], str | None]] = []

    def register(self, prefix: str, viewset: type[ViewSet], basename: str | None = None) -> None:
        """Serve a viewset under ``/<prefix>/``.

        Args:
            prefix: The first part of the viewset's addresses.
            viewset: The viewset's class.
            basename: The first part of its routes' names; by default the model's name. A viewset without a model needs one.
        """
        self.registry.append((prefix.strip("/"), viewset, basename))


DefaultRouter = SimpleRouter  # ``GET /`` lists the addresses with either


def default_basename(plan: ViewPlan) -> str | None:
    """The first part of the names of a viewset's routes: its model's name."""
    return plan.resource.model.lower() if isinstance(plan, ModelPlan) else None


def routes(prefix: str, plan: ViewPlan, basename: str) -> Iterator[Route]:
    """The routes of a viewset under a prefix. Fixed addresses come before those that contain a key.

    ``ConfigurationError`` if a handler cannot be called at its address.
    """
    base = f"/{prefix}"
    key = plan.attribute("lookup_url_kwarg") or "id"
    pattern = plan.attribute("lookup_value_regex")
    one = f"{base}/{{{key}:{pattern}}}" if pattern else f"{base}/{{{key}}}"
    extra = _extra_actions(plan)
    streams = has_stream(plan)
    found = [_standard(plan, base, f"{basename}-list", basename, detail=False, suffix="List")]
    if streams:
        found.append(_route(plan, f"{base}/stream", f"{basename}-stream", {"GET": STREAM}, basename, suffix="Stream"))
    if has_aggregates(plan):
        label = f"{basename}-aggregate"
        found.append(_route(plan, f"{base}/aggregate", label, {"GET": AGGREGATE}, basename, suffix="Aggregate"))
        if streams and not plan.overrides(AGGREGATE):
            live = {"suffix": "Aggregate Stream", "sends_events": True}
            found.append(
                _route(plan, f"{base}/aggregate/stream", f"{label}-stream", {"GET": AGGREGATE}, basename, **live)
            )
    if isinstance(plan, ModelPlan) and plan.imports:
        label = f"{basename}-import"
        found.append(
            _route(plan, f"{base}/import", label, {"POST": "create"}, basename, suffix="Import", importing=True)
        )
    found += [_extra(plan, base, function, basename) for function in extra if not function.detail]
    found += [_standard(plan, one, f"{basename}-detail", basename, detail=True, suffix="Instance")]
    if streams:
        label = f"{basename}-detail-stream"
        found.append(
            _route(plan, f"{one}/stream", label, {"GET": STREAM}, basename, detail=True, suffix="Instance Stream")
        )
    if isinstance(plan, ModelPlan) and restore_address(plan):
        label = f"{basename}-restore"
        found.append(_route(plan, f"{one}/restore", label, {"POST": RESTORE}, basename, detail=True, suffix="Restore"))
    found += [_extra(plan, one, function, basename) for function in extra if function.detail]
    for route in found:
        if route is not None:
            parts = tuple(variable_parts(route.path))
            for action in route.actions.values():
                route.plan.call(action, parts)  # raises the ConfigurationError
            yield route


def _extra_actions(plan: ViewPlan) -> Sequence[Any]:
    found = plan.service.extra_actions.get(plan.viewset)
    if found is None:
        found = sorted(plan.viewset.get_extra_actions(), key=lambda function: function.__name__)
        plan.service.extra_actions[plan.viewset] = found
    return found


def _standard(plan: ViewPlan, path: str, label: str, basename: str, *, detail: bool, suffix: str) -> Route | None:
    actions = {
        action.method: name
        for name, action in STANDARD_ACTIONS.items()
        if action.detail == detail and hasattr(plan.viewset, name) and allows(plan, name)
    }
    if actions and not detail and isinstance(plan, ModelPlan):
        actions |= _of_many_rows(plan)
    return _route(plan, path, label, actions, basename, detail=detail, suffix=suffix) if actions else None


def _of_many_rows(plan: ModelPlan) -> dict[str, str]:
    """The changing actions at the address of a list, which are about many rows; not those that the user's class writes."""
    return {
        STANDARD_ACTIONS[name].method: name
        for name in CHANGING_ACTIONS
        if hasattr(plan.viewset, name)
        and allows(plan, name)
        and not plan.overrides(name)
        and is_ours(owner_of(plan.viewset, name))
        and (name != "update" or plan.upserts)
    }


def _extra(plan: ViewPlan, base: str, function: Any, basename: str) -> Route | None:
    if not allows(plan, function.__name__):
        return None
    actions = {verb.upper(): name for verb, name in function.mapping.items()}
    try:
        path = _path(function.url_path)
    except ConfigurationError as error:
        viewset = plan.viewset
        raise ConfigurationError(f"{viewset.__module__}.{viewset.__name__}.{function.__name__}: {error}") from None
    label = f"{basename}-{function.url_name}"
    return _route(plan, f"{base}/{path}", label, actions, basename, detail=function.detail, **function.kwargs)


PATH_CONVERTERS: Final[Mapping[str, str]] = {
    "str": "[^/]+", "int": "[0-9]+", "slug": "[-a-zA-Z0-9_]+", "uuid": "[0-9a-fA-F-]{36}", "path": ".+",
}  # fmt: skip
"""Django's path converters, for ``url_path="since/<int:year>"``: the pattern of each. Handlers receive strings."""


def _path(text: str) -> str:
    """A ``url_path`` in aiohttp's syntax."""

    def convert(match: re.Match[str]) -> str:
        kind = match[1] or "str"
        if kind not in PATH_CONVERTERS:
            raise ConfigurationError(
                f"url_path {text!r}: unknown converter {kind!r}; {did_you_mean(kind, PATH_CONVERTERS)}"
            )
        return f"{{{match[2]}:{PATH_CONVERTERS[kind]}}}"

    path = re.sub(r"(?<!\?P)<(?:(\w+):)?(\w+)>", convert, text)
    return re.sub(r"\(\?P<(\w+)>((?:[^()]|\([^()]*\))*)\)", r"{\1:\2}", path).strip("^$/")


def _route(plan: ViewPlan, path: str, label: str, actions: dict[str, str], basename: str, **kwargs: Any) -> Route:
    viewset = plan.viewset
    initkwargs = {"basename": basename, **kwargs}
    try:
        action_map = action_map_of(viewset, actions, initkwargs)
    except TypeError as error:
        raise ConfigurationError(f"{viewset.__module__}.{viewset.__name__}: {error}") from None
    return Route(path, label, actions, action_map, at_address(plan, initkwargs), initkwargs)


def check_distinct(routes: Iterable[Route]) -> None:
    """``ConfigurationError`` if two routes have the same name, or the same address."""
    names: dict[str, Route] = {}
    paths: dict[str, Route] = {}
    for route in routes:
        same = names.setdefault(route.name, route)
        if same is not route:
            raise ConfigurationError(
                f"{route.path}/ and {same.path}/ have the same route name {route.name!r}: give one of them another url_name"
            )
        same = paths.setdefault(route.path, route)
        if same is not route:
            first, second = (next(iter(each.actions.values())) for each in (same, route))
            raise ConfigurationError(
                f"{first!r} and {second!r} have the same address {route.path}/, where the first would hide the second: "
                f"give one of them another url_path, or make them methods of one action with @{first}.mapping"
            )


def allows(plan: ViewPlan, action: str) -> bool:
    """Whether the options ``allowed_actions`` and ``excluded_actions`` allow an action."""
    if not isinstance(plan, ModelPlan):
        return True
    allowed = plan.attribute("allowed_actions")
    return action not in plan.attribute("excluded_actions") and (allowed is None or action in allowed)


def has_stream(plan: ViewPlan) -> bool:
    """Whether a viewset has a stream: it is enabled and not excluded, and the stream or the list is allowed."""
    if (
        not isinstance(plan, ModelPlan)
        or plan.resource.view
        or not plan.attribute("stream_enabled")
        or not hasattr(plan.viewset, STREAM)
    ):
        return False
    allowed = plan.attribute("allowed_actions")
    return STREAM not in plan.attribute("excluded_actions") and (
        allowed is None or bool({STREAM, "list"} & set(allowed))
    )


def has_aggregates(plan: ViewPlan) -> bool:
    """Whether a viewset has groups and functions: its option opens some, and the action or the list is allowed."""
    if not isinstance(plan, ModelPlan) or plan.aggregates is None or not hasattr(plan.viewset, AGGREGATE):
        return False
    allowed = plan.attribute("allowed_actions")
    return AGGREGATE not in plan.attribute("excluded_actions") and (
        allowed is None or bool({AGGREGATE, "list"} & set(allowed))
    )


def register(app: web.Application, route: Route, handler: Handler) -> None:
    """Add a route to an application, with and without a slash at its end."""
    path = re.sub(r"\{([^\W\d]\w*)\}", r"{\1:[^/]+}", route.path)  # a key may contain braces
    try:
        app.router.add_route("*", path + "/", handler)
        app.router.add_route("*", path, handler)
    except ValueError as error:
        raise ConfigurationError(f"{route.name}: {route.path} is not an address: {error}") from None
