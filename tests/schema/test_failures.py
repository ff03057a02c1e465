"""A migration that fails changes nothing and gives the reason, and a concurrent one waits."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from rowcast.migrations.failures import SchemaError
from rowcast.resources.resource import Resource

from .declarations import Database, declare, field, install, key, resource

NAME = field("name", "string", max_length=20, null=True)
SIZE = field("size", "integer", null=True)


def things(*fields: object, **options: object) -> Resource:
    return resource("things", key("integer"), *fields, **options)  # type: ignore[arg-type]


IMPOSSIBLE = {
    "required column": (
        [things(NAME, SIZE, field("extra", "text"))],
        "ADD COLUMN extra TEXT NOT NULL",
        "contains null values",
        "give the field a default",
    ),
    "not null": (
        [things(NAME, field("size", "integer"))],
        "ALTER COLUMN size SET NOT NULL",
        "contains null values",
        "no value for it",
    ),
    "unique": (
        [things(field("name", "string", max_length=20, null=True, unique=True), SIZE)],
        "UNIQUE (name)",
        "could not create unique index",
        "the same value",
    ),
    "check": (
        [things(NAME, field("size", "integer", null=True, min=2))],
        "ck_things_size_min",
        "is violated by some row",
        "break the new rule",
    ),
    "foreign key": (
        [
            things(NAME, SIZE),
            resource("kinds", key("integer")),
            resource("others", field("kind", "foreign_key", to="kinds")),
        ],
        "fk_others_kind_id",
        "is not present in table",
        "refer to nothing",
    ),
}


@pytest.mark.parametrize("step", IMPOSSIBLE)
async def test_a_step_that_the_rows_do_not_allow_fails_as_a_whole(database: Database, step: str) -> None:
    """The error has the statement, PostgreSQL's reason and a way out, and nothing of the migration is left."""
    wanted, statement, reason, advice = IMPOSSIBLE[step]
    await database.migrate(declare(things(NAME, SIZE), resource("others", field("kind_id", "integer"))))
    await database.execute(
        "INSERT INTO things (name, size) VALUES ('same', 1), ('same', NULL); INSERT INTO others (kind_id) VALUES (7)"
    )
    tables = declare(*wanted, resource("aaa", field("first", "text")), resource("zzz", field("last", "text")))
    before = await catalog(database)
    with pytest.raises(SchemaError) as failure:
        await database.migrate(tables)
    for part in ("Nothing was changed", statement, reason, advice):
        assert part in str(failure.value)
    assert await catalog(database) == before
    assert await database.fetch("SELECT name, size FROM things ORDER BY id") == [("same", 1), ("same", None)]


async def test_a_required_column_is_added_to_an_empty_table(database: Database) -> None:
    """Without rows a column needs no default."""
    await database.migrate(declare(things(NAME)))
    tables = declare(things(NAME, field("extra", "text"), field("kind", "foreign_key", to="things")))
    assert (await database.migrate(tables)).left == []
    assert (await database.compare(tables)).statements == []


async def test_a_failure_of_the_triggers_takes_the_tables_back(database: Database) -> None:
    """What runs after the tables are made belongs to the same transaction."""

    async def fail(connection: asyncpg.Connection) -> None:
        await connection.execute("SELECT no_such_function()")

    with pytest.raises(SchemaError, match="no_such_function"):
        await database.migrate(declare(things(NAME)), after=fail)
    assert await catalog(database) == []
    assert await database.column("SELECT to_regnamespace('rowcast')::text") == [None]


async def test_steps_run_around_the_tables(database: Database) -> None:
    """``before`` runs before there is a table, ``after`` when all exist, and both run at every start."""
    seen: list[bool] = []

    async def before(connection: asyncpg.Connection) -> None:
        await install(connection)
        seen.append(await connection.fetchval("SELECT to_regclass('things') IS NOT NULL"))

    async def after(connection: asyncpg.Connection) -> None:
        seen.append(await connection.fetchval("SELECT to_regclass('things') IS NOT NULL"))

    for _ in range(2):
        await database.migrate(declare(things(NAME)), before=before, after=after)
    assert seen == [False, True, True, True]


