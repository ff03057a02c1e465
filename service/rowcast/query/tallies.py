"""Groups of rows in memory: counts, sums and averages that follow the change log, exactly as PostgreSQL computes them.

A row of the log is subtracted from its group as it was before and added to its group as it is after. That needs nothing
but the row where the groups are columns of the resource, or buckets of UTC, and the functions are counts, sums and averages
of integers and of decimals with fixed places. Sums are integers in units of the last place.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, TypeAlias

from rowcast.query.aggregation import AggregateShape, Calculation, Group
from rowcast.query.conditions import Condition
from rowcast.query.matching import Logged, Test, matcher
from rowcast.resources.aggregates import result_field
from rowcast.resources.fields import Field
from rowcast.resources.lookups import LOOKUPS
from rowcast.resources.lossless_json import Raw, encode, parse
from rowcast.resources.resource import Path, Resources

GroupKey: TypeAlias = tuple[Hashable, ...]  # the JSON values of a group
_AS_LOGGED: Final = frozenset(
    {"integer", "big_integer", "string", "text", "email", "url", "slug", "uuid", "boolean", "date", "datetime"}
)  # types whose values are equal if and only if their JSON is
_SUMMED: Final = ("count", "sum", "avg")
_ZONE: Final = "UTC"
_SIGNIFICANT_DIGITS: Final = 16  # PostgreSQL's NUMERIC_MIN_SIG_DIGITS
_SCALE_MAX: Final = 1000  # PostgreSQL's NUMERIC_MAX_DISPLAY_SCALE
_DIGIT: Final = 4  # decimal digits in one of a numeric's


class Uncountable(Exception):
    """A row or a result that only the database can take into account, such as NaN."""


class Tally:
    """The rows of one group: how many, and of each argument how many are not null and their sum."""

    __slots__ = ("counts", "rows", "sums")

    def __init__(self, rows: int, counts: list[int], sums: list[int]) -> None:
        self.rows = rows
        self.counts = counts
        self.sums = sums


@dataclass(frozen=True, slots=True)
class TallyForm:
    """How rows are counted for a shape.

    ``arguments`` are columns, each with the places of its sums or ``None`` if it is only counted; sums of those at the
    positions ``strings`` are strings. ``results`` are functions and positions of arguments. ``base`` is the shape that reads the tallies of all groups.
    """

    shape: AggregateShape
    base: AggregateShape
    test: Test
    groups: tuple[Callable[[Logged], Hashable], ...]
    arguments: tuple[tuple[str, int | None], ...]
    strings: frozenset[int]
    results: tuple[tuple[str, int], ...]
    conditions: tuple[tuple[int, Callable[[Any], bool]], ...]

    def key(self, row: Logged) -> GroupKey:
        """The group of a logged row; ``Uncountable`` if Python does not have its value."""
        try:
            return tuple([group(row) for group in self.groups])
        except (ValueError, TypeError, OverflowError) as error:
            raise Uncountable from error


class Tallies:
    """The tallies of all groups. ``touched`` are the groups that events have changed since it was emptied."""

    def __init__(self, form: TallyForm, documents: Iterable[bytes]) -> None:
        self.form = form
        self.touched: set[GroupKey] = set()
        self._groups = dict(map(self._loaded, documents))

    def __iter__(self) -> Iterator[GroupKey]:
        """The groups that have rows; without ``group_by`` the only one."""
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    def apply(self, before: Logged | None, after: Logged | None) -> None:
        """Count a row as it is after an event instead of as it was before; ``Uncountable`` leaves the tallies undefined."""
        try:
            if before is not None and self.form.test(before):
                self._add(before, -1)
            if after is not None and self.form.test(after):
                self._add(after, 1)
        except (ValueError, TypeError, OverflowError) as error:
            raise Uncountable from error

    def row(self, key: GroupKey) -> bytes | None:
        """The results of a group as JSON; ``None`` if there are none, or they do not meet the conditions."""
        tally = self._groups.get(key)
        if tally is None:
            return None
        results = [self._result(tally, function, position) for function, position in self.form.results]
        if not all(meets(results[position]) for position, meets in self.form.conditions):
            return None
        shown = [Raw(b"%d" % each) if isinstance(each, int) else _text(each) for each in results]
        return encode(dict(zip(self.form.shape.names, (*key, *shown), strict=True)))

    def _add(self, row: Logged, sign: int) -> None:
        key = self.form.key(row)
        tally = self._groups.get(key)
        if tally is None:
            size = len(self.form.arguments)
            tally = self._groups[key] = Tally(0, [0] * size, [0] * size)
        tally.rows += sign
        for position, (column, places) in enumerate(self.form.arguments):
            value = row.get(column)
            if value is None:
                continue
            tally.counts[position] += sign
            if places is not None:
                tally.sums[position] += sign * _units(value, places)
        self.touched.add(key)
        if tally.rows < 0:
            raise Uncountable
        if not tally.rows and self.form.groups:
            del self._groups[key]

    def _result(self, tally: Tally, function: str, position: int) -> int | Decimal | None:
        if position < 0:
            return tally.rows
        count = tally.counts[position]
        if function == "count":
            return count
        if not count:
            return None
        places = self.form.arguments[position][1]
        assert places is not None
        if function == "avg":
            return average(tally.sums[position], places, count)
        return _decimal(tally.sums[position], places) if position in self.form.strings else tally.sums[position]

    def _loaded(self, document: bytes) -> tuple[GroupKey, Tally]:
        """A group as the database has computed it for the shape ``base``."""
        values = list(parse(document).values())
        groups = len(self.form.groups)
        key, (rows, *others) = tuple(values[:groups]), values[groups:]
        counts, sums, rest = [], [], iter(others)
        for _, places in self.form.arguments:
            counts.append(next(rest))
            total = None if places is None else next(rest)
            try:
                sums.append(0 if total is None else _units(total, places or 0))
            except (ValueError, TypeError) as error:
                raise Uncountable from error
        return key, Tally(rows, counts, sums)


def tally_form(
    resources: Resources, where: Sequence[Condition], shape: AggregateShape, values: Sequence[Any]
) -> TallyForm | None:
    """How the rows of a resource that meet conditions are counted in memory; ``None`` if only the database can.

    ``values`` are those of the shape: the zones of its buckets, and the conditions on results.
    """
    test = matcher(resources, shape.resource, where)
    bounds = len(values) - len(shape.having)
    if test is None or any(zone != _ZONE for zone in values[:bounds]):
        return None
    groups = [_group(resources, shape.resource, group) for group in shape.groups]
    exact = [group for group in groups if group is not None]
    arguments: dict[str, int | None] = {}
    columns: list[str] = []
    for calculation in shape.calculations:
        if calculation.function not in _SUMMED:
            return None
        if not calculation.path:
            columns.append("")
            continue
        path = resources.resolve(shape.resource, calculation.path)
        if path.steps or path.field.parts or path.field.write_only or path.derived is not None:
            return None
        places = None if calculation.function == "count" else _places(resources, shape.resource, path)
        if places is None and calculation.function != "count":
            return None
        columns.append(path.column)
        arguments[path.column] = arguments.get(path.column) if places is None else places
    if len(exact) < len(groups):
        return None
    order = list(arguments)
    conditions = []
    for (position, lookup), bound in zip(shape.having, values[bounds:], strict=True):
        calculation = shape.calculations[position]
        field = result_field(
            calculation.function,
            resources.resolve(shape.resource, calculation.path).values if calculation.path else None,
        )
        found = LOOKUPS[field.field_type.kind, lookup]
        if found.matches is None:
            return None
        conditions.append((position, _condition(found.matches, found.of_null(bound), bound)))
    paths = {resources.resolve(shape.resource, each.path).column: each.path for each in shape.calculations if each.path}
    base: list[Calculation] = [Calculation("count")]
    for column, places in arguments.items():
        base.append(Calculation("count", paths[column]))
        base += [] if places is None else [Calculation("sum", paths[column])]
    return TallyForm(
        shape,
        AggregateShape(
            shape.resource,
            shape.groups,
            tuple(base),
            tuple(f"_{position}" for position in range(len(shape.groups) + len(base))),
        ),
        test,
        tuple(exact),
        tuple(arguments.items()),
        frozenset(
            position
            for position, column in enumerate(order)
            if _has_string_sums(resources.resolve(shape.resource, paths[column]).values)
        ),
        tuple(
            (each.function, order.index(column) if column else -1)
            for each, column in zip(shape.calculations, columns, strict=True)
        ),
        tuple(conditions),
    )


def _has_string_sums(field: Field) -> bool:
    return field.field_type.name == "decimal" or field.field_type.sums_as_strings


def _condition(matches: Callable[[Any, Any], bool], of_null: bool, bound: Any) -> Callable[[Any], bool]:
    return lambda value: of_null if value is None else matches(value, bound)


def _group(resources: Resources, resource: str, group: Group) -> Callable[[Logged], Hashable] | None:
    """A function that returns the value of a logged row's group; ``None`` if only the database can."""
    path = resources.resolve(resource, group.path)
    if path.steps or path.field.write_only or path.values.field_type.name not in _AS_LOGGED:
        return None
    if not is_exact(resources, resource, path):
        return None
    column, values, bucket = path.column, path.values, group.bucket
    if not bucket:
        return lambda row: _plain(row.get(column))

    def truncated(row: Logged) -> Hashable:
        value = row.get(column)
        if value is None:
            return None
        moment = values.field_type.load(values, value)
        if isinstance(moment, dt.datetime):
            moment = moment.astimezone(dt.UTC)
            if bucket == "hour":
                return moment.replace(minute=0, second=0, microsecond=0).isoformat()
            moment = moment.date()
        return _TRUNCATE[bucket](moment).isoformat()

    return truncated


