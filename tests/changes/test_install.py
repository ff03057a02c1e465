"""The schema and its triggers, brought to a database once and kept in line."""

from __future__ import annotations

import asyncio
import uuid

import asyncpg
import pytest

from rowcast.changes import retention, sql
from rowcast.changes.checks import examine, find_problems
from rowcast.changes.feed import Feed
from rowcast.changes.install import install, read_secret
from rowcast.changes.ticker import Ticker
from rowcast.changes.trigger_sync import sync_triggers
from rowcast.errors import ConfigurationError
from rowcast.resources.resource import Resource, Resources
from rowcast.resources.tables import Tables
from rowcast.resources.types import make_field

from .watching import SESSION, Database, Watch, create, resources, within


async def test_many_may_install_at_once(database: Database) -> None:
    """Replicas that start together install one schema, and sync one set of triggers."""
    connections = [await database.connect() for _ in range(8)]
    await connections[0].execute("DROP SCHEMA rowcast CASCADE")
    await asyncio.gather(*(install(connection) for connection in connections))
    ran = await asyncio.gather(*(sync_triggers(c, Tables(resources())) for c in connections))
    assert sum(bool(statements) for statements in ran) == 1
    assert len(await read_secret(connections[0])) == 32


async def test_an_unchanged_start_changes_nothing(database: Database) -> None:
    """Neither installing nor syncing runs DDL, and both work without the right to."""
    connection = await database.connect()
    await connection.execute("SET default_transaction_read_only = on")
    await install(connection)
    assert await sync_triggers(connection, Tables(resources())) == []
    (problem,) = await find_problems(connection, Tables(resources()))
    assert "read-only" in problem


async def test_a_newer_schema_is_refused(database: Database) -> None:
    """An older service does not touch the schema of a newer one."""
    connection = await database.connect()
    await connection.execute("UPDATE rowcast.version SET version = 1000")
    with pytest.raises(ConfigurationError, match="newer"):
        await install(connection)
    assert "newer" in (await find_problems(connection, Tables(resources())))[0]


async def test_a_read_only_database_is_named(database: Database) -> None:
    """The error of an installation has what is needed."""
    connection = await database.connect()
    await connection.execute("DROP SCHEMA rowcast CASCADE; SET default_transaction_read_only = on")
    with pytest.raises(ConfigurationError, match="read-only"):
        await install(connection)


async def test_missing_rights_are_named(database: Database) -> None:
    """Installing and syncing with a role that may not do it raise an error that names the rights."""
    connection = await database.connect()
    role = f"poor_{uuid.uuid4().hex}"
    tables = Tables(resources())
    await connection.execute(f"CREATE ROLE {role}; SET ROLE {role}")
    (problem,) = await find_problems(connection, tables)
    assert "lacks USAGE on the schema rowcast" in problem
    with pytest.raises(ConfigurationError, match="must own the schema"):
        await install(connection)
    await connection.execute(f"RESET ROLE; GRANT USAGE ON SCHEMA rowcast TO {role}; SET ROLE {role}")
    (problem,) = await find_problems(connection, tables)
    assert "lacks SELECT on rowcast.version" in problem
    await connection.execute(f"RESET ROLE; GRANT SELECT ON rowcast.version, rowcast.tick TO {role}; SET ROLE {role}")
    (problem,) = await find_problems(connection, tables, wakeup="notify")
    assert "DELETE on rowcast.tick" in problem or "INSERT, DELETE on rowcast.tick" in problem
    assert "SELECT, TRUNCATE on rowcast.change_0" in problem
    with pytest.raises(ConfigurationError, match="must own"):
        await sync_triggers(connection, Tables(resources()), wakeup="poll")
    await connection.execute("RESET ROLE; DROP SCHEMA rowcast CASCADE")
    await connection.execute(f"SET ROLE {role}")
    with pytest.raises(ConfigurationError, match="CREATE on the database"):
        await install(connection)
    await connection.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")


async def test_tables_that_do_not_exist_are_named(database: Database) -> None:
    """Logging follows the migration that makes the tables."""
    connection = await database.connect()
    await connection.execute("DROP TABLE tasks CASCADE")
    with pytest.raises(ConfigurationError, match="no table tasks"):
        await sync_triggers(connection, Tables(resources()))
    assert "tasks" in (await find_problems(connection, Tables(resources())))[0]


