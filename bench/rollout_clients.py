"""The streams of ``bench.rollout`` as a process of their own: clients that connect again when their stream ends, as browsers do.

Each line of JSON on standard input is a command, and its result is a line of JSON. ``["open", ports, count]`` opens streams, a part
of them at each port, ``["count"]`` returns how many are open, ``["begin"]`` forgets what has happened so far, and ``["result"]``
returns it.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections import Counter
from contextlib import suppress
from typing import Any, Final

import uvloop

OPENED_AT_ONCE: Final = 100
BUFFER_BYTES: Final = 2 << 10  # of a stream, that are read before the client waits


class Clients:
    """Streams, and when they were opened."""

    def __init__(self) -> None:
        self._opening = asyncio.Semaphore(OPENED_AT_ONCE)
        self._tasks: list[asyncio.Task[None]] = []
        self._open = 0
        self._begun: list[float] = []  # when connections began
        self._waits: list[float] = []  # from then until the stream was open, in seconds
        self._refused: Counter[str] = Counter()

    def open(self, ports: list[int], count: int) -> int:
        """Begin to open so many streams."""
        self._tasks += [asyncio.create_task(self._stream(ports[n % len(ports)])) for n in range(count)]
        return len(self._tasks)

    def count(self) -> int:
        """The number of open streams."""
        return self._open

    def begin(self) -> int:
        """Forget what has happened so far."""
        self._begun.clear()
        self._waits.clear()
        self._refused.clear()
        return 0

    def result(self) -> dict[str, Any]:
        """What has happened."""
        return {"begun": self._begun, "waits": self._waits, "refused": self._refused}

    async def _stream(self, port: int) -> None:
        last, retry = "", 2.0
        async with self._opening:  # at first; clients that come back do not wait for each other
            reader, writer, status = await self._connect(port, last)
        while True:
            if reader is None:
                self._refused[status] += 1
            else:
                self._open += 1
                with suppress(OSError):
                    while line := await reader.readline():
                        if line.startswith(b"id: "):
                            last = line[4:].strip().decode()
                        elif line.startswith(b"retry: "):
                            retry = int(line[7:]) / 1000
                        elif line == b"event: busy\n":
                            self._refused["busy"] += 1
                self._open -= 1
            if writer is not None:
                writer.close()
            await asyncio.sleep(retry)
            self._begun.append(begun := time.monotonic())
            reader, writer, status = await self._connect(port, last)
            if reader is not None:
                self._waits.append(time.monotonic() - begun)

    async def _connect(
        self, port: int, last: str
    ) -> tuple[asyncio.StreamReader | None, asyncio.StreamWriter | None, str]:
        """A stream that has begun; without a reader if it was refused, with the reason."""
        writer: asyncio.StreamWriter | None = None
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=BUFFER_BYTES)
            resume = f"Last-Event-ID: {last}\r\n" if last else ""
            writer.write(
                f"GET /notes/stream/ HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n{resume}"
                "Connection: close\r\n\r\n".encode()
            )
            status = (await reader.readline())[9:12].decode()
            if status == "200":
                await reader.readuntil(b"\r\n\r\n")
                return reader, writer, status
            return None, writer, status
        except (OSError, asyncio.IncompleteReadError):
            return None, writer, "lost"


async def main() -> None:
    """Run commands, until standard input ends."""
    clients = Clients()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(clients, name)(*arguments)), flush=True)


if __name__ == "__main__":
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    uvloop.run(main())
