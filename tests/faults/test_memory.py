"""The memory of a process does not depend on what its clients have sent before."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

from .conftest import Run

CONNECTIONS = 100
BODY = b'{"txet": "%b"}' % (b"x" * 1_000_000)  # which is refused
HEADER = (
    b"POST /notes/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    % len(BODY)
)


def resident(pid: int) -> int:
    """The bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


async def test_idle_connections_keep_no_bodies(run: Run) -> None:
    """A connection that waits for its next request does not keep the body of its last one."""
    server = await run()
    address = urlsplit(server.origin)
    async with AsyncExitStack() as stack:
        for number in range(CONNECTIONS + 1):
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            stack.callback(writer.close)
            writer.write(HEADER + BODY)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 400")
            if number == 0:
                before = resident(server.pid)
        assert resident(server.pid) - before < CONNECTIONS * len(BODY) / 2
