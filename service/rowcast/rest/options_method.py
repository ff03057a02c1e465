"""What ``OPTIONS`` tells of an address: its name, its methods, and the fields that its writing actions take."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from rowcast.resources.fields import MISSING
from rowcast.rest.serializers import Keys, Serializer, Value

if TYPE_CHECKING:
    from rowcast.rest.viewset import GenericViewSet

WRITING = {"POST": "create", "PUT": "update", "PATCH": "partial_update"}


def describe(view: GenericViewSet) -> dict[str, Any]:
    """Name, description, methods, media types, and the fields of each writing action at this address."""
    resource = view.resource
    return {
        "name": view.name or resource.label or resource.model,
        "description": view.description or resource.description or _docstring(type(view)),
        "methods": sorted(view.action_map),
        "renders": ["application/json"],
        "parses": ["application/json"],
        "actions": {
            method: fields_of(view.serializer, action)
            for method, action in WRITING.items()
            if view.action_map.get(method) == action
        },
    }


def _docstring(viewset: type) -> str:
    """What a class of the config directory says of itself; one of the service's own speaks of no resource."""
    return "" if viewset.__module__.startswith("rowcast.") else inspect.cleandoc(viewset.__doc__ or "")


def fields_of(serializer: Serializer, action: str) -> dict[str, dict[str, Any]]:
    """Every field of a body: type, label, whether it is required or read-only here, and its limits."""
    described = {}
    for name, field in serializer.fields.items():
        if not isinstance(field, Value | Keys):
            continue
        declared = field.declared
        limits = {
            key: getattr(declared, key)
            for key in ("min", "max", "min_length", "max_length", "pattern", "max_digits", "decimal_places", "to")
            if getattr(declared, key) is not None
        }
        described[name] = {
            "type": declared.type,
            "required": field.required
            and action != "partial_update"
            and not (declared.primary_key and action != "create"),
            "read_only": field.dump_only or (declared.primary_key and action != "create"),
            "write_only": declared.write_only,
            "null": declared.null,
            "label": declared.label or declared.name.replace("_", " ").capitalize(),
            **({"help_text": declared.help_text} if declared.help_text else {}),
            **({"choices": list(declared.choices)} if declared.choices else {}),
            **({"default": declared.default} if declared.default is not MISSING else {}),
            **({"of": declared.of.name} if declared.of else {}),
            **limits,
        }
    return described
