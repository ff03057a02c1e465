"""The results as Markdown, as pictures and as JSON."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import Enum
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, Final

import orjson

from bench import load, plot
from bench.cases import AUTHORS, CONNECTIONS, STREAMS, TASKS, WIDTHS, Case
from bench.environments import ROOT
from bench.peers import BARE_NAME, FLOORS, KEPT_NAME, POOL, ROWCAST_NAME, Peer
from rowcast import __version__

COLUMNS: Final = (
    "case", "server", "req/s", "/ better floor", "Rowcast's rate", "median ms", "p99 ms", "CPU µs", "PostgreSQL CPU µs", "RSS MiB",
)  # fmt: skip


class Mode(Enum):
    """How the machine's cores are assigned."""

    pinned = ("one process on one core", 1, True)
    free = ("two processes, nothing pinned", 2, False)

    def __init__(self, title: str, workers: int, one_core: bool) -> None:
        self.title = title
        self.workers = workers
        self.one_core = one_core


@dataclass(frozen=True, slots=True)
class Round:
    """One load on one peer. CPU is in microseconds per request, RSS in MiB."""

    mode: str
    case: str
    peer: str
    number: int
    load: load.Load
    rate: float
    cpu: float
    postgres_cpu: float
    rss: float


@dataclass(frozen=True, slots=True)
class Target:
    """A target with one process on one core: in these cases, this share of the rate of the best of the others."""

    text: str
    against: tuple[str, ...]
    share: float
    cases: tuple[str, ...]
    name: str = ROWCAST_NAME


def _targets(others: str, against: tuple[str, ...], **shares: float) -> Iterator[Target]:
    """One target for each share of the rate of others, with its cases; ``create`` stands for patch, too."""
    for share in sorted(set(shares.values())):
        cases = [case for case, each in shares.items() if each == share]
        cases += ["patch"] if "create" in cases else []
        yield Target(f"{share:g} times {others}: {', '.join(cases)}", against, share, tuple(cases))


