"""A feed reads the rows of changes for those who need them; otherwise it learns which resources have changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from typing import Any

import pytest

from rowcast.changes import sql, tail, ticks
from rowcast.changes.reader import prepare_session
from rowcast.changes.tail import Tail
from rowcast.changes.ticks import Tick
from rowcast.database.connection import Connection

from .watching import Database, Watch, within


class Idle:
    """A subscriber that needs no rows, or not yet; the resources that it learns of."""

    def __init__(self, feed: Tail) -> None:
        self.feed = feed
        self.needs_rows = False
        self.batches = 0
        self.resources: set[str] = set()
        self.news = asyncio.Event()
        feed.subscribe(self.apply, lambda _: None, needs_rows=lambda: self.needs_rows, pass_over=self.pass_over)

    def apply(self, _: Any) -> None:
        self.batches += 1
        self.news.set()

    def pass_over(self, resources: Collection[str]) -> None:
        self.resources.update(resources)
        self.news.set()

    async def hears_of(self, resource: str) -> None:
        """Wait until it learns of a resource."""
        async with asyncio.timeout(20):
            while resource not in self.resources:
                self.news.clear()
                await self.news.wait()


async def test_who_needs_no_rows_learns_what_has_changed(database: Database) -> None:
    """No batch is made, the head moves, and what has been passed over can be read from the log."""
    await database.ticker()
    feed = await database.feed()
    idle, connection, start = Idle(feed), await database.connect(), feed.head
    await connection.execute("INSERT INTO tags (name) VALUES ('a'); UPDATE tags SET name = 'b'")
    await connection.execute("INSERT INTO tasks (title) VALUES ('c')")
    await idle.hears_of("tasks")
    assert idle.resources == {"tags", "tasks"}
    assert idle.batches == 0
    assert feed.head.tick > start.tick
    assert feed.oldest_tick == feed.tick
    read = [(event.resource, event.op) async for batch in feed.read(start) for event in batch.events]
    assert read == [("tags", "I"), ("tags", "U"), ("tasks", "I")]


async def test_who_comes_during_a_look_misses_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that has begun without the rows reads them, if somebody has come who needs them."""
    await database.ticker()
    feed = await database.feed()
    idle, connection = Idle(feed), await database.connect()
    came: list[Watch] = []
    skim = ticks.skim

    async def skim_while_somebody_comes(connection: Connection, first: int) -> tuple[list[Tick], list[str]]:
        found = await skim(connection, first)
        if len(found[0]) > 1 and not came:
            came.append(Watch(feed))
        return found

    monkeypatch.setattr(ticks, "skim", skim_while_somebody_comes)
    await connection.execute("INSERT INTO tags (name) VALUES ('a')")
    async with asyncio.timeout(20):
        await idle.news.wait()
    await came[0].fence(connection)
    assert came[0].events[0].resource == "tags"
    assert not idle.resources


async def test_rows_are_kept_for_a_while_after_the_last_who_needed_them(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that come back find the changes in memory; later they would read the log."""
    await database.ticker()
    feed = await database.feed()
    idle, connection = Idle(feed), await database.connect()
    idle.needs_rows = True
    watch = Watch(feed)
    await watch.fence(connection)
    watch.stop()
    idle.needs_rows = False
    before, idle.news = idle.batches, asyncio.Event()
    await connection.execute("INSERT INTO tags (name) VALUES ('a')")
    await within(idle.news.wait())
    assert idle.batches == before + 1
    monkeypatch.setattr(tail, "ROWS_NEEDED_SECONDS", 0.0)
    await connection.execute("INSERT INTO tags (name) VALUES ('b')")
    await idle.hears_of("tags")
    assert idle.batches == before + 1
    assert feed.oldest_tick == feed.tick


async def test_passing_over_costs_the_same_with_a_long_log(database: Database) -> None:
    """The plan is that of a small log, and reads a large one by index alone, transactions of before the first tick included."""
    connection, late, reading = await database.connect(), await database.connect(), await database.direct()
    await prepare_session(reading)
    await connection.execute("VACUUM ANALYZE rowcast.change")
    await connection.execute("INSERT INTO tasks (title) SELECT i::text FROM generate_series(1, 40) i")
    await reading.execute(f"PREPARE skim AS {sql.load('resources_between_ticks')}")
    await reading.execute("EXECUTE skim(1, 512)")  # the plan is made when it is first used
    await connection.execute("INSERT INTO tasks (title) SELECT i::text FROM generate_series(1, 20000) i", timeout=60)
    await late.execute("BEGIN; INSERT INTO tags (name) VALUES ('of a transaction that runs at the first tick')")
    await connection.execute("SELECT pg_current_xact_id()")  # which is later, so that the other one is in its midst
    make = "INSERT INTO rowcast.tick (tick, epoch, snap) SELECT max(tick) + 1, max(epoch), pg_current_snapshot() FROM rowcast.tick RETURNING tick"
    first = await connection.fetchval(make)
    await late.execute("COMMIT")
    await connection.execute("INSERT INTO fences (id) VALUES (gen_random_uuid())")
    await connection.fetchval(make)
    (plan,) = json.loads(await reading.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE skim({first}, 512)"))
    assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] < 200
    read, resources = await ticks.skim(reading, first)
    assert [each.tick for each in read] == [first, first + 1]
    assert sorted(resources) == ["fences", "tags"]
    assert await ticks.skim(reading, first + 1) == (read[1:], [])
    await reading.close()
