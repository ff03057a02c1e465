"""Empty databases on the run's own PostgreSQL, with a directory for their revisions."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from .declarations import Database

NUMBERS = itertools.count(1)


@pytest.fixture
async def create(postgres_url: str, tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[Database]]]:
    """A function that makes another empty database with the same directory of revisions; they go after the test."""
    connection = await asyncpg.connect(postgres_url)
    names: list[str] = []

    async def make() -> Database:
        names.append(f"schema_{next(NUMBERS)}")
        await connection.execute(f"CREATE DATABASE {names[-1]}")
        return Database(urlsplit(postgres_url)._replace(path=f"/{names[-1]}").geturl(), tmp_path / "migrations")

    yield make
    for name in names:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


@pytest.fixture
async def database(create: Callable[[], Awaitable[Database]]) -> Database:
    """An empty database."""
    return await create()
