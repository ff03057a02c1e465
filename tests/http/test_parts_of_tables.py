"""Partitioned tables, tables with time in the key, and tables that others inherit from: served with their streams.

Their parts are not, since changes of them can be made without their triggers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import asyncpg
import pytest

from rowcast.database.pool import Database
from rowcast.errors import ConfigurationError, Unavailable
from rowcast.migrations import commands
from rowcast.migrations.failures import SchemaError
from rowcast.resources.tables import Tables
from rowcast.server.prepare import prepare

from ..conftest import configure
from ..databases import EMPTY, Databases
from ..sse import listen
from .conftest import Run

KEY = {"type": "integer", "primary_key": True}
TEXT = {"type": "string"}
READINGS = {
    "primary_key": ["sensor", "at"],
    "fields": {"sensor": {"type": "integer"}, "at": {"type": "datetime"}, "value": {"type": "integer", "null": True}},
    "viewset": {"filterset_fields": {"at": ["gte"]}, "ordering": ["at"]},
}
PARTITIONS = """
CREATE TABLE readings (sensor integer, at timestamptz, value integer, PRIMARY KEY (sensor, at)) PARTITION BY RANGE (at);
CREATE TABLE readings_2025 PARTITION OF readings FOR VALUES FROM ('2025-01-01Z') TO ('2026-01-01Z');
CREATE TABLE readings_2026 PARTITION OF readings FOR VALUES FROM ('2026-01-01Z') TO ('2027-01-01Z') PARTITION BY HASH (sensor);
CREATE TABLE readings_2026_0 PARTITION OF readings_2026 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE readings_2026_1 PARTITION OF readings_2026 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
"""
CHILDREN = """
CREATE TABLE places (id serial PRIMARY KEY, name text NOT NULL);
CREATE TABLE towns (mayor text, PRIMARY KEY (id)) INHERITS (places);
"""


async def test_partitioned_table_with_time_in_its_key(run: Run) -> None:
    """Each request works and each change is an event, through the table, a partition, or from one to another."""
    service = await run({"readings": READINGS}, prepare=PARTITIONS)
    path = "/readings/7,2026-03-01T12:00:00Z/"
    async with listen(service.client, "/readings/stream/") as events:
        await events.next()
        response = await service.client.post("/readings/", json={"sensor": 7, "at": "2026-03-01T12:00:00Z", "value": 1})
        assert response.status == 201, await response.text()
        assert response.headers["Location"].endswith("/readings/7,2026-03-01T12%3A00%3A00%2B00%3A00/")
        tag = response.headers["ETag"]
        assert (await service.client.get(path)).headers["ETag"] == tag
        changed = await service.client.patch(path, json={"value": 2}, headers={"If-Match": tag})
        assert (changed.status, (await changed.json())["value"]) == (200, 2)
        await service.sql.execute("INSERT INTO readings_2025 VALUES (8, '2025-05-05Z', 5)")
        await service.sql.execute("UPDATE readings SET at = '2026-05-05Z' WHERE sensor = 8")
        await service.sql.execute("UPDATE readings_2026_0 SET value = 9; UPDATE readings_2026_1 SET value = 9")
        assert (await service.client.delete(path)).status == 204
        found = [event.json() for event in await events.take(8)]
    for each in found:
        each["id"] = unquote(each["id"])
    assert [(each["action"], each["id"], (each["data"] or {}).get("value")) for each in found[:2]] == [
        ("INSERT", "7,2026-03-01T12:00:00+00:00", 1),
        ("UPDATE", "7,2026-03-01T12:00:00+00:00", 2),
    ]
    assert found[2]["id"] == "8,2025-05-05T00:00:00+00:00"
    assert sorted((each["action"], each["id"]) for each in found[3:5]) == [
        ("DELETE", "8,2025-05-05T00:00:00+00:00"),
        ("INSERT", "8,2026-05-05T00:00:00+00:00"),
    ]
    assert {(each["action"], each["data"]["value"]) for each in found[5:7]} == {("UPDATE", 9)}
    assert (found[7]["action"], found[7]["id"]) == ("DELETE", "7,2026-03-01T12:00:00+00:00")
    again = await service.client.post("/readings/", json={"sensor": 8, "at": "2026-05-05T00:00:00Z"})
    assert (again.status, (await again.json())["code"]) == (409, "unique")
    nowhere = await service.client.post("/readings/", json={"sensor": 8, "at": "2031-01-01T00:00:00Z"})
    assert nowhere.status == 400
    assert (await service.get("/readings/", at__gte="2026-01-01T00:00:00Z"))["count"] == 1


async def test_table_from_which_others_inherit(run: Run) -> None:
    """Its rows are also those of the others, and every change of them is an event, by whichever name."""
    service = await run({"places": {"fields": {"id": KEY, "name": TEXT}}}, prepare=CHILDREN)
    async with listen(service.client, "/places/stream/") as events:
        await events.next()
        assert (await service.client.post("/places/", json={"name": "A"})).status == 201
        await service.sql.execute("INSERT INTO towns (name, mayor) VALUES ('B', 'Ann')")
        assert (await service.client.patch("/places/2/", json={"name": "C"})).status == 200
        await service.sql.execute("UPDATE towns SET name = 'D'; UPDATE places SET name = name || '!'")
        assert (await service.client.delete("/places/2/")).status == 204
        found = [event.json() for event in await events.take(7)]
    assert [(each["action"], each["id"], each["data"] and each["data"]["name"]) for each in found[:4]] == [
        ("INSERT", 1, "A"), ("INSERT", 2, "B"), ("UPDATE", 2, "C"), ("UPDATE", 2, "D"),
    ]  # fmt: skip
    assert sorted((each["id"], each["data"]["name"]) for each in found[4:6]) == [(1, "A!"), (2, "D!")]
    assert (found[6]["action"], found[6]["id"]) == ("DELETE", 2)
    assert await service.sql.fetchval("SELECT count(*) FROM towns") == 0


@pytest.mark.parametrize(
    ("sql", "resources", "sentence"),
    [
        (CHILDREN, ["towns"], "towns inherits from places, and a statement on places changes its rows without its"),
        (CHILDREN, ["places", "towns"], "serve places, or make a view of towns and serve that with `view: true`"),
        (
            PARTITIONS,
            ["readings_2025"],
            "readings_2025 is a partition of readings, and a statement on readings changes its",
        ),
        (PARTITIONS, ["readings", "readings_2026_1"], "readings_2026_1 is a partition of readings_2026"),
    ],
)
async def test_part_of_a_table_is_refused(
    databases: Databases, tmp_path: Path, sql: str, resources: list[str], sentence: str
) -> None:
    """In a sentence, by `plan`, `migrate` and at start, and without a trigger on anything. The service waited for ever."""
    texts = {name: json.dumps(_resource(name)) for name in resources}
    configuration = configure(tmp_path, texts)
    tables = Tables(configuration.resources)
    async with databases.copy(EMPTY) as url:
        connection = await asyncpg.connect(url)
        await connection.execute(sql)
        database = Database(url, tables.guards)
        planned = [str(step) for step in (await commands.plan(database.connect, tables)).statements]
        assert any(sentence in step for step in planned), planned
        for migrate in (False, True):
            with pytest.raises((Unavailable, ConfigurationError, SchemaError)) as refused:
                await prepare(configuration, tables, database, migrate=migrate)
            assert sentence in str(refused.value)
        assert await connection.fetchval("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == 0
        await database.close()
        await connection.close()


async def test_part_of_a_table_can_be_served_as_a_view(run: Run) -> None:
    """The remedy that the sentence names."""
    towns = {"view": True, "table": "only_towns", "fields": {"id": KEY, "name": TEXT, "mayor": {**TEXT, "null": True}}}
    sql = (
        f"{CHILDREN} CREATE VIEW only_towns AS SELECT * FROM towns; INSERT INTO towns (name, mayor) VALUES ('B', 'Ann')"
    )
    service = await run({"places": {"fields": {"id": KEY, "name": TEXT}}, "towns": towns}, prepare=sql)
    assert (await service.get("/towns/1/"))["mayor"] == "Ann"
    assert (await service.client.patch("/places/1/", json={"name": "C"})).status == 200
    assert (await service.get("/towns/1/"))["name"] == "C"


def _resource(name: str) -> dict[str, Any]:
    return READINGS if name.startswith("readings") else {"fields": {"id": KEY, "name": TEXT}}
