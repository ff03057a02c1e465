"""Streams of one row, and of several resources on one connection."""

from __future__ import annotations

import asyncpg
import pytest

from tests.conftest import Serve
from tests.sse import listen
from tests.stream.test_access import JWT, SCOPED, bearer
from tests.stream.test_access import RESOURCES as GUARDED
from tests.stream.test_events import RESOURCES, next_change, ready

HIDDEN = "fields: {name: {type: string}}\nviewset: {permission_classes: [AllowAny], stream_enabled: false}"


OWN_DISPATCH = """
from rowcast import ModelViewSet, PermissionDenied

class Guarded(ModelViewSet):
    async def dispatch(self, http):
        raise PermissionDenied()

class Gated(ModelViewSet):
    async def initial(self, request):
        await super().initial(request)
        raise PermissionDenied()
"""
pytestmark = pytest.mark.tables(RESOURCES)


async def test_stream_of_one_row(serve: Serve, sql: asyncpg.Connection) -> None:
    """It sends one row's changes, its deletion, and its return; a missing row has no stream."""
    client = await serve(RESOURCES)
    await sql.execute("INSERT INTO notes (id, text) VALUES (1, 'a'), (2, 'b')")
    async with listen(client, "/notes/2/stream/") as source:
        assert (await ready(source)).json() == {"resource": "notes"}
        await sql.execute("UPDATE notes SET done = true")
        event = await next_change(source)
        assert (event["action"], event["id"], event["changed"]) == ("UPDATE", 2, ["done"])
        await sql.execute("DELETE FROM notes")
        assert (await next_change(source))["action"] == "DELETE"
        await sql.execute("INSERT INTO notes (id, text) VALUES (1, 'a'), (2, 'again')")
        event = await next_change(source)
        assert (event["action"], event["data"]["text"]) == ("INSERT", "again")
    async with listen(client, "/notes/2/stream?fields=text&done=false", last_id=source.last_id) as source:
        await ready(source)
        await sql.execute("UPDATE notes SET text = 'b'")
        assert (await next_change(source))["data"] == {"text": "b"}
    for path in ("/notes/3/stream/", "/notes/x/stream/", "/notes/2/stream/?done=true"):
        response = await client.get(path)
        assert (response.status, response.content_type) == (404, "application/problem+json"), path
    assert (await client.get("/notes/2/stream/?colour=red")).status == 400
    assert (await client.head("/notes/2/stream/")).status == 200


async def test_stream_of_one_row_is_within_the_scope(serve: Serve, sql: asyncpg.Connection) -> None:
    """A row outside the scope is a 404, and one that leaves the scope leaves the stream with its id alone."""
    client = await serve(GUARDED, service=JWT, modules={"viewsets": SCOPED})
    await sql.execute("INSERT INTO tasks (id, title, user_id) VALUES (1, 'plan', 'ann')")
    assert (await client.get("/tasks/1/stream/", headers=bearer("bob"))).status == 404
    assert (await client.get("/tasks/1/stream/")).status == 401
    async with listen(client, "/tasks/1/stream/", headers=bearer("ann")) as source:
        await ready(source)
        await sql.execute("UPDATE tasks SET user_id = 'bob', title = 'secret'")
        event = await source.next()
        assert "secret" not in event.data
        assert (event.json()["action"], event.json()["cause"]) == ("DELETE", "UPDATE")


