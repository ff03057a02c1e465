"""What clients see of a rolling restart: two replicas behind HAProxy, with open streams.

``python -m bench.rollout`` prints, with and without ``stream.drain``, the most reconnections in a second and the times of requests
meanwhile. It needs HAProxy and the embedded PostgreSQL. The streams are a process of their own (``bench.rollout_clients``). HAProxy needs
two open files for each stream, so there are as many of it as the limit requires.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import click
from tests.tls import free_port

from bench.streams import SPARE, allow_descriptors
from rowcast.database.embedded import EmbeddedPostgres

NOTES: Final = (
    "fields: {id: {type: integer, primary_key: true}, text: {type: text}}\nviewset: {permission_classes: [AllowAny]}"
)
ROOT: Final = Path(__file__).parent.parent
REQUEST_SECONDS: Final = 0.02  # between the beginnings of two requests
OPENING_SECONDS: Final = 180  # until all streams are open
QUIET_SECONDS: Final = 5  # that are measured before the first restart


class Replica:
    """A process of the service, which can be restarted."""

    def __init__(self, config: Path, url: str, port: int) -> None:
        self._command = [
            "-m", "rowcast", "serve", "--config", str(config), "--database-url", url, "--port", str(port), "--migrate",
        ]  # fmt: skip
        self._data = config.parent / f"data{port}"
        self.process: asyncio.subprocess.Process

    async def start(self) -> None:
        """Start, and wait until the service is ready."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "service"), "ROWCAST_DATA": str(self._data)}
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *self._command,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        assert b"is ready" in line, line

    async def stop(self) -> None:
        """Stop in order."""
        self.process.send_signal(signal.SIGTERM)
        await self.process.wait()

    async def kill(self) -> None:
        """End at once."""
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


class Streams:
    """The process of the streams."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, *command: object) -> Any:
        """The result of a command."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        return json.loads(await self._process.stdout.readline())

    async def all_open(self, count: int) -> None:
        """Wait until so many streams are open."""
        async with asyncio.timeout(OPENING_SECONDS):
            while await self.ask("count") < count:  # noqa: ASYNC110 - it is in another process
                await asyncio.sleep(0.5)


