"""How the cost of the service grows: with rows, connections and resources; and whether its memory does.

``python -m bench.growth``; ``--big`` goes up to ten million rows and a million requests.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Final

import asyncpg
import click

from bench import cases, database, load, page, peers, plot, report
from bench.cases import CASES, GET, TASKS, Case
from bench.environments import BENCH
from bench.peers import PEERS, ROWCAST_NAME, Server
from rowcast.database.embedded import EmbeddedPostgres

ROWS: Final = (1_000, 100_000)
MANY_ROWS: Final = 10_000_000
CONNECTIONS: Final = (1, 16, 64, 256)
PROCESSES: Final = (1, 2)
RESOURCES: Final = (1, 50, 200)
REQUESTS, MANY_REQUESTS = 100_000, 1_000_000
SAMPLES: Final = 10  # of memory, while the requests are made
ROWCASTS: Final = tuple(peer for peer in PEERS if peer.name == ROWCAST_NAME)  # with and without count
GROWING: Final = ("get", "first", "uncounted", "filtered")
WIDE: Final = ("get", "uncounted")
RESOURCE: Final = """
fields:
  id: {type: uuid, primary_key: true}
  title: {type: string, max_length: 200}
  completed: {type: boolean, default: false}
  priority: {type: string, choices: [low, normal, high], default: normal}
  created_at: {type: datetime, auto_now_add: true}
viewset:
  permission_classes: [AllowAny]
  filterset_fields: {completed: [exact], priority: [exact, in]}
  search_fields: [title]
  ordering: [-created_at]
"""

Series = dict[str, list[tuple[float, float]]]


@dataclass(slots=True)
class Run:
    """Where it runs, and how long each load lasts."""

    postgres: EmbeddedPostgres
    directory: Path
    seconds: int
    rounds: int

    @contextmanager
    def rowcast(self, *, config: Path | None = None, url: str = "", workers: int = 1) -> Iterator[dict[str, Server]]:
        """The service, by the names of the cases that it is configured for; another configuration has all of them."""
        with ExitStack() as stack:
            found: dict[str, Server] = {}
            for number, peer in enumerate(ROWCASTS[:1] if config else ROWCASTS):
                if config:
                    peer = replace(peer, command=_with_config(peer.command, config))
                log = self.directory / f"{number}.log"
                server = stack.enter_context(peers.running(peer, url or self.postgres.url, log, workers=workers))
                found |= dict.fromkeys(peer.paths, server)
            yield found

    def rate(
        self, server: Server, case: Case, *, tasks: int = TASKS, connections: int = cases.CONNECTIONS
    ) -> load.Load:
        """The median load of some rounds, by requests, after one that does not count."""
        path = server.peer.paths[case.name]
        found = []
        server.ask(case, 1)  # this may take long, because it counts
        for number in range(self.rounds + 1):
            done = load.put(
                server.origin, case, path, seconds=self.seconds if number else 1, seed=number, tasks=tasks,
                connections=connections,
            )  # fmt: skip
            if done.failed or not done.requests:
                raise click.ClickException(f"{case.title}: failed {done.failed} of {done.requests} requests")
            found += [done] if number else []
        return sorted(found, key=lambda done: done.requests / done.seconds)[len(found) // 2]


@click.command()
@click.option("--seconds", default=2, show_default=True, help="How long each load lasts.")
@click.option("--rounds", default=3, show_default=True, help="How often each load is put.")
@click.option("--big", is_flag=True, help=f"Up to {MANY_ROWS:,} rows and {MANY_REQUESTS:,} requests.")
@click.option("--write", is_flag=True, help="Write its part of docs/performance.md.")
def main(seconds: int, rounds: int, big: bool, write: bool) -> None:
    """Measure how cost grows, and print Markdown. Needs Linux, because memory is read from /proc."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all child processes are ended
    with ExitStack() as stack:
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="rowcast-bench-", ignore_cleanup_errors=True))
        )
        postgres = stack.enter_context(EmbeddedPostgres(directory / "data"))
        peers.migrate(postgres.url)
        run = Run(postgres, directory, seconds, rounds)
        of_resources = grow_resources(run)
        of_rows = grow_rows(run, (*ROWS, MANY_ROWS) if big else ROWS)
        asyncio.run(database.load(postgres.url, plain=False))
        of_connections = grow_connections(run)
        of_processes = grow_processes(run)
        lists = large_lists(run)
        memory = grow_requests(run, MANY_REQUESTS if big else REQUESTS)
    text = markdown(run, of_rows, of_connections, of_processes, of_resources, lists, memory)
    print(text)
    if write:
        page.write("growth", text, {
            "growth-rows.svg": plot.lines("Requests a second, by rows of the table", "rows", of_rows),
            "growth-connections.svg": plot.lines(
                "Requests a second, by connections", "connections",
                {name: [(at, done.requests / done.seconds) for at, done in line] for name, line in of_connections.items()},
            ),
            "growth-requests.svg": plot.lines("MiB of memory, by requests answered", "requests", {"RSS": memory}),
        })  # fmt: skip


