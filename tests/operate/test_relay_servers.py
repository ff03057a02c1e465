"""A relay over several servers: a NATS cluster that loses one, and Redis behind sentinels that make a replica the master."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from redis.asyncio import Redis

from rowcast.changes.bus import BusLost
from rowcast.changes.relay import open_bus
from tests.conftest import rowcast, write_config
from tests.faults.clients import RESOURCES, Client, assert_equal, writing
from tests.programs import Program
from tests.tls import free_port, write_certificate
from tests.waiting import until

from .relays import PASSWORD, Node, find_program, relay_metrics, services, settled

NODES = 3
COMMITS = 150  # while a server is away
MASTER = "mymaster"
CREDENTIALS = f"rowcast:{quote(PASSWORD)}@"


class NatsServer(Program):
    """A server of a cluster; ``routes`` are the ports by which its servers find each other, its own first."""

    def __init__(self, directory: Path, routes: Sequence[int]) -> None:
        super().__init__(free_port(), directory)
        self._routes = routes

    def command(self) -> Sequence[str]:
        others = ",".join(f"nats://127.0.0.1:{port}" for port in self._routes[1:])
        return [
            find_program("nats"), "--addr", "127.0.0.1", "--port", str(self.port), "--user", "rowcast", "--pass", PASSWORD,
            "--cluster_name", "bus", "--cluster", f"nats://127.0.0.1:{self._routes[0]}", "--routes", others,
        ]  # fmt: skip


class RedisServer(Program):
    """A server that a user with a password may use, or a replica of another one."""

    def __init__(self, directory: Path, master: Program | None = None) -> None:
        super().__init__(free_port(), directory)
        self._master = master

    def command(self) -> Sequence[str]:
        follow = [] if self._master is None else ["--replicaof", "127.0.0.1", str(self._master.port)]
        return [
            find_program("redis"), "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--repl-diskless-sync-delay", "0",
            "--user", "rowcast", "on", "+@all", "&*", f">{PASSWORD}", *follow,
        ]  # fmt: skip


class Sentinel(Program):
    """A sentinel of a master, which only lets in who has a password."""

    def __init__(self, directory: Path, master: Program) -> None:
        super().__init__(free_port(), directory)
        self._file = directory / f"sentinel{self.port}.conf"
        self._file.write_text(
            f"""bind 127.0.0.1
