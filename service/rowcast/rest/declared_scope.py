"""The option ``scope`` for one viewset: the conditions that it means for a caller.

A value of the caller that is missing or does not fit is unknown. A condition on an unknown value matches nothing, and so do
``and`` and ``not`` around it; ``or`` goes on with its other parts. So what is not known never shows a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from rowcast.configuration.caller_value import caller_value
from rowcast.configuration.scope import CallerValue, ScopeGroup, ScopeLookup, ScopePart
from rowcast.errors import ValidationError
from rowcast.identity.permissions import BY_CALLER_ALONE, BasePermission, allowed
from rowcast.identity.protocols import Request, View
from rowcast.orm.expressions import lookup
from rowcast.query.conditions import Comparison, Condition, Junction, Negation
from rowcast.resources.lookups import LOOKUPS, Argument, split_lookup
from rowcast.resources.resource import Resources

CACHED_SCOPES: Final = 1024  # of each viewset, by the values of their callers
NOTHING: Final = Junction("or", ())  # the condition that no row meets
_UNKNOWN: Final = object()


class _Unknown(Exception):
    """A value of the caller is missing or does not fit."""


@dataclass(frozen=True, slots=True)
class CallerScope:
    """The scope of one caller: conditions, and the values of the columns that they fix.

    A new row gets the ``fixed`` values where its body leaves them out.
    """

    conditions: tuple[Condition, ...]
    fixed: Mapping[str, Any]


EVERYTHING: Final = CallerScope((), {})


class DeclaredScope:
    """The scope of a viewset. ``fixed_columns`` are those that it fixes by equality, ``caller_columns`` to a caller's value."""

    def __init__(self, resources: Resources, resource: str, group: ScopeGroup, unless: BasePermission | None) -> None:
        self.group = group
        self._resources = resources
        self._resource = resource
        self._unless = unless
        self._values = tuple(dict.fromkeys(value for each in group.lookups() for value in _caller_values(each.value)))
        self._fixing = {
            path.column: part
            for part in _conjuncts(group)
            for path, _, name in (split_lookup(resources, resource, part.name),)
            if name == "exact" and not path.steps and path.derived is None and part.value is not None
        }
        self.fixed_columns = frozenset(self._fixing)
        self.caller_columns = [name for name, part in self._fixing.items() if isinstance(part.value, CallerValue)]
        self._cached = lru_cache(maxsize=CACHED_SCOPES, typed=True)(self._resolve)

    @property
    def needs_related_rows(self) -> bool:
        """Whether no row of any caller shows by itself whether it is in the scope, since a condition is about related rows."""
        names = (each.name for each in self.group.lookups())
        return self._unless is None and any(
            split_lookup(self._resources, self._resource, name)[0].steps for name in names
        )

    @property
    def needs_view(self) -> bool:
        """Whether Python of the user's decides which callers have no scope."""
        return self._unless is not None and type(self._unless) not in BY_CALLER_ALONE

    async def of(self, request: Request, view: View | None) -> CallerScope:
        """The scope of a request's caller; without a view unless ``needs_view``."""
        if self._unless is not None and await allowed(self._unless.has_permission(request, view)):
            return EVERYTHING
        found = [caller_value(request.user, f"{value.source}.{value.name}") for value in self._values]
        values = [_UNKNOWN if value is None else value for value in found]
        try:
            return self._cached(*values)
        except TypeError:  # lists, which cannot be keys
            return self._resolve(*values)

    def _resolve(self, *values: Any) -> CallerScope:
        known = dict(zip(self._values, values, strict=True))
        try:
            found = self._condition(self.group, known)
        except _Unknown:
            return CallerScope((NOTHING,), {})
        conditions = found.parts if isinstance(found, Junction) and found.operator == "and" else (found,)
        fixed = {}
        for column, part in self._fixing.items():
            comparison = self._lookup(part, known)
            assert isinstance(comparison, Comparison)
            fixed[column] = comparison.argument
        return CallerScope(conditions, fixed)

    def _condition(self, part: ScopePart, known: Mapping[CallerValue, Any]) -> Condition:
        if isinstance(part, ScopeLookup):
            return self._lookup(part, known)
        if part.operator == "or":
            return Junction("or", tuple(self._known_parts(part, known)))
        parts = tuple(self._condition(each, known) for each in part.parts)
        if part.operator == "not":
            return Negation(parts[0])
        return parts[0] if len(parts) == 1 else Junction("and", parts)

    def _known_parts(self, part: ScopeGroup, known: Mapping[CallerValue, Any]) -> list[Condition]:
        """The parts of an ``or`` that are known; ``_Unknown`` if none is."""
        found = []
        for each in part.parts:
            try:
                found.append(self._condition(each, known))
            except _Unknown:
                continue
        if not found:
            raise _Unknown
        return found

    def _lookup(self, part: ScopeLookup, known: Mapping[CallerValue, Any]) -> Condition:
        path, _, name = split_lookup(self._resources, self._resource, part.name)
        spec = LOOKUPS[path.values.field_type.kind, name]
        value = _known(part.value, known)
        if part.value is not None and _never_fits(spec.takes, value):
            raise _Unknown
        try:
            if spec.takes is Argument.TEXT:
                spec.parse(path.values, value)
            return lookup(self._resources, self._resource, part.name, value)
        except (ValidationError, ValueError, TypeError):
            raise _Unknown from None


def _conjuncts(group: ScopeGroup) -> list[ScopeLookup]:
    """The conditions that every row of a scope meets by themselves."""
    found: list[ScopeLookup] = []
    for part in group.parts if group.operator == "and" else ():
        found += [part] if isinstance(part, ScopeLookup) else _conjuncts(part)
    return found


def _caller_values(value: Any) -> list[CallerValue]:
    if isinstance(value, tuple):
        return [each for item in value for each in _caller_values(item)]
    return [value] if isinstance(value, CallerValue) else []


def _known(value: Any, known: Mapping[CallerValue, Any]) -> Any:
    if isinstance(value, tuple):
        return tuple(_known(each, known) for each in value)
    if not isinstance(value, CallerValue):
        return value
    if known[value] is _UNKNOWN:
        raise _Unknown
    return known[value]


def _never_fits(takes: Argument, value: Any) -> bool:
    """Whether a value of the caller would be converted to one that its author did not mean."""
    match takes:
        case Argument.FLAG:
            return not isinstance(value, bool)
        case Argument.TEXT:
            return not isinstance(value, str) or not value  # every string contains the empty one
        case Argument.MANY | Argument.PAIR:
            return not isinstance(value, list | tuple) or None in value
        case Argument.ONE:
            return value is None
