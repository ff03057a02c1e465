"""A message bus as the relay uses it: one channel, messages that may be lost, and a connection that may end.

Nothing more is needed of a bus than *at most once*: what is lost is read from the log.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

BUS_TIMEOUT_SECONDS: Final = 2.0  # for connecting, and for one message to leave

FED_POLL_SECONDS: Final = 30.0  # between looks at the database of a node that is fed by the relay
MESSAGE_MAX_BYTES: Final = 1 << 20  # of the relay's messages, whatever a bus takes

Receive = Callable[[bytes], None]


class BusLost(Exception):
    """The bus cannot be reached, or the connection to it has ended."""


class BusSession(Protocol):
    """An open connection to a bus, for one channel. ``limit`` is the size of its largest message, in bytes."""

    limit: int

    async def publish(self, message: bytes) -> None:
        """Send a message to the channel; ``BusLost`` if the connection has ended."""


class Bus(Protocol):
    """A bus at one address, or at those of several servers. ``place`` is the address without its credentials."""

    place: str

    def session(
        self, channel: str, receive: Receive, lost: Callable[[], None]
    ) -> AbstractAsyncContextManager[BusSession]:
        """Connect, and call ``receive`` with each message of a channel, and ``lost`` if the connection ends by itself.

        Both are called from the event loop and must not block or raise. Raises ``BusLost`` if it cannot connect.
        """
