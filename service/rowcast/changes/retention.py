"""How long the log is kept: a ring of partitions that are filled one after the other, and emptied in the same order.

Writers fill the partition that a sequence names. When it has an eighth of what is to be kept, in time or in bytes, the
sequence is set to an empty partition. This takes no lock and no DDL. A writer that read the sequence before and writes
afterwards does no harm, because the order of changes does not depend on their partition.

Ticks are pruned first: from the oldest remaining tick on, all changes can be read. A partition is then emptied if that
tick sees every change in it. Its age alone is not enough, because a transaction may write long before it commits. A
transaction that has not committed has a lock on the partitions that it wrote to, and on no others, so all others can
be emptied however long it stays open. (Unless it has truncated a resource or deleted owners of links: these triggers
search the transaction's own changes, and so lock all partitions.)

Emptying needs an exclusive lock on the partition for a moment, and a statement that waits for a lock makes all later
ones wait. So it does not wait: it tries a few times, and again at the next maintenance.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from rowcast.changes import sql
from rowcast.changes.install import PARTITIONS
from rowcast.database.connection import Connection

PARTITIONS_KEPT: Final = 8  # the retention time or the size is divided into this many partitions
ANSWERS_AT_ONCE: Final = 10_000  # removed by one statement
LOCK_ATTEMPTS: Final = 20
LOCK_PAUSE_SECONDS: Final = 0.005  # between attempts, on average

_PARTITIONS: Final = " UNION ALL ".join(sql.fill(sql.load("partition"), number=str(n)) for n in range(PARTITIONS))
_PARTITION_IS_COVERED: Final = sql.load("partition_is_covered")
_PRUNE_TICKS: Final = sql.load("prune_ticks")
_FORGET_ANSWERS: Final = sql.load("forget_answers")
_FORGET_TICKETS: Final = sql.load("forget_tickets")


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition of the log. ``since`` is when its first change was written, if it has one; ``size`` is in bytes."""

    number: int
    size: int
    since: dt.datetime | None

    @property
    def relation(self) -> str:
        return f"rowcast.change_{self.number}"

    @property
    def sort_key(self) -> float:
        """Orders partitions by age, the oldest first; one with nothing but rolled-back changes comes before all."""
        return self.since.timestamp() if self.since is not None else 0


async def partitions(connection: Connection) -> list[Partition]:
    """The partitions that are not empty, oldest first."""
    return sorted((Partition(*row) for row in await connection.fetch(_PARTITIONS)), key=lambda part: part.sort_key)


async def maintain(connection: Connection, retention: float, size: int) -> bool:
    """Remove what is older than ``retention`` seconds, and the oldest changes beyond ``size`` bytes.

    Also starts a new partition when the current one has its share. Returns whether everything could be done; if not,
    others had locks on the log, and the caller tries again later. One caller at a time.
    """
    now: dt.datetime = await connection.fetchval("SELECT clock_timestamp()")
    current = await _current(connection)
    filled = await partitions(connection)
    await connection.execute(_PRUNE_TICKS, now - dt.timedelta(seconds=retention))
    closed = [part for part in filled if part.number != current]
    total = sum(part.size for part in filled)
    for part in closed:
        if total > size and (tick := await _covering(connection, part)) is not None:
            await connection.execute("DELETE FROM rowcast.tick WHERE tick < $1", tick)
            total -= part.size
    emptied = [await empty(connection, part) for part in closed if await _covers(connection, 0, part)]
    return await _move_on(connection, current, filled, now, retention, size) and all(emptied)


async def forget_answers(connection: Connection, retention: float) -> None:
    """Remove the answers of requests with an ``Idempotency-Key`` that are older than so many seconds."""
    while await connection.execute(_FORGET_ANSWERS, retention, ANSWERS_AT_ONCE) == f"DELETE {ANSWERS_AT_ONCE}":
        pass


async def forget_tickets(connection: Connection) -> None:
    """Remove the tickets for streams that nobody has used in time."""
    await connection.execute(_FORGET_TICKETS)


async def _current(connection: Connection) -> int:
    """The number of the partition that writers fill."""
    current: int = await connection.fetchval("SELECT last_value FROM rowcast.change_part")
    return current


async def _move_on(
    connection: Connection, current: int, filled: Sequence[Partition], now: dt.datetime, retention: float, size: int
) -> bool:
    """Let writers fill an empty partition if the current one has its share; return ``False`` if none is empty."""
    part = next((part for part in filled if part.number == current), None)
    if part is None:
        return True
    old = part.since is not None and (now - part.since).total_seconds() >= retention / PARTITIONS_KEPT
    if not old and part.size < size / PARTITIONS_KEPT:
        return True
    taken = {part.number for part in await partitions(connection)}
    after = [(current + step) % PARTITIONS for step in range(1, PARTITIONS)]
    for number in after:
        if number not in taken:
            await connection.execute("SELECT setval('rowcast.change_part', $1)", number)
            return True
    return False


async def _covers(connection: Connection, tick: int, part: Partition) -> bool:
    """Whether the first tick from this number on sees every committed change of a partition."""
    covers: bool = await connection.fetchval(sql.fill(_PARTITION_IS_COVERED, relation=part.relation), tick)
    return covers


async def _covering(connection: Connection, part: Partition) -> int | None:
    """The first tick that sees every committed change of a partition; ``None`` if none does yet."""
    low, high = await connection.fetchrow("SELECT min(tick), max(tick) FROM rowcast.tick")
    if not await _covers(connection, high, part):
        return None
    while low < high:
        middle = (low + high) // 2
        if await _covers(connection, middle, part):
            high = middle
        else:
            low = middle + 1
    return int(low)


async def empty(connection: Connection, part: Partition) -> bool:
    """Empty a partition that the oldest tick covers, and return whether that could be done."""
    for _ in range(LOCK_ATTEMPTS):
        try:
            async with connection.transaction():
                await connection.execute(f"LOCK TABLE ONLY {part.relation} IN ACCESS EXCLUSIVE MODE NOWAIT")
                if not await _covers(connection, 0, part):
                    return False  # another transaction has committed since
                await connection.execute(f"TRUNCATE ONLY {part.relation}")
            return True
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            await asyncio.sleep(LOCK_PAUSE_SECONDS * random.uniform(0.5, 1.5))
    return False
