"""A PostgreSQL for these tests, and a new database for each test."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from rowcast.changes.install import install
from rowcast.changes.trigger_sync import sync_triggers
from rowcast.database.embedded import EmbeddedPostgres
from rowcast.resources.tables import Tables

from ..databases import EXTERNAL_URL, Databases, databases_of, needs_embedded_server, temporary_server
from .watching import SESSION, Database, create, resources


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A server of these tests' own, which they may restart."""
    needs_embedded_server()
    with temporary_server({"max_prepared_transactions": "10"}) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest) -> str:
    server: EmbeddedPostgres | None = None if EXTERNAL_URL else request.getfixturevalue("postgres")
    return server.url if server else EXTERNAL_URL


@pytest.fixture(scope="session")
def databases(postgres_url: str) -> Iterator[Databases]:
    """The databases of that server."""
    with databases_of(postgres_url) as databases:
        yield databases


@pytest.fixture(scope="session")
def tables() -> Tables:
    return Tables(resources())


@pytest.fixture
async def template(databases: Databases, tables: Tables) -> str:
    """The name of a database with the log installed and the resources' tables logged."""

    async def fill(url: str) -> None:
        connection = await asyncpg.connect(url, server_settings=SESSION)
        await install(connection)
        await create(connection, tables)
        await sync_triggers(connection, tables)
        await connection.close()

    return await databases.template("changes", fill)


@pytest.fixture
async def database(databases: Databases, template: str) -> AsyncIterator[Database]:
    """A new database from the template, without a ticker."""
    url = await databases.create(template)
    database = Database(url, urlsplit(url).path[1:])
    yield database
    await database.close()
    with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        await databases.drop(url)
