"""Conditions on logged rows, in memory: what SQL would answer for the row that the change log holds.

A logged row is a JSON object by column. A condition on the row's own columns whose lookups are exact in Python becomes
a function; any other one is for the database to answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from rowcast.query.conditions import After, Comparison, Condition, Expression, Junction, Negation, Unchanged
from rowcast.resources.fields import Field, Kind
from rowcast.resources.lookups import PATTERNS
from rowcast.resources.resource import Resources

Logged: TypeAlias = Mapping[str, Any]
Test: TypeAlias = Callable[[Logged], bool]


def matcher(resources: Resources, resource: str, conditions: Sequence[Condition]) -> Test | None:
    """Whether a logged row meets all conditions, or ``None`` where only the database can tell.

    The test raises ``ValueError`` for a row with a value that Python has none for, such as infinity for a date.
    """
    tests = [_test(resources, resource, condition) for condition in conditions]
    known = [test for test in tests if test is not None]
    if len(known) < len(tests):
        return None
    return lambda row: all(test(row) for test in known)


@dataclass(frozen=True, slots=True)
class RoutingKey:
    """A column that has one of ``values`` in every matching row. ``field`` loads the column's logged values."""

    column: str
    field: Field
    values: frozenset[Any]


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
            case Comparison(_, "exact" | "in" as lookup, given, kind) if kind not in (Kind.ARRAY, Kind.JSON):
                values = frozenset(given if lookup == "in" else [given])
                if values and _comparison(resources, resource, condition) is not None:
                    path = resources.resolve(resource, condition.path)
                    yield _selectivity(path.field), RoutingKey(path.column, path.values, values)


def _selectivity(field: Field) -> int:
    """How well a field distinguishes rows; more is better."""
    if field.primary_key or field.unique:
        return 3
    if field.to is not None:
        return 2
    return 0 if field.field_type.kind is Kind.BOOLEAN or field.choices else 1


def patterns(conditions: Sequence[Condition]) -> list[str]:
    """The regular expressions in conditions, which only PostgreSQL can judge."""
    found: list[str] = []
    for condition in conditions:
        match condition:
            case Comparison(_, lookup, given, _) if lookup in PATTERNS:
                found.append(given)
            case Junction(_, parts):
                found += patterns(parts)
            case Negation(part):
                found += patterns([part])
    return found


def _test(resources: Resources, resource: str, condition: Condition) -> Test | None:
    match condition:
        case Comparison():
            return _comparison(resources, resource, condition)
        case Junction(word, parts):
            tests = [_test(resources, resource, part) for part in parts]
            known = [test for test in tests if test is not None]
            if len(known) < len(tests):
                return None
            if word == "and":
                return lambda row: all(test(row) for test in known)
            return lambda row: any(test(row) for test in known)
        case Negation(part):
            inner = _test(resources, resource, part)
            return None if inner is None else lambda row: not inner(row)
        case After() | Unchanged():
            return None


def _comparison(resources: Resources, resource: str, condition: Comparison) -> Test | None:
    path = resources.resolve(resource, condition.path)
    matches, given = condition.lookup_spec.matches, condition.argument
    if path.steps or path.field.write_only or matches is None or isinstance(given, Expression):
        return None
    column, values, of_null = path.column, path.values, condition.lookup_spec.of_null

    def test(row: Logged) -> bool:
        value = row.get(column)  # a row logged before the column was added has none
        return of_null(given) if value is None else matches(values.field_type.load(values, value), given)

    return test
