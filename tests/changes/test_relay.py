"""The relay: the leader's batches reach the other nodes over a bus, and the log has what the bus has lost."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.changes.connection import cancel
from rowcast.changes.events import Batch, Event
from rowcast.changes.feed import Feed
from rowcast.changes.position import Position, Snapshot
from rowcast.changes.relay import LATE_SECONDS, SILENCE_SECONDS, Relay
from rowcast.changes.relay_messages import Beat, NotGenuine, RelayKey, decode, encode
from rowcast.changes.standbys import PrimaryClock
from rowcast.changes.table_watch import TableWatch
from rowcast.changes.ticker import Ticker
from rowcast.changes.trigger_sync import sync_triggers
from rowcast.database.pool import Database as Pool
from rowcast.query.replicas import Replicas
from rowcast.query.statements import Queries
from rowcast.query.store import Store
from rowcast.resources.tables import Tables

from ..conftest import rowcast, write_config
from ..waiting import until
from .buses import LIMIT_BYTES, Wire
from .watching import Database, Watch, resources, within

LATEST_SECONDS = 10.0  # far below the poll of a node that is fed, on a busy machine


class Node:
    """A process of a service as far as changes go: relay, ticker and feed, with the statements of both."""

    def __init__(self, database: Database, wire: Wire, *, limit: int = LIMIT_BYTES) -> None:
        self.statements: list[str] = []
        self._database = database
        self.relay = Relay(wire.bus(limit=limit))
        self.ticker = Ticker(self._connect, relay=self.relay)
        self.feed = Feed(self._connect, relay=self.relay)
        self.watch: Watch

    async def _connect(self) -> asyncpg.Connection:
        connection = await self._database.direct()
        connection.add_query_logger(lambda record: self.statements.append(record.query))
        return connection

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Node]:
        """Run it, as a service does."""
        await self.relay.start()
        async with self.ticker, self.feed:
            await within(self.feed.ready.wait())
            self.watch = Watch(self.feed)
            yield self
        await self.relay.stop()

    async def fed(self) -> None:
        """Wait until it is fed."""
        await until(lambda: self.feed.fed)


@contextlib.asynccontextmanager
async def nodes(database: Database, wire: Wire, number: int, **options: Any) -> AsyncIterator[list[Node]]:
    """Nodes of which the first leads and the others are fed."""
    async with contextlib.AsyncExitStack() as stack:
        made = [Node(database, wire, **options) for _ in range(number)]
        await stack.enter_async_context(made[0].running())
        await within(made[0].ticker.leading.wait())
        for node in made[1:]:
            await stack.enter_async_context(node.running())
        for node in made[1:]:
            await node.fed()
        yield made


async def test_a_node_that_is_fed_needs_no_statements(database: Database) -> None:
    """It gets the events of the leader, position by position, and neither listens nor reads ticks; the leader does."""
    async with nodes(database, Wire(), 3) as (leader, *others):
        connection = await database.connect()
        before = [len(node.statements) for node in others]
        for i in range(30):
            await connection.execute("INSERT INTO tags (name) VALUES ($1)", str(i))
            await leader.watch.fence(connection)
        for node in others:
            await node.watch.until(lambda node=node: node.feed.head == leader.feed.head)  # type: ignore[misc]
            assert (node.watch.events, node.watch.positions) == (leader.watch.events, leader.watch.positions)
            assert node.feed.snapshot == leader.feed.snapshot
            assert node.relay.filled == 0
        assert [len(node.statements) for node in others] == before
        assert len(leader.watch.events) == 60
        assert await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'UNLISTEN%'") == 2


@pytest.mark.parametrize("seed", range(3))
async def test_messages_that_are_lost_doubled_and_reordered_do_no_harm(database: Database, seed: int) -> None:
    """Each node has every event once, in the order of the log, whatever the bus does."""
    wire = Wire(seed)
    async with nodes(database, wire, 3) as made:
        connection = await database.connect()
        wire.lose, wire.double, wire.delay = 0.3, 0.3, 0.3
        for i in range(60):
            await connection.execute("INSERT INTO tags (name) SELECT $1 FROM generate_series(1, $2)", str(i), i % 5)
            if i % 3 == 0:
                await made[0].watch.fence(connection)
        for node in made:
            await node.watch.fence(connection)
        head = made[0].feed.head
        for node in made:
            await node.watch.until(lambda node=node: node.feed.head == head)  # type: ignore[misc]
            assert (node.watch.events, node.watch.positions) == (made[0].watch.events, made[0].watch.positions)
            assert node.watch.resets == []
        assert sum(node.relay.filled for node in made[1:]) > 0


async def test_the_last_message_is_lost_and_its_events_come_with_the_next_beat(database: Database) -> None:
    """A node reads the log when a beat is ahead of its head; it need not wait for the next change."""
    wire = Wire()
    async with nodes(database, wire, 2) as (leader, other):
        connection = await database.connect()
        wire.lose = 1.0
        await leader.watch.fence(connection)
        wire.lose = 0.0
        await until(lambda: other.watch.events == leader.watch.events, LATEST_SECONDS)
        assert other.relay.filled == 1
        assert other.feed.fed


async def test_a_beat_that_is_wrong_does_not_prove_what_a_node_has(database: Database) -> None:
    """Memory does not answer a client that names a change which has not been delivered, whatever a beat says."""
    wire, tables = Wire(), Tables(resources())
    async with nodes(database, wire, 2) as (leader, other), contextlib.AsyncExitStack() as stack:
        connection = await database.connect()
        clock = PrimaryClock(database.direct, lambda: 0)
        replicas = Replicas(Store(Queries(tables), Pool(database.url, tables.guards)), (), clock, other.feed, 1.0)
        await replicas.start()
        stack.push_async_callback(replicas.stop)
        key = leader.relay._key
        assert key is not None
        await until(lambda: other.relay.current_at(leader.feed.head) is not None)
        head = leader.feed.head
        wire.mute = True
        number = await connection.fetchval(
            "INSERT INTO tags (name) VALUES ('x') RETURNING pg_current_xact_id()::text::bigint"
        )
        since = monotonic()
        while (end := clock.end_at(since)) is None or not end.includes(number) or other.feed.lag > 0.05:
            at = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
            wire.deliver(key.channel, next(encode(key, "wrong", at, Beat(head, current=True), LIMIT_BYTES)))
            await asyncio.sleep(0.02)
            since = monotonic() - 0.1
        assert not other.feed.has_delivered(number)
        assert not replicas.memory_has(number)
        wire.mute = False
        await until(lambda: replicas.memory_has(number), LATEST_SECONDS)


async def test_a_bus_that_is_down_is_not_needed(database: Database) -> None:
    """Each node follows the log by itself at once, and is fed again when the bus is back."""
    wire = Wire()
    async with nodes(database, wire, 3) as made:
        connection = await database.connect()
        wire.down = True
        for i in range(10):
            await connection.execute("INSERT INTO tags (name) VALUES ($1)", str(i))
            for node in made:
                await node.watch.fence(connection)
        assert not any(node.feed.fed or node.relay.connected for node in made)
        wire.down = False
        for node in made[1:]:
            await node.fed()
        for node in made:
            await node.watch.fence(connection)
        await until(lambda: all(node.watch.positions == made[0].watch.positions for node in made))
        assert all(node.watch.events == made[0].watch.events for node in made)


async def test_a_leader_that_cannot_be_heard_feeds_nobody(database: Database) -> None:
    """After a moment of silence the others follow the log, although the bus and the leader are there."""
    wire = Wire()
    async with nodes(database, wire, 2) as (_, other):
        wire.lose = 1.0
        silent = monotonic()
        await until(lambda: not other.feed.fed)
        assert monotonic() - silent > SILENCE_SECONDS / 2
        await other.watch.fence(await database.connect())
        assert other.relay.filled == 0


async def test_a_feed_that_begins_to_be_fed_is_woken_at_once(database: Database) -> None:
    """What arrives while the feed still reads the log is applied when it begins to be fed, not by its next poll."""
    async with nodes(database, Wire(), 2) as (leader, other):
        connection = await database.connect()
        for i in range(30):
            other.relay._fall_silent()  # and hears the leader again with the next message
            await connection.execute("INSERT INTO tags (name) VALUES ($1)", str(i))
            await leader.watch.fence(connection)
            await until(lambda: other.watch.events == leader.watch.events, LATEST_SECONDS)
        await other.fed()


async def test_another_node_leads_as_soon_as_the_leader_has_ended(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It need not wait until the leader has been silent, and feeds those that are left."""
    monkeypatch.setattr("rowcast.changes.relay.SILENCE_SECONDS", 60.0)
    wire = Wire()
    leader = Node(database, wire)
    async with contextlib.AsyncExitStack() as stack:
        running = leader.running()
        await running.__aenter__()
        await within(leader.ticker.leading.wait())
        others = [await stack.enter_async_context(Node(database, wire).running()) for _ in range(2)]
        for node in others:
            await node.fed()
        await running.__aexit__(None, None, None)
        await until(lambda: any(node.ticker.leading.is_set() for node in others), LATEST_SECONDS)
        await until(lambda: sorted(node.feed.fed for node in others) == [False, True], LATEST_SECONDS)
        connection = await database.connect()
        for node in others:
            await node.watch.fence(connection)
        await until(lambda: others[0].watch.positions == others[1].watch.positions)


