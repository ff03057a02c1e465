"""Writes about which data decide are answered by their connection, with the responses and the rows that all others have."""

from __future__ import annotations

import asyncio
import json
import re
from functools import partial

import pytest

from rowcast.rest.body_memory import UNCOUNTED_MAX_BYTES
from rowcast.server.health import READINESS
from rowcast.server.short_way import SHORT_WAY

from ..waiting import until
from .conftest import Run
from .library import Service
from .test_declared_scope import SETTINGS
from .test_direct_writing import CALLERS, NAMED, RESOURCES, ROWS, SCOPED, WRITES, Sent, from_twin, rows, to_twin
from .test_short_way import AS_ALWAYS, HOST, connected

JSON = b"Content-Type: application/json\r\n"
GENERATED = rb"X-Request-ID|Date|X-Transaction|ETag"
BODY = b'{"title": "Other"}'
OTHERS = (  # which are answered as always
    *(b"POST /books2/ HTTP/1.1\r\n%b\r\n" % header for header in (
        b"Content-Type: application/json\r\nPrefer: return=minimal", b"Content-Type: application/json\r\nIf-None-Match: \"a\"",
        b"Content-Type: application/json\r\nIf-Match: *", b"Content-Type: application/json\r\nX-Request-ID: of-the-client",
        b"Content-Type: application/json\r\nAccept: text/html", b"Content-Type: text/plain", b"Content-Type: application/x+json",
        b"Content-Type: application/json; charset=latin-1", b"Content-Type: application/json\r\nContent-Encoding: x", b"Accept: */*",
        b"Content-Type: application/json\r\nContent-Type: text/plain", b"Content-Type: application/json\r\nConnection: close",
        b"Content-Type: application/json\r\nX-Read-After: 1",
    )),
    b"POST /books2/?x=1 HTTP/1.1\r\n" + JSON, b"PATCH /books2/1/?x=1 HTTP/1.1\r\n" + JSON, b"PATCH /books2/?x=1 HTTP/1.1\r\n" + JSON,
    b"PATCH /books2/ HTTP/1.1\r\n" + JSON, b"POST /books2/1/ HTTP/1.1\r\n" + JSON, b"PATCH /books2/%31/ HTTP/1.1\r\n" + JSON, b"QUERY /books2/ HTTP/1.1\r\n" + JSON,
    b"POST /books2/ HTTP/1.0\r\nConnection: keep-alive\r\n" + JSON, b"POST /nothing/ HTTP/1.1\r\n" + JSON, b"POST /batch/ HTTP/1.1\r\n" + JSON,
)  # fmt: skip


@pytest.fixture
async def service(run: Run) -> Service:
    """The tables of ``test_direct_writing``, each with its twin."""
    service = await run(RESOURCES, SETTINGS)
    for end in ("", "2"):
        await service.sql.execute(ROWS.format(**{name: f"{name}{end}" for name in ("books", "notes", "names")}))
    return service


def message(line: bytes, headers: bytes, body: bytes) -> bytes:
    """A request as it is sent."""
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    return b"%b\r\n%b%b%b\r\n%b" % (line, HOST, headers, length, body)


async def response(reader: asyncio.StreamReader) -> tuple[bytes, list[bytes], bytes]:
    """The status line, the headers without generated values, and the body of a response."""
    async with asyncio.timeout(30):
        head = await reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"Content-Length: (\d+)", head)
        body = await reader.readexactly(int(found[1])) if found is not None else b""
    status, *lines = head.strip().split(b"\r\n")
    lines = [re.sub(b"^(%b): .*" % GENERATED, rb"\1", each) for each in lines]
    return status, lines, body


def alike(found: tuple[bytes, list[bytes], bytes], sent: Sent) -> tuple[bytes, list[bytes], bytes]:
    """A response without what differs between a table and its twin, and from one request to another."""
    status, lines, body = found
    if status.split()[1] >= b"400":
        lines = [re.sub(rb"^Content-Length: .*", b"", each) for each in lines]
        body = re.sub(rb'"request_id":"[^"]*"', b"", body)
    key = rb"[0-9a-f]{8}-[0-9a-f-]{27}" if "names" in sent[1] else rb"x{9}"
    lines = [from_twin(re.sub(key, b"", each).decode()).encode() for each in lines]
    return status, lines, from_twin(re.sub(key, b"", body).decode()).encode()


async def both_ways(service: Service, taken: list[bool], sent: Sent, headers: bytes = b"") -> bytes:
    """Send a request as always to the twin, and the short way to the resource; the status line of both."""
    method, path, body = sent
    data = json.dumps(body).encode() if isinstance(body, dict | list) else body or b""
    headers += JSON if body is not None else b""
    async with connected(service) as client:
        client.writer.write(message(f"{method} {to_twin(path)} HTTP/1.1".encode(), headers + AS_ALWAYS, data))
        expected = await response(client.reader)
        assert not any(taken), sent
        client.writer.write(message(f"{method} {path} HTTP/1.1".encode(), headers, data))
        found = await response(client.reader)
    assert alike(found, sent) == alike(expected, sent), sent
    return found[0].split()[1]


