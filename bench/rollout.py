"""What clients see of a rolling restart: two replicas behind HAProxy, with open streams.

``python -m bench.rollout`` prints, with and without ``stream.drain``, the most reconnections in a second and the times of requests
meanwhile. It needs HAProxy and the embedded PostgreSQL.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Final

import click

from rowcast.database.embedded import EmbeddedPostgres

NOTES: Final = (
    "fields: {id: {type: integer, primary_key: true}, text: {type: text}}\nviewset: {permission_classes: [AllowAny]}"
)
ROOT: Final = Path(__file__).parent.parent
REQUEST_SECONDS: Final = 0.05  # between two requests
OPENED_AT_ONCE: Final = 50


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


class Clients:
    """Streams that are opened again when they end, as browsers do, and requests one after the other."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._opening = asyncio.Semaphore(OPENED_AT_ONCE)
        self.open = 0
        self.begun: list[float] = []  # when streams were opened
        self.refused: Counter[str] = Counter()
        self.times: list[float] = []  # of requests

    async def _ask(self, path: str, accept: str, last: str = "") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        resume = f"Last-Event-ID: {last}\r\n" if last else ""
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\n{resume}Connection: close\r\n\r\n".encode()
        )
        return reader, writer

    async def stream(self) -> None:
        """One client, until it is cancelled."""
        last, retry = "", 2.0
        while True:
            self.begun.append(time.monotonic())
            try:
                async with self._opening:
                    reader, writer = await self._ask("/notes/stream/", "text/event-stream", last)
                    status = (await reader.readline())[9:12].decode()
                    head = await reader.readuntil(b"event: ready\n") if status == "200" else b""
            except (OSError, asyncio.IncompleteReadError):
                status, head = "lost", b""
            if head:
                self.open += 1
                retry = int(re.findall(rb"retry: (\d+)", head)[0]) / 1000
                with suppress(OSError):
                    while line := await reader.readline():
                        if line.startswith(b"id: "):
                            last = line[4:].strip().decode()
                self.open -= 1
                writer.close()
            else:
                self.refused[status] += 1
            await asyncio.sleep(retry)

    async def requests(self) -> None:
        """Requests, until this is cancelled."""
        while True:
            begin = time.monotonic()
            reader, writer = await self._ask("/notes/", "application/json")
            status = (await reader.readline())[9:12].decode()
            await reader.read()
            writer.close()
            self.times.append(time.monotonic() - begin)
            if status != "200":
                self.refused[f"request {status}"] += 1
            await asyncio.sleep(REQUEST_SECONDS * random.uniform(0.5, 1.5))


def most_in_a_second(times: list[float]) -> int:
    """The most of these moments that lie within one second."""
    times, first, most = sorted(times), 0, 0
    for number, each in enumerate(times):
        while each - times[first] > 1:
            first += 1
        most = max(most, number - first + 1)
    return most


def proxied(ports: list[int], port: int) -> str:
    """The configuration of docs/deploy.md without TLS, with these replicas."""
    block = re.findall(r"```haproxy\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text(), re.DOTALL)[0]
    block = re.sub(r"bind .*", f"bind 127.0.0.1:{port}", block)
    servers = "\n".join(f"    server r{each} 127.0.0.1:{each}" for each in ports)
    return "global\n    maxconn 8000\n" + re.sub(r"    server one .*", servers, block)


async def measure(directory: Path, url: str, streams: int, drain: str) -> str:
    """A line of the table."""
    (directory / "config" / "resources").mkdir(parents=True, exist_ok=True)
    (directory / "config" / "resources" / "notes.yaml").write_text(NOTES)
    (directory / "config" / "service.yaml").write_text(
        "server: {trusted_proxies: 1, allowed_hosts: ['*'], shutdown_delay: 3s}\n"
        f"stream: {{drain: {drain}, max_streams_per_caller: 100000}}\n"
    )
    ports, port = [8711, 8712], 8710
    replicas = [Replica(directory / "config", url, each) for each in ports]
    for replica in replicas:
        await replica.start()
    (directory / "haproxy.cfg").write_text(proxied(ports, port))
    program = shutil.which("haproxy") or "/usr/sbin/haproxy"
    haproxy = await asyncio.create_subprocess_exec(
        program, "-f", str(directory / "haproxy.cfg"), stderr=asyncio.subprocess.DEVNULL
    )
    await asyncio.sleep(2)
    clients = Clients(port)
    tasks = [asyncio.create_task(clients.stream()) for _ in range(streams)]
    tasks.append(asyncio.create_task(clients.requests()))
    try:
        async with asyncio.timeout(60):
            while clients.open < streams:  # noqa: ASYNC110 - clients open by themselves
                await asyncio.sleep(0.2)
        await asyncio.sleep(1)
        clients.begun.clear()
        clients.times.clear()
        clients.refused.clear()
        for replica in replicas:
            await replica.stop()
            await replica.start()
            await asyncio.sleep(3)
        async with asyncio.timeout(30):
            while clients.open < streams:  # noqa: ASYNC110 - clients open by themselves
                await asyncio.sleep(0.2)
        times = sorted(clients.times)
        middle, late = times[len(times) // 2], times[int(len(times) * 0.99)]
        return (
            f"| `{drain}` | {len(clients.begun)} | {most_in_a_second(clients.begun)} | {middle * 1000:.0f} ms | {late * 1000:.0f} ms"
            f" | {times[-1] * 1000:.0f} ms | {', '.join(f'{count} of {status}' for status, count in clients.refused.items()) or 'none'} |"
        )
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for replica in replicas:
            with suppress(ProcessLookupError):
                replica.process.kill()
        with suppress(ProcessLookupError):
            haproxy.kill()
        await haproxy.wait()


@click.command()
@click.option("--streams", default=2000, show_default=True)
@click.option("--drain", "drains", multiple=True, default=("0s", "10s"), show_default=True)
def main(streams: int, drains: tuple[str, ...]) -> None:
    """Restart two replicas in turn, and print what clients see."""
    print("| drain | reconnections | most in 1 s | request p50 | p99 | max | refused |")
    for drain in drains:
        with tempfile.TemporaryDirectory() as directory:
            server = EmbeddedPostgres(Path(directory) / "postgres")
            with server:
                print(asyncio.run(measure(Path(directory), server.url, streams, drain)), flush=True)


if __name__ == "__main__":
    main()
