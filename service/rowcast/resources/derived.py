"""Values that follow from a field: parts of dates and moments, the length of an array, members of a JSON document.

A name after the field's own makes one: ``published__year``, ``keywords__len``, ``meta__a__b``. Filters treat it as a field of its
own type, and so does an order where ``Derived.sorts`` says so.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import sqlalchemy as sa

from rowcast.resources.exchanged import MOMENT, LocalTime, comparable, readable
from rowcast.resources.fields import Column, Field, FieldType, Kind
from rowcast.resources.json_members import MEMBER_TYPES, member_sql, names_of, value_of
from rowcast.resources.types.numbers import whole_numbers
from rowcast.resources.types.temporal import TEMPORAL_TYPES

UTC: Final = "UTC"
_SEPARATOR: Final = "__"


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A part of a moment: the type of its values, the types of field that have it, and its SQL and Python of a local one.

    ``first`` and ``after`` are for a part that holds from one moment to another: the SQL of the first day of an argument, and
    of the first day after it.
    """

    field_type: FieldType
    of: frozenset[str]
    sql: Callable[[Column], Column]
    value: Callable[[Any], Any]
    first: Callable[[Column], Column] | None = None
    after: Callable[[Column], Column] | None = None


def _extract(name: str) -> Callable[[Column], Column]:
    return lambda local: sa.extract(name, local)


def _new_year(year: Column, later: int) -> Column:
    one: Column = sa.literal_column("1")
    return sa.func.make_date(year + sa.literal_column(str(later)) if later else year, one, one, type_=sa.Date())


