"""Streams with ``?expand=``: rows with their related rows, and which rows a change of a related row makes stale.

The columns of a row are those of the logged row; related rows are read when the event is delivered. A change of a related row
alone is no change of the rows that show it. Their stream sends ``stale`` then: the objects that have changed, by the path at
which rows show them and by their keys. Whoever shows one of these reads the list again, which is cached.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from rowcast.changes.events import Event
from rowcast.query.conditions import Condition, Query
from rowcast.query.logged import related_size_of_logged, show_logged
from rowcast.query.projection import Projection
from rowcast.query.store import Store
from rowcast.resources.lossless_json import encode
from rowcast.resources.resource import Relation, Resources

TOO_LARGE: Final = "expansion_too_large"  # the reason of a reset; lists have an error with this code
ROWS_AT_ONCE: Final = 100  # rows that one statement reads related rows for
STALE_KEYS_MAX: Final = 100  # in one ``stale``; if there are more, it names none

Keys = set[Any] | None  # ``None`` for all


@dataclass(frozen=True)
class Step:
    """A relation whose rows are shown, at ``path`` (names with dots, empty for the row itself) and by ``name``."""

    path: str
    name: str
    relation: Relation
    forwards: bool  # whether the resource that shows the rows declares the relation
    shown: Projection

    def stale(self, event: Event, resources: Resources) -> tuple[str, Keys] | None:
        """The path and the keys of the objects that an event of the related resource has changed; ``None`` for none."""
        if event.op == "T":
            return self.path, None
        before, after = event.before or {}, event.after or {}
        if (
            self.forwards
        ):  # a row that comes or goes changes the foreign key or the links, which is an event of their own row
            if event.op != "U":
                return None
            at = f"{self.path}.{self.name}".lstrip(".")
            return at, {_hashable(resources[event.resource].id_in(row)) for row in (before, after)}
        if self.relation.link is None:
            keys = {_hashable(row[self.relation.column]) for row in (before, after) if self.relation.column in row}
            return self.path, keys - {None}
        links = self.relation.field.name
        if any(row and links not in row for row in (before, after)):
            return self.path, None
        return self.path, {_hashable(key) for row in (before, after) for key in row.get(links, ())}


class ExpansionTooLarge(Exception):
    """A row has more related rows, or more bytes of them, than may be shown."""


@dataclass(frozen=True)
class Bound:
    """How many related ``rows``, and ``size`` bytes of them, one row may have in ``shown`` beside those in ``already``."""

    shown: Projection
    already: Projection
    rows: int
    size: int

    async def allows(self, store: Store, query: Query, logged: Sequence[bytes]) -> bool:
        """Whether logged rows together have no more than that."""
        rows, size = await related_size_of_logged(store, query, self.shown, logged, self.already, self.rows + 1)
        return rows <= self.rows and size <= self.size


@dataclass(frozen=True)
class Expansion:
    """What is read with each row: the projection, the values of its conditions on related rows, and the bound of lists."""

    projection: Projection
    conditions: tuple[Condition, ...]
    bound: Bound | None = None

    @cached_property
    def resources(self) -> frozenset[str]:
        """The resources of the related rows."""
        return frozenset().union(*(inner.resources for _, inner in self.projection.related))

    async def documents(self, store: Store, rows: Sequence[bytes]) -> list[bytes]:
        """Logged rows as JSON, with their related rows as they are now; ``ExpansionTooLarge`` if one has too many."""
        query = Query(self.projection.resource, related=self.conditions)
        documents: list[bytes] = []
        for first in range(0, len(rows), ROWS_AT_ONCE):
            documents += await self._read(store, query, rows[first : first + ROWS_AT_ONCE])
        return [document.replace(b"\n", b"") for document in documents]  # PostgreSQL writes lists in lines

    async def _read(self, store: Store, query: Query, rows: Sequence[bytes]) -> list[bytes]:
        """The documents of rows, in so many statements that none reads more than the bound of a row."""
        if self.bound is not None and not await self.bound.allows(store, query, rows):
            if len(rows) == 1:
                raise ExpansionTooLarge
            half = len(rows) // 2
            return [*await self._read(store, query, rows[:half]), *await self._read(store, query, rows[half:])]
        return await show_logged(store, query, self.projection, rows)

    def stale_blocks(self, events: Sequence[Event], resources: Resources) -> dict[int, bytes]:
        """A block for each path at which objects have changed, by the ``n`` of the last event that has changed some."""
        found: dict[str, tuple[int, Keys]] = {}
        for event in events:
            for step in self._steps(resources).get(event.resource, ()):
                if (stale := step.stale(event, resources)) is not None:
                    path, keys = stale
                    known = found.get(path, (0, set()))[1]
                    found[path] = event.n, None if keys is None or known is None else known | keys
        blocks: dict[int, bytes] = {}
        for path, (n, keys) in found.items():
            if keys is None or keys:
                blocks[n] = blocks.get(n, b"") + self._block(path, keys)
        return blocks

    def _block(self, path: str, keys: Keys) -> bytes:
        named = None if keys is None or len(keys) > STALE_KEYS_MAX else sorted(keys, key=str)
        return b"event: stale\ndata: %b\n\n" % encode(
            {"resource": self.projection.resource, "path": path, "ids": named}
        )

    def _steps(self, resources: Resources) -> Mapping[str, Sequence[Step]]:
        """The relations that are shown, by the resource of their rows."""
        made: dict[str, list[Step]] | None = vars(self).get("_made_steps")
        if made is None:
            made = vars(self)["_made_steps"] = {}
            for step in _steps_of(resources, self.projection, ""):
                made.setdefault(step.relation.target, []).append(step)
        return made


def _steps_of(resources: Resources, shown: Projection, path: str) -> Iterator[Step]:
    relations, own = resources.relations(shown.resource), resources[shown.resource].fields
    for name, inner in shown.related:
        relation = relations[name]
        yield Step(path, name, relation, own.get(name) is relation.field, inner)
        yield from _steps_of(resources, inner, f"{path}.{name}".lstrip("."))


def _hashable(key: Any) -> Any:
    """A key as a set takes it."""
    return tuple(key) if isinstance(key, list) else key
