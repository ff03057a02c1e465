"""Members of JSON documents as values of a type: the option ``paths`` of a ``json`` field.

A member that is missing, null, or not a value of the type is null. SQL and Python agree about it, so that a filter finds the
same rows in the table and on a stream.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from rowcast.resources.fields import Column, Field
from rowcast.resources.lossless_json import Raw
from rowcast.resources.sql import quote_literal

SEPARATOR: Final = "__"
_FLOAT_LEAST, _FLOAT_MOST = 1e-300, 1e300  # within which a decimal of PostgreSQL has a float
_DATE: Final = re.compile(r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])")
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


@dataclass(frozen=True, slots=True)
class MemberType:
    """How a member becomes a value of a type: ``sql`` of the ``jsonb`` of it, and ``value`` of what Python parsed."""

    sql: Callable[[Column], Column]
    value: Callable[[Any], Any]


def member(document: Any, names: Sequence[str]) -> Any:
    """The member of a document at the end of some names; ``None`` if there is none.

    ``ValueError`` for a document that Python does not hold exactly.
    """
    for name in names:
        if isinstance(document, Raw):
            raise ValueError("a number of the document has too many digits")
        document = document.get(name) if isinstance(document, dict) else None
    return document


def member_sql(document: Column, names: Sequence[str]) -> Column:
    """The SQL of the same, as ``jsonb``."""
    for name in names:
        document = document.op("->", return_type=postgresql.JSONB())(sa.literal_column(quote_literal(name)))
    return document


def _is(type_: str, found: Column) -> Column:
    return sa.func.jsonb_typeof(found) == sa.literal_column(quote_literal(type_))


def _text(found: Column) -> Column:
    return found.op("#>>", return_type=sa.Text())(sa.literal_column("'{}'"))


def _when(condition: Column, value: Column) -> Column:
    return sa.case((condition, value), else_=sa.null())


def _number_sql(type_: Any, low: int | float, high: int | float, *, whole: bool) -> Callable[[Column], Column]:
    """A number within limits, since the cast of another one to the type fails."""

    def made(found: Column) -> Column:
        number = sa.cast(found, sa.Numeric())
        size = number if whole else sa.func.abs(number)
        fits = size.between(sa.literal_column(f"{low}::numeric"), sa.literal_column(f"{high}::numeric"))
        also = number == sa.func.trunc(number) if whole else sa.false()
        inside = sa.and_(fits, also) if whole else sa.or_(fits, number == sa.literal_column("0"))
        return _when(_is("number", found), _when(inside, sa.cast(number, type_)))

    return made


def _whole(bits: int) -> Callable[[Any], int | None]:
    def value(found: Any) -> int | None:
        number = _decimal(found)
        if number is None or number != number.to_integral_value() or not -(2 ** (bits - 1)) <= number < 2 ** (bits - 1):
            return None
        return int(number)

    return value


def _decimal(found: Any) -> Decimal | None:
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    return Decimal(found) if isinstance(found, int) else Decimal(repr(found))


def _float(found: Any) -> float | None:
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    number = float(found)
    return number if not number or (_FLOAT_LEAST <= abs(number) <= _FLOAT_MOST and math.isfinite(number)) else None


def _date(found: Any) -> dt.date | None:
    if not (isinstance(found, str) and _DATE.fullmatch(found)):
        return None
    try:
        return dt.date.fromisoformat(found)
    except ValueError:
        return None


def _date_sql(found: Column) -> Column:
    """A date that exists: the day counted from the first of its month is in that month still."""
    text = _text(found)
    year, month, day = (
        sa.cast(sa.func.substr(text, sa.literal_column(str(start)), sa.literal_column(str(size))), sa.Integer())
        for start, size in ((1, 4), (6, 2), (9, 2))
    )
    first = sa.func.make_date(year, month, sa.literal_column("1"), type_=sa.Date())
    date = first.op("+", return_type=sa.Date())(day - sa.literal_column("1"))
    is_date = text.op("~")(sa.literal_column(quote_literal(f"^(?!0000){_DATE.pattern}$")))
    exists = sa.extract("month", date) == month
    return _when(_is("string", found), _when(is_date, _when(exists, date)))


def _uuid_sql(found: Column) -> Column:
    is_uuid = _text(found).op("~")(sa.literal_column(quote_literal(f"^{_UUID.pattern}$")))
    return _when(_is("string", found), _when(is_uuid, sa.cast(_text(found), sa.Uuid())))


MEMBER_TYPES: Final[Mapping[str, MemberType]] = {
    "string": MemberType(
        lambda found: _when(_is("string", found), _text(found)),
        lambda found: found if isinstance(found, str) else None,
    ),
    "integer": MemberType(_number_sql(sa.Integer(), -(2**31), 2**31 - 1, whole=True), _whole(32)),
    "big_integer": MemberType(_number_sql(sa.BigInteger(), -(2**63), 2**63 - 1, whole=True), _whole(64)),
    "decimal": MemberType(lambda found: _when(_is("number", found), sa.cast(found, sa.Numeric())), _decimal),
    "float": MemberType(_number_sql(sa.Double(), _FLOAT_LEAST, _FLOAT_MOST, whole=False), _float),
    "boolean": MemberType(
        lambda found: _when(_is("boolean", found), sa.cast(found, sa.Boolean())),
        lambda found: found if isinstance(found, bool) else None,
    ),
    "date": MemberType(_date_sql, _date),
    "uuid": MemberType(
        _uuid_sql, lambda found: uuid.UUID(found) if isinstance(found, str) and _UUID.fullmatch(found) else None
    ),
}
"""By the type that the option names. There is none for moments: PostgreSQL reads those by settings of its session."""


def names_of(path: str) -> tuple[str, ...]:
    """The names of the members that a path such as ``a__b`` follows."""
    return tuple(path.split(SEPARATOR))


def value_of(path: str, field: Field) -> Callable[[Any], Any]:
    """A function that returns the member of a document as a value of a field, or null."""
    names, value = names_of(path), MEMBER_TYPES[field.type].value
    return lambda document: value(member(document, names))
