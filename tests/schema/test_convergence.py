"""After a migration nothing is left to do, for every config and every spelling of PostgreSQL."""

from __future__ import annotations

import pytest

from rowcast.resources.fields import Field
from rowcast.resources.resource import Resource
from rowcast.resources.tables import Tables

from .declarations import Database, declare, field, key, resource

AWKWARD = r""" it's "a" \ b:c :d ::e %s %(x)s $1 {n}	tab \:x é ; -- """

FIELDS: list[Field] = [
    field("string", "string"),
    field("string_all", "string", min_length=2, max_length=20, pattern=r"^[a-z]:\w+ :x''$", default="abc", null=True),
    field("string_awkward", "string", default=AWKWARD, choices=(AWKWARD, "b", ":c"), help_text=AWKWARD, blank=True),
    field("string_unique", "string", unique=True),
    field("string_index", "string", index=True, null=True),
    field("text", "text", default="", blank=True),
    field("text_pattern", "text", pattern=r"^(a|b):\d{1,3}$", blank=True),
    field("email", "email", null=True),
    field("email_long", "email", max_length=320),
    field("url", "url", default="https://example.org:8080/a?b=:c"),
    field("slug", "slug", max_length=50, unique=True),
    field("uuid", "uuid", default="0190f0a4-7a5c-7000-8000-000000000000"),
    field("integer", "integer", min=-5, max=5, default=-1),
    field("integer_choices", "integer", choices=(1, 2, -3)),
    field("big", "big_integer", min=-(2**40), default=2**40),
    field("float", "float", min=-0.5, max=1e300, default=0.1),
    field("float_choices", "float", choices=(0.1, 1e-7)),
    field("decimal", "decimal"),
    field("decimal_sized", "decimal", max_digits=10, decimal_places=2, min="-0.50", max="99999999.99", default="0.10"),
    field("decimal_digits", "decimal", max_digits=5, default="12"),
    field("decimal_choices", "decimal", max_digits=4, decimal_places=1, choices=("0.5", "1.5")),
    field("boolean", "boolean", default=False),
    field("boolean_null", "boolean", null=True, default=True),
    field("date", "date", min="2000-01-01", default="2020-02-29"),
    field("date_auto", "date", auto_now_add=True),
    field("time", "time", max="23:59:59.5", default="12:30:00"),
    field("time_auto", "time", auto_now=True),
    field("datetime", "datetime", min="2000-01-01T00:00:00Z", default="2020-01-01T10:00:00+02:00"),
    field("datetime_auto", "datetime", auto_now=True, index=True),
    field("duration", "duration", min="PT0S", max="P30DT12H", default="P1DT2H30M0.5S"),
    field("json", "json", default={"a": [1, "it's :b", None], "c": {}}),
    field("json_null", "json", null=True),
    field("array_text", "array", of="text", default=["a", 'b"c', ":d", "e,f", "\\"], min_length=1, max_length=5),
    field("array_string", "array", of="string", choices=("a", "b:c")),
    field("array_email", "array", of="email", default=[]),
    field("array_integer", "array", of="integer", min=0, max=9, default=[1, 2]),
    field("array_decimal", "array", of="decimal", max_digits=6, decimal_places=2, min="0.01"),
    field("array_uuid", "array", of="uuid"),
    field("array_date", "array", of="date", null=True, index=True),
    field("array_datetime", "array", of="datetime"),
    field("array_duration", "array", of="duration"),
    field("array_boolean", "array", of="boolean"),
    field("array_json", "array", of="json"),
    field("choice", "string", max_length=10, choices=("low", "normal", "high"), default="normal"),
    field("order", "integer", index=True, null=True),
    field("Mixed Case", "text", min_length=1, index=True, unique=True),
    field("x" * 60, "string", max_length=9, index=True, choices=("a",), min_length=1),
    field("x" * 58 + "yz", "integer", unique=True, min=0, max=9),
]


async def assert_converges(database: Database, tables: Tables) -> None:
    await database.migrate(tables)
    assert (await database.compare(tables)).statements == []
    again = await database.migrate(tables)
    assert again.statements == []
    assert again.left == []


async def test_every_field_type_and_option_is_in_line_after_one_migration(database: Database) -> None:
    """No type, default, constraint or index of any field is reported as different from itself."""
    every = resource("everything", *FIELDS, description=AWKWARD)
    await assert_converges(database, declare(every))


async def test_every_field_can_be_added_to_a_table(database: Database) -> None:
    """Fields that are added one by one give the same columns as fields that were there from the start."""
    await database.migrate(declare(resource("everything", key("integer"))))
    await assert_converges(database, declare(resource("everything", key("integer"), *FIELDS)))


