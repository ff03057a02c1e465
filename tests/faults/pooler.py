"""A pooler in transaction mode, as pgbouncer is one, and a connection through which no notification comes.

It reads only the parts of PostgreSQL's protocol that it needs: where messages begin and end, and when a session is idle.
Protocol: https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit, urlunsplit

Alter = Callable[[bytes], bytes]
IDLE, NOTIFICATION, READY = b"I", b"A", b"Z"


@dataclass(eq=False)
class Session:
    """A connection to PostgreSQL that is started, and the bytes that a client gets for a start."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    greeting: bytes


def without_notifications(message: bytes) -> bytes:
    """The message, unless it is a notification."""
    return b"" if message[:1] == NOTIFICATION else message


class Pooler:
    """Listens on TCP for the database at ``url``, which listens on a socket. ``shared`` lends a session for a transaction only.

    ``alter`` returns what is sent on for a message of either side; nothing if it is empty.
    """

    def __init__(self, url: str, *, shared: bool, alter: Alter = without_notifications) -> None:
        parts = urlsplit(url)
        options = parse_qs(parts.query)
        self._socket = f"{options['host'][0]}/.s.PGSQL.{options['port'][0]}"
        self._parts = parts
        self._shared = shared
        self._alter = alter
        self._free: list[Session] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """The URL to connect to."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        location = f"{self._parts.username}@127.0.0.1:{port}"
        try:
            yield urlunsplit(self._parts._replace(netloc=location, query="sslmode=disable"))
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                (length,) = struct.unpack("!I", await reader.readexactly(4))
                start = struct.pack("!I", length) + await reader.readexactly(length - 4)
                await self._serve(start, reader, writer)
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _serve(self, start: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = await self._start(start)
        writer.write(session.greeting)
        if not self._shared:
            sides = [self._forward(reader, session.writer), self._forward(session.reader, writer)]
            await asyncio.wait([asyncio.ensure_future(side) for side in sides], return_when=asyncio.FIRST_COMPLETED)
            session.writer.close()
            return
        self._free.append(session)
        while True:
            message = await _message(reader)
            session = self._free.pop() if self._free else await self._start(start)
            session.writer.write(message)
            lent = asyncio.create_task(self._forward(reader, session.writer))
            state = b""
            while state != IDLE:
                answer = await _message(session.reader)
                writer.write(answer)
                state = answer[5:6] if answer[:1] == READY else b""
            lent.cancel()
            await asyncio.wait([lent])
            self._free.append(session)

    async def _start(self, start: bytes) -> Session:
        reader, writer = await asyncio.open_unix_connection(self._socket)
        writer.write(start)
        greeting = b""
        while (message := await _message(reader))[:1] != READY:
            greeting += message
        return Session(reader, writer, greeting + message)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                message = self._alter(await _message(reader))
                if message:
                    writer.write(message)
                    await writer.drain()


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
