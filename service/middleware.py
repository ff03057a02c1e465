"""The outermost layer of a request: its id, and errors as problem documents."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

import orjson
import structlog
from aiohttp import web

from service.errors import ApiError, InternalError, MethodNotAllowed, NotFound, ParseError, PayloadTooLarge

PROBLEM: Final = "application/problem+json"
REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{8,64}")
log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every failure with its problem document, and log once those that are the service's own.

    ``X-Request-ID`` is the client's when it sends a plain one, and is in every response.
    """
    given = request.headers.get("X-Request-ID", "")
    request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
    try:
        response = await handler(request)
    except ApiError as error:
        response = problem(error, request_id)
    except web.HTTPException as error:
        response = problem(_from_aiohttp(error), request_id)
    except Exception:
        log.exception("request_failed", request_id=request_id, method=request.method, path=request.path)
        response = problem(InternalError(), request_id)
    if not response.prepared:
        response.headers["X-Request-ID"] = request_id
    return response


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
