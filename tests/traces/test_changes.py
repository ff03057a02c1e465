"""One trace leads from a request to the events of its change, whichever way the change is made, and to no others."""

from __future__ import annotations

import asyncio
import json

import asyncpg
import pytest
from aiohttp import ClientResponse
from opentelemetry.trace import SpanKind

from rowcast.rest.plan import SERVICE
from rowcast.testing.client import Client
from tests.spans import Spans

from ..conftest import Serve
from ..sse import EventSource, listen
from ..stream.test_events import next_change, ready
from ..stream.test_transactions import PYTHON, RESOURCES

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SOFT = """
fields: {id: {type: integer, primary_key: true}, name: {type: string}, deleted_at: {type: datetime, null: true, read_only: true}}
soft_delete: {field: deleted_at, permission_classes: [AllowAny]}
viewset: {permission_classes: [AllowAny]}
"""
ALL = {**RESOURCES, "soft": SOFT}
CALLERS = json.dumps({"database": {"session": {"app.user": "$user.id"}}})
pytestmark = pytest.mark.tables(ALL)


async def traced(spans: Spans, source: EventSource, response: ClientResponse, events: int = 1) -> None:
    """The next events have the trace of the newest request."""
    assert response.status < 300, await response.text()
    found = {(await next_change(source)).get("traceparent") for _ in range(events)}
    assert found == {spans.traceparents()[-1]}


async def test_one_trace_leads_from_the_post_to_the_event(serve: Serve, spans: Spans) -> None:
    """The caller's trace has the request and its statement; its id is in the log row, in the event, and after a resume."""
    client = await serve(ALL, modules={"viewsets": PYTHON})
    async with listen(client, "/items/stream/") as source:
        position = (await ready(source)).id
        spans.clear()
        await client.post("/items/", json={"name": "a"}, headers={"traceparent": PARENT})
        event = await next_change(source)
    (request,) = spans.requests
    assert {f"{each.context.trace_id:032x}" for each in spans.all if each.context} == {PARENT[3:35]}
    assert [each.name for each in spans.below(request)] == ["INSERT items"]
    assert event["traceparent"] == spans.traceparents()[0]
    assert event["traceparent"][3:35] == PARENT[3:35]
    async with listen(client, f"/items/stream/?last_event_id={position}") as resumed:
        await ready(resumed)
        assert await next_change(resumed) == event


@pytest.mark.parametrize("service", ["{}", CALLERS, "direct"])
async def test_each_way_to_write_has_its_trace(
    serve: Serve, spans: Spans, sql: asyncpg.Connection, database_url: str, service: str
) -> None:
    """One row, links, arrays, by filter, by a unique rule, a batch; alone, as a caller, and as through a pooler."""
    if service == "direct":  # connections are those of a pooler, whatever is at the other end
        service = json.dumps({"database": {"url": database_url, "direct_url": database_url}})
    client = await serve(ALL, service, modules={"viewsets": PYTHON})
    async with listen(client, "/items/stream/") as source:
        await ready(source)
        await client.post("/labels/", json={"id": 1})
        for method, path, body, events in (
            ("POST", "/items/", {"name": "a"}, 1),
            ("POST", "/items/", {"name": "b", "labels": [1]}, 2),
            ("PATCH", "/items/1/", {"name": "c"}, 1),
            ("PATCH", "/items/1/", {"labels": [1]}, 1),
            ("PUT", "/items/1/", {"name": "d"}, 1),
            ("DELETE", "/items/1/", None, 1),
            ("POST", "/items/", [{"name": "e"}, {"name": "f"}], 2),
            ("PATCH", "/items/?id__in=3,4", {"labels": [1]}, 2),
            ("PATCH", "/items/", [{"id": 3, "name": "g"}, {"id": 4, "name": "h"}], 2),
            ("PUT", "/items/?on=name", [{"name": "g"}, {"name": "i"}], 1),
            ("DELETE", "/items/?id__in=2,3", None, 2),
            ("POST", "/batch/", {"operations": [{"method": "POST", "path": "/items/", "body": {"name": "j"}}]}, 1),
        ):
            async with client.request(method, path, json=body) as response:
                await traced(spans, source, response, events)
        await sql.execute("INSERT INTO items (name) VALUES ('psql')")
        assert "traceparent" not in await next_change(source)
        key = {"Idempotency-Key": "9d0e6f1c-6f0a-4a3e-8b1e-0d9b7a1c2d3e"}
        await traced(spans, source, await client.post("/items/", json={"name": "k"}, headers=key))


