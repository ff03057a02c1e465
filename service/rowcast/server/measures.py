"""Measures: histograms that cost little, families of samples, and the sum of those of several processes.

A family is a ``Metric`` of prometheus-client, which writes them as text.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from math import inf
from typing import Any, Final, TypeAlias

from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

DURATIONS_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LAST: Final = frozenset(("counter", "histogram"))  # types whose numbers remain when their process is gone
MERGED: Final[Mapping[str, Any]] = {
    "rowcast_feed_lag_seconds": max,
    "rowcast_replica_readable": min,
    "rowcast_replica_lag_seconds": max,
    "rowcast_feed_connected": min,
    "rowcast_feed_tick": min,
    "rowcast_edge_resources": max,
    "rowcast_relay_connected": min,
    "rowcast_build_info": max,
    "process_start_time_seconds": max,
    "process_max_fds": min,
}
"""How gauges of several processes become one, if they are not summed."""

Labels: TypeAlias = "tuple[tuple[str, str], ...]"


class Histogram:
    """Counts of values up to each bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = DURATIONS_SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


def histogram(name: str, documentation: str, of: Mapping[Labels, Histogram]) -> Metric:
    """The family of histograms with these labels."""
    family = Metric(name, documentation, "histogram")
    for labels, each in of.items():
        named = dict(labels)
        for bound, number in zip((*each.bounds, inf), accumulate(each.counts), strict=True):
            family.add_sample(f"{name}_bucket", {**named, "le": "+Inf" if bound == inf else str(bound)}, number)
        family.add_sample(f"{name}_count", named, sum(each.counts))
        family.add_sample(f"{name}_sum", named, each.total)
    return family


def numbers(name: str, documentation: str, kind: str, of: Mapping[Labels, float]) -> Metric:
    """The family of counters or gauges with these labels."""
    family = Metric(name, documentation, kind)
    suffix = "_total" if kind == "counter" else ""
    for labels, number in of.items():
        family.add_sample(name + suffix, dict(labels), number)
    return family


# --- several processes

Packed: TypeAlias = "list[tuple[str, str, str, list[tuple[str, dict[str, str], float]]]]"
"""Families as JSON: name, documentation, type, and the samples with their names, labels and values."""


def pack(families: Iterable[Metric]) -> Packed:
    """Families as values for JSON."""
    return [
        (each.name, each.documentation, each.type, [(one.name, dict(one.labels), one.value) for one in each.samples])
        for each in families
    ]


def merged(processes: Iterable[Packed], gone: Packed) -> list[Metric]:
    """The families of several processes as one, with the counters of those that are gone."""
    values: dict[str, dict[tuple[str, Labels], float]] = {}
    about: dict[str, tuple[str, str]] = {}
    for packed in (*processes, counters(gone)):
        for name, documentation, kind, samples in packed:
            about.setdefault(name, (documentation, kind))
            found = values.setdefault(name, {})
            merge = MERGED.get(name)
            for sample, labels, value in samples:
                key = sample, tuple(labels.items())
                before = found.get(key)
                if before is None:
                    found[key] = value
                else:
                    found[key] = before + value if merge is None else merge(before, value)
    families = []
    for name, samples_of in values.items():
        family = Metric(name, *about[name])
        for (sample, labels_of), value in samples_of.items():
            family.add_sample(sample, dict(labels_of), value)
        families.append(family)
    return families


def counters(packed: Packed) -> Packed:
    """The families whose numbers remain when their process is gone."""
    return [each for each in packed if each[2] in LAST]


class _Collected(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def text(families: Iterable[Metric]) -> str:
    """Families in the text format."""
    return generate_latest(_Collected(families)).decode()
