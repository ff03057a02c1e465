"""What the commands say when something is not as it should be."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ..conftest import configure, rowcast, rowcast_process
from ..databases import at_database

TASKS = {"tasks": "fields: {title: {type: string}}"}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_taken_port_is_told_as_such(tmp_path: Path, workers: str) -> None:
    """Before any database is asked or started."""
    configure(tmp_path / "config", TASKS)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        told = rowcast_process(tmp_path, "serve", "--port", port, "--workers", workers)
    assert told == (1, f"port {port} of 127.0.0.1 is taken; --port names another one")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", [("plan",), ("migrate",), ("token", "list")])
async def test_database_that_is_not_there_is_told_in_a_line(
    tmp_path: Path, database_url: str, command: tuple[str, ...]
) -> None:
    """Nobody listens, no such database, no such role: without a traceback."""
    configure(tmp_path / "config", TASKS)
    nobody = urlsplit(database_url)
    for url, reason in (
        ("postgresql://nobody@127.0.0.1:1/none", "Connect call failed"),
        (at_database(database_url, "nonesuch"), 'database "nonesuch" does not exist'),
        (nobody._replace(netloc=nobody.netloc.replace("postgres", "nobody", 1)).geturl(), "nobody"),
    ):
        code, told = rowcast(tmp_path, *command, "--database-url", url)
        assert (code, told.count("\n"), told.startswith("The database cannot be reached: ")) == (1, 0, True), told
        assert reason in told


async def test_migrate_that_makes_no_tables_names_what_does(tmp_path: Path, database_url: str) -> None:
    """On an empty database, without revisions, it does not send the reader back to itself."""
    configure(tmp_path / "config", TASKS)
    code, told = rowcast(tmp_path, "migrate", "--database-url", database_url)
    assert (code, told.count("\n")) == (1, 0), told
    assert "there is no table tasks" in told
    assert "`rowcast migrate --sync`" in told
    assert "`rowcast makemigrations`" in told
    assert rowcast(tmp_path, "migrate", "--sync", "--database-url", database_url)[0] == 0
