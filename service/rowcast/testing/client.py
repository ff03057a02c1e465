"""A service in the process of the tests, and its client."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Self

from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer
from multidict import CIMultiDict
from yarl import URL

from rowcast.configuration.load import Configuration
from rowcast.configuration.settings import Server
from rowcast.server.app import create_app
from rowcast.server.http import Runner
from rowcast.server.lifecycle import STARTED
from rowcast.testing.events import DEADLINE_SECONDS, Changes, listen
from rowcast.testing.users import USERS, accept_test_users

START_SECONDS: Final = 30.0


class Client(TestClient[web.Request, web.Application]):
    """A client of a service: aiohttp's ``TestClient``, with callers and streams.

    ``response = await client.get("/products/")`` has ``response.status``, ``response.headers`` and
    ``await response.json()``.
    """

    def __init__(self, server: TestServer, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self.sent_headers: Mapping[str, str] = {}

    def as_user(self, id: object, *, staff: bool = False, claims: Mapping[str, Any] | None = None) -> Self:
        """A client whose requests come from a user, as ``TokenAuthentication`` and ``JWTAuthentication`` would find them.

        Args:
            id: The user's id; ``request.user.id`` is a string.
            staff: Whether the user is staff.
            claims: What ``request.user.claims`` has, as if the user came with a JSON Web Token.
        """
        token = self.app[USERS].token_for(id, staff=staff, claims=claims or {})
        return self.with_headers({"Authorization": f"Bearer {token}"})

    def with_headers(self, headers: Mapping[str, str]) -> Self:
        """A client that sends these headers with each request, such as those of an authentication class of one's own."""
        other = copy.copy(self)  # it shares connections, cookies and the service
        other.sent_headers = {**self.sent_headers, **headers}
        return other

    def stream(
        self, path: str, *, last_event_id: str | None = None, deadline: float = DEADLINE_SECONDS
    ) -> AbstractAsyncContextManager[Changes]:
        """The changes of a stream, from when it is ready: ``async with client.stream("/products/stream/") as changes:``.

        Args:
            path: The address, with filters: ``/products/stream/?price__lt=5``.
            last_event_id: The position to resume from, such as the ``X-Stream-Position`` of a list.
            deadline: How many seconds to wait for each change.
        """
        return self._changes(path, last_event_id, deadline)

    @asynccontextmanager
    async def _changes(self, path: str, last_event_id: str | None, deadline: float) -> AsyncIterator[Changes]:
        async with listen(self, path, last_id=last_event_id, deadline=deadline) as source:
            if last_event_id is None:
                await source.next()  # ready: what is written from now on is sent
            yield Changes(source)

    async def _request(self, method: str, path: str | URL, **kwargs: Any) -> ClientResponse:
        if self.sent_headers:
            headers = CIMultiDict(self.sent_headers)
            headers.update(kwargs.pop("headers", None) or {})
            kwargs["headers"] = headers
        return await super()._request(method, path, **kwargs)


class ServiceServer(TestServer):
    """Serves an application as ``rowcast serve`` does."""

    def __init__(self, app: web.Application, settings: Server) -> None:
        super().__init__(app)
        self._settings = settings

    async def _make_runner(self, **kwargs: Any) -> web.BaseRunner:
        kwargs["handler_cancellation"] = False  # which aiohttp's own tests turn on, and servers do not
        return Runner(self.app, self._settings, **kwargs)


@asynccontextmanager
async def running(configuration: Configuration, url: str, *, migrated: bool = False) -> AsyncIterator[Client]:
    """A client of the service for a configuration, once it is ready.

    Args:
        configuration: What ``rowcast.configuration.load.load`` has read.
        url: The database's URL.
        migrated: Whether the database has been migrated already. Otherwise this is done first.
    """
    app = create_app(configuration, url, migrate=True, matches=migrated)
    accept_test_users(app)
    async with Client(ServiceServer(app, configuration.settings.server)) as client:
        async with asyncio.timeout(START_SECONDS):
            await asyncio.shield(app[STARTED])
        yield client