async def test_both_ways_have_the_same_responses_and_rows(service: Service, taken: list[bool]) -> None:
    """Status, headers in their order and bodies of valid and wrong requests; then the rows of the tables, links included."""
    statuses = set()
    for sent in WRITES:
        if isinstance(sent[2], dict) and len(json.dumps(sent[2])) > 1_000_000:
            continue  # the service refuses it while a part of it is still being sent
        taken.clear()
        statuses.add(await both_ways(service, taken, sent))
        text = sent[2] if isinstance(sent[2], bytes) else json.dumps(sent[2]).encode()
        short = sent[0] == "DELETE" or (text[:1] == b"{" and len(text) <= UNCOUNTED_MAX_BYTES)
        assert any(taken) == short, sent
    assert {b"200", b"201", b"204", b"400", b"404", b"409"} <= statuses
    assert await rows(service, "books") == await rows(service, "books2")
    links = [await service.sql.fetch(f"SELECT * FROM {t}_tags ORDER BY 1, 2") for t in ("books", "books2")]
    assert [tuple(each) for each in links[0]] == [tuple(each) for each in links[1]]


async def test_each_caller_has_the_responses_of_both_ways(service: Service, taken: list[bool]) -> None:
    """Callers with and without a tenant, of all tenants, and without valid credentials."""
    statuses = set()
    for caller in CALLERS:
        headers = b"".join(f"{name}: {value}\r\n".encode() for name, value in caller.items())
        for sent in (*SCOPED, *NAMED):
            taken.clear()
            statuses.add(await both_ways(service, taken, sent, headers))
            assert any(taken), sent
    assert {b"200", b"201", b"204", b"400", b"401", b"403", b"404"} <= statuses
    for name in ("notes", "names"):
        assert await rows(service, name) == await rows(service, f"{name}2")


async def test_other_requests_are_answered_as_always(service: Service, taken: list[bool]) -> None:
    for request in OTHERS:
        async with connected(service) as client:
            line, _, headers = request.partition(b"\r\n")
            client.writer.write(message(line, headers, BODY))
            assert (await response(client.reader))[0]
            assert not any(taken), request
    chunked = b"POST /books/ HTTP/1.1\r\n%b%bTransfer-Encoding: chunked\r\n\r\n12\r\n%b\r\n0\r\n\r\n" % (
        HOST,
        JSON,
        BODY,
    )
    async with connected(service) as client:
        client.writer.write(chunked)
        assert (await response(client.reader))[0].split()[1] == b"201"
    assert not any(taken)


async def test_a_body_above_the_limit_is_refused(run: Run, taken: list[bool]) -> None:
    """Also if the limit is lower than the length up to which bodies are not counted."""
    service = await run({"authors": RESOURCES["authors"]}, f"{SETTINGS}\nserver: {{body_limit: 100B}}")
    async with connected(service) as client:
        for spaces, status in ((b"", b"201"), (b" " * 100, b"413")):
            for headers in (JSON + AS_ALWAYS, JSON):
                client.writer.write(message(b"POST /authors/ HTTP/1.1", headers, b'{"name": "Cat"}' + spaces))
                assert (await response(client.reader))[0].split()[1] == status
    assert taken == [False, True, False, False]


async def test_writes_that_meet_share_statements(service: Service, taken: list[bool]) -> None:
    """Each of many connections gets its own row or its own error, each row is there once, and fewer statements run than requests."""
    database = service.service.store.database
    before, count = database.statements, 24
    found: list[tuple[int, bytes, bytes]] = []

    async def write(number: int) -> None:
        async with connected(service) as client:
            await client.get("/books/1/")
            for turn in range(5):
                name = b"%d of %d" % (turn, 0 if turn == 4 and number < 2 else number)
                client.writer.write(message(b"POST /books/ HTTP/1.1", JSON, b'{"title": "%b"}' % name))
                status, _, body = await response(client.reader)
                found.append((number, status.split()[1], body))
                if status.split()[1] == b"201":
                    row = json.loads(body)
                    assert row["title"].encode() == name
                    client.writer.write(
                        message(b"PATCH /books/%d/ HTTP/1.1" % row["id"], JSON, b'{"year": %d}' % number)
                    )
                    status, _, body = await response(client.reader)
                    assert json.loads(body)["year"] == number, body

    await asyncio.gather(*map(write, range(count)))
    conflicts = [each for each in found if each[1] == b"409"]
    assert len(conflicts) == 1
    assert conflicts[0][0] < 2
    assert await service.sql.fetchval("SELECT count(*) FROM books WHERE title LIKE '% of %'") == count * 5 - 1
    assert database.statements - before < 2 * 5 * count
    assert service.client.app[SHORT_WAY].requests.active == 0
    assert all(taken)


