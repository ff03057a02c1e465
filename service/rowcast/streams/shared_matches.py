"""What the database decides about the changes of a batch: one query for all subscriptions with the same condition."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from rowcast.changes.events import Batch
from rowcast.changes.position import Position
from rowcast.query.conditions import Query
from rowcast.streams.subscription import Matches, Subscription

MATCHES_CACHED_MAX: Final = 256


class SharedMatches:
    """The newest results, for other subscriptions with the same query."""

    def __init__(self) -> None:
        self._results: OrderedDict[tuple[Query, Hashable, Position, int], asyncio.Future[Matches]] = OrderedDict()

    async def read(self, subscription: Subscription, batch: Batch) -> Matches:
        """The database's result for a batch; a result that failed is read again."""
        key = (subscription.query, subscription.caller, batch.start, len(batch.events))
        matches = self._results.get(key)
        if matches is None:
            matches = self._results[key] = asyncio.ensure_future(subscription.match_in_database(batch))
            if len(self._results) > MATCHES_CACHED_MAX:
                self._results.popitem(last=False)
        try:
            return await asyncio.shield(matches)
        except Exception:
            self._results.pop(key, None)
            raise
