"""Live groups: what a stream of aggregates sends, as a value, and its blocks."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final

import orjson

from rowcast.changes.events import Event
from rowcast.query.aggregation import AggregateShape
from rowcast.query.conditions import Query
from rowcast.query.live import groups_of_logged
from rowcast.query.logged import matching
from rowcast.query.matching import RoutingKey
from rowcast.query.store import Store
from rowcast.query.tallies import GroupKey, TallyForm, Uncountable
from rowcast.resources.lossless_json import encode, parse

SNAPSHOT_BLOCK_ROWS: Final = 100  # groups in one event of a snapshot


@dataclass(frozen=True, slots=True)
class Route:
    """The rows of a resource on which groups depend: those with a value in a column, or all."""

    routing_key: RoutingKey | None


@dataclass(frozen=True)
class LiveGroups:
    """The groups of the rows of a query. Equal ones share their state and send the same bytes.

    Attributes:
        query: The rows.
        shape: The groups, the functions, and the conditions on results.
        values: The zones of buckets, and the values of those conditions.
        of: The resources whose changes can change the results.
        store: Reads the groups.
        caller: As whom the database reads them; ``None`` for the service itself.
        form: How rows are counted in memory; ``None`` if only the database can.
        exact_keys: Whether rows of the log show which groups they are in; otherwise a client cannot resume.
        limit: The most groups of a stream.
    """

    query: Query
    shape: AggregateShape
    values: tuple[Any, ...]
    of: Mapping[str, Route]
    related: ClassVar[frozenset[str]] = frozenset()
    store: Store
    caller: Hashable
    form: TallyForm | None
    exact_keys: bool
    limit: int

    @cached_property
    def key(self) -> Hashable:
        """Groups with equal keys are the same ones."""
        return self.query, self.shape, self.values, self.caller, self.limit

    @property
    def resource(self) -> str:
        """The resource whose rows are grouped."""
        return self.query.resource

    @property
    def about(self) -> dict[str, Any]:
        """The resource, as ``ready`` and ``reset`` name it."""
        return {"resource": self.resource}

    @property
    def zones(self) -> Sequence[str]:
        """The time zones of buckets."""
        return self.values[: len(self.values) - len(self.shape.having)]

    def key_in(self, row: bytes) -> GroupKey:
        """The group of a row of results."""
        return tuple(list(parse(row).values())[: len(self.shape.groups)])

    async def keys_of(self, events: Sequence[Event]) -> set[GroupKey]:
        """The groups that the rows of events have been in, and are in."""
        rows = [row for event in events for row in (event.old, event.new) if row is not None]
        if (form := self.form) is not None:
            try:
                return {form.key(row) for row in map(parse, rows) if form.test(row)}
            except (Uncountable, ValueError):
                pass
        self.store.judge.act_for(self.caller)
        if self.query.where:  # groups of other rows are not for everybody to know
            places = await matching(self.store, self.query, rows)
            rows = [rows[place - 1] for place in places]
        if not rows or not self.shape.groups:
            return {()} if rows else set()
        return await groups_of_logged(self.store, self.shape, self.zones, rows)

    def block(self, key: GroupKey, row: bytes | None) -> bytes:
        """The block of a group without its position; ``None`` for the row if the group is gone."""
        group = encode(dict(zip(self.shape.names, key, strict=False)))
        return b'event: group\ndata: {"group":%b,"data":%b}\n\n' % (group, row or b"null")

    def snapshot_blocks(self, rows: Iterable[bytes]) -> list[bytes]:
        """The blocks with all groups."""
        resource, documents = orjson.dumps(self.resource), list(rows)
        parts = (
            documents[first : first + SNAPSHOT_BLOCK_ROWS] for first in range(0, len(documents), SNAPSHOT_BLOCK_ROWS)
        )
        return [
            b'event: snapshot\ndata: {"resource":%b,"rows":[%b]}\n\n' % (resource, b",".join(part)) for part in parts
        ] or [b'event: snapshot\ndata: {"resource":%b,"rows":[]}\n\n' % resource]
