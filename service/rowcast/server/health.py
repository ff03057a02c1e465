"""Health: whether the service is alive, and whether it is ready or why not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson
from aiohttp import web

from rowcast.changes.feed import Feed
from rowcast.changes.state import LogState
from rowcast.changes.tail import Tail
from rowcast.database.errors import CONNECTION_LOST
from rowcast.tasks import Supervisor

FEED_GRACE_SECONDS: Final = 5.0  # that streams may be behind, or the feed without a connection
PROBE_TIMEOUT_SECONDS: Final = 2.0
STARTING: Final = "The service is starting."


class Readiness:
    """Whether requests can be answered and changes are delivered.

    ``starting`` is the reason why the service has not started yet; afterwards the feed and its log decide. ``unlogged``
    returns the tables that have lost their triggers. ``supervisor`` has the background tasks that have failed. A service
    that is ``stopping`` still answers, but should get no further requests. ``config`` is the result of the last reload.
    """

    def __init__(self, feed: Tail, supervisor: Supervisor) -> None:
        self.starting: str | None = STARTING
        self.stopping = False
        self.config: Mapping[str, Any] | None = None
        self.unlogged: Callable[[], Sequence[str]] = tuple
        self._feed = feed
        self._supervisor = supervisor

    async def reason(self) -> str | None:
        """Why the service is not ready, as a sentence; ``None`` if it is."""
        if self.stopping:
            return "The service is stopping."
        if self.starting is not None:
            return self.starting
        if unlogged := self.unlogged():
            return f"Changes of {', '.join(unlogged)} are not logged: run `rowcast migrate`."
        return await self._reason_of_feed() or self._reason_of_tasks()

    async def _reason_of_feed(self) -> str | None:
        """Why changes are not delivered, or late."""
        return None

    def _reason_of_tasks(self) -> str | None:
        """Which background work has failed."""
        if down := list(self._supervisor.down):
            return f"A background task has failed and is started again: {', '.join(down)}; the service's log has the reason."
        return None


class LogReadiness(Readiness):
    """The readiness of a service with a database."""

    def __init__(self, feed: Feed, supervisor: Supervisor) -> None:
        super().__init__(feed, supervisor)
        self._log = feed
        self._before: LogState | None = None

    async def _reason_of_feed(self) -> str | None:
        lag = self._log.lag
        if lag > FEED_GRACE_SECONDS and not self._log.connected:
            return f"The change feed has been without a connection to the database for {lag:.0f} s."
        behind = self._reason_of_tasks()
        if behind is None and lag > FEED_GRACE_SECONDS:
            behind = f"The change feed is {lag:.0f} s behind the database."
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                state = await self._log.state()
        except (*CONNECTION_LOST, TimeoutError):
            return behind
        before, self._before = self._before, state
        if state.read_only:
            return "The database is read-only: streams need the primary, with default_transaction_read_only off."
        if (
            before is not None
            and state.newest == before.newest
            and min(state.waiting, before.waiting) > FEED_GRACE_SECONDS
        ):
            return f"No replica has delivered changes for {state.waiting:.0f} s; the ticker has stopped."
        return behind


READINESS: Final = web.AppKey("readiness", Readiness)


def register(app: web.Application, readiness: Readiness) -> None:
    """Add ``/health/live`` and ``/health/ready``."""
    app[READINESS] = readiness
    add_routes(app, lambda: readiness)


def add_routes(app: web.Application, current: Callable[[], Readiness | None]) -> None:
    """Add the addresses to an application; ``current`` returns the readiness of the service, if there is one yet."""

    async def live(request: web.Request) -> web.Response:
        return _answer(None)

    async def ready(request: web.Request) -> web.Response:
        if (readiness := current()) is None:
            return _answer(STARTING)
        return _answer(await readiness.reason(), readiness.config)

    for path, handler in (("/health/live", live), ("/health/ready", ready)):
        app.router.add_get(path, handler)
        app.router.add_get(path + "/", handler)


def _answer(reason: str | None, config: Mapping[str, Any] | None = None) -> web.Response:
    body: dict[str, Any] = {"status": "ok"} if reason is None else {"status": "unavailable", "reason": reason}
    if config is not None:
        body["config"] = config
    return web.Response(body=orjson.dumps(body), status=200 if reason is None else 503, content_type="application/json")
