"""``make bench``: the same rows for everybody, a check that all answer alike, then load on one after the other."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click
import orjson

from bench import database, load, peers, report
from bench.cases import CASES, TASKS, Case
from bench.peers import Server
from bench.report import Round
from service.database.embedded import EmbeddedPostgres


@click.command()
@click.option("--seconds", default=2, show_default=True, help="How long each load lasts.")
@click.option("--rounds", default=5, show_default=True, help="How many loads each server gets in each case.")
@click.option(
    "--only", multiple=True, type=click.Choice([case.name for case in CASES]), help="Only this case; repeatable."
)
@click.option("--json", "file", type=click.Path(path_type=Path), help="A file that gets every round.")
def main(seconds: int, rounds: int, only: tuple[str, ...], file: Path | None) -> None:
    """Compare the service with the floor, and print a Markdown table. Needs Linux, whose /proc tells CPU and memory."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything that was started is ended
    cases = [case for case in CASES if not only or case.name in only]
    found: list[Round] = []
    with ExitStack() as stack:
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="rowcast-bench-", ignore_cleanup_errors=True))
        )
        postgres = stack.enter_context(EmbeddedPostgres(directory / "data"))
        peers.migrate(postgres.url)
        version = asyncio.run(database.load(postgres.url))
        servers = [
            stack.enter_context(peers.running(peer, directory / f"{peer.name}.log"))
            for peer in peers.peers(postgres.url)
        ]
        for case in cases:
            taking_part = [server for server in servers if case.name in server.peer.paths]
            check(case, taking_part)
            found += measure(case, taking_part, postgres.pid, rounds, seconds)
    print(report.header(version, rounds, seconds))
    print(report.table(cases, found))
    if file is not None:
        file.write_bytes(orjson.dumps(report.document(found), option=orjson.OPT_INDENT_2))


def check(case: Case, servers: Sequence[Server]) -> None:
    """See that every server answers a few requests with success, and like the first."""
    for number in (1, TASKS // 2, TASKS):
        status, expected = servers[0].ask(case, number)
        for server in servers:
            answer = server.ask(case, number)
            if status >= 300 or answer != (status, expected):
                raise click.ClickException(
                    f"{case.title}: {server.peer.name} answers {answer}, {servers[0].peer.name} {(status, expected)}"
                )


def measure(case: Case, servers: Sequence[Server], postmaster: int, rounds: int, seconds: int) -> list[Round]:
    """Each server under load in turn, in the opposite order every other round, after a round that does not count."""
    found: dict[str, list[Round]] = {server.peer.name: [] for server in servers}
    for number in range(rounds + 1):
        click.echo(f"{case.title}: {f'round {number} of {rounds}' if number else 'warming up'}", err=True)
        for server in servers if number % 2 else reversed(servers):
            one = measure_once(case, server, postmaster, number, seconds if number else 1)
            if number:
                found[server.peer.name].append(one)
    return [one for of_peer in found.values() for one in of_peer]


def measure_once(case: Case, server: Server, postmaster: int, number: int, seconds: int) -> Round:
    """One load on one server, and what it took."""
    before, postgres_before = server.cpu, peers.postgres_cpu(postmaster)
    done = load.put(server.origin, case, server.peer.paths[case.name], seconds=seconds, seed=number)
    cpu, postgres = server.cpu - before, peers.postgres_cpu(postmaster) - postgres_before
    if done.failed or not done.requests:
        raise click.ClickException(f"{case.title}: {server.peer.name} failed {done.failed} of {done.requests} requests")
    return Round(
        case.name, server.peer.name, number, done, done.requests / done.seconds,
        cpu / done.requests * 1e6, postgres / done.requests * 1e6, server.rss,
    )  # fmt: skip


if __name__ == "__main__":
    main()
