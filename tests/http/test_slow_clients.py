"""Clients that are slower than the limits of ``server``: their connections end, and others are answered meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from rowcast.errors import ConfigurationError
from rowcast.server.middleware import REQUESTS

from ..conftest import configure
from ..databases import Databases
from ..waiting import until
from .conftest import Run, running
from .library import OPEN, Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS = {"header_timeout": "300ms", "body_timeout": "400ms", "send_timeout": "1s", "idle_timeout": "500ms"}
SETTINGS = json.dumps(
    {
        "auth": {"default_permission_classes": ["AllowAny"]},
        "server": {**LIMITS, "body_limit": "64MiB"},
        "database": {"pool_size": 4, "idle_in_transaction_timeout": "300ms"},
        "stream": {"heartbeat": "100ms"},
    }
)
NOTES = {
    "fields": {"id": {"type": "integer", "primary_key": True}, "text": {"type": "text", "default": ""}},
    "viewset": {"class": "views:Notes", "max_page_size": 100, "import": True},
}
VIEWS = """
import asyncio
from rowcast import BasePermission, ModelViewSet, action

class Signed(BasePermission):
    async def has_permission(self, request, view):
        if request.headers.get("X-Signed"):
            read = getattr(request, request.headers["X-Signed"])
            return bool(await read())
        return True

class Notes(ModelViewSet):
    permission_classes = [Signed]

    async def perform_update(self, serializer):  # so that the row is read and locked before it is written
        await serializer.save()

    @action(detail=True, methods=["POST"])
    async def rename(self, request, id):
        note = await self.get_object(id)
        note.text = request.data.get("text", "")
        await note.save()
        return note

    @action(detail=True, methods=["POST"])
    async def stall(self, request, id):
        note = await self.get_object(id)
        note.text = "stalled"
        await note.save()
        row_saved.set()
        await go_on.wait()
        return note

    @action(detail=False, methods=["POST"])
    async def saved(self, request):
        await row_saved.wait()

    @action(detail=False, methods=["POST"])
    async def release(self, request):
        go_on.set()

row_saved, go_on = asyncio.Event(), asyncio.Event()
"""
WITHIN = 30  # seconds, for limits of at most a second on a busy machine
HEAD = b"Host: 127.0.0.1\r\n"
BODY = b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"


FILL = "INSERT INTO notes (text) SELECT repeat('x', 100) FROM generate_series(1, 20)"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    directory: Path = tmp_path_factory.mktemp("slow")
    async with running(databases, directory, {"notes": NOTES}, SETTINGS, {"views": VIEWS}) as service:
        await service.sql.execute(FILL)
        yield service


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def patient(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """The same with the usual limits, which no test waits for."""
    settings = json.dumps({**json.loads(OPEN), "database": {"pool_size": 4}})
    directory: Path = tmp_path_factory.mktemp("patient")
    async with running(databases, directory, {"notes": NOTES}, settings, {"views": VIEWS}) as service:
        await service.sql.execute(FILL)
        yield service


async def connect(service: Service) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(service.client.host, service.client.port)


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What the service sends until it closes the connection, which it does in time."""
    received = b""
    async with asyncio.timeout(WITHIN):
        with contextlib.suppress(ConnectionResetError):  # a byte was on its way when the connection was closed
            while chunk := await reader.read(65536):
                received += chunk
    return received


def problem(data: bytes) -> tuple[int, str]:
    """The status and the code of a response with a problem document."""
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"X-Content-Type-Options: nosniff" in head
    assert b"Content-Type: application/problem+json" in head
    return int(head.split(b" ")[1]), json.loads(body)["code"]


