"""Requests and streams of services that read from a standby: parts of the suite pass as they do without one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.databases import needs_embedded_server

SUITE = (
    "tests/http/test_filters.py tests/http/test_pages.py",
    "tests/http/test_aggregates.py tests/http/test_row_security.py",
    "tests/stream/test_resume.py tests/stream/test_snapshot.py tests/stream/test_transactions.py tests/faults/test_list.py",
)


@pytest.mark.parametrize("modules", SUITE)
def test_the_suite(modules: str) -> None:
    """A commit waits for the standby there, so that what tests write with SQL can be read at once."""
    needs_embedded_server()
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *modules.split()]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "ROWCAST_TEST_REPLICA": "1"}, stdout=subprocess.PIPE, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
