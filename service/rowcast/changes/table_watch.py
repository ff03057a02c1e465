"""Tables that lose their triggers while the service runs, because another table took their name.

"Build the new table beside the old one, then rename both" is how ETL jobs and schema tools replace a table. The new one
has no triggers, so that its changes are not logged: caches would be wrong for ever, and streams silent. Every process
looks once a second. With a relay the leader does, and has the others look when it has found such a table. They look now
and then as well, because they may serve tables that the leader does not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

import structlog

from rowcast.changes.bus import FED_POLL_SECONDS
from rowcast.changes.feed import Feed
from rowcast.changes.trigger_sync import qualified_names
from rowcast.database.connection import Connect
from rowcast.database.errors import DRIVER_ERRORS
from rowcast.errors import ConfigurationError
from rowcast.resources.tables import Tables

WATCH_SECONDS: Final = 1.0
_logger = structlog.get_logger(__name__)


class TableWatch:
    """Watches the tables of the resources: ``look`` is called now and then. ``forget`` is called if one is not logged.

    ``repair`` puts the triggers back; ``None`` leaves that to an operator. ``unlogged`` are the tables of the last look.
    """

    def __init__(
        self,
        feed: Feed,
        connect: Connect,
        tables: Tables,
        *,
        forget: Callable[[], None],
        repair: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self._feed = feed
        self._connect = connect
        self._tables = tables
        self._forget = forget
        self._repair = repair
        self.unlogged: list[str] = []
        self._names: list[str] = []
        self._looked = float("-inf")

    async def look(self) -> None:
        """Look once, unless another node does and has found nothing."""
        relay = self._feed.relay
        if relay is not None:
            if relay.take_alarm():  # its triggers may be back already, and changes without an event are in caches
                self._forget()
            elif relay.feeds and monotonic() - self._looked < FED_POLL_SECONDS:
                return
        self._looked = monotonic()
        try:
            self._names = self._names or await qualified_names(self._connect, self._tables)
            await self._look(self._names)
        except (*DRIVER_ERRORS, ConfigurationError) as error:
            _logger.warning("table_watch_failed", error=str(error) or type(error).__name__)

    async def _look(self, names: list[str]) -> None:
        found = await self._feed.unlogged_tables(names)
        before, self.unlogged = self.unlogged, [name.replace('"', "") for name in found]
        if not self.unlogged:
            return
        self._forget()
        if self._feed.relay is not None:
            self._feed.relay.alarm()
        if self.unlogged != before:
            _logger.error(
                "changes_not_logged",
                tables=self.unlogged,
                note="they have no triggers; have they been replaced by others?",
            )
        if self._repair is not None:
            await self._repair()
            _logger.warning("triggers_restored", tables=self.unlogged)
            self.unlogged = []
