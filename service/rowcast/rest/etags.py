"""Entity tags: what a response is a version of, and what a request says about versions (RFC 9110, 8.8.3 and 13.1).

The tag of a row is ``"<version>-<representation>"``. The version is the row's own, so ``If-Match`` prevents lost updates
whatever was shown; the second part distinguishes representations of one version. The tag of a list is a digest of its
bytes.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

from aiohttp import web

from rowcast.query.projection import Projection

ANY: Final = "*"
_TAG: Final = re.compile(r'[ \t]*(?:W/)?"([!\x23-\x7e\x80-\U0010ffff]*)"[ \t]*(?:(?:,[ \t]*)+|$)')


def tag_of_row(version: str | None, shown: Projection, body: bytes | None) -> str:
    """The tag of a row: by its version and projection, or by ``body`` where the projection does not determine it."""
    return f'"{version or ""}-{shown.fingerprint if body is None else _digest(body)}"'


def tag_of_list(body: bytes) -> str:
    """The tag of a page."""
    return f'"{_digest(body)}"'


def client_has(request: web.Request, tag: str) -> bool:
    """Whether ``If-None-Match`` says that the client has this representation (weak comparison, RFC 9110, 8.8.3.2)."""
    if "If-None-Match" not in request.headers:
        return False
    named = _named(request, "If-None-Match")
    return ANY in named or tag[1:-1] in named


def expected_versions(request: web.Request) -> tuple[str, ...] | None:
    """The row versions that ``If-Match`` accepts; ``None`` if it accepts any.

    A weak tag counts as a strong one, since only its version is compared: proxies that compress a response weaken its tag.
    Malformed tags match nothing.
    """
    if "If-Match" not in request.headers:
        return None
    named = _named(request, "If-Match")
    return None if ANY in named else tuple(tag.partition("-")[0] for tag in named)


def refused_versions(request: web.Request) -> tuple[str, ...] | None:
    """The row versions that ``If-None-Match`` of a write excludes, ``ANY`` for all; ``None`` without the header."""
    if "If-None-Match" not in request.headers:
        return None
    return tuple(tag.partition("-")[0] for tag in _named(request, "If-None-Match"))


def is_conditional(request: web.Request) -> bool:
    """Whether a request has a precondition."""
    return "If-Match" in request.headers or "If-None-Match" in request.headers


def matches(request: web.Request, tag: str | None) -> bool:
    """Whether ``If-Match`` accepts a representation with this tag; ``None`` for one that has no tag."""
    if "If-Match" not in request.headers:
        return True
    named = _named(request, "If-Match")
    return ANY in named or (tag is not None and tag[1:-1] in named)


def _named(request: web.Request, header: str) -> list[str]:
    """The tags that all lines of a header name, without quotes, or ``ANY`` alone. What follows a malformed tag is left out."""
    sent = ",".join(request.headers.getall(header)).strip(" \t,")
    if sent == ANY:
        return [ANY]
    found: list[str] = []
    at = 0
    while (tag := _TAG.match(sent, at)) is not None:
        found.append(tag[1])
        at = tag.end()
    return [tag for tag in found if tag != ANY]  # in quotes it is a tag like others, and none that is issued here


def _digest(body: bytes) -> str:
    return blake2b(body, digest_size=9).hexdigest()
