"""The PostgreSQL server of a run of tests, and databases on it that are copies of templates."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from rowcast.database.embedded import EmbeddedPostgres

EMPTY: Final = "template1"
EXTERNAL_URL: Final = os.environ.get("ROWCAST_TEST_DATABASE_URL", "")
"""A server to use instead of the embedded one. Its role must be able to create databases."""
MEMORY: Final = Path("/dev/shm")
MEMORY_BYTES: Final = 4 << 30
"""How much memory must be free for the files of a run's servers."""
SETTINGS: Final[Mapping[str, str]] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_wal_size": "128MB",
}
_numbers = itertools.count(1)


def at_database(url: str, name: str) -> str:
    """The URL of another database on the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def fast_directory() -> Path | None:
    """Where to put the files of servers: in memory if there is enough, else ``None`` for the usual place."""
    in_memory = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > MEMORY_BYTES
    return MEMORY if in_memory else None


@contextlib.contextmanager
def temporary_server(settings: Mapping[str, str]) -> Iterator[EmbeddedPostgres]:
    """An embedded server with its files in memory if possible: most of the work of creating a database is to write files."""
    _remove_abandoned()
    directory = Path(tempfile.mkdtemp(prefix=f"rowcast-tests-{os.getpid()}-", dir=fast_directory()))
    try:
        with EmbeddedPostgres(directory / "data", settings={**SETTINGS, **settings}) as server:
            yield server
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _remove_abandoned() -> None:
    """Free the memory of runs that were killed."""
    for path in MEMORY.glob("rowcast-tests-*"):
        owner = path.name.split("-")[2]
        if owner.isdigit() and not Path("/proc", owner).exists():
            shutil.rmtree(path, ignore_errors=True)


class Databases:
    """Databases on one server. Each method opens its own connection, so any event loop may call it."""

    def __init__(self, url: str, *, synchronized: bool = True) -> None:
        self.url = url
        # Copying files is the faster strategy where nothing is synchronised with a disk.
        self._strategy = "" if synchronized else "STRATEGY FILE_COPY"
        self._run = secrets.token_hex(4)  # several runs may use the server
        self._templates: dict[Hashable, str] = {}

    async def create(self, template: str = EMPTY) -> str:
        """Make a copy of a template, which nobody may be connected to, and return its URL."""
        name = f"rowcast_test_{self._run}_{next(_numbers)}"
        await self._execute(f"CREATE DATABASE {name} TEMPLATE {template} {self._strategy}")
        return at_database(self.url, name)

    async def drop(self, url: str) -> None:
        """Drop a database, even if clients are connected to it."""
        await self._execute(f"DROP DATABASE IF EXISTS {urlsplit(url).path[1:]} WITH (FORCE)")

    @contextlib.asynccontextmanager
    async def copy(self, template: str = EMPTY) -> AsyncIterator[str]:
        """The URL of a copy of a template, which lives as long as the block."""
        url = await self.create(template)
        try:
            yield url
        finally:
            await self.drop(url)

    async def template(self, key: Hashable, fill: Callable[[str], Awaitable[None]], base: str = EMPTY) -> str:
        """The name of the template that ``fill`` made of a copy of ``base`` when the key was used first."""
        if key not in self._templates:
            url = await self.create(base)
            await fill(url)
            self._templates[key] = urlsplit(url).path[1:]
        return self._templates[key]

    async def drop_templates(self) -> None:
        """Drop the templates: an external server outlives the run."""
        for name in self._templates.values():
            await self.drop(at_database(self.url, name))

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()
