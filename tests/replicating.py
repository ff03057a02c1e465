"""With ``ROWCAST_TEST_REPLICA=1`` the services of a run of tests read from a standby of their server.

A commit waits until the standby shows it (``synchronous_commit = remote_apply``), so that a test that writes with SQL may read
at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final
from unittest import mock
from urllib.parse import urlsplit

import asyncpg

from rowcast.configuration.load import Configuration
from rowcast.query.replicas import Replicas

from .databases import at_database
from .standbys import Standby
from .waiting import until

WITH_REPLICA: Final = bool(os.environ.get("ROWCAST_TEST_REPLICA"))


class Standbys:
    """A standby for each server of a run, made when a service on it starts first."""

    def __init__(self) -> None:
        self.reads = 0  # that standbys have answered
        self._made: dict[str, Standby] = {}
        self._directory = Path(tempfile.mkdtemp(prefix="standbys-"))

    def close(self) -> None:
        """Stop them."""
        for standby in self._made.values():
            standby.server.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def with_replica(self, configuration: Configuration, url: str) -> Configuration:
        """The configuration of a service on a database, with the standby as its replica if it is on a server of these tests."""
        key = urlsplit(url).query
        if "host=" not in key:
            return configuration
        if key not in self._made:
            with ThreadPoolExecutor(1) as thread:  # whose event loop is its own
                thread.submit(asyncio.run, self._make(key, url)).result()
        copy = at_database(self._made[key].server.url, urlsplit(url).path[1:])
        copy = copy.replace("//postgres@", f"//{urlsplit(url).username}@")
        settings = configuration.settings
        database = replace(settings.database, url=url, replicas=(copy,))
        return replace(configuration, settings=replace(settings, database=database))

    async def _make(self, key: str, url: str) -> None:
        standby = self._made[key] = Standby(url, self._directory / str(len(self._made)))
        connection = await standby.start()
        await connection.close()
        primary = await asyncpg.connect(url)
        await primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        await primary.execute(f"ALTER ROLE {urlsplit(url).username} SET synchronous_commit = 'remote_apply'")
        await primary.execute("SELECT pg_reload_conf()")
        await until(lambda: primary.fetchval("SELECT sync_state = 'sync' FROM pg_stat_replication"))
        await primary.close()


@contextlib.contextmanager
def reading_from_standbys() -> Iterator[Standbys]:
    """Let each service read from its standby as soon as it is ready."""
    start: Callable[[Replicas], Awaitable[None]] = Replicas.start
    stop: Callable[[Replicas], Awaitable[None]] = Replicas.stop
    standbys = Standbys()

    async def start_and_wait(replicas: Replicas) -> None:
        await start(replicas)
        await until(lambda: all(replica.watch.moment is not None for replica in replicas.all))

    async def stop_and_count(replicas: Replicas) -> None:
        standbys.reads += replicas.reads.total() - replicas.reads["primary"]
        await stop(replicas)

    try:
        with mock.patch.object(Replicas, "start", start_and_wait), mock.patch.object(Replicas, "stop", stop_and_count):
            yield standbys
    finally:
        standbys.close()
