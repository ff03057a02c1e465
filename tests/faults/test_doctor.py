"""The service's reports about itself: ``rowcast doctor``, ``/health/ready``, and the reasons why it does not start."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from rowcast.changes.coordination import LEADER_TABLE
from rowcast.changes.trigger_sync import sync_triggers
from rowcast.configuration.settings import Stream
from rowcast.database.pool import Database
from rowcast.database.table_lock import try_lock_table
from rowcast.resources.tables import Tables
from rowcast.server import doctor
from tests.conftest import ROOT, Serve, configure
from tests.conftest import Client as Service
from tests.waiting import until

from .clients import RESOURCES
from .conftest import Run
from .pooler import Pooler
from .processes import Server

pytestmark = pytest.mark.tables(RESOURCES)


async def examine(url: str, directory: Path, *, wakeup: str = "notify") -> list[doctor.Finding]:
    """What the doctor finds."""
    configuration = configure(directory / "examined", RESOURCES)

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(url, timeout=10)

    tables = Tables(configuration.resources)
    migrations = configuration.settings.database.migrations
    return await doctor.examine(connect, tables, migrations, Stream(wakeup=wakeup))


def wrong(found: list[doctor.Finding]) -> dict[str, str]:
    return {finding.about: finding.message for finding in found if finding.wrong}


async def health(service: Service | Server) -> tuple[int, str]:
    """Status and reason of ``/health/ready``."""
    async with aiohttp.ClientSession() as session, session.get(service.make_url("/health/ready")) as response:
        return response.status, (await response.json()).get("reason", "")


async def until_health(service: Service | Server, word: str) -> None:
    """Wait until ``/health/ready`` is a 503 with this word in its reason."""

    async def has_reason() -> bool:
        status, reason = await health(service)
        return status == 503 and word in reason

    await until(has_reason)


async def until_ready(service: Service | Server) -> None:
    """Wait until ``/health/ready`` is a 200."""

    async def is_ready() -> bool:
        return (await health(service))[0] == 200

    await until(is_ready)


async def command(*arguments: str) -> tuple[int, str]:
    """Exit code and output of a command."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "rowcast", *arguments, env={**os.environ, "PYTHONPATH": str(ROOT / "service")},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_all_is_well_on_one_screen(serve: Serve, database_url: str, tmp_path: Path) -> None:
    """While a service runs, the command reports its ticker, the state of the log and that nothing waits, and exits 0."""
    await serve(RESOURCES)
    configure(tmp_path / "examined", RESOURCES)
    code, output = await command("doctor", "--config", str(tmp_path / "examined"), "--database-url", database_url)
    assert code == 0, output
    lines = output.splitlines()
    assert [line.split()[1] for line in lines] == [
        "database", "session", "schema", "changes", "ticker", "lag", "log", "positions",
    ]  # fmt: skip
    assert "rowcast ticker from a local socket" in lines[4]
    assert "of 4 GiB" in lines[6]


@pytest.mark.empty_database
async def test_an_empty_and_an_unreachable_database_are_told(database_url: str, tmp_path: Path) -> None:
    """Each with one thing to do, and exit code 1."""
    configure(tmp_path / "examined", RESOURCES)
    code, output = await command("doctor", "--config", str(tmp_path / "examined"), "--database-url", database_url)
    assert code == 1
    assert "the change log is not installed: run `rowcast migrate`" in output
    (finding,) = await examine("postgresql://postgres@127.0.0.1:1/none", tmp_path)
    assert finding.wrong
    assert finding.message.startswith("cannot be reached")


async def test_what_is_wrong_is_told(serve: Serve, sql: asyncpg.Connection, database_url: str, tmp_path: Path) -> None:
    """A missing trigger, a disabled one, one of a new partition, a dropped column, a newer log; each by its name."""
    await serve(RESOURCES)
    assert wrong(await examine(database_url, tmp_path)) == {}
    for mischief, repair, about, words in (
        ("DROP TRIGGER rowcast_update ON notes", "SELECT", "changes", "no trigger that logs UPDATE"),
        ("ALTER TABLE notes DISABLE TRIGGER USER", "ALTER TABLE notes ENABLE TRIGGER USER", "changes", "are disabled"),
        ("CREATE TABLE leaf () INHERITS (notes)", "DROP TABLE leaf", "changes", "public.leaf has no trigger that logs"),
        ("ALTER TABLE notes DROP text", "ALTER TABLE notes ADD text text NOT NULL", "schema", "text"),
        (
            "UPDATE rowcast.version SET version = 2",
            "UPDATE rowcast.version SET version = 1",
            "changes",
            "has version 2",
        ),
        (
            "ALTER SEQUENCE rowcast.change_seq CACHE 5",
            "ALTER SEQUENCE rowcast.change_seq CACHE 1",
            "changes",
            "CACHE 1",
        ),
    ):
        await sql.execute(mischief)
        found = await examine(database_url, tmp_path)
        assert any(each.wrong and each.about == about and words in each.message for each in found), (mischief, found)
        await sql.execute(repair)
        await sync_triggers(sql, Tables(configure(tmp_path / "examined", RESOURCES).resources))
    assert wrong(await examine(database_url, tmp_path)) == {}


