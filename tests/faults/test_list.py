"""Every fault that streams must survive, seen by clients: in the end their rows are those of the table.

Each client checks every event strictly: see ``clients``. One fault is to be seen by the ticker alone and is
in ``tests/changes/test_faults.py``: a commit as it falls asleep.
"""

from __future__ import annotations

import asyncio
import os
import signal
from itertools import permutations

import asyncpg
import pytest

from rowcast.changes.coordination import LEADER_TABLE
from rowcast.changes.state import read_state
from rowcast.database.embedded import EmbeddedPostgres
from rowcast.database.table_lock import lock_holder
from tests.conftest import Serve

from .clients import QUERIES, RESOURCES, Client, assert_equal, writing
from .conftest import Open, Run
from .pooler import Pooler

KILL = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE application_name = $1 AND datname = current_database()"
)


pytestmark = pytest.mark.tables(RESOURCES)


async def each_kind(open_client: Open, *servers: object) -> list[Client]:
    """A client for each kind of filter: none, some that are evaluated in memory, two of them with a routing key, and one in the database."""
    return [await open_client(*servers, query=query) for query in QUERIES]


async def test_a_listener_that_is_killed_under_writes(
    serve: Serve, open_client: Open, sql: asyncpg.Connection, database_url: str
) -> None:
    """The feed's connection ends again and again; streams stay open and leave out nothing."""
    clients = await each_kind(open_client, await serve(RESOURCES))
    async with writing(database_url) as writers:
        killed = 0
        while killed < 5:
            await writers.more(20)
            killed += await sql.fetchval(KILL, "rowcast feed")
    await assert_equal(sql, *clients)
    assert [(client.connections, client.resets) for client in clients] == [(1, [])] * len(QUERIES)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
async def test_a_restart_of_postgresql(
    serve: Serve, open_client: Open, postgres: EmbeddedPostgres, database_url: str, how: signal.Signals
) -> None:
    """Streams stay open; every delivered change is stored, and every stored change is delivered."""
    clients = await each_kind(open_client, await serve(RESOURCES))
    async with writing(database_url) as writers:
        await writers.more(50)
        os.kill(postgres.pid, how)
        await asyncio.to_thread(restart, postgres)
        await writers.more(50)
    sql = await asyncpg.connect(database_url)
    await assert_equal(sql, *clients)
    await sql.close()
    assert [client.resets for client in clients] == [[]] * len(QUERIES)


def restart(postgres: EmbeddedPostgres) -> None:
    postgres.stop()
    postgres.start()


async def test_a_server_that_is_killed(run: Run, open_client: Open, sql: asyncpg.Connection, database_url: str) -> None:
    """Its clients go on at another replica, from the events that they have; it is the ticker that dies, too."""
    first = await run()
    second = await run(migrate=False)
    clients = await each_kind(open_client, first, second)
    async with writing(database_url) as writers:
        await writers.more(50)
        await first.kill()
        for client in clients:
            await client.until(lambda client=client: client.connections > 1)  # type: ignore[misc]
        await writers.more(50)
    await assert_equal(sql, *clients)
    assert [client.resets for client in clients] == [[]] * len(QUERIES)


async def test_a_transaction_that_stays_open(
    serve: Serve, open_client: Open, sql: asyncpg.Connection, database_url: str
) -> None:
    """Other changes are delivered in the meantime; its own follow when it commits."""
    clients = await each_kind(open_client, await serve(RESOURCES))
    late = await asyncpg.connect(database_url)
    await late.execute("BEGIN; INSERT INTO notes (id, text, done) VALUES (1, 'a', true)")
    await sql.execute("INSERT INTO notes (id, text, done) SELECT i, 'a', true FROM generate_series(2, 20) i")
    await assert_equal(sql, *clients)
    assert all(1 not in client.rows for client in clients)
    await late.execute("COMMIT")
    await late.close()
    await assert_equal(sql, *clients)
    assert all(1 in client.rows for client in clients if "owner" not in client.query)


