"""Entity tags: what a response is a version of, and what a request says about versions (RFC 9110, 8.8.3 and 13.1).

The tag of a row is ``"<version>-<shown>"``. The version is the row's own, so that ``If-Match`` keeps a change from being
lost whatever was shown; ``shown`` tells the representations of one version apart. The tag of a list is of its bytes.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

from aiohttp import web

from rowcast.query.projection import Projection

_TAGS: Final = re.compile(r'(W/)?"([^"]*)"')


def tag_of_row(version: str | None, shown: Projection, body: bytes | None) -> str:
    """The tag of a row whose representation follows from the version and what is shown, or else of its ``body``."""
    return f'"{version or ""}-{shown.fingerprint if body is None else _digest(body)}"'


def tag_of_list(body: bytes) -> str:
    """The tag of a page."""
    return f'"{_digest(body)}"'


def known(request: web.Request, tag: str) -> bool:
    """Whether the client says with ``If-None-Match`` that it has this representation."""
    given = request.headers.get("If-None-Match")
    if given is None:
        return False
    return given.strip() == "*" or tag.strip('"') in (found for _, found in _TAGS.findall(given))


def expected(request: web.Request) -> tuple[str, ...] | None:
    """The versions of a row that ``If-Match`` allows to be changed; ``None`` where it allows any.

    A weak tag matches nothing.
    """
    given = request.headers.get("If-Match")
    if given is None or given.strip() == "*":
        return None
    return tuple(found.partition("-")[0] for weak, found in _TAGS.findall(given) if not weak)


def _digest(body: bytes) -> str:
    return blake2b(body, digest_size=9).hexdigest()