async def test_a_role_that_may_only_read_gets_an_error(database: Database) -> None:
    """A role without the right to change the schema gets the statement and the role that should run it."""
    await database.migrate(declare(things(NAME)))
    await database.execute(
        """
        DO $$ BEGIN
            IF to_regrole('reader') IS NULL THEN CREATE ROLE reader LOGIN; END IF;
        END $$;
        GRANT USAGE ON SCHEMA rowcast TO reader;
        GRANT SELECT ON ALL TABLES IN SCHEMA public, rowcast TO reader;
        """
    )
    reader = Database(database.url.replace("postgres@", "reader@"), database.directory)
    wanted = declare(things(NAME, SIZE))
    assert await reader.pending(declare(things(NAME))) == []
    assert await reader.pending(wanted) == ["ALTER TABLE things ADD COLUMN size INTEGER;"]
    with pytest.raises(SchemaError, match="must be owner of table things") as failure:
        await reader.migrate(wanted)
    assert "ADD COLUMN size" in str(failure.value)
    assert "as the role that owns the tables" in str(failure.value)


async def test_a_read_only_connection_gets_an_error(database: Database) -> None:
    """A standby, or a role whose transactions are read-only, gets an error with the reason."""
    await database.migrate(declare(things(NAME)))

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(database.url, server_settings={"default_transaction_read_only": "on"})

    reader = Database(database.url, database.directory)
    reader.connect = connect  # type: ignore[method-assign]
    assert await reader.pending(declare(things(NAME))) == []
    with pytest.raises(SchemaError, match="read-only"):
        await reader.migrate(declare(things(NAME, SIZE)))


async def test_many_migrations_at_once_are_one(database: Database) -> None:
    """Replicas that start together wait for each other; one of them does the work."""
    tables = declare(things(NAME, SIZE), resource("others", field("thing", "foreign_key", to="things")))
    done = await asyncio.gather(*(database.migrate(tables) for _ in range(5)))
    assert sorted(len(migration.statements) for migration in done) == [0, 0, 0, 0, 3]


async def test_the_wait_for_another_migration_ends(database: Database) -> None:
    """A migration that has waited for longer than its patience raises an error and does nothing."""
    busy, free = asyncio.Event(), asyncio.Event()

    async def hold(_connection: asyncpg.Connection) -> None:
        busy.set()
        await free.wait()

    first = asyncio.create_task(database.migrate(declare(things(NAME)), after=hold))
    await busy.wait()
    with pytest.raises(SchemaError, match="Another process has been migrating"):
        await database.migrate(declare(things(NAME)), patience=0)
    free.set()
    assert len((await first).statements) == 1


async def test_a_table_in_use_does_not_hold_up_a_migration_for_ever(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration gives up a lock that it does not get, so that later requests go on."""
    monkeypatch.setattr("rowcast.migrations.alteration.TABLE_LOCK_TIMEOUT", "50ms")
    await database.migrate(declare(things(NAME)))
    user = await database.connect()
    async with user.transaction():
        await user.fetch("SELECT * FROM things")
        with pytest.raises(SchemaError, match="in use by a transaction"):
            await database.migrate(declare(things(NAME, SIZE)))
    await user.close()
    assert len((await database.migrate(declare(things(NAME, SIZE)))).statements) == 1


async def test_tables_are_not_made_in_the_services_own_schema(database: Database) -> None:
    """A role with the name of the service's schema creates its tables in the public schema."""
    await database.execute(
        """
        DO $$ BEGIN
            IF to_regrole('rowcast') IS NULL THEN CREATE ROLE rowcast SUPERUSER LOGIN; END IF;
        END $$;
        """
    )
    database = Database(database.url.replace("postgres@", "rowcast@"), database.directory)
    assert await database.column("SELECT current_user::text") == ["rowcast"]
    tables = declare(things(NAME))
    await database.migrate(tables)
    await database.migrate(declare(things(NAME), resource("others", SIZE)))
    assert await catalog(database) == ["others", "things"]


async def catalog(database: Database) -> list[str]:
    names: list[str] = await database.column(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1"
    )
    return names
