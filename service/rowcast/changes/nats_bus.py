"""NATS as the bus of the relay: core NATS, which delivers a message at most once, to those who listen at that moment.

``nats-py`` is imported only for ``nats://`` (``rowcast[nats]``). Its client can connect again by itself, and then keeps
messages for later. Both are off: the relay connects again, and old messages have no use.

https://docs.nats.io/nats-concepts/core-nats/pubsub
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import import_module
from typing import Any, Final

import structlog

from rowcast.changes.bus import BUS_TIMEOUT_SECONDS, BusLost, Receive
from rowcast.configuration.relay_url import RelayUrl
from rowcast.errors import ConfigurationError

PING_SECONDS: Final = 5  # after three without an answer the connection has ended
_logger = structlog.get_logger(__name__)
PENDING_BYTES: Final = 4 << 20  # that wait to be written; with more, publishing waits


class NatsBus:
    """A NATS server, or a cluster: each session is with one of its servers, in any order, that can be reached.

    ``ConfigurationError`` if the client is not installed.
    """

    def __init__(self, url: RelayUrl) -> None:
        try:
            self._client = import_module("nats.aio.client").Client
            self._error: type[Exception] = import_module("nats.errors").Error
        except ImportError as error:
            raise ConfigurationError(
                f"stream.relay: NATS needs the package nats-py: pip install 'rowcast[nats]' ({error})"
            ) from error
        self._credentials = _credentials(url)
        self._servers = [f"{url.scheme}://{host}" for host in url.hosts]
        self.place = url.place

    @contextlib.asynccontextmanager
    async def session(self, channel: str, receive: Receive, lost: Callable[[], None]) -> AsyncIterator[NatsSession]:
        client = self._client()
        listening = True

        async def take(message: Any) -> None:
            receive(message.data)

        async def end() -> None:
            if listening:
                lost()

        try:
            await self._connect(client, channel, take, end)
            yield NatsSession(client, channel, self._error)
        finally:
            listening = False
            with contextlib.suppress(OSError, TimeoutError, self._error):
                async with asyncio.timeout(BUS_TIMEOUT_SECONDS):
                    await client.close()

    async def _connect(
        self,
        client: Any,
        channel: str,
        take: Callable[[Any], Awaitable[None]],
        end: Callable[[], Awaitable[None]],
    ) -> None:
        reasons: list[Exception] = []  # why the client could not connect: it reports only that it has tried all

        async def note(error: Exception) -> None:
            reasons[:] = [error]
            if client.is_connected:  # such as a subject that the user may not use
                _logger.warning("relay_bus_error", bus=self.place, error=describe(error))

        try:
            async with asyncio.timeout(BUS_TIMEOUT_SECONDS * len(self._servers)):
                await client.connect(
                    self._servers,
                    **self._credentials,
                    name="rowcast",
                    error_cb=note,
                    closed_cb=end,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=BUS_TIMEOUT_SECONDS,
                    ping_interval=PING_SECONDS,
                    no_echo=True,
                    pending_size=PENDING_BYTES,
                )
                await client.subscribe(channel, cb=take)
                await client.flush()  # so that the server has the subscription
        except (OSError, TimeoutError, self._error) as error:
            raise BusLost(describe(reasons[0] if reasons else error)) from None


class NatsSession:
    """A connection to NATS with one subscription."""

    def __init__(self, client: Any, channel: str, error: type[Exception]) -> None:
        self._client = client
        self._channel = channel
        self._error = error
        self.limit: int = client.max_payload

    async def publish(self, message: bytes) -> None:
        try:
            async with asyncio.timeout(BUS_TIMEOUT_SECONDS):
                await self._client.publish(self._channel, message)
        except (OSError, TimeoutError, self._error) as error:
            raise BusLost(describe(error)) from None


def _credentials(url: RelayUrl) -> dict[str, str]:
    """The user and the password of a URL, or its token, as options of the client, which does not decode them itself."""
    if url.password:
        return {"user": url.user, "password": url.password}
    return {"token": url.user} if url.user else {}


def describe(error: Exception) -> str:
    """An error of the client as a line. None of its messages has the URL."""
    return str(error) or type(error).__name__
