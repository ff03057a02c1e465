"""Several live queries on one connection: each is a stream of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from rowcast.testing.client import Client
from tests.conftest import Serve
from tests.sse import EventSource
from tests.stream.test_access import JWT, SCOPED, bearer
from tests.stream.test_access import RESOURCES as GUARDED
from tests.stream.test_events import RESOURCES

pytestmark = pytest.mark.tables(RESOURCES)


@asynccontextmanager
async def watch(client: Client, queries: dict[str, Any], **headers: str) -> AsyncIterator[EventSource]:
    """The connection of some queries."""
    async with client.request("QUERY", "/stream/", json={"queries": queries}, headers=headers) as response:
        assert response.status == 200, await response.text()
        yield EventSource(response)


async def take(source: EventSource, number: int) -> list[tuple[str, str, Any, str]]:
    """The next events: the query of each, its name, its data and its position."""
    found: list[tuple[str, str, Any, str]] = []
    query = ""
    while len(found) < number:
        event = await source.next()
        if event.event == "query":
            query = event.json()["query"]
        else:
            found.append((query, event.event, event.json(), event.id))
    return found


async def test_each_query_has_its_own_rows_and_positions(serve: Serve, sql: asyncpg.Connection) -> None:
    """Two queries of one resource with different filters, one of another; each resumes from its own position."""
    client = await serve(RESOURCES)
    queries: dict[str, Any] = {
        "open": {"resource": "notes", "params": {"done": False, "fields": ["text"]}},
        "all": {"resource": "notes"},
        "owners": {"resource": "owners"},
    }
    async with watch(client, queries) as source:
        opened = await take(source, 3)
        assert {(query, name) for query, name, *_ in opened} == {(name, "ready") for name in queries}
        await sql.execute("INSERT INTO notes (id, text, done) VALUES (1, 'a', false)")
        await sql.execute("INSERT INTO notes (id, text, done) VALUES (2, 'b', true)")
        await sql.execute("INSERT INTO owners (id, name) VALUES (1, 'o')")
        seen = await take(source, 4)
        assert [(query, data["id"]) for query, _, data, _ in seen if query == "all"] == [("all", 1), ("all", 2)]
        assert [data["data"] for query, _, data, _ in seen if query == "open"] == [{"text": "a"}]
        assert [data["id"] for query, _, data, _ in seen if query == "owners"] == [1]
    positions = {query: position for query, _, _, position in opened}
    positions["all"] = next(position for query, _, data, position in seen if query == "all" and data["id"] == 1)
    await sql.execute("UPDATE notes SET done = false WHERE id = 2")
    for name, query in queries.items():
        query["last_event_id"] = positions[name]
    async with watch(client, queries) as source:
        seen = [each for each in await take(source, 8) if each[1] == "message"]
        assert [(data["action"], data["id"]) for query, _, data, _ in seen if query == "all"] == [
            ("INSERT", 2), ("UPDATE", 2),
        ]  # fmt: skip
        assert [data["id"] for query, _, data, _ in seen if query == "open"] == [1, 2]
        assert [data["id"] for query, _, data, _ in seen if query == "owners"] == [1]


async def test_a_position_that_is_too_old_resets_its_query_alone(serve: Serve, sql: asyncpg.Connection) -> None:
    """The others go on."""
    client = await serve(RESOURCES)
    queries = {"a": {"resource": "notes", "last_event_id": "nonsense"}, "b": {"resource": "notes"}}
    async with watch(client, queries) as source:
        opened = await take(source, 3)
        assert sorted((query, name) for query, name, *_ in opened) == [("a", "ready"), ("a", "reset"), ("b", "ready")]
        await sql.execute("INSERT INTO notes (id, text) VALUES (1, 'a')")
        assert {query for query, *_ in await take(source, 2)} == {"a", "b"}


async def test_a_query_that_is_refused_does_not_end_the_others(serve: Serve, sql: asyncpg.Connection) -> None:
    """It is an event with the problem document; if there are no others it is the answer."""
    client = await serve(RESOURCES)
    queries: dict[str, Any] = {"a": {"resource": "notes", "params": {"colour": "red"}}, "b": {"resource": "notes"}}
    async with watch(client, queries) as source:
        event = await source.next()
        assert event.event == "refused"
        problem = event.json()["problem"]
        assert (event.json()["query"], problem["status"], problem["code"]) == ("a", 400, "unknown_parameter")
        assert (await take(source, 1))[0][:2] == ("b", "ready")
    deep: Any = {}
    for _ in range(400):
        deep = {"not": deep}
    for body, code in (
        ({"queries": {"a": queries["a"]}}, "unknown_parameter"),
        ({"queries": {"a": {"resource": "nothing"}}}, "invalid_parameter"),
        ({"queries": {"a": {"resource": "notes,notes"}}}, "invalid_parameter"),
        ({"queries": {"a": {"resource": ""}}}, "invalid_parameter"),
        ({"queries": {}}, "parse_error"),
        ({"queries": {"a": {"resource": "notes", "parms": {}}}}, "parse_error"),
        ({"queries": {"a": {"resource": "notes", "params": {"done": None}}}}, "parse_error"),
        ({"queries": {"a": {"resource": "notes", "params": {"filter": deep}}}}, "invalid_parameter"),
        ({"queries": {str(n): {"resource": "notes"} for n in range(101)}}, "parse_error"),
        ([], "parse_error"),
    ):
        async with client.request("QUERY", "/stream/", json=body) as response:
            assert (response.status, (await response.json())["code"]) == (400, code), body


@pytest.mark.tables(GUARDED)
async def test_each_query_is_within_the_scope_of_its_caller(serve: Serve, sql: asyncpg.Connection) -> None:
    """And the connection ends with the credentials."""
    client = await serve(GUARDED, service=JWT, modules={"viewsets": SCOPED})
    async with watch(client, {"t": {"resource": "tasks"}}, **bearer("ann")) as source:
        await take(source, 1)
        await sql.execute("INSERT INTO tasks (id, title, user_id) VALUES (1, 'hers', 'bob'), (2, 'mine', 'ann')")
        ((_, _, data, _),) = await take(source, 1)
        assert data["id"] == 2
    async with client.request("QUERY", "/stream/", json={"queries": {"t": {"resource": "tasks"}}}) as response:
        assert response.status == 401
