"""Queries as values: conditions, an order, and the relations to load with the rows.

Each condition has a shape and values. ``shape`` is hashable and contains everything on which the SQL depends; a statement
is compiled once for it. ``values`` are the parameters of that SQL, in the order of the shape.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from sys import getsizeof
from typing import Any, TypeAlias

from rowcast.resources.fields import Field, Kind
from rowcast.resources.lookups import LOOKUPS, Argument, Lookup
from rowcast.resources.resource import Resource, Resources

Shape: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Expression:
    """Arithmetic on columns. The shape is a tree of ``("column", path)``, ``("value",)`` and ``(sign, left, right)``."""

    shape: Shape
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """One lookup on one path: ``Comparison("category__name", "icontains", "work", Kind.TEXT)``.

    ``argument`` is a value, a tuple of values, or an ``Expression``. Values of array and JSON fields may be lists and
    dictionaries; comparisons with equal contents are equal. ``zone`` is the time zone in which a part of a moment is compared,
    empty for UTC.
    """

    path: str
    lookup: str
    argument: Any
    kind: Kind
    zone: str = ""

    def __eq__(self, other: object) -> bool:
        return self._identity == other._identity if isinstance(other, Comparison) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[Any, ...]:
        nested = self.kind is Kind.JSON or self.kind is Kind.ARRAY
        return self.path, self.lookup, _frozen(self.argument) if nested else self.argument, self.kind, self.zone

    @property
    def lookup_spec(self) -> Lookup:
        """The row of ``LOOKUPS``."""
        return LOOKUPS[self.kind, self.lookup]

    @property
    def shape(self) -> Shape:
        if isinstance(self.argument, Expression):
            return ("is", self.path, self.lookup, self.argument.shape)
        flag = self.argument if self.lookup_spec.takes is Argument.FLAG else None
        return ("is in zone" if self.zone else "is", self.path, self.lookup, flag)

    @property
    def values(self) -> tuple[Any, ...]:
        if self.zone:
            return (self.zone, *replace(self, zone="").values)
        if isinstance(self.argument, Expression):
            return self.argument.values
        match self.lookup_spec.takes:
            case Argument.FLAG:
                return ()
            case takes if self.kind is Kind.KEY:
                return tuple(self.argument) if takes is Argument.ONE else tuple(zip(*self.argument, strict=True))
            case Argument.PAIR:
                return tuple(self.argument)
        return (self.lookup_spec.prepare(self.argument),)


@dataclass(frozen=True, slots=True)
class Junction:
    """All of several conditions (``and``), or any of them (``or``)."""

    operator: str
    parts: tuple[Condition, ...]

    @property
    def shape(self) -> Shape:
        return (self.operator, *(part.shape for part in self.parts))

    @property
    def values(self) -> tuple[Any, ...]:
        return tuple(value for part in self.parts for value in part.values)


@dataclass(frozen=True, slots=True)
class Negation:
    """The rows that a condition does not match. A comparison with null is unknown in SQL, and does not match."""

    part: Condition

    @property
    def shape(self) -> Shape:
        return ("not", self.part.shape)

    @property
    def values(self) -> tuple[Any, ...]:
        return self.part.values


class StoredText(str):
    """A value that Python does not have, such as infinity or a year BC, as the string from which PostgreSQL reads it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class After:
    """The rows after another one in an order, with that row if it is ``included``.

    Each of ``steps`` is (path, descending), the last ones those of the key; ``row`` has that row's values.
    """

    steps: tuple[tuple[str, bool], ...]
    row: tuple[Any, ...]
    included: bool = False

    @property
    def shape(self) -> Shape:
        return (
            "from" if self.included else "after",
            *(
                (path, descending, value is None, isinstance(value, StoredText))
                for (path, descending), value in zip(self.steps, self.row, strict=True)
            ),
        )

    @property
    def values(self) -> tuple[Any, ...]:
        return tuple(value for value in self.row if value is not None)


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The rows that have one of these versions (see ``versions.version``)."""

    versions: tuple[str, ...]

    @property
    def shape(self) -> Shape:
        return ("unchanged",)

    @property
    def values(self) -> tuple[Any, ...]:
        return (self.versions,)


@dataclass(frozen=True, slots=True)
class Among:
    """The rows with a value at a path that some row of another query has at ``column``: ``path IN (SELECT column …)``."""

    path: str
    rows: Query
    column: str

    @property
    def shape(self) -> Shape:
        return ("among", self.path, (self.rows.resource, self.column, self.rows.shape))

    @property
    def values(self) -> tuple[Any, ...]:
        return self.rows.values


@dataclass(frozen=True, slots=True)
class Found:
    """The rows that a full text search finds; only for a resource with the option ``search``."""

    text: str

    @property
    def shape(self) -> Shape:
        return ("search",)

    @property
    def values(self) -> tuple[Any, ...]:
        return (self.text,)


Condition: TypeAlias = "Comparison | Junction | Negation | After | Unchanged | Among | Found"


def compare(path: str, lookup: str, argument: Any, kind: Kind) -> Condition:
    """A lookup whose argument may be no key at all, of several fields, which no row has."""
    if kind is Kind.KEY and lookup in ("in", "not_in") and not argument:
        return Junction("or" if lookup == "in" else "and", ())
    return Comparison(path, lookup, argument, kind)


def equals(path: str, values: Field, value: object) -> Comparison:
    """The rows with this value at the end of a path; ``values`` is the field whose values the path has."""
    return Comparison(path, "exact", value, values.field_type.kind)


def by_key(resources: Resources, resource: str, value: object) -> Comparison:
    """The row of a resource with this key."""
    key = resources[resource].key
    return equals(key.name, resources.key_of(key), value)


def without_deleted(resource: Resource, shown: str = "") -> tuple[Condition, ...]:
    """The condition that leaves out rows that are marked as deleted; none where the resource marks no rows.

    ``shown="only"`` leaves out all others, and ``shown="with"`` none.
    """
    marks = resource.soft_delete
    if marks is None or shown == "with":
        return ()
    return (Comparison(marks.field, "isnull", not shown, resource.fields[marks.field].field_type.kind),)


def total_order(resource: Resource, steps: Sequence[str]) -> tuple[str, ...]:
    """The steps without repetition, followed by the fields of the key that they lack: an order without ties."""
    distinct: dict[str, str] = {}
    for step in steps:
        distinct.setdefault(step.removeprefix("-"), step)
    for field in resource.key_fields:
        distinct.setdefault(field.name, field.name)
    return tuple(distinct.values())


@dataclass(frozen=True)
class Query:
    """The rows of a resource that meet conditions, in an order, with related rows. Every method returns a new query.

    ``related`` are the conditions on related rows, whose shapes are in the projection (``Projection.where``).

    A query can be the key of a cache, because equal queries find the same rows. Shape and hash are computed once.
    """

    resource: str
    where: tuple[Condition, ...] = ()
    order: tuple[str, ...] = ()
    expand: tuple[str, ...] = ()
    related: tuple[Condition, ...] = ()

    @cached_property
    def _hash(self) -> int:
        return hash((self.resource, self.where, self.order, self.expand, self.related))

    def __hash__(self) -> int:
        return self._hash

    def restrict(self, *conditions: Condition) -> Query:
        """The rows that also meet these conditions."""
        return Query(self.resource, self.where + conditions, self.order, self.expand, self.related)

    def showing(self, *conditions: Condition) -> Query:
        """The same rows, with values for the projection before those that there are."""
        return Query(self.resource, self.where, self.order, self.expand, conditions + self.related)

    def sort(self, order: tuple[str, ...]) -> Query:
        """The rows in this order: paths, with ``-`` in front for descending order."""
        return Query(self.resource, self.where, order, self.expand, self.related)

    def unsorted(self) -> Query:
        """The same rows in no order and without related rows."""
        return Query(self.resource, self.where)

    @property
    def shape(self) -> Shape:
        """The shape of all conditions together; empty if there are none."""
        shape: Shape | None = vars(self).get("_shape")
        if shape is None:  # a cached_property would take a lock (until Python 3.12), in every request
            shape = shape_of(self.where)
            vars(self)["_shape"] = shape
        return shape

    @property
    def values(self) -> tuple[Any, ...]:
        """The parameters of all conditions, in the order of ``shape``."""
        return tuple([value for condition in self.where for value in condition.values])

    @property
    def related_values(self) -> tuple[Any, ...]:
        """The parameters of the conditions on related rows, in the order of the projection."""
        return tuple([value for condition in self.related for value in condition.values])

    @property
    def size(self) -> int:
        """The memory that the values take, in bytes. A client decides how much that is."""
        return _size(self.values) + _size(self.related_values)


def shape_of(conditions: Sequence[Condition]) -> Shape:
    """The shape of all conditions together; empty if there are none."""
    return ("and", *[condition.shape for condition in conditions]) if conditions else ()


def unchanged(query: Query, versions: tuple[str, ...] | None) -> Query:
    """The rows of a query that have one of these versions; ``None`` means any version."""
    return query if versions is None else query.restrict(Unchanged(versions))


def _frozen(value: object) -> Hashable:
    """A JSON value or an array in a hashable form.

    The form contains the types of numbers and booleans: ``True == 1`` in Python, but not in JSON.
    """
    if isinstance(value, dict):
        return frozenset((name, _frozen(item)) for name, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    return type(value), value


def _size(value: object) -> int:
    """The memory of a value with everything in it, in bytes."""
    if isinstance(value, dict):
        return getsizeof(value) + sum(map(_size, value.keys())) + sum(map(_size, value.values()))
    return getsizeof(value) + (sum(map(_size, value)) if isinstance(value, list | tuple) else 0)
