"""The order of changes, and that none is missing and none delivered twice, whoever writes."""

from __future__ import annotations

import asyncio
import json
import random
from itertools import pairwise
from typing import Any

import asyncpg
import pytest

from rowcast.changes import sql, ticks
from rowcast.changes.install import PARTITIONS
from rowcast.changes.position import Position, Snapshot
from rowcast.changes.reader import prepare_session

from .watching import Database, Watch, blocked, new, summary

ROWS = "SELECT id::text, title, n, price::text, category_id FROM tasks"


async def stored(connection: asyncpg.Connection) -> dict[str, dict[str, Any]]:
    """The table as a client that replays the log should have it, links included."""
    rows = await connection.fetch(
        ROWS.replace("FROM", ", (SELECT coalesce(array_agg(tag_id ORDER BY tag_id), '{}')"
                             " FROM tasks_tags WHERE task_id = tasks.id) AS tags FROM")
    )  # fmt: skip
    return {row["id"]: dict(row) for row in rows}


def replayed(watch: Watch) -> dict[str, dict[str, Any]]:
    names = ("id", "title", "n", "price", "category_id", "tags")
    return {key: {name: row[name] for name in names} for key, row in watch.state.get("tasks", {}).items()}


def assert_rising(positions: list[Position]) -> None:
    """Positions rise and never repeat."""
    places = [position.sort_key for position in positions]
    assert all(low < high for low, high in pairwise(places))


async def test_a_late_committer_is_delivered_and_delays_nobody(database: Database) -> None:
    """A transaction that has written long before others began is delivered after them, when it commits."""
    await database.ticker()
    watch = await database.watch()
    early, late = await database.connect(), await database.connect()
    await late.execute("BEGIN")
    await late.execute("INSERT INTO tasks (title) VALUES ('late')")
    for title in ("a", "b"):
        await early.execute("INSERT INTO tasks (title) VALUES ($1)", title)
        await watch.fence(early)
    assert summary(watch.events) == [("I", "a"), ("I", "b")]
    await late.execute("COMMIT")
    assert summary(await watch.fence(early)) == [("I", "a"), ("I", "b"), ("I", "late")]


async def test_updates_of_one_row_are_delivered_in_their_order(database: Database) -> None:
    """The transaction that began first and wrote the row last is delivered last, in one tick or in two."""
    watch_one = await database.feed()
    watch = Watch(watch_one)
    first, second = await database.connect(), await database.connect()
    await first.execute("INSERT INTO tasks (title) VALUES ('t'), ('other')")
    await first.execute("BEGIN")
    await first.execute("UPDATE tasks SET n = 1 WHERE title = 'other'")  # has the lower transaction number
    await second.execute("UPDATE tasks SET n = 1 WHERE title = 't'")
    await first.execute("UPDATE tasks SET n = 2 WHERE title = 't'")
    await first.execute("COMMIT")
    await database.ticker()
    events = [event for event in await watch.fence(second) if new(event)["title"] == "t"]
    assert [new(event)["n"] for event in events] == [0, 1, 2]


async def test_a_transaction_is_delivered_in_one_piece(database: Database) -> None:
    """Two transactions that write in turns and are in one tick are delivered one after the other."""
    watch = Watch(await database.feed())
    first, second = await database.connect(), await database.connect()
    for connection in (first, second):
        await connection.execute("BEGIN")
    for title in ("a", "b", "c"):
        await first.execute("INSERT INTO tasks (title) VALUES ($1)", f"first {title}")
        await second.execute("INSERT INTO tasks (title) VALUES ($1)", f"second {title}")
    await second.execute("COMMIT")
    await first.execute("COMMIT")
    await database.ticker()
    events = await watch.fence(first)
    assert [title for _, title in summary(events)] == [
        f"{who} {title}" for who in ("first", "second") for title in "abc"
    ]
    assert len({batch.tick for batch in watch.batches}) < 3


