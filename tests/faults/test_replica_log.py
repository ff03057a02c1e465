"""The log before what is in memory is read from a standby, as far as that has it, and no stream notices."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from rowcast.changes import recall
from rowcast.changes.feed import Feed
from rowcast.changes.history import PRIMARY
from rowcast.changes.ticker import Ticker
from rowcast.rest.plan import SERVICE
from rowcast.testing.client import Client
from tests.conftest import Serve
from tests.standbys import PATIENCE, paused
from tests.waiting import until

from .pairs import Pair, Writers, children_of, only, opened, own_pair, read_from, settings_of, until_read

Seen = list[tuple[str, object]]


def feed_of(client: Client) -> Feed:
    feed = client.app[SERVICE].feed
    assert isinstance(feed, Feed)
    return feed


def reads_of(client: Client) -> tuple[int, int]:
    """How often the standby and the primary were asked for a part of the log."""
    reads = feed_of(client).history.reads
    return reads[only(client).name], reads[PRIMARY]


@pytest.fixture(autouse=True)
def no_recall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stream reads the log alone, whatever fits into memory."""
    monkeypatch.setattr(recall, "RECALL_MAX_TICKS", 0)


@pytest.fixture
async def client(pair: Pair, serve: Serve) -> Client:
    """A service with the standby as its replica, which has no more than the newest changes in memory."""
    started = await read_from(serve, pair)
    feed_of(started)._bounds = 1, 1
    return started


async def fence(client: Client, pair: Pair, key: int) -> None:
    """Wait until the service has sent everything that has been committed."""
    feed = feed_of(client)
    xid = await pair.sql.fetchval(
        "INSERT INTO notes (id, text) VALUES ($1, 'fence') RETURNING pg_current_xact_id()::text::bigint", key
    )
    await until(lambda: feed.has_delivered(xid))


async def resumed(client: Client, position: str, last: int, path: str = "/notes/stream/") -> Seen:
    """What a stream sends after a position, until an event of a row: positions with the events' data."""
    seen: Seen = []
    async with client.stream(path, last_event_id=position) as changes:
        while not seen or not isinstance(seen[-1][1], dict) or seen[-1][1]["id"] != last:
            event = await changes.next()
            seen.append((changes.position, {"action": event["action"], "id": event["id"], "data": event["data"]}))
    return seen


async def write(pair: Pair, first: int, number: int) -> None:
    """Insert rows with these keys, each in a transaction of its own."""
    for key in range(first, first + number):
        await pair.sql.execute("INSERT INTO notes (id, text) VALUES ($1, $2)", key, f"{key}")


async def test_the_log_is_read_from_the_replica(client: Client, pair: Pair) -> None:
    """Everything that it has replayed comes from there, for a stream that resumes from an old position."""
    start = str(feed_of(client).head)
    await write(pair, 1, 30)
    await fence(client, pair, 31)
    await pair.replayed()
    await until_read(client)
    seen = await resumed(client, start, 31)
    assert [each["id"] for _, each in seen] == list(range(1, 32))  # type: ignore[index]
    assert reads_of(client) == (1, 0)


async def test_what_the_replica_lacks_is_read_from_the_primary(client: Client, pair: Pair) -> None:
    """A stream gets all changes in their order, where those of the standby end as well."""
    start = str(feed_of(client).head)
    await write(pair, 1, 20)
    await fence(client, pair, 21)
    await pair.replayed()
    await until_read(client)
    async with paused(pair.replica):
        await write(pair, 22, 20)
        await fence(client, pair, 42)
        await fence(client, pair, 43)
        seen = await resumed(client, start, 43)
        assert [each["id"] for _, each in seen] == list(range(1, 44))  # type: ignore[index]
        middle = next(position for position, each in seen if each["id"] == 30)  # type: ignore[index]
        again = await resumed(client, middle, 43)
        assert again == seen[30:]
    assert reads_of(client) == (1, 2)


async def test_streams_resume_alike_from_both(client: Client, pair: Pair) -> None:
    """Wherever a stream resumes, and however far the standby is, it sends what a stream from the beginning has sent."""
    dice = random.Random(23)
    live: Seen = []
    keys = iter(range(10_000, 11_000))

    async def follow() -> None:
        async with client.stream("/notes/stream/", last_event_id=str(feed_of(client).head)) as changes:
            started.set()
            while True:
                event = await changes.next()
                live.append((changes.position, {"action": event["action"], "id": event["id"], "data": event["data"]}))

    started = asyncio.Event()
    following = asyncio.create_task(follow())
    await started.wait()
    async with Writers(pair.url, dice) as writers:
        for _ in range(10):
            async with paused(pair.replica) if dice.random() < 0.6 else contextlib.nullcontext():
                key, enough = next(keys), len(live) + dice.randrange(5, 40)
                await until(lambda enough=enough: len(live) >= enough or following.done())  # type: ignore[misc]
                place = dice.randrange(len(live))
                async with writers.quiet():
                    await fence(client, pair, key)
                    await until(lambda key=key: live[-1][1]["id"] == key)  # type: ignore[misc,index]
                    resuming = resumed(client, live[place][0], key)
                    assert await asyncio.wait_for(resuming, PATIENCE) == live[place + 1 :]
            if dice.random() < 0.5:
                await until_read(client)
    following.cancel()
    await asyncio.wait([following])
    assert min(reads_of(client)) >= 3


