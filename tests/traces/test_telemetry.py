"""OpenTelemetry's environment variables: whether a service is traced, and what happens if it cannot be."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from structlog.testing import capture_logs

from rowcast.server.telemetry import Untraceable, exporter_in, find_traces

from ..conftest import write_config
from ..faults.processes import Server
from ..waiting import until

COLLECTOR = "http://127.0.0.1:4318"
NOTES = {"notes": "fields: {id: {type: integer, primary_key: true}}\nviewset: {permission_classes: [AllowAny]}"}


@pytest.mark.parametrize(
    ("environ", "exporter"),
    [
        ({}, None),
        ({"OTEL_SERVICE_NAME": "books"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR}, "otlp_proto_http"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": COLLECTOR}, "otlp_proto_http"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp_proto_http"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR}, None),
        ({"OTEL_SDK_DISABLED": "True", "OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "otlp_proto_grpc"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
          "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "otlp_proto_http"),
    ],
)  # fmt: skip
def test_the_environment_says_where_spans_go(environ: Mapping[str, str], exporter: str | None) -> None:
    """Nowhere, unless it names an exporter or an address."""
    assert exporter_in(environ) == exporter


def test_a_protocol_that_does_not_exist_is_named() -> None:
    """With those that do."""
    with pytest.raises(Untraceable, match="is http/json; valid: http/protobuf, grpc"):
        exporter_in({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"})


@pytest.mark.parametrize(
    ("variables", "missing", "reason"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR}, "opentelemetry.sdk.trace", "install rowcast[otel], or set"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "", "no exporter zipkin; installed: console, otlp_proto_http"),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "-1"}, "", "refuses a value"),
    ],
)
def test_what_cannot_be_set_up_is_in_the_log(
    monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str], missing: str, reason: str
) -> None:
    """The service goes on without traces: its environment may be that of many."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
    with capture_logs() as logs:
        assert find_traces() is None
    (entry,) = logs
    assert (entry["log_level"], entry["event"]) == ("warning", "traces_off")
    assert reason in entry["reason"]


def test_what_code_has_set_up_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any variable; ``opentelemetry-instrument`` does the same."""
    assert find_traces() is None
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", TracerProvider(shutdown_on_exit=False))
    assert find_traces() is not None


def test_without_a_variable_nothing_is_loaded() -> None:
    """A service that is not traced does not even import the API."""
    code = "import sys; from rowcast.server.telemetry import find_traces; assert find_traces() is None; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "rowcast.server.telemetry" in loaded
    assert "opentelemetry" not in loaded


class Collector:
    """What a collector has been sent: the names of spans by the name of their service."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[tuple[str, str]] = []

    @property
    def requests(self) -> list[tuple[str, str]]:
        """The spans of requests."""
        return [each for each in self.spans if each[1].startswith("GET /notes/")]

    async def take(self, request: web.Request) -> web.Response:
        """Take spans, as OTLP/HTTP sends them."""
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for each in sent.resource_spans:
            name = next(found.value.string_value for found in each.resource.attributes if found.key == "service.name")
            self.spans += [(name, span.name) for scope in each.scope_spans for span in scope.spans]
        return web.Response()


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector that listens."""
    collector, app = Collector(), web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield collector
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(("workers", "named"), [("1", {}), ("2", {"OTEL_SERVICE_NAME": "books"})])
async def test_the_variables_are_enough(
    database_url: str, tmp_path: Path, workers: str, named: Mapping[str, str]
) -> None:
    """A service sends its spans to the address of the environment, also from several processes, and the last ones as it stops."""
    write_config(tmp_path / "config", NOTES)
    server = Server(tmp_path / "config", database_url, "--workers", workers)
    async with collecting() as collector, aiohttp.ClientSession() as session:
        await server.start(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **named)
        try:
            for _ in range(20):
                async with session.get(server.make_url("/notes/")) as response:
                    assert response.status == 200
            os.kill(server.pid, signal.SIGTERM)
            await until(lambda: len(collector.requests) == 20)
        finally:
            await server.kill()
        assert set(collector.requests) == {(named.get("OTEL_SERVICE_NAME", "rowcast"), "GET /notes/")}


async def test_a_collector_that_is_away_harms_nobody(database_url: str, tmp_path: Path) -> None:
    """Requests are answered, the log has a warning in its form, and the service stops in time."""
    write_config(tmp_path / "config", NOTES)
    server = Server(tmp_path / "config", database_url)
    async with aiohttp.ClientSession() as session:
        await server.start(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1", OTEL_BSP_SCHEDULE_DELAY="100")
        try:
            for _ in range(3):
                async with session.get(server.make_url("/notes/")) as response:
                    assert response.status == 200
            os.kill(server.pid, signal.SIGTERM)
            async with asyncio.timeout(20):
                log = await server.log()
        finally:
            await server.kill()
    assert '"event": "traces"' in log
    assert "Traceback" not in log
