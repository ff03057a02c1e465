"""Every command, and what its user can do wrong: a line that says what is wrong, exit code 1 or 2, never a traceback."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from rowcast.cli import COMMANDS
from rowcast.commands.mistakes import message_of
from rowcast.database.embedded import EmbeddedPostgres

from ..conftest import ROOT, configure, rowcast, without_settings
from ..databases import at_database
from .terminal import heed_interrupts

TASKS = {"tasks": "fields: {title: {type: string}}"}
OPENING = (
    "adopt",
    "doctor",
    "dump tasks",
    "load /dev/null tasks --format csv",
    "makemigrations -m x",
    "migrate",
    "plan",
    "run -",
    "shell -c 1",
    "token create u",
    "token list",
    "token revoke 1",
)
"""The commands that connect to the database at once; ``serve`` waits for one that is away."""
LOADING = (*OPENING, "check", "edge --port 0 --upstream http://127.0.0.1:1", "serve --port 0")
"""The commands that read the config."""


def is_mistake(code: int, output: str) -> bool:
    """Whether a command has ended as it should: with a line, or the lines of a list of problems."""
    return code in (1, 2) and bool(output) and "Traceback" not in output


def reported(directory: Path, command: str, *arguments: str, **variables: str) -> str:
    """The one line that a command prints about a mistake."""
    code, output = rowcast(directory, *command.split(), *arguments, **variables)
    assert is_mistake(code, output), (command, code, output)
    assert output.count("\n") == 0, (command, output)
    return output


def test_every_command_is_walked() -> None:
    """A new command has to be in one of the lists."""
    assert {each.split()[0] for each in (*LOADING, "reload", "init", "schemas")} == set(COMMANDS)


@pytest.mark.parametrize("command", ["init", "schemas"])
def test_directory_that_cannot_be_written(tmp_path: Path, command: str) -> None:
    """A file in its place, or in the place of its parent."""
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file/below"):
        assert str(tmp_path / "file") in reported(tmp_path, command, str(place))


@pytest.mark.parametrize("arguments", [(), ("--pid", "1"), ("--pid", "-1"), ("--pid", "x"), ("--timeout", "x")])
def test_reload_without_a_service(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Nothing is signalled, whatever is in the place of the config and of the services' files."""
    for _ in range(2):
        code, output = rowcast(tmp_path, "reload", *arguments)
        assert is_mistake(code, output), output
        (tmp_path / "data").write_text("")


@pytest.mark.parametrize("command", LOADING)
def test_config_that_cannot_be_read(tmp_path: Path, command: str) -> None:
    """No directory, a file in its place, YAML that is none, Python that is none, or that ends the process."""
    assert "directory does not exist" in reported(tmp_path, command)
    (tmp_path / "config").write_text("")
    assert "directory does not exist" in reported(tmp_path, command)
    (tmp_path / "config").unlink()
    configure(tmp_path / "config", TASKS)
    (tmp_path / "config/resources/tasks.yaml").write_text("fields: {title: [")
    assert "tasks.yaml:1:" in reported(tmp_path, command)
    (tmp_path / "config/resources/tasks.yaml").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in reported(tmp_path, command)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("text", ["class (", "import nonesuch", "raise SystemExit(3)", "1 / 0"])
@pytest.mark.parametrize("command", ["check", "serve --port 0"])
def test_python_of_the_config_that_cannot_be_imported(tmp_path: Path, command: str, text: str) -> None:
    """Also a module that ends the process: its file and its error are named."""
    tasks = TASKS["tasks"] + "\nviewset: viewsets:TaskViewSet"
    configure(tmp_path / "config", {"tasks": tasks}, modules={"viewsets": text})
    url = "postgresql://nobody@127.0.0.1:1/none"
    line = reported(tmp_path, command, DATABASE_URL=url)
    assert "tasks.yaml:2:1: class: viewsets cannot be imported: " in line


@pytest.mark.parametrize("command", LOADING)
def test_url_that_is_none(tmp_path: Path, command: str) -> None:
    """It is not connected to."""
    configure(tmp_path / "config", TASKS)
    for url in ("mysql://x/y", "nonsense", "postgresql://u:p#w@h/d", "postgresql://h:port/d", "postgresql://[::1/d"):
        assert "DATABASE_URL: url: " in reported(tmp_path, command, DATABASE_URL=url)


