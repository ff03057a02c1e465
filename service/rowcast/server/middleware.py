"""The outermost layer of a request: its id, errors as problem documents, and what other origins may do."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from itertools import count
from typing import Final

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from rowcast.errors import ApiError, InternalError, MethodNotAllowed, NotFound, ParseError, PayloadTooLarge
from rowcast.identity.throttling import add_rate_limit_headers

PROBLEM: Final = "application/problem+json"
REQUEST_ID: Final = web.RequestKey("request_id", str)
PLAIN_ID: Final = re.compile(r"[A-Za-z0-9._-]{8,64}")
EXPOSED: Final = (
    "Location, X-Stream-Position, X-Request-ID, Retry-After, RateLimit, RateLimit-Policy, WWW-Authenticate, Allow, ETag"
)
log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Signal = Callable[[web.Request, web.StreamResponse], Awaitable[None]]


def errors(gate: Callable[[web.Request], None]) -> Middleware:
    """Answer every failure with its problem document, and log once those that are the service's own.

    ``gate`` raises while the service cannot answer. ``X-Request-ID`` is the client's when it sends a plain one, and is
    in every response; else it says the process, by what is random, and the request, by its number.
    """
    process, numbers = secrets.token_hex(6), count(1)

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("X-Request-ID")
        if given is None or not PLAIN_ID.fullmatch(given):
            given = f"{process}{next(numbers):08x}"
        request[REQUEST_ID] = given
        try:
            gate(request)
            return await handler(request)
        except ApiError as error:
            return problem(error, given)
        except web.HTTPException as error:
            return problem(_from_aiohttp(error), given)
        except Exception:
            log.exception("request_failed", request_id=given, method=request.method, path=request.path)
            return problem(InternalError(), given)

    return answer


async def label(request: web.Request, response: web.StreamResponse) -> None:
    """Put on a response that is about to be sent, a stream's too, the request's id and where its caller stands."""
    sign(response, request[REQUEST_ID])
    add_rate_limit_headers(request, response)


def sign(response: web.StreamResponse, request_id: str) -> None:
    """Put on a response what every one of the service's has."""
    response.headers["X-Request-ID"] = request_id
    response.headers["Server"] = "rowcast"


def problem(error: ApiError, request_id: str) -> web.Response:
    """The response that tells an error."""
    body = orjson.dumps(error.problem(request_id), option=orjson.OPT_NON_STR_KEYS)
    return web.Response(body=body, status=error.status, headers=error.headers, content_type=PROBLEM)


def _from_aiohttp(error: web.HTTPException) -> ApiError:
    """aiohttp's own refusals in our words."""
    match error:
        case web.HTTPNotFound():
            return NotFound("There is nothing at this address.")
        case web.HTTPMethodNotAllowed():
            return MethodNotAllowed(error.method, error.allowed_methods)
        case web.HTTPRequestEntityTooLarge():
            return PayloadTooLarge()
    if error.status < 500:
        return ParseError(error.reason)
    return InternalError()


def cors(origins: Sequence[str]) -> tuple[Middleware, Signal]:
    """What lets pages of other origins use the service: an answer to preflights, and headers on every response.

    ``*`` among the origins allows all of them. Credentials are not cookies here, so none are asked for.
    (Fetch Standard, https://fetch.spec.whatwg.org/#http-cors-protocol)
    """
    allowed = frozenset(origins)

    def origin_of(request: web.Request) -> str | None:
        origin = request.headers.get("Origin")
        return origin if origin is not None and (origin in allowed or "*" in allowed) else None

    @web.middleware
    async def preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
        method = request.headers.get("Access-Control-Request-Method")
        if request.method != "OPTIONS" or method is None or origin_of(request) is None:
            return await handler(request)
        headers = {
            "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
            "Access-Control-Allow-Headers": request.headers.get("Access-Control-Request-Headers", "*"),
            "Access-Control-Max-Age": "600",
        }
        return web.Response(status=HTTPStatus.NO_CONTENT, headers=headers)

    async def allow(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.add("Vary", "Origin")
        if (origin := origin_of(request)) is not None:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = EXPOSED

    return preflight, allow
