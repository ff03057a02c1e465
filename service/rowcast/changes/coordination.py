"""The advisory locks and NOTIFY channels by which replicas and writers coordinate."""

from __future__ import annotations

from typing import Final

from rowcast.database.connection import Connection

LOCK_NAMESPACE: Final = 1919907683  # the first half of each of these locks: "rowc"
INSTALL_LOCK: Final = 0  # the second half: held by a replica that changes the schema rowcast,
LEADER_LOCK: Final = 1  # by the replica that makes ticks,
GATE_LOCK: Final = 2  # and by the ticker while it is awake
TICK_CHANNEL: Final = "rowcast_tick"  # notified when there is a new tick
WAKE_CHANNEL: Final = "rowcast_wake"  # notified when there is work for the sleeping ticker


async def lock_installation(connection: Connection) -> None:
    """Wait until no other replica changes the schema ``rowcast``, and keep them out until the transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock($1, $2)", LOCK_NAMESPACE, INSTALL_LOCK)


async def try_lock(connection: Connection, lock: int) -> bool:
    """Take a lock for the session if it is free, and return whether it was."""
    locked = await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", LOCK_NAMESPACE, lock, timeout=10)
    return bool(locked)


async def unlock(connection: Connection, lock: int) -> None:
    """Release a lock of the session."""
    await connection.fetchval("SELECT pg_advisory_unlock($1, $2)", LOCK_NAMESPACE, lock, timeout=10)