_TRUNCATE: Final[Mapping[str, Callable[[dt.date], dt.date]]] = {
    "year": lambda day: day.replace(month=1, day=1),
    "quarter": lambda day: day.replace(month=day.month - (day.month - 1) % 3, day=1),
    "month": lambda day: day.replace(day=1),
    "week": lambda day: day - dt.timedelta(day.weekday()),
    "day": lambda day: day,
}


def is_exact(resources: Resources, resource: str, path: Path) -> bool:
    """Whether the JSON of two values of a path differs if and only if the values do."""
    field = path.values
    traits = resources.traits_of(path.steps[-1].target if path.steps else resource)
    return (
        path.derived is None
        and not path.field.parts
        and not path.field.native_type
        and not field.native_type
        and field.zone is None
        and path.column not in traits.loose
        and (field.field_type.name in _AS_LOGGED or _places(resources, resource, path) is not None)
    )


def _places(resources: Resources, resource: str, path: Path) -> int | None:
    """How many places the values of a number have, always the same; ``None`` if that differs, or they are no such numbers."""
    field = path.values
    if field.native_type or path.field.native_type or path.steps:
        return None
    if field.field_type.name in ("integer", "big_integer"):
        return 0
    stored = resources.traits_of(resource).types.get(path.column, "numeric(")
    if field.field_type.name == "decimal" and field.max_digits is not None and stored.startswith("numeric("):
        return field.decimal_places or 0
    return None


