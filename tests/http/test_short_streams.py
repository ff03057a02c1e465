"""Streams about which data decide are sent by their connection, as all others are."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import socket
import struct
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

from rowcast.changes.events import Batch
from rowcast.changes.position import Position
from rowcast.errors import ParseError
from rowcast.server.middleware import REQUESTS
from rowcast.server.short_streams import LAST_CHUNK
from rowcast.streams import hub as hub_module

from ..waiting import until
from .conftest import Run
from .library import Service
from .test_short_way import AS_ALWAYS, HOST, SECRET, Client, bearer, connected

FIELDS: dict[str, Any] = {
    "id": {"type": "integer", "primary_key": True},
    "tenant": {"type": "integer"},
    "text": {"type": "text"},
}
RESOURCES: dict[str, Any] = {
    "notes": {
        "fields": FIELDS,
        "viewset": {
            "filterset_fields": {"tenant": ["exact", "in"], "text": ["exact", "regex"]},
            "search_fields": ["text"],
        },
    },
    "own": {  # of tenants
        "fields": FIELDS,
        "viewset": {
            "permission_classes": ["IsAuthenticated"],
            "scope": {"tenant": "$claims.tenant"},
            "filterset_fields": ["text"],
        },
    },
}
SETTINGS = f"auth: {{jwt: {{secret: {SECRET}, audience: rowcast}}, default_permission_classes: [AllowAny]}}\n"
GENERATED = rb"X-Request-ID|Date"
TAKEN = (
    "",
    "?",
    "?tenant=1",
    "?tenant__in=1,2",
    "?search=a",
    "?fields=id",
    "?fields=id,text&tenant=1",
    "?last_event_id=1-1-0",
    "?last_event_id=x",
    "?snapshot=true",
    "?snapshot=false",
    "?snapshot=true&tenant=1&fields=id",
    "?snapshot=true&last_event_id=x",
)
NOT_TAKEN = (
    "?tenant=x", "?tenent=1", "?fields=x", "?text__regex=a", "?text__regex=(", "?snapshot=maybe", "?expand=",
    "?expand=x", "?ticket=x", "?tenant=1&tenant=2", "?text=%ff", "?last_event_id=%ff", "#x",
)  # fmt: skip
HEADERS = (
    b"If-None-Match: *\r\n",
    b"Last-Event-ID: 1-1-0\r\nLast-Event-ID: 1-1-0\r\n",
    b"Prefer: x\r\n",
    b"Connection: close\r\n",
)


@pytest.fixture
async def service(run: Run) -> Service:
    return await run(RESOURCES, SETTINGS)


async def begun(client: Client, path: str, headers: bytes = b"") -> tuple[list[bytes], bytes]:
    """The header of the response to a request for a stream, and its first block or its body, without what is generated."""
    client.writer.write(b"GET %b HTTP/1.1\r\n%b%b\r\n" % (path.encode(), HOST, headers))
    async with asyncio.timeout(30):
        lines = (await client.reader.readuntil(b"\r\n\r\n")).strip().split(b"\r\n")
        length = next((line for line in lines if line.startswith(b"Content-Length")), None)
        body = await (chunk(client) if length is None else client.reader.readexactly(int(length.split()[1])))
    lines = [re.sub(b"^(%b): .*" % GENERATED, rb"\1", line) for line in lines]
    return lines, re.sub(rb'^retry: \d+\n|"request_id":"[^"]*"|~[\d:,]*', b"", body)


async def chunk(client: Client) -> bytes:
    """The next part of a stream."""
    async with asyncio.timeout(30):
        size = int(await client.reader.readline(), 16)
        part = await client.reader.readexactly(size)
        assert await client.reader.readexactly(2) == b"\r\n"
    return part


async def expected(service: Service, path: str, headers: bytes) -> tuple[list[bytes], bytes]:
    """What a stream begins with that is sent as always."""
    async with connected(service) as client:
        return await begun(client, path, headers + AS_ALWAYS)


async def test_both_ways_begin_alike(service: Service, taken: list[bool]) -> None:
    """Also where a client resumes, and from a position that is none; no header is missing, and none is added."""
    meaningless = b"Accept: text/event-stream\r\nCache-Control: no-cache\r\nCookie: a=b\r\nuser-agent: x\r\n"
    for query in TAKEN:
        for headers in (b"", meaningless, b"Last-Event-ID: 1-1-0\r\n", b"last-event-id: x\r\n"):
            path = f"/notes/stream/{query}"
            as_always = await expected(service, path, headers)
            assert as_always[0][0] == b"HTTP/1.1 200 OK"
            taken.clear()
            async with connected(service) as client:
                found = await begun(client, path, headers)
            assert (sorted(found[0]), found[1]) == (sorted(as_always[0]), as_always[1]), (path, headers)
            assert taken == [True], (path, headers)


async def test_other_streams_are_sent_as_always(service: Service, taken: list[bool]) -> None:
    """Those that have to be refused, begin with rows, or need the database; and those of requests with headers that mean something."""
    for path, headers in (*((f"/notes/stream/{each}", b"") for each in NOT_TAKEN), *(("/notes/stream/", each) for each in HEADERS),
                          ("/notes/1/stream/", b"")):  # fmt: skip
        as_always = await expected(service, path, headers)
        async with connected(service) as client:
            assert await begun(client, path, headers) == as_always, path
    assert not any(taken)


async def test_each_caller_gets_the_rows_of_their_scope(service: Service, taken: list[bool]) -> None:
    """Streams with one address, of two tenants and two callers of one: those of one tenant share what they show."""
    async with connected(service) as ann, connected(service) as bob, connected(service) as eve:
        await begun(ann, "/own/stream/?text=a", bearer(tenant=1))
        await begun(bob, "/own/stream/?text=a", bearer(tenant=1, sub="bob"))
        token = bearer(tenant=2).split()[2].decode()
        await begun(eve, f"/own/stream/?text=a&access_token={token}")
        assert taken == [True] * 3
        hub = service.service.hub
        await until(lambda: sum(len(group.members) for group in hub.groups) == 3)
        sharing: Counter[int] = Counter()  # by what they show; their groups may differ by their snapshot
        for group in hub.groups:
            sharing[id(group.subscriptions)] += len(group.members)
        assert sorted(sharing.values()) == [1, 2]
        await service.sql.execute("INSERT INTO own VALUES (1, 1, 'a'), (2, 2, 'a'), (3, 1, 'b')")
        for client, key in ((ann, 1), (bob, 1), (eve, 2)):
            assert re.findall(rb'"id":(\d+)', await chunk(client)) == [b"%d" % key] * 2


async def test_callers_without_rights_are_refused_as_always(service: Service, taken: list[bool]) -> None:
    for caller in (b"", b"Authorization: Bearer x\r\n", bearer(exp=1), bearer(tenant=1) * 2):
        as_always = await expected(service, "/own/stream/", caller)
        assert as_always[0][0].startswith(b"HTTP/1.1 401")
        async with connected(service) as client:
            assert await begun(client, "/own/stream/", caller) == as_always
    assert any(taken)


async def ticket(service: Service, headers: bytes) -> str:
    """A ticket for the caller with these headers."""
    async with connected(service) as client:
        client.writer.write(b"POST /stream-ticket/ HTTP/1.1\r\n%b%bContent-Length: 0\r\n\r\n" % (HOST, headers))
        async with asyncio.timeout(30):
            header = await client.reader.readuntil(b"\r\n\r\n")
            assert header.startswith(b"HTTP/1.1 201"), header
            length = int(re.search(rb"Content-Length: (\d+)", header)[1])  # type: ignore[index]
            return str(json.loads(await client.reader.readexactly(length))["ticket"])


async def test_a_ticket_opens_one_stream(service: Service, taken: list[bool]) -> None:
    """The second time it is refused; what it stood for holds for a stream that is passed on, too."""
    found = await ticket(service, bearer(tenant=1))
    taken.clear()
    async with connected(service) as client, connected(service) as again:
        (lines, _) = await begun(client, f"/own/stream/?ticket={found}")
        assert lines[0] == b"HTTP/1.1 200 OK"
        assert taken == [True]
        (lines, _) = await begun(again, f"/own/stream/?ticket={found}")
        assert lines[0] == b"HTTP/1.1 401 Unauthorized"
    for query, status in (
        ("tenent=1", b"400"),
        ("snapshot=maybe", b"400"),
        ("snapshot=true", b"200"),
        ("expand=x", b"400"),
    ):
        found = await ticket(service, bearer(tenant=1))
        async with connected(service) as client:
            (lines, _) = await begun(client, f"/own/stream/?ticket={found}&{query}")
            assert lines[0].split()[1] == status, query
    found = await ticket(service, bearer(tenant=1))
    async with connected(service) as client:
        (lines, _) = await begun(client, f"/own/stream/?ticket={found}", bearer(tenant=1))
        assert lines[0] == b"HTTP/1.1 401 Unauthorized"


async def test_streams_that_begin_with_rows_are_taken(service: Service, taken: list[bool]) -> None:
    """They have all rows and then the changes; too many rows are refused as always; one that resumes has no rows."""
    await service.sql.execute("INSERT INTO own SELECT n, n % 2, 'a' FROM generate_series(1, 4) n")
    async with connected(service) as client, connected(service) as other:
        (_, block) = await begun(client, "/own/stream/?snapshot=true&fields=id", bearer(tenant=1))
        assert b'event: snapshot\ndata: {"resource":"own","rows":[{"id":1},{"id":3}]}' in block
        ready = await chunk(client)
        assert b"event: ready" in ready
        position = re.search(rb"id: (\S+)", ready)[1].decode()  # type: ignore[index]
        await service.sql.execute("INSERT INTO own VALUES (5, 1, 'a'), (6, 0, 'a')")
        assert re.findall(rb'"id":(\d+)', await chunk(client)) == [b"5"] * 2
        (_, block) = await begun(other, f"/own/stream/?snapshot=true&last_event_id={position}", bearer(tenant=1))
        assert b"event: ready" in block
        assert re.findall(rb'"id":(\d+)', await chunk(other)) == [b"5"] * 2
        await service.sql.execute("TRUNCATE own")
        for each in (client, other):
            assert b"truncated" in await chunk(each)
    assert taken == [True] * 2
    await until(lambda: service.service.hub.subscribers == 0)


async def test_too_many_rows_are_refused_as_always(run: Run, taken: list[bool]) -> None:
    """Nothing of the response has been sent then, and the stream no longer counts."""
    notes = {**RESOURCES["notes"], "viewset": {**RESOURCES["notes"]["viewset"], "page_size": 1, "max_page_size": 1}}
    service = await run({"notes": notes}, SETTINGS)
    await service.sql.execute("INSERT INTO notes SELECT n, 1, 'a' FROM generate_series(1, 101) n")
    as_always = await expected(service, "/notes/stream/?snapshot=true", b"")
    assert as_always[0][0].startswith(b"HTTP/1.1 400")
    async with connected(service) as client:
        assert await begun(client, "/notes/stream/?snapshot=true") == as_always
        (lines, block) = await begun(client, "/notes/stream/?snapshot=true&tenant=2")
        assert lines[0] == b"HTTP/1.1 200 OK"
        assert b"event: ready" in block
        assert service.service.hub.subscribers == 1
    await until(lambda: service.service.hub.subscribers == 0)


@pytest.mark.parametrize("failure", [RuntimeError("no space"), ParseError("too many rows")])
async def test_what_cannot_be_read_is_read_once(
    service: Service, failure: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The response is as always; a failure of the service is logged once, with its traceback."""
    readings = 0

    async def fail(*_: object) -> None:
        nonlocal readings
        readings += 1
        raise failure

    monkeypatch.setattr(hub_module, "read_snapshot", fail)
    for path, caller in (("/notes/stream/?snapshot=true", b""), ("/own/stream/?snapshot=true", bearer(tenant=1))):
        as_always = await expected(service, path, caller)
        readings = 0
        with structlog.testing.capture_logs() as logs:
            async with connected(service) as client:
                assert await begun(client, path, caller) == as_always
        assert readings == 1
        errors = [log["event"] for log in logs if log["log_level"] == "error"]
        assert errors == ["request_failed"] * isinstance(failure, RuntimeError)
    await until(lambda: not service.service.hub.admission._total)
    gc.collect()
    assert not caplog.records, "a task has failed by itself"


