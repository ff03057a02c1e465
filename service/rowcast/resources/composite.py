"""Keys of several fields, as one field whose values are tuples.

In an address, and as the id in events, such a key is its parts in the order of declaration, each percent-encoded, with
commas between them: ``17,3``. In memory and in the change log it is the same with fewer escapes (``key_text``), which
PostgreSQL can write as well; ``parse`` reads both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote, unquote

import sqlalchemy as sa

from rowcast.resources.fields import Column, Field, FieldType, Kind, Schema
from rowcast.resources.lossless_json import encode

_MALFORMED: Final = re.compile("%(?![0-9A-Fa-f]{2})")
_SELF_EVIDENT: Final = (Kind.TEXT, Kind.UUID)  # their JSON form is PostgreSQL's text


def composite_key(parts: Sequence[Field]) -> Field:
    """The field that stands for a key of several fields. Its name is theirs with commas, which no declared field has."""
    return Field(",".join(part.name for part in parts), _COMPOSITE_KEY, primary_key=True, parts=tuple(parts))


def can_be_part(field: Field) -> bool:
    """Whether the values of a field, which is not a relation, can be part of a key: each has one form in addresses."""
    return field.field_type.kind not in _NEVER_PARTS and not field.field_type.binary_float


def address_of(values: Sequence[Any]) -> str:
    """A key, whose parts are given in their JSON forms, as it is in addresses."""
    return ",".join([quote(_text(value), safe="") for value in values])


def key_text(key: Sequence[Any]) -> str:
    """A key of strings, integers and UUIDs as ``key_column`` has it."""
    return ",".join([str(value).replace("%", "%25").replace(",", "%2C") for value in key])


def key_column(parts: Sequence[Field], columns: Sequence[Column]) -> Column:
    """The text of a key in PostgreSQL; ``parts`` are the fields of the columns' values."""
    texts = [_part_column(part, column) for part, column in zip(parts, columns, strict=True)]
    joined = texts[0]
    for text in texts[1:]:
        joined = joined.concat(sa.literal_column("','")).concat(text)
    return joined


def _part_column(part: Field, column: Column) -> Column:
    kind = part.field_type.kind
    if kind is Kind.NUMBER:
        return sa.cast(column, sa.Text)
    text: Column = sa.cast(column, sa.Text) if kind in _SELF_EVIDENT else _json_text(part, column)
    if kind is Kind.TEXT:
        for character, escape in (("'%'", "'%25'"), ("','", "'%2C'")):
            text = sa.func.replace(text, sa.literal_column(character), sa.literal_column(escape), type_=sa.Text)
    return text


def _json_text(part: Field, column: Column) -> Column:
    document = sa.func.to_jsonb(part.field_type.json(part, column))
    return document.op("#>>", return_type=sa.Text())(sa.literal_column("'{}'"))


def _text(value: Any) -> str:
    """The JSON form of a part as the string that ``parse`` of its type takes."""
    return value if isinstance(value, str) else encode(value).decode()


def _load(field: Field, value: object) -> tuple[Any, ...]:
    if isinstance(value, str):
        return _parse(field, value)
    if not isinstance(value, list | tuple) or len(value) != len(field.parts):
        raise ValueError(f"Not a valid key: give a value for each of {', '.join(part.name for part in field.parts)}.")
    return tuple([part.field_type.load(part, each) for part, each in zip(field.parts, value, strict=True)])


def _parse(field: Field, text: str) -> tuple[Any, ...]:
    if _MALFORMED.search(text):
        raise ValueError("Not a valid key: it has a percent sign without two hexadecimal digits.")
    if "," not in text:  # a client has encoded the key as a whole once more
        text = unquote(text, errors="strict")
    texts = [unquote(each, errors="strict") for each in text.split(",")]
    if len(texts) != len(field.parts):
        raise ValueError(f"Not a valid key: it has the form {field.name}, each percent-encoded.")
    return tuple([_parse_part(part, each) for part, each in zip(field.parts, texts, strict=True)])


def _parse_part(part: Field, text: str) -> Any:
    value = part.field_type.parse(part, text)
    if type(value) is int and str(value) != text:  # an integer has one form in addresses
        raise ValueError("Not a valid integer.")
    return value


def _dump(field: Field, key: Sequence[Any]) -> str:
    return address_of([part.field_type.dump(part, each) for part, each in zip(field.parts, key, strict=True)])


def _schema(field: Field) -> Schema:
    comma = r",".join(["[^,]*"] * len(field.parts))
    return {"type": "string", "pattern": f"^{comma}$"}


def _no_column(_field: Field) -> Any:
    raise AssertionError("a key of several fields has several columns")


_NEVER_PARTS: Final = (Kind.JSON, Kind.ARRAY, Kind.RELATIONS, Kind.BINARY, Kind.NATIVE)
_COMPOSITE_KEY: Final = FieldType(
    name="key",
    kind=Kind.KEY,
    column=_no_column,
    load=_load,
    parse=_parse,
    dump=_dump,
    schema=_schema,
)
