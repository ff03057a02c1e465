"""Examples of rows and of bodies: valid values, made up from the fields' types and rules."""

from __future__ import annotations

from typing import Any, Final

from rowcast.resources.fields import Field, Kind
from rowcast.resources.samples import needs_value, sample
from rowcast.rest.plan import ModelPlan
from rowcast.rest.serializer_fields import ColumnField

_NUMBER: Final = 1
_UUID: Final = "0190b5a2-7c3e-7d41-9f6a-2b8c4d5e6f70"


def example_row(plan: ModelPlan) -> dict[str, Any] | None:
    """A row as responses show it; ``None`` if Python computes fields, or a value cannot be made up."""
    fields = plan.serializer.dump_fields
    columns = {name: field for name, field in fields.items() if isinstance(field, ColumnField)}
    if len(columns) < len(fields):
        return None
    return _values({name: field.values for name, field in columns.items()}, fields)


def example_body(plan: ModelPlan, action: str) -> dict[str, Any] | None:
    """A body of a standard action: the fields that it needs; of a change, the first that it may set."""
    fields = {
        name: field
        for name, field in plan.serializer.load_fields.items()
        if isinstance(field, ColumnField) and name not in plan.serializer.ignored and not field.declared.key_part
    }
    needed = {name for name, field in fields.items() if plan.requires(name, field) or needs_value(field.declared)}
    if action == "partial_update":
        free = [name for name, field in fields.items() if not field.declared.primary_key]
        needed = {*(name for name in free if name in needed), *free[:1]}
        needed = {next(name for name in free if name in needed)} if needed else set()
    return _values({name: field.values for name, field in fields.items() if name in needed}, needed)


def _values(fields: dict[str, Field], needed: Any) -> dict[str, Any] | None:
    found = {}
    for name, field in fields.items():
        try:
            found[name] = _value(field)
        except (ValueError, ArithmeticError, LookupError):  # no value can be made up for rules such as these
            if name in needed:
                return None
    return found


def _value(field: Field) -> Any:
    if field.type == "uuid" and not field.choices:
        return _UUID
    value = sample(field, _NUMBER)
    return value if field.field_type.kind is Kind.JSON else field.field_type.dump(field, value)
