"""Resources with ``managed: false``: their tables are never changed."""

from __future__ import annotations

import pytest

from rowcast.migrations.failures import SchemaError
from rowcast.resources.fields import JoinTable
from rowcast.resources.tables import Tables

from .declarations import Database, declare, field, key, resource

LEGACY = """
CREATE SCHEMA crm;
CREATE TABLE crm.people (id integer NOT NULL, name varchar(20), "extra" text NOT NULL, note text DEFAULT 'x');
CREATE UNIQUE INDEX ON crm.people (id)
"""


def people(*fields: object, **options: object) -> Tables:
    name = field("name", "string", max_length=50, unique=True, index=True, min_length=2, help_text="A name.")
    declared = (key("integer", database_default=False, sent_key=True), name, *fields)
    return declare(
        resource("people", *declared, table="crm.people", managed=False, description="People.", **options),  # type: ignore[arg-type]
        resource("desks", key("integer"), field("person", "foreign_key", to="people", null=True)),
    )


async def test_nothing_of_the_table_is_changed(database: Database) -> None:
    """Not its columns, constraints, indexes and comments; other tables are, and may refer to it."""
    await database.execute(LEGACY)
    before = await database.fetch(
        "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'crm.people'::regclass"
    )
    tables = people()
    plan = await database.plan(tables)
    assert not [step for step in plan.statements if "ALTER" in step.sql or "COMMENT" in step.sql]
    assert plan.notes == [
        "not in the config: crm.people.extra (NOT NULL without a default, so that the service cannot add rows)"
    ]
    assert (await database.migrate(tables)).left == []
    assert await database.pending(tables) == []
    assert (await database.compare(tables)).statements == []
    after = await database.fetch(
        "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'crm.people'::regclass"
    )
    assert after == before
    assert (
        await database.column(
            "SELECT conname FROM pg_constraint WHERE conrelid = 'crm.people'::regclass AND contype <> 'n'"
        )
        == []
    )
    with pytest.raises(SchemaError, match="nothing to write a revision of"):
        await database.makemigrations(tables)
    with pytest.raises(SchemaError, match="`managed: false`, so it is not changed"):
        await database.makemigrations(tables, drop=["crm.people.extra"])


async def test_a_table_that_is_missing_is_not_made(database: Database) -> None:
    """Neither is its schema."""
    sentence = (
        "-- there is no table crm.people, and `managed: false` forbids to create it: create it, or correct `table`"
    )
    assert sentence in map(str, (await database.plan(people())).statements)
    assert sentence in await database.pending(people())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("DROP COLUMN name", "there is no column crm.people.name: add it to the table, name the right one with `column`, "
         "or remove the field"),
        ("ALTER name TYPE integer USING 1", "crm.people.name has the type integer, and its field is for character "
         "varying(50): give the field another type"),
        ("ALTER id TYPE bigint", "crm.people.id has the type bigint, and its field is for integer: give the field another type"),
        ("DROP COLUMN id, ADD id integer", "crm.people has no unique rule on id without nulls, so it cannot be the key: name another one, "
         "or add the rule"),
    ],
)  # fmt: skip
async def test_what_keeps_it_from_being_served(database: Database, change: str, sentence: str) -> None:
    await database.execute(f"{LEGACY}; ALTER TABLE crm.people {change}")
    plan = await database.plan(people())
    assert [str(step) for step in plan.statements if step.problem] == [f"-- {sentence}"]
    assert f"-- {sentence}" in plan.pending


async def test_defaults_that_the_fields_expect(database: Database) -> None:
    """A configured one, and that of an integer key; what the service generates itself needs none."""
    await database.execute(
        f"{LEGACY}; ALTER TABLE crm.people ADD made timestamptz NOT NULL; CREATE TABLE notes (id integer PRIMARY KEY);"
    )
    tables = people(field("note", "text", default="y"), field("made", "datetime", auto_now_add=True))
    assert [str(step)[:40] for step in (await database.plan(tables)).statements if step.problem] == [
        "-- crm.people.note does not have the def"
    ]
    tables = declare(resource("notes", field("id", "integer", primary_key=True), managed=False))
    assert [str(step)[:40] for step in (await database.plan(tables)).statements if step.problem] == [
        "-- notes.id has no default, and the data"
    ]


async def test_the_digest_depends_on_it(database: Database) -> None:
    """A table that was in line while it was managed is compared again."""
    await database.execute(
        "CREATE TABLE notes (id serial, text varchar(9) NOT NULL); CREATE UNIQUE INDEX ON notes (id)"
    )

    def notes(managed: bool) -> Tables:
        return declare(
            resource("notes", key("integer"), field("text", "string", max_length=9, unique=True), managed=managed)
        )

    assert (await database.migrate(notes(False))).left == []
    assert await database.pending(notes(True)) != []


def joined(**options: object) -> Tables:
    return declare(
        resource(
            "a", key("integer"), field("bs", "many_to_many", to="b", through=JoinTable("x.ab", "A", "B"), **options)
        ),
        resource("b", key("integer")),
    )


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (None, "there is no table x.ab, which a.bs has links in: create it, or correct `through`"),
        ('"A" integer', "there is no column x.ab.B, which a.bs has links in: correct `through`"),
        ('"A" integer, "B" text', "x.ab.B has the type text, and its field is for integer: give the field another type"),
        ('"A" integer, "B" integer, n integer NOT NULL', "x.ab.n is NOT NULL without a default, so no links of a.bs can be "
         "added: give the column a default, or make the field `read_only`"),
    ],
)  # fmt: skip
async def test_join_tables_that_cannot_serve(database: Database, columns: str | None, sentence: str) -> None:
    await database.execute("CREATE SCHEMA x" if columns is None else f"CREATE SCHEMA x; CREATE TABLE x.ab ({columns})")
    plan = await database.plan(joined())
    assert [str(step) for step in plan.statements if step.problem] == [f"-- {sentence}"]
    assert [step for step in plan.statements if "x.ab" in step.sql and not step.problem] == []


async def test_a_join_table_is_left_alone(database: Database) -> None:
    await database.execute(
        'CREATE SCHEMA x; CREATE TABLE x.ab (id serial PRIMARY KEY, "A" integer, "B" integer, n text NOT NULL)'
    )
    assert (await database.migrate(joined(read_only=True))).left == []
    assert (await database.compare(joined(read_only=True))).statements == []
    assert await database.column(
        "SELECT conname FROM pg_constraint WHERE conrelid = 'x.ab'::regclass AND contype <> 'n'"
    ) == ["ab_pkey"]


@pytest.mark.parametrize("managed", [True, False])
async def test_a_foreign_key_to_another_column_than_the_key(database: Database, managed: bool) -> None:
    """It would be joined with the wrong rows. One to each of both columns is no mistake."""
    await database.execute("""
        CREATE TABLE authors (id serial PRIMARY KEY, code integer NOT NULL UNIQUE);
        CREATE TABLE books (id serial PRIMARY KEY, author_id integer NOT NULL REFERENCES authors (code));
    """)
    tables = declare(
        resource("authors", key("integer"), field("code", "integer", unique=True), managed=managed),
        resource("books", key("integer"), field("author", "foreign_key", to="authors"), managed=managed),
    )
    (sentence,) = (str(step) for step in (await database.plan(tables)).statements if step.problem)
    assert sentence.startswith(
        "-- books.author_id refers to authors.code in the database, and the key of its target is id: "
    )
    await database.execute("ALTER TABLE books ADD FOREIGN KEY (author_id) REFERENCES authors")
    assert not any(step.problem for step in (await database.plan(tables)).statements)
