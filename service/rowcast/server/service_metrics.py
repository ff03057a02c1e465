"""The state of a service as metrics: what it has counted, and what it has now. Read when a scrape asks for it."""

from __future__ import annotations

from collections import Counter as Numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from prometheus_client.core import Metric

from rowcast.changes.cache import CountingCache
from rowcast.changes.edge_feed import EdgeFeed
from rowcast.changes.feed import Feed
from rowcast.changes.relay import DROPPED_BECAUSE
from rowcast.changes.tail import Reason, Tail
from rowcast.changes.ticker import Ticker
from rowcast.database.pool_load import PoolLoad
from rowcast.query.replicas import FALLBACKS
from rowcast.rest.body_memory import BODY_MEMORY
from rowcast.rest.plan import DIFFERS, Service
from rowcast.server.health import Readiness
from rowcast.server.measures import Labels, numbers
from rowcast.server.middleware import ORIGIN_FAILURES, REQUESTS, RESPONSES, Requests
from rowcast.streams.subscriber import CLOSED_BY

COUNTERS: Final[Mapping[str, str]] = {
    "rowcast_statements": "SQL statements of requests.",
    "rowcast_statement_cache_hits": "Statements whose SQL had been made before, by their kind.",
    "rowcast_statement_cache_misses": "Statements whose SQL was made, by their kind.",
    "rowcast_cache_hits": "Reads that memory answered, by kind.",
    "rowcast_cache_misses": "Reads that memory could have answered, by kind.",
    "rowcast_reads": "Reads of resources that may be read from replicas, by the server that has answered.",
    "rowcast_log_reads": "Parts of the log that were read for streams that resume, by server, if there are replicas.",
    "rowcast_replica_fallbacks": "Such reads that the primary had to answer, by reason.",
    "rowcast_streams_opened": "Streams that have begun.",
    "rowcast_streams_closed": "Streams that have ended, by reason.",
    "rowcast_stream_resets": "Streams whose client had to load its data again, by reason.",
    "rowcast_stream_frames": "Frames with events that were made; one serves all streams of a group.",
    "rowcast_stream_deliveries": "Frames with events that were written to streams.",
    "rowcast_stream_bytes": "Bytes that were written to streams.",
    "rowcast_feed_reconnects": "Connections of the feed after its first one.",
    "rowcast_ticker_ticks": "Ticks that this process has made.",
    "rowcast_limits_reached": "Requests, streams and connections that a limit has refused or ended, by its setting.",
    "rowcast_edge_requests": "Requests that an edge has passed on to its origin, streams included.",
    "rowcast_edge_failures": "Requests that an edge has passed on and that its origin has not answered, by reason.",
    "rowcast_relay_published": "Messages that this process has sent to the relay.",
    "rowcast_relay_received": "Messages of the leader that have arrived from the relay.",
    "rowcast_relay_dropped": "Messages of the relay that were dropped, by reason.",
    "rowcast_relay_filled_ticks": "Ticks that were read from the log because the relay has lost or left out something.",
}
LIMITS: Final = (
    "max_connections", "max_connections_per_address", "max_active_requests", "max_streams", "max_streams_per_caller",
    "bodies_limit", "responses_limit", "export_connections", "header_timeout", "body_timeout", "send_timeout",
)  # fmt: skip
"""The settings whose limits are counted when they are reached."""

