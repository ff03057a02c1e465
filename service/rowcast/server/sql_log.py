"""``log.sql``: the statements of requests and of streams' filters in the log, by OpenTelemetry's names.

They are without values unless the service is in debug. For a slow read the log also has the node of its plan that costs most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import structlog
from aiohttp import web

from rowcast.configuration.settings import Settings
from rowcast.database.errors import sqlstate
from rowcast.database.pool import Database
from rowcast.database.summaries import Summaries, summaries_of
from rowcast.rest.plan import Service
from rowcast.server.log_entries import SQL
from rowcast.server.slow_plans import SlowPlans

VALUE_MAX_CHARACTERS: Final = 200
VALUES_MAX: Final = 50
_logger = structlog.get_logger(__name__)


def log_statements(app: web.Application, service: Service) -> None:
    """Log the statements of a service as ``log.sql`` says; without it nothing is added to them."""
    if service.settings.log.sql == "off":
        return
    summaries = summaries_of(service.store.queries.tables)
    plans = None
    if not service.store.database.acts_as_callers:  # of whose plans their settings and policies are a part
        plans = SlowPlans(service.store.judge)
        app.cleanup_ctx.append(plans.running)
    for pool in service.pools().values():
        _log_pool(pool, service.settings, summaries, plans)


def _log_pool(pool: Database, settings: Settings, summaries: Summaries, plans: SlowPlans | None) -> None:
    slow_after, shows_values = settings.log.slow_after, settings.server.debug
    least = slow_after if settings.log.sql == "slow" else 0.0

    def note(sql: str, values: Sequence[Any], seconds: float, result: Any, error: Exception | None) -> None:
        if seconds < least:
            return
        summary = summaries.of(sql)
        about: dict[str, Any] = {
            "db.query.summary": summary,
            "db.query.text": " ".join(sql.split()),
            "db.client.operation.duration": round(seconds, 6),
        }
        if error is None:
            about["db.response.returned_rows"] = _rows(result)
        else:
            about["error.type"] = sqlstate(error) or type(error).__name__
        if shows_values:
            for place, value in enumerate(values[:VALUES_MAX]):
                about[f"db.query.parameter.{place}"] = _short(value)
        _logger.info(SQL, **about)
        if plans is not None and seconds >= slow_after:
            plans.explain(summary, sql, values)

    pool.observe(note)


def _rows(result: Any) -> int:
    """How many rows a statement has returned. A page is one row for PostgreSQL, with the number of its own."""
    if not isinstance(result, list):
        return 0
    return int(result[0].get("size", 1) or 0) if len(result) == 1 else len(result)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= VALUE_MAX_CHARACTERS else f"{text[:VALUE_MAX_CHARACTERS]}…"