@pytest.mark.parametrize("opened_before", [True, False])
async def test_a_promoted_replica_sends_nothing_of_its_own(opened_before: bool, tmp_path: Path, serve: Serve) -> None:
    """Also before a look has found out, and though the numbers of its ticks are those of the primary's."""
    async with own_pair(tmp_path) as (standby, _, pair):
        client = await read_from(serve, pair, replica_max_lag="1m")
        feed_of(client)._bounds = 1, 1
        start = str(feed_of(client).head)
        await write(pair, 1, 5)
        await fence(client, pair, 6)
        await pair.replayed()
        await until_read(client)
        if opened_before:
            await resumed(client, start, 6)
            assert reads_of(client) == (1, 0)
        await only(client).watch.stop()  # which would find out in the next moment
        await standby.promote(pair.replica)
        async with Ticker(lambda: asyncpg.connect(pair.replica_url)) as ticker:
            await ticker.leading.wait()
            for key in range(7, 30):
                await pair.replica.execute("INSERT INTO notes (id, text) VALUES ($1, 'forked')", key)
                made = ticker.ticks
                await until(lambda made=made: ticker.ticks > made)  # type: ignore[misc]
        await write(pair, 7, 5)
        await fence(client, pair, 12)
        await fence(client, pair, 13)
        seen = await resumed(client, start, 13)
        assert [each["id"] for _, each in seen] == list(range(1, 14))  # type: ignore[index]
        assert "forked" not in str(seen)
        assert reads_of(client)[1] >= 1


async def test_a_replica_that_hangs_or_is_killed_holds_up_no_stream(tmp_path: Path, serve: Serve) -> None:
    """A stream that is catching up goes on at the primary."""
    async with own_pair(tmp_path) as (standby, _, pair):
        client = await read_from(serve, pair)
        feed_of(client)._bounds = 1, 1
        start = str(feed_of(client).head)
        for key in range(400):
            await pair.sql.execute("INSERT INTO notes (id, text) VALUES ($1, repeat('x', 10000))", key)
        await fence(client, pair, 400)
        await fence(client, pair, 401)
        for stop in (signal.SIGSTOP, signal.SIGKILL):
            await pair.replayed()
            await until(lambda: only(client).watch.moment is not None)
            await until_read(client)
            await until(lambda: feed_of(client).history.standbys[0]._fails_until < asyncio.get_running_loop().time())
            before = reads_of(client)[0]
            async with client.stream("/notes/stream/", last_event_id=start) as changes:
                assert (await changes.next())["id"] == 0
                stopped = [standby.server.pid, *children_of(standby.server.pid)]
                async with stopping(stopped, stop):
                    for key in range(1, 402):
                        event = await asyncio.wait_for(changes.next(), PATIENCE)
                        assert event["id"] == key
            assert reads_of(client)[0] == before + 1
        assert reads_of(client)[1] >= 2


@contextlib.asynccontextmanager
async def stopping(pids: list[int], by: signal.Signals) -> AsyncIterator[None]:
    """Inside, these processes are stopped; afterwards they go on if they can."""
    for pid in pids:
        os.kill(pid, by)
    try:
        yield
    finally:
        if by == signal.SIGSTOP:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)


async def test_a_lock_on_the_replica_holds_up_no_stream(client: Client, pair: Pair) -> None:
    """The log keeper's locks are replayed, too, and may be held there for as long as replaying is paused."""
    start = str(feed_of(client).head)
    await write(pair, 1, 5)
    await fence(client, pair, 6)
    await fence(client, pair, 7)
    async with opened(pair.url) as keeper:
        await keeper.execute("BEGIN; LOCK TABLE rowcast.change_5 IN ACCESS EXCLUSIVE MODE; CREATE TABLE other ()")
        await pair.sql.execute("CREATE TABLE further ()")
        await pair.replayed()
        await until_read(client)
        async with paused(pair.replica):
            await keeper.execute("COMMIT")
            seen = await asyncio.wait_for(resumed(client, start, 7), PATIENCE)
            assert len(seen) == 7
            assert reads_of(client) == (0, 1)


async def test_connections_are_as_many_as_the_docs_say(pair: Pair, serve: Serve) -> None:
    """The pools are full, and each server has the connections beside them that docs/deploy.md has in its table."""
    client = await read_from(
        serve, pair, "INSERT INTO notes (id, text) VALUES (1, '1')", pool_size=2, export_connections=1
    )
    feed_of(client)._bounds = 1, 1
    start = str(feed_of(client).head)
    await write(pair, 2, 5)
    await fence(client, pair, 7)
    await fence(client, pair, 8)
    await pair.replayed()
    await until_read(client)

    async def open_at(sql: asyncpg.Connection) -> int:
        found: int = await sql.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name LIKE 'rowcast%' AND backend_type = 'client backend'"
        )
        return found

    for headers in ({}, {"Cache-Control": "no-cache"}):
        lists = [client.get(f"/notes/?text={number}", headers=headers) for number in range(30)]
        assert {each.status for each in await asyncio.gather(*lists)} == {200}
        assert (await client.get("/notes/", headers={"Accept": "text/csv", **headers})).status == 200
    await resumed(client, start, 8)
    assert reads_of(client)[0] == 1
    assert await open_at(pair.replica) == 2 + 1 + 2
    assert 2 + 1 + 4 <= await open_at(pair.sql) <= 2 + 1 + 7 + 1


async def test_behind_a_pooler_the_log_is_read_from_the_primary(pair: Pair, serve: Serve) -> None:
    """A session through a pooler cannot have the settings that reading the log needs."""
    client = await serve({"notes": NOTES_ALONE}, settings_of(pair, direct_url=pair.url), url=pair.url)
    assert feed_of(client).history.standbys == ()


NOTES_ALONE = """
fields: {id: {type: integer, primary_key: true}}
viewset: {permission_classes: [AllowAny]}
"""
