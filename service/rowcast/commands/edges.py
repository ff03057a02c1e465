"""``rowcast edge``"""

from __future__ import annotations

from pathlib import Path

import click
from aiohttp import web

from rowcast.commands.common import CONFIG, load_configuration, upstream
from rowcast.commands.serving import HOST, PORT, WORKERS, check_address, ignore_hangup, open_admin, run
from rowcast.configuration.load import Configuration
from rowcast.garbage import kept
from rowcast.server.debug import check_debug
from rowcast.server.edge import create_edge
from rowcast.server.log_entries import set_level
from rowcast.server.reload import Source
from rowcast.server.running import announced
from rowcast.server.telemetry import find_traces


@click.command()
@CONFIG
@upstream(required=True, text="The origin: a service with this config, and with a database.")
@HOST
@PORT
@WORKERS
def edge(config: Path, upstream: str, host: str | None, port: int | None, workers: int | None) -> None:
    """Hold the streams of another service, the origin, without a database connection, until SIGTERM or SIGINT.

    Streams that data alone decide about are sent from here. Everything else is passed on to the origin.
    """
    ignore_hangup()

    def read() -> Configuration:
        configuration = load_configuration(config, None, host=host, port=port, workers=workers)
        if configuration.settings.server.debug:
            check_debug(configuration, f"{configuration.files[''].location(('server', 'debug'))}: debug")
        return configuration

    with kept():
        configuration = read()
    server = configuration.settings.server
    set_level(configuration.settings.log.level)
    check_address(server)
    with open_admin(server) as admin, announced(configuration) as record:
        metrics = None if admin is None else admin.metrics

        def make(configuration: Configuration, once: bool) -> web.Application:
            return create_edge(configuration, upstream, once=once, metrics=metrics, find_traces=find_traces)

        run(configuration, Source(read, make), record, admin)
