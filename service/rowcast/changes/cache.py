"""An in-memory cache of read results, invalidated by the change feed.

An entry records what it was read from (resources, or one row) and the generation before the read. It becomes invalid
when any of that changes after this generation: a write of this process counts before its writer gets a response, and
anybody else's write counts as soon as the feed delivers it. A generation is a number that rises with every change, so
a change that commits during the read counts as well. Nothing is returned while the feed is disconnected, behind, or
older than ``FEED_MAX_LAG_SECONDS``.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, TypeVar

from rowcast.changes.events import Batch
from rowcast.changes.tail import Reason, Tail

Value = TypeVar("Value")

FEED_MAX_LAG_SECONDS: Final = 1.0
LOAD_WAIT_SECONDS: Final = 1.0  # the longest wait for another caller that is loading the same key
KINDS: Final = {"count": "counts", "places": "places"}  # of what is not a response, by the first part of its key
ENTRY_OVERHEAD_BYTES: Final = 600  # the size of an entry without its value and the strings of its key, approximately


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What a value is read from: any row of these resources, or the one row with this resource and key."""

    resources: Collection[str] = ()
    row: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class _Entry:
    value: Any
    since: int
    resources: frozenset[str]
    row: tuple[str, str] | None
    size: int


@dataclass(frozen=True, slots=True)
class _Load:
    """A read in progress, for which other callers may wait."""

    since: int
    resources: Collection[str]
    done: asyncio.Future[None]


class Cache:
    """A cache of at most ``size`` bytes. The least recently used entries are dropped first."""

    def __init__(self, feed: Tail, *, size: int = 64 << 20) -> None:
        self._feed = feed
        self._bound = size
        self._held = 0
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._rows: dict[tuple[str, str], set[Hashable]] = {}
        self._changed: dict[str, int] = {}  # resource → the generation of its newest change
        self._written: dict[str, int] = {}  # the same, of changes that do not name their rows
        self._loads: dict[Hashable, _Load] = {}
        self._generation = 0
        self._cleared = 0  # the generation of the last ``clear``, before which changes may not have been counted

    def start(self) -> None:
        """Subscribe to the feed, for as long as the feed runs."""
        self._feed.subscribe(self._apply, self._reset, needs_rows=lambda: bool(self._rows), pass_over=self.invalidate)

    @property
    def fresh(self) -> bool:
        """Whether the feed is recent enough for entries to be returned."""
        return self._feed.connected and self._feed.lag < FEED_MAX_LAG_SECONDS

    @property
    def generation(self) -> int:
        """The number of the newest change, or reset, that entries are compared with."""
        return self._generation

    @property
    def held(self) -> int:
        """The bytes that the entries take, approximately."""
        return self._held

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> Any:
        """Return the cached value, or ``None`` if it is absent or stale."""
        entry = self._entries.get(key)
        if entry is None or not self.fresh:
            return None
        if self._is_current(entry):
            self._entries.move_to_end(key)
            return entry.value
        self._drop(key)
        return None

    async def get_or_load(
        self,
        key: Hashable,
        depends_on: Callable[[], Dependencies | None],
        load: Callable[[], Awaitable[Value]],
        *,
        size: Callable[[Value], int] = lambda _: 0,
        wait: bool = False,
        as_of: Callable[[], int | None] = lambda: None,
    ) -> tuple[Value, bool]:
        """Return the cached value, or load it and put it into the cache; and whether it was cached.

        The generation is taken before ``load`` is called, so a value that changes while it is read is not cached.

        Args:
            key: Names the value.
            depends_on: Called on a miss; returns what the value will be read from, or ``None`` if it may not be cached.
            load: Reads the value. Its errors are raised, and then nothing is cached.
            size: Returns the bytes that the value takes in memory.
            wait: Wait up to ``LOAD_WAIT_SECONDS`` for another caller that is loading the same key, instead of loading
                it at the same time. Costs a future per load.
            as_of: Called after ``load``. Returns ``None`` for a value of the primary; for one of a standby the newest generation
                whose changes the standby had.
        """
        cached = self.get(key)
        if cached is None and wait and key in self._loads:
            cached = await self._wait_for(key)
        if cached is not None:
            return cached, True
        dependencies = depends_on()
        if dependencies is None:
            return await load(), False
        since, resources, row = self._generation, dependencies.resources, dependencies.row
        with self._loading(key, resources) if wait else nullcontext():
            value = await load()
            since = min(since, since if (older := as_of()) is None else older)
            self.put(key, value, since=since, resources=resources, row=row, size=size(value))
        return value, False

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
        """Cache a value of ``size`` bytes that was read from these resources after the generation ``since``.

        ``row`` is the resource and the key, as a string, of the only row that was read from that resource.
        """
        entry = _Entry(value, since, frozenset(resources), row, size + ENTRY_OVERHEAD_BYTES + _length(key))
        if since < self._cleared:
            return
        if row is not None and self._changed.get(row[0], 0) > since:
            return  # the change may be of this row
        if not self._is_current(entry) or entry.size > self._bound // 8:
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
            self._generation += 1
        for resource in resources:
            self._changed[resource] = self._written[resource] = self._generation

    def clear(self) -> None:
        """Drop every entry."""
        self._generation += 1
        self._cleared = self._generation
        self._entries.clear()
        self._rows.clear()
        self._held = 0

    async def _wait_for(self, key: Hashable) -> Any:
        """Return the cached value, after waiting for a load in progress; ``None`` if there is none to wait for."""
        end = monotonic() + LOAD_WAIT_SECONDS
        while True:
            cached, load = Cache.get(self, key), self._loads.get(key)  # a miss has been counted
            left = end - monotonic()
            if cached is not None or load is None or left < 0:
                return cached
            if not self.fresh or not self._unchanged(load.resources, load.since):
                return None  # its value will not be cached
            await asyncio.wait([load.done], timeout=left)

    @contextmanager
    def _loading(self, key: Hashable, resources: Collection[str]) -> Iterator[None]:
        """Let other callers wait while the value of a key is read."""
        own = _Load(self._generation, resources, asyncio.get_running_loop().create_future())
        other = self._loads.get(key)
        if other is None or not self._unchanged(other.resources, other.since):
            self._loads[key] = own
        try:
            yield
        finally:
            if self._loads.get(key) is own:
                del self._loads[key]
            own.done.set_result(None)

    def _is_current(self, entry: _Entry) -> bool:
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
        self._generation += 1
        for event in batch.events:
            self._changed[event.resource] = self._generation
            if event.pk is None:
                self._written[event.resource] = self._generation
            elif self._rows and (keys := self._rows.get((event.resource, event.pk))):
                for key in tuple(keys):
                    self._drop(key)

    def _reset(self, _: Reason) -> None:
        self.clear()


class CountingCache(Cache):
    """A cache that counts how often it has a value, by kind. Counting is a call more for each read, so others do not."""

    def __init__(self, feed: Tail) -> None:
        super().__init__(feed)
        self.hits: Counter[str] = Counter()
        self.misses: Counter[str] = Counter()

    def get(self, key: Hashable) -> Any:
        value = super().get(key)
        counts = self.misses if value is None else self.hits
        counts[_kind(key)] += 1
        return value


def _kind(key: Hashable) -> str:
    first = key[0] if type(key) is tuple else None
    return KINDS[first] if type(first) is str else "responses"


def _length(key: Hashable) -> int:
    """The number of characters in the strings of a key, which come from a client."""
    return sum(len(part) for part in key if isinstance(part, str)) if isinstance(key, tuple) else 0
