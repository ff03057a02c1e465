"""Which values a column has refused. PostgreSQL does not say it, and a column may be narrower than its field."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

import asyncpg

from rowcast.errors import DoesNotFit, ValidationError
from rowcast.resources.traits import TableTraits
from rowcast.resources.types.postgresql import NOT_SINGLE, SINGLE_MAX, SINGLE_MIN

_SIZED_TYPE: Final = re.compile(r"([^(]+)\((\d+)(?:,(-?\d+))?\)")
_INTEGER_BITS: Final = {"smallint": 16, "integer": 32, "bigint": 64}


def with_fields(error: ValidationError, traits: TableTraits, values: Mapping[str, Any]) -> ValidationError:
    """The error with a message on each of the ``values``, by column, that has caused it; as it is if none has."""
    cause = error.__cause__
    if isinstance(cause, asyncpg.CheckViolationError):
        named = {name: "Not a valid value." for name in values if traits.domains.get(name, "") == cause.data_type_name}
    elif isinstance(error, DoesNotFit):
        named = dict(_misfits(traits, values))
    else:
        return error
    return ValidationError({name: [message] for name, message in named.items()}) if named else error


def _misfits(traits: TableTraits, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        message = None if value is None else _misfit(traits.types.get(name, ""), value, traits.labels.get(name))
        if message is not None:
            yield name, message


def _misfit(type_: str, value: Any, labels: Collection[str] | None) -> str | None:
    """Why a column of a type does not take a value, given as Python or as JSON; ``None`` if it does.

    ``labels`` are the values of an enum. Whether the value is of the right type at all is not its business.
    """
    if isinstance(value, list):
        items = ((n, _misfit(type_.removesuffix("[]"), item, labels)) for n, item in enumerate(value))
        return next((f"Item {n}: {message}" for n, message in items if message is not None), None)
    if labels is not None:
        return None if value in labels else f"Must be one of: {', '.join(labels)}."
    if isinstance(value, int) and (bits := _INTEGER_BITS.get(type_)):
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        return None if low <= value <= high else f"Must be between {low} and {high}."
    if isinstance(value, int | float) and type_ == "real":
        return None if not value or SINGLE_MIN <= abs(value) <= SINGLE_MAX else NOT_SINGLE
    sized = _SIZED_TYPE.fullmatch(type_)
    if sized is None:
        return None
    size, scale = int(sized[2]), int(sized[3] or 0)
    if isinstance(value, str) and sized[1] in ("character varying", "character"):
        return f"Longer than maximum length {size}." if value[size:].strip(" ") else None
    if isinstance(value, str) and sized[1] in ("bit", "bit varying"):
        fits = len(value) == size if sized[1] == "bit" else len(value) <= size
        return None if fits else f"Not a valid {type_}."
    number = _decimal(value) if sized[1] == "numeric" else None
    if number is not None and abs(number) + Decimal(5).scaleb(-scale - 1) >= 10 ** (size - scale):  # it is rounded
        return f"Must have at most {size - scale} digits before the decimal point."
    return None


def _decimal(value: Any) -> Decimal | None:
    try:
        number = Decimal(value)
    except (ArithmeticError, TypeError, ValueError):
        return None
    return number if number.is_finite() else None
