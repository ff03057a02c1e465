"""What a resource over a view may declare. Its rows are made by a query: they are read, and neither written nor watched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from rowcast.configuration.yaml import AboutKey, Steps
from rowcast.resources.actions import STREAM
from rowcast.resources.fields import Kind
from rowcast.resources.resource import Resource, Resources

_NOT_MADE: Final = "the service does not make views"
_NOT_WRITTEN: Final = "rows of a view are not written"
RESOURCE_KEYS: Final[Mapping[str, str]] = {
    "unique": _NOT_MADE,
    "check": _NOT_MADE,
    "search": "the service does not make views; use search_fields",
    "indexes": _NOT_MADE,
    "renamed_from": _NOT_MADE,
    "managed": _NOT_MADE,
    "soft_delete": _NOT_WRITTEN,
    "purge_after": _NOT_WRITTEN,
}
FIELD_OPTIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("unique", "index", "renamed_from", "generated"), _NOT_MADE),
    **dict.fromkeys(
        ("default", "required", "read_only", "write_only", "auto_now", "auto_now_add", "on_delete", "any_key"),
        _NOT_WRITTEN,
    ),
}
NO_STREAM: Final = (
    "a view has no stream, since PostgreSQL reports changes of tables and not of views; make resources of the tables "
    "that it reads, and stream those"
)
NOT_CACHED: Final = "nothing of a view is kept in memory, since its rows change without a trace; remove it"
READ_ONLY: Final = "a view is read-only"
WRITES: Final = ("create", "update", "partial_update", "destroy")  # the standard actions that it does not have


def view_problems(resource: Resource, written: Mapping[str, Any], resources: Resources) -> Iterator[tuple[Steps, str]]:
    """The path and the message of each problem with a view, or with a relation to one; ``written`` is its file."""
    for name, field in resource.fields.items():
        if field.to is None:
            continue
        if resources[field.to].view and not resource.view:
            message = f"{field.to} is a view, to which PostgreSQL has no foreign keys"
            yield ("fields", name, "to"), f"{message}; declare the relation in the view, from its column to this table"
        elif field.field_type.kind is Kind.RELATIONS and (resource.view or resources[field.to].view):
            yield ("fields", name, "to"), "a view has no links; declare foreign keys in it"
    if not resource.view:
        return
    for key, reason in RESOURCE_KEYS.items():
        if written.get(key) not in (None, []):
            yield (key,), AboutKey(f"{key!r} does not apply to a view: {reason}")
    given = written.get("fields")
    fields = {name: options for name, options in given.items() if isinstance(options, dict)} if given else {}
    if "id" not in fields and not written.get("primary_key") and not any(map(_is_key, fields.values())):
        yield ("fields",), AboutKey("a view needs a key: give the field whose values are unique primary_key: true")
    for name, options in fields.items():
        for option, reason in FIELD_OPTIONS.items():
            if option in options:
                yield ("fields", name, option), AboutKey(f"{option!r} does not apply to a view: {reason}")
    yield from _option_problems(resource.options)


def _is_key(options: Mapping[str, Any]) -> bool:
    return options.get("primary_key") is True


def _option_problems(options: Mapping[str, Any]) -> Iterator[tuple[Steps, str]]:
    if options.get("stream_enabled"):
        yield ("viewset", "stream_enabled"), NO_STREAM
    if options.get("cache", "off") != "off":
        yield ("viewset", "cache"), NOT_CACHED
    if options.get("require_if_match"):
        yield ("viewset", "require_if_match"), READ_ONLY
    for position, action in enumerate(options.get("allowed_actions") or ()):
        if action == STREAM:
            yield ("viewset", "allowed_actions", position), NO_STREAM
        elif action in WRITES:
            yield ("viewset", "allowed_actions", position), f"{READ_ONLY}: it has no {action!r}"
