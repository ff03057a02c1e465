"""The results as Markdown and as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from bench import load
from bench.cases import AUTHORS, TASKS, Case
from service import __version__

COLUMNS = ("case", "server", "req/s", "of floor", "median ms", "p99 ms", "CPU µs", "PostgreSQL CPU µs", "RSS MiB")


@dataclass(frozen=True, slots=True)
class Round:
    """One load on one peer. CPU is in microseconds a request, RSS in MiB."""

    case: str
    peer: str
    number: int
    load: load.Load
    rate: float
    cpu: float
    postgres_cpu: float
    rss: float


def header(postgres: str, rounds: int, seconds: int) -> str:
    """What was compared, on what, and how."""
    versions = [f"Rowcast {__version__}", f"Python {platform.python_version()}", f"PostgreSQL {postgres}"]
    versions += [f"{name} {metadata.version(name)}" for name in ("aiohttp", "uvloop", "asyncpg", "orjson")]
    machine = f"{os.cpu_count()} CPUs ({_processor()}), {platform.system()} {platform.release()}"
    return f"""# What a request costs

{", ".join(versions)}; {machine}.

{TASKS:,} tasks of 10 columns and {AUTHORS:,} authors in an embedded PostgreSQL with its own defaults (fsync on).
Every server is one process with 10 connections; all share the machine with PostgreSQL and with the load:
{load.CONNECTIONS} connections of {load.generator()}.
*Floor* is the same stack by hand and without features (`bench/floor.py`), on tables of its own without triggers;
*floor, changes logged* is the same code on the service's tables. Answers are checked to be equal before they are timed.
Medians of {rounds} rounds of {seconds} s each, in which the servers take turns; a ratio is of loads of the same round.
CPU is for each request, of the server's process and of all processes of PostgreSQL.
"""


def table(cases: Sequence[Case], rounds: Sequence[Round]) -> str:
    """Medians over the rounds, a line for each case and peer."""
    lines = [COLUMNS, tuple("---" if n < 2 else "---:" for n in range(len(COLUMNS)))]
    for case in cases:
        of_peer: dict[str, list[Round]] = {}
        for one in rounds:
            if one.case == case.name:
                of_peer.setdefault(one.peer, []).append(one)
        floor = next(iter(of_peer.values()))
        lines += [(case.title, peer, *_medians(own, floor)) for peer, own in of_peer.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def document(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """Every round, for JSON."""
    return [asdict(one) for one in rounds]


def _medians(rounds: Sequence[Round], floor: Sequence[Round]) -> Iterator[str]:
    yield f"{median(one.rate for one in rounds):,.0f}"
    yield f"{median(one.rate / low.rate for one, low in zip(rounds, floor, strict=True)):.2f}"
    yield f"{median(one.load.median for one in rounds):.1f}"
    yield f"{median(one.load.p99 for one in rounds):.1f}"
    yield f"{median(one.cpu for one in rounds):,.0f}"
    yield f"{median(one.postgres_cpu for one in rounds):,.0f}"
    yield f"{median(one.rss for one in rounds):.0f}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
