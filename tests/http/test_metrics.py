"""``/metrics`` at ``server.admin``: the numbers are those of what the service has done, for one process and for several."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import Context
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from rowcast import __version__
from rowcast.configuration.load import Configuration
from rowcast.database.pool import Database
from rowcast.errors import ConfigurationError, Unavailable
from rowcast.server.admin import admin
from rowcast.server.app import create_app
from rowcast.server.edge import create_edge
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
    ),
    "boards": json.dumps(
        {"fields": {"name": {"type": "string"}}, "viewset": {"permission_classes": ["AllowAny"], "cache": "responses"}},
    ),
}
REQUESTS = "http_server_request_duration_seconds_count"
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
    """A client of the service or of an edge, the address of its metrics, and its configuration."""

    def __init__(self, client: Client, url: str, configuration: Configuration) -> None:
        self.client = client
        self.url = url
        self.configuration = configuration

    async def scrape(self) -> Scraped:
        """What Prometheus reads."""
        response = await self.client.session.get(self.url)
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        return Scraped(await response.text())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """One service with metrics for all tests, which read differences. Its replica is none, and its bus is away."""
    async with databases.copy(EMPTY) as url:
        servers = (
            f"\ndatabase: {{url: '{url}', replicas: ['{databases.url}']}}"
            "\nstream: {relay: 'nats://127.0.0.1:1', edge_key: 'a key for the edges of these tests'}"
        )
        configuration = configure(tmp_path_factory.mktemp("metrics"), NOTES, ADMIN + servers)
        with admin(configuration.settings.server) as served:
            assert served is not None
            app = create_app(configuration, url, migrate=True, metrics=served.metrics)
            async with served.serving(), Client(ServiceServer(app, configuration.settings.server)) as client:
                await app[STARTED]
                yield Service(client, served.url, configuration)


@asynccontextmanager
async def edge_of(configuration: Configuration, origin: str) -> AsyncIterator[Service]:
    """An edge with metrics, which may not have found its origin."""
    with admin(configuration.settings.server) as served:
        assert served is not None
        app = create_edge(configuration, origin, metrics=served.metrics)
        async with served.serving(), Client(ServiceServer(app, configuration.settings.server)) as client:
            yield Service(client, served.url, configuration)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge(service: Service) -> AsyncIterator[Service]:
    """An edge of the service."""
    async with edge_of(service.configuration, str(service.client.make_url("/"))) as made:
        await made.client.app[STARTED]
        yield made


@pytest.mark.asyncio(loop_scope="module")
async def test_requests_are_counted_by_route_and_status(service: Service) -> None:
    """A route is a template; a method that no route has is no label."""
    for path in ("/notes/", "/notes", "/notes/1/", "/notes/2", "/notes/?nonsense=1", "/nothing/", "/docs/"):
        await service.client.get(path)
    await service.client.post("/notes/", json={"text": "x"})
    await service.client.request("PURGE", "/notes/")
    found = await service.scrape()
    assert {
        (route, status): found.sum(REQUESTS, route=route, status=status, method="GET")
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
    assert found.sum(REQUESTS, route="/notes/", method="POST", status="201") == 1
    assert found.labels(REQUESTS, "method") == {"GET", "POST", "other"}
    assert found.sum("http_server_request_duration_seconds_sum", route="/notes/", method="GET") > 0
    assert found.sum("http_server_request_duration_seconds_bucket", route="/notes/", method="GET", le="+Inf") == 3


@pytest.mark.asyncio(loop_scope="module")
async def test_requests_are_active_while_they_are_answered(service: Service) -> None:
    """A request is one from its header on, and a stream is none."""
    async with listen(service.client, "/notes/stream/") as events:
        await events.next()
        assert (await service.scrape()).sum("http_server_active_requests") == 0
        url = service.client.make_url("/notes/")
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(
            b"POST /notes/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
        )

        async def active() -> bool:
            return (await service.scrape()).sum("http_server_active_requests") == 1

        await until(active)
        writer.write(b'{"text":1')
        await reader.readline()
        writer.close()

        async def answered() -> bool:
            return (await service.scrape()).sum("http_server_active_requests") == 0

        await until(answered)


@pytest.mark.asyncio(loop_scope="module")
async def test_streams_are_counted_while_they_are_open(service: Service) -> None:
    """Their time is none of the durations of requests; what a client cannot resume from is a reset."""
    before = await service.scrape()
    async with listen(service.client, "/notes/stream/", last_id="nonsense") as events:
        assert (await events.next()).event == "reset"
        open_ = await service.scrape()
        assert (before.sum("rowcast_streams"), open_.sum("rowcast_streams", resource="notes")) == (0, 1)
        assert open_.sum("rowcast_stream_resets_total", reason="malformed") == 1
        opened = [each.sum("rowcast_streams_opened_total", resource="notes") for each in (before, open_)]
        assert opened[1] - opened[0] == 1

    async def ended() -> bool:
        return (await service.scrape()).sum("rowcast_streams") == 0

    await until(ended)
    after = await service.scrape()
    assert after.sum(REQUESTS, route="/notes/stream/") == 0
    closed = [each.sum("rowcast_streams_closed_total", reason="client") for each in (before, after)]
    assert closed[1] - closed[0] == 1


@pytest.mark.asyncio(loop_scope="module")
async def test_what_streams_are_sent_is_counted(service: Service) -> None:
    """A frame serves all streams of a group; its bytes count for each of them. Streams of several resources are ``*``."""
    before = await service.scrape()
    async with (
        listen(service.client, "/notes/stream/") as first,
        listen(service.client, "/notes/stream/") as second,
        listen(service.client, "/stream/?resources=notes,boards") as third,
    ):
        for events in (first, second, third):
            await events.next()

        async def together() -> bool:
            return (await service.scrape()).sum("rowcast_stream_groups") >= 2

        await until(together)
        assert (await service.scrape()).sum("rowcast_streams", resource="*") == 1
        await service.client.post("/notes/", json={"text": "sent"})
        for events in (first, second, third):
            assert (await events.next()).json()["data"]["text"] == "sent"
        after = await service.scrape()
    names = ("rowcast_stream_deliveries_total", "rowcast_stream_frames_total", "rowcast_stream_bytes_total")
    deliveries, frames, sent = (after.sum(name) - before.sum(name) for name in names)
    assert deliveries == 3
    assert 2 <= frames <= 3  # a stream that has not joined its group yet has a frame of its own
    assert sent > 3 * len('{"text": "sent"}')
    delays = [each.sum("rowcast_commit_to_delivery_seconds_count") for each in (before, after)]
    assert delays[1] - delays[0] >= 1


@pytest.mark.asyncio(loop_scope="module")
async def test_statements_are_timed_by_their_summary(service: Service) -> None:
    """Whatever their SQL is; the cache of statements is counted by kind."""
    before = await service.scrape()
    made = await service.client.post("/notes/", json={"text": "summary"})
    path = URL(made.headers["Location"]).path
    await service.client.get(path)
    await service.client.patch(path, json={"text": "changed"})
    await service.client.delete(path)
    after = await service.scrape()
    name = "db_client_operation_duration_seconds_count"
    for verb in ("INSERT", "SELECT", "UPDATE", "DELETE"):
        assert after.sum(name, summary=f"{verb} notes") > before.sum(name, summary=f"{verb} notes"), verb
    assert after.sum("rowcast_statement_shapes") > 0
    assert after.sum("rowcast_statement_cache_misses_total") >= after.sum("rowcast_statement_shapes")


@pytest.mark.asyncio(loop_scope="module")
async def test_state_of_memory_pool_feed_and_log_is_read(service: Service) -> None:
    """At each scrape."""

    async def leads() -> bool:
        return (await service.scrape()).sum("rowcast_ticker_leader") == 1

    await until(leads)
    before = await service.scrape()
    for _ in range(3):
        await service.client.get("/boards/?page_size=7")  # nobody writes to it
    found = await service.scrape()
    names = ("rowcast_cache_hits_total", "rowcast_cache_misses_total", "rowcast_statements_total")
    hits, misses, statements = (found.sum(name) - before.sum(name) for name in names)
    assert hits == 2
    assert found.labels("rowcast_cache_hits_total", "kind") == {"counts", "responses"}
    assert misses >= 1
    assert statements >= 1
    assert found.sum("rowcast_cache_bytes") > 0
    assert found.sum("rowcast_feed_connected") == 1
    assert found.sum("rowcast_feed_lag_seconds") < 5
    assert found.sum("rowcast_feed_tick") > 0
    assert found.sum("rowcast_feed_reconnects_total") == 0
    assert found.sum("rowcast_ticker_ticks_total") >= 1
    pool = {name: found.sum(f"rowcast_pool_{name}", pool="requests") for name in ("size", "in_use", "waiting")}
    assert pool == {"size": 10, "in_use": 0, "waiting": 0}
    assert found.sum("rowcast_pool_idle", pool="requests") >= 1
    assert found.sum("rowcast_log_bytes") > 0
    assert found.sum("rowcast_log_age_seconds") > 0
    assert found.sum("rowcast_build_info", version=__version__) == 1
    assert found.sum("process_resident_memory_bytes") > 0

    async def measured() -> bool:
        return (await service.scrape()).sum("rowcast_event_loop_lag_seconds_count") > 0

    await until(measured)


async def test_waits_for_a_connection_are_timed(database_url: str) -> None:
    """Also those that end without one."""
    waits: list[bool] = []
    database = Database(database_url, {}, size=1, patience=0.05)
    database.observe_waits(lambda seconds, refused: waits.append(refused))
    async with database.transaction():
        with pytest.raises(Unavailable):
            await asyncio.create_task(database.fetch("SELECT 1", ()), context=Context())
        waiting = asyncio.create_task(database.fetch("SELECT 1", ()), context=Context())
        await asyncio.sleep(0)
    await waiting
    await database.close()
    assert waits == [True, False]


@pytest.mark.asyncio(loop_scope="module")
async def test_health_is_at_the_admin_address_too(service: Service) -> None:
    """With the same answers."""
    for path in ("/health/live", "/health/ready", "/health/ready/"):
        response = await service.client.session.get(service.url.replace("/metrics", path))
        assert (response.status, await response.json()) == (200, {"status": "ok"})


@pytest.mark.asyncio(loop_scope="module")
async def test_an_edge_counts_what_it_sends_and_passes_on(service: Service, edge: Service) -> None:
    """Resources and streams by who sends them, and requests; a service has no such resources."""
    before = await edge.scrape()
    await edge.client.get("/notes/")
    async with listen(edge.client, "/notes/stream/") as own, listen(edge.client, "/notes/1/stream/") as passed_on:
        await own.next()
        await passed_on.next()
        found = await edge.scrape()
    assert {
        label: found.sum("rowcast_edge_resources", streams=label) for label in ("sent", "passed_on", "differing")
    } == {
        "sent": 2,
        "passed_on": 0,
        "differing": 0,
    }
    assert found.sum("rowcast_streams", resource="notes") == 1
    assert found.sum("rowcast_edge_streams") == 1
    assert found.sum("rowcast_edge_requests_total") - before.sum("rowcast_edge_requests_total") == 2
    assert found.sum("rowcast_edge_failures_total") == 0
    assert "rowcast_edge_resources" not in {sample.name for sample in (await service.scrape()).samples}


@pytest.mark.asyncio(loop_scope="module")
async def test_an_edge_counts_what_its_origin_does_not_answer(service: Service) -> None:
    """By whether it was reached."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, edge_of(service.configuration, f"http://127.0.0.1:{port}") as edge:
        assert (await edge.client.get("/notes/")).status == 502
        server.close()
        await server.wait_closed()
        assert (await edge.client.get("/notes/")).status == 503
        found = await edge.scrape()
    assert [found.sum("rowcast_edge_failures_total", reason=each) for each in ("incomplete", "unreachable")] == [1, 1]


