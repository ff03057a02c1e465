"""A standby is promoted: what it had goes on, and what it had not is of another history."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from rowcast.database import embedded
from rowcast.database.embedded import EmbeddedPostgres
from tests.conftest import Serve
from tests.databases import SETTINGS, needs_embedded_server
from tests.standbys import PATIENCE, Standby, socket_of

from .clients import RESOURCES, assert_equal
from .conftest import Open


@pytest.fixture
async def primary(tmp_path: Path) -> AsyncIterator[EmbeddedPostgres]:
    needs_embedded_server()
    server = EmbeddedPostgres(tmp_path / "primary", settings=SETTINGS)
    await asyncio.to_thread(server.start)
    yield server
    await asyncio.to_thread(server.stop)


async def test_a_promotion(primary: EmbeddedPostgres, serve: Serve, open_client: Open, tmp_path: Path) -> None:
    """The service switches by itself. A client that had no more than the standby goes on; others load again."""
    standby = Standby(primary.url, tmp_path / "standby")
    follower = await standby.start()
    try:
        hosts = f"{socket_of(primary.url)},{socket_of(standby.server.url)}"
        url = f"postgresql://{embedded.ROLE}@/{embedded.NAME}?host={hosts}&port={embedded.PORT}"
        server = await serve(RESOURCES, url=f"{url}&target_session_attrs=read-write")
        kept, lost = await open_client(server), await open_client(server, query="done=true")
        sql = await asyncpg.connect(primary.url)
        await sql.execute("INSERT INTO notes (id, text, done) SELECT i, 'a', true FROM generate_series(1, 50) i")
        await assert_equal(sql, kept, lost)
        await kept.stop()
        end = await sql.fetchval("SELECT pg_current_wal_flush_lsn()")
        async with asyncio.timeout(PATIENCE):
            while not await follower.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn", end):
                pass
        await follower.execute("ALTER SYSTEM SET primary_conninfo = ''")
        await follower.execute("SELECT pg_reload_conf()")
        async with asyncio.timeout(PATIENCE):
            while await follower.fetchval("SELECT count(*) FROM pg_stat_wal_receiver"):
                pass
        await sql.execute("UPDATE notes SET text = 'never on the standby'")
        await assert_equal(sql, lost)
        forked = lost.last
        sql.terminate()
        await asyncio.to_thread(primary.stop)
        await standby.promote(follower)
        sql = await asyncpg.connect(standby.server.url)
        await sql.execute("INSERT INTO notes (id, text, done) VALUES (100, 'after', true)")
        await lost.until(lambda: lost.resets == ["forked"])
        kept.start()
        await assert_equal(sql, kept, lost)
        assert kept.resets == []
        assert {row["text"] for row in lost.rows.values()} == {"a", "after", "a fence"}
        late = await open_client(server)
        await late.stop()
        late.last = forked
        late.start()
        await late.until(lambda: late.resets == ["forked"])
        await assert_equal(sql, late)
        await sql.close()
        for client in (kept, lost, late):
            await client.stop()
    finally:
        follower.terminate()
        await asyncio.to_thread(standby.server.stop)
