"""The event of each kind of change, and its form."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any
from unittest import mock

import asyncpg
import pytest

from rowcast.rest.plan import SERVICE
from rowcast.streams.group import Group
from rowcast.streams.hub import HEARTBEAT_PARTS
from tests.conftest import Serve
from tests.sse import Event, EventSource, listen
from tests.waiting import until

NOTES = """
fields:
  id: {type: integer, primary_key: true}
  text: {type: string, max_length: 50}
  done: {type: boolean, default: false}
  secret: {type: string, null: true, write_only: true}
  price: {type: decimal, max_digits: 10, decimal_places: 2, null: true}
  owner: {type: foreign_key, to: owners, null: true, on_delete: cascade}
  labels: {type: many_to_many, to: labels}
viewset:
  permission_classes: [AllowAny]
  filterset_fields:
    done: [exact]
    text: [exact, icontains]
    owner__name: [exact]
    price: [gte]
    labels: [exact, in, isnull]
    labels__name: [exact]
  search_fields: [text]
  ordering_fields: [text]
"""
OWNERS = (
    "fields: {id: {type: integer, primary_key: true}, name: {type: string}}\nviewset: {permission_classes: [AllowAny]}"
)
RESOURCES = {"notes": NOTES, "owners": OWNERS, "labels": OWNERS}


pytestmark = pytest.mark.tables(RESOURCES)


async def next_change(source: EventSource) -> dict[str, Any]:
    """The next lifecycle event's data."""
    event = await source.next()
    assert event.event == "message", event
    body: dict[str, Any] = event.json()
    return body


async def ready(source: EventSource) -> Event:
    """The block that opens a stream."""
    event = await source.next()
    assert event.event == "ready", event
    return event


async def test_stream_begins_with_ready(serve: Serve) -> None:
    """The first block names the resource and a position to resume from, and asks for 2 s before a reconnect."""
    client = await serve(RESOURCES)
    async with listen(client, "/notes/stream/") as source:
        greeting = await ready(source)
        assert greeting.json() == {"resource": "notes"}
        assert greeting.id
        assert source.retry in range(1000, 3001)
        assert source.response.headers["Content-Type"].startswith("text/event-stream")
        assert "no-cache" in source.response.headers["Cache-Control"]


async def test_rest_changes_are_sent(serve: Serve) -> None:
    """Creating, changing and deleting through REST is an INSERT, an UPDATE and a DELETE with the row as in the response."""
    client = await serve(RESOURCES)
    async with listen(client, "/notes/stream") as source:
        await ready(source)
        created = await (await client.post("/notes/", json={"text": "a", "price": "1.50", "secret": "s"})).json()
        event = await next_change(source)
        assert event["data"] == created
        assert (event["action"], event["resource"], event["id"]) == ("INSERT", "notes", created["id"])
        assert {"at", "seq"} <= event.keys()
        changed = await (await client.patch(f"/notes/{created['id']}/", json={"done": True})).json()
        event = await next_change(source)
        assert (event["action"], event["data"], event["changed"]) == ("UPDATE", changed, ["done"])
        await client.delete(f"/notes/{created['id']}/")
        event = await next_change(source)
        assert (event["action"], event["id"], event["data"]) == ("DELETE", created["id"], None)


async def test_direct_sql_is_sent(serve: Serve, sql: asyncpg.Connection) -> None:
    """INSERT, COPY, upsert, a cascade and a bulk UPDATE of psql are sent, statement by statement."""
    client = await serve(RESOURCES)
    async with listen(client, "/notes/stream/") as source:
        await ready(source)
        await sql.execute("INSERT INTO owners (id, name) VALUES (1, 'o')")
        await sql.execute("INSERT INTO notes (id, text, owner_id) VALUES (1, 'a', 1), (2, 'b', 1)")
        assert [(await next_change(source))["id"] for _ in range(2)] == [1, 2]
        await sql.copy_records_to_table("notes", records=[(3, "c"), (4, "d")], columns=["id", "text"])
        assert [(await next_change(source))["data"]["text"] for _ in range(2)] == ["c", "d"]
        await sql.execute("INSERT INTO notes (id, text) VALUES (3, 'x') ON CONFLICT (id) DO UPDATE SET text = 'up'")
        event = await next_change(source)
        assert (event["action"], event["id"], event["changed"]) == ("UPDATE", 3, ["text"])
        await sql.execute("UPDATE notes SET done = true WHERE id > 2")
        assert {(await next_change(source))["id"] for _ in range(2)} == {3, 4}
        await sql.execute("DELETE FROM owners")
        events = [await next_change(source) for _ in range(2)]
        assert {(event["action"], event["id"]) for event in events} == {("DELETE", 1), ("DELETE", 2)}


