"""The positions from which a reader may go on, and the reasons why it may not."""

from __future__ import annotations

import asyncio
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.changes import retention, ticks
from rowcast.changes.epochs import read_epochs
from rowcast.changes.position import POSITION_MAX_LENGTH, Position, Snapshot
from rowcast.changes.tail import Reason, Reset

from .watching import Database, summary

BOUND = 2**63 - 1


@given(
    st.integers(0, BOUND), st.integers(0, BOUND), st.integers(0, BOUND), st.integers(1, 10**9),
    st.none() | st.sets(st.integers(0, 500)),
)  # fmt: skip
def test_a_position_is_read_as_it_was_written(
    epoch: int, tick: int, n: int, xmin: int, running: set[int] | None
) -> None:
    """Text and back, with a snapshot or without."""
    snapshot = None
    if running is not None:
        snapshot = Snapshot(xmin, xmin + 501, tuple(sorted(xmin + xid for xid in running)))
    position = Position(epoch, tick, n, snapshot)
    text = str(position)
    if len(text) <= POSITION_MAX_LENGTH:
        assert Position.parse(text) == position


@pytest.mark.parametrize(
    "text",
    ["", "1", "1-2", "1-2-3-4", "-1-2-3", "01-2-3", "1-2-3~", "1-2-3~x", "1-2-3~5:4:", "1-2-3~5:6:7", "1-2-3~5:9:7,6",
     "1-2-3~5:9:7,7", "1-2-3~5:9:4", " 1-2-3", "1-2-3\n", "1-2-٣", "9223372036854775808-1-1", "1-2-3~1:2:" + "1," * 999,
     "9" * 5000, "\x00", "null"],
)  # fmt: skip
async def test_a_malformed_position_is_recognized(database: Database, text: str) -> None:
    """Anything but the one form is malformed, and found so in bounded time."""
    with pytest.raises(ValueError, match="not a"):
        Position.parse(text)
    feed = await database.feed()
    assert await feed.check(text) == Reason.MALFORMED


async def test_a_position_ahead_of_the_log_is_recognized(database: Database) -> None:
    """A tick that has not been made, or events after the newest tick."""
    feed = await database.feed()
    head = feed.head
    assert await feed.check(head) is None
    assert await feed.check(Position(head.epoch, head.tick, 1)) == Reason.AHEAD
    assert await feed.check(Position(head.epoch, head.tick + 1)) == Reason.AHEAD


async def test_a_position_that_another_replica_has_reached_is_not_ahead(database: Database) -> None:
    """A feed that lags reads the database before it sends a client away."""
    ticker = await database.ticker()
    behind = await database.feed()
    watch = await database.watch()
    await behind.stop()
    connection = await database.connect()
    await watch.fence(connection)
    assert ticker.ticks
    assert behind.head.sort_key < watch.feed.head.sort_key
    assert await behind.check(watch.feed.head) is None


async def test_a_position_of_another_database_is_recognized(database: Database) -> None:
    """Epochs are not shared by databases, so neither are positions."""
    feed = await database.feed()
    assert await feed.check(Position(feed.head.epoch + 1, feed.head.tick)) == Reason.FORKED


async def test_a_copy_of_a_database_goes_its_own_way(database: Database) -> None:
    """Its ticks are of a new epoch; positions from before the copy go on in it, later ones of the original do not."""
    connection = await database.connect()
    before = await ticks.newest_tick(connection)
    await database.ticker()
    watch = await database.watch()
    await watch.fence(connection)
    assert before.epoch != watch.positions[-1].epoch
    assert await watch.feed.check(Position(before.epoch, before.tick)) is None
    assert await watch.feed.check(Position(before.epoch, before.tick, 1)) == Reason.FORKED
    assert await watch.feed.check(Position(before.epoch, before.tick + 1)) == Reason.FORKED
    assert await watch.feed.check(watch.positions[-1]) is None


async def test_a_promotion_forks_what_was_lost(database: Database) -> None:
    """Another timeline begins an epoch; a feed that had gone further resets its subscribers."""
    ticker = await database.ticker()
    watch = await database.watch()
    connection = await database.connect()
    await watch.fence(connection)
    kept = watch.feed.head
    await watch.fence(connection)
    lost = watch.feed.head
    await ticker.stop()
    await connection.execute("DELETE FROM rowcast.tick WHERE tick > $1", kept.tick)
    await connection.execute("UPDATE rowcast.epoch SET timeline = '0000FFFF'")
    await watch.until(lambda: watch.resets == ["forked"])
    await database.ticker()
    connection = await database.connect()
    await watch.fence(connection)
    assert watch.feed.head.epoch > lost.epoch
    assert await watch.feed.check(kept) is None
    assert await watch.feed.check(lost) == Reason.FORKED


async def test_a_log_restored_in_another_cluster_begins_again(database: Database) -> None:
    """Its transaction numbers mean nothing there, so its rows go and every earlier position is forked."""
    ticker = await database.ticker()
    watch = await database.watch()
    connection = await database.connect()
    await watch.fence(connection)
    earlier = watch.feed.head
    await ticker.stop()
    await connection.execute("UPDATE rowcast.epoch SET system_identifier = 1")
    await connection.execute("UPDATE rowcast.change SET xid = '999999999999'")
    await database.ticker()
    await watch.until(lambda: bool(watch.resets))
    await watch.fence(connection)
    assert await watch.feed.check(earlier) == Reason.FORKED
    assert await connection.fetchval("SELECT count(*) FROM rowcast.change WHERE xid = '999999999999'") == 0
    assert watch.feed.head.tick > earlier.tick


