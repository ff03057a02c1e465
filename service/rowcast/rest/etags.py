"""Entity tags: what a response is a version of, and what a request says about versions (RFC 9110, 8.8.3 and 13.1).

The tag of a row is ``"<version>-<representation>"``. The version is the row's own, so ``If-Match`` prevents lost updates
whatever was shown; the second part distinguishes representations of one version. The tag of a list is a digest of its
bytes.
"""

from __future__ import annotations

from hashlib import blake2b

from aiohttp import web

from rowcast.query.projection import Projection


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
    return any(each.value in ("*", tag[1:-1]) for each in request.if_none_match or ())


def expected_versions(request: web.Request) -> tuple[str, ...] | None:
    """The row versions that ``If-Match`` accepts; ``None`` if it accepts any.

    A weak tag counts as a strong one, since only its version is compared: proxies that compress a response weaken its tag.
    Malformed tags match nothing.
    """
    if "If-Match" not in request.headers:
        return None
    tags = request.if_match or ()
    if any(tag.value == "*" for tag in tags):
        return None
    return tuple(tag.value.partition("-")[0] for tag in tags)


def refused_versions(request: web.Request) -> tuple[str, ...] | None:
    """The row versions that ``If-None-Match`` of a write excludes, ``*`` for any; ``None`` without the header."""
    if "If-None-Match" not in request.headers:
        return None
    return tuple(tag.value.partition("-")[0] for tag in request.if_none_match or ())


def is_conditional(request: web.Request) -> bool:
    """Whether a request has a precondition."""
    return "If-Match" in request.headers or "If-None-Match" in request.headers


def matches(request: web.Request, tag: str | None) -> bool:
    """Whether ``If-Match`` accepts a representation with this tag; ``None`` for one that has no tag."""
    if "If-Match" not in request.headers:
        return True
    return any(each.value == "*" or (tag is not None and each.value == tag[1:-1]) for each in request.if_match or ())


def _digest(body: bytes) -> str:
    return blake2b(body, digest_size=9).hexdigest()
