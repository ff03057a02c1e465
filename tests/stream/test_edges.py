"""Edges: what they send is what their origin sends, and what they cannot decide is passed on to it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
import asyncpg
import jwt
import pytest

from rowcast.changes.connection import OriginLost
from rowcast.changes.edge_feed import EdgeFeed
from rowcast.changes.origin import KEY_HEADER, LOG, SNAPSHOT, STATE, TOKEN, Origin
from rowcast.changes.position import Position
from rowcast.changes.tail import Reason, Reset
from rowcast.configuration.load import Configuration
from rowcast.identity.tokens import create_token
from rowcast.rest.plan import SERVICE
from rowcast.server.edge import create_edge
from rowcast.streams.hub import Hub
from rowcast.testing.client import Client, running

from ..changes.buses import Wire
from ..conftest import configure
from ..edges import KEY, edge_of, with_key
from ..sse import Event, EventSource, listen
from ..waiting import until

NOTES = """
fields:
  id: {type: integer, primary_key: true}
  text: {type: text, blank: true, default: ""}
  done: {type: boolean, default: false}
  due: {type: datetime, null: true}
  secret: {type: text, null: true, write_only: true}
  user_id: {type: string, null: true}
viewset:
  permission_classes: [AllowAny]
  filterset_fields: {done: [exact], text: [exact, regex], due: [gte], topic__name: [exact]}
"""
NOTES = NOTES.replace("  user_id", "  topic: {type: foreign_key, to: topics, null: true}\n  user_id")
OWNED = """
fields: {id: {type: integer, primary_key: true}, text: {type: text, default: ""}, user_id: {type: string}, done: {type: boolean, default: false}}
viewset:
  permission_classes: [IsAuthenticated]
  scope: {user_id: "$user.id"}
  filterset_fields: {done: [exact]}
"""
TOPICS = "{fields: {id: {type: integer, primary_key: true}, name: {type: string}}, viewset: {permission_classes: [AllowAny]}}"
PYTHON = """
fields: {id: {type: integer, primary_key: true}, text: {type: text, default: ""}}
viewset: viewsets:Loud
"""
MODULE = """
from rowcast import AllowAny, ModelViewSet

class Loud(ModelViewSet):
    permission_classes = [AllowAny]

    def get_queryset(self):
        return super().get_queryset().filter(text="loud")
"""
RESOURCES = {"notes": NOTES, "owned": OWNED, "topics": TOPICS}
SECRET = "a shared secret of 32 bytes, or more"
SERVICE_YAML = f"{{auth: {{jwt: {{secret: '{SECRET}', audience: rowcast}}}}}}"
pytestmark = pytest.mark.tables(RESOURCES)


@dataclass
class Pair:
    """A service, and an edge of it."""

    origin: Client
    edge: Client
    configuration: Configuration

    @property
    def streams(self) -> tuple[int, int]:
        """How many streams the hubs of the edge and of the origin send."""
        return hub_of(self.edge).subscribers, hub_of(self.origin).subscribers

    @property
    def feed(self) -> EdgeFeed:
        feed = self.edge.app[SERVICE].feed
        assert isinstance(feed, EdgeFeed)
        return feed


def hub_of(client: Client) -> Hub:
    return client.app[SERVICE].hub


@asynccontextmanager
async def pair(
    url: str,
    directory: Path,
    resources: Mapping[str, str] = RESOURCES,
    service: str = SERVICE_YAML,
    modules: Mapping[str, str] | None = None,
    **stream: Any,
) -> AsyncIterator[Pair]:
    """A service on the test's database with an edge, both with these settings of the section ``stream``."""
    configuration = with_key(configure(directory / "config", resources, service, modules), **stream)
    server = replace(configuration.settings.server, trusted_proxies=1)
    behind = replace(configuration, settings=replace(configuration.settings, server=server))
    async with running(behind, url) as origin, edge_of(origin, configuration) as edge:
        yield Pair(origin, edge, configuration)