async def test_a_pruned_position_is_expired(database: Database) -> None:
    """A reader before the oldest tick has to begin again, one at it does not; the newest tick is always kept."""
    ticker = await database.ticker()
    watch = await database.watch(events=1)
    connection = await database.connect()
    start = watch.feed.head
    await watch.fence(connection)
    await watch.fence(connection)
    end = watch.feed.head
    await ticker.stop()
    await retention.maintain(connection, 0, 0)
    assert await watch.feed.check(start) == Reason.EXPIRED
    assert await watch.feed.check(end) is None
    assert [batch async for batch in watch.feed.read(end)] == []


async def test_readers_that_come_together_share_a_look_at_the_log(database: Database) -> None:
    """However many come back with old positions, the database is asked once; what it could refuse is asked again."""
    await database.ticker()
    watch = await database.watch(events=1)
    connection = await database.connect()
    start = watch.feed.head
    for _ in range(3):
        await watch.fence(connection)
    with (
        mock.patch("rowcast.changes.feed.read_epochs", side_effect=read_epochs) as reads,
        mock.patch("rowcast.changes.feed.EXTENT_MAX_AGE_SECONDS", 3600),
    ):
        assert set(await asyncio.gather(*(watch.feed.check(start) for _ in range(100)))) == {None}
        assert await watch.feed.check(start) is None
        assert reads.call_count == 1
        for _ in range(2):
            assert await watch.feed.check(Position(watch.feed.head.epoch, watch.feed.head.tick + 1)) == Reason.AHEAD
        assert reads.call_count == 3


async def test_what_is_pruned_after_a_check_is_found_by_the_reader(database: Database) -> None:
    """A position that was found to be good a moment ago is expired when its changes are read."""
    ticker = await database.ticker()
    watch = await database.watch(events=1)
    connection = await database.connect()
    start = watch.feed.head
    await watch.fence(connection)
    await watch.fence(connection)
    await ticker.stop()
    with mock.patch("rowcast.changes.feed.EXTENT_MAX_AGE_SECONDS", 3600):
        assert await watch.feed.check(start) is None
        await retention.maintain(connection, 0, 0)
        assert await watch.feed.check(start) is None
        with pytest.raises(Reset, match="expired"):
            await anext(watch.feed.read(start))
    assert await watch.feed.check(start) == Reason.EXPIRED


async def test_a_reader_resumes_in_the_middle_of_a_transaction(database: Database) -> None:
    """Every event's position goes on with the event after it, from memory and from the log."""
    await database.ticker()
    watch = await database.watch()
    poor = await database.watch(events=1, size=1)
    connection = await database.connect()
    async with connection.transaction():
        for i in range(20):
            await connection.execute("INSERT INTO tasks (title) VALUES ($1)", str(i))
    await watch.fence(connection)
    await poor.until(lambda: len(poor.events) == 21)
    for feed in (watch.feed, poor.feed):
        for i, position in enumerate(watch.positions):
            assert await feed.check(position) is None
            rest = [event async for batch in feed.read(position) for event in batch.events]
            assert rest == watch.events[i + 1 :]
    assert len(summary(watch.events)) == 20


async def test_a_write_between_a_list_and_its_stream_is_delivered_once(database: Database) -> None:
    """A change that had committed when the list ran is omitted, even if its tick came after the list's tick."""
    feed = await database.feed()
    connection, open_ = await database.connect(), await database.connect()
    await connection.execute("INSERT INTO tasks (title) VALUES ('in the list, not yet in a tick')")
    await open_.execute("BEGIN")
    await open_.execute("INSERT INTO tasks (title) VALUES ('open while listed')")
    snapshot = await connection.fetchval("SELECT pg_current_snapshot()::text")
    position = Position.parse(feed.stream_position(snapshot) or "")
    await connection.execute("INSERT INTO tasks (title) VALUES ('after the list')")
    await open_.execute("COMMIT")
    await database.ticker()
    watch = await database.watch()
    await watch.fence(connection)
    while feed.head.sort_key < watch.feed.head.sort_key:
        async for _ in feed.read(feed.head):
            pass
        await connection.execute("SELECT")
    assert position.snapshot is not None
    unseen = [
        event async for batch in feed.read(position) for event in batch.events if not position.snapshot.sees(event.xid)
    ]
    assert sorted(str(title) for _, title in summary(unseen)) == ["after the list", "open while listed"]


async def test_a_position_is_never_of_a_tick_newer_than_the_statement(database: Database) -> None:
    """A statement that ran while the feed moved on gets the tick that its snapshot includes, however late the position is requested."""
    await database.ticker()
    watch = await database.watch()
    connection = await database.connect()
    snapshot = await connection.fetchval("SELECT pg_current_snapshot()::text")
    await watch.fence(connection)
    position = Position.parse(watch.feed.stream_position(snapshot) or "")
    assert position.tick < watch.feed.head.tick
    later = [event async for batch in watch.feed.read(position) for event in batch.events]
    assert watch.events[-1] in later
