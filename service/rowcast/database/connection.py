"""How a connection to PostgreSQL is opened, and its type."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import asyncpg

from rowcast.configuration.database_url import driver_url
from rowcast.errors import ConfigurationError

Connection: TypeAlias = asyncpg.Connection
Connect: TypeAlias = Callable[[], Awaitable[Connection]]


async def open_connection(url: str, patience: float, **options: Any) -> Connection:
    """A new connection; the URL's ``connect_timeout`` takes precedence over ``patience``, which is in seconds.

    Errors of the driver are raised as they are; ``ConfigurationError`` if PostgreSQL refuses a parameter of the URL.
    """
    address, seconds = driver_url(url)
    try:
        return await asyncpg.connect(address, timeout=seconds or patience, **options)
    except (
        asyncpg.UndefinedObjectError,
        asyncpg.InvalidParameterValueError,
        asyncpg.CantChangeRuntimeParamError,
    ) as error:
        raise ConfigurationError(f"database.url has a parameter that PostgreSQL refuses: {error}") from error
