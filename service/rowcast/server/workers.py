"""Several processes for one address: gunicorn forks, watches and restarts them; each is a whole service by itself.

Each worker reloads by itself when the parent gets SIGHUP. The parent keeps the last configuration that a worker has applied,
with which a worker begins that takes the place of another one.
"""

from __future__ import annotations

import asyncio
import math
import os
import queue
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from threading import Thread
from typing import Any, Final

import click
from aiohttp import web
from aiohttp.worker import GunicornUVLoopWebWorker
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from rowcast.changes.connection import cancel
from rowcast.configuration.load import Configuration
from rowcast.configuration.settings import Server
from rowcast.errors import ConfigurationError
from rowcast.garbage import keep_pauses_short, kept
from rowcast.server.admin import Admin
from rowcast.server.http import Runner
from rowcast.server.reload import Reloader, Source, log_outcome
from rowcast.server.running import Outcome, Record, terminal_watch
from rowcast.tasks import spawn

READY: Final = b"+"  # what a worker reports to the parent: it has started
APPLIED: Final = b"!"  # it has reloaded
CANNOT_START: Final = 4  # gunicorn's exit code of a worker that cannot start, which ends them all
RESTART_SECONDS: Final = 2.0  # before a worker is replaced that cannot start, while others work


def run(configuration: Configuration, source: Source, record: Record, admin: Admin | None) -> None:
    """Serve with ``server.workers`` processes until a signal; exits the process.

    ``source`` makes the application in each of them. The line that reports the service as ready is printed once, when all of
    them are. Each serves its metrics at ``admin``.
    """
    _Workers(configuration, source, record, admin).run()


class _Arbiter(Arbiter):  # type: ignore[misc]
    """The parent. Workers reload by themselves."""

    def handle_hup(self) -> None:
        if self.app.hung_up():
            raise StopIteration  # as SIGTERM does
        self.kill_workers(signal.SIGHUP)

    def stop(self, graceful: bool = True) -> None:
        for _ in range(self.cfg.workers):
            with suppress(HaltServer):  # a further worker that cannot start
                super().stop(graceful)
                return


class _Runner(Runner):
    """The runner of a worker, with the tasks that end before it does."""

    def __init__(self, app: web.Application, server: Server) -> None:
        super().__init__(app, server)
        self.tasks: list[asyncio.Task[None]] = []
        self.with_metrics = AsyncExitStack()

    async def cleanup(self) -> None:
        await cancel(self.tasks)
        await super().cleanup()
        await self.with_metrics.aclose()


class _Worker(GunicornUVLoopWebWorker):
    """A worker that stops at once when it has to; otherwise it would notice within a second."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.handle_quit(sig, frame)


class _Workers(BaseApplication):  # type: ignore[misc]
    """gunicorn, configured by our settings instead of its own."""

    def __init__(self, configuration: Configuration, source: Source, record: Record, admin: Admin | None) -> None:
        self._admin = admin
        self._configuration = configuration
        self._server = configuration.settings.server
        self._source = source
        self._record = record
        self._messages_in, self._messages_out = os.pipe()
        self._arbiter: Any = None
        self._has_started = False
        self.hung_up = terminal_watch()
        super().__init__()

    def run(self) -> None:
        try:
            _Arbiter(self).run()
        except RuntimeError as error:
            click.echo(str(error), err=True)
            sys.exit(1)

    def load_config(self) -> None:
        host = f"[{self._server.host}]" if ":" in self._server.host else self._server.host
        drain = self._configuration.settings.stream.drain
        stopping = self._server.shutdown_delay + drain + self._server.shutdown_grace
        options = {
            "bind": f"{host}:{self._server.port}",
            "workers": self._server.workers,
            "worker_class": _Worker,
            "graceful_timeout": max(1, math.ceil(stopping)),
            "loglevel": "warning",
            "when_ready": self._announce,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Callable[[], Any]:
        return self._runner

    # --- in a worker

    async def _runner(self) -> Runner:
        """Make the application, which reports to the parent when it is ready, and ends the worker if it cannot start."""
        try:
            with kept():
                app = self._source.make(self._configuration, False)
        except ConfigurationError as error:
            await self._give_up(error)
            raise
        runner = _Runner(app, self._server)
        reloader = Reloader(runner, self._configuration, self._source, self._note)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloader.request)
        with suppress(queue.Empty):  # signals since the fork went to the parent's handler, in this process
            while True:
                if self._arbiter.SIG_QUEUE.get_nowait() == signal.SIGHUP:
                    reloader.request()

        async def follow(app: web.Application) -> None:
            if self._admin is not None:
                await runner.with_metrics.enter_async_context(self._admin.serving())
            runner.tasks = [spawn(self._report(reloader), "start"), spawn(reloader.run(), "reload")]

        app.on_startup.append(follow)
        return runner

    async def _report(self, reloader: Reloader) -> None:
        try:
            await reloader.started()
        except Exception as error:  # noqa: BLE001 - the process ends
            await self._give_up(error)
        keep_pauses_short()
        os.write(self._messages_out, READY)

    def _note(self, outcome: Outcome) -> None:
        log_outcome(outcome)
        self._record.note(outcome)
        if not outcome.problems:
            os.write(self._messages_out, APPLIED)

    async def _give_up(self, error: Exception) -> None:
        """End the worker: all of them, unless they have worked before."""
        click.echo(str(error), err=True)
        if self._has_started:
            await asyncio.sleep(RESTART_SECONDS)
        os._exit(1 if self._has_started else CANNOT_START)

    # --- in the parent

    def _announce(self, arbiter: Any) -> None:
        """Print the address once every worker is ready, and follow what workers report."""
        self._arbiter = arbiter
        port = arbiter.LISTENERS[0].sock.getsockname()[1]
        host = f"[{self._server.host}]" if ":" in self._server.host else self._server.host

        def follow() -> None:
            starting = self._server.workers
            while message := os.read(self._messages_in, 1):
                if message == APPLIED:
                    with suppress(ConfigurationError):
                        self._configuration = self._source.read()
                elif starting:
                    starting -= 1
                    if not starting:
                        self._has_started = True
                        click.echo(f"Rowcast is ready on http://{host}:{port}")
                        sys.stdout.flush()

        Thread(target=follow, name="workers", daemon=True).start()