def grow_rows(run: Run, sizes: Sequence[int]) -> Series:
    """Requests a second of some cases on a table of each size."""
    found: Series = {}
    for size in sizes:
        click.echo(f"{size:,} rows", err=True)
        asyncio.run(database.load(run.postgres.url, size, plain=False))
        with run.rowcast() as servers:
            for case in _cases(GROWING):
                done = run.rate(servers[case.name], case, tasks=size)
                found.setdefault(case.title, []).append((size, done.requests / done.seconds))
    return found


def grow_connections(run: Run) -> dict[str, list[tuple[float, load.Load]]]:
    """Loads over as many connections."""
    found: dict[str, list[tuple[float, load.Load]]] = {}
    with run.rowcast() as servers:
        for case in _cases(WIDE):
            for connections in CONNECTIONS:
                click.echo(f"{case.title}, {connections} connections", err=True)
                done = run.rate(servers[case.name], case, connections=connections)
                found.setdefault(case.title, []).append((connections, done))
    return found


def grow_processes(run: Run) -> Series:
    """Requests a second of some cases with as many processes of the service."""
    found: Series = {}
    for processes in PROCESSES:
        click.echo(f"{processes} processes", err=True)
        with run.rowcast(workers=processes) as servers:
            for case in _cases(GROWING):
                done = run.rate(servers[case.name], case)
                found.setdefault(case.title, []).append((processes, done.requests / done.seconds))
    return found


def grow_resources(run: Run) -> list[tuple[int, float, float, float]]:
    """For as many resources: seconds until the service answers, seconds of CPU for that, and MiB."""
    found = []
    for count in RESOURCES:
        click.echo(f"{count} resources", err=True)
        config = run.directory / f"config-{count}"
        (config / "resources").mkdir(parents=True)
        for number in range(count):
            (config / "resources" / f"things{number}.yaml").write_text(RESOURCE)
        url = asyncio.run(_new_database(run.postgres.url, f"resources_{count}"))
        peers.migrate(url, config)
        times = []
        for _ in range(run.rounds):
            began = time.monotonic()
            peer = replace(ROWCASTS[0], command=_with_config(ROWCASTS[0].command, config), paths={"first": "/things0/"})
            with peers.running(peer, url, run.directory / "resources.log") as server:
                times.append((time.monotonic() - began, server.cpu, server.rss))
        found.append((count, *(median(column) for column in zip(*times, strict=True))))
    return [(count, seconds, cpu, rss) for count, seconds, cpu, rss in found]


def large_lists(run: Run) -> list[tuple[str, int, float, float]]:
    """The largest lists that a client can request: the rows of the response, and the peak MiB of the service before and with it."""
    unpaged = run.directory / "unpaged"
    shutil.copytree(BENCH / "config", unpaged)
    tasks = unpaged / "resources" / "tasks.yaml"
    tasks.write_text(f"{tasks.read_text()}  pagination_class: null\n")
    found = []
    for title, config, path in (
        ("`?page_size=100000`", None, "/tasks/?page_size=100000"), ("without pagination", unpaged, "/tasks/"),
    ):  # fmt: skip
        click.echo(title, err=True)
        with run.rowcast(config=config) as servers:
            server = servers["first"]
            before = _peak(server)
            _, rows = server.ask(replace(GET, name="large"), 1, path)
            done = load.put(server.origin, GET, path, seconds=run.seconds * run.rounds, seed=1)
            if done.failed or not server.is_ready():
                raise click.ClickException(f"{title}: {done.failed} of {done.requests} requests failed")
            found.append((title, len(rows[1]), before, _peak(server)))
    return found


