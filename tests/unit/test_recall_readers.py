"""Readers of a memory that grows back, without a database: each moment at which one of them may come."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from rowcast.changes import recall
from rowcast.changes.events import Batch
from rowcast.changes.position import Position, Snapshot
from rowcast.changes.recall import Recall
from rowcast.changes.tail import READ_AT_ONCE_BYTES, Reason, Reset, Tail
from rowcast.changes.ticks import Tick

EMPTY = Snapshot(1, 1)
HEAD = 1000
LOOKS_MAX = 20_000  # at memory, in one test


def batch(tick: int, epoch: int = 1) -> Batch:
    return Batch(epoch, tick, EMPTY, 1, (), last=True)


class Memory:
    """Memory that is empty at first, before a log of ticks in which only some batches are large."""

    def __init__(self, large: Sequence[int] = ()) -> None:
        self.jumps = 0
        self.readings: list[int] = []  # the ticks that they began with
        self._oldest = Position(1, HEAD)
        self._large = set(large)
        self._looks = 0

    @property
    def oldest(self) -> Position:
        self._looks += 1
        assert self._looks < LOOKS_MAX, "a reader looks again and again"
        return self._oldest

    def has_room(self, events: int, size: int) -> bool:
        return size < 1 << 30

    def extend_back(self, base: Tick, batches: Sequence[Batch]) -> None:
        assert [each.tick for each in batches] == list(range(base.tick + 1, self._oldest.tick + 1))
        self._oldest = Position(base.epoch, base.tick)

    async def read_part(self, after: Position, until: Position) -> AsyncGenerator[Batch, None]:
        for tick in range(after.tick + 1, until.tick + 1):
            found = batch(tick)
            if tick in self._large:
                vars(found)["size"] = recall.RECALL_MAX_BYTES
            yield found
            await asyncio.sleep(0)

    async def find_tick(self, position: Position) -> Tick | None:
        self.readings.append(position.tick)
        return Tick(position.tick, position.epoch, EMPTY)


async def test_a_reader_may_come_as_a_reading_ends() -> None:
    """Whatever the turn is in which a reader with an older position comes, it gets a reading of its own."""
    for turns in range(30):
        memory = Memory()
        readers = Recall(memory)
        first = asyncio.create_task(readers.reach(Position(1, HEAD - 5)))
        for _ in range(turns):
            await asyncio.sleep(0)
        second = asyncio.create_task(readers.reach(Position(1, HEAD - 20)))
        assert all(await asyncio.gather(first, second))
        assert memory.readings == [HEAD - 5, HEAD - 20]


async def test_who_is_too_far_away_stops_nobody_else() -> None:
    """A reader that is near waits for the reading of an older one, which fails; then it has its own."""
    memory = Memory(large=[HEAD - 500])
    readers = Recall(memory)
    places = [HEAD - 600, *range(HEAD - 100, HEAD - 90)]
    found = await asyncio.gather(*(readers.reach(Position(1, tick)) for tick in places))
    assert found == [False] + [True] * 10
    assert memory.readings == [HEAD - 600, HEAD - 100]


@pytest.mark.parametrize("order", [1, -1])
async def test_few_positions_are_tried_in_vain(order: int) -> None:
    """However many there are from which it is too much, and also if they are within ticks."""
    memory = Memory(large=range(HEAD - 3, HEAD))
    readers = Recall(memory)
    for tick in range(HEAD - 900, HEAD - 5)[::order]:
        assert not await readers.reach(Position(1, tick, n=tick % 3))
    assert len(memory.readings) <= 11


class MemoryOnly(Tail):
    """A tail without a log. A test adds the changes to it."""

    def __init__(self, **bounds: int) -> None:
        super().__init__(None, **bounds)
        self.asked: list[Position] = []
        self._move(Tick(HEAD, 1, EMPTY))

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def _check_log(self, position: Position) -> Reason | None:
        return None

    async def find_tick(self, position: Position) -> Tick | None:
        self._jump(Tick(HEAD, 2, EMPTY), Reason.FORKED)
        return None

    async def _read_log(self, after: Position, until: Position) -> AsyncGenerator[Batch, None]:
        self.asked.append(until)
        yield batch(after.tick + 1, until.epoch)

    def read_seen(self, after: Position, snapshot: Snapshot) -> AsyncGenerator[Batch, None]:
        raise NotImplementedError


async def test_no_reader_goes_on_in_another_history() -> None:
    """The feed gets to another history while memory is read for a reader, which gets nothing of that."""
    tail = MemoryOnly()
    found: list[Any] = []
    with pytest.raises(Reset) as refused:
        found += [each async for each in tail.read(Position(1, HEAD - 5))]
    assert refused.value.reason is Reason.FORKED
    assert (found, tail.asked) == ([], [])


async def test_a_slow_reader_keeps_little_of_what_memory_forgets() -> None:
    """It has the next batches, and gets the other ones when its client has taken these."""
    tail = MemoryOnly(size=4 * READ_AT_ONCE_BYTES)
    kept: list[weakref.ref[Batch]] = []

    def apply(first: int, count: int) -> None:
        for tick in range(first, first + count):
            made = batch(tick)
            vars(made)["size"] = READ_AT_ONCE_BYTES // 8
            kept.append(weakref.ref(made))
            tail._apply(made)

    apply(HEAD + 1, 30)
    reading = tail.read(Position(1, HEAD))
    assert (await anext(reading)).tick == HEAD + 1
    apply(HEAD + 31, 100)
    gc.collect()
    alive = [each for each in kept[:90] if each() is not None]
    await reading.aclose()
    assert len(alive) <= 10
