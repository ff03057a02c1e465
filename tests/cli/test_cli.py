"""The messages of commands when something is wrong."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ..conftest import configure, rowcast, rowcast_process
from ..databases import at_database

TASKS = {"tasks": "fields: {title: {type: string}}"}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_taken_port_is_reported_as_such(tmp_path: Path, workers: str) -> None:
    """Before any database is connected to or started."""
    configure(tmp_path / "config", TASKS)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        output = rowcast_process(tmp_path, "serve", "--port", port, "--workers", workers)
    assert output == (1, f"port {port} of 127.0.0.1 is taken; --port names another one")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", [("plan",), ("migrate",), ("token", "list")])
async def test_missing_database_is_reported_in_a_line(
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
        code, output = rowcast(tmp_path, *command, "--database-url", url)
        assert (code, output.count("\n"), output.startswith("The database cannot be reached: ")) == (1, 0, True), output
        assert reason in output


async def test_migrate_that_makes_no_tables_names_what_does(tmp_path: Path, database_url: str) -> None:
    """On an empty database, without revisions, it does not send the reader back to itself."""
    configure(tmp_path / "config", TASKS)
    code, output = rowcast(tmp_path, "migrate", "--database-url", database_url)
    assert (code, output.count("\n")) == (1, 0), output
    assert "there is no table tasks" in output
    assert "`rowcast migrate --sync`" in output
    assert "`rowcast makemigrations`" in output
    assert rowcast(tmp_path, "migrate", "--sync", "--database-url", database_url)[0] == 0


async def test_url_as_hosts_hand_it_out_connects(tmp_path: Path, database_url: str) -> None:
    """Parameters of libpq that the driver does not know are left out, by every command."""
    configure(tmp_path / "config", TASKS)
    url = f"{database_url}&channel_binding=prefer&connect_timeout=5&keepalives=1&gssencmode=disable"
    for command in (("migrate", "--sync"), ("plan",), ("token", "list")):
        code, output = rowcast(tmp_path, *command, "--database-url", url)
        assert code == 0, output


@pytest.mark.parametrize("command", [("check",), ("plan",), ("serve",), ("token", "list")])
async def test_mistake_in_the_url_is_reported_in_a_line(
    tmp_path: Path, database_url: str, command: tuple[str, ...]
) -> None:
    """The parameter, or the character, is named before anything is connected to; `check` finds it as well."""
    for parameter, message in (("&pgbouncer=true", "'pgbouncer'"), ("&x#y", "%23 for #")):
        configure(tmp_path / "config", TASKS)
        (tmp_path / "config/service.yaml").write_text(f"database: {{url: '{database_url}{parameter}'}}")
        code, output = rowcast(tmp_path, *command)
        assert (code, output.count("\n")) == (1, 0), output
        assert "service.yaml:1:" in output
        assert message in output


async def test_setting_that_postgresql_refuses_is_reported_in_a_line(tmp_path: Path, database_url: str) -> None:
    """A setting of the session with a wrong value: no traceback, and `serve` does not wait for it to become right."""
    configure(tmp_path / "config", TASKS)
    for run, command in ((rowcast, "plan"), (rowcast, "migrate"), (rowcast_process, "serve"), (rowcast, "doctor")):
        code, output = run(tmp_path, command, "--database-url", f"{database_url}&statement_timeout=soon")
        assert code == 1, output
        assert output.splitlines()[-1].startswith("database.url has a parameter that PostgreSQL refuses: "), output
