"""The phases of a subscriber and of a group: no transition but those in the tables."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rowcast.changes.position import Position
from rowcast.streams import group, subscriber
from rowcast.streams.subscriber import Phase, Subscriber


class Connection(asyncio.Transport):
    """A transport that accepts everything, with a buffer of a given size. A subscriber is sent what is written to it."""

    is_chunked = True

    def __init__(self) -> None:
        super().__init__()
        self.transport: asyncio.Transport = self
        self.aborted = False
        self.buffered = 0
        self.written: list[bytes] = []

    def write(self, data: Any) -> Any:
        self.written.append(bytes(data))

    async def drain(self) -> None:
        raise AssertionError("nothing here waits for a client")

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


class Members(set[Subscriber]):
    """A group at position 1-7-0."""

    def admit(self, subscriber: Subscriber) -> None:
        self.add(subscriber)

    def dismiss(self, subscriber: Subscriber) -> None:
        self.remove(subscriber)
        subscriber.position = Position(1, 7)


@pytest.fixture
def connection() -> Connection:
    return Connection()


@pytest.fixture
def stream(connection: Connection) -> Subscriber:
    """A subscriber at position 1-5-0."""
    return Subscriber(connection, Position(1, 5), [], renews=True)


async def live(stream: Subscriber) -> tuple[Members, asyncio.Task[None]]:
    """Let the subscriber be in a group."""
    members = Members()
    task = asyncio.create_task(stream.stay(members))
    await asyncio.sleep(0)
    assert stream.phase is Phase.LIVE
    assert stream in members
    return members, task


@pytest.mark.parametrize("module", [subscriber, group])
def test_every_phase_is_in_the_table_and_closed_is_final(module: Any) -> None:
    """No phase is left out, and nothing follows CLOSED, which every other phase leads to."""
    table = module.TRANSITIONS
    assert set(table) == set(module.Phase)
    assert not table[module.Phase.CLOSED]
    assert all(module.Phase.CLOSED in table[phase] for phase in module.Phase if phase is not module.Phase.CLOSED)


async def test_a_full_buffer_makes_a_member_catch_up(stream: Subscriber, connection: Connection) -> None:
    """The bytes are written, and the subscriber goes on alone from the position of its group."""
    members, task = await live(stream)
    stream.write(b"a", 10)
    assert stream.phase is Phase.LIVE
    connection.buffered = 11
    stream.write(b"b", 10)
    await task
    assert (stream.phase, stream.position, len(members)) == (Phase.CATCHING_UP, Position(1, 7), 0)
    assert connection.written == [b"a", b"b"]


async def test_a_member_that_needs_a_resync_leaves_its_group(stream: Subscriber) -> None:
    """The reason of the reset is there when the rows are sent."""
    members, task = await live(stream)
    stream.require_resync("failed")
    await task
    assert (stream.phase, len(members)) == (Phase.RESYNC, 0)
    assert stream.begin_resync() == "failed"
    assert stream.phase is Phase.CATCHING_UP


async def test_the_end_of_a_member_lets_its_bytes_out(stream: Subscriber, connection: Connection) -> None:
    """It has kept up, so the response ends in order, without an abort."""
    _, task = await live(stream)
    stream.end()
    await task
    assert (stream.phase, connection.aborted) == (Phase.CLOSED, False)


async def test_a_stream_that_has_ended_joins_no_group(stream: Subscriber, connection: Connection) -> None:
    """The connection of a client that is catching up is cut, and neither a reset nor a group can bring it back."""
    stream.end()
    assert connection.aborted
    stream.require_resync("failed")
    stream.leave()
    stream.close()
    assert stream.phase is Phase.CLOSED
    with pytest.raises(AssertionError, match="from CLOSED to LIVE"):
        await stream.stay(Members())
