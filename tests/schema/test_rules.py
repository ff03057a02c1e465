"""Unique rules with conditions, checks by expressions and generated columns: plans, revisions, and the way back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rowcast.resources.fields import Field
from rowcast.resources.full_text import FullText
from rowcast.resources.resource import Resource
from rowcast.resources.rules import CheckRule, UniqueRule
from rowcast.resources.tables import Tables

from .declarations import Database, declare, field, key, resource

EMAIL = field("email", "string", max_length=50)
GONE = field("gone", "boolean", default=False)
PRICE = field("price", "decimal", max_digits=8, decimal_places=2)
AMOUNT = field("amount", "integer")
TOTAL = field(
    "total", "decimal", max_digits=18, decimal_places=2, generated="price * amount", read_only=True, null=True,
    required=False, min=0,
)  # fmt: skip
ALIVE = UniqueRule(("email",), ("email",), "NOT gone")


def things(*more: Field, **options: Any) -> Tables:
    return declare(_things(*more, **options))


def _things(*more: Field, **options: Any) -> Resource:
    return resource("things", key("integer"), EMAIL, GONE, PRICE, AMOUNT, *more, **options)


STEPS: dict[str, Tables] = {
    "a unique rule without case, of some rows": things(rules=(ALIVE,)),
    "nulls that are equal": things(field("a", "text", null=True), rules=(UniqueRule(("a",), nulls_equal=True),)),
    "a condition with a list": things(rules=(UniqueRule(("email",), where="email IN ('a', 'b:c')"),)),
    "a check": things(checks=(CheckRule("amount > 0 OR email LIKE 'x:%'"),)),
    "a generated column": things(TOTAL),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
async def test_a_sync_adds_a_rule_and_takes_it_away(database: Database, step: Tables) -> None:
    await database.migrate(things())
    planned = await database.plan(step)
    assert planned.statements
    assert planned.destructive == []
    assert planned.pending == [str(each) for each in planned.statements if each.needed] != []
    done = await database.migrate(step)
    assert (done.statements, done.left) == (planned.statements, [])
    assert (await database.compare(step)).statements == []
    back = await database.plan(things())
    assert back.destructive == []
    assert (await database.migrate(things())).left == []
    assert (await database.compare(things())).statements == []


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
async def test_a_revision_makes_new_tables_with_their_rules(database: Database, step: Tables) -> None:
    await database.makemigrations(step)
    assert (await database.migrate(step, sync=False)).left == []
    assert (await database.compare(step)).statements == []


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
async def test_expressions_as_a_dump_has_them_are_the_same(database: Database, step: Tables) -> None:
    """``pg_dump`` writes an index as PostgreSQL prints it, which PostgreSQL prints in another way when it has read it."""
    await database.migrate(step)
    for name, definition in await database.fetch(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'things' AND indexname LIKE 'uq%'"
    ):
        await database.execute(f"DROP INDEX {name}; {definition}")
    assert (await database.compare(step)).statements == []


async def test_another_condition_is_another_index(database: Database) -> None:
    await database.migrate(things(rules=(ALIVE,)))
    changed = things(rules=(replace(ALIVE, where="NOT gone AND amount > 0"),))
    planned = await database.plan(changed)
    assert [each.sql.split()[0] for each in planned.statements] == ["DROP", "CREATE"]
    await database.migrate(changed)
    assert (await database.compare(changed)).statements == []
    assert len(await database.fetch("SELECT FROM pg_indexes WHERE indexname LIKE 'uq_things%'")) == 1
    path = await database.makemigrations(things())
    assert "NOT gone" in path.read_text()  # so that a downgrade makes the index again


async def test_an_index_of_another_name_serves(database: Database) -> None:
    await database.migrate(things())
    await database.execute("CREATE UNIQUE INDEX own ON things (lower(email)) WHERE NOT gone")
    await database.execute("ALTER TABLE things ADD CONSTRAINT positive CHECK (amount > 0)")
    tables = things(rules=(ALIVE,), checks=(CheckRule("amount > 0"),))
    assert (await database.compare(tables)).statements == []


async def test_another_expression_computes_all_rows_again(database: Database) -> None:
    """The column's own rules are still there afterwards."""
    await database.migrate(things(replace(TOTAL, index=True)))
    await database.execute("INSERT INTO things (email, price, amount) VALUES ('a', 2, 3)")
    changed = things(replace(TOTAL, index=True, generated="price * amount + 1"))
    planned = await database.plan(changed)
    assert (len(planned.statements) >= 1, planned.destructive) == (True, [])
    assert (await database.migrate(changed)).left == []
    assert await database.column("SELECT total::text FROM things") == ["7.00"]
    assert (await database.compare(changed)).statements == []


