"""How an application is served: the limits of a connection in bytes and in time, and the response to a malformed request.

A client sets the pace of its connection, so each phase has a limit in ``server`` of ``service.yaml``: ``header_timeout``
for a header that has begun, ``idle_timeout`` between two requests, ``send_timeout`` for a client that takes nothing of
its response. ``Request.receive`` has ``body_timeout``. Streams have limits of their own (``streams.subscriber``).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import secrets
import socket
import sys
import termios
from collections import Counter
from collections.abc import Coroutine
from typing import Any, Final

import orjson
import structlog
from aiohttp import EMPTY_PAYLOAD, web
from aiohttp.http import RawRequestMessage
from aiohttp.web_protocol import _ErrInfo
from yarl import URL

from rowcast.configuration.settings import Server
from rowcast.errors import ApiError, InternalError, ParseError, RequestTimeout, Unavailable
from rowcast.rest.memory_budget import MemoryBudget
from rowcast.rest.request import root_path
from rowcast.server import middleware
from rowcast.server.health import READINESS
from rowcast.server.lifecycle import LIFECYCLE
from rowcast.server.plain_responses import send_plain
from rowcast.streams.sse import StreamResponse
from rowcast.tasks import spawn

HEADER_MAX_BYTES: Final = 64 * 1024  # of the request line and of each header; more than any credentials have
LINGER_MAX_SECONDS: Final = (
    10.0  # for which a body that nobody reads is received, so that its client reads the response
)
SHORT_TARGET_BYTES: Final = 1024  # of a request's target: no path of this length is costly
PATH_MAX_SLASHES: Final = 100
NOWHERE: Final = URL.build(path="//", encoded=True)
UNSENT_MAX_BYTES: Final = 128 * 1024  # of a connection, in the kernel's buffer
MIDDLE_COLLECTIONS_PER_FULL: Final = 100
BEGIN_SECONDS: Final = 0.01  # within which a request begins for which a handler was chosen
RETIRE_SECONDS: Final = 5.0  # for replaced applications, once their requests have ended or were cancelled
_logger = structlog.get_logger(__name__)


class Runner(web.AppRunner):
    """Serves an application. The errors that aiohttp itself answers are problem documents, too."""

    def __init__(self, app: web.Application, server: Server, **kwargs: Any) -> None:
        super().__init__(
            app,
            access_log=None,
            shutdown_timeout=server.shutdown_grace,
            max_line_size=HEADER_MAX_BYTES,
            max_field_size=HEADER_MAX_BYTES,
            auto_decompress=False,  # rest.encodings inflates a body that is read
            keepalive_timeout=server.idle_timeout,
            lingering_time=min(server.body_timeout, LINGER_MAX_SECONDS),
            **kwargs,
        )
        app[middleware.RESPONSES] = MemoryBudget(server.responses_limit, server)
        self._server_settings = server
        self._hurry = asyncio.Event()
        self._retiring: set[asyncio.Task[None]] = set()

    def answer_with(self, other: Runner) -> asyncio.Task[None]:
        """Answer every further request with the application of another runner, also on connections that are open.

        The other runner has been set up, and is of no use afterwards. The streams of the application that it replaces end at
        once; the task ends when that has answered what it had begun, and has been cleaned up.
        """
        assert isinstance(self._server, _Connections)
        assert isinstance(other.server, _Connections)
        before, self._app = self._app, other.app
        self._server_settings = other._server_settings
        self._shutdown_timeout = other._server_settings.shutdown_grace
        self._server.adopt(other.server)
        retiring = spawn(_retire(before), "an application that was replaced")
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)
        return retiring

    async def cleanup(self) -> None:
        """Stop: not ready at first, then without new connections; streams end one after the other; what is open may finish."""
        if (readiness := self.app.get(READINESS)) is not None:
            readiness.stopping = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), self._server_settings.shutdown_delay)
        await self._drain()
        await super().cleanup()
        if self._retiring:
            await asyncio.wait(self._retiring, timeout=RETIRE_SECONDS)

    async def _drain(self) -> None:
        """Take no more connections, and end the streams over ``stream.drain``; each connection ends with its response.

        A client whose stream ends could otherwise open the next one here, by the same connection.
        """
        if (lifecycle := self.app.get(LIFECYCLE)) is None or self.server is None:
            return
        for site in list(self.sites):
            await site.stop()
        await asyncio.sleep(0)  # connections that have been accepted begin
        self.server.pre_shutdown()
        hurry = asyncio.create_task(self._hurry.wait())
        drain = asyncio.create_task(lifecycle.drain())
        try:
            await asyncio.wait((drain, hurry), return_when=asyncio.FIRST_COMPLETED)
        finally:
            drain.cancel()
            hurry.cancel()

    def hurry(self) -> None:
        """Stop without ``server.shutdown_delay`` and ``stream.drain``, or end them."""
        self._hurry.set()

    async def _make_server(self) -> web.Server:  # aiohttp has no other way to set the class of connections
        made = await super()._make_server()
        made.__class__ = _Connections
        assert isinstance(made, _Connections)
        made.settings = self._server_settings
        made.open, made.open_from = 0, Counter()
        made.refused = self.app[middleware.REQUESTS].refused if middleware.REQUESTS in self.app else Counter()
        return made


async def _retire(app: web.Application) -> None:
    """End an application that gets no further requests, after those that it has begun."""
    await asyncio.sleep(BEGIN_SECONDS)
    await app.shutdown()
    await app[middleware.REQUESTS].end()
    await app[LIFECYCLE].streams_ended()
    await app.cleanup()


class _Connections(web.Server):
    settings: Server
    open: int
    open_from: Counter[str]  # by address; empty if the addresses are those of proxies
    refused: Counter[str]  # how often a limit was reached, by the name of its setting

    def adopt(self, other: _Connections) -> None:
        """Answer requests as another server does."""
        self.settings, self.refused = other.settings, other.refused
        self.request_handler, self.request_factory = other.request_handler, other.request_factory
        self._kwargs = other._kwargs
        for connection in self.connections:
            assert isinstance(connection, _Connection)
            connection.adopt(other)

    def count(self, address: str) -> bool:
        """Count a connection that has been opened, and return whether it may stay open."""
        self.open += 1
        if self.settings.trusted_proxies == 0:
            self.open_from[address] += 1
        if self.open > self.settings.max_connections:
            self.refused["max_connections"] += 1
            return False
        if self.open_from[address] > self.settings.max_connections_per_address:
            self.refused["max_connections_per_address"] += 1
            return False
        return True

    def discount(self, address: str) -> None:
        """Count a connection that is closed."""
        self.open -= 1
        self.open_from[address] -= 1
        if self.open_from[address] <= 0:
            del self.open_from[address]

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    """One connection, which ends if its client is too slow.

    ``_waiter``, ``_messages``, ``_drain_waiter``, ``_drain_helper``, ``_keepalive_handle``, ``_read_bytes`` and ``_ErrInfo`` are
    aiohttp's, which has no public names for them. ``tests/http/test_slow_clients.py`` and ``test_response_memory.py`` fail if
    one of them changes.
    """

    __slots__ = ("_address", "_connections_open", "_header_begun", "_header_timer", "_send_timer", "_settings")

    def __init__(self, manager: _Connections, **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self._settings = manager.settings
        self._connections_open = manager
        self._address = ""
        self._header_begun = False
        self._header_timer: asyncio.TimerHandle | None = None  # runs while a header is awaited that has begun
        self._send_timer: asyncio.TimerHandle | None = None  # runs while the client does not take what is sent

    def adopt(self, other: _Connections) -> None:
        """Answer further requests as another server does."""
        if self.transport is not None:
            self._settings = other.settings
            self._request_handler, self._request_factory = other.request_handler, other.request_factory

    # --- reading: the first header begins with the connection, each other one with its first byte

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        limit_kernel_buffer(transport)
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) else ""
        if not self._connections_open.count(self._address):
            assert isinstance(transport, asyncio.Transport)
            transport.write(_full_response(self._settings.root_path))
            transport.close()
            return
        self._header_timer = self._loop.call_later(self._settings.header_timeout, self._header_late)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        for number, (message, _) in enumerate(self._messages):
            if isinstance(message, RawRequestMessage) and len(message.path) > SHORT_TARGET_BYTES:
                self._check_path(number, message)
        if self._waiter is not None and not self._waiter.done():  # the header is not complete
            if data.strip(b"\r\n"):  # a line break may follow a body
                self._header_begun = True
                if self._header_timer is None:
                    self._header_timer = self._loop.call_later(self._settings.header_timeout, self._header_late)
        elif self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
            self._header_begun = False

    def _check_path(self, number: int, message: RawRequestMessage) -> None:
        """Give a message whose path has too many segments an address of nothing: aiohttp's router takes a copy for each one."""
        if message.url.raw_path.count("/") > PATH_MAX_SLASHES:
            nowhere = message._replace(path=str(NOWHERE), url=NOWHERE)
            self._messages[number] = (nowhere, self._messages[number][1])

    def _header_late(self) -> None:
        """End the connection; with a 408 if a part of the header has arrived."""
        self._header_timer = None
        if self._waiter is None or self._waiter.done():
            return
        if not self._header_begun:
            self.force_close()
            return
        self._connections_open.refused["header_timeout"] += 1
        error = RequestTimeout("The header did not arrive in time; send the request again.")
        self._messages.append((_ErrInfo(error.status, error, error.detail), EMPTY_PAYLOAD))
        self._waiter.set_result(None)

    def _process_keepalive(self) -> None:
        """Close the connection if it is idle. A header that has begun has its own limit."""
        if self._header_timer is None:
            super()._process_keepalive()
        else:
            self._keepalive_handle = None

    # --- writing

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_sending()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _watch_sending(self) -> None:
        if self.transport is not None:
            left = bytes_not_taken(self.transport)
            self._send_timer = self._loop.call_later(self._settings.send_timeout, self._check_sending, left)

    def _check_sending(self, before: int) -> None:
        """Abort the connection if something waits for its client, which has taken nothing since the last check."""
        self._send_timer = None
        if self.transport is None:
            return
        if self._drain_waiter is not None and bytes_not_taken(self.transport) >= before:
            self._connections_open.refused["send_timeout"] += 1
            self.transport.abort()
        else:
            self._watch_sending()

    async def start(self) -> None:
        """The life of the connection. After its end the client may take the rest of its response, at the same pace."""
        transport = self.transport
        try:
            await super().start()
        finally:
            if transport is not None:
                self._watch_closing(transport)

    def _watch_closing(self, transport: asyncio.Transport, before: int | None = None) -> None:
        """Abort a closed connection, whose rest is still to be sent, as soon as its client takes nothing."""
        if transport.get_write_buffer_size() == 0:  # what the kernel has, it sends by itself
            return
        left = bytes_not_taken(transport)
        if before is not None and left >= before:
            self._connections_open.refused["send_timeout"] += 1
            transport.abort()
        else:
            self._loop.call_later(self._settings.send_timeout, self._watch_closing, transport, left)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._connections_open.discount(self._address)
        for timer in (self._header_timer, self._send_timer):
            if timer is not None:
                timer.cancel()

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """Send a response. A stream, which has no body, is aiohttp's alone, since what waits here would be in memory meanwhile."""
        finish = super().finish_response if type(resp) is StreamResponse else self._finish_response
        return finish(request, resp, start_time)

    async def _finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send a response, in one write if its bytes are at hand; otherwise aiohttp prepares it and sends it.

        Bodies are dropped then, since aiohttp keeps both messages until the next request of the connection.

        The connection is reset if the handler has begun to send another response, and has failed then: the rest of that one would
        be read into this one, and on a connection that a proxy shares the next response into both.
        """
        held, transport = request.get(middleware.HELD), self.transport
        try:
            if request.writer.output_size > 0 and not getattr(resp, "prepared", False):
                if transport is not None:
                    transport.abort()
                return resp, True
            if (
                self._upgraded
                or transport is None
                or transport.is_closing()
                or not send_plain(request, resp, transport)
            ):
                finished = await super().finish_response(request, resp, start_time)
            else:
                request._finish()  # noqa: SLF001, as aiohttp's method does
                finished = resp, False
            if held is not None:
                await asyncio.sleep(0)  # the loop writes at the end of its turn, and notices only then how much is left
            await self._drain_helper()
        except ConnectionError:
            return resp, True
        finally:
            if held is not None:
                held.release(request.task)
                if isinstance(resp, web.Response):
                    resp.body = None
            if request._read_bytes:  # noqa: SLF001
                request._read_bytes = None  # noqa: SLF001
        return finished

    # --- errors

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
            about = {"http.request.method": request.method, "url.path": request.path}
            _logger.error("request_failed", request_id=number, exc_info=exc, **about)
        if request.writer.output_size > 0:
            raise ConnectionError("A part of the response has been sent already.")
        error: ApiError = InternalError()
        if status < 500:
            error = exc if isinstance(exc, ApiError) else ParseError(_MALFORMED_REQUEST)
        response = middleware.problem(error, number, root_path(self._settings, request))
        middleware.set_common_headers(response, number)
        response.force_close()
        return response


def _full_response(below: str) -> bytes:
    """The response on a connection that is one too many; its request is not read."""
    error = Unavailable("There are too many connections; try again later.", code="overloaded", retry_after=10)
    number = secrets.token_hex(10)
    body = orjson.dumps(error.problem_below(below, number))
    head = (
        f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: {middleware.PROBLEM}\r\nContent-Length: {len(body)}\r\n"
        f"Retry-After: {error.headers['Retry-After']}\r\nX-Request-ID: {number}\r\nServer: rowcast\r\n"
        "X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


_MALFORMED_REQUEST: Final = f"Malformed HTTP request, or the request line or a header exceeds {HEADER_MAX_BYTES} bytes."


def limit_kernel_buffer(transport: asyncio.BaseTransport) -> None:
    """Let the kernel take no more than ``UNSENT_MAX_BYTES`` that it cannot send: otherwise it takes up to 4 MiB."""
    connection = transport.get_extra_info("socket")
    if (
        connection is not None
        and connection.family != socket.AF_UNIX
        and (option := getattr(socket, "TCP_NOTSENT_LOWAT", None))
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, UNSENT_MAX_BYTES)


def bytes_not_taken(transport: asyncio.Transport) -> int:
    """The bytes of a connection that its client has not acknowledged, those in the kernel's buffer included.

    The kernel takes more from us only when much of its buffer is free again, so ours alone does not show a slow client's
    progress.
    """
    waiting = transport.get_write_buffer_size()
    connection = transport.get_extra_info("socket")
    if connection is None or connection.fileno() < 0:
        return waiting
    try:
        in_kernel = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))
    except OSError:  # a kind of socket, or a system, that does not count them
        return waiting
    return waiting + int.from_bytes(in_kernel, sys.byteorder)


def tune_garbage_collector() -> None:
    """Keep the garbage collector's pauses short; for the owner of the process, once the service is ready.

    Objects that exist now are never examined again, since they live as long as the process. Full collections become rare:
    with 10,000 open streams each takes half a second.
    """
    gc.unfreeze()  # what an application has left behind that was replaced
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, MIDDLE_COLLECTIONS_PER_FULL)
