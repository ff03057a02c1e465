"""The ``Meta`` of a serializer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import marshmallow as ma

UNSUPPORTED: Final[Mapping[str, str]] = {
    "to_representation": "change what is shown in a method with @post_dump, or override dump()",
    "to_internal_value": "change what is read in a method with @pre_load or @post_load",
    "get_fields": "list the fields in Meta.fields or Meta.exclude, or remove some in __init__",
    "get_field_names": "list the fields in Meta.fields or Meta.exclude",
    "data": "change what is shown in a method with @post_dump, or override dump()",
    "validate": "check fields together in a method with @validates_schema",
}
"""Ways of Django REST framework that would be ignored, and what to write instead."""
UNSUPPORTED_META: Final[Mapping[str, str]] = {
    "extra_kwargs": 'write Meta.extra = {"name": {"load_only": True}}; load_only is write_only, dump_only is read_only',
    "write_only_fields": "write Meta.load_only",
    "depth": "name the relations in the viewset's select_related or prefetch_related",
}
"""The same in ``Meta``."""


class SerializerOptions(ma.SchemaOpts):
    """The ``Meta`` of a serializer: marshmallow's options, and the selection of a model's fields."""

    def __init__(self, meta: Any, ordered: bool = False) -> None:
        if getattr(meta, "fields", None) == "__all__":
            meta = type("Meta", (), {name: value for name, value in _members(meta).items() if name != "fields"})
        self.model = getattr(meta, "model", None)
        self.read_only_fields: tuple[str, ...] = tuple(getattr(meta, "read_only_fields", ()))
        self.extra: Mapping[str, Mapping[str, Any]] = getattr(meta, "extra", {})
        super().__init__(meta)
        self.unknown = getattr(meta, "unknown", ma.RAISE)
        self.included = tuple(self.fields or ())
        self.excluded = tuple(self.exclude or ())
        self.fields, self.exclude = (), ()  # ``bind`` applies them, since marshmallow does not know the model's fields


def _members(meta: type) -> dict[str, Any]:
    return {name: getattr(meta, name) for name in dir(meta) if not name.startswith("__")}
