"""The fixtures of ``rowcast.testing``. They import the service when a test uses them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from rowcast.testing import CONFIG_OPTION

if TYPE_CHECKING:
    import asyncpg

    from rowcast.configuration.load import Configuration
    from rowcast.testing.client import Client
    from rowcast.testing.databases import Databases
    from rowcast.testing.factories import Factory

DATABASE_VARIABLES = ("DATABASE_URL", "ROWCAST_DATABASE_URL")  # of the database of development, which no test uses


@pytest.fixture(scope="session")
def rowcast_config(pytestconfig: pytest.Config) -> Configuration:
    """The configuration that is served: that of ``config``, or of the directory that ``rowcast_config`` names."""
    from rowcast.configuration.load import load
    from rowcast.errors import ConfigurationError

    base = pytestconfig.rootpath if pytestconfig.inipath is None else pytestconfig.inipath.parent
    environ = {name: value for name, value in os.environ.items() if name not in DATABASE_VARIABLES}
    try:  # no test needs a secret, unless Python of the project reads it
        directory = base / (pytestconfig.getini(CONFIG_OPTION) or "config")
        return load(directory, environ=environ, overrides={"database.replicas": ""}, sections=())
    except ConfigurationError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def rowcast_server(rowcast_config: Configuration) -> Iterator[Databases]:
    """The databases of the server that the tests use: ``ROWCAST_TEST_DATABASE_URL``, or an embedded one of their own."""
    import structlog

    from rowcast.database.embedded import EmbeddedPostgresError
    from rowcast.testing.databases import EXTERNAL_URL, Databases, temporary_server

    if not structlog.is_configured():  # tracebacks with local variables take a second each
        plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        structlog.configure(processors=[structlog.processors.add_log_level, plain])
    if EXTERNAL_URL:
        databases = Databases(EXTERNAL_URL)
        yield databases
        _run(databases.drop_templates())
        return
    try:
        with temporary_server({}) as server:
            yield Databases(server.url, synchronized=False)
    except EmbeddedPostgresError as error:
        pytest.fail(f"{error} (for tests it is ROWCAST_TEST_DATABASE_URL)", pytrace=False)


@pytest.fixture(scope="session")
def rowcast_schema() -> str:
    """SQL that runs in an empty database before it is migrated.

    Override it for tables that the config does not make: ``return Path("schema.sql").read_text()``.
    """
    return ""


@pytest.fixture(scope="session")
def rowcast_template(rowcast_config: Configuration, rowcast_server: Databases, rowcast_schema: str) -> str:
    """The name of the database that each test's database is a copy of: it is migrated, and has no rows."""
    import asyncpg

    from rowcast.database.pool import Database
    from rowcast.errors import Unavailable
    from rowcast.resources.tables import Tables
    from rowcast.server.prepare import prepare

    async def migrate(url: str) -> None:
        if rowcast_schema:
            connection = await asyncpg.connect(url)
            try:
                await connection.execute(rowcast_schema)
            finally:
                await connection.close()
        tables = Tables(rowcast_config.resources)
        database = Database(url, tables.guards)
        try:
            await prepare(rowcast_config, tables, database, migrate=True)
        finally:
            await database.close()

    try:
        name: str = _run(rowcast_server.template("project", migrate))
    except Unavailable as error:
        pytest.fail(str(error), pytrace=False)
    return name


@pytest_asyncio.fixture
async def rowcast_database(rowcast_server: Databases, rowcast_template: str) -> AsyncIterator[str]:
    """The URL of the test's own database, which is dropped after the test."""
    async with rowcast_server.copy(rowcast_template) as url:
        yield url


@pytest_asyncio.fixture
async def client(rowcast_config: Configuration, rowcast_database: str) -> AsyncIterator[Client]:
    """A client of the service on the test's own database: ``response = await client.get("/products/")``."""
    from rowcast.testing.client import running

    async with running(rowcast_config, rowcast_database, migrated=True) as client:
        yield client


@pytest_asyncio.fixture
async def make(client: Client) -> Factory:
    """Makes rows of resources: ``product = await make("products", price="3.50")``."""
    from rowcast.rest.plan import SERVICE
    from rowcast.testing.factories import Factory

    return Factory(client.app[SERVICE])


@pytest_asyncio.fixture
async def sql(rowcast_database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the test's own database, as another program would have: ``await sql.execute("UPDATE …")``."""
    import asyncpg

    connection = await asyncpg.connect(rowcast_database)
    yield connection
    await connection.close()


def _run(work: Any) -> Any:
    """The result of a coroutine, in an event loop of its own: that of the tests may be there already."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