async def test_a_column_becomes_generated_and_plain_again_by_revisions(database: Database) -> None:
    plain = replace(TOTAL, generated=None, read_only=False)
    await database.migrate(things(plain))
    await database.execute("INSERT INTO things (email, price, amount, total) VALUES ('a', 2, 3, 100)")
    assert len((await database.plan(things(TOTAL))).destructive) == 1  # values are lost
    await database.makemigrations(things(TOTAL), "generated")
    assert (await database.migrate(things(TOTAL), sync=False)).pending == []
    await database.migrate(things(TOTAL))
    assert (await database.compare(things(TOTAL))).statements == []
    assert await database.column("SELECT total::text FROM things") == ["6.00"]
    await database.makemigrations(things(plain), "plain")
    assert (await database.migrate(things(plain))).left == []
    assert await database.column("SELECT total::text FROM things") == ["6.00"]


WRONG = {
    "check": (
        things(checks=(CheckRule("amuont > 0"),)),
        '`expr: amuont > 0` of things: column "amuont" does not exist',
    ),
    "where": (things(rules=(UniqueRule(("email",), where="now() > 1"),)), "`where: now() > 1` of things: "),
    "generated": (
        things(replace(TOTAL, generated="random()")),
        "`generated: random()` of the field total of things: generation expression is not immutable",
    ),
    "two": (
        things(checks=(CheckRule("a"), CheckRule("amount"))),
        "`expr: amount` of things: argument of CHECK must be",
    ),
}


@pytest.mark.parametrize(("tables", "sentence"), WRONG.values(), ids=WRONG.keys())
async def test_a_wrong_expression_is_a_sentence(database: Database, tables: Tables, sentence: str) -> None:
    planned = await database.plan(tables)
    assert all(each.problem and each.needed for each in planned.statements)
    assert any(sentence in each.sql for each in planned.statements)
    await database.migrate(things())
    done = await database.migrate(tables)
    assert any(sentence in each for each in done.pending)


async def test_a_search_is_a_column_and_an_index(database: Database) -> None:
    """Another search computes it again; a field that is renamed keeps it; a search that ends is dropped by a revision."""
    await database.migrate(things())
    await database.execute("INSERT INTO things (email, price, amount) VALUES ('walks', 2, 3)")
    searched = things(search=FullText("english", (("email", "A"),)))
    planned = await database.plan(searched)
    assert [each.sql.split(" (")[0].split(" TSV")[0] for each in planned.statements] == [
        "ALTER TABLE things ADD COLUMN search_vector",
        "CREATE INDEX ix_things_search_vector ON things USING gin",
    ]
    assert (await database.migrate(searched)).left == []
    assert (await database.compare(searched)).statements == []
    assert await database.column("SELECT search_vector::text FROM things") == ["'walk':1A"]
    renamed = resource("things", key("integer"), replace(EMAIL, name="mail", renamed_from="email"), GONE, PRICE, AMOUNT)
    other = declare(replace(renamed, search=FullText("simple", (("mail", "B"),))))
    assert (await database.plan(other)).destructive == []
    assert (await database.migrate(other)).left == []
    assert (await database.compare(other)).statements == []
    assert await database.column("SELECT search_vector::text FROM things") == ["'walks':1B"]
    ended = declare(replace(renamed, search=None))
    assert (await database.pending(ended)) == []
    assert len((await database.plan(ended)).destructive) == 1
    await database.makemigrations(ended, "ended")
    assert (await database.migrate(ended, sync=False)).left == []
    assert await database.fetch("SELECT FROM pg_indexes WHERE indexname LIKE '%search%'") == []
    wrong = await database.plan(declare(replace(renamed, search=FullText("englsh", (("mail", "B"),)))))
    assert wrong.pending == ['-- `search` of things: text search configuration "englsh" does not exist']


async def test_a_check_of_a_renamed_column_serves(database: Database) -> None:
    """It was dropped, and made again by the next migration alone."""
    await database.migrate(things())
    renamed = resource("things", key("integer"), replace(EMAIL, name="mail", renamed_from="email"), GONE, PRICE, AMOUNT)
    done = await database.migrate(declare(renamed))
    assert ([each.sql.split()[3] for each in done.statements], done.left) == (["RENAME"], [])
