"""What trusted proxies report of a request as its client has sent it: in ``X-Forwarded-…``, or in ``Forwarded`` (RFC 7239).

A client can write these headers as well. So only the entries count that as many proxies as ``server.trusted_proxies`` have
added: the last ones. ``Forwarded`` counts where a request has no ``X-Forwarded-For``, ``-Host`` and ``-Proto``: behind a proxy that
sets these, a client cannot choose another form.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from aiohttp import web

from rowcast.configuration.settings import ROOT_PATH
from rowcast.errors import ParseError

PREFIX: Final = "X-Forwarded-Prefix"
FORWARDED: Final = "Forwarded"
NAMES: Final = {"for": "X-Forwarded-For", "host": "X-Forwarded-Host", "proto": "X-Forwarded-Proto"}

_ROOT_PATH: Final = re.compile(ROOT_PATH)
_VALUE: Final = r'"(?:[^"\\]|\\.)*"|[^\s",;]+'
_PAIR: Final = re.compile(rf"[ \t]*(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)=({_VALUE}))?[ \t]*([;,]|$)")


def reported(http: web.BaseRequest, fact: Literal["for", "host", "proto"], trusted_proxies: int) -> str | None:
    """What the outermost trusted proxy has reported of a request; ``None`` if it has not.

    Raises:
        ParseError: ``Forwarded`` is malformed.
    """
    name = header_of(http, fact)
    if name not in http.headers:
        return None
    lines = http.headers.getall(name)
    if name == FORWARDED:
        return _elements(lines)[-trusted_proxies:][0].get(fact)
    return _entries(lines)[-trusted_proxies:][0]


def header_of(http: web.BaseRequest, fact: Literal["for", "host", "proto"]) -> str:
    """The header in which proxies report a fact of this request."""
    headers = http.headers
    return FORWARDED if FORWARDED in headers and not any(name in headers for name in NAMES.values()) else NAMES[fact]


def reported_prefix(http: web.BaseRequest, trusted_proxies: int) -> str | None:
    """The path that the trusted proxies have taken off the request's, without a slash at its end; ``None`` without a report.

    Raises:
        ParseError: it is not such a path.
    """
    if PREFIX not in http.headers:
        return None
    entries = _entries(http.headers.getall(PREFIX))[-trusted_proxies:]
    prefix = "".join(entry.removesuffix("/") for entry in entries)  # each proxy has taken off its own
    if not _ROOT_PATH.fullmatch(prefix):
        raise ParseError(f"{PREFIX} is malformed: it must be a path such as /api.")
    return prefix


def _entries(lines: list[str]) -> list[str]:
    return [part.strip() for line in lines for part in line.split(",")]


def _elements(lines: list[str]) -> list[dict[str, str]]:
    """What each proxy has written into ``Forwarded``, from the client on.

    A line is read whole or refused: a quote that a client has left open would otherwise hide what a proxy has added behind it.
    """
    elements = []
    for line in lines:
        element: dict[str, str] = {}
        elements.append(element)
        position = 0
        while True:
            match = _PAIR.match(line, position)
            if match is None:
                raise ParseError(f"{FORWARDED} is malformed (RFC 7239).")
            name, value, separator = match.groups()
            if name is not None:
                element[name.lower()] = re.sub(r"\\(.)", r"\1", value[1:-1]) if value[0] == '"' else value
            if not separator:
                break
            if separator == ",":
                element = {}
                elements.append(element)
            position = match.end()
    return elements
