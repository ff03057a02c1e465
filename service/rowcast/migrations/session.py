"""One connection for a migration: without time limits, under a lock, and with alembic running over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import asyncpg
import sqlalchemy as sa
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from rowcast.database.table_lock import lock_holder, try_lock_table
from rowcast.migrations.failures import SchemaError, explain
from rowcast.migrations.values import VERSION_TABLE, Connect, Connection
from rowcast.resources.sql import SCHEMA

Result = TypeVar("Result")
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
    except CommandError as error:
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


async def run_in_transaction(
    connection: Connection,
    work: Callable[[MigrationContext], Result],
    environment: EnvironmentContext | None = None,
) -> Result:
    """Run ``work``, which is blocking code of alembic, over the connection in one transaction; return its result.

    With an environment, ``work`` may run its migrations. Without one, nothing is committed.
    """

    async def use_connection() -> Connection:
        return connection

    def synchronous(bind: sa.Connection) -> Result:
        if environment is None:
            with bind.begin() as transaction:
                result = work(MigrationContext.configure(bind))
                transaction.rollback()
                return result
        environment.configure(bind, version_table=VERSION_TABLE, version_table_schema=SCHEMA)
        with environment.begin_transaction():
            return work(environment.get_context())

    engine = create_async_engine("postgresql+asyncpg://", async_creator=use_connection, poolclass=NullPool)
    async with engine.connect() as bind:
        return await bind.run_sync(synchronous)


def await_step(context: MigrationContext, step: Callable[[Connection], Awaitable[Result]]) -> Result:
    """Run ``step`` on the driver's connection, within the context's transaction, and return its result."""
    assert context.connection is not None
    context.connection.execute(sa.text("SELECT"))  # the transaction begins with the first statement
    result: Result = context.connection.connection.run_async(step)
    return result
