"""Streams that have missed the same changes, and come back together: each change is rendered once for those with equal subscriptions."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack

import asyncpg
import pytest

from rowcast.changes.events import Batch
from rowcast.changes.position import Snapshot
from rowcast.rest.plan import SERVICE
from rowcast.streams import hub, shared_frames
from rowcast.streams.subscription import Subscriptions
from tests.conftest import Client, Serve
from tests.sse import EventSource, listen
from tests.stream.test_events import RESOURCES, next_change, ready

STREAMS = 10
CHANGES = 30

pytestmark = pytest.mark.tables(RESOURCES)


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, int]]:
    """How often each batch has been rendered, by its tick and its first event."""
    counts: Counter[tuple[int, int]] = Counter()
    render_now = Subscriptions.render_now

    def counting(self: Subscriptions, batch: Batch, seen_snapshot: Snapshot | None) -> bytes:
        counts[batch.tick, batch.first] += 1
        return render_now(self, batch, seen_snapshot)

    monkeypatch.setattr(Subscriptions, "render_now", counting)
    return counts


async def write(client: Client, sql: asyncpg.Connection) -> str:
    """Make changes, each in a tick of its own, and return the position before them."""
    async with listen(client, "/notes/stream/") as source:
        begin = (await ready(source)).id
        for number in range(CHANGES):
            await sql.execute("INSERT INTO notes (id, text) VALUES ($1, 'a')", number)
            await next_change(source)
    return begin


async def read(source: EventSource, first: int = 0) -> list[str]:
    """The positions of the changes that a stream has missed."""
    await ready(source)
    events = [await source.next() for _ in range(first, CHANGES)]
    assert [event.json()["id"] for event in events] == list(range(first, CHANGES))
    return [event.id for event in events]


@pytest.mark.parametrize("together", [True, False])
async def test_what_several_streams_have_missed_is_rendered_once(
    together: bool, serve: Serve, sql: asyncpg.Connection, rendered: Counter[tuple[int, int]]
) -> None:
    """Whether they come in the same moment or one after the other; the first one may be alone, so nothing is kept for it."""
    begin = await write(await serve(RESOURCES), sql)
    replica = await serve(RESOURCES)
    rendered.clear()
    async with AsyncExitStack() as stack:

        async def come_back() -> list[str]:
            return await read(await stack.enter_async_context(listen(replica, "/notes/stream/", last_id=begin)))

        if together:
            found = await asyncio.gather(*(come_back() for _ in range(STREAMS)))
        else:
            found = [await come_back() for _ in range(STREAMS)]
        assert all(each == found[0] for each in found)
        assert len(rendered) >= CHANGES
        assert max(rendered.values()) <= 2


async def test_streams_share_the_part_that_both_have_missed(
    serve: Serve, sql: asyncpg.Connection, rendered: Counter[tuple[int, int]]
) -> None:
    """They may come back to different positions, and within a tick."""
    client = await serve(RESOURCES)
    begin = await write(client, sql)
    async with listen(client, "/notes/stream/", last_id=begin) as source:
        places = [begin, *await read(source)]
    replica = await serve(RESOURCES)
    rendered.clear()
    for first in (0, 7, 3, 20, 0):
        async with listen(replica, "/notes/stream/", last_id=places[first]) as source:
            assert await read(source, first) == places[first + 1 :]
    assert max(rendered.values()) <= 2


async def test_other_subscriptions_share_nothing(
    serve: Serve, sql: asyncpg.Connection, rendered: Counter[tuple[int, int]]
) -> None:
    """Each gets what it shows, and streams that are the only ones of their kind keep nothing."""
    begin = await write(await serve(RESOURCES), sql)
    replica = await serve(RESOURCES)
    async with AsyncExitStack() as stack:
        paths = ["/notes/stream/", "/notes/stream/?fields=id", "/notes/stream/?fields=id,text"]
        sources = [await stack.enter_async_context(listen(replica, path, last_id=begin)) for path in paths]
        events = []
        for source in sources:
            await ready(source)
            events.append((await source.next()).json()["data"])
        assert [sorted(each) for each in events][1:] == [["id"], ["id", "text"]]
        assert not replica.app[SERVICE].hub._frames._frames


async def test_frames_are_kept_for_a_while_and_within_a_bound(
    serve: Serve, sql: asyncpg.Connection, rendered: Counter[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When nobody comes back any more they are gone."""
    monkeypatch.setattr(shared_frames, "SHARED_FRAMES_MAX_BYTES", 3000)
    begin = await write(await serve(RESOURCES), sql)
    replica = await serve(RESOURCES)
    for _ in range(3):
        async with listen(replica, "/notes/stream/", last_id=begin) as source:
            await read(source)
    frames = replica.app[SERVICE].hub._frames
    assert 0 < frames._size <= 3000
    frames.expire()
    assert frames._frames
    monkeypatch.setattr(shared_frames, "SHARED_SECONDS", 0)
    frames.expire()
    assert (frames._frames, frames._size) == ({}, 0)


async def test_a_stream_that_catches_up_leaves_others_their_turns(
    serve: Serve, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much of what it has missed is in memory, and whether any of it is sent."""
    begin = await write(await serve(RESOURCES), sql)
    replica = await serve(RESOURCES)
    turns: list[float] = []
    render_now = Subscriptions.render_now

    def slowly(self: Subscriptions, batch: Batch, seen_snapshot: Snapshot | None) -> bytes:
        time.sleep(0.5 * hub.CATCH_UP_SECONDS)
        renders.append(len(turns))
        return render_now(self, batch, seen_snapshot)

    async def take_turns() -> None:
        while True:
            turns.append(time.monotonic())
            await asyncio.sleep(0)

    renders: list[int] = []
    monkeypatch.setattr(Subscriptions, "render_now", slowly)
    others = asyncio.create_task(take_turns())
    try:
        async with listen(replica, "/notes/stream/", last_id=begin) as source:
            await read(source)
    finally:
        others.cancel()
    assert len(renders) >= CHANGES
    assert all(renders[place + 4] > renders[place] for place in range(len(renders) - 4))
