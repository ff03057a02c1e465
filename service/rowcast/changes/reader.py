"""Reading the events between ticks, in the one order that every replica uses.

Within a tick, transactions are ordered by their largest ``seq``, and the changes of one transaction by ``seq``. A
transaction that has changed a row holds the row's lock until it ends, so the next transaction that changes this row
takes all its numbers for it later. Changes of one row are therefore in their true order, and transactions are never
interleaved. This needs a sequence that assigns numbers in the order of the calls, without a cache for each session.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import AsyncGenerator, Sequence
from typing import Final

import asyncpg

from rowcast.changes import sql
from rowcast.changes.events import Batch, Event
from rowcast.changes.position import Position
from rowcast.changes.ticks import Tick
from rowcast.database.connection import Connection

PAGE_EVENTS: Final = 64, 1024  # changes read at once: at first, and at most
PAGE_BYTES: Final = 1 << 20  # the approximate size of the rows in a page

_TRACEPARENT: Final = re.compile("00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_READER_SESSION: Final = sql.load("reader_session")
_TRANSACTIONS: Final = sql.load("transactions_between_ticks")
_CHANGES_OF_TRANSACTIONS: Final = sql.load("changes_of_transactions")
_CHANGES_OF_TRANSACTION: Final = sql.load("changes_of_transaction")


class Pruned(Exception):
    """The changes to be read are not kept any more."""


async def prepare_session(connection: Connection) -> None:
    """Prepare a connection for making ticks or reading the log: its settings, and ``jsonb`` as bytes."""
    await connection.execute(_READER_SESSION)
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", format="binary", encoder=_refuse, decoder=lambda value: bytes(value[1:])
    )  # the first byte is the version of the format


async def read_batches(connection: Connection, after: Position, ticks: Sequence[Tick]) -> AsyncGenerator[Batch, None]:
    """The events after a position, through ``ticks``: consecutive ones, of which the first is ``after.tick``.

    Memory is bounded by a page, however large a tick is. Raises ``Pruned`` if some events are not kept any more.
    """
    rows = await connection.fetch(_TRANSACTIONS, ticks[0].snap.value, ticks[-1].snap.value, ticks[0].tick, timeout=300)
    if not rows:
        raise Pruned
    order = sorted(
        (bisect_left(ticks, True, key=lambda tick, xid=xid: tick.snap.sees(xid)), last, xid, count)  # type: ignore[misc]
        for xid, last, count in rows
        if xid is not None
    )
    totals = Counter[int]()
    xids: dict[int, set[int]] = defaultdict(set)
    for index, _, xid, count in order:
        totals[index] += count
        xids[index].add(xid)
    n = min(after.n, totals[1])
    pages = _Pages(connection, [(xid, count) for _, _, xid, count in order], n)
    page: Sequence[asyncpg.Record] = ()
    for index, tick in enumerate(ticks[1:], start=1):
        while True:
            if not page and n < totals[index]:
                page = await pages.next()
            part, page = page[: totals[index] - n], page[totals[index] - n :]
            events = tuple(_event(n + i, row) for i, row in enumerate(part, start=1))
            first, n = n + 1, n + len(part)
            yield Batch(tick.epoch, tick.tick, tick.snap, first, events, n == totals[index], frozenset(xids[index]))
            if n == totals[index]:
                break
        n = 0


def _refuse(_value: object) -> bytes:
    raise AssertionError("this connection only reads")


def _event(n: int, row: asyncpg.Record) -> Event:
    seq, xid, at, resource, op, pk, old, new, traceparent = row
    if traceparent is not None and _TRACEPARENT.fullmatch(traceparent) is None:  # any writer can set it
        traceparent = None
    return Event(n, xid, seq, at, resource, op.decode(), pk, old, new, traceparent)


class _Pages:
    """The changes of consecutive transactions, read one page at a time; the first ``skip`` of them are left out."""

    def __init__(self, connection: Connection, transactions: Sequence[tuple[int, int]], skip: int) -> None:
        self._connection = connection
        self._left = deque(transactions)  # transactions to be read, with the number of their changes
        while self._left and skip >= self._left[0][1]:
            skip -= self._left.popleft()[1]
        self._done = skip  # changes of the first transaction that were read or skipped,
        self._seq = -1  # up to this number; negative if they were skipped
        self._size = PAGE_EVENTS[0]

    async def next(self) -> Sequence[asyncpg.Record]:
        """The next page. Raises ``Pruned`` if it has fewer changes than there were."""
        rows = await (self._part() if self._done or self._left[0][1] > self._size else self._whole())
        average = sum(len(row["old"] or b"") + len(row["new"] or b"") for row in rows) // len(rows)
        self._size = max(1, min(PAGE_EVENTS[1], 4 * self._size, PAGE_BYTES // (average + 1)))
        return rows

    async def _whole(self) -> Sequence[asyncpg.Record]:
        """As many whole transactions as fit into a page."""
        order: dict[int, int] = {}
        expected = 0
        while self._left and expected + self._left[0][1] <= self._size:
            xid, count = self._left.popleft()
            order[xid] = len(order)
            expected += count
        rows = await self._connection.fetch(_CHANGES_OF_TRANSACTIONS, list(order), timeout=60)
        if len(rows) != expected:
            raise Pruned
        return sorted(rows, key=lambda row: (order[row["xid"]], row["seq"]))

    async def _part(self) -> Sequence[asyncpg.Record]:
        """The next page of the first transaction."""
        xid, count = self._left[0]
        offset = self._done if self._seq < 0 else 0
        rows: Sequence[asyncpg.Record] = await self._connection.fetch(
            _CHANGES_OF_TRANSACTION, xid, self._seq, self._size, offset, timeout=60
        )
        if len(rows) != min(count - self._done, self._size):
            raise Pruned
        self._done, self._seq = self._done + len(rows), rows[-1]["seq"]
        if self._done == count:
            self._left.popleft()
            self._done, self._seq = 0, -1
        return rows
