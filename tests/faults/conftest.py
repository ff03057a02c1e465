"""A PostgreSQL that tests may restart, a fresh database for each, and processes of the service on it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import pytest

from rowcast.database.embedded import EmbeddedPostgres
from tests.conftest import configure
from tests.databases import Databases, databases_of, needs_embedded_server, temporary_server
from tests.pgbouncer import Poolers
from tests.spans import spans

from .clients import RESOURCES, Client
from .pairs import copies, pair, servers
from .processes import Server

__all__ = ["copies", "pair", "servers", "spans"]

Open = Callable[..., Awaitable[Client]]
Run = Callable[..., Awaitable[Server]]


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """The server of these tests."""
    needs_embedded_server()
    with temporary_server({"log_min_messages": "fatal"}) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(postgres: EmbeddedPostgres) -> str:
    return postgres.url


@pytest.fixture(scope="session")
def databases(postgres_url: str) -> Iterator[Databases]:
    """The databases of that server."""
    with databases_of(postgres_url) as databases:
        yield databases


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
async def run(database_url: str, tmp_path: Path, poolers: Poolers | None) -> AsyncIterator[Run]:
    """Start a process of the service: ``server = await run()``; all of them end with the test."""
    servers: list[Server] = []

    async def start(
        url: str | None = None,
        service: str = "{}",
        *,
        migrate: bool = True,
        modules: Mapping[str, str] | None = None,
    ) -> Server:
        directory = tmp_path / f"process{len(servers)}"
        configure(directory, RESOURCES, service, modules)
        direct = url or database_url
        pooled = None if poolers is None else poolers.url(direct)
        variables = {"ROWCAST_DATABASE_DIRECT_URL": direct, "ROWCAST_DATABASE_PREPARED_STATEMENTS": "false"}
        servers.append(Server(directory, pooled or direct, migrate=migrate))
        await servers[-1].start(**(variables if pooled else {}))
        return servers[-1]

    yield start
    for server in servers:
        await server.kill()
