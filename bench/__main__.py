"""``make bench``: the same rows for every server, a check that all return the same, then a load on each in turn."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click
import orjson

from bench import database, load, page, peers, report
from bench.cases import AUTHORS, CASES, KEY, TASKS, Case
from bench.environments import Unavailable
from bench.peers import FLOORS, PEERS, Peer, Server
from bench.report import Mode, Round
from rowcast.database.embedded import EmbeddedPostgres

PATIENCE: Final = 10  # s, for the first answer under load
NAMES: Final = tuple(dict.fromkeys(peer.name for peer in PEERS))


@dataclass(slots=True)
class Bench:
    """How long and how often, on what."""

    postgres: EmbeddedPostgres
    directory: Path
    seconds: int
    rounds: int


@click.command()
@click.option("--seconds", default=2, show_default=True, help="How long each load lasts.")
@click.option("--rounds", default=3, show_default=True, help="How many loads each server gets in each case.")
@click.option("--mode", multiple=True, type=click.Choice([mode.name for mode in Mode]), help="Only so; repeatable.")
@click.option("--peer", multiple=True, type=click.Choice(NAMES), help="Only this one and the floor; repeatable.")
@click.option(
    "--only", multiple=True, type=click.Choice([case.name for case in CASES]), help="Only this case; repeatable."
)
@click.option("--json", "file", type=click.Path(path_type=Path), help="A file that gets every round.")
@click.option(
    "--write", is_flag=True, help="Write docs/performance.md, its picture, and a line of bench/history.jsonl."
)
def main(
    seconds: int,
    rounds: int,
    mode: tuple[str, ...],
    peer: tuple[str, ...],
    only: tuple[str, ...],
    file: Path | None,
    write: bool,
) -> None:
    """Compare the service with the floor and with its peers, and print Markdown. Needs Linux, for CPU and memory."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything that was started is ended
    cases = [case for case in CASES if not only or case.name in only]
    modes = [one for one in Mode if not mode or one.name in mode]
    wanted = [one for one in PEERS if not peer or one.name in peer or one.name in FLOORS]
    wanted = [one for one in wanted if any(case.name in one.paths for case in cases)]
    available, missing = installed(wanted)
    busy = os.getloadavg()[0]
    found: list[Round] = []
    with ExitStack() as stack:
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="rowcast-bench-", ignore_cleanup_errors=True))
        )
        settings = {"max_connections": "300"}
        postgres = stack.enter_context(EmbeddedPostgres(directory / "data", settings=settings))
        peers.migrate(postgres.url)
        bench = Bench(postgres, directory, seconds, rounds)
        click.echo(
            f"The loads take {minutes(bench, modes, available, cases):.0f} minutes, and starting the servers a few more.",
            err=True,
        )
        failure: click.ClickException | None = None
        for one in modes:
            version = asyncio.run(database.load(postgres.url))
            try:
                found.extend(run(bench, one, available, cases))
            except click.ClickException as error:  # what was measured until then is reported
                failure = error
                break
    measured = {each.case for each in found}
    cases = [case for case in cases if case.name in measured]
    if not cases and failure is not None:
        raise failure
    results = report.Report(
        version, rounds, seconds, tuple(available), tuple(missing), busy, tuple(cases), tuple(found)
    )
    print(results.markdown())
    if file is not None:
        file.write_bytes(orjson.dumps(results.document(), option=orjson.OPT_INDENT_2))
    if failure is not None:
        raise failure
    if write:
        page.write("rest", results.markdown(), results.pictures())
        page.remember(results.summary())


def installed(wanted: Sequence[Peer]) -> tuple[list[Peer], list[str]]:
    """Those that can be had, and in words why others cannot."""
    available, missing = [], []
    for peer in wanted:
        try:
            peer.install()
            available.append(peer)
        except Unavailable as why:
            click.echo(f"{peer.name} is left out: {why}", err=True)
            missing.append(f"{peer.name}: {why}")
    return available, missing


def minutes(bench: Bench, modes: Sequence[Mode], wanted: Sequence[Peer], cases: Sequence[Case]) -> float:
    """How long all loads take: those of each round, and one of a second before them."""
    loads = sum(
        case.name in peer.paths
        for mode in modes for peer in wanted if mode.workers <= peer.workers for case in cases
    )  # fmt: skip
    return loads * (1 + bench.rounds * bench.seconds) / 60


def run(bench: Bench, mode: Mode, wanted: Sequence[Peer], cases: Sequence[Case]) -> Iterator[Round]:
    """Everything in one mode: the servers run at the same time, and get load one after the other.

    First only the servers that take part in reads run, then only those that take part in writes: a server that follows
    changes would add to the cost of the writes of others.
    """
    for writes in (False, True):
        some = [case for case in cases if case.writes is writes]
        with ExitStack() as stack:
            own = stack.enter_context(cores(bench.postgres, pinned=mode.one_core))
            servers = [
                stack.enter_context(
                    peers.running(
                        peer, bench.postgres.url, bench.directory / f"{number}.log", workers=mode.workers, cores=own
                    )
                )
                for number, peer in enumerate(wanted)
                if mode.workers <= peer.workers and any(case.name in peer.paths for case in some)
            ]
            for case in some:
                taking_part = [server for server in servers if case.name in server.peer.paths]
                if case.shares:  # the writes before it have changed other rows in the tables of each role
                    asyncio.run(database.load(bench.postgres.url))
                check(case, taking_part)
                yield from measure(bench, mode, case, taking_part)


