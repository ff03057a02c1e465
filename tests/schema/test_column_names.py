"""Columns whose names in the database are others than their fields': ``column: legacyName``."""

from __future__ import annotations

from rowcast.resources.tables import Tables

from .declarations import Database, declare, field, key, resource


def legacy(title: str = "theTitle", **options: object) -> Tables:
    """Names that need quotes, and a column that has the name of another field."""
    return declare(
        resource(
            "books",
            key("integer", column="BookNo"),
            field("title", "string", max_length=50, unique=True, column=title, **options),
            field("subtitle", "string", null=True, column="title", choices=("a", "b")),
            field("author", "foreign_key", to="authors", column="AuthorNo"),
            field("series", "foreign_key", to="books", null=True, column="volume of", on_delete="set_null"),
            field("pages", "integer", min=1, default=1, index=True, column="Pages"),
            field("tags", "many_to_many", to="tags"),
            table="Books",
            unique=(("author", "title"),),
            indexes=(("-pages", "title"),),
        ),
        resource("authors", key("string", max_length=5, column="AuthorCode"), table="lib.Authors"),
        resource("tags", key("integer", column="TagId")),
    )


async def test_a_sync_makes_them(database: Database) -> None:
    tables = legacy()
    assert (await database.migrate(tables)).left == []
    assert (await database.compare(tables)).statements == []
    await database.execute("""
        INSERT INTO lib."Authors" VALUES ('a'); INSERT INTO tags DEFAULT VALUES;
        INSERT INTO "Books" ("theTitle", "AuthorNo", "volume of") VALUES ('t', 'a', NULL); INSERT INTO "Books_tags" VALUES (1, 1)
    """)
    assert await database.fetch('SELECT "BookNo", "Pages", title FROM "Books"') == [(1, 1, None)]


async def test_a_revision_makes_them(database: Database) -> None:
    tables = legacy()
    text = (await database.makemigrations(tables)).read_text()
    assert "sa.ForeignKeyConstraint(['AuthorNo'], ['lib.Authors.AuthorCode']" in text
    await database.migrate(tables, sync=False)
    assert (await database.compare(tables)).statements == []


async def test_every_kind_of_difference_is_found(database: Database) -> None:
    tables = legacy()
    await database.migrate(tables)
    await database.execute("""
        ALTER TABLE "Books" DROP COLUMN title, DROP CONSTRAINT "uq_Books_title", DROP CONSTRAINT "ck_Books_pages_min",
            DROP CONSTRAINT "fk_Books_series_id", ALTER "Pages" DROP DEFAULT, ALTER "theTitle" TYPE varchar(10);
        DROP INDEX "ix_Books_author_id"; DROP INDEX "ix_Books_pages__desc_title"
    """)
    steps = (await database.plan(tables)).statements
    assert len(steps) == 9, [step.sql for step in steps]
    assert all(step.additive for step in steps)
    assert (await database.migrate(tables)).left == []


async def test_a_column_is_renamed(database: Database) -> None:
    """With ``column``, ``renamed_from`` is the column's former name."""
    await database.migrate(legacy())
    await database.execute(
        'INSERT INTO lib."Authors" VALUES (\'a\'); INSERT INTO "Books" ("theTitle", "AuthorNo") VALUES (\'t\', \'a\')'
    )
    tables = legacy("Titel", renamed_from="theTitle")
    assert [step.sql for step in (await database.plan(tables)).statements] == [
        'ALTER TABLE "Books" RENAME COLUMN "theTitle" TO "Titel";'
    ]
    assert (await database.migrate(tables)).left == []
    assert await database.column('SELECT "Titel" FROM "Books"') == ["t"]


async def test_what_the_config_does_not_name(database: Database) -> None:
    """A column that has the name of a field with another column is not the field's."""
    await database.execute('CREATE TABLE things (id serial PRIMARY KEY, name text, "Name" text NOT NULL)')
    tables = declare(resource("things", key("integer"), field("name", "text", column="Name", blank=True)))
    plan = await database.plan(tables)
    assert (plan.statements, plan.notes[0]) == ([], "not in the config: things.name")
    await database.makemigrations(tables, drop=["things.name"])


async def test_a_default_that_the_owner_has_not_written(database: Database) -> None:
    """``default: database`` on a column without one is a sentence, and the service waits."""
    await database.execute(
        'CREATE TABLE things (id serial PRIMARY KEY, "Name" text NOT NULL, made timestamptz NOT NULL DEFAULT now())'
    )
    name = field("name", "text", column="Name", blank=True, database_default=True)
    tables = declare(
        resource(
            "things", key("integer", database_default=True), name, field("made", "datetime", database_default=True)
        )
    )
    sentence = "-- things.Name has no default in the database, as `default: database` expects"
    assert [str(step) for step in (await database.plan(tables)).statements] == [sentence]
    assert await database.pending(tables) == [sentence]
    await database.execute("""ALTER TABLE things ALTER "Name" SET DEFAULT 'x'""")
    assert (await database.plan(tables)).statements == []
