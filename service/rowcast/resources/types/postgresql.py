"""Types with the names that PostgreSQL has for them, for tables that are there already.

``native`` is any type at all, in PostgreSQL's own text form.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import replace
from typing import Final

import sqlalchemy as sa

from rowcast.resources.exchanged import Bytes, Column, Exchanged, Native, Single
from rowcast.resources.fields import Field, FieldType, Kind
from rowcast.resources.types.numbers import dump_float, integer_type, load_float, parse_float
from rowcast.resources.types.text import STRING_SCHEMA, load_text, text_type

SINGLE_MIN: Final = 1.2e-38
SINGLE_MAX: Final = 3.4028235e38
NOT_SINGLE: Final = "Does not fit a number of single precision."
_BASE64: Final = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"


def _single(number: float) -> float:
    if number and not SINGLE_MIN <= abs(number) <= SINGLE_MAX:
        raise ValueError(NOT_SINGLE)
    return number


def _load_bytes(_field: Field, value: object) -> bytes:
    try:
        if not isinstance(value, str):
            raise ValueError
        return base64.b64decode(value.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        raise ValueError("Not valid base64.") from None


def _bytes_json(_field: Field, column: Column) -> Column:
    encoded = sa.func.encode(column, sa.literal_column("'base64'"))  # PostgreSQL makes lines of it
    return sa.func.translate(encoded, sa.literal_column("E'\\n'"), sa.literal_column("''"), type_=sa.Text)


def _native(field: Field) -> Native:
    assert field.native_type is not None
    return Native(field.native_type)


POSTGRESQL_TYPES: Final = (
    integer_type("smallint", 16, sa.SmallInteger),
    FieldType(
        name="real",
        kind=Kind.NUMBER,
        column=lambda _field: Single(),
        load=lambda field, value: _single(load_float(field, value)),
        parse=lambda field, text: _single(parse_float(field, text)),
        dump=dump_float,
        nearest=lambda _field, text: float(text),
        schema=lambda _field: {"type": "number", "format": "float", "minimum": -SINGLE_MAX, "maximum": SINGLE_MAX},
        options=frozenset({"min", "max"}),
        binary_float=True,
    ),
    replace(
        text_type("citext"),
        column=lambda _field: Exchanged("CITEXT", sa.Text()),
        options=frozenset({"blank", "min_length", "primary_key"}),
    ),
    FieldType(
        name="bytea",
        kind=Kind.BINARY,
        column=lambda _field: Bytes(),
        load=_load_bytes,
        parse=lambda field, text: _load_bytes(field, text.replace(" ", "+")),  # a URL has turned it into a space
        native=bytes,
        dump=lambda _field, value: base64.b64encode(value).decode(),
        json=_bytes_json,
        literal=lambda field, value: rf"\x{_load_bytes(field, value).hex()}",
        schema=lambda _field: {"type": "string", "contentEncoding": "base64", "pattern": _BASE64},
        is_item=False,
    ),
    FieldType(
        name="native",
        kind=Kind.NATIVE,
        column=_native,
        load=load_text,
        parse=load_text,
        json=lambda field, column: _native(field).plain(column),
        schema=lambda _field: dict(STRING_SCHEMA),
        options=frozenset({"as"}),
        is_item=False,
    ),
)
