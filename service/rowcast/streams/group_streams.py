"""Streams of aggregates: their boards, and the life of one stream."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Final, Protocol

from aiohttp import web

from rowcast.changes.events import Batch
from rowcast.changes.position import Position
from rowcast.changes.tail import Reason, Tail
from rowcast.streams.admission import Admission
from rowcast.streams.board import Board, Gap
from rowcast.streams.live_groups import LiveGroups
from rowcast.streams.members import Sender
from rowcast.streams.open_streams import OpenStreams
from rowcast.streams.routing import SubscriptionIndex
from rowcast.streams.sse import CACHE_CONTROL, CONTENT_TYPE, StreamResponse, opening, ready_block, reset_block
from rowcast.streams.subscriber import Phase, Subscriber

BOARDS_READ_AT_ONCE: Final = 1  # so that filters of streams have the other connection of theirs


class Owner(Protocol):
    """What streams of aggregates use of their hub."""

    feed: Tail
    resets: Counter[str]
    admission: Admission
    open_streams: OpenStreams
    closing: bool
    sender: Sender
    make_subscriber: Callable[..., Subscriber]

    @property
    def buffer(self) -> int:
        """Bytes that may wait for one client."""

    def position_after(self, head: Position, snapshot: str) -> Position:
        """The position after the snapshot of a statement that began when the feed was at ``head``."""

    async def check_position(self, last: str, subscriber: Subscriber | None = None) -> Reason | None:
        """The reason why a stream cannot resume from a position."""


class GroupStreams:
    """All streams of aggregates of one process. Those of equal groups share a board."""

    def __init__(self, hub: Owner) -> None:
        self._hub = hub
        self._boards: dict[Hashable, Board] = {}
        self._index: SubscriptionIndex[Board] = SubscriptionIndex()
        self._reading = asyncio.Semaphore(BOARDS_READ_AT_ONCE)
        self._unsubscribe: Callable[[], None] | None = None

    @property
    def boards(self) -> Sequence[Board]:
        """The boards that streams use, or have used a while ago."""
        return list(self._boards.values())

    def start(self) -> None:
        """Follow the feed until ``close``."""
        self._unsubscribe = self._hub.feed.subscribe(
            self._deliver, self._on_feed_reset, needs_rows=lambda: bool(self._boards)
        )

    def close(self) -> None:
        """Stop; the streams have been ended."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        for board in self.boards:
            board.close()

    def keep_alive(self) -> None:
        """Send every client a comment and its newest position; forget boards that no stream uses."""
        for board in self.boards:
            if board.users:
                board.keep_alive()
            else:
                self._drop(board)

    async def stream(
        self,
        http: web.Request,
        groups: LiveGroups,
        last: str | None,
        *,
        snapshot: bool,
        auths: Sequence[object] = (),
        caller: str = "",
    ) -> web.StreamResponse:
        """Respond to a request with a stream of groups, which is sent when the handler has returned the response.

        Args:
            http: The request.
            groups: What the stream is about.
            last: The position that the client resumes from; ``None`` to begin now.
            snapshot: Whether a stream that cannot resume begins with all groups.
            auths: The ``request.auth`` values that the caller was identified by. The stream ends when one expires.
            caller: Under which the stream counts.

        Raises:
            ParseError: There are too many groups.
            Unavailable: The database is away, or there are too many streams.
            TooManyStreams: The caller has too many.
        """
        if http.method == "HEAD":
            return web.Response(content_type=CONTENT_TYPE, headers={"Cache-Control": CACHE_CONTROL})
        response = StreamResponse()
        board = self._board(groups)
        with self._hub.admission.admit(caller, [groups]), self._using(board):
            reason = None if last is None else await self._hub.check_position(last)
            await board.prepare()
            try:
                await response.prepare(http)
            except ConnectionResetError:  # the client has gone; aiohttp drops the response
                return response
        if not self._hub.closing:
            subscriber = self._hub.make_subscriber(response, board.position, auths, renews=snapshot)
            response.sending = self._send(subscriber, board, caller, last, reason)
            response.client_left = subscriber.leave
        return response

    async def _send(
        self, subscriber: Subscriber, board: Board, caller: str, last: str | None, reason: str | None
    ) -> None:
        """A stream, from its opening to its end."""
        with (
            self._hub.admission.place(caller),
            self._using(board),
            self._hub.open_streams.holding(subscriber, board.groups),
        ):
            try:
                await self._follow(subscriber, board, await self._begin(subscriber, board, last, reason))
            finally:
                board.serial_of(subscriber)

    @contextlib.contextmanager
    def _using(self, board: Board) -> Iterator[None]:
        board.users += 1
        try:
            yield
        finally:
            board.users -= 1
            if board.ended:
                self._drop(board)

    async def _begin(self, subscriber: Subscriber, board: Board, last: str | None, reason: str | None) -> int:
        """Open a stream, and return the serial up to which its client has all changes."""
        if last is None or reason is not None:
            return await self._send_table(subscriber, board, reason, opening())
        position = Position.parse(last)
        await subscriber.send(opening() + ready_block(board.groups.about, position))
        try:
            touched, serial = await board.resume(last)
            keys = dict.fromkeys([*touched, *board.changed_after(serial)])
        except Gap as gap:
            return await self._send_table(subscriber, board, gap.reason)
        serial = board.serial
        if keys:
            await subscriber.send_events(board.frame(list(keys)))
        return serial

    async def _send_table(self, subscriber: Subscriber, board: Board, reason: str | None, first: bytes = b"") -> int:
        """Begin with the table as it is: all of it, or its position alone. Return its serial.

        The position comes last: a client that is cut off before has none, and starts again.
        """
        about, serial, position, begins = board.groups.about, board.serial, board.remember(), bool(first)
        if reason is not None:
            self._hub.resets[reason] += 1
            first += reset_block(about, None if subscriber.renews else position, reason)
        if subscriber.renews:
            for block in board.groups.snapshot_blocks(board.table.values()):
                await subscriber.send(first + block)
                first = b""
        if subscriber.renews or begins:
            first += ready_block(about, position)
        await subscriber.send(first)
        return serial

    async def _follow(self, subscriber: Subscriber, board: Board, serial: int) -> None:
        """Send everything that changes, until the connection or the service ends."""
        while not (self._hub.closing or subscriber.gone or board.ended):
            await subscriber.make_room(self._hub.buffer)
            try:
                if subscriber.phase is Phase.RESYNC:
                    serial = await self._send_table(subscriber, board, subscriber.begin_resync())
                keys = board.changed_after(serial)
            except Gap as gap:
                serial = await self._send_table(subscriber, board, gap.reason)
                continue
            if keys:
                frame, serial = board.frame(keys), board.serial
                await subscriber.send_events(frame)
                continue
            subscriber.position = board.position
            await subscriber.stay(board)
            serial = board.serial_of(subscriber)

    # --- boards

    def _board(self, groups: LiveGroups) -> Board:
        """The board of some groups, a new one if there is none."""
        board = self._boards.get(groups.key)
        if board is None or board.ended:
            board = self._boards[groups.key] = Board(self._hub, groups, self._reading)
            self._index.add(board, groups)
        return board

    def _drop(self, board: Board) -> None:
        board.close()
        self._index.discard(board, board.groups)
        if self._boards.get(board.groups.key) is board:
            del self._boards[board.groups.key]

    def _deliver(self, batch: Batch) -> None:
        """Set every board to work that a batch could concern."""
        try:
            boards = self._index.candidates(batch)
        except Exception:  # each board finds out for itself, and reads its groups
            boards = set(self._boards.values())
        for board in boards:
            board.note(batch)

    def _on_feed_reset(self, reason: Reason) -> None:
        """Reset all clients, because the feed had to leave out events."""
        for board in self.boards:
            board.restart(reason)
