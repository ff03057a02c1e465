"""The page about the airports example is correct: its commands run and print the output on the page."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Serve
from tests.sse import without_heartbeats

PAGE = (ROOT / "docs" / "airports.md").read_text()
RESOURCES = {path.stem: path.read_text() for path in (ROOT / "examples/airports/resources").glob("*.yaml")}
ADDRESS = "http://127.0.0.1:8000"
DATABASE = "postgresql://postgres@/rowcast?host=$(readlink -f .rowcast/run)"


def blocks(language: str) -> list[str]:
    """The page's blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def lines(text: str) -> list[str]:
    """The lines that are not empty."""
    return [line for line in text.splitlines() if line]


def test_page_shows_the_configuration_as_it_is() -> None:
    """The YAML on the page is in the files, word for word."""
    whole, part = blocks("yaml")
    assert whole == RESOURCES["airports"]
    assert part in RESOURCES["imports"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page's commands use curl")
async def test_commands_print_what_the_page_shows(serve: Serve, database_url: str) -> None:
    """The commands of each block, run from the top of the page, print the lines after them; … matches anything.

    A stream may get a heartbeat soon after it has opened, which the page does not show.
    """
    client = await serve(RESOURCES)
    address = str(client.make_url("")).rstrip("/")
    bin_directory = Path(sys.executable).parent
    for block in blocks("shellsession"):
        commands = [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
        shown = [line for line in lines(block) if not line.startswith("$ ")]
        script = "\necho\n".join(commands).replace(ADDRESS, address).replace(DATABASE, database_url)
        script = script.replace(".venv/bin", shlex.quote(str(bin_directory)))
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", script, cwd=ROOT, env={**os.environ, "no_proxy": "127.0.0.1"},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        async with asyncio.timeout(60):
            printed, _ = await process.communicate()
        output = lines(without_heartbeats(printed.decode().replace(address, ADDRESS)))
        assert len(output) == len(shown), (block, output)
        for line, pattern in zip(output, shown, strict=True):
            assert re.fullmatch(".*".join(map(re.escape, pattern.split("…"))), line), (pattern, line)
