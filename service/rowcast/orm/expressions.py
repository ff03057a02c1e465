"""Conditions and arithmetic in Python code: ``Q`` and ``F``.

Both are plain values, usable before the configuration is known; ``resolve`` turns them into the values of ``query``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rowcast.errors import ValidationError
from rowcast.identity.users import User
from rowcast.orm.state import Row, state_of
from rowcast.query.conditions import Among, Comparison, Condition, Expression, Junction, Negation, Query, compare
from rowcast.resources.fields import Field, Kind
from rowcast.resources.lookups import LOOKUPS, Argument, lookups_of, split_lookup
from rowcast.resources.resource import Path, Resources


class Q:
    """A condition: ``Q(completed=False) & (Q(priority="high") | ~Q(category__name__icontains="later"))``.

    Args:
        parts: Conditions that must all hold.
        lookups: Lookups that must all hold, as in ``filter``: a path, optionally followed by ``__`` and a lookup.
    """

    __slots__ = ("lookups", "operator", "parts")

    def __init__(self, *parts: Q, **lookups: Any) -> None:
        self.operator = "and"
        self.parts = parts
        self.lookups = lookups

    @classmethod
    def of(cls, group: Mapping[str, Any]) -> Q:
        """The condition of a group as clients write it in ``?filter=``, with any lookup.

        ``{"or": [{"pages__gte": 500}, {"not": {"read": True}}]}``: all keys must hold; ``and`` and ``or`` have lists of
        groups, ``not`` has one.

        Raises:
            ValueError: a group is not a mapping, or a list of groups is empty.
        """
        if not isinstance(group, Mapping):
            raise ValueError(f"a group of conditions is a mapping, not {group!r}")
        made = cls(**{name: value for name, value in group.items() if name not in ("and", "or", "not")})
        for operator in ("and", "or"):
            if operator in group:
                parts = [cls.of(each) for each in group[operator]]
                if not parts:
                    raise ValueError(f"{operator}: needs at least one group")
                joined = cls(*parts)
                joined.operator = operator
                made &= joined
        return made & ~cls.of(group["not"]) if "not" in group else made

    def __and__(self, other: Q) -> Q:
        return Q(self, other)

    def __or__(self, other: Q) -> Q:
        either = Q(self, other)
        either.operator = "or"
        return either

    def __invert__(self) -> Q:
        negated = Q(self)
        negated.operator = "not"
        return negated

    def __repr__(self) -> str:
        inside = [*map(repr, self.parts), *(f"{name}={value!r}" for name, value in self.lookups.items())]
        return f"{'~' if self.operator == 'not' else ''}Q({(' | ' if self.operator == 'or' else ', ').join(inside)})"

    def resolve(self, resources: Resources, resource: str) -> Condition:
        """The condition on a resource. ``ValueError`` for a path or lookup that does not exist.

        ``ValidationError`` for a value that does not fit its field, since a client may have sent it.
        """
        parts = [part.resolve(resources, resource) for part in self.parts]
        parts += [lookup(resources, resource, name, value) for name, value in self.lookups.items()]
        joined = parts[0] if len(parts) == 1 else Junction("or" if self.operator == "or" else "and", tuple(parts))
        return Negation(joined) if self.operator == "not" else joined


@dataclass(frozen=True, slots=True, eq=False)
class F:
    """A column of the same row: ``update(view_count=F("view_count") + 1)``, ``filter(due_date__lt=F("end"))``.

    Args:
        name: The column, or a path such as ``category__name`` in a filter. Arithmetic with ``+ - * /`` gives another F.
    """

    name: str | None
    sign: str = ""
    left: Any = None
    right: Any = None

    def __add__(self, other: Any) -> F:
        return F(None, "+", self, other)

    def __sub__(self, other: Any) -> F:
        return F(None, "-", self, other)

    def __mul__(self, other: Any) -> F:
        return F(None, "*", self, other)

    def __truediv__(self, other: Any) -> F:
        return F(None, "/", self, other)

    def __radd__(self, other: Any) -> F:
        return F(None, "+", other, self)

    def __rsub__(self, other: Any) -> F:
        return F(None, "-", other, self)

    def __rmul__(self, other: Any) -> F:
        return F(None, "*", other, self)

    def __rtruediv__(self, other: Any) -> F:
        return F(None, "/", other, self)

    def resolve(self, resources: Resources, resource: str, field: Field) -> Expression:
        """The expression on a resource; its constants are values of ``field``."""
        return Expression(*self._parts(resources, resource, field))

    def _parts(self, resources: Resources, resource: str, field: Field) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        if self.name is not None:
            resources.resolve(resource, self.name)
            return ("column", self.name), ()
        sides = [
            side._parts(resources, resource, field) if isinstance(side, F) else (("value",), (fitting(field, side),))
            for side in (self.left, self.right)
        ]
        return (self.sign, sides[0][0], sides[1][0]), (*sides[0][1], *sides[1][1])


def lookup(resources: Resources, resource: str, name: str, value: Any) -> Condition:
    """One keyword of ``filter``: ``category__name__icontains="work"``; ``pk`` is the key."""
    path, text, found = split_lookup(resources, resource, name)
    kind = path.values.field_type.kind
    if (kind, found) not in LOOKUPS:
        raise ValueError(f"{name}: {found} does not suit a {path.values.type} field; use {', '.join(lookups_of(kind))}")
    if hasattr(value, "as_subquery"):
        return _among(resources, path, text, found, name, value.as_subquery())
    if value is None and found == "exact":
        return Comparison(text, "isnull", True, kind)
    if isinstance(value, F) and path.values.parts:
        raise ValueError(f"{name}: a key of several fields cannot be compared with F; compare {path.field.name}")
    if isinstance(value, F):
        return Comparison(text, found, value.resolve(resources, resource, path.values), kind)
    return compare(text, found, _argument(path, LOOKUPS[kind, found].takes, name, value), kind)


def _among(resources: Resources, path: Path, text: str, found: str, name: str, rows: tuple[Query, str]) -> Condition:
    """The rows whose value at a path is one of those of a query set."""
    query, column = rows
    if found not in ("in", "not_in"):
        raise ValueError(f"{name}: a query set has many values: use {text}__in")
    inner = resources.resolve(query.resource, column)
    kinds = [each.values.field_type.kind for each in (path, inner)]
    if path.values.parts or inner.values.parts:
        raise ValueError(f"{name}: a key of several fields cannot be compared with a query set; await it first")
    if path.derived is not None or inner.derived is not None:
        raise ValueError(f"{name}: part of a value cannot be compared with a query set; await it first")
    if kinds[0] != kinds[1] or inner.many:
        raise ValueError(f"{name}: {column} of {query.resource} has no values that {text} could have")
    among = Among(text, query, column)
    return among if found == "in" else Negation(among)


def _argument(path: Path, takes: Argument, name: str, value: Any) -> Any:
    match takes:
        case Argument.FLAG:
            return bool(value)
        case Argument.TEXT:
            return str(value)
        case Argument.MANY | Argument.PAIR:
            if isinstance(value, str) or not hasattr(value, "__iter__"):
                raise ValueError(f"{name}: needs several values, such as a list")
            values = tuple(_filter_value(path.values, item, path.column) for item in value)
            if takes is Argument.PAIR and len(values) != 2:
                raise ValueError(f"{name}: needs two values")
            return values
        case Argument.ONE:
            return _filter_value(path.values, value, path.column)


def _filter_value(field: Field, value: Any, name: str) -> Any:
    """A value to filter by: as ``fitting``, and for a number or boolean also its form in a URL."""
    if not isinstance(value, str) or field.field_type.kind not in (Kind.NUMBER, Kind.BOOLEAN):
        return fitting(field, value, name)
    try:
        return field.field_type.parse(field, value)
    except ValueError as error:
        raise ValidationError({name: [str(error)]}) from None


def fitting(field: Field, value: Any, name: str | None = None) -> Any:
    """A value for a field: unchanged if it has the field's Python type, otherwise from its JSON form.

    A row means its key. ``ValidationError`` if it does not fit, under ``name``: by default the field's; ``TypeError`` for
    a user, which is no client's mistake.
    """
    value = state_of(value).key if isinstance(value, Row) else value
    if isinstance(value, User):
        raise TypeError(f"{name or field.name}: a user is not a value; give its id, such as request.user.id")
    if value is None:
        return None
    try:
        return _fitting(field, value)
    except ValueError as error:
        raise ValidationError({name or field.name: [str(error)]}) from None


def storable(field: Field, value: Any, name: str | None = None) -> Any:
    """A value for a column: as ``fitting``, and within the limits of the column's type."""
    value = fitting(field, value, name)
    try:
        if isinstance(value, int) and field.field_type.kind is Kind.NUMBER:
            field.field_type.load(field, value)
    except ValueError as error:
        raise ValidationError({name or field.name: [str(error)]}) from None
    if isinstance(value, str) and field.longest is not None and len(value) > field.longest:
        raise ValidationError({name or field.name: [f"Longer than maximum length {field.longest}."]})
    return value


def _fitting(field: Field, value: Any) -> Any:
    if field.parts and isinstance(value, list | tuple) and len(value) == len(field.parts):
        return tuple([_fitting_part(part, each) for part, each in zip(field.parts, value, strict=True)])
    if field.field_type.kind is Kind.ARRAY and isinstance(value, list | tuple):
        return [_fitting(field.element, item) for item in value]
    if field.field_type.native is None or not isinstance(value, field.field_type.native):
        return field.field_type.load(field, value)
    return field.field_type.from_native(value)


def _fitting_part(part: Field, value: Any) -> Any:
    """A value for one field of a key, or a row that it refers to."""
    return _fitting(part, state_of(value).key if isinstance(value, Row) else value)
