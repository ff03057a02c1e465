"""One configuration and one database as an aiohttp application."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, TypeAlias

import asyncpg
import orjson
import structlog
from aiohttp import web

from rowcast import __version__
from rowcast.changes import checks
from rowcast.changes.cache import Cache
from rowcast.changes.feed import Feed
from rowcast.changes.install import install, read_secret
from rowcast.changes.ticker import Ticker
from rowcast.changes.trigger_sync import sync_triggers
from rowcast.configuration import viewset_options
from rowcast.configuration.declarations import RESERVED_RESOURCES
from rowcast.configuration.load import Configuration
from rowcast.configuration.settings import Settings
from rowcast.configuration.yaml import Document, Problems, SourceLocation, Steps
from rowcast.database.errors import CONNECTION_LOST
from rowcast.database.pool import Database
from rowcast.errors import ConfigurationError, Unavailable
from rowcast.identity.authentication import IDENTITY, Identity
from rowcast.identity.permissions import check_columns
from rowcast.identity.throttling import THROTTLES, Throttles
from rowcast.migrations import commands
from rowcast.migrations.values import Step
from rowcast.openapi.document import document as openapi_document
from rowcast.query.statements import Queries
from rowcast.query.store import STORE, Store
from rowcast.resources.tables import Tables
from rowcast.rest import combined_stream, routers
from rowcast.rest.viewset import SERVICE, Service, ViewSet, bound_in, site_url
from rowcast.server import health
from rowcast.server.health import Readiness
from rowcast.server.importer import Importer
from rowcast.server.middleware import Handler, cors, errors, label
from rowcast.streams.hub import Hub

READINESS: Final = web.AppKey("readiness", Readiness)
STARTED: Final = web.AppKey("started", asyncio.Task)
OUTAGE: Final = 10  # attempts to open a stream while the database is away, one a second
PATIENCE: Final = 5.0  # s, the longest wait between two attempts to start
RARE: Final = 100  # collections of the middle generation to one of everything
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
    hub = Hub(
        feed,
        lambda auth: identity.still_valid(auth),
        heartbeat=settings.stream.heartbeat,
        buffer=settings.stream.buffer,
    )
    problems = Problems()
    cache = Cache(feed)
    database.changed = cache.invalidate
    importer = Importer(configuration.directory)

    def classes(option: str, value: Any, *path: str) -> Any:
        return _named(importer, problems, configuration.files[""], path, option, value)

    auth = settings.auth
    service = Service(
        settings,
        configuration.resources,
        Store(Queries(tables), database),
        feed,
        cache,
        hub,
        classes("permission_classes", auth.default_permission_classes, "auth", "default_permission_classes"),
        classes(
            "authentication_classes", auth.default_authentication_classes, "auth", "default_authentication_classes"
        ),
        classes("throttle_classes", settings.throttle.classes, "throttle", "classes"),
    )
    STORE.set(service.store)
    routes = _routes(service, configuration, importer, problems)
    problems.check()
    identity = Identity(settings.auth, database)
    readiness = Readiness(feed)
    settled = asyncio.Event()  # it has started, or ends before
    patient: set[Handler] = set()

    def waiting(handler: Handler) -> Handler:
        """A stream that is asked for during the start, or while the database is away, begins behind that.

        Any answer but 200 ends a browser's EventSource for good; a connection that is lost it opens again.
        """

        async def wait(request: web.Request) -> web.StreamResponse:
            await settled.wait()
            for pause in range(OUTAGE):
                try:
                    if readiness.starting is not None:
                        break
                    return await handler(request)
                except Unavailable as error:
                    if error.code == "statement_timeout":
                        raise  # it would take too long again
                    await asyncio.sleep(min(pause, 1))
            if request.transport is not None:
                request.transport.abort()
            raise Unavailable("The service has ended, or its database is away.")

        patient.add(wait)
        return wait

    routes = [
        (view, replace(route, handler=waiting(route.handler)) if "stream" in route.actions.values() else route)
        for view, route in routes
    ]

    def gate(request: web.Request) -> None:
        if readiness.starting is None or request.match_info.handler in patient or request.path.startswith("/health/"):
            return
        raise Unavailable("The service is not ready; /health/ready says why.", code="starting")

    app = web.Application(middlewares=[errors(gate)], client_max_size=settings.server.body_limit)
    app.on_response_prepare.append(label)
    if settings.server.cors_origins:
        preflight, allow = cors(settings.server.cors_origins)
        app.middlewares.append(preflight)
        app.on_response_prepare.append(allow)
    app[SERVICE] = service
    app[IDENTITY] = identity
    app[THROTTLES] = Throttles(settings.throttle, trusted_proxies=settings.server.trusted_proxies)
    app[READINESS] = readiness
    _register(app, service, routes, readiness)
    for path in ("/stream", "/stream/"):
        app.router.add_get(path, waiting(combined_stream.stream))
    stream = settings.stream
    ticker = Ticker(database.connect, wakeup=stream.wakeup, retention=stream.retention, size=stream.max_log_size)

    async def start() -> None:
        """Try until the database is there and fits; then follow its changes."""
        attempt = 0
        while True:
            try:
                service.secret = await prepare(configuration, tables, database, migrate=migrate)
                break
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, Unavailable) as error:
                readiness.starting = _hindrance(error)
                log.warning("not_ready", reason=readiness.starting, error=str(error))
            attempt += 1
            await asyncio.sleep(min(PATIENCE, 0.1 * 2**attempt) * random.uniform(0.5, 1))
        await ticker.start()
        await feed.start()
        await feed.ready.wait()
        cache.start()
        hub.start()
        readiness.starting = None
        settled.set()

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
        settled.set()
        await hub.close()

    app.cleanup_ctx.append(run)
    app.on_shutdown.append(end_streams)
    return app


def _hindrance(error: Exception) -> str:
    """What to tell everybody of an error that keeps the service from starting; its own words are for the log."""
    if isinstance(error, Unavailable):
        return str(error)
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
        return "The database is read-only."
    if isinstance(error, asyncpg.PostgresError) and not isinstance(error, CONNECTION_LOST):
        return "The database refuses what the service needs; the service's log says what."
    return "The database cannot be reached."


def tune_garbage_collector() -> None:
    """Keep the garbage collector's pauses short from now on; for the owner of the process, once the service is ready.

    What is there now stays for as long as the process lives and is not looked at any more, and everything is looked at
    only rarely: with 10,000 open streams that takes half a second.
    """
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, RARE)


async def prepare(configuration: Configuration, tables: Tables, database: Database, *, migrate: bool) -> bytes:
    """See that the database fits the config, or make it; its secret. ``Unavailable`` says what is pending."""
    settings = configuration.settings
    connection = await database.connect()
    try:
        if migrate:
            before, after = migration_steps(tables, settings)
            done = await commands.migrate(
                database.connect, tables, settings.database.migrations, sync=True, before=before, after=after
            )
            pending = done.pending
        else:
            if hindrances := await checks.blocking_problems(connection):
                raise Unavailable(f"The database cannot be used: {'; '.join(hindrances)}")
            pending = await commands.pending(database.connect, tables, settings.database.migrations)
        pending += [] if pending else await checks.find_problems(connection, tables, wakeup=settings.stream.wakeup)
        if pending:
            raise Unavailable(f"The database is not in line with the config; pending: {'; '.join(pending)}")
        key = settings.server.secret_key
        return hashlib.sha256(key.encode()).digest() if key else await read_secret(connection)
    finally:
        await connection.close()


def migration_steps(tables: Tables, settings: Settings) -> tuple[Step, Step]:
    """What a migration does before and after its own steps: the change log, and the triggers that fill it."""

    async def log_changes(connection: asyncpg.Connection) -> None:
        await sync_triggers(connection, tables, wakeup=settings.stream.wakeup)

    return install, log_changes


Served: TypeAlias = tuple[type[ViewSet], routers.Route]


def _routes(service: Service, configuration: Configuration, importer: Importer, problems: Problems) -> list[Served]:
    """Every address of the resources and of ``urls.py``, with the bound viewset that answers it."""
    routes: list[Served] = []
    names: dict[str, str] = {}
    viewsets = list(_viewsets(service, configuration, importer, problems))
    service.resolve_related()
    for place, prefix, view, basename in viewsets:
        if names.setdefault(basename, prefix) != prefix:
            told = (
                f"/{prefix}/ and /{names[basename]}/ have the same basename {basename!r}: give one another model name"
            )
            problems.add(place, f"{told}, or register it with a basename=")
            continue
        with _noting(problems, place):
            routes += [(view, route) for route in routers.routes(prefix, view, basename)]
    with _noting(problems, SourceLocation(str(configuration.directory))):
        routers.check_distinct([route for _, route in routes])
    return routes


def _viewsets(
    service: Service, configuration: Configuration, importer: Importer, problems: Problems
) -> Iterator[tuple[SourceLocation, str, type[ViewSet], str]]:
    """Every viewset that can be bound: where it was declared, its prefix, the class, and what its routes are called.

    Those of the resources come first, then those that ``urls.py`` in the config directory registers.
    """
    for resource in service.resources.values():
        file = configuration.files[resource.name]
        own = Problems()
        given = {
            name: _named(importer, own, file, ("viewset", name), name, value)
            for name, value in {"class": "ModelViewSet", **resource.options}.items()
        }
        place = file.location(("viewset", "class"), key=True)
        if not own:
            view = given.pop("class")
            extra = [function.__name__ for function in view.get_extra_actions()]
            for path, told in viewset_options.check(service.resources, resource.name, resource.options, extra):
                if path[0] in ("allowed_actions", "excluded_actions"):  # the rest was checked without the class
                    own.at(file, ("viewset", *path), told)
            for position, permission in enumerate(given.get("permission_classes", ())):
                with _noting(own, file.location(("viewset", "permission_classes", position))):
                    check_columns(permission(), resource.columns)
        if not own:
            with _noting(own, place):
                yield place, resource.name, view.bind_to(service, resource, given), resource.model.lower()
        problems.update(own)
    place = SourceLocation(str(configuration.directory / "urls.py"))
    with _noting(problems, place):
        urls = importer.module("urls")
        router = getattr(urls, "router", None)
        if urls is not None and not isinstance(router, routers.SimpleRouter):
            raise ConfigurationError("must have a router: router = DefaultRouter(), then router.register(…)")
        for prefix, viewset, basename in router.registry if router else ():
            if prefix.partition("/")[0] in RESERVED_RESOURCES:
                raise ConfigurationError(
                    f"/{prefix}/ is the service's own address: register {viewset.__name__} elsewhere"
                )
            served = bound_in(service, viewset)
            name = basename or routers.default_basename(served)
            if name is None:
                raise ConfigurationError(f"{viewset.__name__} has no model, so register it with a basename=")
            yield place, prefix, served, name


def _named(importer: Importer, problems: Problems, file: Document, path: Steps, option: str, value: Any) -> Any:
    """The classes that the value at a path of a file names, for an option of viewsets."""
    return importer.option(option, value, lambda rest, told: problems.at(file, (*path, *rest), told))


@contextmanager
def _noting(problems: Problems, place: SourceLocation) -> Iterator[None]:
    """Note a ``ConfigurationError`` and go on."""
    try:
        yield
    except ConfigurationError as error:
        for line in str(error).splitlines():
            problems.add(place, line)


def overridden(configuration: Configuration, service: Service) -> Iterator[str]:
    """A line for each option of YAML that is set in the viewset's class as well, where it has no effect then."""
    for resource in configuration.resources.values():
        for name in resource.options:
            for owner in service.views[resource.name].__mro__[1:]:
                if name in vars(owner) and not owner.__module__.startswith("rowcast."):
                    place = configuration.files[resource.name].location(("viewset", name), key=True)
                    yield f"{place}: {name} is set here, so that of {owner.__module__}.{owner.__name__} does not count"
                    break


def _register(app: web.Application, service: Service, routes: Sequence[Served], readiness: Readiness) -> None:
    """Add every address of the service."""
    for _, route in routes:
        routers.register(app, route)
        service.routes[route.name] = route.path
    health.register(app, readiness)
    lists = [route.path for _, route in routes if route.name.endswith("-list")]
    document = orjson.dumps(openapi_document(service.resources, routes, version=__version__))

    async def root(request: web.Request) -> web.Response:
        """The resources and where they are."""
        origin = site_url(service.settings, request)
        body = {path[1:]: f"{origin}{path}/" for path in lists}
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    async def describe(request: web.Request) -> web.Response:
        return web.Response(body=document, content_type="application/json")

    app.router.add_get("/", root)
    app.router.add_get("/openapi.json", describe)
    app.router.add_get("/openapi.json/", describe)
