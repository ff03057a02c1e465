"""How long the log is kept, and that keeping it short stops nobody."""

from __future__ import annotations

import asyncpg

from service.changes import log, retention
from service.changes.feed import Reason, Reset

from .watching import Database, Watch, told

DAY = 24 * 3600.0


async def age(connection: asyncpg.Connection, seconds: float) -> None:
    """Make everything in the log, its partitions and ticks older."""
    await connection.execute(f"UPDATE rowcast.tick SET at = at - interval '{seconds} s'")
    for partition in await retention.partitions(connection):
        back = f"interval '{seconds} s'"
        await connection.execute(
            f"""ALTER TABLE rowcast.change DETACH PARTITION {partition.relation};
            UPDATE {partition.relation} SET at = at - {back};
            ALTER TABLE {partition.relation} RENAME TO "{partition.relation.split(".")[1].strip('"')}_old";"""
        )
        schema, name = partition.relation.split(".")
        lower, upper = await connection.fetchrow(
            "SELECT $1::timestamptz - make_interval(secs => $3), $2::timestamptz - make_interval(secs => $3)",
            partition.lower, partition.upper, seconds,
        )  # fmt: skip
        await connection.execute(
            f"""ALTER TABLE rowcast.change ATTACH PARTITION {schema}."{name.strip('"')}_old"
            FOR VALUES FROM ('{lower}') TO ('{upper}')"""
        )


async def until_in_partitions(connection: asyncpg.Connection) -> None:
    """Wait for the time from which partitions have been made."""
    (first, *_) = await retention.partitions(connection)
    await connection.execute("SELECT pg_sleep(greatest(0, extract(epoch FROM $1 - clock_timestamp())))", first.lower)


async def test_partitions_are_made_ahead_in_line(database: Database) -> None:
    """From shortly after now, without gap or overlap; before that and without any the default one takes all."""
    connection = await database.connect()
    await connection.execute("INSERT INTO tags (name) VALUES ('default')")
    for _ in range(3):
        assert await retention.maintain(connection, DAY)
    await until_in_partitions(connection)
    await connection.execute("INSERT INTO tags (name) VALUES ('partition')")
    made = await retention.partitions(connection)
    assert [partition.lower for partition in made[1:]] == [partition.upper for partition in made[:-1]]
    assert len(made) == retention.AHEAD
    where = await connection.fetch("SELECT tableoid::regclass::text FROM rowcast.change ORDER BY seq")
    assert [name for (name,) in where] == ["rowcast.change_default", made[0].relation]


async def test_old_partitions_and_ticks_go(database: Database) -> None:
    """What is older than the retention time is dropped; what comes after the oldest tick kept can be read."""
    connection = await database.connect()
    await retention.maintain(connection, DAY)
    await until_in_partitions(connection)
    ticker = await database.ticker(retention=DAY)
    watch = await database.watch(events=1)
    await watch.fence(connection)
    early = watch.positions[-1]
    await ticker.stop()
    await age(connection, 2 * DAY)
    await retention.maintain(connection, DAY)
    await database.ticker(retention=DAY)
    connection = await database.connect()
    watch = await database.watch(events=1)
    start = watch.feed.head
    await watch.fence(connection)
    await watch.fence(connection)
    assert await connection.fetchval("SELECT count(*) FROM rowcast.change") == 2
    assert await watch.feed.check(early) == Reason.EXPIRED
    read = [event async for batch in watch.feed.read(start) for event in batch.events]
    assert read == watch.events


async def test_what_a_kept_tick_needs_is_not_dropped(database: Database) -> None:
    """A transaction that wrote long ago and commits now is told, although its partition is older than the retention."""
    connection, slow = await database.connect(), await database.connect()
    await retention.maintain(connection, DAY)
    await until_in_partitions(connection)
    await slow.execute("BEGIN")
    await slow.execute("INSERT INTO tasks (title) VALUES ('slow')")
    (first, *_) = await retention.partitions(connection)
    await connection.execute("INSERT INTO tags (name) VALUES ('other')")
    assert not await retention._drop(connection, first)  # the writer holds a lock
    await slow.execute("COMMIT")
    assert not await retention._drop(connection, first)  # no tick has told it
    await database.ticker(retention=DAY)
    watch = await database.watch()
    await watch.until(lambda: told(watch.events) == [("I", "slow")]) if watch.feed.head.tick < 2 else None
    await watch.fence(connection)
    await connection.execute("DELETE FROM rowcast.tick WHERE tick < (SELECT max(tick) FROM rowcast.tick)")
    assert await retention._drop(connection, first)


async def test_the_log_is_kept_to_a_size(database: Database) -> None:
    """Whole partitions go, oldest first, when all of them are larger than allowed; not the one being written."""
    connection = await database.connect()
    await retention.maintain(connection, DAY)
    await until_in_partitions(connection)
    ticker = await database.ticker(retention=DAY)
    watch = await database.watch()
    await connection.execute("INSERT INTO tags (name) SELECT repeat('x', 200) FROM generate_series(1, 5000)")
    await watch.fence(connection)
    await ticker.stop()
    assert await retention.maintain(connection, DAY, 100_000)
    assert await connection.fetchval("SELECT count(*) FROM rowcast.change") == 5001
    await age(connection, DAY / 8)
    assert await retention.maintain(connection, DAY, 100_000)
    assert await connection.fetchval("SELECT count(*) FROM rowcast.change") == 0
    assert (await log.newest_tick(connection)).tick == await log.oldest_tick(connection)


async def test_a_feed_that_was_away_too_long_says_so(database: Database) -> None:
    """Its subscribers are told that what was between is expired, and it goes on from the newest tick."""
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


async def test_a_reader_of_what_is_dropped_meanwhile_is_told(database: Database) -> None:
    """Never a part of it as if it were all."""
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
