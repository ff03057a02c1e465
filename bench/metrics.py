"""What measuring costs: ``python -m bench.metrics`` prints the time of each kind of measurement, in nanoseconds.

The time of a request is from the middleware alone, around a handler that does nothing, with and without it. Nothing of this
runs in a service without ``server.admin``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from rowcast.database.pool import Database
from rowcast.database.summaries import Summaries
from rowcast.server.health import READINESS, Readiness
from rowcast.server.measures import Histogram
from rowcast.server.metrics import Metrics
from rowcast.server.middleware import REQUESTS, Requests

ROUNDS = 2_000
REPEATS = 200


async def nanoseconds(step: Callable[[], Awaitable[Any]]) -> float:
    """The shortest mean time of a step over several repeats."""
    best = float("inf")
    for _ in range(REPEATS):
        begun = perf_counter()
        for _ in range(ROUNDS):
            await step()
        best = min(best, perf_counter() - begun)
    return 1e9 * best / ROUNDS


async def main() -> None:
    """Measure and print."""
    app = web.Application()
    answer = web.Response()

    async def handler(request: web.Request) -> web.StreamResponse:
        return answer

    app.router.add_get("/books/{id}/", handler)
    app[READINESS] = Readiness(Mock(), Mock())
    app[REQUESTS] = Requests()
    service = Mock(hub=SimpleNamespace(traffic=None), store=Mock())
    service.store.queries.tables.metadata.tables = service.store.queries.tables.views.tables = {"books": None}
    database: Any = Database("", {})

    async def execute(*_: Any) -> None:
        return None

    database._execute = execute
    service.store.database, service.store.judge, service.exports = database, Database("", {}), Database("", {})
    bare = await nanoseconds(lambda: database._execute(Mock, "fetch", "SELECT 1 FROM books", (), False))
    Metrics().watch(app, service, Mock())
    measured = await nanoseconds(lambda: database._execute(Mock, "fetch", "SELECT 1 FROM books", (), False))
    measure: Any = app.middlewares[0]
    request: Any = make_mocked_request("GET", "/books/1/")
    request._match_info = await app.router.resolve(request)
    without = await nanoseconds(lambda: handler(request))
    with_ = await nanoseconds(lambda: measure(request, handler))
    histogram, summaries = Histogram(), Summaries(["books"])

    async def observe() -> None:
        histogram.observe(0.003)

    async def summarize() -> None:
        summaries.of("SELECT 1 FROM books")

    async def nothing() -> None:
        return None

    empty = await nanoseconds(nothing)
    for name, time in {
        "a request": with_ - without,
        "a statement": measured - bare,
        "a value of a histogram": await nanoseconds(observe) - empty,
        "the summary of a statement": await nanoseconds(summarize) - empty,
    }.items():
        print(f"{name:28} {time:6.0f} ns")


if __name__ == "__main__":
    asyncio.run(main())
