"""``log.access``: requests in the log, by OpenTelemetry's names; without the query of an address, headers and bodies."""

from __future__ import annotations

from collections.abc import Coroutine
from time import perf_counter
from typing import Any, Final

import structlog
from aiohttp import web

from rowcast.configuration.settings import Log
from rowcast.rest.handlers import Handler
from rowcast.server.log_entries import REQUEST
from rowcast.server.middleware import REQUEST_ID
from rowcast.streams.sse import StreamResponse

ERROR_STATUS: Final = 500  # from which on a response is an error of the service
_logger = structlog.get_logger(__name__)


def log_requests(app: web.Application, log: Log) -> None:
    """Log the requests of an application as ``log.access`` says; without it nothing is added to them."""
    if log.access == "off":
        return
    every, least = log.access == "all", log.slow_after if log.access == "slow" else None

    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        begun = perf_counter()
        response = await handler(request)
        if type(response) is StreamResponse and response.sending is not None:
            response.sending = note_at_end(request, response, begun, response.sending)
        else:
            write(request, response, perf_counter() - begun)
        return response

    async def note_at_end(
        request: web.Request, response: web.StreamResponse, begun: float, sending: Coroutine[Any, Any, None]
    ) -> None:
        await sending
        write(request, response, perf_counter() - begun)

    def write(request: web.Request, response: web.StreamResponse, seconds: float) -> None:
        slow = least is not None and seconds >= least and type(response) is not StreamResponse
        if every or slow or response.status >= ERROR_STATUS:
            resource = request.match_info.route.resource
            about: dict[str, Any] = {
                "http.request.method": request.method,
                "http.route": None if resource is None else resource.canonical,
                "url.path": request.path,
                "http.response.status_code": response.status,
                "http.server.request.duration": round(seconds, 6),
                "request_id": request.get(REQUEST_ID),
            }
            _logger.info(REQUEST, **about)

    app.middlewares.insert(0, note)
