"""Queries as keys: two are equal exactly if they find the same rows for the same reason."""

from __future__ import annotations

from typing import Any

import pytest

from rowcast.query.conditions import After, Comparison, Condition, Expression, Junction, Negation, Query, Unchanged
from rowcast.resources.fields import Kind


def document(value: Any) -> Comparison:
    return Comparison("document", "contains", value, Kind.JSON)


CONDITIONS: list[Condition] = [
    Comparison("title", "exact", "a", Kind.TEXT),
    Comparison("title", "ne", "a", Kind.TEXT),
    Comparison("title", "isnull", True, Kind.TEXT),
    Comparison("title", "isnull", False, Kind.TEXT),
    Comparison("size", "in", (1, 2), Kind.NUMBER),
    Comparison("size", "in", (2, 1), Kind.NUMBER),
    Comparison("size", "gt", Expression(("column", "least"), ()), Kind.NUMBER),
    Comparison("sizes", "exact", [1, 2], Kind.ARRAY),
    Comparison("sizes", "exact", [[1], 2], Kind.ARRAY),
    *map(document, (True, 1, 1.0, "1", None, [], {}, [1], [True], [[1]], {"a": 1}, {"a": True}, {"a": [1]})),
    Junction("and", (document(1), document(2))),
    Junction("or", (document(1), document(2))),
    Negation(document(1)),
    After((("id", False),), (1,)),
    Unchanged(("1",)),
]


@pytest.mark.parametrize("condition", CONDITIONS, ids=repr)
def test_conditions_are_equal_only_to_themselves(condition: Condition) -> None:
    """No two of these conditions are equal, although Python says that ``True == 1 == 1.0``."""
    query = Query("things", (condition,))
    assert hash(query) == hash(Query("things", (condition,)))
    assert [other for other in CONDITIONS if Query("things", (other,)) == query] == [condition]


def test_equal_values_give_equal_queries() -> None:
    """Values are compared by what they hold: lists by their items, objects in any order of their members."""
    one = Query("things", (document({"a": [1, 2], "b": {}}),), ("id",), ("owner",))
    other = Query("things", (document({"b": {}, "a": [1, 2]}),), ("id",), ("owner",))
    assert one == other
    assert hash(one) == hash(other)
    assert len({one, other}) == 1


def test_order_and_related_rows_are_part_of_a_query() -> None:
    """``unsorted()`` leaves them out, for what does not depend on them."""
    query = Query("things", (document(1),), ("id",), ("owner",))
    assert query != query.sort(("-id",))
    assert query != query.unsorted()
    assert query.unsorted() == query.sort(("-id",)).unsorted()


def test_size_follows_what_a_client_sends() -> None:
    """A cache that is bounded in bytes counts the values of its keys, nested ones too."""
    for value in ("x" * 100_000, ["x" * 1000] * 100, {"a": {"b": "x" * 100_000}}):
        assert Query("things", (document(value),)).size > 100_000
    assert Query("things").size < 1000
