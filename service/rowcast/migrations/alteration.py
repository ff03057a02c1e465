"""What alembic is needed for: to compare a database with the config, to migrate it, and to write a revision.

A service whose database is in line needs none of it, so ``commands`` imports this module only when there is something to
do: alembic and what it imports take longer to load than the service itself.
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

from rowcast.migrations.catalog import Definitions, digest, read_catalog
from rowcast.migrations.compare import Difference, find_differences
from rowcast.migrations.failures import SchemaError, TableMissingError, reports_python, sqlstate
from rowcast.migrations.operations import render
from rowcast.migrations.renaming import Rename, find_renames
from rowcast.migrations.revisions import script_directory, write_revision
from rowcast.migrations.transaction import await_step, run_in_transaction
from rowcast.migrations.undeclared import Drop, drops, rename_hints
from rowcast.migrations.values import VERSION_TABLE, Connection, DdlStep, LogSteps, Migration, Revision
from rowcast.resources.sql import SCHEMA
from rowcast.resources.tables import Tables

TABLE_LOCK_TIMEOUT: Final = "10s"  # a lock that waits for a table in use makes all later statements wait for it


async def rename_steps(connection: Connection, tables: Tables) -> list[DdlStep]:
    """The renames between database and config. While there are any, the rest cannot be compared without locks."""
    return [each.step for each in await find_renames(connection, tables)]


async def compare(connection: Connection, tables: Tables, found: Definitions) -> tuple[list[DdlStep], list[str]]:
    """The steps between database and config, and notes on steps that may be renames, for the tables ``found`` in it."""
    differences = await run_in_transaction(connection, lambda context: find_differences(context, tables))
    notes = list(rename_hints((each.operation for each in differences), found, tables))
    return [difference.statement for difference in differences], notes


async def write_differences(
    connection: Connection, tables: Tables, directory: Path, message: str, drop: Sequence[str]
) -> Revision:
    """Write a revision of every difference, and of the drops that are asked for; ``SchemaError`` if there are none."""

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


async def alter(
    connection: Connection,
    tables: Tables,
    directory: Path,
    revisions: list[str],
    sync: bool,
    log: LogSteps,
    create: bool,
) -> Migration:
    """Apply the ``revisions`` that are not applied yet and then, with ``sync``, every additive difference.

    With ``create`` the tables are created first, in the form that the config declares.
    """

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
