"""The newest part of the log, in memory: where it ends, what its last batches are, and who is called with each new one.

A feed adds the batches to it. Where they come from is the feed's own matter: from PostgreSQL (``rowcast.changes.feed``), or at an
edge from the origin (``rowcast.changes.edge_feed``). The batches stay in a ring that is bounded in events and bytes. A
reader whose position is older than the ring has what is missing read into it (``rowcast.changes.recall``) or, if that is too much,
reads by itself from where the feed has them.

``head`` moves and subscribers are called in one step of the event loop. So code that reads ``head`` and subscribes
without an ``await`` in between misses nothing and gets nothing twice.

While no subscriber needs the rows of changes, a feed may pass over them: subscribers only learn which resources have changed, and the
ring is empty.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import structlog

from rowcast.changes.events import Batch
from rowcast.changes.position import POSITION_MAX_LENGTH, WITH_SNAPSHOT, Position, Snapshot
from rowcast.changes.recall import Recall
from rowcast.changes.standbys import position_on_standby
from rowcast.changes.ticks import Tick

if TYPE_CHECKING:
    from rowcast.changes.relay import Relay

ROWS_NEEDED_SECONDS: Final = 60.0  # after the last stream has ended
READ_AT_ONCE_BYTES: Final = 256 << 10  # of the ring, about
SNAPSHOT_MAX_AGE_SECONDS: Final = 60.0  # of a statement whose snapshot can still be turned into a position

_logger = structlog.get_logger(__name__)

Subscriber = Callable[[Batch], None]


@dataclass(frozen=True, slots=True)
class _Listening:
    """What a subscriber wants beside batches: see ``Tail.subscribe``."""

    reset: Callable[[Reason], None]
    needs_rows: Callable[[], bool]
    pass_over: Callable[[Collection[str]], object]


class Reason(StrEnum):
    """Why a reader cannot go on from its position, and must load its data again."""

    MALFORMED = "malformed"  # not a position
    AHEAD = "ahead"  # later than the newest change
    FORKED = "forked"  # in another history than this database's
    EXPIRED = "expired"  # the changes after it are not kept any more


class Reset(Exception):
    """The reader cannot go on, for this ``reason``."""

    def __init__(self, reason: Reason) -> None:
        self.reason = reason
        super().__init__(reason.value)


class Tail(ABC):
    """The newest part of the log. The ring holds at most ``events`` events and about ``size`` bytes, and at least the newest batch.

    With a ``relay`` its batches may be the relay's. ``ready`` is set once the head is known; from then on it always is.
    """

    def __init__(self, relay: Relay | None, *, events: int = 100_000, size: int = 64 << 20) -> None:
        self.relay = relay
        self.confirmed_at = float("-inf")  # when nothing was after the head, as the feed has seen itself
        self.fed = False  # the relay's batches are applied
        self.connections = 0  # of the feed, that have been made ready so far
        self.connected = False
        self.ready = asyncio.Event()
        self._bounds = events, size
        self._ring: deque[Batch] = deque()
        self._held = [0, 0]  # events and bytes in the ring
        self._ticks: deque[tuple[float, Tick]] = deque()  # the newest ones and when they were applied
        self._continued: tuple[Any, str | None] = None, None  # the last arguments and result of stream_position
        self._tick: Tick  # the newest that is complete
        self._base: Tick  # the newest that ends before the ring
        self._head: Position | None = None
        self.jumps = 0  # how often the head has jumped to another history
        self._recall = Recall(self)
        self._subscribers: dict[Subscriber, _Listening] = {}
        self._needed_at = float("-inf")  # when a subscriber has last needed rows
        self._current_at = monotonic()  # when the head was the newest change, as far as the feed could see

    @abstractmethod
    async def start(self) -> None:
        """Begin to follow the log; returns at once."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop following; no subscriber is called any more."""

    @property
    def head(self) -> Position:
        """The position after the newest event that subscribers were called with. Known once ``ready`` is set."""
        assert self._head is not None, "the feed has not been ready yet"
        return self._head

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot of the newest tick whose events subscribers were called with."""
        return self._tick.snap

    def has_delivered(self, wanted: Position | int) -> bool:
        """Whether subscribers were called with all events up to a position, or of a transaction, for certain."""
        return self.head.with_snapshot(self._tick.snap).includes(wanted)

    @property
    def lag(self) -> float:
        """Seconds since the head was the newest change, as far as the feed could see."""
        return monotonic() - self._current_at

    @property
    def tick(self) -> Tick:
        """The newest tick whose events subscribers were called with."""
        return self._tick

    @property
    def oldest_tick(self) -> Tick:
        """The tick with which memory begins, or in which it does."""
        return self._base

    def subscribe(
        self,
        apply: Subscriber,
        reset: Callable[[Reason], None],
        *,
        needs_rows: Callable[[], bool] = lambda: True,
        pass_over: Callable[[Collection[str]], object] = lambda _: None,
    ) -> Callable[[], None]:
        """Call ``apply`` with each new batch, in order, from ``head`` on; return a function that unsubscribes.

        ``reset`` is called instead when the feed cannot go on from its head: the head has jumped, and the changes in
        between are lost to this process. If no subscriber ``needs_rows``, ``pass_over`` may be called instead, with the names of the
        resources that have changed. All are called from the event loop and must not block or raise.
        """
        self._subscribers[apply] = _Listening(reset, needs_rows, pass_over)

        def unsubscribe() -> None:
            self._subscribers.pop(apply, None)

        return unsubscribe

    def stream_position(self, snapshot: str) -> str | None:
        """The position that continues a response whose statement had this ``snapshot``, or what a standby returns in its place.

        It follows the newest tick that the snapshot includes, so the time of the call does not matter. ``None`` if the
        feed was not ready when the statement ran, or the statement took longer than ``SNAPSHOT_MAX_AGE_SECONDS``.
        """
        arguments = (snapshot, self._ticks[-1] if self._ticks else None)
        if arguments != self._continued[0]:  # while nothing is written, all statements have the same snapshot
            if WITH_SNAPSHOT in snapshot:
                self._continued = (arguments, position_on_standby(snapshot))
            else:
                self._continued = (arguments, self._continuing(Snapshot.parse(snapshot)))
        return self._continued[1]

    def kept_position(self, snapshot: str) -> str:
        """``stream_position`` of an answer that was kept, and that nothing has changed since; ``head`` if the feed does not know it.

        The position of a standby says itself which tick it follows, however long ago that was; the log may not have it any more.
        """
        position = self.stream_position(snapshot)
        if position is None or (WITH_SNAPSHOT in snapshot and Position.parse(position).tick < self._ticks[0][1].tick):
            return str(self.head)
        return position

    def _continuing(self, seen: Snapshot) -> str | None:
        for _, tick in reversed(self._ticks):
            if tick.snap <= seen:
                text = str(Position(tick.epoch, tick.tick, 0, seen))
                return text if len(text) <= POSITION_MAX_LENGTH else str(Position(tick.epoch, tick.tick))
        return None

    async def check(self, position: Position | str) -> Reason | None:
        """The reason why a reader cannot go on from a position, or ``None`` if it could a second ago or later.

        What has gone since is found by ``read``. Raises the driver's error if that is not in memory and the log cannot be read.
        """
        if isinstance(position, str):
            try:
                position = Position.parse(position)
            except ValueError:
                return Reason.MALFORMED
        return None if self.has_after(position) else await self._check_log(position)

    def has_after(self, position: Position) -> bool:
        """Whether everything after a position is in memory."""
        return position.epoch == self.head.epoch and self.oldest.sort_key <= position.sort_key <= self.head.sort_key

    async def read(self, after: Position) -> AsyncGenerator[Batch, None]:
        """Every batch from a position up to ``head``, from memory or the log; check the position first.

        When the iteration ends the reader is at ``head``, and it stays there up to the caller's next ``await``. While
        PostgreSQL cannot be reached, the iteration waits. Raises ``Reset`` if the batches are not kept any more.
        """
        jumps = self.jumps
        while after.sort_key < self.head.sort_key:
            if after.sort_key >= self.oldest.sort_key:
                for batch in self._next_in_memory(after):
                    yield batch.after(after)
                    after = batch.end
            elif not await self._recall.reach(after) and jumps == self.jumps:
                async with contextlib.aclosing(self._read_log(after, self.head)) as batches:
                    async for batch in batches:
                        yield batch
                        after = batch.end
            if jumps != self.jumps:
                raise Reset(Reason.FORKED)

    def _next_in_memory(self, after: Position) -> list[Batch]:
        """The next batches after a position in the ring: a few, since a reader with a slow client keeps them while the ring goes on."""
        first = bisect_right(self._ring, after.sort_key, key=lambda batch: batch.end.sort_key)
        found: list[Batch] = []
        size = 0
        for place in range(first, len(self._ring)):
            found.append(self._ring[place])
            size += found[-1].size
            if size > READ_AT_ONCE_BYTES:
                break
        return found

    @abstractmethod
    async def _check_log(self, position: Position) -> Reason | None:
        """``check`` for a position that is not in memory."""

    @abstractmethod
    def _read_log(self, after: Position, until: Position) -> AsyncGenerator[Batch, None]:
        """Some of the batches after a position that is not in memory, up to another at most; none while they cannot be read."""

    @abstractmethod
    async def find_tick(self, position: Position) -> Tick | None:
        """The tick at whose end a position is; ``None`` if it cannot be read."""

    @abstractmethod
    def read_seen(self, after: Position, snapshot: Snapshot) -> AsyncGenerator[Batch, None]:
        """The events that a snapshot sees and the tick of a position does not, whether ``head`` has reached them or not.

        The batches are in no order that others use. Raises ``Reset`` if some events are not kept any more, and the driver's
        error if the database cannot be read.
        """

    @property
    def _is_heard(self) -> bool:
        return self.relay is not None and self.relay.feeds

    def _take_from_relay(self) -> bool:
        """Apply what has arrived. Returns whether it is all that was announced."""
        assert self.relay is not None
        for batch in self.relay.take(self.head):
            self._apply(batch)
        if (current_at := self.relay.current_at(self.head)) is not None:
            self._current_at = max(self._current_at, current_at)
        return not self.relay.lacks(self.head)

    def _apply(self, batch: Batch) -> None:
        self._ring.append(batch)
        self._held[0] += len(batch.events)
        self._held[1] += batch.size
        while len(self._ring) > 1 and (self._held[0] > self._bounds[0] or self._held[1] > self._bounds[1]):
            gone = self._ring.popleft()
            self._held[0] -= len(gone.events)
            self._held[1] -= gone.size
            if gone.last:
                self._base = Tick(gone.tick, gone.epoch, gone.snap)
        self._head = batch.end
        if batch.last:
            self._pass(Tick(batch.tick, batch.epoch, batch.snap))
        if self.relay is not None:
            self.relay.pass_on(batch)
        for apply in tuple(self._subscribers):
            try:
                apply(batch)
            except Exception:
                _logger.exception("feed_subscriber_failed")

    @property
    def _rows_are_needed(self) -> bool:
        """Whether a subscriber or the relay needs the rows of changes; also if one has, a while ago, whose clients may come back."""
        if self.relay is not None or any(each.needs_rows() for each in self._subscribers.values()):
            self._needed_at = monotonic()
        return monotonic() - self._needed_at < ROWS_NEEDED_SECONDS

    def _pass_over(self, ticks: Sequence[Tick], resources: Collection[str]) -> None:
        """Go to the end of the last of some ticks, whose changes are of these resources, and forget those before them."""
        self._clear(ticks[-1])
        for tick in ticks:
            self._pass(tick)
        for each in tuple(self._subscribers.values()):
            try:
                each.pass_over(resources)
            except Exception:
                _logger.exception("feed_subscriber_failed")

    def _clear(self, tick: Tick) -> None:
        """Let the ring be empty, and begin at the end of a tick."""
        self._ring.clear()
        self._held = [0, 0]
        self._head = Position(tick.epoch, tick.tick)
        self._base = tick

    def _pass(self, tick: Tick) -> None:
        self._tick = tick
        now = monotonic()
        self._ticks.append((now, tick))
        while len(self._ticks) > 1 and self._ticks[0][0] < now - SNAPSHOT_MAX_AGE_SECONDS:
            self._ticks.popleft()

    def _move(self, tick: Tick) -> None:
        """Go to the end of this tick, from wherever the head was."""
        self._clear(tick)
        self._ticks.clear()
        self._pass(tick)

    def _jump(self, tick: Tick, reason: Reason) -> None:
        """Go on from the end of a tick, because the changes after the head cannot be read."""
        _logger.warning("feed_reset", reason=reason.value, head=str(self._head), newest=tick.tick)
        self.jumps += 1
        self._move(tick)
        for each in tuple(self._subscribers.values()):
            try:
                each.reset(reason)
            except Exception:
                _logger.exception("feed_subscriber_failed")

    # --- what is read back into memory

    @property
    def oldest(self) -> Position:
        """The oldest position that can be read from the ring."""
        return self._ring[0].start if self._ring else self.head

    def has_room(self, events: int, size: int) -> bool:
        """Whether the ring can have so many events and bytes more."""
        return self._held[0] + events <= self._bounds[0] and self._held[1] + size <= self._bounds[1]

    async def read_part(self, after: Position, until: Position) -> AsyncGenerator[Batch, None]:
        """Some of the batches of the log between two positions; none if they are not kept, or cannot be read now."""
        with contextlib.suppress(Reset):
            async with contextlib.aclosing(self._read_log(after, until)) as batches:
                async for batch in batches:
                    yield batch

    def extend_back(self, base: Tick, batches: Sequence[Batch]) -> None:
        """Let the ring begin at the end of a tick, with these batches up to ``oldest``."""
        self._ring.extendleft(reversed(batches))
        self._held[0] += sum(len(batch.events) for batch in batches)
        self._held[1] += sum(batch.size for batch in batches)
        self._base = base
