"""Reads on standbys: what clients get from them, and what they never notice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
from importlib.resources import files
from pathlib import Path
from time import monotonic
from typing import Any, Self

import asyncpg
import pytest
from aiohttp import ClientSession

from rowcast.changes.position import Position, Snapshot
from rowcast.changes.standbys import LOOK_SECONDS
from rowcast.configuration.settings import Database as DatabaseSettings
from rowcast.rest.plan import SERVICE
from rowcast.server.assets import CLIENT, FOLDER, read_assets
from rowcast.server.doctor import Finding
from rowcast.server.lifecycle import LIFECYCLE
from rowcast.server.replica_doctor import examine_replicas
from rowcast.testing.client import Client
from tests.conftest import Serve
from tests.programs import NODE
from tests.spans import Spans
from tests.standbys import PATIENCE, Standby, paused, until_replayed
from tests.waiting import until

from .pairs import (
    NOTES,
    OWNERS,
    RESOURCES,
    Pair,
    Writers,
    children_of,
    only,
    opened,
    own_pair,
    read_from,
    replicas_of,
    settings_of,
    until_read,
)
from .pooler import Pooler


@pytest.fixture
async def client(pair: Pair, serve: Serve) -> Client:
    """A service with the standby as its replica."""
    started = await serve(RESOURCES, settings_of(pair), url=pair.url)
    await pair.sql.execute("INSERT INTO owners (id, name) VALUES (1, 'a')")
    await pair.sql.execute("INSERT INTO notes (id, text, owner_id) SELECT i, 'old', 1 FROM generate_series(1, 3) i")
    await pair.replayed()
    await until_read(started)
    return started


async def texts(client: Client, path: str = "/notes/", **headers: str) -> list[str]:
    """The texts of the notes in a list."""
    response = await client.get(path, headers=headers)
    assert response.status == 200, await response.text()
    return [row["text"] for row in (await response.json())["results"]]


async def test_lists_rows_and_groups_come_from_the_replica(client: Client, pair: Pair) -> None:
    """While the standby is paused, reads show what it has, and not what the primary has."""
    async with paused(pair.replica):
        await pair.sql.execute("UPDATE notes SET text = 'new'")
        assert await texts(client) == ["old"] * 3
        assert (await (await client.get("/notes/1/")).json())["text"] == "old"
        groups = await (await client.get("/notes/aggregate/?group_by=text&count=*")).json()
        assert groups["results"] == [{"text": "old", "count": 3}]
        found = await client.get("/notes/?expand=owner&owner__name=a")
        assert (await found.json())["results"][0]["owner"] == {"id": 1, "name": "a"}
        lines = await (await client.get("/notes/", headers={"Accept": "text/csv"})).text()
        assert "old" in lines
        assert "new" not in lines
    reads = replicas_of(client).reads
    assert reads["primary"] == 0
    assert reads[only(client).name] == 5


async def test_the_trace_of_a_read_names_the_replica(pair: Pair, serve: Serve, spans: Spans) -> None:
    """Each request has its statement in its trace, with the pool of the standby, also if it shares it with others."""
    client = await read_from(serve, pair, "INSERT INTO notes (id, text) VALUES (1, 'old')")
    spans.clear()
    await client.get("/notes/")
    (listed,) = spans.below(spans.requests[0])
    assert dict(listed.attributes or {})["rowcast.pool"] == f"requests {only(client).name}"
    spans.clear()
    await asyncio.gather(*(client.get("/notes/1/") for _ in range(40)))
    assert [[each.name for each in spans.below(request)] for request in spans.requests] == [["SELECT notes"]] * 40
    assert any("rowcast.statement.shared" in (each.attributes or {}) for each in spans.all)


async def test_a_position_of_a_standby_is_complete(client: Client, pair: Pair) -> None:
    """A transaction that runs while a later one has committed is sent after a list that the standby has made.

    PostgreSQL's own snapshot of a standby leaves it out, as if it had been in the list.
    """
    async with opened(pair.url) as early:
        transaction = early.transaction()
        await transaction.start()
        await early.execute("UPDATE notes SET text = 'early' WHERE id = 1")
        await pair.sql.execute("UPDATE notes SET text = 'late' WHERE id = 2")
        await pair.replayed()
        snapshot = Snapshot.parse(await pair.replica.fetchval("SELECT pg_current_snapshot()::text"))
        own = await early.fetchval("SELECT pg_current_xact_id()::text::bigint")
        assert snapshot.sees(own), "the standby's snapshot can be trusted: then positions may be simpler"
        response = await client.get("/notes/")
        position = Position.parse(response.headers["X-Stream-Position"])
        assert position.snapshot is not None
        assert not position.snapshot.sees(own)
        rows = {row["id"]: row["text"] for row in (await response.json())["results"]}
        assert rows == {1: "old", 2: "late", 3: "old"}
        async with client.stream("/notes/stream/", last_event_id=str(position)) as changes:
            await transaction.commit()
            await pair.sql.execute("INSERT INTO notes (id, text) VALUES (9, 'end')")
            assert [event["data"]["text"] for event in await changes.take(2)] == ["early", "end"]
    assert replicas_of(client).reads[only(client).name] == 1


async def test_a_position_after_many_changes_is_complete(client: Client, pair: Pair) -> None:
    """If too many changes have no tick, the position omits less, and what the list lacks is sent nevertheless."""
    async with opened(pair.url) as early:
        transaction = early.transaction()
        await transaction.start()
        await early.execute("UPDATE notes SET text = 'early' WHERE id = 1")
        oldest = await early.fetchval("SELECT pg_current_xact_id()::text::bigint")
        await pair.sql.execute("INSERT INTO notes (id, text) SELECT i, 'many' FROM generate_series(10, 610) i")
        await pair.replayed()
        response = await client.get("/notes/")
        position = Position.parse(response.headers["X-Stream-Position"])
        assert position.snapshot == Snapshot(oldest, oldest)
        rows = {row["id"]: row["text"] for row in (await response.json())["results"]}
        assert len(rows) == 604
        async with client.stream("/notes/stream/", last_event_id=str(position)) as changes:
            await transaction.commit()
            await pair.sql.execute("INSERT INTO notes (id, text) VALUES (9, 'end')")
            while 9 not in rows:
                event = await changes.next()
                rows[event["id"]] = event["data"]["text"]
        assert rows == {row["id"]: row["text"] for row in await pair.sql.fetch("SELECT id, text FROM notes")}


async def test_lists_and_streams_fit_together_at_any_moment(client: Client, pair: Pair) -> None:
    """Whatever the standby lacks or has, a list of it and the stream from its position make up the table in the end."""
    dice = random.Random(7)

    async def follow(writers: Writers, mark: int) -> None:
        response = await client.get("/notes/")
        rows = {row["id"]: row for row in (await response.json())["results"]}
        position = response.headers["X-Stream-Position"]
        async with client.stream("/notes/stream/", last_event_id=position) as changes, writers.quiet():
            await pair.sql.execute("INSERT INTO notes (id, text) VALUES ($1, 'end')", mark)
            while mark not in rows:
                event = await changes.next()
                assert (event["id"] in rows) == (event["action"] != "INSERT"), "a change that the list has already"
                rows.pop(event["id"], None)
                if event["data"] is not None:
                    rows[event["id"]] = event["data"]
            stored = await pair.sql.fetch("SELECT id, text, owner_id FROM notes")
            assert rows == {row["id"]: dict(row) for row in stored}

    async with Writers(pair.url, dice) as writers:
        for number in range(12):
            async with paused(pair.replica) if dice.random() < 0.5 else contextlib.nullcontext():
                await asyncio.wait_for(follow(writers, 10_000 + number), PATIENCE)
    assert replicas_of(client).reads[only(client).name] >= 6


async def test_a_caller_sees_its_own_writes(client: Client, pair: Pair) -> None:
    """What follows a write of the same caller is read where the write is, until the replica has it."""
    async with paused(pair.replica):
        created = await client.post("/notes/", json={"id": 9, "text": "mine"})
        assert created.status == 201
        assert "mine" in await texts(client)
        await client.patch("/notes/1/", json={"text": "changed"})
        assert (await (await client.get("/notes/1/")).json())["text"] == "changed"
        groups = await (await client.get("/notes/aggregate/?group_by=text&count=*&ordering=text")).json()
        assert [each["text"] for each in groups["results"]] == ["changed", "mine", "old"]
        await client.delete("/notes/2/")
        assert (await client.get("/notes/2/")).status == 404
        assert "mine" in await (await client.get("/notes/", headers={"Accept": "text/csv"})).text()
        assert not replicas_of(client).reads[only(client).name]
        assert replicas_of(client).fallbacks["recent"] == 5
    await until_read(client)
    assert sorted(await texts(client)) == ["changed", "mine", "old"]
    assert replicas_of(client).reads[only(client).name] == 1


async def test_writes_of_others_do_not_take_readers_to_the_primary(client: Client, pair: Pair) -> None:
    """A caller is its user or, without one, its address; and its connection."""
    writer, reader = client.as_user("writer"), client.as_user("reader")
    async with paused(pair.replica), ClientSession() as elsewhere:
        assert (await writer.post("/notes/", json={"id": 9, "text": "mine"})).status == 201
        async with elsewhere.get(client.make_url("/notes/"), headers=reader.sent_headers) as response:
            assert (await response.json())["count"] == 3
        async with elsewhere.get(client.make_url("/notes/"), headers=writer.sent_headers) as response:
            assert (await response.json())["count"] == 4
        async with elsewhere.get(client.make_url("/notes/")) as response:  # from the address of the writer
            assert (await response.json())["count"] == 4


async def test_a_batch_and_a_handler_that_writes_count_as_writes(pair: Pair, serve: Serve) -> None:
    """Operations of a batch are writes of their users, and a GET whose handler writes reads what it has written."""
    modules = {
        "viewsets": """
