"""The rules of a field beyond its type, as validators of request bodies. The database checks them as constraints."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any, Final

import marshmallow as ma
from marshmallow import validate

from rowcast.resources.fields import Field, Kind
from rowcast.resources.types.temporal import is_ambiguous

REQUIRED: Final = "This field is required."
NULL: Final = "May not be null."
BLANK: Final = "May not be blank."


def validators(declared: Field, values: Field) -> list[Any]:
    """The rules of a field as marshmallow validators of Python values; ``values`` is the field of its values."""
    rules: list[Any] = []
    array = values.field_type.kind is Kind.ARRAY
    element = values.element if array else values
    each = (lambda rule: _Each(rule)) if array else (lambda rule: rule)
    if values.field_type.kind is Kind.TEXT and declared.to is None:
        if not values.blank:
            rules.append(validate.Length(min=1, error=BLANK))
        if values.pattern is not None:
            rules.append(_UnlessLonger(_Matches(values.pattern), values.longest))
        if values.field_type.validator is not None:
            rules.append(_UnlessLonger(values.field_type.validator, values.longest))
    if values.min_length is not None or values.longest is not None:
        rules.append(validate.Length(min=values.min_length, max=values.longest))
    if element.min is not None or element.max is not None:
        low, high = (None if x is None else element.field_type.load(element, x) for x in (element.min, element.max))
        rules.append(each(validate.Range(min=low, max=high)))
    if values.zone is not None:
        rules.append(_Unambiguous(values.zone))
    if element.choices:
        loaded = [element.field_type.load(element, choice) for choice in element.choices]
        rules.append(
            each(validate.OneOf(loaded, error=_literally(f"Must be one of: {', '.join(map(str, element.choices))}.")))
        )
    if values.blank:
        rules = [_UnlessBlank(rule) for rule in rules]
    return rules


def _literally(message: str) -> str:
    """A message with its braces escaped, because marshmallow formats messages."""
    return message.replace("{", "{{").replace("}", "}}")


class _Each(validate.Validator):
    """A rule for every item of a list."""

    def __init__(self, rule: Any) -> None:
        self.rule = rule

    def __call__(self, value: list[Any]) -> list[Any]:
        for item in value:
            self.rule(item)
        return value


class _UnlessBlank(_Each):
    """A rule that does not apply to the empty string, for fields that may be blank."""

    def __call__(self, value: Any) -> Any:
        return value if value == "" else self.rule(value)


class _UnlessLonger(validate.Validator):
    """A rule that does not apply to strings that are too long anyway: patterns may take long for them."""

    def __init__(self, rule: Any, longest: int | None) -> None:
        self.rule = rule
        self.longest = longest

    def __call__(self, value: str) -> Any:
        return value if self.longest is not None and len(value) > self.longest else self.rule(value)


class _Unambiguous(validate.Validator):
    """A moment that a column without zone can hold."""

    def __init__(self, zone: str) -> None:
        self.zone = zone

    def __call__(self, value: dt.datetime) -> dt.datetime:
        if is_ambiguous(value, self.zone):
            raise ma.ValidationError(f"{self.zone} has this hour twice, and the column cannot hold the first one.")
        return value


class _Matches(validate.Validator):
    """A pattern that matches anywhere in the string, as in JSON Schema and PostgreSQL's ``~``."""

    def __init__(self, pattern: str) -> None:
        self.regex = re.compile(pattern)

    def __call__(self, value: str) -> str:
        if not self.regex.search(value):
            raise ma.ValidationError(f"Must match the pattern {self.regex.pattern}.")
        return value
