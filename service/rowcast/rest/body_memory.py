"""The memory that request bodies take: of all requests of a process together, and of those from one address.

A client sends a body at its own pace, and a complete one waits in memory for a connection to the database. Without a bound
on their sum, a thousand slow clients would take a gigabyte. JSON takes many times its length once it is parsed, so requests
wait for each other before that, in the order in which they came: then nothing depends on a client's pace any more.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from aiohttp import web

from rowcast.configuration.settings import Server
from rowcast.errors import TooManyBodies
from rowcast.rest.memory_budget import MemoryBudget, Task

UNCOUNTED_MAX_BYTES: Final = 1024  # of a body that arrives with its header
PARSED_SHARE: Final = 2  # parsed bodies may have the memory times this
LIST_BYTES: Final = 130  # of Python's objects, measured
OBJECT_BYTES: Final = 300
ITEM_BYTES: Final = 50


def parsed_size(body: bytes) -> int:
    """About how many bytes Python's objects for JSON take.

    >>> parsed_size(b'{"title": "Water it"}')
    321
    """
    return len(body) + LIST_BYTES * body.count(b"[") + OBJECT_BYTES * body.count(b"{") + ITEM_BYTES * body.count(b",")


class BodyMemory:
    """Counts the bytes of bodies until their requests are answered: at most ``server.bodies_limit``."""

    def __init__(self, server: Server) -> None:
        self._budget = MemoryBudget(server.bodies_limit, server)
        self._most_parsed = server.bodies_limit * PARSED_SHARE
        self._parsed: dict[Task, int] = {}
        self._parsed_total = 0
        self._waiting: OrderedDict[asyncio.Future[None], tuple[Task, int]] = OrderedDict()

    @property
    def total(self) -> int:
        """The bytes of all bodies."""
        return self._budget.total

    @property
    def in_use(self) -> bool:
        """Whether a request holds anything. What users' code has received by aiohttp's own methods counts only once it is parsed."""
        return bool(self._budget.total or self._parsed)

    def take(self, http: web.Request, size: int) -> None:
        """Count further bytes of a request's body; ``TooManyBodies`` if there is no room for them."""
        if not self._budget.take(http, size):
            raise TooManyBodies()

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
        self._budget.release(http.task)
        self._parsed_total -= self._parsed.pop(http.task, 0)
        while self._waiting and self._has_room(next(iter(self._waiting.values()))[1]):
            turn, (task, parsed) = self._waiting.popitem(last=False)
            if not turn.done():  # its request has not been cancelled
                self._count_parsed(task, parsed)
                turn.set_result(None)

    def _has_room(self, size: int) -> bool:
        return not self._parsed_total or self._parsed_total + size <= self._most_parsed

    def _count_parsed(self, task: Task, size: int) -> None:
        self._parsed[task] = size
        self._parsed_total += size


BODY_MEMORY: Final = web.AppKey("body_memory", BodyMemory)
