"""The library of ``library.py`` on a database of its own: one service a module, emptied before each test."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer

from rowcast.server.app import SERVICE, STARTED, create_app

from ..conftest import at_database, configure
from .library import OPEN, RESOURCES, Service

_numbers = itertools.count(1)
Run = Callable[..., Awaitable[Service]]


@asynccontextmanager
async def running(
    postgres_url: str,
    directory: Path,
    resources: Mapping[str, Mapping[str, Any]],
    service: str = OPEN,
    modules: Mapping[str, str] | None = None,
) -> AsyncIterator[Service]:
    """A service for resources and Python modules, on a new database."""
    name = f"http_{next(_numbers)}"
    url = at_database(postgres_url, name)
    admin = await asyncpg.connect(postgres_url)
    await admin.execute(f"CREATE DATABASE {name}")
    texts = {name: json.dumps(resource) for name, resource in resources.items()}
    app = create_app(configure(directory / name, texts, service, modules), url, migrate=True)
    async with TestClient(TestServer(app)) as client:
        async with asyncio.timeout(30):
            await asyncio.shield(app[STARTED])
        sql = await asyncpg.connect(url)
        yield Service(client, sql, app[SERVICE])
        await sql.close()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _library(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    async with running(postgres_url, tmp_path_factory.mktemp("library"), RESOURCES) as service:
        yield service


@pytest_asyncio.fixture(loop_scope="module")
async def library(_library: Service) -> Service:
    """The library, empty. Only for tests that run in their module's loop."""
    tables = ", ".join(f'"{table}"' for table in _library.queries.tables.metadata.tables)
    await _library.sql.execute(f"TRUNCATE {tables} RESTART IDENTITY")
    return _library


@pytest.fixture
async def run(postgres_url: str, tmp_path: Path) -> AsyncIterator[Run]:
    """Start a service for some resources of the test's own: ``service = await run({"tasks": {"fields": …}})``."""
    async with AsyncExitStack() as stack:

        async def start(
            resources: Mapping[str, Mapping[str, Any]], service: str = OPEN, modules: Mapping[str, str] | None = None
        ) -> Service:
            return await stack.enter_async_context(running(postgres_url, tmp_path, resources, service, modules))

        yield start
