"""Installing the schema ``rowcast``, which holds the change log: its version and its secret.

The log is a ring of partitions that all exist from the start. Writers fill the partition that the sequence
``rowcast.change_part`` names, and old changes leave when a partition is emptied (``rowcast.changes.retention``).
"""

from __future__ import annotations

import secrets
from typing import Final

import asyncpg

from rowcast.changes import sql
from rowcast.changes.coordination import lock_installation
from rowcast.changes.epochs import current_epoch
from rowcast.database.connection import Connection
from rowcast.errors import ConfigurationError
from rowcast.resources.sql import SCHEMA

VERSION: Final = 1
PARTITIONS: Final = 10  # of the log, as schema.sql creates them

_SCHEMA: Final = sql.load("schema")
_ANSWER: Final = sql.load("answer")
_TICKET: Final = sql.load("ticket")
_TRACEPARENT: Final = sql.load("traceparent")
_UUID7: Final = sql.load("uuid7")
_UUID7_BEFORE_18: Final = sql.load("uuid7_before_18")


async def install(connection: Connection) -> None:
    """Install the schema ``rowcast``: completely or not at all, and once, however many replicas try.

    Raises:
        ConfigurationError: A newer Rowcast has installed it, the database is read-only, or the role may not do it.
    """
    try:
        if await is_complete(connection):
            return
        async with connection.transaction():
            await lock_installation(connection)
            installed = await installed_version(connection)
            if installed > VERSION:
                raise ConfigurationError(describe_newer(installed))
            if installed < VERSION:
                await _create(connection)
            else:  # an installation of version 1 may be without these
                await connection.execute("CREATE SEQUENCE IF NOT EXISTS rowcast.gate")
                await connection.execute(_ANSWER)
                await connection.execute(_TICKET)
                await connection.execute(_TRACEPARENT)
    except asyncpg.ReadOnlySQLTransactionError:
        raise ConfigurationError(
            "this database is read-only: the change log needs the primary, with default_transaction_read_only off"
        ) from None
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigurationError(
            f"the change log cannot be installed ({error}): the role needs CREATE on the database, or must own the"
            f" schema {SCHEMA}"
        ) from None


async def is_complete(connection: Connection) -> bool:
    """Whether the schema is installed in this version, with all that was added to the version since."""
    if await installed_version(connection) != VERSION:
        return False
    return bool(
        await connection.fetchval(
            """SELECT num_nulls(to_regclass('rowcast.gate'), to_regclass('rowcast.answer'), to_regclass('rowcast.ticket')) = 0
            AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('rowcast.change') AND attname = 'traceparent')"""
        )
    )


def describe_newer(installed: int) -> str:
    """The problem of a change log that a newer Rowcast has installed."""
    return (
        f"the change log in this database has version {installed}, and this Rowcast supports {VERSION}:"
        " run the newer Rowcast that installed it"
    )


async def installed_version(connection: Connection) -> int:
    """The installed version, 0 for none.

    It looks for the table in the catalog, because ``to_regclass`` may return a cached result after a wait for a lock.
    """
    if not await connection.fetchval(
        """SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'rowcast' AND c.relname = 'version')"""
    ):
        return 0
    return int(await connection.fetchval("SELECT version FROM rowcast.version"))


async def read_secret(connection: Connection) -> bytes:
    """The random key of this database, 32 bytes, which signs what clients send back."""
    key: bytes = await connection.fetchval("SELECT key FROM rowcast.secret")
    return key


async def _create(connection: Connection) -> None:
    """The tables and their first rows: the version, the secret, and an epoch with the tick that everything follows."""
    await connection.execute(_SCHEMA)
    await connection.execute(_ANSWER)
    await connection.execute(_TICKET)
    await connection.execute(_TRACEPARENT)
    await connection.execute(_UUID7 if connection.get_server_version().major >= 18 else _UUID7_BEFORE_18)
    await connection.execute(
        "COMMENT ON FUNCTION rowcast.uuid7() IS 'Rowcast: a version 7 UUID, which rises with time'"
    )
    await connection.execute("INSERT INTO rowcast.version VALUES ($1)", VERSION)
    await connection.execute("INSERT INTO rowcast.secret (key) VALUES ($1)", secrets.token_bytes(32))
    await current_epoch(connection)
