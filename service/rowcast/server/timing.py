"""``server.timing``: ``Server-Timing`` in responses, with the time of statements and that of the whole request."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextvars import ContextVar, copy_context
from time import perf_counter
from typing import Any, Final

from aiohttp import web

from rowcast.query.coalescing import Join
from rowcast.rest.handlers import Handler
from rowcast.rest.plan import Service

HEADER: Final = "Server-Timing"


class _Spent:
    """When a request has begun, and the seconds of its statements so far."""

    __slots__ = ("begun", "statements")

    def __init__(self) -> None:
        self.begun = perf_counter()
        self.statements = 0.0


SPENT: Final = web.RequestKey("spent", _Spent)
_CURRENT: ContextVar[_Spent | None] = ContextVar("spent", default=None)


def time_requests(app: web.Application, service: Service) -> None:
    """Add the header to every response of an application. That of a stream has the time until it begins."""

    @web.middleware
    async def measure(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[SPENT] = spent = _Spent()
        _CURRENT.set(spent)
        return await handler(request)

    async def add_header(request: web.Request, response: web.StreamResponse) -> None:
        if (spent := request.get(SPENT)) is not None:
            total = perf_counter() - spent.begun
            response.headers[HEADER] = f"db;dur={1000 * spent.statements:.2f}, total;dur={1000 * total:.2f}"

    def note(sql: str, values: Sequence[Any], seconds: float, result: Any, error: Exception | None) -> None:
        if (spent := _CURRENT.get()) is not None:
            spent.statements += seconds

    app.middlewares.insert(0, measure)
    app.on_response_prepare.append(add_header)
    store = service.store
    for pool in service.pools().values():
        pool.observe(note)
    for shared in (store.rows, store.inserts, store.updates):
        shared.instrument(_measuring)


def _measuring(join: Join) -> Join:
    """The time that a request waits for a statement which it shares is its own; the statement itself is nobody's."""

    async def measured(shape: tuple[Hashable, ...], values: Sequence[Any]) -> Any:
        spent, shared, begun = _CURRENT.get(), copy_context(), perf_counter()
        shared.run(_CURRENT.set, None)
        try:
            return await shared.run(join, shape, values)
        finally:
            if spent is not None:
                spent.statements += perf_counter() - begun

    return measured
