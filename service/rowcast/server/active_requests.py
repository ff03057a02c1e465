"""``server.max_active_requests``: how many requests a process answers at the same time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from rowcast.errors import Unavailable
from rowcast.rest.handlers import Handler

RETRY_SECONDS: Final = 1


def limit_active(most: int, counts: Callable[[web.Request], bool]) -> Middleware:
    """A middleware that refuses a request with a 503 while ``most`` others are being answered, among those that count."""
    active = 0

    @web.middleware
    async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal active
        if not counts(request):
            return await handler(request)
        if active >= most:
            raise Unavailable(
                "Too many requests are being answered; try again later.",
                code="overloaded",
                retry_after=RETRY_SECONDS,
                limit="max_active_requests",
            )
        active += 1
        try:
            return await handler(request)
        finally:
            active -= 1

    return admit