_DAYS: Final = frozenset({"date", "datetime"})
PARTS: Final[Mapping[str, Part]] = {
    "year": Part(
        whole_numbers(1, 9999), _DAYS, _extract("year"), operator.attrgetter("year"),
        first=lambda year: _new_year(year, 0), after=lambda year: _new_year(year, 1),
    ),
    "quarter": Part(whole_numbers(1, 4), _DAYS, _extract("quarter"), lambda local: (local.month + 2) // 3),
    "month": Part(whole_numbers(1, 12), _DAYS, _extract("month"), operator.attrgetter("month")),
    "week": Part(whole_numbers(1, 53), _DAYS, _extract("week"), lambda local: local.isocalendar().week),
    "day": Part(whole_numbers(1, 31), _DAYS, _extract("day"), operator.attrgetter("day")),
    "weekday": Part(whole_numbers(1, 7), _DAYS, _extract("isodow"), lambda local: local.isoweekday()),
    "hour": Part(whole_numbers(0, 23), frozenset({"datetime", "time"}), _extract("hour"), operator.attrgetter("hour")),
    "date": Part(
        next(each for each in TEMPORAL_TYPES if each.name == "date"), frozenset({"datetime"}),
        lambda local: sa.cast(local, sa.Date()), lambda local: local.date(),
        first=lambda day: day, after=lambda day: day.op("+", return_type=sa.Date())(sa.literal_column("1")),
    ),
}  # fmt: skip
LENGTH: Final = "len"
_LENGTH_TYPE: Final = whole_numbers(0, 2**31 - 1)

_FIRST, _AFTER = False, True
_BOUNDS: Final[
    Mapping[str, tuple[tuple[Callable[[Any, Any], Any], int, bool], ...]]
] = {  # operator, argument, which day
    "exact": ((operator.ge, 0, _FIRST), (operator.lt, 0, _AFTER)),
    "gt": ((operator.ge, 0, _AFTER),),
    "gte": ((operator.ge, 0, _FIRST),),
    "lt": ((operator.lt, 0, _FIRST),),
    "lte": ((operator.lt, 0, _AFTER),),
    "range": ((operator.ge, 0, _FIRST), (operator.lt, 1, _AFTER)),
}


@dataclass(frozen=True, slots=True, eq=False)
class Derived:
    """A value that follows from that of ``source``; ``field`` is the field of such values.

    ``sql(column, zone)`` is its SQL, and ``value(stored)`` the same in Python, in UTC, for a value that is not null; it
    raises ``ValueError`` if only PostgreSQL can say. ``zoned`` values depend on the time zone of the request.
    """

    source: Field
    field: Field
    sql: Callable[[Column, Column], Column]
    value: Callable[[Any], Any]
    zoned: bool = False
    sorts: bool = False
    part: Part | None = None

    def condition(
        self, column: Column, zone: Column | None, lookup: str, argument: Any, compare: Callable[[Any, Any], Any]
    ) -> sa.ColumnElement[bool]:
        """The SQL of a lookup; ``zone`` is ``None`` for UTC.

        A part that holds from one moment to another is compared by bounds on the column, which an index serves. A day of
        another zone may begin twice: there the bounds are a day wider, and the part is compared as well.
        """
        exact: sa.ColumnElement[bool] = compare(self.sql(column, _zone(zone)), argument)
        if self.part is None or self.part.first is None or lookup not in _BOUNDS:
            return exact
        if isinstance(column.type, LocalTime) and column.type.zone != UTC:
            return exact
        arguments = argument if isinstance(argument, tuple) else (argument,)
        bounds = [test(column, self._bound(column, zone, test, arguments[n], day)) for test, n, day in _BOUNDS[lookup]]
        return sa.and_(*bounds) if zone is None else sa.and_(*bounds, exact)

    def _bound(self, column: Column, zone: Column | None, test: Any, argument: Column, after: bool) -> Column:
        """The first value of the column on the first day of an argument, or on the first day after it."""
        start = None if self.part is None else self.part.after if after else self.part.first
        assert start is not None
        day = start(argument)
        if self.source.type == "date":
            return day
        local: Column = sa.cast(day, sa.DateTime())
        if zone is not None:
            wider: Column = sa.literal_column("interval '1 day'")
            local = local - wider if test is operator.ge else local + wider
        moment = sa.func.timezone(_zone(zone), local, type_=MOMENT)
        return column.type.stored(moment) if isinstance(column.type, LocalTime) else moment


def _zone(zone: Column | None) -> Column:
    return sa.literal_column(f"'{UTC}'") if zone is None else zone


def derived_names(source: Field) -> tuple[str, ...]:
    """The names of the values that follow from a field."""
    if source.field_type.kind is Kind.ARRAY:
        return (LENGTH,)
    return _parts_of(source.type) + tuple(path for path, _ in source.paths)


@cache
def _parts_of(type_: str) -> tuple[str, ...]:
    return tuple(name for name, part in PARTS.items() if type_ in part.of)


def derive(source: Field, name: str) -> Derived | None:
    """The value of this name that follows from a field; ``None`` if there is none."""
    if name not in derived_names(source):
        return None
    if name == LENGTH and source.field_type.kind is Kind.ARRAY:
        length = _field(source, name, _LENGTH_TYPE)
        return Derived(
            source, length, lambda column, _: sa.func.cardinality(column, type_=sa.Integer()), len, sorts=True
        )
    if source.field_type.kind is Kind.JSON:
        field = _field(source, name, dict(source.paths)[name])
        made = MEMBER_TYPES[field.type].sql
        names = names_of(name)
        return Derived(
            source,
            field,
            lambda column, _: made(member_sql(comparable(column), names)),
            value_of(name, field),
            sorts=True,
        )
    part = PARTS[name]
    return Derived(
        source, _field(source, name, part.field_type), lambda column, zone: part.sql(_local(source, column, zone)),
        part.value, zoned=source.type == "datetime", part=part,
    )  # fmt: skip


def _field(source: Field, name: str, field_type: FieldType) -> Field:
    """The field of a derived value. It is null where its source is, and a member may be missing."""
    null = source.null or source.field_type.kind is Kind.JSON
    return Field(
        f"{source.name}{_SEPARATOR}{name}", field_type, null=null, required=False, write_only=source.write_only,
        read_only=True,
    )  # fmt: skip


def _local(source: Field, column: Column, zone: Column) -> Column:
    """A date, time or moment as PostgreSQL takes it apart: of a moment, the local one in a zone."""
    if source.type != "datetime":
        return column
    return sa.func.timezone(zone, readable(column), type_=sa.DateTime())
