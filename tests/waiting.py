"""Waiting for a state that offers no event to wait for."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Awaitable, Callable

INTERVAL_SECONDS = 0.005


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 30) -> None:
    """Wait until a condition, which may be asynchronous, holds; ``TimeoutError`` after so many seconds."""
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if await found if inspect.isawaitable(found) else found:
                return
            await asyncio.sleep(INTERVAL_SECONDS)


async def until_listening(process: asyncio.subprocess.Process, port: int) -> None:
    """Wait until a process that runs accepts connections."""

    def listening() -> bool:
        assert process.returncode is None
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    await until(listening)
