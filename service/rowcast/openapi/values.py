"""The schemas of values: each field with its type and rules, and what schemas are put together from."""

from __future__ import annotations

from typing import Any, Final

from rowcast.resources.fields import Field, Kind, Schema
from rowcast.resources.lossless_json import encode
from rowcast.resources.types.compound import is_numeric, limit_schema
from rowcast.resources.types.text import NO_NUL

OBJECT: Final[Schema] = {"type": "object", "additionalProperties": True}
"""Any object. Without ``additionalProperties`` generators of TypeScript take it for one without properties."""


def present(**keywords: Any) -> Schema:
    """The keywords that have a value."""
    return {keyword: value for keyword, value in keywords.items() if value is not None}


def value_schema(field: Field) -> Schema:
    """Every value of a field's type, without the field's own rules."""
    return field.field_type.schema(field)


def ruled_schema(declared: Field, values: Field) -> Schema:
    """Every value of a field but null. ``values`` is the field itself, or the key that a foreign key refers to."""
    kind = values.field_type.kind
    if kind is Kind.ARRAY:
        return value_schema(values) | present(minItems=values.min_length, maxItems=values.max_length)
    schema = limit_schema(values, value_schema(values))
    if kind is not Kind.TEXT:
        return schema
    if "enum" in schema:
        return or_blank(schema) if values.blank else schema
    schema |= present(minLength=values.min_length, maxLength=values.longest)
    if declared.to is None:
        schema |= values.field_type.rules
        if values.pattern is not None:  # a schema holds one pattern, so the type's own moves into allOf
            schema |= {"allOf": [{"pattern": schema["pattern"]}], "pattern": values.pattern}
        if not values.blank:
            schema["minLength"] = max(1, values.min_length or 0)
    return or_blank(schema) if values.blank else schema


def or_blank(schema: Schema) -> Schema:
    """A schema of strings that allows the empty string as well."""
    if "enum" in schema:
        return {"enum": ["", *(choice for choice in schema["enum"] if choice != "")]}
    refuses_blank = schema.keys() & {"minLength", "format", "allOf"} or schema.get("pattern", NO_NUL) != NO_NUL
    return {"anyOf": [{"const": ""}, schema]} if refuses_blank else schema


def envelope(count: Schema, rows: Schema) -> Schema:
    """A page."""
    address = {"type": ["string", "null"], "format": "uri"}
    properties = {"count": count, "next": address, "previous": address, "results": rows}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def as_in_bodies(values: Field, schema: Schema) -> Schema:
    """The schema of a field's values with those that only bodies may have: decimals as numbers."""
    if values.field_type.body_schema is None or "enum" in schema:
        return schema
    also = values.field_type.body_schema(values)
    return schema | also | {"type": [also["type"], *types_of(schema)]}


def or_null(schema: Schema) -> Schema:
    """A schema that allows null as well."""
    if "enum" in schema:
        return schema | {"enum": [*schema["enum"], None]}
    if "type" in schema:
        return schema | {"type": [*types_of(schema), "null"]}
    return {"anyOf": [*schema.get("anyOf", [schema]), {"type": "null"}]}


def types_of(schema: Schema) -> list[str]:
    types = schema["type"]
    return types if isinstance(types, list) else [types]


def annotations_of(field: Field, *sentences: str) -> Schema:
    """The title and description of a field, with the limits that its schema cannot express."""
    limited = field.element if field.field_type.kind is Kind.ARRAY else field
    limits = []
    if not is_numeric(value_schema(limited)):
        limits += [f"Not less than {limited.min}."] if limited.min is not None else []
        limits += [f"Not more than {limited.max}."] if limited.max is not None else []
    if field.native_type is not None:
        limits.append(f"A value of PostgreSQL's type {field.native_type}, in its own text form.")
    description = " ".join(filter(None, [field.help_text, *limits, *sentences]))
    return present(title=field.label, description=description or None)


def reference_to(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def object_of(value: Schema) -> Schema:
    """The schema of an object all of whose members have this one."""
    return {"additionalProperties": value}


def add_default(schema: Schema, default: Any) -> None:
    """Describe the default of a field that a body may leave out.

    It is not under ``default``: generators of clients take a field with that for one that is always there, and then require
    it in bodies.
    """
    sentence = f"Default: `{encode(default).decode()}`."
    schema["description"] = " ".join(filter(None, (schema.get("description"), sentence)))
    schema["x-default"] = default
