"""The bytes of a stream on the connection. Frames of a group are written past aiohttp: see ``sse.http_chunk``."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
import structlog

from rowcast.rest.plan import SERVICE
from tests.conftest import Client, Serve
from tests.sse import Event, Parser
from tests.waiting import until

TASKS = """
fields: {id: {type: integer, primary_key: true}, title: {type: string}}
viewset: {permission_classes: [AllowAny]}
"""
SECONDS = 10.0


pytestmark = pytest.mark.tables({"tasks": TASKS})


class Wire:
    """A connection to a stream that interprets nothing but the chunked coding, and that strictly."""

    def __init__(self, reader: asyncio.StreamReader, *, chunked: bool) -> None:
        self._reader = reader
        self._chunked = chunked
        self._parser = Parser()

    async def headers(self) -> dict[str, str]:
        """The headers, with names in lower case, after a status of 200."""
        async with asyncio.timeout(SECONDS):
            status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        assert status.split()[1] == "200", status
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    async def events(self) -> list[Event]:
        """The events that the next bytes complete: one chunk, or whatever has arrived."""
        async with asyncio.timeout(SECONDS):
            if not self._chunked:
                return self._parser.feed(await self._reader.read(65536))
            size = await self._reader.readuntil(b"\r\n")
            assert re.fullmatch(rb"[0-9a-f]+\r\n", size), f"{size!r} is not the size of a chunk"
            data = await self._reader.readexactly(int(size, 16))
            assert await self._reader.readexactly(2) == b"\r\n", "the chunk is longer than its size"
        return self._parser.feed(data)

    async def next(self) -> Event:
        """The next event, which is the only one of its bytes."""
        while not (events := await self.events()):
            pass
        (event,) = events
        return event


@asynccontextmanager
async def connect(client: Client, *, version: str = "1.1", headers: str = "") -> AsyncIterator[Wire]:
    """Open ``/tasks/stream/`` on a bare connection, as a client that accepts every compression."""
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(
        f"GET /tasks/stream/ HTTP/{version}\r\nHost: localhost\r\n"
        f"Accept-Encoding: gzip, deflate, br, zstd\r\n{headers}\r\n".encode()
    )
    try:
        yield Wire(reader, chunked=version == "1.1")
    finally:
        writer.close()


AS_ALWAYS = "X-Unknown: 1\r\n"  # a header of which the short way knows nothing


@pytest.mark.parametrize(("version", "header"), [("1.1", ""), ("1.1", AS_ALWAYS), ("1.0", "")])
async def test_frames_are_sent_at_once_and_uncompressed(
    serve: Serve, sql: asyncpg.Connection, version: str, header: str
) -> None:
    """What aiohttp or the connection writes, and what a group writes, make one valid body, whatever the client accepts."""
    client = await serve({"tasks": TASKS})
    async with connect(client, version=version, headers=header) as wire:
        headers = await wire.headers()
        assert headers["content-type"] == "text/event-stream"
        assert headers.get("transfer-encoding") == ("chunked" if version == "1.1" else None)
        assert not {"content-encoding", "content-length"} & headers.keys()
        assert (await wire.next()).event == "ready"
        for number in range(3):
            await sql.execute("INSERT INTO tasks (id, title) VALUES ($1, repeat('long', 5000))", number)
            assert (await wire.next()).json()["id"] == number
        assert len(client.app[SERVICE].hub.groups) == 1


@pytest.mark.parametrize("header", ["", AS_ALWAYS])
async def test_both_ways_of_writing_alternate(serve: Serve, sql: asyncpg.Connection, header: str) -> None:
    """A stream that resumes gets its first events alone, and the later ones from its group."""
    client = await serve({"tasks": TASKS})
    async with connect(client) as wire:
        await wire.headers()
        start = (await wire.next()).id
        await sql.execute("INSERT INTO tasks (id, title) VALUES (1, 'a')")
        assert (await wire.next()).json()["id"] == 1
    async with connect(client, headers=f"Last-Event-ID: {start}\r\n{header}") as wire:
        await wire.headers()
        assert (await wire.next()).event == "ready"
        assert (await wire.next()).json()["id"] == 1
        await sql.execute("INSERT INTO tasks (id, title) VALUES (2, 'b')")
        assert (await wire.next()).json()["id"] == 2


@pytest.mark.parametrize("header", ["", AS_ALWAYS])
async def test_client_that_leaves_before_its_stream_begins_is_not_an_error(serve: Serve, header: str) -> None:
    """A client that has gone before the service could respond is not in the log."""
    client = await serve({"tasks": TASKS})
    running = asyncio.all_tasks()
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            _, writer = await asyncio.open_connection(client.host, client.port)
            writer.write(f"GET /tasks/stream/ HTTP/1.1\r\nHost: x\r\n{header}\r\n".encode())
            writer.transport.abort()
        await until(lambda: not client.server.handler.connections)
        await until(lambda: asyncio.all_tasks() <= running)
    assert [line for line in logs if line["log_level"] == "error"] == []
