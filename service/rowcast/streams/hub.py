"""The hub: every stream of one process, and the way of a batch from the feed to them.

Subscribers with equal subscriptions form a *group*. Each batch is evaluated once per group and rendered into one frame, and
every member gets those bytes, in slices (``members``). Groups that a batch cannot match are skipped (``routing``).

A subscriber that does not read fast enough leaves its group when its buffer is full. It then reads on by itself, from the
feed's memory or from the log, as fast as its client takes it; so does one that resumes. When it has reached its group's
position it joins the group. Nothing is awaited between that comparison and the joining, so no batch is lost between them.

``Hub.stream`` opens a stream, ``Hub._send`` is its life, and ``Groups.deliver`` the way of one batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import Final, TypeAlias
from weakref import WeakValueDictionary

import structlog
from aiohttp import web

from rowcast.changes.events import Batch
from rowcast.changes.position import Position, Snapshot
from rowcast.changes.tail import Reason, Reset, Tail
from rowcast.database.absent import NeedsDatabase
from rowcast.database.errors import DRIVER_ERRORS
from rowcast.errors import Unavailable
from rowcast.streams.admission import Admission
from rowcast.streams.expansion import TOO_LARGE, ExpansionTooLarge
from rowcast.streams.forwarded import ForwardedRows
from rowcast.streams.group import FAILED, Group, log_failure
from rowcast.streams.group_streams import GroupStreams
from rowcast.streams.groups import Groups
from rowcast.streams.members import Sender
from rowcast.streams.open_streams import CREDENTIALS_CHECK_SECONDS, OpenStreams
from rowcast.streams.shared_frames import SharedFrames
from rowcast.streams.shared_matches import SharedMatches
from rowcast.streams.shared_position import SharedPosition
from rowcast.streams.snapshot import SnapshotRows, read_snapshot
from rowcast.streams.sse import (
    CACHE_CONTROL,
    CONTENT_TYPE,
    DATABASE_AWAY,
    StreamResponse,
    end_block,
    opening,
    ready_block,
    reset_block,
)
from rowcast.streams.subscriber import Phase, Subscriber
from rowcast.streams.subscription import (
    FilterTooSlow,
    NeedsAwait,
    Subscriptions,
    remaining,
)
from rowcast.streams.traffic import Traffic, measured
from rowcast.tasks import Supervisor

RENDER_PATIENCE_SECONDS: Final = 30.0  # for which a batch is tried again while the database is away; then streams end
DATABASE_RETRY_SECONDS: Final = 1.0
SNAPSHOTS_READ_AT_ONCE: Final = 2
CATCH_UP_SECONDS: Final = 0.01  # for which a stream may read what is in memory before others have their turn
HEARTBEAT_PARTS: Final = 15  # those of ten thousand groups take a quarter of a second, for which changes would wait

AllRows: TypeAlias = tuple[SnapshotRows, Position]  # as of one moment, and the position after it
_Begin: TypeAlias = Callable[[Subscriber, Subscriptions], Awaitable[None]]

_logger = structlog.get_logger(__name__)


class Hub:
    """Every stream of one process.

    Args:
        feed: The change feed of the process.
        read_snapshot: Returns the ``pg_current_snapshot`` of the primary. ``Unavailable`` if it cannot.
        valid: Whether a ``request.auth`` is still valid.
        supervisor: Runs the hub's background tasks.
        admission: Decides how many streams may be open, and how many bytes may wait for one of them.
        heartbeat: Seconds between two comments that keep connections alive.
        forward: At an edge, opens the stream of a request at the origin, for the rows that it begins with. ``NeedsDatabase`` if the
            origin refuses it.
        max_age: Seconds that a stream lasts at most; 0 for no limit.
        traffic: Counts what is sent.
    """

    def __init__(
        self,
        feed: Tail,
        read_snapshot: Callable[[], Awaitable[str]],
        valid: Callable[[object], Awaitable[bool]],
        supervisor: Supervisor,
        admission: Admission,
        *,
        heartbeat: float,
        forward: Callable[[web.Request], Awaitable[ForwardedRows]] | None = None,
        max_age: float = 0,
        traffic: Traffic | None = None,
    ) -> None:
        self.feed = feed
        self.resets: Counter[str] = Counter()  # sent to clients so far, by reason
        self.admission = admission
        self.traffic = traffic
        self.make_subscriber: Callable[..., Subscriber] = Subscriber
        make_group: Callable[..., Group] = Group
        if traffic is not None:
            self.make_subscriber, make_group = measured(traffic)
        self.sender = Sender()
        self._supervisor = supervisor
        self._forward = forward
        self._heartbeat = heartbeat
        self._heartbeats = 0
        self.groups = Groups(partial(make_group, self))
        self._subscriptions: WeakValueDictionary[Hashable, Subscriptions] = WeakValueDictionary()  # one of equal ones
        self._matches = SharedMatches()
        self._frames = SharedFrames()
        self.open_streams = OpenStreams(valid, max_age)
        self._read_snapshot = read_snapshot
        self.next_position = SharedPosition(self._read_position).next
        self._reading_rows = asyncio.Semaphore(SNAPSHOTS_READ_AT_ONCE)
        self.closing = False
        self.aggregates = GroupStreams(self)
        self._tasks: list[asyncio.Task[None]] = []
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        """Follow the feed and keep connections alive, until ``close``."""
        deliver = self.groups.deliver if self.traffic is None else self._deliver_measured
        self._unsubscribe = self.feed.subscribe(
            deliver, self.groups.restart, needs_rows=lambda: bool(self.groups or len(self.open_streams))
        )
        self.aggregates.start()
        self._tasks = [
            self._supervisor.every("stream heartbeats", self._heartbeat / HEARTBEAT_PARTS, self.send_heartbeats),
            self._supervisor.every(
                "stream credentials", CREDENTIALS_CHECK_SECONDS, self.open_streams.check_credentials
            ),
        ]

    async def close(self) -> None:
        """End every stream at once; clients connect again by themselves."""
        self.closing = True
        if self._unsubscribe is not None:
            self._unsubscribe()
        self.open_streams.end()
        self.groups.close()
        self.aggregates.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def buffer(self) -> int:
        """Bytes that a connection may have unsent before its subscriber leaves the group."""
        return self.admission.buffer

    @property
    def subscribers(self) -> int:
        """The number of open streams."""
        return len(self.open_streams)

    # --- one stream

    async def stream(
        self,
        http: web.Request,
        subscriptions: Subscriptions,
        last: str | None,
        *,
        auths: Sequence[object] = (),
        limit: int | None = None,
        caller: str = "",
    ) -> web.StreamResponse:
        """Respond to a request with a stream, which is sent when the handler has returned the response.

        Args:
            http: The request.
            subscriptions: The rows that the stream is about.
            last: The position that the client resumes from; ``None`` to begin now.
            auths: The ``request.auth`` values that the caller was identified by. The stream ends when one expires.
            limit: With a limit, a stream that cannot resume begins with all rows.
            caller: Under which the stream counts.

        Raises:
            ParseError: There are more rows than ``limit``.
            NeedsDatabase: At an edge, which leaves this stream to the origin.
            Unavailable: The database is away, and the stream has not begun; or there are too many streams, or its filter
                has taken too long before.
            TooManyStreams: The caller has too many.
        """
        if http.method == "HEAD":
            return web.Response(content_type=CONTENT_TYPE, headers={"Cache-Control": CACHE_CONTROL})
        subscriptions = self.shared(subscriptions)
        response = StreamResponse()
        with self.admission.admit(caller, subscriptions):
            begin = await self._prepare(http, response, subscriptions, last, limit)
        if begin is not None:
            subscriber = self.make_subscriber(response, self.feed.head, auths, renews=limit is not None)
            response.sending = self._send(subscriber, subscriptions, caller, limit, begin)
            response.client_left = subscriber.leave
        return response

    def shared(self, subscriptions: Subscriptions) -> Subscriptions:
        """Those that other streams have already, if they are equal; so that each stream need not keep its own."""
        return self._subscriptions.setdefault(subscriptions.key, subscriptions)

    async def _prepare(
        self,
        http: web.Request,
        response: StreamResponse,
        subscriptions: Subscriptions,
        last: str | None,
        limit: int | None,
    ) -> _Begin | None:
        """Send the headers, after everything that may be refused. Returns what begins the stream; ``None`` if there is none."""
        rows: AllRows | None = None
        forwarded: ForwardedRows | None = None
        reason = None
        if limit is not None:
            if self._forward is None:
                rows, reason = await self.first_rows(subscriptions, last, limit)
            elif last is None or await self.check_position(last) is not None:
                forwarded = await self._forward(http)
        gone = False
        try:
            await response.prepare(http)
        except ConnectionResetError:  # aiohttp drops the response
            gone = True
        if gone or self.closing:
            if rows is not None:
                rows[0].close()
            if forwarded is not None:
                await forwarded.close()
            return None
        if forwarded is not None:
            return forwarded.begin
        if rows is None:
            return partial(self.begin, last=last)
        return partial(self.send_rows, rows=rows, reason=reason, first=opening())

    async def first_rows(
        self, subscriptions: Subscriptions, last: str | None, limit: int
    ) -> tuple[AllRows | None, Reason | None]:
        """All rows, for a stream that cannot resume, and the reason why; ``ParseError`` for too many."""
        reason = None if last is None else await self.check_position(last)
        if last is not None and reason is None:
            return None, None
        return await self._read_rows(subscriptions, limit), reason

    async def _send(
        self, subscriber: Subscriber, subscriptions: Subscriptions, caller: str, limit: int | None, begin: _Begin
    ) -> None:
        """A stream, from its opening to its end."""
        with (
            self.admission.place(caller),
            self.open_streams.holding(subscriber, subscriptions),
        ):
            await begin(subscriber, subscriptions)
            del begin  # which may have rows
            await self._follow(subscriber, subscriptions, limit)

    async def send(self, subscriber: Subscriber, subscriptions: Subscriptions, last: str | None) -> None:
        """Send a stream by an open connection; returns when it has ended."""
        subscriptions = self.shared(subscriptions)
        with self.open_streams.holding(subscriber, subscriptions):
            await self.begin(subscriber, subscriptions, last)
            await self._follow(subscriber, subscriptions, None)

    async def begin(self, subscriber: Subscriber, subscriptions: Subscriptions, last: str | None) -> None:
        """Find the position where a stream begins, and open it."""
        reason = None if last is None else await self.check_position(last, subscriber)
        if last is None or reason is not None:
            subscriber.position = await asyncio.shield(self.next_position())
        else:
            subscriber.position = Position.parse(last)
        reset = b"" if reason is None else self._reset_block(subscriptions, subscriber.position, reason)
        await subscriber.send(opening() + reset + ready_block(subscriptions.about, subscriber.position))

    async def check_position(self, last: str, subscriber: Subscriber | None = None) -> Reason | None:
        """The reason why a stream cannot resume from a position.

        While the database is away an open ``subscriber`` waits; without one it is ``Unavailable``.
        """
        while True:
            try:
                return await self.feed.check(last)
            except DRIVER_ERRORS:
                if subscriber is None:
                    raise Unavailable from None
                await asyncio.sleep(DATABASE_RETRY_SECONDS)
                await subscriber.send(DATABASE_AWAY)

    async def _read_position(self) -> Position:
        """The position after everything that is committed, which the feed may not have read yet.

        If the database is away it is the head of the feed.
        """
        head = self.feed.head
        try:
            snapshot = await self._read_snapshot()
        except Unavailable:
            return self.feed.head
        return self.position_after(head, snapshot)

    def position_after(self, head: Position, snapshot: str) -> Position:
        """The position after the snapshot of a statement that began when the feed was at ``head``."""
        text = self.feed.stream_position(snapshot)
        return head.with_snapshot(Snapshot.parse(snapshot)) if text is None else Position.parse(text)

    async def _follow(self, subscriber: Subscriber, subscriptions: Subscriptions, limit: int | None) -> None:
        """Send everything after the subscriber's position, until the connection or the service ends."""
        while await self.reach_head(subscriber, subscriptions, limit):
            await subscriber.stay(self.groups.of(subscriptions, subscriber.position.snapshot))

    async def reach_head(self, subscriber: Subscriber, subscriptions: Subscriptions, limit: int | None) -> bool:
        """Send everything up to the head of the feed; ``False`` if the connection or the service has ended.

        Then the subscriber has to join its group before anything else is awaited.
        """
        while not (self.closing or subscriber.gone):
            await subscriber.make_room(self.buffer)
            if subscriber.phase is Phase.RESYNC:
                assert limit is not None
                reason = subscriber.begin_resync()
                with self._leaving(subscriptions) if reason == FAILED else contextlib.nullcontext():
                    rows = await self._read_rows(subscriptions, limit)
                await self.send_rows(subscriber, subscriptions, rows, reason)
            try:
                await self._catch_up(subscriber, subscriptions)
            except Reset as reset:
                await self._reset_subscriber(subscriber, subscriptions, self.feed.head, reset.reason)
                continue
            if self.is_at_head(subscriber) and subscriber.phase is Phase.CATCHING_UP:
                return True
        return False

    def is_at_head(self, subscriber: Subscriber) -> bool:
        """Whether a subscriber has all that the feed has delivered."""
        return subscriber.position.sort_key >= self.feed.head.sort_key

    async def _catch_up(self, subscriber: Subscriber, subscriptions: Subscriptions) -> None:
        """Send the events between the subscriber's position and the head of the feed."""
        if self.is_at_head(subscriber):
            return
        self._frames.begin(subscriptions)
        turn = time.monotonic()
        async for batch in self.feed.read(subscriber.position):
            if time.monotonic() - turn > CATCH_UP_SECONDS:
                await asyncio.sleep(0)
                turn = time.monotonic()
            if subscriber.gone:  # which no write shows while nothing is sent
                return
            seen_snapshot = subscriber.position.snapshot
            position = batch.end.with_snapshot(remaining(seen_snapshot, batch))
            try:
                frame = await self.render(subscriptions, batch, seen_snapshot)
            except (Unavailable, NeedsDatabase):
                raise
            except FilterTooSlow as error:
                self.refuse_filter(error, subscriptions)
                await subscriber.send(end_block(subscriptions.about, None if subscriber.renews else position))
                raise
            except Exception as error:
                reason = TOO_LARGE if isinstance(error, ExpansionTooLarge) else FAILED
                if reason == FAILED:
                    log_failure(subscriptions, batch, error)
                await self._reset_subscriber(subscriber, subscriptions, position, reason)
                if subscriber.phase is not Phase.CATCHING_UP:
                    return
                continue
            subscriber.position = position
            if frame:
                await subscriber.send_events(frame)

    async def _reset_subscriber(
        self, subscriber: Subscriber, subscriptions: Subscriptions, position: Position, reason: str
    ) -> None:
        """Send one client a reset, because events are missing, and go on from a position."""
        subscriber.position = position
        if subscriber.renews:
            subscriber.require_resync(reason)
        else:
            await subscriber.send(self._reset_block(subscriptions, position, reason))

    def _reset_block(self, subscriptions: Subscriptions, position: Position | None, reason: str) -> bytes:
        self.resets[reason] += 1
        return reset_block(subscriptions.about, position, reason)

    # --- all rows

    async def _read_rows(self, subscriptions: Subscriptions, limit: int) -> AllRows:
        """All rows of the subscriptions as of one moment, and the position after it; ``ParseError`` for too many."""
        async with self._reading_rows:
            head = self.feed.head
            found, snapshot = await read_snapshot(subscriptions, limit)
        return found, self.position_after(head, snapshot)

    async def send_rows(
        self,
        subscriber: Subscriber,
        subscriptions: Subscriptions,
        rows: AllRows,
        reason: str | None,
        first: bytes = b"",
    ) -> None:
        """Send all rows, and only then a position: a client that is cut off before has none, and starts again."""
        found, position = rows
        if reason is not None:
            first += self._reset_block(subscriptions, None, reason)
        try:
            async for subscription, documents in found.blocks():
                await subscriber.send(first + await subscription.snapshot_block(documents))
                first = b""
        except ExpansionTooLarge:
            await subscriber.send(first + end_block(subscriptions.about, None, TOO_LARGE))
            raise
        finally:
            found.close()
        subscriber.position = position
        await subscriber.send(first + ready_block(subscriptions.about, position))

    # --- rendering

    async def render(self, subscriptions: Subscriptions, batch: Batch, seen_snapshot: Snapshot | None) -> bytes:
        """The frame of a batch; ``Unavailable`` if the database is away for ``RENDER_PATIENCE_SECONDS``.

        At an edge it is ``NeedsDatabase`` if the log alone does not suffice.
        """
        start = time.monotonic()
        while True:
            try:
                return self._frames.render_now(subscriptions, batch, seen_snapshot)
            except NeedsAwait:
                pass
            try:
                with self._leaving(subscriptions):
                    return await subscriptions.render(batch, seen_snapshot, self._matches.read)
            except Unavailable:
                if time.monotonic() - start > RENDER_PATIENCE_SECONDS:
                    raise
                await asyncio.sleep(DATABASE_RETRY_SECONDS)

    @contextlib.contextmanager
    def _leaving(self, subscriptions: Subscriptions) -> Iterator[None]:
        """Leave streams to the origin, which their clients then get to, if an edge cannot go on with them."""
        try:
            yield
        except NeedsDatabase:
            self.admission.leave_to_origin(subscriptions)
            raise

    def refuse_filter(self, error: FilterTooSlow, subscriptions: Subscriptions) -> None:
        """Open no stream with this filter for a while: it would end again with the next change."""
        if self.admission.refuse(error.query):
            _logger.warning("stream_filter_too_slow", **subscriptions.about)

    # --- in the background

    def _deliver_measured(self, batch: Batch) -> None:
        assert self.traffic is not None
        self.groups.deliver(batch)
        self.sender.when_sent(partial(self.traffic.delivered, batch))

    async def send_heartbeats(self) -> None:
        """Send the next part of all groups a comment and their newest position, so that proxies and positions stay fresh."""
        self._heartbeats += 1
        self._frames.expire()
        part = self._heartbeats % HEARTBEAT_PARTS
        self.groups.keep_alive(part, HEARTBEAT_PARTS)
        if part == 0:
            self.aggregates.keep_alive()
