"""Frames of old batches, shared by streams with equal subscriptions that catch up soon after each other.

After a restart the clients of a group come back one by one, and each has missed the same changes.
"""

from __future__ import annotations

from collections.abc import Hashable
from time import monotonic
from typing import Final
from weakref import WeakKeyDictionary, WeakSet

from rowcast.changes.events import Batch
from rowcast.changes.position import Snapshot
from rowcast.streams.subscription import Subscriptions

SHARED_SECONDS: Final = 3.0  # within which clients come back that were disconnected at once
SHARED_FRAMES_MAX_BYTES: Final = 8 << 20  # in one process
ENTRY_BYTES: Final = 300  # of a frame without events, about


class SharedFrames:
    """What was rendered for streams that catch up, as long as others may need it. The oldest frames go first.

    Nothing is kept for the first stream of some subscriptions, which may be the only one.
    """

    def __init__(self) -> None:
        self._begun: WeakKeyDictionary[Subscriptions, float] = WeakKeyDictionary()  # when the last stream has
        self._shared: WeakSet[Subscriptions] = WeakSet()  # those with several streams
        self._frames: dict[Hashable, bytes] = {}
        self._size = 0
        self._last = float("-inf")  # when a stream has begun

    def begin(self, subscriptions: Subscriptions) -> None:
        """A stream begins to catch up."""
        now = monotonic()
        if now - self._begun.get(subscriptions, float("-inf")) < SHARED_SECONDS:
            self._shared.add(subscriptions)
        self._begun[subscriptions] = self._last = now

    def render_now(self, subscriptions: Subscriptions, batch: Batch, seen_snapshot: Snapshot | None) -> bytes:
        """``Subscriptions.render_now``, once for streams that come past the same batch."""
        if subscriptions not in self._shared:
            return subscriptions.render_now(batch, seen_snapshot)
        key = subscriptions, batch.epoch, batch.tick, batch.first, len(batch.events), seen_snapshot
        frame = self._frames.get(key)
        if frame is None:
            frame = self._frames[key] = subscriptions.render_now(batch, seen_snapshot)
            self._size += len(frame) + ENTRY_BYTES
            while self._size > SHARED_FRAMES_MAX_BYTES:
                self._size -= len(self._frames.pop(next(iter(self._frames)))) + ENTRY_BYTES
        return frame

    def expire(self) -> None:
        """Forget all frames, if no stream has begun lately."""
        if self._begun and monotonic() - self._last > SHARED_SECONDS:
            self._shared.clear()
            self._begun.clear()
            self._frames.clear()
            self._size = 0
