"""Positions: a client that resumes, anywhere, misses nothing and gets nothing twice."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest
from aiohttp import ClientConnectionError
from aiohttp.test_utils import TestClient, TestServer

from rowcast.database.table_lock import try_lock_table
from rowcast.migrations.session import MIGRATION_TABLE
from rowcast.server.app import create_app
from tests.conftest import Serve, configure
from tests.sse import EventSource, listen
from tests.stream.test_events import RESOURCES, next_change, ready

UPSERT = "INSERT INTO notes (id, text) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET text = excluded.text"


pytestmark = pytest.mark.tables(RESOURCES)


async def test_last_event_id_resumes_without_a_gap(serve: Serve, sql: asyncpg.Connection) -> None:
    """Events from the client's absence come first, by header and by parameter, on another replica too."""
    client, replica = await serve(RESOURCES), await serve(RESOURCES)
    async with listen(client, "/notes/stream/") as source:
        start = (await ready(source)).id
        await sql.execute("INSERT INTO notes (id, text) VALUES (1, 'a')")
        first = await source.next()
    await sql.execute("INSERT INTO notes (id, text) VALUES (2, 'b')")
    for where in (client, replica):
        async with listen(where, "/notes/stream/", last_id=first.id) as source:
            assert (await ready(source)).id == first.id
            assert (await next_change(source))["id"] == 2
        async with listen(where, f"/notes/stream/?last_event_id={start}") as source:
            await ready(source)
            assert [(await next_change(source))["id"] for _ in range(2)] == [1, 2]
        async with listen(where, f"/notes/stream/?last_event_id={start}", last_id=first.id) as source:
            await ready(source)
            assert (await next_change(source))["id"] == 2, "the header beats the parameter"


async def test_stream_requested_during_the_start_waits_for_it(database_url: str, tmp_path: Path) -> None:
    """It is not an error, after which a browser would not reconnect; other requests get a 503."""
    configuration = configure(tmp_path, RESOURCES)
    holder = await asyncpg.connect(database_url)
    assert await try_lock_table(holder, MIGRATION_TABLE)  # as somebody who migrates
    app = create_app(configuration, database_url, migrate=True)
    async with TestClient(TestServer(app)) as client:
        opening = asyncio.create_task(client.get("/notes/stream/", headers={"Accept": "text/event-stream"}))
        async with client.get("/notes/") as response:
            assert (response.status, (await response.json())["code"]) == (503, "starting")
        assert not opening.done()
        await holder.close()
        source = EventSource(await opening)
        await ready(source)
        async with client.post("/notes/", json={"text": "a"}) as response:
            assert response.status == 201
        assert (await next_change(source))["action"] == "INSERT"


async def test_stream_that_waits_for_a_start_ends_with_the_service(database_url: str, tmp_path: Path) -> None:
    """It is one that is over at once, or its connection is cut: a browser connects to the next process."""
    holder = await asyncpg.connect(database_url)
    assert await try_lock_table(holder, MIGRATION_TABLE)
    client = TestClient(TestServer(create_app(configure(tmp_path, RESOURCES), database_url, migrate=True)))
    await client.start_server()
    opening = asyncio.create_task(client.get("/notes/stream/", headers={"Accept": "text/event-stream"}))
    async with client.get("/notes/") as response:
        assert response.status == 503
    await client.server.close()
    with suppress(ClientConnectionError):
        async with await opening as response:
            assert (response.status, (await response.read())[:7]) == (200, b"retry: ")
    await client.close()
    await holder.close()


async def test_every_position_of_a_transaction_can_be_resumed(serve: Serve, sql: asyncpg.Connection) -> None:
    """Resuming after each event of one transaction gives exactly the rest of it."""
    client = await serve(RESOURCES)
    async with listen(client, "/notes/stream/") as source:
        await ready(source)
        await sql.execute("INSERT INTO notes (id, text) SELECT i, 'x' FROM generate_series(1, 20) i")
        events = await source.take(20)
    assert len({event.id for event in events}) == 20
    for place in (0, 7, 18):
        async with listen(client, "/notes/stream/", last_id=events[place].id) as source:
            await ready(source)
            rest = await source.take(19 - place)
            assert [event.id for event in rest] == [event.id for event in events[place + 1 :]]


