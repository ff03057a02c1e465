"""Requests through pgbouncer in transaction mode, and what is found where the settings do not fit it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from rowcast.database.pool import Database
from rowcast.database.pooled import pooler_problems
from rowcast.errors import Unavailable
from rowcast.resources.tables import Tables
from rowcast.rest.plan import SERVICE
from rowcast.server.prepare import prepare
from rowcast.testing.client import running
from tests.conftest import ROOT, configure, rowcast, write_config
from tests.databases import at_database
from tests.pgbouncer import PgBouncer, behind_pooler, needs_pgbouncer

RESOURCES = {
    "notes": """
fields:
  text: {type: string}
  at: {type: datetime, null: true}
  span: {type: duration, null: true}
  ratio: {type: float, null: true}
  day: {type: date, null: true}
"""
}
OPEN = "auth: {default_permission_classes: [AllowAny]}"
SUITE = [
    "batch bulk coalescing database export filters idempotency import pages row_security values wire writes zones",
    "resume transactions",
    "list",
]
DIRECTORIES = ["http", "stream", "faults"]
VALUES = {
    "text": "a",
    "at": "2026-01-02T03:04:05.678901+00:00",
    "span": "P1DT2H",
    "ratio": 0.1 + 0.2,
    "day": "2026-01-02",
}


@pytest.fixture(scope="module")
def pgbouncer(postgres_url: str) -> Iterator[PgBouncer]:
    """A pooler that has two sessions for each database, so that clients share them."""
    needs_pgbouncer()
    with PgBouncer(postgres_url, size=2).running() as pooler:
        yield pooler


async def spoil(url: str) -> None:
    """Leave settings in the pooler's sessions that would change values, as a careless client of the same pool would."""
    clients = [await asyncpg.connect(url, statement_cache_size=0) for _ in range(2)]
    for client in clients:
        await client.execute("BEGIN")
    for client in clients:
        await client.execute(
            "SET timezone = 'Asia/Tokyo'; SET datestyle = 'SQL, DMY'; SET intervalstyle = 'sql_standard';"
            " SET extra_float_digits = -10; SET statement_timeout = '1ms'"
        )
    for client in clients:
        await client.execute("COMMIT")
        await client.close()


async def test_values_are_exact_whatever_others_have_set(
    pgbouncer: PgBouncer, database_url: str, tmp_path: Path
) -> None:
    """Every transaction sets what values depend on, in sessions that others have used."""
    configuration = behind_pooler(configure(tmp_path, RESOURCES, OPEN), database_url)
    async with running(configuration, pgbouncer.url(database_url)) as client:
        await spoil(pgbouncer.url(database_url))
        created = await client.post("/notes/", json=VALUES)
        assert created.status == 201, await created.text()
        row = await created.json()
        assert {name: row[name] for name in VALUES} == VALUES
        pages = await asyncio.gather(*(client.get("/notes/") for _ in range(20)))
        for page in pages:
            found = (await page.json())["results"]
            assert [{name: each[name] for name in VALUES} for each in found] == [VALUES]


async def test_sessions_keep_nothing_of_requests(pgbouncer: PgBouncer, database_url: str, tmp_path: Path) -> None:
    """After requests the pooler's sessions have the settings that they had before."""
    configuration = behind_pooler(configure(tmp_path, RESOURCES, OPEN), database_url)
    show = "SELECT current_setting('statement_timeout') || current_setting('intervalstyle')"
    async with running(configuration, pgbouncer.url(database_url)) as client:
        await client.post("/notes/", json=VALUES)
        await asyncio.gather(*(client.get("/notes/") for _ in range(20)))
        other = await asyncpg.connect(pgbouncer.url(database_url), statement_cache_size=0)
        assert await other.fetchval(show) == "0postgres"
        await other.close()


