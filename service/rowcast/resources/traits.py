"""What a table has in the database that no config declares, and that changes how it is read and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class TableTraits:
    """The traits of one table, its partitions and the tables that inherit from it included.

    Columns have the names that they have in statements, and only those that the config has are in it.

    Attributes:
        partitioned: PostgreSQL does not return system columns of a row that is inserted.
        skipping: ``insert``, ``update`` and ``delete``, as far as a trigger may skip a row.
        rules: The same, as far as the table has a rule.
        triggered: A trigger that is not Rowcast's runs when a row is written, and may change rows again.
        patternless: The columns whose collation does not work with patterns.
        policies: Row-level security is enabled.
        policies_apply: It applies to the service's own role as well.
        loose: The columns of strings that can be equal without having the same characters.
        types: The type of each column as PostgreSQL prints it, the base type of a domain.
        domains: The domain of each column that has one, or of the items of its array.
        unordered: The columns whose type, or that of their items, has no order.
        passing: The columns with a foreign key whose action changes or deletes the row when its target is deleted.
        labels: The values of each column that is an enum, or of the items of its array.
    """

    partitioned: bool = False
    skipping: frozenset[str] = frozenset()
    rules: frozenset[str] = frozenset()
    triggered: bool = False
    patternless: frozenset[str] = frozenset()
    loose: frozenset[str] = frozenset()
    policies: bool = False
    policies_apply: bool = False
    types: Mapping[str, str] = field(default_factory=dict)
    domains: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unordered: frozenset[str] = frozenset()
    passing: frozenset[str] = frozenset()

    def dumped(self) -> dict[str, Any]:
        """The traits as JSON has them; column names are plain strings there."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: _dumped(value) for name, value in values.items()}

    @classmethod
    def loaded(cls, dumped: Mapping[str, Any]) -> TableTraits:
        """The traits that were dumped."""
        values = {name: frozenset(value) if isinstance(value, list) else value for name, value in dumped.items()}
        return cls(**values | {"labels": {column: tuple(labels) for column, labels in dumped["labels"].items()}})


def _dumped(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(map(str, value))
    return {str(name): each for name, each in value.items()} if isinstance(value, Mapping) else value


PLAIN: Final = TableTraits()