@pytest.fixture
async def both(database_url: str, tmp_path: Path) -> AsyncIterator[Pair]:
    async with pair(database_url, tmp_path) as made:
        yield made


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A bus in this process, which is that of every ``stream.relay``."""
    made = Wire(3)
    with mock.patch("rowcast.changes.relay.open_bus", side_effect=lambda _: made.bus()):
        yield made


def bearer(user: str) -> dict[str, str]:
    claims = {"sub": user, "aud": "rowcast", "exp": int(time.time()) + 3600}
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, 'HS256')}"}


async def write(sql: asyncpg.Connection, count: int, seed: int = 1) -> None:
    """Some inserts, updates and deletes of both tables, which enter and leave the scopes and filters of streams."""
    rng = random.Random(seed)
    for _ in range(count):
        key, user, done, text = rng.randrange(12), rng.choice("ab"), rng.random() < 0.5, rng.choice(["x", "y"])
        match rng.randrange(4):
            case 0:
                await sql.execute("DELETE FROM notes WHERE id = $1", key)
                await sql.execute("DELETE FROM owned WHERE id = $1", key)
            case 1:
                await sql.execute("UPDATE owned SET user_id = $1, done = $2", user, done)
            case _:
                async with sql.transaction():
                    for table in ("notes", "owned"):
                        await sql.execute(
                            f"INSERT INTO {table} (id, text, done, user_id) VALUES ($1, $2, $3, $4) ON CONFLICT (id)"
                            " DO UPDATE SET text = excluded.text, done = excluded.done, user_id = excluded.user_id",
                            key, text, done, user,
                        )  # fmt: skip


async def fence(sql: asyncpg.Connection) -> None:
    """A change that every stream of these tests gets."""
    await sql.execute("INSERT INTO notes (id, done, text, user_id) VALUES (1000, true, 'x', 'a')")
    await sql.execute("INSERT INTO owned (id, done, text, user_id) VALUES (1000, true, 'x', 'a')")


async def to_fence(source: EventSource) -> list[tuple[str, Any]]:
    """The ids and the messages of all events up to that change."""
    found = []
    while True:
        event = await source.next()
        if event.event != "ready":
            found.append((event.id, event.json()))
            if event.json().get("id") == 1000:
                return found


async def ready(source: EventSource) -> Event:
    event = await source.next()
    assert event.event == "ready", event
    return event


# --- what an edge sends


QUERIES = ("/notes/stream/", "/notes/stream/?done=true", "/notes/stream/?text=x&fields=id", "/owned/stream/?done=true")


async def test_an_edge_sends_what_its_origin_sends(both: Pair, sql: asyncpg.Connection) -> None:
    """Byte for byte: events, positions, rows that enter and leave scopes and filters, and deleted ones with their ids alone."""
    async with AsyncExitStack() as stack:
        sources = []
        for path in QUERIES:
            of_path = [
                await stack.enter_async_context(listen(client, path, headers=bearer("a")))
                for client in (both.edge, both.origin)
            ]
            sources.append(of_path)
        for edge, origin in sources:
            await ready(edge)
            await ready(origin)
        assert both.streams == (len(QUERIES), len(QUERIES))
        await write(sql, 60)
        await fence(sql)
        for edge, origin in sources:
            events = await to_fence(edge)
            assert events == await to_fence(origin)
            assert len(events) > 3
            assert "secret" not in str(events)
        left = [message for _, message in events if message["action"] == "DELETE" and message.get("cause") == "UPDATE"]
        assert left
        assert all(message["data"] is None for message in left)


async def test_combined_streams_and_queries_are_sent_at_the_edge(both: Pair, sql: asyncpg.Connection) -> None:
    """On one connection, too, if data alone decide about each of them."""
    body = {"queries": {"a": {"resource": "notes", "params": {"done": True}}, "b": {"resource": "owned"}}}
    async with (
        listen(both.edge, "/stream/?resources=notes,owned", headers=bearer("a")) as combined,
        both.edge.request("QUERY", "/stream/", json=body, headers=bearer("a")) as response,
    ):
        assert response.status == 200
        await ready(combined)
        assert both.streams == (3, 0)
        await fence(sql)
        assert [(await combined.next()).json()["resource"] for _ in range(2)] == ["notes", "owned"]


@pytest.mark.parametrize("seed", range(2))
async def test_a_client_moves_between_edge_and_origin(both: Pair, sql: asyncpg.Connection, seed: int) -> None:
    """From the position of a list, or of an event of either, it gets each change once, in order."""
    rng = random.Random(seed)
    async with both.edge.get("/notes/") as response:
        place = response.headers["X-Stream-Position"]
    async with listen(both.origin, "/notes/stream/", last_id=place) as whole:
        await ready(whole)
        found: list[Any] = []
        for round_ in range(6):
            await write(sql, 10, seed=10 * seed + round_)
            client = rng.choice([both.edge, both.origin])
            async with listen(client, "/notes/stream/", last_id=place) as source:
                assert (await ready(source)).id == place
                for _ in range(rng.randrange(5)):
                    event = await source.next()
                    found.append((event.id, event.json()))
                    place = event.id
        await fence(sql)
        async with listen(both.edge, "/notes/stream/", last_id=place) as source:
            found += await to_fence(source)
        assert found == await to_fence(whole)
        assert both.streams[0] <= 1


async def test_a_stream_begins_after_what_was_committed_before(both: Pair, sql: asyncpg.Connection) -> None:
    """Also if the edge has not received it yet."""
    with mock.patch.object(both.feed, "_apply"):
        await sql.execute("INSERT INTO notes (id) VALUES (1)")
        async with listen(both.edge, "/notes/stream/") as source:
            began = Position.parse((await ready(source)).id)
            assert began.snapshot is not None
    async with listen(both.edge, "/notes/stream/", last_id=str(began)) as source:
        await ready(source)
        await fence(sql)
        assert len(await to_fence(source)) == 1


async def test_what_memory_does_not_have_comes_from_the_origin(both: Pair, sql: asyncpg.Connection) -> None:
    """A position that is older than what the edge keeps is one to resume from; no position that means nothing is."""
    both.feed._bounds = 1, 1
    async with listen(both.edge, "/notes/stream/") as source:
        begin = (await ready(source)).id
    await write(sql, 40)
    await fence(sql)
    with mock.patch("rowcast.changes.edge_feed.PIECE_BYTES", 3000):
        async with (
            listen(both.edge, "/notes/stream/", last_id=begin) as edge,
            listen(both.origin, "/notes/stream/", last_id=begin) as origin,
        ):
            assert await to_fence(edge) == await to_fence(origin)
    assert len(both.feed._ring) == 1
    epoch, head = both.feed.head.epoch, both.feed.head.tick
    for position, reason in (
        ("nonsense", "malformed"),
        (f"{epoch + 1}-1-0", "forked"),
        (f"{epoch}-{head + 1000}-0", "ahead"),
        (f"{epoch}-0-0", "expired"),
    ):
        async with listen(both.edge, "/notes/stream/", last_id=position) as source:
            event = await source.next()
            assert (event.event, event.json()["reason"]) == ("reset", reason)


async def test_what_several_streams_have_missed_comes_from_the_origin_once(both: Pair, sql: asyncpg.Connection) -> None:
    """The first one has it read into memory, for all of them."""
    async with listen(both.edge, "/notes/stream/") as source:
        begin = (await ready(source)).id
        await write(sql, 40)
        await fence(sql)
        expected = await to_fence(source)
    both.feed._clear(both.feed.tick)
    with mock.patch.object(both.feed, "_piece", side_effect=both.feed._piece) as pieces:
        async with AsyncExitStack() as stack:
            sources = [
                await stack.enter_async_context(listen(both.edge, "/notes/stream/", last_id=begin)) for _ in range(5)
            ]
            assert [await to_fence(source) for source in sources] == [expected] * 5
    assert pieces.call_count == 1


async def test_an_edge_that_starts_has_what_its_origin_has_in_memory(both: Pair, sql: asyncpg.Connection) -> None:
    """So clients that come back after its restart need nothing of the origin."""
    async with listen(both.edge, "/notes/stream/") as source:
        begin = (await ready(source)).id
    await write(sql, 10)
    await fence(sql)
    await until(lambda: both.origin.app[SERVICE].feed.head == both.feed.head)
    async with edge_of(both.origin, both.configuration) as other:
        with mock.patch.object(EdgeFeed, "_piece", side_effect=AssertionError):
            async with listen(other, "/notes/stream/", last_id=begin) as source:
                assert len(await to_fence(source)) > 1


@pytest.mark.parametrize("path", ["/notes/stream/?snapshot=true", "/stream/?resources=notes,owned&snapshot=true"])
async def test_a_stream_begins_with_the_rows_of_the_origin(both: Pair, sql: asyncpg.Connection, path: str) -> None:
    """And goes on at the edge, without a change that is lost or doubled in between."""
    await write(sql, 40)
    writing = asyncio.create_task(write(sql, 60, seed=2))
    async with listen(both.edge, path, headers=bearer("a")) as source:
        rows: dict[int, Any] = {}
        async for event in source:
            if event.event == "ready":
                break
            assert event.event == "snapshot"
            rows |= {row["id"]: row for row in event.json()["rows"] if event.json()["resource"] == "notes"}
        await until(lambda: both.streams == (1, 0))
        await writing
        await fence(sql)
        for _, message in await to_fence(source):
            if message["resource"] == "notes":
                assert (message["id"] in rows) == (message["action"] != "INSERT"), message
                rows[message["id"]] = message["data"]
                if message["data"] is None:
                    del rows[message["id"]]
        assert rows.keys() == {row["id"] for row in await sql.fetch("SELECT id FROM notes")}


async def test_rows_begin_again_after_a_reset(both: Pair, sql: asyncpg.Connection) -> None:
    """For a position that is none, with its reason; what the origin refuses is refused as it does."""
    await sql.execute("INSERT INTO notes (id) VALUES (1)")
    async with listen(both.edge, "/notes/stream/?snapshot=true", last_id="nonsense") as source:
        events = await source.take(3)
        assert [event.event for event in events] == ["reset", "snapshot", "ready"]
        assert events[0].json()["reason"] == "malformed"
        await until(lambda: both.streams == (1, 0))
    async with listen(both.edge, "/notes/stream/?snapshot=true", last_id=events[2].id) as source:
        await ready(source)
        await fence(sql)
        assert len(await to_fence(source)) == 1
    with mock.patch("rowcast.rest.stream_action.SNAPSHOT_MAX_PAGES", 0):
        async with both.edge.get("/notes/stream/?snapshot=true") as response:
            assert (response.status, (await response.json())["code"]) == (400, "invalid_parameter")


async def test_an_origin_that_dies_while_it_sends_rows(both: Pair, sql: asyncpg.Connection) -> None:
    """Ends the stream before its position has been told, so its client begins again."""
    await write(sql, 30)

    async def cut(_: object) -> AsyncIterator[bytes]:
        yield b"retry: 1000\nevent: snapshot\ndata: {}\n\nevent: snap"

    with mock.patch("rowcast.server.passing_on._pieces", cut):
        async with listen(both.edge, "/notes/stream/?snapshot=true") as source:
            assert [(event.event, event.id) async for event in source] == [("snapshot", "")]
    async with listen(both.edge, "/notes/stream/?snapshot=true") as source:
        assert [event.event for event in await source.take(2)] == ["snapshot", "ready"]
        await until(lambda: both.streams == (1, 0))


# --- the bus


async def test_batches_come_over_the_relay(
    wire: Wire, database_url: str, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """Messages that are lost, doubled and delayed do no harm: the edge fills from the origin, and nothing comes twice."""
    async with (
        pair(database_url, tmp_path, relay="nats://nowhere") as both,
        listen(both.edge, "/notes/stream/") as edge,
        listen(both.origin, "/notes/stream/") as origin,
    ):
        await ready(edge)
        await ready(origin)
        await until(lambda: both.feed.fed)
        received = both.feed.relay.received  # type: ignore[union-attr]
        await write(sql, 10)
        wire.lose, wire.double, wire.delay = 0.3, 0.3, 0.3
        for seed in range(2, 12):
            await write(sql, 60, seed=seed)
            if both.feed.relay.filled:  # type: ignore[union-attr]
                break  # chance has lost something
        wire.lose = wire.double = wire.delay = 0
        await fence(sql)
        assert await to_fence(edge) == await to_fence(origin)
        assert both.feed.relay.received > received  # type: ignore[union-attr]
        assert both.feed.relay.filled > 0  # type: ignore[union-attr]


async def test_an_edge_without_its_bus_follows_the_origin(
    wire: Wire, database_url: str, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """While the bus is away, and when it is back, a change arrives soon, and once."""
    async with (
        pair(database_url, tmp_path, relay="nats://nowhere") as both,
        listen(both.edge, "/notes/stream/") as source,
    ):
        await ready(source)
        for key, down in enumerate((False, True, False, True)):
            wire.down = down
            await until(lambda down=down: both.feed.fed is not down)  # type: ignore[misc]
            begun = time.monotonic()
            await sql.execute("INSERT INTO notes (id) VALUES ($1)", key)
            assert (await source.next()).json()["id"] == key
            assert time.monotonic() - begun < 5
        assert both.feed.lag < 5


async def test_an_edge_that_is_fed_works_while_the_origin_is_away(
    wire: Wire, database_url: str, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """Streams get changes, and callers with a JSON Web Token open new ones; what needs the origin is a 503."""
    configuration = with_key(configure(tmp_path / "config", RESOURCES, SERVICE_YAML), relay="nats://nowhere")
    async with (
        running(configuration, database_url) as leader,
        running(configuration, database_url) as origin,
        edge_of(origin, configuration) as edge,
    ):
        feed = edge.app[SERVICE].feed
        await until(lambda: feed.fed)
        assert leader.app[SERVICE].feed.relay is not None
        with mock.patch.object(Origin, "_request", side_effect=OriginLost("away")):
            async with listen(edge, "/owned/stream/", headers=bearer("a")) as source:
                await ready(source)
                await sql.execute("INSERT INTO owned (id, user_id) VALUES (1, 'a')")
                assert (await source.next()).json()["id"] == 1
            token = {"Authorization": f"Token {await create_token(sql, 'a')}"}
            with mock.patch("rowcast.server.lifecycle.STREAM_OPEN_ATTEMPTS", 1):
                async with edge.get("/owned/stream/", headers=token) as response:
                    assert response.status == 503


# --- what an edge passes on


@pytest.mark.parametrize(
    "path",
    [
        "/notes/stream/?topic__name=t",
        "/notes/stream/?text__regex=.",
        "/notes/stream/?expand=topic",
        "/notes/1/stream/",
        "/loud/stream/",
        "/stream/?resources=notes,loud",
        "/loud/stream/?snapshot=true",
        "/notes/stream/?topic__name=t&snapshot=true",
    ],
)
async def test_streams_that_need_the_database_are_the_origins(
    path: str, database_url: str, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """They come through the edge all the same."""
    resources = {**RESOURCES, "loud": PYTHON}
    async with pair(database_url, tmp_path, resources, modules={"viewsets": MODULE}) as both:
        await sql.execute("INSERT INTO topics (id, name) VALUES (1, 't')")
        await sql.execute("INSERT INTO notes (id, text, topic_id) VALUES (1, 'x', 1)")
        await sql.execute("INSERT INTO loud (id, text) VALUES (1, 'x')")
        async with listen(both.edge, path) as source:
            while (await source.next()).event != "ready":
                pass
            assert both.streams == (0, 1)
            await sql.execute(f"UPDATE {'loud' if path.startswith('/loud') else 'notes'} SET text = 'loud'")
            event = await source.next()
            assert event.json()["id"] == 1


async def test_a_value_that_only_postgresql_can_compare(both: Pair, sql: asyncpg.Connection) -> None:
    """The stream ends, without a reset, and its client comes back to the origin's. Nothing is lost and nothing comes twice."""
    path = "/notes/stream/?due__gte=2020-01-01T00:00:00Z"
    async with listen(both.edge, path) as source, listen(both.edge, "/notes/stream/") as other:
        last = (await ready(source)).id
        await ready(other)
        assert both.streams == (2, 0)
        await sql.execute("INSERT INTO notes (id, due) VALUES (1, '2021-01-01')")
        await sql.execute("INSERT INTO notes (id, due) VALUES (2, 'infinity')")
        await sql.execute("INSERT INTO notes (id, due) VALUES (3, '-infinity'), (4, '2022-01-01')")
        found = []
        async for event in source:  # which ends
            found.append(event.json()["id"])
            last = event.id
        async with listen(both.edge, path, last_id=last) as again:
            await ready(again)
            assert both.streams == (1, 1)
            while 4 not in found:
                found.append((await again.next()).json()["id"])
        assert found == [1, 2, 4]
        assert [(await other.next()).json()["id"] for _ in range(4)] == [1, 2, 3, 4]


