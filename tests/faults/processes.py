"""Processes of the service, which a test may kill."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tests.conftest import ROOT

PATIENCE = 60.0


class Server:
    """``python -m rowcast serve`` on a configuration and a database; ``make_url`` is of the process that runs now.

    Standard error is read when the process ends. A process that logs much has a file for it, ``errors``.
    """

    def __init__(self, config: Path, url: str, *options: str, migrate: bool = True, errors: Path | None = None) -> None:
        self.config = config
        self._errors = errors
        self._arguments = [
            "--config",
            str(config),
            "--database-url",
            url,
            "--port",
            "0",
            *["--migrate"] * migrate,
            *options,
        ]
        self._variables: dict[str, str] = {}  # of its environment, also when it is started again
        self._process: asyncio.subprocess.Process | None = None
        self.origin = "http://127.0.0.1:1"  # nobody

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def make_url(self, path: str) -> str:
        return self.origin + path

    async def launch(self, **variables: str) -> None:
        """Start a process and do not wait until it is ready."""
        self._variables |= variables
        with self._standard_error() as errors:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "rowcast", "serve", *self._arguments,
                env={**os.environ, "PYTHONPATH": str(ROOT / "service"), "ROWCAST_DATA": str(self.config.parent / "data"), **self._variables}, stdout=asyncio.subprocess.PIPE, stderr=errors,
            )  # fmt: skip

    @contextlib.contextmanager
    def _standard_error(self) -> Iterator[IO[bytes] | int]:
        if self._errors is None:
            yield asyncio.subprocess.PIPE
            return
        with self._errors.open("ab") as file:
            yield file

    async def start(self, **variables: str) -> None:
        """Start a process, with variables of its environment besides those of earlier starts, and wait until it is ready."""
        await self.launch(**variables)
        await self.ready()

    async def ready(self) -> None:
        """Wait until a process that was launched is ready."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), PATIENCE)
        self.origin = line.decode().rpartition(" on ")[2].strip()
        assert self.origin.startswith("http://"), await self.log()

    async def complaint(self) -> str:
        """The first line on standard error."""
        assert self._process is not None
        assert self._process.stderr is not None
        return (await asyncio.wait_for(self._process.stderr.readline(), PATIENCE)).decode()

    async def kill(self) -> None:
        """Kill the process without warning."""
        self.origin = "http://127.0.0.1:1"
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self.log()

    async def ended(self) -> int:
        """Wait until the process has ended by itself; its exit code."""
        await self.log()
        assert self._process is not None
        assert self._process.returncode is not None
        return self._process.returncode

    async def log(self) -> str:
        """The process's standard error until it ends; empty if that is in a file."""
        assert self._process is not None
        _, errors = await asyncio.wait_for(self._process.communicate(), PATIENCE)
        return "" if errors is None else errors.decode()
