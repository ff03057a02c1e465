"""The commands of the schema engine: plan, pending, migrate and makemigrations.

A difference between database and config is *additive* or *destructive* (``classify``); a sync runs the additive ones,
and written revisions run the rest. Tables that the config does not name belong to others and are left alone. So are,
in the service's own tables, the indexes and constraints whose names do not begin like those of ``resources.tables``.

A comparison takes a few hundred milliseconds and usually finds nothing. So a comparison that found no difference
leaves a digest of the declared and the existing tables, as the comment of the version table, and nothing is compared
while the digest stays the same. A table that was altered by hand has another digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext

from rowcast.migrations.catalog import Definitions, digest, is_in_line, read_catalog
from rowcast.migrations.compare import Difference, find_differences
from rowcast.migrations.failures import SchemaError, TableMissingError, reports_python, sqlstate
from rowcast.migrations.operations import render
from rowcast.migrations.renaming import Rename, find_renames
from rowcast.migrations.revisions import script_directory, unapplied, write_revision
from rowcast.migrations.session import MIGRATION_WAIT_SECONDS, await_step, migration_lock, run_in_transaction, session
from rowcast.migrations.undeclared import Drop, drops, notes, rename_hints
from rowcast.migrations.values import VERSION_TABLE, Connect, DdlStep, LogSteps, Migration, Plan, Revision
from rowcast.resources.sql import SCHEMA
from rowcast.resources.tables import Tables

TABLE_LOCK_TIMEOUT: Final = "10s"  # a lock that waits for a table in use makes all later statements wait for it


async def plan(connect: Connect, tables: Tables, directory: Path | None = None, *, annotate: bool = False) -> Plan:
    """Return the DDL between database and config and, with a directory, the unapplied revisions. Changes nothing.

    With ``annotate`` the plan has notes on what the config does not name.
    """
    async with session(connect) as connection:
        revisions = await unapplied(connection, directory) if directory else []
        found = Definitions.of(await read_catalog(connection, tables.metadata) if annotate else [])
        remarks = list(notes(found, tables))
        if await is_in_line(connection, tables):
            return Plan([], revisions, remarks)
        if not annotate and (
            renames := await find_renames(connection, tables)
        ):  # the rest cannot be compared without locks
            return Plan([each.step for each in renames], revisions)
        differences = await run_in_transaction(connection, lambda context: find_differences(context, tables))
        remarks = [*rename_hints((each.operation for each in differences), found, tables), *remarks]
        return Plan([difference.statement for difference in differences], revisions, remarks)


async def pending(connect: Connect, tables: Tables, directory: Path) -> list[str]:
    """Return what a service needs before it can run on this database: unapplied revisions, and DDL."""
    return (await plan(connect, tables, directory)).pending


async def migrate(
    connect: Connect,
    tables: Tables,
    directory: Path,
    *,
    sync: bool,
    steps: LogSteps,
    patience: float = MIGRATION_WAIT_SECONDS,
) -> Migration:
    """Apply the revisions of ``directory/versions``, then with ``sync`` every additive difference that is left.

    All of it, ``steps`` included, is one transaction under a lock; another caller waits for the lock up to ``patience`` seconds. (A revision
    with ``autocommit_block`` commits what ran before it.)

    Raises:
        SchemaError: The migration failed, and nothing was changed.
    """
    try:
        return await _migrate(connect, tables, directory, sync, steps, patience, create=False)
    except TableMissingError:
        return await _migrate(connect, tables, directory, sync, steps, patience, create=True)


async def makemigrations(
    connect: Connect,
    tables: Tables,
    directory: Path,
    message: str,
    *,
    empty: bool = False,
    drop: Sequence[str] = (),
) -> Revision:
    """Write a revision that brings the database in line, destructive steps included.

    It drops nothing that the config merely does not name, apart from what ``drop`` names: ``table.column`` and the like.
    With ``empty`` it has no steps; they are to be written by hand, whatever is pending in the database.

    Raises:
        SchemaError: There is nothing to do, nothing of a name to drop, or the database is not at the last revision, from which a new one starts.
    """
    if empty:
        return Revision(write_revision(directory, message, "", ""))
    async with session(connect) as connection:
        if missing := await unapplied(connection, directory):
            raise SchemaError(
                f"The database is not at the last revision: {', '.join(missing)} not applied yet. "
                "Run `rowcast migrate`, then make the revision."
            )

        def work(context: MigrationContext) -> tuple[list[Difference], list[Drop]]:
            return find_differences(context, tables), drops(context, tables, drop)

        differences, dropped = await run_in_transaction(connection, work)
        steps = [each.operation for each in differences if each.operation is not None] + [
            each.operation for each in dropped
        ]
        problems = [each.statement.sql for each in differences if each.statement.problem]
        if problems and not steps:
            raise SchemaError(f"There is nothing that a revision could do: {'; '.join(problems)}")
        if not steps:
            raise SchemaError("The database is in line with the config: there is nothing to write a revision of.")
        back = [operation.reverse() for operation in reversed(steps)]
        path = write_revision(directory, message, render(steps), render(back))
        return Revision(path, [each.message for each in dropped])


async def run_alembic(connect: Connect, environment: EnvironmentContext) -> None:
    """Run a command of alembic itself, such as a downgrade, under the same lock: ``migrations/env.py`` calls this."""
    async with session(connect) as connection, migration_lock(connect, MIGRATION_WAIT_SECONDS):
        await run_in_transaction(connection, lambda _context: environment.run_migrations(), environment)


async def _migrate(
    connect: Connect,
    tables: Tables,
    directory: Path,
    sync: bool,
    log: LogSteps,
    patience: float,
    create: bool,
) -> Migration:
    """One attempt. With ``create`` the tables are created first, in the form that the config declares."""
    async with session(connect) as connection, migration_lock(connect, patience):
        revisions = await unapplied(connection, directory)
        if not revisions and await is_in_line(connection, tables):
            async with connection.transaction():
                await log.install(connection)
                await log.renew(connection)
            return Migration()

        def work(context: MigrationContext) -> Migration:
            bare = sync and not create and not await_step(context, lambda raw: read_catalog(raw, tables.metadata))
            context.execute(f"SET LOCAL lock_timeout = '{TABLE_LOCK_TIMEOUT}'")
            await_step(context, log.install)
            applied = _apply(context, tables, log) if create else []
            if revisions:
                await_step(context, log.suspend)
            try:
                with reports_python(directory / "versions"):
                    environment.run_migrations()
            except sa.exc.DBAPIError as error:
                if bare and sqlstate(error) in ("42P01", "42703"):  # undefined table, undefined column
                    raise TableMissingError from error
                raise
            if sync:
                applied += _apply(context, tables, log)
            left = [difference.statement for difference in find_differences(context, tables)]
            await_step(context, log.renew)
            compared = "" if left else await_step(context, lambda raw: digest(raw, tables))
            context.execute(f"COMMENT ON TABLE {SCHEMA}.{VERSION_TABLE} IS '{compared}'")
            return Migration(revisions, applied, left)

        scripts = script_directory(directory)

        def steps(heads: Any, _context: MigrationContext) -> Any:
            return scripts._upgrade_revs("heads", heads)

        with EnvironmentContext(Config(), scripts, fn=steps) as environment:
            return await run_in_transaction(connection, work, environment)


def _apply(context: MigrationContext, tables: Tables, log: LogSteps) -> list[DdlStep]:
    """Run the additive differences; the first that the rows do not allow ends the migration."""
    operations = Operations(context)
    additive = [difference for difference in find_differences(context, tables) if difference.statement.additive]
    renamed = {each.operation.table for each in additive if isinstance(each.operation, Rename)}
    if renamed:
        resources = [name for name, table in tables.of.items() if table.key in renamed]
        await_step(context, lambda raw: log.reset(raw, resources))
    for difference in additive:
        assert difference.operation is not None
        operations.invoke(difference.operation)
    return [difference.statement for difference in additive]
