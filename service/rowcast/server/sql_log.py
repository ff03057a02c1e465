"""``log.sql``: the statements of requests and of streams' filters in the log, without values unless the service is in debug."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import structlog

from rowcast.configuration.settings import Settings
from rowcast.database.pool import Database

VALUE_MAX_CHARACTERS: Final = 200
VALUES_MAX: Final = 50
_logger = structlog.get_logger(__name__)


def log_statements(database: Database, settings: Settings) -> None:
    """Log the statements of a pool as ``log.sql`` says; without it nothing is added to them."""
    log, shows_values = settings.log, settings.server.debug
    if log.sql == "off":
        return
    least = log.slow_after if log.sql == "slow" else 0.0

    def note(sql: str, values: Sequence[Any], seconds: float, result: Any, error: Exception | None) -> None:
        if seconds < least:
            return
        about: dict[str, Any] = {"sql": " ".join(sql.split()), "milliseconds": round(1000 * seconds, 2)}
        if error is None:
            about["rows"] = _rows(result)
        else:
            about["error"] = type(error).__name__
        if shows_values:
            about["values"] = [_short(value) for value in values[:VALUES_MAX]]
        _logger.info("sql", **about)

    database.observe(note)


def _rows(result: Any) -> int:
    """How many rows a statement has returned. A page is one row for PostgreSQL, with the number of its own."""
    if result is None or isinstance(result, str):
        return 0
    return len(result) if isinstance(result, list) else int(result.get("size", 1) or 0)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= VALUE_MAX_CHARACTERS else f"{text[:VALUE_MAX_CHARACTERS]}…"
