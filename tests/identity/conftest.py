"""A service that only returns its caller, with a clock that tests set."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from rowcast.changes.install import install
from rowcast.configuration.settings import Auth, Jwt
from rowcast.database.pool import Database
from rowcast.identity.authentication import (
    IDENTITY,
    BaseAuthentication,
    Identity,
    JWTAuthentication,
    TokenAuthentication,
    identify,
    refusal,
)
from rowcast.rest.request import Request
from rowcast.server.middleware import errors

Client = TestClient[web.Request, web.Application]
Site = Callable[..., Awaitable[Client]]
SECRET = "a shared secret of 32 bytes, or more"


class Clock:
    """A clock that only tests advance."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def database(database_url: str, sql: asyncpg.Connection) -> AsyncIterator[Database]:
    """A database with a change log, and so with tokens."""
    await install(sql)
    database = Database(database_url, {})
    yield database
    await database.close()


@pytest.fixture
def nowhere() -> Database:
    """The address of a database that does not exist."""
    return Database("postgresql://nobody@127.0.0.1:1/nothing", {})


@pytest.fixture
async def site(clock: Clock, nowhere: Database) -> AsyncIterator[Site]:
    """Start a service: ``client = await site(jwt=Jwt(…), database=database, authenticators=[…])``.

    ``/`` returns the caller, ``/stream`` does too and is a stream's route, ``/members`` refuses everybody.
    """
    clients: list[Client] = []
    identities: list[Identity] = []

    async def start(
        jwt: Jwt | None = None,
        database: Database | None = None,
        authenticators: Sequence[type[BaseAuthentication]] = (TokenAuthentication, JWTAuthentication),
        **server: Any,
    ) -> Client:
        identity = Identity(Auth(jwt=jwt), database or nowhere, clock=clock)

        async def whoami(http: web.Request) -> web.Response:
            request = Request(http)
            instances = [each() for each in authenticators]
            await identify(request, instances, stream=http.path == "/stream")
            if http.path == "/members":
                raise refusal(request, instances, "members only", "no_member")
            user = request.user
            return web.json_response({"id": user.id, "staff": user.is_staff, "claims": dict(user.claims)})

        app = web.Application(middlewares=[errors(lambda _: None)])
        app[IDENTITY] = identity
        for path in ("/", "/stream", "/members"):
            app.router.add_get(path, whoami)
        test_server = TestServer(app)
        await test_server.start_server(**server)
        client = TestClient(test_server)
        clients.append(client)
        identities.append(identity)
        return client

    yield start
    for client in clients:
        await client.close()
    for identity in identities:
        await identity.close()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
