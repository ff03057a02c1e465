"""How long the log is kept, and that its maintenance delays nobody."""

from __future__ import annotations

import asyncpg
import pytest

from rowcast.changes import retention, ticks
from rowcast.changes.install import PARTITIONS
from rowcast.changes.reader import Pruned, prepare_session, read_batches
from rowcast.changes.tail import Reason, Reset

from .watching import Database, Watch, summary

DAY = 24 * 3600.0
LARGE = 1 << 40


async def age(connection: asyncpg.Connection, seconds: float) -> None:
    """Make everything in the log and its ticks older."""
    await connection.execute(f"UPDATE rowcast.tick SET at = at - interval '{seconds} s'")
    await connection.execute(f"UPDATE rowcast.change SET at = at - interval '{seconds} s'")


async def filled(connection: asyncpg.Connection) -> list[int]:
    """The numbers of the partitions that hold something, oldest first."""
    return [part.number for part in await retention.partitions(connection)]


async def test_writers_go_on_in_an_empty_partition(database: Database) -> None:
    """After an eighth of the time or of the size; before that, and without a change, in the same one."""
    connection = await database.connect()
    for seconds, size in ((DAY, LARGE), (1, LARGE), (DAY, 1000)):
        assert await retention.maintain(connection, seconds, size)
    await connection.execute("INSERT INTO tags (name) VALUES ('a')")
    assert await retention.maintain(connection, DAY, LARGE)
    await connection.execute("INSERT INTO tags (name) VALUES ('b')")
    assert await filled(connection) == [0]
    await age(connection, DAY / 8)
    assert await retention.maintain(connection, DAY, LARGE)
    await connection.execute("INSERT INTO tags (name) SELECT 'c' FROM generate_series(1, 100)")
    assert await filled(connection) == [0, 1]
    assert await retention.maintain(connection, DAY, LARGE)
    assert await retention.maintain(connection, DAY, 8000)
    await connection.execute("INSERT INTO tags (name) VALUES ('d')")
    assert await filled(connection) == [0, 1, 2]


async def test_old_changes_and_ticks_go(database: Database) -> None:
    """Changes older than the retention time are removed; those after the oldest remaining tick can be read."""
    connection = await database.connect()
    ticker = await database.ticker()
    watch = await database.watch(events=1)
    await watch.fence(connection)
    early = watch.positions[-1]
    await ticker.stop()
    await age(connection, 2 * DAY)
    assert await retention.maintain(connection, DAY, LARGE)
    assert await retention.maintain(connection, DAY, LARGE)
    assert await filled(connection) == []
    await database.ticker()
    watch = await database.watch(events=1)
    start = watch.feed.head
    await watch.fence(connection)
    await watch.fence(connection)
    assert await connection.fetchval("SELECT count(*) FROM rowcast.change") == 2
    assert await watch.feed.check(early) == Reason.EXPIRED
    read = [event async for batch in watch.feed.read(start) for event in batch.events]
    assert read == watch.events


async def test_changes_after_a_kept_tick_are_not_removed(database: Database) -> None:
    """A transaction that wrote long ago and commits now is delivered, although its partition is older than the retention."""
    connection, slow = await database.connect(), await database.connect()
    await slow.execute("BEGIN")
    await slow.execute("INSERT INTO tasks (title) VALUES ('slow')")
    await connection.execute("INSERT INTO tags (name) VALUES ('other')")
    (part,) = await retention.partitions(connection)
    assert not await retention.empty(connection, part)  # the writer holds a lock
    await slow.execute("COMMIT")
    assert not await retention.empty(connection, part)  # no tick covers it
    await database.ticker(retention=DAY)
    watch = await database.watch()
    await watch.until(lambda: summary(watch.events) == [("I", "slow")]) if watch.feed.head.tick < 2 else None
    await watch.fence(connection)
    await connection.execute("DELETE FROM rowcast.tick WHERE tick < (SELECT max(tick) FROM rowcast.tick)")
    assert await retention.empty(connection, part)


