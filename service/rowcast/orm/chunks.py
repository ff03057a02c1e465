"""Query sets read in chunks, so that memory holds few of their rows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from rowcast.orm.bridge import wait


class RowsInChunks:
    """The rows of a query set one after the other, read in chunks; with ``for`` inside a handler, too."""

    def __init__(self, rows: Any, chunk: int) -> None:
        self._rows = rows
        self._chunk = chunk

    async def __aiter__(self) -> AsyncIterator[Any]:
        rest = self._rows
        while True:
            found, shown, rest = await self._next(rest)
            for row in shown:
                yield row
            if len(found) < self._chunk:
                return

    def __iter__(self) -> Iterator[Any]:
        rest = self._rows
        while True:
            found, shown, rest = wait(self._next(rest))
            yield from shown
            if len(found) < self._chunk:
                return

    async def _next(self, rest: Any) -> tuple[list[Any], list[Any], Any]:
        """The next rows, the same as the query set shows them, and the rows after these."""
        found = await rest.instances()[: self._chunk]
        return found, rest.shown(found), rest.after(found[-1]) if found else rest
