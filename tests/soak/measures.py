"""What is measured in each round, the table of it, and whether the second half of a run has more than the first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from statistics import median
from typing import Final, NamedTuple

LEAST_SECONDS: Final = (
    600.0  # of a run whose halves are compared: the change log is as large as it becomes only after some minutes
)


@dataclass(frozen=True)
class Sample:
    """What was measured at the end of a round, or over it."""

    minute: float
    killed: str
    writes: int
    events: int
    reconnections: int
    memory: float
    files: float
    connections: float
    statements: float | None  # None if PostgreSQL's count began again
    log: float
    written: float


class Bound(NamedTuple):
    """How much larger the median of a measure may be in the second half of a run."""

    title: str
    factor: float
    slack: float


BOUNDS: Final = {
    "memory": Bound("memory of the services, MiB", 1.1, 10),
    "files": Bound("their open files", 1.15, 10),
    "connections": Bound("their connections to PostgreSQL", 1.15, 5),
    "statements": Bound("their statements a second", 1.25, 10),
    "log": Bound("change log, MiB", 1.25, 2),
    "written": Bound("their own log, KiB a round", 1.5, 64),
}
"""Each of these is flat: a median of rounds in which different things are killed varies by less."""

TITLES: Final = (
    "minute", "killed", "writes", "events", "reconnections", "memory, MiB", "files", "connections", "statements/s",
    "change log, MiB", "log, KiB",
)  # fmt: skip
HEAD: Final = f"| {' | '.join(TITLES)} |\n|--:|---|{'--:|' * (len(TITLES) - 2)}"


def line(sample: Sample) -> str:
    """The line of a sample in the table."""
    return f"| {' | '.join(_cell(getattr(sample, each.name)) for each in fields(Sample))} |"


def _cell(value: float | str | None) -> str:
    match value:
        case None:
            return "-"
        case str():
            return value
        case int():
            return f"{value:,}"
    return f"{value:.1f}"


def _medians(name: str, samples: Sequence[Sample]) -> tuple[float, float] | None:
    """The medians of a measure in the first and in the second half; ``None`` if one has no value."""
    middle = len(samples) // 2
    halves = [
        [value for each in half if (value := getattr(each, name)) is not None]
        for half in (samples[:middle], samples[middle:])
    ]
    return (median(halves[0]), median(halves[1])) if all(halves) else None


def comparison(samples: Sequence[Sample]) -> Iterator[str]:
    """The table of both halves."""
    yield "| median of | first half | second half | at most |\n|---|--:|--:|--:|"
    for name, bound in BOUNDS.items():
        found = _medians(name, samples)
        if found is not None:
            first, second = found
            yield f"| {bound.title} | {first:.1f} | {second:.1f} | {first * bound.factor + bound.slack:.1f} |"


def growth(samples: Sequence[Sample]) -> Iterator[str]:
    """What is not flat; a measure without values is a fault as well."""
    for name, bound in BOUNDS.items():
        found = _medians(name, samples)
        if found is None:
            yield f"{bound.title}: not measured in both halves"
        elif found[1] > found[0] * bound.factor + bound.slack:
            yield f"{bound.title}: {found[0]:.1f} in the first half of the run, {found[1]:.1f} in the second"


def unseen(seen: dict[str, float]) -> Iterator[str]:
    """What the run should have used, and has not: it would pass without having looked."""
    yield from (f"nothing was seen of: {what}" for what, count in seen.items() if not count)
