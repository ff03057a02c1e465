"""What a read replica takes off the primary: ``python -m bench.replicas`` prints the CPU of both servers for each read.

A stream that resumes reads old changes: there it is the CPU for each change.

The service is one process. It, the load and both servers share one machine, so compare CPU; rates say nothing of two machines.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import monotonic, sleep
from typing import Final
from urllib.request import urlopen

import asyncpg
import click
from tests.standbys import Standby, until_replayed

from bench import database, load, peers
from bench.cases import CASES
from bench.stream_report import row, table
from rowcast.database.embedded import EmbeddedPostgres

REPLICAS: Final = "ROWCAST_DATABASE_REPLICAS"
READS: Final = tuple(case for case in CASES if case.name in {"get", "first", "filtered"})
WARM_SECONDS: Final = 1
CHANGES: Final = 50_000  # that a stream has missed, in transactions of a hundred
WRITE: Final = "UPDATE tasks SET view_count = view_count + 1 WHERE id IN (SELECT id FROM tasks LIMIT 100 OFFSET $1)"
NEWEST: Final = "SELECT epoch || '-' || tick || '-0' FROM rowcast.tick ORDER BY tick DESC LIMIT 1"


async def follow(primary: EmbeddedPostgres, standby: Standby) -> None:
    """Start a standby, and wait until it has what the primary has."""
    connection = await standby.start()
    writer = await asyncpg.connect(primary.url)
    await until_replayed(writer, connection)
    await writer.close()
    await connection.close()


async def change(url: str) -> str:
    """Change rows, and remove their old versions, which a standby would read again and again; return the position before."""
    connection = await asyncpg.connect(url)
    position: str = await connection.fetchval(NEWEST)
    for first in range(0, CHANGES, 100):
        await connection.execute(WRITE, first % 5000)
    await connection.execute("VACUUM tasks")
    await connection.close()
    return position


def catch_up(origin: str, position: str) -> float:
    """Read all changes after a position from a stream, and return the seconds that it takes."""
    begun, left = monotonic(), CHANGES
    with urlopen(f"{origin}/tasks/stream/?last_event_id={position}") as stream:
        while left:
            left -= stream.readline().startswith(b'data: {"action"')
    return monotonic() - begun


def rowcast() -> peers.Peer:
    """The service."""
    return next(peer for peer in peers.PEERS if peer.name == peers.ROWCAST_NAME)


def measure(
    primary: EmbeddedPostgres,
    standby: EmbeddedPostgres,
    log: Path,
    environment: Mapping[str, str],
    position: str,
    seconds: int,
) -> dict[str, tuple[float, ...]]:
    """For each read: requests a second, and µs of CPU of the service, the primary and the standby for each request."""
    made = rowcast()
    found = {}
    with peers.running(replace(made, environment={**made.environment, **environment}), primary.url, log) as server:

        def used() -> tuple[float, ...]:
            return server.cpu, peers.postgres_cpu(primary.pid), peers.postgres_cpu(standby.pid)

        def each(before: tuple[float, ...], number: int, took: float) -> tuple[float, ...]:
            return (number / took, *((late - early) / number * 1e6 for late, early in zip(used(), before, strict=True)))

        for case in READS:
            address = peers.PATHS[case.name]
            load.put(server.origin, case, address, seconds=WARM_SECONDS, seed=0)
            before = used()
            done = load.put(server.origin, case, address, seconds=seconds, seed=1)
            found[case.title] = each(before, done.requests, done.seconds)
        before = used()
        found["old change of a stream"] = each(before, CHANGES, catch_up(server.origin, position))
    return found


@click.command()
@click.option("--seconds", default=4, show_default=True, help="How long each read is measured.")
@click.option("--rounds", default=3, show_default=True)
def main(seconds: int, rounds: int) -> None:
    """Measure reads without and with a standby, and print a Markdown table."""
    found: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="rowcast-replicas-", ignore_cleanup_errors=True) as name,
        ExitStack() as stack,
    ):
        directory = Path(name)
        primary = stack.enter_context(EmbeddedPostgres(directory / "data"))
        peers.migrate(primary.url)
        asyncio.run(database.load(primary.url, plain=False))
        standby = Standby(primary.url, directory / "standby")
        stack.callback(standby.server.stop)
        asyncio.run(follow(primary, standby))
        with peers.running(rowcast(), primary.url, directory / "service.log"):
            position = asyncio.run(change(primary.url))
            sleep(WARM_SECONDS)  # until there is a tick for all of it, which the standby has, too
        settings: dict[str, dict[str, str]] = {"the primary": {}, "the replica": {REPLICAS: standby.server.url}}
        for number in range(rounds):
            for source in settings if number % 2 else reversed(settings):
                click.echo(f"reads from {source}: round {number + 1} of {rounds}", err=True)
                reads = measure(primary, standby.server, directory / "service.log", settings[source], position, seconds)
                for title, figures in reads.items():
                    found.setdefault((title, source), []).append(figures)
    print("\n".join(table("read", "from", "req/s", "service CPU µs", "primary CPU µs", "replica CPU µs")))
    for names, all_figures in sorted(found.items()):
        print(row(*names, *(f"{median(column):,.0f}" for column in zip(*all_figures, strict=True))))


if __name__ == "__main__":
    main()
