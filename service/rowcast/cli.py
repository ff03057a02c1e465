"""The command line: ``rowcast serve · check · plan · migrate · makemigrations · token · doctor · version``."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import asyncpg
import click
import structlog
import uvloop
from aiohttp import web

from rowcast import __version__
from rowcast.changes.install import install
from rowcast.configuration import value_types
from rowcast.configuration.load import Configuration, load
from rowcast.configuration.settings import Server
from rowcast.database.errors import UNREACHABLE
from rowcast.database.pool import Database
from rowcast.errors import ConfigurationError
from rowcast.identity import tokens
from rowcast.migrations import commands
from rowcast.resources.tables import Tables
from rowcast.rest.plan import SERVICE
from rowcast.server import doctor
from rowcast.server.app import create_app
from rowcast.server.http import Runner, tune_garbage_collector
from rowcast.server.lifecycle import STARTED
from rowcast.server.prepare import migration_steps, prepare
from rowcast.server.routes import overridden_by_config
from rowcast.server.workers import run as run_workers

T = TypeVar("T")
LONGEST = 36_500 * 86_400  # s that a token may live


class _Lifetime(click.ParamType[float]):
    """A duration as in settings, in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = value_types.duration_in_seconds(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not 0 < seconds <= LONGEST:
            self.fail("must be more than nothing and at most 36500d", param, ctx)
        return seconds


LIFETIME = _Lifetime()
CONFIG = click.option(
    "--config", type=click.Path(path_type=Path), envvar="ROWCAST_CONFIG", default=Path("config"), show_default=True,
    help="The config directory.",
)  # fmt: skip
DATABASE_URL = click.option(
    "--database-url", help="A PostgreSQL to use, as postgresql://user@host/name.  [default: DATABASE_URL, or embedded]"
)


def told(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command that says what is wrong with config or database on standard error, and exits 1."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except ConfigurationError as error:
            click.echo(str(error), err=True)
            sys.exit(1)
        except UNREACHABLE as error:
            click.echo(f"The database cannot be reached: {error}", err=True)
            sys.exit(1)

    return run


@click.group()
def main() -> None:
    """Serve REST resources and a live stream of their changes, as a config directory declares them."""
    plain = structlog.dev.plain_traceback  # without local variables, among which credentials may be
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if sys.stderr.isatty():
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=plain)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            *([] if sys.stderr.isatty() else [structlog.processors.format_exc_info]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


@main.command()
@CONFIG
@DATABASE_URL
@click.option("--host", help="The address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="The port to listen on; 0 picks a free one.  [default: 8000]")
@click.option("--workers", type=int, help="How many processes share the port.  [default: 1]")
@click.option("--migrate", is_flag=True, help="Bring the database's schema in line with the config first.")
@told
def serve(
    config: Path, database_url: str | None, host: str | None, port: int | None, workers: int | None, migrate: bool
) -> None:
    """Serve the resources until SIGTERM or SIGINT."""
    configuration = _load(config, database_url, host=host, port=port, workers=workers)
    _check_address(configuration.settings.server)
    with _database(configuration) as (url, embedded):
        if configuration.settings.server.workers == 1:
            uvloop.run(_serve(configuration, url, migrate=migrate or embedded))
        else:
            if migrate or embedded:
                asyncio.run(prepare(configuration, *_tables(configuration, url), migrate=True))
            run_workers(configuration.settings.server, lambda: create_app(configuration, url))


@main.command()
@CONFIG
@told
def check(config: Path) -> None:
    """Validate a config directory, with the Python that it names, without a database."""
    found = _load(config, None)
    app = create_app(found, "postgresql://")  # which is asked once it runs
    for line in overridden_by_config(found, app[SERVICE]):
        click.echo(line)
    click.echo(f"{config}: {len(found.resources)} resources, no problems.")


@main.command()
@CONFIG
@DATABASE_URL
@told
def plan(config: Path, database_url: str | None) -> None:
    """Print the DDL between config and database."""
    configuration = _load(config, database_url)
    with _database(configuration) as (url, _):
        tables, database = _tables(configuration, url)
        click.echo(asyncio.run(commands.plan(database.connect, tables, configuration.settings.database.migrations)))


@main.command()
@CONFIG
@DATABASE_URL
@click.option("--sync", is_flag=True, help="Then do any additive difference that is left.")
@told
def migrate(config: Path, database_url: str | None, sync: bool) -> None:
    """Apply the revisions of the migrations directory."""
    configuration = _load(config, database_url)
    with _database(configuration) as (url, _):
        tables, database = _tables(configuration, url)
        before, after = migration_steps(tables, configuration.settings)
        done = asyncio.run(
            commands.migrate(
                database.connect, tables, configuration.settings.database.migrations,
                sync=sync, before=before, after=after,
            )
        )  # fmt: skip
        for line in (*(f"-- revision applied: {name}" for name in done.revisions), *map(str, done.statements)):
            click.echo(line)
        if done.left:
            click.echo("-- left to do:\n" + "\n".join(map(str, done.left)))
        elif not (done.revisions or done.statements):
            click.echo("-- The database is in line with the config.")


@main.command()
@CONFIG
@DATABASE_URL
@click.option("-m", "--message", required=True, help="What the revision does, in a few words.")
@click.option("--empty", is_flag=True, help="A revision without steps, to be written by hand.")
@told
def makemigrations(config: Path, database_url: str | None, message: str, empty: bool) -> None:
    """Write a revision with everything between database and config, destructive steps included."""
    configuration = _load(config, database_url)
    with _database(configuration) as (url, _):
        tables, database = _tables(configuration, url)
        directory = configuration.settings.database.migrations
        click.echo(asyncio.run(commands.makemigrations(database.connect, tables, directory, message, empty=empty)))


@main.group()
def token() -> None:
    """Make, list and revoke the tokens that callers identify themselves with."""


@token.command("create")
@CONFIG
@DATABASE_URL
@click.argument("user")
@click.option("--staff", is_flag=True, help="The user is staff, which IsAdminUser asks for.")
@click.option("--expires", type=LIFETIME, metavar="TIME", help="The time after which it is worthless, such as 30d.")
@told
def create_token(config: Path, database_url: str | None, user: str, staff: bool, expires: float | None) -> None:
    """Make a token for USER, and print it this one time."""
    if not user or not user.isprintable():
        raise click.BadParameter("must be the id of a user, in printable characters", param_hint="USER")

    async def create(connection: asyncpg.Connection) -> str:
        return await tokens.create_token(connection, user, staff=staff, lifetime=expires)

    click.echo(_with_tokens(config, database_url, create))


@token.command("list")
@CONFIG
@DATABASE_URL
@told
def list_tokens(config: Path, database_url: str | None) -> None:
    """List the tokens, without what they say."""
    found = _with_tokens(config, database_url, tokens.list_tokens)
    rows: list[tuple[str, ...]] = [("ID", "USER", "STAFF", "CREATED", "EXPIRES", "REVOKED")]
    for each in found:
        times = (each.created_at, each.expires_at, each.revoked_at)
        told_times = ("-" if time is None else f"{time:%Y-%m-%dT%H:%M:%SZ}" for time in times)
        rows.append((str(each.id), each.user_id, "yes" if each.is_staff else "no", *told_times))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@token.command("revoke")
@CONFIG
@DATABASE_URL
@click.argument("id", type=click.IntRange(1, 2**63 - 1))
@told
def revoke_token(config: Path, database_url: str | None, id: int) -> None:
    """Make the token with this ID, which `token list` shows, worthless."""

    async def revoke(connection: asyncpg.Connection) -> bool:
        return await tokens.revoke_token(connection, id)

    if not _with_tokens(config, database_url, revoke):
        raise ConfigurationError(f"there is no token {id}: `rowcast token list` shows which there are")
    click.echo(f"Token {id} is revoked.")


@main.command("doctor")
@CONFIG
@DATABASE_URL
@told
def examine(config: Path, database_url: str | None) -> None:
    """See whether changes are told, and what is in their way; exits 1 when something is wrong."""
    configuration = _load(config, database_url)
    with _database(configuration, shared=True) as (url, _):
        tables, database = _tables(configuration, url)
        settings = configuration.settings
        found = asyncio.run(doctor.examine(database.connect, tables, settings.database.migrations, settings.stream))
    for finding in found:
        click.echo(f"{'WRONG' if finding.wrong else 'ok':6}{finding.about:11}{finding.told}")
    if any(finding.wrong for finding in found):
        sys.exit(1)


@main.command()
def version() -> None:
    """Print the version."""
    click.echo(f"rowcast {__version__}")


def _load(config: Path, database_url: str | None, **server: object) -> Configuration:
    """The configuration under the options of the command line, of which those of ``server.`` come by name."""
    overrides = {f"server.{name}": value for name, value in server.items()}
    return load(config, environ=os.environ, overrides={**overrides, "database.url": database_url})


@contextmanager
def _database(configuration: Configuration, *, shared: bool = False) -> Iterator[tuple[str, bool]]:
    """The URL of the database, and whether it is an embedded one, which runs inside the context.

    If it is ``shared`` it may be one that another process runs.
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


def _with_tokens(config: Path, database_url: str | None, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
    """The result of ``work`` on the database, which a service may be using."""
    configuration = _load(config, database_url)

    async def run() -> T:
        try:
            connection = await asyncpg.connect(url, timeout=10)
            try:
                if embedded:
                    await install(connection)
                return await work(connection)
            finally:
                await connection.close()
        except asyncpg.UndefinedTableError:
            raise ConfigurationError("this database has no tokens yet: run `rowcast migrate` first") from None

    with _database(configuration, shared=True) as (url, embedded):
        return asyncio.run(run())


def _tables(configuration: Configuration, url: str) -> tuple[Tables, Database]:
    tables = Tables(configuration.resources)
    return tables, Database(url, tables.guards)


def _check_address(server: Server) -> None:
    """``ConfigurationError`` says why nobody can listen where ``serve`` will, before a database is started for it."""
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    try:
        socket.create_server((server.host, server.port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            told = f"port {server.port} of {server.host} is taken; --port names another one"
        else:
            told = f"cannot listen on port {server.port} of {server.host}: {error.strerror}"
        raise ConfigurationError(told) from error


async def _serve(configuration: Configuration, url: str, *, migrate: bool) -> None:
    """Serve with this process alone until a signal."""
    server = configuration.settings.server
    app = create_app(configuration, url, migrate=migrate)
    runner = Runner(app, server)
    await runner.setup()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    try:
        await web.TCPSite(runner, server.host, server.port).start()
        stopping = asyncio.create_task(ended.wait())
        await asyncio.wait([app[STARTED], stopping], return_when=asyncio.FIRST_COMPLETED)
        if app[STARTED].done():
            app[STARTED].result()
            tune_garbage_collector()
            host, port = runner.addresses[0][:2]
            click.echo(f"Rowcast is ready on http://{f'[{host}]' if ':' in host else host}:{port}")
        await stopping
    finally:
        await runner.cleanup()
