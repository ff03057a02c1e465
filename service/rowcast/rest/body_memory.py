"""The memory that request bodies take: of all requests of a process together, and of those from one address.

A client sends a body at its own pace, and a complete one waits in memory for a connection to the database. Without a bound
on their sum, a thousand slow clients would take a gigabyte. JSON takes many times its length once it is parsed, so requests
wait for each other before that, in the order in which they came: then nothing depends on a client's pace any more.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from typing import Any, Final, TypeAlias

from aiohttp import web

from rowcast.configuration.settings import Server
from rowcast.errors import TooManyBodies
from rowcast.identity.throttling import client_address

UNCOUNTED_MAX_BYTES: Final = 1024  # of a body that arrives with its header
ADDRESS_SHARE: Final = 4  # one address may have the memory divided by this
PARSED_SHARE: Final = 2  # parsed bodies may have the memory times this
LIST_BYTES: Final = 130  # of Python's objects, measured
OBJECT_BYTES: Final = 300
ITEM_BYTES: Final = 50

_Task: TypeAlias = "asyncio.Task[Any] | None"  # which answers the requests of a connection one after the other


def parsed_size(body: bytes) -> int:
    """About how many bytes Python's objects for JSON take.

    >>> parsed_size(b'{"title": "Water it"}')
    321
    """
    return len(body) + LIST_BYTES * body.count(b"[") + OBJECT_BYTES * body.count(b"{") + ITEM_BYTES * body.count(b",")


class BodyMemory:
    """Counts the bytes of bodies until their requests are answered.

    All have at most ``server.bodies_limit`` bytes, and those from one address a quarter. One body of ``server.body_limit``
    bytes always has room if there is no other one.
    """

    def __init__(self, server: Server) -> None:
        self._most = max(server.bodies_limit, server.body_limit)
        self._most_of_address = max(server.bodies_limit // ADDRESS_SHARE, server.body_limit)
        self._most_parsed = server.bodies_limit * PARSED_SHARE
        self._trusted_proxies = server.trusted_proxies
        self._taken: dict[_Task, tuple[str, int]] = {}
        self._of_address: Counter[str] = Counter()
        self._parsed: dict[_Task, int] = {}
        self._parsed_total = 0
        self._waiting: OrderedDict[asyncio.Future[None], tuple[_Task, int]] = OrderedDict()
        self.total = 0

    def take(self, http: web.Request, size: int) -> None:
        """Count further bytes of a request's body; ``TooManyBodies`` if there is no room for them."""
        address, taken = self._taken.get(http.task) or (client_address(http, self._trusted_proxies), 0)
        if self._of_address[address] + size > self._most_of_address or self.total + size > self._most:
            raise TooManyBodies()
        self._taken[http.task] = (address, taken + size)
        self._of_address[address] += size
        self.total += size

    async def before_parsing(self, http: web.Request, size: int) -> None:
        """Wait until there is room for what a body becomes, of ``size`` bytes; one body alone always has room."""
        if http.task in self._parsed:  # it is parsed a second time
            return
        if not self._waiting and self._has_room(size):
            self._count_parsed(http.task, size)
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = (http.task, size)
        try:
            await turn
        finally:
            self._waiting.pop(turn, None)

    @property
    def waiting(self) -> int:
        """The number of requests that wait before they parse their bodies."""
        return len(self._waiting)

    def release(self, http: web.Request) -> None:
        """The request is answered, and its body no longer kept."""
        if (taken := self._taken.pop(http.task, None)) is None:
            return
        address, size = taken
        self.total -= size
        self._of_address[address] -= size
        if not self._of_address[address]:
            del self._of_address[address]
        self._parsed_total -= self._parsed.pop(http.task, 0)
        while self._waiting and self._has_room(next(iter(self._waiting.values()))[1]):
            turn, (task, parsed) = self._waiting.popitem(last=False)
            if not turn.done():  # its request has not been cancelled
                self._count_parsed(task, parsed)
                turn.set_result(None)

    def _has_room(self, size: int) -> bool:
        return not self._parsed_total or self._parsed_total + size <= self._most_parsed

    def _count_parsed(self, task: _Task, size: int) -> None:
        self._parsed[task] = size
        self._parsed_total += size


BODY_MEMORY: Final = web.AppKey("body_memory", BodyMemory)
