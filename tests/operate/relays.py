"""Servers of message buses, and processes of the service that share their changes over them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import write_config
from tests.faults.clients import RESOURCES
from tests.faults.processes import Server
from tests.programs import Program, find
from tests.tls import free_port
from tests.waiting import until

PASSWORD = "secret@bus"
NEEDS = {  # of a kind of URL: the program, the module, and how to start the program
    "nats": ("nats-server", "nats", "--addr 127.0.0.1 --port {port} --user rowcast --pass {password}"),
    "tls": (
        "nats-server",
        "nats",
        "--addr 127.0.0.1 --port {port} --user rowcast --pass {password} --tls --tlscert cert.pem --tlskey cert.key",
    ),
    "rediss": (
        "redis-server",
        "redis",
        "--bind 127.0.0.1 --port 0 --tls-port {port} --tls-cert-file cert.pem --tls-key-file cert.key --tls-auth-clients no"
        " --save --appendonly no --user rowcast on +@all &rowcast.* >{password}",
    ),
    "redis": (
        "redis-server",
        "redis",
        "--bind 127.0.0.1 --port {port} --save --appendonly no --user rowcast on +@all &rowcast.* >{password}",
    ),
}


class BusServer(Program):
    """The server of a bus."""

    def __init__(self, kind: str, directory: Path) -> None:
        super().__init__(free_port(), directory)
        self.place = f"{kind}://127.0.0.1:{self.port}"
        self.kind = kind
        self.url = f"{kind}://rowcast:{PASSWORD.replace('@', '%40')}@127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        return [find_program(self.kind), *NEEDS[self.kind][2].format(port=self.port, password=PASSWORD).split()]


class Node(Server):
    """A process of the service with metrics at ``admin``, about which it prints a line first."""

    async def start(self, **variables: str) -> None:
        self.admin = f"127.0.0.1:{free_port()}"
        await self.launch(ROWCAST_SERVER_ADMIN=self.admin, **variables)
        for _ in range(2):
            await self.ready()


def find_program(kind: str) -> str:
    program, module, _ = NEEDS[kind]
    path = find(program)
    if path is None:
        pytest.skip(f"needs {program}")
    if find_spec(module) is None:
        pytest.skip(f"needs rowcast[{kind}]")
    return path


@contextlib.asynccontextmanager
async def services(directory: Path, url: str, number: int, relay: str | None) -> AsyncIterator[list[Node]]:
    """So many processes of the service on a database, all of them ready."""
    write_config(directory / "config", RESOURCES)
    relayed = {} if relay is None else {"ROWCAST_STREAM_RELAY": relay}
    servers = [Node(directory / "config", url, migrate=not i) for i in range(number)]
    try:
        for i, server in enumerate(servers):
            await server.start(ROWCAST_DATA=str(directory / f"data{i}"), **relayed)
        yield servers
    finally:
        for server in servers:
            await server.kill()


async def relay_metrics(server: Node) -> dict[str, float]:
    """The metrics of a process about the relay, without their labels."""
    async with aiohttp.ClientSession() as session, session.get(f"http://{server.admin}/metrics") as response:
        lines = re.findall(r"^rowcast_((?:relay|feed)_\w+)(\{.*\})? ([0-9.e+]+)$", await response.text(), re.MULTILINE)
    found: dict[str, float] = {}
    for name, _, value in lines:
        found[name] = found.get(name, 0) + float(value)
    return found


async def settled(servers: Sequence[Node]) -> None:
    """Wait until all nodes but the leader are fed."""

    async def fed() -> bool:
        return sum([(await relay_metrics(server))["feed_fed"] for server in servers]) == len(servers) - 1

    await until(fed)