async def test_a_client_that_leaves_has_written_once(service: Service, taken: list[bool]) -> None:
    """What has arrived whole is written, whether its client waits for the response or not."""
    requests = service.client.app[SHORT_WAY].requests
    async with service.sql.transaction():
        await service.sql.execute("LOCK TABLE books IN ACCESS EXCLUSIVE MODE")
        for number in range(8):
            async with connected(service) as client:
                client.writer.write(message(b"POST /books/ HTTP/1.1", JSON, b'{"title": "Left %d"}' % number))
                await until(partial(_arrived, taken, number + 1))

    async def is_written() -> bool:
        written = await service.sql.fetchval("SELECT count(*) FROM books WHERE title LIKE 'Left %'")
        return written == 8 and requests.active == 0

    await until(is_written)


async def _arrived(taken: list[bool], number: int) -> bool:
    return len(taken) >= number


async def test_messages_in_one_packet_are_answered_in_order(service: Service) -> None:
    async with connected(service) as client:
        names = [b"Packet %d" % number for number in range(20)]
        client.writer.write(
            b"".join(message(b"POST /books/ HTTP/1.1", JSON, b'{"title": "%b"}' % name) for name in names)
        )
        for name in names:
            assert json.loads((await response(client.reader))[2])["title"].encode() == name


@pytest.mark.parametrize(
    "sent", [(b"POST /books/", b"201"), (b"PATCH /books/9/", b"404"), (b"DELETE /books/2/", b"204")]
)
async def test_a_connection_that_is_to_end_gets_its_response(
    service: Service, taken: list[bool], sent: tuple[bytes, bytes]
) -> None:
    """While the service stops, what has been asked for is done and answered, and then the connection ends."""
    async with connected(service) as client:
        await client.get("/books/1/")
        async with service.sql.transaction():
            await service.sql.execute("LOCK TABLE books IN ACCESS EXCLUSIVE MODE")
            client.writer.write(message(b"%b HTTP/1.1" % sent[0], JSON, BODY))
            await until(partial(_arrived, taken, 2))
            runner = service.client.server.runner
            assert runner is not None
            assert runner.server is not None
            runner.server.pre_shutdown()
        assert (await response(client.reader))[0].split()[1] == sent[1]
        async with asyncio.timeout(10):
            assert await client.reader.read() == b""


async def test_a_large_row_that_was_written_is_answered(service: Service, taken: list[bool]) -> None:
    """Its response takes the way whose memory has a limit, also if the service has been replaced meanwhile; it is written once."""
    readiness = service.client.app[READINESS]
    await service.sql.execute("UPDATE books SET data = to_jsonb(repeat('x', 20000)) WHERE id = 1")
    async with connected(service) as client:
        await client.get("/books/2/")
        async with service.sql.transaction():
            await service.sql.execute("LOCK TABLE books IN ACCESS EXCLUSIVE MODE")
            client.writer.write(message(b"PATCH /books/1/ HTTP/1.1", JSON, b'{"year": 5}'))
            await until(partial(_arrived, taken, 2))
            readiness.starting = "It has been replaced."
        status, _, body = await response(client.reader)
        readiness.starting = None
    assert status.split()[1] == b"200"
    assert json.loads(body)["year"] == 5
    assert (
        await service.sql.fetchval(
            "SELECT count(*) FROM rowcast.change WHERE resource = 'books' AND op = 'U' AND new->>'year' = '5'"
        )
        == 1
    )
    assert taken == [True, True]


async def test_a_write_that_may_have_happened_is_not_repeated(service: Service, taken: list[bool]) -> None:
    """If its connection to the database is lost, a request gets the 503, and its row is there at most once."""
    async with connected(service) as client:
        await client.get("/books/2/")
        transaction = service.sql.transaction()
        await transaction.start()
        await service.sql.execute("LOCK TABLE books IN ACCESS EXCLUSIVE MODE")
        client.writer.write(message(b"POST /books/ HTTP/1.1", JSON, b'{"title": "Once"}'))

        async def is_killed() -> bool:
            await service.sql.execute("SELECT pg_stat_clear_snapshot()")  # which lasts as long as the transaction
            killing = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%INSERT INTO books%' AND wait_event_type = 'Lock'"
            return bool(await service.sql.fetch(killing))

        await until(is_killed)
        status, _, body = await response(client.reader)
        await transaction.rollback()
    assert status.split()[1] == b"503"
    assert json.loads(body)["code"] == "database_unavailable"
    assert await service.sql.fetchval("SELECT count(*) FROM books WHERE title = 'Once'") == 0
    assert all(taken)
