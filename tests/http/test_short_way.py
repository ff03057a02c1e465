"""GETs about which data decide are answered by their connection, with the responses that all others have."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import copy_context
from typing import Any

import jwt
import pytest
from aiohttp import web
from aiohttp.http import HttpRequestParser, RawRequestMessage

from rowcast.database.written import WRITTEN, Written
from rowcast.errors import ApiError
from rowcast.query.coalescing import Coalescing
from rowcast.server.health import READINESS
from rowcast.server.middleware import Outcome
from rowcast.server.short_answers import Connection
from rowcast.server.short_way import ORIGINS_MAX, SHORT_WAY, ShortWay
from rowcast.streams.sse import Sent

from ..waiting import until
from .conftest import Run
from .library import Service

BOOKS: dict[str, Any] = {
    "fields": {
        "id": {"type": "integer", "primary_key": True},
        "title": {"type": "string", "max_length": 20_000},
        "deleted_at": {"type": "datetime", "null": True, "read_only": True},
    },
    "soft_delete": "deleted_at",
    "viewset": {"filterset_fields": {"title": ["exact", "regex"]}, "ordering_fields": ["title"], "page_size": 2},
}
RESOURCES: dict[str, Any] = {
    "books": BOOKS,
    "kept": {**BOOKS, "viewset": {**BOOKS["viewset"], "cache": "responses"}},
    "bare": {
        **BOOKS,
        "fields": {**BOOKS["fields"], "title": {"type": "string", "max_length": 50, "unique": True}},
        "viewset": {**BOOKS["viewset"], "cache": "off", "count": "none", "lookup_field": "title"},
    },
    "pairs": {
        "fields": {"a": {"type": "integer"}, "b": {"type": "string", "max_length": 9}},
        "primary_key": ["a", "b"],
    },
    "notes": {  # of tenants
        "fields": {
            "id": {"type": "integer", "primary_key": True},
            "tenant": {"type": "integer"},
            "text": {"type": "text"},
        },
        "viewset": {
            "permission_classes": ["IsAuthenticated"],
            "scope": {"tenant": "$claims.tenant"},
            "scope_unless": "IsAdminUser",
            "filterset_fields": ["text"],
            "cache": "responses",
        },
    },
}
SECRET = "a shared secret of 32 bytes or more"
SETTINGS = f"auth: {{jwt: {{secret: {SECRET}, audience: rowcast}}, default_permission_classes: [AllowAny]}}"
ROWS = "(id, title, deleted_at) VALUES (1, 'One', NULL), (2, 'Two', NULL), (3, 'Gone', now()), (4, 'Four', NULL)"
HOST = b"Host: localhost\r\n"
AS_ALWAYS = b"X-Unknown: 1\r\n"  # a header of which the short way knows nothing
PATHS = (
    *(f"/{books}/{rest}" for books in ("books", "kept", "bare") for rest in (
        "", "?page=2", "?page_size=1", "?title=One", "?title=a%20b", "?fields=title", "?ordering=-title",
        "1/", "1", "2/?fields=id", "4/", "One/", "Two",
    )),
    "/pairs/", "/pairs/1,x/", "/kept/?ordering=title",
)  # fmt: skip
NOT_FOUND_OR_WRONG = (
    *(f"/{books}/{rest}" for books in ("books", "kept", "bare") for rest in (
        "?page=9", "?page_size=x", "?titel=One", "?title__regex=(", "9/", "3/", "01/", "x/", "99999999999999999999/", "Gone/",
        "1/?x=1",
    )),
    "/pairs/1/", "/pairs/9,y/",
)  # fmt: skip
OTHERS = (  # which are answered as always
    b"GET /books/1/ HTTP/1.0\r\nConnection: keep-alive\r\n", b"HEAD /books/1/ HTTP/1.1\r\n", b"OPTIONS /books/1/ HTTP/1.1\r\n",
    b"GET /books/%31/ HTTP/1.1\r\n", b"GET /books/#x HTTP/1.1\r\n", b"GET /books/1#x HTTP/1.1\r\n", b"GET /books/?title=One#x HTTP/1.1\r\n", b"GET /books/?title=One&title=One HTTP/1.1\r\n", b"GET /books/?expand=x HTTP/1.1\r\n",
    b"GET /books/?%65xpand=x HTTP/1.1\r\n", b"GET /books/?deleted=only HTTP/1.1\r\n",
    b"GET /nothing/ HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n", b"GET /health/live HTTP/1.1\r\n", b"GET http://localhost/books/ HTTP/1.1\r\n",
    b"POST /books/ HTTP/1.1\r\nContent-Length: 0\r\n", b"GET /books/?title=" + b"x" * 1100 + b" HTTP/1.1\r\n",
    *(b"GET /books/ HTTP/1.1\r\n%b\r\n" % header for header in (
        b"Accept: text/csv", b"Accept: text/html", b"Accept: application/json;q=0.5", b"Cache-Control: no-cache", b"Cache-Control: max-age=1", b"Prefer: count=none",
        b"If-Match: *", b"If-None-Match: *", b'If-None-Match: "a", "b"', b'If-None-Match: "a"\r\nIf-None-Match: "b"',
        b"Range: bytes=0-1", b"X-Request-ID: of-the-client", b"Content-Length: 0\r\nContent-Type: application/json",
        b"Expect: 100-continue", b"Expect: other", b"X-Read-After: 1", b"Connection: upgrade", b"Origin: https://a.example\r\nAccept: x/y",
        b"Accept: */*\r\nAccept: text/html", b"Host: localhost",
    )),
)  # fmt: skip
GENERATED = rb"X-Request-ID|Date|X-Stream-Position"


class Client:
    """A connection that stays open, and what is said on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, request: bytes, headers: bytes = b"") -> tuple[bytes, list[bytes], bytes]:
        """The status line, the headers without generated values, and the body of a response."""
        line, rest = request.split(b"\r\n", 1)
        self.writer.write(b"%b\r\n%b%b%b\r\n" % (line, HOST, rest, headers))
        async with asyncio.timeout(30):
            head = await self.reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"HTTP/1.1 100"):
                head = await self.reader.readuntil(b"\r\n\r\n")
            status, *lines = head.strip().split(b"\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            body = b"" if line.startswith(b"HEAD") or length is None else await self.reader.readexactly(int(length[1]))
        lines = [re.sub(b"^(%b): .*" % GENERATED, rb"\1", each) for each in lines]
        return status, lines, re.sub(rb'"request_id":"[^"]*"', b"", body)

    async def get(self, path: str, headers: bytes = b"") -> tuple[bytes, list[bytes], bytes]:
        """The response to a GET."""
        return await self.ask(b"GET %b HTTP/1.1\r\n" % path.encode(), headers)


@asynccontextmanager
async def connected(service: Service) -> AsyncIterator[Client]:
    """A connection to a service."""
    reader, writer = await asyncio.open_connection(service.client.host, service.client.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


@pytest.fixture
async def service(run: Run) -> Service:
    """Four books in each table of them; the third one is marked as deleted."""
    service = await run(RESOURCES, SETTINGS)
    for table in ("books", "kept", "bare"):
        await service.sql.execute(f"INSERT INTO {table} {ROWS}")
    await service.sql.execute("INSERT INTO pairs VALUES (1, 'x')")
    await service.sql.execute("INSERT INTO notes (id, tenant, text) VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 1, 'b')")
    return service


async def test_both_ways_have_the_same_responses(service: Service, taken: list[bool]) -> None:
    async with connected(service) as client:
        for path in (*PATHS, *NOT_FOUND_OR_WRONG):
            taken.clear()
            expected = await client.get(path, AS_ALWAYS)
            tag = next((line.partition(b": ")[2] for line in expected[1] if line.startswith(b"ETag")), b'"none"')
            for _ in range(2):  # the second answer may come from memory
                assert await client.get(path) == expected, path
            for condition in (tag, b"W/" + tag, b'"other"'):
                header = b"If-None-Match: %b\r\n" % condition
                assert await client.get(path, header) == await client.get(path, header + AS_ALWAYS), (path, condition)
            meaningless = b"user-agent: x\r\ntraceparent: 00-1-2-01\r\nCookie: a=b\r\nX-Forwarded-Host: other\r\nAccept: */*\r\nCache-Control: max-age=0\r\n"
            assert await client.get(path, meaningless) == expected, path
            assert taken == [False, True, True, *(True, False) * 3, True], path


async def test_other_requests_are_answered_as_always(service: Service, taken: list[bool]) -> None:
    for request in OTHERS:
        async with connected(service) as client:
            found = await client.ask(request)
            assert not any(taken), request
        async with connected(service) as client:
            assert found == await client.ask(request, AS_ALWAYS), request


def bearer(**claims: Any) -> bytes:
    """The header of a caller with these claims."""
    token = {"sub": "ann", "aud": "rowcast", "exp": time.time() + 86_400, **claims}
    return f"Authorization: Bearer {jwt.encode(token, SECRET, 'HS256')}\r\n".encode()


async def test_each_caller_has_the_responses_of_both_ways(service: Service, taken: list[bool]) -> None:
    """Callers see the rows of their scope; those who are refused, or whose credentials are wrong, are answered as always."""
    callers = (
        b"", bearer(tenant=1), bearer(tenant=2), bearer(tenant="1"), bearer(), bearer(is_staff=True), bearer(exp=1), bearer(tenant=1) * 2,
        b"Authorization: Bearer x\r\n", b"Authorization: x\r\n", b"authorization: Basic eDp5\r\n", b"Authorization:\r\n",
    )  # fmt: skip
    bodies = set()
    async with connected(service) as client:
        for caller in callers:
            for path in ("/notes/", "/notes/?text=b", "/notes/?texd=b", "/notes/1/", "/notes/2/", "/notes/9/", "/notes/x/",
                         "/books/1/", "/kept/1/", "/kept/"):  # fmt: skip
                taken.clear()
                expected = await client.get(path, caller + AS_ALWAYS)
                for _ in range(2):
                    found = await client.get(path, caller)
                    assert found == expected, (caller, path)
                assert taken == [False, True, True]
                bodies.add((path, found[2]))
    lists = {body for path, body in bodies if path == "/notes/" and body.startswith(b'{"count":')}
    assert len(lists) == 4  # of no tenant, of two, and of an administrator


@pytest.mark.parametrize("path", ["/notes/", "/notes/stream/"])
async def test_wrong_credentials_are_counted_once(run: Run, taken: list[bool], path: str) -> None:
    """The limit of failed attempts holds for both ways together."""
    service = await run({"notes": RESOURCES["notes"]}, f"{SETTINGS}\nthrottle: {{authentication_failures: 3/minute}}")
    async with connected(service) as client:
        found = [await client.get(path, b"Authorization: Bearer x\r\n") for _ in range(5)]
    assert [status.split()[1] for status, _, _ in found] == [b"401"] * 3 + [b"429"] * 2
    assert all(taken)


async def test_an_answer_is_as_recent_as_any_other(service: Service, taken: list[bool]) -> None:
    """Writes of this service and of others are seen at once, or as soon as the cache may know of them."""
    async with connected(service) as client:
        for table in ("books", "kept"):
            await client.get(f"/{table}/1/")
            response = await service.client.patch(f"/{table}/1/", json={"title": "New"})
            assert response.status == 200
            assert b'"title":"New"' in (await client.get(f"/{table}/1/"))[2].replace(b'": "', b'":"')
            await service.sql.execute(f"UPDATE {table} SET title = 'Newer' WHERE id = 1")

            async def is_newer(table: str = table) -> bool:
                return b"Newer" in (await client.get(f"/{table}/1/"))[2]

            await until(is_newer)
    assert all(taken)


async def test_reads_that_meet_share_statements(service: Service, taken: list[bool]) -> None:
    """Each of many connections gets its own row, those of no row a 404, and fewer statements run than requests."""
    database = service.service.store.database
    async with connected(service) as client:
        expected = {
            path: await client.get(path, AS_ALWAYS) for path in ("/books/1/", "/books/2/", "/books/3/", "/books/9/")
        }
    clients = []
    async with asyncio.timeout(60):
        for _ in range(24):
            clients.append(await asyncio.open_connection(service.client.host, service.client.port))
        paths = [list(expected)[number % 4] for number in range(24)]
        before = database.statements

        async def ask(number: int) -> None:
            for _ in range(10):
                assert await Client(*clients[number]).get(paths[number]) == expected[paths[number]]

        await asyncio.gather(*map(ask, range(24)))
    assert all(taken[4:])
    assert database.statements - before < 240 + 120  # those of no row are read again, alone
    for _, writer in clients:
        writer.close()


async def test_what_is_not_in_memory_is_read_together_and_kept(service: Service, taken: list[bool]) -> None:
    """With ``cache: responses`` requests for rows that are not kept share statements, and the next ones need none."""
    database = service.service.store.database
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(service)) for _ in range(12)]
        await asyncio.gather(*(client.get("/books/1/") for client in clients))
        statements = []
        for _ in range(2):
            before = database.statements
            found = await asyncio.gather(*(each.get(f"/kept/{(1, 2, 4)[n % 3]}/") for n, each in enumerate(clients)))
            assert [body[:7] for _, _, body in found] == [b'{"id":%d' % (1, 2, 4)[n % 3] for n in range(12)]
            statements.append(database.statements - before)
    assert 0 < statements[0] < 12
    assert statements[1] == 0