@contextlib.contextmanager
def server(answer: Callable[[socket.socket], object]) -> Iterator[str]:
    """The address of a program that is not PostgreSQL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    answer(connection)
                    kept.append(connection)

        kept: list[socket.socket] = []
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        for each in kept:
            each.close()


@pytest.mark.parametrize("command", OPENING)
async def test_database_that_cannot_be_used(tmp_path: Path, command: str, database_url: str) -> None:
    """Nobody listens, nobody answers, somebody else answers; no such host, database or role; no socket."""
    configure(tmp_path / "config", TASKS)
    parts = urlsplit(database_url)
    with (
        server(lambda _: None) as silent,
        server(lambda connection: connection.close()) as closing,
        server(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as web,
    ):
        for url in (
            "postgresql://u@127.0.0.1:1/d",
            f"postgresql://u@{silent}/d?connect_timeout=1&sslmode=disable",
            f"postgresql://u@{closing}/d?connect_timeout=1",
            f"postgresql://u@{web}/d?connect_timeout=1",
            "postgresql://u@nohost.invalid/d",
            "postgresql://u@/d?host=/nonexistent",
            at_database(database_url, "nonesuch"),
            parts._replace(netloc=parts.netloc.replace("postgres", "nobody", 1)).geturl(),
        ):
            line = reported(tmp_path, command, DATABASE_URL=url)
            assert line.startswith(("The database cannot be reached: ", "WRONG database")), line
            assert not line.endswith(": "), line


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (asyncpg.InvalidPasswordError('password authentication failed for user "u"'), "password authentication failed"),
        (TimeoutError(), "The database cannot be reached: it does not answer"),
        (PermissionError(13, "Permission denied", "/x/y"), "/x/y: Permission denied"),
        (OSError(28, "No space left on device"), "The output cannot be written: No space left on device"),
        (asyncpg.InsufficientPrivilegeError("permission denied for schema public"), "permission denied for schema"),
        (asyncpg.ReadOnlySQLTransactionError("read-only\nDETAIL: x"), "The database refuses this: read-only DETAIL: x"),
    ],
)
def test_errors_are_one_line(error: Exception, message: str) -> None:
    """Those that a test cannot easily cause."""
    line = message_of(error)
    assert line is not None
    assert message in line
    assert "\n" not in line


def test_defects_keep_their_traceback() -> None:
    """A line would hide what is to be reported as a bug."""
    assert message_of(KeyError("x")) is None


@pytest.fixture
async def powerless(database_url: str, sql: asyncpg.Connection) -> AsyncIterator[str]:
    """The URL of the database for a role that has no rights."""
    name = f"powerless_{os.getpid()}"
    await sql.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    parts = urlsplit(database_url)
    yield parts._replace(netloc=parts.netloc.replace("postgres", f"{name}:secret", 1)).geturl()
    await sql.execute(f"DROP ROLE {name}")


@pytest.mark.parametrize("command", ["migrate --sync", "token create u", "token list", "token revoke 1"])
async def test_role_without_rights(tmp_path: Path, command: str, powerless: str) -> None:
    """The reason of PostgreSQL, and what to do."""
    configure(tmp_path / "config", TASKS)
    code, output = rowcast(tmp_path, *command.split(), DATABASE_URL=powerless)
    assert is_mistake(code, output), output
    assert "permission denied" in output
    assert "role that owns the tables" in output


@pytest.mark.parametrize("command", [*OPENING, "serve --port 0"])
def test_data_directory_that_cannot_be_used(tmp_path: Path, command: str) -> None:
    """A file, a directory below a file, a directory with other files."""
    configure(tmp_path / "config", TASKS)
    (tmp_path / "file").write_text("")
    for data, message in (
        (tmp_path / "file", "not a directory"),
        (tmp_path / "file/data", "Not a directory"),
        (tmp_path / "config", "holds other files"),
    ):
        line = reported(tmp_path, command, ROWCAST_DATA=str(data))
        assert str(data) in line
        assert message in line


async def test_migrations_that_cannot_be_used(tmp_path: Path, database_url: str) -> None:
    """A file in place of the directory; a revision with wrong Python, or after one that does not exist."""
    configure(tmp_path / "config", TASKS)
    (tmp_path / "migrations").write_text("")
    assert "Not a directory" in reported(tmp_path, "makemigrations -m x", DATABASE_URL=database_url)
    (tmp_path / "migrations").unlink()
    (tmp_path / "migrations/versions").mkdir(parents=True)
    revision = tmp_path / "migrations/versions/one.py"
    for text in ("def upgrade(:", "1 / 0", "revision = 'a'\ndown_revision = 'b'\n", "x = 1", "raise SystemExit"):
        revision.write_text(text)
        for command in ("plan", "migrate", "makemigrations -m x", "doctor"):
            code, output = rowcast(tmp_path, *command.split(), DATABASE_URL=database_url)
            assert is_mistake(code, output), (text, command, output)
            assert "revision" in output, (text, command, output)
    revision.write_text("revision, down_revision = 'a', None\n\ndef upgrade():\n    1 / 0\n")
    line = reported(tmp_path, "migrate", DATABASE_URL=database_url)
    assert line == "The revisions cannot be used: one.py:4: ZeroDivisionError: division by zero"


def started(directory: Path, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
    """A command as a process of its own."""
    hidden = without_settings()
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [sys.executable, "-m", "rowcast", *arguments, "--config", str(directory / "config")]
    return subprocess.Popen(  # type: ignore[call-overload]
        command, cwd=ROOT, env={**environment, "ROWCAST_DATA": str(directory / "data")}, stderr=subprocess.PIPE,
        preexec_fn=heed_interrupts, **options,
    )  # fmt: skip


def test_interrupt_while_waiting_for_the_database(tmp_path: Path) -> None:
    """Ctrl-C ends a command at once."""
    configure(tmp_path / "config", TASKS)
    connected = threading.Event()
    with server(lambda _: connected.set()) as silent:
        process = started(tmp_path, "plan", "--database-url", f"postgresql://u@{silent}/d?sslmode=disable")
        assert connected.wait(30)
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=30)
    assert (process.returncode, printed.decode().strip()) == (1, "Aborted!")


def test_output_that_nobody_reads(tmp_path: Path) -> None:
    """A closed pipe ends a command without a word, and a full disk with a line."""
    configure(tmp_path / "config", TASKS)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed, Path("/dev/full").open("wb") as full:
        processes = [started(tmp_path, "check", stdout=output) for output in (closed, full)]
        results = [(each.communicate(timeout=30)[1].decode(), each.returncode) for each in processes]
    assert results == [("", 1), ("The output cannot be written: No space left on device\n", 1)]


def test_unknown_command_names_the_nearest(tmp_path: Path) -> None:
    """As unknown options do."""
    code, output = rowcast(tmp_path, "serv")
    assert code == 2
    assert "No such command 'serv'. Did you mean 'serve'?" in output


def test_commands_attach_to_a_running_embedded_database(tmp_path: Path) -> None:
    """They use the server of another process, which may still be starting, and leave it running."""
    configure(tmp_path / "config", TASKS)
    with EmbeddedPostgres(tmp_path / "data", settings={"fsync": "off"}) as database:
        for command in (
            "plan",
            "migrate --sync",
            "doctor",
            "token create u",
            "token list",
            "shell -c 1",
            "makemigrations -m x --empty",
        ):
            code, output = rowcast(tmp_path, *command.split())
            assert (code, "in use" in output) == (0 if command != "doctor" else 1, False), (command, output)
        assert running(database.pid)


def running(pid: int) -> bool:
    """Whether a process is alive."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_commands_that_start_together_share_the_embedded_database(tmp_path: Path) -> None:
    """The first one starts it, the other waits until it is ready, or until it has stopped."""
    configure(tmp_path / "config", TASKS)
    first = started(tmp_path, "plan", stdout=subprocess.PIPE)
    while not (tmp_path / "data/lock").exists():
        time.sleep(0.01)
        assert first.poll() is None
    code, output = rowcast(tmp_path, "plan")
    assert code == 0 or "The database cannot be reached" in output  # it was about to stop
    assert "Traceback" not in output
    assert first.wait(60) == 0
