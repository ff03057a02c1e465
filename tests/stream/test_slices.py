"""Sending in slices: every member gets each frame once and in order, whenever it comes and goes, and others run in between."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from typing import Any
from unittest import mock

import asyncpg
import pytest

from rowcast.streams import members as members_module
from rowcast.streams.members import Members, Sender
from tests.conftest import Serve
from tests.sse import listen
from tests.stream.test_events import next_change, ready

TASKS = """
fields: {id: {type: integer, primary_key: true}, title: {type: text}}
viewset: {permission_classes: [AllowAny]}
"""


class Hub:
    """What members use: at most ten bytes may wait for a client."""

    buffer = 10

    def __init__(self) -> None:
        self.sender = Sender()


class Client:
    """A member whose frames are numbers. ``leaves`` is after how many writes it leaves, with a full buffer."""

    chunked = False

    def __init__(self, members: Members[int], leaves: int = -1) -> None:
        self.members = members
        self.first = self.next = members.end
        self.writes = 0
        self.leaves = leaves
        self.left_at: int | None = None

    def write(self, frame: bytes, _buffer: int) -> None:
        self.writes += 1
        for number in map(int, frame.split()):
            assert number == self.next
            self.next += 1
        if self.writes == self.leaves:
            self.leave()

    def leave(self) -> None:
        mark = self.members.discard(self)  # type: ignore[arg-type]
        self.left_at = self.members.end if mark is None else mark


def send(members: Members[int], count: int = 1) -> None:
    for _ in range(count):
        members.send(b"%d " % members.end, members.end)


def join(members: Members[int], **options: Any) -> Client:
    client = Client(members, **options)
    members.add(client)  # type: ignore[arg-type]
    return client


async def all_sent(hub: Hub) -> None:
    sent = asyncio.Event()
    hub.sender.when_sent(sent.set)
    async with asyncio.timeout(10):
        await sent.wait()


@pytest.mark.parametrize("seed", range(20))
async def test_each_member_gets_each_frame_once_and_in_order(seed: int) -> None:
    """Members come, leave and are taken over at any moment; the mark of one that leaves is where its frames end."""
    draw = random.Random(seed)
    hub = Hub()
    groups: list[Members[int]] = [Members(hub), Members(hub)]
    clients: list[Client] = []
    with mock.patch.object(members_module, "SLICE_WRITES", 3):
        for _ in range(400):
            members = draw.choice(groups)
            match draw.choice(("join", "send", "turn", "turn", "leave", "all")):
                case "join":
                    clients.append(join(members, leaves=draw.choice((-1, -1, 1, 3))))
                case "send":
                    send(members, draw.randint(1, 4))
                case "turn":
                    await asyncio.sleep(0)
                case "leave":
                    if staying := [client for client in clients if client.left_at is None]:
                        draw.choice(staying).leave()
                case "all" if draw.random() < 0.2:
                    members.send_all()
                    assert members.have(members.end)
        await all_sent(hub)
    for client in clients:
        assert client.next == (client.members.end if client.left_at is None else client.left_at)
    for members in groups:
        present: set[object] = {each for each in clients if each.members is members and each.left_at is None}
        assert set(members) == present
        assert len(members) == len(set(members))


async def test_groups_and_other_work_get_their_turn_between_slices() -> None:
    """A slice is a bounded number of writes; a small group does not wait for a large one."""
    hub = Hub()
    large, small = Members[int](hub), Members[int](hub)
    many = [join(large) for _ in range(1000)]
    one = join(small)
    send(large)
    send(small)
    for turn in range(1, 6):
        await asyncio.sleep(0)
        assert sum(client.writes for client in many) <= members_module.SLICE_WRITES * turn
    assert one.writes == 1
    assert not large.have(large.end)
    await all_sent(hub)
    assert {client.writes for client in many} == {1}


async def test_frames_that_arrive_meanwhile_share_a_write() -> None:
    """A member gets in one write what it lacks, up to the bytes that may wait for a client."""
    hub = Hub()
    members = Members[int](hub)
    with mock.patch.object(members_module, "SLICE_WRITES", 1):
        first, second = join(members), join(members)
        send(members)
        await asyncio.sleep(0)
        send(members, 3)  # the same bytes, in one write, for both
        await all_sent(hub)
        assert sorted((first.writes, second.writes)) == [1, 2]
        send(members, 7)  # fifteen bytes
        await all_sent(hub)
        assert sorted((first.writes, second.writes)) == [3, 4]
        assert first.next == second.next == members.end


async def test_what_was_sent_is_reported_when_the_last_member_has_it() -> None:
    """Frames that are sent later do not delay that."""
    hub = Hub()
    members = Members[int](hub)
    reports: list[str] = []
    with mock.patch.object(members_module, "SLICE_WRITES", 1):
        clients = [join(members) for _ in range(3)]
        send(members)
        hub.sender.when_sent(lambda: reports.append("first"))
        for _ in range(3):
            await asyncio.sleep(0)
            assert ("first" in reports) == all(client.next > 0 for client in clients)
            send(members)
        assert reports == ["first"]
        assert not members.have(members.end)


async def test_a_reset_is_in_the_write_with_everything_before() -> None:
    """What must reach everybody is not cut by what may wait for a client."""
    hub = Hub()
    members = Members[int](hub)
    clients = [join(members, leaves=1) for _ in range(3)]
    send(members, 9)
    members.send_all()
    assert [(client.writes, client.left_at) for client in clients] == [(1, 9)] * 3


async def test_streams_in_slices_of_one_lose_nothing(serve: Serve, sql: asyncpg.Connection) -> None:
    """Several groups, with changes that arrive faster than they are sent."""
    client = await serve({"tasks": TASKS}, service="stream: {buffer: 16KiB}")
    paths = ["/tasks/stream/", "/tasks/stream/?fields=id", "/tasks/stream/"] * 4
    with mock.patch.object(members_module, "SLICE_WRITES", 1):
        async with AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(listen(client, path, deadline=60)) for path in paths]
            for stream in streams:
                await ready(stream)
            for n in range(40):
                await sql.execute("INSERT INTO tasks (id, title) VALUES ($1, repeat('x', 3000))", n)
            for stream in streams:
                assert [(await next_change(stream))["id"] for _ in range(40)] == list(range(40))
