"""``ops/chart``: what Helm makes of it is valid for Kubernetes, and what a pod runs is a service that answers its probes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from ruamel.yaml import YAML

from rowcast import __version__

from ..conftest import ROOT
from ..tls import free_port
from ..waiting import until

CHART = ROOT / "ops" / "chart"
REQUIRED = {"database": {"secret": "shop-database"}}
FULL: dict[str, Any] = {
    "image": {"repository": "registry.example.com/shop", "tag": "7", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "registry"}],
    "replicas": 3,
    "config": {
        "service.yaml": "auth: {default_permission_classes: [AllowAny]}\n",
        "resources/books.yaml": "fields: {title: {type: string}}\nviewset: viewsets:Books\n",
        "viewsets.py": "from rowcast import ModelViewSet\n\n\nclass Books(ModelViewSet):\n    '''Books: \"all\" of them, {{ 1 }} by one.'''\n",
    },
    "database": {"secret": "shop-database", "urlKey": "pooler", "directUrlKey": "direct", "replicasKey": "replicas"},
    "relay": {"secret": "shop-bus", "urlKey": "nats"},
    "edgeKey": {"secret": "shop-edges", "key": "key"},
    "edge": {"enabled": True, "replicas": 4, "service": {"type": "NodePort", "port": 81, "annotations": {"a": "b"}}},
    "migrate": False,
    "secrets": ["keys", "more-keys"],
    "allowedHosts": ["api.example.com"],
    "trustedProxies": 1,
    "rootPath": "/api",
    "env": {"ROWCAST_LOG_ACCESS": "errors"},
    "workers": 2,
    "stopping": {"shutdownDelay": 3, "drain": 20, "shutdownGrace": 15},
    "service": {"type": "LoadBalancer", "port": 8080, "annotations": {"a": "b"}},
    "ingress": {
        "enabled": True, "className": "nginx", "annotations": {"a": "b"}, "host": "shop.example.com", "path": "/", "tlsSecret": "tls",
    },
    "autoscaling": {"enabled": True, "minReplicas": 2, "maxReplicas": 5, "cpuPercent": 60},
    "podAnnotations": {"prometheus.io/scrape": "true"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
}  # fmt: skip


ELSEWHERE: dict[str, Any] = {  # edges alone
    "database": {"secret": ""},
    "edgeKey": {"secret": "shop-edges"},
    "edge": {"enabled": True, "upstream": "https://api.example.com/shop"},
    "autoscaling": {"enabled": True},
}


def helm(*arguments: str, values: Mapping[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    """Run Helm with the values of an installation."""
    command = [sys.executable, str(ROOT / "ops" / "helm.py"), *arguments, *(["--values", "-"] if values else [])]
    return subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False, timeout=400)


@pytest.fixture(scope="module", autouse=True)
def _has_helm() -> None:
    if helm("version").returncode and "CI" not in os.environ:
        pytest.skip("needs Helm, on PATH or from PyPI")


EDGE = "edge "


@dataclass(frozen=True)
class Installation:
    """What Helm renders for some values, by kind; what is only for edges has this word in front of its kind."""

    manifests: Mapping[str, Any]
    role: str = ""

    @property
    def edges(self) -> Installation:
        """The same, with what its edges are."""
        return Installation(self.manifests, EDGE)

    @property
    def pod(self) -> Any:
        """The specification of its pods."""
        return self.manifests[f"{self.role}Deployment"]["spec"]["template"]["spec"]

    @property
    def container(self) -> Any:
        """Its only container."""
        (found,) = self.pod["containers"]
        return found

    @property
    def variables(self) -> dict[str, Any]:
        """The variables of the container, and the references of those that come from a Secret."""
        return {each["name"]: each.get("value", each.get("valueFrom")) for each in self.container["env"]}


def install(values: Mapping[str, Any], *, release: str = "shop") -> Installation:
    """Render the chart."""
    done = helm("template", release, str(CHART), "--namespace", "web", values={**REQUIRED, **values})
    assert done.returncode == 0, done.stderr
    documents = [each for each in YAML(typ="safe", pure=True).load_all(done.stdout) if each]
    found = {f"{EDGE if each['metadata']['name'].endswith('-edge') else ''}{each['kind']}": each for each in documents}
    assert len(found) == len(documents)
    return Installation(found)


# --- Kubernetes' own schemas


@lru_cache
def schema_of(version: str, name: str) -> Any:
    """A file of the schemas that Kubernetes publishes, without unknown members."""
    (package,) = (ROOT / "ops" / ".helm").glob("kubernetes_validate*.whl")
    with zipfile.ZipFile(package) as archive:
        return json.loads(
            archive.read(f"kubernetes_validate/kubernetes-json-schema/v{version}.0-local-strict/{name}.json")
        )


def mistakes(manifest: Mapping[str, Any], version: str) -> list[str]:
    """What Kubernetes would refuse or ignore of a manifest."""
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", manifest["apiVersion"])
    schema = schema_of(version, f"{manifest['kind'].lower()}-{group}")
    registry: Registry[Any] = Resource.from_contents(schema_of(version, "_definitions")) @ Registry()
    return [
        f"{error.json_path}: {error.message}"
        for error in Draft202012Validator(schema, registry=registry).iter_errors(manifest)
    ]


@pytest.mark.parametrize(
    "values", [{}, FULL, {**FULL, "autoscaling": {"enabled": False}}, {"replicas": 1}, ELSEWHERE], ids=str
)
def test_chart_is_clean_and_what_it_renders_is_valid(values: dict[str, Any]) -> None:
    """By Helm's linter, and by the schemas of the oldest and the newest Kubernetes, which know every member."""
    linted = helm("lint", "--strict", str(CHART), values={**REQUIRED, **values})
    assert linted.returncode == 0, linted.stdout
    for manifest in install(values).manifests.values():
        for version in ("1.29", "1.37"):
            assert mistakes(manifest, version) == [], manifest["kind"]
    broken = install({}).manifests["Service"] | {"specs": {}}
    assert mistakes(broken, "1.37"), "an unknown member would not be found"


