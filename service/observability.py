"""How the service is: alive, and ready or why not."""

from __future__ import annotations

import orjson
from aiohttp import web

from service.changes.feed import Feed


class Readiness:
    """Whether requests can be answered. ``reason`` is a sentence, ``None`` when they can.

    ``starting`` is what holds the service back before it runs; from then on it is the feed's connection that tells.
    """

    def __init__(self, feed: Feed) -> None:
        self.starting: str | None = "The service is starting."
        self._feed = feed

    @property
    def reason(self) -> str | None:
        if self.starting is None and not self._feed.connected:
            return "The change feed has lost its connection to the database."
        return self.starting


def register(app: web.Application, readiness: Readiness) -> None:
    """Add ``/health/live`` and ``/health/ready``."""

    async def live(request: web.Request) -> web.Response:
        return _answer(None)

    async def ready(request: web.Request) -> web.Response:
        return _answer(readiness.reason)

    for path, handler in (("/health/live", live), ("/health/ready", ready)):
        app.router.add_get(path, handler)
        app.router.add_get(path + "/", handler)


def _answer(reason: str | None) -> web.Response:
    body = {"status": "ok"} if reason is None else {"status": "unavailable", "reason": reason}
    return web.Response(body=orjson.dumps(body), status=200 if reason is None else 503, content_type="application/json")
