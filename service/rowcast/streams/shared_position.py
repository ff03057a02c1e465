"""Positions for streams that open together: they share the statement that reads one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from rowcast.changes.position import Position

PACE_SECONDS: Final = 0.01  # from the beginning of a statement to that of the next one


class SharedPosition:
    """Reads a position for all callers that come before its statement begins.

    That is at once, but no sooner than ``PACE_SECONDS`` after the one before has begun, and when that has ended. ``read`` returns
    the position after everything that is committed.
    """

    def __init__(self, read: Callable[[], Awaitable[Position]]) -> None:
        self._read_one = read
        self._reading = asyncio.Lock()
        self._next: asyncio.Future[Position] | None = None  # of a statement that has not begun
        self._due = 0.0  # before which the next one does not begin

    def next(self) -> asyncio.Future[Position]:
        """The position after everything that was committed before this call. Several wait for it: nobody may cancel it."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._read())
        return self._next

    async def _read(self) -> Position:
        async with self._reading:
            clock = asyncio.get_running_loop().time
            if (wait := self._due - clock()) > 0:
                await asyncio.sleep(wait)
            self._due = clock() + PACE_SECONDS
            self._next = None
            return await self._read_one()