def test_versions_are_those_of_the_package() -> None:
    """A release of the package is one of the chart, which runs its image."""
    chart = YAML(typ="safe").load(CHART / "Chart.yaml")
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
    assert install({}).container["image"] == f"rowcast:{__version__}"


@pytest.mark.parametrize(
    "values",
    [
        {"database": {"secret": ""}}, {"replica": 2}, {"replicas": "two"}, {"config": {"../service.yaml": ""}}, {"config": {"/a": ""}},
        {"config": {"resources": {}}}, {"rootPath": "api"}, {"rootPath": "//evil"}, {"ingress": {"enabled": True}},
        {"stopping": {"drain": "5s"}}, {"env": {"A": 1}}, {"relay": "nats://bus"}, {"relay": {"secret": "a", "urlKey": ""}},
        {"edge": {"upstream": "api.example.com"}}, {"edge": {"upstream": "https://user@api.example.com"}}, {"edgeKey": {"key": ""}},
    ],
    ids=str,
)  # fmt: skip
def test_wrong_values_are_refused(values: dict[str, Any]) -> None:
    """Before anything is rendered, with the name of the value."""
    done = helm("template", "shop", str(CHART), values={**REQUIRED, **values})
    assert done.returncode != 0
    assert next(iter(values)) in done.stderr


def test_database_has_to_be_named() -> None:
    """There is no default that could be another database."""
    done = helm("template", "shop", str(CHART))
    assert done.returncode != 0
    assert "secret" in done.stderr


# --- what the pods are


@pytest.mark.parametrize("made", [install, lambda values: install(values).edges], ids=["service", "edges"])
@pytest.mark.parametrize("values", [FULL])
def test_pods_have_no_rights(values: dict[str, Any], made: Callable[[dict[str, Any]], Installation]) -> None:
    """Neither in their container nor in the cluster; the one writable folder is /tmp."""
    pod, container = made(values).pod, made(values).container
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 10001)
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")] == ["/tmp"]
    assert "10001" in (ROOT / "Dockerfile").read_text()


