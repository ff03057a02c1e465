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