def _plain(value: Any) -> Hashable:
    if isinstance(value, Raw | dict | list | float):
        raise Uncountable
    return value  # type: ignore[no-any-return]


def _units(value: Any, places: int) -> int:
    """A number in units of its last place; ``ValueError`` if it does not have so many places, or is NaN."""
    if isinstance(value, int) and not places:
        return value
    text = value.decode() if isinstance(value, Raw) else value
    whole, _, part = text.partition(".")
    if len(part) != places:
        raise ValueError("another number of places")
    return int(whole + part)


def _decimal(units: int, places: int) -> Decimal:
    """Units of the last place as a number with these places."""
    return Decimal((int(units < 0), tuple(map(int, str(abs(units)))), -places))


def _text(value: Decimal | None) -> str | None:
    return None if value is None else format(value, "f")


def average(units: int, places: int, count: int) -> Decimal:
    """A sum, in units of its last place, divided by a count, with the digits that PostgreSQL gives a quotient.

    They are at least 16 significant ones, estimated from the first digits to the base 10,000; half is rounded up.
    """
    weight, first = _leading(abs(units), places)
    divisor_weight, divisor_first = _leading(count, 0)
    difference = weight - divisor_weight - (first <= divisor_first)
    scale = min(max(_SIGNIFICANT_DIGITS - difference * _DIGIT, places, 0), _SCALE_MAX)
    quotient, rest = divmod(abs(units) * 10 ** (scale - places), count)
    quotient += 2 * rest >= count
    return _decimal(-quotient if units < 0 else quotient, scale)


def _leading(units: int, places: int) -> tuple[int, int]:
    """The weight of a number's first digit to the base 10,000, and that digit."""
    if not units:
        return 0, 0
    digits = str(units)
    exponent = len(digits) - 1 - places
    weight = exponent // _DIGIT
    width = exponent - _DIGIT * weight + 1
    return weight, int(digits[:width].ljust(width, "0"))
