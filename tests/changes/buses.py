"""A bus within the process, which loses, doubles and delays messages when a test wants it to."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from typing import Final

from rowcast.changes.bus import BusLost, Receive

LIMIT_BYTES: Final = 1 << 20


class Wire:
    """Carries the messages of all buses that are connected to it; a message is received in a later turn of the loop.

    ``lose``, ``double`` and ``delay`` are the probabilities that this happens to a message for one receiver; a delayed message
    comes after later ones. While it is ``mute`` it carries nothing that a bus sends; while it is ``down`` nobody is connected.
    """

    def __init__(self, seed: int = 0) -> None:
        self.lose = self.double = self.delay = 0.0
        self.mute = False
        self.sent: list[bytes] = []
        self._random = random.Random(seed)
        self._sessions: list[MemorySession] = []
        self._down = False

    def bus(self, *, limit: int = LIMIT_BYTES) -> MemoryBus:
        """A bus at this wire."""
        return MemoryBus(self, limit)

    @property
    def down(self) -> bool:
        """Whether nobody can be connected."""
        return self._down

    @down.setter
    def down(self, down: bool) -> None:
        self._down = down
        if down:
            for session in tuple(self._sessions):
                session.end()

    def deliver(self, channel: str, message: bytes, sender: MemorySession | None = None) -> None:
        """A message to everybody at a channel but its sender."""
        self.sent.append(message)
        loop = asyncio.get_running_loop()
        for session in self._sessions:
            if session.channel != channel or session is sender or self._random.random() < self.lose:
                continue
            for _ in range(2 if self._random.random() < self.double else 1):
                if self._random.random() < self.delay:
                    loop.call_later(self._random.uniform(0, 0.05), session.arrive, message)
                else:
                    loop.call_soon(session.arrive, message)

    def channels(self) -> set[str]:
        """The channels that somebody listens to."""
        return {session.channel for session in self._sessions}

    def join(self, session: MemorySession) -> None:
        """Connect a session."""
        if self._down:
            raise BusLost("down")
        self._sessions.append(session)

    def leave(self, session: MemorySession) -> None:
        """Disconnect a session, if it is connected."""
        if session in self._sessions:
            self._sessions.remove(session)


class MemoryBus:
    """A ``Bus`` at a wire."""

    place = "memory://test"

    def __init__(self, wire: Wire, limit: int) -> None:
        self._wire = wire
        self._limit = limit

    @contextlib.asynccontextmanager
    async def session(self, channel: str, receive: Receive, lost: Callable[[], None]) -> AsyncIterator[MemorySession]:
        session = MemorySession(self._wire, channel, receive, lost, self._limit)
        self._wire.join(session)
        try:
            yield session
        finally:
            self._wire.leave(session)


class MemorySession:
    """A ``BusSession`` at a wire."""

    def __init__(self, wire: Wire, channel: str, receive: Receive, lost: Callable[[], None], limit: int) -> None:
        self.limit = limit
        self.channel = channel
        self._wire = wire
        self._receive = receive
        self._lost = lost
        self._ended = False

    async def publish(self, message: bytes) -> None:
        if self._ended:
            raise BusLost("down")
        assert len(message) <= self.limit
        if not self._wire.mute:
            self._wire.deliver(self.channel, message, self)

    def arrive(self, message: bytes) -> None:
        """Receive a message, if the session has not ended meanwhile."""
        if not self._ended:
            self._receive(message)

    def end(self) -> None:
        """End as if the bus had been killed."""
        self._ended = True
        self._wire.leave(self)
        self._lost()
