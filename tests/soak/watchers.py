"""Clients that list and watch through HAProxy, and record what they see for the judge."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Final

import aiohttp

from rowcast.changes.position import Position
from tests.faults.clients import QUERIES, Client

from .judge import Event, Matches, Record, Row

READERS_ADDRESS: Final = (
    "127.0.0.2"  # not that of the writers, whose reads go to the primary for a moment after each write
)

MATCHES: Final[Mapping[str, Matches]] = {
    "": lambda row: True,
    "done=true": lambda row: row.done,
    "text__icontains=A": lambda row: "a" in row.text.lower(),
    "owner=1": lambda row: row.owner_id == 1,
    "owner__in=1,2&done=true": lambda row: row.owner_id in (1, 2) and row.done,
}
"""What the queries of the clients of the fault tests show."""
assert MATCHES.keys() == QUERIES.keys()


def row_of(document: Mapping[str, Any]) -> Row:
    return Row(document["text"], document["done"], document["owner_id"])


class Watcher(Client):
    """A client that records. It lists from the primary, or otherwise from wherever the service reads.

    The position of a list of a standby may be one that leaves out nothing but what had ended: then its stream may
    repeat what the list has (docs/replicas.md).
    """

    pause = 0.2

    def __init__(self, name: str, server: object, query: str, *, primary: bool) -> None:
        super().__init__([server], query)
        self.name = f"{name} ({query or 'all'})"
        self._primary = primary
        self._exact = True
        self.matches = MATCHES[query]
        self._events: list[tuple[int, Event]] = []
        self._listed: dict[int, Row] | None = None

    def open_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            read_bufsize=1 << 20,
            timeout=aiohttp.ClientTimeout(None, sock_connect=5, sock_read=60),
            connector=aiohttp.TCPConnector(local_addr=(READERS_ADDRESS, 0)),
            headers={"Cache-Control": "no-cache"} if self._primary else None,
        )

    async def stop(self) -> None:
        """Go away; an error that the client has found in its events is one of the last check point."""
        with contextlib.suppress(Exception):
            await super().stop()

    async def load(self, server: object) -> None:
        await super().load(server)
        assert self.last is not None
        snapshot = Position.parse(self.last).snapshot
        self._exact = self._primary or snapshot is None or snapshot.xmin < snapshot.xmax
        self._events = []
        self._listed = self._rows()

    def change(self, message: dict[str, Any]) -> None:
        key, data = message["id"], message["data"]
        self._events.append((key, Event(message["action"], None if data is None else row_of(data))))
        if data is None:
            self.rows.pop(key, None)
        else:
            self.rows[key] = data

    def _rows(self) -> dict[int, Row]:
        return {key: row_of(row) for key, row in self.rows.items()}

    def take(self) -> Record:
        """What it has seen since the last call."""
        record = Record(self._listed, self._exact, self._events, self._rows())
        self._events, self._listed = [], None
        return record
