"""What can be aggregated: the functions, the buckets of time, the fields that they suit, and the fields of results."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from rowcast.resources.fields import Field, Kind
from rowcast.resources.types import FIELD_TYPES

GROUP_BY: Final = "group_by"
FUNCTIONS: Final = ("count", "sum", "avg", "min", "max", "count_distinct")  # of the query string
BUCKETS: Final = ("year", "quarter", "month", "week", "day", "hour")  # into which moments are truncated
TRUNC: Final = "__trunc_"
RELATED_FUNCTIONS: Final = ("count", "sum", "avg", "min", "max")  # of the rows that a path leads to: ``books__count``
STRING_SUM: Final = Field("sum", FIELD_TYPES["decimal"])  # of integers whose sums are strings
_COUNT: Final = Field("count", FIELD_TYPES["big_integer"])
_DECIMAL: Final = Field("decimal", FIELD_TYPES["decimal"])
_FLOAT: Final = Field("float", FIELD_TYPES["float"])
_ORDERED: Final = (Kind.NUMBER, Kind.MOMENT, Kind.TEXT)
_SIMPLE: Final = (*_ORDERED, Kind.UUID)


def buckets_of(values: Field) -> tuple[str, ...]:
    """The buckets that the values of a field can be truncated into: none, but for moments and days."""
    match values.field_type.name:
        case "datetime":
            return BUCKETS
        case "date":
            return tuple(each for each in BUCKETS if each != "hour")
    return ()


def suits(function: str, values: Field) -> bool:
    """Whether a function, or ``group_by``, suits a field. PostgreSQL has no least or greatest UUID."""
    kind = values.field_type.kind
    match function:
        case "sum" | "avg":
            return kind is Kind.NUMBER
        case "min" | "max":
            return kind in _ORDERED
    return kind in _SIMPLE or kind is Kind.BOOLEAN


def result_field(function: str, values: Field | None) -> Field:
    """The field of a function's result; ``values`` is that of its argument.

    Sums and averages of integers and decimals have any number of digits, so they are decimals.
    """
    if function in ("count", "count_distinct"):
        return _COUNT
    assert values is not None
    if function == "sum" and values.field_type.sums_as_strings:
        return STRING_SUM
    if function in ("sum", "avg"):
        return _FLOAT if values.field_type.name in ("float", "real") else _DECIMAL
    return values


def functions_of_related(values: Field) -> tuple[str, ...]:
    """The functions of several rows that suit a field."""
    return tuple(each for each in RELATED_FUNCTIONS if suits(each, values))


def related_field(name: str, function: str, values: Field) -> Field:
    """The field of a function's result over related rows; over none it is null, or for ``count`` 0."""
    return replace(
        result_field(function, values), name=f"{name}__{function}", null=function != "count", required=False,
        read_only=True, write_only=values.write_only, primary_key=False, unique=False, index=False, order="value",
    )  # fmt: skip
