"""Cross-origin requests: what lets pages of other origins use the service.

Fetch Standard, https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Final, TypeAlias

from aiohttp import web
from aiohttp.typedefs import Middleware

from rowcast.rest.handlers import Handler
from rowcast.rest.reading import READ_AFTER

EXPOSED_HEADERS: Final = "Location, X-Stream-Position, X-Replica-Max-Lag, X-Transaction, X-Request-ID, Retry-After, RateLimit, RateLimit-Policy, WWW-Authenticate, Allow, ETag, Accept-Query, X-Created, X-Updated, X-Deleted, Preference-Applied, Idempotency-Replayed"
Signal: TypeAlias = Callable[[web.Request, web.StreamResponse], Awaitable[None]]


def cors(origins: Sequence[str]) -> tuple[Middleware, Signal]:
    """A middleware that answers preflight requests, and a signal that adds headers to every response.

    ``*`` among the origins allows all of them. Cookies are not credentials here, so they are not allowed.
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
            "Access-Control-Allow-Methods": "GET, HEAD, QUERY, POST, PUT, PATCH, DELETE, OPTIONS",
            "Access-Control-Allow-Headers": _with_read_after(
                request.headers.get("Access-Control-Request-Headers", "*")
            ),
            "Access-Control-Max-Age": "600",
        }
        return web.Response(status=HTTPStatus.NO_CONTENT, headers=headers)

    async def allow(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.add("Vary", "Origin")
        if (origin := origin_of(request)) is not None:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS

    return preflight, allow


def _with_read_after(wanted: str) -> str:
    """Header names, and that which a client sends for a while after a write: it needs no preflight request of its own then."""
    return wanted if READ_AFTER.lower() in wanted.lower() else f"{wanted}, {READ_AFTER}"
