"""Streams with ``?expand=``: an event's row is what the list shows, and changes of related rows are announced."""

from __future__ import annotations

import json
from typing import Any

import asyncpg
import pytest

from rowcast.testing.client import Client
from tests.conftest import Serve
from tests.sse import EventSource, listen
from tests.stream.test_events import next_change, ready

TASKS = """
fields:
  id: {type: integer, primary_key: true}
  title: {type: string}
  secret: {type: string, null: true, write_only: true}
  price: {type: decimal, max_digits: 10, decimal_places: 2, null: true}
  category: {type: foreign_key, to: categories, null: true, on_delete: set_null}
  tags: {type: many_to_many, to: tags, related_name: tasks}
viewset: {permission_classes: [AllowAny], filterset_fields: {category: [exact], title: [icontains]}, select_related: [category]}
"""
COMMENTS = """
fields:
  id: {type: integer, primary_key: true}
  text: {type: string}
  hidden: {type: boolean, default: false}
  task: {type: foreign_key, to: tasks, on_delete: cascade, related_name: comments}
viewset: {permission_classes: [AllowAny], scope: {hidden: false}}
"""
NAMED = (
    "fields: {id: {type: integer, primary_key: true}, name: {type: string}}\nviewset: {permission_classes: [AllowAny]}"
)
CLOSED = """
fields: {id: {type: integer, primary_key: true}, task: {type: foreign_key, to: tasks, on_delete: cascade, related_name: bills}}
viewset: {permission_classes: [IsAdminUser]}
"""
SHOUTED = """
fields:
  id: {type: integer, primary_key: true}
  name: {type: string}
  pin: {type: string, null: true, write_only: true}
  category: {type: foreign_key, to: categories, null: true}
viewset: {class: viewsets:ShoutedViewSet, permission_classes: [AllowAny]}
"""
PYTHON = """
from rowcast import ModelViewSet, Serializer, model
from marshmallow import fields

Shouted = model("shouted")

class ShoutedSerializer(Serializer):
    loud = fields.Method("get_loud")

    class Meta:
        fields = ("id", "name", "category_id", "loud")

    def get_loud(self, row):
        return row.name.upper() + "!"

class ShoutedViewSet(ModelViewSet):
    model = Shouted
    serializer_class = ShoutedSerializer
    select_related = ["category"]
"""
RESOURCES = {
    "tasks": TASKS, "categories": NAMED, "tags": NAMED, "comments": COMMENTS, "bills": CLOSED, "shouted": SHOUTED,
}  # fmt: skip
pytestmark = pytest.mark.tables(RESOURCES)


async def next_stale(source: EventSource) -> dict[str, Any]:
    """The next announcement of changed related rows."""
    event = await source.next()
    assert event.event == "stale", event
    body: dict[str, Any] = event.json()
    return body


async def row(client: Client, path: str, key: int) -> dict[str, Any]:
    """A row as the list shows it."""
    page = await (await client.get(path)).json()
    return next(each for each in page["results"] if each["id"] == key)


async def start(serve: Serve, sql: asyncpg.Connection) -> Client:
    """A service with some rows."""
    client = await serve(RESOURCES, modules={"viewsets": PYTHON})
    await sql.execute(
        "INSERT INTO categories VALUES (1, 'home'), (2, 'work'); INSERT INTO tags VALUES (1, 'a'), (2, 'b');"
        "INSERT INTO tasks (id, title, category_id) VALUES (1, 'one', 1), (2, 'two', NULL);"
        "INSERT INTO comments (id, text, hidden, task_id) VALUES (1, 'c', false, 1), (2, 'hidden', true, 1), (9, 'line\nbreak', false, 1)"
    )
    return client


