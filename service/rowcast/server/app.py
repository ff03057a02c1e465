"""One configuration and one database as an aiohttp application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from rowcast.changes.cache import Cache, CountingCache
from rowcast.changes.feed import Feed
from rowcast.changes.tail import Tail
from rowcast.configuration.load import Configuration
from rowcast.configuration.settings import Database as DatabaseSettings
from rowcast.configuration.settings import Settings
from rowcast.configuration.yaml import Problems, SourceLocation
from rowcast.database.pool import Database
from rowcast.garbage import no_collection
from rowcast.hooks import STATE, Hooks, State, hooks_in
from rowcast.identity.authentication import IDENTITY, Identity
from rowcast.identity.throttling import THROTTLES, Throttles
from rowcast.query.statements import Queries
from rowcast.query.store import STORE, Store
from rowcast.resources.tables import Tables
from rowcast.rest import combined_stream
from rowcast.rest.batch import batch
from rowcast.rest.binding import plan_view
from rowcast.rest.body_memory import BODY_MEMORY, BodyMemory
from rowcast.rest.plan import SERVICE, Service
from rowcast.rest.reading import remember_writers
from rowcast.rest.request import BODY_TIMEOUT, root_path
from rowcast.rest.routers import Route
from rowcast.rest.stream_queries import stream_queries
from rowcast.rest.stream_tickets import PREFIX as TICKETS
from rowcast.rest.stream_tickets import ticket_handler
from rowcast.server import assets, console, health
from rowcast.server.access_log import log_requests
from rowcast.server.active_requests import limit_active
from rowcast.server.cors import cors
from rowcast.server.debug import describe_errors, watching_coroutines
from rowcast.server.hosts import Hosts
from rowcast.server.importer import Importer
from rowcast.server.lifecycle import DatabaseLifecycle, Lifecycle
from rowcast.server.middleware import REQUESTS, Requests, add_headers, errors
from rowcast.server.policies import unscoped_streams
from rowcast.server.router import Router
from rowcast.server.routes import named_classes, noting, plan_routes, register
from rowcast.server.short_way import SHORT_WAY, ShortWay
from rowcast.server.sql_log import log_statements
from rowcast.server.timing import time_requests
from rowcast.streams.admission import Admission
from rowcast.streams.forwarded import ForwardedRows
from rowcast.streams.hub import Hub
from rowcast.streams.traffic import Traffic
from rowcast.tasks import Supervisor

if TYPE_CHECKING:
    from rowcast.changes.origin import Origin
    from rowcast.changes.relay import Relay
    from rowcast.server.metrics import Metrics
    from rowcast.server.tracing import Traces

JUDGES: Final = 2  # connections on which filters of streams are evaluated


@dataclass(frozen=True, slots=True)
class Bound:
    """The parts of a service before it is an application."""

    tables: Tables
    service: Service
    identity: Identity
    throttles: Throttles
    supervisor: Supervisor
    routes: Sequence[Route]


@dataclass(frozen=True, slots=True)
class Backing:
    """What a service stands on: a database, or at an edge its origin."""

    pool: Callable[..., Database]
    feed: Callable[[Relay | None, Supervisor], Tail]
    read_snapshot: Callable[[], Awaitable[str]]  # the ``pg_current_snapshot`` of the primary, or ``Unavailable``
    admission: type[Admission] = Admission
    forward: Callable[[web.Request], Awaitable[ForwardedRows]] | None = None  # what a stream begins with at the origin
    origin: Origin | None = None


@no_collection()
def create_app(
    configuration: Configuration,
    url: str,
    *,
    migrate: bool = False,
    matches: bool = False,
    once: bool = False,
    metrics: Metrics | None = None,
    find_traces: Callable[[], Traces | None] = lambda: None,
) -> web.Application:
    """The service for a configuration on a database.

    It answers at once, and is ready when the database can be reached and matches the config. The application's ``STARTED``
    is the task that makes it ready.

    Args:
        configuration: What ``load`` has read.
        url: The database's URL.
        migrate: Make the database match the config first.
        matches: It is known to match, as the copies of a migrated database do that tests use.
        once: Let ``STARTED`` fail if the service cannot start, instead of trying again.
        metrics: What counts what the application does.
        find_traces: Returns what records its requests. It is called once the config directory's Python is imported.

    Raises:
        ConfigurationError: names everything that is wrong with the Python that the config names.
    """
    problems = Problems()
    bound = bind(configuration, url, problems, counting=metrics is not None)
    problems.check()
    settings, service = configuration.settings, bound.service
    assert isinstance(service.feed, Feed)
    lifecycle = DatabaseLifecycle(
        configuration,
        service,
        service.feed,
        bound.tables,
        bound.identity,
        bound.throttles,
        unscoped_streams(bound.routes),
        bound.supervisor,
        migrate=migrate,
        matches=matches,
        once=once,
    )
    app = application(configuration, bound, lifecycle)
    register(app, service, bound.routes, lifecycle.waits_for_start)
    assets.register(app)
    if console.is_on(settings):
        console.register(app)
    queries = lifecycle.waits_for_start(stream_queries)
    combined = lifecycle.waits_for_start(combined_stream.stream)
    for path in ("/stream", "/stream/"):
        app.router.add_get(path, combined)
        app.router.add_route("QUERY", path, queries)
    for path in ("/batch", "/batch/"):
        app.router.add_post(path, batch)
    tickets = ticket_handler(service)
    for path in (f"/{TICKETS}", f"/{TICKETS}/"):
        app.router.add_route("*", path, tickets)
    if settings.stream.edge_key is not None:
        from rowcast.server import edge_answers

        edge_answers.register(app, configuration, service, bound.identity, settings.stream.edge_key)
    if service.replicas is not None:
        app.middlewares.append(remember_writers(service, service.replicas))
    observe(app, configuration, service, lifecycle, metrics, find_traces)
    return app


def application(configuration: Configuration, bound: Bound, lifecycle: Lifecycle) -> web.Application:
    """An application that answers errors, keeps limits, and starts and stops with its service; it has the addresses of health alone."""
    settings, service, throttles = configuration.settings, bound.service, bound.throttles
    requests, bodies = Requests(), BodyMemory(settings.server)
    hosts = Hosts(settings.server)
    answer_errors = errors(
        hosts.check,
        lifecycle.check_ready,
        requests=requests,
        bodies=bodies,
        seen_below=partial(root_path, settings.server),
        count_failure=throttles.count_failure,
        **({"describe": describe_errors(configuration.directory)} if settings.server.debug else {}),
    )
    app = web.Application(
        middlewares=[answer_errors],
        client_max_size=settings.server.body_limit,
    )
    app._router = Router()  # noqa: SLF001, aiohttp takes no router of one's own
    app.on_response_prepare.append(add_headers)
    app[SHORT_WAY] = ShortWay(app, settings.server, hosts, requests, lifecycle.readiness)
    if settings.server.cors_origins:
        preflight, allow = cors(settings.server.cors_origins)
        app.middlewares.append(preflight)
        app.on_response_prepare.append(allow)
    if (most := settings.server.max_active_requests) is not None:
        app.middlewares.append(limit_active(most, lifecycle.is_ordinary))
    app[SERVICE], app[IDENTITY], app[THROTTLES] = service, bound.identity, throttles
    app[STATE] = service.hooks.state
    app[REQUESTS] = requests
    app[BODY_MEMORY] = bodies
    app[BODY_TIMEOUT] = settings.server.body_timeout
    health.register(app, lifecycle.readiness)
    lifecycle.attach(app)
    if settings.server.debug:
        app.cleanup_ctx.append(watching_coroutines)
    return app


def observe(
    app: web.Application,
    configuration: Configuration,
    service: Service,
    lifecycle: Lifecycle,
    metrics: Metrics | None,
    find_traces: Callable[[], Traces | None],
) -> None:
    """Log, time, measure and trace what an application does, as far as the settings say; call it last."""
    settings = configuration.settings
    log_requests(app, settings.log)
    log_statements(app, service)
    if settings.server.timing:
        time_requests(app, service)
    if metrics is not None:
        metrics.watch(app, service, lifecycle)
    if (traces := find_traces()) is not None:
        traces.watch(app, service)


def bind(
    configuration: Configuration,
    url: str,
    problems: Problems,
    *,
    counting: bool = False,
    backing: Backing | None = None,
) -> Bound:
    """The parts of a service on a database, to which no connection is opened. With ``counting`` its cache and streams count.

    ``backing`` is what an edge has in place of a database, whose URL is then of no use.
    What is wrong with the keys of callers, and with the Python that the config names, is added to ``problems``.
    """
    settings = configuration.settings
    tables = Tables(configuration.resources)
    tables.page_max_bytes = settings.server.list_size_limit
    pool = _pool(settings.database) if backing is None else backing.pool
    database = pool(
        url,
        tables.guards,
        size=settings.database.pool_size,
        statement_timeout=settings.database.statement_timeout,
        idle_timeout=settings.database.idle_in_transaction_timeout,
        trigger_messages=settings.database.trigger_messages,
        direct_url=settings.database.direct_url,
        prepared_statements=settings.database.prepared_statements,
    )
    direct = settings.database.direct_url or url
    judges = pool(direct, tables.guards, size=JUDGES, statement_timeout=settings.stream.filter_timeout)
    exports = pool(direct, tables.guards, size=settings.database.export_connections)
    exports.lift_limits()  # an export takes as long as its client
    supervisor = Supervisor()
    origin = None if backing is None else backing.origin
    identity = Identity(replace(settings.auth, jwt=None), database, origin=origin)
    if settings.auth.jwt is not None:
        with noting(problems, configuration.files[""].location(("auth", "jwt"), key=True)):
            identity = Identity(settings.auth, database, origin=origin)
    throttles = Throttles(settings.throttle, trusted_proxies=settings.server.trusted_proxies)
    importer = Importer(configuration.directory)
    store = Store(Queries(tables), database, judges)
    backing = backing or _on_database(settings, store, pool)
    service = _service(
        configuration, store, exports, backing, identity, importer, problems, supervisor, counting=counting
    )
    STORE.set(service.store)
    routes = plan_routes(service, configuration, importer, problems)
    with noting(problems, SourceLocation(str(configuration.directory / "hooks.py"))):
        importer.module("hooks")
    service.hooks = Hooks(hooks_in(importer.modules()), State())
    if settings.server.openapi == "authenticated" and not service.authentication_classes:
        message = "nobody is authenticated: auth.default_authentication_classes is empty"
        problems.at(configuration.files[""], ("server", "openapi"), message)
    if settings.server.console:
        for message in console.problems(settings):
            problems.at(configuration.files[""], ("server", "console"), message)
    return Bound(tables, service, identity, throttles, supervisor, routes)


def _pool(settings: DatabaseSettings) -> Callable[..., Database]:
    """What makes a pool of connections."""
    if not settings.has_callers:
        return Database
    from rowcast.database.caller import CallerDatabase, CallerSettings

    return partial(CallerDatabase, callers=CallerSettings.of_settings(settings))


def _on_database(settings: Settings, store: Store, pool: Callable[..., Database]) -> Backing:
    database = store.database

    def feed(relay: Relay | None, supervisor: Supervisor) -> Feed:
        return Feed(database.connect, wakeup=settings.stream.wakeup, relay=relay, supervisor=supervisor)

    async def read_snapshot() -> str:
        with database.as_service():
            return await store.snapshot()

    return Backing(pool, feed, read_snapshot)


def _service(
    configuration: Configuration,
    store: Store,
    exports: Database,
    backing: Backing,
    identity: Identity,
    importer: Importer,
    problems: Problems,
    supervisor: Supervisor,
    *,
    counting: bool,
) -> Service:
    """What the viewsets share. Classes that the settings name and that do not exist are added to ``problems``."""
    settings = configuration.settings
    database = store.database
    relay = None
    if settings.stream.relay is not None:
        from rowcast.changes.relay import Relay, open_bus

        with noting(problems, configuration.files[""].location(("stream", "relay"), key=True)):
            relay = Relay(open_bus(settings.stream.relay), supervisor)
    feed = backing.feed(relay, supervisor)
    cache = CountingCache(feed) if counting else Cache(feed)
    database.changed = cache.invalidate

    def classes(option: str, value: Any, *path: str) -> Any:
        return named_classes(importer, problems, configuration.files[""], path, option, value)

    auth, stream = settings.auth, settings.stream
    replicas = None
    if settings.database.replicas and isinstance(feed, Feed):
        from rowcast.server.replication import make_replicas

        replicas = make_replicas(settings.database, store, backing.pool, feed, cache, supervisor)
    return Service(
        settings=settings,
        resources=configuration.resources,
        store=store,
        exports=exports,
        feed=feed,
        cache=cache,
        replicas=replicas,
        hub=Hub(
            feed,
            backing.read_snapshot,
            identity.still_valid,
            supervisor,
            backing.admission(stream.max_streams, stream.max_streams_per_caller, stream.buffer),
            heartbeat=stream.heartbeat,
            forward=backing.forward,
            max_age=stream.max_age,
            traffic=Traffic() if counting else None,
        ),
        permission_classes=classes(
            "permission_classes", auth.default_permission_classes, "auth", "default_permission_classes"
        ),
        authentication_classes=classes(
            "authentication_classes", auth.default_authentication_classes, "auth", "default_authentication_classes"
        ),
        throttle_classes=classes("throttle_classes", settings.throttle.classes, "throttle", "classes"),
        make_plan=plan_view,
    )