def sending() -> list[str]:
    """The coroutines of all tasks that send a stream."""
    found: list[str] = []
    for task in asyncio.all_tasks():
        waiting: Any = task.get_coro()
        while waiting is not None:
            found.append(getattr(waiting, "__qualname__", ""))
            waiting = getattr(waiting, "cr_await", None)
    return [name for name in found if name.startswith(("Hub._send", "Subscriber.", "ConnectionStream."))]


async def test_a_member_has_no_task(service: Service) -> None:
    """While a stream has kept up, nothing of it runs; one that is sent as always has a task."""
    async with connected(service) as client:
        await begun(client, "/notes/stream/")
        await until(lambda: any(group.members for group in service.service.hub.groups))
        assert not sending()
        async with connected(service) as other:
            await begun(other, "/notes/stream/", AS_ALWAYS)
            await until(lambda: "Subscriber.stay" in sending())


async def test_equal_streams_share_their_subscriptions(service: Service) -> None:
    """Whatever the order of their parameters, and whatever position they have."""
    async with connected(service) as first, connected(service) as second:
        await begun(first, "/notes/stream/?tenant=1&text=a")
        await begun(second, "/notes/stream/?text=a&tenant=1")
        position = str(service.service.hub.feed.head)
        async with connected(service) as third:
            await begun(third, f"/notes/stream/?text=a&tenant=1&last_event_id={position}")
            hub = service.service.hub
            await until(lambda: sum(len(group.members) for group in hub.groups) == 3)
            assert len({id(group.subscriptions) for group in hub.groups}) == 1


