"""Revisions that change a table and write its rows: every change is in the log, or the log resets the table."""

from __future__ import annotations

import pytest

from rowcast.configuration.settings import Settings
from rowcast.migrations import commands
from rowcast.migrations.failures import SchemaError
from rowcast.migrations.revisions import write_revision
from rowcast.resources.tables import Tables
from rowcast.server.prepare import migration_steps

from .declarations import Database, declare, field, key, resource

NAME = field("name", "text", blank=True)
LABELS = field("labels", "many_to_many", to="labels")
RENAME = "op.alter_column('things', 'name', new_column_name='title')"
BACKFILL = """op.execute("UPDATE things SET title = 'b'")"""


def things(*fields: object) -> Tables:
    """The resource with links, and its target."""
    return declare(resource("things", key("integer"), *fields, LABELS), resource("labels", key("integer"), NAME))  # type: ignore[arg-type]


@pytest.fixture
def database(database: Database) -> Database:
    """An empty database whose migrations keep the change log."""

    async def migrate(tables: Tables, *, sync: bool = False) -> object:
        steps = migration_steps(tables, Settings())
        return await commands.migrate(database.connect, tables, database.directory, sync=sync, steps=steps)

    database.migrate = migrate  # type: ignore[method-assign,assignment]
    return database


async def logged(database: Database, statement: str = "") -> list[str]:
    """The resource and operation of each change since the last call, after an SQL statement."""
    await database.execute(statement or "SELECT")
    rows = await database.column("SELECT resource || ' ' || op::text FROM rowcast.change ORDER BY seq")
    await database.execute("TRUNCATE rowcast.change")
    return rows


@pytest.mark.parametrize("revisions", [[RENAME, BACKFILL], [f"{RENAME}; {BACKFILL}"]], ids=["two", "one"])
async def test_a_column_is_renamed_and_filled(database: Database, revisions: list[str]) -> None:
    """As two revisions that are applied at once, and as one."""
    await database.migrate(things(NAME), sync=True)
    assert await logged(database, "INSERT INTO things (name) VALUES ('a')") == ["things I"]
    for text in revisions:
        write_revision(database.directory, "step", text, "")
    await database.migrate(things(field("title", "text", blank=True)))
    assert await logged(database) == ["things T"]
    assert await database.column("SELECT title FROM things") == ["b"]
    assert await logged(database, "UPDATE things SET title = 'c'") == ["things U"]
    assert await database.pending(things(field("title", "text", blank=True))) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("""op.execute("UPDATE things SET name = 'b'")""", ["things U"]),
        ("""op.execute("INSERT INTO labels (name) VALUES ('x')")""", ["labels I"]),
        (
            """op.execute("ALTER TABLE things ADD more text"); op.execute("UPDATE things SET more = 'x'")""",
            ["things T"],
        ),
        ("""op.drop_column('things', 'name'); op.execute("DELETE FROM things")""", ["things T"]),
        (
            """op.drop_column('things', 'name'); op.execute("INSERT INTO labels (name) VALUES ('x')")"""
            """; op.execute("INSERT INTO things_labels SELECT 1, id FROM labels")""",
            ["labels I", "things T"],
        ),
    ],
    ids=["data", "other table", "added", "dropped", "links of a changed owner"],
)
async def test_what_revisions_write_is_logged(database: Database, text: str, expected: list[str]) -> None:
    """Row by row, unless the columns have changed before."""
    await database.migrate(things(NAME), sync=True)
    await logged(database, "INSERT INTO things (name) VALUES ('a')")
    write_revision(database.directory, "step", text, "")
    config = things(NAME) if "drop" not in text else things()
    await database.migrate(config)
    assert await logged(database) == expected
    assert await logged(database, "INSERT INTO labels (name) VALUES ('y')") == ["labels I"]


async def test_a_revision_that_fails_leaves_the_triggers(database: Database) -> None:
    """They are suspended in the transaction that is rolled back."""
    await database.migrate(things(NAME), sync=True)
    write_revision(database.directory, "step", 'op.execute("SELECT 1/0")', "")
    with pytest.raises(SchemaError, match="division"):
        await database.migrate(things(NAME))
    assert await logged(database, "INSERT INTO things (name) VALUES ('a')") == ["things I"]
    assert await database.column("SELECT prosrc LIKE '%truncated%' FROM pg_proc WHERE proname = 'things.insert'") == [
        False
    ]


async def test_a_role_that_does_not_own_the_triggers_applies_revisions(database: Database) -> None:
    """As far as these need no other triggers."""
    await database.migrate(things(NAME), sync=True)
    await database.execute(
        """
        DO $$ BEGIN
            IF to_regrole('migrator') IS NULL THEN CREATE ROLE migrator LOGIN; END IF;
        END $$;
        GRANT ALL ON SCHEMA rowcast, public TO migrator;
        GRANT ALL ON ALL TABLES IN SCHEMA rowcast, public TO migrator;
        ALTER TABLE rowcast.alembic_version OWNER TO migrator
        """
    )
    migrator = Database(database.url.replace("postgres@", "migrator@"), database.directory)
    write_revision(database.directory, "step", """op.execute("INSERT INTO labels (name) VALUES ('x')")""", "")
    steps = migration_steps(things(NAME), Settings())
    await commands.migrate(migrator.connect, things(NAME), database.directory, sync=False, steps=steps)
    assert await logged(database) == ["labels I"]
