"""Servers that speak PostgreSQL's protocol and on which changes cannot be followed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rowcast.database.connection import Connect, Connection
from rowcast.errors import ConfigurationError
from rowcast.resources.sql import DIALECT
from rowcast.resources.tables import Tables

OLDEST_VERSION: Final = 14
_OTHERS: Final[Mapping[str, str]] = {
    "CockroachDB": "CockroachDB",
    "-YB-": "YugabyteDB",
    "Redshift": "Amazon Redshift",
    "Greenplum": "Greenplum",
    "Materialize": "Materialize",
    "CrateDB": "CrateDB",
}
"""What ``version()`` contains, and the name of the engine."""
_LACKING: Final = "which lacks some of what streams depend on (snapshots of transactions, LISTEN, triggers, sequences that count in order)"
_DISTRIBUTED: Final = """
SELECT logicalrelid::regclass::text FROM pg_dist_partition
WHERE logicalrelid = ANY(SELECT to_regclass(name) FROM unnest($1::text[]) AS name) AND (partmethod <> 'n' OR repmodel = 't')
ORDER BY 1
"""


async def unsuitable_engine(connection: Connection) -> str | None:
    """The reason why no service can work on this server; ``None`` if it is a PostgreSQL that can be written to."""
    version: str = await connection.fetchval("SELECT version()")
    for mark, name in _OTHERS.items():
        if mark in version:
            return f"the database is {name}, {_LACKING}; it must be PostgreSQL {OLDEST_VERSION} or newer"
    if (major := connection.get_server_version().major) < OLDEST_VERSION:
        return f"the database is PostgreSQL {major}: it must be PostgreSQL {OLDEST_VERSION} or newer"
    if await connection.fetchval("SELECT pg_is_in_recovery()"):
        return "the database is a standby: streams need a connection to the primary server"
    return None


async def engine_problems(connection: Connection, tables: Tables) -> list[str]:
    """The reasons why this server, or where it keeps these tables, does not suit a service; empty if it does."""
    if (problem := await unsuitable_engine(connection)) is not None:
        return [problem]
    if not await connection.fetchval("SELECT to_regclass('pg_dist_partition') IS NOT NULL"):
        return []
    quote = DIALECT.identifier_preparer.format_table
    names = [quote(tables.of[name]) for name in tables.resources]
    return [
        f"the table {table} is distributed by Citus, where triggers do not see every change:"
        f" SELECT undistribute_table('{table}')"
        for (table,) in await connection.fetch(_DISTRIBUTED, names)
    ]


async def check_engine(connect: Connect, tables: Tables) -> None:
    """Raise ``ConfigurationError`` if the server does not suit a service."""
    connection = await connect()
    try:
        if problems := await engine_problems(connection, tables):
            raise ConfigurationError(f"The database cannot be used: {'; '.join(problems)}")
    finally:
        connection.terminate()
