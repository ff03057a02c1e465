"""What a process measures for Prometheus: requests, statements and waits as they end, all else when a scrape asks for it.

Only a service with ``server.admin`` measures anything. A request costs a look-up of its histogram and an addition, well
below a microsecond. No label has values that a client chooses: a route is a template, and a method or a table that the
config does not have is ``other`` or left out.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import asyncio
import platform
from collections import Counter as Numbers
from collections.abc import AsyncIterator, Iterator
from time import perf_counter
from typing import Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric

from rowcast import __version__
from rowcast.changes.tail import Tail
from rowcast.database.pool import Database
from rowcast.database.summaries import Summaries, summaries_of
from rowcast.rest.handlers import Handler
from rowcast.rest.plan import Service
from rowcast.server.health import READINESS, Readiness
from rowcast.server.lifecycle import Lifecycle
from rowcast.server.measures import Histogram, Labels, histogram, numbers
from rowcast.server.middleware import REQUESTS, begun
from rowcast.server.router import METHODS, template
from rowcast.server.service_metrics import COUNTERS, Measured, counted, gauges
from rowcast.server.short_way import SHORT_WAY, Observe
from rowcast.streams.sse import StreamResponse

OTHER_METHOD: Final = "other"  # a client may send any word as a method
NO_ROUTE: Final = "none"
DELAYS_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
LOOP_PERIOD_SECONDS: Final = 0.1  # between two measurements of the event loop's lag
BUILD: Final[Labels] = (("version", __version__), ("python", platform.python_version()))


class Metrics:
    """The metrics of one process. While its configuration is reloaded it has two applications, which count as one."""

    def __init__(self) -> None:
        self._running: list[Measured] = []
        self._readiness: Readiness | None = None
        self._ended: Numbers[tuple[str, Labels]] = Numbers()  # what applications had counted that are gone
        self._requests: dict[Labels, Histogram] = {}
        self._statements: dict[Labels, Histogram] = {}
        self._waits: dict[Labels, Histogram] = {}
        self._refused: Numbers[Labels] = Numbers()
        self._delays = Histogram(DELAYS_SECONDS)
        self._loop = Histogram()
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)

    @property
    def feed(self) -> Tail | None:
        """The feed of the newest application that has started."""
        return next((each.service.feed for each in reversed(self._running) if each.service.feed.ready.is_set()), None)

    @property
    def readiness(self) -> Readiness | None:
        """Whether the newest application that has started can answer; of the newest one, if none has."""
        started = [each.readiness for each in reversed(self._running) if each.readiness.starting is None]
        return next(iter(started), self._readiness)

    def watch(self, app: web.Application, service: Service, lifecycle: Lifecycle) -> None:
        """Measure what an application does, for as long as it runs."""
        observe = self._by_request(app)
        measured = Measured(service, lifecycle.ticker, app[READINESS], app)
        self._readiness = app[READINESS]

        @web.middleware
        async def measure(request: web.Request, handler: Handler) -> web.StreamResponse:
            start = begun(request)
            response = await handler(request)
            if type(response) is not StreamResponse:
                observe(request.match_info.route.resource, request.method, response.status, perf_counter() - start)
            return response

        async def run(app: web.Application) -> AsyncIterator[None]:
            self._running.append(measured)
            yield
            self._running.remove(measured)
            self._ended.update(counted(service, lifecycle.ticker, app[REQUESTS]))

        app.middlewares.insert(0, measure)
        app[SHORT_WAY].measure(measure, observe)
        app.cleanup_ctx.append(run)
        summaries = summaries_of(service.store.queries.tables)
        for name, pool in service.pools().items():
            self._watch_pool(name, pool, summaries)
        if service.hub.traffic is not None:
            service.hub.traffic.note_delay = self._delays.observe

    async def follow_loop(self) -> None:
        """Measure for ever how late the event loop is."""
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + LOOP_PERIOD_SECONDS
            await asyncio.sleep(LOOP_PERIOD_SECONDS)
            self._loop.observe(max(0.0, clock() - due))

    def _watch_pool(self, name: str, pool: Database, summaries: Summaries) -> None:
        labels: Labels = (("pool", name),)
        waits = self._waits.setdefault(labels, Histogram())
        self._refused[labels] += 0
        known: dict[str, Histogram] = {}
        statements = self._statements

        def note(sql: str, values: Any, seconds: float, result: Any, error: Exception | None) -> None:
            summary = summaries.of(sql)
            if (found := known.get(summary)) is None:
                found = known[summary] = statements.setdefault((("summary", summary),), Histogram())
            found.observe(seconds)

        def note_wait(seconds: float, refused: bool) -> None:
            waits.observe(seconds)
            self._refused[labels] += refused

        pool.observe(note)
        pool.observe_waits(note_wait)

    def _by_request(self, app: web.Application) -> Observe:
        """A function that notes the time of a request; the histogram of route, method and status is looked up once."""
        known: dict[tuple[web.AbstractResource | None, str, int], Histogram] = {}

        def find(resource: web.AbstractResource | None, method: str, status: int) -> Histogram:
            if method not in METHODS:
                method = OTHER_METHOD
            if (resource, method, status) not in known:
                route = NO_ROUTE if resource is None else template(app.router, resource)
                labels = (("method", method), ("route", route), ("status", str(status)))
                known[resource, method, status] = self._requests.setdefault(labels, Histogram())
            return known[resource, method, status]

        def observe(resource: web.AbstractResource | None, method: str, status: int, seconds: float) -> None:
            key = resource, method, status
            (known.get(key) or find(*key)).observe(seconds)

        return observe

    # --- the state of the process

    def families(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        yield histogram(
            "http_server_request_duration_seconds",
            "Time from a request's header to its response, without streams.",
            self._requests,
        )
        yield histogram(
            "db_client_operation_duration_seconds", "Time of SQL statements of requests and streams.", self._statements
        )
        yield histogram("rowcast_pool_wait_seconds", "Waits for a connection of a pool that was full.", self._waits)
        yield numbers("rowcast_pool_timeouts", "Waits that have ended without one.", "counter", self._refused)
        yield histogram(
            "rowcast_commit_to_delivery_seconds",
            "Time from the last statement of a transaction to the moment at which its events were written to streams.",
            {(): self._delays},
        )
        yield histogram("rowcast_event_loop_lag_seconds", "How late the event loop was.", {(): self._loop})
        yield from self._counters()
        yield from gauges(self._running, self.feed)
        yield numbers("rowcast_build_info", "1, with the versions of the service.", "gauge", {BUILD: 1})
        yield from self._process.collect()

    def _counters(self) -> Iterator[Metric]:
        found = self._ended.copy()
        for each in self._running:
            found.update(counted(each.service, each.ticker, each.app[REQUESTS]))
        by_name: dict[str, dict[Labels, float]] = {name: {} for name in COUNTERS}
        for (name, labels), number in found.items():
            by_name[name][labels] = number
        for name, documentation in COUNTERS.items():
            yield numbers(name, documentation, "counter", by_name[name])
