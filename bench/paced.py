"""Requests at a pace: how long each takes beside whatever else a service does, as a user of a page would see it."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final
from urllib.parse import urlsplit

from bench.cases import KEY
from bench.database import TASKS

CONNECTIONS: Final = 8  # which take turns, so that a slow response delays no other request


async def gets(origin: str, path: str, rate: float, seconds: float, seed: int = 0) -> list[float]:
    """The ms from each request for a row to the end of its response; ``TASK`` in the path is a key at random."""
    address = urlsplit(origin)
    chance = random.Random(seed)
    idle: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        idle.put_nowait(await asyncio.open_connection(address.hostname, address.port))
    found: list[float] = []

    async def get(due: float) -> None:
        reader, writer = await idle.get()
        target = path.replace("TASK", KEY.format(chance.randrange(1, TASKS + 1)))
        writer.write(f"GET {target} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
        header = await reader.readuntil(b"\r\n\r\n")
        if not header.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(f"{target}: {header.decode()}")
        length = next(line for line in header.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        found.append((time.monotonic() - due) * 1e3)
        idle.put_nowait((reader, writer))

    start = time.monotonic()
    tasks = []
    for number in range(max(2, round(rate * seconds))):
        due = start + number / rate
        await asyncio.sleep(max(0, due - time.monotonic()))
        tasks.append(asyncio.create_task(get(time.monotonic())))
    await asyncio.gather(*tasks)
    while not idle.empty():
        idle.get_nowait()[1].close()
    return found
