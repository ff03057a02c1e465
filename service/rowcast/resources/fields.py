"""The field types, as a table of facts: column, JSON form, body validation, parameter parsing.

A value has four forms. In PostgreSQL it is a column's value; in Python what asyncpg gives for it; in JSON what clients
see; in a URL a text. ``FIELD_TYPES`` says for each type how the forms turn into one another, so that nothing else in
the service asks which type a field has. The JSON form is made in two places, by PostgreSQL (``FieldType.json``) and in
Python (``FieldType.dump``), and is the same document from both.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, TypeAlias

import orjson
import sqlalchemy as sa
from asyncpg.pgproto.pgproto import UUID
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeEngine

from rowcast.resources.lossless_json import Raw, nearest

Column: TypeAlias = sa.ColumnElement[Any]


class Missing(StrEnum):
    """The absence of a default, where ``None`` would mean null."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING


class Kind(StrEnum):
    """What a type's values can be asked: the lookups of a field follow from it."""

    TEXT = "text"
    NUMBER = "number"
    MOMENT = "moment"  # date, time, datetime, duration
    UUID = "uuid"
    BOOLEAN = "boolean"
    JSON = "json"
    ARRAY = "array"
    RELATION = "relation"  # to one row
    RELATIONS = "relations"  # to many rows