_POOL: Final[Mapping[str, tuple[str, Callable[[PoolLoad], int]]]] = {
    "rowcast_pool_size": ("Connections that a pool may open.", lambda load: load.size),
    "rowcast_pool_idle": ("Connections that are open and free.", lambda load: load.idle),
    "rowcast_pool_in_use": ("Connections that run a statement.", lambda load: load.in_use),
    "rowcast_pool_waiting": ("Callers that wait for a connection.", lambda load: load.waiting),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """What an application has that is measured."""

    service: Service
    ticker: Ticker | None
    readiness: Readiness
    app: web.Application


def counted(service: Service, ticker: Ticker | None, requests: Requests) -> Numbers[tuple[str, Labels]]:
    """What a service has counted, by metric and labels."""
    cache, hub = service.cache, service.hub
    assert isinstance(cache, CountingCache)
    assert hub.traffic is not None
    found: Numbers[tuple[str, Labels]] = Numbers()

    def add(name: str, number: int, **labels: str) -> None:
        found[name, tuple(labels.items())] += number

    add("rowcast_statements", service.store.database.statements)
    for kind, use in service.store.queries.caches():
        add("rowcast_statement_cache_hits", use.hits, statement=kind)
        add("rowcast_statement_cache_misses", use.misses, statement=kind)
    for kind in ("counts", "responses"):
        add("rowcast_cache_hits", cache.hits[kind], kind=kind)
        add("rowcast_cache_misses", cache.misses[kind], kind=kind)
    feed = service.feed
    if (replicas := service.replicas) is not None:
        assert isinstance(feed, Feed)
        for server in ("primary", *(each.name for each in replicas.all)):
            add("rowcast_reads", replicas.reads[server], server=server)
            add("rowcast_log_reads", feed.history.reads[server], server=server)
        for reason in FALLBACKS:
            add("rowcast_replica_fallbacks", replicas.fallbacks[reason], reason=reason)
    for resource, number in hub.open_streams.opened.items():
        add("rowcast_streams_opened", number, resource=resource)
    for reason in CLOSED_BY:
        add("rowcast_streams_closed", hub.open_streams.closed[reason], reason=reason)
    for reason in {*map(str, Reason), *map(str, hub.resets)}:  # from zero on, so that the first one is an increase
        add("rowcast_stream_resets", hub.resets[reason], reason=reason)
    add("rowcast_stream_frames", hub.traffic.frames)
    add("rowcast_stream_deliveries", hub.traffic.deliveries)
    add("rowcast_stream_bytes", hub.traffic.bytes)
    add("rowcast_feed_reconnects", max(0, service.feed.connections - 1))
    add("rowcast_ticker_ticks", 0 if ticker is None else ticker.ticks)
    for limit in LIMITS:
        add("rowcast_limits_reached", requests.refused[limit], limit=limit)
    add("rowcast_edge_requests", requests.passed_on)
    for reason in ORIGIN_FAILURES:
        add("rowcast_edge_failures", requests.origin_failures[reason], reason=reason)
    relay = service.feed.relay
    add("rowcast_relay_published", 0 if relay is None else relay.published)
    add("rowcast_relay_received", 0 if relay is None else relay.received)
    for reason in DROPPED_BECAUSE:
        add("rowcast_relay_dropped", 0 if relay is None else relay.dropped[reason], reason=reason)
    add("rowcast_relay_filled_ticks", 0 if relay is None else relay.filled)
    return found


def gauges(running: Sequence[Measured], feed: Tail | None) -> Iterator[Metric]:
    """What applications have now, all of a process together; ``feed`` is that of the newest."""
    services = [each.service for each in running]

    def gauge(name: str, documentation: str, value: float | dict[Labels, float]) -> Metric:
        return numbers(name, documentation, "gauge", value if isinstance(value, dict) else {(): value})

    streams: Numbers[Labels] = Numbers()
    shapes: Numbers[Labels] = Numbers()
    for service in services:
        streams.update({(("resource", name),): number for name, number in service.hub.open_streams.of.items()})
        shapes.update({(("statement", kind),): use.currsize for kind, use in service.store.queries.caches()})
    active = sum(each.app[REQUESTS].active for each in running)
    yield gauge("http_server_active_requests", "Requests that are being answered, without streams.", active)
    bodies = sum(each.app[BODY_MEMORY].total for each in running)
    yield gauge("rowcast_request_body_bytes", "Memory that the bodies of unanswered requests take.", bodies)
    waiting = sum(each.app[RESPONSES].total for each in running if RESPONSES in each.app)
    yield gauge("rowcast_response_bytes", "Memory that responses take which clients have not taken yet.", waiting)
    yield gauge("rowcast_streams", "Open streams; those of several resources as *.", dict(streams))
    passed_on = sum(each.app[REQUESTS].passed_streams for each in running)
    yield gauge("rowcast_edge_streams", "Open streams that an edge has passed on to its origin.", passed_on)
    if isinstance(feed, EdgeFeed):
        yield gauge(
            "rowcast_edge_resources", "Resources, by who sends their streams.", _resources_by_sender(services[-1])
        )
    yield gauge(
        "rowcast_stream_groups",
        "Groups of streams that get the same frames.",
        sum(len(service.hub.groups) for service in services),
    )
    yield gauge("rowcast_statement_shapes", "Statements whose SQL is kept, by their kind.", dict(shapes))
    yield gauge("rowcast_cache_bytes", "Memory that kept answers take.", sum(each.cache.held for each in services))
    yield gauge("rowcast_cache_entries", "Kept answers.", sum(len(each.cache) for each in services))
    leading = any(each.ticker is not None and each.ticker.leading.is_set() for each in running)
    yield gauge("rowcast_ticker_leader", "Whether this process makes the ticks.", leading)
    if feed is not None:
        yield gauge("rowcast_feed_lag_seconds", "How far the feed is behind the database.", feed.lag)
        yield gauge("rowcast_feed_connected", "Whether the feed has its connection.", feed.connected)
        if feed.relay is not None:
            yield gauge("rowcast_relay_connected", "Whether the relay has its connection.", feed.relay.connected)
        yield gauge("rowcast_feed_fed", "Whether the feed applies what the relay brings.", feed.fed)
        yield gauge("rowcast_feed_tick", "The newest tick that the feed has delivered.", feed.head.tick)
    yield from _replica_gauges(services)
    for name, (documentation, read) in _POOL.items():
        found: Numbers[Labels] = Numbers()
        for service in services:
            for pool, database in service.pools().items():
                found[("pool", pool),] += read(database.load)
        yield gauge(name, documentation, dict(found))


def _resources_by_sender(service: Service) -> dict[Labels, float]:
    """How many resources have streams that an edge sends, that it passes on, and that it passes on until it has the origin's config."""
    found: dict[Labels, float] = {(("streams", each),): 0 for each in ("sent", "passed_on", "differing")}
    for plan in service.plans.values():
        reason = service.why_passed_on(plan)
        found[(("streams", "sent" if reason is None else "differing" if reason == DIFFERS else "passed_on"),)] += 1
    return found


def _replica_gauges(services: Sequence[Service]) -> Iterator[Metric]:
    watches = [each.watch for one in services if one.replicas is not None for each in one.replicas.all]
    labels: dict[str, Labels] = {watch.server: (("replica", watch.server),) for watch in watches}
    readable = {labels[watch.server]: watch.moment is not None for watch in watches}
    lags = {labels[watch.server]: watch.lag for watch in watches}
    yield numbers("rowcast_replica_readable", "Whether a replica is a standby of the primary.", "gauge", dict(readable))
    yield numbers("rowcast_replica_lag_seconds", "How old what a replica shows may be.", "gauge", lags)
