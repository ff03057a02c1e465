"""A table that another one replaces while the service runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp.test_utils import TestServer

from rowcast.changes.install import install
from rowcast.changes.trigger_sync import sync_triggers
from rowcast.rest.plan import SERVICE
from rowcast.server.app import create_app
from rowcast.server.lifecycle import STARTED
from tests.conftest import Client, Serve, configure
from tests.sse import EventSource, listen
from tests.stream.test_events import next_change, ready
from tests.waiting import until

OWNERS = """
fields: {id: {type: integer, primary_key: true}, name: {type: string, null: true}}
viewset: {permission_classes: [AllowAny], page_size: 2}
"""
RESOURCES = {"owners": OWNERS}
SWAP = """
BEGIN;
CREATE TABLE owners_new (LIKE owners INCLUDING ALL);
INSERT INTO owners_new (id, name) SELECT g, 'n' || g FROM generate_series(1, 500) g;
ALTER TABLE owners RENAME TO owners_old;
ALTER TABLE owners_new RENAME TO owners;
COMMIT;
"""
pytestmark = pytest.mark.tables(RESOURCES)


async def count(client: Client) -> Any:
    """What a list says how many rows there are."""
    return (await (await client.get("/owners/")).json())["count"]


async def reset(source: EventSource) -> None:
    """Wait for the event that makes clients load the list again."""
    event = await source.next()
    assert event.event == "reset"
    assert event.json()["resource"] == "owners"


async def test_a_table_that_was_replaced_is_logged_again(serve: Serve, sql: asyncpg.Connection) -> None:
    """Where the service migrates: caches forget the old rows, and streams tell clients to load them again."""
    await sql.execute("INSERT INTO owners (name) SELECT 'o' || g FROM generate_series(1, 10) g")
    client = await serve(RESOURCES)
    assert await count(client) == 10
    async with listen(client, "/owners/stream/") as source:
        await ready(source)
        position = (await client.get("/owners/")).headers["X-Stream-Position"]
        await sql.execute(SWAP)
        await reset(source)
        await until(lambda: counted(client, 500))
        await sql.execute("INSERT INTO owners (id, name) VALUES (1001, 'x')")
        assert (await next_change(source))["data"] == {"id": 1001, "name": "x"}
        await until(lambda: counted(client, 501))
    assert (await client.get("/health/ready")).status == 200
    async with listen(client, f"/owners/stream/?last_event_id={position}") as source:
        await ready(source)
        await reset(source)


async def test_an_empty_table_that_takes_a_name_is_loaded_again_too(serve: Serve, sql: asyncpg.Connection) -> None:
    """Clients that show the rows of the old table learn that they are gone."""
    await sql.execute("INSERT INTO owners (name) VALUES ('old')")
    client = await serve(RESOURCES)
    async with listen(client, "/owners/stream/") as source:
        await ready(source)
        await sql.execute(
            "BEGIN; CREATE TABLE owners_new (LIKE owners INCLUDING ALL); ALTER TABLE owners RENAME TO owners_old"
        )
        await sql.execute("ALTER TABLE owners_new RENAME TO owners; COMMIT")
        await reset(source)
        await until(lambda: counted(client, 0))


async def counted(client: Client, expected: int) -> bool:
    return bool(await count(client) == expected)


async def test_a_service_that_does_not_migrate_says_that_changes_are_lost(
    database_url: str, sql: asyncpg.Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is not ready, counts are of the new table, and it recovers when somebody migrates."""
    configuration = configure(tmp_path, RESOURCES)
    app = create_app(configuration, database_url, migrate=False)
    async with Client(TestServer(app)) as client:
        async with asyncio.timeout(30):
            await asyncio.shield(app[STARTED])
        assert await count(client) == 0
        async with listen(client, "/owners/stream/") as source:
            await ready(source)
            await sql.execute(SWAP)
            await until(lambda: unready(client))
            body = await (await client.get("/health/ready")).json()
            assert body["reason"] == "Changes of public.owners are not logged: run `rowcast migrate`."
            assert "changes_not_logged" in capsys.readouterr().out
            await until(lambda: counted(client, 500))
            await sql.execute("INSERT INTO owners (id) VALUES (1001)")
            await until(lambda: counted(client, 501))
            await install(sql)
            await sync_triggers(sql, client.app[SERVICE].store.queries.tables)
            await reset(source)
            await sql.execute("INSERT INTO owners (id) VALUES (1002)")
            assert (await next_change(source))["id"] == 1002
            await until(lambda: is_ready(client))


async def unready(client: Client) -> bool:
    return (await client.get("/health/ready")).status == 503


async def is_ready(client: Client) -> bool:
    return (await client.get("/health/ready")).status == 200
