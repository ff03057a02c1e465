"""``rowcast run`` and ``rowcast shell``: Python with models, outside requests."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from ..conftest import configure, rowcast, without_settings
from .terminal import Terminal

NOTES = {"notes": "fields: {id: {type: integer, primary_key: true}, text: {type: string}}"}
HOOKS = """\
from rowcast import background, on_shutdown, on_startup

@on_startup
async def start(state):
    state.word = "started"

@on_shutdown
async def stop(state):
    print("stopped")

@background
def never():
    print("in the background")
"""
pytestmark = pytest.mark.tables(NOTES)


def run(directory: Path, database_url: str, text: str, *args: str, hooks: str = "") -> tuple[int, str]:
    """The exit code and the output of a script."""
    configure(directory / "config", NOTES, modules={"hooks": hooks})
    (directory / "script.py").write_text(text)
    return rowcast(directory, "run", str(directory / "script.py"), *args, DATABASE_URL=database_url)


async def test_main_gets_the_arguments_and_gives_the_exit_code(tmp_path: Path, database_url: str) -> None:
    """Options after the script are the script's; the top level runs first, and what is under ``__main__`` does not."""
    text = """\
from __future__ import annotations
import sys
from dataclasses import dataclass
from rowcast import model, transaction

Note = model("notes")

@dataclass
class Row:
    text: str

async def remember():
    print("committed", await Note.objects.count())

async def main(args):
    async with transaction():
        transaction.on_commit(remember)
        await Note.objects.bulk_create([{"text": text} for text in args])
    print(__file__.rpartition("/")[2], sys.argv[1:], [note.text for note in await Note.objects.order_by("id")])
    return len(args)

if __name__ == "__main__":
    raise AssertionError
"""
    code, output = run(tmp_path, database_url, text, "--config", "b")
    lines = output.splitlines()
    assert (code, sorted(lines)) == (2, ["committed 2", "script.py ['--config', 'b'] ['--config', 'b']"])


async def test_top_level_may_await(tmp_path: Path, database_url: str, sql: asyncpg.Connection) -> None:
    """Without a ``main``; the functions of the config at start and stop run, and tasks in the background do not."""
    await sql.execute("INSERT INTO notes (text) VALUES ('one')")
    text = "from rowcast import model\nprint(await model('notes').objects.count())\n"
    assert run(tmp_path, database_url, text, hooks=HOOKS) == (0, "1\nstopped")


async def test_plain_main_may_wait(tmp_path: Path, database_url: str) -> None:
    """As a plain handler does."""
    text = "from rowcast import model, wait\ndef main():\n    print(wait(model('notes').objects.count()))\n"
    assert run(tmp_path, database_url, text) == (0, "0")


@pytest.mark.parametrize(
    ("text", "code", "output"),
    [
        ("import sys\nsys.exit(7)", 7, ""),
        ("raise SystemExit('enough')", 1, "enough"),
        ("def main():\n    return 'said'", 1, "said"),
        ("x = (", 1, "{script}:1: '(' was never closed"),
    ],
)
async def test_exit_codes(tmp_path: Path, database_url: str, text: str, code: int, output: str) -> None:
    """Those of ``sys.exit``; Python that is none is a line."""
    expected = output.format(script=tmp_path / "script.py")
    assert run(tmp_path, database_url, text) == (code, expected)


async def test_error_of_a_script_is_a_traceback_of_its_own_lines(tmp_path: Path, database_url: str) -> None:
    """It is the script's, so its author sees the line; the fields of a wrong value are named."""
    code, output = run(tmp_path, database_url, "def f():\n    1 / 0\n\nf()\n")
    assert code == 1
    frames = [line for line in output.splitlines() if line.startswith("  File")]
    assert [frame.split(", ")[1] for frame in frames] == ["line 4", "line 2"]
    text = "from rowcast import model\nawait model('notes').objects.create(text='')\n"
    code, output = run(tmp_path, database_url, text)
    frames = [line for line in output.splitlines() if line.startswith("  File")]
    assert (code, [frame.split(", ")[1] for frame in frames]) == (1, ["line 2"])
    assert output.splitlines()[-1].startswith("{'text': ['")
    code, output = run(tmp_path, database_url, "from rowcast import model\nmodel('notes').objects.create(text='x')\n")
    assert code == 1
    assert "QuerySet.create() in script.py:2 (model('notes').objects.create(text='x')) was never awaited" in output


async def test_shell_takes_a_command_or_standard_input(tmp_path: Path, database_url: str) -> None:
    """With the models by name, and without a console."""
    configure(tmp_path / "config", NOTES)
    text = "note = await Note.objects.create(text='x')\nasync with transaction():\n    print(note.text, await Note.objects.filter(Q(text='x')).count())"
    assert rowcast(tmp_path, "shell", "-c", text, DATABASE_URL=database_url) == (0, "x 1")
    hidden = without_settings()
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [sys.executable, "-m", "rowcast", "shell", "--config", str(tmp_path / "config"), "--database-url"]
    done = await asyncio.to_thread(
        subprocess.run, [*command, database_url], input="print(await Note.objects.count())", capture_output=True, text=True,
        env=environment, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "", 0)


async def test_database_that_does_not_match_is_reported(tmp_path: Path, database_url: str) -> None:
    """Rows may have to be changed before it can match, so the models of the other tables work."""
    configure(tmp_path / "config", {**NOTES, "tags": "fields: {name: {type: string}}"})
    text = "print(await Note.objects.count())"
    for command in (("shell", "-c", text), ("load", "/dev/null", "notes", "--format", "ndjson")):
        code, output = rowcast(tmp_path, *command, DATABASE_URL=database_url)
        assert (code, output.splitlines()[-1] == "0") == ((0, True) if command[0] == "shell" else (1, False)), output
        assert output.startswith("The database is not in line with the config; pending: CREATE TABLE tags"), output


async def test_console_awaits(tmp_path: Path, database_url: str) -> None:
    """With a banner; Ctrl-C ends a line that runs and nothing else, and an error is a short traceback."""
    configure(tmp_path / "config", NOTES, modules={"hooks": HOOKS})
    terminal = Terminal(tmp_path, "shell", "--database-url", database_url)
    try:
        banner = terminal.until(">>> ")
        assert "Models: Note. Also transaction" in banner
        terminal.type("note = await Note.objects.create(text='x')\n")
        terminal.until(">>> ")
        terminal.type("await Note.objects.count() + 41, state.word\n")
        assert "(42, 'started')" in terminal.until("\n>>> ")
        terminal.type("1 / 0\n")
        assert "rowcast" not in terminal.until("ZeroDivisionError: division by zero").partition("1 / 0")[2]
        terminal.until(">>> ")
        terminal.type("import asyncio; print('slee' + 'ping'); await asyncio.sleep(60)\n")
        terminal.until("sleeping")
        terminal.type("\x03")
        terminal.until("KeyboardInterrupt")
        terminal.until(">>> ")
        terminal.type("exit()\n")
        terminal.until("stopped")
        assert terminal.process.wait(30) == 0
    finally:
        terminal.process.kill()
        os.close(terminal.screen)
