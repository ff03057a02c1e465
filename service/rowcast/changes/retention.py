"""How long the log is kept: a ring of partitions, filled one after the other and emptied behind.

Writers fill the partition that a sequence names. When it is an eighth of what is to be kept, in time or in bytes, the
sequence is set to an empty one: no lock, no DDL, and a writer that has looked before and writes after does no harm,
since no order rests on where a change is.

Ticks are pruned first; from the oldest one that is kept on, everything can be read. A partition is then emptied if that
tick sees every change in it. Its age alone would not do, because a transaction may write long before it commits. One
that has not committed yet has a lock on the partitions that it wrote to, and on those alone: all others can be emptied
behind it, however long it stays open. (Unless it has truncated a resource or deleted owners of links: those triggers
look for what the transaction has logged before, and so hold all of them.)

Emptying needs the partition for itself for a moment, and whoever waits for a lock makes others wait behind it. So it
does not wait: it asks a few times, and tries again the next time.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from rowcast.changes.log import PARTS, Connection

SHARES: Final = 8  # partitions that the retention time or the size is spread over
ATTEMPTS: Final = 20  # to have a partition for oneself
PAUSE: Final = 0.005  # s between them, about


@dataclass(frozen=True, slots=True)
class Partition:
    """A part of the log. ``since`` is when its first change was written, if there is one; ``size`` is in bytes."""

    number: int
    size: int
    since: dt.datetime | None

    @property
    def relation(self) -> str:
        return f"rowcast.change_{self.number}"

    @property
    def age(self) -> float:
        """What to order partitions by, the oldest first; those with nothing but rolled back changes before all."""
        return self.since.timestamp() if self.since is not None else 0


_PARTITIONS: Final = " UNION ALL ".join(
    f"""SELECT {n}, pg_total_relation_size('rowcast.change_{n}'), (SELECT at FROM rowcast.change_{n} ORDER BY xid, seq
    LIMIT 1) WHERE pg_relation_size('rowcast.change_{n}') > 0"""
    for n in range(PARTS)
)


async def partitions(connection: Connection) -> list[Partition]:
    """The partitions that are not empty, oldest first."""
    return sorted((Partition(*row) for row in await connection.fetch(_PARTITIONS)), key=lambda part: part.age)


async def maintain(connection: Connection, retention: float, size: int) -> bool:
    """Let go of what is older than ``retention`` seconds, and of the oldest beyond ``size`` bytes; go on in a new part.

    Returns whether all of it could be done; if not, others needed the log, and it is to be tried again. One caller at a
    time.
    """
    now: dt.datetime = await connection.fetchval("SELECT clock_timestamp()")
    current = await _current(connection)
    filled = await partitions(connection)
    await connection.execute(
        """DELETE FROM rowcast.tick WHERE tick < (
            SELECT coalesce(
                (SELECT tick - 1 FROM rowcast.tick WHERE at > $1 ORDER BY tick LIMIT 1),
                (SELECT max(tick) FROM rowcast.tick)
            )
        )""",
        now - dt.timedelta(seconds=retention),
    )
    closed = [part for part in filled if part.number != current]
    total = sum(part.size for part in filled)
    for part in closed:
        if total > size and (tick := await _covering(connection, part)) is not None:
            await connection.execute("DELETE FROM rowcast.tick WHERE tick < $1", tick)
            total -= part.size
    emptied = [await _empty(connection, part) for part in closed if await _covers(connection, 0, part)]
    return await _move_on(connection, current, filled, now, retention, size) and all(emptied)


async def _current(connection: Connection) -> int:
    """The number of the partition that writers fill."""
    current: int = await connection.fetchval("SELECT last_value FROM rowcast.change_part")
    return current


async def _move_on(
    connection: Connection, current: int, filled: Sequence[Partition], now: dt.datetime, retention: float, size: int
) -> bool:
    """Let writers fill an empty partition if theirs has had its share; whether that could be done."""
    part = next((part for part in filled if part.number == current), None)
    if part is None:
        return True
    old = part.since is not None and (now - part.since).total_seconds() >= retention / SHARES
    if not old and part.size < size / SHARES:
        return True
    taken = {part.number for part in await partitions(connection)}
    after = [(current + step) % PARTS for step in range(1, PARTS)]
    for number in after:
        if number not in taken:
            await connection.execute("SELECT setval('rowcast.change_part', $1)", number)
            return True
    return False


async def _covers(connection: Connection, tick: int, part: Partition) -> bool:
    """Whether the first tick from this number on sees every committed change of a partition."""
    covers: bool = await connection.fetchval(
        f"""SELECT coalesce((SELECT xid FROM {part.relation} ORDER BY xid DESC LIMIT 1) < pg_snapshot_xmax(snap), true)
            AND NOT EXISTS (SELECT FROM pg_snapshot_xip(snap) x
                WHERE EXISTS (SELECT FROM {part.relation} c WHERE c.xid = x OFFSET 0))
        FROM rowcast.tick WHERE tick >= $1 ORDER BY tick LIMIT 1""",
        tick,
    )
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


async def _empty(connection: Connection, part: Partition) -> bool:
    """Empty a partition that the oldest tick covers; whether that could be done."""
    for _ in range(ATTEMPTS):
        try:
            async with connection.transaction():
                await connection.execute(f"LOCK TABLE ONLY {part.relation} IN ACCESS EXCLUSIVE MODE NOWAIT")
                if not await _covers(connection, 0, part):
                    return False  # somebody has committed since
                await connection.execute(f"TRUNCATE ONLY {part.relation}")
            return True
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            await asyncio.sleep(PAUSE * random.uniform(0.5, 1.5))
    return False