async def test_messages_in_one_packet_are_answered_in_order(service: Service) -> None:
    async with connected(service) as client:
        order = [(1, 2, 4)[number % 3] for number in range(60)]
        client.writer.write(
            b"".join(b"GET /%b/%d/ HTTP/1.1\r\n%b\r\n" % ((b"books", b"kept")[key % 2], key, HOST) for key in order)
        )
        for key in order:
            head = await client.reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            assert length is not None
            assert (await client.reader.readexactly(int(length[1]))).startswith(b'{"id":%d,' % key)


async def test_a_message_that_comes_during_a_read_waits(service: Service, taken: list[bool]) -> None:
    """The second request of a connection is answered after the first, by whatever way."""
    async with connected(service) as client:
        async with service.sql.transaction():
            await service.sql.execute("LOCK TABLE books IN ACCESS EXCLUSIVE MODE")
            for request in (b"GET /books/1/", b"GET /kept/2/", b"HEAD /kept/2/", b"GET /kept/4/"):
                client.writer.write(b"%b HTTP/1.1\r\n%b\r\n" % (request, HOST))
                await asyncio.sleep(0.05)
            assert taken == [True]
        keys = []
        for has_body in (True, True, False, True):
            head = await client.reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            assert length is not None
            keys.append((await client.reader.readexactly(int(length[1])))[:7] if has_body else b"")
    assert keys == [b'{"id":1', b'{"id":2', b"", b'{"id":4']