async def test_another_node_leads_when_the_leader_has_died(database: Database) -> None:
    """A leader that ends without a word is missed by its silence; the lock is looked for then, not half a minute later."""
    wire = Wire()
    async with nodes(database, wire, 2) as (leader, other):
        await cancel(leader.relay._tasks)
        await leader.ticker.stop()
        await within(other.ticker.leading.wait(), LATEST_SECONDS)
        await other.watch.fence(await database.connect())


async def test_messages_of_strangers_do_no_harm(database: Database) -> None:
    """Whatever else is sent to the channel is dropped and counted, and does not count as a sign of the leader."""
    wire = Wire()
    async with nodes(database, wire, 2) as (leader, other):
        connection = await database.connect()
        await leader.watch.fence(connection)
        (channel,) = wire.channels()
        genuine = max(wire.sent, key=len)
        strange = RelayKey(channel, b"another key")
        nonsense = [
            b"", b"x", bytes(32), bytes(2 << 20), genuine[:-1], genuine + b" ", genuine[:32] + genuine[33:], bytes(32) + genuine[32:],
            *encode(strange, "x", 0.0, Beat(Position(1, 10**9), current=True, alarms=9), LIMIT_BYTES),
        ]  # fmt: skip
        received = other.relay.received
        wire.mute = True
        await until(lambda: not other.feed.fed)
        for message in nonsense:
            wire.deliver(channel, message)
        await until(lambda: other.relay.dropped["foreign"] == len(nonsense))
        assert not other.relay.feeds
        assert not other.relay.take_alarm()
        wire.mute = False
        await until(lambda: other.relay.received > received)
        await other.fed()
        await other.watch.fence(connection)
        assert other.watch.events == leader.watch.events


