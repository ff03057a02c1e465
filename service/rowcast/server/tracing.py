"""Traces: the spans of requests, and of what they do, by OpenTelemetry's conventions for HTTP and databases.

A span has no query, no header, no body, no argument of a statement and no message of an error, so no credentials either. The span of
a stream ends when the stream begins; what the stream sends has none. A statement that requests share is a span of each of them.
docs/decisions/0034-traces.md has the reasons.

Conventions: https://opentelemetry.io/docs/specs/semconv/http/http-spans/, …/database/postgresql/
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from time import time_ns
from typing import Any, Final

from aiohttp import web
from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, TracerProvider

from rowcast import __version__
from rowcast.database.errors import sqlstate
from rowcast.database.pool import Database
from rowcast.database.summaries import Summaries, summaries_of
from rowcast.errors import ApiError
from rowcast.query.coalescing import ALONE, Join
from rowcast.rest.handlers import Handler
from rowcast.rest.plan import Service
from rowcast.server.router import METHODS, template
from rowcast.server.sampling import NO_PARENT, UNDECIDED, Sampling
from rowcast.streams.sse import WHEN_BEGUN
from rowcast.traces import TRACE, Trace

ERROR_STATUS: Final = 500  # from which on a response is an error of the service
CONVENTIONS: Final = "https://opentelemetry.io/schemas/1.44.0"
UNTRACED: Final = "/health/"  # the addresses of probes


class Traces:
    """Records what applications do, as spans of a provider."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("rowcast", __version__, schema_url=CONVENTIONS)

    def watch(self, app: web.Application, service: Service) -> None:
        """Record the requests of an application, which is complete but for this."""
        app.middlewares.insert(0, _recording(self._tracer, _routes(app)))
        store, resources = service.store, service.resources
        summaries = summaries_of(store.queries.tables)
        for name, pool in service.pools().items():
            _record_statements(name, pool, self._tracer, summaries)

        def sets_trace(changes: Collection[str]) -> bool:
            """Whether no trigger writes before the statement has set the trace."""
            return not any(resources.traits_of(name).triggered for name in changes)

        store.database.sets_trace = sets_trace

        def summary(shape: tuple[Hashable, ...]) -> str:
            return summaries.of(store.queries.select_row(*shape).sql)  # type: ignore[arg-type]

        replicas = () if service.replicas is None else service.replicas.all
        for shared in (store, *(each.store for each in replicas)):
            shared.rows.instrument(lambda join: _sharing(join, self._tracer, summary))


# --- requests


class _Recorded:
    """The open span of a request."""

    __slots__ = ("span",)

    def __init__(self, span: Span) -> None:
        self.span = span

    def end(self, status: int) -> None:
        """End the span with the status of the response."""
        self.span.set_attribute("http.response.status_code", status)
        if status >= ERROR_STATUS:
            _fail(self.span, str(status))
        self.span.end()


_RECORDED: Final = web.RequestKey("recorded", _Recorded)


def _recording(tracer: Tracer, route_of: Callable[[web.Request], str | None]) -> Any:
    record, names, sampling = _parts(tracer), propagate.get_global_textmap().fields, Sampling(tracer)

    async def unrecorded(request: web.Request, handler: Handler, span: Span, parent: Context) -> web.StreamResponse:
        """Spans of the user's Python belong to the trace, and are not recorded either."""
        request[WHEN_BEGUN] = _end_when_stream_begins
        attached = context.attach(trace.set_span_in_context(span, parent))
        del span, parent  # the span of a stream is over when that begins
        try:
            return await handler(request)
        finally:
            context.detach(attached)

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        parent, trace_id = NO_PARENT, UNDECIDED
        if any(name in request.headers for name in names):
            parent = propagate.extract(request.headers, Context())
        elif sampling.drops(trace_id := sampling.draw()):
            return await unrecorded(request, handler, sampling.dropped(trace_id), parent)
        route = route_of(request)
        if route is not None and route.startswith(UNTRACED):
            return await handler(request)
        sampling.keep(trace_id)
        span = _begin(tracer, request, route, parent)
        if not span.is_recording():
            return await unrecorded(request, handler, span, parent)
        request[WHEN_BEGUN] = _end_when_stream_begins
        request[_RECORDED] = _Recorded(span)
        attached = context.attach(trace.set_span_in_context(span, parent))
        here = TRACE.set(Trace(_traceparent(span), record))
        del span, parent
        try:
            response = await handler(request)
            if (recorded := request.pop(_RECORDED, None)) is not None:
                recorded.end(response.status)
            return response
        except BaseException as error:  # the client has gone: all else is a response by now
            if (recorded := request.pop(_RECORDED, None)) is not None:
                recorded.span.set_attribute("error.type", type(error).__name__)
                recorded.span.end()
            raise
        finally:
            TRACE.reset(here)
            context.detach(attached)

    return answer