async def test_requests_are_passed_on_as_they_are(both: Pair) -> None:
    """With their bodies and headers, and so are the answers; addresses in them are those of the edge."""
    async with both.edge.post("/notes/", json={"text": "ü" * 100_000}, headers={"X-Request-ID": "my-own-id"}) as made:
        assert (made.status, made.headers["X-Request-ID"]) == (201, "my-own-id")
        assert made.headers["Location"] == str(both.edge.make_url("/notes/1/"))
        assert made.headers.getall("Server") == ["rowcast"]
    async with both.edge.get("/notes/1/", headers={"Accept-Encoding": "gzip"}) as row:
        assert (await row.json())["text"] == "ü" * 100_000
        tag = row.headers["ETag"]
    async with both.edge.get("/notes/1/", headers={"If-None-Match": tag}) as row:
        assert row.status == 304
    for path in ("/notes/1/", "/notes/"):
        async with both.edge.head(path) as edge, both.origin.head(path) as origin:
            assert (edge.status, edge.headers["Content-Length"]) == (200, origin.headers["Content-Length"])
    async with both.edge.request("QUERY", "/notes/", json={"filter": {"done": False}}) as response:
        assert (await response.json())["count"] == 1
    async with both.edge.get("/nothing/here") as response:
        assert (response.status, (await response.json())["code"]) == (404, "not_found")
    async with both.edge.put("/notes/stream/") as response:
        assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")
    async with both.edge.options("/notes/stream/") as response:
        assert response.status == 200
    async with both.edge.get("/openapi.json") as response:
        assert (await response.json())["openapi"].startswith("3.1")


