"""``scope:`` as data: conditions on the rows of a viewset, whose values may come from the caller.

A scope is a mapping from paths, each with an optional lookup, to values; all must hold. The keys ``and`` and ``or`` have
lists of such mappings, and ``not`` has one. ``$user.id``, ``$user.is_staff`` and ``$claims.NAME`` stand for the caller's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from marshmallow import ValidationError, fields

from rowcast.configuration.yaml import AboutKey, Steps
from rowcast.errors import did_you_mean
from rowcast.resources.fields import Field, Kind
from rowcast.resources.lookups import LOOKUPS, Argument, lookups_of, split_lookup
from rowcast.resources.resource import Resources

SCOPE_MAX_DEPTH: Final = 5  # groups inside groups
_GROUPS: Final = ("and", "or", "not")
_USER: Final = ("user.id", "user.is_staff")
_CLAIM: Final = re.compile(r"claims\.(\S+)")


@dataclass(frozen=True, slots=True)
class CallerValue:
    """A value of the caller: ``user`` with an attribute's name, or ``claims`` with the name of a claim."""

    source: str
    name: str


@dataclass(frozen=True, slots=True)
class ScopeLookup:
    """One condition: ``organization``, or ``age__gte``, with a value, a ``CallerValue``, or a tuple of these."""

    name: str
    value: Any
    steps: Steps = field(compare=False)  # the place in the option


@dataclass(frozen=True, slots=True)
class ScopeGroup:
    """Conditions: all must hold (``and``), one must hold (``or``), or they must not all hold (``not``)."""

    operator: str
    parts: tuple[ScopePart, ...]

    def lookups(self) -> Iterator[ScopeLookup]:
        """Every condition of the group, at any depth."""
        for part in self.parts:
            if isinstance(part, ScopeGroup):
                yield from part.lookups()
            else:
                yield part


ScopePart: TypeAlias = ScopeLookup | ScopeGroup


class Scope(fields.Field[Any]):
    """The type of the option: a mapping of conditions, which becomes a ``ScopeGroup``."""

    def __init__(self) -> None:
        super().__init__(allow_none=True)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, ScopeGroup):
            return value
        problems: list[tuple[Steps, str]] = []
        group = _group(value, (), problems, 0)
        if problems:
            raise ValidationError(_nested(problems))
        return group

    def json_schema(self) -> dict[str, Any]:
        """An object of conditions."""
        return {"type": "object", "minProperties": 1}


def _nested(problems: list[tuple[Steps, str]]) -> Any:
    """Messages by place, as marshmallow has them."""
    if any(not steps for steps, _ in problems):
        return [message for steps, message in problems if not steps]
    found: dict[Any, Any] = {}
    for steps, message in problems:
        here = found
        for step in steps[:-1]:
            here = here.setdefault(step, {})
        here[steps[-1]] = [message]
    return found


def _group(value: Any, steps: Steps, problems: list[tuple[Steps, str]], depth: int) -> ScopeGroup:
    if not isinstance(value, Mapping) or not value:
        problems.append((steps, "must be a mapping of conditions, such as {organization: $claims.org}"))
        return ScopeGroup("and", ())
    if depth > SCOPE_MAX_DEPTH:
        problems.append((steps, f"at most {SCOPE_MAX_DEPTH} groups inside each other"))
        return ScopeGroup("and", ())
    parts: list[ScopePart] = []
    for name, written in value.items():
        here = (*steps, name)
        if name == "not":
            parts.append(ScopeGroup("not", (_group(written, here, problems, depth + 1),)))
        elif name in _GROUPS:
            if not isinstance(written, list | tuple) or not written:
                problems.append((here, "must be a list of mappings"))
                continue
            inner = tuple(_group(each, (*here, n), problems, depth + 1) for n, each in enumerate(written))
            parts.append(ScopeGroup(name, inner))
        else:
            parts.append(ScopeLookup(str(name), _value(written, here, problems), here))
    return ScopeGroup("and", tuple(parts))


def _value(written: Any, steps: Steps, problems: list[tuple[Steps, str]]) -> Any:
    if isinstance(written, list | tuple):
        return tuple(_value(each, steps, problems) for each in written)
    if isinstance(written, Mapping):
        problems.append((steps, "must be a value, or a list of values"))
    if not isinstance(written, str) or not written.startswith("$"):
        return written
    if written.startswith("$$"):
        return written[1:]
    if (name := written[1:]) in _USER:
        return CallerValue("user", name.removeprefix("user."))
    if claim := _CLAIM.fullmatch(name):
        return CallerValue("claims", claim[1])
    problems.append(
        (steps, f"{written!r} is not a value of the caller; use $user.id, $user.is_staff or $claims.NAME ($$ for a $)")
    )
    return None


def check_scope(resources: Resources, resource: str, scope: ScopeGroup) -> Iterator[tuple[Steps, str]]:
    """The problems of a scope: unknown paths and lookups, and values that do not fit their field."""
    for condition in scope.lookups():
        try:
            path, _, lookup = split_lookup(resources, resource, condition.name)
        except ValueError as error:
            yield condition.steps, AboutKey(str(error))
            continue
        kind = path.values.field_type.kind
        if (kind, lookup) not in LOOKUPS:
            hint = did_you_mean(lookup, lookups_of(kind))
            yield (
                condition.steps,
                AboutKey(f"{condition.name}: {lookup} does not suit a {path.values.type} field; {hint}"),
            )
            continue
        if message := _misfit(path.values, LOOKUPS[kind, lookup].takes, lookup, condition.value):
            yield condition.steps, message


def _misfit(field: Field, takes: Argument, lookup: str, value: Any) -> str | None:
    """Why a value does not fit a lookup; ``None`` if it does, or if only the caller decides."""
    if isinstance(value, CallerValue):
        return None
    match takes:
        case Argument.FLAG:
            return None if isinstance(value, bool) else "must be true or false"
        case Argument.MANY | Argument.PAIR:
            if not isinstance(value, tuple) or (takes is Argument.PAIR and len(value) != 2):
                return "must be a list of two values" if takes is Argument.PAIR else "must be a list of values"
            return next((message for each in value if (message := _misfit_of_one(field, each))), None)
        case Argument.TEXT:
            return None if isinstance(value, str) else "must be a string"
        case Argument.ONE:
            if value is None:
                return None if lookup == "exact" else "may not be null; use isnull"
            return _misfit_of_one(field, value)


def _misfit_of_one(field: Field, value: Any) -> str | None:
    if isinstance(value, CallerValue):
        return None
    if value is None:
        return "may not be null; use isnull"
    from_text = isinstance(value, str) and field.field_type.kind in (Kind.NUMBER, Kind.BOOLEAN)
    try:
        (field.field_type.parse if from_text else field.field_type.load)(field, value)
    except (ValueError, TypeError) as error:
        return str(error)
    return None
