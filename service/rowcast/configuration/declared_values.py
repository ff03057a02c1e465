"""The values in a field's options: min, max, choices and default, in the JSON form of the field's type."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from marshmallow import ValidationError

from rowcast.configuration.yaml import External
from rowcast.errors import did_you_mean
from rowcast.resources import validators
from rowcast.resources.fields import Field, Kind
from rowcast.resources.lookups import LOOKUP_NAMES
from rowcast.resources.lossless_json import with_exact_integers


def item_field(field: Field) -> Field:
    """The field that choices, min and max apply to: that of an array's items, or the field itself."""
    return field.element if field.field_type.kind is Kind.ARRAY else field


def _with_t(given: Any) -> Any:
    """A datetime as RFC 3339 has it; YAML may write it with a space."""
    return type(given)(_DATE_AND_SPACE.sub(r"\1T", given)) if isinstance(given, str) else given


_DATE_AND_SPACE: Final = re.compile(r"^([0-9]{4}-[0-9]{2}-[0-9]{2}) ")


def canonical(field: Field, given: Any) -> Any:
    """A value as the service writes it in JSON. ``ValueError`` says why it is not of the field's type."""
    if field.field_type.kind is Kind.JSON:
        given = with_exact_integers(given)
    if field.item_type.native is dt.datetime:
        given = [_with_t(item) for item in given] if isinstance(given, list) else _with_t(given)
    loaded = (
        field.field_type.parse(field, given) if isinstance(given, External) else field.field_type.load(field, given)
    )
    return field.field_type.dump(field, loaded)


def valid_value(field: Field, given: Any) -> Any:
    """A value as from ``canonical``, which also passes the validators of request bodies."""
    value = canonical(field, given)
    for item in value if field.field_type.kind is Kind.ARRAY else [value]:
        if field.choices and item not in field.choices:
            raise ValueError(f"{item!r} is not one of the choices; {did_you_mean(str(item), map(str, field.choices))}")
    loaded = field.field_type.load(field, value)
    for rule in validators.validators(field, replace(field, choices=())):
        try:
            rule(loaded)
        except ValidationError as error:
            raise ValueError(" ".join(map(str, error.messages))) from None
    return value


def choice_of(field: Field, given: Any, others: Mapping[int, Any]) -> Any:
    """A choice that is not among the ``others``. ``ValueError`` says what is wrong with it."""
    value = valid_value(field, given)
    if any(type(other) is type(value) and other == value for other in others.values()):
        raise ValueError(f"{value!r} is listed twice")
    return value


def is_inverted(field: Field, low: Any, high: Any) -> bool:
    """Whether the lower limit is above the upper one."""
    return bool(field.field_type.load(field, low) > field.field_type.load(field, high))


_MEMBER: Final = r"[A-Za-z0-9]+(?:[_-][A-Za-z0-9]+)*"
MEMBER_PATH: Final = rf"{_MEMBER}(?:__{_MEMBER})*"


def wrong_paths(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The paths of a json field that are wrong, each with a message."""
    for path in paths:
        if not re.fullmatch(MEMBER_PATH, path):
            yield path, f"{path!r} is not a path of names, with '__' between them, such as a__b"
        elif path.rpartition("__")[2] in LOOKUP_NAMES:
            yield path, f"{path!r} ends in the name of a lookup, for which filters would take it"


_UNPORTABLE: Final = re.compile(r"(?<!\\)(?:\\\\)*(\\[bB]|\(\?(?![:=!]|<[=!])|\{,[0-9])")


def pattern_problems(pattern: str | None) -> Iterator[tuple[str, bool]]:
    """What is wrong with a regular expression, and whether Python can use it nevertheless."""
    if pattern is None:
        return
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        yield f"is not a regular expression: {error}", False
        return
    if found := _UNPORTABLE.search(pattern):
        message = (
            f"{found[1]!r} has another meaning in PostgreSQL, which also checks the pattern; write it in another way"
        )
        yield message, True
