"""``?snapshot=true``: all rows, then their changes, without a gap, whatever happens in between."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import random
import re
import tracemalloc
from typing import Any

import asyncpg
import pytest

from rowcast.streams import snapshot
from tests.conftest import Client, Serve
from tests.sse import EventSource, listen
from tests.stream.test_access import JWT, OWNED, PYTHON, bearer
from tests.stream.test_access import RESOURCES as GUARDED
from tests.stream.test_events import RESOURCES, next_change, ready
from tests.stream.test_values import ODD, VALUES, exactly

pytestmark = pytest.mark.tables(RESOURCES)

PAGES = """
fields: {id: {type: integer, primary_key: true}, text: {type: text}}
viewset: {permission_classes: [AllowAny]}
"""


async def begin(source: EventSource, reason: str | None = None) -> tuple[list[dict[str, Any]], str]:
    """The rows of a snapshot, and the position after it; before them a reset, if there is a reason."""
    rows: list[dict[str, Any]] = []
    event = await source.next()
    if reason is not None:
        assert (event.event, event.json()["reason"], event.id) == ("reset", reason, "")
        event = await source.next()
    while event.event == "snapshot":
        assert event.id == "", "a client that comes back now needs all rows again"
        rows += event.json()["rows"]
        event = await source.next()
    assert event.event == "ready"
    assert event.id
    return rows, event.id


async def test_snapshot_comes_before_ready(serve: Serve, sql: asyncpg.Connection) -> None:
    """The rows under the filter in blocks without a position, then ``ready`` with one, then changes."""
    client = await serve(RESOURCES)
    await sql.execute("INSERT INTO notes (id, text, done) SELECT i, 'x', i % 2 = 0 FROM generate_series(1, 500) i")
    async with listen(client, "/notes/stream/?snapshot=true&done=true&fields=id,text") as source:
        rows, position = await begin(source)
        assert rows == [{"id": i, "text": "x"} for i in range(2, 501, 2)]
        assert source.retry in range(1000, 3001)
        await sql.execute("UPDATE notes SET done = true WHERE id = 1")
        assert (await next_change(source))["data"] == {"id": 1, "text": "x"}
    async with listen(client, "/notes/stream/?snapshot=true&done=true", last_id=position) as source:
        assert (await ready(source)).id == position, "who has all rows goes on from there"
        assert (await next_change(source))["id"] == 1
    async with listen(client, "/notes/stream/?snapshot=true&done=true", last_id="nonsense") as source:
        rows, _ = await begin(source, "malformed")
        assert len(rows) == 251
    async with listen(client, "/notes/7/stream/?snapshot=true") as source:
        assert [row["id"] for row in (await begin(source))[0]] == [7]
    async with listen(client, "/notes/stream/?snapshot=true&text=nothing") as source:
        assert (await begin(source))[0] == []


async def test_snapshot_has_a_bound(serve: Serve, sql: asyncpg.Connection) -> None:
    """More rows than ``max_page_size`` times 100 are a 400 with the remedy; the stream itself has no bound."""
    notes = RESOURCES["notes"].replace("viewset:", "viewset:\n  page_size: 2\n  max_page_size: 2")
    client = await serve({**RESOURCES, "notes": notes})
    await sql.execute("INSERT INTO notes (id, text) SELECT i, 'x' FROM generate_series(1, 200) i")
    async with listen(client, "/notes/stream/?snapshot=true") as source:
        assert len((await begin(source))[0]) == 200
        await sql.execute("INSERT INTO notes (id, text) VALUES (201, 'y')")
        assert (await next_change(source))["id"] == 201
    response = await client.get("/notes/stream/?snapshot=true")
    assert (response.status, response.content_type) == (400, "application/problem+json")
    assert "X-Stream-Position" in (await response.json())["detail"]
    for path in ("/notes/stream/?snapshot=true&text=y", "/notes/stream/?snapshot=false"):
        async with listen(client, path) as source:
            await begin(source)


async def test_snapshot_that_nobody_reads_takes_no_memory(serve: Serve, sql: asyncpg.Connection) -> None:
    """40 MB of rows wait in a file; a client that begins to read late gets all of them."""
    client = await serve({"pages": PAGES})
    await sql.execute("SET session_replication_role = replica")  # so that the feed does not hold the rows
    await sql.execute("INSERT INTO pages (id, text) SELECT i, repeat('x', 20000) FROM generate_series(1, 2000) i")
    tracemalloc.start()
    try:
        reader, writer = await asyncio.open_connection(client.host, client.port, limit=1024)
        before = tracemalloc.get_traced_memory()[0]
        writer.write(b"GET /pages/stream/?snapshot=true HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
        received = bytearray(await reader.read(1))
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 12 << 20
    finally:
        tracemalloc.stop()
    async with asyncio.timeout(30):
        while b"event: ready" not in received[-1000:]:
            received += await reader.read(1 << 20)
    writer.close()
    blocks = re.findall(rb"event: snapshot\ndata: (.*)\n\n", received)
    assert [row["id"] for block in blocks for row in json.loads(block)["rows"]] == list(range(1, 2001))


async def test_wide_rows_of_a_snapshot_are_read_in_parts(serve: Serve, sql: asyncpg.Connection) -> None:
    """50 MB of rows are never in memory together, before they are in the file or after; all of them arrive, in order."""
    client = await serve({"pages": PAGES})
    await sql.execute("SET session_replication_role = replica")  # so that the feed does not hold the rows
    await sql.execute("INSERT INTO pages (id, text) SELECT i, repeat('x', 5000) FROM generate_series(1, 10000) i")
    reader, writer = await asyncio.open_connection(client.host, client.port, limit=2 << 20)
    gc.collect()
    tracemalloc.start()
    try:
        writer.write(b"GET /pages/stream/?snapshot=true HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        ids: list[int] = []
        async with asyncio.timeout(120):
            while b"event: ready" not in (event := await reader.readuntil(b"\n\n")):
                if found := re.search(rb"event: snapshot\ndata: (.*)\n\n", event):
                    ids += [row["id"] for row in json.loads(found[1])["rows"]]
        assert tracemalloc.get_traced_memory()[1] < 30 << 20
    finally:
        tracemalloc.stop()
    writer.close()
    assert ids == list(range(1, 10001))


async def test_snapshot_has_a_bound_in_bytes(
    serve: Serve, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More are a 400 with the remedy."""
    monkeypatch.setattr(snapshot, "SNAPSHOT_MAX_BYTES", 1 << 20)
    client = await serve({"pages": PAGES})
    await sql.execute("INSERT INTO pages (id, text) SELECT i, repeat('x', 20000) FROM generate_series(1, 60) i")
    response = await client.get("/pages/stream/?snapshot=true")
    assert response.status == 400
    assert "the rows have more than 1 MiB" in (await response.json())["detail"]


