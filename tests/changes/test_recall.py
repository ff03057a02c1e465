"""Clients that come back after a restart, with positions from before it: what they have missed is read once for all of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence

import pytest

from rowcast.changes import history, recall
from rowcast.changes.events import Batch
from rowcast.changes.feed import Feed
from rowcast.changes.history import PRIMARY
from rowcast.changes.position import Position
from rowcast.changes.tail import Reason, Reset
from rowcast.changes.ticks import Tick

from ..waiting import until
from .watching import Database, Watch, within

READERS = 30
TICKS = 40
ROWS = 3  # in each


async def write(database: Database) -> Watch:
    """Make ticks with some changes each, and return what has seen them."""
    watch, connection = await database.watch(), await database.connect()
    for tick in range(TICKS):
        titles = [f"{tick}/{row}" for row in range(ROWS)]
        await connection.execute("INSERT INTO tasks (title) SELECT unnest($1::text[])", titles)
        await watch.until(lambda wanted=(tick + 1) * ROWS: len(watch.events) >= wanted)  # type: ignore[misc]
    return watch


async def read(feed: Feed, after: Position) -> list[tuple[Position, int]]:
    """The positions and numbers of all events after a position."""
    return [(batch.position(event), event.seq) async for batch in feed.read(after) for event in batch.events]


def expected(watch: Watch, after: Position) -> list[tuple[Position, int]]:
    """The same, as they came."""
    pairs = zip(watch.positions, watch.events, strict=True)
    return [(position, event.seq) for position, event in pairs if position.sort_key > after.sort_key]


def places(watch: Watch, rng: random.Random) -> Sequence[Position]:
    """Positions within ticks and at their ends, the oldest one first."""
    return [watch.positions[0], *(rng.choice(watch.positions) for _ in range(READERS - 1))]


@pytest.mark.parametrize("seed", range(2))
async def test_readers_from_before_a_restart_read_the_log_once(database: Database, seed: int) -> None:
    """Wherever each begins, it gets every change after its position; the next ones come from memory."""
    await database.ticker()
    watch = await write(database)
    feed = await database.feed()
    assert feed.oldest == feed.head
    found = await within(asyncio.gather(*(read(feed, each) for each in places(watch, random.Random(seed)))))
    assert found == [expected(watch, each) for each in places(watch, random.Random(seed))]
    assert feed.history.reads[PRIMARY] == 1
    assert await read(feed, watch.positions[4]) == expected(watch, watch.positions[4])
    assert feed.history.reads[PRIMARY] == 1
    assert feed.oldest_tick.tick == watch.positions[0].tick
    assert not feed.oldest_tick.snap.sees(watch.events[0].xid)


async def test_memory_grows_back_by_what_is_missing(database: Database) -> None:
    """An older reader has the changes before memory read, and no others."""
    await database.ticker()
    watch = await write(database)
    feed = await database.feed()
    parts: list[tuple[Position, Position]] = []
    read_part = feed.read_part

    def reading(after: Position, until: Position) -> AsyncGenerator[Batch, None]:
        parts.append((after, until))
        return read_part(after, until)

    feed.read_part = reading  # type: ignore[method-assign]
    for place in (60, 30, 45, 2):
        assert await read(feed, watch.positions[place]) == expected(watch, watch.positions[place])
    begins = [Position(each.epoch, each.tick) for each in (watch.positions[place] for place in (60, 30, 2))]
    assert parts == list(zip(begins, [feed.head, *begins[:-1]], strict=True))


async def test_too_much_is_not_read_into_memory(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reads it alone, after one of them has found that it is too much."""
    monkeypatch.setattr(recall, "RECALL_MAX_BYTES", 50_000)
    await database.ticker()
    watch = await write(database)
    feed = await database.feed()
    old, new = watch.positions[3], watch.positions[-2 * ROWS]
    assert await within(asyncio.gather(*(read(feed, old) for _ in range(3)))) == [expected(watch, old)] * 3
    assert feed.oldest == feed.head
    assert feed.history.reads[PRIMARY] == 4
    assert await read(feed, new) == expected(watch, new)
    assert feed.oldest == Position(new.epoch, new.tick), "what is near enough is kept"


async def test_memory_keeps_its_bounds(database: Database) -> None:
    """What does not fit into it is read by each alone."""
    await database.ticker()
    watch = await write(database)
    feed = await database.feed(events=20)
    old = watch.positions[0]
    assert await read(feed, old) == expected(watch, old)
    assert feed.oldest == feed.head


async def test_memory_that_is_full_is_left_as_it_is(database: Database) -> None:
    """Nothing is read that could not be kept."""
    await database.ticker()
    full = await database.watch(events=1)
    watch = await write(database)
    await until(lambda: full.feed.head.sort_key >= watch.feed.head.sort_key)
    assert await read(full.feed, watch.positions[0]) == expected(watch, watch.positions[0])
    assert full.feed.history.reads[PRIMARY] == 1


async def test_changes_meanwhile_are_not_lost(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those that memory gets at its end while its beginning is read, nor those that it forgets."""
    await database.ticker()
    watch = await write(database)
    feed = await database.feed(events=ROWS * (TICKS + 1))
    Watch(feed)
    connection = await database.connect()
    begun, going = asyncio.Event(), asyncio.Event()
    find_tick = feed.find_tick

    async def find_tick_later(position: Position) -> Tick | None:
        begun.set()
        await going.wait()
        return await find_tick(position)

    monkeypatch.setattr(feed, "find_tick", find_tick_later)
    reading = asyncio.create_task(read(feed, watch.positions[0]))
    await within(begun.wait())
    await connection.execute("INSERT INTO tasks (title) SELECT i::text FROM generate_series(1, 200) i")
    await watch.fence(connection)
    await until(lambda: feed.head.sort_key >= watch.feed.head.sort_key)
    going.set()
    assert await within(reading) == expected(watch, watch.positions[0])


async def test_readers_of_changes_that_are_gone_are_reset(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them, as if it had read alone."""
    await database.ticker()
    watch = await write(database)
    feed = await database.feed()
    connection = await database.connect()
    await connection.execute("DELETE FROM rowcast.tick WHERE tick <= $1", watch.positions[20].tick)
    found = await within(asyncio.gather(*(read(feed, watch.positions[5]) for _ in range(3)), return_exceptions=True))
    assert [each.reason for each in found if isinstance(each, Reset)] == [Reason.EXPIRED] * 3


async def test_who_leaves_does_not_stop_the_others(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first reader's client goes away while the log is read for all."""
    await database.ticker()
    watch = await write(database)
    feed = await database.feed()
    begun, going = asyncio.Event(), asyncio.Event()
    read_ticks = history.LogConnection.read_ticks

    async def read_ticks_later(*arguments: object) -> list[Tick]:
        begun.set()
        await going.wait()
        return await read_ticks(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(history.LogConnection, "read_ticks", read_ticks_later)
    readers = [asyncio.create_task(read(feed, watch.positions[0])) for _ in range(3)]
    await within(begun.wait())
    readers[0].cancel()
    going.set()
    assert await within(asyncio.gather(*readers[1:])) == [expected(watch, watch.positions[0])] * 2
    assert feed.history.reads[PRIMARY] == 1
