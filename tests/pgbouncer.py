"""Debian's pgbouncer in transaction mode, and services whose requests go through it.

With ``ROWCAST_TEST_POOLER=pgbouncer`` this is every service of a run of tests.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

import pytest

from rowcast.configuration.load import Configuration
from rowcast.database import launcher
from tests.programs import Program, find

BEHIND_POOLER: Final = os.environ.get("ROWCAST_TEST_POOLER", "") == "pgbouncer"
PROGRAM: Final = find("pgbouncer")
PORT: Final = 6432
_CONFIG: Final = """
[databases]
* = host={host} port={port} auth_user={user}
[pgbouncer]
listen_addr =
listen_port = {listen}
unix_socket_dir = {directory}
auth_type = trust
auth_file = {directory}/users
pool_mode = transaction
max_client_conn = 2000
default_pool_size = {size}
server_idle_timeout = 5
server_login_retry = 0.1
log_connections = 0
log_disconnections = 0
{further}
"""


class PgBouncer(Program):
    """A pgbouncer before one server; it refuses every parameter at the start that it does not know, as it does by default."""

    def __init__(self, url: str, *, size: int = 20, further: str = "") -> None:
        self._parts = urlsplit(url)
        options = parse_qs(self._parts.query)
        self._sockets = Path(options["host"][0])
        directory = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
        super().__init__(directory / f".s.PGSQL.{PORT}", directory, directory / "log")
        settings = {"host": self._sockets, "port": options["port"][0], "user": self._parts.username}
        (self.directory / "users").write_text(f'"{self._parts.username}" ""\n')
        (self.directory / "pgbouncer.ini").write_text(
            _CONFIG.format(**settings, listen=PORT, directory=self.directory, size=size, further=further)
        )

    def url(self, direct: str) -> str:
        """The URL of a database of the server through the pooler."""
        query = f"host={quote(str(self.directory), safe='/')}&port={PORT}"
        return urlunsplit(urlsplit(direct)._replace(query=query))

    @contextlib.contextmanager
    def running(self) -> Iterator[PgBouncer]:
        """Run it."""
        try:
            self.start_and_block()
            yield self
        finally:
            self.kill()
            shutil.rmtree(self.directory, ignore_errors=True)

    def command(self) -> Sequence[str]:
        """As the account that the server has, since pgbouncer refuses root as well."""
        assert PROGRAM is not None
        places = [str(os.getpid()), str(self.directory), str(self._sockets)]
        return [sys.executable, launcher.__file__, *places, PROGRAM, str(self.directory / "pgbouncer.ini")]


def needs_pgbouncer() -> None:
    """Skip where there is no pgbouncer."""
    if PROGRAM is None:
        pytest.skip("needs pgbouncer: apt-get install pgbouncer")


class Poolers:
    """A pooler for each server of a run of tests, started when it is used first."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._running: dict[str, PgBouncer] = {}

    def __enter__(self) -> Poolers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def url(self, direct: str) -> str | None:
        """The URL of a database through its server's pooler; ``None`` for what is not a server of these tests."""
        query = urlsplit(direct).query
        if "host=" not in query or not Path(parse_qs(query)["host"][0]).is_dir():
            return None
        if query not in self._running:
            needs_pgbouncer()
            self._running[query] = self._stack.enter_context(PgBouncer(direct).running())
        return self._running[query].url(direct)


def behind_pooler(configuration: Configuration, direct: str) -> Configuration:
    """The configuration of a service whose requests go through a pooler without prepared statements."""
    settings = configuration.settings
    database = replace(settings.database, direct_url=direct, prepared_statements=False)
    return replace(configuration, settings=replace(settings, database=database))