async def test_what_a_recorder_sends_again_is_ignored(database: Database) -> None:
    """Messages from before are not applied a second time."""
    wire = Wire()
    async with nodes(database, wire, 2) as (leader, other):
        connection = await database.connect()
        await leader.watch.fence(connection)
        (channel,) = wire.channels()
        for message in tuple(wire.sent):
            wire.deliver(channel, message)
        await leader.watch.fence(connection)
        await until(lambda: other.watch.positions == leader.watch.positions)
        assert other.watch.events == leader.watch.events


async def test_a_recorder_cannot_keep_nodes_from_the_log(database: Database) -> None:
    """What a leader has sent shows no more when it is sent again than it did before, and soon nothing any more."""
    wire = Wire()
    async with nodes(database, wire, 2) as (leader, other):
        connection = await database.connect()
        await leader.watch.fence(connection)
        await until(lambda: other.feed.head == leader.feed.head)
        wire.sent.clear()
        await until(lambda: len(wire.sent) >= 6)  # beats with the head that the node has
        (channel,), beats = wire.channels(), tuple(wire.sent)
        wire.mute = True
        recorded = monotonic()
        await connection.execute("INSERT INTO tags (name) VALUES ('x')")
        while other.feed.fed:
            assert other.feed.lag > monotonic() - recorded - 0.05
            for beat in beats:
                wire.deliver(channel, beat)
            await asyncio.sleep(0.02)
        assert monotonic() - recorded < LATE_SECONDS + 2 * SILENCE_SECONDS + LATEST_SECONDS
        await other.watch.until(lambda: any(event.resource == "tags" for event in other.watch.events))
        for beat in beats:
            wire.deliver(channel, beat)
        await other.watch.fence(connection)
        assert not other.feed.fed
        assert other.relay.dropped["late"] > 0


