"""What Python code asks of rows: ``Q`` for conditions and ``F`` for columns in arithmetic.

Both are plain values, usable before the configuration is known; ``resolve`` turns them into what ``query`` compiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from rowcast.errors import ValidationError
from rowcast.orm.state import Row, state_of
from rowcast.query.conditions import Comparison, Condition, Expression, Junction, Negation
from rowcast.resources.fields import Field, Kind
from rowcast.resources.lookups import LOOKUP_NAMES, LOOKUPS, Takes, lookups_of
from rowcast.resources.resource import Path, Resources

_PARTS: Final = frozenset(LOOKUP_NAMES)


class Q:
    """A condition: ``Q(completed=False) & (Q(priority="high") | ~Q(category__name__icontains="later"))``."""

    __slots__ = ("lookups", "parts", "word")

    def __init__(self, *parts: Q, **lookups: Any) -> None:
        self.word = "and"
        self.parts = parts
        self.lookups = lookups

    def __and__(self, other: Q) -> Q:
        return Q(self, other)

    def __or__(self, other: Q) -> Q:
        either = Q(self, other)
        either.word = "or"
        return either

    def __invert__(self) -> Q:
        negated = Q(self)
        negated.word = "not"
        return negated

    def __repr__(self) -> str:
        inside = [*map(repr, self.parts), *(f"{name}={value!r}" for name, value in self.lookups.items())]
        return f"{'~' if self.word == 'not' else ''}Q({(' | ' if self.word == 'or' else ', ').join(inside)})"

    def resolve(self, resources: Resources, resource: str) -> Condition:
        """The condition on a resource. Raises ``ValueError`` for a path or lookup that is none.

        A value that does not fit its field raises ``ValidationError``, since it may be a client's.
        """
        parts = [part.resolve(resources, resource) for part in self.parts]
        parts += [lookup(resources, resource, name, value) for name, value in self.lookups.items()]
        joined = parts[0] if len(parts) == 1 else Junction("or" if self.word == "or" else "and", tuple(parts))
        return Negation(joined) if self.word == "not" else joined


@dataclass(frozen=True, slots=True, eq=False)
class F:
    """A column of the row at hand: ``update(view_count=F("view_count") + 1)``, ``filter(due_date__lt=F("end"))``."""

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
        """The expression on a resource, its constants being values of ``field``."""
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


def lookup(resources: Resources, resource: str, name: str, given: Any) -> Condition:
    """One keyword of ``filter``: ``category__name__icontains="work"``; ``pk`` is the key."""
    path, found = _split(resources, resource, name)
    kind = path.values.field_type.kind
    where, word = found
    if (kind, word) not in LOOKUPS:
        raise ValueError(f"{name}: {word} does not suit a {path.values.type} field; use {', '.join(lookups_of(kind))}")
    lookup_spec = LOOKUPS[kind, word]
    if given is None and word == "exact":
        word, given = "isnull", True
    elif isinstance(given, F):
        return Comparison(where, word, given.resolve(resources, resource, path.values), kind)
    else:
        given = _argument(path, lookup_spec.takes, name, given)
    return Comparison(where, word, given, kind)


def _split(resources: Resources, resource: str, name: str) -> tuple[Path, tuple[str, str]]:
    """The path of a keyword, its text, and the lookup behind it; a field may be named as a lookup is."""
    text = "__".join(resources[resource].key.name if part == "pk" else part for part in name.split("__"))
    try:
        return resources.resolve(resource, text), (text, "exact")
    except ValueError:
        head, _, word = text.rpartition("__")
        if not head or word not in _PARTS:
            raise
    return resources.resolve(resource, head), (head, word)


def _argument(path: Path, takes: Takes, name: str, given: Any) -> Any:
    match takes:
        case Takes.FLAG:
            return bool(given)
        case Takes.TEXT:
            return str(given)
        case Takes.MANY | Takes.PAIR:
            if isinstance(given, str) or not hasattr(given, "__iter__"):
                raise ValueError(f"{name}: needs several values, such as a list")
            return tuple(_sought(path.values, item, path.column) for item in given)
        case Takes.ONE:
            return _sought(path.values, given, path.column)


def _sought(field: Field, value: Any, name: str) -> Any:
    """A value to look for: as ``fitting``, and for a number or a truth value the text that stands in a URL as well."""
    if not isinstance(value, str) or field.field_type.kind not in (Kind.NUMBER, Kind.BOOLEAN):
        return fitting(field, value, name)
    try:
        return field.field_type.parse(field, value)
    except ValueError as error:
        raise ValidationError({name: [str(error)]}) from None


def fitting(field: Field, value: Any, name: str | None = None) -> Any:
    """A value for a field: as it is if it is of the field's Python type, from its JSON form otherwise.

    A row stands for its key. ``ValidationError`` says what does not fit, by ``name``: that of the field, or of the
    relation whose key it is.
    """
    value = state_of(value).key if isinstance(value, Row) else value
    if value is None:
        return None
    try:
        return _fitting(field, value)
    except ValueError as error:
        raise ValidationError({name or field.name: [str(error)]}) from None


def storable(field: Field, value: Any, name: str | None = None) -> Any:
    """A value for a column, as ``fitting``, which also has to have room in it."""
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
    if field.field_type.kind is Kind.ARRAY and isinstance(value, list | tuple):
        return [_fitting(field.element, item) for item in value]
    if field.field_type.native is None or not isinstance(value, field.field_type.native):
        return field.field_type.load(field, value)
    return field.field_type.from_native(value)
