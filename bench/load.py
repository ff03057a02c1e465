"""Load on one address for some seconds: by wrk, or where it is not installed by a slower generator of our own."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import uvloop

from bench.cases import AUTHORS, CONNECTIONS, PARTS, TASKS, Case, fill

SCRIPT: Final = Path(__file__).with_name("load.lua")


@dataclass(frozen=True, slots=True)
class Load:
    """The result of a load. Times are in milliseconds."""

    requests: int
    seconds: float
    failed: int
    median: float
    p99: float


def generator() -> str:
    """The generator in use, for the reader of the results."""
    if shutil.which("wrk") is None:
        return "a generator in Python, which costs as much as a server and evens them out (install wrk)"
    version = subprocess.run(["wrk", "--version"], capture_output=True, text=True, check=False).stdout
    return " ".join(version.split()[:2])


def put(
    origin: str,
    case: Case,
    path: str,
    *,
    seconds: int,
    seed: int,
    tasks: int = TASKS,
    connections: int = CONNECTIONS,
    tags: Path | None = None,
) -> Load:
    """Put load on an address, about some of so many rows; the same requests for the same seed.

    ``tags`` is a file with the tags of conditional requests: a line for each row, or one for all.
    The path of a mixed load is a line for each part: its share in percent, its method and its path.
    """
    if shutil.which("wrk") is None:
        known = tags.read_text().splitlines() if tags is not None else []
        return uvloop.run(_generate(origin, case, path, seconds, seed, tasks, connections, known))
    done = subprocess.run(
        ["wrk", "--threads=1", f"--connections={connections}", f"--duration={seconds}s", f"--script={SCRIPT}", origin,
         "--", str(seed), str(tasks), str(AUTHORS), str(tags or "-"), case.method, path, *([case.body] if case.body else [])],
        capture_output=True, text=True, timeout=seconds + 30, check=True,
    )  # fmt: skip
    found = re.search(r"^result (\d+) (\d+) (\d+) (\d+) (\d+)$", done.stdout, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"wrk did not say what it did:\n{done.stdout}{done.stderr}")
    requests, microseconds, failed, median, p99 = map(int, found.groups())
    return Load(requests, microseconds / 1e6, failed, median / 1e3, p99 / 1e3)


def mixed(case: Case, paths: Mapping[str, str]) -> str:
    """The path of a mixed load, of those of its parts."""
    return "\n".join(f"{share} {PARTS[name].method} {paths[name]}" for name, share in case.shares.items())


def parts(case: Case, path: str) -> list[tuple[int, str, str]]:
    """The share, the method and the path of each part of a load."""
    if not case.shares:
        return [(100, case.method, path)]
    lines = [line.split(" ", 2) for line in path.splitlines()]
    return [(int(share), method, each) for share, method, each in lines]


async def _generate(
    origin: str, case: Case, path: str, seconds: int, seed: int, tasks: int, connections: int, tags: Sequence[str]
) -> Load:
    """The same without wrk: each connection sends, reads the whole answer, and sends again."""
    address = urlsplit(origin)
    choose = random.Random(seed)
    requests = parts(case, path)
    shares = [share for share, _, _ in requests]
    times: list[float] = []
    failed = 0
    start = time.perf_counter()

    async def run() -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            while (sent := time.perf_counter()) < start + seconds:
                number = choose.randint(1, tasks)
                _, method, each = choose.choices(requests, shares)[0]
                body = b"" if method == "GET" else fill(case.body, number).encode()
                condition = f"If-None-Match: {tags[(number - 1) % len(tags)]}\r\n" if tags else ""
                writer.write(
                    f"{method} {fill(each, number)} HTTP/1.1\r\nHost: {address.netloc}\r\n{condition}"
                    f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                    + body
                )
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = re.search(rb"content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                times.append((time.perf_counter() - sent) * 1e3)
                failed += not head.startswith((b"http/1.1 2", b"http/1.1 304"))
        finally:
            writer.close()

    async with asyncio.timeout(seconds + 30):
        await asyncio.gather(*(run() for _ in range(connections)))
    spent = time.perf_counter() - start
    quantiles = statistics.quantiles(times, n=100)
    return Load(len(times), spent, failed, quantiles[49], quantiles[98])
