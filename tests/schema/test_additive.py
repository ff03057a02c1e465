"""The steps that a sync runs, with rows in the tables, and that all rows survive them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rowcast.migrations.classify import widens
from rowcast.migrations.failures import SchemaError
from rowcast.resources.fields import Field
from rowcast.resources.resource import Resource

from .declarations import Database, declare, field, key, resource

ROWS = "INSERT INTO things (id, name, size) VALUES (1, 'one', 1), (2, 'two', 2), (3, '', NULL)"
NAME = field("name", "string", max_length=20, blank=True)
SIZE = field("size", "integer", null=True)


def things(*fields: Field, **options: Any) -> Resource:
    return resource("things", key("integer"), *fields, **options)


STEPS = {
    "a table": [things(NAME, SIZE), resource("others", field("thing", "foreign_key", to="things"))],
    "a nullable column": [things(NAME, SIZE, field("extra", "text", null=True))],
    "a column with a default": [things(NAME, SIZE, field("extra", "text", default="x"))],
    "a column that fills itself": [things(NAME, SIZE, field("made", "datetime", auto_now_add=True))],
    "a link": [things(NAME, SIZE, field("friends", "many_to_many", to="things"))],
    "a foreign key": [things(NAME, SIZE, field("next", "foreign_key", to="things", null=True))],
    "an index": [things(NAME, field("size", "integer", null=True, index=True), indexes=(("name", "size"),))],
    "a unique rule": [things(field("name", "string", max_length=20, blank=True, unique=True), SIZE)],
    "a limit": [things(NAME, field("size", "integer", null=True, min=1, max=2))],
    "a default": [things(field("name", "string", max_length=20, default="", blank=True), SIZE)],
    "a longer string": [things(field("name", "string", max_length=21, blank=True), SIZE)],
    "a string without limit": [things(field("name", "text", blank=True), SIZE)],
    "a bigger integer": [things(NAME, field("size", "big_integer", null=True))],
    "a bigger key": [resource("things", key("big_integer"), NAME, SIZE)],
    "null": [things(field("name", "string", max_length=20, blank=True, null=True), SIZE)],
    "comments": [things(replace(NAME, help_text="What: it's"), SIZE, description="T")],
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
async def test_a_sync_adds_and_every_row_survives(database: Database, step: list[Resource]) -> None:
    """A sync adds or widens, the rows stay the same, and nothing is left to do."""
    await database.migrate(declare(things(NAME, SIZE)))
    await database.execute(ROWS)
    before = await database.fetch("SELECT id, name, size FROM things ORDER BY id")
    planned = await database.plan(declare(*step))
    assert planned.statements
    assert planned.destructive == []
    done = await database.migrate(declare(*step))
    assert done.statements == planned.statements
    assert done.left == []
    assert await database.fetch("SELECT id, name, size FROM things ORDER BY id") == before
    assert (await database.compare(declare(*step))).statements == []


async def test_a_plan_changes_nothing(database: Database) -> None:
    """The plan of a first migration is complete, and leaves an empty database empty."""
    tables = declare(things(NAME, SIZE))
    planned = await database.plan(tables)
    assert [statement.sql.split(" (")[0] for statement in planned.statements] == ["CREATE TABLE things"]
    assert await database.column("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace") == []
    assert await database.column("SELECT to_regnamespace('rowcast')::text") == [None]


async def test_choices_grow(database: Database) -> None:
    """With one more choice, a new rule replaces the old one."""

    def priorities(*choices: str) -> Resource:
        return resource("tasks", field("priority", "string", choices=choices, default="low"))

    await database.migrate(declare(priorities("low", "high")))
    await database.execute("INSERT INTO tasks (priority) VALUES ('low'), ('high')")
    done = await database.migrate(declare(priorities("low", "high", "it's: urgent")))
    assert len(done.statements) == 2
    await database.execute("INSERT INTO tasks (priority) VALUES ('it''s: urgent')")
    assert await database.column("SELECT count(*) FROM tasks") == [3]


async def test_a_rule_may_become_narrower_when_the_rows_fit_it(database: Database) -> None:
    """PostgreSQL checks a replaced rule against the rows, so a rule that they fit is safe."""
    await database.migrate(declare(things(NAME, field("size", "integer", null=True, max=100))))
    await database.execute(ROWS)
    done = await database.migrate(declare(things(NAME, field("size", "integer", null=True, max=2))))
    assert [statement.additive for statement in done.statements] == [True, True]
    with pytest.raises(SchemaError, match="ck_things_size_max"):
        await database.migrate(declare(things(NAME, field("size", "integer", null=True, max=1))))


async def test_a_check_that_the_config_no_longer_has_is_dropped(database: Database) -> None:
    """A rule without a limit is the widest one."""
    await database.migrate(declare(things(NAME, field("size", "integer", null=True, min=1, max=2))))
    done = await database.migrate(declare(things(NAME, SIZE)))
    assert done.left == []
    await database.execute("INSERT INTO things (name, size) VALUES ('big', 1000)")


async def test_on_delete_is_changed_in_place(database: Database) -> None:
    """A foreign key with another action on delete replaces the one with its name."""

    def child(on_delete: str) -> list[Resource]:
        return [things(NAME, SIZE), resource("children", field("of", "foreign_key", to="things", on_delete=on_delete))]

    await database.migrate(declare(*child("restrict")))
    done = await database.migrate(declare(*child("cascade")))
    assert len(done.statements) == 2
    assert done.left == []
    assert await database.column("SELECT confdeltype FROM pg_constraint WHERE contype = 'f'") == [b"c"]


async def test_not_null_is_set_when_no_row_is_null(database: Database) -> None:
    """A field that may no longer be null becomes NOT NULL if no row is null."""
    nullable = declare(things(field("name", "string", max_length=20, blank=True, null=True), SIZE))
    await database.migrate(nullable)
    await database.execute("INSERT INTO things (name) VALUES ('one')")
    await database.migrate(declare(things(NAME, SIZE)))
    assert (await database.compare(declare(things(NAME, SIZE)))).statements == []


async def test_a_resource_that_disappears_keeps_its_table(database: Database) -> None:
    """The table of a resource that the config no longer has is not a difference."""
    await database.migrate(declare(things(NAME, SIZE), resource("gone", field("name", "text"))))
    await database.execute("INSERT INTO gone (name) VALUES ('still here')")
    assert (await database.plan(declare(things(NAME, SIZE)))).statements == []
    await database.migrate(declare(things(NAME, SIZE)))
    assert await database.column("SELECT name FROM gone") == ["still here"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("character varying(20)", "character varying(21)", True),
        ("character varying(20)", "character varying(19)", False),
        ("character varying(20)", "text", True),
        ("character varying", "text", True),
        ("text", "character varying(20)", False),
        ("character varying(5)[]", "text[]", True),
        ("integer", "bigint", True),
        ("bigint", "integer", False),
        ("integer", "text", False),
        ("numeric(5,2)", "numeric(6,2)", True),
        ("numeric(5,2)", "numeric(6,4)", False),
        ("numeric(5,2)", "numeric(7,4)", True),
        ("numeric(5,2)", "numeric", True),
        ("numeric", "numeric(5,2)", False),
        ("timestamp with time zone", "date", False),
        ("integer", "integer[]", False),
    ],
)
def test_widening(old: str, new: str, expected: bool) -> None:
    """A type widens another when each of its values is one of the other's, spelled the same."""
    assert widens(old, new) is expected
