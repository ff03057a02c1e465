"""The resources that a statement reads, and those that it changes."""

from __future__ import annotations

from collections.abc import Iterator

from rowcast.query.conditions import Shape
from rowcast.query.projection import Projection
from rowcast.resources.fields import Field, Kind
from rowcast.resources.full_text import RANK
from rowcast.resources.resource import Resources


def reads(
    resources: Resources, resource: str, where: Shape, order: tuple[str, ...] = (), shown: Projection | None = None
) -> frozenset[str] | None:
    """The resources on which the result of a query depends: its condition, its order and the rows of its projection.

    Links of a many_to_many field belong to one of the two resources that they connect; both are among the result.
    ``None`` if the result depends on a ``write_only`` field or on a view, whose changes are not in the change log.
    """
    found = {resource} if shown is None else {resource, *shown.resources}
    sorted_by = [step.removeprefix("-") for step in order]
    mentioned = [(resource, path) for path in (*paths_in(where), *sorted_by) if path != RANK]
    mentioned += [] if shown is None else _of_related(shown)
    for here, text in mentioned:
        path = resources.resolve(here, text)
        if any(field.write_only for field in (path.field, *(step.field for step in path.steps))):
            return None
        found.update(step.target for step in path.steps)
    for inner, column, condition in subqueries_in(where):
        others = reads(resources, inner, condition, (column,))
        if others is None:
            return None
        found |= others
    return None if any(resources[name].view for name in found) else frozenset(found)


def _of_related(shown: Projection) -> list[tuple[str, str]]:
    """The resources and paths in the conditions on related rows."""
    inner = [pair for _, each in shown.related for pair in _of_related(each)]
    return inner + [(shown.resource, path) for path in paths_in(shown.where)]


def unlogged(resources: Resources, resource: str, where: Shape) -> str | None:
    """A ``write_only`` field of the row itself on which a condition depends, which no logged row has; ``None`` if none."""
    for mentioned in paths_in(where):
        path = resources.resolve(resource, mentioned)
        first = path.steps[0] if path.steps else None
        if first is None or not first.many:
            field = path.field if first is None else first.field
        elif first.link is not None and resources[resource].links.get(first.name) is first.field:
            field = first.field
        else:
            continue  # rows that refer to this one, which are read as they are
        if field.write_only:
            return field.name
    return None


def dependents(resources: Resources, resource: str) -> frozenset[str]:
    """The resources whose rows change with those of this one: itself, and those that refer to it with a cascade or links."""
    found: set[str] = set()
    pending = [resource]
    while pending:
        if (here := pending.pop()) not in found:
            found.add(here)
            pending += [
                other.name
                for other in resources.values()
                for field in other.fields.values()
                if field.to == here
                and (field.field_type.kind is Kind.RELATIONS or _passes_on(resources, other.name, field))
            ]
    return frozenset(found)


def _passes_on(resources: Resources, resource: str, field: Field) -> bool:
    """Whether rows may change with the deletion of the row that a foreign key refers to."""
    declared = field.on_delete not in (None, "restrict")
    return declared or field.column_name in resources.traits_of(resource).passing


def subqueries_in(shape: Shape) -> Iterator[tuple[str, str, Shape]]:
    """The queries in a condition's shape: of each the resource, the path whose values it has, and its condition."""
    match shape:
        case ("among", _, inner):
            yield inner
        case ("and" | "or" | "not", *parts):
            yield from (found for part in parts for found in subqueries_in(part))


def paths_in(shape: Shape) -> Iterator[str]:
    """The paths in a condition's shape."""
    match shape:
        case ("is" | "is in zone", path, _, flag):
            yield path
            if isinstance(flag, tuple):
                yield from paths_in(flag)
        case ("column", path):
            yield path
        case ("after" | "from", *steps):
            yield from (path for path, *_ in steps)
        case ("among", path, _):
            yield path
        case (_, *parts):
            yield from (path for part in parts if isinstance(part, tuple) for path in paths_in(part))
