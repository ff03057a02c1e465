"""``rowcast serve`` and ``rowcast check``."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import uvloop
from aiohttp import web

from rowcast.changes.connection import cancel
from rowcast.commands.common import (
    CONFIG,
    DATABASE_URL,
    load_configuration,
    open_database,
    tables_and_database,
)
from rowcast.configuration.load import Configuration
from rowcast.configuration.load import read as read_files
from rowcast.configuration.settings import Server
from rowcast.errors import ConfigurationError
from rowcast.garbage import keep_pauses_short, kept
from rowcast.server.app import create_app
from rowcast.server.debug import DebugRefused, check_debug, in_debug
from rowcast.server.http import Runner
from rowcast.server.log_entries import set_level
from rowcast.server.modules import forget_modules
from rowcast.server.prepare import prepare
from rowcast.server.reload import Reloader, Source, log_outcome
from rowcast.server.running import Outcome, Record, announced, now, terminal_watch
from rowcast.server.telemetry import find_traces
from rowcast.tasks import spawn

if TYPE_CHECKING:
    from rowcast.server.admin import Admin
    from rowcast.server.watch import Files

HOST: Final = click.option("--host", help="The address to listen on.  [default: 127.0.0.1]")
PORT: Final = click.option("--port", type=int, help="The port to listen on; 0 picks a free one.  [default: 8000]")
WORKERS: Final = click.option("--workers", type=int, help="How many processes share the port.  [default: 1]")


@click.command()
@CONFIG
@DATABASE_URL
@HOST
@PORT
@WORKERS
@click.option("--migrate", is_flag=True, help="Make the database's schema match the config first.")
@click.option("--reload", is_flag=True, help="For development: apply each change of a file at once; sets server.debug.")
@click.option("--insecure-debug", is_flag=True, help="Allow server.debug where others can reach the service.")
def serve(
    config: Path,
    database_url: str | None,
    host: str | None,
    port: int | None,
    workers: int | None,
    migrate: bool,
    reload: bool,
    insecure_debug: bool,
) -> None:
    """Serve the resources until SIGTERM or SIGINT. SIGHUP, or `rowcast reload`, applies a changed config."""
    ignore_hangup()
    if reload and workers not in (None, 1):
        raise click.UsageError("--reload serves with one process: leave out --workers.")
    number = 1 if reload else workers

    def read() -> Configuration:
        configuration = load_configuration(config, database_url, host=host, port=port, workers=number)
        switch = f"{configuration.files[''].location(('server', 'debug'))}: debug"
        if reload:
            configuration, switch = in_debug(configuration), "--reload"
        if configuration.settings.server.debug and not insecure_debug:
            check_debug(configuration, switch)
        return configuration

    if reload:
        _serve_and_watch(read, config, migrate=migrate)
    else:
        _serve_from(read, None, migrate=migrate)


def ignore_hangup() -> None:
    """Let SIGHUP do nothing until the service can reload."""
    with suppress(ValueError):  # a thread that is not the main one, in which nothing is served
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _serve_and_watch(read: Callable[[], Configuration], config: Path, *, migrate: bool) -> None:
    """Serve until a signal; while the configuration cannot be served, wait until its files change."""
    from rowcast.server.watch import files_of, wait_for_change

    while True:
        files = files_of(config)
        try:
            return _serve_from(read, files, migrate=migrate)
        except ConfigurationError as error:
            if isinstance(error, _AddressError | DebugRefused) or not config.is_dir():
                raise
            click.echo(f"{error}\nWaiting for a change in {config}.", err=True)
        wait_for_change(config, files)
        forget_modules(config)


def _serve_from(read: Callable[[], Configuration], files: Files | None, *, migrate: bool) -> None:
    """Serve until a signal, beginning with the configuration that is read now; with ``files``, which follows changes."""
    with kept():
        configuration = read()
    server = configuration.settings.server
    set_level(configuration.settings.log.level)
    check_address(server)
    with (
        open_admin(server) as admin,
        open_database(configuration, exclusive=True) as (url, embedded),
        announced(configuration) as record,
    ):
        migrates = migrate or embedded
        metrics = None if admin is None else admin.metrics

        def make(configuration: Configuration, once: bool) -> web.Application:
            database, now = configuration.settings.database.url or url, once or server.workers == 1
            return create_app(
                configuration, database, migrate=migrates and now, once=once, metrics=metrics, find_traces=find_traces
            )

        if migrates and server.workers > 1:
            asyncio.run(prepare(configuration, *tables_and_database(configuration, url), migrate=True))
        run(configuration, Source(read, make), record, admin, files)


def run(
    configuration: Configuration, source: Source, record: Record, admin: Admin | None, files: Files | None = None
) -> None:
    """Serve what ``source`` makes until a signal, with as many processes as the settings say."""
    if admin is not None:
        click.echo(f"Metrics are on {admin.url}")
    if configuration.settings.server.workers == 1:
        uvloop.run(_with_metrics(admin, _serve(configuration, source, record, files)))
        return
    from rowcast.server.workers import run as run_workers

    run_workers(configuration, source, record, admin)


@click.command()
@CONFIG
def check(config: Path) -> None:
    """Validate a config directory, with the Python that it names, without a database."""
    from rowcast.server.checking import check_configuration

    found = read_files(config, environ=os.environ, sections=())
    for line in check_configuration(found):
        click.echo(line)
    count = len(found.configuration.resources)
    click.echo(f"{config}: {count} resource{'' if count == 1 else 's'}, no problems.")


def open_admin(server: Server) -> AbstractContextManager[Admin | None]:
    """The address for operators; without one its library is not loaded."""
    if server.admin is None:
        return nullcontext()
    from rowcast.server.admin import admin

    return admin(server)


async def _with_metrics(admin: Admin | None, work: Awaitable[None]) -> None:
    """Do some work, and serve the metrics meanwhile, if there are any."""
    async with nullcontext() if admin is None else admin.serving():
        await work


class _AddressError(ConfigurationError):
    """The address cannot be listened on, which no change of a file may be expected to put right."""


def check_address(server: Server) -> None:
    """Raise ``_AddressError`` if ``serve`` cannot listen at its address, before a database is started."""
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    try:
        socket.create_server((server.host, server.port), family=family).close()
    except (OSError, UnicodeError) as error:
        if isinstance(error, UnicodeError):
            message = f"server.host is not a name or an address: {server.host!r}"
        elif error.errno == errno.EADDRINUSE:
            message = f"port {server.port} of {server.host} is taken; --port names another one"
        else:
            message = f"cannot listen on port {server.port} of {server.host}: {error.strerror}"
        raise _AddressError(message) from error


async def _set_up(configuration: Configuration, source: Source) -> Runner:
    with kept():
        runner = Runner(source.make(configuration, False), configuration.settings.server)
    await runner.setup()
    return runner


async def _serve(configuration: Configuration, source: Source, record: Record, files: Files | None) -> None:
    """Serve with this process alone, until a signal; with ``files``, reload when those of the config are other ones."""
    server = configuration.settings.server
    runner = await asyncio.create_task(_set_up(configuration, source))  # in a context of its own
    reloader = Reloader(runner, configuration, source, _Reporter(record, files is not None), retries=files is not None)
    ended, hung_up = asyncio.Event(), terminal_watch()

    def end() -> None:
        if ended.is_set():
            runner.hurry()
        ended.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, lambda: end() if hung_up() else reloader.request())
    tasks = [spawn(reloader.run(), "reload")]
    if files is not None:
        tasks += _watching(configuration, files, reloader.request)
    try:
        await web.TCPSite(runner, server.host, server.port).start()
        stopping, started = asyncio.create_task(ended.wait()), asyncio.create_task(reloader.started())
        await asyncio.wait([started, stopping], return_when=asyncio.FIRST_COMPLETED)
        if started.done():
            started.result()
            keep_pauses_short()
            host, port = runner.addresses[0][:2]
            click.echo(f"Rowcast is ready on http://{f'[{host}]' if ':' in host else host}:{port}")
        started.cancel()
        await stopping
    finally:
        await cancel(tasks)
        await runner.cleanup()


def _watching(configuration: Configuration, files: Files, changed: Callable[[], None]) -> list[asyncio.Task[None]]:
    """Tasks that call a function for each change of the config's files, from ``files`` on, and of its revisions, from now on."""
    from rowcast.server.watch import files_of, watch

    known = {configuration.directory: files}
    if (migrations := configuration.settings.database.migrations).is_dir():
        known[migrations] = files_of(migrations)
    return [spawn(watch(directory, found, changed), f"watching {directory}") for directory, found in known.items()]


class _Reporter:
    """Reports the outcomes of reloads: to who waits for them, and in the log or, for development, as lines."""

    def __init__(self, record: Record, plainly: bool) -> None:
        self._record = record
        self._plainly = plainly
        self._reported: tuple[str, ...] | None = None

    def __call__(self, outcome: Outcome) -> None:
        self._record.note(outcome)
        if not self._plainly:
            log_outcome(outcome)
        elif not outcome.problems:
            click.echo(f"Reloaded in {now() - outcome.began:.2f} s.", err=True)
        elif outcome.problems != self._reported:  # those of a database are found again and again
            click.echo("\n".join((*outcome.problems, "The last good config goes on.")), err=True)
        self._reported = outcome.problems