@contextmanager
def cores(postgres: EmbeddedPostgres, *, pinned: bool) -> Iterator[set[int]]:
    """The cores of the servers; if pinned that is one, and PostgreSQL and the load are on the others."""
    every = os.sched_getaffinity(0)
    first = {min(every)}
    if pinned and len(every) < 2:
        raise click.ClickException("pinning needs two cores: --mode free")
    try:
        if pinned:
            os.sched_setaffinity(0, every - first)
            peers.pin_postgres(postgres.pid, every - first)
        yield first if pinned else every
    finally:
        os.sched_setaffinity(0, every)
        peers.pin_postgres(postgres.pid, every)


def check(case: Case, servers: Sequence[Server]) -> None:
    """Check that every server answers a few requests with success, and as the first server does."""
    for number in (1, TASKS // 2, TASKS):
        first: list[tuple[int, object]] = []
        for server in servers:
            answers = list(server.ask_parts(case, number)) if case.shares else [server.ask(case, number)]
            good = all(status == HTTPStatus.NOT_MODIFIED if case.conditional else status < 300 for status, _ in answers)
            contents = [content for _, content in answers]
            if case.shares:
                contents[1:2] = []  # the newest page, which has the rows that others have made
            if not good or contents != (first := first or contents):
                raise click.ClickException(
                    f"{case.title}: {server.peer.name} answers {answers}, and {servers[0].peer.name} {first}\n"
                    + server.log.read_text()[-2000:]
                )


def write_tags(bench: Bench, case: Case, server: Server) -> Path:
    """A file with the tags of the responses to conditional requests: of each row, or of the page."""
    path = server.peer.paths[case.name]
    rows = range(1, (case.rows if "TASK" in path else 1) + 1)
    file = bench.directory / f"{server.pid}-{case.name}.tags"
    file.write_text("".join(f"{server.tag(case, number, path)}\n" for number in rows))
    return file


def measure(bench: Bench, mode: Mode, case: Case, servers: Sequence[Server]) -> Iterator[Round]:
    """Each server under load in turn, in the opposite order every other round, after a round that does not count."""
    with ExitStack() as stack:
        for server in servers if case.streams else ():
            stack.enter_context(open_streams(server, case.streams))
        tags = {server.pid: write_tags(bench, case, server) for server in servers if case.conditional}
        for number in range(bench.rounds + 1):
            say = f"round {number} of {bench.rounds}" if number else "warming up"
            click.echo(f"{mode.title}; {case.title}: {say}", err=True)
            for server in servers if number % 2 else reversed(servers):
                one = measure_once(bench, mode, case, server, number, tags.get(server.pid))
                if number:
                    yield one


@contextmanager
def open_streams(server: Server, count: int) -> Iterator[None]:
    """Streams of a process of their own, each for the tasks of one author."""
    address = urlsplit(server.origin)
    paths = [f"/tasks/stream/?author={KEY.format(number % AUTHORS + 1)}" for number in range(count)]
    command = orjson.dumps(["connect", address.hostname, address.port, paths]) + b"\n"
    with subprocess.Popen(
        [sys.executable, "-m", "bench.stream_clients"], cwd=peers.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(command)
        process.stdin.flush()
        if process.stdout.readline().strip() != b"%d" % count:
            raise click.ClickException(f"{server.peer.name} did not open {count} streams")
        yield
        if process.poll() is not None:
            raise click.ClickException(f"{server.peer.name} has ended a stream")
        process.stdin.close()


def measure_once(bench: Bench, mode: Mode, case: Case, server: Server, number: int, tags: Path | None) -> Round:
    """One load on one server, and what it took; the first, which does not count, is short."""
    postmaster = bench.postgres.pid
    before, postgres_before = server.cpu, peers.postgres_cpu(postmaster)
    path = server.peer.paths[case.name]
    seconds = bench.seconds if number else 1
    while True:
        done = load.put(
            server.origin, server.peer.case(case), path, seconds=seconds, seed=number, tasks=case.rows,
            connections=case.connections, tags=tags,
        )  # fmt: skip
        if done.requests or seconds > PATIENCE:
            break
        seconds *= 2  # on a busy machine even the first answers may take so long
    cpu, postgres = server.cpu - before, peers.postgres_cpu(postmaster) - postgres_before
    if done.failed or not done.requests:
        raise click.ClickException(f"{case.title}: {server.peer.name} failed {done.failed} of {done.requests} requests")
    return Round(
        mode.name, case.name, server.peer.name, number, done, done.requests / done.seconds,
        cpu / done.requests * 1e6, postgres / done.requests * 1e6, server.rss,
    )  # fmt: skip


if __name__ == "__main__":
    main()