@pytest.mark.parametrize("expand", ["tags,comments", "tags", "category", "", "comments&fields=title,comments"])
async def test_an_event_shows_what_the_list_shows(serve: Serve, sql: asyncpg.Connection, expand: str) -> None:
    """With the relations of the options and those of the request, within the scopes of their rows; with ``fields``."""
    client = await start(serve, sql)
    shown = f"/tasks/?expand={expand}"
    async with listen(client, f"/tasks/stream/?expand={expand}") as source:
        await ready(source)
        await client.post("/tasks/", json={"title": "new", "price": "1.50", "category_id": 2})
        event = await next_change(source)
        listed = (await (await client.get(shown)).json())["results"]
        assert event["data"] in listed
        await sql.execute("UPDATE tasks SET title = 'changed', category_id = 2 WHERE id = 1")
        event = await next_change(source)
        listed = (await (await client.get(shown)).json())["results"]
        assert (event["action"], event["data"] in listed) == ("UPDATE", True)
        await sql.execute("DELETE FROM tasks WHERE id = 2")
        event = await next_change(source)
        assert (event["action"], event["data"]) == ("DELETE", None)


async def test_links_and_a_snapshot_show_related_rows(serve: Serve, sql: asyncpg.Connection) -> None:
    """A change of links is an UPDATE with the new related rows."""
    client = await start(serve, sql)
    path = "/tasks/?expand=tags,comments"
    async with listen(client, "/tasks/stream/?expand=tags,comments&snapshot=true") as source:
        rows = (await source.next()).json()["rows"]
        assert rows == (await (await client.get(path)).json())["results"]
        await ready(source)
        await client.patch("/tasks/1/", json={"tags": [2]})
        event = await next_change(source)
        assert (event["changed"], event["data"]) == (["tags"], await row(client, path, 1))


async def test_changes_of_related_rows_are_announced(serve: Serve, sql: asyncpg.Connection) -> None:
    """By the path at which they are shown; what is not shown is not announced."""
    client = await start(serve, sql)
    await client.patch("/tasks/1/", json={"tags": [1]})
    async with listen(client, "/tasks/stream/?expand=tags,comments&title__icontains=o") as source:
        await ready(source)
        await sql.execute("UPDATE categories SET name = 'House' WHERE id = 1")
        assert await next_stale(source) == {"resource": "tasks", "path": "category", "ids": [1]}
        await sql.execute("UPDATE tags SET name = 'A'")
        assert await next_stale(source) == {"resource": "tasks", "path": "tags", "ids": [1, 2]}
        await sql.execute("INSERT INTO comments (id, text, task_id) VALUES (3, 'd', 2)")
        assert await next_stale(source) == {"resource": "tasks", "path": "", "ids": [2]}
        await sql.execute("UPDATE comments SET task_id = 1 WHERE id = 3")
        assert await next_stale(source) == {"resource": "tasks", "path": "", "ids": [1, 2]}
        position = source.last_id
        await sql.execute("INSERT INTO tags VALUES (3, 'c'); INSERT INTO categories VALUES (3, 'x')")
        await sql.execute("DELETE FROM comments WHERE id = 3")
        assert await next_stale(source) == {"resource": "tasks", "path": "", "ids": [1]}
        async with listen(client, "/tasks/stream/?expand=tags,comments", last_id=position) as resumed:
            await ready(resumed)
            assert await next_stale(resumed) == {"resource": "tasks", "path": "", "ids": [1]}
        async with sql.transaction():
            await sql.execute(
                "UPDATE tasks SET title = 'on' WHERE id = 1; UPDATE categories SET name = 'z' WHERE id = 1"
            )
        events = [await source.next(), await source.next()]
        assert [event.event for event in events] == ["message", "stale"]
        await sql.execute("TRUNCATE comments")
        assert await next_stale(source) == {"resource": "tasks", "path": "", "ids": None}


async def test_from_the_other_side_of_links(serve: Serve, sql: asyncpg.Connection) -> None:
    """A row that is linked or unlinked elsewhere changes the rows on both ends."""
    client = await start(serve, sql)
    async with listen(client, "/tags/stream/?expand=tasks") as source:
        await ready(source)
        await client.patch("/tasks/1/", json={"tags": [1]})
        assert (await next_stale(source))["ids"] == [1]
        await client.patch("/tasks/1/", json={"tags": [2]})
        assert (await next_stale(source))["ids"] == [1, 2]


