"""``rowcast serve`` and ``rowcast check``."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from contextlib import suppress
from functools import partial
from pathlib import Path

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
from rowcast.configuration.load import Configuration, read
from rowcast.configuration.settings import Server
from rowcast.errors import ConfigurationError
from rowcast.server.admin import admin_listener
from rowcast.server.app import create_app
from rowcast.server.checking import check_configuration
from rowcast.server.http import Runner, tune_garbage_collector
from rowcast.server.prepare import prepare
from rowcast.server.reload import Reloader, Source
from rowcast.server.running import Record, announced, terminal_watch
from rowcast.server.workers import run as run_workers
from rowcast.tasks import spawn


@click.command()
@CONFIG
@DATABASE_URL
@click.option("--host", help="The address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="The port to listen on; 0 picks a free one.  [default: 8000]")
@click.option("--workers", type=int, help="How many processes share the port.  [default: 1]")
@click.option("--migrate", is_flag=True, help="Make the database's schema match the config first.")
def serve(
    config: Path, database_url: str | None, host: str | None, port: int | None, workers: int | None, migrate: bool
) -> None:
    """Serve the resources until SIGTERM or SIGINT. SIGHUP, or `rowcast reload`, applies a changed config."""
    with suppress(ValueError):  # a thread that is not the main one, in which nothing is served
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the service can reload
    read = partial(load_configuration, config, database_url, host=host, port=port, workers=workers)
    configuration = read()
    server = configuration.settings.server
    _check_address(server)
    with (
        admin_listener(server) as admin,
        open_database(configuration, exclusive=True) as (url, embedded),
        announced(configuration) as record,
    ):
        migrates = migrate or embedded
        if admin is not None:
            click.echo(f"Metrics are on {admin.url}")

        def make(configuration: Configuration, once: bool) -> web.Application:
            database, now = configuration.settings.database.url or url, once or server.workers == 1
            return create_app(configuration, database, migrate=migrates and now, once=once, admin=admin)

        source = Source(read, make)
        if server.workers == 1:
            uvloop.run(_serve(configuration, source, record))
        else:
            if migrates:
                asyncio.run(prepare(configuration, *tables_and_database(configuration, url), migrate=True))
            run_workers(configuration, source, record)


@click.command()
@CONFIG
def check(config: Path) -> None:
    """Validate a config directory, with the Python that it names, without a database."""
    found = read(config, environ=os.environ, sections=())
    for line in check_configuration(found):
        click.echo(line)
    click.echo(f"{config}: {len(found.configuration.resources)} resources, no problems.")


def _check_address(server: Server) -> None:
    """Raise ``ConfigurationError`` if ``serve`` cannot listen at its address, before a database is started."""
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
        raise ConfigurationError(message) from error


async def _set_up(configuration: Configuration, source: Source) -> Runner:
    runner = Runner(source.make(configuration, False), configuration.settings.server)
    await runner.setup()
    return runner


async def _serve(configuration: Configuration, source: Source, record: Record) -> None:
    """Serve with this process alone, until a signal."""
    server = configuration.settings.server
    runner = await asyncio.create_task(_set_up(configuration, source))  # in a context of its own
    reloader = Reloader(runner, configuration, source, record.note)
    ended, hung_up = asyncio.Event(), terminal_watch()

    def end() -> None:
        if ended.is_set():
            runner.hurry()
        ended.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, lambda: end() if hung_up() else reloader.request())
    reloading = spawn(reloader.run(), "reload")
    try:
        await web.TCPSite(runner, server.host, server.port).start()
        stopping, started = asyncio.create_task(ended.wait()), asyncio.create_task(reloader.started())
        await asyncio.wait([started, stopping], return_when=asyncio.FIRST_COMPLETED)
        if started.done():
            started.result()
            tune_garbage_collector()
            host, port = runner.addresses[0][:2]
            click.echo(f"Rowcast is ready on http://{f'[{host}]' if ':' in host else host}:{port}")
        started.cancel()
        await stopping
    finally:
        await cancel([reloading])
        await runner.cleanup()