@pytest.mark.parametrize("path", ["/notes/stream/?topic__name=t", "/notes/1/stream/", "/notes/stream/?snapshot=true"])
async def test_a_browser_comes_back_to_a_stream_that_is_passed_on(both: Pair, path: str) -> None:
    """If the origin does not answer, its EventSource gets a stream that is over at once: an error status would end it for good."""
    with (
        mock.patch("aiohttp.ClientSession.request", side_effect=aiohttp.ServerDisconnectedError),
        mock.patch("rowcast.server.lifecycle.STREAM_OPEN_ATTEMPTS", 1),
    ):
        session = both.edge.session
        async with session.get(both.edge.make_url(path), headers={"Accept": "text/event-stream"}) as response:
            assert response.status == 200
            assert b"event: busy" in await response.read()
        async with session.get(both.edge.make_url(path)) as response:
            assert response.status == 503


async def test_an_edge_reports_its_client(both: Pair) -> None:
    """As one of the proxies that the origin trusts, in the form that the proxies before it have chosen."""
    seen: list[dict[str, str]] = []
    answer = both.origin.app.router._whole["/topics/"]._handler  # type: ignore[attr-defined]

    async def note(http: Any) -> Any:
        seen.append({name: http.headers[name] for name in http.headers if "Forwarded" in name or name == "Connection"})
        return await answer(http)

    with mock.patch.object(both.origin.app.router._whole["/topics/"], "_handler", note):  # type: ignore[attr-defined]
        for headers in (
            {"X-Forwarded-For": "1.2.3.4", "Connection": "X-Hop, keep-alive", "X-Hop": "x"},
            {"Forwarded": "for=1.2.3.4;proto=https"},
        ):
            async with both.edge.get("/topics/", headers=headers) as response:
                assert response.status == 200
    host = f"127.0.0.1:{both.edge.port}"
    assert seen == [
        {"X-Forwarded-For": "1.2.3.4, 127.0.0.1", "X-Forwarded-Host": host, "X-Forwarded-Proto": "http"},
        {"Forwarded": f'for=1.2.3.4;proto=https, for=127.0.0.1;host="{host}";proto=http'},
    ]


