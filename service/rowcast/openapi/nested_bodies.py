"""The schema of children in the body of their parent."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from rowcast.resources.fields import Schema


def children_in_body(
    opened: Collection[str],
    keys: Mapping[str, Schema],
    new: Schema,
    changed: Schema,
    component: Callable[[str, Schema], Schema],
) -> Schema:
    """A list of children, or an object with those to create, change and delete, as far as that is ``opened``.

    ``keys`` are the fields that name a child, ``new`` is one without a key, and ``changed`` what may be changed.
    ``component`` gives an object a name of its own, since generators of clients cannot inherit a body with objects inside a union.
    """
    key = component("Key", {"type": "object", "properties": dict(keys), "required": list(keys)})
    members: dict[str, Schema] = {}
    if "create" in opened:
        members["create"] = new
    if "update" in opened:
        members["update"] = component("Changed", {"allOf": [changed, key]})
    rows = list(members.values())
    if "delete" in opened:
        members["delete"] = {"anyOf": [*keys.values(), key]} if len(keys) == 1 else key
    arrays = {name: {"type": "array", "items": items} for name, items in members.items()}
    changes = component("Changes", {"type": "object", "properties": arrays, "additionalProperties": False})
    listed: Schema = {"type": "array", "items": {"anyOf": rows}} if rows else {"type": "array", "maxItems": 0}
    left_out = "deleted" if "delete" in opened else "not changed"
    description = f"In a list, rows with a key are changed and others created; rows that it leaves out are {left_out}."
    return {"anyOf": [listed, changes], "description": description}
