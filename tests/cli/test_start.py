"""What ``rowcast serve`` loads before it is ready."""

from __future__ import annotations

import subprocess
import sys

NOT_AT_START = (
    "alembic",
    "cryptography",
    "gunicorn",
    "jwt",
    "mako",
    "opentelemetry",
    "prometheus_client",
    "rowcast.openapi.document",
    "ruamel",
    "sqlalchemy.orm",
    "watchfiles",
)


def test_serving_loads_no_library_that_it_may_never_need() -> None:
    code = "import sys, rowcast.commands.serving; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "rowcast.server.app" in loaded
    assert not {name for name in NOT_AT_START if name in loaded}