async def test_a_connection_goes_on_after_its_stream(service: Service, taken: list[bool]) -> None:
    """A request that comes meanwhile is answered when the stream has ended."""
    async with connected(service) as client:
        await begun(client, "/notes/stream/")
        client.writer.write(b"GET /notes/1/ HTTP/1.1\r\n%b\r\n" % HOST)
        await client.writer.drain()
        await service.sql.execute("INSERT INTO notes VALUES (1, 1, 'a')")
        assert b'"id":1' in await chunk(client)
        service.service.hub.open_streams.end()
        assert await client.reader.readexactly(len(LAST_CHUNK)) == LAST_CHUNK
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
        assert await client.reader.readexactly(28) == b'{"id":1,"tenant":1,"text":"a"}'[:28]
        assert await client.reader.readexactly(2) == b'"}'
        (lines, _) = await begun(client, "/notes/stream/?tenant=2")
        assert lines[0] == b"HTTP/1.1 200 OK"
    assert taken == [True] * 3
    await until(lambda: service.service.hub.subscribers == 0)


PARTS = (
    (b"", b"GET /notes/1/ HTTP/1.1\r\n%b\r\n" % HOST),
    (b"", b"GET /notes/1/ HT", b"TP/1.1\r\n%b\r\n" % HOST),
    (b"GET /notes/1/ HTTP/1.1\r\n%b" % HOST, b"\r\n"),
    (b"GET /notes/1/ HT", b"TP/1.1\r\n%b\r\n" % HOST),
    (
        b"",
        b"POST /notes/ HTTP/1.1\r\n%bContent-Type: application/json\r\nContent-Length: 26\r\n\r\n" % HOST,
        b'{"tenant": 1, ',
        b'"text": "b"}',
    ),
    (b"\r\n\r\n", b"\r\n", b"GET /notes/1/ HTTP/1.1\r\n%b\r\n" % HOST),
)


