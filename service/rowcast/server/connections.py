"""The connections of a server: their limits in bytes and in time, and the response to a malformed request.

A client sets the pace of its connection, so each phase has a limit in ``server`` of ``service.yaml``: ``header_timeout``
for a header that has begun, ``idle_timeout`` between two requests, ``send_timeout`` for a client that takes nothing of
its response. ``Request.receive`` has ``body_timeout``. Streams have limits of their own (``streams.subscriber``).
"""

from __future__ import annotations

import asyncio
import fcntl
import secrets
import socket
import sys
import termios
from collections import Counter
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, Final

import orjson
import structlog
from aiohttp import EMPTY_PAYLOAD, StreamReader, web
from aiohttp.http import HttpRequestParser, HttpVersion11, RawRequestMessage, StreamWriter
from aiohttp.web_protocol import RequestPayloadError, _ErrInfo
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from rowcast.configuration.settings import Server
from rowcast.errors import ApiError, InternalError, ParseError, RequestTimeout, Unavailable
from rowcast.rest.body_memory import UNCOUNTED_MAX_BYTES
from rowcast.rest.request import root_path
from rowcast.server import middleware
from rowcast.server.plain_responses import send_plain
from rowcast.server.short_way import ShortWay
from rowcast.streams.sse import Sent, StreamConnection, StreamResponse

HEADER_MAX_BYTES: Final = 64 * 1024  # of the request line and of each header; more than any credentials have
SHORT_TARGET_BYTES: Final = 1024  # of a request's target: no path of this length is costly
PATH_MAX_SLASHES: Final = 100
NOWHERE: Final = URL.build(path="//", encoded=True)
UNSENT_MAX_BYTES: Final = 128 * 1024  # of a connection, in the kernel's buffer
_NO_HEADERS: Final = CIMultiDictProxy(CIMultiDict[str]())
_STREAMED: Final = RawRequestMessage("GET", "/", HttpVersion11, _NO_HEADERS, (), False, None, False, False, URL("/"))
_logger = structlog.get_logger(__name__)


class Connections(web.Server):
    settings: Server
    open: int
    open_from: Counter[str]  # by address; empty if the addresses are those of proxies
    refused: Counter[str]  # how often a limit was reached, by the name of its setting
    short_way: ShortWay | None

    def adopt(self, other: Connections) -> None:
        """Answer requests as another server does."""
        self.settings, self.refused, self.short_way = other.settings, other.refused, other.short_way
        self.request_handler, self.request_factory = other.request_handler, other.request_factory
        self._kwargs = other._kwargs
        for connection in self.connections:
            assert isinstance(connection, Connection)
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
        return Connection(self, loop=self._loop, **self._kwargs)


