"""Redis as the bus of the relay: Pub/Sub, which delivers a message at most once, to those who listen at that moment.

``redis`` is imported only for ``redis://`` (``rowcast[redis]``). Its client does not try again what has failed: the relay does.

https://redis.io/docs/latest/develop/pubsub/
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from importlib import import_module
from typing import Any, Final

from rowcast.changes.bus import BUS_TIMEOUT_SECONDS, MESSAGE_MAX_BYTES, BusLost, Receive, place_of
from rowcast.changes.connection import cancel
from rowcast.errors import ConfigurationError
from rowcast.tasks import spawn

KEEPALIVE: Final = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3}  # where the system has them


class RedisBus:
    """A Redis server at a ``redis://`` or ``rediss://`` address. ``ConfigurationError`` if the client is not installed."""

    def __init__(self, url: str) -> None:
        try:
            self._client = import_module("redis.asyncio").Redis
            retry, backoff = import_module("redis.asyncio.retry").Retry, import_module("redis.backoff").NoBackoff
            self._error: type[Exception] = import_module("redis.exceptions").RedisError
        except ImportError as error:
            raise ConfigurationError(
                f"stream.relay: Redis needs the package redis: pip install 'rowcast[redis]' ({error})"
            ) from error
        self._url = url
        self._options = {
            "retry": retry(backoff(), 0),
            "client_name": "rowcast",
            "socket_timeout": BUS_TIMEOUT_SECONDS,
            "socket_connect_timeout": BUS_TIMEOUT_SECONDS,
            "socket_keepalive_options": {
                getattr(socket, name): value for name, value in KEEPALIVE.items() if hasattr(socket, name)
            },
        }
        self.place = place_of(url)

    @contextlib.asynccontextmanager
    async def session(self, channel: str, receive: Receive, lost: Callable[[], None]) -> AsyncIterator[RedisSession]:
        client = self._client.from_url(self._url, **self._options)
        listener = client.pubsub()

        async def read() -> None:
            with contextlib.suppress(OSError, TimeoutError, self._error):
                while True:
                    message = await listener.get_message(ignore_subscribe_messages=True, timeout=None)
                    if message is not None:
                        receive(message["data"])
            lost()

        reading: list[asyncio.Task[None]] = []
        try:
            try:
                async with asyncio.timeout(BUS_TIMEOUT_SECONDS):
                    await listener.subscribe(channel)
                    await listener.get_message(timeout=BUS_TIMEOUT_SECONDS)  # so that the server has the subscription
            except (OSError, TimeoutError, self._error) as error:
                raise BusLost(str(error) or type(error).__name__) from None
            reading.append(spawn(read(), "relay from Redis"))
            yield RedisSession(client, channel, self._error)
        finally:
            await cancel(reading)
            with contextlib.suppress(OSError, TimeoutError, self._error):
                await listener.aclose()
                await client.aclose()


class RedisSession:
    """A connection to Redis with one subscription."""

    def __init__(self, client: Any, channel: str, error: type[Exception]) -> None:
        self._client = client
        self._channel = channel
        self._error = error
        self.limit = MESSAGE_MAX_BYTES  # Redis takes more

    async def publish(self, message: bytes) -> None:
        try:
            async with asyncio.timeout(BUS_TIMEOUT_SECONDS):
                await self._client.publish(self._channel, message)
        except (OSError, TimeoutError, self._error) as error:
            raise BusLost(str(error) or type(error).__name__) from None