async def test_writers_that_wait_for_each_other_are_delivered_in_commit_order(database: Database) -> None:
    """An update that waited for another's row lock is delivered after it."""
    await database.ticker()
    watch = await database.watch()
    first, second = await database.connect(), await database.connect()
    await first.execute("INSERT INTO tasks (title) VALUES ('t')")
    await second.execute("BEGIN")
    await second.execute("INSERT INTO tags (name) VALUES ('early number')")
    await first.execute("BEGIN")
    await first.execute("UPDATE tasks SET n = n + 1")
    waiting = asyncio.create_task(second.execute("UPDATE tasks SET n = n + 1"))
    await blocked(database, second)
    await first.execute("COMMIT")
    await waiting
    await second.execute("COMMIT")
    await watch.fence(first)
    assert [new(event)["n"] for event in watch.events if event.resource == "tasks"] == [0, 1, 2]


async def writer(connection: asyncpg.Connection, chance: random.Random, rounds: int) -> None:
    """Random transactions on few rows, so that they collide; some roll back, wholly or to a savepoint."""
    for _ in range(rounds):
        try:
            transaction = connection.transaction()
            await transaction.start()
            for _ in range(chance.randint(1, 4)):
                inner = connection.transaction()
                await inner.start()
                await write(connection, chance)
                await (inner.rollback() if chance.random() < 0.15 else inner.commit())
            await (transaction.rollback() if chance.random() < 0.15 else transaction.commit())
        except (asyncpg.DeadlockDetectedError, asyncpg.UniqueViolationError, asyncpg.ForeignKeyViolationError):
            await transaction.rollback()


async def write(connection: asyncpg.Connection, chance: random.Random) -> None:
    key = f"00000000-0000-7000-8000-{chance.randrange(30):012}"
    match chance.randrange(9):
        case 0 | 1:
            await connection.execute(
                "INSERT INTO tasks (id, title, price) VALUES ($1, 'new', $2)"
                " ON CONFLICT (id) DO UPDATE SET n = tasks.n + 1",
                key, chance.randrange(100),
            )  # fmt: skip
        case 2 | 3 | 4:
            await connection.execute("UPDATE tasks SET n = n + 1, title = $2 WHERE id = $1", key, str(chance.random()))
        case 5:
            await connection.execute("DELETE FROM tasks WHERE id = $1", key)
        case 6:
            other = f"00000000-0000-7000-8000-{chance.randrange(30):012}"
            await connection.execute("UPDATE tasks SET id = $2 WHERE id = $1", key, other)
        case 7:
            await connection.execute(
                "INSERT INTO tasks_tags SELECT id, $2 FROM tasks WHERE id = $1 ON CONFLICT DO NOTHING",
                key, chance.randint(1, 5),
            )  # fmt: skip
        case 8:
            await connection.execute("DELETE FROM tasks_tags WHERE task_id = $1", key)


async def test_replayed_changes_give_the_stored_rows(database: Database) -> None:
    """Random writers, and readers that join in the middle by a snapshot of theirs: each ends with the table's rows."""
    await database.ticker()
    feed = await database.feed()
    watch = Watch(feed)
    setup = await database.connect()
    await setup.execute("SET deadlock_timeout = '20ms'")
    await setup.execute("INSERT INTO tags (id, name) SELECT i, i::text FROM generate_series(1, 5) i")
    connections = [await database.connect() for _ in range(8)]
    for connection in connections:
        await connection.execute("SET deadlock_timeout = '20ms'")
    writers = asyncio.gather(*(writer(c, random.Random(seed), 150) for seed, c in enumerate(connections)))
    handed: list[tuple[dict[str, dict[str, Any]], Position]] = []
    while not writers.done():
        async with setup.transaction(isolation="repeatable_read"):
            rows = await stored(setup)
            snapshot = await setup.fetchval("SELECT pg_current_snapshot()::text")
        if (text := feed.stream_position(snapshot)) is not None:
            handed.append((rows, Position.parse(text)))
        await asyncio.wait([writers], timeout=0.01)
    await writers
    await watch.fence(setup)
    expected = await stored(setup)
    assert replayed(watch) == expected
    assert_rising(watch.positions)
    assert len(watch.events) > 1000
    assert len(handed) > 20
    for rows, position in handed:
        assert await feed.check(position) is None
        joined = Watch(feed)
        joined.stop()
        joined.state = {"tasks": rows}
        assert position.snapshot is not None
        async for batch in feed.read(position):
            for event in batch.events:
                if not position.snapshot.sees(event.xid):
                    joined.replay(event)
        assert replayed(joined) == expected


