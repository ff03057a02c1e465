"""``rowcast adopt``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
from tqdm import tqdm

from rowcast.adoption.catalog import Database, Table, read_database
from rowcast.adoption.drafts import Adoption, Drafting, unserved
from rowcast.adoption.drift import find_drift
from rowcast.adoption.files import editor_schema, existing_file, resource_file
from rowcast.adoption.selection import check_patterns, find_keys, select_tables
from rowcast.commands.common import (
    CONFIG,
    DATABASE_SECTIONS,
    DATABASE_URL,
    load_configuration,
    open_database,
    tables_and_database,
)
from rowcast.configuration.load import Configuration
from rowcast.database.connection import open_connection
from rowcast.database.pool import CONNECT_TIMEOUT_SECONDS
from rowcast.errors import ConfigurationError
from rowcast.migrations import commands

PROGRESS_MIN_FILES: Final = 100


@click.command()
@CONFIG
@DATABASE_URL
@click.option(
    "--schema", "schemas", multiple=True, metavar="NAME", help="A schema to read.  [default: those of the search path]"
)
@click.option(
    "--tables",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Only tables with such a name, such as 'sales_*'; '!tmp_*' leaves some out. May be repeated.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the files are written.  [default: resources in the config directory]",
)
@click.option("--check", is_flag=True, help="Write nothing; report what the config does not have, and exit 1.")
def adopt(
    config: Path,
    database_url: str | None,
    schemas: tuple[str, ...],
    patterns: tuple[str, ...],
    out: Path | None,
    check: bool,
) -> None:
    """Write a resource file for each table of an existing database that the config does not have."""
    configuration = load_configuration(config, database_url, sections=DATABASE_SECTIONS, may_be_empty=True)
    if configuration.settings.database.url is None and not config.exists():
        raise ConfigurationError(f"{config}: directory does not exist; pass --config, or DATABASE_URL to make one")
    with open_database(configuration) as (url, embedded):
        database, chosen, adoption = asyncio.run(_read(url, configuration, schemas, patterns, embedded))
        if check:
            complete = _report_drift(url, configuration, database, chosen, adoption)
        else:
            complete = True
            _write(adoption, out or config / "resources")
    for table, reason in adoption.left_out.items():
        click.echo(f"left out: {table}, because {reason}")
    if not complete:
        sys.exit(1)


async def _read(
    url: str, configuration: Configuration, schemas: Sequence[str], patterns: Sequence[str], embedded: bool
) -> tuple[Database, dict[int, Table], Adoption]:
    """The catalog, the tables of it that the options name, and drafts for those that the config does not have."""
    connection = await open_connection(configuration.settings.database.direct_url or url, CONNECT_TIMEOUT_SECONDS)
    try:
        database = await read_database(connection, schemas or None)
        check_patterns(database, schemas, patterns, embedded=embedded)
        new = {table.oid for table in unserved(database, configuration.resources)}
        selected = list(select_tables(database.tables.values(), patterns))
        fitting = [table for table, reason in selected if reason is None and table.oid in new]
        keys = await find_keys(connection, fitting, database)
        callers = configuration.settings.database.has_callers
        drafting = Drafting(database, configuration.resources, keys, callers=callers)
        drafting.left_out |= {str(table): reason for table, reason in selected if reason and table.oid in new}
        return database, {table.oid: table for table, _ in selected}, drafting.draft(fitting)
    finally:
        await connection.close()


def _write(adoption: Adoption, directory: Path) -> None:
    """Write the files that do not exist yet, and print the name of each."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        written, schema = 0, editor_schema(directory)
        resources = adoption.resources.values()
        for draft in tqdm(
            resources, unit="file", leave=False, disable=None if len(resources) >= PROGRESS_MIN_FILES else True
        ):
            if (path := existing_file(directory, draft.name)) is not None:
                tqdm.write(f"exists: {path}, so {draft.table} is not written")
                continue
            path = directory / f"{draft.name}.yaml"
            with path.open("x", encoding="utf-8") as file:
                file.write(resource_file(draft, schema))
            written += 1
            tqdm.write(f"{path}: {draft.table}")
    except OSError as error:
        raise ConfigurationError(f"cannot write to {directory}: {error.strerror}") from error
    if not resources:
        click.echo("The config has every table that can be adopted.")
    elif written:
        click.echo(f"{written} resources written, open to admins only. Next: `rowcast check`, then `rowcast migrate`.")


def _report_drift(
    url: str, configuration: Configuration, database: Database, chosen: dict[int, Table], adoption: Adoption
) -> bool:
    """Print how catalog and config differ, and return whether they do not."""
    lines = list(find_drift(database, configuration, adoption, chosen))
    if configuration.resources:
        tables, pool = tables_and_database(configuration, url)
        plan = asyncio.run(commands.plan(pool.connect, tables, configuration.settings.database.migrations))
        lines += [f"not in line: {line}" for line in (*plan.revisions, *map(str, plan.statements))]
    for line in lines:
        click.echo(line)
    if not lines:
        click.echo("The config has every table and column.")
    return not lines
