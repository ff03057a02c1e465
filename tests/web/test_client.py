"""The client's own tests, which Node runs against a service in memory, and the types of its sources."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rowcast.server.assets import CLIENT, read_assets

from ..conftest import ROOT
from ..programs import NODE

WEB = ROOT / "web"
COMPILER = WEB / "node_modules" / ".bin" / "tsc"


@pytest.mark.skipif(NODE is None, reason="there is no Node: `make web` gets one")
@pytest.mark.skipif(CLIENT not in read_assets(), reason="the web files are not built; `make web` builds them")
def test_client_shows_what_the_service_has() -> None:
    """Events, limits, lost connections, resets, credentials, one's own changes; and a random run."""
    tests = sorted((WEB / "client" / "test").glob("*.test.js"))
    run_node("--test", *tests)


@pytest.mark.skipif(NODE is None, reason="there is no Node: `make web` gets one")
@pytest.mark.skipif(not COMPILER.exists(), reason="the packages of web/ are not installed; `make web` installs them")
def test_sources_have_the_types_that_they_declare() -> None:
    """So has a use with the types of a service's OpenAPI document."""
    run_node(COMPILER.resolve(), "--noEmit", "--project", WEB / "client")
    run_node(COMPILER.resolve(), "--noEmit", "--project", WEB / "client" / "test")


def run_node(*arguments: str | Path) -> None:
    """Run Node, and show what it has printed if it fails."""
    assert NODE is not None
    command = [NODE, *map(str, arguments)]
    done = subprocess.run(command, cwd=WEB, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
