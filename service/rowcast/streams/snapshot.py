"""The rows of a snapshot while they wait for their client: in a temporary file, because a client may read slowly or never.

They are all read at one moment, and no database connection waits for the client.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from tempfile import SpooledTemporaryFile
from typing import Final

from rowcast.errors import ListTooLarge, ParseError
from rowcast.query.pages import FetchedPage
from rowcast.streams.subscription import SNAPSHOT_BLOCK_ROWS, Subscription, Subscriptions

MEMORY_MAX_BYTES: Final = 256 << 10  # of a snapshot's rows; more are in a file
SNAPSHOT_MAX_BYTES: Final = 64 << 20
ROWS_AT_ONCE: Final = 500  # of one statement; more are read in parts, from the first row on
_INSTEAD: Final = (
    "narrow the filter, or read the list page by page and open the stream with the X-Stream-Position of its first page as "
    "last_event_id."
)


class SnapshotRows:
    """The rows of each subscription, in blocks. ``close`` it at the end."""

    def __init__(self) -> None:
        self._blocks: list[tuple[Subscription, list[int]]] = []  # the lengths of the rows of each block
        self._file = SpooledTemporaryFile(MEMORY_MAX_BYTES)  # noqa: SIM115 - closed by close()
        self._size = 0

    async def add(self, subscription: Subscription, rows: Sequence[bytes]) -> None:
        """Add the rows of a subscription; ``ParseError`` if there are too many bytes."""
        self._size += sum(map(len, rows))
        if self._size > SNAPSHOT_MAX_BYTES:
            raise ParseError(
                f"snapshot: the rows have more than {SNAPSHOT_MAX_BYTES >> 20} MiB; {_INSTEAD}",
                code="invalid_parameter",
            )
        for first in range(0, len(rows), SNAPSHOT_BLOCK_ROWS):
            self._blocks.append((subscription, [len(row) for row in rows[first : first + SNAPSHOT_BLOCK_ROWS]]))
        if self._size > MEMORY_MAX_BYTES:
            await asyncio.to_thread(self._write, rows)
        else:
            self._file.writelines(rows)

    def _write(self, rows: Sequence[bytes]) -> None:
        self._file.rollover()  # nothing if it is on disk already
        self._file.writelines(rows)

    async def blocks(self) -> AsyncIterator[tuple[Subscription, Sequence[bytes]]]:
        """Each block of rows, read when it is needed."""
        self._file.seek(0)
        for subscription, lengths in self._blocks:
            if self._size > MEMORY_MAX_BYTES:
                data = await asyncio.to_thread(self._file.read, sum(lengths))
            else:
                data = self._file.read(sum(lengths))
            yield subscription, list(_parts(data, lengths))

    def close(self) -> None:
        """Remove the rows."""
        self._file.close()


def _parts(data: bytes, lengths: Iterable[int]) -> Iterable[bytes]:
    start = 0
    for length in lengths:
        yield data[start : start + length]
        start += length


async def read_snapshot(subscriptions: Subscriptions, limit: int) -> tuple[SnapshotRows, str]:
    """All rows of the subscriptions as of one moment, and its ``pg_current_snapshot``; ``ParseError`` for too many."""
    found = SnapshotRows()
    try:
        return found, await _read_into(found, subscriptions, limit)
    except BaseException:
        found.close()
        raise


async def _read_into(found: SnapshotRows, subscriptions: Subscriptions, limit: int) -> str:
    snapshot = ""
    database = next(iter(subscriptions)).store.database
    async with database.transaction():
        await database.fetch("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY", ())
        for subscription in subscriptions:
            first = await _first_rows(subscription, limit + 1)
            snapshot = snapshot or (await subscription.store.snapshot() if first is None else first.snapshot)
            async for rows in subscription.rows_in_parts() if first is None else _once(first.documents):
                limit -= len(rows)
                if limit < 0:
                    raise ParseError(f"snapshot: there are too many rows for one; {_INSTEAD}", code="invalid_parameter")
                await found.add(subscription, rows)
    return snapshot


async def _first_rows(subscription: Subscription, limit: int) -> FetchedPage | None:
    """All rows of a subscription, by the statement that is fastest for few rows; ``None`` if there are many."""
    try:
        page = await subscription.read_rows(min(limit, ROWS_AT_ONCE))
    except ListTooLarge:
        return None
    return page if page.size <= ROWS_AT_ONCE else None


async def _once(rows: list[bytes]) -> AsyncIterator[list[bytes]]:
    yield rows
