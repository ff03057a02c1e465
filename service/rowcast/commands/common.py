"""What the commands share: their options, the configuration, and the database."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from rowcast.configuration.load import Configuration, load
from rowcast.database.pool import Database
from rowcast.resources.tables import Tables

CONFIG: Final = click.option(
    "--config", type=click.Path(path_type=Path), envvar="ROWCAST_CONFIG", default=Path("config"), show_default=True,
    help="The config directory.",
)  # fmt: skip
DATABASE_URL: Final = click.option(
    "--database-url", help="A PostgreSQL to use, as postgresql://user@host/name.  [default: DATABASE_URL, or embedded]"
)

_UPSTREAM: Final = re.compile(r"https?://[^/?#\s@]+(/[^?#\s]*)?")


def _check_upstream(_context: click.Context, _option: click.Parameter, url: str | None) -> str | None:
    if url is not None and not _UPSTREAM.fullmatch(url):
        raise click.UsageError("--upstream must be a URL such as https://api.example.com, without user and query.")
    return url


def upstream(*, required: bool, text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option for the URL of an edge's origin."""
    return click.option(
        "--upstream", metavar="URL", envvar="ROWCAST_UPSTREAM", required=required, help=text, callback=_check_upstream
    )


DATABASE_SECTIONS: Final = ("database", "stream")
"""The sections of ``service.yaml`` that a command needs which uses the database and serves nobody."""


def load_configuration(
    config: Path,
    database_url: str | None,
    *,
    sections: Collection[str] | None = None,
    may_be_empty: bool = False,
    **server: object,
) -> Configuration:
    """The configuration, with the options of the command line on top; ``server`` are those of the section of this name.

    ``sections`` are those of ``service.yaml`` whose secrets the command needs; by default all. With ``may_be_empty`` there may
    be no resource yet.
    """
    overrides = {f"server.{name}": value for name, value in server.items()}
    overrides["database.url"] = database_url
    return load(config, environ=os.environ, overrides=overrides, sections=sections, may_be_empty=may_be_empty)


@contextmanager
def open_database(configuration: Configuration, *, exclusive: bool = False) -> Iterator[tuple[str, bool]]:
    """The URL of the database, and whether it is an embedded one, which runs inside the context.

    It is the one that another process runs, or else this process runs it; an ``exclusive`` one is this process's own.
    """
    settings = configuration.settings.database
    if settings.url is not None:
        yield settings.url, False
        return
    from rowcast.database.embedded import EmbeddedPostgres, shared_server

    if exclusive:
        with EmbeddedPostgres(settings.data) as server:
            yield server.url, True
    else:
        with shared_server(settings.data) as url:
            yield url, True


def tables_and_database(configuration: Configuration, url: str) -> tuple[Tables, Database]:
    """The tables of a configuration, and the database at a URL."""
    tables, settings = Tables(configuration.resources), configuration.settings.database
    database = Database(
        url, tables.guards, direct_url=settings.direct_url, prepared_statements=settings.prepared_statements
    )
    return tables, database
