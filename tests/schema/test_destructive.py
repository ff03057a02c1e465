"""Steps that a sync leaves to a written revision, and objects that belong to others."""

from __future__ import annotations

import asyncpg
import pytest

from rowcast.migrations.catalog import is_in_line
from rowcast.resources.tables import Tables

from .declarations import Database, declare, field, key, resource

NAME = field("name", "string", max_length=20)


async def test_dropping_and_narrowing_are_left_to_a_revision(database: Database) -> None:
    """A step that could lose data is planned as destructive, is not run by a sync, and the plan names the way out."""
    await database.migrate(
        declare(
            resource(
                "things",
                field("name", "string", max_length=20, unique=True),
                field("size", "big_integer", index=True),
                field("note", "text", null=True),
                field("kind", "text"),
            )
        )
    )
    await database.execute("INSERT INTO things (name, size, note, kind) VALUES ('a', 1, 'n', 'x')")
    smaller = declare(resource("things", field("name", "string", max_length=10), field("size", "integer")))
    planned = await database.plan(smaller)
    assert [statement.sql for statement in planned.additive] == [
        "ALTER TABLE things DROP CONSTRAINT uq_things_name;",
        "DROP INDEX ix_things_size;",
    ]
    done = await database.migrate(smaller)
    assert done.statements == planned.additive
    assert done.left == planned.destructive
    assert [statement.sql for statement in planned.destructive] == [
        "ALTER TABLE things ALTER COLUMN name TYPE VARCHAR(10);",
        "ALTER TABLE things ALTER COLUMN size TYPE INTEGER;",
    ]
    assert "rowcast makemigrations -m" in str(planned)
    assert await database.fetch("SELECT name, size, note, kind FROM things") == [("a", 1, "n", "x")]
    assert done.pending == await database.pending(smaller) == []


async def test_a_service_waits_for_steps_that_it_needs(database: Database) -> None:
    """A column that would refuse every insert, and a type that is another, keep a service from being ready."""
    loose = field("name", "string", max_length=20, blank=True)
    await database.migrate(declare(resource("things", loose, field("size", "text", blank=True))))
    needed = declare(resource("things", field("name", "integer")))
    assert await database.pending(needed) == [
        "-- destructive: ALTER TABLE things ALTER COLUMN name TYPE INTEGER USING name::INTEGER;",
    ]
    assert (await database.migrate(needed)).pending == await database.pending(needed)


async def test_a_step_that_depends_on_a_destructive_step_waits_with_it(database: Database) -> None:
    """A limit on a column whose type has to change does not make a sync fail."""
    await database.migrate(
        declare(resource("things", key("text"), NAME, field("size", "text", null=True)), resource("others", NAME))
    )
    changed = declare(
        resource("things", key("uuid"), NAME, field("size", "integer", min=1, default=1, index=True, unique=True)),
        resource(
            "others",
            NAME,
            field("thing", "foreign_key", to="things", null=True),
            field("more", "text", null=True, blank=True),
        ),
        resource("new", field("thing", "foreign_key", to="things")),
        resource("newer", field("one", "foreign_key", to="new")),
    )
    done = await database.migrate(changed)
    assert [statement.sql for statement in done.statements] == [
        "ALTER TABLE others ADD COLUMN thing_id UUID;",
        "ALTER TABLE others ADD COLUMN more TEXT;",
        "CREATE INDEX ix_others_thing_id ON others (thing_id);",
    ]
    assert not any(statement.additive for statement in done.left)


async def test_the_primary_key_is_compared(database: Database) -> None:
    """Another primary key is a difference, which needs a revision."""
    await database.migrate(declare(resource("things", key("text"), field("code", "text"))))
    other = declare(resource("things", key("text", "code"), field("id", "text")))
    assert [statement.sql.splitlines()[0] for statement in (await database.plan(other)).destructive] == [
        "ALTER TABLE things DROP CONSTRAINT pk_things;",
        "ALTER TABLE things ADD CONSTRAINT pk_things PRIMARY KEY (code);",
    ]


