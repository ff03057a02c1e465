"""What a process counts for Prometheus: its requests, and at each scrape the state of its streams, feed, pools and memory.

A request costs a counter and an observation, some two microseconds, and only in a service with ``server.admin``. All
else is read when a scrape asks for it.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections import Counter as Numbers
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from time import perf_counter
from typing import Final, TypeAlias

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from rowcast.changes.cache import CountingCache
from rowcast.changes.feed import Feed
from rowcast.database.pool import Database
from rowcast.rest.plan import Service
from rowcast.rest.viewset import Handler
from rowcast.streams.sse import StreamResponse

DURATIONS_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY")
OTHER_METHOD: Final = "other"  # a client may send any word as a method
NO_ROUTE: Final = "none"
COUNTERS: Final[Mapping[str, tuple[str, Callable[[Service], float]]]] = {
    "rowcast_statements": ("SQL statements of requests.", lambda service: service.store.database.statements),
    "rowcast_cache_hits": ("Reads that memory answered.", lambda service: _cache(service).hits),
    "rowcast_cache_misses": ("Reads that memory could have answered.", lambda service: _cache(service).misses),
}
GAUGES: Final[Mapping[str, tuple[str, Callable[[Service], float]]]] = {
    "rowcast_streams": ("Open streams.", lambda service: service.hub.subscribers),
    "rowcast_cache_bytes": ("Memory that kept answers take.", lambda service: service.cache.held),
    "rowcast_cache_entries": ("Kept answers.", lambda service: len(service.cache)),
}
_RESETS: Final = "rowcast_stream_resets"

RequestMetrics: TypeAlias = "tuple[Counter, Histogram]"
Measured: TypeAlias = "Callable[[web.Request, int], RequestMetrics]"

disable_created_metrics()  # type: ignore[no-untyped-call]  # a gauge beside each counter, for the time at which it began


class Metrics(Collector):
    """The metrics of one process. While its configuration is reloaded it has two applications, which count as one."""

    def __init__(self) -> None:
        self._services: list[Service] = []
        self._ended: Numbers[tuple[str, str]] = Numbers()  # what applications had counted that are gone
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "rowcast_requests",
            "Requests that were answered; streams when they begin.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "rowcast_request_seconds",
            "Time from a request's header to its response, without streams.",
            ("method", "route"),
            buckets=DURATIONS_SECONDS,
            registry=self._registry,
        )
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def text(self) -> str:
        """The metrics, in the text format."""
        return generate_latest(self._registry).decode()

    @property
    def feed(self) -> Feed | None:
        """The feed of the newest application that has started."""
        return next((each.feed for each in reversed(self._services) if each.feed.ready.is_set()), None)

    def watch(self, app: web.Application, service: Service) -> None:
        """Count what an application does, for as long as it runs."""
        of = self._by_request(app)

        @web.middleware
        async def measure(request: web.Request, handler: Handler) -> web.StreamResponse:
            begun = perf_counter()
            response = await handler(request)
            if type(response) is not StreamResponse:
                counter, histogram = of(request, response.status)
                counter.inc()
                histogram.observe(perf_counter() - begun)
            return response

        async def count_stream(request: web.Request, response: web.StreamResponse) -> None:
            """Its client ends a stream without a response, so that ``measure`` does not see the end."""
            if type(response) is StreamResponse:
                of(request, response.status)[0].inc()

        async def run(app: web.Application) -> AsyncIterator[None]:
            self._services.append(service)
            yield
            self._services.remove(service)
            self._ended.update(_counted(service))

        app.middlewares.insert(0, measure)
        app.on_response_prepare.append(count_stream)
        app.cleanup_ctx.append(run)

    def _by_request(self, app: web.Application) -> Measured:
        """A function to the metrics of a request's route, method and status, which are looked up once."""
        known: dict[tuple[web.AbstractResource | None, str, int], RequestMetrics] = {}

        def find(resource: web.AbstractResource | None, method: str, status: int) -> RequestMetrics:
            if (resource, method, status) not in known:
                route = NO_ROUTE if resource is None else _template(app, resource.canonical)
                counter = self._requests.labels(method, route, str(status))
                known[resource, method, status] = counter, self._seconds.labels(method, route)
            return known[resource, method, status]

        def of(request: web.Request, status: int) -> RequestMetrics:
            resource, method = request.match_info.route.resource, request.method
            return known.get((resource, method, status)) or find(
                resource, method if method in METHODS else OTHER_METHOD, status
            )

        return of

    # --- the state of the process

    def collect(self) -> Iterator[Metric]:
        """The metrics that are read when they are asked for."""
        counted = self._ended.copy()
        for service in self._services:
            counted.update(_counted(service))
        for name, (documentation, _) in COUNTERS.items():
            yield CounterMetricFamily(name, documentation, value=counted[name, ""])
        resets = CounterMetricFamily(_RESETS, "Streams whose client had to load its data again.", labels=("reason",))
        for (name, reason), number in counted.items():
            if name == _RESETS:
                resets.add_metric((reason,), number)
        yield resets
        for name, (documentation, read) in GAUGES.items():
            yield GaugeMetricFamily(name, documentation, sum(map(read, self._services)))
        if (feed := self.feed) is not None:
            yield GaugeMetricFamily("rowcast_feed_lag_seconds", "How far the feed is behind the database.", feed.lag)
            yield GaugeMetricFamily("rowcast_feed_connected", "Whether the feed has its connection.", feed.connected)
        yield from _pools(
            {
                "requests": [service.store.database for service in self._services],
                "filters": [service.store.judge for service in self._services],
                "exports": [service.exports for service in self._services],
            }
        )


def _cache(service: Service) -> CountingCache:
    assert isinstance(service.cache, CountingCache)
    return service.cache


def _counted(service: Service) -> dict[tuple[str, str], float]:
    """What a service has counted, by metric and reason."""
    counted: dict[tuple[str, str], float] = {(name, ""): read(service) for name, (_, read) in COUNTERS.items()}
    return counted | {(_RESETS, str(reason)): number for reason, number in service.hub.resets.items()}


def _pools(pools: Mapping[str, list[Database]]) -> Iterator[Metric]:
    """The connections of the pools: how many there may be, are in use, and are waited for."""
    families = {
        "size": GaugeMetricFamily("rowcast_pool_size", "Connections that a pool may open.", labels=("pool",)),
        "in_use": GaugeMetricFamily("rowcast_pool_in_use", "Connections that run a statement.", labels=("pool",)),
        "waiting": GaugeMetricFamily("rowcast_pool_waiting", "Callers that wait for a connection.", labels=("pool",)),
    }
    for name, each in pools.items():
        for key, family in families.items():
            family.add_metric((name,), sum(getattr(pool.load, key) for pool in each))
    yield from families.values()


def _template(app: web.Application, canonical: str) -> str:
    """A route as the documentation writes it: with a slash at its end, where it works with and without one."""
    bare = canonical.rstrip("/")
    known = {resource.canonical for resource in app.router.resources()}
    return f"{bare}/" if f"{bare}/" in known and "." not in bare else canonical
