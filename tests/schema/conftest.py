"""A PostgreSQL of the tests' own, and an empty database in it for each test."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from service.database.embedded import EmbeddedPostgres

from .declarations import Database

NUMBERS = itertools.count(1)
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "40"}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedPostgres(tmp_path_factory.mktemp("server") / "data", settings=FAST) as postgres:
        yield postgres.url


@pytest.fixture
def create(server: str, tmp_path: Path) -> Callable[[], Awaitable[Database]]:
    """A function that makes another empty database with the same directory of revisions."""

    async def make() -> Database:
        name = f"schema_{next(NUMBERS)}"
        connection = await asyncpg.connect(server)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
        return Database(server.replace("/rowcast?", f"/{name}?"), tmp_path / "migrations")

    return make


@pytest.fixture
async def database(create: Callable[[], Awaitable[Database]]) -> Database:
    return await create()
