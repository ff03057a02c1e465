"""``server.admin``: an address for operators alone, with ``/metrics`` for Prometheus and the service's health.

With several worker processes they share the listening socket, and whichever accepts a scrape asks the others, over Unix
sockets in a directory of their own. The response has the metrics of all of them as those of one service: counters,
histograms and most gauges are summed. The directory also has what each worker had counted when it was last asked, so that no
counter falls when a worker ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import orjson
from aiohttp import ClientConnectorError, ClientError, ClientSession, ClientTimeout, UnixConnector, web
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from rowcast.changes.feed import Feed
from rowcast.configuration.settings import Address, Server
from rowcast.database.errors import DRIVER_ERRORS
from rowcast.errors import ConfigurationError
from rowcast.server import health
from rowcast.server.measures import Packed, counters, merged, numbers, pack, text
from rowcast.server.metrics import Metrics
from rowcast.tasks import spawn

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
        app = web.Application()
        app.router.add_get("/metrics", self._scrape)
        health.add_routes(app, lambda: self.metrics.readiness)
        runners = [await _serve(app, lambda runner: web.SockSite(runner, self._listening))]
        if self._directory is not None:
            path = str(self._directory / f"{os.getpid()}{_SOCKET}")
            shared = web.Application()
            shared.router.add_get("/metrics", self._share)
            runners.append(await _serve(shared, lambda runner: web.UnixSite(runner, path)))
        loop = spawn(self.metrics.follow_loop(), "lag of the event loop")
        try:
            yield
        finally:
            loop.cancel()
            if self._directory is not None:  # as long as the socket is there, nobody takes this process for gone
                _write(_counts(self._directory, str(os.getpid())), counters(pack(self.metrics.families())))
            for runner in runners:
                await runner.cleanup()

    async def _share(self, request: web.Request) -> web.Response:
        """For another worker: the metrics of this one."""
        return web.Response(body=orjson.dumps(pack(self.metrics.families())))

    async def _scrape(self, request: web.Request) -> web.Response:
        """For Prometheus: the metrics of every worker, and those of the database that they share."""
        families = list(self.metrics.families())
        if self._directory is not None:
            workers = {str(os.getpid()): pack(families), **await _others(self._directory)}
            families = merged(workers.values(), _without_workers(self._directory, workers))
        families += await self._shared()
        return web.Response(text=text(families), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _shared(self) -> list[Metric]:
        """The size and the age of the log, which are the same for every worker; nothing while the database is away."""
        feed = self.metrics.feed
        if not isinstance(feed, Feed):  # there is none yet, or it is that of an edge
            return []
        try:
            async with asyncio.timeout(SCRAPE_TIMEOUT_SECONDS):
                state = await feed.state()
        except (*DRIVER_ERRORS, TimeoutError, ConfigurationError):
            return []
        age = max(0.0, time.time() - state.oldest_at.timestamp())
        return [
            numbers("rowcast_log_bytes", "The size of the change log in the database.", "gauge", {(): state.size}),
            numbers("rowcast_log_age_seconds", "The age of the oldest position in the log.", "gauge", {(): age}),
        ]


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


async def _serve(app: web.Application, site: Callable[[web.AppRunner], web.BaseSite]) -> web.AppRunner:
    """Serve an application at a site."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await site(runner).start()
    return runner


# --- the other workers

_SOCKET: Final = ".sock"
_COUNTS: Final = ".counts"
_GONE: Final = "gone"


async def _others(directory: Path) -> dict[str, Packed]:
    """The metrics of the other workers, by process id."""
    paths = _sockets(directory)
    found = await asyncio.gather(*map(_read, paths))
    return {path.stem: packed for path, packed in zip(paths, found, strict=True) if packed is not None}


def _sockets(directory: Path) -> list[Path]:
    """The sockets of the other workers."""
    return [path for path in directory.glob(f"*{_SOCKET}") if path.stem != str(os.getpid())]


async def _read(path: Path) -> Packed | None:
    """The metrics of the worker that listens at a path; ``None`` if it does not answer. Of one that is gone, the path goes."""
    try:
        async with (
            ClientSession(
                connector=UnixConnector(str(path)), timeout=ClientTimeout(total=SCRAPE_TIMEOUT_SECONDS)
            ) as session,
            session.get("http://worker/metrics") as response,
        ):
            packed: Packed = orjson.loads(await response.read())
            return packed
    except ClientConnectorError as error:
        if error.errno in (errno.ECONNREFUSED, errno.ENOENT):
            with contextlib.suppress(OSError):
                os.unlink(path)
    except (ClientError, TimeoutError):
        pass
    return None


def _without_workers(directory: Path, workers: Mapping[str, Packed]) -> Packed:
    """What those workers had counted when they were last asked that do not answer now; note what the others have counted."""
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        gone, silent = _load(_counts(directory, _GONE)), []
        for path in directory.glob(f"*{_COUNTS}"):
            if path.stem in workers or path.stem == _GONE:
                continue
            if (directory / f"{path.stem}{_SOCKET}").exists():
                silent.append(_load(path))
                continue
            gone = pack(merged([_load(path)], gone))
            _write(_counts(directory, _GONE), gone)
            os.unlink(path)
        for worker, packed in workers.items():
            _write(_counts(directory, worker), counters(packed))
    return pack(merged(silent, gone))


def _counts(directory: Path, worker: str) -> Path:
    return directory / f"{worker}{_COUNTS}"


def _load(path: Path) -> Packed:
    try:
        packed: Packed = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):  # none yet, or its writer was ended
        return []
    return packed


def _write(path: Path, packed: Packed) -> None:
    with contextlib.suppress(OSError):
        path.write_bytes(orjson.dumps(packed))
