"""Responses that aiohttp would send by itself, on connections of ``serve``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from rowcast.configuration.settings import Server
from rowcast.server.connections import HEADER_MAX_BYTES
from rowcast.server.http import Runner


async def _length(request: web.Request) -> web.Response:
    return web.Response(text=str(len(request.headers.get("Authorization", ""))))


@pytest.fixture
async def port() -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_get("/", _length)
    runner = Runner(app, Server(port=0))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def test_connections_that_come_at_once_wait_to_be_accepted(port: int) -> None:
    """As when all streams of another replica come here: while this process does something else, the kernel takes them."""
    with contextlib.ExitStack() as stack:
        for _ in range(600):  # this blocks the event loop, so none is accepted
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=0.9))
    head, _ = await _ask(port, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b" 200 " in head.split(b"\r\n")[0]


async def _ask(port: int, request: bytes) -> tuple[bytes, bytes]:
    """The head and the body of the response, read until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    async with asyncio.timeout(30):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head, body


@pytest.mark.parametrize(
    "request_",
    [
        b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / with spaces HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"GET /?" + b"a" * (HEADER_MAX_BYTES + 1) + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + b"a" * (HEADER_MAX_BYTES + 1) + b"\r\n\r\n",
    ],
    ids=["method", "target", "header", "tls", "long address", "long header"],
)
async def test_malformed_request_gets_a_problem_document(port: int, request_: bytes) -> None:
    """With all members, the request id also as a header, and no details of the server."""
    head, body = await _ask(port, request_)
    assert b" 400 " in head.split(b"\r\n")[0]
    assert b"Content-Type: application/problem+json" in head
    assert b"aiohttp" not in head
    assert b"X-Content-Type-Options: nosniff" in head
    problem = json.loads(body)
    assert problem.keys() == {"type", "title", "status", "detail", "code", "request_id"}
    assert f"X-Request-ID: {problem['request_id']}".encode() in head


async def test_long_credentials_reach_authentication(port: int) -> None:
    """So that they get a 401 like all invalid credentials, and no other error because of their length."""
    head, body = await _ask(
        port, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: " + b"a" * 20_000 + b"\r\n\r\n"
    )
    assert (b" 200 " in head, body) == (True, b"20000")