async def test_a_message_that_waited_has_no_context_of_others(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task of a shared statement, which ends one request of a connection, says nothing about the next one."""
    foreign: list[bool] = []
    takes, end = ShortWay.takes, Coalescing._end

    def look(*arguments: Any) -> bool:
        foreign.append(WRITTEN.get() is not None)
        return takes(*arguments)

    def end_in_the_context_of_a_write(*arguments: Any) -> None:
        WRITTEN.set(Written())
        end(*arguments)

    monkeypatch.setattr(ShortWay, "takes", look)
    monkeypatch.setattr(Coalescing, "_end", lambda *each: copy_context().run(end_in_the_context_of_a_write, *each))
    async with connected(service) as client:
        async with service.sql.transaction():
            await service.sql.execute("LOCK TABLE books IN ACCESS EXCLUSIVE MODE")
            client.writer.write(b"GET /books/1/ HTTP/1.1\r\n%b\r\n" % HOST)
            await until(lambda: len(foreign) == 1)
            client.writer.write(b"GET /books/2/ HTTP/1.1\r\n%b\r\n" % HOST)
            await asyncio.sleep(0.05)
        await until(lambda: len(foreign) == 2)
    assert foreign == [False, False]


async def test_a_database_that_is_away_is_a_problem(service: Service, taken: list[bool]) -> None:
    """The failure of a read is answered, and counted, as that of any request; the connection goes on."""
    async with connected(service) as client:
        await service.sql.execute("ALTER TABLE books RENAME TO hidden_books")
        try:
            found = await client.get("/books/1/")
            assert found == await client.get("/books/1/", AS_ALWAYS)
            assert taken == [True, False]
            assert found[0].startswith(b"HTTP/1.1 5")
        finally:
            await service.sql.execute("ALTER TABLE hidden_books RENAME TO books")
        assert (await client.get("/books/2/"))[0] == b"HTTP/1.1 200 OK"


async def test_large_responses_are_counted(service: Service, taken: list[bool]) -> None:
    """A body beyond the kernel's buffer takes the way whose memory has a limit; it is read once."""
    await service.sql.execute("UPDATE books SET title = repeat('x', 20000); UPDATE kept SET title = repeat('x', 20000)")
    database = service.service.store.database
    async with connected(service) as client:
        for path in ("/books/1/", "/books/", "/kept/1/", "/kept/"):
            expected = await client.get(path, AS_ALWAYS)
            assert len(expected[2]) > 20_000

            async def is_read_once(path: str = path, expected: object = expected) -> bool:
                before = database.statements
                assert await client.get(path) == expected
                return database.statements - before == (1 if path.startswith("/books") else 0)

            await until(is_read_once)  # an answer is kept as soon as the feed has brought the last change
    assert sum(taken) >= 4


@pytest.mark.parametrize("path", ["/books/1/", "/books/9/", "/books/4/"])
async def test_a_connection_that_is_to_end_gets_its_response(service: Service, taken: list[bool], path: str) -> None:
    """While the service stops, what has been asked for is answered: also if that turns out to be an error, or large."""
    await service.sql.execute("UPDATE books SET title = repeat('x', 20000) WHERE id = 4")
    async with connected(service) as client:
        await client.get("/kept/1/")
        expected = await client.get(path, AS_ALWAYS)
        async with service.sql.transaction():
            await service.sql.execute("LOCK TABLE books IN ACCESS EXCLUSIVE MODE")
            answer = asyncio.create_task(client.get(path))
            await asyncio.sleep(0.1)
            runner = service.client.server.runner
            assert runner is not None
            assert runner.server is not None
            runner.server.pre_shutdown()
        assert await answer == expected
        async with asyncio.timeout(10):
            assert await client.reader.read() == b""
    assert taken[-1]


@pytest.mark.parametrize("path", ["/books/1/", "/books/9/", "/books/4/"])
async def test_a_connection_that_ends_with_its_server_gets_its_response(
    service: Service, taken: list[bool], caplog: pytest.LogCaptureFixture, path: str
) -> None:
    """The server waits for what is being answered, also if aiohttp's task answers it in the end, and nothing is logged."""
    await service.sql.execute("UPDATE books SET title = repeat('x', 20000) WHERE id = 4")

    async def is_taken() -> bool:
        return taken[-1]

    runner = service.client.server.runner
    assert runner is not None
    assert runner.server is not None
    async with connected(service) as client:
        expected = await client.get(path, AS_ALWAYS)
        async with service.sql.transaction():
            await service.sql.execute("LOCK TABLE books IN ACCESS EXCLUSIVE MODE")
            answer = asyncio.create_task(client.get(path))
            await until(is_taken)
            runner.server.pre_shutdown()
            stopping = asyncio.create_task(runner.server.shutdown(30))
            await asyncio.sleep(0)  # it has begun to wait
        assert await answer == expected
        async with asyncio.timeout(10):
            await stopping
    assert taken[-1]
    assert not caplog.records


async def test_an_error_is_of_its_own_request(service: Service, taken: list[bool]) -> None:
    """A request that is refused after its read has failed leaves nothing to the next one."""
    readiness = service.client.app[READINESS]
    async with connected(service) as client:
        await client.get("/kept/1/")
        async with service.sql.transaction():
            await service.sql.execute("LOCK TABLE books IN ACCESS EXCLUSIVE MODE")
            answer = asyncio.create_task(client.get("/books/9/"))
            await asyncio.sleep(0.1)
            readiness.starting = "It has been replaced."
        assert (await answer)[0] == b"HTTP/1.1 503 Service Unavailable"
        readiness.starting = None
        assert (await client.get("/books/1/", AS_ALWAYS))[0] == b"HTTP/1.1 200 OK"
    assert taken == [True, True, False]


async def test_a_client_that_leaves_does_no_harm(service: Service) -> None:
    async with service.sql.transaction():
        await service.sql.execute("LOCK TABLE books IN ACCESS EXCLUSIVE MODE")
        for _ in range(8):
            async with connected(service) as client:
                client.writer.write(b"GET /books/1/ HTTP/1.1\r\n%b\r\n" % HOST)
                await asyncio.sleep(0.01)
    async with connected(service) as client:
        assert (await client.get("/books/1/"))[0] == b"HTTP/1.1 200 OK"
    requests = service.client.app[SHORT_WAY].requests

    async def none_are_left() -> bool:
        return requests.active == 0

    await until(none_are_left)


async def test_headers_that_differ_take_bounded_memory(service: Service, taken: list[bool]) -> None:
    """Headers that are not understood, and long ones, are not remembered, and of others a bounded number."""
    origins = vars(service.client.app[SHORT_WAY])["_origins"]
    async with connected(service) as client:
        await client.get("/kept/1/")
        for header in (
            b"X-Other: 1",
            b"Authorization: Bearer x",
            b"Accept: " + b"x" * 600,
            b"If-None-Match: " + b'"y"',
        ):
            await client.get("/kept/1/", header + b"\r\n")
        assert list(origins) == [((b"Host", b"localhost"),)]
        for number in range(ORIGINS_MAX + 10):
            await client.get("/kept/1/", b"Accept: x/%d\r\n" % number)
    assert len(origins) <= ORIGINS_MAX


@pytest.mark.parametrize(
    "settings",
    [
        "server: {cors_origins: ['https://a.example']}",
        "log: {access: all}",
        "server: {timing: true}",
        "server: {max_active_requests: 100}",
    ],
)
async def test_what_sees_every_request_closes_it(run: Run, taken: list[bool], settings: str) -> None:
    service = await run({"books": BOOKS}, f"auth: {{default_permission_classes: [AllowAny]}}\n{settings}")
    assert not service.client.app[SHORT_WAY].is_open
    async with connected(service) as client:
        assert (await client.get("/books/"))[0] == b"HTTP/1.1 200 OK"
    assert not taken


async def test_behind_a_proxy_links_have_the_name_that_clients_use(run: Run, taken: list[bool]) -> None:
    settings = "auth: {default_permission_classes: [AllowAny]}\nserver: {trusted_proxies: 1, allowed_hosts: [localhost, api.example]}"
    service = await run({"books": BOOKS}, settings)
    await service.sql.execute(f"INSERT INTO books {ROWS}")
    async with connected(service) as client:
        for forwarded in (
            b"X-Forwarded-Host: api.example\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: 10.0.0.1\r\n", b"X-Forwarded-Proto: https\r\n", b"",
            b"X-Forwarded-Host: evil.example\r\n", b"X-Forwarded-Prefix: /below\r\n", b"Forwarded: host=api.example\r\n",
        ):  # fmt: skip
            found = await client.get("/books/", forwarded)
            assert found == await client.get("/books/", forwarded + AS_ALWAYS)
            if b"Host: api" in forwarded:
                assert b"https://api.example/books/?page=2" in found[2]
    assert [took for took, _ in zip(taken[::2], range(6), strict=True)] == [True, True, True, False, False, False]


async def test_lists_that_meet_are_read_once(service: Service, taken: list[bool]) -> None:
    """Those who ask for one address in one turn of the event loop get one answer, and whoever asks later a newer one."""
    way, database = service.client.app[SHORT_WAY], service.service.store.database
    async with connected(service) as client:
        expected = await client.get("/bare/", AS_ALWAYS)
        await client.get("/bare/")  # so that the meaning of its headers is known
    tasks: list[asyncio.Task[Any]] = []
    answered: list[bytes] = []
    passed_on: list[Outcome] = []

    class Noting(Connection):
        transport = None
        address = ""

        def begin_stream(self, stream: Sent) -> None:
            raise AssertionError("no stream is sent")

        async def drain(self) -> None:
            raise AssertionError("nothing is sent")

        def request_of(self, message: RawRequestMessage, body: bytes) -> web.Request:
            raise AssertionError(message)

        def answered(self, response: bytes) -> None:
            answered.append(response)

        def pass_on(self, outcome: Outcome) -> None:
            assert isinstance(outcome.result, ApiError)
            passed_on.append(outcome)

        def run(self, work: Coroutine[Any, Any, Any]) -> None:
            tasks.append(asyncio.create_task(work))

    parser = HttpRequestParser(None, asyncio.get_running_loop(), 1 << 16)
    messages, _, _ = parser.feed_data(b"GET /bare/ HTTP/1.1\r\n%b\r\n" % HOST)
    before = database.statements
    for _ in range(5):
        assert way.takes(messages[0][0], Noting())
    assert len(tasks) == 1
    await tasks[0]
    assert database.statements == before + 1
    assert len(answered) == 5
    assert all(each.endswith(expected[2]) for each in answered)
    await service.sql.execute("ALTER TABLE bare RENAME TO hidden")
    try:
        for _ in range(2):
            assert way.takes(messages[0][0], Noting())
        await tasks[1]
        await tasks[2]  # the other one reads alone
    finally:
        await service.sql.execute("ALTER TABLE hidden RENAME TO bare")
    assert len(answered) == 5
    assert len(passed_on) == 2
    assert way.requests.active == 0
