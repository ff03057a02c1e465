"""Unique rules as SQL: how ON CONFLICT names the index of one, and when two rows have the same values of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from rowcast.resources.rules import UniqueRule
from rowcast.resources.sql import sql_text


def conflict_target(table: sa.Table, rule: UniqueRule) -> dict[str, Any]:
    """The arguments of ON CONFLICT that name the index of a rule."""
    elements = [sa.func.lower(table.c[name]) if name in rule.lower else table.c[name] for name in rule.columns]
    return {"index_elements": elements} | ({"index_where": sql_text(rule.where)} if rule.where else {})


def has_values(rule: UniqueRule, here: Any, there: Any) -> Iterator[sa.ColumnElement[bool]]:
    """Conditions that two rows, as values by column, have the same values of a rule."""
    for name in rule.columns:
        one, other = here[name], there[name]
        if name in rule.lower:
            one, other = sa.func.lower(one), sa.func.lower(other)
        yield one.is_not_distinct_from(other) if rule.nulls_equal else one == other
