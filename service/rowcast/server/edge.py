"""An edge: a process that holds streams for an origin, without a connection to the database.

It is the same engine as the service: the same viewsets authorise callers, and the same hub sends them the same bytes. What it has in
place of a database is the origin. The changes come over the relay, or from the origin (``changes.edge_feed``). Streams that data
alone decide about are sent here. All else, other streams included, is passed on (``server.passing_on``).

Whether a stream can be sent here shows in three places: in its viewset, when the edge starts (``Edge.why_passed_on``); when it is opened, since a
filter may need the database (``NeedsDatabase``); and while it is open, at a value that only PostgreSQL can compare. Then
the stream ends, and its client comes back to be passed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import web

from rowcast.changes.connection import OriginLost, cancel
from rowcast.changes.edge_feed import EdgeFeed
from rowcast.changes.origin import End, Origin, OriginState
from rowcast.changes.relay import Relay
from rowcast.configuration.load import Configuration
from rowcast.configuration.yaml import Problems
from rowcast.database.absent import AbsentDatabase, NeedsDatabase
from rowcast.errors import ConfigurationError, Unavailable
from rowcast.garbage import no_collection
from rowcast.query.store import STORE
from rowcast.resources.actions import STREAM
from rowcast.resources.traits import TableTraits
from rowcast.rest import combined_stream, routers
from rowcast.rest.handlers import Handler, handler_for
from rowcast.rest.plan import DIFFERS, ModelPlan
from rowcast.rest.query_method import QUERY
from rowcast.rest.request import Request
from rowcast.rest.routers import Route
from rowcast.rest.stream_queries import stream_queries
from rowcast.server.app import Backing, Bound, application, bind, observe
from rowcast.server.edge_answers import resource_digests
from rowcast.server.health import FEED_GRACE_SECONDS, Readiness
from rowcast.server.lifecycle import STARTED, Lifecycle, pause_before_start
from rowcast.server.log_entries import set_level
from rowcast.server.passing_on import Upstream
from rowcast.streams.admission import EdgeAdmission
from rowcast.tasks import Supervisor, spawn

if TYPE_CHECKING:
    from rowcast.server.metrics import Metrics
    from rowcast.server.tracing import Traces

NOWHERE: Final = "postgresql://"  # to which nothing is ever connected
BODY: Final = web.RequestKey("edge_body", bytes)  # of a QUERY, which was read here
_NO_KEY: Final = "stream.edge_key: an edge needs the key with which it reads the log of its origin"
_logger = structlog.get_logger(__name__)


@no_collection()
def create_edge(
    configuration: Configuration,
    url: str,
    *,
    once: bool = False,
    metrics: Metrics | None = None,
    find_traces: Callable[[], Traces | None] = lambda: None,
) -> web.Application:
    """The edge of an origin, which is the service with the same configuration at a URL.

    It answers at once: until it has found its origin, streams wait. With ``once`` the application's ``STARTED`` fails if
    the origin cannot be found, instead of trying again. ``metrics`` and ``find_traces`` are those of ``create_app``.

    Raises:
        ConfigurationError: names everything that is wrong with the config, and with its Python.
    """
    edge = make_edge(configuration, url, counting=metrics is not None)
    bound = edge.bound
    lifecycle = EdgeLifecycle(configuration, bound, edge, once=once)
    app = application(configuration, bound, lifecycle)
    edge.register(app, lifecycle)
    observe(app, configuration, bound.service, lifecycle, metrics, find_traces)
    return app


def make_edge(configuration: Configuration, url: str, *, counting: bool = False) -> Edge:
    """The parts of an edge, before it asks its origin for anything. With ``counting`` its streams count.

    Raises ``ConfigurationError`` as ``create_edge`` does.
    """
    key = configuration.settings.stream.edge_key
    if key is None:
        raise ConfigurationError(f"{configuration.files[''].location(('stream', 'edge_key'))}: {_NO_KEY}")
    problems = Problems()
    edge = Edge(configuration, Origin(url, key), Upstream(url, configuration.settings.stream.heartbeat))
    edge.bind(bind(configuration, NOWHERE, problems, counting=counting, backing=edge.backing()))
    problems.check()
    return edge


class Edge:
    """What an edge knows of its origin, and which streams it sends itself."""

    def __init__(self, configuration: Configuration, origin: Origin, upstream: Upstream) -> None:
        self.origin = origin
        self.upstream = upstream
        self._configuration = configuration
        self._own = resource_digests(configuration)
        self._differing: frozenset[str] = frozenset(self._own)  # the resources that are other ones at the origin
        self._seen = ""  # the digest of the origin's configuration that was learned last
        self._learning: asyncio.Task[None] | None = None
        self.bound: Bound

    def backing(self) -> Backing:
        """What the service stands on in place of a database."""

        def feed(relay: Relay | None, supervisor: Supervisor) -> EdgeFeed:
            return EdgeFeed(self.origin, note=self._note, relay=relay, supervisor=supervisor)

        async def read_snapshot() -> str:
            try:
                return await self.origin.snapshot()
            except OriginLost:
                raise Unavailable(code="origin_unavailable") from None

        return Backing(AbsentDatabase, feed, read_snapshot, EdgeAdmission, self.upstream.begin, self.origin)

    def bind(self, bound: Bound) -> None:
        """Use the parts of the service."""
        self.bound = bound
        bound.service.why_passed_on = self.why_passed_on

    def why_passed_on(self, plan: ModelPlan) -> str | None:
        """The reason why the streams of a viewset are the origin's, as what follows "because"; ``None`` if they are sent here."""
        if plan.resource.name in self._differing:
            return DIFFERS
        if self._configuration.settings.database.has_callers:
            return "the database decides what a caller may read"
        if plan.beyond_data:
            return "; ".join(plan.beyond_data)
        if not plan.serializer.plain:
            return "its serializer has Python"
        if plan.takes_natives:
            return "PostgreSQL checks values of its filters"
        scope = plan.declared_scope
        return "its scope is about related rows" if scope is not None and scope.needs_related_rows else None

    def streams(self) -> dict[str, str | None]:
        """The resources, each with the reason why its streams are passed on, or ``None``."""
        return {name: self.why_passed_on(plan) for name, plan in sorted(self.bound.service.plans.items())}

    def compare(self, state: OriginState) -> None:
        """Take over what the origin knows of its tables, and which resources are other ones there."""
        traits = {name: TableTraits.loaded(each) for name, each in state.traits.items() if name in self._own}
        self.bound.tables.learn(traits)
        self._seen = state.config
        self._differing = frozenset(name for name, digest in self._own.items() if state.resources.get(name) != digest)

    def learn(self, state: OriginState) -> None:
        """``compare``, and log what has changed."""
        before = self._differing
        self.compare(state)
        if self._differing != before:
            streams = self.streams()
            _logger.info(
                "edge_streams",
                sent=[name for name, reason in streams.items() if reason is None],
                passed_on={name: reason for name, reason in streams.items() if reason is not None},
            )
        if self._differing:
            note = (
                "these resources are declared otherwise at the origin, which sends their streams until that has changed"
            )
            _logger.warning("edge_config_differs", resources=sorted(self._differing), note=note)

    def _note(self, end: End) -> None:
        """Learn again if the origin has another configuration now."""
        if self._seen and end.config != self._seen and (self._learning is None or self._learning.done()):
            self._learning = spawn(self._learn_again(), "configuration of the origin")

    async def _learn_again(self) -> None:
        with suppress(OriginLost):
            before = self._differing
            self.learn(await self.origin.state())
            if not self._differing <= before:
                await self.bound.service.hub.open_streams.drain(self._configuration.settings.stream.drain)

    async def close(self) -> None:
        """End all work and all connections to the origin."""
        await cancel([] if self._learning is None else [self._learning])
        await self.origin.close()
        await self.upstream.close()

    # --- requests

    def register(self, app: web.Application, lifecycle: Lifecycle) -> None:
        """Add the addresses of the viewsets; whatever is at no address of the edge is passed on as well."""
        service = self.bound.service
        for route in self.bound.routes:
            service.routes[route.name] = route.path
            routers.register(app, route, self._handler(route, lifecycle))
        combined = lifecycle.waits_for_start(self._here_or_there(combined_stream.stream))
        queries = lifecycle.waits_for_start(self._here_or_there(stream_queries))
        for path in ("/stream", "/stream/"):
            app.router.add_get(path, combined)
            app.router.add_route(QUERY, path, queries)

        @web.middleware
        async def pass_on_the_rest(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.match_info.http_exception is not None:
                return await self.upstream.pass_on(request)
            return await handler(request)

        app.middlewares.append(pass_on_the_rest)

    def _handler(self, route: Route, lifecycle: Lifecycle) -> Handler:
        plan = route.plan
        stream = STREAM in route.actions.values() and not route.initkwargs.get("detail")
        if not (stream and isinstance(plan, ModelPlan)):
            return (
                lifecycle.waits_for_start(self.upstream.pass_on_stream) if route.sends_events else self.upstream.pass_on
            )
        here = self._here_or_there(handler_for(plan, route.action_map))

        async def open_stream(http: web.Request) -> web.StreamResponse:
            if http.method not in ("GET", "HEAD") or self.why_passed_on(plan) is not None:
                return await self.upstream.pass_on_stream(http, http.get(BODY))
            return await here(http)

        return lifecycle.waits_for_start(open_stream)

    def _here_or_there(self, handler: Handler) -> Handler:
        """The handler, or the origin for a request about which only the database can decide."""

        async def answer(http: web.Request) -> web.StreamResponse:
            STORE.set(self.bound.service.store)
            if http.method == QUERY and BODY not in http:
                http[BODY] = await Request(http).read()
            try:
                return await handler(http)
            except NeedsDatabase:
                return await self.upstream.pass_on_stream(http, http.get(BODY))

        return answer


class EdgeReadiness(Readiness):
    """The readiness of an edge: whether it knows how far the changes are."""

    async def _reason_of_feed(self) -> str | None:
        lag = self._feed.lag
        if lag <= FEED_GRACE_SECONDS:
            return None
        return f"Neither the origin nor the relay has told for {lag:.0f} s how far the changes are."


class EdgeLifecycle(Lifecycle):
    """Starts and stops what an edge runs beside requests."""

    def __init__(self, configuration: Configuration, bound: Bound, edge: Edge, *, once: bool) -> None:
        feed = bound.service.feed
        assert isinstance(feed, EdgeFeed)
        super().__init__(configuration, bound.service, EdgeReadiness(feed, bound.supervisor))
        self._feed = feed
        self._bound = bound
        self._edge = edge
        self._once = once

    def check_ready(self, request: web.Request) -> None:
        """Requests are passed on before the edge has found its origin, too."""

    async def _run(self, app: web.Application) -> AsyncIterator[None]:
        app[STARTED] = starting = asyncio.create_task(self._start(), name="start")
        yield
        await cancel([starting])
        await self._feed.stop()
        if self._feed.relay is not None:
            await self._feed.relay.stop()
        await self._bound.identity.close()
        await self._bound.throttles.close()
        await self._edge.close()

    async def _start(self) -> None:
        """Try until the origin is there; then follow its changes."""
        attempt = 0
        while True:
            try:
                state = await self._edge.origin.state()
                self._edge.learn(state)
                await self._feed.begin(state)
                break
            except OriginLost as error:
                if self._once:
                    raise
                self.readiness.starting = f"The origin cannot be used: {error}."
                _logger.warning("not_ready", reason=self.readiness.starting, origin=self._edge.origin.place)
            attempt += 1
            await pause_before_start(attempt)
        if self._feed.relay is not None:
            await self._feed.relay.start()
        await self._feed.start()
        self._service.hub.start()
        set_level(self._configuration.settings.log.level)
        self.readiness.starting = None
        self._settled.set()

    async def drain(self) -> None:
        seconds = self._configuration.settings.stream.drain
        await asyncio.gather(super().drain(), self._edge.upstream.drain(seconds))

    async def streams_ended(self) -> None:
        await super().streams_ended()
        await self._edge.upstream.ended()

    async def _end_streams(self, app: web.Application) -> None:
        await super()._end_streams(app)
        await self._edge.upstream.drain(0)
