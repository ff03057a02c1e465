"""The options ``soft_delete`` and ``purge_after`` of a resource: DELETE marks a row, and the row stays in its table.

``soft_delete`` is the name of the field with the time of the deletion, or a mapping with ``field`` and the
``permission_classes`` of callers who may see deleted rows, restore them, and delete rows for good.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from rowcast.configuration import value_types
from rowcast.configuration.yaml import AboutKey, Steps
from rowcast.resources.fields import MISSING, Field
from rowcast.resources.resource import SoftDelete
from rowcast.resources.types import make_field

OPTION: Final = "soft_delete"
PURGE: Final = "purge_after"

VALUE_TYPES: Final[Mapping[str, Any]] = {
    OPTION: value_types.NestedOrValue(
        value_types.section(
            "SoftDelete",
            {
                "field": value_types.string(
                    r"[a-z](?:_?[a-z0-9])*", "the name of a field such as deleted_at", required=True
                ),
                "permission_classes": value_types.ListOf(value_types.permission(), least=1),
            },
        ),
        "field",
        null=True,
    ),
    PURGE: value_types.duration(zero=False),
}


def read(
    loaded: Mapping[str, Any], fields: dict[str, Field], lost: Collection[str], report: Callable[[Steps, str], None]
) -> SoftDelete | None:
    """The option of a resource; ``None`` if it has none, or a wrong one. Its field is added to ``fields`` if it is not there."""
    option = loaded.get(OPTION) or {}
    if not option and loaded.get(PURGE) is not None:
        report((PURGE,), AboutKey(f"{PURGE!r} needs {OPTION!r}: rows that DELETE removes at once are not purged"))
    name = option.get("field")
    if name is None:
        return None
    if name in lost and name not in fields:
        return None
    field = fields.setdefault(name, make_field(name, "datetime", null=True, read_only=True, required=False))
    if message := _problem(field):
        report(("fields", name), AboutKey(f"{name!r} is the field of {OPTION!r}, so it {message}"))
        return None
    return SoftDelete(name, option.get("permission_classes"), loaded.get(PURGE))


def _problem(field: Field) -> str | None:
    """What the field of the option must be, and is not."""
    if field.type != "datetime":
        return "must have the type datetime: it has the time of the deletion"
    if not field.null:
        return "needs null: true: it is null for every row that is not deleted"
    if field.write_only:
        return "may not be write_only: streams leave out deleted rows by it"
    if not field.read_only:
        return "needs read_only: true: DELETE and /restore/ set it"
    if field.auto_now or field.auto_now_add or field.database_default or field.default not in (MISSING, None):
        return "may have no default, auto_now or auto_now_add: new rows are not deleted"
    if field.unique:
        return "may not be unique: rows of one transaction are deleted at the same time"
    return None