async def test_two_replicas_deliver_the_same(database: Database) -> None:
    """Same events at the same positions, read live or from the log."""
    await database.ticker()
    one, two = await database.watch(), await database.watch(events=10)
    connections = [await database.connect() for _ in range(4)]
    start = two.feed.head
    await asyncio.gather(*(writer(c, random.Random(seed), 60) for seed, c in enumerate(connections)))
    await one.fence(connections[0])
    await two.until(lambda: two.feed.head.sort_key >= one.feed.head.sort_key)
    assert list(zip(one.positions, one.events, strict=True)) == list(zip(two.positions, two.events, strict=True))
    again = [(b.position(e), e) async for b in two.feed.read(start) for e in b.events]
    assert again == list(zip(two.positions, two.events, strict=True))


async def test_a_transaction_of_a_hundred_thousand_rows_is_delivered_in_parts(database: Database) -> None:
    """Batches of a bounded size; a reader resumes anywhere inside, from the ring or from the log."""
    await database.ticker()
    watch = await database.watch(events=5000)
    connection = await database.connect()
    await connection.execute("INSERT INTO tasks (title) SELECT i::text FROM generate_series(1, 100000) i", timeout=60)
    await connection.execute("UPDATE tasks SET n = 1", timeout=120)
    await connection.execute("INSERT INTO fences DEFAULT VALUES")
    await watch.until(lambda: len(watch.events) == 200_001, 120)
    assert max(len(batch.events) for batch in watch.batches) <= 1024
    assert sum(len(batch.events) for batch in watch.feed._ring) <= 5000
    assert {row["n"] for row in watch.state["tasks"].values()} == {1}
    assert_rising(watch.positions)
    for place in (50_000, 100_000, 123_456, 199_999):
        read: list[tuple[Position, int]] = []
        async for batch in watch.feed.read(watch.positions[place]):
            read.extend((batch.position(event), event.seq) for event in batch.events)
            if len(read) > 3000:
                break
        expected = [(p, e.seq) for p, e in zip(watch.positions, watch.events, strict=True)][place + 1 :]
        assert read == expected[: len(read)]
        assert read or not expected


async def test_a_row_of_a_megabyte_is_delivered(database: Database) -> None:
    """PostgreSQL's limit to a row is the only one, and pages of such rows are small."""
    await database.ticker()
    watch = await database.watch()
    connection = await database.connect()
    await connection.execute("ALTER TABLE tags ALTER name TYPE text")
    await connection.execute("INSERT INTO tags (name) SELECT repeat('x', 1 << 20) FROM generate_series(1, 100)")
    events = await watch.fence(connection)
    assert {len(new(event)["name"]) for event in events} == {1 << 20}
    assert len(events) == 100


async def test_the_reader_ends_at_the_head_and_may_subscribe(database: Database) -> None:
    """Reading up to the head and subscribing without an await between misses nothing under writes."""
    await database.ticker()
    feed = await database.feed(events=50)
    watch = Watch(feed)
    connection = await database.connect()
    start = feed.head
    writing = asyncio.create_task(writer(connection, random.Random(1), 200))
    await watch.until(lambda: len(watch.events) > 100)
    joined = Watch(feed)
    joined.stop()
    async for batch in feed.read(start):
        joined.apply(batch)
    joined.stop = feed.subscribe(joined.apply, lambda _reason: None)
    await writing
    mark = await watch.fence(connection)
    await joined.until(lambda: len(joined.events) >= len(watch.events))
    assert mark
    assert joined.positions == watch.positions


