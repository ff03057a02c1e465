"""The clock of the database, which is the one clock that all nodes can read, whatever their own clocks are."""

from __future__ import annotations

from collections import deque
from typing import Final

STATEMENTS_KEPT: Final = 8  # of which the one that arrived soonest counts


class DatabaseClock:
    """What statements have shown of the clock. Times are in seconds; those of this process are as ``monotonic()``."""

    def __init__(self) -> None:
        self._differences: deque[float] = deque(maxlen=STATEMENTS_KEPT)
        self.newest: float | None = None  # when the last statement began, by the clock of the database

    def note(self, sent: float, began: float) -> None:
        """A statement that this process had sent at one time began at another, by the clock of the database."""
        self._differences.append(began - sent)
        self.newest = began

    def forget(self) -> None:
        """It is another database from now on."""
        self._differences.clear()
        self.newest = None

    def now(self, time: float) -> float | None:
        """How late it is in the database at a time of this process, or a little later."""
        return time + min(self._differences) if self._differences else None

    def time_of(self, at: float) -> float | None:
        """When it was so late in the database, for this process, or a little earlier: by the time that a statement travels."""
        return at - min(self._differences) if self._differences else None