@pytest.mark.parametrize(
    ("position", "reason"),
    [("nonsense", "malformed"), ("1-1-0", "forked"), ("{epoch}-999999-0", "ahead"), ("-" * 5000, "malformed")],
)
async def test_position_that_cannot_be_resumed_is_a_reset(serve: Serve, position: str, reason: str) -> None:
    """A bad position gets status 200 and a reset with the reason and a fresh position; the stream goes on from now."""
    client = await serve(RESOURCES)
    async with listen(client, "/notes/stream/") as source:
        await ready(source)
        await client.post("/notes/", json={"text": "by now the ticker has begun its epoch"})
        epoch = (await source.next()).id.partition("-")[0]
    async with listen(client, "/notes/stream/", last_id=position.format(epoch=epoch)) as source:
        event = await source.next()
        assert (event.event, event.json()["reason"]) == ("reset", reason)
        await ready(source)
        created = await (await client.post("/notes/", json={"text": "a"})).json()
        assert (await next_change(source))["id"] == created["id"]
    async with listen(client, "/notes/stream/", last_id=event.id) as source:
        assert (await source.next()).event == "ready"


async def test_list_then_watch_has_no_gap(serve: Serve, sql: asyncpg.Connection, database_url: str) -> None:
    """Under concurrent writers, a list and the stream from its position replay to exactly the rows of the table."""
    client = await serve(RESOURCES)
    done = asyncio.Event()

    async def write(seed: int) -> None:
        chance = random.Random(seed)
        connection = await asyncpg.connect(database_url)
        while not done.is_set():
            key, text = chance.randrange(20), str(chance.random())
            await connection.execute(UPSERT, key, text)
            if chance.random() < 0.3:
                await connection.execute("DELETE FROM notes WHERE id = $1", chance.randrange(20))
        await connection.close()

    writers = [asyncio.create_task(write(seed)) for seed in range(2)]
    handovers = []
    try:
        for _ in range(15):
            response = await client.get("/notes/?page_size=100")
            rows = {row["id"]: row for row in (await response.json())["results"]}
            handovers.append((rows, response.headers["X-Stream-Position"]))
    finally:
        done.set()
        await asyncio.gather(*writers)
    await sql.execute("INSERT INTO notes (id, text) VALUES (1000, 'fence')")
    expected = {row["id"]: row["text"] for row in await sql.fetch("SELECT id, text FROM notes")}
    for rows, position in handovers:
        async with listen(client, "/notes/stream/", last_id=position) as source:
            await ready(source)
            await replay(source, rows, until=1000)
        assert {key: row["text"] for key, row in rows.items()} == expected


async def replay(source: EventSource, rows: dict[int, dict[str, object]], until: int) -> None:
    """Apply events to rows, strictly: an inserted row is new, a changed or deleted row exists."""
    while until not in rows:
        event = await next_change(source)
        match event["action"]:
            case "INSERT":
                assert event["id"] not in rows, event
            case _:
                assert event["id"] in rows, event
        if event["data"] is None:
            del rows[event["id"]]
        else:
            rows[event["id"]] = event["data"]


async def test_transactions_of_a_snapshot_are_skipped_to_the_end_of_a_large_tick(
    serve: Serve, sql: asyncpg.Connection, database_url: str
) -> None:
    """A list is read between two transactions of hundreds of rows: one is sent, the other never, from any position."""
    client = await serve(RESOURCES)
    async with listen(client, "/notes/stream/") as source:
        before = (await ready(source)).id.partition("~")[0]
    other = await asyncpg.connect(database_url)
    late = other.transaction()
    await late.start()
    await other.execute("INSERT INTO notes (id, text) SELECT i, 'told' FROM generate_series(1, 300) i")
    await sql.execute("INSERT INTO notes (id, text) SELECT i, 'seen' FROM generate_series(1001, 1300) i")
    start = f"{before}~{await sql.fetchval('SELECT pg_current_snapshot()::text')}"
    await late.commit()
    await sql.execute("INSERT INTO notes (id, text) VALUES (2000, 'fence')")
    expected = [*range(1, 301), 2000]
    async with listen(client, "/notes/stream/", last_id=start) as source:
        assert (await ready(source)).id == start
        events = await source.take(301)
    assert [event.json()["id"] for event in events] == expected
    for place in (0, 63, 64, 200, 299):
        async with listen(client, "/notes/stream/", last_id=events[place].id) as source:
            await ready(source)
            rest = await source.take(300 - place)
            assert [event.json()["id"] for event in rest] == expected[place + 1 :]
    await other.close()
