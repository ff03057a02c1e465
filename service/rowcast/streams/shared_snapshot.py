"""Snapshots of the database for streams that open together: they share the statement."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class SharedSnapshot:
    """Reads a snapshot for all callers that come before its statement begins, which is when the one before has ended.

    ``read`` returns the ``pg_current_snapshot`` of the primary.
    """

    def __init__(self, read: Callable[[], Awaitable[str]]) -> None:
        self._read_one = read
        self._reading = asyncio.Lock()
        self._next: asyncio.Future[str] | None = None  # of a statement that has not begun

    async def read(self) -> str:
        """PostgreSQL's ``pg_current_snapshot``, by a statement that begins after this call."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._read())
        return await asyncio.shield(self._next)

    async def _read(self) -> str:
        async with self._reading:
            self._next = None
            return await self._read_one()
