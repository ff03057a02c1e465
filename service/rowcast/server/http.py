"""How an application is served: how long a request's lines may be, and what is answered to what is no request."""

from __future__ import annotations

import secrets
from typing import Final

import structlog
from aiohttp import web

from rowcast.configuration.settings import Server
from rowcast.errors import InternalError, ParseError
from rowcast.server import middleware

LONGEST: Final = 64 * 1024  # bytes of an address or a header; longer than any credentials, which are judged as such
log = structlog.get_logger(__name__)


class Runner(web.AppRunner):
    """Serves an application. What aiohttp refuses by itself is answered with a problem document, like all else."""

    def __init__(self, app: web.Application, server: Server) -> None:
        super().__init__(
            app,
            access_log=None,
            shutdown_timeout=server.shutdown_grace,
            max_line_size=LONGEST,
            max_field_size=LONGEST,
        )

    async def _make_server(self) -> web.Server:  # aiohttp takes the class of connections nowhere else
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
        """What is told where there is no request that the application could answer; the connection ends with it."""
        number = secrets.token_hex(10)
        if status >= 500:
            log.error("request_failed", request_id=number, method=request.method, path=request.path, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("A part of the response is sent already.")
        told = InternalError() if status >= 500 else ParseError(_REFUSAL)
        response = middleware.problem(told, number)
        middleware.sign(response, number)
        response.force_close()
        return response


_REFUSAL: Final = f"This is no HTTP request, or its address or a header has more than {LONGEST} bytes."