async def test_an_open_transaction_holds_its_own_partition_alone(database: Database) -> None:
    """However long it stays open, the changes of others are kept to the size; when it commits, its own are delivered."""
    ticker = await database.ticker()
    watch = await database.watch()
    connection, open_ = await database.connect(), await database.connect()
    await open_.execute("BEGIN")
    await open_.execute("INSERT INTO tasks (title) VALUES ('open')")
    bound = 2_000_000
    for _ in range(3 * PARTITIONS):
        await connection.execute("INSERT INTO tags (name) SELECT repeat('x', 150) FROM generate_series(1, 700)")
        await watch.fence(connection)
        await retention.maintain(connection, DAY, bound)
        assert sum(part.size for part in await retention.partitions(connection)) < 1.5 * bound
    assert ticker.leading.is_set()
    assert len(watch.events) > 3 * PARTITIONS * 700
    await open_.execute("COMMIT")
    assert summary(await watch.fence(connection)) == [("I", "open")]


async def test_the_log_is_kept_to_its_size_and_what_is_left_can_be_read(database: Database) -> None:
    """The oldest go first, and with them the positions before; the rest is read without a gap."""
    await database.ticker()
    watch = await database.watch(events=1, size=1)
    connection = await database.connect()
    start = watch.feed.head
    for i in range(20):
        await connection.execute("INSERT INTO tags (name) SELECT $1 FROM generate_series(1, 300)", str(i))
        await watch.fence(connection)
        await retention.maintain(connection, DAY, 1_000_000)
    assert await watch.feed.check(start) == Reason.EXPIRED
    oldest = await ticks.oldest_tick(connection)
    first = next(place for place, position in enumerate(watch.positions) if position.sort_key >= (oldest, 0))
    assert 0 < first < len(watch.events) - 1000
    read = [event async for batch in watch.feed.read(watch.positions[first]) for event in batch.events]
    assert read == watch.events[first + 1 :]


async def test_reading_changes_that_were_pruned_before_they_were_counted_is_an_error(database: Database) -> None:
    """A reader that has its ticks and reads their changes too late gets an error, rather than no changes."""
    ticker = await database.ticker()
    watch = await database.watch()
    connection, reading = await database.connect(), await database.direct()
    await prepare_session(reading)
    start = watch.feed.head
    await watch.fence(connection)
    known = await ticks.read_ticks(reading, start.tick)
    await ticker.stop()
    for _ in range(2):
        assert await retention.maintain(connection, 0, 0)
    assert await filled(connection) == []
    with pytest.raises(Pruned):
        await anext(read_batches(reading, start, known))
    await reading.close()


async def test_a_feed_that_was_away_too_long_resets_its_subscribers(database: Database) -> None:
    """The changes in between are expired, and the feed goes on from the newest tick."""
    ticker = await database.ticker()
    watch = await database.watch()
    connection = await database.connect()
    await watch.fence(connection)
    await ticker.stop()
    await connection.execute("INSERT INTO rowcast.tick SELECT tick + 100, epoch, snap FROM rowcast.tick"
                             " ORDER BY tick DESC LIMIT 1")  # fmt: skip
    await connection.execute("DELETE FROM rowcast.tick WHERE tick < (SELECT max(tick) FROM rowcast.tick)")
    await watch.until(lambda: watch.resets == ["expired"])
    await database.ticker()
    await watch.fence(connection)


async def test_a_reader_of_changes_that_are_removed_meanwhile_gets_an_error(database: Database) -> None:
    """It never gets a part of the changes as if they were all."""
    ticker = await database.ticker()
    watch = await database.watch(events=1, size=1)
    start = watch.feed.head
    connection = await database.connect()
    await connection.execute("INSERT INTO tags (name) SELECT i::text FROM generate_series(1, 3000) i")
    await watch.fence(connection)
    await ticker.stop()
    read = 0
    reason = None
    try:
        async for batch in watch.feed.read(start):
            read += len(batch.events)
            await connection.execute("TRUNCATE rowcast.change")
    except Reset as reset:
        reason = reset.reason
    assert reason == Reason.EXPIRED
    assert 0 < read < 3000
    assert isinstance(watch, Watch)
