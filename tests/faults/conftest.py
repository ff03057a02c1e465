"""A PostgreSQL that tests may restart, a fresh database for each, and processes of the service on it."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from rowcast.database.embedded import EmbeddedPostgres
from tests.conftest import at_database, configure

from .clients import RESOURCES, Client
from .processes import Server

SETTINGS = {"fsync": "off", "max_connections": "200", "log_min_messages": "fatal"}
Open = Callable[..., Awaitable[Client]]
Run = Callable[..., Awaitable[Server]]

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """The server of these tests."""
    with EmbeddedPostgres(Path(tmp_path_factory.mktemp("postgres")) / "data", settings=SETTINGS) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(postgres: EmbeddedPostgres) -> str:
    return postgres.url


@pytest.fixture
async def database_url(postgres_url: str) -> AsyncIterator[str]:
    """The URL of a new, empty database, gone after the test, which may have restarted the server."""
    name = f"faults_{next(_numbers)}"
    admin = await asyncpg.connect(postgres_url)
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    yield at_database(postgres_url, name)
    admin = await asyncpg.connect(postgres_url)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def open_client() -> AsyncIterator[Open]:
    """Open a client that lists and watches: ``client = await open_client(server, …, query="done=true")``."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_(*servers: object, query: str = "") -> Client:
            client = await stack.enter_async_context(Client(servers, query))
            await client.ready()
            return client

        yield open_


@pytest.fixture
async def run(database_url: str, tmp_path: Path) -> AsyncIterator[Run]:
    """Start a process of the service: ``server = await run()``; all of them end with the test."""
    servers: list[Server] = []

    async def start(url: str | None = None, service: str = "{}", *, migrate: bool = True) -> Server:
        directory = tmp_path / f"process{len(servers)}"
        configure(directory, RESOURCES, service)
        servers.append(Server(directory, url or database_url, migrate=migrate))
        await servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        await server.kill()
