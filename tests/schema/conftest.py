"""Empty databases on the run's own PostgreSQL, with a directory for their revisions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ..databases import Databases
from .declarations import Database


@pytest.fixture
async def create(databases: Databases, tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[Database]]]:
    """A function that makes another empty database with the same directory of revisions; they go after the test."""
    async with AsyncExitStack() as stack:

        async def make() -> Database:
            return Database(await stack.enter_async_context(databases.copy()), tmp_path / "migrations")

        yield make


@pytest.fixture
async def database(create: Callable[[], Awaitable[Database]]) -> Database:
    """An empty database."""
    return await create()