def grow_requests(run: Run, requests: int) -> list[tuple[float, float]]:
    """MiB of the service after so many requests: rows, pages and writes in turn."""
    found: list[tuple[float, float]] = []
    requested = _cases(("get", "small", "filtered", "create", "patch"))
    made = number = 0
    with run.rowcast() as servers:
        server = servers["get"]
        for sample in range(1, SAMPLES + 1):
            while made < requests * sample / SAMPLES:
                case = requested[number % len(requested)]
                made += load.put(server.origin, case, server.peer.paths[case.name], seconds=1, seed=number).requests
                number += 1
            click.echo(f"{made:,} requests: {server.rss:.0f} MiB", err=True)
            found.append((made, server.rss))
    return found


def markdown(
    run: Run,
    rows: Series,
    connections: Mapping[str, Sequence[tuple[float, load.Load]]],
    processes: Series,
    resources: Sequence[tuple[int, float, float, float]],
    lists: Sequence[tuple[str, int, float, float]],
    memory: Sequence[tuple[float, float]],
) -> str:
    """All of it, for people."""
    sizes = [f"{at:,.0f}" for at, _ in next(iter(rows.values()))]
    scaled = [(name, line[0][1], line[1][1]) for name, line in processes.items()]
    widths = [f"{at:,.0f}" for at, _ in next(iter(connections.values()))]

    def row(name: str, values: Sequence[str]) -> str:
        return f"| {name} | {' | '.join(values)} |"

    def head(name: str, columns: Sequence[str]) -> list[str]:
        return [row(name, columns), f"|---|{'---:|' * len(columns)}"]

    def block(lines: Sequence[str]) -> str:
        return "\n".join(lines)

    def of(value: Callable[[load.Load], str]) -> list[str]:
        return [row(name, [value(done) for _, done in line]) for name, line in connections.items()]

    first, last = memory[len(memory) // 2][1], memory[-1][1]
    return "\n\n".join([
        "## Growth",
        f"{datetime.now(UTC).date()}, on {report.machine()}. One process; it shares the machine with PostgreSQL and the "
        f"load. Medians of {run.rounds} rounds of {run.seconds} s.",
        "![By rows](growth-rows.svg)",
        block([*head("req/s, by rows of the table", sizes), *(row(n, [f"{y:,.0f}" for _, y in line]) for n, line in rows.items())]),
        "![By connections](growth-connections.svg)",
        block([*head("req/s, by connections", widths), *of(lambda done: f"{done.requests / done.seconds:,.0f}")]),
        block([*head("p99 ms, by connections", widths), *of(lambda done: f"{done.p99:.1f}")]),
        f"{PROCESSES[-1]} processes, on {os.cpu_count()} CPUs that they share with PostgreSQL and the load:",
        block([
            *head("req/s, by processes", (*map(str, PROCESSES), "ratio")),
            *(row(name, (f"{one:,.0f}", f"{two:,.0f}", f"{two / one:.2f}")) for name, one, two in scaled),
        ]),
        block([
            *head("resources", ("s until ready", "CPU s until ready", "RSS MiB")),
            *(row(str(n), (f"{seconds:.2f}", f"{cpu:.2f}", f"{rss:.0f}")) for n, seconds, cpu, rss in resources),
        ]),
        f"The largest responses that a client can request, {cases.CONNECTIONS} at a time, from {TASKS:,} rows:",
        block([
            *head("list", ("rows in the response", "peak MiB before", "peak MiB after")),
            *(row(title, (f"{n:,}", f"{before:.0f}", f"{after:.0f}")) for title, n, before, after in lists),
        ]),
        "![Memory](growth-requests.svg)",
        f"After {memory[-1][0]:,.0f} requests (rows, pages and writes in turn) the service uses {last:.0f} MiB; half way it used "
        f"{first:.0f} MiB.",
    ])  # fmt: skip


def _cases(names: Sequence[str]) -> list[Case]:
    return [case for case in CASES if case.name in names]


def _with_config(command: Sequence[str], config: Path) -> tuple[str, ...]:
    return tuple(str(config) if part == peers.CONFIG[1] else part for part in command)


async def _new_database(url: str, name: str) -> str:
    """The address of a new, empty database on the same server."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    return url.replace("/rowcast?", f"/{name}?")


def _peak(server: Server) -> float:
    """MiB of memory that the service ever had."""
    found = re.search(r"^VmHWM:\s*(\d+) kB", Path(f"/proc/{server.pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


if __name__ == "__main__":
    main()
