"""One configuration and one database as an aiohttp application."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Iterator
from typing import Final

import asyncpg
import orjson
import structlog
from aiohttp import web

from service import __version__, observability, openapi, routers, schema
from service.authentication import IDENTITY, Identity
from service.changes import log as changelog
from service.changes import triggers
from service.changes.feed import Feed
from service.changes.ticker import Ticker
from service.classes import Importer
from service.configuration import Configuration
from service.database.connections import Database
from service.declarations import RESERVED_RESOURCES
from service.errors import ConfigurationError, Unavailable
from service.middleware import Handler, cors, errors, label
from service.models import STORE
from service.observability import Readiness
from service.query import Queries
from service.schema import Step
from service.settings import Settings
from service.store import Store
from service.streams import Hub
from service.tables import Tables
from service.throttling import THROTTLES, Throttles, announce
from service.viewsets import SITE, GenericViewSet, Site, ViewSet, bound_in, site_url

READINESS: Final = web.AppKey("readiness", Readiness)
STARTED: Final = web.AppKey("started", asyncio.Task)
PATIENCE: Final = 5.0  # s, the longest wait between two attempts to start
log = structlog.get_logger(__name__)


def create_app(configuration: Configuration, url: str, *, migrate: bool = False) -> web.Application:
    """The service for a configuration on the database at ``url``.

    It answers at once, and is ready when the database can be reached and its schema is in line with the config; with
    ``migrate`` it brings that about. ``STARTED`` is done when it is ready, and holds what makes that impossible.
    """
    settings = configuration.settings
    tables = Tables(configuration.resources)
    database = Database(
        url, tables.guards, size=settings.database.pool_size, statement_timeout=settings.database.statement_timeout
    )
    feed = Feed(database.connect, wakeup=settings.stream.wakeup)
    hub = Hub(feed, heartbeat=settings.stream.heartbeat, buffer=settings.stream.buffer)
    importer = Importer(configuration.directory)
    permissions = tuple(map(importer.permission, settings.auth.default_permission_classes))
    site = Site(
        settings,
        configuration.resources,
        Store(Queries(tables), database),
        feed,
        hub,
        permissions,
        importer.authenticators(settings.auth.default_authentication_classes),
        importer.throttles(settings.throttle.classes),
    )
    identity = Identity(settings.auth, database)
    readiness = Readiness(feed)

    @web.middleware
    async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
        if readiness.starting is not None and not request.path.startswith("/health/"):
            raise Unavailable("The service is not ready; /health/ready says why.", code="starting")
        return await handler(request)

    app = web.Application(middlewares=[errors, gate], client_max_size=settings.server.body_limit)
    app.on_response_prepare.append(label)
    if settings.server.cors_origins:
        preflight, allow = cors(settings.server.cors_origins)
        app.middlewares.insert(1, preflight)
        app.on_response_prepare.append(allow)
    app[SITE] = site
    app[IDENTITY] = identity
    app[THROTTLES] = Throttles(settings.throttle, trusted_proxies=settings.server.trusted_proxies)
    app.on_response_prepare.append(announce)
    app[READINESS] = readiness
    _register(app, site, importer, readiness)
    ticker = Ticker(database.connect, wakeup=settings.stream.wakeup, retention=settings.stream.retention)

    async def start() -> None:
        """Try until the database is there and fits; then follow its changes."""
        attempt = 0
        while True:
            try:
                site.secret = await prepare(configuration, tables, database, migrate=migrate)
                break
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, Unavailable) as error:
                known = isinstance(error, Unavailable)
                readiness.starting = str(error) if known else "The database cannot be reached."
                log.warning("not_ready", reason=readiness.starting, error=str(error))
            attempt += 1
            await asyncio.sleep(min(PATIENCE, 0.1 * 2**attempt) * random.uniform(0.5, 1))
        await ticker.start()
        await feed.start()
        await feed.ready.wait()
        hub.start()
        readiness.starting = None

    async def run(app: web.Application) -> AsyncIterator[None]:
        app[STARTED] = starting = asyncio.create_task(start(), name="start")
        yield
        starting.cancel()
        await asyncio.wait([starting])
        await feed.stop()
        await ticker.stop()
        await identity.close()
        await app[THROTTLES].close()
        await database.close()

    async def end_streams(_: web.Application) -> None:
        await hub.close()

    app.cleanup_ctx.append(run)
    app.on_shutdown.append(end_streams)
    return app


async def prepare(configuration: Configuration, tables: Tables, database: Database, *, migrate: bool) -> bytes:
    """See that the database fits the config, or make it; its secret. ``Unavailable`` says what is pending."""
    settings = configuration.settings
    if migrate:
        before, after = migration_steps(tables, settings)
        done = await schema.migrate(
            database.connect, tables, settings.database.migrations, sync=True, before=before, after=after
        )
        pending = done.pending
    else:
        pending = await schema.pending(database.connect, tables, settings.database.migrations)
    connection = await database.connect()
    try:
        pending += [] if pending else await triggers.problems(connection, tables, wakeup=settings.stream.wakeup)
        if pending:
            raise Unavailable(f"The database is not in line with the config; pending: {'; '.join(pending)}")
        key = settings.server.secret_key
        return hashlib.sha256(key.encode()).digest() if key else await changelog.secret(connection)
    finally:
        await connection.close()


def migration_steps(tables: Tables, settings: Settings) -> tuple[Step, Step]:
    """What a migration does before and after its own steps: the change log, and the triggers that fill it."""

    async def log_changes(connection: asyncpg.Connection) -> None:
        await triggers.sync_triggers(connection, tables, wakeup=settings.stream.wakeup)

    return changelog.install, log_changes


def viewsets_of(site: Site, importer: Importer) -> Iterator[tuple[str, type[ViewSet], str]]:
    """Every viewset of the service, bound: its prefix, the class, and the name that its routes begin with.

    Those of the resources come first, then those that ``urls.py`` in the config directory registers.
    """
    for resource in site.resources.values():
        view = importer.viewset(resource.options.get("class"))
        try:
            bound = view.bind_to(site, resource, importer.options(resource.options))
        except ConfigurationError as error:
            raise ConfigurationError(f"{resource.source}: {error}") from error
        yield resource.name, bound, resource.model.lower()
    urls = importer.module("urls")
    router = getattr(urls, "router", None)
    if urls is not None and not isinstance(router, routers.SimpleRouter):
        raise ConfigurationError("urls.py: must have a router: router = DefaultRouter(), then router.register(…)")
    for prefix, viewset, basename in router.registry if router else ():
        if prefix.partition("/")[0] in RESERVED_RESOURCES:
            told = f"/{prefix}/ is the service's own address: register {viewset.__name__} elsewhere"
            raise ConfigurationError(f"urls.py: {told}")
        served = bound_in(site, viewset)
        name = basename or routers.default_basename(served)
        if name is None:
            raise ConfigurationError(f"urls.py: {viewset.__name__} has no model, so register it with a basename=")
        yield prefix, served, name


def _register(app: web.Application, site: Site, importer: Importer, readiness: Readiness) -> None:
    """Every address of the service."""
    routes: list[tuple[type[ViewSet], routers.Route]] = []
    names: dict[str, str] = {}
    STORE.set(site.store)
    for prefix, view, basename in viewsets_of(site, importer):
        if names.setdefault(basename, prefix) != prefix:
            raise ConfigurationError(
                f"/{prefix}/ and /{names[basename]}/ have the same basename {basename!r}: give one another model name, "
                "or register it with a basename="
            )
        routes += [(view, route) for route in routers.routes(prefix, view, basename)]
    for _, route in routes:
        routers.register(app, route)
        site.routes[route.name] = route.path
    routers.check_distinct([route for _, route in routes])
    lists = {route.path for _, route in routes}
    observability.register(app, readiness)
    described = [(view, route) for view, route in routes if issubclass(view, GenericViewSet)]
    document = orjson.dumps(openapi.document(site.resources, described, version=__version__))

    async def root(request: web.Request) -> web.Response:
        """The resources and where they are."""
        origin = site_url(site.settings, request)
        body = {prefix: f"{origin}/{prefix}/" for prefix in names.values() if f"/{prefix}" in lists}
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    async def describe(request: web.Request) -> web.Response:
        return web.Response(body=document, content_type="application/json")

    app.router.add_get("/", root)
    app.router.add_get("/openapi.json", describe)
    app.router.add_get("/openapi.json/", describe)
