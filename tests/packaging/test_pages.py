"""The pages for a stranger: their commands are run with the wheel, outside the checkout, and print what the pages say."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.docs.test_docs import ADDRESS, STRANGERS, blocks, matches

from .conftest import environment

DEADLINE_SECONDS = 60


class Terminal:
    """A shell, in which a command that serves goes on while the next ones run."""

    def __init__(self, directory: Path, python: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = str(free.getsockname()[1])
        path = f"{python.parent}:{environment()['PATH']}"
        self.environment = environment(PATH=path, ROWCAST_PORT=self.port, NO_PROXY="*")
        self.directory = directory
        self.state = directory / "state"
        self.state.write_text(f"cd {directory}")
        self.service: subprocess.Popen[str] | None = None

    def run(self, command: str, expected: str) -> None:
        """Run a command until it prints what the page says: a service may still be taking over what was changed."""
        if command.startswith("rowcast serve"):
            self._serve(command, expected)
            return
        local = command.replace(ADDRESS, f"http://127.0.0.1:{self.port}").replace("curl ", "curl -sS ")
        keep = f"declare -px >{self.state}; echo cd $(pwd) >>{self.state}"
        deadline = time.monotonic() + (DEADLINE_SECONDS if command.startswith("curl") else 0)
        while True:
            done = subprocess.run(
                ["bash", "-c", f". {self.state}; {local}\n{keep}"], env=self.environment, text=True, check=False,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=self.directory, timeout=DEADLINE_SECONDS * 2,
            )  # fmt: skip
            if matches(expected, done.stdout.replace(f":{self.port}", ":8000")):
                return
            assert time.monotonic() < deadline, f"$ {command}\n{done.stdout}\n--- the page says\n{expected}"
            time.sleep(0.1)

    def _serve(self, command: str, expected: str) -> None:
        self.service = subprocess.Popen(
            ["bash", "-c", f". {self.state}; exec {command}"], env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self.service.stdout is not None
        printed = self.service.stdout.readline()
        assert matches(expected, printed.replace(f":{self.port}", ":8000")), printed
        self.state.write_text(f"cd {self.directory}")  # the next commands are typed into another terminal

    def close(self) -> None:
        """End the service as Ctrl-C does."""
        if self.service is not None:
            self.service.send_signal(signal.SIGINT)
            assert self.service.wait(DEADLINE_SECONDS) == 0


@pytest.mark.parametrize("page", STRANGERS, ids=lambda page: page.name)
def test_a_stranger_follows_the_page(page: Path, python: Path, tmp_path: Path) -> None:
    """Every command in its order."""
    terminal = Terminal(tmp_path, python)
    try:
        for block in blocks(page):
            for command, expected in block.commands if block.language == "console" else ():
                terminal.run(command, expected)
    finally:
        terminal.close()
