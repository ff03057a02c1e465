"""Epochs: the histories of a database.

A promoted standby, a recovery to a point in time (both have another timeline) and a copy of the database share the log
up to now, and go on in an epoch of their own. In another cluster, restored from a dump, the transaction numbers of the
log mean nothing, so the log begins again there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import asyncpg

from rowcast.changes import sql
from rowcast.database.connection import Connection

_CURRENT_HISTORY: Final = sql.load("current_history")
_NEW_EPOCH: Final = sql.load("new_epoch")


@dataclass(frozen=True, slots=True)
class Epoch:
    """One history of the database. Ticks after ``base`` belong to it; such ticks of an earlier epoch are forked."""

    epoch: int
    base: int


async def current_history(connection: Connection) -> asyncpg.Record:
    """What identifies the history of this database: ``system_identifier``, ``timeline`` and ``database``."""
    return await connection.fetchrow(_CURRENT_HISTORY, timeout=10)


async def current_epoch(connection: Connection) -> int:
    """The epoch of this database's history; a new one is made if the newest epoch is of another history."""
    history = await current_history(connection)
    if (epoch := await _epoch_of(connection, history)) is not None:
        return epoch
    async with connection.transaction():
        await connection.execute("LOCK TABLE rowcast.tick IN SHARE ROW EXCLUSIVE MODE")
        if (epoch := await _epoch_of(connection, history)) is not None:
            return epoch
        cluster = await connection.fetchval("SELECT system_identifier FROM rowcast.epoch ORDER BY epoch DESC LIMIT 1")
        newest = await connection.fetchval("SELECT max(tick) FROM rowcast.tick") or 0
        same_cluster = cluster == history["system_identifier"]
        base = newest if same_cluster else 0
        epoch = int(await connection.fetchval(_NEW_EPOCH, base, *history.values()))
        if not same_cluster:
            await connection.execute("UPDATE rowcast.epoch SET base_tick = 0")
            await connection.execute("TRUNCATE rowcast.change, rowcast.tick")
            await connection.execute(
                "INSERT INTO rowcast.tick (tick, epoch, snap) VALUES ($1, $2, pg_current_snapshot())",
                newest + 1, epoch,
            )  # fmt: skip
        return epoch


async def read_epochs(connection: Connection) -> list[Epoch]:
    """Every epoch, in order."""
    rows = await connection.fetch("SELECT epoch, base_tick FROM rowcast.epoch ORDER BY epoch")
    return [Epoch(*row) for row in rows]


async def _epoch_of(connection: Connection, history: asyncpg.Record) -> int | None:
    """The newest epoch if it is of this history."""
    newest = await connection.fetchrow("SELECT * FROM rowcast.epoch ORDER BY epoch DESC LIMIT 1")
    same = newest and all(newest[name] == history[name] for name in ("system_identifier", "timeline", "database"))
    return int(newest["epoch"]) if same else None
