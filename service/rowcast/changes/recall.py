"""Reading changes back into memory that are older than it, once for all readers who need them.

A process that has just started has no changes in memory, and all clients of the one before come back with positions of a while
ago. If each of them read the log by itself, they would take turns on one connection for every tick. So the first of them
has the changes since its position read into memory, if they are not too many, and those who need a part of the same wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Final, Protocol

from rowcast.changes.events import Batch
from rowcast.changes.position import Position
from rowcast.changes.ticks import Tick
from rowcast.tasks import spawn

RECALL_MAX_BYTES: Final = 16 << 20  # in memory, about, of what is read at once; readers wait for all of it
RECALL_MAX_TICKS: Final = 4096  # between a position and what is in memory


class Memory(Protocol):
    """What is kept of the log, from ``oldest`` on."""

    @property
    def oldest(self) -> Position:
        """The oldest position that can be read from memory."""

    @property
    def jumps(self) -> int:
        """How often it has gone over to another history, and forgotten what it had."""

    def has_room(self, events: int, size: int) -> bool:
        """Whether it can keep so many events and bytes more."""

    def extend_back(self, base: Tick, batches: Sequence[Batch]) -> None:
        """Keep the batches between a tick and ``oldest``, too."""

    def read_part(self, after: Position, until: Position) -> AsyncGenerator[Batch, None]:
        """Some of the batches of the log between two positions; none while they cannot be read."""

    async def find_tick(self, position: Position) -> Tick | None:
        """The tick at a position, without its part; ``None`` if it cannot be read."""


class Recall:
    """Reads what comes before a memory into it, one part at a time."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._reading: asyncio.Task[bool] | None = None  # the last one
        self._too_far = (0, -1)  # after so many jumps, there may be too much after this tick

    async def reach(self, after: Position) -> bool:
        """Have everything after a position in memory, if it is near enough. Returns whether it is."""
        while after.sort_key < self._memory.oldest.sort_key:
            if not self._is_near(after):
                return False
            if self._reading is None or self._reading.done():
                self._reading = spawn(self._read(Position(after.epoch, after.tick)), "recall")
            too_far = self._too_far
            if not await asyncio.shield(self._reading) and too_far == self._too_far:
                return False
        return True

    def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()

    def _is_near(self, after: Position) -> bool:
        memory = self._memory
        is_near = memory.oldest.tick - after.tick <= RECALL_MAX_TICKS and (memory.jumps, after.tick) > self._too_far
        return is_near and memory.has_room(1, 1)

    def _note_too_far(self, first: Position) -> None:
        """Try nothing again but what is less than half as far as this: however many positions clients have, few are tried."""
        half = (self._memory.oldest.tick - first.tick) // 2
        self._too_far = max(self._too_far, (self._memory.jumps, first.tick + half))

    async def _read(self, after: Position) -> bool:
        """Read everything from the end of a tick to what is in memory. Returns whether that was possible."""
        memory, jumps = self._memory, self._memory.jumps
        base = await memory.find_tick(after)
        if base is None:
            return False
        found: list[Batch] = []
        first, events, size = after, 0, 0
        while after.sort_key < memory.oldest.sort_key:
            begun = after
            async with contextlib.aclosing(memory.read_part(after, memory.oldest)) as batches:
                async for batch in batches:
                    found.append(batch)
                    after = batch.end
                    events += len(batch.events)
                    size += batch.size
                    if size > RECALL_MAX_BYTES or not memory.has_room(events, size):
                        self._note_too_far(first)
                        return False
            if after is begun or jumps != memory.jumps:
                return False
        memory.extend_back(base, found)
        return True
