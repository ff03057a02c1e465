"""Projections: which columns and related rows of a row are read or shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from types import MappingProxyType

from rowcast.errors import ParseError, did_you_mean
from rowcast.query.conditions import Shape
from rowcast.resources.resource import Resource, Resources


@dataclass(frozen=True)
class Projection:
    """The parts of a row that are read, in order: columns by name, then related rows by relation.

    Each relation has its own projection. ``where`` is the shape of a condition on the rows of a relation: others are left
    out, or null. ``highlight`` are columns that are also shown with what a search has found in them. The hash is computed once, since requests look statements up by projection.
    """

    resource: str
    columns: tuple[str, ...]
    related: tuple[tuple[str, Projection], ...] = ()
    where: Shape = ()
    highlight: tuple[str, ...] = ()

    @cached_property
    def _hash(self) -> int:
        return hash((self.resource, self.columns, self.related, self.where, self.highlight))

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def resources(self) -> frozenset[str]:
        """Every resource whose rows are read."""
        return frozenset({self.resource}.union(*(inner.resources for _, inner in self.related)))

    @cached_property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits: equal for equal projections in every process, and almost always different otherwise."""
        return blake2b(repr(self).encode(), digest_size=4).hexdigest()

    def only(self, names: Sequence[str]) -> Projection:
        """The part of this projection with these names; ``ParseError`` for a name that it does not have."""
        shown = {*self.columns, *(name for name, _ in self.related)}
        for name in names:
            if name not in shown:
                hint = did_you_mean(name, sorted(shown))
                raise ParseError(f"fields: there is no field {name[:50]!r} here; {hint}", code="invalid_parameter")
        return Projection(
            self.resource,
            tuple(name for name in self.columns if name in names),
            tuple((name, inner) for name, inner in self.related if name in names),
            self.where,
            self.highlight,
        )


def projection_of(resource: Resource) -> Projection:
    """The default projection of a resource: every column that is not ``write_only``, and no related rows."""
    return Projection(resource.name, tuple(name for name, field in resource.columns.items() if not field.write_only))


def with_all_columns(resources: Resources, shown: Projection) -> Projection:
    """The same relations, each row with all of its columns (``write_only`` ones too), which Python code may read."""
    columns = tuple(resources[shown.resource].columns)
    related = tuple((name, with_all_columns(resources, inner)) for name, inner in shown.related)
    return Projection(shown.resource, columns, related, shown.where)


def expand(
    resources: Resources,
    shown: Projection,
    paths: tuple[str, ...],
    rows: Mapping[str, Projection] = MappingProxyType({}),
) -> Projection:
    """A projection with related rows added: ``("category", "tags", "category__parent")``.

    ``rows`` is the projection of a row by resource, where it is not the default one (``projection_of``).
    ``ParseError`` names a path that does not exist, and the valid ones; a ``write_only`` relation cannot be expanded.
    """
    nested: dict[str, list[str]] = {}
    for path in paths:
        name, more, rest = path.partition("__")
        relations = resources.relations(shown.resource)
        if name not in relations or relations[name].field.write_only:
            valid = sorted(name for name, relation in relations.items() if not relation.field.write_only)
            hint = did_you_mean(name, valid)
            raise ParseError(f"expand: {shown.resource} has no relation {name!r}; {hint}", code="invalid_parameter")
        nested.setdefault(name, [])
        if more:
            nested[name].append(rest)
    related = dict(shown.related)
    for name, deeper in nested.items():
        target = resources[resources.relations(shown.resource)[name].target]
        inner = related.get(name) or rows.get(target.name) or projection_of(target)
        related[name] = expand(resources, inner, tuple(deeper), rows)
    return Projection(shown.resource, shown.columns, tuple(related.items()), shown.where)