@pytest.mark.parametrize("path", ["/notes/stream/", "/own/stream/"])
@pytest.mark.parametrize("parts", PARTS)
async def test_the_next_request_comes_in_any_parts(service: Service, parts: tuple[bytes, ...], path: str) -> None:
    """A stream keeps nothing of its request, also the parser only if that has a part of the next one; and no byte is lost."""
    await service.sql.execute("INSERT INTO notes VALUES (1, 1, 'a')")
    async with connected(service) as client:
        header = bearer(tenant=1) if path == "/own/stream/" else b""
        client.writer.write(b"GET %b HTTP/1.1\r\n%b%b\r\n%b" % (path.encode(), HOST, header, parts[0]))
        async with asyncio.timeout(30):
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
        assert b"event: ready" in await chunk(client)
        (connection,) = service.client.server.handler.connections
        assert (connection._parser is None) == (not parts[0].strip())
        for part in parts[1:]:
            client.writer.write(part)
            await client.writer.drain()
            await asyncio.sleep(0.01)
        service.service.hub.open_streams.end()
        async with asyncio.timeout(30):
            assert await client.reader.readexactly(len(LAST_CHUNK)) == LAST_CHUNK
            assert (await client.reader.readuntil(b"\r\n")).split()[1] in (b"200", b"201")