async def test_commits_out_of_order(
    serve: Serve, open_client: Open, sql: asyncpg.Connection, database_url: str
) -> None:
    """The transaction that began first changes the row last: that is what the row is, in one tick or in two."""
    clients = await each_kind(open_client, await serve(RESOURCES))
    first = await asyncpg.connect(database_url)
    await sql.execute("INSERT INTO notes (id, text, done) VALUES (1, 'a', true), (2, 'a', true)")
    for i in range(20):
        await first.execute(f"BEGIN; UPDATE notes SET text = 'a first {i}' WHERE id = 2")
        await sql.execute(f"UPDATE notes SET text = 'second {i}', done = false WHERE id = 1")
        await first.execute(f"UPDATE notes SET text = 'a first {i}', done = true WHERE id = 1; COMMIT")
    await first.close()
    await assert_equal(sql, *clients)
    assert clients[0].rows[1]["text"] == "a first 19"


async def test_rollbacks(serve: Serve, open_client: Open, sql: asyncpg.Connection) -> None:
    """Of a transaction and of a savepoint; a client that got them would find its rows wrong at once."""
    clients = await each_kind(open_client, await serve(RESOURCES))
    await sql.execute("INSERT INTO notes (id, text, done) VALUES (1, 'a', true)")
    for _ in range(10):
        await sql.execute("BEGIN; UPDATE notes SET text = 'gone'; DELETE FROM notes; ROLLBACK")
        await sql.execute(
            """BEGIN; INSERT INTO notes (id, text) VALUES (2, 'a'); SAVEPOINT s; DELETE FROM notes; ROLLBACK TO s;
            UPDATE notes SET text = text || 'a' WHERE id = 1; DELETE FROM notes WHERE id = 2; COMMIT"""
        )
    await assert_equal(sql, *clients)
    assert clients[0].rows[1]["text"] == "a" * 11


async def test_a_transaction_of_a_hundred_thousand_rows(
    serve: Serve, open_client: Open, sql: asyncpg.Connection
) -> None:
    """A client that loses its connection in the middle of it gets all of it, once."""
    client = await open_client(await serve(RESOURCES))
    await sql.execute(
        "INSERT INTO notes (id, text, done) SELECT i, i::text, i % 10 = 0 FROM generate_series(1, 100000) i", timeout=60
    )
    for count in (30_000, 60_000):
        await client.until(lambda count=count: client.events > count, 60)  # type: ignore[misc]
        client.disconnect()
    await assert_equal(sql, client, patience=60)
    assert (client.events, client.connections, client.resets) == (100_001, 3, [])


async def test_a_row_of_a_megabyte(serve: Serve, open_client: Open, sql: asyncpg.Connection) -> None:
    """It is delivered like any other, although it is larger than a notification or the buffer of a connection."""
    clients = await each_kind(open_client, await serve(RESOURCES))
    await sql.execute(
        "INSERT INTO notes (id, text, done) SELECT i, repeat('a', 1 << 20), true FROM generate_series(1, 3) i"
    )
    await sql.execute("UPDATE notes SET text = text || 'b'")
    await assert_equal(sql, *clients)
    assert len(clients[0].rows[3]["text"]) == (1 << 20) + 1


async def test_readers_that_stop_reading(run: Run, open_client: Open, sql: asyncpg.Connection) -> None:
    """Five hundred of them delay nobody; those that read again get everything, and the service has not grown by it."""
    server = await run(service="stream: {buffer: 16KiB, max_streams_per_caller: 1000}")
    client = await open_client(server)
    host, port = server.origin.removeprefix("http://").split(":")
    readers = [await stopped(host, int(port)) for _ in range(500)]
    before = resident(server.pid)
    for i in range(20):
        await sql.execute(
            f"INSERT INTO notes (id, text) SELECT i, repeat('x', 1000) FROM generate_series({i}00, {i}49) i"
        )
        await assert_equal(sql, client)
    assert resident(server.pid) - before < 150 << 20
    for reader, writer in readers[:5]:
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        received = bytearray()
        while received.count(b'"INSERT"') < 20 * 51:
            received += await asyncio.wait_for(reader.read(1 << 16), 20)
        writer.close()
    for _, writer in readers[5:]:
        writer.transport.abort()


