"""What the commands share: their options, the configuration, the database, and errors as lines on standard error."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click

from rowcast.commands.logs import configure_logs
from rowcast.configuration.load import Configuration, load
from rowcast.database.errors import UNREACHABLE
from rowcast.database.pool import Database
from rowcast.errors import ConfigurationError
from rowcast.resources.tables import Tables

CONFIG: Final = click.option(
    "--config", type=click.Path(path_type=Path), envvar="ROWCAST_CONFIG", default=Path("config"), show_default=True,
    help="The config directory.",
)  # fmt: skip
DATABASE_URL: Final = click.option(
    "--database-url", help="A PostgreSQL to use, as postgresql://user@host/name.  [default: DATABASE_URL, or embedded]"
)


def reports_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command that prints errors of config and database on standard error, and exits 1."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        configure_logs()
        try:
            command(*args, **kwargs)
        except ConfigurationError as error:
            click.echo(str(error), err=True)
            sys.exit(1)
        except UNREACHABLE as error:
            click.echo(f"The database cannot be reached: {error}", err=True)
            sys.exit(1)

    return run


def load_configuration(config: Path, database_url: str | None, **server: object) -> Configuration:
    """The configuration, with the options of the command line on top; ``server`` are those of the section of this name."""
    overrides = {f"server.{name}": value for name, value in server.items()}
    return load(config, environ=os.environ, overrides={**overrides, "database.url": database_url})


@contextmanager
def open_database(configuration: Configuration, *, shared: bool = False) -> Iterator[tuple[str, bool]]:
    """The URL of the database, and whether it is an embedded one, which runs inside the context.

    A ``shared`` one may be run by another process.
    """
    if configuration.settings.database.url is not None:
        yield configuration.settings.database.url, False
        return
    from rowcast.database.embedded import EmbeddedPostgres  # its binaries are an optional part of an installation

    if shared and (running := _running(configuration.settings.database.data)) is not None:
        yield running, True
        return
    with EmbeddedPostgres(configuration.settings.database.data) as server:
        yield server.url, True


def tables_and_database(configuration: Configuration, url: str) -> tuple[Tables, Database]:
    """The tables of a configuration, and the database at a URL."""
    tables = Tables(configuration.resources)
    return tables, Database(url, tables.guards)


def _running(data: Path) -> str | None:
    """The URL of the embedded database that another process runs in a directory; ``None`` if none does."""
    from rowcast.database.embedded import NAME, PORT, ROLE

    directory = (data / "run").resolve()
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(directory / f".s.PGSQL.{PORT}"))
        except OSError:
            return None
    return f"postgresql://{ROLE}@/{NAME}?host={quote(str(directory))}&port={PORT}"