port {self.port}
user default off
user rowcast on +@all &* >{PASSWORD}
sentinel sentinel-user rowcast
sentinel sentinel-pass {PASSWORD}
sentinel monitor {MASTER} 127.0.0.1 {master.port} 2
sentinel down-after-milliseconds {MASTER} 500
sentinel failover-timeout {MASTER} 2000
"""
        )

    def command(self) -> Sequence[str]:
        return [find_program("redis"), str(self._file), "--sentinel"]

    async def can_fail_over(self) -> bool:
        """Whether it knows a replica and another sentinel. It looks for replicas every ten seconds, and for no others once the master is away."""
        client: Any = Redis(host="127.0.0.1", port=self.port, username="rowcast", password=PASSWORD)
        async with client:
            return all([await client.execute_command("SENTINEL", kind, MASTER) for kind in ("REPLICAS", "SENTINELS")])


@contextlib.asynccontextmanager
async def running(*programs: Program) -> AsyncIterator[None]:
    """Inside, all of them run."""
    try:
        for program in programs:
            await program.start()
        yield
    finally:
        for program in programs:
            program.kill()


@contextlib.asynccontextmanager
async def watching(directory: Path, url: str, relay: str) -> AsyncIterator[tuple[list[Node], list[Client]]]:
    """Processes of the service that are fed, and a client of each."""
    async with services(directory, url, NODES, relay) as servers, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client([server])) for server in servers]
        for client in clients:
            await client.ready()
        await settled(servers)
        yield servers, clients


async def fed_again(servers: Sequence[Node], url: str) -> None:
    """Wait until changes that are made from now on reach all nodes but one over the bus."""
    before = [await relay_metrics(server) for server in servers]

    async def fed() -> bool:
        async with writing(url) as writers:
            await writers.more(10)
        now = [await relay_metrics(server) for server in servers]
        ways = [(each["relay_connected"], each["feed_fed"]) for each in now]
        more = sum(
            each["relay_received_total"] > earlier["relay_received_total"] + 20
            for each, earlier in zip(now, before, strict=True)
        )
        return sorted(ways) == [(1, 0), *[(1, 1)] * (NODES - 1)] and more >= NODES - 1

    await until(fed, 60)


async def test_a_nats_cluster_loses_a_server(database_url: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """The processes that were connected to it go on with the other one, and all of them hear each other again."""
    routes = free_port(), free_port()
    first, second = NatsServer(tmp_path, routes), NatsServer(tmp_path, routes[::-1])
    relay = f"nats://{CREDENTIALS}127.0.0.1:{first.port},127.0.0.1:{second.port}"
    async with running(first, second), watching(tmp_path, database_url, relay) as (servers, clients):
        for away in (first, second):
            async with writing(database_url) as writers:
                await writers.more(COMMITS // 3)
                away.kill()
                await writers.more(COMMITS)
            await fed_again(servers, database_url)
            await assert_equal(sql, *clients)
            await away.start()
            await settled(servers)
        assert [client.resets for client in clients] == [[]] * NODES


@pytest.mark.parametrize("hangs", [False, True])
async def test_sentinels_name_another_master(
    hangs: bool, database_url: str, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """When the master is killed or hangs, the processes find the new one, and no change is lost."""
    master = RedisServer(tmp_path)
    replica = RedisServer(tmp_path, master)
    sentinels = [Sentinel(tmp_path, master) for _ in range(2)]
    hosts = ",".join(f"127.0.0.1:{port}" for port in (free_port(), *(each.port for each in sentinels)))
    relay = f"redis+sentinel://{CREDENTIALS}{hosts}/{MASTER}"
    async with running(master, replica, *sentinels), watching(tmp_path, database_url, relay) as (servers, clients):
        for sentinel in sentinels:
            await until(sentinel.can_fail_over)
        async with writing(database_url) as writers:
            await writers.more(COMMITS // 3)
            if hangs:
                assert master._process is not None
                master._process.send_signal(signal.SIGSTOP)
            else:
                master.kill()
            await writers.more(COMMITS)
        await fed_again(servers, database_url)
        await assert_equal(sql, *clients)
        assert [client.resets for client in clients] == [[]] * NODES
        write_config(tmp_path / "checked", RESOURCES)
        _, found = rowcast(
            tmp_path, "doctor", "--config", str(tmp_path / "checked"), "--database-url", database_url,
            ROWCAST_STREAM_RELAY=relay,
        )  # fmt: skip
        assert f"messages of up to 1 MiB arrive over redis+sentinel://{hosts}/{MASTER}" in found


async def test_sentinels_that_do_not_help_are_reported(tmp_path: Path) -> None:
    """Each with its reason, and without a password."""
    master = RedisServer(tmp_path)
    sentinel = Sentinel(tmp_path, master)
    away = free_port()

    async def connect(url: str) -> None:
        async with open_bus(url).session("rowcast.x", lambda _: None, lambda: None):
            pass

    async with running(master, sentinel):
        hosts = f"127.0.0.1:{away},127.0.0.1:{sentinel.port}"
        for credentials, name, reason in (
            (CREDENTIALS, "other", f"127.0.0.1:{sentinel.port} knows no other"),
            ("", MASTER, f"127.0.0.1:{sentinel.port} asks for credentials"),
            ("rowcast:wrong@", MASTER, f"127.0.0.1:{sentinel.port} refuses these credentials"),
        ):
            with pytest.raises(BusLost, match=reason) as raised:
                await connect(f"redis+sentinel://{credentials}{hosts}/{name}")
            assert f"127.0.0.1:{away}: " in str(raised.value)
            assert PASSWORD not in str(raised.value)
        await asyncio.wait_for(connect(f"redis+sentinel://{CREDENTIALS}{hosts}/{MASTER}"), 20)


class TlsProgram(Program):
    """A Redis or a sentinel that is reached over TLS alone, with a file of its settings."""

    def __init__(self, directory: Path, settings: str, *options: str) -> None:
        super().__init__(free_port(), directory)
        self._options = options
        self._file = directory / f"{self.port}.conf"
        self._file.write_text(
            f"bind 127.0.0.1\nport 0\ntls-port {self.port}\ntls-cert-file cert.pem\ntls-key-file cert.key\n"
            f"tls-ca-cert-file cert.pem\ntls-auth-clients no\ntls-replication yes\n{settings}"
        )

    def command(self) -> Sequence[str]:
        return [find_program("redis"), str(self._file), *self._options]


async def test_sentinels_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificates of the sentinel and of the master are checked, for the name by which the sentinel knows the master."""
    write_certificate(tmp_path, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    master = TlsProgram(tmp_path, 'save ""\n')

    async def connect(names: str, host: str) -> None:
        settings = f"sentinel resolve-hostnames yes\nsentinel announce-hostnames {names}\n"
        sentinel = TlsProgram(
            tmp_path, f"{settings}sentinel monitor {MASTER} localhost {master.port} 1\n", "--sentinel"
        )
        async with running(sentinel):
            url = f"rediss+sentinel://{host}:{sentinel.port}/{MASTER}"
            async with open_bus(url).session("rowcast.x", lambda _: None, lambda: None) as session:
                await session.publish(b"x")

    async with running(master):
        await connect("yes", "localhost")
        for names, host in (("no", "localhost"), ("yes", "127.0.0.1")):
            with pytest.raises(BusLost, match="IP address mismatch"):
                await connect(names, host)
