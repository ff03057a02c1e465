"""A service without requests: its models, viewsets and hooks, for scripts and for loading data."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from rowcast.configuration.load import Configuration
from rowcast.query.store import STORE
from rowcast.rest.plan import SERVICE, Service
from rowcast.server.app import create_app
from rowcast.server.prepare import prepare

FOLLOWING_MAX_SECONDS: Final = 60.0  # that what follows the last commit may take


@asynccontextmanager
async def standalone_service(configuration: Configuration, url: str, *, migrate: bool) -> AsyncIterator[Service]:
    """The service of a configuration on a database, inside which models work, without limits of time.

    Functions of ``on_startup`` and ``on_shutdown`` run, background tasks do not. ``migrate`` makes the database match the
    config first; otherwise, if it does not match, that is ``Unavailable``.
    """
    service = create_app(configuration, url)[SERVICE]
    database, grace = service.store.database, configuration.settings.server.shutdown_grace
    database.lift_limits()
    try:
        service.secret = await prepare(configuration, service.store.queries.tables, database, migrate=migrate)
        STORE.set(service.store)
        await service.hooks.start()
        yield service
    finally:
        await database.finish(FOLLOWING_MAX_SECONDS)
        await service.hooks.stop(grace)
        await service.store.judge.close()
        await database.close()
