"""A lock for a session that needs rights on one of the service's own tables.

Every role that may connect can take an advisory lock, whatever its key. A lock on a table needs rights on the table, but
ends with its transaction. So a connection of its own takes it and keeps the transaction open, without doing anything
else: the transaction has neither a number nor a snapshot, so it holds back no vacuum and delays no CREATE INDEX
CONCURRENTLY. docs/decisions/0018-locks-that-need-rights.md has the reasons.

The lock that is kept is ROW EXCLUSIVE, which lets VACUUM and ANALYZE of the table run. It does not exclude itself, so
a session that takes it also takes a second one, SHARE, to make sure that no other session has it, and releases SHARE at once.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from rowcast.database.connection import Connection

_HOLDER: Final = """
SELECT pid FROM pg_locks
WHERE locktype = 'relation' AND granted AND relation = to_regclass($1)
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
LIMIT 1
"""
_NO_TIME_LIMITS: Final = """
SELECT set_config(name, '0', false) FROM pg_settings
WHERE name IN ('statement_timeout', 'idle_session_timeout', 'transaction_timeout')
"""


async def lock_holder(connection: Connection, table: str) -> int | None:
    """The server process that has the lock on a table, or another one that excludes it; ``None`` if there is none."""
    pid: int | None = await connection.fetchval(_HOLDER, table, timeout=10)
    return pid


async def try_lock_table(connection: Connection, table: str, *, silence: float = 0) -> bool:
    """Take the lock on a table if it is free, and return whether it was. It is held until the connection closes.

    With ``silence`` the server closes the connection if it is not used for so many seconds; see ``keep_lock``. Nothing
    else may be done with the connection then.
    """
    if await lock_holder(connection, table) is not None:  # a lock that is refused is an error in the server's log
        return False
    await connection.execute(_NO_TIME_LIMITS, timeout=10)
    await connection.execute(f"SET idle_in_transaction_session_timeout = '{int(silence * 1000)}ms'", timeout=10)
    try:
        await connection.execute(
            f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; LOCK TABLE {table} IN ROW EXCLUSIVE MODE NOWAIT;"
            f" SAVEPOINT alone; LOCK TABLE {table} IN SHARE MODE NOWAIT;"
            " ROLLBACK TO SAVEPOINT alone; RELEASE SAVEPOINT alone",
            timeout=10,
        )
    except asyncpg.LockNotAvailableError:
        await connection.execute("ROLLBACK", timeout=10)
        return False
    return True


async def keep_lock(connection: Connection) -> None:
    """Use the connection that has a lock; the driver's error if it is lost."""
    await connection.execute("SELECT", timeout=10)
