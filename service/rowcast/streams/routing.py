"""Whom a batch of changes concerns, found by what its rows have in a column.

A stream that is pinned to values of a column, as that of the rows of one user, is concerned by events on rows with such
values and by no others. So a change costs what those take that it concerns, however many others there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from rowcast.changes.log import Batch, Event
from rowcast.query.matching import RoutingKey
from rowcast.streams.subscription import Subscriptions

Member = TypeVar("Member")


class SubscriptionIndex(Generic[Member]):
    """Members with their lenses."""

    def __init__(self) -> None:
        self._everything: dict[str, set[Member]] = {}  # resource → who has to look at each of its events
        self._pinned: dict[str, dict[str, _Column[Member]]] = {}  # resource → column → who looks at some of them

    def add(self, member: Member, subscriptions: Subscriptions) -> None:
        """Let a member be concerned by what its lenses may see."""
        for resource, subscription in subscriptions.of.items():
            if subscription.pin is None:
                self._everything.setdefault(resource, set()).add(member)
            else:
                columns = self._pinned.setdefault(resource, {})
                columns.setdefault(subscription.pin.column, _Column(subscription.pin)).add(member, subscription.pin)

    def discard(self, member: Member, subscriptions: Subscriptions) -> None:
        """Let a member go."""
        for resource, subscription in subscriptions.of.items():
            if subscription.pin is None:
                self._everything.get(resource, set()).discard(member)
            elif (column := self._pinned.get(resource, {}).get(subscription.pin.column)) is not None:
                column.discard(member, subscription.pin)

    def concerned(self, batch: Batch) -> set[Member]:
        """Everybody who may have to be told of something in a batch."""
        found: set[Member] = set()
        for resource in {event.resource for event in batch.events}:
            found |= self._everything.get(resource, set())
        for event in batch.events:
            for column in self._pinned.get(event.resource, {}).values():
                found.update(*column.concerned(event))
        return found


class _Column(Generic[Member]):
    """Members by the values of a column that they are pinned to."""

    def __init__(self, pin: RoutingKey) -> None:
        self._name = pin.column
        self._values = pin.values
        self._members: dict[Any, set[Member]] = {}

    def add(self, member: Member, pin: RoutingKey) -> None:
        for value in pin.given:
            self._members.setdefault(value, set()).add(member)

    def discard(self, member: Member, pin: RoutingKey) -> None:
        for value in pin.given:
            if (members := self._members.get(value)) is not None:
                members.discard(member)
                if not members:
                    del self._members[value]

    def concerned(self, event: Event) -> Iterator[set[Member]]:
        """Who is pinned to what the row had or has: everybody for TRUNCATE, and for what Python has no value for."""
        if not self._members:
            return
        for row in (event.before, event.after):
            if row is None or (value := row.get(self._name)) is None:
                continue
            try:
                yield self._members.get(self._values.field_type.load(self._values, value), set())
            except (ValueError, TypeError):
                yield from self._members.values()
        if event.op == "T":
            yield from self._members.values()
