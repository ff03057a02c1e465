"""Content negotiation: which of the media types that a route sends a client wants (RFC 9110, 12.5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import web

_ANYTHING: Final = ("*/*", "application/json")  # the headers of nearly every client, which need no parsing
_JSON_TYPES: Final = ("*/*", "application/*", "application/json", "application/problem+json")
_REFUSALS: Final = ("q=0", "q=0.0", "q=0.00", "q=0.000")
EVENT_STREAM: Final = "text/event-stream"
EXPORT_TYPES: Final[Mapping[str, str]] = {"text/csv": "csv", "application/x-ndjson": "ndjson"}
"""The media types of all rows of a list, and their formats."""
VARY: Final[Mapping[str, str]] = {"Vary": "Accept"}


def accepts_json_as_sent(http: web.Request) -> bool:
    """Whether ``Accept`` is one of the headers that plainly allow JSON."""
    return http.headers.get("Accept", "*/*") in _ANYTHING


def accepts_json(http: web.Request) -> bool:
    """Whether the ``Accept`` headers allow JSON."""
    if http.headers.get("Accept", "*/*") in _ANYTHING:
        return True
    accept = ",".join(http.headers.getall("Accept"))
    return not accept or any(_accepts_json(part) for part in accept.split(","))


def export_type(http: web.Request) -> str | None:
    """The one of ``EXPORT_TYPES`` that the ``Accept`` headers name and prefer to JSON; ``None`` without one."""
    if accepts_json_as_sent(http):
        return None
    ranges = _qualities(",".join(http.headers.getall("Accept")))
    json = next((ranges[each] for each in ("application/json", "application/*", "*/*") if each in ranges), 0.0)
    quality, found = max((ranges.get(each, 0.0), each) for each in EXPORT_TYPES)
    return found if quality > json else None


def accepts_gzip(http: web.Request) -> bool:
    """Whether ``Accept-Encoding`` asks for gzip."""
    if "Accept-Encoding" not in http.headers:
        return False
    codings = _qualities(",".join(http.headers.getall("Accept-Encoding")))
    return next((codings[each] for each in ("gzip", "x-gzip", "*") if each in codings), 0.0) > 0


def _qualities(header: str) -> dict[str, float]:
    """The parts of a header with their quality, 1 without a valid one."""
    found = {}
    for part in header.split(","):
        name, *parameters = part.split(";")
        values = [value for each in parameters if (value := each.replace(" ", "").lower()).startswith("q=")]
        try:
            quality = float(values[0].removeprefix("q=")) if values else 1.0
        except ValueError:
            quality = 1.0
        found[name.strip().lower()] = quality
    return found


def _accepts_json(part: str) -> bool:
    media_type, _, parameters = part.partition(";")
    refused = parameters.replace(" ", "").lower() in _REFUSALS
    return not refused and media_type.strip().lower() in _JSON_TYPES
