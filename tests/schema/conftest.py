"""Empty databases on the run's own PostgreSQL, with a directory for their revisions."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from .declarations import Database

NUMBERS = itertools.count(1)


@pytest.fixture
def create(postgres_url: str, tmp_path: Path) -> Callable[[], Awaitable[Database]]:
    """A function that makes another empty database with the same directory of revisions."""

    async def make() -> Database:
        name = f"schema_{next(NUMBERS)}"
        connection = await asyncpg.connect(postgres_url)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
        return Database(urlsplit(postgres_url)._replace(path=f"/{name}").geturl(), tmp_path / "migrations")

    return make


@pytest.fixture
async def database(create: Callable[[], Awaitable[Database]]) -> Database:
    """An empty database."""
    return await create()
