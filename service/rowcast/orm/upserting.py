"""``QuerySet.upsert``: rows are inserted, or changed where a unique rule finds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from rowcast.errors import did_you_mean
from rowcast.orm.model import Model
from rowcast.orm.state import state_of
from rowcast.query import many
from rowcast.query.conditions import Query
from rowcast.query.projection import Projection
from rowcast.query.store import Store
from rowcast.resources.resource import Resource

M = TypeVar("M", bound=Model)


async def upsert_instances(store: Store, scope: Query, of: type[M], rows: Sequence[M], on: Sequence[str]) -> list[M]:
    """Insert instances, or change the rows of a scope that have the same values of the fields ``on``."""
    resources = store.queries.resources
    resource = resources[scope.resource]
    rule = unique_rule(resource, on)
    values = []
    for row in rows:
        state = state_of(row)
        if any(name in resource.links for name in state.changed):
            raise ValueError("upsert writes columns; save the links of each row afterwards")
        values.append({name: value for name, value in state.values.items() if name in resource.columns})
        if missing := [name for name in rule if values[-1].get(name) is None]:
            raise ValueError(f"upsert: a row has no {missing[0]}, which is in on={list(on)!r}")
    shown = Projection(resource.name, tuple(resource.columns))
    written = await many.upsert_many(store, scope, shown, rule, values)
    return [of.from_document(resources, shown, row.body) for row in written]


def unique_rule(resource: Resource, on: Sequence[str]) -> tuple[str, ...]:
    """The columns of the unique rule, or of the key, that fields name. ``ValueError`` if there is none."""
    names = [on] if isinstance(on, str) else list(on)
    columns = [resource.fields[name].column_name if name in resource.fields else name for name in names]
    rules = unique_rules(resource)
    found = next((each for each in rules if sorted(each) == sorted(columns)), None)
    if found is None:
        valid = [",".join(each) for each in rules]
        raise ValueError(f"upsert: on={names!r} is not a unique rule; {did_you_mean(','.join(names), valid)}")
    return found


def unique_rules(resource: Resource) -> tuple[tuple[str, ...], ...]:
    """The columns of the key and of each unique rule."""
    single = [(name,) for name, field in resource.columns.items() if field.unique]
    several = [tuple(resource.fields[name].column_name for name in names) for names in resource.unique]
    return tuple(dict.fromkeys([resource.key_columns, *single, *several]))
