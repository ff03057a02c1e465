"""SQL text from SQLAlchemy expressions, in which every value is a parameter with a position."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from rowcast.resources.exchanged import Exchanged
from rowcast.resources.fields import Field, Kind
from rowcast.resources.sql import DIALECT

GIVEN: Final = "_given"  # the rows of ``GivenBinds``
Expression: TypeAlias = sa.Select[Any] | sa.Insert | sa.Update | sa.Delete | sa.UpdateBase


@dataclass(frozen=True, slots=True)
class Statement:
    """Compiled SQL, the position of each of its arguments among the values, and the resources that it may change."""

    sql: str
    order: tuple[int, ...]
    changes: frozenset[str] = frozenset()

    def arguments(self, values: Sequence[Any]) -> list[Any]:
        """The values in the order of ``$1, $2, …``."""
        return [values[position] for position in self.order]


class Binds:
    """Makes bound parameters, whose order is the order of a statement's values."""

    def __init__(self, first: int = 0) -> None:
        self._made: list[sa.BindParameter[Any]] = []
        self._first = first  # the position of its first value among those of the statement
        self._next = 0

    def __call__(self, type_: Any) -> sa.BindParameter[Any]:
        if self._next == len(self._made):
            self._made.append(sa.bindparam(f"v{self._first + self._next}", type_=type_))
        self._next += 1
        return self._made[self._next - 1]

    def rewind(self) -> None:
        """Return the parameters that exist once more, from the first."""
        self._next = 0

    def following(self) -> Binds:
        """Makes the parameters whose values come after those that this one has made."""
        return Binds(self._first + len(self._made))


class GivenBinds(Binds):
    """Makes columns of ``_given`` in place of bound parameters: a row of it has the values of one execution."""

    def __init__(self) -> None:
        super().__init__()
        self.types: list[Any] = []  # of the columns v0, v1, …

    def __call__(self, type_: Any) -> Any:
        exchanged = type_ if isinstance(type_, Exchanged) else None
        self.types.append(_without_limits(type_ if exchanged is None else exchanged.driver))
        column: sa.ColumnElement[Any] = sa.literal_column(f"{GIVEN}.v{len(self.types) - 1}", self.types[-1])
        return column if exchanged is None else exchanged.stored(column)

    def rows(self) -> sa.FromClause:
        """The rows of ``_given``, each with its ``position`` from 1. Values: an array for each column."""
        binds = Binds()
        arrays = [binds(postgresql.ARRAY(type_)) for type_ in self.types]
        columns = [sa.column(f"v{number}", type_) for number, type_ in enumerate(self.types)]
        given = sa.func.unnest(*arrays).table_valued(*columns, with_ordinality="position")
        return given.render_derived(name=GIVEN)


def _without_limits(type_: Any) -> Any:
    """A type whose values a cast leaves as they are, so that a column refuses one that is too long for it."""
    return sa.Text() if isinstance(type_, sa.String) else sa.Numeric() if type(type_) is sa.Numeric else type_


def compiled(expression: Expression, *, changes: Collection[str] = ()) -> Statement:
    """The statement of an expression whose parameters are all made by ``Binds``."""
    made = expression.compile(dialect=DIALECT)
    order = tuple(int(name.removeprefix("v")) for name in made.positiontup or ())
    return Statement(str(made), order, frozenset(changes))


def bound_type(field: Field) -> Any:
    """The type of a parameter: the field's without its limits, since a cast to those would cut the value."""
    if field.field_type.kind is Kind.TEXT:
        return sa.Text()
    return field.field_type.column(replace(field, max_digits=None, decimal_places=None))


def sql(text: object) -> sa.ColumnElement[Any]:
    """SQL text that is part of this program, as an expression."""
    return sa.literal_column(str(text))
