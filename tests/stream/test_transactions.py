"""A client recognises the events of its own changes: ``X-Transaction`` of the response is ``tx`` of the events."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from aiohttp import ClientResponse

from rowcast.testing.client import Client
from tests.conftest import Serve
from tests.sse import EventSource, listen
from tests.stream.test_events import next_change, ready

ITEMS = """
fields:
  id: {type: integer, primary_key: true}
  name: {type: string, unique: true}
  labels: {type: many_to_many, to: labels}
viewset:
  permission_classes: [AllowAny]
  filterset_fields: {id: [in, exact]}
  bulk: [update, destroy]
"""
OWN = """
fields: {id: {type: integer, primary_key: true}, name: {type: string}}
viewset: {class: viewsets:OwnViewSet, permission_classes: [AllowAny]}
"""
LABELS = "fields: {id: {type: integer, primary_key: true}}\nviewset: {permission_classes: [AllowAny]}"
RESOURCES = {"items": ITEMS, "labels": LABELS, "own": OWN}
PYTHON = """
from marshmallow import post_load
from rowcast import ModelViewSet, Serializer, action, model

Own = model("own")

class OwnSerializer(Serializer):
    class Meta:
        fields = ("id", "name")
    @post_load
    def strip(self, data, **kwargs):
        return {**data, "name": data["name"].strip()} if "name" in data else data

class OwnViewSet(ModelViewSet):
    model = Own
    serializer_class = OwnSerializer

    @action(detail=False, methods=["POST"])
    async def many(self, request):
        await Own.objects.bulk_create([Own(name="a"), Own(name="b")])
        return {"made": 2}

    @action(detail=False, methods=["POST"])
    async def nothing(self, request):
        return {"rows": await Own.objects.count()}

    @action(detail=False, methods=["POST"])
    async def refused(self, request):
        await Own.objects.create(name="c")
        return {"detail": "no"}, 409
"""
pytestmark = pytest.mark.tables(RESOURCES)


async def transaction(response: ClientResponse, source: EventSource, events: int = 1) -> str:
    """The transaction of a response, which is that of the next events."""
    assert response.status < 300, await response.text()
    found = {(await next_change(source))["tx"] for _ in range(events)}
    assert found == {response.headers["X-Transaction"]}
    return found.pop()


async def test_each_way_to_write_names_its_transaction(serve: Serve) -> None:
    """One row, links, arrays, by filter, by a unique rule, a batch: every event has the id of its own response."""
    client = await serve(RESOURCES, modules={"viewsets": PYTHON})
    await client.post("/labels/", json={"id": 1})
    async with listen(client, "/items/stream/") as source:
        await ready(source)
        seen = [
            await transaction(await client.post("/items/", json={"name": "a"}), source),
            await transaction(await client.post("/items/", json={"name": "b", "labels": [1]}), source, 2),
            await transaction(await client.patch("/items/1/", json={"name": "c"}), source),
            await transaction(await client.patch("/items/1/", json={"labels": [1]}), source),
            await transaction(await client.put("/items/1/", json={"name": "d"}), source),
            await transaction(await client.delete("/items/1/"), source),
            await transaction(await client.post("/items/", json=[{"name": "e"}, {"name": "f"}]), source, 2),
            await transaction(await client.patch("/items/?id__in=3,4", json={"labels": [1]}), source, 2),
            await transaction(
                await client.patch("/items/", json=[{"id": 3, "name": "g"}, {"id": 4, "name": "h"}]), source, 2
            ),
            await transaction(await client.put("/items/?on=name", json=[{"name": "g"}, {"name": "i"}]), source),
            await transaction(await client.delete("/items/?id__in=2,3"), source, 2),
        ]
        operations = [{"method": "POST", "path": "/items/", "body": {"name": name}} for name in ("j", "k")]
        response = await client.post("/batch/", json={"operations": operations})
        seen.append(await transaction(response, source, 2))
        assert len(set(seen)) == len(seen)
        assert all(each.isdecimal() for each in seen)


async def test_python_names_its_transaction(serve: Serve) -> None:
    """Serializers with code, actions that use models; a request that has changed nothing, or has failed, names none."""
    client = await serve(RESOURCES, modules={"viewsets": PYTHON})
    async with listen(client, "/own/stream/") as source:
        await ready(source)
        await transaction(await client.post("/own/", json={"name": " x "}), source)
        await transaction(await client.patch("/own/1/", json={"name": "y"}), source)
        await transaction(await client.post("/own/many/"), source, 2)
        assert "X-Transaction" not in (await client.post("/own/nothing/")).headers
        for response in (
            await client.post("/own/refused/"),
            await client.post("/own/", json={"nome": "x"}),
            await client.patch("/own/77/", json={"name": "x"}),
            await client.get("/own/"),
        ):
            assert "X-Transaction" not in response.headers


async def test_a_repeated_request_names_the_transaction_of_the_first(serve: Serve) -> None:
    """Its event has been sent already, under this id."""
    client = await serve(RESOURCES, modules={"viewsets": PYTHON})
    key = {"Idempotency-Key": "9d0e6f1c-6f0a-4a3e-8b1e-0d9b7a1c2d3e"}
    async with listen(client, "/items/stream/") as source:
        await ready(source)
        for path, body in (
            ("/items/", {"name": "a"}),
            ("/batch/", {"operations": [{"method": "POST", "path": "/items/", "body": {"name": "b"}}]}),
        ):
            first = await client.post(path, json=body, headers=key)
            tx = await transaction(first, source)
            again = await client.post(path, json=body, headers=key)
            assert again.headers["Idempotency-Replayed"] == "true"
            assert again.headers["X-Transaction"] == tx


async def test_concurrent_writers_are_told_apart(serve: Serve, sql: asyncpg.Connection) -> None:
    """Each event has the id of the transaction that made it, also one of psql."""
    client: Client = await serve(RESOURCES, modules={"viewsets": PYTHON})
    async with listen(client, "/items/stream/") as source:
        await ready(source)

        async def create(name: str) -> tuple[str, str]:
            response = await client.post("/items/", json={"name": name})
            return name, response.headers["X-Transaction"]

        async with sql.transaction():
            own = await sql.fetchval("SELECT pg_current_xact_id()::text")
            await sql.execute("INSERT INTO items (name) VALUES ('psql')")
        made = dict(await asyncio.gather(*(create(f"n{n}") for n in range(8)))) | {"psql": own}
        events: list[dict[str, Any]] = [await next_change(source) for _ in range(9)]
        assert {event["data"]["name"]: event["tx"] for event in events} == made