@pytest.mark.parametrize("stopping", [{}, {"shutdownDelay": 0, "drain": 0, "shutdownGrace": 0}, FULL["stopping"]])
def test_pods_have_the_time_that_they_need_to_stop(stopping: dict[str, int]) -> None:
    """The sum of the times that the service takes by its settings, and ten seconds."""
    made = install({"stopping": stopping, "edgeKey": {"secret": "k"}, "edge": {"enabled": True}})
    names = ("ROWCAST_SERVER_SHUTDOWN_DELAY", "ROWCAST_STREAM_DRAIN", "ROWCAST_SERVER_SHUTDOWN_GRACE")
    for pods in (made, made.edges):
        seconds = [int(pods.variables[name].removesuffix("s")) for name in names]
        assert pods.pod["terminationGracePeriodSeconds"] == sum(seconds) + 10


def test_budget_and_autoscaler_follow_the_number_of_pods() -> None:
    """A budget for one pod would keep its node from being drained; with an autoscaler the number is its own."""
    assert "PodDisruptionBudget" not in install({"replicas": 1}).manifests
    two = install({"replicas": 2}).manifests
    assert two["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    assert two["Deployment"]["spec"]["replicas"] == 2
    scaled = install({"replicas": 1, "autoscaling": {"enabled": True}}).manifests
    assert "PodDisruptionBudget" in scaled
    assert "replicas" not in scaled["Deployment"]["spec"]
    assert (
        scaled["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == scaled["Deployment"]["metadata"]["name"]
    )
    alone = install({"replicas": 5, "autoscaling": {"enabled": True, "minReplicas": 1}}).manifests
    assert "PodDisruptionBudget" not in alone
    edges = {"edgeKey": {"secret": "k"}, "edge": {"enabled": True, "replicas": 1}}
    assert "edge PodDisruptionBudget" not in install(edges).manifests
    assert install(FULL).manifests["edge PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    assert install(FULL).manifests["edge Deployment"]["spec"]["replicas"] == 4


@pytest.mark.parametrize("release", ["shop", "rowcast", "a" * 53])
def test_manifests_fit_together(release: str) -> None:
    """Selectors, names, ports and Secrets lead to what is there."""
    made = install(FULL, release=release)
    found, labels = made.manifests, made.manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    name = found["Service"]["metadata"]["name"]
    for selector in (
        found["Service"]["spec"]["selector"],
        found["Deployment"]["spec"]["selector"]["matchLabels"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    ports = {each["name"] for each in made.container["ports"]}
    assert [each["targetPort"] for each in found["Service"]["spec"]["ports"]] == ["http"]
    assert {made.container[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "liveness", "readiness")} <= ports
    (rule,) = found["Ingress"]["spec"]["rules"]
    assert rule["http"]["paths"][0]["backend"]["service"]["name"] == found["edge Service"]["metadata"]["name"]
    (rule,) = install({**FULL, "edge": {}}, release=release).manifests["Ingress"]["spec"]["rules"]
    assert rule["http"]["paths"][0]["backend"]["service"]["name"] == name
    hosts = made.variables["ROWCAST_SERVER_ALLOWED_HOSTS"].split(",")
    assert {"api.example.com", "shop.example.com", name, f"{name}.web.svc.cluster.local"} <= set(hosts)
    assert made.variables["DATABASE_URL"] == {"secretKeyRef": {"name": "shop-database", "key": "pooler"}}
    assert made.variables["ROWCAST_DATABASE_DIRECT_URL"] == {"secretKeyRef": {"name": "shop-database", "key": "direct"}}
    assert made.variables["ROWCAST_DATABASE_REPLICAS"] == {"secretKeyRef": {"name": "shop-database", "key": "replicas"}}
    assert made.variables["ROWCAST_STREAM_RELAY"] == {"secretKeyRef": {"name": "shop-bus", "key": "nats"}}
    assert install({}).variables.keys().isdisjoint({"ROWCAST_DATABASE_REPLICAS", "ROWCAST_STREAM_RELAY"})
    sources = next(each["projected"]["sources"] for each in made.pod["volumes"] if each["name"] == "secrets")
    assert [each["secret"]["name"] for each in sources] == ["keys", "more-keys"]


@pytest.mark.parametrize("release", ["shop", "a" * 53])
def test_edges_fit_their_origin(release: str) -> None:
    """Their Service and budget have their pods alone, and they reach the service with the key, the bus and the config that it has."""
    made = install(FULL, release=release)
    found, edges = made.manifests, made.edges
    labels = found["edge Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        found["edge Service"]["spec"]["selector"],
        found["edge Deployment"]["spec"]["selector"]["matchLabels"],
        found["edge PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
        assert not selector.items() <= found["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    assert not found["Service"]["spec"]["selector"].items() <= labels.items()
    service = found["Service"]
    port = service["spec"]["ports"][0]["port"]
    assert edges.variables["ROWCAST_UPSTREAM"] == f"http://{service['metadata']['name']}:{port}"
    for name in ("ROWCAST_STREAM_EDGE_KEY", "ROWCAST_STREAM_RELAY", "ROWCAST_SERVER_ALLOWED_HOSTS", "ROWCAST_CONFIG"):
        assert edges.variables[name] == made.variables[name], name
    assert edges.variables["ROWCAST_STREAM_EDGE_KEY"] == {"secretKeyRef": {"name": "shop-edges", "key": "key"}}
    assert edges.pod["volumes"] == made.pod["volumes"]
    assert found["edge Service"]["metadata"]["name"] in edges.variables["ROWCAST_SERVER_ALLOWED_HOSTS"].split(",")
    trusted = [each.variables["ROWCAST_SERVER_TRUSTED_PROXIES"] for each in (edges, made)]
    assert trusted == ["1", "2"]
    assert edges.container["args"][0] == "edge"
    assert not any("DATABASE" in name for name in edges.variables)
    assert "--migrate" not in install({**FULL, "migrate": True}).edges.container["args"]


def test_edges_of_an_origin_elsewhere_are_alone() -> None:
    """Without a database and without the service; the Ingress leads to them."""
    made = install({**ELSEWHERE, "ingress": {"enabled": True, "host": "eu.example.com"}})
    assert made.manifests.keys() == {"edge Deployment", "edge Service", "edge PodDisruptionBudget", "Ingress"}
    assert made.edges.variables["ROWCAST_UPSTREAM"] == "https://api.example.com/shop"
    (rule,) = made.manifests["Ingress"]["spec"]["rules"]
    service = rule["http"]["paths"][0]["backend"]["service"]["name"]
    assert service == made.manifests["edge Service"]["metadata"]["name"]


def test_edges_need_their_key() -> None:
    """Before anything is rendered, with the name of the value."""
    done = helm("template", "shop", str(CHART), values={**REQUIRED, "edge": {"enabled": True}})
    assert done.returncode != 0
    assert "edgeKey.secret" in done.stderr


def test_another_config_makes_new_pods() -> None:
    """And the same one does not."""

    def annotation(values: dict[str, Any]) -> str:
        found = install(values).manifests["Deployment"]["spec"]["template"]["metadata"]["annotations"]
        return str(found["rowcast/config"])

    assert annotation(FULL) == annotation({**FULL, "replicas": 9})
    assert annotation(FULL) != annotation({**FULL, "config": {**FULL["config"], "service.yaml": ""}})


# --- what a pod runs


def mount_config(made: Installation, directory: Path) -> None:
    """The ConfigMap as a volume, with the links that Kubernetes makes."""
    volume = next(each["configMap"] for each in made.pod["volumes"] if each["name"] == "config")
    assert volume["name"] == made.manifests["ConfigMap"]["metadata"]["name"]
    data = directory / "..2026_11_29"
    for item in volume["items"]:
        (data / item["path"]).parent.mkdir(parents=True, exist_ok=True)
        (data / item["path"]).write_text(made.manifests["ConfigMap"]["data"][item["key"]])
    (directory / "..data").symlink_to(data.name)
    for top in {item["path"].partition("/")[0] for item in volume["items"]}:
        (directory / top).symlink_to(f"..data/{top}")


@asynccontextmanager
async def running(made: Installation, config: Path, **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The container's own command with its variables and its config; ``variables`` are those that only a test can have."""
    own = {name: value for name, value in made.variables.items() if isinstance(value, str)}
    assert own["ROWCAST_CONFIG"] == next(
        mount["mountPath"] for mount in made.container["volumeMounts"] if mount["name"] == "config"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "rowcast", *made.container["args"], cwd=config.parent,
        env={**os.environ, **own, "ROWCAST_CONFIG": str(config), "ROWCAST_DATA": str(config.parent), **variables},
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def address(made: Installation, probe: str) -> str:
    """Where a probe of the container asks."""
    ports = {each["name"]: each["containerPort"] for each in made.container["ports"]}
    where = made.container[f"{probe}Probe"]["httpGet"]
    return f"http://127.0.0.1:{ports[where['port']]}{where['path']}"


async def until_ready(client: ClientSession, made: Installation) -> None:
    """Wait until the probe says that a container is ready."""

    async def ready() -> bool:
        try:
            return (await client.get(address(made, "readiness"))).status == 200
        except OSError:
            return False

    await until(ready)


async def stop(client: ClientSession, made: Installation, process: asyncio.subprocess.Process) -> None:
    """Stop a container as Kubernetes does: it is not ready at first, and has ended by itself within its time."""
    process.send_signal(signal.SIGTERM)

    async def stopping() -> bool:
        return (await client.get(address(made, "readiness"))).status == 503

    await until(stopping)
    async with asyncio.timeout(made.pod["terminationGracePeriodSeconds"]):
        assert await process.wait() == 0


async def test_the_pods_answer_their_probes_and_stop_in_time(database_url: str, tmp_path: Path) -> None:
    """Those of the service and of its edges, with their own commands and variables, and the config as a volume."""
    values = {**FULL, "migrate": True, "workers": 1, "stopping": {"shutdownDelay": 1, "drain": 1, "shutdownGrace": 1}}
    made, edges = (
        install(
            {**values, "ports": {"http": free_port(), "admin": free_port()}, "env": {"ROWCAST_LOG_ACCESS": "errors"}}
        )
        for _ in range(2)
    )
    edges = edges.edges
    directory = tmp_path / "config"
    directory.mkdir()
    mount_config(made, directory)
    key = {"ROWCAST_STREAM_EDGE_KEY": "a key for the edges of this test"}
    port = made.container["ports"][0]["containerPort"]
    upstream = {"ROWCAST_UPSTREAM": f"http://127.0.0.1:{port}"}
    hosts = made.variables["ROWCAST_SERVER_ALLOWED_HOSTS"]
    host = hosts.partition(",")[0]
    reached = {"ROWCAST_SERVER_ALLOWED_HOSTS": f"{hosts},127.0.0.1"}  # where the Service would be
    async with (
        ClientSession() as client,
        running(made, directory, DATABASE_URL=database_url, **key, **reached) as service,
        running(edges, directory, **key, **upstream) as edge,
    ):
        await until_ready(client, made)
        await until_ready(client, edges)
        for each in (made, edges):
            assert (await client.get(address(each, "liveness"))).status == 200
            own = {"Host": host}
            books = await client.get(f"http://127.0.0.1:{each.container['ports'][0]['containerPort']}/", headers=own)
            assert (await books.json())["books"] == f"http://{host}/api/books/"
        await stop(client, edges, edge)
        await stop(client, made, service)