async def test_drift_is_found_and_mended(database: Database) -> None:
    """A dropped trigger, a replaced function, a changed or removed resource: reported, and fixed by the next sync."""
    connection = await database.connect()
    tables = Tables(resources())
    await connection.execute("DROP TRIGGER rowcast_update ON tasks")
    assert [problem for problem in await find_problems(connection, tables) if "UPDATE" in problem]
    assert len(await sync_triggers(connection, tables)) == 1
    assert await find_problems(connection, tables) == []
    fewer = Tables(
        Resources({"tags": Resource("tags", "tags", "Tag", {"id": make_field("id", "integer", primary_key=True)})})
    )
    assert not [problem for problem in await find_problems(connection, fewer) if "tasks" in problem]
    assert {"public.tasks", "public.tasks_tags"} <= set((await examine(connection, fewer)).leftovers)
    assert await sync_triggers(connection, fewer)
    assert await sync_triggers(connection, fewer) == []
    assert (await examine(connection, fewer)).leftovers == []
    left = await connection.fetch(
        "SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger WHERE tgname LIKE 'rowcast%' AND NOT tgisinternal"
    )
    assert [name for (name,) in left] == ["tags"]
    await sync_triggers(connection, tables)
    assert await find_problems(connection, tables) == []


async def test_disabled_triggers_are_found(database: Database) -> None:
    """Disabled triggers, a session that skips triggers, and a sequence that assigns numbers in blocks."""
    connection = await database.connect()
    tables = Tables(resources())
    await connection.execute("ALTER TABLE tasks DISABLE TRIGGER rowcast_insert")
    await connection.execute("SET session_replication_role = replica")
    await connection.execute(f"ALTER DATABASE {database.name} SET session_replication_role = replica")
    await connection.execute("ALTER SEQUENCE rowcast.change_seq CACHE 10")
    found = await find_problems(connection, tables)
    assert len(found) == 4
    assert "tasks" in found[0]
    assert "session_replication_role" in found[1]
    assert f"for database {database.name}" in found[2]
    assert "CACHE 1" in found[3]


async def test_a_table_in_another_schema_is_logged(database: Database) -> None:
    """Tables are found by the search path of the connection that syncs, and logged from wherever they are written."""
    connection = await database.connect()
    await connection.execute("CREATE SCHEMA elsewhere; SET search_path = elsewhere")
    declared = Resource("things", "things", "Thing", {"id": make_field("id", "integer", primary_key=True)})
    tables = Tables(Resources({"things": declared}))
    await create(connection, tables)
    await sync_triggers(connection, tables)
    await database.ticker()
    watch = await database.watch()
    other = await database.connect()
    await other.execute("INSERT INTO elsewhere.things VALUES (7)")
    await watch.until(lambda: bool(watch.events))
    assert (watch.events[0].resource, watch.events[0].pk) == ("things", "7")


async def test_keys_made_by_the_database_rise_with_time(database: Database) -> None:
    """``rowcast.uuid7()`` is a version 7 UUID whose first bits are the time."""
    connection = await database.connect()
    before = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp()) * 1000")
    keys = [row[0] for row in await connection.fetch("SELECT rowcast.uuid7() FROM generate_series(1, 1000)")]
    after = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp()) * 1000")
    await connection.execute(sql.load("uuid7_before_18").replace("rowcast.uuid7", "public.uuid7_before_18"))
    for form in (keys, [await connection.fetchval("SELECT public.uuid7_before_18()")] * 2):
        for key in form:
            assert key.version == 7
            assert key.variant == uuid.RFC_4122
    assert all(before - 1 <= key.int >> 80 <= after + 1 for key in keys)
    assert len(set(keys)) == 1000


async def test_an_ordinary_role_is_enough(database: Database) -> None:
    """Installing, syncing, ticking, maintaining and following need no rights beyond owning the database."""
    connection = await database.connect()
    role = f"owner_{uuid.uuid4().hex}"
    await connection.execute(
        f"CREATE ROLE {role} LOGIN; ALTER DATABASE {database.name} OWNER TO {role};"
        f" DROP SCHEMA rowcast CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION {role}"
    )

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(database.url, database=database.name, user=role, server_settings=SESSION)

    owner = await connect()
    tables = Tables(resources())
    await install(owner)
    await create(owner, tables)
    await sync_triggers(owner, tables)
    assert await find_problems(owner, tables) == []
    assert await retention.maintain(owner, 3600, 1 << 30)
    async with Ticker(connect), Feed(connect) as feed:
        await within(feed.ready.wait())
        await Watch(feed).fence(owner)
    await owner.close()
    await connection.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}")