async def test_objects_of_others_are_left_alone(database: Database) -> None:
    """Other applications' tables, and an operator's own indexes and rules, are in no plan."""
    tables = declare(resource("things", NAME, field("size", "integer")))
    await database.migrate(tables)
    await database.execute(
        """
        CREATE TABLE public.alembic_version (version_num varchar(32));
        CREATE TABLE public.foreigners (id int, place point);
        CREATE SCHEMA elsewhere;
        CREATE TABLE elsewhere.things (id int);
        CREATE VIEW public.many_things AS SELECT name FROM things;
        CREATE INDEX things_lower_name ON things (lower(name));
        CREATE INDEX things_partial ON things (size) WHERE size > 0;
        ALTER TABLE things ADD CONSTRAINT sensible CHECK (size < 1000000);
        ALTER TABLE things ADD CONSTRAINT each_once EXCLUDE USING btree (name WITH =);
        """
    )
    assert (await database.compare(tables)).statements == []
    assert (await database.migrate(tables)).statements == []


async def test_a_table_that_is_older_than_the_service_is_adopted(database: Database) -> None:
    """A table created by hand is compared before the service's schema is installed, and completed by a sync."""
    await database.execute(
        """
        CREATE TABLE places (id serial PRIMARY KEY, name varchar(20) NOT NULL);
        CREATE TABLE things (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar(20) NOT NULL,
            place_id integer REFERENCES places ON DELETE SET NULL
        );
        INSERT INTO places (name) VALUES ('here');
        """
    )
    tables = declare(
        resource("places", key("integer"), NAME),
        resource("things", NAME, field("place", "foreign_key", to="places", null=True, on_delete="set_null")),
    )
    assert [statement.sql for statement in (await database.plan(tables)).statements] == [
        "ALTER TABLE places ADD CONSTRAINT ck_places_name_blank CHECK (name != '');",
        "ALTER TABLE things ADD CONSTRAINT ck_things_name_blank CHECK (name != '');",
        "CREATE INDEX ix_things_place_id ON things (place_id);",
    ]
    assert (await database.migrate(tables)).left == []
    assert (await database.compare(tables)).statements == []


@pytest.mark.parametrize(
    "by_hand",
    [
        "ALTER TABLE things DROP COLUMN size",
        "ALTER TABLE things DROP CONSTRAINT ck_things_size_min",
        "ALTER TABLE things ALTER COLUMN size SET DEFAULT 2",
        "ALTER TABLE things ALTER COLUMN name TYPE varchar(21)",
        "ALTER TABLE things ALTER COLUMN name DROP NOT NULL",
        "DROP INDEX ix_things_size",
        "DROP TABLE things",
        "COMMENT ON COLUMN things.size IS 'other'",
        "ALTER TABLE things DROP CONSTRAINT ck_things_size_min;"
        "ALTER TABLE things ADD CONSTRAINT ck_things_size_min CHECK (size >= 1) NOT VALID",
    ],
)
async def test_a_change_by_hand_is_found(database: Database, by_hand: str) -> None:
    """A database that was in line and was altered by hand is not in line."""
    tables = declare(resource("things", NAME, field("size", "integer", min=1, default=1, index=True, help_text="big")))
    await database.migrate(tables)
    assert (await database.plan(tables)).statements == []
    await database.execute(by_hand)
    assert (await database.plan(tables)).statements != []


async def test_a_database_in_line_is_recognized_without_comparing(database: Database) -> None:
    """The start of a service on a database that is in line runs a handful of small statements."""
    tables = declare(resource("things", NAME))
    await database.migrate(tables)
    statements: list[str] = []

    async def connect() -> asyncpg.Connection:
        connection = await asyncpg.connect(database.url)
        connection.add_query_logger(lambda query: statements.append(query.query))
        return connection

    assert await Database(database.url, database.directory).pending(tables) == []
    spied = Database(database.url, database.directory)
    spied.connect = connect  # type: ignore[method-assign]
    await spied.migrate(tables)
    assert not any("TEMP" in statement or "pg_temp" in statement for statement in statements)
    assert len(statements) < 12


async def test_a_database_in_line_is_known_to_the_next_process(database: Database) -> None:
    """The digest of the declared tables does not depend on the order in which a process holds them."""

    def declared() -> Tables:
        indexed = [field(f"n{number}", "integer", index=True) for number in range(8)]
        return declare(resource("things", *indexed), resource("parts", *indexed, key()))

    processes = [declared() for _ in range(8)]
    await database.migrate(processes[0])
    connection = await database.connect()
    assert all([await is_in_line(connection, tables) for tables in processes])
    await connection.close()
