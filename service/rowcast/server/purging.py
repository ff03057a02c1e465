"""The background task behind ``purge_after``: rows that were deleted long enough ago are deleted for good.

The replica that makes ticks does it, so that no two do. Should the lead change meanwhile, no harm is done: a row is deleted
once, and only if it is still marked.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from rowcast.errors import Unavailable
from rowcast.query.removal import purge
from rowcast.query.store import Store

PERIOD_SECONDS: Final = 1.0, 3600.0  # between two purges, at least and at most
PERIODS: Final = 10  # in the shortest time for which deleted rows are kept

_logger = structlog.get_logger(__name__)


class Purging:
    """Purges the resources of a store while this replica is ``leading``; ``ages`` has the seconds of each by name."""

    def __init__(self, store: Store, leading: asyncio.Event) -> None:
        self._store = store
        self._leading = leading
        self.ages = {
            resource.name: resource.soft_delete.purge_after
            for resource in store.queries.resources.values()
            if resource.soft_delete is not None and resource.soft_delete.purge_after is not None
        }

    @property
    def period(self) -> float:
        """The seconds between two purges."""
        low, high = PERIOD_SECONDS
        return max(low, min(high, min(self.ages.values()) / PERIODS))

    async def step(self) -> None:
        """Purge every resource once, if this replica leads, or begins to within a period."""
        try:
            async with asyncio.timeout(self.period):
                await self._leading.wait()
        except TimeoutError:
            return
        for name, seconds in self.ages.items():
            try:
                await purge(self._store, self._store.queries.resources[name], seconds)
            except Unavailable as error:  # the database is away, and others report that
                _logger.warning("purge_failed", resource=name, error=error.detail)
