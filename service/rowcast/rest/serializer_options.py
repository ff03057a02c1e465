"""The ``Meta`` of a serializer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import marshmallow as ma


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
