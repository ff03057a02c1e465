"""The commands of the schema engine: plan, pending, migrate and makemigrations.

A difference between database and config is *additive* or *destructive* (``classify``); a sync runs the additive ones,
and written revisions run the rest. Tables that the config does not name belong to others and are left alone. So are,
in the service's own tables, the indexes and constraints whose names do not begin like those of ``resources.tables``.

A comparison takes a few hundred milliseconds and usually finds nothing. So a comparison that found no difference
leaves a digest of the declared and the existing tables, as the comment of the version table, and nothing is compared
while the digest stays the same. A table that was altered by hand has another digest. Alembic is
loaded only where there is something to compare or to alter.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rowcast.migrations.catalog import Definitions, is_in_line, read_catalog
from rowcast.migrations.failures import SchemaError, TableMissingError
from rowcast.migrations.revisions import unapplied, write_revision
from rowcast.migrations.session import MIGRATION_WAIT_SECONDS, migration_lock, session
from rowcast.migrations.values import Connect, LogSteps, Migration, Plan, Revision
from rowcast.resources.tables import Tables

if TYPE_CHECKING:
    from alembic.runtime.environment import EnvironmentContext


async def plan(connect: Connect, tables: Tables, directory: Path | None = None, *, annotate: bool = False) -> Plan:
    """Return the DDL between database and config and, with a directory, the unapplied revisions. Changes nothing.

    With ``annotate`` the plan has notes on what the config does not name.
    """
    async with session(connect) as connection:
        revisions = await unapplied(connection, directory) if directory else []
        in_line = await is_in_line(connection, tables)
        if in_line and not annotate:
            return Plan([], revisions, [])
        from rowcast.migrations.alteration import compare, rename_steps
        from rowcast.migrations.undeclared import notes

        found = Definitions.of(await read_catalog(connection, tables.metadata) if annotate else [])
        remarks = list(notes(found, tables))
        if in_line:
            return Plan([], revisions, remarks)
        if not annotate and (renames := await rename_steps(connection, tables)):
            return Plan(renames, revisions)
        steps, hints = await compare(connection, tables, found)
        return Plan(steps, revisions, [*hints, *remarks])


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

        from rowcast.migrations.alteration import write_differences

        return await write_differences(connection, tables, directory, message, drop)


async def run_alembic(connect: Connect, environment: EnvironmentContext) -> None:
    """Run a command of alembic itself, such as a downgrade, under the same lock: ``migrations/env.py`` calls this."""
    from rowcast.migrations.transaction import run_in_transaction

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
        from rowcast.migrations.alteration import alter

        return await alter(connection, tables, directory, revisions, sync, log, create)
