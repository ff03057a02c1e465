"""``rowcast plan``, ``migrate`` and ``makemigrations``."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from rowcast.commands.common import (
    CONFIG,
    DATABASE_SECTIONS,
    DATABASE_URL,
    load_configuration,
    open_database,
    tables_and_database,
)
from rowcast.database.engines import check_engine
from rowcast.migrations import commands
from rowcast.migrations.values import Migration
from rowcast.server.index_hints import index_hints
from rowcast.server.prepare import migration_steps


@click.command()
@CONFIG
@DATABASE_URL
def plan(config: Path, database_url: str | None) -> None:
    """Print the DDL between config and database."""
    configuration = load_configuration(config, database_url, sections=DATABASE_SECTIONS)
    with open_database(configuration) as (url, _):
        tables, database = tables_and_database(configuration, url)
        directory = configuration.settings.database.migrations
        click.echo(asyncio.run(commands.plan(database.connect, tables, directory, annotate=True)))
        for hint in asyncio.run(index_hints(database.connect, tables)):
            click.echo(f"-- hint: {hint}")


@click.command()
@CONFIG
@DATABASE_URL
@click.option("--sync", is_flag=True, help="Then do any additive difference that is left.")
def migrate(config: Path, database_url: str | None, sync: bool) -> None:
    """Apply the revisions of the migrations directory."""
    configuration = load_configuration(config, database_url, sections=DATABASE_SECTIONS)
    with open_database(configuration) as (url, _):
        tables, database = tables_and_database(configuration, url)
        steps = migration_steps(tables, configuration.settings)

        async def apply() -> Migration:
            await check_engine(database.connect, tables)
            return await commands.migrate(
                database.connect, tables, configuration.settings.database.migrations, sync=sync, steps=steps
            )

        done = asyncio.run(apply())
        for line in (*(f"-- revision applied: {name}" for name in done.revisions), *map(str, done.statements)):
            click.echo(line)
        if done.left:
            click.echo("-- left to do:\n" + "\n".join(map(str, done.left)))
            if done.advice:
                click.echo(f"-- To do it, {done.advice}.")
        elif not (done.revisions or done.statements):
            click.echo("-- The database is in line with the config.")


@click.command()
@CONFIG
@DATABASE_URL
@click.option("-m", "--message", required=True, help="What the revision does, in a few words.")
@click.option("--empty", is_flag=True, help="A revision without steps, to be written by hand.")
@click.option(
    "--drop",
    multiple=True,
    metavar="NAME",
    help="Also drop what is not in the config: table.column, a table, or table.constraint. May be repeated.",
)
def makemigrations(config: Path, database_url: str | None, message: str, empty: bool, drop: tuple[str, ...]) -> None:
    """Write a revision with everything between database and config, destructive steps included.

    What the config merely does not name is kept.
    """
    configuration = load_configuration(config, database_url, sections=DATABASE_SECTIONS)
    with open_database(configuration) as (url, _):
        tables, database = tables_and_database(configuration, url)
        directory = configuration.settings.database.migrations
        revision = asyncio.run(
            commands.makemigrations(database.connect, tables, directory, message, empty=empty, drop=drop)
        )
        for line in (*(f"-- {loss}" for loss in revision.drops), revision.path):
            click.echo(line)
