"""A service without requests: its models, viewsets and hooks, for scripts and for loading data."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from rowcast.configuration.load import Configuration
from rowcast.errors import Unavailable
from rowcast.migrations.failures import SchemaError
from rowcast.query.store import STORE
from rowcast.rest.plan import SERVICE, Service
from rowcast.server.app import create_app
from rowcast.server.prepare import prepare

FOLLOWING_MAX_SECONDS: Final = 60.0  # that what follows the last commit may take


@asynccontextmanager
async def standalone_service(
    configuration: Configuration, url: str, *, migrate: bool, report: Callable[[str], None] | None = None
) -> AsyncIterator[Service]:
    """The service of a configuration on a database, inside which models work, without limits of time.

    Functions of ``on_startup`` and ``on_shutdown`` run, background tasks do not. ``migrate`` makes the database match the
    config first. If it does not match, that is ``Unavailable`` or ``SchemaError``; with ``report`` that is called with what is pending, and
    the service works as far as it can.
    """
    service = create_app(configuration, url)[SERVICE]
    database, grace = service.store.database, configuration.settings.server.shutdown_grace
    database.lift_limits()
    try:
        tables = service.store.queries.tables
        try:
            service.secret = await prepare(configuration, tables, database, migrate=migrate)
        except (Unavailable, SchemaError) as error:
            if report is None:
                raise
            try:
                service.secret = await prepare(configuration, tables, database, migrate=False, matches=True)
            except asyncpg.PostgresError:
                raise error from None
            report(str(error))
        STORE.set(service.store)
        await service.hooks.start()
        yield service
    finally:
        await database.finish(FOLLOWING_MAX_SECONDS)
        await service.hooks.stop(grace)
        await service.store.judge.close()
        await database.close()
