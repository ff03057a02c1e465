"""Types of columns whose values the driver exchanges as those of another type.

An enum is exchanged as a string, and a timestamp without zone as a moment. PostgreSQL converts the values.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeEngine

from rowcast.resources.sql import DIALECT, quote_literal

Column = sa.ColumnElement[Any]
MOMENT: Final = sa.DateTime(timezone=True)
_UNLIMITED: Final = {
    "bit": '"bit"',
    "char": "bpchar",
    "character": "bpchar",
}  # SQL has 1 as the limit of those without one
_LIMITS: Final = re.compile(r" ?\([0-9, -]+\)")


class Exchanged(sa.types.UserDefinedType[Any]):
    """A type as PostgreSQL prints it, whose values are parameters and results of the type ``driver``."""

    cache_ok = True
    json_type: TypeEngine[Any] | None = None  # the type that the JSON form is read as, if it is another one

    def __init__(self, printed: str, driver: TypeEngine[Any]) -> None:
        self.printed = printed
        self.driver = driver

    def get_col_spec(self, **_: object) -> str:
        """The type in DDL."""
        return self.printed

    def bind_expression(self, bindvalue: sa.BindParameter[Any]) -> Column:
        """A parameter of this type."""
        return self.stored(sa.type_coerce(bindvalue, self.driver))

    def stored(self, value: Column) -> Column:
        """A value of the type ``driver`` as one of this type."""
        return sa.cast(value, self)

    def from_json(self, value: Column) -> Column:
        """A value of the type ``json_type`` as one of this type."""
        return self.stored(value)

    def plain(self, column: Column) -> Column:
        """A value of this type as one of the type ``driver``."""
        return sa.cast(column, self.driver)

    def argument(self, value: Column) -> Column:
        """A value of the type ``driver`` to compare a column with; one that the type does not have is null."""
        return self.stored(value)

    def arguments(self, values: Column) -> Column:
        """An array of such values."""
        return sa.cast(values, postgresql.ARRAY(self))


class EnumType(Exchanged):
    """An enum, exchanged as strings. ``domain`` says that the column has a domain over it, which has no operators."""

    def __init__(self, printed: str, *, domain: bool = False) -> None:
        super().__init__(printed, sa.Text())
        self.domain = domain

    def argument(self, value: Column) -> Column:
        return self._labels(lambda label: label == value)

    def arguments(self, values: Column) -> Column:
        return sa.func.array(self._labels(lambda label: label == sa.any_(values)))

    def _labels(self, condition: Callable[[Column], sa.ColumnElement[bool]]) -> sa.ScalarSelect[Any]:
        """The values of the enum whose strings meet a condition."""
        every: Column = sa.literal_column(f"enum_range(NULL::{self.printed})")
        labels = sa.func.unnest(every).table_valued(sa.column("label", self), name="_label").render_derived()
        return sa.select(labels.c.label).where(condition(sa.cast(labels.c.label, sa.Text()))).scalar_subquery()


class Native(Exchanged):
    """Any type, exchanged in its text form. If PostgreSQL has no order for it, it is compared and sorted as text."""

    json_type = sa.Text()

    def __init__(self, printed: str, *, ordered: bool = True) -> None:
        super().__init__(printed, sa.Text())
        self.ordered = ordered
        base, dimension, _ = _unlimited(printed).partition("[]")
        self._unlimited = Exchanged(_UNLIMITED.get(base.lower(), base) + dimension, sa.Text())

    def stored(self, value: Column) -> Column:
        return sa.cast(value, self._unlimited)  # with a limit, the cast would cut the value

    def plain(self, column: Column) -> Column:
        text = sa.func.format(sa.literal_column("'%s'"), column, type_=sa.Text)  # a cast has another form of some types
        return sa.case((column.is_not(None), text), else_=None)

    def argument(self, value: Column) -> Column:
        return self.stored(value) if self.ordered else self.plain(self.stored(value))

    def arguments(self, values: Column) -> Column:
        if self.ordered and not self.printed.endswith("[]"):
            return sa.cast(values, postgresql.ARRAY(self._unlimited))
        items = sa.func.unnest(values).table_valued(sa.column("item", sa.Text()), name="_item").render_derived()
        return sa.select(self.argument(items.c.item)).scalar_subquery()


class Single(Exchanged):
    """A number of single precision, exchanged as the one of double precision that has its digits."""

    def __init__(self) -> None:
        super().__init__("REAL", sa.Double())

    def plain(self, column: Column) -> Column:
        return sa.cast(sa.cast(column, sa.Text()), self.driver)


class Singles(Exchanged):
    """An array of such numbers."""

    def __init__(self) -> None:
        super().__init__("REAL[]", postgresql.ARRAY(sa.Double()))

    def plain(self, column: Column) -> Column:
        return sa.cast(sa.cast(column, postgresql.ARRAY(sa.Text())), self.driver)


class Bytes(Exchanged):
    """``bytea``, whose JSON form is base64."""

    json_type = sa.Text()

    def __init__(self) -> None:
        super().__init__("BYTEA", postgresql.BYTEA())

    def stored(self, value: Column) -> Column:
        return value

    def from_json(self, value: Column) -> Column:
        return sa.func.decode(value, sa.literal_column("'base64'"), type_=self.driver)

    def plain(self, column: Column) -> Column:
        return column

    def arguments(self, values: Column) -> Column:
        return values


class LocalTime(Exchanged):
    """``timestamp without time zone`` whose values are times of a zone, exchanged as moments."""

    def __init__(self, zone: str) -> None:
        super().__init__("TIMESTAMP WITHOUT TIME ZONE", MOMENT)
        self.zone = zone
        self.json_type = None if zone == "UTC" else MOMENT

    def stored(self, value: Column) -> Column:
        return sa.func.timezone(sa.literal_column(quote_literal(self.zone)), value, type_=self)

    def plain(self, column: Column) -> Column:
        return sa.func.timezone(sa.literal_column(quote_literal(self.zone)), column, type_=self.driver)

    def arguments(self, values: Column) -> Column:
        return _each(values, self.driver, self.stored)


def _each(values: Column, type_: TypeEngine[Any], convert: Any) -> Column:
    """The values of an array, each converted, as an array."""
    items = sa.func.unnest(values).table_valued(sa.column("item", type_), name="_item").render_derived()
    return sa.func.array(sa.select(convert(items.c.item)).scalar_subquery())


def comparable(column: Column) -> Column:
    """A column in a form that can be compared: that of a json field may be ``json`` in the database."""
    if isinstance(column.type, Native) and not column.type.ordered:
        return column.type.plain(column)
    cast = isinstance(column.type, postgresql.JSONB) or (isinstance(column.type, EnumType) and column.type.domain)
    return sa.cast(column, column.type) if cast else column


def readable(column: Column) -> Column:
    """A column in a form that the driver decodes as the field's Python value."""
    return column.type.plain(column) if isinstance(column.type, Exchanged) else comparable(column)


