"""Waiting for a state that offers no event to wait for."""

from __future__ import annotations

import asyncio
import inspect
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
