"""Which streams may open: not too many in all or for one caller, and none whose filter has just taken too long.

A browser's ``EventSource`` gives up after an error status, and other clients read ``Retry-After``: nobody who is refused
connects again at once.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import Final, Protocol

from rowcast.database.absent import NeedsDatabase
from rowcast.errors import TooManyStreams, Unavailable
from rowcast.query.conditions import Query
from rowcast.streams.subscription import Subscription

SLOW_FILTER_SECONDS: Final = 50.0  # for which a filter is refused that took too long; its clients come back after that
SLOW_FILTERS_MAX: Final = 1000
LEFT_FILTERS_MAX: Final = 1000
FULL_RETRY_SECONDS: Final = 30
WAITING_MAX_BYTES: Final = 128 << 20  # that wait for the clients of all streams together
BUFFER_MIN_BYTES: Final = 16 << 10


class Filtered(Protocol):
    """What is asked for by a filter."""

    @property
    def query(self) -> Query: ...


class Place:
    """A context in which a stream of one caller counts."""

    __slots__ = ("_admission", "_caller")

    def __init__(self, admission: Admission, caller: str) -> None:
        self._admission = admission
        self._caller = caller

    def __enter__(self) -> None:
        self._admission.enter(self._caller)

    def __exit__(self, *_: object) -> None:
        self._admission.leave(self._caller)


class Admission:
    """Counts the open streams of one process: at most ``most``, and ``most_of_caller`` for one caller.

    ``buffer`` is how many bytes may wait for one client.
    """

    def __init__(self, most: int, most_of_caller: int, buffer: int) -> None:
        self._most = most
        self._most_of_caller = most_of_caller
        self._buffer = buffer
        self._open: Counter[str] = Counter()
        self._total = 0
        self._slow: OrderedDict[Query, float] = OrderedDict()  # filters that are refused, until when

    @property
    def buffer(self) -> int:
        """How many bytes may wait for one client: fewer if there are many streams, so that their sum has a bound."""
        return min(self._buffer, max(BUFFER_MIN_BYTES, WAITING_MAX_BYTES // (self._total or 1)))

    def admit(self, caller: str, subscriptions: Iterable[Filtered]) -> Place:
        """A context in which a stream counts; an error says why it may not be opened."""
        if self._slow:
            self._check_filters(subscriptions)
        if self._open[caller] >= self._most_of_caller:
            raise TooManyStreams(
                f"You have {self._most_of_caller} open streams, which is the most. Close some, or open one stream of several"
                " resources.",
                wait=FULL_RETRY_SECONDS,
            )
        if self._total >= self._most:
            raise Unavailable(
                "There are too many open streams; try again later.",
                code=TooManyStreams.code,
                retry_after=FULL_RETRY_SECONDS,
                limit="max_streams",
            )
        return self.place(caller)

    def leave_to_origin(self, subscriptions: Iterable[Filtered]) -> None:
        """Only the database could decide about a change of this stream, which an edge therefore does not open again."""

    def place(self, caller: str) -> Place:
        """A context in which a stream counts that has been admitted: its client has the headers, and can get no error any more."""
        return Place(self, caller)

    def enter(self, caller: str) -> None:
        """Count a stream of a caller."""
        self._open[caller] += 1
        self._total += 1

    def leave(self, caller: str) -> None:
        """A stream of a caller has ended."""
        self._total -= 1
        self._open[caller] -= 1
        if not self._open[caller]:
            del self._open[caller]

    def refuse(self, query: Query) -> bool:
        """Open no stream with this filter for a while, and return whether that is new."""
        new = query not in self._slow
        self._slow[query] = time.monotonic() + SLOW_FILTER_SECONDS
        self._slow.move_to_end(query)
        if len(self._slow) > SLOW_FILTERS_MAX:
            self._slow.popitem(last=False)
        return new

    def _check_filters(self, subscriptions: Iterable[Filtered]) -> None:
        now = time.monotonic()
        while self._slow and next(iter(self._slow.values())) <= now:
            self._slow.popitem(last=False)
        for subscription in subscriptions:
            until = self._slow.get(subscription.query)
            if until is not None:
                raise Unavailable(
                    "The regular expressions of this stream took too long; use simpler ones.",
                    code="statement_timeout",
                    retry_after=int(until - now) + 1,
                )


class EdgeAdmission(Admission):
    """Decides at an edge. A stream that the log alone does not decide about is ``NeedsDatabase``: the origin has it."""

    def __init__(self, most: int, most_of_caller: int, buffer: int) -> None:
        super().__init__(most, most_of_caller, buffer)
        self._left: OrderedDict[Query, None] = OrderedDict()  # the filters of streams that were left to the origin

    def leave_to_origin(self, subscriptions: Iterable[Filtered]) -> None:
        for each in subscriptions:
            self._left[each.query] = None
            if len(self._left) > LEFT_FILTERS_MAX:
                self._left.popitem(last=False)

    def admit(self, caller: str, subscriptions: Iterable[Filtered]) -> Place:
        found = list(subscriptions)
        if not all(isinstance(each, Subscription) and each.needs_log_alone for each in found):
            raise NeedsDatabase
        if any(each.query in self._left for each in found):
            raise NeedsDatabase
        return super().admit(caller, found)