async def test_an_open_transaction_with_many_rows_makes_no_poll_slow(database: Database) -> None:
    """A poll steps over what is not committed instead of walking through it."""
    watch = Watch(await database.feed())
    writing, other, reading = await database.connect(), await database.connect(), await database.direct()
    await writing.execute("BEGIN")
    await writing.execute("INSERT INTO tasks (title) SELECT i::text FROM generate_series(1, 20000) i", timeout=60)
    await other.execute("SELECT pg_current_xact_id()")  # others go on, so the open one is in the midst of numbers
    await prepare_session(reading)
    poll = sql.load("make_tick").replace("$1", "0").replace("$2", "false")
    for _ in range(2):
        (plan,) = json.loads(await reading.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {poll}"))
        assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] < 200
    await reading.close()
    await database.ticker()
    assert await watch.fence(other) == []
    await writing.execute("ROLLBACK")


async def test_the_cost_of_a_tick_does_not_grow_with_the_log(database: Database) -> None:
    """The plans of a feed are those of a small log, and still read a large one by index alone."""
    connection, late, reading = await database.connect(), await database.connect(), await database.direct()
    await prepare_session(reading)
    await connection.execute("VACUUM ANALYZE rowcast.change")
    await connection.execute("INSERT INTO tasks (title) SELECT i::text FROM generate_series(1, 40) i")
    await reading.execute(f"PREPARE transactions AS {sql.load('transactions_between_ticks')}")
    await reading.execute(f"PREPARE whole AS {sql.load('changes_of_transactions')}")
    await reading.execute("EXECUTE transactions('3:3:', '3:3:', 1)")  # the plan is made when it is first used
    await reading.execute("EXECUTE whole('{3}')")
    await connection.execute("INSERT INTO tasks (title) SELECT i::text FROM generate_series(1, 20000) i", timeout=60)
    await late.execute("BEGIN; INSERT INTO tasks (title) VALUES ('of a transaction that runs at the first tick')")
    number = await late.fetchval("SELECT pg_current_xact_id()::text")
    await connection.execute("SELECT pg_current_xact_id()")  # which is later, so that the other one is in its midst
    first = await connection.fetchval("SELECT pg_current_snapshot()::text")
    await late.execute("COMMIT")
    await connection.execute("INSERT INTO tasks (title) VALUES ('one more')")
    second = await connection.fetchval("SELECT pg_current_snapshot()::text")
    tick = (await ticks.newest_tick(reading)).tick
    for statement, rows in ((f"transactions('{first}', '{second}', {tick})", 2), (f"whole('{{{number}}}')", 1)):
        (plan,) = json.loads(await reading.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {statement}"))
        assert plan["Plan"]["Actual Rows"] == rows
        assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] < 200
    await reading.close()


@pytest.mark.parametrize("analyzed", [False, True])
async def test_the_position_of_a_standby_costs_the_same_with_a_long_log(database: Database, analyzed: bool) -> None:
    """It reads by index what has happened since the oldest transaction, whether the planner knows the log or not."""
    connection = await database.connect()
    for partition in range(PARTITIONS):
        await connection.execute(f"ALTER TABLE rowcast.change_{partition} SET (autovacuum_enabled = false)")
    await connection.execute("INSERT INTO tasks (title) SELECT i::text FROM generate_series(1, 20000) i", timeout=60)
    if analyzed:
        await connection.execute("ANALYZE rowcast.change")
    (plan,) = json.loads(
        await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT {sql.load('standby_position')}")
    )
    assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] < 200


def test_snapshots_are_compared_as_sets() -> None:
    """``<=`` is inclusion of what is seen."""
    chance = random.Random(7)

    def some() -> Snapshot:
        xmin = chance.randint(5, 12)
        xmax = xmin + chance.randint(0, 6)
        return Snapshot(xmin, xmax, tuple(x for x in range(xmin, xmax) if chance.random() < 0.4))

    for _ in range(3000):
        one, two = some(), some()
        included = all(two.sees(xid) for xid in range(30) if one.sees(xid))
        if one.xmax <= two.xmax:
            assert (one <= two) == included
        elif one <= two:
            assert included
