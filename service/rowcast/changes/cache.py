"""What reads keep in memory, for as long as the change feed says that it is still so.

An entry knows the resources that it was read from, or the one row, and the moment before it was read. It falls when one
of them changes after that moment: when this process has written, before the writer is answered; when anybody else has,
as soon as the feed brings it. A moment is a number that rises with every change, so what changed while an entry was
being read counts as well. Nothing is found while the feed is cut off or behind, or has not looked for ``FRESH`` seconds.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from rowcast.changes.feed import Feed, Reason
from rowcast.changes.log import Batch

FRESH: Final = 1.0  # s
PATIENCE: Final = 1.0  # s for which somebody else's reading is waited for
OVERHEAD: Final = 600  # bytes of an entry besides its value and the texts of its key, about


@dataclass(frozen=True, slots=True)
class _Entry:
    value: Any
    since: int
    resources: frozenset[str]
    row: tuple[str, str] | None
    size: int


@dataclass(frozen=True, slots=True)
class _Reading:
    since: int
    resources: Collection[str]
    done: asyncio.Future[None]


class Cache:
    """A bounded memory of answers. ``size`` is in bytes; what was not asked for longest goes first."""

    def __init__(self, feed: Feed, *, size: int = 64 << 20) -> None:
        self._feed = feed
        self._bound = size
        self._held = 0
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._rows: dict[tuple[str, str], set[Hashable]] = {}
        self._changed: dict[str, int] = {}  # resource → the moment of its newest change
        self._written: dict[str, int] = {}  # the same of changes of which the rows are not known
        self._readings: dict[Hashable, _Reading] = {}  # what is just being read
        self.generation = 0  # the moment

    def start(self) -> None:
        """Follow the feed, for as long as that runs."""
        self._feed.subscribe(self._apply, self._reset)

    @property
    def fresh(self) -> bool:
        """Whether what is kept may be told."""
        return self._feed.connected and self._feed.lag < FRESH

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> Any:
        """What was kept and is still so, or ``None``."""
        entry = self._entries.get(key)
        if entry is None or not self.fresh:
            return None
        if self.is_current(entry):
            self._entries.move_to_end(key)
            return entry.value
        self._drop(key)
        return None

    async def wait_for(self, key: Hashable) -> Any:
        """``find``, once whoever is just reading it has done so, if that is soon: of many who want to know one asks."""
        end = monotonic() + PATIENCE
        while True:
            found, reading = self.get(key), self._readings.get(key)
            left = end - monotonic()
            if found is not None or reading is None or left < 0:
                return found
            if not self.fresh or not self._unchanged(reading.resources, reading.since):
                return None  # it is not going to be kept
            await asyncio.wait([reading.done], timeout=left)

    @contextmanager
    def loading(self, key: Hashable, resources: Collection[str]) -> Iterator[int]:
        """What is done inside reads a value from these resources, to keep it; gives the moment before."""
        own = _Reading(self.generation, resources, asyncio.get_running_loop().create_future())
        other = self._readings.get(key)
        if other is None or not self._unchanged(other.resources, other.since):
            self._readings[key] = own
        try:
            yield own.since
        finally:
            if self._readings.get(key) is own:
                del self._readings[key]
            own.done.set_result(None)

    def put(
        self,
        key: Hashable,
        value: Any,
        *,
        since: int,
        resources: Iterable[str],
        row: tuple[str, str] | None = None,
        size: int = 0,
    ) -> None:
        """Keep a value of ``size`` bytes that was read after the moment ``since`` from these resources.

        ``row`` is a resource and the key, as text, of the one row that was read from it.
        """
        entry = _Entry(value, since, frozenset(resources), row, size + OVERHEAD + _length(key))
        if row is not None and self._changed.get(row[0], 0) > since:
            return  # perhaps that very row
        if not self.is_current(entry) or entry.size > self._bound // 8:
            return
        self._drop(key)
        self._entries[key] = entry
        self._held += entry.size
        if row is not None:
            self._rows.setdefault(row, set()).add(key)
        while self._held > self._bound:
            self._drop(next(iter(self._entries)))

    def invalidate(self, resources: Collection[str]) -> None:
        """Any row of these resources may have changed."""
        if resources:
            self.generation += 1
        for resource in resources:
            self._changed[resource] = self._written[resource] = self.generation

    def clear(self) -> None:
        """Forget everything."""
        self.generation += 1
        self._entries.clear()
        self._rows.clear()
        self._held = 0

    def is_current(self, entry: _Entry) -> bool:
        if entry.row is not None and self._written.get(entry.row[0], 0) > entry.since:
            return False
        return self._unchanged(entry.resources, entry.since)

    def _unchanged(self, resources: Collection[str], since: int) -> bool:
        return all(self._changed.get(resource, 0) <= since for resource in resources)

    def _drop(self, key: Hashable) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._held -= entry.size
        if entry.row is not None and (keys := self._rows.get(entry.row)) is not None:
            keys.discard(key)
            if not keys:
                del self._rows[entry.row]

    def _apply(self, batch: Batch) -> None:
        self.generation += 1
        for event in batch.events:
            self._changed[event.resource] = self.generation
            if event.pk is None:
                self._written[event.resource] = self.generation
            elif self._rows and (keys := self._rows.get((event.resource, event.pk))):
                for key in tuple(keys):
                    self._drop(key)

    def _reset(self, _: Reason) -> None:
        self.clear()


def _length(key: Hashable) -> int:
    """The characters of the texts in a key, which come from a client."""
    return sum(len(part) for part in key if isinstance(part, str)) if isinstance(key, tuple) else 0