@asynccontextmanager
async def open_streams(ports: Sequence[int], count: int) -> AsyncIterator[Streams]:
    """Open streams in a process of their own, and end it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.rollout_clients",
        cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 26,
    )  # fmt: skip
    try:
        streams = Streams(process)
        await streams.ask("open", ports, count)
        await streams.all_open(count)
        yield streams
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class Requests:
    """Requests at a steady rate, each on a connection of its own. One that takes long does not delay those after it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._running: set[asyncio.Task[None]] = set()
        self.times: list[float] = []  # in seconds
        self.failed: Counter[str] = Counter()  # by status

    async def run(self) -> None:
        """Begin requests, until this is cancelled."""
        while True:
            task = asyncio.create_task(self._request())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            await asyncio.sleep(REQUEST_SECONDS)

    async def finish(self) -> None:
        """Wait for the requests that have begun."""
        await asyncio.gather(*self._running)

    async def _request(self) -> None:
        begun = time.monotonic()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(b"GET /notes/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            status = (await reader.readline())[9:12].decode() or "lost"
            await reader.read()
            writer.close()
        except OSError:
            status = "lost"
        self.times.append(time.monotonic() - begun)
        if status != "200":
            self.failed[status] += 1


def most_in_a_second(times: list[float]) -> int:
    """The most of these moments that lie within one second."""
    times, first, most = sorted(times), 0, 0
    for number, each in enumerate(times):
        while each - times[first] > 1:
            first += 1
        most = max(most, number - first + 1)
    return most


def quantile(times: Sequence[float], share: float) -> str:
    """The time in milliseconds that this share of the times is not above."""
    return f"{1000 * sorted(times)[round(share * (len(times) - 1))]:.0f} ms"


def proxied(ports: list[int], port: int) -> str:
    """The configuration of docs/deploy.md without TLS, with these replicas."""
    block = re.findall(r"```haproxy\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text(), re.DOTALL)[0]
    block = re.sub(r"bind .*", f"bind 127.0.0.1:{port}", block)
    servers = "\n".join(f"    server r{each} 127.0.0.1:{each}" for each in ports)
    return re.sub(
        r"    server one .*", servers, block
    )  # by default HAProxy has as many connections as open files allow


@asynccontextmanager
async def haproxy(directory: Path, services: list[int], port: int) -> AsyncIterator[None]:
    """HAProxy, as long as it is used."""
    file = directory / f"haproxy{port}.cfg"
    file.write_text(proxied(services, port))
    program = shutil.which("haproxy") or "/usr/sbin/haproxy"
    process = await asyncio.create_subprocess_exec(program, "-f", str(file), stderr=asyncio.subprocess.DEVNULL)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def measure(directory: Path, url: str, count: int, drain: str) -> str:
    """A line of the table."""
    (directory / "config" / "resources").mkdir(parents=True, exist_ok=True)
    (directory / "config" / "resources" / "notes.yaml").write_text(NOTES)
    (directory / "config" / "service.yaml").write_text(
        "server: {trusted_proxies: 1, allowed_hosts: ['*'], shutdown_delay: 3s, max_connections: 100000}\n"
        f"stream: {{drain: {drain}, max_streams: 100000, max_streams_per_caller: 100000}}\n"
    )
    each_proxy = (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE) // 2
    services = [free_port(), free_port()]
    ports = [free_port() for _ in range(-(-count // each_proxy))]
    async with AsyncExitStack() as stack:
        replicas = [Replica(directory / "config", url, each) for each in services]
        for replica in replicas:
            await replica.start()
            stack.push_async_callback(replica.kill)
        for port in ports:
            await stack.enter_async_context(haproxy(directory, services, port))
        await asyncio.sleep(2)  # until HAProxy has seen that the replicas are ready
        streams = await stack.enter_async_context(open_streams(ports, count))
        await asyncio.sleep(1)
        requests = Requests(ports[0])
        requesting = asyncio.create_task(requests.run())
        await asyncio.sleep(QUIET_SECONDS)
        quiet = requests.times.copy()
        requests.times.clear()
        await streams.ask("begin")
        for replica in replicas:
            await replica.stop()
            await replica.start()
            await asyncio.sleep(3)
            await streams.all_open(count)
        requesting.cancel()
        await requests.finish()
        found = await streams.ask("result")
        begun, refused = found["begun"], found["refused"]
        return (
            f"| `{drain}` | {len(begun):,} | {most_in_a_second(begun):,} | {quantile(found['waits'], 0.99)}"
            f" | {quantile(quiet, 0.5)}, {quantile(quiet, 0.99)} | {quantile(requests.times, 0.5)} | {quantile(requests.times, 0.99)}"
            f" | {quantile(requests.times, 1)} | {_listed(refused)} | {_listed(requests.failed)} |"
        )


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} of {name}" for name, count in counts.items()) or "none"


@click.command()
@click.option("--streams", default=10_000, show_default=True)
@click.option("--drain", "drains", multiple=True, default=("0s", "10s"), show_default=True)
def main(streams: int, drains: tuple[str, ...]) -> None:
    """Restart two replicas in turn, and print what clients see."""
    allow_descriptors(streams + SPARE)
    print(
        "| drain | reconnections | most in 1 s | until one is open, p99 | request before, p50, p99 | during, p50 | p99 | max"
        " | refused streams | failed requests |"
    )
    for drain in drains:
        with tempfile.TemporaryDirectory(prefix="rowcast-rollout-") as directory:
            server = EmbeddedPostgres(Path(directory) / "postgres")
            with server:
                print(asyncio.run(measure(Path(directory), server.url, streams, drain)), flush=True)


if __name__ == "__main__":
    main()
