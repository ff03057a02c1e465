"""Addresses with variable parts: ``/tasks/{id}`` or ``/tasks/{id:[0-9]+}/done``, as aiohttp's routes have them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, NamedTuple

from aiohttp import web

VARIABLE_PART: Final = re.compile(r"\{([^\W\d]\w*)(?::[^{}]*(?:\{[^{}]*\}[^{}]*)*)?\}")  # {name} or {name:regex}


def variable_parts(path: str) -> list[str]:
    """The names of the variable parts of an address, in order."""
    return [match[1] for match in VARIABLE_PART.finditer(path)]


def fill(path: str, parts: Iterable[str]) -> str:
    """An address with its variable parts replaced, in order."""
    values = iter(parts)
    return VARIABLE_PART.sub(lambda _: next(values), path)


class Link(NamedTuple):
    """A path of the service and what stands there, for ``Link`` (RFC 8288): ``("/openapi.json", 'rel="describedby"')``."""

    path: str
    parameters: str


def link_header(links: Iterable[Link], root_path: str) -> str:
    """The header for clients that see the service below a path."""
    return ", ".join(f"<{root_path}{link.path}>; {link.parameters}" for link in links)


def with_part_as_sent(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]], name: str
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A handler that gets one variable part of its address percent-encoded, as the client has sent it."""

    async def with_part(http: web.Request) -> web.StreamResponse:
        parts, route = http.match_info, http.match_info.route.resource
        if name in parts and route is not None:
            position = route.canonical.split("/").index(f"{{{name}}}")
            parts[name] = http.rel_url.raw_path.split("/")[position]
        return await handler(http)

    return with_part