async def test_streams_that_come_together_share_a_statement(service: Service) -> None:
    """The position where they begin is read once for many."""
    clients = [Client(*await asyncio.open_connection(service.client.host, service.client.port)) for _ in range(50)]
    before = service.service.store.database.statements
    await asyncio.gather(*(begun(client, f"/notes/stream/?tenant={n}") for n, client in enumerate(clients)))
    assert service.service.store.database.statements - before < 25
    assert service.service.hub.subscribers == 50
    for client in clients:
        client.writer.close()


async def test_a_group_outlives_its_snapshot(service: Service) -> None:
    """Once the log has gone past it, a group without others of its kind goes on; streams that open later join it."""
    hub = service.service.hub
    async with connected(service) as first, connected(service) as second, connected(service) as other:
        await begun(first, "/notes/stream/?tenant=1")
        await begun(other, "/notes/stream/?tenant=2")
        await until(lambda: len(hub.groups) == 2)
        before = set(hub.groups)
        assert all(group.seen_snapshot is not None for group in before)
        await service.sql.execute("INSERT INTO notes VALUES (1, 1, 'a')")
        assert b'"id":1' in await chunk(first)
        await service.sql.execute("INSERT INTO notes VALUES (2, 1, 'a')")
        assert b'"id":2' in await chunk(first)
        assert set(hub.groups) == before
        assert all(group.seen_snapshot is None for group in before)
        await begun(second, "/notes/stream/?tenant=1")
        for number in (3, 4):
            await service.sql.execute("INSERT INTO notes VALUES ($1, 1, 'a'), ($2, 2, 'a')", number, number + 10)
            for client, key in ((first, number), (second, number), (other, number + 10)):
                assert re.findall(rb'"id":(\d+)', await chunk(client)) == [b"%d" % key] * 2
        assert set(hub.groups) == before
        assert not hub.groups.to_revisit


async def test_addresses_that_proxies_report_are_counted(run: Run, taken: list[bool]) -> None:
    """Each client behind a trusted proxy has the streams of one caller."""
    settings = f"{SETTINGS}server: {{trusted_proxies: 1}}\nstream: {{max_streams_per_caller: 1}}\n"
    service = await run(RESOURCES, settings)
    async with connected(service) as first, connected(service) as second, connected(service) as third:
        for client, address, status in (
            (first, b"192.0.2.1", b"200"),
            (second, b"192.0.2.2", b"200"),
            (third, b"192.0.2.1", b"429"),
        ):
            (lines, _) = await begun(client, "/notes/stream/", b"X-Forwarded-For: %b\r\n" % address)
            assert lines[0].split()[1] == status
    assert taken == [True, True, False]


OF_LISTS = """
from marshmallow import fields
from rowcast import Serializer

class Short(Serializer):
    id = fields.Integer()
"""


