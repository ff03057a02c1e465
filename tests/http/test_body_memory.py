"""The bodies of all requests together take a bounded amount of memory, however slowly they arrive."""

from __future__ import annotations

import asyncio
import doctest
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeAlias

import pytest

from rowcast.rest import body_memory
from rowcast.rest.body_memory import BODY_MEMORY

from ..waiting import until
from .conftest import Run
from .library import Service

KIB = 1024
SETTINGS = json.dumps(
    {"auth": {"default_permission_classes": ["AllowAny"]}, "server": {"body_limit": "64KiB", "bodies_limit": "128KiB"}}
)
NOTES = {
    "fields": {
        "id": {"type": "integer", "primary_key": True}, "text": {"type": "text", "default": ""}, "data": {"type": "json", "default": []},
    },
    "viewset": {"class": "views:Notes"},
}  # fmt: skip
VIEWS = """
import asyncio
from rowcast import ModelViewSet, action

go_on = asyncio.Event()

class Notes(ModelViewSet):
    async def perform_update(self, serializer):
        await serializer.save()

    async def check_permissions(self, request):
        if "Checked" in request.headers:
            await request.http.read()

    @action(detail=False, methods=["POST"])
    async def stall(self, request):
        assert await request.read_json() == request.data
        await go_on.wait()
        return {}

    @action(detail=False, methods=["GET"])
    async def release(self, request):
        go_on.set()
"""
HEADER = "POST /notes/{} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{}\r\n"


class Sender:
    """A client that sends a body in two parts, from an address of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        self._writer.close()

    async def answer(self) -> tuple[int, str | None, bool]:
        """The status of the next response, the code of its problem document, and whether the connection stays open."""
        header = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(header.partition("content-length: ")[2].split("\r\n")[0])
        document = json.loads(await self._reader.readexactly(length))
        return int(header.split()[1]), document.get("code"), "connection: close" not in header


Connect: TypeAlias = Callable[[str], Awaitable[Sender]]


@pytest.fixture
async def service(run: Run) -> Service:
    """Bodies of 64 KiB, and of 128 KiB together: those from one address may have 64 KiB."""
    return await run({"notes": NOTES}, SETTINGS, {"views": VIEWS})


@pytest.fixture
async def connect(service: Service) -> AsyncIterator[Connect]:
    async with AsyncExitStack() as stack:

        async def opened(address: str) -> Sender:
            port = service.client.port
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
            stack.callback(writer.close)
            return Sender(reader, writer)

        yield opened


def body(size: int) -> bytes:
    """A request with a body of so many bytes."""
    text = json.dumps({"text": "x" * (size - len('{"text": ""}'))})
    return (HEADER.format("", size, "") + text).encode()


async def begin(service: Service, sender: Sender, size: int, part: int) -> bytes:
    """Send a part of a body; returns what is left of it once the service has that part."""
    request, memory = body(size), service.client.app[BODY_MEMORY]
    end, before = len(request) - (size - part), memory.total
    await sender.send(request[:end])
    await until(lambda: memory.total == before + part)
    return request[end:]


async def test_bodies_from_one_address_have_a_bound(service: Service, connect: Connect) -> None:
    """Further ones are a 503 and end their connections; short ones, those of others, and what has begun are answered."""
    slow = await connect("127.0.0.1")
    left = await begin(service, slow, 60 * KIB, 40 * KIB)
    for size in (60 * KIB, 30 * KIB):
        another = await connect("127.0.0.1")
        await another.send(body(size))
        assert await another.answer() == (503, "overloaded", False)
    for address, size in (("127.0.0.1", KIB), ("127.0.0.2", 60 * KIB)):
        other = await connect(address)
        await other.send(body(size))
        assert await other.answer() == (201, None, True)
    await slow.send(left)
    assert await slow.answer() == (201, None, True)
    assert service.client.app[BODY_MEMORY].total == 0


async def test_bodies_from_all_addresses_have_a_bound(service: Service, connect: Connect) -> None:
    """What has ended, also by its client's leaving, leaves room for others."""
    first, second, third = [await connect(f"127.0.0.{number}") for number in (1, 2, 3)]
    await begin(service, first, 60 * KIB, 50 * KIB)
    left = await begin(service, second, 60 * KIB, 50 * KIB)
    await third.send(body(40 * KIB))
    assert await third.answer() == (503, "overloaded", False)
    first.close()
    await until(lambda: service.client.app[BODY_MEMORY].total == 50 * KIB)
    fourth = await connect("127.0.0.4")
    for _ in range(5):
        await fourth.send(body(40 * KIB))
        assert await fourth.answer() == (201, None, True)
    await second.send(left)
    assert (await second.answer())[0] == 201


