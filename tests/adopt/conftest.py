"""Databases that another program has made, and their config directories."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from ..conftest import rowcast
from ..databases import Databases

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Project:
    """A directory with a config, and a database."""

    directory: Path
    url: str

    def run(self, *arguments: str) -> tuple[int, str]:
        """The exit code and the output of a command, without the directory in front."""
        code, output = rowcast(self.directory, *arguments, DATABASE_URL=self.url)
        return code, output.replace(f"{self.directory}/", "")

    def resource(self, name: str) -> str:
        """The text of a resource's file."""
        return (self.directory / "config" / "resources" / f"{name}.yaml").read_text()

    def resources(self) -> list[str]:
        """The names of the resources."""
        return sorted(path.stem for path in (self.directory / "config" / "resources").glob("*"))

    def write(self, name: str, text: str) -> None:
        """Write a resource's file."""
        path = self.directory / "config" / "resources" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


async def execute(url: str, sql: str) -> None:
    """Run SQL as another program does."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


Make = Callable[[str], Awaitable[Project]]


@pytest.fixture
async def project(databases: Databases, tmp_path: Path) -> AsyncIterator[Make]:
    """Make a database in which some SQL has run, and a directory without a config: ``await project("CREATE TABLE …")``."""
    async with AsyncExitStack() as stack:

        async def make(sql: str) -> Project:
            url = await stack.enter_async_context(databases.copy())
            await execute(url, sql)
            directory = tmp_path / f"project{next(_numbers)}"
            directory.mkdir()
            return Project(directory, url)

        yield make
