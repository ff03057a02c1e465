"""What ``bench.streams`` has measured, and its tables."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from statistics import median, quantiles
from typing import Final

from bench.report import commit, machine
from rowcast import __version__

FILTERS: Final[Mapping[str, Callable[[int], int]]] = {  # how many different ones subscribers have; a row fits one
    "all": lambda _count: 1,
    "a tenth": lambda _count: 10,
    "one": lambda count: count,
}
GETS_PER_SECOND: Final = 50
CPU_TICK: Final = 0.01  # s: less CPU is not measured


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
FULL: Final = PACES[1]  # the pace of rows that all streams get, beside requests and without a service


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


@dataclass(frozen=True, slots=True)
class Sending:
    """A row sent to every subscriber, at the pace ``FULL``: µs of CPU for each, and the ms until it has arrived."""

    cpu: float
    median: float
    p99: float


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
            f"{median(one.deliveries / max(one.cpu, CPU_TICK) for one in own):,.0f}",
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
    times: Mapping[int, Sequence[float]],
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
    title = f"get by id, {GETS_PER_SECOND}/s: median ms"
    lines += ["", *table(f"subscribers that all get {FULL.title}", title, "p99 ms", "slowest ms")]
    for count, found in times.items():
        cuts = quantiles(found, n=100)
        lines.append(row(f"{count:,}", f"{cuts[49]:.1f}", f"{cuts[98]:.1f}", f"{max(found):.1f}"))
    return "\n".join(lines)


def of_bare_sending(rounds: int, seconds: int, count: int, bare: Sequence[Sending], found: Sequence[Round]) -> str:
    """What sending takes without a service, and with it, as Markdown."""
    own = [
        Sending(one.cpu / one.deliveries * 1e6, one.median, one.p99)
        for one in found
        if (one.subscribers, one.matching, one.pace) == (count, "all", FULL.title)
    ]
    lines = [_conditions(rounds, seconds), ""]
    lines += table(f"{count:,} subscribers that all get {FULL.title}", "CPU µs of a delivery", "median ms", "p99 ms")
    for name, each in (("a loop that only sends", bare), ("the service", own)):
        values = [median(getattr(one, value) for one in each) for value in ("cpu", "median", "p99")]
        lines.append(row(name, f"{values[0]:.1f}", *(f"{value:.1f}" for value in values[1:])))
    return "\n".join(lines)


def table(*columns: str) -> list[str]:
    """The head of a Markdown table, whose numbers are to the right."""
    return [row(*columns), row(*("---:" if n else "---" for n in range(len(columns))))]


def row(*cells: str) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"
