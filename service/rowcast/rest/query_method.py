"""``QUERY /tasks/`` (RFC 10008): a list whose parameters are in a JSON body, for those that are too long for an address.

The request becomes the GET with the same parameters, so its answer, tag and cached bytes are those of the GET. ``Accept-Query``
offers it; ``Allow`` has the methods that the OpenAPI document describes, and OpenAPI 3.1 has no place for this one.
"""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from rowcast.errors import ParseError, UnsupportedMediaType, did_you_mean
from rowcast.rest.filter_groups import GROUP_PARAMETER
from rowcast.rest.plan import ModelPlan
from rowcast.rest.request import Request, parameter_text
from rowcast.rest.zones import ZONE_PARAMETER

QUERY: Final = "QUERY"
ACCEPT_QUERY: Final = {"Accept-Query": "application/json"}
MEMBERS: Final = (
    GROUP_PARAMETER,
    "search",
    "highlight",
    "ordering",
    "fields",
    "expand",
    "page",
    "page_size",
    "limit",
    "offset",
    "cursor",
    "deleted",
    ZONE_PARAMETER,
)


async def as_get(plan: ModelPlan, http: web.Request) -> web.Request:
    """The GET that a QUERY means.

    Raises:
        UnsupportedMediaType: the body is not JSON.
        ParseError: it is not an object of the list's parameters, or the address has some as well.
    """
    if http.rel_url.raw_query_string:
        raise ParseError("A QUERY has its parameters in the body, and none in the address.", code="invalid_parameter")
    try:
        body = await Request(http).read_json()
    except UnsupportedMediaType as error:
        raise UnsupportedMediaType(error.detail, headers={**error.headers, **ACCEPT_QUERY}) from None
    if not isinstance(body, dict):
        raise ParseError("The body must be a JSON object.")
    valid = [name for name in MEMBERS if name in plan.allowed_parameters["list"]]
    params = {}
    for name, value in body.items():
        if name not in valid:
            raise ParseError(f"{name[:50]}: unknown member; {did_you_mean(name, valid)}", code="unknown_parameter")
        params[name] = _parameter(name, value)
    http._read_bytes = None  # noqa: SLF001, since aiohttp makes no copy of a request whose body it has read
    return http.clone(method="GET", rel_url=http.rel_url.with_query(params))


def _parameter(name: str, value: Any) -> str:
    """A member as a parameter of an address."""
    if name == GROUP_PARAMETER:
        return parameter_text(name, value)
    match value:
        case str():
            return value
        case int() if not isinstance(value, bool):
            return str(value)
        case list() if all(isinstance(each, str) and "," not in each for each in value):
            return ",".join(value)
    raise ParseError(f"{name}: must be a string, an integer, or a list of names.", code="invalid_parameter")
