"""Indexes that are over expressions or over some of the rows. They are compared by their definitions, not as others are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from rowcast.resources.resource import Resource
from rowcast.resources.rules import UniqueRule
from rowcast.resources.sql import quote_identifier

RULE_INDEXES: Final = "rule_indexes"  # in ``info`` of a table


@dataclass(frozen=True, slots=True)
class RuleIndex:
    """An index: ``terms`` are the columns, or expressions over them, as SQL; ``columns`` are those of the terms."""

    name: str
    columns: tuple[str, ...]  # as they are stored
    terms: tuple[str, ...]
    unique: bool = False
    where: str | None = None
    nulls_equal: bool = False
    method: str = "btree"

    @property
    def definition(self) -> str:
        """What stands after the name of the table in ``CREATE INDEX``."""
        nulls = " NULLS NOT DISTINCT" if self.nulls_equal else ""
        where = f" WHERE ({self.where})" if self.where else ""
        return f"USING {self.method} ({', '.join(self.terms)}){nulls}{where}"


def rule_indexes(table: sa.Table) -> tuple[RuleIndex, ...]:
    """The declared indexes of this kind."""
    found: tuple[RuleIndex, ...] = table.info.get(RULE_INDEXES, ())
    return found


def unique_index(name: str, resource: Resource, rule: UniqueRule) -> RuleIndex:
    """The index of a unique rule."""
    stored = {column: resource.columns[column].stored_column for column in rule.columns}
    quoted = {column: quote_identifier(each) for column, each in stored.items()}
    terms = tuple(f"lower({quoted[column]})" if column in rule.lower else quoted[column] for column in rule.columns)
    return RuleIndex(name, tuple(stored.values()), terms, unique=True, where=rule.where, nulls_equal=rule.nulls_equal)


def deleted_index(name: str, resource: Resource) -> RuleIndex:
    """The index by which rows are found that were deleted long ago."""
    assert resource.soft_delete is not None
    stored = resource.columns[resource.soft_delete.field].stored_column
    return RuleIndex(name, (stored,), (quote_identifier(stored),), where=f"{quote_identifier(stored)} IS NOT NULL")
