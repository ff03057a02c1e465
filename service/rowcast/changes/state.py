"""The state of the log, for health checks and ``rowcast doctor``."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

from rowcast.changes import sql
from rowcast.changes.position import Position
from rowcast.database.connection import Connection

_LOG_STATE: Final = sql.load("log_state")


@dataclass(frozen=True, slots=True)
class LogState:
    """The oldest and newest position of the log, when these ticks were made, and its size in bytes.

    ``waiting`` is for how many seconds changes have been waiting for a tick, at least.
    """

    oldest: Position
    oldest_at: dt.datetime
    newest: Position
    newest_at: dt.datetime
    waiting: float
    size: int
    read_only: bool


async def read_state(connection: Connection) -> LogState:
    """The state now. A change that took long to commit counts as waiting from the newest tick on."""
    row = await connection.fetchrow(_LOG_STATE, timeout=10)
    oldest, newest = Position(row[0], row[1]), Position(row[3], row[4])
    return LogState(oldest, row[2], newest, row[5], row[6] or 0.0, *row[7:])
