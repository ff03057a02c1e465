"""The least that sending to many costs: a process that writes the bytes of a stream to every connection, and does nothing else.

``python -m bench.stream_floor CONNECTIONS`` listens on a free port, which it prints, and reads nothing but a first message from each
client. Then each line of JSON on standard input, ``[first, count, rate]``, has it send rows with these numbers, so many a second; it prints
the time at which it began with each, and the seconds of CPU that all of them took. Clients are those of ``bench.stream_clients``.
"""

from __future__ import annotations

import json
import resource
import socket
import sys
import time
from typing import Final

BACKLOG: Final = 4096
HEADER: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
READY: Final = b"retry: 2000\nevent: ready\nid: 1-1-0\ndata: {}\n\n"
ROW: Final = (
    b'id: 1795972461088580-1234567-1\ndata: {"action":"INSERT","resource":"tasks","id":"019ad0c4-2b5e-7c3e-8b1e-5d2f3a4b5c6d","data":'
    b'{"id":"019ad0c4-2b5e-7c3e-8b1e-5d2f3a4b5c6d","title":"%d@","description":"","completed":false,"priority":"normal","view_count":0,'
    b'"author_id":"00000000-0000-0000-0000-000000000001","due_date":null,"created_at":"2026-11-29T17:00:00.000000Z","updated_at":'
    b'"2026-11-29T17:00:00.000000Z"},"at":"2026-11-29T17:00:00.000000+00:00","seq":1234567,"tx":"1234567"}\n\n'
)  # as long as what the service sends


def chunk(data: bytes) -> bytes:
    """A chunk of HTTP/1.1."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def accepted(listening: socket.socket, count: int) -> list[socket.socket]:
    """So many connections, whose clients have been sent the beginning of a stream."""
    found = []
    for _ in range(count):
        connection, _ = listening.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.recv(1 << 16)
        connection.sendall(HEADER + chunk(READY))
        connection.setblocking(False)
        found.append(connection)
    return found


def send(connections: list[socket.socket], first: int, count: int, rate: float) -> tuple[list[float], float]:
    """Send rows to all connections; the times at which that began, and the CPU that it took."""
    sends = [connection.send for connection in connections]
    begun, cpu, start = [], time.process_time(), time.monotonic()
    for number in range(count):
        time.sleep(max(0, start + number / rate - time.monotonic()))
        begun.append(time.monotonic())
        data = chunk(ROW % (first + number))
        for each in sends:
            each(data)
    return begun, time.process_time() - cpu


def main(count: int) -> None:
    """Serve until standard input ends."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listening:
        print(listening.getsockname()[1], flush=True)
        connections = accepted(listening, count)
    for line in sys.stdin:
        print(json.dumps(send(connections, *json.loads(line))), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
