"""``rowcast serve`` and ``rowcast check``."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from pathlib import Path

import click
import uvloop
from aiohttp import web

from rowcast.commands.common import (
    CONFIG,
    DATABASE_URL,
    load_configuration,
    open_database,
    tables_and_database,
)
from rowcast.configuration.load import Configuration
from rowcast.configuration.settings import Server
from rowcast.errors import ConfigurationError
from rowcast.rest.plan import SERVICE
from rowcast.server.admin import AdminListener, admin_listener
from rowcast.server.app import create_app
from rowcast.server.hosts import missing_names
from rowcast.server.http import Runner, tune_garbage_collector
from rowcast.server.lifecycle import STARTED
from rowcast.server.missing_scopes import missing_scopes
from rowcast.server.policies import UNSCOPED_STREAMS, check_streams
from rowcast.server.prepare import prepare
from rowcast.server.routes import overridden_by_config
from rowcast.server.workers import run as run_workers


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
    """Serve the resources until SIGTERM or SIGINT."""
    configuration = load_configuration(config, database_url, host=host, port=port, workers=workers)
    _check_address(configuration.settings.server)
    with (
        admin_listener(configuration.settings.server) as admin,
        open_database(configuration, exclusive=True) as (url, embedded),
    ):
        if admin is not None:
            click.echo(f"Metrics are on {admin.url}")
        if configuration.settings.server.workers == 1:
            uvloop.run(_serve(configuration, url, migrate=migrate or embedded, admin=admin))
        else:
            if migrate or embedded:
                asyncio.run(prepare(configuration, *tables_and_database(configuration, url), migrate=True))
            run_workers(configuration.settings.server, lambda: create_app(configuration, url, admin=admin))


@click.command()
@CONFIG
def check(config: Path) -> None:
    """Validate a config directory, with the Python that it names, without a database."""
    found = load_configuration(config, None)
    app = create_app(found, "postgresql://")  # connected to when it runs
    check_streams(found, app[UNSCOPED_STREAMS])
    service = app[SERVICE]
    for line in (*overridden_by_config(found, service), *missing_scopes(found, service), *missing_names(found)):
        click.echo(line)
    click.echo(f"{config}: {len(found.resources)} resources, no problems.")


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


async def _serve(configuration: Configuration, url: str, *, migrate: bool, admin: AdminListener | None) -> None:
    """Serve with this process alone, until a signal."""
    server = configuration.settings.server
    app = create_app(configuration, url, migrate=migrate, admin=admin)
    runner = Runner(app, server)
    await runner.setup()
    ended = asyncio.Event()

    def end() -> None:
        if ended.is_set():
            runner.hurry()
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)
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
