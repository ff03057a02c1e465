"""The lookups, as a table: the kinds of field that each suits, its argument, and its comparison.

``compare`` builds SQL. ``matches`` gives the same result for a value in memory. It is ``None`` if Python cannot give
exactly the same (for comparisons by the database's collation, and regular expressions); the database then decides.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, Final

import sqlalchemy as sa

from rowcast.resources.derived import LENGTH, PARTS
from rowcast.resources.fields import Column, Field, Kind
from rowcast.resources.resource import Path, Resources
from rowcast.resources.types import FIELD_TYPES
from rowcast.resources.types.compound import split_list


class Argument(StrEnum):
    """The argument that a lookup takes."""

    ONE = "one"  # a value of the field
    MANY = "many"  # a tuple of them, bound as one array
    PAIR = "pair"  # a lower and an upper bound
    TEXT = "text"  # a string, for every field
    FLAG = "flag"  # true or false, part of the statement and not bound


@dataclass(frozen=True, slots=True)
class Lookup:
    """One comparison.

    ``compare(column, argument)`` returns the SQL condition. ``argument`` is a bound parameter, two of them for a pair, or
    the value itself for a flag; ``prepare`` converts the argument to the bound value. A key of several fields has as many
    columns and parameters. ``matches(value, argument)`` is the same test in Python for a value that is not null, and
    ``of_null(argument)`` its result for null.
    """

    name: str
    kinds: frozenset[Kind]
    takes: Argument
    compare: Callable[[Any, Any], sa.ColumnElement[bool]]
    prepare: Callable[[Any], Any] = lambda argument: argument
    matches: Callable[[Any, Any], bool] | None = None
    of_null: Callable[[Any], bool] = lambda _argument: False

    def parse(self, field: Field, text: str) -> Any:
        """The argument from the string in a URL. ``ValueError`` is a sentence for the client."""
        match self.takes:
            case Argument.MANY:
                return tuple([field.field_type.parse(field, item) for item in split_list(text)])
            case Argument.PAIR:
                items = split_list(text)
                if len(items) != 2:
                    raise ValueError("Give two values with a comma between them.")
                return tuple(field.field_type.parse(field, item) for item in items)
            case Argument.FLAG:
                return FIELD_TYPES["boolean"].parse(field, text)
            case Argument.TEXT:
                if self.name in PATTERNS:
                    check_pattern(text)
                return FIELD_TYPES["text"].parse(field, text)
            case Argument.ONE:
                return field.field_type.parse(field, text)


def check_pattern(text: str) -> None:
    """Raise ``ValueError`` for a regular expression that is too long."""
    if len(text) > PATTERN_MAX_CHARACTERS:
        raise ValueError(f"A regular expression has at most {PATTERN_MAX_CHARACTERS} characters.")


def escape(text: str) -> str:
    """The string as a LIKE pattern that matches only this string."""
    return re.sub(r"([\\%_])", r"\\\1", text)


_TEXT = frozenset({Kind.TEXT})
_MEASURED = frozenset({Kind.NUMBER, Kind.MOMENT, Kind.UUID})
_DICTIONARY: sa.ColumnElement[Any] = sa.literal_column("'simple'::regconfig")
_SCALAR = _TEXT | _MEASURED | {Kind.BOOLEAN}
_KEY = frozenset({Kind.KEY})


def _ordered(
    name: str,
    compare: Callable[[Column, Any], Any],
    matches: Callable[[Any, Any], bool],
    takes: Argument = Argument.ONE,
) -> Iterable[Lookup]:
    """A comparison of order. Strings are ordered by the collation of the database, which Python cannot reproduce."""
    yield Lookup(name, _TEXT, takes, compare)
    yield Lookup(name, _MEASURED, takes, compare, matches=matches)


def _same_key(columns: Sequence[Column], arguments: Sequence[Any]) -> sa.ColumnElement[bool]:
    return sa.and_(*(column == argument for column, argument in zip(columns, arguments, strict=True)))


def _one_of_keys(columns: Sequence[Column], arguments: Sequence[Any]) -> sa.ColumnElement[bool]:
    """Whether a key is among several; each argument has the values of one of its parts."""
    parts = [sa.column(f"part_{n}", column.type) for n, column in enumerate(columns)]
    given = sa.func.unnest(*arguments).table_valued(*parts).render_derived(name="_given")
    return sa.tuple_(*columns).in_(sa.select(*given.c))


def _like(name: str, before: str, after: str, matches: Callable[[str, str], bool] | None) -> Lookup:
    """A LIKE with the string taken literally. Without ``matches`` it ignores case."""
    return Lookup(
        name,
        _TEXT,
        Argument.TEXT,
        (lambda column, pattern: column.like(pattern)) if matches else (lambda column, pattern: column.ilike(pattern)),
        prepare=lambda text: f"{before}{escape(text)}{after}",
        matches=matches,
    )


_ROWS: tuple[Lookup, ...] = (
    Lookup("exact", _SCALAR | {Kind.ARRAY, Kind.BINARY}, Argument.ONE, lambda column, arg: column == arg,
           matches=lambda value, arg: bool(value == arg)),
    Lookup("exact", frozenset({Kind.JSON}), Argument.ONE, lambda column, arg: column == arg),
    Lookup("exact", frozenset({Kind.NATIVE}), Argument.ONE, lambda column, arg: column == arg),
    Lookup("ne", frozenset({Kind.NATIVE}), Argument.ONE, lambda column, arg: column.is_distinct_from(arg),
           of_null=lambda _arg: True),
    Lookup("ne", _SCALAR | {Kind.BINARY}, Argument.ONE, lambda column, arg: column.is_distinct_from(arg),
           matches=lambda value, arg: bool(value != arg), of_null=lambda _arg: True),
    *_ordered("gt", operator.gt, operator.gt),
    *_ordered("gte", operator.ge, operator.ge),
    *_ordered("lt", operator.lt, operator.lt),
    *_ordered("lte", operator.le, operator.le),
    *_ordered("range", lambda column, arg: column.between(*arg),
              lambda value, arg: bool(arg[0] <= value <= arg[1]), Argument.PAIR),
    Lookup("in", _SCALAR | {Kind.BINARY}, Argument.MANY, lambda column, arg: column == sa.any_(arg),
           matches=lambda value, arg: value in arg),
    Lookup("in", frozenset({Kind.NATIVE}), Argument.MANY, lambda column, arg: column == sa.any_(arg)),
    Lookup("not_in", _SCALAR | {Kind.BINARY}, Argument.MANY, lambda column, arg: (column == sa.any_(arg)).is_not(sa.true()),
           matches=lambda value, arg: value not in arg, of_null=lambda _arg: True),
    Lookup("not_in", frozenset({Kind.NATIVE}), Argument.MANY, lambda column, arg: (column == sa.any_(arg)).is_not(sa.true()),
           of_null=lambda _arg: True),
    Lookup("isnull", _SCALAR | {Kind.ARRAY, Kind.JSON, Kind.BINARY, Kind.NATIVE}, Argument.FLAG,
           lambda column, arg: column.is_(None) if arg else column.is_not(None),
           matches=lambda _value, arg: not arg, of_null=lambda arg: bool(arg)),
    Lookup("contains", frozenset({Kind.ARRAY, Kind.JSON}), Argument.ONE, lambda column, arg: column.bool_op("@>")(arg)),
    Lookup("overlap", frozenset({Kind.ARRAY}), Argument.ONE, lambda column, arg: column.bool_op("&&")(arg),
           matches=lambda value, arg: any(item in arg for item in value)),
    _like("contains", "%", "%", lambda value, arg: arg in value),
    _like("icontains", "%", "%", None),
    _like("startswith", "", "%", lambda value, arg: value.startswith(arg)),
    _like("istartswith", "", "%", None),
    _like("endswith", "%", "", lambda value, arg: value.endswith(arg)),
    _like("iendswith", "%", "", None),
    _like("iexact", "", "", None),
    Lookup("exact", _KEY, Argument.ONE, _same_key, matches=lambda value, arg: bool(value == arg)),
    Lookup("ne", _KEY, Argument.ONE, lambda columns, arg: _same_key(columns, arg).is_not(sa.true()),
           matches=lambda value, arg: bool(value != arg), of_null=lambda _arg: True),
    Lookup("in", _KEY, Argument.MANY, _one_of_keys, matches=lambda value, arg: value in arg),
    Lookup("not_in", _KEY, Argument.MANY, lambda columns, arg: _one_of_keys(columns, arg).is_not(sa.true()),
           matches=lambda value, arg: value not in arg, of_null=lambda _arg: True),
    Lookup("isnull", _KEY, Argument.FLAG,
           lambda columns, arg: columns[0].is_(None) if arg else columns[0].is_not(None),
           matches=lambda _value, arg: not arg, of_null=lambda arg: bool(arg)),
    Lookup("regex", _TEXT, Argument.TEXT, lambda column, arg: column.regexp_match(arg)),
    Lookup("iregex", _TEXT, Argument.TEXT, lambda column, arg: column.regexp_match(arg, flags="i")),
    Lookup("search", _TEXT, Argument.TEXT, lambda column, arg: sa.func.to_tsvector(_DICTIONARY, column).bool_op("@@")(
        sa.func.plainto_tsquery(_DICTIONARY, arg))),
)  # fmt: skip

LOOKUPS: Final[Mapping[tuple[Kind, str], Lookup]] = {(kind, row.name): row for row in _ROWS for kind in row.kinds}
LOOKUP_NAMES: Final[tuple[str, ...]] = tuple(dict.fromkeys(row.name for row in _ROWS))
PATTERNS: Final = ("regex", "iregex")  # lookups whose argument PostgreSQL may refuse
PATTERN_MAX_CHARACTERS: Final = 200


FILTER_NAMES: Final[
    tuple[str, ...]
] = (  # of ``filterset_fields``: lookups, and parts of values with or without a lookup
    *LOOKUP_NAMES,
    *(
        name
        for part, kind in ((*((name, part.field_type.kind) for name, part in PARTS.items()), (LENGTH, Kind.NUMBER)))
        for name in (part, *(f"{part}__{row.name}" for row in _ROWS if kind in row.kinds))
    ),
)


def split_part(path: str, lookup: str) -> tuple[str, str]:
    """A path and a lookup, where a lookup such as ``year__gte`` may begin with a part of the path's values.

    >>> split_part("published", "year__gte"), split_part("published", "gte")
    (('published__year', 'gte'), ('published', 'gte'))
    """
    part, _, after = lookup.partition("__")
    return (f"{path}__{part}", after or "exact") if part in PARTS or part == LENGTH else (path, lookup)


@cache
def lookups_of(kind: Kind) -> tuple[str, ...]:
    """The names of the lookups for a kind of field, in the order of the table."""
    return tuple(name for name in LOOKUP_NAMES if (kind, name) in LOOKUPS)


def split_lookup(resources: Resources, resource: str, name: str) -> tuple[Path, str, str]:
    """The path of a name such as ``category__name__icontains``, its text, and the lookup after it, by default ``exact``.

    ``pk`` stands for the key. A field may have the name of a lookup. ``ValueError`` if the path does not exist.
    """
    text = _with_keys(resources, resource, name)
    try:
        return resources.resolve(resource, text), text, "exact"
    except ValueError:
        head, _, last = text.rpartition("__")
        if not head or last not in LOOKUP_NAMES:
            raise
    return resources.resolve(resource, head), head, last


def _with_keys(resources: Resources, resource: str, name: str) -> str:
    """A name with ``pk`` replaced by the key of the resource that is reached there."""
    parts: list[str] = []
    for part in name.split("__"):
        parts.append(resources[resource].key.name if part == "pk" else part)
        if part in resources.relations(resource):
            resource = resources.relations(resource)[part].target
    return "__".join(parts)