async def test_rolled_back_changes_are_never_sent(serve: Serve, sql: asyncpg.Connection) -> None:
    """A rollback and a rolled back savepoint leave no event; what commits after them is the next one."""
    client = await serve(RESOURCES)
    async with listen(client, "/notes/stream/") as source:
        await ready(source)
        transaction = sql.transaction()
        await transaction.start()
        await sql.execute("INSERT INTO notes (id, text) VALUES (1, 'gone')")
        await transaction.rollback()
        async with sql.transaction():
            await sql.execute("SAVEPOINT s; INSERT INTO notes (id, text) VALUES (2, 'gone'); ROLLBACK TO s")
            await sql.execute("INSERT INTO notes (id, text) VALUES (3, 'kept')")
        assert (await next_change(source))["id"] == 3


async def test_write_only_fields_never_appear(serve: Serve, sql: asyncpg.Connection) -> None:
    """A write_only field is neither in the bytes of an event nor named as changed."""
    client = await serve(RESOURCES)
    async with listen(client, "/notes/stream/") as source:
        await ready(source)
        await sql.execute("INSERT INTO notes (id, text, secret) VALUES (1, 'a', 'hunter2')")
        await sql.execute("UPDATE notes SET secret = 'hunter3', text = 'b'")
        for event in await source.take(2):
            assert "secret" not in event.data
            assert "hunter" not in event.data


async def test_change_of_links_is_an_update_of_the_owner(serve: Serve, sql: asyncpg.Connection) -> None:
    """Links written by REST or SQL are an UPDATE of the declaring row that names the field."""
    client = await serve(RESOURCES)
    await sql.execute(
        "INSERT INTO labels (id, name) VALUES (1, 'l'), (2, 'm'); INSERT INTO notes (id, text) VALUES (1, 'a')"
    )
    async with listen(client, "/notes/stream/") as source:
        await ready(source)
        await client.patch("/notes/1/", json={"labels": [1, 2]})
        event = await next_change(source)
        assert (event["action"], event["id"], event["changed"]) == ("UPDATE", 1, ["labels"])
        await sql.execute("DELETE FROM labels WHERE id = 2")
        event = await next_change(source)
        assert (event["action"], event["id"], event["changed"]) == ("UPDATE", 1, ["labels"])


async def test_change_of_key_is_a_delete_and_an_insert(serve: Serve, sql: asyncpg.Connection) -> None:
    """A row whose key changes leaves under the old key and comes under the new one."""
    client = await serve(RESOURCES)
    await sql.execute("INSERT INTO notes (id, text) VALUES (1, 'a')")
    async with listen(client, "/notes/stream/") as source:
        await ready(source)
        await sql.execute("UPDATE notes SET id = 7")
        events = [await next_change(source) for _ in range(2)]
        assert [(event["action"], event["id"]) for event in events] == [("DELETE", 1), ("INSERT", 7)]


async def test_truncate_is_a_reset(serve: Serve, sql: asyncpg.Connection) -> None:
    """TRUNCATE is one reset with its reason, after which the stream goes on."""
    client = await serve(RESOURCES)
    await sql.execute("INSERT INTO notes (id, text) VALUES (1, 'a')")
    async with listen(client, "/notes/stream/") as source:
        await ready(source)
        await sql.execute("TRUNCATE notes CASCADE")
        event = await source.next()
        assert (event.event, event.json()["reason"]) == ("reset", "truncated")
        await sql.execute("INSERT INTO notes (id, text) VALUES (2, 'b')")
        while (event := await source.next()).event == "reset":
            pass  # a truncated table of links resets its owner, too
        assert event.json()["id"] == 2


