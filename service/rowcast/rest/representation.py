"""What a GET of an address would show: the precondition of unsafe requests that are not about one row (RFC 9110, 13)."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from rowcast.errors import ApiError, PreconditionFailed
from rowcast.resources.actions import READING_ACTIONS, STREAM
from rowcast.rest import etags
from rowcast.rest.plan import new_view


async def check_representation(view: Any) -> None:
    """``PreconditionFailed`` if a request excludes what a GET of its address would show its caller now."""
    http: web.Request = view.request.http
    reading = view.action_map.get("GET")
    upserting = view.action == "update" and reading == "list"  # whose parameters name a rule, and are not the list's
    tag, exists = None, reading not in (None, STREAM)
    if reading in READING_ACTIONS and not view.view_plan.overrides(reading):
        ignored = ("If-Match", "If-None-Match", "Accept")
        headers = [each for each in http.headers.items() if each[0].title() not in ignored and _is_text(each[1])]
        body, http._read_bytes = http._read_bytes, None  # noqa: SLF001, since aiohttp makes no copy of a request whose body it has read
        address = http.rel_url.with_query(None) if upserting else http.rel_url
        reading_request = http.clone(method="GET", rel_url=address, headers=headers)
        http._read_bytes = body  # noqa: SLF001
        try:
            response = await new_view(view.view_plan, action_map=view.action_map).dispatch(reading_request)
        except ApiError:
            exists = False
        else:
            tag = response.headers["ETag"]
    if (
        exists
        and not upserting
        and (etags.client_has(http, tag) if tag else etags.ANY in (etags.refused_versions(http) or ()))
    ):
        raise PreconditionFailed("If-None-Match excludes what this address shows now.")
    if "If-Match" in http.headers and not (exists and etags.matches(http, tag)):
        raise PreconditionFailed("If-Match excludes what this address shows now; read it again.")


def _is_text(value: str) -> bool:
    """Whether a header is UTF-8; aiohttp copies no other ones."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
