"""How a connection to PostgreSQL is opened, and its type."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

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
    except asyncpg.ProtocolViolationError as error:
        if "startup parameter" not in str(error):
            raise
        raise ConfigurationError(f"{_POOLER_REFUSES}: {error}") from error


_POOLER_REFUSES: Final = (
    "the URL leads to a pooler that refuses settings of a session: without parameters for the session it can be"
    " database.url if database.direct_url leads to PostgreSQL itself"
)