async def test_filters_decide_by_old_and_new_row(serve: Serve, sql: asyncpg.Connection) -> None:
    """A row that enters a filtered view is an INSERT, one that leaves it a DELETE without data, each with its cause."""
    client = await serve(RESOURCES)
    await sql.execute("INSERT INTO notes (id, text) VALUES (1, 'a')")
    async with listen(client, "/notes/stream/?done=true") as source:
        await ready(source)
        await sql.execute("UPDATE notes SET text = 'unseen'")
        await sql.execute("UPDATE notes SET done = true")
        event = await next_change(source)
        assert (event["action"], event["cause"], event["data"]["done"]) == ("INSERT", "UPDATE", True)
        await sql.execute("UPDATE notes SET text = 'b'")
        assert (await next_change(source))["action"] == "UPDATE"
        await sql.execute("UPDATE notes SET done = false, text = 'hidden'")
        event = await next_change(source)
        assert (event["action"], event["cause"], event["data"]) == ("DELETE", "UPDATE", None)
        assert "hidden" not in str(event)
        await sql.execute("DELETE FROM notes; INSERT INTO notes (id, text, done) VALUES (2, 'fence', true)")
        assert (await next_change(source))["id"] == 2


async def test_filters_that_only_the_database_can_evaluate(serve: Serve, sql: asyncpg.Connection) -> None:
    """A filter over a relation, and one that ignores case, match as in ``list``."""
    client = await serve(RESOURCES)
    await sql.execute("INSERT INTO owners (id, name) VALUES (1, 'ann'), (2, 'bob')")
    async with (
        listen(client, "/notes/stream/?owner__name=ann") as of_ann,
        listen(client, "/notes/stream/?text__icontains=ÄB") as like,
        listen(client, "/notes/stream/?search=äb") as found,
    ):
        for source in (of_ann, like, found):
            await ready(source)
        await sql.execute("INSERT INTO notes (id, text, owner_id) VALUES (1, 'x', 2), (2, 'äbc', 2), (3, 'x', 1)")
        assert (await next_change(of_ann))["id"] == 3
        assert (await next_change(like))["id"] == 2
        assert (await next_change(found))["id"] == 2
        await sql.execute("UPDATE notes SET owner_id = 1 WHERE id = 1; UPDATE notes SET owner_id = 2 WHERE id = 3")
        event = await next_change(of_ann)
        assert (event["action"], event["id"], event["cause"]) == ("INSERT", 1, "UPDATE")
        event = await next_change(of_ann)
        assert (event["action"], event["id"], event["cause"]) == ("DELETE", 3, "UPDATE")


async def test_fields_narrow_the_data(serve: Serve, sql: asyncpg.Connection) -> None:
    """``?fields=`` narrows the data and nothing else."""
    client = await serve(RESOURCES)
    async with listen(client, "/notes/stream/?fields=id,text") as source:
        await ready(source)
        await sql.execute("INSERT INTO notes (id, text) VALUES (1, 'a')")
        assert (await next_change(source))["data"] == {"id": 1, "text": "a"}
        await sql.execute("UPDATE notes SET done = true")
        assert (await next_change(source))["changed"] == ["done"]


async def test_parameters_are_checked_as_for_a_list(serve: Serve) -> None:
    """An unknown parameter or a value that does not parse is a 400 problem, not a silent stream of everything."""
    client = await serve(RESOURCES)
    for query in ("colour=red", "done=perhaps", "ordering=text", "page=1", "fields=nope"):
        response = await client.get(f"/notes/stream/?{query}")
        assert response.status == 400, query
        assert response.content_type == "application/problem+json"
    assert (await client.head("/notes/stream/")).status == 200
    assert (await client.post("/notes/stream/")).status == 405


async def test_disabled_stream_is_absent(serve: Serve) -> None:
    """``stream_enabled: false`` makes the route a 404."""
    client = await serve({"logs": OWNERS.replace("{permission", "{stream_enabled: false, permission")})
    assert (await client.get("/logs/stream/")).status == 404


