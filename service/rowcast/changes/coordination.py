"""What replicas and writers coordinate by: locks on tables of the schema ``rowcast``, the gate, and NOTIFY channels."""

from __future__ import annotations

import asyncio
from typing import Final

from rowcast.database.connection import Connection

LEADER_TABLE: Final = "rowcast.epoch"  # the replica that makes ticks has the lock on it
TICK_CHANNEL: Final = "rowcast_tick"  # notified when there is a new tick
WAKE_CHANNEL: Final = "rowcast_wake"  # notified when there is work for the sleeping ticker

GATE_OPEN: Final = 1  # the values of the sequence rowcast.gate: writers notify,
GATE_SHUT: Final = 2  # or not, because the ticker is awake

FIRST_INSTALL_LOCK: Final = 1919907683, 0  # an advisory lock, while there is no table to lock
FIRST_INSTALL_WAIT_SECONDS: Final = 10.0


async def lock_installation(connection: Connection) -> None:
    """Wait until no other replica changes the schema ``rowcast``, and keep them out until the transaction ends.

    While the schema does not exist there is nothing to lock that needs rights, so an advisory lock is tried for a while.
    Without it two installations at once are an error of one of them, since both create the same schema.
    """
    if await connection.fetchval("SELECT to_regclass('rowcast.version') IS NOT NULL"):
        await connection.execute("LOCK TABLE rowcast.version IN SHARE ROW EXCLUSIVE MODE")
        return
    deadline = asyncio.get_running_loop().time() + FIRST_INSTALL_WAIT_SECONDS
    while not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1, $2)", *FIRST_INSTALL_LOCK):
        if asyncio.get_running_loop().time() > deadline:
            return
        await asyncio.sleep(0.05)


async def set_gate(connection: Connection, state: int) -> None:
    """Open or shut the gate. Its state is that of a sequence, so every writer sees it at once.

    It need not reach the disk: the next ticker sets it again.
    """
    await connection.execute(
        f"SELECT set_config('synchronous_commit', 'off', true), setval('rowcast.gate', {state})", timeout=10
    )
