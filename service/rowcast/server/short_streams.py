"""Streams by the short way: what their connection sends, without a request, a response, and the tasks of aiohttp's.

``tests/http/test_short_streams.py`` compares them with streams that are sent as always.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from rowcast.server.plain_responses import stream_head
from rowcast.streams.sse import Sent, end_if_unacknowledged, http_chunk

LAST_CHUNK: Final = b"0\r\n\r\n"


class Connection(Protocol):
    """A connection whose client waits for the response to one message."""

    @property
    def transport(self) -> asyncio.Transport | None: ...

    def begin_stream(self, stream: Sent) -> None:
        """Send a stream in place of a response."""

    def answered(self, response: bytes) -> None:
        """Send the end of the response."""

    async def drain(self) -> None:
        """Wait until the client has taken most of what waits for it, if that is more than the transport's limit."""


class ShortStream:
    """A connection as a stream sees it. The header goes with the first part."""

    __slots__ = ("_connection", "_head", "client_left", "drain", "transport")

    is_chunked = True

    def __init__(self, connection: Connection, request_id: str) -> None:
        assert connection.transport is not None
        self.transport = connection.transport
        self.drain = connection.drain
        self.client_left: Callable[[], None] | None = None  # called when the connection is lost
        self._connection = connection
        self._head = stream_head(request_id)
        connection.begin_stream(self)
        end_if_unacknowledged(self.transport)

    def write_now(self, data: bytes) -> None:
        """Write a part; ``ConnectionResetError`` if the client has gone."""
        if self.transport.is_closing():
            raise ConnectionResetError("The client has left.")
        head, self._head = self._head, b""
        self.transport.write(head + http_chunk(data))

    async def write(self, data: bytes, /) -> None:
        """Write a part, and wait until the client has taken most of what waits for it; ``ConnectionResetError`` if it has gone."""
        self.write_now(data)
        await self.drain()

    def ended(self) -> None:
        """Send the end of the response, soon: not from within what writes to the other streams of a group."""
        asyncio.get_running_loop().call_soon(self._finish)

    def _finish(self) -> None:
        end_if_unacknowledged(self.transport, 0)
        self._connection.answered(self._head + LAST_CHUNK)
