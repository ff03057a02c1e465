"""How a connection to PostgreSQL is opened, and its types."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, TypeAlias

import asyncpg

from rowcast.configuration.database_url import driver_url
from rowcast.database.traced import begin_with_trace
from rowcast.errors import ConfigurationError

Connection: TypeAlias = asyncpg.Connection
Connect: TypeAlias = Callable[[], Awaitable[Connection]]


STATEMENTS_ON_TRIAL: Final = 512
SESSION_SETTINGS: Final[Mapping[str, str]] = {
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    "intervalstyle": "iso_8601",
    "extra_float_digits": "1",
    "jit": "off",
}


class SparingConnection(asyncpg.Connection):  # type: ignore[misc]
    """A connection that keeps a prepared statement when it comes a second time.

    The driver keeps those that came last. So a client whose every request is a statement of its own would evict those that
    others use. A statement that comes once is prepared without a name, which costs no more, and is forgotten.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._on_trial: OrderedDict[str, None] = OrderedDict()

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109 - the driver's
        """Run statements. What begins a transaction, also for ``transaction()``, sets the trace of the request."""
        if query.startswith("BEGIN"):
            query = begin_with_trace(query)
        status: str = await super().execute(query, *args, timeout=timeout)
        return status

    def _get_statement(
        self, query: str, *args: Any, named: Any = False, use_cache: bool = True, **options: Any
    ) -> Coroutine[Any, Any, Any]:
        if use_cache and not named:
            use_cache = query in self._on_trial
            if use_cache:
                self._on_trial.move_to_end(query)
            else:
                self._on_trial[query] = None
                if len(self._on_trial) > STATEMENTS_ON_TRIAL:
                    self._on_trial.popitem(last=False)
        made: Coroutine[Any, Any, Any] = super()._get_statement(
            query, *args, named=named, use_cache=use_cache, **options
        )
        return made


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
