"""One connection of a stream, and the phases that it goes through.

A subscriber has no queue and no task of its own. While it keeps up it is a member of a group, and its position is the
group's. Otherwise the coroutine of its request (``Hub.stream``) reads the log for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Final, Protocol

from rowcast.changes.position import Position
from rowcast.streams.sse import http_chunk

SEND_TIMEOUT_SECONDS: Final = 30.0  # without progress, after which a connection is aborted

# Why a stream has ended, in metrics.
AGE: Final = "age"  # it has lasted for its time
CLIENT: Final = "client"  # the client has left
CREDENTIALS: Final = "credentials"  # they have expired, or were revoked
FAILED: Final = "failed"  # an error of the service, or a limit of a filter
SHUTDOWN: Final = "shutdown"  # the service stops, or has another configuration
SLOW: Final = "slow"  # the client reads nothing
UNAVAILABLE: Final = "unavailable"  # the database was away for too long
ORIGIN: Final = "origin"  # an edge has no database, which the stream needs now
CLOSED_BY: Final = (AGE, CLIENT, CREDENTIALS, FAILED, ORIGIN, SHUTDOWN, SLOW, UNAVAILABLE)


class Phase(Enum):
    """What a subscriber is doing."""

    CATCHING_UP = "reads the log from its own position"
    LIVE = "is in a group, which writes to it"
    RESYNC = "has to be sent all rows again"
    CLOSED = "the stream is over"


TRANSITIONS: Final[Mapping[Phase, frozenset[Phase]]] = {
    Phase.CATCHING_UP: frozenset({Phase.LIVE, Phase.RESYNC, Phase.CLOSED}),
    Phase.LIVE: frozenset({Phase.CATCHING_UP, Phase.RESYNC, Phase.CLOSED}),
    Phase.RESYNC: frozenset({Phase.CATCHING_UP, Phase.CLOSED}),
    Phase.CLOSED: frozenset(),
}


class Membership(Protocol):
    """The group that a live subscriber is in."""

    def admit(self, subscriber: Subscriber) -> None:
        """Add a subscriber, at once or when the group reaches its position."""

    def dismiss(self, subscriber: Subscriber) -> None:
        """Remove a subscriber; a member's ``position`` becomes that of the group."""


class Wire(Protocol):
    """What a stream is written to. ``is_chunked`` is false for HTTP/1.0."""

    transport: asyncio.Transport
    is_chunked: bool

    async def write(self, data: bytes, /) -> None:
        """Write a part, and wait until the client has taken most of what waits for it; ``ConnectionResetError`` if it has gone."""

    async def drain(self) -> None:
        """Wait until the client has taken most of what waits for it, if that is more than the transport's limit."""


