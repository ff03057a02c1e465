"""How an application is served: the limits on a request's lines, and the response to a malformed request."""

from __future__ import annotations

import gc
import secrets
from typing import Final

import structlog
from aiohttp import web

from rowcast.configuration.settings import Server
from rowcast.errors import InternalError, ParseError
from rowcast.server import middleware

HEADER_MAX_BYTES: Final = 64 * 1024  # of the request line and of each header; more than any credentials have
MIDDLE_COLLECTIONS_PER_FULL: Final = 100
_logger = structlog.get_logger(__name__)


class Runner(web.AppRunner):
    """Serves an application. The errors that aiohttp itself answers are problem documents, too."""

    def __init__(self, app: web.Application, server: Server) -> None:
        super().__init__(
            app,
            access_log=None,
            shutdown_timeout=server.shutdown_grace,
            max_line_size=HEADER_MAX_BYTES,
            max_field_size=HEADER_MAX_BYTES,
        )

    async def _make_server(self) -> web.Server:  # aiohttp has no other way to set the class of connections
        made = await super()._make_server()
        made.__class__ = _Connections
        return made


class _Connections(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The response where there is no request for the application to answer; the connection ends with it."""
        number = secrets.token_hex(10)
        if status >= 500:
            _logger.error("request_failed", request_id=number, method=request.method, path=request.path, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("A part of the response has been sent already.")
        error = InternalError() if status >= 500 else ParseError(_MALFORMED_REQUEST)
        response = middleware.problem(error, number)
        middleware.set_common_headers(response, number)
        response.force_close()
        return response


_MALFORMED_REQUEST: Final = f"Malformed HTTP request, or the request line or a header exceeds {HEADER_MAX_BYTES} bytes."


def tune_garbage_collector() -> None:
    """Keep the garbage collector's pauses short; for the owner of the process, once the service is ready.

    Objects that exist now are never examined again, since they live as long as the process. Full collections become rare:
    with 10,000 open streams each takes half a second.
    """
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, MIDDLE_COLLECTIONS_PER_FULL)