from rowcast import ModelViewSet

class Notes(ModelViewSet):
    async def retrieve(self, request, id):
        await self.model.objects.filter(id=id).update(text="seen")
        return await super().retrieve(request)
"""
    }
    resources = {**RESOURCES, "notes": NOTES.replace("viewset:", "viewset:\n  class: viewsets:Notes")}
    client = await serve(resources, settings_of(pair), url=pair.url, modules=modules)
    await pair.sql.execute("INSERT INTO notes (id, text) VALUES (1, 'old'), (2, 'old')")
    await pair.replayed()
    await until_read(client)
    writer = client.as_user("writer")
    async with paused(pair.replica), ClientSession() as elsewhere:
        assert (await (await client.get("/notes/1/")).json())["text"] == "seen"
        assert await texts(client) == ["seen", "old"]
        operations = [{"method": "POST", "path": "/owners/", "body": {"id": 7, "name": "b"}}]
        assert (await writer.post("/batch/", json={"operations": operations})).status == 200
        async with elsewhere.get(client.make_url("/owners/"), headers=writer.sent_headers) as response:
            assert (await response.json())["count"] == 1
    assert not replicas_of(client).reads[only(client).name]


async def test_read_after(client: Client, pair: Pair) -> None:
    """With ``X-Read-After`` a read has what a transaction, an event or another read had; other servers wrote it."""
    before = (await client.get("/notes/")).headers["X-Stream-Position"]
    async with paused(pair.replica), client.stream("/notes/stream/") as changes:
        transaction = await pair.sql.fetchval(
            "UPDATE notes SET text = 'new' WHERE id = 1 RETURNING pg_current_xact_id()::text"
        )
        assert (await changes.next())["data"]["text"] == "new"
        own = {"X-Read-After": transaction}
        assert await texts(client) == ["old"] * 3
        assert await texts(client, **own) == ["new", "old", "old"]
        assert await texts(client, **{"X-Read-After": changes.position}) == ["new", "old", "old"]
        assert await texts(client, **{"X-Read-After": before}) == ["old"] * 3
        assert await texts(client, **{"Cache-Control": "no-cache"}) == ["new", "old", "old"]
        for strange in ("", "soon", "1-2", "9" * 30, "9" * 19, "1-99999999-0"):
            assert await texts(client, **{"X-Read-After": strange}) == ["new", "old", "old"]
            assert await texts(client, **{"X-Read-After": f"{before} {strange or 0}x"}) == ["new", "old", "old"]
        assert await texts(client, **{"X-Read-After": f"{before} {before}"}) == ["old"] * 3
        assert await texts(client, **{"X-Read-After": f"{before} {transaction}"}) == ["new", "old", "old"]
        assert await texts(client, **{"X-Read-After": " ".join([before] * 17)}) == ["new", "old", "old"]
    await pair.replayed()
    await until_read(client)
    count = replicas_of(client).reads[only(client).name]
    assert await texts(client, **own) == ["new", "old", "old"]
    assert replicas_of(client).reads[only(client).name] == count + 1


async def test_what_a_replica_has_shown_is_read_from_it_again(pair: Pair, serve: Serve) -> None:
    """A read that names another one of the same replica comes from there at once, before the service looks how far it is."""
    client = await read_from(serve, pair, "INSERT INTO notes (id, text) VALUES (1, 'old')", replica_max_lag="1m")
    replicas = replicas_of(client)
    await replicas.clock.stop()
    transaction = await pair.sql.fetchval("UPDATE notes SET text = 'new' RETURNING pg_current_xact_id()::text")
    await pair.replayed()
    named = {"X-Read-After": transaction}
    assert await texts(client, **named) == ["new"]
    assert replicas.reads["primary"] == 1
    first = await client.get("/notes/")
    assert first.headers["X-Replica-Max-Lag"] == "60"
    assert await texts(client, **named) == ["new"]
    assert await texts(client, **{"X-Read-After": first.headers["X-Stream-Position"]}) == ["new"]
    assert replicas.reads["primary"] == 1
    async with paused(pair.replica):
        later = await pair.sql.fetchval("UPDATE notes SET text = 'newer' RETURNING pg_current_xact_id()::text")
        assert await texts(client, **named) == ["new"]
        assert await texts(client, **{"X-Read-After": f"{transaction} {later}"}) == ["newer"]
    assert replicas.reads["primary"] == 2
    only(client).watch.refuse("is another one now")
    assert only(client).watch.shown is None


ROTATING = """
const [client, ...services] = process.argv.slice(1);
const { rowcast } = await import(client);
let turn = 0;
const made = rowcast("http://service/", {
  fetch: (address, options) => fetch(services[turn++ % services.length] + new URL(address).pathname, options),
});
const texts = async () => (await (await made.send("GET", "notes/")).json()).results.map(row => row.text);
for (let id = 10; id < 20; id++) {
  await made.send("POST", "notes/", { body: { id, text: `mine ${id}` } });
  for (let read = 0; read < 3; read++) {
    const found = await texts();
    if (!found.includes(`mine ${id}`)) throw new Error(`${id} is not in ${found}`);
  }
}
made.watch("notes", {}, async ({ type, event, data }) => {
  if (type !== "event") return;
  if (event === "ready") return console.log("ready");
  for (let read = 0; read < 3; read++) if (!(await texts()).includes(data.data.text)) throw new Error("It is not there.");
  console.log("seen");
  process.exit(0);
});
"""


@pytest.mark.skipif(NODE is None, reason="there is no Node: `make web` gets one")
@pytest.mark.skipif(CLIENT not in read_assets(), reason="the web files are not built; `make web` builds them")
async def test_the_client_for_pages_never_goes_back_in_time(client: Client, pair: Pair, serve: Serve) -> None:
    """Its reads come from two services in turn, with a replica that lacks everything: they have what it wrote and saw."""
    other = await serve(RESOURCES, settings_of(pair), url=pair.url)
    await until_read(other)
    services = [str(each.make_url("")).rstrip("/") for each in (client, other)]
    assert NODE is not None
    address = Path(str(files("rowcast").joinpath(FOLDER, CLIENT))).as_uri()
    async with paused(pair.replica):
        process = await asyncio.create_subprocess_exec(
            NODE, "--input-type=module", "--eval", ROTATING, address, *services,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert await process.stdout.readline() == b"ready\n"
            await pair.sql.execute("INSERT INTO notes (id, text) VALUES (99, 'theirs')")
            assert await process.stdout.readline() == b"seen\n"
            assert await process.wait() == 0
    assert replicas_of(client).fallbacks["recent"] + replicas_of(other).fallbacks["recent"] > 0


async def test_a_row_that_the_replica_lacks_is_found(client: Client, pair: Pair) -> None:
    """A row by its key is never a 404 because of lag, whoever has written it."""
    async with paused(pair.replica):
        await pair.sql.execute("INSERT INTO notes (id, text) VALUES (9, 'new')")
        assert (await client.get("/notes/9/")).status == 200
        assert (await client.get("/notes/10/")).status == 404
        assert replicas_of(client).fallbacks["missing_row"] == 2


async def test_rows_that_are_read_together_come_from_the_replica(client: Client, pair: Pair) -> None:
    """Requests that meet share a statement on the replica, and one whose row is missing there does not."""
    async with paused(pair.replica):
        await pair.sql.execute("UPDATE notes SET text = 'new'")
        await pair.sql.execute("INSERT INTO notes (id, text) VALUES (9, 'new')")
        database = only(client).store.database
        before = database.statements
        found = await asyncio.gather(*(client.get(f"/notes/{1 + i % 3}/") for i in range(30)), client.get("/notes/9/"))
        assert [(await each.json())["text"] for each in found] == [*["old"] * 30, "new"]
        assert database.statements - before < 20


async def test_a_replica_that_is_far_behind_is_not_read(pair: Pair, serve: Serve) -> None:
    """After ``replica_max_lag`` reads have what has been committed, and later the replica is read again."""
    client = await read_from(serve, pair, replica_max_lag="1s")
    async with paused(pair.replica):
        await pair.sql.execute("INSERT INTO notes (id, text) VALUES (1, 'new')")
        assert await texts(client) == []
        await until(lambda: only(client).watch.lag > 1)
        assert await texts(client) == ["new"]
        assert replicas_of(client).fallbacks["no_replica"] == 1
    await until_read(client)
    assert await texts(client) == ["new"]
    assert replicas_of(client).reads[only(client).name] == 2


async def test_resources_that_are_read_from_the_primary(pair: Pair, serve: Serve) -> None:
    """With ``read_from: primary`` a resource is read there, also as a related row, a filter or a group of another."""
    resources = {
        "notes": NOTES.replace("group_by: [text]", "group_by: [owner__name]"),
        "owners": OWNERS + "read_from: primary\n",
    }
    client = await read_from(serve, pair, resources=resources)
    async with paused(pair.replica):
        await pair.sql.execute("INSERT INTO owners (id, name) VALUES (1, 'a')")
        await pair.sql.execute("INSERT INTO notes (id, text, owner_id) VALUES (1, 'new', 1)")
        assert (await (await client.get("/owners/")).json())["count"] == 1
        assert await texts(client) == []
        for query in ("?expand=owner", "?owner__name=a", "aggregate/?group_by=owner__name&count=*"):
            assert len((await (await client.get(f"/notes/{query}")).json())["results"]) == 1


CACHED = {**RESOURCES, "notes": NOTES + "  cache: responses\n"}
CACHES = pytest.mark.parametrize("resources", [RESOURCES, CACHED], ids=["counts", "responses"])


@CACHES
async def test_what_a_replica_lacks_is_not_kept(resources: dict[str, str], pair: Pair, serve: Serve) -> None:
    """An answer or a count of a replica that is behind does not stay in memory, where the primary's events keep it right."""
    client = await read_from(
        serve, pair, "INSERT INTO notes (id, text) SELECT i, 'old' FROM generate_series(1, 3) i", resources=resources
    )
    async with paused(pair.replica), client.stream("/notes/stream/") as changes:
        await pair.sql.execute("INSERT INTO notes (id, text) VALUES (4, 'new'), (5, 'new')")
        await changes.take(2)  # the cache has seen them, too
        for _ in range(2):
            assert await texts(client) == ["old"] * 3
            assert (await (await client.get("/notes/?page_size=1")).json())["count"] == 3
    await pair.replayed()
    assert await texts(client) == [*["old"] * 3, "new", "new"]
    assert (await (await client.get("/notes/?page_size=1")).json())["count"] == 5


