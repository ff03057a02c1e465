"""Tables in schemas of PostgreSQL that the config names: ``table: schema.name``."""

from __future__ import annotations

import pytest

from rowcast.migrations.failures import SchemaError
from rowcast.resources.tables import Tables

from .declarations import Database, declare, field, key, resource


def two_schemas(title: str = "title", **options: object) -> Tables:
    """Tables of the same name in two schemas and without one, with relations among them."""
    return declare(
        resource("customers", key("integer"), field("name", "string", max_length=50, unique=True)),
        resource(
            "orders",
            key("integer"),
            field(title, "string", max_length=50, index=True, **options),
            field("number", "integer", min=1, unique=True),
            field("state", "string", choices=("new", "paid")),
            field("customer", "foreign_key", to="customers"),
            field("former", "foreign_key", to="archived", null=True, on_delete="set_null"),
            field("tags", "many_to_many", to="tags"),
            table="sales.Order",
            unique=(("number", "customer"),),
        ),
        resource("archived", key("integer"), field("number", "integer", min=0, unique=True), table="Old stock.Order"),
        resource("tags", key("integer"), table="public.tags"),
        resource("tagged", key("integer"), field("number", "integer"), table="Order"),
    )


ROWS = """
INSERT INTO customers (name) VALUES ('ann'); INSERT INTO tags DEFAULT VALUES;
INSERT INTO sales."Order" (title, number, state, customer_id) VALUES ('a', 1, 'new', 1);
INSERT INTO sales."Order_tags" VALUES (1, 1)
"""


async def test_schemas_and_tables_are_made(database: Database) -> None:
    """Then the database is in line, and a comparison without the digest finds that as well."""
    tables = two_schemas()
    plan = await database.plan(tables)
    assert [step.sql for step in plan.statements[:2]] == [
        'CREATE SCHEMA IF NOT EXISTS "Old stock";',
        'CREATE SCHEMA IF NOT EXISTS "sales";',
    ]
    assert all(step.additive for step in plan.statements)
    done = await database.migrate(tables)
    assert done.left == []
    await database.execute(ROWS)
    assert (await database.compare(tables)).statements == []
    assert await database.column(
        "SELECT relnamespace::regnamespace || '.' || relname FROM pg_class WHERE relkind = 'r' AND relname ~ 'rder' ORDER BY 1"
    ) == ['"Old stock".Order', "public.Order", "sales.Order", "sales.Order_tags"]


async def test_every_kind_of_difference_is_found(database: Database) -> None:
    """A column, a type, a check, a default, a unique rule, an index and a foreign key that a table lacks."""
    tables = two_schemas()
    await database.migrate(tables)
    await database.execute(
        'ALTER TABLE sales."Order" DROP COLUMN title, DROP CONSTRAINT "uq_Order_number", ALTER state TYPE varchar(2),'
        ' DROP CONSTRAINT "ck_Order_number_min", DROP CONSTRAINT "fk_Order_former_id";'
        ' DROP INDEX sales."ix_Order_customer_id"; DROP TABLE sales."Order_tags"'
    )
    done = await database.migrate(tables)
    assert [step.sql for step in done.left] == []
    assert (await database.compare(tables)).statements == []
    other = await database.fetch("""SELECT conname FROM pg_constraint WHERE conrelid = 'sales."Order"'::regclass""")
    assert ("ck_Order_number_min",) in other


async def test_a_revision_makes_and_undoes_the_same(database: Database) -> None:
    tables = two_schemas()
    path = await database.makemigrations(tables)
    assert "schema='sales'" in path.read_text()
    await database.migrate(tables, sync=False)
    assert (await database.compare(tables)).statements == []


async def test_a_table_is_renamed_within_its_schema(database: Database) -> None:
    """So are its columns, and the tables of its links."""
    await database.migrate(two_schemas())
    await database.execute(ROWS)
    tables = declare(
        *(
            each if each.name != "orders" else resource(
                "orders",
                *(one for one in each.fields.values() if one.name != "title"),
                field("subject", "string", max_length=50, index=True, renamed_from="title"),
                table="sales.Sale", unique=each.unique, renamed_from="sales.Order",
            )
            for each in two_schemas().resources.values()
        )
    )  # fmt: skip
    plan = await database.plan(tables)
    assert [step.sql for step in plan.statements if "RENAME" in step.sql] == [
        'ALTER TABLE "sales"."Order" RENAME TO "Sale";',
        'ALTER TABLE "sales"."Order_tags" RENAME TO "Sale_tags";',
        'ALTER TABLE "sales"."Sale" RENAME COLUMN "title" TO "subject";',
    ]
    done = await database.migrate(tables)
    assert done.left == []
    assert await database.fetch('SELECT subject FROM sales."Sale" JOIN sales."Sale_tags" ON orders_id = id') == [("a",)]
    assert (await database.compare(tables)).statements == []


async def test_what_an_owner_has_made_in_a_schema_serves(database: Database) -> None:
    """Rules of other names, and a reference from the default schema to another one and back."""
    await database.execute("""
        CREATE SCHEMA hr;
        CREATE TABLE hr.people (id serial PRIMARY KEY, name text NOT NULL CONSTRAINT named CHECK (name <> ''));
        CREATE TABLE desks (id serial PRIMARY KEY, person_id integer NOT NULL CONSTRAINT sits REFERENCES hr.people);
        CREATE INDEX at ON desks (person_id);
        ALTER TABLE hr.people ADD desk_id integer CONSTRAINT has REFERENCES desks;
        CREATE INDEX of ON hr.people (desk_id);
    """)
    tables = declare(
        resource("desks", key("integer"), field("person", "foreign_key", to="people")),
        resource(
            "people",
            key("integer"),
            field("name", "text"),
            field("desk", "foreign_key", to="desks", null=True, related_name="owners"),
            table="hr.people",
        ),
    )
    assert (await database.plan(tables)).statements == []
    path = declare(*(tables.resources[name] for name in ("desks",)), resource(
        "people", key("integer"), field("name", "text"), table="hr.people"
    ))  # fmt: skip
    assert (await database.plan(path)).notes[0] == "not in the config: hr.people.desk_id"
    with pytest.raises(SchemaError, match=r"there is no table 'hr\.persons'; did you mean hr\.people"):
        await database.makemigrations(path, drop=["hr.persons"])
    made = await database.makemigrations(path, drop=["hr.people.desk_id"])
    assert "op.drop_column('people', 'desk_id', schema='hr'" in made.read_text()
