"""What further processes of a service cost PostgreSQL, with and without a relay, and how late changes are while the bus is away.
With ``--edges`` they are edges, which have no connection to it.

``python -m bench.nodes`` prints a row for each number of processes: statements a second while nothing is written and while rows
are written, and the time from a commit to a client. It needs the embedded PostgreSQL and, for each bus, its server and client:
``nats-server`` and ``rowcast[nats]``, or ``redis-server`` and ``rowcast[redis]``.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import asyncpg
import click
from tests.programs import Program, find
from tests.tls import free_port

from bench.rollout import NOTES, Replica
from rowcast.database.embedded import EmbeddedPostgres

EDGE_KEY: Final = "the key of edges that are measured"
RELAY: Final = "ROWCAST_STREAM_RELAY"
SETTLE_SECONDS: Final = 5.0  # after the last process is ready
WRITES: Final = 20  # rows a second
BUSES: Final = {
    "nats": ("nats-server", "--addr 127.0.0.1 --port {port}"),
    "redis": ("redis-server", "--bind 127.0.0.1 --port {port} --save --appendonly no"),
}
WITHOUT: Final = "without"
COUNTED: Final = "SELECT sum(calls)::int FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat_statements%'"
BY_QUERY: Final = """SELECT calls, left(regexp_replace(query, '\\s+', ' ', 'g'), 100) FROM pg_stat_statements
    WHERE query NOT LIKE '%pg_stat_statements%' ORDER BY calls DESC LIMIT 12"""


class Bus(Program):
    """The server of a bus, which can be killed and started again."""

    def __init__(self, kind: str) -> None:
        super().__init__(free_port(), Path.cwd())
        self.kind = kind
        self.url = f"{kind}://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        name, arguments = BUSES[self.kind]
        program = find(name)
        assert program, f"this needs {name}"
        return [program, *arguments.format(port=self.port).split()]


class Edge(Replica):
    """An edge of the process at a port."""

    def __init__(self, config: Path, origin: int, port: int) -> None:
        super().__init__(config, "", port)
        self._command = [
            "-m", "rowcast", "edge", "--config", str(config), "--upstream", f"http://127.0.0.1:{origin}", "--port", str(port),
        ]  # fmt: skip


class Stream:
    """A client that notes how old each row is when it arrives."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.ages: list[float] = []
        self.texts: Counter[str] = Counter()

    async def read(self) -> None:
        """Read until this is cancelled."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(b"GET /notes/stream/ HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n")
        with suppress(asyncio.CancelledError):
            while line := await reader.readline():
                if found := re.search(rb'"text": ?"([0-9.]+)"', line):
                    self.ages.append(time.time() - float(found[1]))
                    self.texts[found[1].decode()] += 1
        writer.close()


async def write(connection: asyncpg.Connection, seconds: float) -> list[str]:
    """Insert rows with the time as their text, at a steady rate; return the texts."""
    texts, begun = [], time.monotonic()
    for i in range(round(WRITES * seconds)):
        await asyncio.sleep(max(0, begun + i / WRITES - time.monotonic()))
        texts.append(str(time.time()))
        await connection.execute("INSERT INTO notes (text) VALUES ($1)", texts[-1])
    return texts


async def count(connection: asyncpg.Connection, seconds: float, *, writing: bool) -> float:
    """Statements a second while rows are written, or nothing is."""
    await connection.execute("SELECT pg_stat_statements_reset()")
    if writing:
        await write(connection, seconds)
    else:
        await asyncio.sleep(seconds)
    return float(await connection.fetchval(COUNTED) or 0) / seconds


def quantiles(ages: list[float]) -> str:
    """Median, 99th percentile and the largest, in milliseconds."""
    ages = sorted(ages)
    return " / ".join(f"{1000 * ages[round(share * (len(ages) - 1))]:.0f}" for share in (0.5, 0.99, 1))


@asynccontextmanager
async def replicas(directory: Path, url: str, number: int, *, edges: bool) -> AsyncIterator[list[int]]:
    """The ports of so many processes on a database; all but the first are its ``edges``, or replicas."""
    ports = [free_port() for _ in range(number)]
    running = [Replica(directory / "config", url, port) for port in ports]
    if edges:
        running[1:] = [Edge(directory / "config", ports[0], port) for port in ports[1:]]
    try:
        for replica in running:
            await replica.start()
        yield ports
    finally:
        await asyncio.gather(*(replica.stop() for replica in running if hasattr(replica, "process")))


async def run(
    directory: Path,
    url: str,
    numbers: list[int],
    kinds: list[str],
    seconds: float,
    outage: float,
    *,
    queries: bool,
    edges: bool,
) -> None:
    (directory / "config" / "resources").mkdir(parents=True)
    (directory / "config" / "service.yaml").write_text(f"stream: {{edge_key: '{EDGE_KEY}'}}")
    (directory / "config" / "resources" / "notes.yaml").write_text(NOTES)
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE EXTENSION pg_stat_statements")
    print(f"{WRITES} rows a second are written; times from commit to client: median / 99 % / most, in ms")
    for kind in kinds:
        os.environ.pop(RELAY, None)
        bus = None if kind == WITHOUT else Bus(kind)
        if bus is not None:
            os.environ[RELAY] = bus.url
            await bus.start()
        for number in numbers:
            async with replicas(directory, url, number, edges=edges) as ports:
                await asyncio.sleep(SETTLE_SECONDS)
                idle = await count(connection, seconds, writing=False)
                streams = [Stream(port) for port in ports]
                tasks = [asyncio.create_task(stream.read()) for stream in streams]
                busy = await count(connection, seconds, writing=True)
                if queries:
                    for row in await connection.fetch(BY_QUERY):
                        print("   ", *row)
                ages = [age for stream in streams for age in stream.ages]
                print(
                    f"{number:3} processes, {'without a relay' if bus is None else f'relay over {kind}'}:"
                    f" {idle:.0f} statements a second idle, {busy:.0f} busy; {quantiles(ages)}",
                    flush=True,
                )
                if bus is not None and number == numbers[-1] and outage:
                    await asyncio.sleep(2)
                    for stream in streams:
                        stream.ages.clear()
                    writing = asyncio.create_task(write(connection, outage + 10))
                    await asyncio.sleep(2)
                    bus.kill()
                    await asyncio.sleep(outage)
                    await bus.start()
                    written = await writing
                    await asyncio.sleep(2)
                    late = [age for stream in streams for age in stream.ages]
                    lost = sum(stream.texts[text] == 0 for stream in streams for text in written)
                    doubled = sum(stream.texts[text] > 1 for stream in streams for text in written)
                    print(
                        f"    with the bus killed for {outage:.0f} s: {quantiles(late)};"
                        f" of {len(written)} rows {lost} lost, {doubled} doubled"
                    )
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks)
        if bus is not None:
            bus.kill()
    await connection.close()


@click.command()
@click.option("--processes", default="1,5,20", help="How many, separated by commas.")
@click.option("--relays", default="without,nats,redis", help="Over which buses, separated by commas.")
@click.option("--seconds", default=10.0, help="How long to count statements.")
@click.option("--outage", default=30.0, help="For how long to kill the bus.")
@click.option("--edges", is_flag=True, help="All processes but the first are edges of it.")
@click.option("--queries", is_flag=True, help="Print what is run most often.")
def main(processes: str, relays: str, seconds: float, outage: float, edges: bool, queries: bool) -> None:
    """Measure."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory(prefix="rowcast-nodes-") as name:
        directory = Path(name)
        settings = {"shared_preload_libraries": "pg_stat_statements", "max_connections": "400"}
        with EmbeddedPostgres(directory / "data", settings=settings) as postgres:
            numbers, kinds = list(map(int, processes.split(","))), relays.split(",")
            asyncio.run(run(directory, postgres.url, numbers, kinds, seconds, outage, queries=queries, edges=edges))


if __name__ == "__main__":
    main()
