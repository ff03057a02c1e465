"""How the service is: alive, and ready or why not."""

from __future__ import annotations

import asyncio
from typing import Final

import orjson
from aiohttp import web

from rowcast.changes.feed import Feed
from rowcast.changes.state import LogState
from rowcast.database.errors import CONNECTION_LOST

GRACE: Final = 5.0  # s that streams may be behind, or the feed without a connection
PATIENCE: Final = 2.0  # s that a probe waits for the database


class Readiness:
    """Whether requests can be answered and changes are told.

    ``starting`` is what holds the service back before it runs; from then on it is the feed and its log that tell.
    """

    def __init__(self, feed: Feed) -> None:
        self.starting: str | None = "The service is starting."
        self._feed = feed
        self._before: LogState | None = None

    async def reason(self) -> str | None:
        """Why the service is not ready, in a sentence; ``None`` when it is."""
        if self.starting is not None:
            return self.starting
        lag = self._feed.lag
        if lag > GRACE and not self._feed.connected:
            return f"The change feed has been without a connection to the database for {lag:.0f} s."
        behind = f"The change feed is {lag:.0f} s behind the database." if lag > GRACE else None
        try:
            async with asyncio.timeout(PATIENCE):
                state = await self._feed.state()
        except (*CONNECTION_LOST, TimeoutError):
            return behind
        before, self._before = self._before, state
        if state.read_only:
            return "The database is read-only: streams need the primary, with default_transaction_read_only off."
        if before is not None and state.newest == before.newest and min(state.waiting, before.waiting) > GRACE:
            return f"No replica has told the changes of the last {state.waiting:.0f} s: the ticker stands still."
        return behind


def register(app: web.Application, readiness: Readiness) -> None:
    """Add ``/health/live`` and ``/health/ready``."""

    async def live(request: web.Request) -> web.Response:
        return _answer(None)

    async def ready(request: web.Request) -> web.Response:
        return _answer(await readiness.reason())

    for path, handler in (("/health/live", live), ("/health/ready", ready)):
        app.router.add_get(path, handler)
        app.router.add_get(path + "/", handler)


def _answer(reason: str | None) -> web.Response:
    body = {"status": "ok"} if reason is None else {"status": "unavailable", "reason": reason}
    return web.Response(body=orjson.dumps(body), status=200 if reason is None else 503, content_type="application/json")
