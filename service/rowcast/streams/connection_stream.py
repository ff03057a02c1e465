"""A stream that is written to its connection, without a response of aiohttp's.

While it is a member of its group nothing of it runs or waits: the group writes to the connection. It has a task while it reads
the log, and while its client takes what is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

from rowcast.changes.position import Position
from rowcast.changes.tail import Reason
from rowcast.streams.hub import AllRows, Hub
from rowcast.streams.sse import opening, ready_block
from rowcast.streams.subscriber import Wire
from rowcast.streams.subscription import Subscriptions
from rowcast.tasks import spawn


class Connection(Wire, Protocol):
    """The connection of one stream."""

    client_left: Callable[[], None] | None

    def write_now(self, data: bytes) -> None:
        """Write the first part; ``ConnectionResetError`` if the client has gone."""

    def ended(self) -> None:
        """Send the end of the response."""


class ConnectionStream:
    """One stream, which counts from its beginning to its end. ``begin`` it at once.

    With a ``limit`` it is sent all rows where it cannot resume, at most so many.
    """

    __slots__ = ("_caller", "_connection", "_held", "_hub", "_limit", "_subscriber", "_subscriptions", "_task")

    def __init__(
        self,
        hub: Hub,
        connection: Connection,
        subscriptions: Subscriptions,
        auths: Sequence[object],
        caller: str,
        limit: int | None = None,
    ) -> None:
        self._hub = hub
        self._connection = connection
        self._subscriptions = subscriptions
        self._caller = caller
        self._limit = limit
        self._task: asyncio.Task[None] | None = None
        self._subscriber = hub.make_subscriber(connection, hub.feed.head, auths, renews=limit is not None)
        self._held = hub.open_streams.holding(self._subscriber, subscriptions)
        hub.admission.enter(caller)
        self._held.__enter__()
        connection.client_left = self._subscriber.leave

    def begin(self, last: str | None) -> None:
        """Begin after everything that is committed, or after the position that the client has."""
        if last is None:
            self._hub.next_position().add_done_callback(self._begin_now)
            return
        with contextlib.suppress(ValueError):
            position = Position.parse(last)
            if self._hub.feed.has_after(position):
                self._begin_at(position)
                return
        self._run(self._resume(last))

    def begin_with(self, rows: AllRows, reason: Reason | None) -> None:
        """Begin with all rows. A ``reason`` is why the client cannot resume."""
        self._run(self._send_rows(rows, reason))

    def _begin_now(self, found: asyncio.Future[Position]) -> None:
        if (error := found.exception()) is None:
            self._begin_at(found.result())
        else:
            self._end(error)

    def _begin_at(self, position: Position) -> None:
        block = opening() + ready_block(self._subscriptions.about, position)
        self._subscriber.position = position
        try:
            self._connection.write_now(block)
            if self._hub.traffic is not None:
                self._hub.traffic.bytes += len(block)
            if self._hub.is_at_head(self._subscriber):
                self._join()
            else:
                self._run(self._follow())
        except Exception as error:  # noqa: BLE001 - it is logged, unless the client has gone
            self._end(error)

    async def _resume(self, last: str) -> None:
        await self._follow_after(self._hub.begin(self._subscriber, self._subscriptions, last))

    async def _send_rows(self, rows: AllRows, reason: Reason | None) -> None:
        sending = self._hub.send_rows(self._subscriber, self._subscriptions, rows, reason, opening())
        del rows  # which ``sending`` has
        await self._follow_after(sending)

    async def _follow_after(self, beginning: Awaitable[None]) -> None:
        try:
            await beginning
        except BaseException as error:
            if not self._end(error):
                raise
        else:
            del beginning
            await self._follow()

    async def _follow(self) -> None:
        """Send what is missing, and join the group, or end."""
        try:
            if await self._hub.reach_head(self._subscriber, self._subscriptions, self._limit):
                self._join()
                return
        except BaseException as error:
            if not self._end(error):
                raise
        else:
            self._end(None)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = spawn(work, "stream")

    def _join(self) -> None:
        """Be a member of the group, which is where the stream is."""
        self._task = None
        self._subscriber.join(self._hub.groups.of(self._subscriptions, self._subscriber.position.snapshot), self._left)

    def _left(self) -> None:
        """Go on alone, or end."""
        if self._hub.closing or self._subscriber.gone:
            self._end(None)
        else:
            self._run(self._follow())

    def _end(self, error: BaseException | None) -> bool:
        """End the stream, and return whether that is all that an error means."""
        self._hub.admission.leave(self._caller)
        handled = self._held.__exit__(None, error, None)
        self._task = self._connection.client_left = None
        self._connection.ended()
        return error is None or handled
