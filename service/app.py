"""One configuration and one database as an aiohttp application."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from typing import Final

import asyncpg
import orjson
import structlog
from aiohttp import web

from service import __version__, classes, observability, openapi, routers, schema
from service.changes import log as changelog
from service.changes import triggers
from service.changes.feed import Feed
from service.changes.ticker import Ticker
from service.configuration import Configuration
from service.database.connections import Database
from service.errors import Unavailable
from service.middleware import Handler, cors, errors, label
from service.store import Store
from service.observability import Readiness
from service.pagination import BasePagination, NoPagination
from service.query import Queries
from service.resources import Resource
from service.schema import Step
from service.settings import Settings
from service.streams import Hub
from service.tables import Tables
from service.viewsets import GenericViewSet, ModelViewSet, Site, site_url

READINESS: Final = web.AppKey("readiness", Readiness)
SITE: Final = web.AppKey("site", Site)
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
    feed = Feed(database.connect)
    hub = Hub(feed, heartbeat=settings.stream.heartbeat, buffer=settings.stream.buffer)
    site = Site(settings, configuration.resources, Store(Queries(tables), database), feed, hub)
    readiness = Readiness(feed)

    @web.middleware
    async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
        if readiness.starting is not None and not request.path.startswith("/health/"):
            raise Unavailable(readiness.starting, code="starting")
        return await handler(request)

    app = web.Application(middlewares=[errors, gate], client_max_size=settings.server.body_limit)
    app.on_response_prepare.append(label)
    if settings.server.cors_origins:
        preflight, allow = cors(settings.server.cors_origins)
        app.middlewares.insert(1, preflight)
        app.on_response_prepare.append(allow)
    app[SITE] = site
    app[READINESS] = readiness
    _register(app, site, readiness)
    ticker = Ticker(database.connect, wakeup=settings.stream.wakeup, retention=settings.stream.retention)

    async def start() -> None:
        """Try until the database is there and fits; then follow its changes."""
        attempt = 0
        while True:
            try:
                site.secret = await prepare(configuration, url, migrate=migrate)
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
        await database.close()

    async def end_streams(_: web.Application) -> None:
        await hub.close()

    app.cleanup_ctx.append(run)
    app.on_shutdown.append(end_streams)
    return app


async def prepare(configuration: Configuration, url: str, *, migrate: bool) -> bytes:
    """See that the database fits the config, or make it; its secret. ``Unavailable`` says what is pending."""
    settings = configuration.settings
    tables = Tables(configuration.resources)
    database = Database(url, tables.guards)
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


def bind(site: Site, resource: Resource) -> type[GenericViewSet]:
    """The viewset of a resource, with the options of the config."""
    options = {name: value for name, value in resource.options.items() if name != "class"}
    permissions = options.pop("permission_classes", site.settings.auth.default_permission_classes)
    paginator = options.pop("pagination_class", "PageNumberPagination")
    return ModelViewSet.bind(
        site,
        resource,
        {
            **options,
            "permission_classes": tuple(classes.permission(tree) for tree in permissions),
            "pagination_class": classes.find(paginator, classes.PAGINATIONS, BasePagination)
            if paginator
            else NoPagination,
        },
    )


def _register(app: web.Application, site: Site, readiness: Readiness) -> None:
    """Every address of the service."""
    routes = []
    for resource in site.resources.values():
        view = bind(site, resource)
        routes += [(view, route) for route in routers.routes(resource.name, view)]
    for _, route in routes:
        routers.register(app, route)
    observability.register(app, readiness)
    document = orjson.dumps(openapi.document(site.resources, routes, version=__version__))

    async def root(request: web.Request) -> web.Response:
        """The resources and where they are."""
        origin = site_url(site.settings, request)
        body = {
            route.name.removesuffix("-list"): f"{origin}{route.path}/"
            for _, route in routes
            if route.name.endswith("-list")
        }
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    async def describe(request: web.Request) -> web.Response:
        return web.Response(body=document, content_type="application/json")

    app.router.add_get("/", root)
    app.router.add_get("/openapi.json", describe)
    app.router.add_get("/openapi.json/", describe)
