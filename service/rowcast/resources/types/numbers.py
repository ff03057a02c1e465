"""Integers, floats, decimals, and booleans."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeEngine

from rowcast.resources.fields import Field, FieldType, Kind, Schema

NUMERIC_MAX_DIGITS: Final = 1000  # on either side of the point of a decimal without limits
_LIMITS: Final = frozenset({"min", "max"})
_FLOAT_EXPONENTS: Final = range(-307, 308)  # powers of ten between which every decimal has a float with its digits
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,30}")
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")


def integer_schema(bits: int) -> Schema:
    """The JSON Schema of an integer with so many bits."""
    low, high = _integer_range(bits)
    return {"type": "integer", "format": f"int{bits}", "minimum": low, "maximum": high}


def _integer_range(bits: int) -> tuple[int, int]:
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def _integer_pattern(bits: int) -> str:
    """The regular expression of integers with so many bits."""
    low, high = (str(abs(limit)) for limit in _integer_range(bits))

    def to(limit: str) -> str:
        shorter = [f"[1-9][0-9]{{0,{len(limit) - 2}}}"]
        for place, digit in enumerate(limit):
            least = 0 if place else 1
            if int(digit) > least:
                rest = len(limit) - place - 1
                shorter.append(f"{limit[:place]}[{least}-{int(digit) - 1}]" + (f"[0-9]{{{rest}}}" if rest else ""))
        return "|".join([*shorter, limit])

    return f"^(?:0|{to(high)}|-(?:{to(low)}))$"


def integer_type(name: str, bits: int, column: type[TypeEngine[Any]]) -> FieldType:
    """The type of integers with so many bits."""
    return _integers(name, *_integer_range(bits), column, integer_schema(bits))


def whole_numbers(low: int, high: int) -> FieldType:
    """The type of integers between two others, for values that are computed."""
    return _integers("integer", low, high, sa.Integer, {"type": "integer", "minimum": low, "maximum": high})


def _integers(name: str, low: int, high: int, column: type[TypeEngine[Any]], schema: Schema) -> FieldType:

    def load(_field: Field, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError("Not a valid integer.")
        if not low <= value <= high:
            raise ValueError(f"Must be between {low} and {high}.")
        return value

    def parse(field: Field, text: str) -> int:
        if not _INTEGER.fullmatch(text):
            raise ValueError("Not a valid integer.")
        return load(field, int(text))

    return FieldType(
        name=name,
        kind=Kind.NUMBER,
        column=lambda _field: column(),
        load=load,
        parse=parse,
        schema=lambda _field: dict(schema),
        options=_LIMITS | {"primary_key"},
    )


def _own_limits(field: Field) -> Schema:
    limits = {"minimum": field.min, "maximum": field.max}
    return {keyword: int(limit) for keyword, limit in limits.items() if limit is not None}


def _as_strings(integers: FieldType, bits: int) -> FieldType:
    """A type of integers whose JSON form is a string; bodies may have numbers."""

    def load(field: Field, value: object) -> Any:
        return integers.parse(field, value) if isinstance(value, str) else integers.load(field, value)

    return replace(
        integers,
        load=load,
        dump=lambda _field, value: str(value),
        json=lambda _field, column: sa.cast(column, sa.Text),
        schema=lambda _field: {"type": "string", "format": f"int{bits}", "pattern": _integer_pattern(bits)},
        body_schema=lambda field: integer_schema(bits) | _own_limits(field),
        as_string=None,
        sums_as_strings=True,
    )


def load_float(_field: Field, value: object) -> float:
    """A finite number from JSON."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError("Not a valid number.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("Must be a finite number.")
    return number


def parse_float(field: Field, text: str) -> float:
    """A finite number from a string."""
    if not _NUMBER.fullmatch(text):
        raise ValueError("Not a valid number.")
    return load_float(field, float(text))


