"""Edges as processes, with a real message bus: what its loss, restarts and moves do to clients."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from tests.conftest import ROOT, rowcast, write_config
from tests.faults.clients import RESOURCES, Client, assert_equal, writing
from tests.faults.processes import PATIENCE, Server
from tests.operate.relays import BusServer
from tests.operate.test_relay import bus as bus
from tests.operate.test_relay import databases as databases
from tests.operate.test_relay import measure
from tests.operate.test_relay import postgres as postgres
from tests.tls import free_port
from tests.waiting import until

COMMITS = int(os.environ.get("ROWCAST_TEST_COMMITS", "300"))
EDGE_KEY = "a key for the edges of these tests"
SUITE = {
    "stream": "resume transactions combined snapshot renamed_fields",
    "identity": "tickets tokens",
    "faults": "list",
}
ROLLING_SECONDS = 1.0  # that a process is away


class Origin(Server):
    """A process of the service, on a port that it keeps when it is started again."""

    def __init__(self, config: Path, url: str) -> None:
        self.port = free_port()
        super().__init__(config, url, "--port", str(self.port))  # the last one counts


class Edge(Server):
    """``python -m rowcast edge`` for an origin; it has no URL of a database, and finds none."""

    def __init__(self, config: Path, upstream: str, port: int = 0) -> None:
        super().__init__(config, "")
        self.port = port
        self._upstream = upstream
        self.admin = ""

    async def launch(self, **variables: str) -> None:
        self._variables |= variables
        self.admin = f"127.0.0.1:{free_port()}"
        environment = {name: text for name, text in os.environ.items() if name != "DATABASE_URL"}
        own = {
            "PYTHONPATH": str(ROOT / "service"),
            "ROWCAST_DATA": str(self.config.parent / "edge"),
            "ROWCAST_SERVER_ADMIN": self.admin,
        }
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rowcast", "edge", "--config", str(self.config), "--upstream", self._upstream, "--port", str(self.port),
            env={**environment, **own, **self._variables}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def ready(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        await asyncio.wait_for(self._process.stdout.readline(), PATIENCE)  # about its metrics
        await super().ready()


@contextlib.asynccontextmanager
async def origin_and_edges(
    directory: Path, url: str, number: int, relay: str | None
) -> AsyncIterator[tuple[Origin, list[Edge]]]:
    """A service with edges, all of them ready."""
    write_config(directory / "config", RESOURCES)
    shared = {"ROWCAST_STREAM_EDGE_KEY": EDGE_KEY, **({} if relay is None else {"ROWCAST_STREAM_RELAY": relay})}
    origin = Origin(directory / "config", url)
    edges = [Edge(directory / "config", f"http://127.0.0.1:{origin.port}") for _ in range(number)]
    try:
        await origin.start(**shared, ROWCAST_SERVER_TRUSTED_PROXIES="1")
        for edge in edges:
            await edge.start(**shared)
        yield origin, edges
    finally:
        for server in (*edges, origin):
            await server.kill()


async def fed(*edges: Edge) -> None:
    """Wait until the bus brings the changes to edges."""

    async def each() -> bool:
        return all([await metric(edge, "rowcast_feed_fed") for edge in edges])

    await until(each)


async def metric(edge: Edge, name: str) -> float:
    """The sum of a metric."""
    async with aiohttp.ClientSession() as session, session.get(f"http://{edge.admin}/metrics") as response:
        lines = (await response.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition(" ")[0].partition("{")[0] == name)


async def test_nothing_is_lost_or_doubled_across_faults(
    bus: BusServer, database_url: str, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """The bus is killed for a while, then the edge, then the origin, and all the time one client moves from server to server."""
    async with (
        origin_and_edges(tmp_path, database_url, 2, bus.url) as (origin, edges),
        Client([edges[0]]) as one,
        Client([edges[1]], "done=true") as other,
        Client([*edges, origin]) as moving,
        Client([edges[0], origin], "text__icontains=A") as passed_on,
        Client([origin]) as at_origin,
    ):
        clients = [one, other, moving, passed_on, at_origin]
        for client in clients:
            await client.ready()
        await fed(*edges)

        async def move() -> None:
            while True:
                await asyncio.sleep(0.2)
                moving.disconnect()

        mover = asyncio.create_task(move())
        try:
            for fault in ("nothing", "bus", "edge", "origin"):
                async with writing(database_url) as writers:
                    await writers.more(COMMITS // 4)
                    if fault == "bus":
                        bus.kill()
                        await writers.more(COMMITS)
                        await asyncio.sleep(2 * ROLLING_SECONDS)
                        await bus.start()
                    elif fault == "edge":
                        await edges[0].kill()
                        await asyncio.sleep(ROLLING_SECONDS)
                        await edges[0].start()
                    elif fault == "origin":
                        await origin.kill()
                        await writers.more(COMMITS // 4)
                        await asyncio.sleep(ROLLING_SECONDS)
                        await origin.start()
                    await writers.more(COMMITS // 4)
                await assert_equal(sql, *clients)
                await fed(*edges)
        finally:
            mover.cancel()
        assert [client.resets for client in clients] == [[]] * len(clients)
        assert moving.connections > 4
        assert await metric(edges[1], "rowcast_relay_received_total") > 0
        assert await metric(edges[1], "rowcast_streams_opened_total") > 0


async def test_without_a_bus_an_edge_follows_its_origin(
    database_url: str, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """Changes arrive, and restarts of either lose nothing."""
    async with origin_and_edges(tmp_path, database_url, 1, None) as (origin, (edge,)), Client([edge]) as client:
        await client.ready()
        async with writing(database_url) as writers:
            await writers.more(COMMITS // 2)
            await origin.kill()
            await writers.more(COMMITS // 4)
            await origin.start()
            await writers.more(COMMITS // 4)
        await assert_equal(sql, client)
        assert client.resets == []


async def test_streams_of_an_edge_cost_no_statements(
    bus: BusServer, database_url: str, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """With many streams at an edge PostgreSQL runs as many statements while rows are written as with none."""
    await sql.execute("CREATE EXTENSION pg_stat_statements")
    async with (
        origin_and_edges(tmp_path, database_url, 1, bus.url) as (_, (edge,)),
        contextlib.AsyncExitStack() as stack,
    ):
        await fed(edge)
        without = await measure(sql)
        clients = [await stack.enter_async_context(Client([edge])) for _ in range(20)]
        for client in clients:
            await client.ready()
        assert await metric(edge, "rowcast_streams") == len(clients)
        assert await measure(sql) < 1.2 * without
        await assert_equal(sql, *clients)


async def test_an_edge_stops_as_a_service_does(database_url: str, tmp_path: Path) -> None:
    """Its health says so, its streams end within ``stream.drain``, and it exits with 0."""
    async with origin_and_edges(tmp_path, database_url, 1, None) as (_, (edge,)):
        async with aiohttp.ClientSession() as session:
            paths = ["/notes/stream/", "/notes/stream/?text__icontains=a"]
            streams = [await session.get(edge.make_url(path)) for path in paths]
            for name in ("rowcast_streams", "rowcast_edge_streams", "rowcast_edge_requests_total"):
                assert await metric(edge, name) == 1
            os.kill(edge.pid, signal.SIGTERM)
            for stream in streams:
                async with asyncio.timeout(10):
                    assert b"event: ready" in await stream.read()
        assert await edge.ended() == 0


async def test_the_doctor_examines_an_edge(bus: BusServer, database_url: str, tmp_path: Path) -> None:
    """With the edge's own variables and without a database; it exits with 1 once the origin, or the bus, is away."""

    def doctor(upstream: str, **variables: str) -> tuple[int, str]:
        return rowcast(
            tmp_path, "doctor", "--config", str(tmp_path / "config"),
            ROWCAST_UPSTREAM=upstream, ROWCAST_STREAM_EDGE_KEY=EDGE_KEY, ROWCAST_STREAM_RELAY=bus.url, **variables,
        )  # fmt: skip

    async with origin_and_edges(tmp_path, database_url, 1, bus.url) as (origin, (edge,)):
        await fed(edge)
        upstream = f"http://127.0.0.1:{origin.port}"
        code, output = doctor(upstream)
        assert code == 0, output
        assert f"the origin's changes arrive over {bus.place}" in output
        bus.kill()
        code, output = doctor(upstream)
        assert (code, output.count("WRONG")) == (1, 1), output
        assert f"WRONG relay      {bus.place} cannot be reached" in output
        await origin.kill()
        code, output = doctor(upstream)
        assert code == 1
        assert output.startswith(f"WRONG origin     {upstream} cannot be used: no connection can be made"), output


async def test_workers_of_an_edge(database_url: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """Several processes may share its port."""
    async with origin_and_edges(tmp_path, database_url, 0, None) as (origin, _):
        edge = Edge(tmp_path / "config", f"http://127.0.0.1:{origin.port}")
        try:
            await edge.start(ROWCAST_WORKERS="2", ROWCAST_STREAM_EDGE_KEY=EDGE_KEY)
            async with Client([edge]) as one, Client([edge]) as other:
                async with writing(database_url) as writers:
                    await writers.more(20)
                await assert_equal(sql, one, other)
        finally:
            os.kill(edge.pid, signal.SIGTERM)
            await edge.ended()


@pytest.mark.parametrize(("directory", "modules"), SUITE.items())
async def test_the_suite(directory: str, modules: str) -> None:
    """A part of the suite passes with an edge in front of each service."""
    paths = [f"tests/{directory}/test_{module}.py" for module in modules.split()]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *paths,
        cwd=ROOT, env={**os.environ, "ROWCAST_TEST_EDGE": "1"}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-4000:]