async def test_a_node_that_starts_does_not_believe_a_recorder(database: Database) -> None:
    """It has not heard the leader before whose messages somebody sends again."""
    wire = Wire()
    async with nodes(database, wire, 1) as (leader,):
        await until(lambda: len(wire.sent) >= 3)
        (channel,), beats = wire.channels(), tuple(wire.sent)
        recorded = monotonic()
        await until(lambda: monotonic() - recorded > LATE_SECONDS)
        wire.mute = True
        async with Node(database, wire).running() as other:
            await until(lambda: other.relay.connected and other.feed.connected)
            for beat in beats:
                wire.deliver(channel, beat)
            await until(lambda: other.relay.dropped["late"] == len(beats))
            assert not other.relay.feeds
            await other.watch.fence(await database.connect())
            await until(lambda: leader.feed.head == other.feed.head)


async def test_large_ticks_come_in_parts_and_rows_that_are_too_large_from_the_log(database: Database) -> None:
    """No message is larger than the bus takes."""
    limit = 16 << 10
    wire = Wire()
    async with nodes(database, wire, 2, limit=limit) as (leader, other):
        connection = await database.connect()
        await connection.execute(
            "INSERT INTO tags (name) SELECT repeat('x', 1 + i % 199) FROM generate_series(1, 2000) i"
        )
        await leader.watch.fence(connection)
        await other.watch.until(lambda: other.feed.head == leader.feed.head)
        assert other.relay.filled == 0
        assert len(wire.sent) > 10
        await connection.execute(
            "ALTER TABLE tags ALTER name TYPE text;"
            f" INSERT INTO tags (name) VALUES ('before'), (repeat('x', {2 * limit})), ('after')"
        )
        await leader.watch.fence(connection)
        await until(lambda: other.feed.head == leader.feed.head, LATEST_SECONDS)
        assert (other.watch.events, other.watch.positions) == (leader.watch.events, leader.watch.positions)
        assert other.relay.filled > 0
        assert max(map(len, wire.sent)) <= limit


async def test_two_leaders_at_once_do_no_harm(database: Database) -> None:
    """What both send arrives twice, and is applied once."""
    wire = Wire()
    async with nodes(database, wire, 3) as (leader, second, other):
        connection = await database.connect()
        second.relay.lead(True)
        await until(lambda: not second.feed.fed)
        for i in range(20):
            await connection.execute("INSERT INTO tags (name) VALUES ($1)", str(i))
            await second.watch.fence(connection)
        await until(lambda: leader.watch.positions == second.watch.positions == other.watch.positions)
        assert leader.watch.events == second.watch.events == other.watch.events


async def test_a_table_that_lost_its_triggers_is_noticed_by_all(database: Database, tables: Tables) -> None:
    """The leader looks, and has the others forget what they have cached, also if it has restored the triggers before."""
    async with nodes(database, Wire(), 2) as (leader, other):
        connection = await database.connect()
        forgotten: list[Node] = []
        watches = [
            TableWatch(
                node.feed,
                database.direct,
                tables,
                forget=lambda node=node: forgotten.append(node),  # type: ignore[misc]
                repair=(lambda: _restore(connection, tables)) if node is leader else None,
            )
            for node in (leader, other)
        ]
        for watch in watches:
            await watch.look()
        before = len(other.statements)
        await watches[1].look()
        assert len(other.statements) == before
        await connection.execute(
            "CREATE TABLE other (LIKE tags INCLUDING ALL); DROP TABLE tags CASCADE; ALTER TABLE other RENAME TO tags"
        )
        await watches[0].look()
        assert forgotten == [leader]

        async def looked() -> bool:
            await watches[1].look()
            return other in forgotten

        await until(looked, LATEST_SECONDS)
        assert watches[1].unlogged == []


