"""The links between tables: which foreign keys are relations, which tables only join two others, and what both are called."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from rowcast.adoption import names
from rowcast.adoption.catalog import Column, Reference, Table

_ON_DELETE: Final[Mapping[str, str]] = {"c": "cascade", "n": "set_null"}
_MOMENTS: Final = ("date", "time", "timestamp")
_CHILDREN: Final = "children"


@dataclass(frozen=True, slots=True)
class Target:
    """A resource that others may refer to: one that is adopted, or one of the config."""

    resource: str
    table: Table
    key: tuple[str, ...]  # columns


@dataclass(frozen=True, slots=True)
class Join:
    """A table with nothing but the links between rows of two others, seen from the side that declares the field."""

    table: Table
    near: Reference
    far: Reference
    field: str


@dataclass(slots=True)
class Link:
    """A relation to be named at its target."""

    resource: str
    field: str
    target: str
    related_name: str | None = None  # to be written; none if the default is the same


def reference_of(table: Table, column: str, targets: Mapping[int, Target]) -> Reference | None:
    """The foreign key that makes a column a relation: it refers to the key of a resource, by this column alone."""
    for reference in table.references:
        target = targets.get(reference.target)
        if reference.columns == (column,) and target is not None and reference.target_columns == target.key:
            return reference
    return None


def on_delete(reference: Reference) -> str | None:
    """The option for what a foreign key does if its target is deleted; ``None`` for the default."""
    return _ON_DELETE.get(reference.action)


def find_joins(tables: Iterable[Table], targets: Mapping[int, Target]) -> Iterator[Join]:
    """The tables that only join two others, with the side and the name of the many_to_many field."""
    tables = list(tables)
    referred = {reference.target for table in tables for reference in table.references}
    for table in tables:
        if table.is_view or table.oid in referred:
            continue
        sides = [each for name in table.columns if (each := reference_of(table, name, targets)) is not None]
        if len(sides) == 2 and _only_joins(table, sides):
            yield _join(table, sides, targets)


def name_links(links: Iterable[Link], taken: Mapping[str, set[str]]) -> None:
    """Choose ``related_name`` for links whose default would be taken or missing. ``taken`` has the names by target."""
    groups: dict[tuple[str, str], list[Link]] = {}
    for link in links:
        groups.setdefault((link.resource, link.target), []).append(link)
    for (resource, target), group in groups.items():
        first = next((each for each in group if each.field == names.singular(target)), group[0])
        for link in sorted(group, key=lambda each: each is not first):
            used = taken[target]
            preferred = resource if link is first else f"{link.field}_{resource}"
            if resource == target and link.field == "parent":
                preferred = _CHILDREN
            name = names.unique_name((preferred, f"{link.field}_{resource}"), used)
            used.add(name)
            if len(group) > 1 or name != resource:
                link.related_name = name


def _only_joins(table: Table, sides: list[Reference]) -> bool:
    """Whether the rows of a table are pairs, each at most once, and nothing else that a client would write."""
    pair = {side.columns[0] for side in sides}
    if len(pair) != 2 or not all(table.columns[name].needed for name in pair):
        return False
    if set(table.key) != pair and not any(set(columns) == pair for columns in table.unique):
        return False
    return all(name in pair or _fills_itself(table, column) for name, column in table.columns.items())


def _fills_itself(table: Table, column: Column) -> bool:
    """Whether a column of a join is a key of its own, or a time, that the database gives a new row."""
    return column.filled and (table.key == (column.name,) or column.base.startswith(_MOMENTS))


def _join(table: Table, sides: list[Reference], targets: Mapping[int, Target]) -> Join:
    """The side whose table's name begins the join's declares the field; otherwise the first column's side."""
    own = names.snake(table.name)

    def fit(side: Reference) -> int:
        prefix = names.snake(targets[side.target].table.name)
        return max(
            len(start) for start in ("", prefix, names.singular(prefix), names.plural(prefix)) if _begins(own, start)
        )

    near, far = sorted(sides, key=fit, reverse=True)
    rest = own[fit(near) :].strip("_").removeprefix("to_") if fit(near) else ""
    known = targets[far.target].resource
    field = names.plural(rest) if rest else known
    return Join(table, near, far, field if field[:1].isalpha() else known)


def _begins(name: str, start: str) -> bool:
    return not start or name.startswith(f"{start}_")
