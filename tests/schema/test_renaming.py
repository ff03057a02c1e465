"""Fields and resources that have another name than before: ``renamed_from``."""

from __future__ import annotations

from pathlib import Path

import pytest

from rowcast.errors import ConfigurationError
from rowcast.migrations import commands
from rowcast.resources.tables import Tables
from rowcast.server.prepare import migration_steps

from ..conftest import configure
from .declarations import Database, Rows, declare, field, key, resource


def before() -> Tables:
    return declare(
        resource(
            "books",
            key("integer"),
            field("name", "string", max_length=50, unique=True),
            field("year", "integer", null=True, min=1, index=True),
            field("writer", "foreign_key", to="writers", null=True),
            field("tags", "many_to_many", to="tags"),
        ),
        resource("writers", key("integer")),
        resource("tags", key("integer")),
    )


def after() -> Tables:
    return declare(
        resource(
            "novels",
            key("integer"),
            field("title", "string", max_length=60, unique=True, renamed_from="name"),
            field("published", "integer", null=True, min=1, index=True, renamed_from="year"),
            field("author", "foreign_key", to="authors", null=True, renamed_from="writer"),
            field("tags", "many_to_many", to="tags"),
            renamed_from="books",
        ),
        resource("authors", key("integer"), renamed_from="writers"),
        resource("tags", key("integer")),
    )


ROWS = """
INSERT INTO writers DEFAULT VALUES; INSERT INTO tags DEFAULT VALUES;
INSERT INTO books (name, year, writer_id) VALUES ('a', 1999, 1); INSERT INTO books_tags VALUES (1, 1)
"""
RENAMES = [
    'ALTER TABLE "books" RENAME TO "novels";',
    'ALTER TABLE "writers" RENAME TO "authors";',
    'ALTER TABLE "books_tags" RENAME TO "novels_tags";',
    'ALTER TABLE "novels" RENAME COLUMN "name" TO "title";',
    'ALTER TABLE "novels" RENAME COLUMN "year" TO "published";',
    'ALTER TABLE "novels" RENAME COLUMN "writer_id" TO "author_id";',
    'ALTER TABLE "novels_tags" RENAME COLUMN "books_id" TO "novels_id";',
]


async def rows(database: Database) -> Rows:
    return await database.fetch(
        "SELECT title, published, author_id, novels_id FROM novels JOIN novels_tags ON novels_id = id"
    )


async def test_a_rename_keeps_rows_and_rules(database: Database) -> None:
    """Columns, tables and tables of links are renamed, additively, and rules are not made again."""
    await database.migrate(before())
    await database.execute(ROWS)
    planned = await database.plan(after())
    assert planned.destructive == []
    assert [step.sql for step in planned.statements] == [
        *RENAMES,
        "ALTER TABLE novels ALTER COLUMN title TYPE VARCHAR(60);",
    ]
    assert await database.pending(after())
    assert await database.column("SELECT name FROM books") == ["a"]
    assert (await database.migrate(after())).left == []
    assert await rows(database) == [("a", 1999, 1, 1)]
    assert (await database.compare(after())).statements == []


async def test_a_revision_renames_and_does_nothing_where_that_is_done(database: Database) -> None:
    """It can be applied after a sync, and taken back."""
    await database.migrate(before())
    await database.execute(ROWS)
    path = await database.makemigrations(after(), "rename")
    assert path.read_text().count("RENAME COLUMN") == 8
    await database.execute("ALTER TABLE books RENAME name TO title")
    assert len((await database.migrate(after(), sync=False)).revisions) == 1
    assert await rows(database) == [("a", 1999, 1, 1)]
    assert (await database.compare(after())).statements == []


async def test_a_new_database_has_nothing_to_rename(database: Database) -> None:
    """Nor has one in which both names exist: the old column is then not in the config."""
    done = await database.migrate(after())
    assert not any("RENAME" in step.sql for step in done.statements)
    await database.execute("ALTER TABLE novels ADD name varchar(50)")
    assert (await database.compare(after())).statements == []


async def test_a_possible_rename_is_pointed_out(database: Database) -> None:
    """If a column of the same type is new and another one is not in the config."""
    await database.migrate(before())
    tables = declare(
        resource(
            "books", key("integer"), field("title", "string", max_length=50), field("n", "big_integer", null=True)
        ),
    )
    hints = [note for note in (await database.plan(tables)).notes if "renamed_from" in note]
    assert hints == [
        "books.title is new and has the type of books.name, which is not in the config. "
        "If the field was renamed, add `renamed_from: name` to it."
    ]


async def test_a_rename_resets_the_readers_of_the_log(database: Database, tmp_path: Path) -> None:
    """The rows in the log have the former names; the triggers log the new ones."""
    settings = configure(tmp_path / "config", {"x": "fields: {a: {type: text}}"}).settings
    for tables in (
        declare(resource("books", key("integer"), field("name", "text"))),
        declare(resource("books", key("integer"), field("title", "text", renamed_from="name"))),
    ):
        steps = migration_steps(tables, settings)
        await commands.migrate(database.connect, tables, database.directory, sync=True, steps=steps)
    await database.execute("INSERT INTO books (title) VALUES ('a')")
    assert await database.column("SELECT op::text FROM rowcast.change ORDER BY seq") == ["T", "I"]
    assert await database.column("SELECT new ->> 'title' FROM rowcast.change WHERE op = 'I'") == ["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fields: {a: {type: text}, b: {type: text, renamed_from: a}}", "there is still a field 'a'"),
        ("renamed_from: x\nfields: {a: {type: text}}", "is the table's present name"),
        ("fields: {a: {type: many_to_many, to: x, renamed_from: b}}", "does not apply to many_to_many"),
    ],
)
def test_former_names_are_checked(tmp_path: Path, text: str, message: str) -> None:
    """By `rowcast check`."""
    with pytest.raises(ConfigurationError, match=message):
        configure(tmp_path / "config", {"x": text})
