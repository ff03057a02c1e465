"""One connection for a migration: without time limits, and under a lock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import sqlalchemy as sa

from rowcast.database.table_lock import lock_holder, try_lock_table
from rowcast.migrations.failures import SchemaError, explain, is_of_alembic
from rowcast.migrations.values import Connect, Connection
from rowcast.resources.sql import SCHEMA

MIGRATION_TABLE: Final = "rowcast.secret"  # a migration has the lock on it
FIRST_MIGRATION_LOCK: Final = 0x726F7763617374  # the advisory lock of the first migration
_TRY_FIRST_LOCK: Final = """
SELECT pg_try_advisory_lock($1) OR NOT EXISTS (
    SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND granted AND (classid::bigint << 32) + objid::bigint = $1 AND objsubid = 1
        AND database = datid AND datname = current_database() AND has_database_privilege(usesysid, datid, 'CREATE')
)
"""
MIGRATION_WAIT_SECONDS: Final = 60.0  # the longest wait for another migration to end

# If the role has the name of the service's schema, "$user" is that schema, and tables would be created in it.
_SESSION_SQL: Final = f"""
SET statement_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SELECT set_config('search_path', replace(current_setting('search_path'), '"$user"', 'public'), false)
WHERE current_user = '{SCHEMA}'
"""


@asynccontextmanager
async def session(connect: Connect) -> AsyncIterator[Connection]:
    """Open a connection without time limits. Errors of its statements are raised as ``SchemaError``."""
    connection = await connect()
    try:
        await connection.execute(_SESSION_SQL)
        yield connection
    except (sa.exc.DBAPIError, asyncpg.PostgresError) as error:
        raise SchemaError(explain(error)) from error
    except Exception as error:
        if not is_of_alembic(error):
            raise
        raise SchemaError(f"The revisions cannot be used: {error}") from error
    finally:
        await connection.close()


@asynccontextmanager
async def migration_lock(connect: Connect, patience: float) -> AsyncIterator[None]:
    """Keep other migrations out; wait up to ``patience`` seconds for one that runs.

    The lock is polled, because a statement that waits for it holds a snapshot, and the other migration may itself be
    waiting for all snapshots to end (CREATE INDEX CONCURRENTLY). In a database without the schema ``rowcast`` there is
    nothing to lock that needs rights, so it is an advisory lock, which counts if its holder could migrate.
    """
    lock = await connect()
    try:
        deadline = asyncio.get_running_loop().time() + patience
        while not await _try_lock(lock):
            if asyncio.get_running_loop().time() > deadline:
                holder = await lock_holder(lock, MIGRATION_TABLE)
                which = "" if holder is None else f" (process {holder} of PostgreSQL)"
                raise SchemaError(
                    f"Another process{which} has been migrating this database for {patience:g} s: try again later."
                )
            await asyncio.sleep(0.1)
        yield
    finally:
        await lock.close()


async def _try_lock(connection: Connection) -> bool:
    if await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", MIGRATION_TABLE):
        return await try_lock_table(connection, MIGRATION_TABLE)
    return bool(await connection.fetchval(_TRY_FIRST_LOCK, FIRST_MIGRATION_LOCK))
