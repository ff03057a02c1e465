"""What can be aggregated: the functions, the buckets of time, and the fields that they suit."""

from __future__ import annotations

from typing import Final

from rowcast.resources.fields import Field, Kind

GROUP_BY: Final = "group_by"
FUNCTIONS: Final = ("count", "sum", "avg", "min", "max", "count_distinct")  # of the query string
BUCKETS: Final = ("year", "quarter", "month", "week", "day", "hour")  # into which moments are truncated
TRUNC: Final = "__trunc_"
_SIMPLE: Final = (Kind.NUMBER, Kind.MOMENT, Kind.TEXT, Kind.UUID)


def buckets_of(values: Field) -> tuple[str, ...]:
    """The buckets that the values of a field can be truncated into: none, but for moments and days."""
    match values.field_type.name:
        case "datetime":
            return BUCKETS
        case "date":
            return tuple(each for each in BUCKETS if each != "hour")
    return ()


def suits(function: str, values: Field) -> bool:
    """Whether a function, or ``group_by``, suits a field."""
    kind = values.field_type.kind
    match function:
        case "sum" | "avg":
            return kind is Kind.NUMBER
        case "min" | "max":
            return kind in _SIMPLE
    return kind in _SIMPLE or kind is Kind.BOOLEAN