async def dribble(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send a byte each 50 ms, until the connection is closed."""
    try:
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.05)
    except ConnectionError:
        pass


async def test_header_that_is_dribbled_is_a_408(service: Service) -> None:
    """However often a byte comes: the whole header has one limit."""
    reader, writer = await connect(service)
    sending = asyncio.create_task(dribble(writer, b"GET /notes/ HTTP/1.1\r\n" + HEAD * 10))
    assert problem(await rest(reader)) == (408, "request_timeout")
    await sending
    writer.close()


class Written(asyncio.Transport):
    """A connection whose client has sent something before the service has begun to read."""

    def __init__(self) -> None:
        super().__init__()
        self.response: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def write(self, data: object) -> None:
        assert isinstance(data, bytes)
        self.response.set_result(data)

    def is_closing(self) -> bool:
        return self.response.done()

    def close(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


async def test_header_that_begins_with_its_connection_is_a_408(service: Service) -> None:
    """Also if its first part comes before the task that answers messages has begun."""
    connection = service.client.server.handler()
    transport = Written()
    connection.connection_made(transport)
    connection.data_received(b"GET /notes/ HT")
    async with asyncio.timeout(WITHIN):
        assert b" 408 " in await transport.response
    connection.connection_lost(None)


async def test_header_after_another_request_has_the_same_limit(service: Service) -> None:
    """It begins with the first byte, not with the end of the request before."""
    reader, writer = await connect(service)
    writer.write(b"GET /health/live HTTP/1.1\r\n" + HEAD + b"\r\n")
    assert b"200 OK" in await reader.readuntil(b'{"status":"ok"}')
    await asyncio.sleep(0.2)
    writer.write(b"GET /notes/ HT")
    assert problem(await rest(reader)) == (408, "request_timeout")
    writer.close()


@pytest.mark.parametrize("method", [b"POST /notes/", b"PATCH /notes/1/", b"PUT /notes/1/", b"POST /notes/1/rename/"])
async def test_body_that_is_dribbled_or_never_comes_is_a_408(service: Service, method: bytes) -> None:
    """The whole body has one limit, and nothing is written."""
    request = method + b" HTTP/1.1\r\n" + HEAD + BODY
    never, late = await connect(service), await connect(service)
    never[1].write(request)
    sending = asyncio.create_task(dribble(late[1], request[-20:]))
    late[1].write(request)
    for reader, writer in (never, late):
        assert problem(await rest(reader)) == (408, "request_timeout")
        writer.close()
    await sending


async def test_import_that_is_dribbled_or_never_comes_is_a_408(service: Service) -> None:
    """An import has the time of other bodies for as much as they may have; nothing is written, and no connection is held."""
    reader, writer = await connect(service)
    header = HEAD + BODY.replace(b"application/json", b"text/csv")
    writer.write(b"POST /notes/import/ HTTP/1.1\r\n" + header + b"text\nslow\n")
    await until(lambda: service.service.store.database.load.in_use == 0)
    assert problem(await rest(reader)) == (408, "request_timeout")
    writer.close()
    assert await service.sql.fetchval("SELECT count(*) FROM notes WHERE text = 'slow'") == 0


@pytest.mark.parametrize("reads", [b"read", b"text", b"json"])
@pytest.mark.parametrize("method", [b"GET /notes/", b"PATCH /notes/1/", b"DELETE /notes/1/"])
async def test_body_that_python_reads_has_the_same_limit(service: Service, method: bytes, reads: bytes) -> None:
    """A permission that reads the body, to verify its signature, waits no longer for it than an action does."""
    reader, writer = await connect(service)
    writer.write(method + b" HTTP/1.1\r\nX-Signed: " + reads + b"\r\n" + HEAD + BODY + b"{")
    assert problem(await rest(reader)) == (408, "request_timeout")
    writer.close()


async def test_slow_bodies_hold_neither_connections_nor_locks(patient: Service) -> None:
    """While ten changes of one row wait for their bodies, that row is changed by others, with a pool of four connections."""
    waiting = [await connect(patient) for _ in range(10)]
    for number, (_, writer) in enumerate(waiting):
        method = (b"PATCH /notes/2/", b"PUT /notes/2/", b"POST /notes/2/rename/")[number % 3]
        writer.write(method + b" HTTP/1.1\r\n" + HEAD + BODY + b'{"te')
    for _ in range(3):  # the ten have begun before the last
        assert (await patient.client.patch("/notes/2/", json={"text": "new"})).status == 200
        assert (await patient.client.get("/notes/")).status == 200
    for reader, writer in waiting:
        assert not reader._buffer, "the response came before the body"  # type: ignore[attr-defined]
        writer.write(b'xt":"late"}'.ljust(96))
        assert b" 200 OK" in await reader.readline()
        writer.close()


async def test_a_slow_but_timely_body_is_accepted(patient: Service) -> None:
    """A body in several parts within the limit is a body like any other."""
    reader, writer = await connect(patient)
    body = b'{"text": "in parts"}'
    head = b"PATCH /notes/3/ HTTP/1.1\r\nConnection: close\r\nContent-Type: application/json\r\n" + HEAD
    writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body))
    for part in (body[:5], body[5:]):
        await asyncio.sleep(0.05)
        writer.write(part)
    assert b'"in parts"' in await rest(reader)
    writer.close()


async def test_idle_connection_is_closed(service: Service) -> None:
    """After ``idle_timeout`` without another request, and without a response to none."""
    reader, writer = await connect(service)
    writer.write(b"GET /health/live HTTP/1.1\r\n" + HEAD + b"\r\n")
    await reader.readuntil(b'{"status":"ok"}')
    assert await rest(reader) == b""
    writer.close()


async def test_line_break_after_a_body_is_no_header(service: Service) -> None:
    """Some clients send one; the connection stays idle and is not answered with a 408."""
    reader, writer = await connect(service)
    writer.write(b"GET /health/live HTTP/1.1\r\n" + HEAD + b"\r\n\r\n")
    await reader.readuntil(b'{"status":"ok"}')
    assert await rest(reader) == b""
    writer.close()


async def test_half_open_connections_are_closed(service: Service) -> None:
    """Four hundred connections that send nothing are closed within the limit, and others are answered meanwhile."""
    sockets = [await connect(service) for _ in range(400)]
    assert (await service.client.get("/notes/")).status == 200
    async with asyncio.timeout(WITHIN):
        assert {await reader.read() for reader, _ in sockets} == {b""}
    for _, writer in sockets:
        writer.close()


async def unread(service: Service, request: bytes) -> socket.socket:
    """A connection that has sent a request, reads nothing, and has a small buffer."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(made, (service.client.host, service.client.port))
    await loop.sock_sendall(made, request)
    return made


def open_connections(service: Service) -> int:
    """The number of connections of the service that have not ended."""
    runner = service.client.server.runner
    assert runner is not None
    assert runner.server is not None
    return len(runner.server.connections)


async def test_client_that_does_not_read_its_response_is_disconnected(service: Service) -> None:
    """A list of 12 MB that nobody takes is dropped after ``send_timeout``; the list is answered to others."""
    await service.sql.execute("UPDATE notes SET text = repeat('x', 600000)")
    await until(lambda: open_connections(service) == 0)  # those of other tests are closed, too
    slow = await unread(service, b"GET /notes/ HTTP/1.1\r\n" + HEAD + b"\r\n")
    await until(lambda: open_connections(service) > 0)
    await until(lambda: open_connections(service) == 0)
    assert service.client.app[REQUESTS].refused["send_timeout"] == 1
    await service.sql.execute("UPDATE notes SET text = 'x'")
    assert len(await service.rows("/notes/")) == 20
    slow.close()


@pytest.mark.parametrize("connection", [b"close", b"keep-alive"])
async def test_client_that_reads_slowly_gets_its_whole_response(service: Service, connection: bytes) -> None:
    """It makes progress, so it may take longer than ``send_timeout``, also where the kernel's buffer hides that."""
    await service.sql.execute("UPDATE notes SET text = repeat('x', 600000)")
    slow = await unread(service, b"GET /notes/ HTTP/1.1\r\nConnection: " + connection + b"\r\n" + HEAD + b"\r\n")
    loop, size = asyncio.get_running_loop(), 0
    for _ in range(30):  # for longer than send_timeout, each time for much less
        taken = 0
        while taken < 60_000:
            taken += len(await loop.sock_recv(slow, 4096))
        size += taken
        await asyncio.sleep(0.05)
    async with asyncio.timeout(20):
        while size < 20 * 600_000:
            part = await loop.sock_recv(slow, 1 << 16)
            assert part, size
            size += len(part)
    slow.close()
    await service.sql.execute("UPDATE notes SET text = 'x'")


async def test_stream_is_not_limited_by_these(service: Service) -> None:
    """A stream lives on after every limit has passed."""
    async with service.client.get("/notes/stream/") as response:
        async with asyncio.timeout(WITHIN):
            await asyncio.sleep(0.8)
            await service.client.patch("/notes/5/", json={"text": "streamed"})
            async for line in response.content:
                if b"streamed" in line:
                    break
        response.close()


async def test_handler_that_waits_inside_a_transaction_loses_it(service: Service) -> None:
    """After ``database.idle_in_transaction_timeout`` PostgreSQL ends it: a 503, nothing written, and no lock is left."""
    stalled = asyncio.create_task(service.client.post("/notes/4/stall/", json={}))
    await service.client.post("/notes/saved/", json={})  # answers when the row is locked
    assert (await service.client.patch("/notes/4/", json={"text": "other"})).status == 200
    assert not stalled.done()
    await service.client.post("/notes/release/", json={})
    response = await stalled
    assert (response.status, (await response.json())["code"]) == (503, "database_unavailable")
    assert (await (await service.client.get("/notes/4/")).json())["text"] == "other"


@pytest.mark.parametrize("setting", LIMITS)
async def test_limit_of_zero_is_a_mistake(setting: str, tmp_path: Path) -> None:
    """It would end every connection."""
    with pytest.raises(ConfigurationError, match=f"{setting}: must be longer than 0"):
        configure(tmp_path, {}, json.dumps({"server": {setting: "0s"}}))


@pytest.mark.asyncio(loop_scope="function")
async def test_limits_have_defaults(run: Run) -> None:
    """Seconds to minutes, so that mobile clients and proxies work without a setting."""
    server = (await run({"notes": {"fields": {}}})).service.settings.server
    limits = (server.header_timeout, server.body_timeout, server.send_timeout, server.idle_timeout)
    assert limits == (10, 30, 30, 75)