def _begin(tracer: Tracer, request: web.Request, route: str | None, parent: Context) -> Span:
    known = request.method in METHODS
    attributes = {
        "http.request.method": request.method if known else "_OTHER",
        "url.path": request.path,
        "url.scheme": request.scheme,
        "network.protocol.version": f"{request.version.major}.{request.version.minor}",
    }
    name = request.method if known else "HTTP"
    if route is not None:
        attributes["http.route"] = route
        name = f"{name} {route}"
    return tracer.start_span(name, parent, SpanKind.SERVER, attributes)


def _end_when_stream_begins(request: web.BaseRequest, status: int) -> None:
    """A stream takes as long as its client stays: its span is about how it was opened."""
    if (recorded := request.pop(_RECORDED, None)) is not None:
        recorded.end(status)
    context.attach(Context())


def _routes(app: web.Application) -> Callable[[web.Request], str | None]:
    """A function that returns the template of a request's route, ``None`` for an address that has none."""
    known: dict[web.AbstractResource, str] = {}

    def route_of(request: web.Request) -> str | None:
        resource = request.match_info.route.resource
        if resource is None:
            return None
        if resource not in known:
            known[resource] = template(app.router, resource)
        return known[resource]

    return route_of


def _traceparent(span: Span) -> str:
    """The span as W3C Trace Context names it."""
    about = span.get_span_context()
    return f"00-{about.trace_id:032x}-{about.span_id:016x}-{about.trace_flags & 0xFF:02x}"


# --- what a request does


def _parts(tracer: Tracer) -> Callable[[str], Any]:
    """A function that makes a span of a part of the request."""

    @contextmanager
    def record(name: str) -> Iterator[None]:
        if not _is_recorded():
            yield
            return
        with tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False) as span:
            try:
                yield
            except Exception as error:
                if not isinstance(error, ApiError) or error.status >= ERROR_STATUS:
                    _fail(span, type(error).__name__)
                raise

    return record


def _record_statements(name: str, pool: Database, tracer: Tracer, summaries: Summaries) -> None:
    """Make a span of each statement of a request, and of each wait for a connection."""

    def note(sql: str, values: Sequence[Any], seconds: float, result: Any, error: Exception | None) -> None:
        _add(tracer, summaries.of(sql), seconds, {"rowcast.pool": name}, error)

    def note_wait(seconds: float, refused: bool) -> None:
        if _is_recorded():
            end = time_ns()
            span = tracer.start_span("wait for a connection", start_time=end - int(1e9 * seconds))
            if refused:
                _fail(span, "timeout")
            span.end(end)

    pool.observe(note, _is_recorded)
    pool.observe_waits(note_wait)


def _add(
    tracer: Tracer, summary: str, seconds: float, more: Mapping[str, str | bool], error: Exception | None = None
) -> None:
    """Add the span of a statement that has just ended."""
    end = time_ns()
    attributes = {"db.system.name": "postgresql", "db.query.summary": summary, **more}
    span = tracer.start_span(summary, None, SpanKind.CLIENT, attributes, start_time=end - int(1e9 * seconds))
    if error is not None:
        if (code := sqlstate(error)) is not None:
            span.set_attribute("db.response.status_code", code)
        _fail(span, code or type(error).__name__)
    span.end(end)


def _sharing(join: Join, tracer: Tracer, summary: Callable[[tuple[Hashable, ...]], str]) -> Join:
    """The time that a request waits for a statement which it shares is a span of its own; the statement itself has none."""

    def joined(shape: tuple[Hashable, ...], values: Sequence[Any]) -> Awaitable[Any]:
        return recorded(shape, values) if _is_recorded() else join(shape, values)

    async def recorded(shape: tuple[Hashable, ...], values: Sequence[Any]) -> Any:
        begun, shared = time_ns(), copy_context()
        shared.run(TRACE.set, None)
        found = await shared.run(join, shape, values)
        if found is not ALONE:
            _add(tracer, summary(shape), (time_ns() - begun) / 1e9, {"rowcast.statement.shared": True})
        return found

    return joined


def _is_recorded() -> bool:
    """Whether this is part of a request that is recorded, and has not ended."""
    return TRACE.get() is not None and trace.get_current_span().is_recording()


def _fail(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)
