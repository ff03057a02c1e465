"""The plans of slow reads: which node costs most, by PostgreSQL's estimate.

EXPLAIN alone plans a statement and does not run it. It is done for reads only, one at a time, at most once a second, and at most
once an hour for each statement, on a connection that is opened for it. A statement whose table is locked is not waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from time import monotonic
from typing import Any, Final

import orjson
import structlog
from aiohttp import web

from rowcast.changes.connection import cancel
from rowcast.changes.standbys import on_primary
from rowcast.database.errors import DRIVER_ERRORS
from rowcast.database.pool import Database
from rowcast.errors import ConfigurationError
from rowcast.server.log_entries import SQL_PLAN
from rowcast.tasks import spawn

EXPLAIN_TIMEOUT_SECONDS: Final = 1.0
EXPLAIN_PAUSE_SECONDS: Final = 1.0  # between two statements
EXPLAINED_AGAIN_SECONDS: Final = 3600.0
EXPLAINED_MAX: Final = 1000  # statements that are remembered
READ: Final = "SELECT"
_LIMITS: Final = "SET lock_timeout = '50ms'; SET statement_timeout = '1s'"
_logger = structlog.get_logger(__name__)


class SlowPlans:
    """Logs the plans of slow reads. ``database`` opens its connections, and its pool is not used."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._explained: dict[str, float] = {}  # when a statement may be explained again
        self._not_before = 0.0
        self._task: asyncio.Task[None] | None = None

    async def running(self, app: web.Application) -> AsyncIterator[None]:
        """From an application's start to its clean-up."""
        yield
        if self._task is not None:
            await cancel([self._task])

    def explain(self, summary: str, sql: str, values: Sequence[Any]) -> None:
        """Log the plan of a statement soon, if it reads, and if there is time for it."""
        now = monotonic()
        verb = summary.partition(" ")[0]
        if verb != READ or now < self._not_before or now < self._explained.get(sql, 0.0):
            return
        if self._task is not None and not self._task.done():
            return
        if len(self._explained) >= EXPLAINED_MAX:
            self._explained.clear()
        self._explained[sql] = now + EXPLAINED_AGAIN_SECONDS
        self._not_before = now + EXPLAIN_PAUSE_SECONDS
        self._task = spawn(self._explain(summary, sql, values), "plan of a slow statement")

    async def _explain(self, summary: str, sql: str, values: Sequence[Any]) -> None:
        try:
            plan = await self._plan(sql, values)
        except (*DRIVER_ERRORS, TimeoutError, ConfigurationError):  # the table is locked, or the database is away
            self._explained.pop(sql, None)
            return
        about = {"db.query.summary": summary, "db.query.text": " ".join(sql.split())}
        _logger.info(SQL_PLAN, **about, **costliest(plan))

    async def _plan(self, sql: str, values: Sequence[Any]) -> Mapping[str, Any]:
        async with asyncio.timeout(EXPLAIN_TIMEOUT_SECONDS):
            connection = await self._database.open()
            try:
                await connection.execute(_LIMITS)
                found = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {on_primary(sql)}", *values)
            finally:
                connection.terminate()
        plan: Mapping[str, Any] = orjson.loads(found)[0]["Plan"]
        return plan


def costliest(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The node of a plan that costs most by itself, with its rows and the share of the whole cost."""
    cost, node = max(_costs(plan, 1.0), key=lambda each: each[0])
    using = f" using {node['Index Name']}" if "Index Name" in node else ""
    on = f" on {node['Relation Name']}" if "Relation Name" in node else ""
    return {
        "rowcast.plan.node": f"{node['Node Type']}{using}{on}",
        "rowcast.plan.rows": node["Plan Rows"],
        "rowcast.plan.cost": round(cost, 2),
        "rowcast.plan.total_cost": plan["Total Cost"],
    }


def _costs(node: Mapping[str, Any], times: float) -> Iterator[tuple[float, Mapping[str, Any]]]:
    """Each node with its own cost: without that of its children, and as often as it is run."""
    own: float = node["Total Cost"] * times
    children = node.get("Plans", ())
    for child in children:
        repeats = times
        if child.get("Parent Relationship") == "SubPlan":
            repeats *= max(1.0, node["Plan Rows"])
        elif child.get("Parent Relationship") == "Inner" and node["Node Type"] == "Nested Loop":
            repeats *= max(1.0, children[0]["Plan Rows"])
        elif node["Node Type"] == "Materialize":
            repeats = 1.0
        own -= child["Total Cost"] * repeats
        yield from _costs(child, repeats)
    yield own, node
