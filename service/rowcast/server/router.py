"""aiohttp's router, with tables of the addresses that nearly every request has: a list's, and a row's.

aiohttp tries the routes that begin like an address one after the other, those of rows with a regular expression. A viewset
has about ten. Here a whole address, or all but its last part, is the key of its route. What the tables do not have, aiohttp
finds as always.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import Final

from aiohttp import web
from aiohttp.http import HttpVersion11
from aiohttp.web_urldispatcher import MatchedSubAppResource, MatchInfoError, UrlMappingMatchInfo

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY")  # that have a meaning here
_ANY_PART: Final = "(?P<{}>[^/]+)"  # the pattern of a part of an address that may be anything
_VARIABLE: Final = re.compile(r"\{(\w+)\}")
_SIMPLE: Final = re.compile(
    r"(?:/[\w.~-]+|/\{[a-zA-Z_]\w*:\[\^/\]\+\})+/?", re.ASCII
)  # a path of the parts that most have


class Router(web.UrlDispatcher):
    """Finds a route for every method whose address is fixed, or fixed but for its last part, in one step."""

    def __init__(self) -> None:
        super().__init__()
        self._whole: dict[str, web.AbstractRoute | None] = {}  # ``None`` where the route differs by method
        self._but_last: dict[str, tuple[str, web.AbstractRoute] | None] = {}  # with the name of the part
        self._but_last_and_slash: dict[str, tuple[str, web.AbstractRoute] | None] = {}

    def add_resource(self, path: str, *, name: str | None = None) -> web.Resource:
        """The resource at a path, or the last one if that has the path and the name."""
        if not _has_simple_variables(path) or (self._resources and self._resources[-1].raw_match(path)):
            return super().add_resource(path, name=name)
        resource = _SimpleResource(path, name=name)
        self.register_resource(resource)
        return resource

    def freeze(self) -> None:
        """End the registration of routes."""
        super().freeze()
        if any(isinstance(each, MatchedSubAppResource) for each in self.resources()):
            return  # an application of its own for some requests, at any address
        others = {_first_part(each) for each in self.resources() if not _is_simple(each)}
        for resource in self.resources():
            if _first_part(resource) not in others:
                self._add(resource)

    def _add(self, resource: web.AbstractResource) -> None:
        """Put a resource into its table, unless an earlier one is there."""
        path, routes = resource.canonical, list(resource)
        route = routes[0] if [each.method for each in routes] == ["*"] else None
        if "{" not in path:
            self._whole.setdefault(path, route)
            return
        before, _, last = path.removesuffix("/").rpartition("/")
        name = _VARIABLE.fullmatch(last)
        if name is not None and "{" not in before:
            table = self._but_last_and_slash if path.endswith("/") else self._but_last
            table.setdefault(before, None if route is None else (name[1], route))

    async def resolve(self, request: web.Request) -> UrlMappingMatchInfo:
        """The route of a request, with the variable parts of its address."""
        if "Expect" in request.headers and _is_unknown(request.headers["Expect"]) and request.version >= HttpVersion11:
            return _UnknownExpectation(web.HTTPExpectationFailed())
        found = self.find(request.rel_url.raw_path)
        if found is not None:
            return UrlMappingMatchInfo(*found)
        return await super().resolve(request)

    def find(self, path: str) -> tuple[dict[str, str], web.AbstractRoute] | None:
        """The variable part of an address, by its name, and the route; ``None`` if the tables do not have it."""
        if path in self._whole:
            route = self._whole[path]
            return None if route is None else ({}, route)
        if "%" in path:
            return None
        if path[-1:] == "/":
            before, _, last = path[:-1].rpartition("/")
            found = self._but_last_and_slash.get(before)
        else:
            before, _, last = path.rpartition("/")
            found = self._but_last.get(before)
        return ({found[0]: last}, found[1]) if found is not None and last else None


class _SimpleResource(web.DynamicResource):
    """An address whose parts are fixed, or may be anything.

    Its regular expression is compiled when it is first needed, which for most is never: with 200 viewsets that is a tenth of
    the time of making an application.
    """

    def __init__(self, path: str, *, name: str | None = None) -> None:
        super(web.DynamicResource, self).__init__(name=name)
        self._orig_path = path
        self._formatter = path.replace(":[^/]+", "")

    @cached_property
    def _pattern(self) -> re.Pattern[str]:  # type: ignore[override]
        return web.DynamicResource(self._orig_path).get_info()["pattern"]


def _has_simple_variables(path: str) -> bool:
    names = [part.partition(":")[0] for part in path.split("{")[1:]]
    return bool(names) and _SIMPLE.fullmatch(path) is not None and len({*names}) == len(names)


def template(router: web.UrlDispatcher, resource: web.AbstractResource) -> str:
    """A route as the documentation writes it: with a slash at its end, where it works with and without one."""
    bare = resource.canonical.rstrip("/")
    known = {each.canonical for each in router.resources()}
    return f"{bare}/" if f"{bare}/" in known and "." not in bare else resource.canonical


class _UnknownExpectation(MatchInfoError):
    """Answers an ``Expect`` header with a 417. aiohttp's own answer would have the header, which need not be text."""

    @property
    def expect_handler(self) -> Callable[[web.Request], Awaitable[web.StreamResponse | None]]:
        return self._refuse

    async def _refuse(self, _request: web.Request) -> web.StreamResponse:
        raise self.http_exception


def _is_unknown(expectation: str) -> bool:
    return expectation.lower() != "100-continue"


def _first_part(resource: web.AbstractResource) -> str:
    return resource.canonical.partition("/")[2].partition("/")[0]


def _is_simple(resource: web.AbstractResource) -> bool:
    """Whether each part of a resource's address is fixed, or may be anything."""
    path = resource.canonical
    if isinstance(resource, web.PlainResource | _SimpleResource):
        return True
    parts = path.split("/")
    expected = _VARIABLE.sub(
        lambda part: _ANY_PART.format(part[1]), re.escape(path).replace(r"\{", "{").replace(r"\}", "}")
    )
    return (
        isinstance(resource, web.DynamicResource)
        and resource.get_info()["pattern"].pattern == expected
        and all("{" not in part or _VARIABLE.fullmatch(part) for part in parts)
    )
