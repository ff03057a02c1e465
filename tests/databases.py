"""The run's PostgreSQL server and its databases, as ``rowcast.testing`` has them for every project."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from rowcast.testing.databases import (
    EMPTY,
    EXTERNAL_URL,
    SETTINGS,
    Databases,
    at_database,
    fast_directory,
    temporary_server,
)

__all__ = [
    "EMPTY", "EXTERNAL_URL", "SETTINGS", "Databases", "at_database", "databases_of", "fast_directory",
    "needs_embedded_server", "temporary_server",
]  # fmt: skip


@contextlib.contextmanager
def databases_of(url: str) -> Iterator[Databases]:
    """The databases of a server; their templates are dropped at the end."""
    databases = Databases(url, synchronized=bool(EXTERNAL_URL))
    yield databases
    asyncio.run(databases.drop_templates())


def needs_embedded_server() -> None:
    """Skip what restarts the server or changes its settings if the server is not the run's own."""
    if EXTERNAL_URL:
        pytest.skip("needs the embedded PostgreSQL")
