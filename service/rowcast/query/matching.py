"""Conditions on rows of the change log, in memory: the same result as the SQL of the condition.

A row of the log is a JSON object by column. A condition on the row's own columns becomes a function if its lookups are
exact in Python. PostgreSQL evaluates any other condition.

Conditions of one shape, which differ only in their arguments, are one ``Evaluation``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from rowcast.query.conditions import Comparison, Condition, Junction, Negation, Shape, shape_of
from rowcast.resources.derived import Derived
from rowcast.resources.fields import Field, Kind
from rowcast.resources.lookups import LOOKUPS, PATTERNS, Argument, Lookup
from rowcast.resources.resource import Path, Resources

Logged: TypeAlias = Mapping[str, Any]
Test: TypeAlias = Callable[[Logged], bool]
Arguments: TypeAlias = tuple[Any, ...]  # of the comparisons in conditions, in their order
Compare: TypeAlias = Callable[[Logged, Arguments], bool]


def matcher(resources: Resources, resource: str, conditions: Sequence[Condition]) -> Test | None:
    """A function that tests whether a logged row meets all conditions; ``None`` if only PostgreSQL can evaluate them.

    The function raises ``ValueError`` for a value that Python does not have, such as infinity as a date.
    """
    return _evaluation_of(resources, resource, conditions).test(conditions)


def routing_key(resources: Resources, resource: str, conditions: Sequence[Condition]) -> RoutingKey | None:
    """A column that the conditions fix, so that rows with other values can be skipped; ``None`` if there is none.

    Of several columns it is the most selective one: the key, then a relation, and last a column with few values.
    """
    return _evaluation_of(resources, resource, conditions).routing_key(conditions)


def _evaluation_of(resources: Resources, resource: str, conditions: Sequence[Condition]) -> Evaluation:
    return evaluation(resources, resource, shape_of(conditions), inexact_columns(resources, resource))


def inexact_columns(resources: Resources, resource: str) -> frozenset[str]:
    """The columns whose values PostgreSQL may find equal where Python does not, or the other way round."""
    traits = resources.traits_of(resource)
    return traits.loose | {name for name, type_ in traits.types.items() if type_ == "real"}


@dataclass(frozen=True, slots=True)
class RoutingKey:
    """A column that has one of ``values`` in every matching row. ``field`` loads the column's logged values."""

    column: str
    field: Field
    values: Collection[Any]

    def load(self, logged: Any) -> Any:
        """The value of a logged one; ``ValueError`` or ``TypeError`` if Python cannot represent it."""
        return self.field.field_type.load(self.field, logged)


class BoundTest:
    """A test with arguments; it takes less memory than a function."""

    __slots__ = ("_arguments", "_compare")

    def __init__(self, compare: Compare, arguments: Arguments) -> None:
        self._compare = compare
        self._arguments = arguments

    def __call__(self, row: Logged) -> bool:
        return self._compare(row, self._arguments)