async def test_inflated_bodies_count(service: Service, connect: Connect) -> None:
    """A short body that becomes a long one takes as much memory as that."""
    slow, other = await connect("127.0.0.1"), await connect("127.0.0.1")
    left = await begin(service, slow, 60 * KIB, 40 * KIB)
    packed = gzip.compress(json.dumps({"text": "x" * 50 * KIB}).encode())
    assert len(packed) < KIB
    await other.send(HEADER.format("", len(packed), "Content-Encoding: gzip\r\n").encode() + packed)
    assert await other.answer() == (503, "overloaded", False)
    await slow.send(left)
    assert (await slow.answer())[0] == 201


async def test_a_body_that_is_too_long_is_refused_before_it_arrives(service: Service, connect: Connect) -> None:
    sender = await connect("127.0.0.1")
    await sender.send(HEADER.format("", 65 * KIB, "").encode() + b"{")
    assert (await sender.answer())[:2] == (413, "payload_too_large")
    assert service.client.app[BODY_MEMORY].total == 0


def test_examples() -> None:
    """The examples are run as doctests."""
    assert doctest.testmod(body_memory).failed == 0


def lists(path: str = "", method: str = "POST", more: str = "") -> bytes:
    """A request with a short body that becomes half a megabyte of Python's objects."""
    text = json.dumps({"data": [[]] * 3000}, separators=(",", ":"))
    return (HEADER.format(path, len(text), more) + text).replace("POST", method, 1).encode()


async def test_parsed_bodies_wait_for_each_other(service: Service, connect: Connect) -> None:
    """One at a time, where each takes more than all may, and in their order. A client that leaves lets nobody wait for longer."""
    memory = service.client.app[BODY_MEMORY]
    senders = [await connect(f"127.0.0.{number}") for number in (1, 2, 3)]
    await senders[0].send(lists("stall/"))
    await until(lambda: memory.total == len(lists()) - lists().index(b"{"))
    await senders[1].send(lists())
    await until(lambda: memory.waiting == 1)
    await senders[2].send(lists())
    await until(lambda: memory.waiting == 2)
    senders[1].close()
    short = await connect("127.0.0.1")
    await short.send(body(KIB))
    assert await short.answer() == (201, None, True)
    assert memory.waiting == 2
    await service.client.get("/notes/release/")
    assert (await senders[0].answer())[0] == 200
    assert await senders[2].answer() == (201, None, True)
    assert (memory.total, memory.waiting) == (0, 0)


@pytest.mark.parametrize(
    ("path", "method", "more"),
    [("", "POST", "Idempotency-Key: 0123456789abcdef0123456789abcdef\r\n"), ("1/", "PATCH", "")],
)
async def test_no_transaction_waits_for_memory(
    service: Service, connect: Connect, path: str, method: str, more: str
) -> None:
    """Whoever has the memory may need the connection."""
    await service.sql.execute("INSERT INTO notes (text) VALUES ('a')")
    memory = service.client.app[BODY_MEMORY]
    stalled, waiting = await connect("127.0.0.1"), await connect("127.0.0.2")
    await stalled.send(lists("stall/"))
    await until(lambda: service.database.load.in_use == 1)  # of the handler's transaction
    await waiting.send(lists(path, method, more))
    await until(lambda: memory.waiting == 1)
    assert service.database.load.in_use == 1
    await service.client.get("/notes/release/")
    assert (await stalled.answer())[0] == 200
    assert (await waiting.answer())[0] in (200, 201)


async def test_a_body_that_users_code_has_received_leaves_room_for_others(service: Service, connect: Connect) -> None:
    """Also if it is received by aiohttp's own methods, so that only what it becomes is counted."""
    sender = await connect("127.0.0.1")
    for _ in range(2):
        await sender.send(lists(more="Checked: yes\r\n"))
        assert (await sender.answer())[0] == 201
    sender.close()
    other = await connect("127.0.0.2")
    await other.send(lists())
    assert (await other.answer())[0] == 201
