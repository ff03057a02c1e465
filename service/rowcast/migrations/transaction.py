"""A transaction of alembic over a connection of the driver."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import sqlalchemy as sa
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from rowcast.migrations.values import VERSION_TABLE, Connection
from rowcast.resources.sql import SCHEMA

Result = TypeVar("Result")


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
