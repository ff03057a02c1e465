"""The program under attack: ``python -m tests.fuzz.process SOCKET serve …`` is ``rowcast serve …`` with a probe.

The probe is a task of the service's event loop. It measures how much CPU time the loop's thread takes before it comes back
to the probe, so other programs on a busy machine do not count. They also make a core slower, by half and more: so a piece
of work that is always the same is timed as well. A thread notes where the loop is while the probe is late.
Each line sent to SOCKET is answered with a ``Reading`` as JSON, and begins a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

from aiohttp import web

from rowcast.cli import main
from rowcast.commands import serving
from rowcast.server.app import create_app

INTERVAL_SECONDS = 0.005
LATE_SECONDS = 0.030
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Reading:
    """What the probe saw since the last reading: the longest block of the loop, and the process as it is now."""

    blocked: float = 0.0  # seconds of CPU, as if the core were as fast as it has ever been in this process
    where: str = ""
    memory: int = 0  # bytes, resident
    blocks: int = 0  # of memory that Python has allocated: unlike ``memory`` it does not depend on past peaks
    files: int = 0  # open descriptors
    tasks: int = 0


def yardstick() -> float:
    """The seconds of CPU for some work, a fraction of a millisecond."""
    begun = time.thread_time()
    sum(number % 7 for number in range(2000))
    return time.thread_time() - begun


class Probe:
    """Watches the event loop that runs it."""

    def __init__(self) -> None:
        self._reading = Reading()
        self._beat = time.monotonic()
        self._where = ""
        self._fastest = min(yardstick() for _ in range(50))
        self._loop_thread = threading.get_ident()

    async def watch(self) -> None:
        """Measure, for ever."""
        threading.Thread(target=self._look, daemon=True).start()
        while True:
            self._beat, self._where = time.monotonic(), ""
            before = time.thread_time()
            await asyncio.sleep(INTERVAL_SECONDS)
            blocked = time.thread_time() - before
            if blocked > self._reading.blocked:
                self._reading.blocked, self._reading.where = blocked, self._where

    def _look(self) -> None:
        while True:
            time.sleep(INTERVAL_SECONDS)
            if time.monotonic() - self._beat > LATE_SECONDS and not self._where:
                frame = sys._current_frames().get(self._loop_thread)
                self._where = " > ".join(
                    f"{Path(each.filename).name}:{each.lineno} {each.name}"
                    for each in traceback.extract_stack(frame)[-6:]
                )

    def take(self, *, collect: bool) -> Reading:
        """End a reading and begin the next. ``collect`` frees garbage first, so that memory can be compared."""
        if collect:
            gc.collect()
            with contextlib.suppress(AttributeError):  # glibc alone has it
                ctypes.CDLL(None).malloc_trim(0)
        reading, self._reading = self._reading, Reading()
        now = min(yardstick() for _ in range(3))
        self._fastest = min(self._fastest, now)
        reading.blocked *= self._fastest / now
        reading.memory = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES
        reading.blocks = sys.getallocatedblocks()
        reading.files = len(os.listdir("/proc/self/fd"))
        reading.tasks = len(asyncio.all_tasks())
        return reading


def attach(app: web.Application, path: str) -> web.Application:
    """Run a probe beside an application, and answer for it at a socket."""

    async def run(_: web.Application) -> AsyncIterator[None]:
        probe = Probe()
        watching = asyncio.create_task(probe.watch(), name="probe")

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                writer.write(json.dumps(asdict(probe.take(collect=line == b"collect\n"))).encode() + b"\n")
            writer.close()

        server = await asyncio.start_unix_server(answer, path)
        yield
        server.close()
        watching.cancel()

    app.cleanup_ctx.append(run)
    return app


if __name__ == "__main__":
    path, *arguments = sys.argv[1:]
    with mock.patch.object(serving, "create_app", lambda *args, **named: attach(create_app(*args, **named), path)):
        main(arguments)
