"""Owners of embedded servers, as processes that a test may kill."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import asyncpg


class Owner:
    """A process that owns an embedded server, and its reply to the last order to start one."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid
        self.server = 0
        self.url = ""

    def send(self, order: str) -> str:
        """Give an order and return the answer."""
        self.order(order)
        return self.answer()

    def order(self, order: str) -> None:
        """Give an order and do not wait for the answer."""
        assert self.process.stdin is not None
        print(order, file=self.process.stdin, flush=True)

    def answer(self) -> str:
        """Wait for the answer to an order."""
        assert self.process.stdout is not None
        answer = self.process.stdout.readline().rstrip()
        if answer.startswith(f"{self.pid} "):
            _, server, self.url = answer.split()
            self.server = int(server)
        return answer

    def query(self, statement: str) -> object:
        """Run one statement in a connection of its own."""
        return query(self.url, statement)

    def kill(self) -> None:
        """Kill the process without warning."""
        self.process.kill()
        self.process.wait()


class Own(Protocol):
    """Start an owner, and by default its server."""

    def __call__(self, data: Path, *settings: str, account: str = ..., start: bool = ...) -> Owner: ...


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that is bound to come true within seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; what has ended and is not collected yet does not."""
    status = Path(f"/proc/{pid}/stat")
    if pid == 0 or not status.exists():
        return False
    return status.read_text().rpartition(")")[2].split()[0] not in "ZX"


def kill(pid: int) -> None:
    """Kill a process without warning."""
    os.kill(pid, signal.SIGKILL)


def query(url: str, statement: str) -> object:
    """Run one statement in a connection of its own."""

    async def run() -> object:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(run())
