"""Content negotiation: whether a client accepts what a route sends (RFC 9110, 12.5.1)."""

from __future__ import annotations

from typing import Final

from aiohttp import web

_ANYTHING: Final = ("*/*", "application/json")  # the headers of nearly every client, which need no parsing
_JSON_TYPES: Final = ("*/*", "application/*", "application/json", "application/problem+json")
_REFUSALS: Final = ("q=0", "q=0.0", "q=0.00", "q=0.000")


def accepts_json_as_sent(http: web.Request) -> bool:
    """Whether ``Accept`` is one of the headers that plainly allow JSON."""
    return http.headers.get("Accept", "*/*") in _ANYTHING


def accepts_json(http: web.Request) -> bool:
    """Whether the ``Accept`` headers allow JSON."""
    if http.headers.get("Accept", "*/*") in _ANYTHING:
        return True
    accept = ",".join(http.headers.getall("Accept"))
    return not accept or any(_accepts_json(part) for part in accept.split(","))


def _accepts_json(part: str) -> bool:
    media_type, _, parameters = part.partition(";")
    refused = parameters.replace(" ", "").lower() in _REFUSALS
    return not refused and media_type.strip().lower() in _JSON_TYPES