async def test_several_resources_come_in_one_order(serve: Serve, sql: asyncpg.Connection) -> None:
    """The changes of one transaction on two tables are sent in the order of writing, and can be resumed in between."""
    client = await serve(RESOURCES)
    async with (
        listen(client, "/stream/?resources=notes,owners&notes.done=true&owners.fields=name") as source,
        listen(client, "/stream?resources=notes,owners&notes.owner__name=ann") as filtered,
    ):
        assert (await ready(source)).json() == {"resources": ["notes", "owners"]}
        await ready(filtered)
        await sql.execute(
            """INSERT INTO owners (id, name) VALUES (1, 'ann'); INSERT INTO notes (id, text, done) VALUES (1, 'a', true);
            INSERT INTO notes (id, text) VALUES (2, 'b'); INSERT INTO labels (id, name) VALUES (1, 'unseen');
            UPDATE owners SET name = 'bob'; UPDATE notes SET owner_id = 1"""
        )
        events = await source.take(4)
        assert [(e.json()["resource"], e.json()["action"]) for e in events] == [
            ("owners", "INSERT"), ("notes", "INSERT"), ("owners", "UPDATE"), ("notes", "UPDATE"),
        ]  # fmt: skip
        assert events[0].json()["data"] == {"name": "ann"}
        assert len({event.id for event in events}) == 4
        assert [(await next_change(filtered))["resource"] for _ in range(2)] == ["owners", "owners"]
        await sql.execute("TRUNCATE labels CASCADE; TRUNCATE owners CASCADE")
        resets = [await source.next() for _ in range(2)]
        assert {reset.json()["resource"] for reset in resets} == {"notes", "owners"}
        assert {reset.event for reset in resets} == {"reset"}
    path = "/stream/?resources=owners,notes&notes.done=true&owners.fields=name"
    async with listen(client, path, last_id=events[1].id) as source:
        await ready(source)
        assert [event.id for event in await source.take(2)] == [event.id for event in events[2:]]
    async with listen(client, "/stream/?resources=notes,owners", last_id="nonsense") as source:
        assert (await source.next()).json() == {"resources": ["notes", "owners"], "reason": "malformed"}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "labels, notes, owners"),
        ("?resources=", "labels, notes, owners"),
        ("?resources=note", "did you mean notes"),
        ("?resources=notes,hidden", "valid here: labels, notes, owners"),
        ("?resources=notes&done=true", "done: unknown parameter"),
        ("?resources=notes&owners.name=a", "owners.name: unknown parameter"),
        ("?resources=notes&notes.colour=red", "notes.colour: unknown parameter"),
        ("?resources=notes&notes.done=perhaps", "notes.done: Not a valid boolean"),
        ("?resources=notes&notes.text__regex=(", "notes.text__regex: not a valid regular expression"),
        ("?resources=notes&snapshot=perhaps", "snapshot: Not a valid boolean"),
    ],
)
async def test_several_resources_need_good_parameters(serve: Serve, query: str, message: str) -> None:
    """A wrong parameter is a 400 before a stream begins, with what is wrong and what is valid."""
    notes = RESOURCES["notes"].replace("text: [exact, icontains]", "text: [exact, regex]")
    client = await serve({**RESOURCES, "notes": notes, "hidden": HIDDEN})
    response = await client.get(f"/stream/{query}")
    assert (response.status, response.content_type) == (400, "application/problem+json")
    assert message in (await response.json())["detail"]
    assert (await client.head("/stream/?resources=notes")).status == 200


async def test_each_of_several_resources_has_its_own_access(serve: Serve, sql: asyncpg.Connection) -> None:
    """A caller needs the permissions of all streams to open them together, and each has its own scope."""
    client = await serve(GUARDED, service=JWT, modules={"viewsets": SCOPED})
    assert (await client.get("/stream/?resources=projects,tasks")).status == 401
    token = bearer("ann")["Authorization"].removeprefix("Bearer ")
    async with (
        listen(client, "/stream/?resources=projects") as projects,
        listen(client, f"/stream/?resources=projects,tasks&access_token={token}") as both,
    ):
        await ready(projects)
        await ready(both)
        await sql.execute("INSERT INTO tasks (id, title, user_id) VALUES (1, 'x', 'bob'), (2, 'y', 'ann')")
        await sql.execute("INSERT INTO projects (id, name) VALUES (1, 'p')")
        assert (await next_change(projects))["resource"] == "projects"
        assert [((event := await next_change(both))["resource"], event["id"]) for _ in range(2)] == [
            ("tasks", 2),
            ("projects", 1),
        ]


async def test_viewset_with_a_dispatch_of_its_own_has_its_own_stream_only(serve: Serve) -> None:
    """What ``dispatch`` and ``initial`` of a viewset refuse, the stream of several resources does not send."""
    for viewset, status in (("Guarded", 400), ("Gated", 403)):
        notes = RESOURCES["notes"].replace("permission_classes: [AllowAny]", f"class: 'viewsets:{viewset}'")
        client = await serve({**RESOURCES, "notes": notes}, modules={"viewsets": OWN_DISPATCH})
        response = await client.get("/stream/?resources=owners,notes")
        assert response.status == status
        assert (await client.get("/notes/stream/")).status == 403
