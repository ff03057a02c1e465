"""``/metrics`` at ``server.admin``: the numbers are those of what the service has done, for one process and for several."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from rowcast.errors import ConfigurationError
from rowcast.server.admin import admin
from rowcast.server.app import create_app
from rowcast.server.lifecycle import STARTED
from rowcast.testing.client import Client, ServiceServer

from ..conftest import ROOT, configure
from ..databases import EMPTY, Databases
from ..sse import listen
from ..waiting import until

NOTES = {
    "notes": json.dumps(
        {
            "fields": {"id": {"type": "integer", "primary_key": True}, "text": {"type": "string"}},
            "viewset": {"permission_classes": ["AllowAny"], "cache": "responses"},
        }
    )
}
ADMIN = "server: {admin: '127.0.0.1:0'}"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Scraped:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        """The sum of the samples of a name that have these labels."""
        return sum(
            sample.value for sample in self.samples if sample.name == name and labels.items() <= sample.labels.items()
        )

    def labels(self, name: str, label: str) -> set[str]:
        """The values of a label in the samples of a name."""
        return {sample.labels[label] for sample in self.samples if sample.name == name}


class Service:
    """A client of the service, and the address of its metrics."""

    def __init__(self, client: Client, url: str) -> None:
        self.client = client
        self.url = url

    async def scrape(self) -> Scraped:
        """What Prometheus reads."""
        response = await self.client.session.get(self.url)
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        return Scraped(await response.text())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """One service with metrics for all tests, which read differences."""
    configuration = configure(tmp_path_factory.mktemp("metrics"), NOTES, ADMIN)
    async with databases.copy(EMPTY) as url:
        with admin(configuration.settings.server) as served:
            assert served is not None
            app = create_app(configuration, url, migrate=True, metrics=served.metrics)
            async with served.serving(), Client(ServiceServer(app, configuration.settings.server)) as client:
                await app[STARTED]
                yield Service(client, served.url)


@pytest.mark.asyncio(loop_scope="module")
async def test_requests_are_counted_by_route_and_status(service: Service) -> None:
    """A route is a template; a method that no route has is no label."""
    for path in ("/notes/", "/notes", "/notes/1/", "/notes/2", "/notes/?nonsense=1", "/nothing/", "/docs/"):
        await service.client.get(path)
    await service.client.post("/notes/", json={"text": "x"})
    await service.client.request("PURGE", "/notes/")
    found = await service.scrape()
    assert {
        (route, status): found.sum("rowcast_requests_total", route=route, status=status, method="GET")
        for route, status in (
            ("/notes/", "200"), ("/notes/", "400"), ("/notes/{id}/", "404"), ("none", "404"), ("/docs/", "200"),
        )
    } == {
        ("/notes/", "200"): 2,
        ("/notes/", "400"): 1,
        ("/notes/{id}/", "404"): 2,
        ("none", "404"): 1,
        ("/docs/", "200"): 1,
    }  # fmt: skip
    assert found.sum("rowcast_requests_total", route="/notes/", method="POST", status="201") == 1
    assert found.labels("rowcast_requests_total", "method") == {"GET", "POST", "other"}
    assert found.sum("rowcast_request_seconds_count", route="/notes/", method="GET") == 3
    assert 0 < found.sum("rowcast_request_seconds_sum", route="/notes/", method="GET") < 3
    assert found.sum("rowcast_request_seconds_bucket", route="/notes/", method="GET", le="+Inf") == 3


@pytest.mark.asyncio(loop_scope="module")
async def test_streams_are_counted_while_they_are_open(service: Service) -> None:
    """Their time is none of the durations of requests; what a client cannot resume from is a reset."""
    before = await service.scrape()
    async with listen(service.client, "/notes/stream/", last_id="nonsense") as events:
        assert (await events.next()).event == "reset"
        open_ = await service.scrape()
        assert (before.sum("rowcast_streams"), open_.sum("rowcast_streams")) == (0, 1)
        assert open_.sum("rowcast_stream_resets_total", reason="malformed") == 1

    async def ended() -> bool:
        return (await service.scrape()).sum("rowcast_streams") == 0

    await until(ended)
    after = await service.scrape()
    assert after.sum("rowcast_requests_total", route="/notes/stream/") == 1
    assert after.sum("rowcast_request_seconds_count", route="/notes/stream/") == 0


@pytest.mark.asyncio(loop_scope="module")
async def test_state_of_memory_pool_feed_and_log_is_read(service: Service) -> None:
    """At each scrape."""
    before = await service.scrape()
    for _ in range(3):
        await service.client.get("/notes/?page_size=7")
    found = await service.scrape()
    names = ("rowcast_cache_hits_total", "rowcast_cache_misses_total", "rowcast_statements_total")
    hits, misses, statements = (found.sum(name) - before.sum(name) for name in names)
    assert hits == 2
    assert misses >= 1
    assert statements >= 1
    assert found.sum("rowcast_cache_bytes") > 0
    assert found.sum("rowcast_feed_connected") == 1
    assert found.sum("rowcast_feed_lag_seconds") < 5
    assert (found.sum("rowcast_pool_size", pool="requests"), found.sum("rowcast_pool_in_use", pool="requests")) == (
        10,
        0,
    )
    assert found.sum("rowcast_pool_waiting") == 0
    assert found.sum("rowcast_log_bytes") > 0


@pytest.mark.asyncio(loop_scope="module")
async def test_metrics_are_at_their_own_address_alone(service: Service) -> None:
    """Nothing of it is on the service's port, and nothing of the service on this one."""
    assert (await service.client.get("/metrics")).status == 404
    assert (await service.client.session.get(service.url.replace("/metrics", "/notes/"))).status == 404