PAGES: Final = ("first", "small", "filtered", "embedded", "deep")
PLATFORMATIC: Final = ("Platformatic DB",)
TARGETS: Final = (
    *_targets("the better floor", FLOORS, get=1, first=20, uncounted=0.95, deep=4, create=0.9),
    *_targets("Platformatic DB", PLATFORMATIC, get=1.2, first=25, uncounted=2, deep=4, create=1.8),
    *_targets("FastAPI with SQLAlchemy", ("FastAPI, SQLAlchemy",), get=12, uncounted=9, deep=5, create=6),
    *_targets("Django REST framework", ("Django REST framework",), get=25, uncounted=20, deep=5, create=15),
    Target("1.4 times the better floor, answers kept: get, of 1,000 rows", FLOORS, 1.4, ("hot",), KEPT_NAME),
    Target("1.6 times Platformatic DB, answers kept: get, of 1,000 rows", PLATFORMATIC, 1.6, ("hot",), KEPT_NAME),
    Target("0.85 times aiohttp with the bytes at hand, answers kept: pages", (BARE_NAME,), 0.85, PAGES, KEPT_NAME),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Report:
    """Every round of a run, and the facts about the run that the page states."""

    postgres: str
    rounds: int
    seconds: int
    peers: tuple[Peer, ...]
    missing: tuple[str, ...]
    busy: float
    cases: tuple[Case, ...]
    found: tuple[Round, ...]

    def markdown(self) -> str:
        """The whole report as Markdown."""
        parts = ["## Requests", self._method()]
        if any(one.mode == Mode.pinned.name for one in self.found):
            parts += [self._targets()]
        for mode in Mode:
            if any(one.mode == mode.name for one in self.found):
                parts += [f"### {mode.title.capitalize()}", self._overview(mode), self._losses(mode)]
                parts += ["![Requests a second](performance.svg)"] if mode is Mode.pinned else []
                parts += [self._table(mode)]
        return "\n\n".join(parts)

    def pictures(self) -> dict[str, str]:
        """The picture in the Markdown, by file name."""
        rates = {
            case.title: [(name, self._median(Mode.pinned, case, name, _rate) or 0.0) for name in self._names(Mode.pinned, case)]
            for case in self.cases
            if case.name == case.kind
        }  # fmt: skip
        return {"performance.svg": plot.bars(rates, ROWCAST_NAME)} if any(rates.values()) else {}

    def document(self) -> list[dict[str, Any]]:
        """Every round, for JSON."""
        return [asdict(one) for one in self.found]

    def summary(self) -> dict[str, Any]:
        """The medians of the run for the history: requests per second and CPU, by mode, case and server."""
        return {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit(),
            "machine": machine(),
            "versions": self._versions(),
            "results": {
                mode.name: {
                    case.name: {
                        name: {
                            "rate": round(self._median(mode, case, name, _rate) or 0),
                            "p99": round(self._median(mode, case, name, lambda one: one.load.p99) or 0, 2),
                            "cpu": round(self._median(mode, case, name, lambda one: one.cpu) or 0),
                            "rss": round(self._median(mode, case, name, lambda one: one.rss) or 0),
                        }
                        for name in self._names(mode, case)
                    }
                    for case in self.cases
                }
                for mode in Mode
            },
        }  # fmt: skip

    def _method(self) -> str:
        missing = "".join(f"\n\nLeft out: {why}." for why in self.missing)
        versions = "; ".join(f"{name}: {', '.join(versions)}" for name, versions in self._versions().items())
        return f"""{datetime.now(UTC).date()}, commit {commit()}, on {machine()}, {self._others()}. {versions}.

**Data and load.** {TASKS:,} tasks of 10 columns and {AUTHORS:,} authors are in an embedded PostgreSQL with its default settings (fsync
on). Each process of a server has {POOL} connections to it. The load is {CONNECTIONS} connections, or as many as the case says, of {load.generator()}, which
request random rows. Before the timing, the responses are compared: all servers return the same rows, fields, order and count; the format
of times and the envelope of a page may differ.

**Figures** are medians of {self.rounds} rounds of {self.seconds} s each. The servers take turns, in the opposite order every other round; ratios
compare loads of the same round. CPU is per request, of all processes of the server and of PostgreSQL. RSS is the sum over a server's
processes.

**Modes.** *Pinned*, the server has one core, and PostgreSQL and the load share the other one; if that core is the first to be full, the
rates of all servers are similar, and CPU shows the difference. *Free*, all share both cores.

**Servers.** Each of the other frameworks is used as its documentation does; the code is in `bench/`.

- *floor* is a hand-written service on the same libraries, without features (`bench/floor.py`). It has two forms: PostgreSQL builds the
  JSON, or rows become dictionaries and orjson builds the JSON.
- *floor, changes logged* is the floor on Rowcast's tables, whose triggers log every change. All other servers but Rowcast use tables
  without triggers.
- *Rowcast, answers kept* is Rowcast with `cache: responses`.
- *aiohttp, bytes at hand* builds a response once and then always sends the same bytes: the upper bound for cached responses with
  aiohttp.
- *Not modified*: the requests have the tag of the response that the client has (`If-None-Match`), and get a 304. Rowcast has tags, and Django
  REST framework with `ConditionalGetMiddleware`, which makes one of each response. The others have none.
- *One of the pages from 1,801 to 2,200*: a random one each time. Rowcast reads pages from [places](rest.md#pages) that it keeps in memory, others
  read all rows before each.
- {_listed(WIDTHS)} connections: the floors, Rowcast, and Platformatic DB.
- *Mixed load*: 70 % get by id, 20 % first page without count, 10 % create. All servers have it without streams. Rowcast has it again
  while {STREAMS:,} streams are open, each for the tasks of one author, so that every task that is made goes to one of them; the others have
  no streams, so there is nothing to compare that with but Rowcast's own mixed load.
- A page without count is `count: none` in Rowcast, cursor pagination in Django REST framework, and a list in the others.
- Aksara runs in one process only: with two it stopped responding under load.{missing}"""

    def _others(self) -> str:
        return f"which had a load average of {self.busy:.1f} from other programs when the run began"

    def _versions(self) -> dict[str, list[str]]:
        own = [f"{name} {metadata.version(name)}" for name in ("aiohttp", "uvloop", "asyncpg", "orjson")]
        found = {"Rowcast": [__version__, f"Python {platform.python_version()}", f"PostgreSQL {self.postgres}", *own]}
        for peer in self.peers:
            if peer.packages:
                home = peer.install()
                found[peer.name] = [f"{name} {_version(home, name)}" for name in peer.packages]
        return found

    def _targets(self) -> str:
        lines = ["| target, one process on one core | worst case | |", "|---|---|---|"]
        for target in TARGETS:
            shares = {
                case.title: share
                for case in self.cases
                if case.name in target.cases
                and (share := self._ratio(Mode.pinned, case, target.name, target.against)) is not None
            }
            if shares:
                worst = min(shares, key=lambda title: shares[title])
                missed = [title for title, share in shares.items() if share < target.share]
                verdict = "met" if not missed else f"**not met** in {len(missed)} of {len(shares)}: {'; '.join(missed)}"
                lines.append(f"| {target.text} | {shares[worst]:.2f}, {worst} | {verdict} |")
        return "\n".join(lines)

    def _overview(self, mode: Mode) -> str:
        """Requests per second, one line per case."""
        names = list(dict.fromkeys(name for case in self.cases for name in self._names(mode, case)))
        lines = [("req/s", *names), ("---", *("---:" for _ in names))]
        for case in self.cases:
            rates = [self._median(mode, case, name, _rate) for name in names]
            cells = ["" if rate is None else f"{rate:,.0f}" for rate in rates]
            lines.append(
                (case.title, *(f"**{c}**" if n == ROWCAST_NAME else c for n, c in zip(names, cells, strict=True)))
            )
        return _rows(lines)

    def _losses(self, mode: Mode) -> str:
        """Rowcast's rates relative to the floor, and the peers that are faster, one per line."""
        lines = []
        for case in self.cases:
            for name in self._names(mode, case):
                ratio = self._ratio(mode, case, ROWCAST_NAME, (name,))
                if (
                    not name.startswith("floor")
                    and name not in (KEPT_NAME, BARE_NAME)
                    and ratio is not None
                    and ratio < 1
                ):
                    lines.append(f"- {case.title}: {name} (Rowcast reaches {ratio:.2f} times its rate)")
        shares = [share for case in self.cases if (share := self._ratio(mode, case, ROWCAST_NAME, FLOORS)) is not None]
        floors = (
            f"Rowcast reaches {min(shares):.2f} to {max(shares):.2f} times the rate of the better floor."
            if shares
            else ""
        )
        return f"{floors} Faster than Rowcast:\n\n" + "\n".join(lines) if lines else f"{floors} No peer is faster."

    def _table(self, mode: Mode) -> str:
        lines = [COLUMNS, tuple("---" if n < 2 else "---:" for n in range(len(COLUMNS)))]
        for case in self.cases:
            lines += [(case.title, name, *self._cells(mode, case, name)) for name in self._names(mode, case)]
        return _rows(lines)

    def _cells(self, mode: Mode, case: Case, name: str) -> Iterator[str]:
        def cell(value: Callable[[Round], float], form: str) -> str:
            found = self._median(mode, case, name, value)
            return "" if found is None else format(found, form)

        floor, rowcast = self._ratio(mode, case, name, FLOORS), self._ratio(mode, case, ROWCAST_NAME, (name,))
        yield cell(_rate, ",.0f")
        yield "" if floor is None else f"{floor:.2f}"
        yield "" if rowcast is None or name == ROWCAST_NAME else f"{rowcast:.2f} times"
        yield cell(lambda one: one.load.median, ".1f")
        yield cell(lambda one: one.load.p99, ".1f")
        yield cell(lambda one: one.cpu, ",.0f")
        yield cell(lambda one: one.postgres_cpu, ",.0f")
        yield cell(lambda one: one.rss, ".0f")

    def _names(self, mode: Mode, case: Case) -> list[str]:
        return list(dict.fromkeys(one.peer for one in self.found if one.mode == mode.name and one.case == case.name))

    def _of(self, mode: Mode, case: Case, name: str) -> dict[int, Round]:
        found = (one for one in self.found if (one.mode, one.case, one.peer) == (mode.name, case.name, name))
        return {one.number: one for one in found}

    def _median(self, mode: Mode, case: Case, name: str, value: Callable[[Round], float]) -> float | None:
        rounds = self._of(mode, case, name)
        return median(map(value, rounds.values())) if rounds else None

    def _ratio(self, mode: Mode, case: Case, name: str, others: Sequence[str]) -> float | None:
        """The median, over the rounds, of a rate divided by that of the best of the others that were measured."""
        own = self._of(mode, case, name)
        rest = [rounds for other in others if (rounds := self._of(mode, case, other))]
        if not own or not rest:
            return None
        best = max(rest, key=lambda rounds: median(one.rate for one in rounds.values()))
        return median(one.rate / best[number].rate for number, one in own.items())


def _listed(numbers: Sequence[int]) -> str:
    return f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def _rate(one: Round) -> float:
    return one.rate


def _rows(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _version(home: Path, package: str) -> str:
    """The installed version of a package in an environment."""
    described = home / "node_modules" / package / "package.json"
    if described.exists():
        return str(orjson.loads(described.read_bytes())["version"])
    places = [str(place) for place in home.glob("lib/python*/site-packages")]
    return next((found.version for found in metadata.distributions(name=package, path=places)), "?")


def machine() -> str:
    """The machine that the figures were measured on."""
    return f"{os.cpu_count()} CPUs ({_processor()}), {platform.system()} {platform.release().partition('-')[0]}"


def commit() -> str:
    """The commit that the figures are of."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return commit.stdout.strip() or "unknown"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
