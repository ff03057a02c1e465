"""A PostgreSQL of the tests' own, and a fresh database a test."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from rowcast.changes import log, triggers
from rowcast.database.embedded import EmbeddedPostgres
from rowcast.resources.tables import Tables

from .watching import SESSION, Database, create, resources

SETTINGS = {"fsync": "off", "max_connections": "200", "max_prepared_transactions": "10"}


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A server of this session's own."""
    server = EmbeddedPostgres(Path(tmp_path_factory.mktemp("postgres")) / "data", settings=SETTINGS)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_url(postgres: EmbeddedPostgres) -> str:
    return postgres.url


@pytest.fixture(scope="session")
def tables() -> Tables:
    return Tables(resources())


@pytest.fixture(scope="session")
def template(postgres_url: str, tables: Tables) -> str:
    """The name of a database with the log installed and the resources' tables logged."""

    async def make() -> None:
        connection = await asyncpg.connect(postgres_url)
        await connection.execute("CREATE DATABASE changes_template")
        await connection.close()
        connection = await asyncpg.connect(postgres_url, database="changes_template", server_settings=SESSION)
        await log.install(connection)
        await create(connection, tables)
        await triggers.sync_triggers(connection, tables)
        await connection.close()

    asyncio.run(make())
    return "changes_template"


@pytest.fixture
async def database(postgres_url: str, template: str) -> AsyncIterator[Database]:
    """A fresh database from the template, without a ticker."""
    name = f"t_{uuid.uuid4().hex}"
    admin = await asyncpg.connect(postgres_url)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    database = Database(postgres_url, name)
    yield database
    await database.close()
    with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        if admin.is_closed():
            admin = await asyncpg.connect(postgres_url)
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()
