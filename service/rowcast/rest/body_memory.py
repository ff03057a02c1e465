"""The memory that request bodies take: of all requests of a process together, and of those from one address.

A client sends a body at its own pace, and a complete one waits in memory for a connection to the database. Without a bound
on their sum, a thousand slow clients would take a gigabyte.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Final

from aiohttp import web

from rowcast.configuration.settings import Server
from rowcast.errors import TooManyBodies
from rowcast.identity.throttling import client_address

UNCOUNTED_MAX_BYTES: Final = 4096  # of a body that arrives with its header
ADDRESS_SHARE: Final = 4  # one address may have the memory divided by this


class BodyMemory:
    """Counts the bytes of bodies until their requests are answered.

    All have at most ``server.bodies_limit`` bytes, and those from one address a quarter. One body of ``server.body_limit``
    bytes always has room if there is no other one.
    """

    def __init__(self, server: Server) -> None:
        self._most = max(server.bodies_limit, server.body_limit)
        self._most_of_address = max(server.bodies_limit // ADDRESS_SHARE, server.body_limit)
        self._trusted_proxies = server.trusted_proxies
        self._taken: dict[
            asyncio.Task[Any] | None, tuple[str, int]
        ] = {}  # by the task that answers a connection's requests
        self._of_address: Counter[str] = Counter()
        self.total = 0

    def take(self, http: web.Request, size: int) -> None:
        """Count further bytes of a request's body; ``TooManyBodies`` if there is no room for them."""
        address, taken = self._taken.get(http.task) or (client_address(http, self._trusted_proxies), 0)
        if self._of_address[address] + size > self._most_of_address or self.total + size > self._most:
            raise TooManyBodies()
        self._taken[http.task] = (address, taken + size)
        self._of_address[address] += size
        self.total += size

    def release(self, http: web.Request) -> None:
        """The request is answered, and its body no longer kept."""
        if (taken := self._taken.pop(http.task, None)) is None:
            return
        address, size = taken
        self.total -= size
        self._of_address[address] -= size
        if not self._of_address[address]:
            del self._of_address[address]


BODY_MEMORY: Final = web.AppKey("body_memory", BodyMemory)
