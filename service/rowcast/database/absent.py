"""No database: what stands in its place at an edge."""

from __future__ import annotations

from rowcast.database.connection import Connection
from rowcast.database.pool import Database


class NeedsDatabase(Exception):
    """What was asked for needs the database, so only the origin can do it."""


class AbsentDatabase(Database):
    """A pool without connections: whoever needs one gets ``NeedsDatabase``, at once."""

    async def connect(self, **settings: str) -> Connection:
        raise NeedsDatabase

    async def open(self) -> Connection:
        raise NeedsDatabase

    async def _take(self) -> Connection:
        raise NeedsDatabase