async def test_what_a_replica_has_is_kept(pair: Pair, serve: Serve) -> None:
    """While nothing changes memory answers what a replica has answered before, with the position that it had."""
    client = await read_from(serve, pair, "INSERT INTO notes (id, text) VALUES (1, 'old')", resources=CACHED)
    first = await client.get("/notes/")
    assert await texts(client) == ["old"]
    assert replicas_of(client).reads[only(client).name] == 1
    kept = await client.get("/notes/")
    assert kept.headers["X-Stream-Position"] == first.headers["X-Stream-Position"]
    assert await texts(client, **{"X-Read-After": "1-2-0"}) == ["old"]  # which nobody knows
    assert replicas_of(client).reads["primary"] == 1
    async with client.stream("/notes/stream/", last_event_id=kept.headers["X-Stream-Position"]) as changes:
        await pair.sql.execute("UPDATE notes SET text = 'new'")
        assert (await changes.next())["data"]["text"] == "new"


async def test_a_position_of_a_kept_answer_is_not_older_than_what_the_feed_remembers(
    pair: Pair, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log may have been pruned since; nothing that the answer depends on has changed up to the head."""
    client = await read_from(serve, pair, "INSERT INTO notes (id, text) VALUES (1, 'old')", resources=CACHED)
    feed = client.app[SERVICE].feed
    first = await client.get("/notes/")
    monkeypatch.setattr("rowcast.changes.tail.SNAPSHOT_MAX_AGE_SECONDS", 0.0)
    for name in ("a", "b"):
        before = feed.head.tick
        await pair.sql.execute("INSERT INTO owners (id, name) VALUES (DEFAULT, $1)", name)
        await until(lambda before=before: feed.head.tick > before)  # type: ignore[misc]
    kept = await client.get("/notes/")
    assert replicas_of(client).reads[only(client).name] == 1
    assert kept.headers["X-Stream-Position"] == str(feed.head) != first.headers["X-Stream-Position"]


async def test_a_stream_from_a_kept_answer_repeats_nothing(
    pair: Pair, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even a change that the replica had, and that has no tick when memory answers."""
    monkeypatch.setattr("rowcast.changes.cache.FEED_MAX_LAG_SECONDS", PATIENCE)  # which is a moment of a busy service
    client = await read_from(serve, pair, "INSERT INTO notes (id, text) VALUES (1, 'old')", resources=CACHED)
    ticker = client.app[LIFECYCLE].ticker
    assert ticker is not None
    await ticker.stop()
    await pair.sql.execute("UPDATE notes SET text = 'new'")
    await pair.replayed()
    await until_read(client)
    assert await texts(client) == ["new"]
    kept = await client.get("/notes/")
    assert replicas_of(client).reads[only(client).name] == 1
    await ticker.start()
    async with client.stream("/notes/stream/", last_event_id=kept.headers["X-Stream-Position"]) as changes:
        await pair.sql.execute("UPDATE notes SET text = 'end'")
        assert (await changes.next())["data"]["text"] == "end"


@CACHES
async def test_nothing_wrong_stays_in_memory(resources: dict[str, str], pair: Pair, serve: Serve) -> None:
    """Whenever rows are written by anybody, and however far the replica is behind, answers are right in the end."""
    client = await read_from(serve, pair, resources=resources)
    dice = random.Random(11)
    key = 0
    async with ClientSession() as session:

        async def read(path: str) -> dict[str, Any]:
            """What another caller than the writer gets."""
            headers = client.as_user("reader").sent_headers
            async with session.get(client.make_url(path), headers=headers) as response:
                found: dict[str, Any] = await response.json()
                return found

        for _ in range(10):
            async with paused(pair.replica) if dice.random() < 0.7 else contextlib.nullcontext():
                for _ in range(dice.randrange(4, 14)):
                    key += 1
                    match dice.randrange(6):
                        case 0:
                            await client.post("/notes/", json={"id": key, "text": str(key)})
                        case 1:
                            await pair.sql.execute("INSERT INTO notes (id, text) VALUES ($1, 'sql')", key)
                        case 2:
                            await until_read_or_later(client, dice.random() * 0.3)
                        case _:
                            await read(dice.choice(("/notes/", "/notes/?page_size=2", "/notes/?page_size=2&text=sql")))
            async with client.stream("/owners/stream/") as changes:  # notes do not change afterwards
                await pair.sql.execute("INSERT INTO owners (id, name) VALUES ($1, 'fence')", key)
                await changes.next()
            await pair.replayed()
            stored = await pair.sql.fetch("SELECT text FROM notes ORDER BY id")
            for _ in range(2):
                assert [row["text"] for row in (await read("/notes/"))["results"]] == [row["text"] for row in stored]
                assert (await read("/notes/?page_size=2"))["count"] == len(stored)
                counted = sum(row["text"] == "sql" for row in stored)
                assert (await read("/notes/?page_size=2&text=sql"))["count"] == counted
    assert replicas_of(client).reads[only(client).name] > 40


async def until_read_or_later(client: Client, seconds: float) -> None:
    """Let some looks at the replica pass, or none."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await until_read(client)


class Readers:
    """Clients that list and read a row again and again, inside ``async with``; each answer must be the right one."""

    def __init__(self, client: Client, expected: str) -> None:
        self.expected = expected
        self.answers = 0
        self.slowest = 0.0
        self._client = client

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._read()) for _ in range(4)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for ended in await asyncio.gather(*self._tasks, return_exceptions=True):
            if not isinstance(ended, asyncio.CancelledError):
                raise AssertionError("a reader has failed") from ended

    async def answered(self, count: int = 40) -> None:
        """Wait for further answers."""
        enough = self.answers + count
        await until(lambda: self.answers >= enough or any(task.done() for task in self._tasks))

    async def _read(self) -> None:
        while True:
            began = monotonic()
            assert await texts(self._client) == [self.expected]
            row = await self._client.get("/notes/1/")
            assert row.status == 200
            assert (await row.json())["text"] == self.expected
            self.slowest = max(self.slowest, monotonic() - began)
            self.answers += 1
            await asyncio.sleep(0.001)


async def test_a_replica_is_killed_and_comes_back(tmp_path: Path, serve: Serve) -> None:
    """No read fails while a replica is killed, is away, hangs or starts; afterwards it is read again."""
    async with own_pair(tmp_path) as (standby, _, pair):
        client = await read_from(serve, pair, "INSERT INTO notes (id, text) VALUES (1, 'a')")
        reads, name = replicas_of(client).reads, only(client).name
        async with Readers(client, "a") as readers:
            await readers.answered()
            assert reads[name] > 20
            os.killpg(standby.server.pid, signal.SIGKILL)
            await readers.answered()
            await until(lambda: only(client).watch.moment is None)
            assert only(client).watch.reason == "cannot be reached"
            await readers.answered()
            connection = await standby.start()
            await connection.close()
            await until(lambda: only(client).watch.moment is not None)
            count = reads[name]
            await readers.answered()
            assert reads[name] > count
            stopped = [standby.server.pid, *children_of(standby.server.pid)]
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            try:
                await until(lambda: only(client).watch.moment is None)
                await readers.answered()
            finally:
                for pid in stopped:
                    os.kill(pid, signal.SIGCONT)
            await until(lambda: only(client).watch.moment is not None)
            await readers.answered()
        assert readers.slowest < 5  # the time that a look takes and a connection, and not that of a network


async def test_a_promoted_replica_is_not_read(tmp_path: Path, serve: Serve) -> None:
    """What a standby that was promoted has from then on is of another history, and nobody sees it."""
    async with own_pair(tmp_path) as (standby, _, pair):
        client = await read_from(serve, pair, "INSERT INTO notes (id, text) VALUES (1, 'a')")
        async with Readers(client, "a") as readers:
            await readers.answered()
            await standby.promote(pair.replica)
            await pair.replica.execute("UPDATE notes SET text = 'forked'")
            await pair.replica.execute("INSERT INTO notes (id, text) VALUES (2, 'forked')")
            await readers.answered()
            await until(lambda: only(client).watch.reason == "is not a standby")
            await readers.answered()
        assert (await client.get("/notes/2/")).status == 404
        position = (await client.get("/notes/")).headers["X-Stream-Position"]
        async with client.stream("/notes/stream/", last_event_id=position) as changes:
            await pair.sql.execute("UPDATE notes SET text = 'b'")
            assert (await changes.next())["data"]["text"] == "b"


async def test_a_standby_of_another_history_is_not_read(tmp_path: Path, serve: Serve) -> None:
    """After a failover a standby that still follows the old primary is not read, and one that follows the new one is."""
    async with own_pair(tmp_path) as (standby, primary, pair):
        other = Standby(primary.url, tmp_path / "other")
        follower = await other.start()
        try:
            setup = await serve(RESOURCES, url=pair.url)
            await pair.sql.execute("INSERT INTO notes (id, text) VALUES (1, 'a')")
            await setup.close()
            await until_replayed(pair.sql, follower)
            await pair.replayed()
            await standby.promote(pair.replica)
            moved = Pair(pair.replica_url, other.server.url, pair.replica, follower)
            client = await serve(RESOURCES, settings_of(moved), url=moved.url)
            await pair.sql.execute("UPDATE notes SET text = 'forked'")  # on the old primary, which its standby follows
            await until_replayed(pair.sql, follower)
            await moved.sql.execute("INSERT INTO notes (id, text) VALUES (2, 'b')")
            await until(lambda: only(client).watch.reason == "follows another history than the primary's")
            assert await texts(client) == ["a", "b"]
            assert (await (await client.get("/notes/1/")).json())["text"] == "a"
            assert not replicas_of(client).reads[only(client).name]
        finally:
            follower.terminate()
            await asyncio.to_thread(other.server.stop)


async def test_the_primary_answers_what_a_replica_cannot(pair: Pair, serve: Serve) -> None:
    """A view that writes when it is read is read from the primary."""
    view = "view: true\nfields: {id: {type: integer, primary_key: true}}\nviewset: {permission_classes: [AllowAny]}"
    await pair.sql.execute("CREATE SEQUENCE numbers")
    await pair.sql.execute("CREATE VIEW numbered AS SELECT nextval('numbers')::integer AS id")
    client = await serve({**RESOURCES, "numbered": view}, settings_of(pair), url=pair.url)
    await pair.replayed()
    await until_read(client)
    assert (await client.get("/numbered/")).status == 200
    assert replicas_of(client).fallbacks["error"] == 1


async def test_a_replica_is_not_read_for_callers_as_another_role(pair: Pair, serve: Serve) -> None:
    """That could see rows which policies hide from the service, and take roles which the service may not take."""
    await pair.sql.execute("DROP ROLE IF EXISTS other; CREATE ROLE other LOGIN SUPERUSER")
    await pair.replayed()
    as_other = pair.replica_url.replace("postgres@", "other@")
    client = await serve(
        RESOURCES, settings_of(pair, replicas=[as_other], session={"app.user": "$user.id"}), url=pair.url
    )
    await until(lambda: only(client).watch.reason.startswith("is read as other, and not as postgres"))
    assert (await client.as_user("ann").get("/notes/")).status == 200
    assert replicas_of(client).reads == {"primary": 1}
    await pair.sql.execute("DROP ROLE other")


async def test_callers_with_settings_of_their_own(pair: Pair, serve: Serve) -> None:
    """Policies of the database decide on a replica what a caller sees, and a role without rights on the log gets positions."""
    await pair.sql.execute("DROP ROLE IF EXISTS replica_reader")
    await pair.sql.execute("CREATE ROLE replica_reader")
    client = await serve(
        RESOURCES, settings_of(pair, session={"app.user": "$user.id"}, default_role="replica_reader"), url=pair.url
    )
    await pair.sql.execute(
        """INSERT INTO notes (id, text) VALUES (1, 'ann'), (2, 'bob');
        GRANT SELECT, UPDATE ON notes, owners TO replica_reader;
        ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
        CREATE POLICY own ON notes TO replica_reader USING (text = current_setting('app.user', true))"""
    )
    await pair.replayed()
    await until_read(client)
    ann, bob = client.as_user("ann"), client.as_user("bob")
    async with paused(pair.replica):
        assert await texts(ann) == ["ann"]
        assert await texts(bob) == ["bob"]
        assert (await bob.get("/notes/1/")).status == 404
        lines = await (await bob.get("/notes/", headers={"Accept": "text/csv"})).text()
        assert lines.splitlines()[1:] == ["2,bob,"]
        response = await ann.get("/notes/1/")
        assert Position.parse(response.headers["X-Stream-Position"]).snapshot is not None
        assert replicas_of(client).reads[only(client).name] == 4
    async with ann.stream("/notes/stream/", last_event_id=response.headers["X-Stream-Position"]) as changes:
        await pair.sql.execute("UPDATE notes SET owner_id = NULL, text = text || '' WHERE id = 1")
        await pair.sql.execute("DELETE FROM notes WHERE id = 1")
        assert (await changes.next())["action"] == "DELETE"
    await pair.sql.execute("DROP OWNED BY replica_reader")
    await pair.sql.execute("DROP ROLE replica_reader")


async def test_looks_keep_their_pace_after_a_lost_connection(client: Client, pair: Pair) -> None:
    """When the connections that look at the primary and the standby have been lost, new ones look as often as before."""
    clock, watch = replicas_of(client).clock, only(client).watch
    assert clock.connections == watch.connections == 1
    for connection in (pair.sql, pair.replica):
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
    await until(lambda: min(clock.connections, watch.connections) > 1)
    begun = monotonic()
    committed = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    before = await pair.replica.fetchval(committed)
    for _ in range(8):
        await until(lambda end=clock.newest: clock.newest is not end)  # type: ignore[misc]
    assert monotonic() - begun > 6 * LOOK_SECONDS

    async def counted() -> bool:  # the counters of a session that is busy come after a second
        return bool(await pair.replica.fetchval(committed) > before)

    await until(counted)
    assert await pair.replica.fetchval(committed) - before < 200


async def test_a_replica_behind_a_pooler(pair: Pair, serve: Serve) -> None:
    """With ``direct_url`` the URL of a replica may lead to a pooler in transaction mode, too."""
    async with Pooler(pair.replica_url, shared=True).listening() as pooled:
        database = {"url": pair.url, "direct_url": pair.url, "prepared_statements": False, "replicas": [pooled]}
        client = await serve(RESOURCES, json.dumps({"database": database}), url=pair.url)
        await pair.sql.execute("INSERT INTO notes (id, text) VALUES (1, 'old')")
        await pair.replayed()
        await until_read(client)
        async with paused(pair.replica):
            await pair.sql.execute("UPDATE notes SET text = 'new'")
            assert await texts(client) == ["old"]
            assert (await (await client.get("/notes/1/")).json())["text"] == "old"
            assert "old" in await (await client.get("/notes/", headers={"Accept": "text/csv"})).text()


async def test_two_replicas_share_the_reads(pair: Pair, serve: Serve) -> None:
    """The one with fewer requests answers, and one that is not there does not matter."""
    urls = [pair.replica_url, f"{pair.replica_url}&application_name=other", "postgresql://nobody@127.0.0.1:1/none"]
    client = await serve(RESOURCES, json.dumps({"database": {"url": pair.url, "replicas": urls}}), url=pair.url)
    first, second, away = replicas_of(client).all
    await pair.sql.execute("INSERT INTO notes (id, text) VALUES (1, 'a')")
    await pair.replayed()
    await until(lambda: first.watch.moment is not None and second.watch.moment is not None)
    await until(lambda: min(first.watch.lag, second.watch.lag) < 0.2)
    answers = await asyncio.gather(*(client.get(f"/notes/?text={number % 2}") for number in range(60)))
    assert {answer.status for answer in answers} == {200}
    reads = replicas_of(client).reads
    assert min(reads[first.name], reads[second.name]) > 10
    assert reads[away.name] == 0


async def test_the_doctor_examines_replicas(pair: Pair, serve: Serve) -> None:
    """It reports a standby, and names what keeps one from being read: also to a role that may do little."""
    client = await serve(RESOURCES, settings_of(pair), url=pair.url)
    tables = client.app[SERVICE].store.queries.tables

    async def examined(*urls: str) -> list[Finding]:
        settings = DatabaseSettings(url=pair.url, replicas=urls, replica_max_lag=1.0)
        return await examine_replicas(settings, tables, lambda: asyncpg.connect(pair.url))

    await pair.replayed()
    (fine,) = await examined(pair.replica_url)
    assert not fine.wrong
    assert "as postgres" in fine.message
    assert "a standby, current within" in fine.message
    away, primary = await examined("postgresql://nobody@127.0.0.1:1/none", pair.url)
    assert away.wrong
    assert away.message.startswith("127.0.0.1:1: cannot be reached")
    assert primary.wrong
    assert primary.message.endswith("is not a standby")
    async with paused(pair.replica):
        (behind,) = await examined(pair.replica_url)
        assert "pg_wal_replay_resume" in behind.message
    others = DatabaseSettings(
        url=pair.url, replicas=(pair.replica_url.replace("postgres@", "other@"),), default_role="web"
    )
    await pair.sql.execute("DROP ROLE IF EXISTS other; CREATE ROLE other LOGIN SUPERUSER")
    await pair.replayed()
    (as_other,) = await examine_replicas(others, tables, lambda: asyncpg.connect(pair.url))
    assert as_other.wrong
    assert "is read as other, and not as postgres" in as_other.message
    await pair.sql.execute("DROP ROLE other")
    await pair.sql.execute("DROP ROLE IF EXISTS little")
    await pair.sql.execute("CREATE ROLE little LOGIN; GRANT SELECT ON notes TO little")
    await pair.replayed()
    as_little = pair.replica_url.replace("postgres@", "little@")
    assert [each.message.partition(": ")[2].partition(":")[0] for each in await examined(as_little)] == [
        "the role little lacks USAGE on the schema rowcast", "the role little lacks SELECT on owners"
    ]  # fmt: skip
    await pair.sql.execute(
        "GRANT USAGE ON SCHEMA rowcast TO little; GRANT SELECT ON owners, rowcast.change, rowcast.tick, rowcast.epoch, rowcast.change TO little"
    )
    await pair.replayed()
    (fine,) = await examined(as_little)
    assert not fine.wrong, fine.message
    restricted = json.dumps({"database": {"url": pair.url, "replicas": [as_little]}})
    other = await serve(RESOURCES, restricted, url=pair.url)
    await until_read(other)
    assert (await other.get("/notes/")).status == 200
    assert replicas_of(other).reads[only(other).name] == 1
    await pair.sql.execute("DROP OWNED BY little")
    await pair.sql.execute("DROP ROLE little")
