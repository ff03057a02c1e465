"""A POST with an ``Idempotency-Key`` makes exactly one row, whatever is killed while it runs, if it is sent until an answer.

``ROWCAST_TEST_KILLS`` is how often (30), and ``ROWCAST_TEST_SEED`` repeats a run as far as chance allows it.
"""

from __future__ import annotations

import asyncio
import os
import random
import uuid

import aiohttp
import asyncpg
import orjson

from .conftest import Run
from .processes import PATIENCE, Server

KILLS = int(os.environ.get("ROWCAST_TEST_KILLS", "30"))
SEED = int(os.environ.get("ROWCAST_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)
SERVERS_KILLED = 0.07  # of the kills; the others end connections, which is faster
LATEST_SECONDS = 0.012  # after the beginning of a request
BACKENDS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'rowcast' AND datname = current_database()"


async def post(session: aiohttp.ClientSession, server: Server, key: str) -> tuple[int, bytes]:
    """The answer to a request, sent until there is one; 503 and a request that still runs are no answers."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            async with session.post(
                server.make_url("/owners/"), json={"name": key}, headers={"Idempotency-Key": key}
            ) as response:
                body = await response.read()
                if response.status != 503 and b"idempotency_key_in_use" not in body:
                    return response.status, body
        except (aiohttp.ClientError, TimeoutError):
            pass
        assert asyncio.get_running_loop().time() < deadline, "there is no answer"
        await asyncio.sleep(0.005)


async def test_a_request_that_is_sent_again_makes_one_row(run: Run, database_url: str) -> None:
    """The client's connection, those to the database, or the process, at any moment; then every key has its row, and its
    answer is that of the row.
    """
    print(f"ROWCAST_TEST_SEED={SEED}")
    chance = random.Random(SEED)
    server = await run()
    sql = await asyncpg.connect(database_url)
    await sql.execute("""
        CREATE TABLE made (name text); CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO made VALUES (new.name); RETURN new; END $$;
        CREATE TRIGGER note AFTER INSERT ON owners FOR EACH ROW EXECUTE FUNCTION note()""")
    keys = []
    for _ in range(KILLS):
        key = str(uuid.UUID(int=chance.getrandbits(128)))
        keys.append(key)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(5)) as session:
            first = asyncio.create_task(post(session, server, key))
            await asyncio.sleep(chance.uniform(0, LATEST_SECONDS))
            if chance.random() < SERVERS_KILLED:
                await server.kill()
                await server.start()
            elif chance.random() < 0.5:
                await sql.execute(BACKENDS)
            else:
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)
                first = asyncio.create_task(post(session, server, key))
            status, body = await asyncio.wait_for(first, PATIENCE)
            assert (status, orjson.loads(body)["name"]) == (201, key)
            assert await post(session, server, key) == (status, body)
    made = [name for (name,) in await sql.fetch("SELECT name FROM made")]
    assert sorted(made) == sorted(keys)
    assert await sql.fetchval("SELECT count(*) FROM rowcast.answer") == KILLS
    await sql.close()