async def test_snapshot_shows_rows_as_retrieve_does(serve: Serve, sql: asyncpg.Connection) -> None:
    """NaN, infinities, numbers without bounds and the like are in a snapshot as they are in the row."""
    client = await serve({"values": VALUES})
    for n, (column, value) in enumerate(ODD):
        await sql.execute(f'DELETE FROM "values"; INSERT INTO "values" (id, {column}) VALUES ({n}, {value})')
        shown = exactly(await (await client.get(f"/values/{n}/")).text())
        async with listen(client, "/values/stream/?snapshot=true") as source:
            row = (await source.next()).data.removeprefix('{"resource":"values","rows":[').removesuffix("]}")
            assert exactly(row) == shown, (column, value)


async def test_snapshot_has_the_rows_and_the_form_of_events(serve: Serve, sql: asyncpg.Connection) -> None:
    """Object permissions and a serializer's Python apply to the rows of a snapshot too."""
    owned = await serve(GUARDED, service=JWT, modules={"viewsets": OWNED})
    python = await serve(GUARDED, service=JWT, modules={"viewsets": PYTHON})
    await sql.execute("INSERT INTO tasks (id, title, user_id) VALUES (1, 'x', 'ann'), (2, 'y', 'bob'), (3, 'z', 'ann')")
    async with listen(owned, "/tasks/stream/?snapshot=true", headers=bearer("ann")) as source:
        assert [row["id"] for row in (await begin(source))[0]] == [1, 3]
    async with listen(python, "/tasks/stream/?snapshot=true&title=y", headers=bearer("ann")) as source:
        (row,) = (await begin(source))[0]
        assert (row["shout"], row["caller"]) == ("Y", "ann")


async def write(url: str, seed: int, done: asyncio.Event) -> None:
    """Change notes and owners at random until the event is set."""
    chance = random.Random(seed)
    connection = await asyncpg.connect(url)
    while not done.is_set():
        table, column = chance.choice([("notes", "text"), ("notes", "text"), ("owners", "name")])
        key = chance.randrange(30)
        with contextlib.suppress(asyncpg.DeadlockDetectedError):  # two such writers run: it is a rollback like others
            async with connection.transaction():
                await connection.execute(
                    f"INSERT INTO {table} (id, {column}) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET {column} = $2",
                    key, str(chance.random()),
                )  # fmt: skip
                if chance.random() < 0.5:
                    await connection.execute("UPDATE notes SET done = NOT done WHERE id = $1", chance.randrange(30))
                if chance.random() < 0.2:
                    await connection.execute("DELETE FROM notes WHERE id = $1", chance.randrange(30))
    await connection.close()


