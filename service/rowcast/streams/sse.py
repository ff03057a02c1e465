"""The wire format of a stream: the response, the blocks that open and reset it, and the framing of its bytes.

Specification: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, Protocol

import orjson
from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp_sse import EventSourceResponse

from rowcast.changes.position import Position

CONTENT_TYPE: Final = "text/event-stream"
CACHE_CONTROL: Final = "no-cache, no-transform"  # a proxy that compresses would keep events back
HEADERS: Final[Mapping[str, str]] = {
    "Content-Type": CONTENT_TYPE,
    "Cache-Control": CACHE_CONTROL,
    "Connection": "keep-alive",
    "X-Accel-Buffering": "no",
}  # of a stream, as aiohttp-sse has them
RETRY_MILLISECONDS: Final = 1000, 3000  # that a browser waits before it connects again, at least and at most
RETRY_SLOW_FILTER_MILLISECONDS: Final = 60_000  # the same, after a stream has ended because of its filter
FILTER_TIMEOUT: Final = "filter_timeout"  # the reason of a reset after which the stream ends
KEEP_ALIVE: Final = b": keep-alive\n\n"
DATABASE_AWAY: Final = b": the database is away\n\n"
UNACKNOWLEDGED_SECONDS: Final = 120.0  # after which the kernel closes a connection whose client acknowledges nothing
USER_TIMEOUT: Final[int | None] = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux has it
WHEN_BEGUN: Final[web.RequestKey[Callable[[web.BaseRequest, int], None]]] = web.RequestKey("when_begun")


class StreamResponse(EventSourceResponse):
    """The response of aiohttp-sse: its headers, its chunked coding without compression, its ``TCP_USER_TIMEOUT``.

    It has no ping of its own, because one heartbeat of the hub keeps every connection alive.

    A handler returns it when the headers have been sent. aiohttp then calls ``write_eof``, where the stream is ``sending``: so
    what led to the stream, a dozen coroutines with their requests and viewsets, is not in memory while it is open.
    """

    _send_headers_immediately = False  # but in one write with the opening
    transport: asyncio.Transport
    is_chunked: bool

    def __init__(self) -> None:
        super().__init__(allow_all_methods=True, send_timeout=UNACKNOWLEDGED_SECONDS)
        self.headers["Cache-Control"] = CACHE_CONTROL
        self.sending: Coroutine[Any, Any, None] | None = None  # the stream, from its opening to its end
        self.client_left: Callable[[], None] | None = None  # called when the connection is lost

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the headers, once. ``ConnectionResetError`` if the client has gone, as for every other write."""
        if self.prepared:
            return self._payload_writer
        if request.transport is None:  # aiohttp-sse asserts that there is one
            raise ConnectionResetError("The client has left before the stream began.")
        self.transport, self.is_chunked = request.transport, request.version >= HttpVersion11
        self._set_tcp_user_timeout(request)
        if isinstance(request.protocol, StreamConnection):
            request.protocol.stream = self
        writer = await web.StreamResponse.prepare(self, request)  # without the task of a ping
        self.headers.clear()  # which have been sent, and would be in memory as long as the stream
        if (when_begun := request.get(WHEN_BEGUN)) is not None:
            when_begun(request, self.status)
        return writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the stream, and the end of the response."""
        sending, self.sending = self.sending, None
        try:
            if sending is not None:
                await sending
        finally:
            self.client_left = None
        await super().write_eof(data)

    async def drain(self) -> None:
        """Wait until the client has taken most of what waits for it, if that is more than the transport's limit."""
        assert self._payload_writer is not None
        await self._payload_writer.drain()


class Sent(Protocol):
    """What a stream is sent by. ``client_left`` is called when its connection is lost."""

    client_left: Callable[[], None] | None


class StreamConnection(web.RequestHandler):
    """A connection whose stream learns at once that its client has left. By any other it would learn that with its next write."""

    __slots__ = ("stream",)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.stream: Sent | None = None  # the last one

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        stream, self.stream = self.stream, None
        if stream is not None and stream.client_left is not None:
            stream.client_left()


def end_if_unacknowledged(transport: asyncio.Transport, seconds: float = UNACKNOWLEDGED_SECONDS) -> None:
    """Let the kernel end a connection whose client acknowledges nothing for so long, as aiohttp-sse does; 0 for its own limit."""
    connection = transport.get_extra_info("socket")
    if (
        USER_TIMEOUT is not None
        and connection is not None
        and connection.family != socket.AF_UNIX
        and connection.fileno() >= 0
    ):
        connection.setsockopt(socket.IPPROTO_TCP, USER_TIMEOUT, int(seconds * 1000))


def opening() -> bytes:
    """The first line of a stream: how long to wait before the next connection, so that not all clients come at once."""
    return b"retry: %d\n" % random.randint(*RETRY_MILLISECONDS)


def come_back(problem: Mapping[str, Any], seconds: int) -> web.Response:
    """A stream that is over at once: its client waits, and then connects again.

    That is for a browser's ``EventSource``, which gives up after an error status. The time is at random, from ``seconds`` to twice
    as long, so that not all clients come back at once. The event has no id: the client keeps its position.
    """
    wait = random.randint(1000 * seconds, 2000 * seconds)
    return web.Response(
        body=b"retry: %d\nevent: busy\ndata: %b\n\n" % (wait, orjson.dumps(problem, option=orjson.OPT_NON_STR_KEYS)),
        content_type=CONTENT_TYPE,
        headers={"Cache-Control": CACHE_CONTROL, "X-Accel-Buffering": "no", "Retry-After": str(seconds)},
    )


def http_chunk(frame: bytes) -> bytes:
    """Bytes of a stream as a chunk of HTTP/1.1, ready for the transport.

    A frame for a whole group is written to each member's transport directly, because aiohttp's ``write`` is a coroutine that
    waits for a slow client. That is correct as long as aiohttp writes a ``StreamResponse`` as it does now:

    - the body has the chunked coding (only for HTTP/1.0 it has none), and no ``Content-Encoding``;
    - after the first ``await response.write(…)`` the headers have been written, and aiohttp keeps nothing back, so both
      ways of writing may alternate.

    ``tests/stream/test_wire.py`` fails when one of these changes.
    """
    return b"%x\r\n%b\r\n" % (len(frame), frame)


def ready_block(about: Mapping[str, Any], position: Position) -> bytes:
    """The block that opens a stream: its resources, and the position where it begins."""
    return b"event: ready\nid: %b\ndata: %b\n\n" % (str(position).encode(), orjson.dumps(about))


def reset_block(about: Mapping[str, Any], position: Position | None, reason: str) -> bytes:
    """The block with which a client has to reload, and the reason. ``None`` for the position if all rows follow."""
    id_line = b"" if position is None else b"id: %b\n" % str(position).encode()
    return b"event: reset\n%bdata: %b\n\n" % (id_line, orjson.dumps({**about, "reason": reason}))


def end_block(about: Mapping[str, Any], position: Position | None, reason: str = FILTER_TIMEOUT) -> bytes:
    """The last block of a stream that takes too much. The client has to reload, and connects again much later.

    Without a position the client forgets its own, so that it is sent all rows.
    """
    id_line = b"id:\n" if position is None else b""
    block = reset_block(about, position, reason)
    return b"retry: %d\n%b%b" % (RETRY_SLOW_FILTER_MILLISECONDS, id_line, block)


def keep_alive_block(position: Position) -> bytes:
    """A comment, with the newest position, so that a client that reconnects resumes from there."""
    return b": keep-alive\nid: %b\n\n" % str(position).encode()
