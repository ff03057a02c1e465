"""Reads on replicas: which of them has what a request must see, and the primary where none has, or where one fails.

A ``Reader`` reads for one request with the methods of ``Store``. A client does not notice on which server: an error of a replica,
a row that it does not have, and a server that is no longer a standby lead to the primary, whose answer counts.
docs/decisions/0033-read-replicas.md has the reasons.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Final, TypeVar

from rowcast.changes.position import WITH_SNAPSHOT, Position
from rowcast.changes.standbys import PrimaryClock, StandbyWatch
from rowcast.changes.tail import Tail
from rowcast.database.errors import DRIVER_ERRORS
from rowcast.database.pool import Database
from rowcast.errors import ApiError, ListTooLarge
from rowcast.query.aggregation import AggregateShape
from rowcast.query.conditions import Query
from rowcast.query.pages import FetchedPage, PageShape
from rowcast.query.projection import Projection
from rowcast.query.store import Store, StoredRow

Result = TypeVar("Result")

PATIENCE_SECONDS: Final = 1.0  # for a connection to a replica, after which the primary is read
FALLBACKS: Final = ("recent", "no_replica", "missing_row", "not_a_standby", "error")
"""Why the primary is read although a resource reads from replicas: no replica has what the request must see, or none is
usable, or what one has returned does not count."""


@dataclass(frozen=True, slots=True)
class Replica:
    """A standby: how far it is, its store, and its pool for exports."""

    watch: StandbyWatch
    store: Store
    exports: Database

    @property
    def name(self) -> str:
        """The host and port."""
        return self.watch.server


class RecentWriters:
    """Who has written lately, and when: users, addresses, connections. They are forgotten after ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._times: OrderedDict[Hashable, float] = OrderedDict()

    def note(self, writers: Iterable[Hashable]) -> None:
        """What these have written has been committed by now."""
        now = monotonic()
        for writer in writers:
            self._times[writer] = now
            self._times.move_to_end(writer)
        while self._times and next(iter(self._times.values())) < now - self._seconds:
            self._times.popitem(last=False)

    def last(self, writers: Iterable[Hashable]) -> float:
        """When one of these has written last; minus infinity if none is remembered."""
        return max((self._times.get(writer, -inf) for writer in writers), default=-inf) if self._times else -inf


class Replicas:
    """The replicas of one service. One that lacks what was committed more than ``max_lag`` seconds ago is not read."""

    def __init__(
        self, store: Store, all_replicas: Sequence[Replica], clock: PrimaryClock, feed: Tail, max_lag: float
    ) -> None:
        self.store = store
        self.all = tuple(all_replicas)
        self.clock = clock
        self.writers = RecentWriters(max_lag)
        self.reads: Counter[str] = Counter()  # by the server that has answered
        self.fallbacks: Counter[str] = Counter()  # by reason
        self._max_lag = max_lag
        resources = store.queries.resources
        self._feed = feed
        self._kept = frozenset(name for name, each in resources.items() if not each.reads_replicas)

    async def start(self) -> None:
        """Begin to follow how far each replica is; returns at once."""
        for each in (self.clock, *(replica.watch for replica in self.all)):
            await each.start()

    async def stop(self) -> None:
        """Stop, and close all connections."""
        await asyncio.gather(*(each.stop() for each in (self.clock, *(replica.watch for replica in self.all))))
        for replica in self.all:
            await replica.exports.close()
            await replica.store.database.close()

    def choose(self, after: float, named: Sequence[Position | int]) -> Replica | None:
        """The least busy replica that has everything committed before a time, and what is named; ``None`` if none has."""
        since = monotonic() - self._max_lag
        usable = [each for each in self.all if each.watch.moment is not None and each.watch.moment.time >= since]
        found = [
            each
            for each in usable
            if (moment := each.watch.moment) is not None
            and moment.time >= after
            and all(moment.end.includes(wanted) or each.watch.has_shown(wanted) for wanted in named)
        ]
        if not found:
            self.fallbacks["recent" if usable else "no_replica"] += 1
            return None
        return found[0] if len(found) == 1 else min(found, key=_use)

    def memory_has(self, wanted: Position | int) -> bool:
        """Whether the feed has delivered everything up to a position or a transaction, so that what is kept has it, too."""
        if self._feed.has_delivered(wanted):
            return True
        end = self.clock.end_at(self._feed.confirmed_at)  # not by the relay's beats, which may come late
        return end is not None and end.includes(wanted)

    def may_read(self, resources: Collection[str] | None) -> bool:
        """Whether replicas may be read about these resources; ``None`` if it is not known which ones."""
        return not self._kept or (resources is not None and self._kept.isdisjoint(resources))


