"""Before the service is ready: the database must match the config, or is migrated to match it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import asyncpg
import structlog

from rowcast.changes import checks
from rowcast.changes.connection import OriginLost
from rowcast.changes.install import install, read_secret
from rowcast.changes.trigger_sync import log_reset, suspend_triggers, sync_triggers
from rowcast.configuration.load import Configuration
from rowcast.configuration.settings import Settings
from rowcast.database.engines import engine_problems
from rowcast.database.errors import CONNECTION_LOST
from rowcast.database.pool import Database
from rowcast.database.pooled import pooler_problems
from rowcast.database.table_guards import read_guards
from rowcast.database.table_traits import read_traits
from rowcast.errors import Unavailable
from rowcast.migrations import commands
from rowcast.migrations.values import LogSteps
from rowcast.resources.tables import Tables

_logger = structlog.get_logger(__name__)


async def prepare(
    configuration: Configuration, tables: Tables, database: Database, *, migrate: bool, matches: bool = False
) -> bytes:
    """Check that the database matches the config, or with ``migrate`` make it match; read the traits of the tables.

    Neither is done if it is known that it ``matches``.

    Returns:
        The secret that signs cursors: the settings', or the database's own.

    Raises:
        Unavailable: says what is pending, or why the database cannot be used.
    """
    settings = configuration.settings
    connection = await database.connect()
    try:
        if database.direct_url is not None:
            await _check_pooler(database)
        if not matches:
            await _match(configuration, tables, database, connection, migrate=migrate)
        tables.learn(await read_traits(connection.fetch, tables))
        tables.guards.update(await read_guards(connection.fetch, tables))
        key = settings.server.secret_key
        return hashlib.sha256(key.encode()).digest() if key else await read_secret(connection)
    finally:
        await connection.close()


async def _check_pooler(database: Database) -> None:
    """Raise ``Unavailable`` if requests cannot go through the pooler at the database's URL."""
    problems = await pooler_problems(database.open, database.connect, prepared_statements=database.prepared_statements)
    if problems:
        raise Unavailable(f"The database cannot be used: {'; '.join(problems)}")


async def _match(
    configuration: Configuration, tables: Tables, database: Database, connection: asyncpg.Connection, *, migrate: bool
) -> None:
    """Make the database match the config, or raise ``Unavailable`` if it does not."""
    settings = configuration.settings
    if problems := await engine_problems(connection, tables):
        raise Unavailable(f"The database cannot be used: {'; '.join(problems)}")
    if migrate:
        steps = migration_steps(tables, settings)
        done = await commands.migrate(database.connect, tables, settings.database.migrations, sync=True, steps=steps)
        pending, left, advice = done.pending, done.left, done.advice
    else:
        if problems := await checks.blocking_problems(connection):
            raise Unavailable(f"The database cannot be used: {'; '.join(problems)}")
        plan = await commands.plan(database.connect, tables, settings.database.migrations)
        pending, left, advice = plan.pending, plan.statements, plan.advice
    if stale := [step.sql for step in left if step.is_stale_rule]:
        _logger.warning(
            "rules_left",
            note="the config no longer has these rules; `rowcast migrate --sync` drops them",
            drop=stale,
        )
    if sentences := [step.sql for step in left if step.problem and not step.needed]:
        _logger.warning("choices_left", note="the database has values that the config does not name", enums=sentences)
    if pending:
        raise Unavailable(_not_in_line(pending, advice))
    found = await checks.examine(connection, tables, wakeup=settings.stream.wakeup)
    if found.problems:
        raise Unavailable(_not_in_line(found.problems, ""))
    if found.leftovers:
        note = "no resource has these tables, and their changes are still logged; `rowcast migrate` ends that"
        _logger.warning("triggers_left", note=note, tables=found.leftovers)


async def check_additive(configuration: Configuration, tables: Tables, database: Database) -> None:
    """Raise ``Unavailable`` if a migration would leave something to do, so that it is not begun."""
    plan = await commands.plan(database.connect, tables, configuration.settings.database.migrations)
    if not plan.revisions and any(step.needed and not step.additive for step in plan.statements):
        raise Unavailable(_not_in_line(plan.pending, plan.advice))


def _not_in_line(pending: Sequence[str], advice: str) -> str:
    reason = f"The database is not in line with the config; pending: {'; '.join(pending)}"
    return f"{reason}. To do it, {advice}." if advice else reason


def migration_steps(tables: Tables, settings: Settings) -> LogSteps:
    """What a migration does for the change log: install it, and suspend and renew the triggers that fill it."""

    async def suspend(connection: asyncpg.Connection) -> None:
        await suspend_triggers(connection, wakeup=settings.stream.wakeup)

    async def renew(connection: asyncpg.Connection) -> None:
        await sync_triggers(connection, tables, wakeup=settings.stream.wakeup)

    return LogSteps(install, suspend, renew, log_reset)


def startup_error(error: Exception) -> str:
    """What to report to everybody about an error that keeps the service from starting; the log has its own words."""
    if isinstance(error, Unavailable):
        return str(error)
    if isinstance(error, OriginLost):
        return f"The origin cannot be used: {error}."
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
        return "The database is read-only."
    if isinstance(error, asyncpg.PostgresError) and not isinstance(error, CONNECTION_LOST):
        return "The database refuses what the service needs; the service's log has the reason."
    return "The database cannot be reached."
