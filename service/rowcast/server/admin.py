"""``server.admin``: an address for operators alone, with ``/metrics`` for Prometheus.

With several worker processes they share the listening socket, and whichever accepts a scrape asks the others, over Unix
sockets in a directory of their own. The response has the metrics of all of them, each with the label ``worker``, its
process id: when a worker is replaced its counters begin again, as those of any process do.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Final

from aiohttp import ClientConnectorError, ClientError, ClientSession, ClientTimeout, UnixConnector, web
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from rowcast.configuration.settings import Address, Server
from rowcast.database.errors import DRIVER_ERRORS
from rowcast.errors import ConfigurationError
from rowcast.server.metrics import Metrics

SCRAPE_TIMEOUT_SECONDS: Final = 2.0  # for another worker, and for the database; what does not answer is left out


class Admin:
    """The metrics of a process, and the socket at which it serves them.

    It is made before worker processes are forked. With several of them ``directory`` has a socket of each.
    """

    def __init__(self, listening: socket.socket, directory: Path | None) -> None:
        self.metrics = Metrics()
        self._listening = listening
        self._directory = directory

    @property
    def url(self) -> str:
        """The address of the metrics."""
        host, port = self._listening.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve the metrics of this process, together with those of the other workers."""
        runners = [await _listen_with(self._scrape, lambda runner: web.SockSite(runner, self._listening))]
        if self._directory is not None:
            path = str(self._directory / f"{os.getpid()}.sock")
            runners.append(await _listen_with(self._share, lambda runner: web.UnixSite(runner, path)))
        try:
            yield
        finally:
            for runner in runners:
                await runner.cleanup()

    async def _share(self, request: web.Request) -> web.Response:
        """For another worker: the metrics of this one."""
        return web.Response(text=self.metrics.text())

    async def _scrape(self, request: web.Request) -> web.Response:
        """For Prometheus: the metrics of every worker, and those of the database that they share."""
        text = self.metrics.text()
        if self._directory is not None:
            text = _text(_labelled({str(os.getpid()): text, **await _others(self._directory)}))
        return web.Response(text=text + _text(await self._shared()), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _shared(self) -> list[Metric]:
        """The size of the log, which is the same for every worker; nothing while the database is away."""
        if (feed := self.metrics.feed) is None:
            return []
        try:
            async with asyncio.timeout(SCRAPE_TIMEOUT_SECONDS):
                state = await feed.state()
        except (*DRIVER_ERRORS, TimeoutError, ConfigurationError):
            return []
        return [GaugeMetricFamily("rowcast_log_bytes", "The size of the change log in the database.", state.size)]


async def with_metrics(admin: Admin | None, work: Awaitable[None]) -> None:
    """Do some work, and serve the metrics meanwhile, if there are any."""
    async with nullcontext() if admin is None else admin.serving():
        await work


@contextmanager
def admin(server: Server) -> Iterator[Admin | None]:
    """Listen at ``server.admin``, for processes that are forked inside the context; ``None`` if there is none."""
    if server.admin is None:
        yield None
        return
    owner = os.getpid()
    directory = Path(tempfile.mkdtemp(prefix="rowcast-")) if server.workers > 1 else None
    try:
        with _listen(server.admin) as listening:
            yield Admin(listening, directory)
    finally:
        if directory is not None and os.getpid() == owner:
            shutil.rmtree(directory, ignore_errors=True)


def _listen(address: Address) -> socket.socket:
    try:
        return socket.create_server(address, family=socket.AF_INET6 if ":" in address.host else socket.AF_INET)
    except OSError as error:
        reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be listened on: {error.strerror}"
        raise ConfigurationError(f"server.admin: port {address.port} of {address.host} {reason}") from error


async def _listen_with(
    handler: Callable[[web.Request], Awaitable[web.Response]], site: Callable[[web.AppRunner], web.BaseSite]
) -> web.AppRunner:
    """Serve ``/metrics`` with a handler at a site."""
    app = web.Application()
    app.router.add_get("/metrics", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await site(runner).start()
    return runner


async def _others(directory: Path) -> dict[str, str]:
    """The metrics of the other workers, by process id."""
    paths = _sockets(directory)
    texts = await asyncio.gather(*map(_read, paths))
    return {path.stem: text for path, text in zip(paths, texts, strict=True) if text is not None}


def _sockets(directory: Path) -> list[Path]:
    """The sockets of the other workers."""
    return [path for path in directory.glob("*.sock") if path.stem != str(os.getpid())]


async def _read(path: Path) -> str | None:
    """The metrics of the worker that listens at a path; ``None`` if it does not answer. Of one that is gone, the path goes."""
    try:
        async with (
            ClientSession(
                connector=UnixConnector(str(path)), timeout=ClientTimeout(total=SCRAPE_TIMEOUT_SECONDS)
            ) as session,
            session.get("http://worker/metrics") as response,
        ):
            return await response.text()
    except ClientConnectorError as error:
        if error.errno == errno.ECONNREFUSED:
            with contextlib.suppress(OSError):
                os.unlink(path)
    except (ClientError, TimeoutError):
        pass
    return None


def _labelled(texts: Mapping[str, str]) -> Iterable[Metric]:
    """The metrics of several workers, each sample with the label of its worker."""
    families: dict[str, Metric] = {}
    for worker, text in texts.items():
        for family in text_string_to_metric_families(text):
            whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                whole.add_sample(sample.name, {**sample.labels, "worker": worker}, sample.value)
    return families.values()


class _Collected(Collector):
    """Metrics that have been collected."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _text(metrics: Iterable[Metric]) -> str:
    return generate_latest(_Collected(metrics)).decode()
