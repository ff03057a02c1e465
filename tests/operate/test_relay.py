"""Services that share their changes over a real message bus: what it costs PostgreSQL, and what its loss does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from rowcast.changes.bus import BusLost
from rowcast.changes.epochs import current_history
from rowcast.changes.install import read_secret
from rowcast.changes.relay import open_bus
from rowcast.changes.relay_messages import RelayKey
from rowcast.database.embedded import EmbeddedPostgres
from tests.conftest import ROOT, rowcast, write_config
from tests.databases import Databases, databases_of, needs_embedded_server, temporary_server
from tests.faults.clients import RESOURCES, Client, assert_equal, writing
from tests.tls import write_certificate
from tests.waiting import until

from .relays import PASSWORD, BusServer, find_program, relay_metrics, services, settled

NODES = int(os.environ.get("ROWCAST_TEST_NODES", "3"))
OUTAGE_COMMITS = int(os.environ.get("ROWCAST_TEST_COMMITS", "300"))  # while the bus is away
STRANGE = 200  # messages of a stranger
WRITES = 80  # while statements are counted
WRITE_SECONDS = 0.05  # between two of them
SUITE = {"stream": "resume transactions", "faults": "list", "http": "memory"}


@pytest.fixture(scope="module")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A server that counts statements."""
    needs_embedded_server()
    with temporary_server({"shared_preload_libraries": "pg_stat_statements"}) as server:
        yield server


@pytest.fixture(scope="module")
def databases(postgres: EmbeddedPostgres) -> Iterator[Databases]:
    """The databases of that server."""
    with databases_of(postgres.url) as databases:
        yield databases


@pytest.fixture(params=["nats", "redis"])
async def bus(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BusServer]:
    """A bus that runs."""
    find_program(request.param)
    server = BusServer(request.param, tmp_path)
    await server.start()
    yield server
    server.kill()


async def statements(sql: asyncpg.Connection) -> int:
    """How many statements were run on the database so far."""
    found: int = await sql.fetchval(
        """SELECT sum(calls)::int FROM pg_stat_statements
        WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"""
    )
    return found


async def measure(sql: asyncpg.Connection) -> int:
    """How many statements are run while rows are written at a steady rate."""
    before = await statements(sql)
    for _ in range(WRITES):
        await sql.execute("INSERT INTO owners (name) VALUES ('a')")
        await asyncio.sleep(WRITE_SECONDS)
    return await statements(sql) - before


