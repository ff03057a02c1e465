"""The option ``primary_key``: keys of several fields, and what they cannot be."""

from __future__ import annotations

import pytest

from rowcast.resources.resource import Resource

from .conftest import Load, Problems

ORDERS = "fields: {id: {type: integer, primary_key: true}, name: {type: string}}"
LINES = """
fields:
  order: {type: foreign_key, to: orders}
  number: {type: integer}
  note: {type: text, null: true}
  hidden: {type: string, write_only: true}
  seen: {type: datetime, auto_now: true}
  size: {type: float}
  tags: {type: array, of: string}
"""
FILES = {"orders.yaml": ORDERS, "lines.yaml": f"{LINES}primary_key: [order, number]"}


def test_several_fields_are_one_key(read: Load) -> None:
    """They are required, and the key is a field whose values are tuples."""
    resources = read(FILES).resources
    lines: Resource = resources["lines"]
    assert (lines.key_columns, lines.key.name) == (("order_id", "number"), "order,number")
    assert [part.required for part in lines.key_fields] == [True, True]
    assert "id" not in lines.fields
    key = resources.key_of(lines.key)
    assert key.field_type.parse(key, "17,3") == key.field_type.parse(key, "17%2C3") == (17, 3)
    assert key.field_type.dump(key, (17, 3)) == "17,3"
    assert lines.key_in({"order_id": 17, "number": None}) is None
    assert lines.id_in({"order_id": 17, "number": 3, "note": None}) == "17,3"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("[order, numbre]", "primary_key[1]: there is no field 'numbre'; did you mean number?"),
        ("[order, order]", "primary_key[1]: 'order' is listed twice"),
        ("[order, note]", "primary_key[1]: 'note' has null: true, but a primary key is never null"),
        (
            "[order, seen]",
            "primary_key[1]: 'seen' has auto_now: true, but the service would change the key with each update",
        ),
        ("[order, size]", "primary_key[1]: 'size' is of type float, which cannot be part of a key"),
        ("[order, tags]", "primary_key[1]: 'tags' is of type array, which cannot be part of a key"),
        (
            "[number]",
            "primary_key is for keys of several fields, and for a foreign key; give 'number' primary_key: true",
        ),
        ("[]", "primary_key: may not be empty"),
        ("number", "primary_key: must be a list"),
    ],
)
def test_what_a_key_cannot_be(problems: Problems, option: str, message: str) -> None:
    """Each mistake is one line, with its place."""
    found = problems(FILES | {"lines.yaml": f"{LINES}primary_key: {option}"})
    assert [line.split(": ", 1)[1] for line in found] == [message]


def test_a_field_cannot_be_a_key_beside_it(problems: Problems) -> None:
    """Nor can the same rule be declared twice."""
    (line,) = problems(FILES | {"lines.yaml": FILES["lines.yaml"] + "\nunique: [[order, number]]"})
    assert line.endswith("unique[0]: [order, number] is declared already")
    own = LINES.replace("{type: integer}", "{type: integer, primary_key: true}")
    (line,) = problems(FILES | {"lines.yaml": f"{own}primary_key: [order, number]"})
    assert line.endswith("field 'number' is the primary key already; keep one of them")


def test_nothing_refers_to_such_a_key(problems: Problems) -> None:
    """The error names the key, and the place of the relation."""
    found = problems(
        FILES
        | {
            "parcels.yaml": """
            fields:
              line: {type: foreign_key, to: lines}
              lines: {type: many_to_many, to: lines}
            """,
            "more.yaml": "fields: {a: {type: integer}, b: {type: integer}, orders: {type: many_to_many, to: orders}}\n"
            "primary_key: [a, b]",
        }
    )
    reason = "only resources with a key of one field can be linked"
    assert [line.split(": ", 1)[1] for line in found] == [
        f"to: more has the key [a, b], but a link has one column for each side; {reason}",
        f"to: lines has the key [order, number], but a foreign_key has one column; {reason}",
        f"to: lines has the key [order, number], but a link has one column for each side; {reason}",
    ]


def test_a_foreign_key_alone(read: Load, problems: Problems) -> None:
    """It may be the whole key, unless such keys refer to one another."""
    profile = "fields: {order: {type: foreign_key, to: orders}, text: {type: text}}\nprimary_key: [order]"
    resource = read({"orders.yaml": ORDERS, "profiles.yaml": profile}).resources["profiles"]
    assert (resource.key.column_name, resource.primary_key) == ("order_id", ())
    one, two = profile.replace("orders", "two"), profile.replace("orders", "one")
    (line,) = problems({"one.yaml": one, "two.yaml": two})
    assert line.endswith("the keys of one, two refer to one another, so no row could be the first")


def test_a_part_that_refers_to_no_resource(problems: Problems) -> None:
    """It is one error."""
    (line,) = problems({"lines.yaml": FILES["lines.yaml"], "others.yaml": ORDERS})
    assert "there is no resource 'orders'" in line
