"""What a process counts for Prometheus: its requests, and at each scrape the state of its streams, feed, pools and memory.

A request costs a counter and an observation, some two microseconds, and only in a service with ``server.admin``. All
else is read when a scrape asks for it.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from time import perf_counter
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from rowcast.changes.cache import CountingCache
from rowcast.database.pool import Database
from rowcast.rest.plan import Service
from rowcast.rest.viewset import Handler
from rowcast.streams.sse import StreamResponse

DURATIONS_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
OTHER_METHOD: Final = "other"  # a client may send any word as a method
NO_ROUTE: Final = "none"

disable_created_metrics()  # type: ignore[no-untyped-call]  # a gauge beside each counter, for the time at which it began


class Metrics(Collector):
    """The metrics of one process and its service."""

    def __init__(self, service: Service, cache: CountingCache) -> None:
        self._service = service
        self._cache = cache
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
        self._children: dict[Hashable, tuple[Counter, Histogram]] = {}
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def text(self) -> str:
        """The metrics of this process, in the text format."""
        return generate_latest(self._registry).decode()

    # --- requests

    def middleware(self) -> Middleware:
        """The outermost middleware: it counts each request, and how long it took."""

        @web.middleware
        async def measure(request: web.Request, handler: Handler) -> web.StreamResponse:
            begun = perf_counter()
            response = await handler(request)
            if type(response) is not StreamResponse:
                counter, histogram = self._metrics_of(request, response.status)
                counter.inc()
                histogram.observe(perf_counter() - begun)
            return response

        return measure

    async def count_stream(self, request: web.Request, response: web.StreamResponse) -> None:
        """Count a stream that begins: its client ends it without a response, so that ``measure`` does not see the end."""
        if type(response) is StreamResponse:
            self._metrics_of(request, response.status)[0].inc()

    def _metrics_of(self, request: web.Request, status: int) -> tuple[Counter, Histogram]:
        key = request.match_info.route.resource, request.method, status
        return self._children.get(key) or self._child(request, status)

    def _child(self, request: web.Request, status: int) -> tuple[Counter, Histogram]:
        """The metrics of this route, method and status, the first time that a request has them."""
        resource = request.match_info.route.resource
        method = request.method if request.method in METHODS else OTHER_METHOD
        if (resource, method, status) not in self._children:
            route = NO_ROUTE if resource is None else _template(request.app, resource.canonical)
            counter = self._requests.labels(method, route, str(status))
            self._children[resource, method, status] = counter, self._seconds.labels(method, route)
        return self._children[resource, method, status]

    # --- the state of the process

    def collect(self) -> Iterator[Metric]:
        """The metrics that are read when they are asked for."""
        hub, feed, cache = self._service.hub, self._service.feed, self._cache
        yield GaugeMetricFamily("rowcast_streams", "Open streams.", hub.subscribers)
        yield _by_reason("rowcast_stream_resets", "Streams whose client had to load its data again.", hub.resets)
        yield GaugeMetricFamily("rowcast_feed_lag_seconds", "How far the change feed is behind the database.", feed.lag)
        yield GaugeMetricFamily(
            "rowcast_feed_connected", "Whether the change feed has a connection to the database.", feed.connected
        )
        store = self._service.store
        yield from _pools({"requests": store.database, "filters": store.judge})
        yield CounterMetricFamily("rowcast_statements", "SQL statements of requests.", value=store.database.statements)
        yield CounterMetricFamily("rowcast_cache_hits", "Reads that memory answered.", value=cache.hits)
        yield CounterMetricFamily("rowcast_cache_misses", "Reads that memory could have answered.", value=cache.misses)
        yield GaugeMetricFamily("rowcast_cache_bytes", "Memory that kept answers take.", cache.held)
        yield GaugeMetricFamily("rowcast_cache_entries", "Kept answers.", len(cache))


def _by_reason(name: str, documentation: str, numbers: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=("reason",))
    for reason, number in numbers.items():
        family.add_metric((reason,), number)
    return family


def _pools(pools: dict[str, Database]) -> Iterator[Metric]:
    """The connections of the pools: how many there may be, are in use, and are waited for."""
    families = {
        "size": GaugeMetricFamily("rowcast_pool_size", "Connections that a pool may open.", labels=("pool",)),
        "in_use": GaugeMetricFamily("rowcast_pool_in_use", "Connections that run a statement.", labels=("pool",)),
        "waiting": GaugeMetricFamily(
            "rowcast_pool_waiting", "Requests that wait for a free connection.", labels=("pool",)
        ),
    }
    for name, pool in pools.items():
        for key, family in families.items():
            family.add_metric((name,), getattr(pool.load, key))
    yield from families.values()


def _template(app: web.Application, canonical: str) -> str:
    """A route as the documentation writes it: with a slash at its end, where it works with and without one."""
    bare = canonical.rstrip("/")
    known = {resource.canonical for resource in app.router.resources()}
    return f"{bare}/" if f"{bare}/" in known and "." not in bare else canonical
