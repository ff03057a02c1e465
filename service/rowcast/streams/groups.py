"""The groups of one process: found by what they send, made, merged and dropped; and which of them a batch is delivered to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator
from typing import TypeAlias

from rowcast.changes.events import Batch
from rowcast.changes.position import Snapshot
from rowcast.changes.tail import Reason
from rowcast.streams.group import Group, Phase
from rowcast.streams.routing import SubscriptionIndex
from rowcast.streams.subscription import Subscriptions, is_past

MakeGroup: TypeAlias = Callable[[Subscriptions, Snapshot | None], Group]


class Groups(Collection[Group]):
    """The groups of streams that have kept up, one for equal subscriptions and the same snapshot.

    Groups that a batch cannot match are skipped (``routing``), unless they are ``to_revisit``: those that are empty, that have
    subscribers which wait for a position, and that compare batches with a snapshot get the next batch whatever it is about.
    """

    def __init__(self, make: MakeGroup) -> None:
        self.to_revisit: set[Group] = set()
        self._make = make
        self._groups: dict[tuple[Hashable, Snapshot | None], Group] = {}
        self._index: SubscriptionIndex[Group] = SubscriptionIndex()

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[Group]:
        return iter(self._groups.values())

    def __contains__(self, group: object) -> bool:
        return isinstance(group, Group) and self._groups.get(_key(group)) is group

    def candidates(self, batch: Batch) -> set[Group]:
        """The groups that an event in this batch could match."""
        return self._index.candidates(batch)

    def of(self, subscriptions: Subscriptions, seen_snapshot: Snapshot | None) -> Group:
        """The group of the subscriptions, a new one if there is none.

        A subscriber may join from a position further on, if it was connected to a replica that has read more.
        """
        group = self._groups.get((subscriptions.key, seen_snapshot))
        if group is None:
            group = self._make(subscriptions, seen_snapshot)
            self._add(group)
        return group

    def revisit(self, group: Group) -> None:
        """Deliver the next batch to a group whatever the batch is about."""
        self.to_revisit.add(group)

    def drop(self, group: Group) -> None:
        """Close a group and forget it."""
        group.close()
        self._remove(group)

    def close(self) -> None:
        """Close every group."""
        for group in self:
            group.close()

    def _add(self, group: Group) -> None:
        self._groups[_key(group)] = group
        self._index.add(group, group.subscriptions)
        if group.seen_snapshot is not None:
            self.revisit(group)

    def _remove(self, group: Group) -> None:
        if group in self:
            del self._groups[_key(group)]
            self._index.discard(group, group.subscriptions)

    # --- batches

    def deliver(self, batch: Batch) -> None:
        """Deliver a batch from the feed to every group that it could match."""
        revisit, self.to_revisit = self.to_revisit, set()
        for group in [group for group in revisit if group.empty]:
            revisit.discard(group)
            self.drop(group)
        for group in [group for group in revisit if group.seen_snapshot is not None]:
            if group.phase is Phase.LIVE and is_past(group.seen_snapshot, batch):
                revisit.discard(group)
                self._merge(group, batch)
        try:
            candidates = self.candidates(batch)
        except Exception:  # each group finds out for itself, and resets its streams if the batch cannot be rendered
            candidates = set(self)
        try:
            for group in candidates | revisit | self.to_revisit:
                try:
                    group.deliver(batch)
                except Exception as error:
                    group.skip(batch, error)
        finally:
            self.to_revisit |= {group for group in revisit if group.seen_snapshot is not None or group.waiting}

    def _merge(self, group: Group, batch: Batch) -> None:
        """Move the members of a group whose snapshot no longer matters to the group without a snapshot, or let it be that one."""
        plain = self._groups.get((group.subscriptions.key, None))
        if plain is None:
            del self._groups[_key(group)]
            group.seen_snapshot = None
            self._groups[_key(group)] = group
            if group.waiting:
                self.revisit(group)
            return
        self._remove(group)
        if plain.phase is Phase.LIVE:
            plain.absorb(group)
        else:
            group.close(batch.start)

    def restart(self, reason: Reason) -> None:
        """Send all clients a reset, because the feed had to leave out events."""
        groups, self._groups, self._index = self._groups, {}, SubscriptionIndex()
        for group in groups.values():
            group.seen_snapshot = None
            group.restart(reason)
            if _key(group) in self._groups:
                group.close()
            else:
                self._add(group)

    # --- in the background

    def keep_alive(self, part: int, parts: int) -> None:
        """Send the groups of one part of several a comment and their newest position; drop those that are empty."""
        for group in [group for group in self if group.number % parts == part]:
            if group.empty:
                self.to_revisit.discard(group)
                self.drop(group)
            else:
                group.keep_alive()


def _key(group: Group) -> tuple[Hashable, Snapshot | None]:
    return group.subscriptions.key, group.seen_snapshot