async def _restore(connection: asyncpg.Connection, tables: Tables) -> None:
    await sync_triggers(connection, tables)


async def test_stopping_leaves_nothing_behind(database: Database) -> None:
    """No task of a relay remains, and nobody is connected."""
    before = asyncio.all_tasks()
    wire = Wire()
    async with nodes(database, wire, 2):
        assert len(wire.channels()) == 1
    assert asyncio.all_tasks() == before
    assert wire.channels() == set()


@pytest.mark.parametrize(("package", "name"), [("nats", "NATS"), ("redis", "Redis")])
def test_a_bus_without_its_client_is_a_mistake_of_the_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str, name: str
) -> None:
    """``rowcast check`` names the setting, and what to install."""
    for module in [each for each in sys.modules if each.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    settings = f"stream: {{relay: '{package}://:hunter2@x'}}"
    write_config(tmp_path / "config", {"tags": "fields: {name: {type: string}}"}, settings)
    code, output = rowcast(tmp_path, "check")
    assert code == 1
    assert re.search(rf"service.yaml:1:\d+.*relay: {name} needs .*pip install 'rowcast\[{package}\]'", output), output
    assert "hunter2" not in output


async def test_other_databases_and_histories_have_channels_of_their_own(database: Database) -> None:
    """A copy with the same secret, and the same database after a failover, cannot read each other's messages."""
    keys = [RelayKey.of(b"secret", history) for history in ((1, "00000001", 5), (1, "00000002", 5), (1, "00000001", 6))]
    keys.append(RelayKey.of(b"another", (1, "00000001", 5)))
    assert len({key.channel for key in keys}) == len({key.secret for key in keys}) == 4
    (message,) = encode(keys[0], "x", 1.5, Beat(Position(1, 2), current=True), LIMIT_BYTES)
    assert decode(keys[0], message) == ("x", 1.5, Beat(Position(1, 2), current=True))
    for key in keys[1:]:
        with pytest.raises(NotGenuine):
            decode(key, message)


rows = st.none() | st.binary(max_size=300)
numbers = st.integers(0, 2**63 - 1)
of_events = {
    "n": st.just(0), "xid": numbers, "seq": numbers, "at": st.datetimes(timezones=st.just(dt.UTC)), "resource": st.text(max_size=9),
    "op": st.sampled_from("IUDT"), "pk": st.none() | st.text(max_size=20), "old": rows, "new": rows,
    "traceparent": st.none() | st.just(f"00-{'a' * 32}-{'b' * 16}-01"),
}  # fmt: skip
assert set(of_events) == {field.name for field in fields(Event)}  # or a message may lack one
events = st.builds(Event, **of_events)


@given(
    st.lists(events, max_size=30), st.integers(1, 10**9), st.booleans(), st.sets(numbers, max_size=5), st.integers(1000, 9000)
)  # fmt: skip
def test_a_batch_is_decoded_as_it_was(made: list[Event], first: int, last: bool, xids: set[int], limit: int) -> None:
    """The parts of a batch, which are no larger than the limit, have its events, bytes of rows included."""
    numbered = tuple(replace(event, n=n) for n, event in enumerate(made, start=first))
    batch = Batch(3, 7, Snapshot(5, 90, (5, 60)), first, numbered, last, frozenset(xids))
    key = RelayKey.of(b"secret", (1,))
    parts = []
    for message in encode(key, "me", 1.5, batch, limit):
        assert len(message) <= limit
        sender, _, part = decode(key, message)
        assert sender == "me"
        assert isinstance(part, Batch)
        parts.append(part)
    assert [event for part in parts for event in part.events] == list(numbered)
    assert (parts[0].start, parts[-1].end) == (batch.start, batch.end)
    assert all(one.end == two.start for one, two in pairwise(parts))
    assert all((part.snap, part.xids, part.epoch, part.tick) == (batch.snap, batch.xids, 3, 7) for part in parts)
