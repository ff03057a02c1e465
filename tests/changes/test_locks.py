"""Who can stand in the way of the ticker, writers and migrations: only roles with rights on Rowcast's own tables."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import asyncpg
import pytest

from rowcast.changes.checks import find_problems
from rowcast.changes.coordination import LEADER_TABLE
from rowcast.changes.install import install
from rowcast.changes.ticker import TICKER_NAME, Ticker
from rowcast.changes.trigger_sync import sync_triggers
from rowcast.database.table_lock import lock_holder, try_lock_table
from rowcast.migrations.failures import SchemaError
from rowcast.migrations.session import FIRST_MIGRATION_LOCK, MIGRATION_TABLE, migration_lock
from rowcast.resources.tables import Tables
from tests.waiting import until

from .watching import SESSION, Database, within

FORMER_LOCKS = ((1919907683, 0), (1919907683, 1), (1919907683, 2))


@pytest.fixture
async def stranger(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A connection of a role that may do nothing but connect; it has every advisory lock with a key of Rowcast's."""
    admin = await database.connect()
    role = f"stranger_{uuid.uuid4().hex}"
    await admin.execute(f"CREATE ROLE {role} LOGIN")
    connection = await asyncpg.connect(database.url, database=database.name, user=role)
    for key in FORMER_LOCKS:
        await connection.execute("SELECT pg_advisory_lock($1, $2)", *key)
    await connection.execute("SELECT pg_advisory_lock($1)", FIRST_MIGRATION_LOCK)
    yield connection
    await connection.close()
    await admin.execute(f"DROP ROLE {role}")