async def test_a_statement_that_takes_too_long(pgbouncer: PgBouncer, database_url: str, tmp_path: Path) -> None:
    """``statement_timeout`` holds without a parameter at the start."""
    service = "auth: {default_permission_classes: [AllowAny]}\ndatabase: {statement_timeout: 100ms}"
    configuration = behind_pooler(configure(tmp_path, RESOURCES, service), database_url)
    async with running(configuration, pgbouncer.url(database_url)) as client:
        blocker = await asyncpg.connect(database_url)
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE notes")
            response = await client.get("/notes/")
            assert response.status == 503
            assert (await response.json())["code"] == "statement_timeout"
        await blocker.close()
        assert (await client.get("/notes/")).status == 200


async def test_a_pooler_without_a_free_session(
    pgbouncer: PgBouncer, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request does not wait longer for a session than for a connection of the service's own pool."""
    configuration = behind_pooler(configure(tmp_path, RESOURCES, OPEN), database_url)
    async with running(configuration, pgbouncer.url(database_url)) as client:
        monkeypatch.setattr(client.app[SERVICE].store.database, "patience", 0.3)
        others = [await asyncpg.connect(pgbouncer.url(database_url), statement_cache_size=0) for _ in range(2)]
        for other in others:
            await other.execute("BEGIN; SELECT")
        for _ in range(2):
            response = await client.get("/notes/")
            assert response.status == 503
            assert (await response.json())["code"] == "database_unavailable"
        for other in others:
            await other.execute("COMMIT")
            await other.close()
        assert (await client.get("/notes/")).status == 200


async def test_prepared_statements_that_are_lost(pgbouncer: PgBouncer, database_url: str) -> None:
    """Version 1.18 does not keep prepared statements: the start says what to set."""
    url = pgbouncer.url(database_url)
    lost = await pooler_problems(
        Database(url, {}, direct_url=database_url).open, Database(database_url, {}).open, prepared_statements=True
    )
    assert [problem.partition(":")[0] for problem in lost] == [
        "the pooler at database.url does not keep prepared statements"
    ]


async def test_two_databases(pgbouncer: PgBouncer, database_url: str, tmp_path: Path) -> None:
    """URLs that lead to different databases are found before anything is migrated."""
    configuration = behind_pooler(configure(tmp_path, RESOURCES, OPEN), database_url)
    tables = Tables(configuration.resources)
    other = pgbouncer.url(at_database(database_url, "postgres"))
    database = Database(other, tables.guards, direct_url=database_url, prepared_statements=False)
    with pytest.raises(Unavailable, match="not the same database: they lead to postgres and rowcast_test"):
        await prepare(configuration, tables, database, migrate=True)


async def test_doctor(pgbouncer: PgBouncer, database_url: str, tmp_path: Path) -> None:
    """``rowcast doctor`` tests each URL for what it is for."""
    write_config(tmp_path / "config", RESOURCES, OPEN)
    pooled = pgbouncer.url(database_url)
    direct = {"ROWCAST_DATABASE_DIRECT_URL": database_url}

    def doctor(**variables: str) -> list[str]:
        _, output = rowcast(tmp_path, "doctor", **{"DATABASE_URL": pooled, **variables})
        return [line for line in output.splitlines() if line[6:].startswith(("session", "requests"))]

    assert [line[:16] for line in doctor()] == ["WRONG session   ", "WRONG requests  "]
    assert doctor(**direct, ROWCAST_DATABASE_PREPARED_STATEMENTS="false") == [
        "ok    session    is the connection's own, and NOTIFY arrives",
        "ok    requests   through a pooler as postgres, without prepared statements",
    ]
    (lost,) = [line for line in doctor(**direct) if "requests" in line]
    assert lost.startswith("WRONG")
    assert "set database.prepared_statements to false" in lost
    assert (
        "session    is shared with others" in doctor(DATABASE_URL=database_url, ROWCAST_DATABASE_DIRECT_URL=pooled)[0]
    )


@pytest.mark.parametrize(("directory", "modules"), list(zip(DIRECTORIES, SUITE, strict=True)))
def test_the_suite(directory: str, modules: str) -> None:
    """A part of the suite passes behind the pooler as it does without one."""
    needs_pgbouncer()
    paths = [f"tests/{directory}/test_{module}.py" for module in modules.split()]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *paths]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "ROWCAST_TEST_POOLER": "pgbouncer"}, stdout=subprocess.PIPE, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
