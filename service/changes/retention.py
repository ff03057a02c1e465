"""How long the log is kept: partitions made ahead of time, and dropped whole behind it.

Ticks are pruned first, all but the newest of those that are too old: from that one on everything can be read. A
partition is then dropped if that tick sees every change in it. Its age alone would not do, because a transaction may
write long before it commits. One that has not committed yet holds a lock on the partition, so that it cannot be dropped
at all.

Dropping needs the log for itself for a moment, and whoever waits for a lock makes others wait behind it. So it waits
briefly, gives up, and tries again the next time.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

import asyncpg

from service.changes.log import Connection

HISTORY: Final = 8  # partitions that the retention time spans
PATIENCE: Final = "100ms"  # that writers may have to wait behind a partition being made or dropped
AHEAD: Final = 2  # partitions made before their time
SHORTEST: Final = dt.timedelta(seconds=1)  # time that a partition spans at least


@dataclass(frozen=True, slots=True)
class Partition:
    """A part of the log, from ``lower`` up to ``upper``."""

    relation: str
    lower: dt.datetime
    upper: dt.datetime
    size: int


async def partitions(connection: Connection) -> list[Partition]:
    """The partitions but for the default one, oldest first."""
    rows = await connection.fetch(
        """SELECT c.oid::regclass::text AS relation, bound[1]::timestamptz AS lower, bound[2]::timestamptz AS upper,
            pg_total_relation_size(c.oid) AS size
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid,
            regexp_match(pg_get_expr(c.relpartbound, c.oid), $$FROM \\('(.+)'\\) TO \\('(.+)'\\)$$) AS bound
        WHERE i.inhparent = 'rowcast.change'::regclass AND bound IS NOT NULL ORDER BY lower"""
    )
    return [Partition(*row) for row in rows]


async def maintain(connection: Connection, retention: float, size: int | None = None) -> bool:
    """Make partitions ahead and let go of what is older than ``retention`` seconds, or more than ``size`` bytes.

    Returns whether all of it could be done; if not, others needed the log, and it is to be tried again. One caller at a
    time.
    """
    made = await _make(connection, dt.timedelta(seconds=retention))
    present = await partitions(connection)
    now: dt.datetime = await connection.fetchval("SELECT clock_timestamp()")
    cutoff = now - dt.timedelta(seconds=retention)
    total = sum(partition.size for partition in present)
    for partition in present:
        if size is None or total <= size or partition.upper > now:
            break
        cutoff, total = max(cutoff, partition.upper), total - partition.size
    await connection.execute(
        """DELETE FROM rowcast.tick WHERE tick < (
            SELECT coalesce(
                (SELECT tick - 1 FROM rowcast.tick WHERE at > $1 ORDER BY tick LIMIT 1),
                (SELECT max(tick) FROM rowcast.tick)
            )
        )""",
        cutoff,
    )
    await connection.execute("DELETE FROM rowcast.change_default WHERE at < $1 AND " + _TOLD, cutoff)
    dropped = [await _drop(connection, partition) for partition in present if partition.upper <= cutoff]
    return made and all(dropped)


_OLDEST: Final = "(SELECT snap FROM rowcast.tick ORDER BY tick LIMIT 1)"
_TOLD: Final = f"pg_visible_in_snapshot(xid, {_OLDEST})"


async def _make(connection: Connection, retention: dt.timedelta) -> bool:
    """Make partitions for what comes next, in line with the last or, where there is none, from shortly after now."""
    width = max(SHORTEST, retention / HISTORY)
    now: dt.datetime = await connection.fetchval("SELECT clock_timestamp()")
    lower = max([partition.upper for partition in await partitions(connection)], default=now)
    if lower <= now:
        lower = now + SHORTEST
    while lower < now + AHEAD * width:
        upper = lower + width
        name = f"rowcast.change_{lower:%Y%m%d_%H%M%S_%f}"
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = '{PATIENCE}'")
                await connection.execute(
                    f"""CREATE TABLE {name} (LIKE rowcast.change INCLUDING DEFAULTS INCLUDING INDEXES);
                    ALTER TABLE rowcast.change ATTACH PARTITION {name} FOR VALUES FROM ('{lower}') TO ('{upper}')"""
                )
        except (asyncpg.LockNotAvailableError, asyncpg.CheckViolationError, asyncpg.DeadlockDetectedError):
            return False  # the second: the clock was set back, and the default partition has changes of that time
        lower = upper
    return True


async def _drop(connection: Connection, partition: Partition) -> bool:
    """Drop a partition if no tick that is kept needs it; whether it is gone."""
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = '{PATIENCE}'")
            await connection.execute(f"LOCK TABLE rowcast.change, {partition.relation} IN ACCESS EXCLUSIVE MODE")
            if await connection.fetchval(f"SELECT EXISTS (SELECT FROM {partition.relation} WHERE NOT {_TOLD})"):
                return False
            await connection.execute(f"DROP TABLE {partition.relation}")
    except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
        return False
    return True