async def test_python_has_its_trace(serve: Serve, spans: Spans) -> None:
    """Serializers with code, and actions that use models."""
    client = await serve(ALL, modules={"viewsets": PYTHON})
    async with listen(client, "/own/stream/") as source:
        await ready(source)
        await traced(spans, source, await client.post("/own/", json={"name": " x "}))
        await traced(spans, source, await client.patch("/own/1/", json={"name": "y"}))
        await traced(spans, source, await client.post("/own/many/"), 2)
        await traced(spans, source, await client.delete("/own/1/"))


async def test_marking_as_deleted_has_its_trace(serve: Serve, spans: Spans) -> None:
    """Its statement returns no id of a transaction, so it has a transaction of its own."""
    client = await serve(ALL, modules={"viewsets": PYTHON})
    async with listen(client, "/soft/stream/") as source:
        await ready(source)
        await traced(spans, source, await client.post("/soft/", json={"name": "a"}))
        await traced(spans, source, await client.delete("/soft/1/"))
        await traced(spans, source, await client.post("/soft/1/restore/"))


async def test_a_trace_ends_with_its_transaction(serve: Serve, spans: Spans) -> None:
    """The next write on the same connection has none, if its request has none."""
    client = await serve(ALL, "database: {pool_size: 1}", modules={"viewsets": PYTHON})
    async with listen(client, "/items/stream/") as source:
        await ready(source)
        for body in ({"name": "a"}, [{"name": "b"}]):
            await traced(spans, source, await client.post("/items/", json=body))
            await client.post("/items/", json={"name": "x"}, headers={"traceparent": f"{PARENT[:-1]}0"})
            assert "traceparent" not in await next_change(source)
            await client.app[SERVICE].store.database.fetch_all("DELETE FROM items", (), changes={"items"})
            assert "traceparent" not in await next_change(source)
            assert "traceparent" not in await next_change(source)


async def test_writes_that_meet_have_each_its_own_trace(serve: Serve, spans: Spans) -> None:
    """They do not share a transaction then; those without a trace still do."""
    client: Client = await serve(ALL, modules={"viewsets": PYTHON})
    async with listen(client, "/items/stream/") as source:
        await ready(source)

        async def create(number: int) -> tuple[str, str]:
            name = f"n{number}"
            parent = f"00-{number + 1:032x}-00f067aa0ba902b7-{number % 2:02x}"
            await client.post("/items/", json={"name": name}, headers={"traceparent": parent})
            return name, parent[3:35] if number % 2 else ""

        made = dict(await asyncio.gather(*(create(number) for number in range(40))))
        events = [await next_change(source) for _ in range(40)]
        assert {event["data"]["name"]: event.get("traceparent", "")[3:35] for event in events} == made


async def test_what_a_trigger_writes_first_has_the_trace(serve: Serve, spans: Spans, sql: asyncpg.Connection) -> None:
    """A trigger of the owner's that runs before the statement changes another resource."""
    await sql.execute(
        """CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO own (name) VALUES ('noted'); RETURN NULL; END $$;
        CREATE TRIGGER note BEFORE INSERT ON items FOR EACH STATEMENT EXECUTE FUNCTION note()"""
    )
    client = await serve(ALL, modules={"viewsets": PYTHON})
    async with listen(client, "/stream/?resources=items,own") as source:
        await ready(source)
        await traced(spans, source, await client.post("/items/", json={"name": "a"}), 2)


async def test_a_traced_write_takes_no_round_trip_more(serve: Serve, spans: Spans) -> None:
    """Its one statement sets the trace; a transaction of several sets it as it begins."""
    client = await serve(ALL, modules={"viewsets": PYTHON})
    database = client.app[SERVICE].store.database
    for path, body in (("/items/", {"name": "a"}), ("/items/", [{"name": "b"}, {"name": "c"}])):
        before = database.statements
        await client.post(path, json=body)
        assert database.statements == before + 1
        statements = [each for each in spans.below(spans.requests[-1]) if each.kind is SpanKind.CLIENT]
        assert [each.name for each in statements] == ["INSERT items"]
