"""What lists are filtered, searched and sorted by: what an index serves, since anything else would read whole tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from rowcast.adoption.catalog import Index, Table
from rowcast.adoption.columns import FieldDraft
from rowcast.configuration.viewset_options import RESERVED_PARAMETERS
from rowcast.resources.fields import Kind
from rowcast.resources.lookups import lookups_of

_LOOKUPS: Final[Mapping[Kind, tuple[str, ...]]] = {
    Kind.NUMBER: ("exact", "in", "gte", "lte"),
    Kind.MOMENT: ("exact", "gte", "lte"),
}
_CONTAINING: Final = frozenset({Kind.JSON, Kind.ARRAY})
_SORTED: Final = frozenset({Kind.TEXT, Kind.NUMBER, Kind.MOMENT})
_NEWEST_FIRST: Final = re.compile(r"(?:date_)?(?:created|inserted|posted|published|occurred)(?:_(?:at|on|time|date))?")
_TRIGRAMS: Final = frozenset({"gin_trgm_ops", "gist_trgm_ops"})
_LOOKED_UP: Final = frozenset({"btree", "hash"})


def viewset_options(table: Table, fields: Mapping[str, FieldDraft]) -> dict[str, Any]:
    """The options of a viewset that a table's indexes serve. ``fields`` has the fields by column."""
    shown = {column: each for column, each in fields.items() if not each.options.get("write_only")}
    plain = [index for index in table.indexes if index.plain]
    looked_up = _leading(index for index in plain if index.method in _LOOKED_UP)
    sorted_by = _leading(index for index in plain if index.method == "btree")
    inside = _leading(index for index in plain if index.method == "gin")
    if table.key:
        looked_up.setdefault(table.key[0])
        sorted_by.setdefault(table.key[0])
    filters: dict[str, list[str]] = {}
    for column, each in shown.items():
        containing = column in inside and each.kind in _CONTAINING
        if (column in looked_up or containing) and (lookups := _lookups(each, containing=containing)):
            filters[each.name] = lookups
    sortable = [each for column, each in shown.items() if column in sorted_by and each.kind in _SORTED]
    newest = [
        each.name
        for each in sortable
        if each.kind is Kind.MOMENT and not each.options.get("null") and _NEWEST_FIRST.fullmatch(each.name)
    ]
    searched = _trigrams(table.indexes)
    options: dict[str, Any] = {
        "filterset_fields": filters,
        "search_fields": [each.name for column, each in shown.items() if column in searched and each.kind is Kind.TEXT],
        "ordering_fields": [each.name for each in sortable],
        "ordering": [f"-{name}" for name in newest[:1]],
    }
    return {name: value for name, value in options.items() if value}


def is_indexed(table: Table, column: str) -> bool:
    """Whether an index finds the rows with a value of the column."""
    return column in _leading(index for index in table.indexes if index.plain and index.method in _LOOKED_UP)


def _leading(indexes: Iterable[Index]) -> dict[str, None]:
    return dict.fromkeys(index.columns[0] for index in indexes)


def _lookups(each: FieldDraft, *, containing: bool) -> list[str]:
    valid = lookups_of(each.lookup_kind)
    usual = ("exact", "in") if each.is_key else _LOOKUPS.get(each.kind, ("exact", "in"))
    wanted = ("contains",) if containing else usual
    if each.options.get("null"):
        wanted = (*wanted, "isnull")
    parameters = {lookup: each.name if lookup == "exact" else f"{each.name}__{lookup}" for lookup in wanted}
    return [lookup for lookup in wanted if lookup in valid and parameters[lookup] not in RESERVED_PARAMETERS]


def _trigrams(indexes: Iterable[Index]) -> set[str]:
    return {
        column
        for index in indexes
        if not index.partial
        for column, operators in zip(index.columns, index.classes, strict=False)
        if operators in _TRIGRAMS
    }