def _use(replica: Replica) -> int:
    load = replica.store.database.load
    return load.in_use + load.waiting


class Reader:
    """Reads for one request: from a replica that has what the request must see, otherwise from the primary.

    That is everything committed before the time ``after``, and the ``named`` positions and transactions. With ``replicas_answer``
    false it is the primary.
    """

    __slots__ = ("_after", "_answer", "_named", "_replicas", "generation")

    def __init__(
        self,
        replicas: Replicas,
        *,
        after: float = -inf,
        named: Sequence[Position | int] = (),
        replicas_answer: bool = True,
    ) -> None:
        self._replicas = replicas
        self._after = after
        self._named = named
        self._answer = replicas_answer
        self.generation: int | None = None

    def as_of(self) -> int | None:
        """The generation of the cache as of which everything read so far is current; ``None`` if the primary was read."""
        return self.generation

    async def page(self, query: Query, page: PageShape, values: Sequence[object]) -> FetchedPage:
        """``Store.page``."""
        replica = self.replica_for(query, page.order, page.projection)
        return await self._read(replica, lambda store: store.page(query, page, values), lambda found: found.snapshot)

    async def groups(self, query: Query, shape: AggregateShape, values: Sequence[object]) -> FetchedPage:
        """``Store.groups``."""
        paths = tuple(
            filter(None, (*(each.path for each in shape.groups), *(each.path for each in shape.calculations)))
        )
        replica = self.replica_for(query, paths, None)
        return await self._read(replica, lambda store: store.groups(query, shape, values), lambda found: found.snapshot)

    async def one(self, query: Query, projection: Projection) -> StoredRow | None:
        """``Store.one``. That a row is not there is what the primary says."""
        replica = self.replica_for(query, (), projection)
        return await self._read(
            replica, lambda store: store.one(query, projection), lambda found: None if found is None else found.snapshot
        )

    async def related_size(
        self, query: Query, page: PageShape, values: Sequence[object], already: Projection, most: int
    ) -> tuple[int, int]:
        """``Store.related_size``."""
        replica = self.replica_for(query, page.order, page.projection)
        return await self._read(
            replica, lambda store: store.related_size(query, page, values, already, most), lambda _: WITH_SNAPSHOT
        )

    def replica_for(self, query: Query, order: tuple[str, ...], shown: Projection | None) -> Replica | None:
        """The replica that a query may be read from; ``None`` if it has to be the primary."""
        replicas = self._replicas
        if not self._answer:
            return None
        if not replicas.may_read(None) and not replicas.may_read(
            replicas.store.queries.reads(query.resource, query.shape, order, shown)
        ):
            return None
        return replicas.choose(self._after, self._named)

    async def _read(
        self,
        replica: Replica | None,
        read: Callable[[Store], Awaitable[Result]],
        position: Callable[[Result], str | None],
    ) -> Result:
        """What a replica returns, if it counts: with the ``position`` of a standby. Otherwise what the primary returns."""
        replicas = self._replicas
        if replica is not None and (moment := replica.watch.moment) is not None:
            act_as_caller(replica.store.database, replicas.store.database)
            try:
                found = await read(replica.store)
            except (ApiError, *DRIVER_ERRORS) as error:
                if not primary_may_differ(error):
                    raise
                replicas.fallbacks["error"] += 1
            else:
                if self.counts(replica, position(found)):
                    known = self.generation
                    self.generation = moment.generation if known is None else min(known, moment.generation)
                    return found
        replicas.reads["primary"] += 1
        return await read(replicas.store)

    def counts(self, replica: Replica, position: str | None) -> bool:
        """Whether the result of a replica counts: it has a position, which only a standby returns."""
        replicas = self._replicas
        if position is not None and WITH_SNAPSHOT in position:
            replicas.reads[replica.name] += 1
            if position != WITH_SNAPSHOT:
                replica.watch.shown = position
            return True
        if position is None:
            replicas.fallbacks["missing_row"] += 1
        else:
            replicas.fallbacks["not_a_standby"] += 1
            replica.watch.refuse("is not a standby")
        return False


def act_as_caller(replica: Database, primary: Database) -> None:
    """Let the statements of this task run as the same caller on a replica as on the primary."""
    if replica.acts_as_callers:
        replica.act_for(primary.caller())


def primary_may_differ(error: Exception) -> bool:
    """Whether the primary may succeed where a replica has failed: not for a statement that takes too long, or too many rows."""
    if isinstance(error, ListTooLarge):
        return False
    return not (isinstance(error, ApiError) and error.code == "statement_timeout")