class Connection(StreamConnection):
    """One connection, which ends if its client is too slow.

    The names with an underscore that ``__slots__`` does not have are aiohttp's, which has no public ones for them.
    ``tests/http/test_slow_clients.py``, ``test_response_memory.py`` and ``test_short_way.py`` fail if one of them changes.
    """

    __slots__ = (
        "_address", "_begun", "_connections_open", "_header_begun", "_header_timer", "_reading", "_reads_whole", "_send_timer", "_settings",
        "_takes_short_way", "outcome",
    )  # fmt: skip

    def __init__(self, manager: Connections, **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self._settings = manager.settings
        self._connections_open = manager
        self._address = ""
        self._begun = False  # the task that answers messages
        self._header_begun = False
        self._header_timer: asyncio.TimerHandle | None = None  # runs while a header is awaited that has begun
        self._send_timer: asyncio.TimerHandle | None = None  # runs while the client does not take what is sent
        self._takes_short_way = False  # the first of the messages
        self._reads_whole = False  # whether what has been read last ends where a header does
        self._reading: asyncio.Task[Any] | None = None  # what reads its response
        self.outcome: middleware.Outcome | None = None  # of that, if it has not sent the response itself

    def adopt(self, other: Connections) -> None:
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
        if self._parser is None:  # since the stream of the first message has begun
            self._parser = self._make_parser()
        self._reads_whole = data.endswith(b"\r\n\r\n")
        waiter, self._waiter = self._waiter, None  # which a message would wake at once
        super().data_received(data)
        self._waiter = waiter
        for number, (message, _) in enumerate(self._messages):
            if isinstance(message, RawRequestMessage) and len(message.path) > SHORT_TARGET_BYTES:
                self._check_path(number, message)
        is_busy = self._begun and (waiter is None or waiter.done())
        if is_busy or self._messages:
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None
                self._header_begun = False
            if self._messages and not self._takes_short_way:
                self._answer_next()
        elif data.strip(b"\r\n"):  # the header is not complete; a line break may follow a body
            self._header_begun = True
            if self._header_timer is None:
                self._header_timer = self._loop.call_later(self._settings.header_timeout, self._header_late)

    def _answer_next(self) -> None:
        """Answer the message that waits by the short way, or wake the task that answers all others."""
        waiter, short_way = self._waiter, self._connections_open.short_way
        if waiter is None or waiter.done():
            return
        message, payload = self._messages[0]
        if (
            short_way is not None
            and isinstance(message, RawRequestMessage)
            and (body := _body_at_hand(payload)) is not None
            and len(self._messages) == 1  # their client does not wait for the responses one by one
            and not self._paused
        ):
            self._request_in_progress = self._takes_short_way = True
            try:
                if short_way.takes(message, self, body):
                    return
            except Exception:
                _logger.exception("short_way_failed")
            self._request_in_progress = self._takes_short_way = False
        waiter.set_result(None)

    async def _answer_first(self) -> None:
        """Answer what has arrived before this task has begun as what arrives later; returns when a message is for the task."""
        self._waiter = self._loop.create_future()
        try:
            self._answer_next()
            await self._waiter
        finally:
            self._waiter = None

    def request_of(self, message: RawRequestMessage, body: bytes) -> web.Request:
        """The request that aiohttp would make of a message, whose body has been received."""
        make, task = self._request_factory, self._task_handler
        assert make is not None
        assert task is not None
        request = make(message, EMPTY_PAYLOAD, self, StreamWriter(self, self._loop), task)
        assert isinstance(request, web.Request)
        request._read_bytes = body  # noqa: SLF001, as if it had been read
        return request

    @property
    def address(self) -> str:
        """Where the connection comes from; empty for a Unix socket."""
        return self._address

    async def drain(self) -> None:
        """Wait until the client has taken most of what waits for it, if that is more than the transport's limit."""
        await self._drain_helper()

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run what answers the first message, or passes it on. It has a context of its own: the statement of another request may call this."""
        self._reading = self._loop.create_task(work, context=Context())

    def answered(self, response: bytes) -> None:
        """Send the response to the first message, and go on with the next one."""
        self._end_short_way()
        transport, manager = self.transport, self._manager
        if transport is None or manager is None:
            return
        if transport.is_closing():  # the client has ended its side, and may take what has been sent before
            self.force_close()
            return
        transport.write(response)
        message, _ = self._messages.popleft()
        if self._parser is not None and message is not _STREAMED:
            self._parser.message_consumed()
        manager.requests_count += 1
        if self._close:
            super().close()
            transport.close()
            return
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        if self._messages:
            Context().run(self._answer_next)

    def begin_stream(self, stream: Sent) -> None:
        """Send a stream in place of a response: nothing of its message is kept but its place in the queue, and no timer runs.

        The parser keeps its last message, too, so it goes as well. It stays only if it has read a part of another message.
        """
        self.stream = stream
        self._messages[0] = (_STREAMED, EMPTY_PAYLOAD)
        if self._reads_whole and len(self._messages) == 1:
            self._parser = None
        elif self._parser is not None:
            self._parser.message_consumed()
        if self._keepalive_handle is not None:
            self._keepalive_handle.cancel()
            self._keepalive_handle = None

    def _make_parser(self) -> HttpRequestParser:
        """A parser like the one that aiohttp has made for this connection."""
        return HttpRequestParser(
            self, self._loop, self._read_bufsize, max_line_size=self.max_line_size, max_field_size=self.max_field_size,
            max_headers=self.max_headers, payload_exception=RequestPayloadError, auto_decompress=False,
            max_msg_queue_size=self._max_msg_queue_size,
        )  # fmt: skip

    def pass_on(self, outcome: middleware.Outcome) -> None:
        """Wake the task that answers messages as always; the middleware takes the outcome."""
        self._end_short_way()
        self.outcome = outcome
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _end_short_way(self) -> None:
        self._request_in_progress = self._takes_short_way = False
        self._reading = None
        stopping, self._handler_waiter = self._handler_waiter, None  # which aiohttp's task would end a second time
        if stopping is not None and not stopping.done():
            stopping.set_result(None)

    def close(self) -> None:
        """Answer what is being answered, and then close the connection."""
        if self._takes_short_way:
            self._close = True
        else:
            super().close()

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
        """Close the connection if it is idle. A header that has begun has its own limit, and so has a statement."""
        if self._header_timer is None and not self._takes_short_way:
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
        self._begun = True
        try:
            if self._messages:
                await self._answer_first()
            if not self._force_close:
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


def _body_at_hand(payload: StreamReader) -> bytes | None:
    """The body of a message if all of it has arrived, and it is short; it stays where it is."""
    if payload is EMPTY_PAYLOAD:
        return b""
    if payload.is_eof() and payload.total_bytes <= UNCOUNTED_MAX_BYTES and payload.exception() is None:
        return b"".join(payload._buffer)  # noqa: SLF001
    return None


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
