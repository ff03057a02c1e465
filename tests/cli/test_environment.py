"""Variables from ``.env``, and the secrets that a command does not need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rowcast.commands.environment import read_environment
from rowcast.errors import ConfigurationError

from ..conftest import ROOT, rowcast, write_config

TASKS = {"tasks": "fields: {title: {type: string}}"}
SECRETS = """\
server: {secret_key: "${env:CURSOR_KEY}"}
auth:
  jwt: {secret: "${file:/no/such/secret}"}
throttle: {classes: [AnonRateThrottle], rates: {anon: "${env:RATE}"}}
"""


def test_a_file_sets_what_is_not_set(tmp_path: Path) -> None:
    """With comments, quotes, ``export`` and references; an empty variable is set."""
    file = tmp_path / ".env"
    file.write_text("# one\nA=1\nexport B='two words'\nC=3 # three\nD=${A}\nE=file\n")
    environ = {"C": "set", "E": ""}
    read_environment(file, environ)
    assert environ == {"A": "1", "B": "two words", "C": "set", "D": "1", "E": ""}


def test_what_is_no_variable_is_reported_with_its_line(tmp_path: Path) -> None:
    """All lines in one run; nothing is set."""
    file = tmp_path / ".env"
    file.write_text("A=1\n\nB: 2\nC\nD='x\n")
    environ: dict[str, str] = {}
    with pytest.raises(ConfigurationError) as raised:
        read_environment(file, environ)
    assert [line.partition(": ")[0] for line in str(raised.value).splitlines()] == [f"{file}:{n}" for n in (3, 4, 5)]
    assert environ == {}
    file.write_bytes(b"A=\xff")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        read_environment(file, environ)


def test_each_command_reads_the_file_of_its_working_directory(tmp_path: Path) -> None:
    """Also the variables that are options of the command line; a wrong file is a line and no traceback."""
    write_config(tmp_path / "here", TASKS)
    file = tmp_path / ".env"

    def check() -> tuple[int, str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ROWCAST")}
        environment["PYTHONPATH"] = str(ROOT / "service")
        done = subprocess.run(
            [sys.executable, "-m", "rowcast", "check"], cwd=tmp_path, env=environment, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        return done.returncode, done.stdout

    file.write_text("ROWCAST_CONFIG=here\n")
    assert check() == (0, "here: 1 resource, no problems.\n")
    file.write_text("ROWCAST_CONFIG=here\nROWCAST_WORKERS=none\n")
    assert check() == (1, "ROWCAST_WORKERS: workers: must be an integer\n")
    file.write_text("ROWCAST_CONFIG here\n")
    assert check() == (
        1,
        ".env:1: write NAME=value, with quotes around a value that has spaces before # or several lines\n",
    )


def test_secrets_that_a_command_does_not_use_need_not_be_there(tmp_path: Path, database_url: str) -> None:
    """``check`` says what ``serve`` needs; ``plan`` and the like use those of the database alone."""
    write_config(tmp_path / "config", TASKS, SECRETS)
    code, output = rowcast(tmp_path, "check")
    assert (code, output.replace(f"{tmp_path}/", "").splitlines()) == (
        0,
        [
            "config/service.yaml:1:22: the environment variable CURSOR_KEY is not set; `rowcast serve` needs it",
            "config/service.yaml:3:17: the file /no/such/secret cannot be read: No such file or directory; "
            "`rowcast serve` needs it",
            "config/service.yaml:4:55: the environment variable RATE is not set; `rowcast serve` needs it",
            f"{'config'}: 1 resource, no problems.",
        ],
    )
    for command in (["plan"], ["makemigrations", "-m", "first"], ["migrate"], ["token", "list"], ["doctor"]):
        code, output = rowcast(tmp_path, *command, DATABASE_URL=database_url)
        assert "No such file" not in output, output
        assert code == 0 or command == ["doctor"], output
    code, output = rowcast(tmp_path, "serve", DATABASE_URL=database_url)
    assert (code, len(output.splitlines())) == (1, 3)


def test_a_secret_of_the_database_is_needed_unless_its_url_is_named_elsewhere(
    tmp_path: Path, database_url: str
) -> None:
    """A variable or an option takes the place of the one in the file."""
    write_config(tmp_path / "config", TASKS, "database: {url: 'postgresql://app:${env:DB_PASSWORD}@db/app'}")
    code, output = rowcast(tmp_path, "plan")
    assert (code, output.partition(": ")[2]) == (1, "the environment variable DB_PASSWORD is not set")
    assert rowcast(tmp_path, "plan", DATABASE_URL=database_url)[0] == 0
    assert rowcast(tmp_path, "plan", "--database-url", database_url)[0] == 0
    assert rowcast(tmp_path, "check")[0] == 0