LOUD = """
from marshmallow import fields
from rowcast import BasePermission, ModelViewSet, Serializer, model
Note = model("notes")

class NoteSerializer(Serializer):
    loud = fields.Function(lambda note: note.text.upper())

    class Meta:
        model = Note

class IsDone(BasePermission):
    def has_object_permission(self, request, view, obj):
        return obj.done

class NoteViewSet(ModelViewSet):
    permission_classes = [IsDone]
    serializer_class = NoteSerializer
"""
FENCE = 1000
Held = dict[tuple[str, int], dict[str, Any]]


def place(position: str) -> tuple[int, ...]:
    """The sort key of a position."""
    return tuple(map(int, position.partition("~")[0].split("-")))


async def follow(client: Client, path: str, chance: random.Random) -> Held:
    """The rows of a client that disconnects at random: it resumes, or begins again if it has no position."""
    held: Held = {}
    last_id: str | None = None
    while True:
        async with listen(client, path, last_id=last_id, deadline=30) as source:
            left = chance.randrange(1, 40)
            async for event in source:
                body = event.json()
                match event.event:
                    case "snapshot":
                        assert last_id is None
                        for row in body["rows"]:
                            key = body["resource"], row["id"]
                            assert key not in held
                            held[key] = row
                    case "ready":
                        assert last_id in (None, event.id)
                        last_id = event.id
                    case "message":
                        assert last_id is not None
                        assert place(event.id) > place(last_id)
                        last_id = event.id
                        key = body["resource"], body["id"]
                        assert (key in held) == (body["action"] != "INSERT"), body
                        held.pop(key, None)
                        if body["data"] is not None:
                            held[key] = body["data"]
                left -= 1
                if ("notes", FENCE) in held:
                    return held
                if left == 0:
                    break
            if last_id is None:
                held.clear()  # it left in the middle of the snapshot


@pytest.mark.parametrize(
    ("path", "resources", "condition", "module"),
    [
        ("/notes/stream/?snapshot=true", ["notes"], "true", ""),
        ("/notes/stream/?snapshot=true&done=true", ["notes"], "done", ""),
        ("/notes/stream/?snapshot=true&search=5", ["notes"], "text LIKE '%5%'", ""),
        ("/notes/stream/?snapshot=true", ["notes"], "done", LOUD),
        ("/stream/?resources=notes,owners&snapshot=true", ["notes", "owners"], "true", ""),
    ],
)
async def test_clients_end_with_the_rows_of_the_table(
    serve: Serve,
    sql: asyncpg.Connection,
    database_url: str,
    path: str,
    resources: list[str],
    condition: str,
    module: str,
) -> None:
    """Under writers, clients that come and go on two replicas end with the rows that SELECT finds.

    No position repeats, none falls, and each inserted row is new to its client."""
    config = dict(RESOURCES)
    if module:
        config["notes"] = config["notes"].replace("permission_classes: [AllowAny]", "class: viewsets:NoteViewSet")
    replicas = [await serve(config, modules={"viewsets": module}) for _ in range(2)]
    done = asyncio.Event()
    writers = [asyncio.create_task(write(database_url, seed, done)) for seed in range(2)]
    followers = [asyncio.create_task(follow(replicas[seed % 2], path, random.Random(seed))) for seed in range(4)]
    async with listen(replicas[0], "/owners/stream/", deadline=30) as source:
        await source.take(120)
        late = [asyncio.create_task(follow(replicas[seed % 2], path, random.Random(seed))) for seed in range(4, 8)]
        await source.take(120)
    done.set()
    await asyncio.gather(*writers)
    await sql.execute("INSERT INTO notes (id, text, done) VALUES ($1, '5', true)", FENCE)
    expected: dict[tuple[str, int], tuple[Any, ...]] = {
        ("notes", row["id"]): (row["text"], row["done"])
        for row in await sql.fetch(f"SELECT id, text, done FROM notes WHERE {condition}")
    }
    if "owners" in resources:
        expected |= {("owners", row["id"]): (row["name"],) for row in await sql.fetch("SELECT id, name FROM owners")}
    for held in await asyncio.gather(*followers, *late):
        shown = {key: (row["text"], row["done"]) if key[0] == "notes" else (row["name"],) for key, row in held.items()}
        assert shown == expected


async def test_stream_requested_while_the_database_is_away_begins_when_it_is_back(
    serve: Serve, sql: asyncpg.Connection, postgres_url: str
) -> None:
    """A list is a 503; a stream waits for a while, since a browser does not reconnect after an error."""
    client = await serve(RESOURCES)
    await sql.execute("INSERT INTO notes (id, text) VALUES (1, 'a')")
    name = await sql.fetchval("SELECT current_database()")
    admin = await asyncpg.connect(postgres_url)
    await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
    opening = asyncio.create_task(client.get("/notes/stream/?snapshot=true"))
    response = await client.get("/notes/")
    assert response.status == 503
    await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    await admin.close()
    async with asyncio.timeout(20):
        response = await opening
    source = EventSource(response)
    rows, _ = await begin(source)
    assert [row["id"] for row in rows] == [1]
    response.close()