async def test_role_without_rights_cannot_keep_anybody_from_leading(
    database: Database, stranger: asyncpg.Connection
) -> None:
    """Changes are delivered, and writers wake the ticker, whatever locks such a role takes."""
    for table in (LEADER_TABLE, MIGRATION_TABLE, "rowcast.version", "rowcast.tick"):
        for mode in ("ACCESS SHARE", "ROW EXCLUSIVE", "SHARE"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with stranger.transaction():
                    await stranger.execute(f"LOCK TABLE {table} IN {mode} MODE NOWAIT")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await stranger.execute("SELECT setval('rowcast.gate', 2)")
    ticker = await database.ticker()
    await within(ticker.leading.wait())
    watch = await database.watch()
    connection = await database.connect()
    await watch.fence(connection)
    await within(ticker.asleep.wait())
    await connection.execute("INSERT INTO tags (name) VALUES ('wake up')")
    await watch.fence(connection)


async def test_role_without_rights_cannot_keep_anybody_from_migrating(
    database: Database, stranger: asyncpg.Connection, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an installed database nor an empty one."""
    monkeypatch.setattr("rowcast.changes.coordination.FIRST_INSTALL_WAIT_SECONDS", 0.2)
    admin = await database.connect()
    async with migration_lock(database.connect, 0):
        await sync_triggers(admin, tables)
    await admin.execute("DROP SCHEMA rowcast CASCADE")
    async with migration_lock(database.connect, 0):
        await install(admin)
        await sync_triggers(admin, tables)


async def test_one_migration_waits_for_another(database: Database) -> None:
    """On an installed database and on an empty one."""
    admin = await database.connect()
    for _ in range(2):
        async with migration_lock(database.connect, 0):
            with pytest.raises(SchemaError, match="Another process"):
                async with migration_lock(database.connect, 0):
                    pass
        await admin.execute("DROP SCHEMA IF EXISTS rowcast CASCADE")


async def test_one_of_many_candidates_leads(database: Database) -> None:
    """Whoever comes at the same time; and when it ends, one of the others does."""
    tickers = [await database.ticker() for _ in range(4)]
    for _ in range(3):
        await until(lambda: any(ticker.leading.is_set() for ticker in tickers))
        (leader,) = [ticker for ticker in tickers if ticker.leading.is_set()]
        assert sum(ticker.leading.is_set() for ticker in tickers) == 1
        await leader.stop()
        tickers.remove(leader)


async def test_lead_holds_back_no_vacuum_and_no_index(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transaction with the lock has no number and no snapshot, also after it was used again."""
    monkeypatch.setattr("rowcast.changes.ticker.LOCK_KEPT_SHARE", 0.0)
    ticker = await database.ticker()
    await within(ticker.asleep.wait())
    connection = await database.connect()
    holder = await lock_holder(connection, LEADER_TABLE)
    state = await connection.fetchrow(
        "SELECT application_name, state, backend_xid, backend_xmin FROM pg_stat_activity WHERE pid = $1", holder
    )
    assert tuple(state) == (TICKER_NAME, "idle in transaction", None, None)
    await connection.execute("INSERT INTO tags (name) SELECT 'x' || g FROM generate_series(1, 100) g")
    await connection.execute("DELETE FROM tags")

    async def is_vacuumed() -> bool:
        await connection.execute("VACUUM (TRUNCATE) tags")
        return bool(await connection.fetchval("SELECT pg_relation_size('tags') = 0"))

    await until(is_vacuumed)  # a snapshot of another session may be open for a moment
    await connection.execute("SET lock_timeout = '2s'")
    for statement in (
        "CREATE INDEX CONCURRENTLY made ON tags (name)",
        f"VACUUM (FREEZE, SKIP_LOCKED) {LEADER_TABLE}",
        f"ANALYZE {LEADER_TABLE}",
    ):
        await connection.execute(statement)
    assert await connection.fetchval(
        "SELECT age(relfrozenxid) < 100 FROM pg_class WHERE oid = $1::regclass", LEADER_TABLE
    )


async def test_leader_that_loses_its_lock_stops(database: Database) -> None:
    """At once, before another one begins."""
    ticker = await database.ticker()
    await within(ticker.leading.wait())
    connection = await database.connect()
    thief = await database.connect()
    await connection.execute("SELECT pg_terminate_backend($1)", await lock_holder(connection, LEADER_TABLE))
    await until(lambda: not ticker.leading.is_set())
    await within(ticker.leading.wait())
    await ticker.stop()
    assert await try_lock_table(thief, LEADER_TABLE)
    assert not await try_lock_table(await database.connect(), LEADER_TABLE)


async def test_installation_without_answers_gets_their_table(database: Database, tables: Tables) -> None:
    """A database of an older version of the service."""
    connection = await database.connect()
    await connection.execute("DROP TABLE rowcast.answer")
    await install(connection)
    assert await connection.fetchval("SELECT count(*) FROM rowcast.answer") == 0


async def test_installation_without_traces_gets_their_column(database: Database, tables: Tables) -> None:
    """A database of an older version of the service: it is reported, and its changes stay as they are."""
    connection = await database.connect()
    await connection.execute(
        "ALTER TABLE rowcast.change DROP COLUMN traceparent; INSERT INTO tags (id, name) VALUES (1, 'one')"
    )
    (problem,) = await find_problems(connection, tables)
    assert "earlier Rowcast: run `rowcast migrate`" in problem
    await install(connection)
    assert await find_problems(connection, tables) == []
    await connection.execute("INSERT INTO tags (id, name) VALUES (2, 'two')")
    assert await connection.fetchval("SELECT count(*) FROM rowcast.change WHERE traceparent IS NULL") == 2


async def test_installation_without_a_gate_gets_one(database: Database, tables: Tables) -> None:
    """A database of an older version of the service: writers notify until a ticker has set it."""
    connection = await database.connect()
    await connection.execute("DROP SEQUENCE rowcast.gate")
    await install(connection)
    assert not await connection.fetchval("SELECT is_called FROM rowcast.gate")
    async with Ticker(lambda: asyncpg.connect(database.url, server_settings=SESSION)) as ticker:
        await within(ticker.asleep.wait())
        watch = await database.watch()
        await watch.fence(connection)
