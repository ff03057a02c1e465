"""The library of ``library.py`` on a database of its own: one service a module, emptied before each test."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from rowcast.resources.sql import quote_table
from rowcast.rest.generic import GenericViewSet
from rowcast.rest.plan import SERVICE
from rowcast.server.short_way import ShortWay

from .. import conftest
from ..conftest import configure, with_tables
from ..databases import EMPTY, Databases
from .library import OPEN, RESOURCES, Service

_numbers = itertools.count(1)
Run = Callable[..., Awaitable[Service]]


@asynccontextmanager
async def running(
    databases: Databases,
    directory: Path,
    resources: Mapping[str, Mapping[str, Any]],
    service: str = OPEN,
    modules: Mapping[str, str] | None = None,
    template: str = EMPTY,
    prepare: str = "SELECT",
) -> AsyncIterator[Service]:
    """A service for resources and Python modules, on a new database in which the SQL ``prepare`` has run."""
    texts = {name: json.dumps(resource) for name, resource in resources.items()}
    configuration = configure(directory / f"config{next(_numbers)}", texts, service, modules)
    async with databases.copy(template) as url:
        sql = await asyncpg.connect(url)
        await sql.execute(prepare)
        async with conftest.running(configuration, url) as client:
            yield Service(client, sql, client.app[SERVICE])
            await sql.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _library(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    directory = tmp_path_factory.mktemp("library")
    texts = {name: json.dumps(resource) for name, resource in RESOURCES.items()}
    template = await with_tables(databases, texts, directory)
    async with running(databases, directory, RESOURCES, template=template) as service:
        yield service


@pytest_asyncio.fixture(loop_scope="module")
async def library(_library: Service) -> Service:
    """The library, empty. Only for tests that run in their module's loop."""
    tables = ", ".join(quote_table(table) for table in _library.queries.tables.metadata.tables)
    await _library.sql.execute(f"TRUNCATE {tables} RESTART IDENTITY")
    return _library


@pytest.fixture
async def run(databases: Databases, tmp_path: Path) -> AsyncIterator[Run]:
    """Start a service for some resources of the test's own: ``service = await run({"tasks": {"fields": …}})``."""
    async with AsyncExitStack() as stack:

        async def start(
            resources: Mapping[str, Mapping[str, Any]],
            service: str = OPEN,
            modules: Mapping[str, str] | None = None,
            prepare: str = "SELECT",
        ) -> Service:
            made = running(databases, tmp_path, resources, service, modules, prepare=prepare)
            return await stack.enter_async_context(made)

        yield start


@pytest.fixture
def dispatched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that have reached an instance of a viewset."""
    paths: list[str] = []
    dispatch = GenericViewSet.dispatch

    async def noted(self: GenericViewSet, http: Any) -> Any:
        paths.append(http.path_qs)
        return await dispatch(self, http)

    monkeypatch.setattr(GenericViewSet, "dispatch", noted)
    return paths


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each message that was offered to the short way, whether that took it."""
    found: list[bool] = []
    takes = ShortWay.takes

    def noted(*arguments: Any) -> bool:
        found.append(takes(*arguments))
        return found[-1]

    monkeypatch.setattr(ShortWay, "takes", noted)
    return found