async def test_a_sequence_that_is_behind_is_reported(
    serve: Serve, sql: asyncpg.Connection, database_url: str, tmp_path: Path
) -> None:
    """With the statement that moves it on."""
    resources = {"counted": "fields: {id: {type: integer, primary_key: true}, n: {type: integer, default: 0}}"}
    await serve(resources)
    database = Database(database_url, {})
    tables = Tables(configure(tmp_path / "counted", resources).resources)

    async def keys() -> list[str]:
        found = await doctor.examine(database.connect, tables, tmp_path / "none", Stream())
        return [each.message for each in found if each.about == "keys"]

    assert await keys() == []
    await sql.execute("INSERT INTO counted (id) SELECT generate_series(1, 1000)")
    (message,) = await keys()
    assert message.startswith("counted.id: the sequence is at 1, the largest key is 1000: SELECT setval(")
    await sql.execute(message.partition("1000: ")[2])
    assert await keys() == []


async def test_nobody_ticks(
    serve: Serve, sql: asyncpg.Connection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another program holds the lead, the doctor names it, and doctor and health report that changes wait."""
    monkeypatch.setattr("rowcast.server.health.FEED_GRACE_SECONDS", 1.0)
    service = await serve(RESOURCES, service="stream: {wakeup: poll}")
    thief = await asyncpg.connect(database_url, server_settings={"application_name": "thief"})
    async with asyncio.timeout(20):  # take the lead from the ticker
        while not await try_lock_table(thief, LEADER_TABLE):
            await sql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'rowcast ticker' AND datname = current_database()"
            )
    await sql.execute("INSERT INTO notes (text) VALUES ('untold')")
    await until_health(service, "the ticker has stopped")
    found = await examine(database_url, tmp_path, wakeup="poll")
    assert "the ticker has stopped" in wrong(found)["lag"]
    assert any("thief" in finding.message for finding in found if finding.about == "ticker")
    await thief.close()
    await until_ready(service)
    assert wrong(await examine(database_url, tmp_path, wakeup="poll")) == {}


async def test_a_pooler_in_transaction_mode_is_found(serve: Serve, database_url: str, tmp_path: Path) -> None:
    """Shared sessions, and notifications that do not arrive, are reported with a remedy."""
    await serve(RESOURCES)
    async with Pooler(database_url, shared=True).listening() as url:
        assert "shared with others" in wrong(await examine(url, tmp_path))["session"]
    async with Pooler(database_url, shared=False).listening() as url:
        assert "NOTIFY does not arrive" in wrong(await examine(url, tmp_path))["session"]
        await serve(RESOURCES, service="stream: {wakeup: poll}")
        assert wrong(await examine(url, tmp_path, wakeup="poll")) == {}


async def test_a_short_reconnect_is_no_outage(
    serve: Serve, sql: asyncpg.Connection, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losing the feed's connection leaves the service ready; being without one for longer does not, until it is back."""
    monkeypatch.setattr("rowcast.server.health.FEED_GRACE_SECONDS", 1.5)
    service = await serve(RESOURCES)
    name = await sql.fetchval("SELECT current_database()")
    kill = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE application_name LIKE 'rowcast%' AND datname = current_database()"
    )
    assert await sql.fetchval(kill) >= 2
    for _ in range(20):
        assert await health(service) == (200, "")
    admin = await asyncpg.connect(postgres_url)
    await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await sql.execute(kill)
    await until_health(service, "without a connection to the database")
    await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    await admin.close()
    await until_ready(service)


async def test_a_database_that_becomes_read_only_is_told(serve: Serve, sql: asyncpg.Connection) -> None:
    """As after a failover that leaves the service with the wrong server."""
    service = await serve(RESOURCES)
    name = await sql.fetchval("SELECT current_database()")
    await sql.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await sql.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name LIKE 'rowcast%' AND datname = current_database()"
    )
    await until_health(service, "read-only")
    await sql.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")


@pytest.mark.empty_database
@pytest.mark.parametrize("migrate", [False, True])
async def test_a_read_only_database_is_a_message_at_the_start(
    serve: Serve, sql: asyncpg.Connection, run: Run, database_url: str, tmp_path: Path, migrate: bool
) -> None:
    """Not a traceback; the service waits and reports the reason."""
    if not migrate:
        await serve(RESOURCES)
    name = await sql.fetchval("SELECT current_database()")
    await sql.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    assert "read-only" in await said_at_the_start(tmp_path, database_url, migrate=migrate)


async def test_missing_rights_are_a_message_at_the_start(
    serve: Serve, sql: asyncpg.Connection, database_url: str, tmp_path: Path
) -> None:
    """The rights are named that a role lacks that may read the tables but not the log."""
    await serve(RESOURCES)
    await sql.execute("CREATE ROLE reader LOGIN; GRANT SELECT ON notes, owners TO reader")
    try:
        url = database_url.replace("postgres@", "reader@")
        assert url != database_url
        assert "lacks USAGE on the schema rowcast" in await said_at_the_start(tmp_path, url, migrate=False)
        assert "lacks USAGE" in wrong(await examine(url, tmp_path))["changes"]
        assert "Nothing was changed" in await said_at_the_start(tmp_path, url, migrate=True)
    finally:
        await sql.execute("DROP OWNED BY reader; DROP ROLE reader")


async def said_at_the_start(directory: Path, url: str, *, migrate: bool) -> str:
    """The first message of a service that cannot start; it is not a traceback."""
    configure(directory / "started", RESOURCES)
    server = Server(directory / "started", url, migrate=migrate)
    await server.launch()
    try:
        line = await server.complaint()
        assert "Traceback" not in line
        return line
    finally:
        await server.kill()
