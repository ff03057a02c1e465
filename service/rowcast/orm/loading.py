"""Reading rows as instances, and their related rows with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from rowcast.orm import statements
from rowcast.orm.model import Model, RelatedRows, model
from rowcast.orm.state import RowState, instance, state_of
from rowcast.query.conditions import Query
from rowcast.query.store import Store, current_store
from rowcast.resources.resource import Resource, Resources, Through

NO_ANNOTATIONS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType({})


async def load(
    of: type[Model],
    query: Query,
    bounds: tuple[int, int | None],
    names: tuple[str, ...],
    lock: str = "",
    annotations: Mapping[str, tuple[str, str]] = NO_ANNOTATIONS,
) -> list[Any]:
    """The rows of a query as instances with their related rows or, with ``names``, as dictionaries; see ``lock`` there.

    ``annotations`` are functions of related rows, by name of the attribute that has the result.

    ``bounds`` are the first row and the one after the last, as in a slice; ``("*",)`` names all columns.
    """
    store = current_store()
    resources = store.queries.resources
    resource = resources[query.resource]
    first, last = bounds
    joined = tuple(path for path in _prefixes(query.expand) if _leads_to_one(resources, resource.name, path))
    limits = [*([] if last is None else [last - first]), *([first] if first else [])]
    statement = store.queries.compiled(statements.select_instances)(
        resource.name,
        joined,
        query.shape,
        query.order,
        last is not None,
        bool(first),
        lock,
        tuple(annotations.values()),
    )
    records = await store.database.fetch_all(statement.sql, statement.arguments([*query.values, *limits]))
    rows = []
    for record in records:
        row = _instance(of, resource, record[: len(resource.columns)])
        _attach(resources, row, joined, record[len(resource.columns) :])
        if annotations:
            state_of(row).values |= zip(annotations, record[-len(annotations) :], strict=True)
        rows.append(row)
    await load_related(rows, resource.name, query.expand, done=joined)
    return dictionaries(rows, resource, names, annotations) if names else rows


def dictionaries(
    rows: Iterable[Model], resource: Resource, names: tuple[str, ...], annotations: Iterable[str]
) -> list[dict[str, Any]]:
    """Rows as dictionaries of these columns and annotations; ``("*",)`` names all."""
    columns = (*resource.columns, *annotations) if names == ("*",) else names
    return [{name: getattr(row, name) for name in columns} for row in rows]


async def load_related(
    rows: Sequence[Model], resource: str, paths: Iterable[str], *, done: tuple[str, ...] = ()
) -> None:
    """Load the related rows at the end of some paths, and on the way there, except those that are ``done``.

    One statement per relation, or two for a many_to_many.
    """
    resources = current_store().queries.resources
    for path in _prefixes(paths):
        if path not in done:
            await _load_path(resources, resource, rows, path)


async def load_missing_columns(rows: Sequence[Model]) -> None:
    """Give rows the columns that they were read without, as they are now. A row that is gone goes on without them."""
    if rows:
        live = {
            row.pk: row
            for row in await type(rows[0]).objects.all().showing("with").filter(pk__in=[row.pk for row in rows])
        }
        for row in rows:
            if row.pk in live:
                state_of(row).values = {**state_of(live[row.pk]).values, **state_of(row).values}


def fill_readable_columns(row: Model) -> None:
    """Set to null the columns of a logged row that were added after it was logged; not those that are never logged."""
    state = state_of(row)
    if len(state.values) < len(state.resource.columns):
        for name, field in state.resource.columns.items():
            if not field.write_only:
                state.values.setdefault(name, None)


def _prefixes(paths: Iterable[str]) -> list[str]:
    """Every path and the paths on its way, shortest first: ``a__b`` needs ``a``."""
    found: dict[str, None] = {}
    for path in paths:
        parts = path.split("__")
        for end in range(1, len(parts) + 1):
            found["__".join(parts[:end])] = None
    return sorted(found, key=lambda path: path.count("__"))


def _leads_to_one(resources: Resources, resource: str, path: str) -> bool:
    return not any(step.many for step in resources.steps(resource, path))


def _instance(of: type[Model], resource: Resource, record: Sequence[Any]) -> Model:
    return instance(of, RowState(resource, dict(zip(resource.columns, record, strict=True)), saved=True))


def _attach(resources: Resources, row: Model, paths: tuple[str, ...], record: Sequence[Any]) -> None:
    """Give a row its related rows, whose columns follow one another in the order of the paths."""
    start = 0
    for path in paths:
        *before, name = path.split("__")
        owner: Model | None = row
        for step in before:
            owner = state_of(owner).related.get(step) if owner is not None else None
        target = resources[resources.steps(state_of(row).resource.name, path)[-1].target]
        columns = record[start : start + len(target.columns)]
        start += len(target.columns)
        if owner is not None:
            key = list(target.columns).index(target.key.column_name)
            state_of(owner).related[name] = (
                None if columns[key] is None else _instance(model(target.name), target, columns)
            )


async def _load_path(resources: Resources, resource: str, rows: Sequence[Model], path: str) -> None:
    """Load the rows at the end of a path for all rows together, in the order of their keys."""
    *before, name = path.split("__")
    owners = list(rows)
    for step in before:
        related = (state_of(owner).related.get(step) for owner in owners)
        owners = [
            row for found in related for row in (found if isinstance(found, list) else [found]) if row is not None
        ]
    relation = resources.steps(resource, path)[-1]
    targets = model(relation.target).objects
    if not relation.many:
        keys = {state_of(owner).values[relation.column] for owner in owners} - {None}
        found = {row.pk: row for row in await targets.filter(pk__in=keys)} if keys else {}
        loose = _is_loose(resources, relation.target)
        for owner in owners:
            state = state_of(owner)
            key = state.values[relation.column]
            row = found.get(key)
            if row is None and loose and key is not None:  # it is equal to the target's without being the same string
                row = await targets.filter(pk=key).first()
            state.related[name] = row
        return
    grouped: dict[Any, list[Any]] = {owner.pk: [] for owner in owners}
    if _is_loose(resources, state_of(owners[0]).resource.name if owners else resource):
        for owner in owners:
            grouped[owner.pk] = list(await RelatedRows(owner, relation).all().order_by("pk"))
    elif relation.link is None:
        for row in await targets.filter(**{f"{relation.field.name}__in": set(grouped)}).order_by("pk"):
            grouped[state_of(row).values[relation.column]].append(row)
    elif grouped:
        links = await _through_rows(current_store(), relation.link, list(grouped))
        found = {row.pk: row for row in await targets.filter(pk__in={target for _, target in links})}
        for source, target in links:
            if target in found:  # a policy of the database may hide it
                grouped[source].append(found[target])
    for owner in owners:
        state_of(owner).related[name] = grouped[owner.pk]


def _is_loose(resources: Resources, resource: str) -> bool:
    """Whether keys of a resource may be equal without being the same string."""
    return not resources.traits_of(resource).loose.isdisjoint(resources[resource].key_columns)


async def _through_rows(store: Store, through: Through, keys: list[Any]) -> list[tuple[Any, Any]]:
    """The links of some rows: the key on this side and on the other, in order."""
    statement = store.queries.compiled(statements.through_rows)(through)
    rows = await store.database.fetch_all(statement.sql, statement.arguments([keys]))
    return [(row[0], row[1]) for row in rows]
