"""Two replicas, or two edges, behind the HAProxy of docs/deploy.md, while one after the other is restarted."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from tests.conftest import write_config
from tests.faults.clients import QUERIES, RESOURCES, Client, assert_equal
from tests.programs import find
from tests.soak.stage import HaProxy
from tests.tls import free_port
from tests.waiting import until

from .relays import Node
from .test_edges import EDGE_KEY, Edge, Origin

REQUESTERS = 4
STREAMS = 20  # beside those whose rows are compared
PAUSE_SECONDS = 0.5  # of clients, before they come back
STOPPING = {"ROWCAST_SERVER_SHUTDOWN_DELAY": "3s"}  # as docs/deploy.md says: longer than HAProxy takes to notice


class Watcher(Client):
    """A client that does not come back at once, so that many of them do not keep a replica from starting."""

    pause = PAUSE_SECONDS


class Requesters:
    """Clients that create, change, read and delete rows over connections that they keep.

    What the proxy refuses itself, because no replica has answered its check in time, was asked of none, so it is asked again.
    """

    def __init__(self, url: str) -> None:
        self.answers: Counter[str] = Counter()  # by method and status, or the error
        self._url = url
        self._stopping = False
        self._tasks = [asyncio.create_task(self._run()) for _ in range(REQUESTERS)]

    async def _run(self) -> None:
        async with aiohttp.ClientSession() as session:
            while not self._stopping:
                made = await self._ask(session, "POST", "notes/", {"text": "x", "owner_id": 1})
                row = f"notes/{made.get('id')}/"
                await self._ask(session, "PATCH", row, {"text": "a", "done": True})
                found = await self._ask(session, "GET", row)
                self.answers[f"found {found.get('text')}"] += 1
                await self._ask(session, "GET", "notes/?page_size=5")
                await self._ask(session, "DELETE", row)

    async def _ask(self, session: aiohttp.ClientSession, method: str, path: str, body: Any = None) -> dict[str, Any]:
        while True:
            try:
                async with session.request(method, f"{self._url}{path}", json=body) as response:
                    if "No server is available" not in await response.text():
                        self.answers[f"{method} {response.status}"] += 1
                        return (await response.json() or {}) if response.content_type == "application/json" else {}
            except aiohttp.ClientError as error:
                self.answers[f"{method} {error!r}"] += 1
                return {}
            await asyncio.sleep(PAUSE_SECONDS)

    async def more(self, count: int) -> None:
        """Wait until so many more requests have been answered."""
        target = self.answers.total() + count
        await until(lambda: self.answers.total() >= target, 60)

    async def stop(self) -> None:
        """End when each row has been deleted: what is cut off may be done later, while rows are compared."""
        self._stopping = True
        async with asyncio.timeout(60):
            await asyncio.gather(*self._tasks)


@asynccontextmanager
async def replicas(kind: str, directory: Path, url: str) -> AsyncIterator[tuple[Sequence[Node | Edge], list[int]]]:
    """Two services on a database, or two edges of one, and their ports."""
    config = directory / "config"
    write_config(config, RESOURCES)
    ports = [free_port(), free_port()]
    shared = {"ROWCAST_STREAM_EDGE_KEY": EDGE_KEY, "ROWCAST_STREAM_MAX_STREAMS_PER_CALLER": "1000"}
    origin = Origin(config, url)
    servers: Sequence[Node | Edge]
    if kind == "edges":
        await origin.start(**shared, ROWCAST_SERVER_TRUSTED_PROXIES="1")
        servers = [Edge(config, f"http://127.0.0.1:{origin.port}", port) for port in ports]
    else:
        servers = [Node(config, url, "--port", str(port)) for port in ports]
    try:
        for number, server in enumerate(servers):
            await server.start(**shared, **STOPPING, ROWCAST_DATA=str(directory / f"data{number}"))
        yield servers, ports
    finally:
        for each in (*servers, origin):
            await each.kill()


async def restart(server: Node | Edge) -> None:
    """Stop it in order, start it again, and wait until the proxy sends it requests."""
    os.kill(server.pid, signal.SIGTERM)
    assert await server.ended() == 0
    await server.start()

    async def is_asked() -> bool:
        async with aiohttp.ClientSession() as session, session.get(f"http://{server.admin}/metrics") as response:
            return 'route="/notes/"' in await response.text()

    await until(is_asked)


@pytest.mark.parametrize("kind", ["services", "edges"])
async def test_a_rolling_restart_breaks_no_request_and_loses_no_change(
    kind: str, database_url: str, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """Each request that a replica gets is answered, over connections that are kept, and streams go on at the other one."""
    if find("haproxy") is None:
        pytest.skip("needs haproxy: apt-get install haproxy")
    async with replicas(kind, tmp_path, database_url) as (servers, ports), AsyncExitStack() as stack:
        proxy = HaProxy(tmp_path, ports)
        stack.callback(proxy.kill)
        await proxy.start()

        async def serves() -> bool:
            async with aiohttp.ClientSession() as session, session.get(proxy.make_url("/notes/")) as response:
                return response.status == 200

        await until(serves)
        await sql.execute("INSERT INTO owners (id, name) VALUES (1, 'o')")
        watching = [await stack.enter_async_context(Watcher([proxy], query)) for query in QUERIES]
        others = [await stack.enter_async_context(Watcher([proxy], "id__lt=0")) for _ in range(STREAMS)]
        for client in (*watching, *others):
            await client.ready()
        requesters = Requesters(proxy.make_url("/"))
        try:
            for server in servers:
                await requesters.more(50)
                await restart(server)
                await requesters.more(50)
        finally:
            await requesters.stop()
        await assert_equal(sql, *watching)
        assert [client.resets for client in (*watching, *others)] == [[]] * (len(watching) + STREAMS)
        assert all(client.connections > 1 for client in watching)
        good = {"POST 201", "PATCH 200", "GET 200", "found a", "DELETE 204"}
        assert requesters.answers.keys() == good, requesters.answers
