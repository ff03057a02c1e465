"""Edges in tests: ``rowcast edge`` in the process of the tests, in front of a service.

With ``ROWCAST_TEST_EDGE=1`` every service of a run of tests has an edge in front of it, which gets all requests.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

from rowcast.configuration.load import Configuration
from rowcast.identity.authentication import IDENTITY
from rowcast.server.edge import create_edge
from rowcast.server.lifecycle import STARTED
from rowcast.testing.client import START_SECONDS, Client, ServiceServer, running
from rowcast.testing.users import USERS, accept_test_users

BEHIND_EDGE: Final = bool(os.environ.get("ROWCAST_TEST_EDGE"))
KEY: Final = "the key of all edges in all tests"


def with_key(configuration: Configuration, key: str | None = KEY, **stream: Any) -> Configuration:
    """A configuration with a key for edges, and with settings of the section ``stream``."""
    settings = configuration.settings
    return replace(configuration, settings=replace(settings, stream=replace(settings.stream, edge_key=key, **stream)))


@asynccontextmanager
async def edge_of(origin: Client, configuration: Configuration, *, started: bool = True) -> AsyncIterator[Client]:
    """A client of an edge in front of a service, once it has found that."""
    app = create_edge(configuration, str(origin.make_url("/")))
    accept_test_users(app)
    app[USERS]._users = origin.app[USERS]._users
    app[IDENTITY].tokens._users = app[IDENTITY].jwt._users = origin.app[USERS]  # type: ignore[attr-defined, union-attr]
    async with Client(ServiceServer(app, configuration.settings.server)) as client:
        if started:
            async with asyncio.timeout(START_SECONDS):
                await asyncio.shield(app[STARTED])
        yield client


@asynccontextmanager
async def running_behind_edge(configuration: Configuration, url: str) -> AsyncIterator[Client]:
    """A client of an edge in front of a service that runs for it."""
    server = configuration.settings.server
    trusting = replace(server, trusted_proxies=server.trusted_proxies + 1)
    own = with_key(configuration)
    behind = replace(own, settings=replace(own.settings, server=trusting))
    async with running(behind, url) as origin, edge_of(origin, own) as edge:
        yield edge
