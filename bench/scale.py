"""``make bench-scale``: what many streams cost over several processes of the service, with and without a relay.

Each process of the service has a process of subscribers (``bench.stream_clients``), which connects from a loopback address of its
own: a process may open so many files, and an address has so many ports. Nine of ten streams have their own row, and each tenth
has a filter that it shares with the others. PostgreSQL, the bus and the writer are on the same machine, too, so compare CPU and
memory; what is limited by time is limited by all of these together.
"""

from __future__ import annotations

import asyncio
import math
import os
import platform
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

import asyncpg
import click
import orjson

from bench import database, peers
from bench.nodes import COUNTED, RELAY, Bus
from bench.peers import Server
from bench.stream_report import row, table
from bench.streams import AUTHOR, SPARE, Clients, allow_descriptors, subscribers
from rowcast import __version__
from rowcast.database.embedded import EmbeddedPostgres

SHARED: Final = 10  # of so many streams one has the filter that it shares with others
WARM: Final = 20  # streams of each process that are opened, and closed again, before anything is measured
OWN_RATE: Final = 20.0  # changes a second, each for one stream
SHARED_RATE: Final = 2.0  # changes a second, each for a tenth of all streams
FIRST_CHANGES: Final = 2
IDLE_SECONDS: Final = 15.0  # the default of stream.heartbeat: each stream has one in that time
ARRIVAL_SECONDS: Final = 60.0  # for everything written to arrive
BURST_CHANGES: Final = 10_000  # as fast as they can be written
BURST_ROWS: Final = 100  # in a transaction
INSERT: Final = f"""INSERT INTO tasks (title, priority, view_count, author_id)
    SELECT number || '@', $2, receiver, '{AUTHOR}' FROM unnest($3::int[]) WITH ORDINALITY AS changes (receiver, place),
    LATERAL (SELECT $1::int + place - 1 AS number)"""
SOCKET_CACHES: Final = ("TCP", "sock_inode_cache", "eventpoll_epi", "filp", "dentry")
"""What the kernel keeps for an open socket, by its names in /proc/slabinfo."""
SLAB_COLUMNS: Final = (0, 14, 5)  # the name of a cache, its slabs, and pages of each: slabinfo(5)
ADDRESS_STREAMS: Final = 10_000  # from one address
PAGE_KIB: Final = resource.getpagesize() / 1024
MANY: Final = dict.fromkeys(("ROWCAST_SERVER_MAX_CONNECTIONS", "ROWCAST_STREAM_MAX_STREAMS"), "1000000")
ROWS: Final = 1_000  # of the table
RELAYS: Final = {"without": (False,), "with": (True,), "both": (False, True)}
SETTINGS: Final = {"shared_preload_libraries": "pg_stat_statements", "max_connections": "500"}


@dataclass(frozen=True, slots=True)
class Load:
    """Seconds, CPU seconds of all processes of the service and of PostgreSQL, and statements that PostgreSQL ran."""

    seconds: float
    service: float
    postgres: float
    statements: int

    def since(self, begin: Load, *, without: int = 0) -> Load:
        """What was used since an earlier moment, ``without`` so many statements of others."""
        return Load(
            self.seconds - begin.seconds,
            self.service - begin.service,
            self.postgres - begin.postgres,
            self.statements - begin.statements - without,
        )


@dataclass(frozen=True, slots=True)
class Delivery:
    """Changes that were written, and have arrived. Latencies are in ms from the commit."""

    load: Load
    changes: int
    deliveries: int
    median: float
    p99: float


@dataclass(frozen=True, slots=True)
class Memory:
    """KiB of all processes of the service by two measures, and of the kernel for its half of the connections."""

    rss: float
    pss: float
    sockets: float
    buffers: float

    def each(self, begin: Memory, streams: int) -> Memory:
        """What each of some streams has added."""
        return Memory(
            (self.rss - begin.rss) / streams,
            (self.pss - begin.pss) / streams,
            (self.sockets - begin.sockets) / streams,
            (self.buffers - begin.buffers) / streams,
        )


