"""Snapshots of the database for streams that open together: they share the statement."""

from __future__ import annotations

import asyncio

from rowcast.query.store import Store


class SharedSnapshot:
    """Reads a snapshot for all callers that come before its statement begins, which is when the one before has ended."""

    def __init__(self) -> None:
        self._reading = asyncio.Lock()
        self._next: asyncio.Future[str] | None = None  # of a statement that has not begun

    async def read(self, store: Store) -> str:
        """PostgreSQL's ``pg_current_snapshot``, by a statement that begins after this call."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._read(store))
        return await asyncio.shield(self._next)

    async def _read(self, store: Store) -> str:
        async with self._reading:
            self._next = None
            with store.database.as_service():
                return await store.snapshot()
