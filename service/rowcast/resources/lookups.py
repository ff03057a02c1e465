"""The lookups, as a table of facts: which kinds of field they suit, what argument they take, what they compare.

``compare`` builds SQL. ``matches`` answers the same question for a value in memory where that is exact; where it
cannot be (a comparison that follows the database's collation, a regular expression) it is ``None``, and the database
is asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import sqlalchemy as sa

from rowcast.resources.fields import Column, Field, Kind
from rowcast.resources.types import FIELD_TYPES
from rowcast.resources.types.compound import split_list


class Takes(StrEnum):
    """The argument of a lookup."""

    ONE = "one"  # a value of the field
    MANY = "many"  # a tuple of them, bound as one array
    PAIR = "pair"  # a lower and an upper bound
    TEXT = "text"  # a text, whatever the field
    FLAG = "flag"  # true or false, part of the statement rather than bound


@dataclass(frozen=True, slots=True)
class Lookup:
    """One comparison.

    ``compare(column, argument)`` gives the SQL condition, where ``argument`` is a bound parameter, two of them for a
    pair, and the value itself for a flag; ``prepare`` turns the value given into the value bound. ``matches(value,
    given)`` is the same test in Python on a value that is not null, and ``of_null(given)`` its answer for null.
    """

    name: str
    kinds: frozenset[Kind]
    takes: Takes
    compare: Callable[[Column, Any], sa.ColumnElement[bool]]
    prepare: Callable[[Any], Any] = lambda given: given
    matches: Callable[[Any, Any], bool] | None = None
    of_null: Callable[[Any], bool] = lambda _given: False

    def parse(self, field: Field, text: str) -> Any:
        """The argument from the text of a URL; ``ValueError`` is a sentence about what is wrong with it."""
        match self.takes:
            case Takes.MANY:
                return tuple([field.field_type.parse(field, item) for item in split_list(text)])
            case Takes.PAIR:
                items = split_list(text)
                if len(items) != 2:
                    raise ValueError("Give two values with a comma between them.")
                return tuple(field.field_type.parse(field, item) for item in items)
            case Takes.FLAG:
                return FIELD_TYPES["boolean"].parse(field, text)
            case Takes.TEXT:
                return FIELD_TYPES["text"].parse(field, text)
            case Takes.ONE:
                return field.field_type.parse(field, text)


def escape(text: str) -> str:
    """The text as a LIKE pattern that matches it alone."""
    return re.sub(r"([\\%_])", r"\\\1", text)


_TEXT = frozenset({Kind.TEXT})
_MEASURED = frozenset({Kind.NUMBER, Kind.MOMENT, Kind.UUID})
_DICTIONARY: sa.ColumnElement[Any] = sa.literal_column("'simple'::regconfig")
_SCALAR = _TEXT | _MEASURED | {Kind.BOOLEAN}


def _ordered(
    name: str, takes: Takes, compare: Callable[[Column, Any], Any], matches: Callable[[Any, Any], bool]
) -> Iterable[Lookup]:
    """A comparison of order: on text it follows the collation of the database, which Python does not know."""
    yield Lookup(name, _TEXT, takes, compare)
    yield Lookup(name, _MEASURED, takes, compare, matches=matches)


def _like(name: str, before: str, after: str, matches: Callable[[str, str], bool] | None) -> Lookup:
    """A LIKE with the text taken literally; without ``matches`` the case of letters does not count."""
    return Lookup(
        name,
        _TEXT,
        Takes.TEXT,
        (lambda column, pattern: column.like(pattern)) if matches else (lambda column, pattern: column.ilike(pattern)),
        prepare=lambda text: f"{before}{escape(text)}{after}",
        matches=matches,
    )


_ROWS: tuple[Lookup, ...] = (
    Lookup("exact", _SCALAR | {Kind.ARRAY}, Takes.ONE, lambda column, given: column == given,
           matches=lambda value, given: bool(value == given)),
    Lookup("exact", frozenset({Kind.JSON}), Takes.ONE, lambda column, given: column == given),
    Lookup("ne", _SCALAR, Takes.ONE, lambda column, given: column.is_distinct_from(given),
           matches=lambda value, given: bool(value != given), of_null=lambda _given: True),
    *_ordered("gt", Takes.ONE, lambda column, given: column > given, lambda value, given: bool(value > given)),
    *_ordered("gte", Takes.ONE, lambda column, given: column >= given, lambda value, given: bool(value >= given)),
    *_ordered("lt", Takes.ONE, lambda column, given: column < given, lambda value, given: bool(value < given)),
    *_ordered("lte", Takes.ONE, lambda column, given: column <= given, lambda value, given: bool(value <= given)),
    *_ordered("range", Takes.PAIR, lambda column, given: column.between(*given),
              lambda value, given: bool(given[0] <= value <= given[1])),
    Lookup("in", _SCALAR, Takes.MANY, lambda column, given: column == sa.any_(given),
           matches=lambda value, given: value in given),
    Lookup("isnull", _SCALAR | {Kind.ARRAY, Kind.JSON}, Takes.FLAG,
           lambda column, given: column.is_(None) if given else column.is_not(None),
           matches=lambda _value, given: not given, of_null=lambda given: bool(given)),
    Lookup("contains", frozenset({Kind.ARRAY, Kind.JSON}), Takes.ONE, lambda column, given: column.contains(given)),
    _like("contains", "%", "%", lambda value, given: given in value),
    _like("icontains", "%", "%", None),
    _like("startswith", "", "%", lambda value, given: value.startswith(given)),
    _like("istartswith", "", "%", None),
    _like("endswith", "%", "", lambda value, given: value.endswith(given)),
    _like("iendswith", "%", "", None),
    _like("iexact", "", "", None),
    Lookup("regex", _TEXT, Takes.TEXT, lambda column, given: column.regexp_match(given)),
    Lookup("iregex", _TEXT, Takes.TEXT, lambda column, given: column.regexp_match(given, flags="i")),
    Lookup("search", _TEXT, Takes.TEXT, lambda column, given: sa.func.to_tsvector(_DICTIONARY, column).bool_op("@@")(
        sa.func.plainto_tsquery(_DICTIONARY, given))),
)  # fmt: skip

LOOKUPS: Final[Mapping[tuple[Kind, str], Lookup]] = {(kind, row.name): row for row in _ROWS for kind in row.kinds}
LOOKUP_NAMES: Final[tuple[str, ...]] = tuple(dict.fromkeys(row.name for row in _ROWS))
PATTERNS: Final = ("regex", "iregex")  # the lookups whose argument PostgreSQL may refuse


def lookups_of(kind: Kind) -> list[str]:
    """The names of the lookups that suit a kind of field, in the order of the table."""
    return [name for name in LOOKUP_NAMES if (kind, name) in LOOKUPS]
