"""How tables are named: ``table: name`` and ``table: schema.name``."""

from __future__ import annotations

import pytest

from .conftest import Load, Problems

FIELDS = "fields: {name: {type: text}}"


@pytest.mark.parametrize("table", ["Order", "sales.orders", "Sales Dept.Order", "public.tasks"])
def test_any_schema_and_any_case(read: Load, table: str) -> None:
    assert read({"tasks.yaml": f"table: {table}\n{FIELDS}"}).resources["tasks"].table == table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("a.b.c", "must be a name such as tasks, or sales.Orders with its schema"),
        ("a.", "must be a name such as tasks, or sales.Orders with its schema"),
        ('a."b"', "must be a name such as tasks, or sales.Orders with its schema"),
        ("rowcast.change", "the schema rowcast is not one for tables of a resource"),
        ("pg_catalog.pg_class", "the schema pg_catalog is not one for tables of a resource"),
        (f"{'s' * 64}.t", "may have at most 63 characters"),
    ],
)
def test_names_that_cannot_be_tables(problems: Problems, table: str, message: str) -> None:
    (line,) = problems({"tasks.yaml": f"table: '{table}'\n{FIELDS}"})
    assert line.endswith(f"table: {message}")


def test_a_table_is_renamed_within_its_schema(read: Load, problems: Problems) -> None:
    """The former name needs no schema."""
    loaded = read({"tasks.yaml": f"table: sales.tasks\nrenamed_from: jobs\n{FIELDS}"})
    assert loaded.resources["tasks"].renamed_from == "sales.jobs"
    (line,) = problems({"tasks.yaml": f"table: sales.tasks\nrenamed_from: old.jobs\n{FIELDS}"})
    assert "renamed_from: is in another schema than sales.tasks" in line


def test_columns_have_any_name(read: Load) -> None:
    """That of a foreign key need not end in ``_id``; its key in JSON does."""
    text = (
        "fields: {name: {type: text, column: 'Full Name'}, of: {type: foreign_key, to: tasks, null: true, column: Of}}"
    )
    fields = read({"tasks.yaml": text}).resources["tasks"].columns
    assert [(key, field.stored_column) for key, field in fields.items()][1:] == [("name", "Full Name"), ("of_id", "Of")]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("a: {type: text, column: b}, b: {type: text}", "has the column 'b', which is that of the field 'a'"),
        ("a: {type: text}, b: {type: text, column: a}", "has the column 'a', which is that of the field 'a'"),
        ("a: {type: text, column: xmin}", "'xmin' is a column that every PostgreSQL table has"),
        ("a: {type: many_to_many, to: tasks, column: x}", "'column' does not apply to many_to_many"),
        ("a: {type: text, column: 'x.y'}", "column: must be the name of a column"),
        ("a: {type: text, column: ''}", "column: must be the name of a column"),
        (f"a: {{type: text, column: {'é' * 32}}}", "is too long: a column's name has at most 63 characters"),
        ("a: {type: text, column: A, renamed_from: B}, b: {type: text, column: B}", "there is still a field 'b'"),
        ("a: {type: foreign_key, to: tasks, renamed_from: B}", "must be the field's former name; with 'column' it is"),
    ],
)
def test_columns_that_are_wrong(problems: Problems, fields: str, message: str) -> None:
    (line,) = problems({"tasks.yaml": f"fields: {{{fields}}}"})
    assert message in line


def test_a_default_of_the_database(read: Load, problems: Problems) -> None:
    """Of every type; the field is not required then, and has no value of its own."""
    text = "fields: {a: {type: integer, default: database}, b: {type: foreign_key, to: tasks, default: database}}"
    fields = read({"tasks.yaml": text}).resources["tasks"].fields
    assert [(field.database_default, field.required, field.default) for field in fields.values()][1:] == [
        (True, False, "missing"),
        (True, False, "missing"),
    ]
    (line,) = problems({"tasks.yaml": "fields: {a: {type: datetime, auto_now: true, default: database}}"})
    assert "'auto_now' contradicts 'default'" in line


def test_a_table_that_is_not_managed_is_not_renamed(read: Load, problems: Problems) -> None:
    assert not read({"tasks.yaml": f"managed: false\n{FIELDS}"}).resources["tasks"].managed
    lines = problems(
        {"tasks.yaml": "managed: false\nrenamed_from: jobs\nfields: {name: {type: text, renamed_from: b}}"}
    )
    assert [line.rpartition(": 'renamed_from' ")[2] for line in lines] == [
        "contradicts 'managed: false': the table is not changed"
    ] * 2


@pytest.mark.parametrize(
    ("through", "message"),
    [
        ("{table: x.ab, near: A}", "far: is required"),
        ("{table: x.y.ab, near: A, far: B}", "table: must be a name such as sales.order_tags"),
        ("{table: x.ab, near: A, far: A}", "through: near and far must be two columns"),
        ("{table: x.ab, near: A, fra: B}", "unknown key 'fra'; did you mean far?"),
        ("{table: tasks, near: A, far: B}", "its table tasks already belongs to tasks; a table of links has one field"),
    ],
)
def test_join_tables_that_are_wrong(problems: Problems, through: str, message: str) -> None:
    lines = problems({"tasks.yaml": f"fields: {{a: {{type: many_to_many, to: tasks, through: {through}}}}}"})
    assert message in "\n".join(lines)


def test_a_join_table_is_of_many_to_many_alone(problems: Problems) -> None:
    fields = "fields: {a: {type: foreign_key, to: tasks, through: {table: x, near: a, far: b}}}"
    (line,) = problems({"tasks.yaml": fields})
    assert "'through' does not apply to foreign_key" in line
