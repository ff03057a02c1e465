"""Server-sent events: who watches what, and how the feed's batches reach them.

Subscribers who see the same form a *group*, with equal lenses. A batch is looked at once a group, and makes one frame,
whose bytes every subscriber of the group gets in one write. A subscriber has no queue and no task of its own: while it
keeps up it is a member of a group, and its place in the log is the group's. One that does not read fast enough leaves
its group when its buffer is full, and reads on by itself, from the feed's memory or the log, as fast as its client
takes it; so does one that resumes. When it has reached its group's place it joins; nothing is awaited between the look
and the joining, so nothing falls in between.

Groups that a batch cannot concern are not asked (``rowcast.audience``). A group is where the feed is, unless a batch takes
more than a look: then it has a task, for as long as it is behind.

Specification: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Final
from weakref import WeakValueDictionary

import orjson
import structlog
from aiohttp import HttpVersion11, web
from aiohttp_sse import EventSourceResponse

from rowcast.changes.feed import Feed, Reason, Reset
from rowcast.changes.log import Batch
from rowcast.changes.position import Position, Snapshot
from rowcast.changes.ticker import LOST
from rowcast.errors import (
    ApiError,
    ParseError,
    Unavailable,
)
from rowcast.query.conditions import Query
from rowcast.streams.routing import SubscriptionIndex
from rowcast.streams.subscription import BLOCK, Matches, NeedsAwait, Subscription, Subscriptions, passed, remaining

RETRY: Final = 2000  # ms that a browser waits before it connects again
OPENING: Final = b"retry: %d\n" % RETRY
STALLED: Final = 30.0  # s without progress after which a connection is cut
MATCHES_KEPT: Final = 256  # answers of the database that are kept for others who ask the same
CHECKED: Final = 5.0  # s between two looks at who may still listen
PATIENCE: Final = 30.0  # s for which a database that does not answer is asked again, before streams end over it
FAILED: Final = "failed"  # the reason of a reset behind events that could not be shown

_logger = structlog.get_logger(__name__)


class Subscriber:
    """One connection, with its place in the log while it is in no group.

    ``auths`` are what its caller was recognised by; ``renews`` says that a reset gives it all rows again.
    """

    __slots__ = (
        "_left",
        "_response",
        "_transport",
        "auths",
        "chunked",
        "ended",
        "group",
        "position",
        "renews",
        "reset",
    )

    def __init__(
        self,
        http: web.Request,
        response: EventSourceResponse,
        position: Position,
        auths: Sequence[object],
        *,
        renews: bool,
    ) -> None:
        assert http.transport is not None
        self.position = position
        self.auths = tuple(auth for auth in auths if auth is not None)
        self.renews = renews
        self.reset: str | None = None  # why it has to have all rows again
        self.group: Group | None = None
        self.chunked = http.version >= HttpVersion11
        self.ended = False
        self._response = response
        self._transport: asyncio.Transport = http.transport
        self._left: asyncio.Future[None] | None = None

    async def stay(self, group: Group) -> None:
        """Be in a group until the buffer is full or the stream ends; ``position`` is where that was."""
        self._left = asyncio.get_running_loop().create_future()
        self.group = group
        group.admit(self)
        try:
            await self._left
        finally:
            self.leave()

    def leave(self) -> None:
        """Go on alone from where the group is."""
        self._part()
        if self._left is not None and not self._left.done():
            self._left.set_result(None)

    def _part(self) -> None:
        if self.group is not None:
            if self in self.group.members:
                self.position = self.group.here
            self.group.dismiss(self)
            self.group = None

    def write(self, frame: bytes, buffer: int) -> None:
        """Hand bytes to the transport; leave the group if the client has gone or has not taken the last ones."""
        if self._transport.is_closing():
            self.leave()
            return
        self._transport.write(frame)
        if self._transport.get_write_buffer_size() > buffer:
            self.leave()

    def end(self) -> None:
        """End the stream; a client that is behind is cut off, and resumes."""
        if self.ended:
            return
        self.ended = True
        if self.group is None:
            self._transport.abort()
        self.leave()

    @property
    def gone(self) -> bool:
        """Whether the stream is over."""
        return self.ended or self._transport.is_closing()

    async def send(self, frame: bytes) -> None:
        """Write and wait until the client has taken most of it; ``ConnectionResetError`` when it takes nothing."""
        try:
            async with asyncio.timeout(STALLED):
                await self._response.write(frame)
        except TimeoutError:
            self._transport.abort()
            raise ConnectionResetError("the client reads nothing") from None


class Group:
    """The subscribers with equal lenses that have kept up. Their place in the log is ``position``.

    That is where the feed is, whether a batch concerned the group or not, unless the group is behind. ``members`` are at
    that place, those who are ``waiting`` are further on, at a place that the group will come to.
    """

    def __init__(self, hub: Hub, subscriptions: Subscriptions, skip: Snapshot | None) -> None:
        self.subscriptions = subscriptions
        self.skip = skip
        self.members: set[Subscriber] = set()
        self.waiting: set[Subscriber] = set()
        self._hub = hub
        self._behind: Position | None = None  # where the group is while that is not where the feed is,
        self._task: asyncio.Task[None] | None = None  # and what takes it there

    @property
    def position(self) -> Position:
        """The position of the members, but for what they still have to skip."""
        return self._hub.feed.head if self._behind is None else self._behind

    @property
    def here(self) -> Position:
        """The position of the members, with what they still have to skip."""
        return self.position.with_snapshot(self.skip)

    @property
    def behind(self) -> bool:
        """Whether the group is on its way to where the feed is."""
        return self._task is not None

    def admit(self, subscriber: Subscriber) -> None:
        """Take a subscriber in, now or when the group has come to its place."""
        if subscriber.position.sort_key == self.position.sort_key:
            self.members.add(subscriber)
        else:
            self.waiting.add(subscriber)
            self._hub.expect(self)

    def dismiss(self, subscriber: Subscriber) -> None:
        """Let a subscriber go."""
        self.members.discard(subscriber)
        self.waiting.discard(subscriber)
        if self.empty:
            self._hub.expect(self)

    @property
    def empty(self) -> bool:
        """Whether nobody is left."""
        return not (self.members or self.waiting)

    def deliver(self, batch: Batch) -> None:
        """Give every member its frame of a batch, at once if it takes no more than a look."""
        if self._task is not None:
            return
        try:
            frame = self.subscriptions.frame(batch, self.skip)
        except NeedsAwait:
            self._behind = batch.start
            self._task = asyncio.create_task(self._follow(), name="stream group")
            return
        self._tell(batch.end, frame)

    async def _follow(self) -> None:
        """Go on to where the feed is, batch by batch."""
        try:
            async for batch in self._hub.feed.read(self.position):
                try:
                    frame = await self._hub.look(self.subscriptions, batch, self.skip)
                except Unavailable:
                    raise
                except Exception as error:
                    self.fail(batch, error)
                else:
                    self._tell(batch.end, frame)
            self._task = self._behind = None
        except Reset as reset:
            self._task = None
            self.restart(reset.reason)
        except Exception as error:
            if isinstance(error, Unavailable):
                _logger.warning("streams_ended", error=error.detail, **self.subscriptions.told)
            else:
                _logger.exception("streams_ended", **self.subscriptions.told)
            self._task = None
            for subscriber in [*self.members, *self.waiting]:
                subscriber.end()
            self._hub.drop(self)

    def fail(self, batch: Batch, error: Exception) -> None:
        """Go on behind a batch that cannot be shown; the members have to load anew what they show."""
        failed(self.subscriptions, batch, error)
        self._reset(batch.end, FAILED)

    def restart(self, reason: str) -> None:
        """Tell everybody that something was left out, and go on from where the feed is."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._behind = None
        self.members |= self.waiting
        self.waiting.clear()
        self._reset(self.position, reason)

    def _reset(self, position: Position, reason: str) -> None:
        self._come_to(position)
        for member in [member for member in self.members if member.renews]:
            member.reset = reason
            member.leave()
        self._tell(position, reset_block(self.subscriptions, self.here, reason))

    def _tell(self, position: Position, frame: bytes) -> None:
        """Come to a position, and give the members what lies before it; who has waited there is one from now on."""
        self._come_to(position)
        if frame:
            self.write(frame)
        for subscriber in list(self.waiting):
            if subscriber.position.sort_key == position.sort_key:
                self.waiting.discard(subscriber)
                self.members.add(subscriber)
            elif subscriber.position.sort_key < position.sort_key:
                subscriber.leave()

    def _come_to(self, position: Position) -> None:
        if self._behind is not None:
            self._behind = position

    def write(self, frame: bytes) -> None:
        """One write for each member, of the same bytes."""
        chunk = b"%x\r\n%b\r\n" % (len(frame), frame)
        for member in list(self.members):
            member.write(chunk if member.chunked else frame, self._hub.buffer)

    def absorb(self, other: Group) -> None:
        """Take everybody in from a group at the same place."""
        for subscriber in [*other.members, *other.waiting]:
            subscriber.group = self
        self.members |= other.members
        self.waiting |= other.waiting
        if self.waiting:
            self._hub.expect(self)

    def close(self, position: Position | None = None) -> None:
        """Stop; whoever is here goes on alone from a position, or from where the group is."""
        self._behind = position or self._behind
        if self._task is not None:
            self._task.cancel()
            self._task = None
        for subscriber in [*self.members, *self.waiting]:
            subscriber.leave()


