"""The values that a reader of the log gets: events, in batches."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from rowcast.changes.position import Position, Snapshot
from rowcast.resources.lossless_json import parse

ANY: Final = object()  # the key of events that may have any value


@dataclass(frozen=True)
class Event:
    """One change: the ``n``-th of its tick, with the row before and after as the JSON that clients get.

    ``op`` is I, U, D, or T for TRUNCATE, which has no ``pk`` and no rows. ``old`` is ``None`` for I, ``new`` for D.
    ``traceparent`` is the trace that it belongs to, as W3C Trace Context writes it.
    """

    n: int
    xid: int
    seq: int
    at: dt.datetime
    resource: str
    op: str
    pk: str | None
    old: bytes | None
    new: bytes | None
    traceparent: str | None = None

    @property
    def size(self) -> int:
        """The approximate bytes in memory, with its rows parsed: as objects they are larger."""
        return 1300 + sum(2 * len(row) + 100 * row.count(b'":') for row in (self.old, self.new) if row is not None)

    @cached_property
    def before(self) -> dict[str, Any] | None:
        """The row before, parsed once; not to be modified."""
        return None if self.old is None else parse(self.old)

    @cached_property
    def after(self) -> dict[str, Any] | None:
        """The row after, parsed once; not to be modified."""
        return None if self.new is None else parse(self.new)

    def values(self, column: str, load: Callable[[Any], Any]) -> set[Any] | None:
        """What ``load`` makes of the values of a column before and after, without null.

        It is ``None`` if they may be any: for TRUNCATE, and where ``load`` raises ``ValueError`` or ``TypeError``.
        """
        if self.op == "T":
            return None
        logged = [row[column] for row in (self.before, self.after) if row is not None and row.get(column) is not None]
        try:
            return {load(value) for value in logged}
        except (ValueError, TypeError):
            return None


@dataclass(frozen=True)
class Batch:
    """Consecutive events of one tick: all of them or, if the tick is large, a part.

    ``first`` is the ``n`` of the first event. ``last`` is whether the tick ends with this batch, and ``snap`` is the
    snapshot of the tick. ``epoch`` is the epoch of the tick, and ``xids`` are all its transactions.
    """

    epoch: int
    tick: int
    snap: Snapshot
    first: int
    events: tuple[Event, ...]
    last: bool
    xids: frozenset[int] = frozenset()

    @property
    def start(self) -> Position:
        """The position before the first event."""
        return Position(self.epoch, self.tick - 1, self.first - 1)

    @property
    def end(self) -> Position:
        """The position after the last event."""
        if self.last:
            return Position(self.epoch, self.tick)
        return Position(self.epoch, self.tick - 1, self.first - 1 + len(self.events))

    def position(self, event: Event) -> Position:
        """The position after an event of this batch."""
        return Position(self.epoch, self.tick - 1, event.n)

    def after(self, position: Position) -> Batch:
        """The part of this batch after a position."""
        done = position.n - (self.first - 1) if position.tick == self.tick - 1 else 0
        if done <= 0:
            return self
        return replace(self, first=self.first + min(done, len(self.events)), events=self.events[done:])

    def until(self, position: Position) -> Batch:
        """The part of this batch up to a position."""
        return replace(self, events=self.events[: position.n - (self.first - 1)], last=False)

    def of(self, resource: str) -> list[Event]:
        """The events of a resource."""
        return self._of_resource.get(resource, [])

    def with_values(
        self, resource: str, column: str, load: Callable[[Any], Any], values: Collection[Any]
    ) -> list[Event]:
        """The events of a resource whose ``Event.values`` in a column may be among some, as quickly for many events as for few."""
        by_value = self._by_value.get((resource, column))
        if by_value is None:
            by_value = self._by_value[resource, column] = {}
            for event in self.of(resource):
                found = event.values(column, load)
                for value in [ANY] if found is None else found:
                    by_value.setdefault(value, []).append(event)
        lists = [events for value in (ANY, *values) if (events := by_value.get(value))]
        if len(lists) == 1:
            return lists[0]
        return sorted({event.n: event for events in lists for event in events}.values(), key=lambda event: event.n)

    @cached_property
    def _of_resource(self) -> dict[str, list[Event]]:
        found: dict[str, list[Event]] = {}
        for event in self.events:
            found.setdefault(event.resource, []).append(event)
        return found

    @cached_property
    def _by_value(self) -> dict[tuple[str, str], dict[Any, list[Event]]]:
        return {}  # which ``with_values`` fills

    @cached_property
    def size(self) -> int:
        """The approximate bytes in memory."""
        return 400 + sum(event.size for event in self.events)
