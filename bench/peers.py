"""Who is compared: servers as processes of their own, and what they use."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from bench.cases import Case, comparable, fill

ROOT: Final = Path(__file__).parent.parent
TICKS: Final = os.sysconf("SC_CLK_TCK")
PATHS: Final = {
    "get": "/tasks/TASK/",
    "first": "/tasks/",
    "small": "/authors/",
    "filtered": "/tasks/?completed=true&priority=high",
    "embedded": "/tasks/?expand=author",
    "deep": "/tasks/?page=2000",
    "create": "/tasks/",
    "patch": "/tasks/TASK/",
}
ROWCAST: Final = (sys.executable, "-m", "service")
CONFIG: Final = ("--config", "bench/config", "--database-url")


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to measure. ``command`` prints a line with its URL once it is ready; ``paths`` are by name of case."""

    name: str
    command: tuple[str, ...]
    paths: Mapping[str, str]


def peers(url: str) -> list[Peer]:
    """All peers on a database. The others are measured by the first."""
    floor = (sys.executable, "-m", "bench.floor", url)
    writes = {name: PATHS[name] for name in ("create", "patch")}
    return [
        Peer("floor", (*floor, "floor"), PATHS),
        Peer("floor, changes logged", (*floor, "public"), writes),
        Peer("Rowcast", (*ROWCAST, "serve", *CONFIG, url, "--port", "0"), PATHS),
    ]


def migrate(url: str) -> None:
    """Make the service's tables and their triggers."""
    command = [*ROWCAST, "migrate", "--sync", *CONFIG, url]
    subprocess.run(command, cwd=ROOT, env=_environment(), check=True, stdout=subprocess.DEVNULL)


class Server:
    """A peer that runs, at ``origin``."""

    def __init__(self, peer: Peer, origin: str, pid: int) -> None:
        self.peer = peer
        self.origin = origin
        self.pid = pid

    @property
    def cpu(self) -> float:
        """Seconds of CPU that it has used."""
        return sum(_times(self.pid)[:2])

    @property
    def rss(self) -> float:
        """MiB of memory that it has."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s*(\d+) kB", status, re.MULTILINE)
        return int(found[1]) / 1024 if found else 0.0

    def ask(self, case: Case, number: int) -> tuple[int, Any]:
        """Status and comparable part of the answer to one request, about a certain row."""
        request = urllib.request.Request(
            self.origin + fill(self.peer.paths[case.name], number),
            method=case.method,
            data=fill(case.body, number).encode() or None,
            headers={"Content-Type": "application/json"} if case.body else {},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, comparable(case, orjson.loads(response.read()))
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")


@contextlib.contextmanager
def running(peer: Peer, log: Path) -> Iterator[Server]:
    """Start a peer, wait until it is ready, and end it afterwards; ``log`` gets what it says on standard error."""
    with log.open("wb") as errors:
        process = subprocess.Popen(
            peer.command, cwd=ROOT, env=_environment(), stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"https?://\S+", line):
                break
        else:
            raise RuntimeError(f"{peer.name} did not start:\n{log.read_text()}")
        yield Server(peer, found[0].rstrip("/"), process.pid)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def postgres_cpu(postmaster: int) -> float:
    """Seconds of CPU that a PostgreSQL server has used: its processes, and those that have ended."""
    spent = sum(_times(postmaster))
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended: the postmaster has its times now or soon
            if _fields(stat)[1] == str(postmaster):
                spent += sum(_times(int(stat.parent.name))[:2])
    return spent


def _times(pid: int) -> list[float]:
    """Seconds of CPU: user, system, and those of its children that have ended."""
    return [int(field) / TICKS for field in _fields(Path(f"/proc/{pid}/stat"))[11:15]]


def _fields(stat: Path) -> list[str]:
    """What proc_pid_stat(5) says of a process, from the third field on."""
    return stat.read_text().rpartition(")")[2].split()


def _environment() -> dict[str, str]:
    """The environment without settings of the service."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("ROWCAST_", "DATABASE_URL"))}
