"""A cache of what is made of shapes, from which shapes that come once do not evict those that are in use.

Clients choose shapes: a condition, an order, the fields. A new shape is on trial, among as many others; only when it comes
again is it kept. So however many shapes one caller invents, those that others use stay.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Final, Generic, TypeVar

Made = TypeVar("Made")

KEPT: Final = 2048
ON_TRIAL: Final = 512


class _Entry(Generic[Made]):
    __slots__ = ("made", "used")

    def __init__(self, made: Made) -> None:
        self.made = made
        self.used = False  # since it was last spared


class ShapeCache(Generic[Made]):
    """Calls ``make`` with a shape, and keeps what it returns. ``hits`` and ``misses`` count the calls."""

    __slots__ = ("_kept", "_make", "_trial", "hits", "misses")

    def __init__(self, make: Callable[..., Made]) -> None:
        self._make = make
        self._kept: OrderedDict[Hashable, _Entry[Made]] = OrderedDict()
        self._trial: OrderedDict[Hashable, Made] = OrderedDict()
        self.hits = self.misses = 0

    def __call__(self, *shape: Any) -> Made:
        entry = self._kept.get(shape)
        if entry is None:
            return self._admit(shape)
        entry.used = True
        self.hits += 1
        return entry.made

    @property
    def currsize(self) -> int:
        """How many shapes it has."""
        return len(self._kept) + len(self._trial)

    def _admit(self, shape: tuple[Any, ...]) -> Made:
        if shape in self._trial:
            self.hits += 1
            made = self._trial.pop(shape)
            if len(self._kept) >= KEPT:
                self._evict()
            self._kept[shape] = _Entry(made)
            return made
        self.misses += 1
        made = self._make(*shape)
        self._trial[shape] = made
        if len(self._trial) > ON_TRIAL:
            self._trial.popitem(last=False)
        return made

    def _evict(self) -> None:
        """Remove the first shape that has not been used since it was last spared; those before it are spared now."""
        while True:
            shape, entry = self._kept.popitem(last=False)
            if not entry.used:
                return
            entry.used = False
            self._kept[shape] = entry
