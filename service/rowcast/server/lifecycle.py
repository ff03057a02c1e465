"""How a service starts and stops, and what requests get in between.

It answers at once, and is ready when the database can be reached and matches the config. Until then requests get a 503,
and streams wait.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Final

import asyncpg
import structlog
from aiohttp import web

from rowcast.changes.connection import cancel, session
from rowcast.changes.feed import Feed
from rowcast.changes.table_watch import WATCH_SECONDS, TableWatch
from rowcast.changes.ticker import Ticker
from rowcast.changes.trigger_sync import sync_triggers
from rowcast.configuration.load import Configuration
from rowcast.errors import Throttled, TooManyStreams, Unavailable
from rowcast.identity.authentication import Identity
from rowcast.identity.throttling import Throttles
from rowcast.query.store import STORE
from rowcast.resources.tables import Tables
from rowcast.rest.handlers import Handler, ways_of, with_ways
from rowcast.rest.plan import Service
from rowcast.rest.request import root_path
from rowcast.server.health import LogReadiness, Readiness
from rowcast.server.log_entries import set_level
from rowcast.server.middleware import REQUEST_ID, REQUESTS
from rowcast.server.policies import refused_streams
from rowcast.server.prepare import check_additive, prepare, startup_error
from rowcast.server.purging import Purging
from rowcast.streams.sse import CONTENT_TYPE, come_back
from rowcast.tasks import Supervisor

STARTED: Final = web.AppKey("started", asyncio.Task)
STREAM_OPEN_ATTEMPTS: Final = 10  # one a second, while the database is away
FINAL_CODES: Final = ("statement_timeout", TooManyStreams.code)  # after which another attempt would fail as well
START_RETRY_MAX_SECONDS: Final = 5.0
START_ERRORS: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, Unavailable)  # that may go away
_logger = structlog.get_logger(__name__)


async def pause_before_start(attempt: int) -> None:
    """Wait after so many attempts to start that have failed: longer each time, and not as long as other processes do."""
    await asyncio.sleep(min(START_RETRY_MAX_SECONDS, 0.1 * 2**attempt) * random.uniform(0.5, 1))


class Lifecycle(ABC):
    """Starts and stops what a service runs beside requests."""

    ticker: Ticker | None = None  # of a service that may make ticks

    def __init__(self, configuration: Configuration, service: Service, readiness: Readiness) -> None:
        self.readiness = readiness
        self._configuration = configuration
        self._service = service
        self._settled = asyncio.Event()  # the service has started, or has ended before
        self._waiting_handlers: set[Handler] = set()

    # --- requests

    def check_ready(self, request: web.Request) -> None:
        """Raise ``Unavailable`` for a request that cannot be answered before the service has started."""
        if self.readiness.starting is None:
            return
        if not self.is_ordinary(request):
            return
        raise Unavailable("The service is not ready; /health/ready says why.", code="starting")

    def is_ordinary(self, request: web.Request) -> bool:
        """Whether a request opens no stream and is not about health."""
        return request.match_info.handler not in self._waiting_handlers and not request.path.startswith("/health/")

    def waits_for_start(self, handler: Handler) -> Handler:
        """A stream's handler that waits for the start, and for a database that is away.

        Any response but a 200 ends a browser's EventSource for good, so what it has to wait for is a stream that is over at
        once, with the time until the next attempt.
        """

        async def wait(request: web.Request) -> web.StreamResponse:
            try:
                return await attempt_to_open(request)
            except (TooManyStreams, Throttled, Unavailable) as error:
                if request.headers.get("Accept") != CONTENT_TYPE:
                    raise
                if error.limit is not None:
                    request.app[REQUESTS].refused[error.limit] += 1
                below = root_path(self._configuration.settings.server, request)
                return come_back(error.problem_below(below, request[REQUEST_ID]), int(error.headers["Retry-After"]))

        async def attempt_to_open(request: web.Request) -> web.StreamResponse:
            await self._settled.wait()
            for attempt in range(STREAM_OPEN_ATTEMPTS):
                try:
                    if self.readiness.starting is not None:
                        break
                    return await handler(request)
                except Unavailable as error:
                    if error.code in FINAL_CODES:
                        raise
                    await asyncio.sleep(min(attempt, 1))
            raise Unavailable("The service has ended, or its database is away.")

        self._waiting_handlers.add(wait)
        return with_ways(wait, ways_of(handler))

    # --- the application

    def attach(self, app: web.Application) -> None:
        """Run with an application: from its start-up to its clean-up."""
        app.cleanup_ctx.append(self._run)
        app.on_shutdown.append(self._end_streams)
        app[LIFECYCLE] = self

    @abstractmethod
    def _run(self, app: web.Application) -> AsyncIterator[None]:
        """What runs with the application, up to the ``yield`` as it starts, and from there on as it is cleaned up."""

    async def drain(self) -> None:
        """End every stream, one after the other, within ``stream.drain``."""
        await self._service.hub.open_streams.drain(self._configuration.settings.stream.drain)

    async def streams_ended(self) -> None:
        """Wait until no stream is open, once they have been ended."""
        await self._service.hub.open_streams.ended()

    async def _end_streams(self, _: web.Application) -> None:
        self._settled.set()
        await self._service.hub.close()


class DatabaseLifecycle(Lifecycle):
    """That of a service with a database. ``migrate`` makes the database match the config,
    unless it ``matches`` already. With ``once`` a start that fails is not tried again.

    ``unscoped_streams`` are the resources that have a stream of all rows.
    """

    ticker: Ticker

    def __init__(
        self,
        configuration: Configuration,
        service: Service,
        feed: Feed,
        tables: Tables,
        identity: Identity,
        throttles: Throttles,
        unscoped_streams: frozenset[str],
        supervisor: Supervisor,
        *,
        migrate: bool,
        matches: bool = False,
        once: bool = False,
    ) -> None:
        stream = configuration.settings.stream
        super().__init__(configuration, service, LogReadiness(feed, supervisor))
        self._feed = feed
        self._supervisor = supervisor
        self._tables = tables
        self._identity = identity
        self._throttles = throttles
        self._migrate = migrate
        self._matches = matches
        self._once = once
        self._unscoped_streams = unscoped_streams
        self._database = service.store.database
        self.ticker = Ticker(
            self._database.connect,
            wakeup=stream.wakeup,
            retention=stream.retention,
            size=stream.max_log_size,
            answers=configuration.settings.server.idempotency_retention,
            relay=feed.relay,
            supervisor=supervisor,
        )
        self._watch = TableWatch(
            feed,
            self._database.connect,
            tables,
            forget=service.cache.clear,
            repair=self._restore_triggers if migrate else None,
        )
        self._purging = Purging(service.store, self.ticker.leading)
        self.readiness.unlogged = lambda: self._watch.unlogged
        self._watching: list[asyncio.Task[None]] = []

    async def _run(self, app: web.Application) -> AsyncIterator[None]:
        app[STARTED] = starting = asyncio.create_task(self._start(), name="start")
        yield
        grace = self._configuration.settings.server.shutdown_grace
        await cancel([starting, *self._watching])
        STORE.set(self._service.store)
        await self._database.finish(grace)
        await self._service.hooks.stop(grace)
        await self._database.finish(grace)
        if self._service.replicas is not None:
            await self._service.replicas.stop()
        await self._service.feed.stop()
        await self.ticker.stop()
        if self._service.feed.relay is not None:
            await self._service.feed.relay.stop()
        await self._identity.close()
        await self._throttles.close()
        await self._service.store.judge.close()
        await self._service.exports.close()
        await self._database.close()

    async def _start(self) -> None:
        """Try until the database is there and matches; then follow its changes."""
        attempt = 0
        while True:
            try:
                if self._once and self._migrate:
                    await check_additive(self._configuration, self._tables, self._database)
                self._service.secret = await prepare(
                    self._configuration,
                    self._tables,
                    self._database,
                    migrate=self._migrate,
                    matches=self._matches,
                )
                refused = refused_streams(
                    self._tables.resources, self._unscoped_streams, callers=self._database.acts_as_callers
                )
                if message := "; ".join(refused):
                    raise Unavailable(f"The service cannot start: {message}")
                break
            except START_ERRORS as error:
                if self._once:
                    raise
                self.readiness.starting = startup_error(error)
                _logger.warning("not_ready", reason=self.readiness.starting, error=str(error))
            attempt += 1
            await pause_before_start(attempt)
        feed = self._service.feed
        if feed.relay is not None:
            await feed.relay.start()
        await self.ticker.start()
        await feed.start()
        await feed.ready.wait()
        self._service.cache.start()
        self._service.hub.start()
        if self._service.replicas is not None:
            await self._service.replicas.start()
        self._watching.append(self._supervisor.every("table watch", WATCH_SECONDS, self._watch.look))
        if self._purging.ages:
            self._watching.append(
                self._supervisor.every("purge of deleted rows", self._purging.period, self._purging.step)
            )
        STORE.set(self._service.store)
        self.readiness.starting = "The functions of @on_startup are running."
        await self._service.hooks.start()
        self._service.hooks.start_tasks()
        set_level(self._configuration.settings.log.level)
        self.readiness.starting = None
        self._settled.set()

    async def _restore_triggers(self) -> None:
        async with session(self._database.connect) as connection:
            await sync_triggers(connection, self._tables, wakeup=self._configuration.settings.stream.wakeup)


LIFECYCLE: Final = web.AppKey("lifecycle", Lifecycle)