async def test_streams_show_what_lists_show(run: Run, taken: list[bool]) -> None:
    """With a serializer of lists of its own, a stream shows nothing that the list hides."""
    notes = {"fields": FIELDS, "viewset": {"list_serializer_class": "lists:Short"}}
    service = await run({"notes": notes}, SETTINGS, {"lists": OF_LISTS})
    async with connected(service) as client:
        await begun(client, "/notes/stream/")
        await service.sql.execute("INSERT INTO notes VALUES (1, 1, 'a')")
        assert b'"data":{"id":1},' in await chunk(client)
    assert taken == [False]


@asynccontextmanager
async def slow(service: Service, headers: bytes) -> AsyncIterator[socket.socket]:
    """The connection of a client for whose stream bytes wait, since it reads none."""
    hub = service.service.hub
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((service.client.host, service.client.port))
        client.sendall(b"GET /notes/stream/ HTTP/1.1\r\n%b%b\r\n" % (HOST, headers))
        await until(lambda: any(group.members for group in hub.groups))
        (connection,) = service.client.server.handler.connections
        transport, number = connection.transport, 0
        assert transport is not None

        async def waits() -> bool:
            nonlocal number
            number += 1
            await service.sql.execute("INSERT INTO notes VALUES ($1, 1, $2)", number, "x" * 50_000)
            return transport.get_write_buffer_size() > 0

        await until(waits)
        yield client


@pytest.mark.parametrize("headers", [b"", AS_ALWAYS])
async def test_a_client_that_says_no_more_and_reads_nothing_is_disconnected(run: Run, headers: bytes) -> None:
    """It has ended its side of the connection, whose other side ends after ``send_timeout``, though bytes wait for it."""
    service = await run(RESOURCES, f"{SETTINGS}server: {{send_timeout: 300ms}}\nstream: {{heartbeat: 1s}}\n")
    async with slow(service, headers) as client:
        client.shutdown(socket.SHUT_WR)
        await until(lambda: not service.client.server.handler.connections)
    assert service.client.app[REQUESTS].refused["send_timeout"] == 1


@pytest.mark.parametrize("headers", [b"", AS_ALWAYS])
async def test_a_client_that_resets_its_connection_is_no_failure(run: Run, headers: bytes) -> None:
    """Its stream has waited for it, and ends like any other whose client leaves."""
    service = await run(RESOURCES, f"{SETTINGS}stream: {{buffer: 64KiB}}\n")
    hub = service.service.hub
    with structlog.testing.capture_logs() as logs:
        async with slow(service, headers) as client:
            (connection,) = service.client.server.handler.connections
            await until(lambda: connection._drain_waiter is not None)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await until(lambda: not hub.subscribers)
    assert +hub.open_streams.closed == {"client": 1}
    assert "stream_failed" not in [log["event"] for log in logs]


@pytest.mark.parametrize("headers", [b"", AS_ALWAYS])
async def test_nothing_is_read_for_a_client_that_has_left(
    service: Service, headers: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It catches up, and nothing that it has missed is sent to it, so no write shows that it has gone."""
    hub, ticks = service.service.hub, 20
    async with connected(service) as client:
        (_, ready) = await begun(client, "/notes/stream/", headers)
        begin = re.search(rb"id: ([\d-]+)", ready)[1]  # type: ignore[index]
        for number in range(ticks):
            await service.sql.execute("INSERT INTO notes VALUES ($1, 1, 'a')", number)
            await chunk(client)
    await until(lambda: not hub.subscribers)
    read, left, found = hub.feed.read, asyncio.Event(), 0

    async def read_slowly(after: Position) -> AsyncGenerator[Batch, None]:
        nonlocal found
        async for batch in read(after):
            found += 1
            yield batch
            if found == 1:
                await left.wait()

    monkeypatch.setattr(hub.feed, "read", read_slowly)
    async with connected(service) as client:
        await begun(client, f"/notes/stream/?tenant=2&last_event_id={begin.decode()}", headers)
        await until(lambda: found > 0)
        (connection,) = service.client.server.handler.connections
    await until(lambda: connection.transport is None)
    left.set()
    await until(lambda: not hub.subscribers)
    assert found == 2
