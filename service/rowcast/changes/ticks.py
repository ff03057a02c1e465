"""Ticks: stored snapshots, which divide the log.

Nothing in a row of the log says when it was committed: numbers and times are assigned before the commit, and
transaction numbers are assigned in another order than rows are written. So the log is not read by number. The ticker
(``rowcast.changes.ticker``) stores a snapshot now and then, a *tick*, and a reader asks for the changes that one tick
sees and the tick before does not see. Nothing can be skipped, because every snapshot from its commit on sees a change.
Nothing waits for a long transaction, which simply is in a later tick.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rowcast.changes import sql
from rowcast.changes.position import Snapshot
from rowcast.database.connection import Connection

TICKS_PER_READ: Final = 512

_MAKE_TICK: Final = sql.load("make_tick")
_CHANGES_ARE_WAITING: Final = sql.load("changes_are_waiting")
_TICKS: Final = "SELECT tick, epoch, snap FROM rowcast.tick WHERE tick >= $1 ORDER BY tick LIMIT $2"
_TICKS_AT: Final = _TICKS.replace("snap", "snap, extract(epoch FROM statement_timestamp())::float8")
_RESOURCES: Final = sql.load("resources_between_ticks")
_TICKS_OF_STANDBY: Final = _TICKS.replace("WHERE", "WHERE pg_is_in_recovery() AND")


@dataclass(frozen=True, slots=True)
class Tick:
    """A boundary in the log: the number of the tick that ends here, and which transactions had committed."""

    tick: int
    epoch: int
    snap: Snapshot


async def make_tick(connection: Connection, epoch: int, *, notify: bool) -> tuple[int | None, int]:
    """Make a tick, and return its number and the oldest running transaction; ``None`` if nothing has changed."""
    row = await connection.fetchrow(_MAKE_TICK, epoch, notify, timeout=10)
    return row["tick"], row["oldest"]


async def changes_are_waiting(connection: Connection) -> bool:
    """Whether there are changes after the newest tick, which are not delivered before the next tick."""
    return bool(await connection.fetchval(_CHANGES_ARE_WAITING, timeout=10))


async def newest_tick(connection: Connection) -> Tick:
    """The newest tick."""
    tick, epoch, snap = await connection.fetchrow(
        "SELECT tick, epoch, snap FROM rowcast.tick ORDER BY tick DESC LIMIT 1", timeout=10
    )
    return Tick(tick, epoch, Snapshot.of(snap))


async def oldest_tick(connection: Connection) -> int:
    """The number of the oldest tick that is kept. The changes after it can be read."""
    oldest: int = await connection.fetchval("SELECT tick FROM rowcast.tick ORDER BY tick LIMIT 1", timeout=10)
    return oldest


async def read_ticks(
    connection: Connection, first: int, count: int = TICKS_PER_READ, *, standby: bool = False
) -> list[Tick]:
    """Up to ``count`` ticks from ``first`` on, in order; with ``standby`` none if the server is not a standby."""
    rows = await connection.fetch(_TICKS_OF_STANDBY if standby else _TICKS, first, count, timeout=10)
    return [Tick(tick, epoch, Snapshot.of(snap)) for tick, epoch, snap in rows]


async def look(connection: Connection, first: int) -> tuple[list[Tick], float | None]:
    """Ticks from ``first`` on, and when the statement began, by the clock of the database; ``None`` without ticks."""
    rows = await connection.fetch(_TICKS_AT, first, TICKS_PER_READ, timeout=10)
    return [Tick(tick, epoch, Snapshot.of(snap)) for tick, epoch, snap, _ in rows], rows[0][3] if rows else None


async def skim(connection: Connection, first: int) -> tuple[list[Tick], list[str]]:
    """Ticks from ``first`` on, and the resources that have changed after that one."""
    rows = await connection.fetch(_RESOURCES, first, TICKS_PER_READ, timeout=300)
    return [Tick(row[0], row[1], Snapshot.of(row[2])) for row in rows], rows[-1]["resources"] if rows else []
