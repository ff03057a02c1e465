"""``ops/alerts.yaml`` and ``ops/grafana.json`` with a Prometheus that is installed here and scrapes a service and an edge of it."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from ruamel.yaml import YAML

from rowcast.server.admin import admin
from rowcast.server.app import create_app
from rowcast.server.edge import create_edge
from rowcast.server.lifecycle import STARTED
from rowcast.testing.client import Client, ServiceServer
from tests.conftest import ROOT, configure
from tests.databases import EMPTY, Databases
from tests.sse import listen
from tests.waiting import until

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
NOTES = {
    "notes": json.dumps(
        {
            "fields": {"id": {"type": "integer", "primary_key": True}, "text": {"type": "string"}},
            "viewset": {"permission_classes": ["AllowAny"], "cache": "responses"},
        }
    )
}
WAIT_SECONDS = 90

pytestmark = pytest.mark.skipif(PROMETHEUS is None or PROMTOOL is None, reason="needs Debian's package prometheus")


class Prometheus:
    """The HTTP API of a Prometheus."""

    def __init__(self, url: str, session: ClientSession) -> None:
        self._url = url
        self._session = session

    async def get(self, path: str, **params: str) -> Any:
        """The data of an answer."""
        async with self._session.get(f"{self._url}/api/v1/{path}", params=params) as response:
            answer = await response.json()
            assert answer["status"] == "success", (params, answer)
            return answer["data"]

    async def find(self, expression: str) -> list[Any]:
        """What an expression of a panel has found."""
        expression = expression.replace("$__rate_interval", "30s").replace("$job", "rowcast")
        found: list[Any] = (await self.get("query", query=expression))["result"]
        return found

    async def ready(self) -> bool:
        """Whether it answers."""
        try:
            async with self._session.get(f"{self._url}/-/ready") as response:
                return response.status == 200
        except OSError:
            return False


@pytest.fixture
async def prometheus(databases: Databases, tmp_path: Path) -> AsyncIterator[Prometheus]:
    """A Prometheus that scrapes a service and its edge, which have requests and streams all the time."""
    assert PROMETHEUS is not None
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        port = made.getsockname()[1]
    async with databases.copy(EMPTY) as url:
        away = {
            "database": {"url": url, "replicas": ["postgresql://127.0.0.1:1/x"]},
            "stream": {"relay": "nats://127.0.0.1:1", "edge_key": "a key for the edge of these tests"},
        }
        settings = json.dumps({"server": {"admin": "127.0.0.1:0"}, **away})
        configuration = configure(tmp_path / "config", NOTES, settings)
        with admin(configuration.settings.server) as served, admin(configuration.settings.server) as of_edge:
            assert served is not None
            assert of_edge is not None
            (tmp_path / "prometheus.yml").write_text(
                json.dumps(
                    {
                        "global": {"scrape_interval": "500ms", "evaluation_interval": "1s"},
                        "rule_files": [str(ROOT / "ops" / "alerts.yaml")],
                        "scrape_configs": [
                            {
                                "job_name": "rowcast",
                                "static_configs": [{"targets": [each.url.split("/")[2] for each in (served, of_edge)]}],
                            }
                        ],
                    }
                )
            )
            app = create_app(configuration, url, migrate=True, metrics=served.metrics)
            async with (
                served.serving(),
                of_edge.serving(),
                Client(ServiceServer(app, configuration.settings.server)) as client,
                AsyncExitStack() as stack,
            ):
                await app[STARTED]
                edge_app = create_edge(configuration, str(client.make_url("/")), metrics=of_edge.metrics)
                edge = await stack.enter_async_context(Client(ServiceServer(edge_app, configuration.settings.server)))
                await edge_app[STARTED]
                process = await asyncio.create_subprocess_exec(
                    PROMETHEUS, f"--config.file={tmp_path / 'prometheus.yml'}",
                    f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address=127.0.0.1:{port}",
                    stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
                )  # fmt: skip
                uses = [asyncio.create_task(_use(each)) for each in (client, edge)]
                try:
                    async with ClientSession() as session:
                        prometheus = Prometheus(f"http://127.0.0.1:{port}", session)
                        await until(prometheus.ready, WAIT_SECONDS)
                        yield prometheus
                finally:
                    for use in uses:
                        use.cancel()
                    process.terminate()
                    await process.wait()


async def _use(client: Client) -> None:
    """Use everything that is measured, for ever: streams that resume or cannot, writes, and reads from memory."""
    while True:
        async with (
            listen(client, "/notes/stream/", last_id="nonsense") as first,
            listen(client, "/notes/stream/") as second,
        ):
            await first.next()
            await second.next()
            await client.post("/notes/", json={"text": "x"})
            await second.next()
        for _ in range(3):
            await client.get("/notes/")
        await asyncio.sleep(0.2)


def panels() -> list[tuple[str, str]]:
    """The expressions of the dashboard, with the titles of their panels."""
    dashboard = json.loads((ROOT / "ops" / "grafana.json").read_text())
    return [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", ())]


async def test_every_panel_of_the_dashboard_shows_something(prometheus: Prometheus) -> None:
    """Each of its expressions has results, once there have been scrapes enough for rates."""
    empty: list[tuple[str, str]] = []

    async def filled() -> bool:
        empty[:] = [panel for panel in panels() if not await prometheus.find(panel[1])]
        return not empty

    assert len(panels()) > 30
    try:
        await until(filled, WAIT_SECONDS)
    except TimeoutError:
        pytest.fail(f"without results: {empty}")


async def test_every_alert_is_evaluated_and_none_fires(prometheus: Prometheus) -> None:
    """Of a service that works; and the metrics of each alert are there."""
    rules: list[Any] = []

    async def evaluated() -> bool:
        rules[:] = [rule for group in (await prometheus.get("rules"))["groups"] for rule in group["rules"]]
        up = await prometheus.find('up{job="rowcast"} == 1')
        return bool(rules) and len(up) == 2 and all(rule["health"] == "ok" for rule in rules)

    await until(evaluated, WAIT_SECONDS)
    assert {rule["name"] for rule in rules if rule["state"] == "firing"} == set()
    for rule in rules:
        for name in set(re.findall(r"\b(?:http|db|rowcast)_\w+", rule["query"])):
            assert await prometheus.get("series", **{"match[]": name}), (rule["name"], name)


async def test_the_rules_are_those_of_promtool() -> None:
    """``promtool check rules`` accepts the file."""
    assert PROMTOOL is not None
    process = await asyncio.create_subprocess_exec(
        PROMTOOL, "check", "rules", str(ROOT / "ops" / "alerts.yaml"), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert re.search(rf"\b{len(alerts())} rules found", out.decode())


def alerts() -> dict[str, Any]:
    """The rules of the file, by name."""
    groups = YAML(typ="safe").load(ROOT / "ops" / "alerts.yaml")["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


FIRING = {  # an alert of replicas, the relay or edges: series, which never change or rise each minute, with which it fires, and with which not
    "RowcastReplicaUnreadable": ({'rowcast_replica_readable{replica="b"}': "0"}, {'rowcast_replica_readable{replica="b"}': "1"}),
    "RowcastReplicaBehind": (
        {'rowcast_replica_lag_seconds{replica="b"}': "9"}, {'rowcast_replica_lag_seconds{replica="b"}': "0.3"},
    ),
    "RowcastReplicasUnused": (
        {'rowcast_reads_total{job="j",server="primary"}': "0+99", 'rowcast_reads_total{job="j",server="b"}': "0+1"},
        {'rowcast_reads_total{job="j",server="primary"}': "0+50", 'rowcast_reads_total{job="j",server="b"}': "0+50"},
    ),
    "RowcastRelayDisconnected": ({"rowcast_relay_connected": "0"}, {"rowcast_relay_connected": "1"}),
    "RowcastRelaySilent": (
        {"rowcast_relay_connected": "1", "rowcast_feed_fed": "0", "rowcast_ticker_leader": "0"},
        {"rowcast_relay_connected": "1", "rowcast_feed_fed": "0", "rowcast_ticker_leader": "1"},
    ),
    "RowcastRelayDrops": (
        {'rowcast_relay_dropped_total{instance="i",reason="late"}': "0+2"},
        {'rowcast_relay_dropped_total{instance="i",reason="late"}': "5"},
    ),
    "RowcastEdgeWithoutOrigin": (
        {'rowcast_edge_failures_total{instance="i",reason="unreachable"}': "0+2"},
        {'rowcast_edge_failures_total{instance="i",reason="unreachable"}': "5"},
    ),
    "RowcastEdgeConfigDiffers": (
        {'rowcast_edge_resources{streams="differing"}': "1"}, {'rowcast_edge_resources{streams="differing"}': "0"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FIRING)
async def test_alerts_of_replicas_relay_and_edges_fire(name: str, tmp_path: Path) -> None:
    """Of series that show the fault, and not of those that show none."""
    assert PROMTOOL is not None
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": each, "values": f"{values}x61"} for each, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) > 0',
                    "eval_time": "1h",
                    "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
                }
            ],
        }
        for series, fires in zip(FIRING[name], (True, False), strict=True)
    ]
    file = tmp_path / "alerts.json"
    file.write_text(
        json.dumps({"rule_files": [str(ROOT / "ops" / "alerts.yaml")], "evaluation_interval": "1m", "tests": tests})
    )
    process = await asyncio.create_subprocess_exec(PROMTOOL, "test", "rules", str(file), stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