def dump_float(_field: Field, value: float) -> float | str:
    """Finite numbers as numbers; infinity and NaN, which direct SQL can store, as PostgreSQL's ``to_json`` has them."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _load_decimal(field: Field, value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise ValueError("Not a valid decimal number.")
    return _parse_decimal(field, str(value))


def _parse_decimal(field: Field, text: str) -> Decimal:
    if len(text) > 2 * NUMERIC_MAX_DIGITS or not _NUMBER.fullmatch(text):
        raise ValueError("Not a valid decimal number.")
    number = Decimal(text)
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    places, whole = max(0, -exponent), max(0, number.adjusted() + 1)
    if field.decimal_places is not None and places > field.decimal_places:
        raise ValueError(f"Must have at most {field.decimal_places} decimal places.")
    limit = NUMERIC_MAX_DIGITS if field.max_digits is None else field.max_digits - (field.decimal_places or 0)
    if number and whole > limit:
        raise ValueError(f"Must have at most {limit} digits before the decimal point.")
    if places > NUMERIC_MAX_DIGITS:
        raise ValueError(f"Must have at most {NUMERIC_MAX_DIGITS} decimal places.")
    return number


def _dump_decimal(_field: Field, value: Decimal) -> str:
    return format(value, "f")


def _decimal_digits(field: Field) -> tuple[int, int]:
    """The maximum numbers of digits of a decimal before and after its point."""
    if field.max_digits is None:
        return NUMERIC_MAX_DIGITS, NUMERIC_MAX_DIGITS
    places = field.decimal_places or 0
    return field.max_digits - places, places


def _decimal_schema(field: Field) -> Schema:
    whole, places = _decimal_digits(field)
    sign = r"\+?" if field.min is not None and Decimal(field.min) >= 0 else "[+-]?"
    digits = f"[0-9]{{1,{whole}}}" if whole else "0"
    fraction = rf"(?:\.[0-9]{{1,{places}}})?" if places else ""
    return {"type": "string", "format": "decimal", "pattern": f"^{sign}{digits}{fraction}$"}


def _decimal_number_schema(field: Field) -> Schema:
    """A decimal as a JSON number, which a body may contain."""
    whole, places = _decimal_digits(field)
    limits: dict[str, Any] = {"minimum": field.min, "maximum": field.max}
    if field.max_digits is not None:
        limits |= {
            "multipleOf": Decimal(1).scaleb(-places) if places else 1,
            "exclusiveMinimum": -(10**whole),
            "exclusiveMaximum": 10**whole,
        }
    return {"type": "number", **{keyword: _bound(limit) for keyword, limit in limits.items() if _fits(limit)}}


def _fits(limit: Any) -> bool:
    """Whether a limit has a number in JSON: it is set, and within the floats."""
    return limit is not None and Decimal(limit).adjusted() in _FLOAT_EXPONENTS


def _bound(limit: Any) -> int | float:
    """A limit as a number that JSON encoders support: an integer of 64 bits or the nearest float."""
    return limit if isinstance(limit, int) and abs(limit) < 2**63 else float(limit)


def _load_boolean(_field: Field, value: object) -> bool:
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


_INTEGERS: Final = integer_type("integer", 32, sa.Integer)
_BIG_INTEGERS: Final = integer_type("big_integer", 64, sa.BigInteger)
NUMBER_TYPES: Final = (
    replace(_INTEGERS, as_string=replace(_INTEGERS, sums_as_strings=True)),  # only its sums are too long for a float
    replace(_BIG_INTEGERS, as_string=_as_strings(_BIG_INTEGERS, 64), options=_BIG_INTEGERS.options | {"json"}),
    FieldType(
        name="float",
        kind=Kind.NUMBER,
        column=lambda _field: postgresql.DOUBLE_PRECISION(),
        load=load_float,
        parse=parse_float,
        dump=dump_float,
        nearest=lambda _field, text: float(text),
        schema=lambda _field: {"type": "number", "format": "double"},
        options=_LIMITS,
        binary_float=True,
    ),
    FieldType(
        name="decimal",
        kind=Kind.NUMBER,
        column=lambda field: sa.Numeric(field.max_digits, field.decimal_places),
        load=_load_decimal,
        parse=_parse_decimal,
        dump=_dump_decimal,
        nearest=lambda _field, text: Decimal(text),
        json=lambda _field, column: sa.cast(column, sa.Text),
        schema=_decimal_schema,
        body_schema=_decimal_number_schema,
        options=_LIMITS | {"max_digits", "decimal_places"},
    ),
    FieldType(
        name="boolean",
        kind=Kind.BOOLEAN,
        column=lambda _field: sa.Boolean(),
        load=_load_boolean,
        parse=_parse_boolean,
        schema=lambda _field: {"type": "boolean"},
    ),
)