@pytest.mark.parametrize(
    "primary",
    [
        key("uuid"),
        key("integer"),
        key("big_integer"),
        key("slug", max_length=30),
        key("integer", "number", default=7),
        key("string", "code", max_length=5, choices=("a", "b")),
        key("text"),
        key("email"),
    ],
    ids=lambda declared: f"{declared.type}-{declared.name}",
)
async def test_every_kind_of_key_is_in_line_and_so_are_references_to_it(database: Database, primary: Field) -> None:
    """Keys, foreign keys to them, and the tables of links have the same types on both sides."""
    await assert_converges(
        database,
        declare(
            resource("targets", primary),
            resource(
                "sources",
                field("one", "foreign_key", to="targets", on_delete="restrict"),
                field("maybe", "foreign_key", to="targets", null=True, on_delete="set_null", unique=True),
                field("many", "many_to_many", to="targets"),
            ),
        ),
    )


async def test_foreign_keys_in_a_circle_and_to_oneself_are_made(database: Database) -> None:
    """Tables that refer to each other, or to themselves, need no order."""
    tables = declare(
        resource("people", field("boss", "foreign_key", to="people"), field("home", "foreign_key", to="towns")),
        resource("towns", field("mayor", "foreign_key", to="people"), field("twins", "many_to_many", to="towns")),
        resource("cars", field("owner", "foreign_key", to="people"), field("town", "foreign_key", to="towns")),
        resource("passports", key_of("people")),
    )
    await assert_converges(database, tables)
    made = await database.column("SELECT count(*) FROM pg_constraint WHERE contype = 'f'")
    assert made == [8]


def key_of(target: str) -> Field:
    return field("person", "foreign_key", to=target, primary_key=True)


async def test_unique_and_index_of_several_fields_are_in_line(database: Database) -> None:
    """Rules over several columns, with names too long for PostgreSQL, are found again by the same names."""
    names = [f"a_rather_long_name_of_a_field_{number}" for number in range(3)]
    await assert_converges(
        database,
        declare(
            resource(
                "a_table_with_a_name_that_is_nearly_as_long_as_it_can_be_here",
                *(field(name, "integer") for name in names),
                unique=(tuple(names), tuple(names[:2])),
                indexes=(tuple(names[1:]), tuple(reversed(names))),
            )
        ),
    )


async def test_a_plan_leaves_the_declared_tables_as_they_were(database: Database) -> None:
    """Comparing has no effect on the tables that queries are built from."""
    small: Resource = resource("things", field("name", "string"))
    large = declare(resource("things", field("name", "string", choices=("a",)), field("size", "integer", min=1)))
    await database.migrate(declare(small))
    before = {name: len(table.constraints) for name, table in large.metadata.tables.items()}
    assert str(await database.plan(large)) == str(await database.plan(large))
    assert {name: len(table.constraints) for name, table in large.metadata.tables.items()} == before


async def test_a_restored_database_is_in_line(database: Database) -> None:
    """Rules and defaults that PostgreSQL has written and read again, as a dump does, are still the declared ones."""
    tables = declare(resource("everything", *FIELDS))
    await database.migrate(tables)
    statements = await database.column(
        """
        SELECT format('ALTER TABLE everything DROP CONSTRAINT %1$I, ADD CONSTRAINT %1$I %2$s',
                      conname, pg_get_constraintdef(oid))
        FROM pg_constraint WHERE contype = 'c' AND conrelid = 'everything'::regclass
        UNION ALL
        SELECT format('ALTER TABLE everything ALTER %I SET DEFAULT %s', attname, pg_get_expr(adbin, adrelid))
        FROM pg_attribute JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE attrelid = 'everything'::regclass
        """
    )
    assert len(statements) > 80
    await database.execute(";".join(statements))
    assert (await database.compare(tables)).statements == []


async def test_an_index_may_descend(database: Database) -> None:
    """An index in the order of a list, with some columns descending, is found again and used."""
    fields = (field("made", "datetime"), field("rank", "integer", null=True))
    orders = (("made",), ("-made", "id"), ("rank", "-made"), ("-rank", "-made"))
    tables = declare(resource("things", *fields, indexes=orders))
    await assert_converges(database, tables)
    made = await database.column("SELECT indexdef FROM pg_indexes WHERE tablename = 'things' ORDER BY indexname")
    assert [text.partition("btree ")[2] for text in made if "ix_" in text] == [
        "(made)", "(made DESC, id)", "(rank DESC, made DESC)", "(rank, made DESC)",
    ]  # fmt: skip
