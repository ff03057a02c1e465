"""Everything at once, by chance: writers, lost connections, killed processes, restarts of PostgreSQL, two replicas.

``ROWCAST_TEST_SECONDS`` is for how long (6), and ``ROWCAST_TEST_SEED`` repeats a run as far as chance allows it.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal

import asyncpg

from rowcast.database.embedded import EmbeddedPostgres

from .clients import LOST, QUERIES, Client, assert_equal
from .conftest import Open, Run
from .processes import Server
from .test_list import KILL, restart

SECONDS = float(os.environ.get("ROWCAST_TEST_SECONDS", "6"))
SEED = int(os.environ.get("ROWCAST_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)
KEYS = 60


async def write(url: str, chance: random.Random, done: asyncio.Event) -> int:
    """Random transactions until it is enough; how many were committed."""
    connection: asyncpg.Connection | None = None
    committed = 0
    while not done.is_set():
        try:
            if connection is None or connection.is_closed():
                connection = await asyncpg.connect(url, timeout=5)
                await connection.execute("SET deadlock_timeout = '20ms'; SET statement_timeout = '5s'")
            await transact(connection, chance)
            committed += 1
        except (asyncpg.DeadlockDetectedError, asyncpg.IntegrityConstraintViolationError):
            pass
        except LOST:
            if connection is not None:
                connection.terminate()
            await asyncio.sleep(0.02)
    if connection is not None:
        await connection.close()
    return committed


async def transact(connection: asyncpg.Connection, chance: random.Random) -> None:
    transaction = connection.transaction()
    await transaction.start()
    try:
        for _ in range(chance.choice([1, 1, 1, 2, 5])):
            inner = connection.transaction()
            await inner.start()
            await statement(connection, chance)
            await (inner.rollback() if chance.random() < 0.15 else inner.commit())
        if chance.random() < 0.05:
            await asyncio.sleep(chance.random() / 2)
    except BaseException:
        if not connection.is_closed():
            await transaction.rollback()
        raise
    await (transaction.rollback() if chance.random() < 0.15 else transaction.commit())


async def statement(connection: asyncpg.Connection, chance: random.Random) -> None:
    key, other = chance.randrange(KEYS), chance.randrange(KEYS)
    text = f"{chance.randrange(1000)} {chance.choice(['a', 'b', 'A'])}"
    match chance.randrange(10):
        case 0 | 1 | 2:
            await connection.execute(
                "INSERT INTO notes (id, text, done) VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE"
                " SET text = excluded.text, done = NOT notes.done",
                key, text, chance.random() < 0.5,
            )  # fmt: skip
        case 3 | 4:
            await connection.execute("UPDATE notes SET text = $2, done = NOT done WHERE id = $1", key, text)
        case 5:
            await connection.execute("DELETE FROM notes WHERE id BETWEEN $1 AND $1 + 3", key)
        case 6:
            await connection.execute("UPDATE notes SET id = $2 WHERE id = $1", key, other)
        case 7:
            await connection.execute(
                "INSERT INTO notes (id, text) SELECT i, $2 FROM generate_series($1::int, $1 + 200) i"
                " ON CONFLICT (id) DO UPDATE SET text = excluded.text",
                1000 + 100 * key, text,
            )  # fmt: skip
        case 8:
            await connection.execute("INSERT INTO owners (id, name) VALUES ($1, 'o') ON CONFLICT DO NOTHING", key % 5)
            await connection.execute("UPDATE notes SET owner_id = $1 WHERE id = $2", key % 5, other)
        case 9:
            await connection.execute("DELETE FROM owners WHERE id = $1", key % 5)


async def disturb(
    chance: random.Random, url: str, postgres: EmbeddedPostgres, servers: list[Server], clients: list[Client]
) -> str:
    """One fault, and its name."""
    fault = chance.choice(["disconnect", "disconnect", "disconnect", "away", "feed", "ticker", "server", "postgres"])
    match fault:
        case "disconnect":
            for client in chance.sample(clients, 3):
                client.disconnect()
        case "away":
            client = chance.choice(clients)
            await client.stop()
            await asyncio.sleep(chance.random())
            client.start()
        case "feed" | "ticker":
            admin = await asyncpg.connect(url)
            await admin.fetchval(KILL, f"rowcast {fault}")
            await admin.close()
        case "server":
            server = chance.choice(servers)
            await server.kill()
            await server.start()
        case "postgres":
            os.kill(postgres.pid, chance.choice([signal.SIGINT, signal.SIGQUIT]))
            await asyncio.to_thread(restart, postgres)
    return fault


async def test_every_client_ends_with_the_rows_of_the_table(
    run: Run, open_client: Open, postgres: EmbeddedPostgres, database_url: str
) -> None:
    """Every client ends with the table's rows, and got every change once and in order."""
    print(f"ROWCAST_TEST_SEED={SEED}")
    chance = random.Random(SEED)
    servers = [await run(), await run(migrate=False)]
    clients = [await open_client(*order, query=query) for query in QUERIES for order in (servers, servers[::-1])]
    done = asyncio.Event()
    writers = [asyncio.create_task(write(database_url, random.Random(SEED + n), done)) for n in range(1, 4)]
    faults: list[str] = []
    until = asyncio.get_running_loop().time() + SECONDS
    while asyncio.get_running_loop().time() < until:
        await asyncio.sleep(chance.random() / 2)
        faults.append(await disturb(chance, database_url, postgres, servers, clients))
    done.set()
    committed = sum(await asyncio.gather(*writers))
    sql = await asyncpg.connect(database_url)
    await assert_equal(sql, *clients, patience=60)
    ticks = [tick for (tick,) in await sql.fetch("SELECT tick FROM rowcast.tick ORDER BY tick")]
    await sql.close()
    assert ticks == list(range(1, len(ticks) + 1))
    assert [client.resets for client in clients] == [[]] * len(clients)
    events, connections = sum(client.events for client in clients), sum(client.connections for client in clients)
    print(f"{committed} transactions, {events} events to {len(clients)} clients, {connections} connections, {faults}")
    assert committed > 10