@pytest.mark.asyncio(loop_scope="module")
async def test_documentation_lists_every_metric_and_label(service: Service, edge: Service) -> None:
    """And no other one."""
    await service.client.get("/notes/")
    async with listen(service.client, "/notes/stream/") as events:
        await events.next()
    page = (ROOT / "docs/operations.md").read_text()
    table = page[page.index("| metric | labels |") :].split("\n\n")[0]
    documented = {
        name: set(re.findall(r"`(\w+)`", labels))
        for names, labels in re.findall(r"^\| (`[^|]+) \| ([^|]*)\|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
    }
    served: dict[str, set[str]] = {}
    for sample in (*(await service.scrape()).samples, *(await edge.scrape()).samples):
        name = re.sub("_(bucket|count|sum)$", "", sample.name)
        if not name.startswith("process_"):
            served.setdefault(name, set()).update(sample.labels.keys() - {"le"})
    assert {name: labels for name, labels in documented.items() if not name.startswith("process_")} == served


@pytest.mark.asyncio(loop_scope="module")
async def test_metrics_are_at_their_own_address_alone(service: Service) -> None:
    """Nothing of it is on the service's port, and nothing of the service on this one."""
    assert (await service.client.get("/metrics")).status == 404
    assert (await service.client.session.get(service.url.replace("/metrics", "/notes/"))).status == 404


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("file", ["grafana.json", "alerts.yaml"])
async def test_every_metric_of_the_dashboard_and_the_alerts_exists(service: Service, edge: Service, file: str) -> None:
    """With the labels by which they are summed or chosen."""
    expressions = (ROOT / "ops" / file).read_text()
    samples = [*(await service.scrape()).samples, *(await edge.scrape()).samples]
    served = {sample.name for sample in samples}
    used = set(re.findall(r"\b(?:http|db|rowcast|process)_\w+", expressions))
    assert len(used) > 7
    assert used - served == set()
    labels = {label for sample in samples for label in sample.labels} | {"job", "instance"}
    by = {label for group in re.findall(r"\bby \(([^)]*)\)", expressions) for label in re.findall(r"\w+", group)}
    assert by <= labels


async def test_numbers_of_several_workers_are_those_of_all(databases: Databases, tmp_path: Path) -> None:
    """Whichever worker answers a scrape, across a reload, and after one of them is gone: no counter ever falls."""
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
    assert {each.sum(REQUESTS, route="/notes/", status="200") for each in scraped} == {20}
    for name in ("rowcast_log_bytes", "rowcast_feed_connected", "rowcast_ticker_leader"):
        assert len([sample for sample in scraped[0].samples if sample.name == name]) == 1

    async def leads() -> bool:
        return (await scrape()).sum("rowcast_ticker_leader") == 1

    await until(leads)
    assert scraped[0].sum("rowcast_pool_size", pool="requests") == 20
    os.kill(_children(process.pid)[0], signal.SIGKILL)

    async def replaced() -> bool:
        return (await scrape()).sum("rowcast_pool_size", pool="requests") == 20 and len(_children(process.pid)) == 2

    await until(replaced)
    assert (await scrape()).sum(REQUESTS, route="/notes/", status="200") == 20


def _children(process: int) -> list[int]:
    """The processes that a process has made and that run."""
    listed = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(pid) for pid in listed if "zombie" not in Path(f"/proc/{pid}/status").read_text()]


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
