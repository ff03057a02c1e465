"""The services that run on this host: a file each in ``<database.data>/services``, by which ``rowcast reload`` finds them.

A file is locked as long as its service lives, so a file that is not locked is left over. Its first line describes the
service, and each further line is the outcome of a reload in one of its processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import structlog

from rowcast.configuration.load import Configuration
from rowcast.configuration.settings import SERVICES_DIRECTORY

_logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of a reload: it was applied, or rejected because of ``problems``.

    ``began`` is in seconds of the clock that all processes of a host share. ``process`` is the id of the process.
    """

    problems: tuple[str, ...]
    began: float
    process: int


class Record:
    """The file of a running service, which its processes write to."""

    def __init__(self, file: int | None) -> None:
        self._file = file

    def note(self, outcome: Outcome) -> None:
        """Add the outcome of a reload."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.write(self._file, orjson.dumps(outcome) + b"\n")


@contextlib.contextmanager
def announced(configuration: Configuration) -> Iterator[Record]:
    """Let ``rowcast reload`` find this process inside; it cannot where the directory cannot be written."""
    settings = configuration.settings
    directory = settings.database.data / SERVICES_DIRECTORY
    path = directory / f"{os.getpid()}.jsonl"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    except OSError as error:
        _logger.info("service_not_announced", directory=str(directory), error=error.strerror)
        yield Record(None)
        return
    about = {
        "pid": os.getpid(),
        "config": str(configuration.directory.resolve()),
        "processes": settings.server.workers,
    }
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.write(file, orjson.dumps(about) + b"\n")
        yield Record(file)
    finally:
        if os.getpid() == about["pid"]:  # not a worker, which ends with the same block
            with contextlib.suppress(OSError):
                path.unlink()
        os.close(file)


@dataclass(frozen=True, slots=True)
class RunningService:
    """A service that runs: the process that takes signals, its config directory, and how many processes serve."""

    pid: int
    config: Path
    processes: int
    path: Path

    def outcomes(self, since: float) -> list[Outcome]:
        """The outcome of each process's last reload that began after a time; empty if the service has ended."""
        try:
            _, *lines = self.path.read_bytes().splitlines(keepends=True)
        except (OSError, ValueError):
            return []
        read = [_outcome(orjson.loads(line)) for line in lines if line.endswith(b"\n")]
        return list({each.process: each for each in read if each.began >= since}.values())

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return _is_locked(self.path)


def running_services(data: Path) -> list[RunningService]:
    """The services whose files are in a state directory. Files that were left behind are removed."""
    found = []
    for path in sorted((data / SERVICES_DIRECTORY).glob("*.jsonl")):
        if not _is_locked(path):
            path.unlink(missing_ok=True)
            continue
        first = path.read_bytes().partition(b"\n")[0]
        if first:  # otherwise the service is just starting
            about = orjson.loads(first)
            found.append(RunningService(about["pid"], Path(about["config"]), about["processes"], path))
    return found


def terminal_watch() -> Callable[[], bool]:
    """A function whose result is whether the terminal that this process was started on has been closed.

    That sends SIGHUP as well, and then nobody is left to stop the process.
    """
    terminals = [number for number in (0, 1, 2) if os.isatty(number)]
    return lambda: bool(terminals) and not any(map(os.isatty, terminals))


def now() -> float:
    """The time on the clock that all processes of a host share."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def _outcome(data: dict[str, Any]) -> Outcome:
    return Outcome(tuple(data["problems"]), data["began"], data["process"])


def _is_locked(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False
