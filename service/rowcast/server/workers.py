"""Several processes for one address: gunicorn forks, watches and restarts them; each is a whole service by itself."""

from __future__ import annotations

import asyncio
import math
import os
import sys
from collections.abc import Callable
from threading import Thread
from typing import Any

import click
from aiohttp import web
from aiohttp.worker import GunicornUVLoopWebWorker
from gunicorn.app.base import BaseApplication

from rowcast.configuration.settings import Server
from rowcast.server.http import Runner, tune_garbage_collector
from rowcast.server.lifecycle import STARTED

READY = b"+"


def run(server: Server, make_app: Callable[[], web.Application]) -> None:
    """Serve with ``server.workers`` processes until a signal; exits the process.

    ``make_app`` runs in each of them. The line that reports the service as ready is printed once, when all of them are.
    """
    _Workers(server, make_app).run()


class _Worker(GunicornUVLoopWebWorker):
    """A worker that stops at once when it has to; otherwise it would notice within a second."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.handle_quit(sig, frame)


class _Workers(BaseApplication):  # type: ignore[misc]
    """gunicorn, configured by our settings instead of its own."""

    def __init__(self, server: Server, make_app: Callable[[], web.Application]) -> None:
        self._server = server
        self._make_app = make_app
        self._ready_in, self._ready_out = os.pipe()
        super().__init__()

    def load_config(self) -> None:
        host = f"[{self._server.host}]" if ":" in self._server.host else self._server.host
        options = {
            "bind": f"{host}:{self._server.port}",
            "workers": self._server.workers,
            "worker_class": _Worker,
            "graceful_timeout": max(1, math.ceil(self._server.shutdown_delay + self._server.shutdown_grace)),
            "loglevel": "warning",
            "when_ready": self._announce,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Callable[[], Any]:
        return self._runner

    async def _runner(self) -> Runner:
        """In a worker: its application, which reports to the parent when it is ready, and ends the worker if it cannot start."""
        app = self._make_app()

        def report(starting: asyncio.Task[None]) -> None:
            if starting.cancelled():
                return
            if error := starting.exception():
                click.echo(str(error), err=True)
                os._exit(4)  # gunicorn's code for a worker that cannot start, which ends them all
            tune_garbage_collector()
            os.write(self._ready_out, READY)

        async def watch(app: web.Application) -> None:
            app[STARTED].add_done_callback(report)

        app.on_startup.append(watch)
        return Runner(app, self._server)

    def _announce(self, arbiter: Any) -> None:
        """In the parent: print the address once every worker is ready."""
        port = arbiter.LISTENERS[0].sock.getsockname()[1]
        host = f"[{self._server.host}]" if ":" in self._server.host else self._server.host

        def wait() -> None:
            for _ in range(self._server.workers):
                if os.read(self._ready_in, 1) != READY:
                    return
            click.echo(f"Rowcast is ready on http://{host}:{port}")
            sys.stdout.flush()

        Thread(target=wait, name="ready", daemon=True).start()
