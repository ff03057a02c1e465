"""What clients and load balancers see of a service that starts or stops."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestClient

from rowcast.server.app import create_app
from rowcast.testing.client import ServiceServer as InProcess
from tests.conftest import configure

from .clients import RESOURCES
from .conftest import Run
from .test_doctor import health, until_health

STREAMS = 40
ONE_A_SECOND = "from rowcast.streams import open_streams\n\nopen_streams.DRAIN_PER_SECOND = 1\n"


@pytest.mark.empty_database
async def test_a_starting_service_answers_503(tmp_path: Path, database_url: str) -> None:
    """With Retry-After, and with the reason in ``/health/ready``, until the database fits the config."""
    configuration = configure(tmp_path, RESOURCES)
    app = create_app(configuration, database_url)
    async with TestClient(InProcess(app, configuration.settings.server)) as client:
        for method, path in (("GET", "/notes/"), ("POST", "/notes/"), ("DELETE", "/notes/1/"), ("GET", "/")):
            async with client.request(method, path) as response:
                assert (response.status, response.headers["Retry-After"]) == (503, "1")
                assert (await response.json())["code"] == "starting"
        async with client.get("/health/ready") as response:
            assert (response.status, (await response.json())["status"]) == (503, "unavailable")
        async with client.get("/health/live") as response:
            assert response.status == 200


@pytest.mark.tables(RESOURCES)
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_stopping_service_is_not_ready_at_first(run: Run, workers: int) -> None:
    """Requests are answered during ``server.shutdown_delay``, on new connections; a second signal ends that."""
    delay = "60s" if workers == 1 else "6s"  # the parent of several workers passes no second signal on
    server = await run(service=f"server: {{shutdown_delay: {delay}, workers: {workers}}}")
    os.kill(server.pid, signal.SIGTERM)
    await until_health(server, "stopping")
    async with aiohttp.ClientSession() as session, session.get(server.make_url("/notes/")) as response:
        assert response.status == 200
    assert (await health(server))[0] == 503
    os.kill(server.pid, signal.SIGTERM)
    assert await server.ended() == 0


@pytest.mark.tables(RESOURCES)
async def test_streams_end_one_after_the_other(run: Run) -> None:
    """While new connections are refused and open ones end; a second signal ends the rest."""
    server = await run(service="stream: {drain: 60s}", modules={"hooks": ONE_A_SECOND})
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        headers = {"Accept": "text/event-stream"}
        url = server.make_url("/notes/stream/")
        streams = await asyncio.gather(*(session.get(url, headers=headers) for _ in range(STREAMS)))
        starts = await asyncio.gather(*(stream.content.readuntil(b"event: ready") for stream in streams))
        assert all(start.startswith(b"retry: ") for start in starts)
        ends = [asyncio.create_task(stream.read()) for stream in streams]
        os.kill(server.pid, signal.SIGTERM)
        async with asyncio.timeout(30):
            while sum(end.done() for end in ends) < 2:
                await asyncio.wait([end for end in ends if not end.done()], return_when=asyncio.FIRST_COMPLETED)
        assert sum(not end.done() for end in ends) > STREAMS / 2
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(server.make_url("/notes/"))
        os.kill(server.pid, signal.SIGTERM)
        await asyncio.gather(*ends)  # an error for a stream without its proper end
    assert await server.ended() == 0
