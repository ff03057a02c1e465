"""Routing: which subscriptions a batch of changes can match, found by a column of its rows.

A subscription with a *routing key* matches only rows that have one of some values in a column; the stream of one user's
rows is an example. So a change costs as much as the subscriptions that it can match, however many others there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

from rowcast.changes.events import Batch, Event
from rowcast.query.matching import RoutingKey
from rowcast.streams.few import Few, with_one, without

Member = TypeVar("Member")


class RoutedRows(Protocol):
    """Some rows of a resource."""

    @property
    def routing_key(self) -> RoutingKey | None: ...


class Routed(Protocol):
    """What a member wants: rows of resources."""

    @property
    def of(self) -> Mapping[str, RoutedRows]: ...

    @property
    def related(self) -> frozenset[str]:
        """Resources each of whose events may concern it, besides its own."""


class SubscriptionIndex(Generic[Member]):
    """Members, indexed by the resources and routing keys of their subscriptions."""

    def __init__(self) -> None:
        self._unrouted: dict[str, set[Member]] = {}  # resource → members that each of its events can match
        self._routed: dict[str, dict[str, _Column[Member]]] = {}  # resource → column → members by value

    def add(self, member: Member, subscriptions: Routed) -> None:
        """Add a member with its subscriptions."""
        for resource in subscriptions.related:
            self._unrouted.setdefault(resource, set()).add(member)
        for resource, subscription in subscriptions.of.items():
            if (key := subscription.routing_key) is None:
                self._unrouted.setdefault(resource, set()).add(member)
            else:
                columns = self._routed.setdefault(resource, {})
                columns.setdefault(key.column, _Column(key)).add(member, key)

    def discard(self, member: Member, subscriptions: Routed) -> None:
        """Remove a member; ``subscriptions`` are those that it was added with."""
        for resource in subscriptions.related:
            self._unrouted.get(resource, set()).discard(member)
        for resource, subscription in subscriptions.of.items():
            if (key := subscription.routing_key) is None:
                self._unrouted.get(resource, set()).discard(member)
            elif (column := self._routed.get(resource, {}).get(key.column)) is not None:
                column.discard(member, key)

    def candidates(self, batch: Batch) -> set[Member]:
        """All members that an event in this batch could match."""
        found: set[Member] = set()
        for resource in {event.resource for event in batch.events}:
            found |= self._unrouted.get(resource, set())
        for event in batch.events:
            for column in self._routed.get(event.resource, {}).values():
                found.update(*column.candidates(event))
        return found


class _Column(Generic[Member]):
    """Members by the values of one column in their routing keys."""

    def __init__(self, key: RoutingKey) -> None:
        self._key = key
        self._members: dict[Any, Few[Member]] = {}

    def add(self, member: Member, key: RoutingKey) -> None:
        for value in key.values:
            self._members[value] = with_one(self._members.get(value, ()), member)

    def discard(self, member: Member, key: RoutingKey) -> None:
        for value in key.values:
            if left := without(self._members.get(value, ()), member):
                self._members[value] = left
            else:
                self._members.pop(value, None)

    def candidates(self, event: Event) -> Iterator[Few[Member]]:
        """Members with the old or the new value of the row.

        These are all members for TRUNCATE, and for a value that Python cannot represent.
        """
        if not self._members:
            return
        values = event.values(self._key.column, self._key.load)
        for value in self._members if values is None else values:
            yield self._members.get(value, ())
