"""The replicas of a service, from its settings: their pools, and what follows how far they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, urlsplit

from rowcast.changes.cache import Cache
from rowcast.changes.feed import Feed
from rowcast.changes.history import StandbyLog
from rowcast.changes.standbys import (
    READ_POSITION,
    SNAPSHOT_OR_POSITION,
    SNAPSHOT_OR_POSITION_READ,
    PrimaryClock,
    StandbyWatch,
)
from rowcast.configuration.settings import Database as Settings
from rowcast.database.pool import Database
from rowcast.query.replicas import PATIENCE_SECONDS, Replica, Replicas
from rowcast.query.store import Store
from rowcast.tasks import Supervisor


def make_replicas(
    settings: Settings, store: Store, pool: Callable[..., Database], feed: Feed, cache: Cache, supervisor: Supervisor
) -> Replicas:
    """The replicas that the settings name. No connection is opened. Reading statements return positions from now on.

    The feed also reads the log from them, unless their URLs lead to poolers, where a session cannot have settings.
    """
    tables, callers = store.queries.tables, store.database.acts_as_callers
    tables.snapshot_sql = SNAPSHOT_OR_POSITION_READ if callers else SNAPSHOT_OR_POSITION
    clock = PrimaryClock(store.database.connect, lambda: cache.generation, supervisor)

    def replica(name: str, url: str) -> Replica:
        def open_pool(size: int, **options: str) -> Database:
            return pool(
                url, tables.guards, size=size, statement_timeout=settings.statement_timeout, patience=PATIENCE_SECONDS,
                direct_url=None if settings.direct_url is None else url,
                prepared_statements=settings.prepared_statements, **options,
            )  # fmt: skip

        requests = open_pool(settings.pool_size, **({"first": READ_POSITION} if callers else {}))
        exports = open_pool(settings.export_connections)
        exports.lift_limits()
        watch = StandbyWatch(name, (requests, exports), clock, supervisor)
        return Replica(watch, Store(store.queries, requests), exports)

    found = [replica(*each) for each in named_urls(settings.replicas)]
    if settings.direct_url is None:
        lag = settings.replica_max_lag
        feed.history.standbys = [StandbyLog(each.store.database.connect, each.watch, lag) for each in found]
    return Replicas(store, found, clock, feed, settings.replica_max_lag)


def named_urls(urls: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Each URL with the server that it names, and a number after a name that is there already."""
    seen: dict[str, int] = {}
    for url in urls:
        name = server_name(url)
        seen[name] = number = seen.get(name, 0) + 1
        yield name if number == 1 else f"{name} ({number})", url


def server_name(url: str) -> str:
    """The hosts and ports of a URL, without its credentials."""
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2]
    parameters = parse_qs(parts.query)
    ports = f":{parameters['port'][0]}" if "port" in parameters and "host" in parameters else ""
    return hosts or (parameters["host"][0] + ports if "host" in parameters else "a local socket")