@dataclass(frozen=True, slots=True)
class Field:
    """One declared field. ``required``, ``blank`` and the like are as resolved, not as written."""

    name: str
    type: str
    primary_key: bool = False
    required: bool = True
    null: bool = False
    blank: bool = False
    default: Any = MISSING  # the JSON form
    unique: bool = False
    index: bool = False
    choices: tuple[Any, ...] = ()  # JSON forms
    min: Any = None
    max: Any = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    max_digits: int | None = None
    decimal_places: int | None = None
    of: str | None = None
    to: str | None = None
    on_delete: str = "cascade"
    related_name: str | None = None
    read_only: bool = False
    write_only: bool = False
    auto_now: bool = False
    auto_now_add: bool = False
    label: str | None = None
    help_text: str | None = None

    @property
    def field_type(self) -> FieldType:
        """The row of ``FIELD_TYPES`` of this field's type."""
        return FIELD_TYPES[self.type]

    @property
    def column_name(self) -> str:
        """The name of the column, and of the key in JSON: a foreign key has ``_id`` behind its name."""
        return f"{self.name}_id" if self.field_type.kind is Kind.RELATION else self.name

    @property
    def longest(self) -> int | None:
        """How many characters a text may have."""
        return self.max_length or (254 if self.type == "email" else None)

    @property
    def element(self) -> Field:
        """The field that one element of an array is: the limits on values are its, the limits on length the array's."""
        assert self.of is not None
        return Field(
            name=self.name, type=self.of, choices=self.choices, min=self.min, max=self.max,
            max_digits=self.max_digits, decimal_places=self.decimal_places,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class FieldType:
    """The facts of one type.

    ``load`` takes the JSON form and ``parse`` the text of a URL; both give the Python value or raise ``ValueError``
    with a sentence for the client. ``dump`` is the inverse of ``load``. ``nearest`` takes the JSON form of a stored value
    that ``load`` refuses: direct SQL stores infinity and years that Python does not have. ``json`` wraps a column so
    that PostgreSQL's ``to_json`` of it is the JSON form. ``schema`` is the JSON Schema of the JSON form, ``options``
    the options that this type takes besides those of every type.
    """

    kind: Kind
    column: Callable[[Field], TypeEngine[Any]]
    load: Callable[[Field, Any], Any]
    parse: Callable[[Field, str], Any]
    schema: Callable[[Field], dict[str, Any]]
    dump: Callable[[Field, Any], Any] = lambda _field, value: value
    nearest: Callable[[Field, Any], Any] = lambda _field, value: value
    json: Callable[[Field, Column], Column] = lambda _field, column: column
    options: frozenset[str] = frozenset()
    native: type | None = None  # of the Python value, where JSON has none like it


def recall(field: Field, stored: Any) -> tuple[Any, bool]:
    """The Python value for a stored one, given as JSON, and whether it is that value and not only the nearest.

    Of JSON that is nested too deep it is the text.
    """
    given, exact = nearest(stored) if isinstance(stored, Raw) else (stored, True)
    if not exact and "json" in (field.type, field.of):
        return given, False
    try:
        return field.field_type.load(field, given), True
    except ValueError:
        return field.field_type.nearest(field, given), False


NUL: Final = "The character U+0000 is not allowed."  # PostgreSQL's text and jsonb cannot store it


def _load_text(_field: Field, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("Not a valid string.")
    if "\x00" in value:
        raise ValueError(NUL)
    return value


def _text(format_: str | None = None, default_length: int | None = None) -> FieldType:
    def column(field: Field) -> TypeEngine[Any]:
        length = field.max_length or default_length
        return sa.String(length) if length else sa.Text()

    return FieldType(
        kind=Kind.TEXT,
        column=column,
        load=_load_text,
        parse=_load_text,
        schema=lambda _field: {"type": "string"} | ({"format": format_} if format_ else {}),
        options=frozenset({"blank", "min_length", "max_length", "pattern"}),
    )


UUID_TEXT = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


def _load_uuid(_field: Field, value: Any) -> uuid.UUID:
    if not (isinstance(value, str) and UUID_TEXT.fullmatch(value)):
        raise ValueError("Not a valid UUID.")
    made: uuid.UUID = UUID(value)
    return made


INTEGER_TEXT = re.compile(r"[+-]?[0-9]{1,30}")
NUMBER_TEXT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
NUMERIC_DIGITS = 1000  # digits on either side of the point that an unlimited decimal may have


def _integer(bits: int, column: type[TypeEngine[Any]]) -> FieldType:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def load(_field: Field, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError("Not a valid integer.")
        if not low <= value <= high:
            raise ValueError(f"Must be between {low} and {high}.")
        return value

    def parse(field: Field, text: str) -> int:
        if not INTEGER_TEXT.fullmatch(text):
            raise ValueError("Not a valid integer.")
        return load(field, int(text))

    return FieldType(
        kind=Kind.NUMBER,
        column=lambda _field: column(),
        load=load,
        parse=parse,
        schema=lambda _field: {"type": "integer", "format": f"int{bits}"},
        options=frozenset({"min", "max"}),
    )


def _load_float(_field: Field, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError("Not a valid number.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("Must be a finite number.")
    return number


def _parse_float(field: Field, text: str) -> float:
    if not NUMBER_TEXT.fullmatch(text):
        raise ValueError("Not a valid number.")
    return _load_float(field, float(text))


def _dump_float(_field: Field, value: float) -> float | str:
    """Finite numbers as numbers; what direct SQL may have stored besides, as PostgreSQL's ``to_json`` spells it."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _load_decimal(field: Field, value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise ValueError("Not a valid decimal number.")
    return _parse_decimal(field, str(value))


def _parse_decimal(field: Field, text: str) -> Decimal:
    if len(text) > 2 * NUMERIC_DIGITS or not NUMBER_TEXT.fullmatch(text):
        raise ValueError("Not a valid decimal number.")
    number = Decimal(text)
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    places, whole = max(0, -exponent), max(0, number.adjusted() + 1)
    if field.decimal_places is not None and places > field.decimal_places:
        raise ValueError(f"Must have at most {field.decimal_places} decimal places.")
    limit = NUMERIC_DIGITS if field.max_digits is None else field.max_digits - (field.decimal_places or 0)
    if number and whole > limit:
        raise ValueError(f"Must have at most {limit} digits before the decimal point.")
    if places > NUMERIC_DIGITS:
        raise ValueError(f"Must have at most {NUMERIC_DIGITS} decimal places.")
    return number


def _dump_decimal(_field: Field, value: Decimal) -> str:
    return format(value, "f")


def _load_boolean(_field: Field, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("Not a valid boolean: use true or false.")
    return value


def _parse_boolean(_field: Field, text: str) -> bool:
    match text.lower():
        case "true" | "1":
            return True
        case "false" | "0":
            return False
    raise ValueError("Not a valid boolean: use true or false.")


DATE_TEXT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
TIME_TEXT = re.compile(r"(?:[01][0-9]|2[0-3]):[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?")
DATETIME_TEXT = re.compile(rf"({DATE_TEXT.pattern})[Tt ]({TIME_TEXT.pattern})([Zz]|[+-][0-9]{{2}}:[0-9]{{2}})?")
LOST_PLUS = re.compile(r"(:[0-9]{2}(?:\.[0-9]+)?) ([0-9]{2}:[0-9]{2})$")
DURATION_TEXT = re.compile(
    r"([+-]?)P(?:([+-]?\d+)W)?(?:([+-]?\d+)D)?"
    r"(?:T(?=[\d+-])(?:([+-]?\d+)H)?(?:([+-]?\d+)M)?(?:([+-]?\d+(?:[.,]\d{1,6})?)S)?)?",
    re.ASCII,
)


def _trim(text: str) -> str:
    """An ISO time as PostgreSQL prints it: no zeros at the end of a fraction."""
    head, point, tail = text.partition(".")
    digits, offset = (tail[:6], tail[6:]) if point else ("", "")
    digits = digits.rstrip("0")
    return f"{head}.{digits}{offset}" if digits else head + offset


def _parse_date(_field: Field, value: Any) -> dt.date:
    if isinstance(value, str) and DATE_TEXT.fullmatch(value):
        try:
            return dt.date.fromisoformat(value)
        except ValueError:
            pass  # told below, in the words for every other text that is no date
    raise ValueError("Not a valid date: use YYYY-MM-DD.")


def _parse_time(_field: Field, value: Any) -> dt.time:
    if isinstance(value, str) and TIME_TEXT.fullmatch(value):
        try:
            return dt.time.fromisoformat(value)
        except ValueError:
            pass
    raise ValueError("Not a valid time: use HH:MM:SS.")


def _load_datetime(_field: Field, value: Any) -> dt.datetime:
    """RFC 3339; without an offset the time is UTC."""
    if isinstance(value, str) and (match := DATETIME_TEXT.fullmatch(value)):
        date, time, offset = match.groups()
        try:
            moment = dt.datetime.fromisoformat(f"{date}T{time}{(offset or 'Z').upper()}")
            return moment.astimezone(dt.UTC)
        except (ValueError, OverflowError):
            pass
    raise ValueError("Not a valid datetime: use RFC 3339, such as 2026-01-31T12:00:00Z.")


def _parse_datetime(field: Field, text: str) -> dt.datetime:
    """As in a body, and a date alone is its midnight; a ``+`` that a URL turned into a space is understood."""
    if DATE_TEXT.fullmatch(text):
        text += "T00:00:00"
    return _load_datetime(field, LOST_PLUS.sub(r"\1+\2", text))


def _load_duration(_field: Field, value: Any) -> dt.timedelta:
    match = DURATION_TEXT.fullmatch(value) if isinstance(value, str) and len(value) < 100 else None
    if match is None or not any(match.groups()[1:]):
        raise ValueError(
            "Not a valid duration: use ISO 8601 with weeks, days, hours, minutes, seconds, as in P1DT2H30M."
        )
    sign, weeks, days, hours, minutes, seconds = match.groups()
    whole, _, fraction = (seconds or "0").replace(",", ".").partition(".")
    micros = int(fraction.ljust(6, "0") or 0) * (-1 if whole.startswith("-") else 1)
    try:
        span = dt.timedelta(
            weeks=int(weeks or 0), days=int(days or 0), hours=int(hours or 0), minutes=int(minutes or 0),
            seconds=int(whole), microseconds=micros,
        )  # fmt: skip
        return -span if sign == "-" else span
    except OverflowError:
        raise ValueError("The duration is too long.") from None


def span_of(months: int, days: int, microseconds: int) -> dt.timedelta:
    """An interval as PostgreSQL compares it: a month is 30 days. The longest there is stands for a longer one."""
    days += 30 * months
    try:
        return dt.timedelta(days=days, microseconds=microseconds)
    except OverflowError:
        return dt.timedelta.max if days > 0 else dt.timedelta.min


INTERVAL_TEXT = re.compile(r"P(?:([+-]?\d+)Y)?(?:([+-]?\d+)M)?(?:([+-]?\d+)D)?(T.*)?", re.ASCII)


def _nearest_duration(field: Field, text: str) -> dt.timedelta:
    if (match := INTERVAL_TEXT.fullmatch(text)) is None:
        return dt.timedelta.min if _is_early(text) else dt.timedelta.max
    years, months, days = (int(part or 0) for part in match.groups()[:3])
    time = _load_duration(field, f"P{match[4]}") if match[4] else dt.timedelta()
    return span_of(12 * years + months, days, time // dt.timedelta(microseconds=1))


def _is_early(text: str) -> bool:
    """Whether a moment that Python does not have is before all it has, rather than behind them."""
    return text.startswith("-") or text.endswith("BC")


def _dump_duration(_field: Field, value: dt.timedelta) -> str:
    """ISO 8601 as PostgreSQL prints an interval without months: days apart, the sign at each part, ``PT0S`` for none."""
    sign = "-" if value < dt.timedelta(0) else ""
    span = abs(value)
    hours, rest = divmod(span.seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    exact = _trim(f"{seconds}.{span.microseconds:06}")
    date = f"{sign}{span.days}D" if span.days else ""
    time = (
        (f"{sign}{hours}H" if hours else "")
        + (f"{sign}{minutes}M" if minutes else "")
        + (f"{sign}{exact}S" if exact != "0" else "")
    )
    return f"P{date}T{time}" if time else f"P{date}" if date else "PT0S"


JSON_DEPTH: Final = 200  # levels of nesting that every encoder on a value's way can follow


def _load_json(_field: Field, value: Any) -> Any:
    level = [value]
    for _ in range(JSON_DEPTH):
        deeper: list[Any] = []
        for item in level:
            match item:
                case str() if "\x00" in item:
                    raise ValueError(NUL)
                case list():
                    deeper += item
                case dict():
                    deeper += [*item.keys(), *item.values()]
        if not deeper:
            return value
        level = deeper
    raise ValueError(f"Nested more than {JSON_DEPTH} levels deep.")


def _parse_json(field: Field, text: str) -> Any:
    try:
        given = orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        raise ValueError("Not valid JSON.") from None
    return _load_json(field, given)


def _load_array(field: Field, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("Not a valid list.")
    element, values = field.element, []
    for position, item in enumerate(value):
        try:
            if item is None:
                raise ValueError("May not be null.")
            values.append(element.field_type.load(element, item))
        except ValueError as error:
            raise ValueError(f"Item {position}: {error}") from None
    return values


def _nearest_array(field: Field, value: list[Any]) -> list[Any]:
    element = field.element
    return [recall(element, item)[0] for item in value]


def _parse_array(field: Field, text: str) -> list[Any]:
    element = field.element
    return [element.field_type.parse(element, item) for item in split(text)]


def _array_json(field: Field, column: Column) -> Column:
    element = field.element
    item: Column = sa.column("item", element.field_type.column(element))
    shown = element.field_type.json(element, item)
    if shown is item:
        return column
    source = sa.func.unnest(column).table_valued(sa.column("item", item.type), name="item").render_derived()
    rows = sa.select(element.field_type.json(element, source.c.item)).scalar_subquery()
    return sa.case((column.is_not(None), sa.func.array(rows)), else_=None)


def split(text: str) -> list[str]:
    """The items of a comma-separated parameter; an item in double quotes may hold commas (``""`` is a quote)."""
    if '"' not in text:
        return text.split(",") if text else []
    items: list[str] = []
    rest = text
    while True:
        if quoted := re.match(r'"((?:[^"]|"")*)"(?:,|$)', rest):
            items.append(quoted[1].replace('""', '"'))
            end = quoted.end()
            more = rest[end - 1 : end] == ","
        else:
            item, comma, _ = rest.partition(",")
            items.append(item)
            end, more = len(item) + len(comma), bool(comma)
        if not more:
            return items
        rest = rest[end:]


def _unsupported(_field: Field, _value: Any) -> Any:
    raise AssertionError("a relation is loaded through the key it refers to")


def _relation(kind: Kind, schema: Mapping[str, Any], options: frozenset[str]) -> FieldType:
    return FieldType(
        kind=kind,
        column=lambda _field: sa.types.NullType(),
        load=_unsupported,
        parse=_unsupported,
        schema=lambda _field: dict(schema),
        options=options,
    )


_LIMITS = frozenset({"min", "max"})
_AUTO = frozenset({"auto_now", "auto_now_add"})

FIELD_TYPES: Final[Mapping[str, FieldType]] = {
    "string": _text(),
    "text": _text(),
    "email": _text("email", 254),
    "url": _text("uri"),
    "slug": _text(),
    "uuid": FieldType(
        kind=Kind.UUID,
        column=lambda _field: sa.Uuid(),
        load=_load_uuid,
        parse=_load_uuid,
        native=uuid.UUID,
        dump=lambda _field, value: str(value),
        schema=lambda _field: {"type": "string", "format": "uuid"},
    ),
    "integer": _integer(32, sa.Integer),
    "big_integer": _integer(64, sa.BigInteger),
    "float": FieldType(
        kind=Kind.NUMBER,
        column=lambda _field: postgresql.DOUBLE_PRECISION(),
        load=_load_float,
        parse=_parse_float,
        dump=_dump_float,
        nearest=lambda _field, text: float(text),
        schema=lambda _field: {"type": "number", "format": "double"},
        options=_LIMITS,
    ),
    "decimal": FieldType(
        kind=Kind.NUMBER,
        column=lambda field: sa.Numeric(field.max_digits, field.decimal_places),
        load=_load_decimal,
        parse=_parse_decimal,
        dump=_dump_decimal,
        nearest=lambda _field, text: Decimal(text),
        json=lambda _field, column: sa.cast(column, sa.Text),
        schema=lambda _field: {"type": "string", "format": "decimal"},
        options=_LIMITS | {"max_digits", "decimal_places"},
    ),
    "boolean": FieldType(
        kind=Kind.BOOLEAN,
        column=lambda _field: sa.Boolean(),
        load=_load_boolean,
        parse=_parse_boolean,
        schema=lambda _field: {"type": "boolean"},
    ),
    "date": FieldType(
        kind=Kind.MOMENT,
        column=lambda _field: sa.Date(),
        load=_parse_date,
        parse=_parse_date,
        native=dt.date,
        dump=lambda _field, value: value.isoformat(),
        nearest=lambda _field, text: dt.date.min if _is_early(text) else dt.date.max,
        schema=lambda _field: {"type": "string", "format": "date"},
        options=_LIMITS | _AUTO,
    ),
    "time": FieldType(
        kind=Kind.MOMENT,
        column=lambda _field: sa.Time(),
        load=_parse_time,
        parse=_parse_time,
        native=dt.time,
        dump=lambda _field, value: _trim(value.isoformat()),
        nearest=lambda _field, _text: dt.time.max,
        schema=lambda _field: {"type": "string", "format": "time"},
        options=_LIMITS | _AUTO,
    ),
    "datetime": FieldType(
        kind=Kind.MOMENT,
        column=lambda _field: sa.DateTime(timezone=True),
        load=_load_datetime,
        parse=_parse_datetime,
        native=dt.datetime,
        dump=lambda _field, value: _trim(value.astimezone(dt.UTC).isoformat()),
        nearest=lambda _field, text: (dt.datetime.min if _is_early(text) else dt.datetime.max).replace(tzinfo=dt.UTC),
        schema=lambda _field: {"type": "string", "format": "date-time"},
        options=_LIMITS | _AUTO,
    ),
    "duration": FieldType(
        kind=Kind.MOMENT,
        column=lambda _field: postgresql.INTERVAL(),
        load=_load_duration,
        parse=_load_duration,
        native=dt.timedelta,
        dump=_dump_duration,
        nearest=_nearest_duration,
        json=lambda _field, column: sa.func.justify_hours(column, type_=postgresql.INTERVAL()),
        schema=lambda _field: {"type": "string", "format": "duration"},
        options=_LIMITS,
    ),
    "json": FieldType(
        kind=Kind.JSON,
        column=lambda _field: postgresql.JSONB(none_as_null=True),
        load=_load_json,
        parse=_parse_json,
        schema=lambda _field: {},
    ),
    "array": FieldType(
        kind=Kind.ARRAY,
        column=lambda field: postgresql.ARRAY(field.element.field_type.column(field.element)),
        load=_load_array,
        parse=_parse_array,
        dump=lambda field, value: [field.element.field_type.dump(field.element, item) for item in value],
        nearest=_nearest_array,
        json=_array_json,
        schema=lambda field: {"type": "array", "items": field.element.field_type.schema(field.element)},
        options=frozenset({"of", "min_length", "max_length", "max_digits", "decimal_places"}) | _LIMITS,
    ),
    "foreign_key": _relation(Kind.RELATION, {}, frozenset({"to", "on_delete", "related_name"})),
    "many_to_many": _relation(Kind.RELATIONS, {"type": "array"}, frozenset({"to", "related_name"})),
}

KEY_TYPES: Final = frozenset({"string", "text", "email", "slug", "uuid", "integer", "big_integer"})
SCALAR_TYPES: Final = frozenset(FIELD_TYPES) - {"array", "foreign_key", "many_to_many"}
