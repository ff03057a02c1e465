"""Conditions on rows of the change log, in memory: the same result as the SQL of the condition.

A row of the log is a JSON object by column. A condition on the row's own columns becomes a function if its lookups are
exact in Python. PostgreSQL evaluates any other condition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from rowcast.query.conditions import (
    After,
    Among,
    Comparison,
    Condition,
    Expression,
    Found,
    Junction,
    Negation,
    Unchanged,
)
from rowcast.resources.derived import Derived
from rowcast.resources.fields import Field, Kind
from rowcast.resources.lookups import PATTERNS, Argument, Lookup
from rowcast.resources.resource import Path, Resources

Logged: TypeAlias = Mapping[str, Any]
Test: TypeAlias = Callable[[Logged], bool]


def matcher(resources: Resources, resource: str, conditions: Sequence[Condition]) -> Test | None:
    """A function that tests whether a logged row meets all conditions; ``None`` if only PostgreSQL can evaluate them.

    The function raises ``ValueError`` for a value that Python does not have, such as infinity as a date.
    """
    tests = _tests(resources, resource, conditions)
    return None if tests is None else lambda row: all(test(row) for test in tests)


@dataclass(frozen=True, slots=True)
class RoutingKey:
    """A column that has one of ``values`` in every matching row. ``field`` loads the column's logged values."""

    column: str
    field: Field
    values: frozenset[Any]

    def load(self, logged: Any) -> Any:
        """The value of a logged one; ``ValueError`` or ``TypeError`` if Python cannot represent it."""
        return self.field.field_type.load(self.field, logged)


def routing_key(resources: Resources, resource: str, conditions: Sequence[Condition]) -> RoutingKey | None:
    """A column that the conditions fix, so that rows with other values can be skipped; ``None`` if there is none.

    Of several columns it is the most selective one: the key, then a relation, and last a column with few values.
    """
    return max(_routing_keys(resources, resource, conditions), key=lambda found: found[0], default=(0, None))[1]


def _routing_keys(
    resources: Resources, resource: str, conditions: Sequence[Condition]
) -> Iterator[tuple[int, RoutingKey | None]]:
    for condition in conditions:
        match condition:
            case Junction("and", parts):
                yield from _routing_keys(resources, resource, parts)
            case Comparison(_, "exact" | "in" as lookup, argument, kind) if kind not in (Kind.ARRAY, Kind.JSON):
                values = frozenset(argument if lookup == "in" else [argument])
                path = resources.resolve(resource, condition.path)
                if values and path.derived is None and _comparison(resources, resource, condition) is not None:
                    yield _selectivity(path.field), _routing_key(path, values)


def _routing_key(path: Path, values: frozenset[Any]) -> RoutingKey:
    """The column of a path; of a key of several fields it is the first one."""
    if path.field.parts:
        return RoutingKey(path.columns[0], path.values.parts[0], frozenset(value[0] for value in values))
    return RoutingKey(path.column, path.values, values)


def _selectivity(field: Field) -> int:
    """How well a field distinguishes rows; more is better."""
    if field.primary_key or field.unique:
        return 3
    if field.to is not None:
        return 2
    return 0 if field.field_type.kind is Kind.BOOLEAN or field.choices else 1


def patterns(conditions: Sequence[Condition]) -> list[str]:
    """The regular expressions in conditions. Only PostgreSQL can check whether they are valid."""
    found: list[str] = []
    for condition in conditions:
        match condition:
            case Comparison(_, lookup, argument, _) if lookup in PATTERNS:
                found.append(argument)
            case Junction(_, parts):
                found += patterns(parts)
            case Negation(part):
                found += patterns([part])
    return found


def _tests(resources: Resources, resource: str, conditions: Sequence[Condition]) -> list[Test] | None:
    """A test for each condition; ``None`` if one of them cannot be evaluated in memory."""
    tests = [_test(resources, resource, condition) for condition in conditions]
    exact = [test for test in tests if test is not None]
    return exact if len(exact) == len(tests) else None


def _test(resources: Resources, resource: str, condition: Condition) -> Test | None:
    match condition:
        case Comparison():
            return _comparison(resources, resource, condition)
        case Junction(operator, parts):
            tests = _tests(resources, resource, parts)
            if tests is None:
                return None
            if operator == "and":
                return lambda row: all(test(row) for test in tests)
            return lambda row: any(test(row) for test in tests)
        case Negation(part):
            inner = _test(resources, resource, part)
            return None if inner is None else lambda row: not inner(row)
        case After() | Unchanged() | Among() | Found():
            return None


def _key_of_logged(path: Path) -> Callable[[Logged], tuple[Any, ...]]:
    """A function that returns the key, of several fields, of a logged row."""
    columns = list(zip(path.values.parts, path.columns, strict=True))
    return lambda row: tuple([part.field_type.load(part, row[column]) for part, column in columns])


def _comparison(resources: Resources, resource: str, condition: Comparison) -> Test | None:
    path = resources.resolve(resource, condition.path)
    lookup, argument = condition.lookup_spec, condition.argument
    matches, of_null = lookup.matches, lookup.of_null
    if path.steps or path.field.write_only or matches is None or isinstance(argument, Expression):
        return None
    column, field = path.column, path.values
    if path.derived is not None:
        field = path.derived.source
        if condition.zone:
            return None  # PostgreSQL has time zones of its own
    if field.of is not None and field.of.kind is Kind.JSON:
        return None  # in JSON, 1 is not true
    if lookup.takes is Argument.MANY:
        argument = frozenset(argument)
    traits = resources.traits_of(resource)
    if field.zone not in (None, "UTC") and lookup.takes is not Argument.FLAG:
        return None  # an hour that a zone has twice is stored as one
    inexact = traits.loose | {name for name, type_ in traits.types.items() if type_ == "real"}
    if lookup.takes is not Argument.FLAG and not inexact.isdisjoint(path.columns):
        return None
    if path.field.parts:
        key = _key_of_logged(path)
        return lambda row: matches(key(row), argument)
    if path.derived is not None:
        return _derived_test(path.derived, column, lookup, argument)

    def test(row: Logged) -> bool:
        value = row.get(column)  # a row that was logged before the column was added has none
        return of_null(argument) if value is None else matches(field.field_type.load(field, value), argument)

    return test


def _derived_test(derived: Derived, column: str, lookup: Lookup, argument: Any) -> Test:
    """A test of a value that follows from a column."""
    matches, of_null, source = lookup.matches, lookup.of_null, derived.source
    assert matches is not None

    def test(row: Logged) -> bool:
        stored = row.get(column)
        value = None if stored is None else derived.value(source.field_type.load(source, stored))
        return of_null(argument) if value is None else matches(value, argument)

    return test
