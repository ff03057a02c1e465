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
from rowcast.resources.rules import UniqueRule

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
        if missing := [name for name in rule.columns if rule.lacks(values[-1], name)]:
            raise ValueError(f"upsert: a row has no {missing[0]}, which is in on={list(on)!r}")
    shown = Projection(resource.name, tuple(resource.columns))
    written = await many.upsert_many(store, scope, shown, rule, values)
    return [of.from_document(resources, shown, row.body) for row in written]


def unique_rule(resource: Resource, on: Sequence[str]) -> UniqueRule:
    """The unique rule, or the key, over exactly these fields. ``ValueError`` if there is none."""
    names = [on] if isinstance(on, str) else list(on)
    found = resource.unique_rule(names)
    if found is None:
        valid = list(dict.fromkeys(",".join(each.columns) for each in resource.unique_rules))
        raise ValueError(f"upsert: on={names!r} is not a unique rule; {did_you_mean(','.join(names), valid)}")
    return found
