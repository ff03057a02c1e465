"""The field types, as a table. To add a type, add a row to the tuple of its module.

A row (``FieldType``) holds everything that the service knows about the type: column, conversions, validation,
constraints and JSON Schema. Nothing else in the service names a type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rowcast.resources.fields import Field, FieldType, Kind
from rowcast.resources.types.compound import COMPOUND_TYPES
from rowcast.resources.types.numbers import NUMBER_TYPES
from rowcast.resources.types.postgresql import POSTGRESQL_TYPES
from rowcast.resources.types.temporal import TEMPORAL_TYPES
from rowcast.resources.types.text import TEXT_TYPES

FIELD_TYPES: Final[Mapping[str, FieldType]] = {
    each.name: each for each in (*TEXT_TYPES, *NUMBER_TYPES, *TEMPORAL_TYPES, *COMPOUND_TYPES, *POSTGRESQL_TYPES)
}


def scalar_types() -> frozenset[str]:
    """The names of the types that an array can have items of."""
    many = (Kind.ARRAY, Kind.RELATION, Kind.RELATIONS)
    return frozenset(name for name, each in FIELD_TYPES.items() if each.kind not in many and each.is_item)


def make_field(
    name: str, type_: str, /, *, of: str | None = None, paths: Mapping[str, str] | None = None, **options: Any
) -> Field:
    """A field of the type with this name; ``of`` names the type of an array's items, ``paths`` those of members.

    ``as`` among the options is ``Field.native_type``.
    """
    if "as" in options:
        options["native_type"] = options.pop("as")
    members = tuple((path, FIELD_TYPES[member]) for path, member in (paths or {}).items())
    return Field(name, FIELD_TYPES[type_], of=None if of is None else FIELD_TYPES[of], paths=members, **options)
