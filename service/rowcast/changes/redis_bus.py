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

from rowcast.changes.bus import BUS_TIMEOUT_SECONDS, MESSAGE_MAX_BYTES, BusLost, Receive
from rowcast.changes.connection import cancel
from rowcast.configuration.relay_url import RelayUrl, host_with_port
from rowcast.errors import ConfigurationError
from rowcast.tasks import spawn

PING_SECONDS: Final = 5.0  # of silence, after which the server is asked; after as many without an answer it is lost
KEEPALIVE: Final = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3}  # where the system has them


class RedisBus:
    """A Redis server, or the one that sentinels name. ``ConfigurationError`` if the client is not installed.

    Each session asks the sentinels again, so after a failover it is with the new server. Redis and Sentinel close the
    connections to a server that is not the master any more.
    """

    def __init__(self, url: RelayUrl) -> None:
        try:
            self._client = import_module("redis.asyncio").Redis
            retry, backoff = import_module("redis.asyncio.retry").Retry, import_module("redis.backoff").NoBackoff
            errors = import_module("redis.exceptions")
        except ImportError as error:
            raise ConfigurationError(
                f"stream.relay: Redis needs the package redis: pip install 'rowcast[redis]' ({error})"
            ) from error
        self._error: type[Exception] = errors.RedisError
        self._refused: type[Exception] = errors.AuthenticationError
        self._url = url
        self._hosts = list(url.hosts)
        self._credentials = {
            name: value for name, value in (("username", url.user), ("password", url.password)) if value
        }
        self._options = {
            "retry": retry(backoff(), 0),
            "client_name": "rowcast",
            "socket_timeout": BUS_TIMEOUT_SECONDS,
            "socket_connect_timeout": BUS_TIMEOUT_SECONDS,
            "socket_keepalive_options": {
                getattr(socket, name): value for name, value in KEEPALIVE.items() if hasattr(socket, name)
            },
        }
        self.place = url.place

    @contextlib.asynccontextmanager
    async def session(self, channel: str, receive: Receive, lost: Callable[[], None]) -> AsyncIterator[RedisSession]:
        host = await self._ask_sentinels() if self._url.sentinel else self._hosts[0]
        client = self._open(host, **self._credentials)
        listener = client.pubsub()

        async def read() -> None:
            with contextlib.suppress(OSError, TimeoutError, self._error):
                pinged = False
                while True:
                    message = await listener.get_message(timeout=PING_SECONDS)
                    if message is None:
                        if pinged:
                            break
                        await listener.ping()
                    elif message["type"] == "message":
                        receive(message["data"])
                    pinged = message is None
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

    async def _ask_sentinels(self) -> str:
        """The address of the server. A sentinel that answers is asked first the next time."""
        reasons: list[str] = []
        for host in tuple(self._hosts):
            try:
                async with asyncio.timeout(BUS_TIMEOUT_SECONDS):
                    found = await self._ask(host)
            except self._refused:
                reasons.append(f"{host} {'refuses these credentials' if self._credentials else 'asks for credentials'}")
                continue
            except (OSError, TimeoutError, self._error) as error:
                reasons.append(f"{host}: {str(error) or type(error).__name__}")
                continue
            if found is None:
                reasons.append(f"{host} knows no {self._url.path}")
                continue
            self._hosts.sort(key=lambda each: each != host)
            return host_with_port(found[0].decode(), int(found[1]))
        raise BusLost("; ".join(reasons))

    async def _ask(self, host: str) -> tuple[bytes, bytes] | None:
        """What a sentinel says. It gets the credentials of the server if it asks for some."""
        for credentials in ({}, self._credentials):
            async with self._open(host, **credentials) as sentinel:
                try:
                    found: tuple[bytes, bytes] | None = await sentinel.execute_command(
                        "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._url.path
                    )
                    return found
                except self._refused:
                    if credentials or not self._credentials:
                        raise
        raise AssertionError("the last attempt returns or raises")

    def _open(self, host: str, **credentials: str) -> Any:
        database = "" if self._url.sentinel else self._url.path
        return self._client.from_url(f"{self._url.scheme}://{host}/{database}", **self._options, **credentials)


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
