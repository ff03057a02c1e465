"""Bytes that requests hold in memory at the pace of their clients, with a bound on their sum."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Final, TypeAlias

from aiohttp import web

from rowcast.configuration.settings import Server
from rowcast.identity.throttling import client_address

ADDRESS_SHARE: Final = 4  # one address may hold a budget divided by this

Task: TypeAlias = "asyncio.Task[Any] | None"  # which answers the requests of a connection one after the other


class MemoryBudget:
    """At most ``size`` bytes of all requests together, and a quarter of that from one address.

    What one request holds always has room if no other one of its address, or of all, holds anything.
    """

    def __init__(self, size: int, server: Server) -> None:
        self.size = size
        self.total = 0
        self._trusted_proxies = server.trusted_proxies
        self._held: dict[Task, tuple[str, int]] = {}
        self._of_address: Counter[str] = Counter()

    def take(self, http: web.Request, size: int) -> bool:
        """Hold further bytes for a request; ``False`` if there is no room for them."""
        address, own = self._held.get(http.task) or (client_address(http, self._trusted_proxies), 0)
        for others, most in (
            (self._of_address[address] - own, self.size // ADDRESS_SHARE),
            (self.total - own, self.size),
        ):
            if others and others + own + size > most:
                return False
        self._held[http.task] = (address, own + size)
        self._of_address[address] += size
        self.total += size
        return True

    def release(self, task: Task) -> None:
        """The request of a task holds nothing any more."""
        if (held := self._held.pop(task, None)) is None:
            return
        address, size = held
        self.total -= size
        self._of_address[address] -= size
        if not self._of_address[address]:
            del self._of_address[address]
