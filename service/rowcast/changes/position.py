"""Places in the change log, and the snapshots that they are made of.

A tick is a snapshot of PostgreSQL: the set of transactions that had committed. Tick t's events are those that snapshot
t sees and snapshot t-1 does not, in one order for everybody. A *position* is therefore two numbers: ``tick``, the
newest tick that is completely behind it, and ``n``, how many events of the tick after that are behind it as well. The
n-th event of tick t+1 leaves its reader at ``t-n``; the last one at the end of the tick, ``t+1-0``. Positions rise, and
name the same place on every replica.

A reader that has seen a database state from elsewhere, such as the response of a list, adds that state's snapshot:
``t-n~snapshot``. It goes on from ``t-n`` and skips what the snapshot sees. That is exact if snapshot t is part of the
reader's snapshot: what the snapshot sees was in the response, and what it does not see is in no tick up to t and in
exactly one later.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias

PgSnapshot: TypeAlias = tuple[int, int, tuple[int, ...]]  # how asyncpg gives and takes a pg_snapshot

MAX_TEXT: Final = 4096  # characters of a position; a header or a URL must carry it
_NUMBER = r"(0|[1-9][0-9]{0,18})"
_POSITION = re.compile(rf"{_NUMBER}-{_NUMBER}-{_NUMBER}(?:~(.+))?")
_SNAPSHOT = re.compile(rf"{_NUMBER}:{_NUMBER}:((?:[1-9][0-9]{{0,18}},)*[1-9][0-9]{{0,18}})?")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Which transactions had committed: all below ``xmax`` but the ``running`` (ascending, at least ``xmin``)."""

    xmin: int
    xmax: int
    running: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """From the text form of ``pg_current_snapshot()``, ``10:20:10,14``; ``ValueError`` for anything else."""
        match = _SNAPSHOT.fullmatch(text) if len(text) <= MAX_TEXT else None
        if match is None:
            raise ValueError("not a snapshot")
        xmin, xmax = int(match[1]), int(match[2])
        running = tuple(map(int, match[3].split(","))) if match[3] else ()
        rising = all(low < high for low, high in pairwise(running))
        if not (xmin <= xmax and rising and (not running or (xmin <= running[0] and running[-1] < xmax))):
            raise ValueError("not a snapshot")
        return cls(xmin, xmax, running)

    @classmethod
    def of(cls, value: PgSnapshot) -> Snapshot:
        """From what asyncpg gives for a ``pg_snapshot``."""
        return cls(*value)

    @property
    def value(self) -> PgSnapshot:
        """What asyncpg takes for a ``pg_snapshot``."""
        return self.xmin, self.xmax, self.running

    def sees(self, xid: int) -> bool:
        """Whether the transaction had ended; the log holds none that rolled back."""
        if xid < self.xmin:
            return True
        if xid >= self.xmax:
            return False
        place = bisect_left(self.running, xid)
        return place == len(self.running) or self.running[place] != xid

    def __le__(self, other: Snapshot) -> bool:
        """Whether ``other`` sees every transaction that this one sees."""
        if self.xmax <= other.xmin:
            return True
        return self.xmax <= other.xmax and all(not self.sees(xid) for xid in other.running)

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, self.running))}"


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the log: behind every event up to ``tick``, behind ``n`` of the next tick, and behind ``snapshot``."""

    epoch: int
    tick: int
    n: int = 0
    snapshot: Snapshot | None = None

    @classmethod
    def parse(cls, text: str) -> Position:
        """From ``<epoch>-<tick>-<n>`` or ``<epoch>-<tick>-<n>~<snapshot>``; ``ValueError`` for anything else."""
        match = _POSITION.fullmatch(text) if len(text) <= MAX_TEXT else None
        if match is None:
            raise ValueError("not a position")
        numbers = [int(match[group]) for group in (1, 2, 3)]
        if max(numbers) >= 2**63:
            raise ValueError("not a position")
        return cls(numbers[0], numbers[1], numbers[2], Snapshot.parse(match[4]) if match[4] else None)

    def with_snapshot(self, snapshot: Snapshot | None) -> Position:
        """The same place, behind what a snapshot sees as well."""
        return Position(self.epoch, self.tick, self.n, snapshot)

    @property
    def sort_key(self) -> tuple[int, int]:
        """What positions of one history are compared by."""
        return self.tick, self.n

    def __str__(self) -> str:
        place = f"{self.epoch}-{self.tick}-{self.n}"
        return place if self.snapshot is None else f"{place}~{self.snapshot}"