def as_it_is(
    declared: TypeEngine[Any], printed: str, *, enum: bool = False, domain: bool = False, ordered: bool = True
) -> TypeEngine[Any]:
    """The type of a column that exists: the declared one, or that of the database if parameters must have it.

    ``printed`` is the type as PostgreSQL prints it, the base type of a domain; ``enum`` is true also for an array of enums, and
    ``domain`` says that it has been one. ``ordered``: whether PostgreSQL has an order for it.

    >>> as_it_is(sa.Text(), "mood", enum=True).printed, as_it_is(sa.Integer(), "smallint")
    ('mood', Integer())
    """
    if isinstance(declared, Native):
        return Native(declared.printed, ordered=ordered)
    if isinstance(declared, Exchanged):
        return declared
    if isinstance(declared, postgresql.ARRAY):
        if printed == "real[]":
            return Singles()
        if not printed.endswith("[]") or _unlimited(printed) == _unlimited(_print(declared)):
            return declared
        items = sa.Text() if isinstance(declared.item_type, sa.String) else declared.item_type
        return Exchanged(_unlimited(printed), postgresql.ARRAY(items))  # with a limit, a cast would cut the value
    match declared, printed.rpartition(".")[2]:
        case sa.String(), _ if enum:
            return EnumType(printed, domain=domain)
        case sa.String(), "citext":
            return Exchanged(printed, sa.Text())
        case sa.Double(), "real":
            return Single()
        case sa.DateTime(), name if name.startswith("timestamp") and name.endswith(" without time zone"):
            return LocalTime("UTC")
    return declared


def _print(type_: TypeEngine[Any]) -> str:
    return type_.compile(dialect=DIALECT).lower().replace("varchar", "character varying")


def _unlimited(printed: str) -> str:
    """A printed type without its limits."""
    return _LIMITS.sub("", printed)