async def test_heartbeats_keep_a_quiet_stream_alive(serve: Serve) -> None:
    """A comment with the newest position is sent at the configured interval; groups without clients are dropped."""
    client = await serve(RESOURCES, service="stream: {heartbeat: 100ms}")
    hub = client.app[SERVICE].hub
    for path in ("/notes/stream/", "/notes/stream/?owner__name=ann"):
        async with listen(client, path) as source:
            await ready(source)
            content = source.response.content
            block = await content.readuntil(b"\n\n")
            assert block.startswith(b":")
            assert b"id: " in block
            assert hub.groups
    await until(lambda: not (hub.groups or hub.groups.to_revisit))


async def test_heartbeats_of_many_streams_are_spread_over_the_interval(serve: Serve) -> None:
    """Streams with different filters have theirs in turns, and each has one when all have had their turn."""
    client = await serve(RESOURCES, service="stream: {heartbeat: 1h}")
    hub = client.app[SERVICE].hub
    async with AsyncExitStack() as stack:
        for number in range(2 * HEARTBEAT_PARTS):
            source = await stack.enter_async_context(listen(client, f"/notes/stream/?owner__name={number}"))
            await ready(source)
        turns: list[list[Group]] = []
        with mock.patch.object(Group, "keep_alive", autospec=True, side_effect=lambda group: turns[-1].append(group)):
            for _ in range(HEARTBEAT_PARTS):
                turns.append([])
                await hub.send_heartbeats()
        assert [len(turn) for turn in turns] == [2] * HEARTBEAT_PARTS
        assert {group for turn in turns for group in turn} == set(hub.groups)


@pytest.mark.parametrize("query", ["labels=1", "labels__in=1,7", "labels__name=red", "labels=1&text__icontains=A"])
async def test_links_of_a_row_decide_as_they_were(serve: Serve, sql: asyncpg.Connection, query: str) -> None:
    """A row enters and leaves a filter with the event that changed its links, although they have changed since."""
    client = await serve(RESOURCES)
    await sql.execute("INSERT INTO labels (id, name) OVERRIDING SYSTEM VALUE VALUES (1, 'red'), (2, 'blue')")
    async with (
        listen(client, f"/notes/stream/?{query}") as source,
        listen(client, "/notes/stream/?labels__isnull=true") as bare,
    ):
        await ready(source)
        await ready(bare)
        note = await (await client.post("/notes/", json={"text": "a"})).json()
        async with sql.transaction():
            await sql.execute("INSERT INTO notes_labels (note_id, label_id) VALUES ($1, 1)", note["id"])
            await sql.execute("UPDATE notes SET done = true")
            await sql.execute("DELETE FROM notes_labels")
            await sql.execute("INSERT INTO notes_labels (note_id, label_id) VALUES ($1, 2)", note["id"])
        assert (await client.patch(f"/notes/{note['id']}/", json={"labels": [2, 1]})).status == 200
        assert (await client.patch(f"/notes/{note['id']}/", json={"labels": [2]})).status == 200
        assert (await client.post("/notes/", json={"text": "fence A", "labels": [1]})).status == 201
        events = [await next_change(source) for _ in range(6)]
        assert [(event["action"], event.get("cause")) for event in events] == [
            ("INSERT", "UPDATE"),
            ("UPDATE", None),
            ("DELETE", "UPDATE"),
            ("INSERT", "UPDATE"),
            ("DELETE", "UPDATE"),
            ("INSERT", "UPDATE"),
        ]
        assert [event["id"] for event in events[:5]] == [note["id"]] * 5
        assert events[1]["changed"] == ["done"]
        unlinked = [await next_change(bare) for _ in range(4)]
        assert [(event["action"], event.get("cause"), event["id"]) for event in unlinked] == [
            ("INSERT", None, note["id"]),
            ("DELETE", "UPDATE", note["id"]),
            ("INSERT", "UPDATE", note["id"]),
            ("DELETE", "UPDATE", note["id"]),
        ]