@dataclass(frozen=True, slots=True)
class Scale:
    """Everything that was measured of one number of streams. ``memory`` is that of each."""

    streams: int
    processes: int
    relay: bool
    connect: Load
    first: Delivery  # the first changes after streams have opened, at which each stream finds its group
    memory: Memory
    idle: Load
    own: Delivery
    shared: Delivery
    burst: Delivery


class Fleet:
    """The processes of the service, each with the process of its subscribers, and a connection that writes."""

    def __init__(self, postgres: int, writer: asyncpg.Connection, members: Sequence[tuple[Server, Clients]]) -> None:
        self._postgres = postgres
        self._writer = writer
        self._members = members
        self._numbers: list[range] = []

    async def connect(self, streams: int) -> None:
        """Open so many streams, which are numbered, and divided among the processes."""
        bounds = [streams * place // len(self._members) for place in range(len(self._members) + 1)]
        self._numbers = list(map(range, bounds, bounds[1:]))
        await asyncio.gather(*(
            clients.ask(
                "connect", "127.0.0.1", int(server.origin.rpartition(":")[2]), list(map(path, numbers)), addresses(place, len(numbers)),
            )
            for place, ((server, clients), numbers) in enumerate(zip(self._members, self._numbers, strict=True), start=2)
        ))  # fmt: skip

    async def every(self, name: str, *arguments: object) -> list[Any]:
        """The results of a command to all subscribers."""
        return await asyncio.gather(*(clients.ask(name, *arguments) for _, clients in self._members))

    async def used(self) -> Load:
        """What has been used until now."""
        return Load(
            time.monotonic(),
            sum(server.cpu for server, _ in self._members),
            peers.postgres_cpu(self._postgres),
            await self._writer.fetchval(COUNTED) or 0,
        )

    def memory(self) -> Memory:
        """What is used now."""
        rss, pss = (sum(getattr(server, name) for server, _ in self._members) for name in ("rss", "pss"))
        return Memory(rss * 1024, pss * 1024, sockets_kib() / 2, buffers_kib() / 2)

    async def deliver(self, changes: int, rate: float, *, rows: int = 1, shared: bool = False) -> Delivery:
        """Write so many changes, each for one stream or for all with the shared filter, and wait until they have arrived.

        ``rate`` is that of transactions with so many ``rows``.
        """
        targets = streams_with_own_rows(self._numbers[-1].stop, changes)
        expected = [
            sum(number % SHARED == 0 for number in numbers) * len(targets) if shared
            else sum(target in numbers for target in targets)
            for numbers in self._numbers
        ]  # fmt: skip
        await self.every("begin")
        begin = await self.used()
        committed: list[float] = []
        for first in range(0, changes, rows):
            await asyncio.sleep(begin.seconds + first / rows / rate - time.monotonic())
            receivers = [0 if shared else target + 1 for target in targets[first : first + rows]]
            await self._writer.execute(INSERT, first, "high" if shared else "low", receivers)
            committed += [time.monotonic()] * len(receivers)
        got = await asyncio.gather(*(
            clients.ask("wait", rows, ARRIVAL_SECONDS)
            for (_, clients), rows in zip(self._members, expected, strict=True)
        ))  # fmt: skip
        load = (await self.used()).since(begin, without=changes // rows)
        if got != expected:
            raise click.ClickException(f"{sum(got):,} rows arrived, where {sum(expected):,} should")
        ages = [age for timed in await self.every("latencies", committed) for age in timed]
        cuts = quantiles(ages, n=100)
        return Delivery(load, changes, sum(got), cuts[49], cuts[98])


def path(number: int) -> str:
    """The address of a stream: with a filter of its own, or for one of ten with the shared one."""
    return "/tasks/stream/?" + (f"view_count={number + 1}" if number % SHARED else "priority=high")


def addresses(place: int, streams: int) -> list[str]:
    """Loopback addresses for so many streams of one process: the kernel takes long to find a port where half of all are taken."""
    return [f"127.0.{place}.{number + 1}" for number in range(1 + streams // ADDRESS_STREAMS)]


def streams_with_own_rows(streams: int, count: int) -> list[int]:
    """The numbers of so many streams with a filter of their own, evenly over all."""
    own = [number for number in range(streams) if number % SHARED]
    return [own[place * len(own) // count] for place in range(count)]


def sockets_kib() -> float:
    """KiB of the kernel's objects for all sockets."""
    try:
        lines = Path("/proc/slabinfo").read_text().splitlines()[2:]
    except PermissionError as error:
        raise click.ClickException("only root may read /proc/slabinfo, which has the kernel's memory") from error
    caches = ([line.split()[column] for column in SLAB_COLUMNS] for line in lines)
    return sum(int(slabs) * int(pages) for name, slabs, pages in caches if name in SOCKET_CACHES) * PAGE_KIB


def buffers_kib() -> float:
    """KiB of the kernel's buffers of TCP."""
    words = Path("/proc/net/sockstat").read_text().partition("\nTCP:")[2].split()
    return int(words[words.index("mem") + 1]) * PAGE_KIB


async def measure(
    postgres: EmbeddedPostgres, directory: Path, streams: int, processes: int, relay: bool, seconds: int
) -> Scale:
    """One number of streams over some processes."""
    async with AsyncExitStack() as stack:
        environment = {**MANY}
        if relay:
            bus = Bus("nats")
            stack.callback(bus.kill)
            await bus.start()
            environment[RELAY] = bus.url
        rowcast = next(peer for peer in peers.PEERS if peer.name == peers.ROWCAST_NAME)
        rowcast = replace(rowcast, environment={**rowcast.environment, **environment})
        writer = await asyncpg.connect(postgres.url)
        stack.push_async_callback(writer.close)
        members = []
        for number in range(processes):
            clients = await stack.enter_async_context(subscribers())
            server = stack.enter_context(peers.running(rowcast, postgres.url, directory / f"{number}.log"))
            members.append((server, clients))
        fleet = Fleet(postgres.pid, writer, members)
        await fleet.connect(WARM * processes)  # costs that occur once are not counted for a stream
        await fleet.deliver(round(OWN_RATE), OWN_RATE)
        await fleet.every("disconnect")
        empty, begin = fleet.memory(), await fleet.used()
        await fleet.connect(streams)
        connected = await fleet.used()
        first = await fleet.deliver(FIRST_CHANGES, OWN_RATE)
        quiet = await fleet.used()
        await asyncio.sleep(IDLE_SECONDS)
        idle = (await fleet.used()).since(quiet)
        own = await fleet.deliver(round(OWN_RATE * seconds), OWN_RATE)
        shared = await fleet.deliver(round(SHARED_RATE * seconds), SHARED_RATE, shared=True)
        memory = fleet.memory().each(empty, streams)
        burst = await fleet.deliver(BURST_CHANGES, math.inf, rows=BURST_ROWS)
        await fleet.every("disconnect")
    return Scale(streams, processes, relay, connected.since(begin), first, memory, idle, own, shared, burst)


async def prepare(url: str) -> str:
    """Fill the tables and count statements. Returns the version of PostgreSQL."""
    version = await database.load(url, ROWS, plain=False)
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE EXTENSION pg_stat_statements")
    await connection.close()
    return version


@click.command()
@click.option("--streams", "counts", multiple=True, default=(2_000, 10_000), show_default=True, help="Repeatable.")
@click.option("--processes", multiple=True, type=int, help="Repeatable. Otherwise as few as may open so many files.")
@click.option("--relay", type=click.Choice(["without", "with", "both"]), default="both", show_default=True)
@click.option(
    "--seconds", default=8, type=click.IntRange(1), show_default=True, help="How long changes of each kind are written."
)
@click.option("--json", "file", type=click.Path(path_type=Path), help="A file that gets everything measured.")
def main(counts: tuple[int, ...], processes: tuple[int, ...], relay: str, seconds: int, file: Path | None) -> None:
    """Measure many streams, and print Markdown tables. Needs Linux, root for the kernel's memory, and nats-server."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything that was started is ended
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - SPARE
    fewest = [(count, -(-count // files)) for count in counts]
    runs = list(product(counts, processes)) or fewest
    allow_descriptors(max(-(-count // number) for count, number in runs) + SPARE)
    found = []
    with tempfile.TemporaryDirectory(prefix="rowcast-scale-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        with EmbeddedPostgres(directory / "data", settings=SETTINGS) as postgres:
            peers.migrate(postgres.url)
            version = asyncio.run(prepare(postgres.url))
            for (count, number), with_relay in product(runs, RELAYS[relay]):
                click.echo(f"{count:,} streams, {number} processes, relay: {with_relay}", err=True)
                one = asyncio.run(measure(postgres, directory, count, number, with_relay, seconds))
                click.echo(orjson.dumps(asdict(one)).decode(), err=True)
                found.append(one)
    print(report(version, found))
    if file is not None:
        file.write_bytes(orjson.dumps(list(map(asdict, found)), option=orjson.OPT_INDENT_2))


def report(postgres: str, found: Sequence[Scale]) -> str:
    """Everything measured as Markdown."""
    lines = [
        f"Rowcast {__version__}, Python {platform.python_version()}, PostgreSQL {postgres}; {os.cpu_count()} CPUs, "
        f"{platform.system()} {platform.release()}, load average {os.getloadavg()[1]:.1f} at the end.",
        "",
        *table("streams", "processes", "relay", "connects/s", "ms of CPU to connect one", "at its first change", "RSS KiB", "PSS KiB",
               "sockets KiB", "buffers KiB", "idle: service CPU %", "PostgreSQL CPU %", "statements/s"),
    ]  # fmt: skip
    for one in found:
        lines.append(row(
            *_names(one), f"{one.streams / one.connect.seconds:,.0f}", f"{one.connect.service / one.streams * 1e3:.2f}", f"{one.first.load.service / one.streams * 1e3:.2f}",
            *(f"{kib:.1f}" for kib in (one.memory.rss, one.memory.pss, one.memory.sockets, one.memory.buffers)),
            *_rates(one.idle),
        ))  # fmt: skip
    lines += ["", *table("streams", "processes", "relay", "each change is for", "deliveries/s", "median ms", "p99 ms",
                         "service CPU %", "PostgreSQL CPU %", "statements/s")]  # fmt: skip
    for one in found:
        for receivers, each in (("one stream", one.own), ("a tenth", one.shared)):
            lines.append(row(
                *_names(one), receivers, f"{each.deliveries / each.load.seconds:,.0f}", f"{each.median:.1f}", f"{each.p99:.1f}",
                *_rates(each.load),
            ))  # fmt: skip
    lines += ["", *table("streams", "processes", "relay", "changes/s of a burst", "µs of CPU for a change in each process",
                         "in PostgreSQL", "median ms", "p99 ms")]  # fmt: skip
    for one in found:
        each = one.burst
        lines.append(row(
            *_names(one), f"{each.changes / each.load.seconds:,.0f}",
            f"{each.load.service / each.changes / one.processes * 1e6:.0f}",
            f"{each.load.postgres / each.changes * 1e6:.0f}", f"{each.median:,.0f}", f"{each.p99:,.0f}",
        ))  # fmt: skip
    return "\n".join(lines)


def _names(one: Scale) -> tuple[str, ...]:
    return f"{one.streams:,}", str(one.processes), "with" if one.relay else "without"


def _rates(load: Load) -> tuple[str, ...]:
    """CPU of the service and of PostgreSQL in percent of one core, and statements a second."""
    cpu = (f"{seconds / load.seconds * 100:.0f}" for seconds in (load.service, load.postgres))
    return *cpu, f"{load.statements / load.seconds:.0f}"


if __name__ == "__main__":
    main()
