"""A group: the subscribers with equal subscriptions that have kept up.

Each batch is evaluated once per group and rendered into one frame, whose bytes every member gets (``members``). A group is
at the head of the feed, whether a batch concerned it or not. When a batch cannot be rendered at once, because it needs the
database or Python that waits, the group falls back to a task that reads the feed until it is at the head again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from enum import Enum
from itertools import count
from typing import Final, Protocol

import structlog

from rowcast.changes.events import Batch
from rowcast.changes.position import Position, Snapshot
from rowcast.changes.tail import Reset, Tail
from rowcast.database.absent import NeedsDatabase
from rowcast.errors import Unavailable
from rowcast.streams.expansion import TOO_LARGE, ExpansionTooLarge
from rowcast.streams.few import Few, with_one, without
from rowcast.streams.members import Members, Sender
from rowcast.streams.sse import KEEP_ALIVE, end_block, http_chunk, keep_alive_block, reset_block
from rowcast.streams.subscriber import ORIGIN, Subscriber
from rowcast.streams.subscription import FilterTooSlow, NeedsAwait, Subscriptions
from rowcast.tasks import spawn

_numbers: Final = count()
FAILED: Final = "failed"  # the reason of a reset after events that could not be rendered

_logger = structlog.get_logger(__name__)


class Phase(Enum):
    """What a group is doing."""

    LIVE = "is at the head of the feed"
    CATCHING_UP = "has a task that reads on to the head of the feed"
    CLOSED = "has no subscribers, and gets none"


TRANSITIONS: Final[Mapping[Phase, frozenset[Phase]]] = {
    Phase.LIVE: frozenset({Phase.CATCHING_UP, Phase.CLOSED}),
    Phase.CATCHING_UP: frozenset({Phase.LIVE, Phase.CLOSED}),
    Phase.CLOSED: frozenset(),
}


class Others(Protocol):
    """What a group uses of all groups."""

    def revisit(self, group: Group) -> None:
        """Deliver the next batch to a group whatever the batch is about."""

    def drop(self, group: Group) -> None:
        """Close a group and forget it."""


class Owner(Protocol):
    """What a group uses of its hub."""

    feed: Tail
    resets: Counter[str]
    sender: Sender

    @property
    def groups(self) -> Others:
        """All groups."""

    @property
    def buffer(self) -> int:
        """Bytes that may wait for one client."""

    async def render(self, subscriptions: Subscriptions, batch: Batch, seen_snapshot: Snapshot | None) -> bytes:
        """The frame of a batch, whatever it takes."""

    def refuse_filter(self, error: FilterTooSlow, subscriptions: Subscriptions) -> None:
        """Open no stream with this filter for a while."""


class Group:
    """Subscribers at one position of the log.

    ``number`` differs from those of all other groups. ``members`` are at ``position``, or are being sent what leads there. Subscribers that are ``waiting`` are further on, at a
    position that the group will reach. ``seen_snapshot`` is the snapshot whose transactions the clients have already received, in their list of rows.
    """

    __slots__ = (
        "_hub",
        "_position",
        "_task",
        "members",
        "number",
        "phase",
        "seen_snapshot",
        "subscriptions",
        "waiting",
    )

    def __init__(self, hub: Owner, subscriptions: Subscriptions, seen_snapshot: Snapshot | None) -> None:
        self.number = next(_numbers)
        self.phase = Phase.LIVE
        self.subscriptions = subscriptions
        self.seen_snapshot = seen_snapshot
        self.members: Members[Position] = Members(hub)
        self.waiting: Few[Subscriber] = ()
        self._hub = hub
        self._position = hub.feed.head  # of a group that is not live
        self._task: asyncio.Task[None] | None = None  # of a group that catches up

    def _enter(self, phase: Phase) -> None:
        assert phase in TRANSITIONS[self.phase], f"a group cannot go from {self.phase.name} to {phase.name}"
        self.phase = phase

    @property
    def position(self) -> Position:
        """The position of the group in the feed."""
        return self._hub.feed.head if self.phase is Phase.LIVE else self._position

    @property
    def client_position(self) -> Position:
        """The position that a member resumes from: with the snapshot that it has already received."""
        return self.position.with_snapshot(self.seen_snapshot)

    @property
    def empty(self) -> bool:
        """Whether no subscriber is left."""
        return not (self.members or self.waiting)

    # --- subscribers

    def admit(self, subscriber: Subscriber) -> None:
        """Add a subscriber, at once or when the group reaches its position."""
        if subscriber.position.sort_key == self.position.sort_key:
            self._add(subscriber)
        else:
            self.waiting = with_one(self.waiting, subscriber)
            self._hub.groups.revisit(self)

    def _add(self, subscriber: Subscriber) -> None:
        self.members.add(subscriber)
        subscriber.position = self.position  # one for all: ``dismiss`` sets that of a member which leaves

    def dismiss(self, subscriber: Subscriber) -> None:
        """Remove a subscriber; a member's ``position`` becomes that of the group."""
        if subscriber in self.members:
            subscriber.position = self.members.discard(subscriber) or self.client_position
        self.waiting = without(self.waiting, subscriber)
        if self.empty and self.phase is not Phase.CLOSED:
            self._hub.groups.revisit(self)

    def absorb(self, other: Group) -> None:
        """Take over all subscribers of a group at the same position, which is closed."""
        for subscriber in [*other.members, *other.waiting]:
            subscriber.group = self
        self.members.take(other.members)
        for subscriber in other.waiting:
            self.waiting = with_one(self.waiting, subscriber)
        if self.waiting:
            self._hub.groups.revisit(self)
        other.waiting = ()
        other.close()

    # --- batches

    def deliver(self, batch: Batch) -> None:
        """Send every member its frame of a batch, at once if that needs nothing but the batch."""
        if self.phase is not Phase.LIVE:
            return
        try:
            frame = self.subscriptions.render_now(batch, self.seen_snapshot)
        except NeedsAwait:
            self._enter(Phase.CATCHING_UP)
            self._position = batch.start
            self._task = spawn(self._catch_up(), "stream group")
            return
        self._advance(batch, frame)

    async def _catch_up(self) -> None:
        """Read on to the head of the feed, batch by batch; if that fails, only the group's streams end."""
        try:
            await self._read_on()
        except Exception as error:
            if isinstance(error, Unavailable):
                _logger.warning("streams_ended", error=error.detail, **self.subscriptions.about)
            elif isinstance(error, NeedsDatabase):
                _logger.info("streams_left_to_origin", **self.subscriptions.about)
            else:
                _logger.exception("streams_ended", **self.subscriptions.about)
            self._task = None
            self._end(ORIGIN if isinstance(error, NeedsDatabase) else FAILED)

    async def _read_on(self) -> None:
        try:
            async for batch in self._hub.feed.read(self.position):
                try:
                    frame = await self._hub.render(self.subscriptions, batch, self.seen_snapshot)
                except (Unavailable, NeedsDatabase):
                    raise
                except FilterTooSlow as error:
                    self._hub.refuse_filter(error, self.subscriptions)
                    self._position = batch.end
                    self._task = None
                    self._say_goodbye()
                    self._end()
                    return
                except ExpansionTooLarge:
                    self._reset(batch.end, TOO_LARGE)
                except Exception as error:
                    self.skip(batch, error)
                else:
                    self._advance(batch, frame)
            self._task = None
            self._enter(Phase.LIVE)
        except Reset as reset:
            self._task = None
            self.restart(reset.reason)

    def _say_goodbye(self) -> None:
        """Send every client the block that ends a stream with a slow filter."""
        self.members.send_all()
        for subscriber in [*self.members, *self.waiting]:
            position = self.client_position if subscriber in self.members else subscriber.position
            block = end_block(self.subscriptions.about, None if subscriber.renews else position)
            subscriber.write(http_chunk(block) if subscriber.chunked else block, self._hub.buffer)

    def _end(self, reason: str = FAILED) -> None:
        """End the group's streams; the clients connect again and resume."""
        for subscriber in [*self.members, *self.waiting]:
            try:
                subscriber.end(reason)
            except Exception:
                _logger.exception("stream_failed", **self.subscriptions.about)
        self._hub.groups.drop(self)

    def skip(self, batch: Batch, error: Exception) -> None:
        """Go on after a batch that cannot be rendered; the members have to reload."""
        log_failure(self.subscriptions, batch, error)
        self._reset(batch.end, FAILED)

    def restart(self, reason: str) -> None:
        """Send the clients a reset, because events are missing, and go on at the head of the feed."""
        self._cancel()
        if self.phase is Phase.CATCHING_UP:
            self._enter(Phase.LIVE)
        for subscriber in self.waiting:
            self._add(subscriber)
        self.waiting = ()
        self._reset(self.position, reason)

    def _reset(self, position: Position, reason: str) -> None:
        self._position = position
        for member in [member for member in self.members if member.renews]:
            member.require_resync(reason)
        self._hub.resets[reason] += len(self.members)
        self.send(reset_block(self.subscriptions.about, self.client_position, reason), self.client_position)
        self.members.send_all()  # nobody may leave without it
        self._admit_waiting(position)

    def _advance(self, batch: Batch, frame: bytes) -> None:
        """Send the members the events of a batch."""
        if frame:
            self.send(frame, batch.start.with_snapshot(self.seen_snapshot))
        self._position = batch.end
        self._admit_waiting(batch.end)

    def _admit_waiting(self, position: Position) -> None:
        """Let subscribers become members that have waited for a position."""
        for subscriber in list(self.waiting):
            if subscriber.position.sort_key == position.sort_key:
                self.waiting = without(self.waiting, subscriber)
                self._add(subscriber)
            elif subscriber.position.sort_key < position.sort_key:
                subscriber.leave()

    def write(self, frame: bytes, before: Position) -> None:
        """Send the members a frame; those that have everything else are at the position ``before``."""
        self.members.send(frame, before)

    send = write  # for a frame with events

    def keep_alive(self) -> None:
        """Send a comment to everybody, and to members the newest position."""
        self.write(keep_alive_block(self.client_position), self.client_position)
        for subscriber in list(self.waiting):
            subscriber.write(http_chunk(KEEP_ALIVE) if subscriber.chunked else KEEP_ALIVE, self._hub.buffer)

    # --- the end

    def close(self, position: Position | None = None) -> None:
        """Stop; the subscribers go on alone, members from ``position`` or from that of the group."""
        if self.phase is Phase.CLOSED:
            return
        self._position = position or self.position
        self._cancel()
        self._enter(Phase.CLOSED)
        for subscriber in [*self.members, *self.waiting]:
            subscriber.leave()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None


def log_failure(subscriptions: Subscriptions, batch: Batch, error: Exception) -> None:
    """Log that events could not be rendered."""
    _logger.error("stream_failed", tick=batch.tick, exc_info=error, **subscriptions.about)