async def test_numbers_of_several_workers_are_those_of_all(databases: Databases, tmp_path: Path) -> None:
    """Whichever worker answers a scrape, and across a reload; one that is replaced takes its own numbers with it alone."""
    configure(tmp_path / "config", NOTES, ADMIN)
    async with databases.copy(EMPTY) as url:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rowcast", "serve", "--migrate", "--workers", "2", "--port", "0",
            "--config", str(tmp_path / "config"), "--database-url", url,
            stdout=asyncio.subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            lines = []
            async with asyncio.timeout(60):
                while not (line := (await process.stdout.readline()).decode().strip()).startswith(
                    "Rowcast is ready on"
                ):
                    lines.append(line)
            (admin,) = [line.split()[-1] for line in lines if line.startswith("Metrics are on")]
            await _check_workers(process, line.split()[-1], admin)
        finally:
            process.send_signal(signal.SIGTERM)
            await process.wait()


async def _check_workers(process: asyncio.subprocess.Process, origin: str, admin: str) -> None:
    async def scrape() -> Scraped:
        async with ClientSession() as session, session.get(admin) as response:
            return Scraped(await response.text())

    async def get(path: str) -> Any:
        async with ClientSession() as session, session.get(f"{origin}{path}") as response:
            assert response.status == 200
            return await response.json()

    async def reloaded() -> bool:
        return all([(await get("/health/ready")).get("config", {}).get("state") == "applied" for _ in range(8)])

    for _ in range(10):  # on connections of their own, so that both workers get some
        await get("/notes/")
    process.send_signal(signal.SIGHUP)
    await until(reloaded)
    for _ in range(10):
        await get("/notes/")
    scraped = [await scrape() for _ in range(5)]
    assert {each.sum("rowcast_requests_total", route="/notes/", status="200") for each in scraped} == {20}
    workers = scraped[0].labels("rowcast_feed_connected", "worker")
    assert len(workers) == 2
    assert len([sample for sample in scraped[0].samples if sample.name == "rowcast_log_bytes"]) == 1
    gone = min(workers)
    lost = scraped[0].sum("rowcast_requests_total", route="/notes/", worker=gone)
    os.kill(int(gone), signal.SIGKILL)

    async def replaced() -> bool:
        return len((await scrape()).labels("rowcast_feed_connected", "worker") - {gone}) == 2

    await until(replaced)
    found = await scrape()
    assert gone not in found.labels("rowcast_feed_connected", "worker")
    assert found.sum("rowcast_requests_total", route="/notes/", status="200") == 20 - lost


async def test_taken_address_is_reported_as_such(tmp_path: Path) -> None:
    """With its setting."""
    configuration = configure(tmp_path, NOTES, ADMIN)
    with admin(configuration.settings.server) as served:
        assert served is not None
        port = URL(served.url).port
        again = configure(tmp_path, NOTES, f"server: {{admin: '127.0.0.1:{port}'}}")
        with (
            pytest.raises(ConfigurationError, match=f"server.admin: port {port} of 127.0.0.1 is taken"),
            admin(again.settings.server),
        ):
            pass
