"""How an application is served: its connections, its replacement by another one, and its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Any, Final

import structlog
from aiohttp import web

from rowcast.configuration.settings import Server
from rowcast.rest.memory_budget import MemoryBudget
from rowcast.server import middleware
from rowcast.server.connections import HEADER_MAX_BYTES, Connections
from rowcast.server.health import READINESS
from rowcast.server.lifecycle import LIFECYCLE
from rowcast.server.short_way import SHORT_WAY
from rowcast.tasks import spawn

LINGER_MAX_SECONDS: Final = (
    10.0  # for which a body that nobody reads is received, so that its client reads the response
)
BEGIN_SECONDS: Final = 0.01  # within which a request begins for which a handler was chosen
BACKLOG: Final = 4096  # connections that wait to be accepted, such as all streams of a replica that has stopped
RETIRE_SECONDS: Final = 5.0  # for replaced applications, once their requests have ended or were cancelled
_logger = structlog.get_logger(__name__)


class Runner(web.AppRunner):
    """Serves an application. The errors that aiohttp itself answers are problem documents, too."""

    def __init__(self, app: web.Application, server: Server, **kwargs: Any) -> None:
        super().__init__(
            app,
            access_log=None,
            shutdown_timeout=server.shutdown_grace,
            max_line_size=HEADER_MAX_BYTES,
            max_field_size=HEADER_MAX_BYTES,
            auto_decompress=False,  # rest.encodings inflates a body that is read
            keepalive_timeout=server.idle_timeout,
            lingering_time=min(server.body_timeout, LINGER_MAX_SECONDS),
            **kwargs,
        )
        app[middleware.RESPONSES] = MemoryBudget(server.responses_limit, server)
        self._server_settings = server
        self._hurry = asyncio.Event()
        self._retiring: set[asyncio.Task[None]] = set()

    def _reg_site(self, site: web.BaseSite) -> None:
        """Called by each site before it listens, also by those that gunicorn's worker makes, which have no other way to say this.

        aiohttp's 128 are soon full, and the kernel then delays connections by seconds, up to a minute.
        """
        site._backlog = BACKLOG  # noqa: SLF001
        super()._reg_site(site)

    def answer_with(self, other: Runner) -> asyncio.Task[None]:
        """Answer every further request with the application of another runner, also on connections that are open.

        The other runner has been set up, and is of no use afterwards. The streams of the application that it replaces end at
        once; the task ends when that has answered what it had begun, and has been cleaned up.
        """
        assert isinstance(self._server, Connections)
        assert isinstance(other.server, Connections)
        before, self._app = self._app, other.app
        self._server_settings = other._server_settings
        self._shutdown_timeout = other._server_settings.shutdown_grace
        self._server.adopt(other.server)
        retiring = spawn(_retire(before), "an application that was replaced")
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)
        return retiring

    async def cleanup(self) -> None:
        """Stop: not ready at first, then without new connections; streams end one after the other; what is open may finish."""
        if (readiness := self.app.get(READINESS)) is not None:
            readiness.stopping = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), self._server_settings.shutdown_delay)
        await self._drain()
        await super().cleanup()
        if self._retiring:
            await asyncio.wait(self._retiring, timeout=RETIRE_SECONDS)

    async def _drain(self) -> None:
        """Take no more connections, and end the streams within ``stream.drain``; each connection ends with its response.

        A client whose stream ends could otherwise open the next one here, by the same connection.
        """
        if (lifecycle := self.app.get(LIFECYCLE)) is None or self.server is None:
            return
        for site in list(self.sites):
            await site.stop()
        await asyncio.sleep(0)  # connections that have been accepted begin
        self.server.pre_shutdown()
        hurry = asyncio.create_task(self._hurry.wait())
        drain = asyncio.create_task(lifecycle.drain())
        try:
            await asyncio.wait((drain, hurry), return_when=asyncio.FIRST_COMPLETED)
        finally:
            drain.cancel()
            hurry.cancel()

    def hurry(self) -> None:
        """Stop without ``server.shutdown_delay`` and ``stream.drain``, or end them."""
        self._hurry.set()

    async def _make_server(self) -> web.Server:  # aiohttp has no other way to set the class of connections
        made = await super()._make_server()
        made.__class__ = Connections
        assert isinstance(made, Connections)
        made.settings = self._server_settings
        made.open, made.open_from = 0, Counter()
        made.refused = self.app[middleware.REQUESTS].refused if middleware.REQUESTS in self.app else Counter()
        short_way = self.app.get(SHORT_WAY)
        made.short_way = short_way if short_way is not None and short_way.is_open else None
        return made


async def _retire(app: web.Application) -> None:
    """End an application that gets no further requests, after those that it has begun."""
    await asyncio.sleep(BEGIN_SECONDS)
    await app.shutdown()
    await app[middleware.REQUESTS].end()
    await app[LIFECYCLE].streams_ended()
    await app.cleanup()
