"""Subscribers as a process of their own, which reads thousands of streams with as little work as it can.

Each line of JSON on standard input is a command, and its result is a line of JSON: ``[name, argument, …]``, where the
names are those of the methods of ``Subscribers``. A row counts where its mark is: one byte, which no read can split.
"""

from __future__ import annotations

import json
import re
import resource
import select
import socket
import struct
import sys
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from itertools import cycle
from typing import Any, Final

MARK: Final = b"@"  # is in every row once, after the row's number, and nowhere else in a stream
NUMBER: Final = re.compile(rb'"title":"(\d+)@')
SAMPLE: Final = (
    1_000  # streams of shared paths whose rows are parsed to measure latency; rows of the others are counted
)
WINDOW: Final = 100  # streams that are opened at the same time
BUFFER: Final = 1 << 18


class Stream:
    """One connection. ``rest`` is the bytes after the last row that was read, and ``None`` where rows are only counted."""

    __slots__ = ("rest", "socket")

    def __init__(self, address: tuple[str, int], path: str, source: str) -> None:
        self.rest: bytes | None = None
        self.socket = socket.create_connection(address, timeout=60, source_address=(source, 0) if source else None)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # no TIME_WAIT
        self.socket.sendall(b"GET %b HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n" % path.encode())


class Subscribers:
    """The open streams, and the rows that they have sent."""

    def __init__(self) -> None:
        self._streams: dict[int, Stream] = {}
        self._poll = select.epoll()
        self._buffer = bytearray(BUFFER)
        self._rows = 0
        self._numbers, self._times = array("q"), array("d")

    def connect(self, host: str, port: int, paths: list[str], sources: Sequence[str] = ("",)) -> int:
        """Open a stream for each path, from some addresses in turn or from any, and wait until all are ready."""
        for start in range(0, len(paths), WINDOW):
            opened = [
                Stream((host, port), path, source)
                for path, source in zip(paths[start : start + WINDOW], cycle(sources), strict=False)
            ]
            for stream in opened:
                opening = b""
                while b"event: ready\n" not in opening or not opening.endswith(b"\n\n\r\n"):
                    part = stream.socket.recv(BUFFER)
                    opening += part
                    if not part or b"event: busy\n" in opening:
                        raise ConnectionError(f"the service has refused a stream: {opening.decode()}")
                stream.socket.setblocking(False)
                self._streams[stream.socket.fileno()] = stream
                self._poll.register(stream.socket, select.EPOLLIN)
        every, shared = max(1, len(paths) // SAMPLE), Counter(paths)
        for number, (path, stream) in enumerate(zip(paths, self._streams.values(), strict=True)):
            # as many of each path, where paths take turns, and all of those that are the only one
            stream.rest = b"" if number // 10 % every == 0 or shared[path] == 1 else None
        return len(self._streams)

    def disconnect(self) -> int:
        """Close every stream."""
        for stream in self._streams.values():
            stream.socket.close()
        self._streams.clear()
        return 0

    def begin(self) -> int:
        """Forget the rows received so far."""
        self._rows = 0
        self._numbers, self._times = array("q"), array("d")
        return 0

    def wait(self, rows: int, seconds: float) -> int:
        """Wait until the streams have sent that many rows, and return the number of rows sent by then."""
        end = time.monotonic() + seconds
        while self._rows < rows and time.monotonic() < end:
            self.read(0.1)
        return self._rows

    def latencies(self, committed: list[float]) -> list[float]:
        """The ms from the commit of a row, whose number is its place, to each of its arrivals that were timed."""
        return [round((at - committed[n]) * 1e3, 3) for n, at in zip(self._numbers, self._times, strict=True)]

    def read(self, timeout: float, commands: int = -1) -> bool:
        """Read the bytes that have arrived. True if a command is waiting."""
        buffer, streams = self._buffer, self._streams
        has_command = False
        for descriptor, _ in self._poll.poll(timeout, 256):
            if descriptor == commands:
                has_command = True
                continue
            stream = streams[descriptor]
            size = stream.socket.recv_into(buffer)
            if not size:
                raise ConnectionError("the service has closed a stream")
            self._rows += buffer.count(MARK, 0, size)
            if stream.rest is not None:
                now = time.monotonic()
                text, end = stream.rest + buffer[:size], 0
                for found in NUMBER.finditer(text):
                    self._numbers.append(int(found[1]))
                    self._times.append(now)
                    end = found.end()
                stream.rest = text[max(end, len(text) - 40) :]
        return has_command

    def serve(self) -> None:
        """Read streams and run commands, until standard input ends."""
        self._poll.register(sys.stdin, select.EPOLLIN)
        while True:
            if self.read(10, sys.stdin.fileno()):
                line = sys.stdin.readline()
                if not line:
                    return
                name, *arguments = json.loads(line)
                result: Any = getattr(self, name)(*arguments)
                print(json.dumps(result), flush=True)


if __name__ == "__main__":
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    Subscribers().serve()