class Subscriber:
    """One connection. ``position`` is its place in the log, for a member that of its group.

    ``auths`` are the ``request.auth`` that its caller was identified by. ``renews`` is set for a stream with
    ``?snapshot=true``: a reset sends it all rows again. ``marker`` is written before whatever is written, where several subscribers share the connection.
    """

    __slots__ = (
        "_left",
        "_marker",
        "_marker_chunk",
        "_reset_reason",
        "_transport",
        "_wire",
        "auths",
        "chunked",
        "ended_by",
        "group",
        "phase",
        "position",
        "renews",
    )

    def __init__(
        self,
        wire: Wire,
        position: Position,
        auths: Sequence[object],
        *,
        renews: bool,
        marker: bytes = b"",
    ) -> None:
        self.phase = Phase.CATCHING_UP
        self.position = position
        self.auths = tuple(auth for auth in auths if auth is not None)
        self.renews = renews
        self.group: Membership | None = None
        self.ended_by: str | None = None  # why the stream was ended, if its client has not left
        self.chunked = wire.is_chunked
        self._marker = marker
        self._marker_chunk = http_chunk(marker) if marker and self.chunked else marker
        self._reset_reason = ""
        self._wire = wire
        self._transport = wire.transport
        self._left: Callable[[], None] | None = None  # called when it leaves its group

    def _enter(self, phase: Phase) -> None:
        assert phase in TRANSITIONS[self.phase], f"a subscriber cannot go from {self.phase.name} to {phase.name}"
        self.phase = phase

    # --- in a group

    async def stay(self, group: Membership) -> None:
        """Be in a group until the client has left, the buffer is full, or the stream ends; afterwards ``position`` is where that was."""
        left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.join(group, partial(_resolve, left))
        try:
            await left
        finally:
            self.leave()

    def join(self, group: Membership, left: Callable[[], None]) -> None:
        """Be in a group, at once or when it reaches ``position``. ``left`` is called when that is over; it may not write at once."""
        self._enter(Phase.LIVE)
        self._left = left
        self.group = group
        group.admit(self)
        if self._transport.is_closing():  # the client has left before there was a group to leave
            self.leave()

    def leave(self) -> None:
        """Leave the group, and go on alone from its position; nothing if the subscriber is in no group."""
        if self.phase is Phase.LIVE:
            self._part(Phase.CATCHING_UP)

    def _part(self, phase: Phase) -> None:
        """Leave the group for another phase."""
        assert self.group is not None
        assert self._left is not None
        self._enter(phase)
        self.group.dismiss(self)
        left, self.group, self._left = self._left, None, None
        left()

    def write(self, frame: bytes, buffer: int) -> None:
        """Write bytes of a group; leave it if the client has gone, or has more than ``buffer`` bytes to take.

        ``frame`` is written past aiohttp: see ``http_chunk``.
        """
        if self._transport.is_closing():
            self.leave()
            return
        if self._marker:
            self._transport.writelines((self._marker_chunk, frame))
        else:
            self._transport.write(frame)
        if self._transport.get_write_buffer_size() > buffer:
            self.leave()

    # --- alone

    async def send(self, frame: bytes) -> None:
        """Write, and wait until the client has taken most of it; ``ConnectionResetError`` if it has gone, or takes nothing."""
        await self._wait_for_client(self._wire.write(self._marker + frame if self._marker else frame))

    async def make_room(self, buffer: int) -> None:
        """Wait, if more than ``buffer`` bytes wait for the client, until it has taken most of them, like ``send``."""
        if self._transport.get_write_buffer_size() > buffer:
            self._transport.set_write_buffer_limits(high=buffer)
            await self._wait_for_client(self._wire.drain())

    async def _wait_for_client(self, sending: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
                await sending
        except TimeoutError:
            self.ended_by = SLOW
            self._transport.abort()
            raise ConnectionResetError("the client reads nothing") from None
        except ConnectionError:  # of any kind, once the connection is lost; it says nothing about one to the database
            raise ConnectionResetError("the client has left") from None

    async def send_events(self, frame: bytes) -> None:
        """``send`` for a frame with events."""
        await self.send(frame)

    def require_resync(self, reason: str) -> None:
        """Leave the group if there is one; an open stream has to be sent all rows again."""
        if self.phase is Phase.CLOSED:
            return
        self._reset_reason = reason
        if self.phase is Phase.LIVE:
            self._part(Phase.RESYNC)
        else:
            self._enter(Phase.RESYNC)

    def begin_resync(self) -> str:
        """The reason why all rows are sent again. From here on the subscriber catches up."""
        self._enter(Phase.CATCHING_UP)
        return self._reset_reason

    # --- the end

    def end(self, reason: str = FAILED) -> None:
        """End the stream. The connection of a client that is catching up is aborted; it resumes with a new one."""
        if self.phase is Phase.CLOSED:
            return
        self.ended_by = reason
        if self.phase is Phase.LIVE:
            self._part(Phase.CLOSED)
        else:
            self._transport.abort()
            self._enter(Phase.CLOSED)

    @property
    def connection(self) -> asyncio.Transport:
        """The connection, which other subscribers may share."""
        return self._transport

    def close(self) -> None:
        """The request is over, whatever the phase was."""
        if self.phase is not Phase.CLOSED:
            self._enter(Phase.CLOSED)

    @property
    def gone(self) -> bool:
        """Whether the stream is over, or its connection is."""
        return self.phase is Phase.CLOSED or self._transport.is_closing()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