async def test_statements_do_not_grow_with_the_number_of_nodes(
    bus: BusServer, database_url: str, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """With a relay, more processes of a service run hardly more statements while rows are written; without one they do."""
    await sql.execute("CREATE EXTENSION pg_stat_statements")
    found: dict[tuple[int, bool], int] = {}
    for number, relayed in ((1, False), (1, True), (NODES, True), (NODES, False)):
        relay = bus.url if relayed else None
        async with (
            services(tmp_path / f"{number}{relayed}", database_url, number, relay) as servers,
            contextlib.AsyncExitStack() as stack,
        ):
            clients = [await stack.enter_async_context(Client([server])) for server in servers]
            for client in clients:
                await client.ready()
            if relayed:
                await settled(servers)
            found[number, relayed] = await measure(sql)
            await assert_equal(sql, *clients)
    assert found[NODES, False] - found[1, False] > 2 * (found[NODES, True] - found[1, True]), found
    assert found[NODES, True] < 1.2 * found[1, True], found
    assert found[1, True] < 1.2 * found[1, False], found


async def test_a_bus_that_is_killed_loses_and_delays_nothing(
    bus: BusServer, database_url: str, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """Clients of all nodes have each change once, in order, while the bus is away, after it has come back, and while the node
    that makes the ticks is killed.
    """
    async with services(tmp_path, database_url, NODES, bus.url) as servers, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(servers[i:] + servers[:i])) for i in range(NODES)]
        for client in clients:
            await client.ready()
        await settled(servers)
        async with writing(database_url) as writers:
            await writers.more(OUTAGE_COMMITS // 4)
            bus.kill()
            await writers.more(OUTAGE_COMMITS)
        await assert_equal(sql, *clients)
        async with writing(database_url) as writers:
            await bus.start()
            await settled(servers)
            await writers.more(OUTAGE_COMMITS // 4)
        await assert_equal(sql, *clients)
        async with writing(database_url) as writers:
            await servers[0].kill()
            await writers.more(OUTAGE_COMMITS)
            await servers[0].start()
            await settled(servers)
        await assert_equal(sql, *clients)
        assert [client.resets for client in clients] == [[]] * NODES


async def test_metrics_show_what_the_relay_does(
    bus: BusServer, database_url: str, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """Which process sends, which are fed, and what was dropped; a stranger at the channel does no harm, and does not fill the log."""
    async with services(tmp_path, database_url, 2, bus.url) as servers:
        await settled(servers)
        key = RelayKey.of(await read_secret(sql), tuple((await current_history(sql)).values()))
        async with open_bus(bus.url).session(key.channel, lambda message: None, lambda: None) as stranger:
            for _ in range(STRANGE):
                await stranger.publish(b"nonsense")
            async with Client(servers[1:]) as client:
                await client.ready()
                await assert_equal(sql, client)

            async def counted() -> bool:
                leader, other = [await relay_metrics(server) for server in servers]
                assert leader["relay_published_total"] > 0
                assert (leader["relay_connected"], leader["feed_fed"], other["feed_fed"]) == (1, 0, 1)
                assert (other["relay_connected"], other["relay_filled_ticks_total"]) == (1, 0)
                return other["relay_received_total"] > 0 and other["relay_dropped_total"] == STRANGE

            await until(counted)
        os.kill(servers[1].pid, signal.SIGTERM)
        assert (await servers[1].log()).count("relay_message_dropped") == 1


async def test_the_log_does_not_have_the_password(bus: BusServer, database_url: str, tmp_path: Path) -> None:
    """Not when the bus refuses it either; the service works without the bus."""
    wrong = bus.url.replace("rowcast:", "somebody:")
    async with services(tmp_path, database_url, 1, wrong) as (server,):
        async with Client([server]) as client:
            await client.ready()
        os.kill(server.pid, signal.SIGTERM)
        log = await server.log()
    assert "relay_lost" in log
    assert PASSWORD not in log
    assert "secret" not in log


@pytest.mark.parametrize(("directory", "modules"), SUITE.items())
async def test_the_suite(bus: BusServer, directory: str, modules: str) -> None:
    """A part of the suite passes with a relay as it does without one."""
    paths = [f"tests/{directory}/test_{module}.py" for module in modules.split()]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *paths,
        cwd=ROOT, env={**os.environ, "ROWCAST_TEST_RELAY": bus.url}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-4000:]


async def test_doctor_sends_a_message(bus: BusServer, database_url: str, tmp_path: Path) -> None:
    """``rowcast doctor`` reports whether messages arrive."""
    write_config(tmp_path / "config", RESOURCES)
    options = ("--config", str(tmp_path / "config"), "--database-url", database_url)
    _, found = rowcast(tmp_path, "doctor", *options, ROWCAST_STREAM_RELAY=bus.url)
    assert f"ok    relay      messages of up to 1 MiB arrive over {bus.place}" in found
    _, found = rowcast(tmp_path, "doctor", *options, ROWCAST_STREAM_RELAY=bus.url.replace("rowcast:", "x:"))
    assert f"WRONG relay      {bus.place} cannot be reached" in found
    assert "secret" not in found


async def test_a_session_ends_with_its_server(bus: BusServer) -> None:
    """``lost`` is called, messages cannot be sent any more, and nobody can connect."""
    lost, arrived = asyncio.Event(), asyncio.Event()
    messages: list[bytes] = []

    def receive(message: bytes) -> None:
        messages.append(message)
        arrived.set()

    opened = open_bus(bus.url)
    assert PASSWORD not in opened.place
    async with (
        opened.session("rowcast.x", receive, lost.set),
        opened.session("rowcast.x", lambda _: None, lost.set) as session,  # Redis sends it its own messages, too
    ):
        for message in (b"", bytes(range(256)), b"x" * session.limit):
            arrived.clear()
            await session.publish(message)
            await arrived.wait()
            assert messages[-1] == message
        assert not lost.is_set()
        bus.kill()
        await asyncio.wait_for(lost.wait(), 20)
        with pytest.raises(BusLost):
            await session.publish(b"x")
    with pytest.raises(BusLost):
        async with opened.session("rowcast.x", receive, lost.set):
            pass


@pytest.mark.parametrize("kind", ["tls", "rediss"])
async def test_tls_checks_the_certificate(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has to have a certificate of an authority that the system trusts, for the name in the URL."""
    find_program(kind)
    write_certificate(tmp_path, "localhost")
    server = BusServer(kind, tmp_path)
    await server.start()

    async def connect(host: str) -> None:
        async with open_bus(server.url.replace("127.0.0.1", host)).session(
            "rowcast.x", lambda _: None, lambda: None
        ) as session:
            await session.publish(b"x")

    try:
        with pytest.raises(BusLost, match="self-signed certificate"):
            await connect("localhost")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        await connect("localhost")
        with pytest.raises(BusLost, match="IP address mismatch"):
            await connect("127.0.0.1")
    finally:
        server.kill()
