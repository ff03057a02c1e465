"""``rowcast doctor``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from rowcast.commands.common import (
    CONFIG,
    DATABASE_SECTIONS,
    DATABASE_URL,
    load_configuration,
    open_database,
    tables_and_database,
    upstream,
)
from rowcast.server.doctor import Finding, examine, examine_relay, examine_requests
from rowcast.server.edge_doctor import examine_edge
from rowcast.server.replica_doctor import examine_replicas


@click.command()
@CONFIG
@DATABASE_URL
@upstream(required=False, text="Check an edge of this origin, which needs no database.")
def doctor(config: Path, database_url: str | None, upstream: str | None) -> None:
    """Check whether changes are delivered, and what prevents it; exits 1 if something is wrong."""
    if upstream is None:
        found = _examine_service(config, database_url)
    elif database_url is None:
        found = _examine_edge(config, upstream)
    else:
        raise click.UsageError("--database-url is for a service, and --upstream for an edge, which has no database.")
    for finding in found:
        click.echo(
            f"{'WRONG' if finding.wrong else 'hint' if finding.hint else 'ok':6}{finding.about:11}{finding.message}"
        )
    if any(finding.wrong for finding in found):
        sys.exit(1)


def _examine_service(config: Path, database_url: str | None) -> list[Finding]:
    configuration = load_configuration(config, database_url, sections=DATABASE_SECTIONS)
    with open_database(configuration) as (url, _):
        tables, database = tables_and_database(configuration, url)
        settings = configuration.settings

        async def examine_all() -> list[Finding]:
            found = await examine(database.connect, tables, settings.database.migrations, settings.stream)
            away = any(finding.about == "database" and finding.wrong for finding in found)
            if not away:
                found += await examine_requests(database)
                found += await examine_replicas(settings.database, tables, database.connect)
            return found if settings.stream.relay is None else [*found, *await examine_relay(settings.stream.relay)]

        return asyncio.run(examine_all())


def _examine_edge(config: Path, url: str) -> list[Finding]:
    configuration = load_configuration(config, None)
    return asyncio.run(examine_edge(configuration, url))
