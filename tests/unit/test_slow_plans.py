"""Which node of a plan costs most."""

from __future__ import annotations

from typing import Any

import pytest

from rowcast.server.slow_plans import costliest


def node(kind: str, cost: float, rows: int, *plans: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A node as EXPLAIN describes it."""
    return {"Node Type": kind, "Total Cost": cost, "Plan Rows": rows, "Plans": list(plans), **more}


SCAN = node("Seq Scan", 80.0, 50, **{"Relation Name": "books", "Parent Relationship": "Outer"})
LOOKUP = node(
    "Index Scan",
    2.0,
    1,
    **{"Relation Name": "authors", "Index Name": "authors_pkey", "Parent Relationship": "Inner"},
)
SUBPLAN = node("Aggregate", 3.0, 1, **{"Parent Relationship": "SubPlan"})


@pytest.mark.parametrize(
    ("plan", "name", "cost"),
    [
        (node("Limit", 81.0, 20, node("Sort", 81.0, 50, SCAN)), "Seq Scan on books", 80.0),
        (node("Sort", 200.0, 50, SCAN), "Sort", 120.0),
        (node("Nested Loop", 185.0, 50, SCAN, LOOKUP), "Index Scan using authors_pkey on authors", 100.0),
        (node("Seq Scan", 300.0, 90, SUBPLAN, **{"Relation Name": "authors"}), "Aggregate", 270.0),
        (node("Limit", 5.0, 1, SCAN), "Seq Scan on books", 80.0),
    ],
)
def test_the_node_that_costs_most_is_found(plan: dict[str, Any], name: str, cost: float) -> None:
    """By its own cost: without that of its children, and as often as it is run."""
    found = costliest(plan)
    assert (found["rowcast.plan.node"], found["rowcast.plan.cost"]) == (name, cost)
    assert found["rowcast.plan.total_cost"] == plan["Total Cost"]
