"""JSON documents, arrays, and relations to other rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from rowcast.resources.fields import Column, Field, FieldType, Kind, Schema, recall
from rowcast.resources.lossless_json import JSON_MAX_DEPTH, parse_body
from rowcast.resources.types.text import NUL_REFUSED

_QUOTED_ITEM: Final = re.compile(r'"((?:[^"]|"")*)"(?:,|\Z)')


def _load_json(_field: Field, value: object) -> Any:
    level = [value]
    for _ in range(JSON_MAX_DEPTH):
        deeper: list[Any] = []
        for item in level:
            match item:
                case str() if "\x00" in item:
                    raise ValueError(NUL_REFUSED)
                case list():
                    deeper += item
                case dict():
                    deeper += [*item.keys(), *item.values()]
        if not deeper:
            return value
        level = deeper
    raise ValueError(f"Nested more than {JSON_MAX_DEPTH} levels deep.")


def _parse_json(field: Field, text: str) -> Any:
    try:
        value = parse_body(text.encode())
    except ValueError:  # also for a surrogate, which UTF-8 does not have
        raise ValueError("Not valid JSON.") from None
    return _load_json(field, value)


def _load_array(field: Field, value: object) -> list[Any]:
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
    return [None if item is None else recall(element, item)[0] for item in value]


def _dump_array(field: Field, value: list[Any]) -> list[Any]:
    element = field.element  # an item is null only in a table whose owner allows it
    return [None if item is None else element.field_type.dump(element, item) for item in value]


def _parse_array(field: Field, text: str) -> list[Any]:
    element = field.element
    return [element.field_type.parse(element, item) for item in split_list(text)]


def _array_json(field: Field, column: Column) -> Column:
    element = field.element
    item: Column = sa.column("item", element.field_type.column(element))
    shown = element.field_type.json(element, item)
    if shown is item:
        return column
    if isinstance(shown, sa.Cast) and shown.clause is item:
        return sa.cast(column, postgresql.ARRAY(shown.type))
    source = sa.func.unnest(column).table_valued(sa.column("item", item.type), name="item").render_derived()
    rows = sa.select(element.field_type.json(element, source.c.item)).scalar_subquery()
    return sa.case((column.is_not(None), sa.func.array(rows)), else_=None)


def limit_schema(field: Field, schema: Schema) -> Schema:
    """A schema with the choices and limits of a field. JSON Schema can limit numbers, but not moments and decimals."""
    if field.choices:
        return {"enum": list(field.choices)}
    if not is_numeric(schema):
        return schema
    limits = {"minimum": field.min, "maximum": field.max}
    return schema | {keyword: limit for keyword, limit in limits.items() if limit is not None}


def is_numeric(schema: Schema) -> bool:
    """Whether the values of a schema are numbers of JSON."""
    return schema.get("type") in ("integer", "number")


def _array_schema(field: Field) -> Schema:
    element = field.element
    return {"type": "array", "items": limit_schema(element, element.field_type.schema(element))}


def split_list(text: str) -> list[str]:
    """The items of a comma-separated parameter; an item in double quotes may contain commas (``""`` is a quote)."""
    if '"' not in text:
        return text.split(",") if text else []
    items: list[str] = []
    place, more = 0, True
    while more:
        if quoted := _QUOTED_ITEM.match(text, place):
            items.append(quoted[1].replace('""', '"'))
            more = quoted[0].endswith(",")
            place = quoted.end()
        else:
            comma = text.find(",", place)
            more = comma >= 0
            items.append(text[place:comma] if more else text[place:])
            place = comma + 1
    return items


def _unsupported(_field: Field, _value: Any) -> Any:
    raise AssertionError("a relation is loaded by the type of the key that it refers to")


def _relation_type(name: str, kind: Kind, schema: Mapping[str, Any], options: frozenset[str]) -> FieldType:
    return FieldType(
        name=name,
        kind=kind,
        column=lambda _field: sa.types.NullType(),
        load=_unsupported,
        parse=_unsupported,
        schema=lambda _field: dict(schema),
        options=options,
    )


COMPOUND_TYPES: Final = (
    FieldType(
        name="json",
        kind=Kind.JSON,
        column=lambda _field: postgresql.JSONB(none_as_null=True),
        load=_load_json,
        parse=_parse_json,
        schema=lambda _field: {},
        options=frozenset({"paths"}),
    ),
    FieldType(
        name="array",
        kind=Kind.ARRAY,
        column=lambda field: postgresql.ARRAY(field.element.field_type.column(field.element)),
        load=_load_array,
        parse=_parse_array,
        dump=_dump_array,
        nearest=_nearest_array,
        json=_array_json,
        schema=_array_schema,
        options=frozenset({"of", "min", "max", "min_length", "max_length", "max_digits", "decimal_places"}),
    ),
    _relation_type("foreign_key", Kind.RELATION, {}, frozenset({"to", "on_delete", "related_name", "any_key"})),
    _relation_type(
        "many_to_many", Kind.RELATIONS, {"type": "array"}, frozenset({"to", "related_name", "any_key", "through"})
    ),
)