@pytest.mark.parametrize(
    ("line", "host"),
    [
        ("POST /notes/ HTTP/1.0", None),  # which needs no Host: the address at which the request has arrived counts
        ("POST http://localhost:81/notes/ HTTP/1.0\r\nHost: 127.0.0.1", "localhost:81"),
        ("POST /notes/ HTTP/1.0\r\nHost: localhost:82", "localhost:82"),
    ],
)
async def test_the_host_of_a_request_is_that_of_the_edge(both: Pair, line: str, host: str | None) -> None:
    """Addresses in answers begin with it, wherever a request names it, or if it does not."""
    body = '{"text": "x"}'
    headers = f"Content-Type: application/json\r\nContent-Length: {len(body)}"
    for client in (both.origin, both.edge):
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(f"{line}\r\n{headers}\r\n\r\n{body}".encode())
        async with asyncio.timeout(10):
            answer = (await reader.read()).decode()
        writer.close()
        assert answer.startswith("HTTP/1.0 201")
        assert f"Location: http://{host or f'127.0.0.1:{client.port}'}/notes/" in answer


async def test_a_target_without_a_path_is_not_found(both: Pair) -> None:
    """``OPTIONS *`` asks about the whole server, which has no answer to that."""
    for client in (both.origin, both.edge):
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 404")
        assert b'"not_found"' in answer