async def test_row_enters_and_leaves_a_filter_by_links_once(serve: Serve, sql: asyncpg.Connection) -> None:
    """Each row is told to be there once, however many rows and links a request writes."""
    client = await serve(RESOURCES)
    await sql.execute("INSERT INTO labels (id, name) OVERRIDING SYSTEM VALUE VALUES (1, 'red'), (2, 'blue')")
    async with (
        listen(client, "/notes/stream/?labels=1") as red,
        listen(client, "/notes/stream/?labels=2") as blue,
    ):
        await ready(red)
        await ready(blue)
        rows = [{"text": "a", "labels": [1]}, {"text": "b", "labels": [1]}]
        a, b = await (await client.post("/notes/", json=rows)).json()
        await client.patch(f"/notes/{a['id']}/", json={"text": "c", "labels": [2]})
        operations = [
            {"method": "PATCH", "path": f"/notes/{b['id']}/", "body": {"labels": [2]}},
            {"method": "POST", "path": "/notes/", "body": {"text": "d", "labels": [1, 2]}, "ref": "d"},
            {"method": "DELETE", "path": "/notes/{d}/"},
        ]
        assert (await client.post("/batch/", json={"operations": operations})).status == 200
        fence = (await (await client.post("/notes/", json={"text": "fence", "labels": [1, 2]})).json())["id"]
        told: dict[EventSource, list[tuple[str, int]]] = {red: [], blue: []}
        for source, events in told.items():
            while not events or events[-1][1] != fence:
                event = await next_change(source)
                events.append((event["action"], event["id"]))
        d = b["id"] + 1
        rest = [("INSERT", d), ("DELETE", d), ("INSERT", fence)]
        assert told[red] == [
            *[("INSERT", a["id"]), ("INSERT", b["id"])],
            *[("UPDATE", a["id"]), ("DELETE", a["id"]), ("DELETE", b["id"])],
            *rest,
        ]
        assert told[blue] == [("INSERT", a["id"]), ("INSERT", b["id"]), *rest]


TWICE = """
from marshmallow import post_dump
from rowcast import DefaultRouter, ModelViewSet, Serializer, model

class NoteSerializer(Serializer):
    class Meta:
        model = model("notes")

class HookedSerializer(NoteSerializer):
    @post_dump
    def same(self, data, **kwargs):
        return data

class PlainViewSet(ModelViewSet):
    model = model("notes")
    serializer_class = NoteSerializer
    select_related = ["owner"]
    prefetch_related = ["labels"]

class HookedViewSet(PlainViewSet):
    serializer_class = HookedSerializer

router = DefaultRouter()
router.register("plain", PlainViewSet, basename="plain")
router.register("hooked", HookedViewSet, basename="hooked")
"""


@pytest.mark.parametrize("query", ["", "?fields=id,labels", "?fields=text"])
async def test_rows_are_the_same_with_and_without_python(serve: Serve, sql: asyncpg.Connection, query: str) -> None:
    """Links are keys, in events and in snapshots, whether PostgreSQL or Python makes the row."""
    await sql.execute("INSERT INTO labels (name) VALUES ('a'), ('b')")
    await sql.execute("INSERT INTO owners (name) VALUES ('o')")
    client = await serve(RESOURCES, "auth: {default_permission_classes: [AllowAny]}", modules={"urls": TWICE})
    async with listen(client, f"/plain/stream/{query}") as plain, listen(client, f"/hooked/stream/{query}") as hooked:
        await ready(plain)
        await ready(hooked)
        row = await (await client.post("/notes/", json={"text": "t", "owner_id": 1, "labels": [2, 1]})).json()
        await client.patch(f"/notes/{row['id']}/", json={"labels": [2], "text": "u"})
        await client.delete(f"/notes/{row['id']}/")
        while True:
            event = await next_change(plain)
            assert await next_change(hooked) == event
            if event["action"] == "DELETE":
                break
            assert ("labels" in event["data"]) == ("text" not in query)
    await client.post("/notes/", json={"text": "t", "labels": [1, 2]})
    snapshot = f"{query}{'&' if query else '?'}snapshot=true"
    async with (
        listen(client, f"/plain/stream/{snapshot}") as plain,
        listen(client, f"/hooked/stream/{snapshot}") as hooked,
    ):
        first, second = [(await source.next()).json()["rows"] for source in (plain, hooked)]
        assert first == second
        assert first[0].get("labels") == (None if "text" in query else [1, 2])
