"""The rows that a stream begins with at an edge: those of the same stream at the origin, sent on as they come.

The origin reads them for the caller, and tells the position after them. From there on the edge sends the changes itself.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from rowcast.changes.position import Position
from rowcast.database.absent import NeedsDatabase
from rowcast.streams.subscriber import Subscriber

_READY: Final = re.compile(rb"^event: ready\nid: (.+)$", re.MULTILINE)
_END_OF_BLOCK: Final = b"\n\n"


class ForwardedRows:
    """The beginning of a stream of the origin, from ``pieces`` of its bytes. ``close`` it at the end."""

    def __init__(self, pieces: AsyncIterator[bytes], close: Callable[[], Awaitable[None]]) -> None:
        self.close = close
        self._pieces = pieces
        self._position: Position | None = None  # once it has come

    async def begin(self, subscriber: Subscriber, _: object) -> None:
        """Send it, and let the subscriber go on from its position; ``NeedsDatabase`` if the origin ends the stream before."""
        try:
            async for blocks in self._blocks():
                await subscriber.send(blocks)
        finally:
            await self.close()
        if self._position is None:
            raise NeedsDatabase
        subscriber.position = self._position

    async def _blocks(self) -> AsyncIterator[bytes]:
        """All blocks up to the one with the position, in pieces of whole blocks."""
        waiting = b""
        async for piece in self._pieces:
            waiting += piece
            end = waiting.rfind(_END_OF_BLOCK)
            if end < 0:
                continue
            end += len(_END_OF_BLOCK)
            whole, waiting = waiting[:end], waiting[end:]
            if (ready := _READY.search(whole)) is not None:
                self._position = Position.parse(ready[1].decode())
                yield whole[: whole.index(_END_OF_BLOCK, ready.end()) + len(_END_OF_BLOCK)]
                return
            yield whole