async def test_another_history_resets_the_streams_of_the_edge(both: Pair, sql: asyncpg.Connection) -> None:
    """With the reason, and from a position that they go on from. Those with rows end, since only the origin has rows."""
    read, forked = Origin.read, asyncio.Event()

    async def once(self: Origin, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        if not forked.is_set():
            forked.set()
            raise Reset(Reason.FORKED)
        async for piece in read(self, *arguments, **options):
            yield piece

    async with (
        listen(both.edge, "/notes/stream/") as source,
        listen(both.edge, "/notes/stream/?snapshot=true") as whole,
    ):
        await ready(source)
        await ready(whole)
        await until(lambda: both.streams == (2, 0))
        with mock.patch.object(Origin, "read", once):
            event = await source.next()
        assert (event.event, event.json()["reason"]) == ("reset", "forked")
        assert [event.event async for event in whole] == []
        await fence(sql)
        assert len(await to_fence(source)) == 1


@pytest.mark.parametrize(
    "answer",
    [b"", b"B\0\0\0\5{}{}{", b"E\0\0\0\2{}", b"X\0\0\0\0", b"B\0\0\0\xffxxx", b"R\0\0\0\1x", b"nonsense"],
)
async def test_answers_that_are_none(both: Pair, sql: asyncpg.Connection, answer: bytes) -> None:
    """The edge asks again, and goes on where it was."""

    async def frames(*_: object) -> AsyncIterator[bytes]:
        yield answer

    async with listen(both.edge, "/notes/stream/") as source:
        await ready(source)
        with mock.patch("rowcast.server.edge_answers._Answers._frames", frames):
            await until(lambda: not both.feed.connected)
        await fence(sql)
        assert len(await to_fence(source)) == 1


async def test_an_origin_that_is_gone(database_url: str, tmp_path: Path) -> None:
    """Requests are a 503, the streams of the edge stay open, and after a while it is not ready."""
    async with AsyncExitStack() as stack:
        origin = AsyncExitStack()
        configuration = with_key(configure(tmp_path / "config", RESOURCES, SERVICE_YAML))
        client = await origin.enter_async_context(running(configuration, database_url))
        edge = await stack.enter_async_context(edge_of(client, configuration))
        async with listen(edge, "/notes/stream/") as source:
            await ready(source)
            await origin.aclose()
            async with edge.get("/notes/") as response:
                assert (response.status, (await response.json())["code"]) == (503, "origin_unavailable")
                assert "Retry-After" in response.headers
            async with edge.get("/health/ready") as response:
                assert response.status == 200
            with mock.patch("rowcast.server.edge.FEED_GRACE_SECONDS", 0.1):
                await asyncio.sleep(0.2)
                async with edge.get("/health/ready") as response:
                    assert response.status == 503
                    assert "origin" in (await response.json())["reason"]
            async with edge.get("/health/live") as response:
                assert response.status == 200
            async with listen(edge, "/notes/stream/") as another:
                await ready(another)


# --- callers


async def test_tokens_are_known_at_the_edge(both: Pair, sql: asyncpg.Connection) -> None:
    """The origin is asked about them, and a revoked one ends its streams; nobody else gets one."""
    token = await create_token(sql, "a")
    async with both.edge.get("/owned/stream/") as response:
        assert (response.status, response.headers["WWW-Authenticate"]) == (401, 'Bearer realm="rowcast"')
    async with both.edge.get("/owned/stream/?access_token=" + token[:-4] + "AAAA") as response:
        assert (response.status, (await response.json())["code"]) == (401, "authentication_failed")
    async with listen(both.edge, f"/owned/stream/?access_token={token}") as source:
        await ready(source)
        assert both.streams == (1, 0)
        await sql.execute("INSERT INTO owned (id, user_id) VALUES (1, 'b'), (2, 'a')")
        assert (await source.next()).json()["id"] == 2
        await sql.execute("UPDATE rowcast.token SET revoked_at = now()")
        both.edge.app[SERVICE].hub.open_streams._valid.__self__.tokens._tokens._checked_at = 0  # type: ignore[attr-defined]
        await both.edge.app[SERVICE].hub.open_streams.check_credentials()
        with pytest.raises(EOFError):
            await source.next()


@pytest.mark.parametrize("path", ["/owned/stream/?", "/owned/stream/?snapshot=true&", "/stream/?resources=owned&"])
async def test_tickets_are_redeemed_once(both: Pair, sql: asyncpg.Connection, path: str) -> None:
    """At the edge or at the origin, for a stream of either."""
    headers = {"Authorization": f"Token {await create_token(sql, 'a')}"}
    async with both.edge.post("/stream-ticket/", headers=headers) as response:
        assert response.status == 201
        ticket = (await response.json())["ticket"]
    async with listen(both.edge, f"{path}ticket={ticket}") as source:
        await ready(source)
    for client in (both.edge, both.origin):
        async with client.get(f"{path}ticket={ticket}") as response:
            assert response.status == 401


async def test_limits_of_streams_are_those_of_the_edge(database_url: str, tmp_path: Path) -> None:
    """``stream.max_streams`` counts what the edge sends."""
    async with pair(database_url, tmp_path, max_streams=1) as both, listen(both.edge, "/notes/stream/") as source:
        await ready(source)
        async with both.edge.get("/notes/stream/", headers={"Accept": "application/json"}) as response:
            assert (response.status, (await response.json())["code"]) == (503, "too_many_streams")
        async with listen(both.origin, "/notes/stream/") as other:
            await ready(other)


async def test_streams_end_when_the_edge_stops(both: Pair) -> None:
    """Its own, and those that are the origin's."""
    async with AsyncExitStack() as stack:
        edge = AsyncExitStack()
        client = await edge.enter_async_context(edge_of(both.origin, both.configuration))
        sources = [
            await stack.enter_async_context(listen(client, path))
            for path in ("/notes/stream/", "/notes/stream/?topic__name=t")
        ]
        for source in sources:
            await ready(source)
        await edge.aclose()
        for source in sources:
            with pytest.raises((EOFError, aiohttp.ClientError)):
                await source.next()
        await until(lambda: both.streams == (0, 0))


# --- edge and origin


async def test_resources_that_are_other_ones_at_the_origin(both: Pair, tmp_path: Path) -> None:
    """Are passed on, so no edge sends rows by rules that the origin does not have any more; the others are not."""
    other = {**RESOURCES, "owned": OWNED.replace('{user_id: "$', '{text: "$')}
    configuration = with_key(configure(tmp_path / "other", other, SERVICE_YAML))
    async with edge_of(both.origin, configuration) as edge:
        for path, sent in (("/owned/stream/", 0), ("/notes/stream/", 1)):
            async with listen(edge, path, headers=bearer("a")) as source:
                await ready(source)
                assert hub_of(edge).subscribers == sent


async def test_an_edge_follows_the_configuration_of_its_origin(both: Pair, database_url: str, tmp_path: Path) -> None:
    """Open streams of a resource end when the origin has other rules for it, and are passed on then."""
    changed = {**RESOURCES, "owned": OWNED.replace("[IsAuthenticated]", "[IsAdminUser]")}
    configuration = with_key(configure(tmp_path / "changed", changed, SERVICE_YAML))
    async with (
        running(configuration, database_url) as origin,
        listen(both.edge, "/owned/stream/", headers=bearer("a")) as source,
    ):
        await ready(source)
        edge = both.edge.app[SERVICE].why_passed_on.__self__  # type: ignore[attr-defined]
        edge.origin._url = edge.upstream._url = origin.make_url("")  # as if the origin had been restarted
        assert [event async for event in source if event.event == "reset"] == []  # which ends
        async with both.edge.get("/owned/stream/", headers=bearer("a")) as response:
            assert response.status == 403


async def test_only_edges_with_the_key_read_the_log(both: Pair, database_url: str, tmp_path: Path) -> None:
    """Everybody else is refused; without the setting nothing is there. A malformed request is a 400."""
    for path in (STATE, LOG, SNAPSHOT, TOKEN):
        for headers in ({}, {KEY_HEADER: "wrong"}, {KEY_HEADER: ""}):
            async with both.origin.post(path, json={}, headers=headers) as response:
                assert (response.status, (await response.json())["code"]) == (401, "authentication_failed")
    for path, body in (
        (LOG, {}),
        (LOG, {"after": "x", "wait": "0"}),
        (LOG, {"after": "1-1-0", "wait": "1000"}),
        (LOG, {"after": "1-1-0", "wait": "nan"}),
        (TOKEN, {"digest": "zz"}),
        (TOKEN, []),
        (STATE, {"what": "?"}),
    ):
        async with both.origin.post(path, json=body, headers={KEY_HEADER: KEY}) as response:
            assert response.status == 400, (path, body)
    configuration = configure(tmp_path / "plain", RESOURCES, SERVICE_YAML)
    async with running(configuration, database_url) as origin:
        async with origin.post(STATE, json={}, headers={KEY_HEADER: KEY}) as response:
            assert response.status == 404
        await _not_ready(origin, with_key(configuration), "the origin needs stream.edge_key")
    await _not_ready(both.origin, with_key(configuration, "x" * 32), "its stream.edge_key is another one")


async def _not_ready(origin: Client, configuration: Configuration, reason: str) -> None:
    """An edge of an origin does not become ready, for this reason; requests are passed on."""
    async with edge_of(origin, configuration, started=False) as edge:

        async def told() -> bool:
            async with edge.get("/health/ready") as response:
                assert response.status == 503
                return reason in (await response.json())["reason"]

        await until(told)
        async with edge.get("/notes/") as response:
            assert response.status == 200


def test_an_edge_needs_the_key(tmp_path: Path) -> None:
    """Without ``stream.edge_key`` it does not start."""
    from rowcast.errors import ConfigurationError

    configuration = with_key(configure(tmp_path, RESOURCES, SERVICE_YAML), None)
    with pytest.raises(ConfigurationError, match=r"stream\.edge_key: an edge needs the key"):
        create_edge(configuration, "http://127.0.0.1:1")