async def stopped(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A stream that was opened and is not read any more."""
    reader, writer = await asyncio.open_connection(host, port, limit=1024)
    writer.write(f"GET /notes/stream/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    await asyncio.wait_for(reader.readuntil(b"event: ready"), 30)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    return reader, writer


def resident(pid: int) -> int:
    """The bytes that a process has in memory."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_every_way_to_write(serve: Serve, open_client: Open, sql: asyncpg.Connection) -> None:
    """COPY, upsert, MERGE, cascades, changes of keys, and statements as typed into psql; TRUNCATE is a reset."""
    clients = await each_kind(open_client, await serve(RESOURCES))
    await sql.execute("INSERT INTO owners (id, name) VALUES (1, 'a'), (2, 'b') ON CONFLICT DO NOTHING")
    await sql.copy_records_to_table(
        "notes", records=[(i, "a" * (i % 2), i % 3 == 0, 1 + i % 2) for i in range(100)],
        columns=["id", "text", "done", "owner_id"],
    )  # fmt: skip
    await sql.execute(
        """INSERT INTO notes (id, text, done) SELECT i, 'upsert a', true FROM generate_series(90, 110) i
        ON CONFLICT (id) DO UPDATE SET text = excluded.text, done = NOT notes.done;
        MERGE INTO notes USING (SELECT i, i % 3 AS how FROM generate_series(0, 120) i) given ON notes.id = given.i
            WHEN MATCHED AND how = 0 THEN DELETE
            WHEN MATCHED AND how = 1 THEN UPDATE SET done = NOT done
            WHEN NOT MATCHED THEN INSERT (id, text) VALUES (given.i, 'merged a');
        UPDATE notes SET id = id + 1000, text = text || 'a' WHERE id % 7 = 0;
        WITH moved AS (DELETE FROM notes WHERE id % 11 = 0 RETURNING *)
            INSERT INTO notes SELECT id + 5000, text, done, owner_id FROM moved;
        DELETE FROM owners WHERE id = 1"""
    )
    await assert_equal(sql, *clients)
    assert [client.resets for client in clients] == [[]] * len(QUERIES)
    await sql.execute("TRUNCATE owners CASCADE")
    for client in clients:
        await client.until(lambda client=client: client.resets == ["truncated"])  # type: ignore[misc]
    await assert_equal(sql, *clients)


@pytest.mark.empty_database  # a copy of another database has two epochs
async def test_positions_that_are_no_use(serve: Serve, open_client: Open, sql: asyncpg.Connection) -> None:
    """Malformed, ahead, pruned or of another database: the client gets the reason, loads again, and is right again."""
    client = await open_client(await serve(RESOURCES))
    start = client.last
    assert start is not None
    epoch = start.partition("-")[0]
    await sql.execute("INSERT INTO notes (id, text) VALUES (1, 'a')")
    await assert_equal(sql, client)
    await client.stop()
    await sql.execute("DELETE FROM notes WHERE id = 1; INSERT INTO notes (id, text) VALUES (2, 'b')")
    useless = [("nonsense", "malformed"), (f"{epoch}-999999999-0", "ahead"), (f"{int(epoch) - 5}-1-0", "forked")]
    for position, reason in useless:
        client.last, client._place = position, (-1, -1)
        client.start()
        await client.until(lambda reason=reason: reason in client.resets)  # type: ignore[misc]
        await assert_equal(sql, client)
        await client.stop()
    await sql.execute("DELETE FROM rowcast.tick WHERE tick < (SELECT max(tick) FROM rowcast.tick)")
    replica = await serve(RESOURCES)  # has nothing of it in memory
    late = await open_client(replica)
    await late.stop()
    late.last = start
    late.start()
    await late.until(lambda: late.resets == ["expired"])
    await assert_equal(sql, late)


async def test_a_log_at_its_size(serve: Serve, open_client: Open, sql: asyncpg.Connection) -> None:
    """`stream.max_log_size` is respected while writers go on, and a client that keeps up loses nothing."""
    clients = await each_kind(
        open_client, await serve(RESOURCES, service="stream: {max_log_size: 1MiB, retention: 16s}")
    )
    peak = written = 0
    async with asyncio.timeout(60):
        while written < 20 << 20:
            await sql.execute(
                "INSERT INTO notes (id, text, done) SELECT i, $1 || repeat('a', 1000), true FROM generate_series(1, 50) i"
                " ON CONFLICT (id) DO UPDATE SET text = excluded.text",
                str(written),
            )
            written += 50 * 2000
            peak = max(peak, (await read_state(sql)).size)
            await clients[0].until(lambda rows=written: clients[0].events * 2000 >= rows - (1 << 20))  # type: ignore[misc]
        await assert_equal(sql, *clients)
        assert peak < written  # by how much is a matter of the time between two looks of the ticker, half a second here
        while (await read_state(sql)).size > 2 << 20:
            pass
    await assert_equal(sql, *clients)
    assert [client.resets for client in clients] == [[]] * len(QUERIES)


async def test_a_ticker_that_is_killed(
    serve: Serve, open_client: Open, sql: asyncpg.Connection, database_url: str
) -> None:
    """The replicas take over from each other under writes, and numbers go on without a gap."""
    clients = await each_kind(open_client, await serve(RESOURCES), await serve(RESOURCES))
    async with writing(database_url) as writers:
        for _ in range(4):
            await writers.more(30)
            await sql.execute("SELECT pg_terminate_backend($1)", await lock_holder(sql, LEADER_TABLE))
    await assert_equal(sql, *clients)
    ticks = [tick for (tick,) in await sql.fetch("SELECT tick FROM rowcast.tick ORDER BY tick")]
    assert ticks == list(range(1, len(ticks) + 1))
    assert [client.resets for client in clients] == [[]] * len(QUERIES)


async def test_notifications_that_do_not_arrive(
    serve: Serve, open_client: Open, sql: asyncpg.Connection, database_url: str
) -> None:
    """The poll takes over, for the ticker and for the feed: each has nothing but its own look at the log."""
    async with Pooler(database_url, shared=False).listening() as deaf:
        clients = await each_kind(open_client, await serve(RESOURCES, url=deaf))
        for i in range(5):
            await sql.execute("INSERT INTO notes (id, text, done) VALUES ($1, 'a', true)", i)
            await assert_equal(sql, *clients)
        for client in clients:
            await client.stop()


async def test_a_write_between_a_list_and_its_stream(serve: Serve, sql: asyncpg.Connection, database_url: str) -> None:
    """In every interleaving of two transactions with the list and the opening of its stream."""
    server = await serve(RESOURCES)
    other = await asyncpg.connect(database_url)
    steps = ["write", "commit", "write other", "commit other", "list", "watch"]
    clients: list[Client] = []
    for number, order in enumerate(permutations(steps)):
        if any(order.index(a) > order.index(b) for a, b in zip(steps[::2], steps[1::2], strict=True)):
            continue
        client = Client([server], "done=true" if number % 2 else "", watch=False)
        clients.append(client)
        async with client:
            for step in order:
                match step:
                    case "write" | "write other":
                        key = number % 7 + (10 if step == "write other" else 0)
                        await (sql if step == "write" else other).execute(
                            f"BEGIN; INSERT INTO notes (id, text, done) VALUES ({key}, 'x', true) ON CONFLICT (id)"
                            f" DO UPDATE SET done = NOT notes.done, text = '{number}';"
                            f" DELETE FROM notes WHERE id = {key + 1 if number % 3 else -1}"
                        )
                    case "commit" | "commit other":
                        await (sql if step == "commit" else other).execute("COMMIT")
                    case "list":
                        await client.load(server)
                    case "watch":
                        client.start()
                        await client.ready()
            await assert_equal(sql, client)
        assert client.resets == []
    assert len(clients) == 90
    await other.close()