class Hub:
    """Every stream of one process. ``heartbeat`` is in seconds, ``buffer`` in bytes of one connection.

    ``valid`` says whether what a caller was recognised by is still good.
    """

    def __init__(
        self, feed: Feed, valid: Callable[[object], Awaitable[bool]], *, heartbeat: float, buffer: int
    ) -> None:
        self.feed = feed
        self.buffer = buffer
        self._valid = valid
        self._heartbeat = heartbeat
        self._groups: dict[tuple[Hashable, Snapshot | None], Group] = {}
        self._audience: SubscriptionIndex[Group] = SubscriptionIndex()
        self._expecting: set[Group] = set()  # those that a batch may concern whatever is in it
        self._subscriptions: WeakValueDictionary[Hashable, Subscriptions] = (
            WeakValueDictionary()
        )  # equal ones are kept once
        self._judgements: OrderedDict[tuple[Query, Position, int], asyncio.Future[Matches]] = OrderedDict()
        self._open: set[Subscriber] = set()
        self._closing = False
        self._tasks: list[asyncio.Task[None]] = []
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        """Follow the feed and keep connections alive, until ``close``."""
        self._unsubscribe = self.feed.subscribe(self._deliver, self._reset)
        self._tasks = [
            asyncio.create_task(self._keep_alive(), name="stream heartbeats"),
            asyncio.create_task(self._check_callers(), name="stream callers"),
        ]

    async def close(self) -> None:
        """End every stream at once; clients connect again by themselves."""
        self._closing = True
        if self._unsubscribe is not None:
            self._unsubscribe()
        for subscriber in list(self._open):
            subscriber.end()
        for group in self._groups.values():
            group.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def subscribers(self) -> int:
        """How many streams are open."""
        return len(self._open)

    # --- one stream

    async def stream(
        self,
        http: web.Request,
        subscriptions: Subscriptions,
        last: str | None,
        *,
        auths: Sequence[object] = (),
        limit: int | None = None,
    ) -> web.StreamResponse:
        """Answer a request with a stream from position ``last``, or from now; returns when the client has gone.

        With ``limit`` a stream that has nowhere to go on from begins with all rows there are; ``ParseError`` for more.
        """
        if http.method == "HEAD":
            return web.Response(content_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        subscriptions = self._subscriptions.setdefault(subscriptions.name, subscriptions)
        rows: SnapshotRows | None = None
        if limit is not None:
            reason = None if last is None else await self._check(last)
            if last is None or reason is not None:
                rows = await self._rows(subscriptions, limit)
        response = _Response()
        await response.prepare(http)
        if self._closing:
            return response
        subscriber = Subscriber(http, response, self.feed.head, auths, renews=limit is not None)
        self._open.add(subscriber)
        self._expect(subscriber)
        try:
            if rows is None:
                await self._begin(subscriber, subscriptions, last)
            else:
                await self._show(subscriber, subscriptions, rows, reason, OPENING)
            await self._follow(subscriber, subscriptions, limit)
        except (ConnectionResetError, ApiError):
            pass  # the client has gone, which is how a stream ends; or the client is told why when it connects again
        except Exception:
            _logger.exception("stream_failed", **subscriptions.told)
        finally:
            subscriber.ended = True
            self._open.discard(subscriber)
        return response

    async def _begin(self, subscriber: Subscriber, subscriptions: Subscriptions, last: str | None) -> None:
        """Find where a stream starts, and greet its client."""
        reason = None if last is None else await self._check(last, subscriber)
        if last is None or reason is not None:
            subscriber.position = await self._now(subscriptions)
        else:
            subscriber.position = Position.parse(last)
        opening = reset_block(subscriptions, subscriber.position, reason) if reason else b""
        await subscriber.send(OPENING + opening + ready_block(subscriptions, subscriber.position))

    async def _check(self, last: str, subscriber: Subscriber | None = None) -> Reason | None:
        """Why a stream cannot go on from a position; a ``subscriber`` waits for a database that is away."""
        while True:
            try:
                return await self.feed.check(last)
            except LOST:
                if subscriber is None:
                    raise Unavailable from None
                await asyncio.sleep(1)
                await subscriber.send(b": the database is away\n\n")

    async def _now(self, subscriptions: Subscriptions) -> Position:
        """Behind everything that is committed, of which the feed may not have heard yet; else behind what it has."""
        head = self.feed.head
        try:
            snapshot = await next(iter(subscriptions)).store.snapshot()
        except Unavailable:
            return self.feed.head
        return self._behind(head, snapshot)

    def _behind(self, head: Position, snapshot: str) -> Position:
        """The position behind what a statement saw, which began when the feed was at ``head``."""
        text = self.feed.stream_position(snapshot)
        return head.with_snapshot(Snapshot.parse(snapshot)) if text is None else Position.parse(text)

    async def _follow(self, subscriber: Subscriber, subscriptions: Subscriptions, limit: int | None) -> None:
        """Send what is behind the subscriber's position, then what comes, until the connection or the service ends."""
        while not (self._closing or subscriber.gone):
            if subscriber.reset is not None:
                assert limit is not None
                reason, subscriber.reset = subscriber.reset, None
                await self._show(subscriber, subscriptions, await self._rows(subscriptions, limit), reason)
            try:
                await self._catch_up(subscriber, subscriptions)
            except Reset as reset:
                await self._reset_one(subscriber, subscriptions, self.feed.head, reset.reason)
                continue
            if subscriber.reset is None and subscriber.position.sort_key >= self.feed.head.sort_key:
                await subscriber.stay(self._group(subscriptions, subscriber.position.snapshot))

    async def _catch_up(self, subscriber: Subscriber, subscriptions: Subscriptions) -> None:
        """Send what lies between the subscriber's position and the feed's head."""
        async for batch in self.feed.read(subscriber.position):
            skip = subscriber.position.snapshot
            rest = remaining(skip, batch)
            try:
                frame = await self.look(subscriptions, batch, skip)
            except Unavailable:
                raise
            except Exception as error:
                failed(subscriptions, batch, error)
                await self._reset_one(subscriber, subscriptions, batch.end.with_snapshot(rest), FAILED)
                if subscriber.reset is not None:
                    return
                continue
            subscriber.position = batch.end.with_snapshot(rest)
            if frame:
                await subscriber.send(frame)

    async def _reset_one(
        self, subscriber: Subscriber, subscriptions: Subscriptions, position: Position, reason: str
    ) -> None:
        """Tell one client that something was left out, and go on from a position."""
        subscriber.position = position
        if subscriber.renews:
            subscriber.reset = reason
        else:
            await subscriber.send(reset_block(subscriptions, position, reason))

    # --- all rows

    async def _rows(self, subscriptions: Subscriptions, limit: int) -> SnapshotRows:
        """All rows that the lenses show, as of one moment, and the position behind it; ``ParseError`` for too many."""
        head = self.feed.head
        found: list[tuple[Subscription, list[bytes]]] = []
        snapshot = ""
        store = next(iter(subscriptions)).store
        async with store.database.transaction():
            await store.database.fetch("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY", ())
            for subscription in subscriptions:
                rows, snapshot = await subscription.rows(limit + 1)
                limit -= len(rows)
                if limit < 0:
                    raise ParseError(
                        "snapshot: there are too many rows for one; narrow the filter, or read the list page by page "
                        "and open the stream with the X-Stream-Position of its first page as last_event_id.",
                        code="invalid_parameter",
                    )
                found.append((subscription, rows))
        return found, self._behind(head, snapshot)

    async def _show(
        self,
        subscriber: Subscriber,
        subscriptions: Subscriptions,
        rows: SnapshotRows,
        reason: str | None,
        opening: bytes = b"",
    ) -> None:
        """Send all rows, and only then a position: whoever comes back without one is sent them again."""
        found, position = rows
        if reason is not None:
            opening += reset_block(subscriptions, None, reason)
        for subscription, documents in found:
            for first in range(0, len(documents), BLOCK):
                await subscriber.send(opening + await subscription.snapshot(documents[first : first + BLOCK]))
                opening = b""
        subscriber.position = position
        await subscriber.send(opening + ready_block(subscriptions, position))

    # --- looking

    async def look(self, subscriptions: Subscriptions, batch: Batch, skip: Snapshot | None) -> bytes:
        """The frame of a batch; ``Unavailable`` where the database does not answer for a while."""
        start = time.monotonic()
        while True:
            try:
                return subscriptions.frame(batch, skip)
            except NeedsAwait:
                pass
            try:
                return await subscriptions.look(batch, skip, self._judge)
            except Unavailable:
                if time.monotonic() - start > PATIENCE:
                    raise
                await asyncio.sleep(1)

    async def _judge(self, subscription: Subscription, batch: Batch) -> Matches:
        """The database's answer for a batch, asked once for all who ask about the same rows."""
        key = (subscription.query, batch.start, len(batch.events))
        judgement = self._judgements.get(key)
        if judgement is None:
            judgement = self._judgements[key] = asyncio.ensure_future(subscription.judge(batch))
            if len(self._judgements) > MATCHES_KEPT:
                self._judgements.popitem(last=False)
        try:
            return await asyncio.shield(judgement)
        except Exception:
            self._judgements.pop(key, None)
            raise

    # --- everybody

    def _group(self, subscriptions: Subscriptions, skip: Snapshot | None) -> Group:
        """The group of the lenses, a new one if there is none.

        Who joins it may be further on: another replica has told him what this one has not heard of yet.
        """
        group = self._groups.get((subscriptions.name, skip))
        if group is None:
            group = Group(self, subscriptions, skip)
            self._take(group)
        return group

    def _take(self, group: Group) -> None:
        """Know a group."""
        self._groups[group.subscriptions.name, group.skip] = group
        self._audience.add(group, group.subscriptions)
        if group.skip is not None:
            self.expect(group)

    def expect(self, group: Group) -> None:
        """Look at a group when the next batch comes, whatever that is about."""
        self._expecting.add(group)

    def _deliver(self, batch: Batch) -> None:
        """Take a batch from the feed to every group that it concerns."""
        expecting, self._expecting = self._expecting, set()
        for group in [group for group in expecting if group.empty]:
            expecting.discard(group)
            self.drop(group)
        for group in [group for group in expecting if group.skip is not None]:
            if not group.behind and passed(group.skip, batch):
                expecting.discard(group)
                self._merge(group, batch)
        try:
            concerned = self._audience.concerned(batch)
        except Exception:  # whom it concerns is found out by each group then, or what is wrong with it
            concerned = set(self._groups.values())
        try:
            for group in concerned | expecting | self._expecting:
                try:
                    group.deliver(batch)
                except Exception as error:
                    group.fail(batch, error)
        finally:
            self._expecting |= {group for group in expecting if group.skip is not None or group.waiting}

    def drop(self, group: Group) -> None:
        """Forget a group."""
        group.close()
        self._forget(group)

    def _forget(self, group: Group) -> None:
        if self._groups.get(key := (group.subscriptions.name, group.skip)) is group:
            del self._groups[key]
            self._audience.discard(group, group.subscriptions)

    def _merge(self, group: Group, batch: Batch) -> None:
        """Let the members of a group that has nothing left to skip, from a batch on, be as everybody else."""
        self._forget(group)
        plain = self._group(group.subscriptions, None)
        if plain.behind:
            group.close(batch.start)
        else:
            plain.absorb(group)

    def _reset(self, reason: Reason) -> None:
        """Tell everybody that the feed had to leave out something."""
        groups, self._groups, self._audience = self._groups, {}, SubscriptionIndex()
        for group in groups.values():
            group.skip = None
            group.restart(reason)
            if (group.subscriptions.name, None) in self._groups:
                group.close()
            else:
                self._take(group)

    async def _keep_alive(self) -> None:
        """A comment and the newest position for everybody, so that proxies and positions stay fresh."""
        while True:
            await asyncio.sleep(self._heartbeat)
            for group in list(self._groups.values()):
                if group.empty:
                    self._expecting.discard(group)
                    self.drop(group)
                    continue
                alive = b": keep-alive\nid: %b\n\n" % str(group.here).encode()
                group.write(alive)
                for subscriber in list(group.waiting):
                    subscriber.write(_chunk(subscriber, b": keep-alive\n\n"), self.buffer)

    async def _check_callers(self) -> None:
        """End the streams of callers whose credentials are no longer good."""
        while True:
            await asyncio.sleep(CHECKED)
            callers: dict[int, tuple[object, list[Subscriber]]] = {}
            for subscriber in self._open:
                for auth in subscriber.auths:
                    callers.setdefault(id(auth), (auth, []))[1].append(subscriber)
            for auth, subscribers in callers.values():
                try:
                    valid = await self._valid(auth)
                except Exception:
                    _logger.exception("stream_caller_not_checked")
                    continue
                for subscriber in subscribers:
                    if valid:
                        self._expect(subscriber)
                    else:
                        subscriber.end()

    def _expect(self, subscriber: Subscriber) -> None:
        """End a stream when its credentials expire, if that is before the next look."""
        for auth in subscriber.auths:
            expires_at = getattr(auth, "expires_at", None)
            if expires_at is not None and (left := expires_at - time.time()) <= CHECKED:
                asyncio.get_running_loop().call_later(max(0.0, left), subscriber.end)


SnapshotRows = tuple[
    Sequence[tuple[Subscription, Sequence[bytes]]], Position
]  # of each lens, and the position behind them


def failed(subscriptions: Subscriptions, batch: Batch, error: Exception) -> None:
    """Log that events cannot be shown."""
    _logger.error("stream_failed", tick=batch.tick, exc_info=error, **subscriptions.told)


def _chunk(subscriber: Subscriber, frame: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(frame), frame) if subscriber.chunked else frame


def ready_block(subscriptions: Subscriptions, position: Position) -> bytes:
    """The block that says that a stream is open, and where it begins."""
    return b"event: ready\nid: %b\ndata: %b\n\n" % (str(position).encode(), orjson.dumps(subscriptions.told))


def reset_block(subscriptions: Subscriptions, position: Position | None, reason: str) -> bytes:
    """The block that tells a client to load anew what it shows, and why; without a position, rows follow."""
    place = b"" if position is None else b"id: %b\n" % str(position).encode()
    return b"event: reset\n%bdata: %b\n\n" % (place, orjson.dumps({**subscriptions.told, "reason": reason}))


class _Response(EventSourceResponse):
    """aiohttp-sse's response without a ping of its own: the hub keeps every connection alive."""

    async def _ping(self) -> None:
        return
