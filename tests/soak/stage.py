"""Everything that is on: PostgreSQL with a standby, pgbouncer, NATS, two services and HAProxy; and what may be killed of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Final

import aiohttp
import asyncpg
from bench.rollout import proxied

from rowcast.database.embedded import EmbeddedPostgres
from tests.conftest import write_config
from tests.databases import SETTINGS, fast_directory
from tests.faults.clients import RESOURCES
from tests.operate.relays import BusServer, Node
from tests.pgbouncer import PgBouncer
from tests.programs import Program, find
from tests.standbys import Standby
from tests.tls import free_port
from tests.waiting import until

PRIMARY: Final = {
    **SETTINGS,
    "synchronous_commit": "on",  # what was answered is there after a crash
    "wal_keep_size": "256MB",  # for a standby that was away
    "shared_preload_libraries": "pg_stat_statements",
}
ROLE: Final = "load"  # of the soak's own statements, which do not count as the service's
READY_SECONDS: Final = 60.0
JOURNAL: Final = """
CREATE EXTENSION pg_stat_statements;
CREATE SCHEMA soak;
CREATE TABLE soak.journal (n bigserial PRIMARY KEY, id integer NOT NULL, text text, done boolean, owner_id integer);
CREATE FUNCTION soak.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF tg_op = 'DELETE' THEN
        INSERT INTO soak.journal (id) VALUES (old.id);
    ELSIF tg_op = 'INSERT' OR new IS DISTINCT FROM old THEN
        INSERT INTO soak.journal (id, text, done, owner_id) VALUES (new.id, new.text, new.done, new.owner_id);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON notes FOR EACH ROW EXECUTE FUNCTION soak.note();
