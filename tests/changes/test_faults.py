"""Faults that ticker and feed survive by themselves; `tests/faults` has what clients see of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from time import monotonic
from typing import Any

import asyncpg
import pytest

from rowcast.changes import ticks
from rowcast.changes.cache import FEED_MAX_LAG_SECONDS
from rowcast.changes.connection import QUIET_POLL_SECONDS, SAFETY_POLL_SECONDS
from rowcast.changes.coordination import GATE_SHUT, LEADER_TABLE, WAKE_CHANNEL
from rowcast.changes.events import Event
from rowcast.changes.feed import Feed
from rowcast.changes.position import Position
from rowcast.changes.ticker import Ticker
from rowcast.changes.trigger_sync import sync_triggers
from rowcast.database.connection import Connect
from rowcast.database.table_lock import lock_holder
from rowcast.resources.tables import Tables

from ..waiting import until
from .watching import Database, Watch, new, resources, summary, within

COMMITS = int(os.environ.get("ROWCAST_TEST_COMMITS", "300"))  # as the ticker falls asleep


async def test_a_ticker_that_is_stopped_hands_over(database: Database) -> None:
    """Stopping is clean: the lock is free at once and another replica goes on."""
    first = await database.ticker()
    await within(first.leading.wait())
    second = await database.ticker()
    watch = await database.watch()
    connection = await database.connect()
    await watch.fence(connection)
    await first.stop()
    await within(second.leading.wait())
    await watch.fence(connection)


async def test_a_ticker_that_waits_for_the_lead_is_not_woken_by_writers(database: Database) -> None:
    """It looks four times a second whether the lock is free, however many notifications wake the ticker that leads."""
    statements: list[str] = []

    async def connect() -> asyncpg.Connection:
        connection = await database.direct()
        connection.add_query_logger(lambda record: statements.append(record.query))
        return connection

    leader = await database.ticker()
    await within(leader.leading.wait())
    connection = await database.connect()
    async with Ticker(connect) as waiting:
        await until(lambda: len(statements) > 3)
        for i in range(5):
            await within(leader.asleep.wait())
            ticks_before = leader.ticks
            await connection.execute("INSERT INTO tags (name) VALUES ($1)", str(i))
            await until(lambda: leader.ticks > ticks_before)  # noqa: B023
        before, started = len(statements), monotonic()
        await until(lambda: len(statements) >= before + 4)
        assert monotonic() - started > 2 * SAFETY_POLL_SECONDS
        assert not waiting.leading.is_set()


async def test_a_frozen_ticker_is_ended_by_the_server(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader that is silent for a while loses its session, and with it the lead."""
    monkeypatch.setattr("rowcast.changes.ticker.LEADER_SILENCE_SECONDS", 1)
    frozen = await database.ticker()
    await within(frozen.leading.wait())
    monkeypatch.setattr(ticks, "make_tick", _never)  # as when the process does not run
    frozen.ring()
    admin = await database.connect()
    async with asyncio.timeout(20):
        while await lock_holder(admin, LEADER_TABLE) is not None:
            pass


async def _never(*_: object, **__: object) -> None:
    await asyncio.Event().wait()


