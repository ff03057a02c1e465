"""A running service to attack: its process, its rows, and what its probe and its standard error report."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from tests.conftest import ROOT

from .configuration import ROWS
from .process import Reading

START_SECONDS = 60.0
STOP_SECONDS = 30.0
FAULT = re.compile(r'Traceback|"level": ?"(error|critical)"|never awaited|never retrieved|unclosed')
"""What standard error must not contain: no attack is the service's own fault."""


@dataclass
class Service:
    """A process of the service with a probe, and what is known of its rows."""

    process: asyncio.subprocess.Process
    host: str
    port: int
    probe: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    errors: list[str] = field(default_factory=list)  # lines of standard error that nobody has looked at
    ids: dict[str, list[str]] = field(default_factory=dict)  # keys of rows, by resource
    links: list[str] = field(default_factory=list)  # addresses of next pages, with cursors
    positions: list[str] = field(default_factory=lambda: ["1-1"])
    longest: Reading = field(default_factory=Reading)  # the one with the longest block

    @property
    def origin(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def reading(self, *, collect: bool = False) -> Reading:
        """What the probe saw since the last reading."""
        reader, writer = self.probe
        writer.write(b"collect\n" if collect else b"read\n")
        line = await asyncio.wait_for(reader.readline(), START_SECONDS)
        if not line:
            raise ConnectionError("the service has ended")
        reading = Reading(**json.loads(line))
        if not collect and reading.blocked > self.longest.blocked:
            self.longest = reading
        return reading

    def faults(self) -> list[str]:
        """Faults on standard error since the last call. Each has its lines, if it is a traceback."""
        text, self.errors[:] = "".join(self.errors), []
        return [text[-3000:]] if FAULT.search(text) else []

    async def fill(self, rows: Mapping[str, tuple[dict[str, Any], ...]] = ROWS) -> None:
        """Create rows, and remember keys, cursors and positions for attacks to build on."""
        async with aiohttp.ClientSession(self.origin) as session:
            for resource, bodies in rows.items():
                for body in bodies:
                    async with session.post(f"/{resource}/", json=body) as response:
                        assert response.status in (201, 409), await response.text()  # 409: it has it already
                async with session.get(f"/{resource}/") as response:
                    listed = await response.json()
                    self.positions.append(response.headers["X-Stream-Position"])
                found = listed if isinstance(listed, list) else listed["results"]
                key = next(iter(found[0]))
                self.ids[resource] = [str(row[key]) for row in found]
                if isinstance(listed, dict) and listed["next"]:
                    self.links.append(listed["next"].removeprefix(self.origin))

    async def _collect_errors(self) -> None:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.errors.append(line.decode(errors="replace"))


@asynccontextmanager
async def running(config: Path, database_url: str) -> AsyncIterator[Service]:
    """Start a service for a config directory on an empty database, and stop it afterwards."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("CREATE EXTENSION IF NOT EXISTS citext")
    await connection.close()
    with tempfile.TemporaryDirectory(prefix="rowcast-fuzz-") as directory:  # a short path: sockets allow 107 bytes
        socket = f"{directory}/probe"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.fuzz.process", socket, "serve", "--config", str(config),
            "--database-url", database_url, "--port", "0", "--migrate", cwd=ROOT, limit=2**24,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'service'}:{ROOT}"},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            line = (await asyncio.wait_for(process.stdout.readline(), START_SECONDS)).decode()
            match = re.search(r"http://([\d.]+):(\d+)", line)
            if match is None:
                process.kill()
                raise RuntimeError(f"the service has not started: {(await process.stderr.read()).decode()}")
            service = Service(process, match[1], int(match[2]), await asyncio.open_unix_connection(socket))
            collecting = asyncio.create_task(service._collect_errors())
            await service.reading(collect=True)  # without the start
            yield service
            if process.returncode is None:
                process.terminate()
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            await collecting
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
