"""Places in long lists: rows whose offset is known, from which pages far from the beginning are read.

A page at an offset costs PostgreSQL all rows before it. So each such page leaves the sort values of its first and its last row in
the cache, and another page of the list is read from the nearest row before it. They are dropped as counts are: when the change
feed reports a change of what the list depends on.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import orjson

from rowcast.query.conditions import After, Query, Shape
from rowcast.query.pages import DEEP_OFFSET_ROWS, FetchedPage, PageShape
from rowcast.resources.full_text import RANK
from rowcast.rest.pagination import PageRequest, sort_steps, sort_values
from rowcast.rest.plan import ModelPlan
from rowcast.rest.reading import AnyReader

PLACES_MAX: Final = 64  # of one list
ROW_BYTES_MAX: Final = 500  # of the sort values of a row, as JSON
PLACE_BYTES: Final = 1500  # of memory for a place, at most


@dataclass(frozen=True, slots=True)
class Places:
    """By offset, the condition that the row there and those after it meet; the oldest ones come first."""

    by_offset: Mapping[int, After]

    def before(self, offset: int) -> int | None:
        """The offset of the nearest place at an offset or before it."""
        return max((at for at in self.by_offset if at <= offset), default=None)

    def adding(self, found: Mapping[int, After]) -> Places:
        """These places and others."""
        merged = {**self.by_offset, **found}
        return Places(dict(list(merged.items())[-PLACES_MAX:]))


async def read_at_offset(
    plan: ModelPlan, reader: AnyReader, query: Query, page: PageRequest, shape: PageShape
) -> FetchedPage:
    """A page in a shape without an exact count, from the nearest place before it."""
    if not shape.keys_first or (reads := _reads(plan, query)) is None:
        return await reader.page(query, shape, page.values)
    cache = plan.service.cache
    key = ("places", query.resource, query.where, query.order)
    places: Places = cache.get(key) or Places({})
    since = cache.generation
    at = places.before(page.offset)
    values = page.values
    if at is not None:
        after, rest = places.by_offset[at], page.offset - at
        shape = _from_place(shape, after.shape, has_offset=rest > 0, is_deep=rest >= DEEP_OFFSET_ROWS)
        values = (*after.values, *values[:-1], *((rest,) if rest else ()))
    if at == page.offset:
        return await reader.page(query, shape, values)
    found = await reader.page(query, _with_keys(shape), values)
    if found.keys:
        added = places.adding(_places_of(plan, query, page, found))
        size = query.size + PLACE_BYTES * len(added.by_offset)
        as_of = reader.as_of()
        cache.put(key, added, since=since if as_of is None else min(since, as_of), resources=reads, size=size)
    return found


def _reads(plan: ModelPlan, query: Query) -> frozenset[str] | None:
    """The resources on which places depend; ``None`` if there are none: no index leads to them, or their changes are not known.

    No index does where null sorts with the values of the first column, or these are computed or of another row.
    """
    first = query.order[0].removeprefix("-")
    if first == RANK:
        return None
    path = plan.service.resources.resolve(query.resource, first)
    if path.steps or path.field.null or path.field.order == "choices" or path.derived is not None:
        return None
    return plan.service.store.queries.reads(query.resource, query.shape, query.order)


def _places_of(plan: ModelPlan, query: Query, page: PageRequest, found: FetchedPage) -> dict[int, After]:
    """The places of a page that has rows: its own, and that of the next one if there is one."""
    resources, steps, places = plan.service.resources, sort_steps(query), {}
    for offset, row, included in (
        (page.offset, found.keys[0], True),
        *([(page.offset + page.limit, found.keys[-1], False)] if found.size > page.limit else []),
    ):
        if len(row) <= ROW_BYTES_MAX:
            with suppress(ValueError, ArithmeticError):  # what Python does not have
                places[offset] = After(steps, sort_values(resources, query, orjson.loads(row)), included)
    return places


@lru_cache(maxsize=2048)
def _from_place(shape: PageShape, after: Shape, *, has_offset: bool, is_deep: bool) -> PageShape:
    return replace(shape, after=after, has_offset=has_offset, keys_first=is_deep)


@lru_cache(maxsize=2048)
def _with_keys(shape: PageShape) -> PageShape:
    return replace(shape, keyset=True)
