"""Standbys: copies of an embedded server that follow it."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg

from rowcast.database import embedded
from rowcast.database.embedded import EmbeddedPostgres
from tests.databases import SETTINGS
from tests.waiting import until

PATIENCE = 30.0


def socket_of(url: str) -> str:
    return parse_qs(urlsplit(url).query)["host"][0]


class Follower(EmbeddedPostgres):
    """A server that is ready when it is promoted, however late that is."""

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        state = [str(process.pid), "ready"]
        while process.poll() is None:
            lines = embedded._read(self._cluster / "postmaster.pid").split("\n")
            if [each.strip() for each in lines[:1] + lines[7:8]] == state:
                return
            time.sleep(0.05)
        raise embedded.EmbeddedPostgresError("the standby has ended")


class Standby:
    """A copy of a server that follows it."""

    def __init__(self, primary_url: str, directory: Path) -> None:
        directory.mkdir()
        (directory / "lock").touch()
        command = [
            str(embedded._binaries() / "pg_basebackup"), "--pgdata", str(directory / "cluster"), "--write-recovery-conf",
            "--checkpoint=fast", "--no-sync", "--username", embedded.ROLE, "--host", socket_of(primary_url),
            "--port", str(embedded.PORT),
        ]  # fmt: skip
        subprocess.run(command, check=True, env=embedded._environment(), timeout=60)
        self.server = Follower(directory, settings={**SETTINGS, "max_standby_streaming_delay": "100ms"})
        self._started: Future[str] = Future()

    async def start(self) -> asyncpg.Connection:
        """Follow; a connection to the standby. It is only when it is promoted that it counts as started."""
        self._started = Future()
        threading.Thread(target=self._run, daemon=True).start()
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    return await asyncpg.connect(self.server.url)
                except (OSError, asyncpg.CannotConnectNowError, embedded.EmbeddedPostgresError):
                    await asyncio.sleep(0.05)

    def _run(self) -> None:
        try:
            self._started.set_result(self.server.start())
        except embedded.EmbeddedPostgresError as error:  # it has been stopped as a standby
            self._started.set_exception(error)

    async def promote(self, connection: asyncpg.Connection) -> None:
        await connection.execute("SELECT pg_promote()")
        await asyncio.wait_for(asyncio.wrap_future(self._started), PATIENCE)


async def until_replayed(primary: asyncpg.Connection, standby: asyncpg.Connection) -> None:
    """Wait until a standby has what has been committed on its primary."""
    end = await primary.fetchval("SELECT pg_current_wal_flush_lsn()")

    async def replayed() -> bool:
        with contextlib.suppress(asyncpg.SerializationError):  # replay has cancelled the question: ask again
            return bool(await standby.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn", end))
        return False

    await until(replayed, PATIENCE)


@contextlib.asynccontextmanager
async def paused(standby: asyncpg.Connection) -> AsyncIterator[None]:
    """Inside, the standby receives what the primary writes, and does not replay it."""
    await standby.execute("SELECT pg_wal_replay_pause()")
    await until(lambda: standby.fetchval("SELECT pg_get_wal_replay_pause_state() = 'paused'"), PATIENCE)
    try:
        yield
    finally:
        with contextlib.suppress(asyncpg.SerializationError):  # replay goes on, and has cancelled this very statement
            await standby.execute("SELECT pg_wal_replay_resume()")