async def test_python_serializers_show_expansions(serve: Serve, sql: asyncpg.Connection) -> None:
    """A serializer with code, with the related rows that the list shows."""
    client = await start(serve, sql)
    async with listen(client, "/shouted/stream/?expand=category") as source:
        await ready(source)
        response = await client.post("/shouted/", json={"name": "x", "category_id": 2})
        assert response.status == 201, await response.text()
        event = await next_change(source)
        assert event["data"] == await row(client, "/shouted/?expand=category", 1)
        assert (event["data"]["loud"], event["data"]["category"]["name"]) == ("X!", "work")


@pytest.mark.parametrize(("setting", "value"), [("expand_limit", 20), ("expand_size_limit", "600B")])
async def test_a_row_with_too_many_related_rows_is_a_reset(
    serve: Serve, sql: asyncpg.Connection, setting: str, value: object
) -> None:
    """Each row has the bound of a list; others of the same transaction may have as much, and the stream goes on after it."""
    client = await serve(RESOURCES, json.dumps({"server": {setting: value}}), modules={"viewsets": PYTHON})
    await sql.execute(
        "INSERT INTO tasks (id, title) SELECT n, 'task' FROM generate_series(1, 5) n;"
        "INSERT INTO comments (id, text, task_id) SELECT n, 'comment', n % 5 + 1 FROM generate_series(1, 50) n"
    )
    async with listen(client, "/tasks/stream/?expand=comments") as source:
        await ready(source)
        await sql.execute("UPDATE tasks SET title = 'changed'")  # each of the 5 rows shows 10 related ones
        events = [await next_change(source) for _ in range(5)]
        assert [len(event["data"]["comments"]) for event in events] == [10] * 5
        await sql.execute(
            "INSERT INTO comments (id, text, task_id) SELECT n, 'comment', 1 FROM generate_series(51, 90) n"
        )
        assert (await next_stale(source))["ids"] == [1]
        await sql.execute("UPDATE tasks SET title = 'again' WHERE id < 3")
        reset = await source.next()
        assert (reset.event, reset.json()) == ("reset", {"resource": "tasks", "reason": "expansion_too_large"})
        await sql.execute("UPDATE tasks SET title = 'on' WHERE id = 2")
        event = await next_change(source)
        assert (event["id"], len(event["data"]["comments"])) == (2, 10)
    await sql.execute(
        "INSERT INTO tasks (id, title) VALUES (9, 'large');"
        "INSERT INTO comments (id, text, task_id) SELECT n, 'comment', 9 FROM generate_series(91, 150) n"
    )
    async with listen(client, "/tasks/stream/?expand=comments&snapshot=true") as source:
        found = await source.next()
        assert (found.event, found.json()["reason"]) == ("reset", "expansion_too_large")
    assert (await (await client.get("/tasks/9/?expand=comments")).json())["code"] == "expansion_too_large"


async def test_what_a_list_refuses_to_expand_a_stream_refuses(serve: Serve, sql: asyncpg.Connection) -> None:
    """Rows that the caller may not read, relations that there are not; on the combined stream, too."""
    client = await start(serve, sql)
    for path in ("/tasks/stream/?expand=", "/stream/?resources=tasks&tasks.expand="):
        for expand, status in (("bills", 401), ("colour", 400)):
            assert (await client.get(path + expand)).status == status, (path, expand)
    async with listen(client, "/stream/?resources=tasks,tags&tasks.expand=tags") as source:
        await ready(source)
        await sql.execute("UPDATE tags SET name = 'q' WHERE id = 1")
        assert (await source.next()).event == "stale"
        assert (await next_change(source))["resource"] == "tags"
