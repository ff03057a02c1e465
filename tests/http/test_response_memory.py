"""The responses that clients do not take have a bound in memory."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeAlias

import pytest

from rowcast.server.middleware import REQUESTS, RESPONSES

from ..waiting import until
from .conftest import Run
from .library import Service

SETTINGS = json.dumps({"auth": {"default_permission_classes": ["AllowAny"]}, "server": {"responses_limit": "4MiB"}})
NOTES = {
    "fields": {"id": {"type": "integer", "primary_key": True}, "text": {"type": "text"}},
    "viewset": {"count": "none"},
}  # fmt: skip
PAGE = 600_000  # bytes of the rows of a page, less than the 1 MiB of an address and more than what the kernel takes
REQUEST = "GET /notes/{} HTTP/1.1\r\nHost: localhost\r\n\r\n"

Client: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect: TypeAlias = Callable[[str], Awaitable[Client]]


@pytest.fixture
async def service(run: Run) -> Service:
    service = await run({"notes": NOTES}, SETTINGS)
    await service.sql.execute(f"INSERT INTO notes (text) SELECT repeat('x', {PAGE // 10}) FROM generate_series(1, 10)")
    return service


@pytest.fixture
async def connect(service: Service) -> AsyncIterator[Connect]:
    """Connections whose kernels take little, and whose clients read when they are told to."""
    async with AsyncExitStack() as stack:

        async def opened(address: str) -> Client:
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.setblocking(False)
            connection.bind((address, 0))
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", service.client.port))
            reader, writer = await asyncio.open_connection(sock=connection, limit=4096)
            stack.callback(writer.close)
            return reader, writer

        yield opened


async def ask(client: Client, path: str = "") -> None:
    client[1].write(REQUEST.format(path).encode())
    await client[1].drain()


async def answer(client: Client) -> tuple[int, str | None]:
    """The status of the next response, and the code of its problem document."""
    header = (await client[0].readuntil(b"\r\n\r\n")).decode().lower()
    length = int(header.partition("content-length: ")[2].split("\r\n")[0])
    return int(header.split()[1]), json.loads(await client[0].readexactly(length)).get("code")


async def test_responses_to_one_address_have_a_bound(service: Service, connect: Connect) -> None:
    """A further one is a 503; short ones, and those to other addresses, are sent. What is taken leaves room."""
    held = service.client.app[RESPONSES]
    slow, other, elsewhere = await connect("127.0.0.1"), await connect("127.0.0.1"), await connect("127.0.0.2")
    await ask(slow)
    await until(lambda: held.total > PAGE)
    size = held.total
    await ask(other)
    assert await answer(other) == (503, "overloaded")
    await ask(other, "?fields=id")
    assert await answer(other) == (200, None)
    await ask(elsewhere)
    await until(lambda: held.total == 2 * size)
    assert await answer(slow) == (200, None)
    await until(lambda: held.total == size)
    await ask(other)
    assert await answer(other) == (200, None)


async def test_responses_to_all_addresses_have_a_bound(service: Service, connect: Connect) -> None:
    """A client that leaves leaves room."""
    held = service.client.app[RESPONSES]
    slow = [await connect(f"127.0.0.{number}") for number in range(1, 7)]
    for number, client in enumerate(slow, 1):
        await ask(client)
        await until(lambda: held.total > number * PAGE)  # noqa: B023
    late = await connect("127.0.0.9")
    await ask(late)
    assert await answer(late) == (503, "overloaded")
    before = held.total
    slow[0][1].transport.abort()
    await until(lambda: held.total < before)
    await ask(late)
    assert await answer(late) == (200, None)


async def test_a_change_that_was_made_is_not_refused(service: Service, connect: Connect) -> None:
    """Where there is no room for its response, that has no body: after an error the client would make the change again."""
    held = service.client.app[RESPONSES]
    slow, other = await connect("127.0.0.1"), await connect("127.0.0.1")
    await ask(slow)
    await until(lambda: held.total > PAGE)
    for method, path, status, length in (
        ("POST", "/notes/", 201, b"Content-Length: 0"),
        ("PATCH", "/notes/11/", 204, b""),
    ):
        body = json.dumps({"text": "y" * 500_000})
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        other[1].write((head + body).encode())
        response = await other[0].readuntil(b"\r\n\r\n")
        assert response.startswith(b"HTTP/1.1 %d " % status)
        assert length in response
        assert b"X-Transaction: " in response
    assert await service.sql.fetchval("SELECT count(*) FROM notes WHERE length(text) = 500000") == 1
    assert service.client.app[REQUESTS].refused["responses_limit"] == 2
    await ask(other, "?fields=id")
    assert await answer(other) == (200, None)
