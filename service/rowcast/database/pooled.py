"""Connections through a pooler in transaction mode, which lends a session of PostgreSQL for one transaction.

Such a pooler refuses settings in the start-up packet, and a SET would stay in a session that others get next. So each
transaction begins with its settings, as SET LOCAL, and each statement is inside a transaction. This costs a statement two
round trips more, and needs nothing from the pooler. docs/decisions/0028-poolers.md has the reasons.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeVar

import asyncpg

from rowcast.database.connection import Connect, Connection, SparingConnection
from rowcast.database.errors import CONNECTION_LOST, DRIVER_ERRORS

Result = TypeVar("Result")

PROBE_SECONDS: Final = 2.0  # for a probe that another session of the pool may keep waiting
_PLACE: Final = """
SELECT current_database() || coalesce(' on ' || host(inet_server_addr()) || ':' || inet_server_port(), '') AS name,
    ARRAY[(SELECT oid::text FROM pg_database WHERE datname = current_database()),
        pg_postmaster_start_time()::text] AS identity, pg_is_in_recovery() AS standby
"""


class PooledConnection(SparingConnection):
    """A connection whose every transaction begins with settings of its own."""

    begin = "BEGIN;"
    patience = 5.0

    def begin_with(self, settings: Mapping[str, str], patience: float) -> None:
        """Set these settings at the beginning of each transaction, and wait so many seconds for a session at most."""
        self.patience = patience
        self.begin = "BEGIN;" + "".join(f"SET LOCAL {name} = '{value}';" for name, value in settings.items())

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109 - the driver's
        """Run statements; BEGIN, also that of ``transaction()``, sets the settings in the same round trip."""
        status: str
        if self.is_in_transaction():
            status = await super().execute(query, *args, timeout=timeout)
        elif query.startswith("BEGIN"):
            status = await self._begin(query.partition(";")[2])
        else:
            execute = super().execute
            status = await self._alone(lambda: execute(query, *args, timeout=timeout))
        return status

    async def fetch(self, query: str, *args: Any, **options: Any) -> list[asyncpg.Record]:
        """The rows of a statement."""
        if self.is_in_transaction():
            rows: list[asyncpg.Record] = await super().fetch(query, *args, **options)
            return rows
        fetch = super().fetch
        return await self._alone(lambda: fetch(query, *args, **options))

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> asyncpg.Record | None:
        """The first row of a statement."""
        if self.is_in_transaction():
            return await super().fetchrow(query, *args, **options)
        fetchrow = super().fetchrow
        return await self._alone(lambda: fetchrow(query, *args, **options))

    async def _begin(self, further: str = "") -> str:
        """Begin a transaction, with further statements. A pooler lets it wait while it has no session to lend."""
        try:
            status: str = await super().execute(self.begin + further, timeout=self.patience)
        except TimeoutError:
            self.terminate()
            raise
        return status

    async def _alone(self, run: Callable[[], Awaitable[Result]]) -> Result:
        """Run one statement in a transaction of its own."""
        await self._begin()
        try:
            result = await run()
        except BaseException:
            with suppress(*DRIVER_ERRORS):
                await super().execute("ROLLBACK")
            raise
        await super().execute("COMMIT")
        return result


async def pooler_problems(pooled: Connect, direct: Connect, *, prepared_statements: bool) -> list[str]:
    """What is wrong with a pooler for requests, beside direct connections; empty if they can be used together."""
    one = await pooled()
    try:
        other = await direct()
        try:
            here, there = await one.fetchrow(_PLACE), await other.fetchrow(_PLACE)
        finally:
            other.terminate()
        if here["standby"]:
            return ["database.url leads to a standby, where nothing can be written: it must lead to the primary"]
        if here["identity"] != there["identity"]:
            names = here["name"], there["name"]
            where = "two servers" if names[0] == names[1] else " and ".join(names)
            return [f"database.url and database.direct_url are not the same database: they lead to {where}"]
        if prepared_statements and not await _keeps_statements(one, pooled):
            return [_STATEMENTS_LOST]
        return []
    finally:
        one.terminate()


_STATEMENTS_LOST: Final = (
    "the pooler at database.url does not keep prepared statements: set database.prepared_statements to false, or use"
    " pgbouncer 1.21 or newer with max_prepared_statements"
)


async def _keeps_statements(one: Connection, pooled: Connect) -> bool:
    """Whether a statement that was prepared before can be executed while another client has its session."""
    two = await pooled()
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await one.execute("BEGIN")
            statement = await one.prepare("SELECT $1::int", name="rowcast_probe")
            await one.execute("COMMIT")
            await two.execute("BEGIN")
            await two.execute("SELECT")
            async with one.transaction():
                return bool(await statement.fetchval(1) == 1)
    except TimeoutError:
        return True  # the pool has one session, which every client gets
    except CONNECTION_LOST:
        raise
    except asyncpg.PostgresError:
        return False
    finally:
        two.terminate()
