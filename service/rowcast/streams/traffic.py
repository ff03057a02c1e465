"""What streams have sent, counted in a service with ``server.admin`` alone: its groups and subscribers are these."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from rowcast.changes.events import Batch
from rowcast.changes.position import Position, Snapshot
from rowcast.streams.group import Group, Owner
from rowcast.streams.subscriber import Subscriber
from rowcast.streams.subscription import Subscriptions

Delays: TypeAlias = Callable[[float], None]


@dataclass(slots=True)
class Traffic:
    """Frames with events that were made, and how often one was written to a stream; the bytes of all that was written.

    ``note_delay`` is called with the seconds from the last statement of each transaction to the moment at which its events
    were written to the streams.
    """

    frames: int = 0
    deliveries: int = 0
    bytes: int = 0
    note_delay: Delays = field(default=lambda _: None)

    def delivered(self, batch: Batch) -> None:
        """The streams have been sent a batch. A transaction in several batches ends with the last one of its tick."""
        if batch.last and batch.events:
            now = time.time()
            for at in {event.xid: event.at for event in batch.events}.values():
                self.note_delay(max(0.0, now - at.timestamp()))


class MeasuredGroup(Group):
    """A group that counts what it sends."""

    __slots__ = ("_traffic",)

    def __init__(
        self, traffic: Traffic, hub: Owner, subscriptions: Subscriptions, seen_snapshot: Snapshot | None
    ) -> None:
        super().__init__(hub, subscriptions, seen_snapshot)
        self._traffic = traffic

    def write(self, frame: bytes, before: Position) -> None:
        self._traffic.bytes += len(frame) * len(self.members)
        super().write(frame, before)

    def send(self, frame: bytes, before: Position) -> None:
        self._traffic.frames += 1
        self._traffic.deliveries += len(self.members)
        self.write(frame, before)


class MeasuredSubscriber(Subscriber):
    """A subscriber that counts what it is sent alone."""

    __slots__ = ("traffic",)

    traffic: Traffic

    async def send(self, frame: bytes) -> None:
        self.traffic.bytes += len(frame)
        await super().send(frame)

    async def send_events(self, frame: bytes) -> None:
        self.traffic.frames += 1
        self.traffic.deliveries += 1
        await self.send(frame)


def measured(traffic: Traffic) -> tuple[Callable[..., Subscriber], Callable[..., Group]]:
    """How subscribers and groups are made that count what they send."""

    def make_subscriber(*arguments: Any, **options: Any) -> Subscriber:
        subscriber = MeasuredSubscriber(*arguments, **options)
        subscriber.traffic = traffic
        return subscriber

    return make_subscriber, partial(MeasuredGroup, traffic)