@dataclass(frozen=True, slots=True)
class _Route:
    """A comparison that fixes a column; ``place`` is that of its argument, which is ``many`` values or one."""

    place: int
    many: bool
    path: Path

    def key(self, argument: Any) -> RoutingKey | None:
        """``None`` if there are no values. Of a key of several fields the column is the first one."""
        values = argument if self.many else (argument,)
        if not values:
            return None
        path = self.path
        if path.field.parts:
            return RoutingKey(path.columns[0], path.values.parts[0], frozenset([value[0] for value in values]))
        return RoutingKey(path.column, path.values, frozenset(values) if self.many else values)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How conditions of one shape are evaluated in memory, whatever their arguments are.

    Attributes:
        compare: Whether a row meets the conditions with some arguments; ``None`` if only PostgreSQL can evaluate them.
        routes: The comparisons that fix a column, the most selective first.
    """

    compare: Compare | None
    routes: tuple[_Route, ...]

    def test(self, conditions: Sequence[Condition]) -> Test | None:
        """The test of conditions that have this shape."""
        if self.compare is None:
            return None
        return BoundTest(self.compare, tuple([_compared(each) for each in _comparisons(conditions)]))

    def routing_key(self, conditions: Sequence[Condition]) -> RoutingKey | None:
        """A column that conditions of this shape fix."""
        if not self.routes:
            return None
        arguments = [each.argument for each in _comparisons(conditions)]
        keys = (route.key(arguments[route.place]) for route in self.routes)
        return next((key for key in keys if key is not None), None)


def _comparisons(conditions: Sequence[Condition]) -> list[Comparison]:
    """The comparisons in conditions, in their order."""
    found: list[Comparison] = []
    for condition in conditions:
        match condition:
            case Comparison():
                found.append(condition)
            case Junction(_, parts):
                found += _comparisons(parts)
            case Negation(part):
                found += _comparisons((part,))
    return found


def _compared(comparison: Comparison) -> Any:
    """The argument of a comparison as its lookup takes it."""
    many = comparison.lookup_spec.takes is Argument.MANY
    return frozenset(comparison.argument) if many else comparison.argument


def evaluation(resources: Resources, resource: str, shape: Shape, inexact: frozenset[str]) -> Evaluation:
    """How conditions of a shape are evaluated. ``inexact`` are the columns that only PostgreSQL compares (``inexact_columns``)."""
    compiler = _Compiler(resources, resource, inexact)
    compare = compiler.compare(shape or ("and",), fixing=True)
    return Evaluation(compare, tuple(sorted(compiler.routes, key=lambda route: -_selectivity(route.path.field))))


class _Compiler:
    """Compiles the shape of conditions on a resource, and collects its routes."""

    def __init__(self, resources: Resources, resource: str, inexact: frozenset[str]) -> None:
        self.routes: list[_Route] = []
        self._resources = resources
        self._resource = resource
        self._inexact = inexact
        self._places = 0  # of comparisons so far

    def compare(self, shape: Shape, *, fixing: bool) -> Compare | None:
        """``None`` if a part can only be evaluated by PostgreSQL. ``fixing`` says that every matching row meets this part."""
        match shape:
            case ("is" | "is in zone" as word, path, lookup, flag):
                place, self._places = self._places, self._places + 1
                return self._comparison(
                    path, lookup, place, zoned=word != "is", computed=isinstance(flag, tuple), fixing=fixing
                )
            case ("and" | "or" as operator, *parts):
                compared = [self.compare(part, fixing=fixing and operator == "and") for part in parts]
                tests = [each for each in compared if each is not None]
                return _joined(operator, tests) if len(tests) == len(compared) else None
            case ("not", part):
                inner = self.compare(part, fixing=False)
                return None if inner is None else lambda row, arguments: not inner(row, arguments)
        return None

    def _comparison(
        self, text: str, name: str, place: int, *, zoned: bool, computed: bool, fixing: bool
    ) -> Compare | None:
        path = self._resources.resolve(self._resource, text)
        kind = path.values.field_type.kind
        lookup = LOOKUPS[kind, name]
        matches, of_null = lookup.matches, lookup.of_null
        if path.steps or path.field.write_only or matches is None or computed:
            return None
        column, field = path.column, path.values
        if path.derived is not None:
            field = path.derived.source
            if zoned:
                return None  # PostgreSQL has time zones of its own
        if field.of is not None and field.of.kind is Kind.JSON:
            return None  # in JSON, 1 is not true
        if field.zone not in (None, "UTC") and lookup.takes is not Argument.FLAG:
            return None  # an hour that a zone has twice is stored as one
        if lookup.takes is not Argument.FLAG and not self._inexact.isdisjoint(path.columns):
            return None
        if fixing and name in ("exact", "in") and path.derived is None and kind not in (Kind.ARRAY, Kind.JSON):
            self.routes.append(_Route(place, name == "in", path))
        if path.field.parts:
            key = _key_of_logged(path)
            return lambda row, arguments: matches(key(row), arguments[place])
        if path.derived is not None:
            return _compare_derived(path.derived, column, lookup, place)

        def compare(row: Logged, arguments: Arguments) -> bool:
            value = row.get(column)  # a row that was logged before the column was added has none
            if value is None:
                return of_null(arguments[place])
            return matches(field.field_type.load(field, value), arguments[place])

        return compare


def _joined(operator: str, tests: Sequence[Compare]) -> Compare:
    """All of some tests, or any of them."""
    if len(tests) == 1:
        return tests[0]
    if operator == "and":
        return lambda row, arguments: all(test(row, arguments) for test in tests)
    return lambda row, arguments: any(test(row, arguments) for test in tests)


def _selectivity(field: Field) -> int:
    """How well a field distinguishes rows; more is better."""
    if field.primary_key or field.unique:
        return 3
    if field.to is not None:
        return 2
    return 0 if field.field_type.kind is Kind.BOOLEAN or field.choices else 1


def _key_of_logged(path: Path) -> Callable[[Logged], tuple[Any, ...]]:
    """A function that returns the key, of several fields, of a logged row."""
    columns = list(zip(path.values.parts, path.columns, strict=True))
    return lambda row: tuple([part.field_type.load(part, row[column]) for part, column in columns])


def _compare_derived(derived: Derived, column: str, lookup: Lookup, place: int) -> Compare:
    """A comparison of a value that follows from a column."""
    matches, of_null, source = lookup.matches, lookup.of_null, derived.source
    assert matches is not None

    def compare(row: Logged, arguments: Arguments) -> bool:
        stored = row.get(column)
        value = None if stored is None else derived.value(source.field_type.load(source, stored))
        return of_null(arguments[place]) if value is None else matches(value, arguments[place])

    return compare


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
