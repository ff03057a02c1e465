"""What tests stand on: one PostgreSQL for the run, a fresh database for each test, and the service on it."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from rowcast.configuration.load import Configuration, load
from rowcast.database.embedded import EmbeddedPostgres
from rowcast.server.app import STARTED, create_app

ROOT = Path(__file__).parent.parent
DEMO = ("categories", "comments", "tags", "tasks")  # whoever follows the README has others beside them
Client = TestClient[web.Request, web.Application]
Serve = Callable[..., Awaitable[Client]]

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of an empty database on the run's own server."""
    directory = Path(tempfile.mkdtemp(prefix="rowcast-tests-"))
    settings = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200"}
    try:
        with EmbeddedPostgres(directory / "data", settings=settings) as server:
            yield server.url
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def at_database(url: str, name: str) -> str:
    """The URL of another database on the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


@pytest.fixture(scope="session")
def template() -> str:
    """The name of the database that the tests' databases are copies of: an empty one, unless a directory has its own."""
    return "template1"


@pytest.fixture
async def database_url(postgres_url: str, template: str) -> AsyncIterator[str]:
    """The URL of a new database, gone after the test."""
    name = f"test_{next(_numbers)}"
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield at_database(postgres_url, name)
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the test's database, as psql would have."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


def configure(
    directory: Path,
    resources: dict[str, str],
    service: str = "{}",
    modules: Mapping[str, str] | None = None,
    **overrides: object,
) -> Configuration:
    """The configuration of some YAML texts by resource name and Python modules by name, written to a directory."""
    (directory / "resources").mkdir(parents=True, exist_ok=True)
    (directory / "service.yaml").write_text(service)
    for name, text in (modules or {}).items():
        (directory / f"{name}.py").write_text(text)
    for name, text in resources.items():
        (directory / "resources" / f"{name}.yaml").write_text(text)
    return load(directory, environ={}, overrides=overrides)


def rowcast(directory: Path, *arguments: str) -> tuple[int, str]:
    """The exit code and the output of a command, errors included."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ROWCAST", "DATABASE"))}
    command = [sys.executable, "-m", "rowcast", *arguments, "--config", str(directory / "config")]
    done = subprocess.run(
        command, cwd=ROOT, env={**environment, "ROWCAST_DATA": str(directory / "data")}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.strip()


@pytest.fixture
async def serve(database_url: str, tmp_path: Path) -> AsyncIterator[Serve]:
    """Start the service on the test's database: ``client = await serve({"tasks": "fields: …"})``.

    Without resources it is the demo configuration. Several services may share the database, as replicas do.
    """
    clients: list[Client] = []

    async def start(
        resources: dict[str, str] | None = None,
        service: str = "{}",
        url: str | None = None,
        modules: Mapping[str, str] | None = None,
    ) -> Client:
        if resources is None:
            configuration = load(ROOT / "config", environ={})
        else:
            configuration = configure(tmp_path / f"config{len(clients)}", resources, service, modules)
        app = create_app(configuration, url or database_url, migrate=True)
        client = TestClient(TestServer(app))
        await client.start_server()
        clients.append(client)
        async with asyncio.timeout(30):
            await asyncio.shield(app[STARTED])
        return client

    yield start
    for client in clients:
        await client.close()
