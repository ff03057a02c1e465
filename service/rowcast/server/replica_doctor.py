"""What ``rowcast doctor`` finds out about replicas: whether each can be read, and how far it is behind."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import monotonic
from typing import Final

from rowcast.changes import sql
from rowcast.changes.standbys import read_primary_end, read_standby_end
from rowcast.configuration.settings import Database as Settings
from rowcast.database.connection import Connect, Connection
from rowcast.database.errors import DRIVER_ERRORS
from rowcast.database.pool import Database
from rowcast.errors import ConfigurationError
from rowcast.resources.sql import DIALECT
from rowcast.resources.tables import Tables
from rowcast.server.doctor import Finding
from rowcast.server.replication import named_urls

POLL_SECONDS: Final = 0.05
_MISSING_RIGHTS: Final = sql.load("missing_rights_to_read")
_PLACE: Final = """
SELECT current_user, current_setting('server_version'),
    CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END
"""


async def examine_replicas(settings: Settings, tables: Tables, primary: Connect) -> list[Finding]:
    """One finding for each replica, or several if it cannot be read for several reasons."""
    found = []
    for name, url in named_urls(settings.replicas):
        pooled = None if settings.direct_url is None else url
        database = Database(url, {}, direct_url=pooled, prepared_statements=settings.prepared_statements)
        try:
            connection = await database.open()
        except (*DRIVER_ERRORS, TimeoutError, ConfigurationError) as error:
            found.append(_wrong(name, f"cannot be reached: {error or type(error).__name__}"))
            continue
        try:
            found += await _examine(name, connection, settings, tables, primary)
        except (*DRIVER_ERRORS, TimeoutError) as error:
            found.append(_wrong(name, f"cannot be examined: {error or type(error).__name__}"))
        finally:
            connection.terminate()
    return found


async def _examine(
    name: str, connection: Connection, settings: Settings, tables: Tables, primary: Connect
) -> list[Finding]:
    role, version, is_paused = await connection.fetchrow(_PLACE)
    if problems := await _missing_rights(connection, role, tables):
        return [_wrong(name, problem) for problem in problems]
    began = monotonic()
    other = await primary()
    try:
        end = await read_primary_end(other)
    finally:
        with suppress(*DRIVER_ERRORS):
            other.terminate()
    if end is None:
        return [_wrong(name, "the primary's history is not known yet: no service has run on it since it began")]
    standby = await read_standby_end(connection)
    if (problem := standby.problem(end, for_callers=settings.has_callers)) is not None:
        return [_wrong(name, problem)]
    if is_paused:
        return [_wrong(name, "does not replay what it receives: SELECT pg_wal_replay_resume() on it")]
    while not standby.has(end):
        if monotonic() - began > settings.replica_max_lag:
            behind = max(0, end.lsn - (standby.lsn or 0)) / (1 << 20)
            return [_wrong(name, f"is behind by {behind:.1f} MiB, for longer than database.replica_max_lag")]
        await asyncio.sleep(POLL_SECONDS)
        standby = await read_standby_end(connection)
    lag = monotonic() - began
    return [
        Finding(
            "replica",
            f"{name} as {role}, PostgreSQL {version.partition(' ')[0]}, a standby, current within {lag:.2f} s",
        )
    ]


async def _missing_rights(connection: Connection, role: str, tables: Tables) -> list[str]:
    quote = DIALECT.identifier_preparer.format_table
    missing = await connection.fetch(_MISSING_RIGHTS, [quote(tables.of[name]) for name in tables.resources])
    return [f"the role {role} lacks {right}: GRANT {right} TO {role} on the primary" for (right,) in missing]


def _wrong(name: str, message: str) -> Finding:
    return Finding("replica", f"{name}: {message}", wrong=True)
