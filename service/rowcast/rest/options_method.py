"""The body of ``OPTIONS``: name and methods of an address, and the fields that its writing actions take."""

from __future__ import annotations

import inspect
from typing import Any

from rowcast.resources.actions import BODY_ACTIONS
from rowcast.resources.fields import MISSING
from rowcast.rest.introspection import is_ours
from rowcast.rest.protocols import ModelView
from rowcast.rest.serializers import RelatedKeysField, Serializer, Value


def describe(view: ModelView) -> dict[str, Any]:
    """Name, description, methods, media types, and the fields of each writing action at this address."""
    resource = view.view_plan.resource
    return {
        "name": view.name or resource.label or resource.model,
        "description": view.description or resource.description or _docstring(type(view)),
        "methods": sorted(view.action_map),
        "renders": ["application/json"],
        "parses": ["application/json"],
        "actions": {
            method: fields_of(view.view_plan.serializer, action)
            for method, action in BODY_ACTIONS.items()
            if view.action_map.get(method) == action
        },
    }


def _docstring(viewset: type) -> str:
    """The docstring of a user's class; one of Rowcast's own does not describe the resource."""
    return "" if is_ours(viewset) else inspect.cleandoc(viewset.__doc__ or "")


def fields_of(serializer: Serializer, action: str) -> dict[str, dict[str, Any]]:
    """Every field of a body: type, label, whether it is required or read-only here, and its limits."""
    described = {}
    for name, field in serializer.fields.items():
        if not isinstance(field, Value | RelatedKeysField):
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