async def test_a_commit_as_the_ticker_falls_asleep_is_not_late(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers that find the gate still shut and commit after it was opened, again and again.

    Such a writer does not notify. Its change is delivered because the ticker dozes, never because of the safety poll.
    """
    monkeypatch.setattr("rowcast.changes.ticker.DOZE_AFTER_SECONDS", 0.004)
    watch = await database.watch()
    ticker = Drowsy(database.direct)
    connection = await database.connect()
    late, overslept = [], []
    async with ticker:
        ticker.hold()
        for i in range(COMMITS):
            while not ticker.about_to_open.is_set():  # it may have dozed off without ever having shut the gate
                with contextlib.suppress(TimeoutError):
                    await within(ticker.about_to_open.wait(), 1.4 * SAFETY_POLL_SECONDS)
                    break
                await connection.execute("INSERT INTO tags (name) VALUES ('wake up')")
            await connection.execute(f"BEGIN; INSERT INTO tags (name) VALUES ('{i}')")
            ticker.go.set()
            for _ in range(i % 7):  # from before the gate opens to after the ticker has gone to sleep but for us
                await connection.execute("SELECT")
            await connection.execute("COMMIT")
            committed, before = monotonic(), ticker.overslept
            ticker.hold()
            await watch.until(lambda name=str(i): watch.events != [] and new(watch.events[-1])["name"] == name)  # type: ignore[misc]
            late.append(monotonic() - committed)
            if (
                ticker.overslept > before and late[-1] > SAFETY_POLL_SECONDS / 5
            ):  # sooner, it was a poll that came just then
                overslept.append(i)
    assert overslept == []
    assert sorted(late)[len(late) * 9 // 10] < SAFETY_POLL_SECONDS / 2


class Drowsy(Ticker):
    """A ticker that, if ``held``, waits once for ``go`` before it opens the gate; counts its ticks for no bell."""

    def __init__(self, connect: Connect) -> None:
        super().__init__(connect)
        self.about_to_open = asyncio.Event()
        self.go = asyncio.Event()
        self.held = False
        self.overslept = 0
        self._slept_through: int | None = None

    def hold(self) -> None:
        self.go.clear()
        self.about_to_open.clear()
        self.held = True

    async def _open_gate(self, connection: asyncpg.Connection) -> None:
        if self.held:
            self.held = False
            self.about_to_open.set()
            await self.go.wait()
        await super()._open_gate(connection)

    async def _wait(self, seconds: float) -> None:
        if self._slept_through is not None and self._slept_through < self.ticks:
            self.overslept += 1
        asleep = self.asleep.is_set()
        await super()._wait(seconds)
        self._slept_through = self.ticks if asleep and not self._bell.is_set() else None


async def test_writers_notify_only_while_the_ticker_sleeps(database: Database) -> None:
    """While it is awake the gate is shut and no commit notifies; while it sleeps one notification wakes it."""
    ticker = await database.ticker()
    watch = await database.watch()
    connection, listener = await database.connect(), await database.connect()
    heard: list[Any] = []
    await listener.add_listener(WAKE_CHANNEL, lambda *_: heard.append(1))
    await watch.fence(connection)

    async def keep_awake(writes: int) -> int:
        """How many notifications come of some writes in a row, once the gate is shut."""
        while await connection.fetchval("SELECT last_value FROM rowcast.gate") != GATE_SHUT:
            await connection.execute("INSERT INTO tags (name) VALUES ('keeps it awake')")
        await listener.execute("SELECT")
        before = len(heard)
        for i in range(writes):
            await connection.execute("INSERT INTO tags (name) VALUES ($1)", str(i))
        await listener.execute("SELECT")
        return len(heard) - before

    async with asyncio.timeout(20):
        while await keep_awake(20):  # a machine that stalls between two writes lets it fall asleep
            pass
    before = len(heard)
    await within(ticker.asleep.wait())
    await connection.execute("INSERT INTO tags (name) VALUES ('wake up')")
    await listener.execute("SELECT")
    assert len(heard) == before + 1
    await watch.fence(connection)


async def test_a_ticker_looks_more_often_while_writers_do_not_notify(database: Database) -> None:
    """It looks rarely while it sleeps; four times a second after a change that no notification came for, until one comes."""
    connection, tables = await database.connect(), Tables(resources())
    pauses = []

    class Watched(Ticker):
        async def _wait(self, seconds: float) -> None:
            pauses.append(seconds)
            await super()._wait(seconds)

    async def pause_after_a_change() -> float:
        """The pause of the ticker that sleeps again."""
        await within(ticker.asleep.wait())
        made = ticker.ticks
        await connection.execute("INSERT INTO tags (name) VALUES ('t')")
        await until(lambda: ticker.ticks > made and ticker.asleep.is_set())
        return pauses[-1]

    async with Watched(database.direct) as ticker:
        await within(ticker.asleep.wait())
        assert pauses[-1] == QUIET_POLL_SECONDS
        await sync_triggers(connection, tables, wakeup="poll")
        assert await pause_after_a_change() == SAFETY_POLL_SECONDS
        await sync_triggers(connection, tables, wakeup="notify")
        async with asyncio.timeout(20):
            while await pause_after_a_change() != QUIET_POLL_SECONDS:  # a poll may come sooner than a notification
                pass


async def test_a_feed_looks_more_often_while_the_ticker_does_not_notify(database: Database) -> None:
    """It looks rarely, but so that caches remain in use; four times a second after a tick that no notification came for."""
    assert SAFETY_POLL_SECONDS < QUIET_POLL_SECONDS < FEED_MAX_LAG_SECONDS
    connection = await database.connect()
    pauses: list[tuple[float, Position]] = []

    class Watched(Feed):
        async def _wait(self, seconds: float) -> None:
            pauses.append((seconds, self.head))
            await super()._wait(seconds)

    async def pause_after_a_change() -> float:
        """The pause of the feed that has read it."""
        before = feed.head
        await connection.execute("INSERT INTO tags (name) VALUES ('t')")
        await until(lambda: feed.head != before and pauses[-1][1] == feed.head)
        return pauses[-1][0]

    async with Watched(database.direct) as feed:
        await until(lambda: bool(pauses))
        assert pauses[-1][0] == QUIET_POLL_SECONDS
        async with Ticker(database.direct, wakeup="poll"):
            assert await pause_after_a_change() == SAFETY_POLL_SECONDS
        async with Ticker(database.direct), asyncio.timeout(20):
            while await pause_after_a_change() != QUIET_POLL_SECONDS:  # a poll may come sooner than a notification
                pass


async def test_without_notifications_the_poll_takes_over(database: Database) -> None:
    """No notification of a writer or the ticker arrives, and still every change is delivered."""
    connection = await database.connect()
    await sync_triggers(connection, Tables(resources()), wakeup="poll")
    ticker = await database.ticker()
    watch = await database.watch(wakeup="poll")
    for _ in range(3):
        await within(ticker.asleep.wait())
        await connection.execute("INSERT INTO tags (name) VALUES ('t')")
        await watch.fence(connection)
    assert summary(watch.events, "tags") == [("I", "t")] * 3


async def test_a_feed_starts_before_its_database(database: Database) -> None:
    """Neither ticker nor feed gives up when PostgreSQL cannot be reached or has no log yet."""
    reachable = asyncio.Event()

    async def connect() -> asyncpg.Connection:
        if not reachable.is_set():
            raise ConnectionRefusedError
        return await database.direct()

    connection = await database.connect()
    await connection.execute("ALTER SCHEMA rowcast RENAME TO away")
    async with Ticker(connect), Feed(connect) as feed:
        reachable.set()
        assert not feed.ready.is_set()
        await connection.execute("ALTER SCHEMA away RENAME TO rowcast")
        await within(feed.ready.wait())
        await Watch(feed).fence(connection)


async def test_a_reader_of_the_log_waits_out_a_lost_connection(database: Database) -> None:
    """Catching up goes on after the last batch when its connection is killed."""
    await database.ticker()
    feed = await database.feed(events=1, size=1)
    watch = Watch(feed)
    start = feed.head
    connection = await database.connect()
    for i in range(300):
        await connection.execute("INSERT INTO tags (name) VALUES ($1)", str(i))
    await watch.fence(connection)
    events: list[Event] = []
    async for batch in feed.read(start):
        events += batch.events
        if len(events) in range(100, 103):
            assert feed.history.primary._connection is not None
            feed.history.primary._connection.terminate()
    assert events == watch.events


async def test_one_subscriber_that_fails_does_not_harm_others(database: Database) -> None:
    """An error in a callback is logged, and the next subscriber is called all the same."""
    await database.ticker()
    feed = await database.feed()

    def fail(_batch: object) -> None:
        raise RuntimeError("a defect")

    feed.subscribe(fail, lambda _reason: None)
    await Watch(feed).fence(await database.connect())


async def test_stopping_leaves_nothing_behind(database: Database) -> None:
    """No task and no connection remains of a ticker and a feed that were stopped."""
    before = asyncio.all_tasks()
    admin = await database.connect()
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    async with Ticker(database.direct) as ticker, Feed(database.direct) as feed:
        await within(ticker.leading.wait())
        await within(feed.ready.wait())
        await Watch(feed).fence(admin)
        assert await admin.fetchval(sessions) > 1
    assert asyncio.all_tasks() == before
    async with asyncio.timeout(20):
        while await admin.fetchval(sessions) > 1:
            pass


async def test_a_feed_without_a_ticker_is_not_current(database: Database) -> None:
    """Without a ticker nothing is delivered, and the feed does not count as current."""
    feed = await database.feed()
    connection = await database.connect()

    def has_lag(yes: bool) -> bool:
        """Whether the feed has checked and found nothing, or has been without an answer for longer than it waits."""
        return (feed.lag > 2 * SAFETY_POLL_SECONDS) is yes and feed.connected

    await until(lambda: has_lag(False))
    await connection.execute("INSERT INTO tags (name) VALUES ('untold')")
    await until(lambda: has_lag(True))
    ticker = await database.ticker()
    await within(ticker.leading.wait())
    await until(lambda: has_lag(False))
