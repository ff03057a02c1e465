"""Positions in the change log, and the snapshots that they consist of.

A tick is a snapshot of PostgreSQL: the set of transactions that had committed. The events of tick t are those that
snapshot t sees and snapshot t-1 does not see, in one order for all replicas. A *position* is therefore two numbers:
``tick``, the newest tick of which all events come before it, and ``n``, the number of events of the next tick that do
so too. After the n-th event of tick t+1 a reader is at ``t-n``; after the last one at the end of the tick, ``t+1-0``.
Positions rise, and are the same on every replica.

A reader that has read the database otherwise, such as in the response of a list, adds the snapshot of that read:
``t-n~snapshot``. It goes on from ``t-n`` and omits the changes that the snapshot sees. That is exact if snapshot t is
part of the reader's snapshot: the changes that it sees were in the response, and every other change is in no tick up
to t and in exactly one later tick.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias

PgSnapshot: TypeAlias = tuple[int, int, tuple[int, ...]]  # a pg_snapshot as asyncpg's value

POSITION_MAX_LENGTH: Final = 4096  # characters; it must fit into a header or a URL
WITH_SNAPSHOT: Final = "~"  # comes before the snapshot of a position; the text of a snapshot has none
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
        """From PostgreSQL's text form of a snapshot, such as ``10:20:10,14``; ``ValueError`` for anything else."""
        match = _SNAPSHOT.fullmatch(text) if len(text) <= POSITION_MAX_LENGTH else None
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
        """From asyncpg's value of a ``pg_snapshot``."""
        return cls(*value)

    @property
    def value(self) -> PgSnapshot:
        """The snapshot as asyncpg's value of a ``pg_snapshot``."""
        return self.xmin, self.xmax, self.running

    def sees(self, xid: int) -> bool:
        """Whether the transaction had ended. (The log has no transaction that rolled back.)"""
        if xid < self.xmin:
            return True
        if xid >= self.xmax:
            return False
        index = bisect_left(self.running, xid)
        return index == len(self.running) or self.running[index] != xid

    def __le__(self, other: Snapshot) -> bool:
        """Whether ``other`` sees every transaction that this one sees."""
        if self.xmax <= other.xmin:
            return True
        return self.xmax <= other.xmax and all(not self.sees(xid) for xid in other.running)

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, self.running))}"


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the log: after all events up to ``tick``, ``n`` of the next tick, and those that ``snapshot`` sees."""

    epoch: int
    tick: int
    n: int = 0
    snapshot: Snapshot | None = None

    @classmethod
    def parse(cls, text: str) -> Position:
        """From ``<epoch>-<tick>-<n>`` or ``<epoch>-<tick>-<n>~<snapshot>``; ``ValueError`` for anything else."""
        match = _POSITION.fullmatch(text) if len(text) <= POSITION_MAX_LENGTH else None
        if match is None:
            raise ValueError("not a position")
        numbers = [int(match[group]) for group in (1, 2, 3)]
        if max(numbers) >= 2**63:
            raise ValueError("not a position")
        return cls(numbers[0], numbers[1], numbers[2], Snapshot.parse(match[4]) if match[4] else None)

    def with_snapshot(self, snapshot: Snapshot | None) -> Position:
        """The same place, also after the changes that a snapshot sees."""
        return Position(self.epoch, self.tick, self.n, snapshot)

    def includes(self, wanted: Position | int) -> bool:
        """Whether everything up to a position, or of a transaction, is before this one, for certain."""
        if isinstance(wanted, int):
            return self.snapshot is not None and self.snapshot.sees(wanted)
        if wanted.epoch != self.epoch or wanted.sort_key > self.sort_key:
            return False
        return wanted.snapshot is None or (self.snapshot is not None and wanted.snapshot <= self.snapshot)

    @property
    def sort_key(self) -> tuple[int, int]:
        """Orders the positions of one history."""
        return self.tick, self.n

    def __str__(self) -> str:
        text = f"{self.epoch}-{self.tick}-{self.n}"
        return text if self.snapshot is None else f"{text}~{self.snapshot}"
