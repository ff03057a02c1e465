"""What ``rowcast serve`` loads and looks at before it is ready."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, write_config

NOT_AT_START = (
    "alembic",
    "cryptography",
    "gunicorn",
    "jwt",
    "mako",
    "opentelemetry",
    "prometheus_client",
    "rowcast.changes.origin",
    "rowcast.changes.relay",
    "rowcast.database.caller",
    "rowcast.openapi.document",
    "rowcast.server.checking",
    "rowcast.server.edge_answers",
    "rowcast.server.replication",
    "ruamel",
    "sqlalchemy.orm",
    "watchfiles",
)
RESOURCES = {"notes": "fields: {text: {type: text}}"}
SERVE_UNTIL_READY = """
import os, signal
import click
from rowcast.cli import main

BEFORE
echo = click.echo

def stop_when_ready(message, **options):
    if "is ready on" in message:
        WHEN_READY
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        echo(message, **options)

click.echo = stop_when_ready
main()
"""
NOTE_COLLECTIONS = """
import gc
looked_at = []
gc.callbacks.append(lambda phase, _: looked_at.append(len(gc.get_objects())) if phase == "start" else None)
"""


def serve_until_ready(directory: Path, url: str, *, before: str, when_ready: str) -> str:
    """What a service prints that runs some code before its command, and some when it is ready, and then stops."""
    write_config(directory / "config", RESOURCES, "server: {port: 0}\n")
    code = SERVE_UNTIL_READY.replace("BEFORE", before).replace("WHEN_READY", when_ready)
    command = [
        sys.executable, "-c", code, "serve", "--config", str(directory / "config"), "--database-url", url, "--port", "0"
    ]  # fmt: skip
    environment = {**os.environ, "ROWCAST_DATA": str(directory / "data")}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    return done.stdout.splitlines()[-1]


@pytest.mark.tables(RESOURCES)
def test_serving_loads_nothing_that_it_may_never_need(tmp_path: Path, database_url: str) -> None:
    loaded = serve_until_ready(tmp_path, database_url, before="import sys", when_ready="echo(' '.join(sys.modules))")
    assert "rowcast.server.app" in loaded.split()
    assert not {name for name in NOT_AT_START if name in loaded.split()}


@pytest.mark.tables(RESOURCES)
def test_the_collector_never_looks_at_what_the_service_is_made_of(tmp_path: Path, database_url: str) -> None:
    """Modules, configuration and application are more than 100,000 objects: to look at them once takes 50 ms and more."""
    report = "echo(' '.join(map(str, [gc.get_freeze_count(), *looked_at])))"
    printed = serve_until_ready(tmp_path, database_url, before=NOTE_COLLECTIONS, when_ready=report)
    kept, *looked_at = map(int, printed.split())
    assert kept > 50_000
    assert looked_at
    assert max(looked_at) < kept / 10, looked_at