INSERT INTO owners (id, name) VALUES (1, 'o'), (2, 'o');
ALTER TABLE notes ALTER COLUMN id RESTART WITH 100000; -- the writers by SQL have those below
"""
BACKENDS: Final = """
SELECT pid, application_name FROM pg_stat_activity
WHERE usename = 'postgres' AND backend_type = 'client backend' AND datname = current_database() ORDER BY pid"""
MISSING: Final = MappingProxyType({"nats-server": "nats-server", "haproxy": "haproxy", "pgbouncer": "pgbouncer"})


def missing() -> str | None:
    """What has to be installed first, in a line; ``None`` if everything is there."""
    packages = [package for program, package in MISSING.items() if find(program) is None]
    if packages:
        return f"soak: needs {', '.join(packages)}: apt-get install {' '.join(packages)}"
    return None if find_spec("nats") else "soak: needs the client of NATS: pip install 'rowcast[nats]'"


class HaProxy(Program):
    """The proxy of docs/deploy.md in front of services, without TLS."""

    def __init__(self, directory: Path, services: list[int]) -> None:
        super().__init__(free_port(), directory)
        self._file = directory / "haproxy.cfg"
        self._file.write_text(proxied(services, self.port))

    def make_url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def command(self) -> Sequence[str]:
        program = find("haproxy")
        assert program is not None
        return [program, "-f", str(self._file)]


class Stage:
    """What runs. ``away`` is for how many seconds at most something that was killed stays away."""

    def __init__(self, directory: Path, primary: EmbeddedPostgres, chance: Random, away: float) -> None:
        self.directory = directory
        self.primary = primary
        self.url = primary.url.replace("postgres@", f"{ROLE}@")
        self._chance = chance
        self._away = away
        self.standby = Standby(primary.url, directory / "standby")
        self.pooler = PgBouncer(primary.url, further="stats_period = 10")
        self.bus = BusServer("nats", directory)
        ports = [free_port(), free_port()]
        self.proxy = HaProxy(directory, ports)
        options = [("--port", str(port)) for port in ports]
        url = self.pooler.url(primary.url)
        self.services = [
            Node(directory / "config", url, *option, errors=directory / f"service{number}.log")
            for number, option in enumerate(options, 1)
        ]

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, chance: Random, away: float, keep: Path | None) -> AsyncIterator[Stage]:
        """Start everything. In the end the logs are copied to ``keep``."""
        # named so that a later run of tests removes what one leaves that was killed
        directory = Path(tempfile.mkdtemp(prefix=f"rowcast-tests-{os.getpid()}-", dir=fast_directory()))
        primary = EmbeddedPostgres(directory / "primary", settings=PRIMARY)
        try:
            await asyncio.to_thread(primary.start)
            stage = cls(directory, primary, chance, away)
            try:
                await stage._start()
                yield stage
            finally:
                await stage._stop()
                if keep is not None:
                    stage._copy_logs(keep)
                shutil.rmtree(stage.pooler.directory, ignore_errors=True)
        finally:
            await asyncio.to_thread(primary.stop)
            shutil.rmtree(directory, ignore_errors=True)

    async def _start(self) -> None:
        sql = await asyncpg.connect(self.primary.url)
        await sql.execute(f"CREATE ROLE {ROLE} LOGIN SUPERUSER")
        await self._start_standby()
        await self.pooler.start()
        await self.bus.start()
        write_config(self.directory / "config", RESOURCES, self._settings())
        for number, service in enumerate(self.services):
            await service.start(ROWCAST_DATA=str(self.directory / f"data{number}"), OTEL_SDK_DISABLED="true")
        await sql.execute(JOURNAL)
        await sql.close()
        await self.proxy.start()
        await self.ready()

    def _settings(self) -> str:
        return json.dumps(
            {
                "server": {
                    "trusted_proxies": 1, "allowed_hosts": ["*"], "shutdown_delay": "3s", "idempotency_retention": "3m",
                },
                "database": {
                    "direct_url": self.primary.url, "prepared_statements": False,
                    "replicas": [self.standby.server.url], "replica_max_lag": "5s",
                },
                "stream": {"relay": self.bus.url, "retention": "2m", "drain": "2s"},
                "log": {"access": "errors"},
            }
        )  # fmt: skip

    async def _stop(self) -> None:
        self.proxy.kill()
        for service in self.services:
            await service.kill()
        self.bus.kill()
        self.pooler.kill()
        await asyncio.to_thread(self.standby.server.stop)

    def _copy_logs(self, keep: Path) -> None:
        keep.mkdir(parents=True, exist_ok=True)
        for file in (*self.directory.glob("*.log"), *self.directory.glob("*/server.log*")):
            shutil.copy(file, keep / "-".join(file.relative_to(self.directory).parts))
        shutil.copy(self.pooler.directory / "log", keep / "pgbouncer.log")

    async def ready(self) -> None:
        """Wait until both services are ready, and the standby has what has been committed."""
        async with aiohttp.ClientSession() as session:

            async def healthy(service: Node) -> bool:
                try:
                    async with session.get(service.make_url("/health/ready")) as response:
                        return response.status == 200
                except aiohttp.ClientError:
                    return False

            for service in self.services:
                await until(lambda service=service: healthy(service), READY_SECONDS)  # type: ignore[misc]
        await self.replayed()

    async def replayed(self) -> None:
        """Wait until the standby has what has been committed."""
        async with self.connected() as sql, self.connected(self.standby.server.url) as standby:
            end = await sql.fetchval("SELECT pg_current_wal_flush_lsn()")
            await until(lambda: standby.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn", end), READY_SECONDS)

    @contextlib.asynccontextmanager
    async def connected(self, url: str = "") -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(url or self.url)
        try:
            yield connection
        finally:
            connection.terminate()

    async def _start_standby(self) -> None:
        connection = await self.standby.start()
        await connection.close()

    # what is killed; each returns when it runs again

    async def strike(self, name: str) -> str:
        """Kill something by its name in ``KILLS``, start it again, and return what it was."""
        return await KILLS[name](self) or name

    async def _wait(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, self._away))

    async def kill_service(self) -> str:
        number = self._chance.randrange(2)
        await self.services[number].kill()
        await self._wait()
        await self.services[number].start()
        return f"service {number + 1}, SIGKILL"

    async def stop_service(self) -> str:
        number = self._chance.randrange(2)
        os.kill(self.services[number].pid, signal.SIGTERM)
        code = await self.services[number].ended()
        assert code == 0, f"service {number + 1} has ended with {code} after SIGTERM"
        await self._wait()
        await self.services[number].start()
        return f"service {number + 1}, SIGTERM"

    async def kill_bus(self) -> None:
        self.bus.kill()
        await self._wait()
        await self.bus.start()

    async def kill_pooler(self) -> None:
        self.pooler.kill()
        await self._wait()
        await self.pooler.start()

    async def kill_proxy(self) -> None:
        self.proxy.kill()
        await self._wait()
        await self.proxy.start()

    async def kill_standby(self) -> None:
        os.kill(self.standby.server.pid, signal.SIGQUIT)
        await asyncio.to_thread(self.standby.server.stop)
        await self._wait()
        await self._start_standby()

    async def kill_backend(self) -> str:
        async with self.connected() as sql:
            pid, name = self._chance.choice(await sql.fetch(BACKENDS))
            await sql.execute("SELECT pg_terminate_backend($1)", pid)
        return f"a backend ({name or 'without a name'})"

    async def kill_receiver(self) -> None:
        async with self.connected(self.standby.server.url) as standby:
            query = "SELECT pid FROM pg_stat_wal_receiver"

            async def following() -> bool:
                return await standby.fetchval(query) is not None

            await until(following, READY_SECONDS)
            os.kill(await standby.fetchval(query), signal.SIGTERM)

    async def kill_primary(self) -> str:
        how = self._chance.choice([signal.SIGINT, signal.SIGQUIT])
        os.kill(self.primary.pid, how)
        await asyncio.to_thread(self._restart_primary)
        return f"the primary, {how.name}"

    def _restart_primary(self) -> None:
        self.primary.stop()
        self.primary.start()


KILLS: Final[Mapping[str, Callable[[Stage], Awaitable[str | None]]]] = {
    "service, SIGKILL": Stage.kill_service,
    "service, SIGTERM": Stage.stop_service,
    "NATS": Stage.kill_bus,
    "pgbouncer": Stage.kill_pooler,
    "HAProxy": Stage.kill_proxy,
    "the standby": Stage.kill_standby,
    "a backend": Stage.kill_backend,
    "the walreceiver": Stage.kill_receiver,
    "the primary": Stage.kill_primary,
}
ONCE: Final = "the primary"


def plan(chance: Random, rounds: int) -> Iterator[str]:
    """What is killed in each round: all kinds in a new order again and again, and the primary once."""
    once = chance.randrange(rounds)
    bag: list[str] = []
    for number in range(rounds):
        if number == once:
            yield ONCE
            continue
        if not bag:
            bag = [name for name in KILLS if name != ONCE]
            chance.shuffle(bag)
        yield bag.pop()
