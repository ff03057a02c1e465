"""Server-sent events: who watches what, and how the feed's batches reach them.

Subscribers who see the same (one resource, one condition, one set of columns) form a *group*, with one *lens*. A batch
is looked at once a group: the lens asks its condition of the old and the new row of each event and writes one frame,
whose bytes every subscriber of the group gets in one write. A subscriber has no queue and no task of its own: while it
keeps up it is a member of a group, and its place in the log is the group's. One that does not read fast enough leaves
its group when its buffer is full, and reads on by itself, from the feed's memory or the log, as fast as its client
takes it; so does one that resumes. When it has reached its group's place it joins; nothing is awaited between the look
and the joining, so nothing falls in between.

Specification: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import orjson
from aiohttp import HttpVersion11, web
from aiohttp_sse import EventSourceResponse

from service.changes.feed import Feed, Reason, Reset
from service.changes.log import Batch, Event
from service.changes.position import Position, Snapshot
from service.errors import ApiError, Unavailable
from service.matching import Test, matcher
from service.query import Query
from service.requests import Request
from service.resources import Resource
from service.serializers import Projection
from service.store import Store

if TYPE_CHECKING:
    from service.viewsets import GenericViewSet as _Base
else:
    _Base = object

RETRY: Final = 2000  # ms that a browser waits before it connects again
STALLED: Final = 30.0  # s without progress after which a connection is cut
JUDGEMENTS: Final = 256  # answers of the database that are kept for others who ask the same


Judgement: TypeAlias = Mapping[int, tuple[bool, bool]]  # event's n → whether its old and its new row are seen


@dataclass(frozen=True)
class Lens:
    """What a group sees: the rows of a query, and of a row what the projection shows.

    ``test`` answers the query's condition for a logged row in memory; without it the database is asked. Lenses that see
    the same have the same ``name``.
    """

    query: Query
    projection: Projection
    resource: Resource
    test: Test | None
    store: Store

    @cached_property
    def name(self) -> str:
        return repr((self.query, self.projection))

    @cached_property
    def _watched(self) -> tuple[str, ...]:
        """The names that a change is told of, shown here or not."""
        declared = {**self.resource.columns, **self.resource.links}
        return tuple(name for name, field in declared.items() if not field.write_only)

    async def judge(self, batch: Batch) -> Judgement:
        """For each event whether its old and its new row are among those seen, asked of the database in one query."""
        events = [event for event in batch.events if event.resource == self.query.resource and event.op != "T"]
        rows = [(event, row) for event in events for row in (event.before, event.after)]
        given = [row for _, row in rows if row is not None]
        places = [place for place, (_, row) in enumerate(rows) if row is not None]
        seen = {places[position - 1] for position in await self.store.matching(self.query, given)}
        return {event.n: (2 * place in seen, 2 * place + 1 in seen) for place, event in enumerate(events)}

    def frame(self, batch: Batch, skip: Snapshot | None, judged: Judgement | None) -> bytes:
        """The blocks of a batch for this group, one for each event that it sees; empty where there is none.

        What the snapshot ``skip`` sees is left out, and is said in the positions of the rest for as long as it matters.
        """
        blocks = []
        rest = _rest(skip, batch)
        for event in batch.events:
            if event.resource != self.query.resource or (skip is not None and skip.sees(event.xid)):
                continue
            shown = self._show(event, judged)
            if shown is not None:
                place = str(batch.position(event).beyond(rest))
                blocks.append(b"id: %b\n%b\n" % (place.encode(), shown))
        return b"".join(blocks)

    def _show(self, event: Event, judged: Judgement | None) -> bytes | None:
        if event.op == "T":
            reason = {"resource": self.query.resource, "reason": "truncated"}
            return b"event: reset\ndata: %b\n" % orjson.dumps(reason)
        before, after = event.before, event.after
        if judged is not None:
            was, now = judged[event.n]
        elif self.test is not None:
            was, now = before is not None and self.test(before), after is not None and self.test(after)
        else:
            was, now = before is not None, after is not None
        if not (was or now):
            return None
        action = "UPDATE" if was and now else "INSERT" if now else "DELETE"
        row = after if now else before
        assert row is not None
        told: dict[str, Any] = {
            "action": action,
            "resource": self.query.resource,
            "id": row[self.resource.key.column_name],
            "data": None,
        }
        if now:
            told["data"] = self._data(row)
        if action == "UPDATE":
            assert before is not None
            told["changed"] = [name for name in self._watched if row.get(name) != before.get(name)]
        elif event.op == "U":
            told["cause"] = "UPDATE"
        told |= {"at": event.at, "seq": event.seq}
        return b"data: %b\n" % orjson.dumps(told)

    def _data(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row as the serializer shows it, with relations as keys."""
        data = {name: row.get(name) for name in self.projection.columns}
        data.update((name, row[name]) for name, _ in self.projection.related if name in row)
        return data


class Subscriber:
    """One connection, with its place in the log while it is in no group."""

    __slots__ = ("_left", "_response", "_transport", "chunked", "group", "position")

    def __init__(self, http: web.Request, response: EventSourceResponse, position: Position) -> None:
        assert http.transport is not None
        self.position = position
        self.group: Group | None = None
        self.chunked = http.version >= HttpVersion11
        self._response = response
        self._transport: asyncio.Transport = http.transport
        self._left: asyncio.Future[None] | None = None

    async def stay(self, group: Group) -> None:
        """Be a member of a group until the buffer is full or the stream ends; ``position`` is where that was."""
        self._left = asyncio.get_running_loop().create_future()
        self.group = group
        group.members.add(self)
        try:
            await self._left
        finally:
            self.leave()

    def leave(self) -> None:
        """Go on alone from where the group is."""
        if self.group is not None:
            self.group.members.discard(self)
            self.position = self.group.here
            self.group = None
        if self._left is not None and not self._left.done():
            self._left.set_result(None)

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
        if self.group is None:
            self._transport.abort()
        self.leave()

    @property
    def gone(self) -> bool:
        """Whether the connection is closed."""
        return self._transport.is_closing()

    async def send(self, frame: bytes) -> None:
        """Write and wait until the client has taken most of it; ``ConnectionResetError`` when it takes nothing."""
        try:
            async with asyncio.timeout(STALLED):
                await self._response.write(frame)
        except TimeoutError:
            self._transport.abort()
            raise ConnectionResetError("the client reads nothing") from None


class Group:
    """The subscribers with one lens that have kept up. Their place in the log is ``position``."""

    def __init__(self, lens: Lens, skip: Snapshot | None, position: Position, buffer: int) -> None:
        self.lens = lens
        self.skip = skip
        self.position = position
        self.members: set[Subscriber] = set()
        self._buffer = buffer

    @property
    def here(self) -> Position:
        """The position of the members, with what they still have to skip."""
        return self.position.beyond(self.skip)

    def deliver(self, batch: Batch) -> None:
        """Give every member its frame of a batch."""
        frame = self.lens.frame(batch, self.skip, None)
        self.position = batch.end
        if frame:
            self.write(frame)

    def write(self, frame: bytes) -> None:
        """One write for each member, of the same bytes."""
        chunk = b"%x\r\n%b\r\n" % (len(frame), frame)
        for member in list(self.members):
            member.write(chunk if member.chunked else frame, self._buffer)


class Hub:
    """Every stream of one process. ``heartbeat`` is in seconds, ``buffer`` in bytes of one connection."""

    def __init__(self, feed: Feed, *, heartbeat: float, buffer: int) -> None:
        self.feed = feed
        self._heartbeat = heartbeat
        self._buffer = buffer
        self._groups: dict[tuple[str, Snapshot | None], Group] = {}
        self._judgements: OrderedDict[tuple[str, Position, int], asyncio.Future[Judgement]] = OrderedDict()
        self._open: set[Subscriber] = set()
        self._closing = False
        self._moved = asyncio.Event()  # set, and replaced, when the feed has moved
        self._beat: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        """Follow the feed and keep connections alive, until ``close``."""
        self._unsubscribe = self.feed.subscribe(self._deliver, self._reset)
        self._beat = asyncio.create_task(self._keep_alive(), name="stream heartbeats")

    async def close(self) -> None:
        """End every stream at once; clients connect again by themselves."""
        self._closing = True
        if self._unsubscribe is not None:
            self._unsubscribe()
        for subscriber in list(self._open):
            subscriber.end()
        if self._beat is not None:
            self._beat.cancel()
            await asyncio.wait([self._beat])

    @property
    def subscribers(self) -> int:
        """How many streams are open."""
        return len(self._open)

    async def stream(self, http: web.Request, lens: Lens, last: str | None) -> web.StreamResponse:
        """Answer a request with a stream from position ``last``, or from now; returns when the client has gone."""
        if http.method == "HEAD":
            return web.Response(content_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        response = _Response()
        await response.prepare(http)
        if self._closing:
            return response
        position, greeting = await self._begin(lens, last)
        subscriber = Subscriber(http, response, position)
        self._open.add(subscriber)
        try:
            await subscriber.send(greeting)
            await self._follow(subscriber, lens)
        except ConnectionResetError:
            pass  # the client has gone, which is how a stream ends
        finally:
            self._open.discard(subscriber)
        return response

    async def _begin(self, lens: Lens, last: str | None) -> tuple[Position, bytes]:
        """Where a stream starts, and its first blocks."""
        reason = None if last is None else await self.feed.check(last)
        position = await self._now(lens) if last is None or reason else Position.parse(last)
        opening = b"retry: %d\n" % RETRY + (_reset(lens, position, reason) if reason else b"")
        told = orjson.dumps({"resource": lens.query.resource})
        return position, b"%bevent: ready\nid: %b\ndata: %b\n\n" % (opening, str(position).encode(), told)

    async def _now(self, lens: Lens) -> Position:
        """Behind everything that is committed, of which the feed may not have heard yet; else behind what it has."""
        try:
            text = self.feed.stream_position(await lens.store.snapshot())
        except Unavailable:
            text = None
        return self.feed.head if text is None else Position.parse(text)

    async def _follow(self, subscriber: Subscriber, lens: Lens) -> None:
        """Send what is behind the subscriber's position, then what comes, until the connection or the service ends."""
        while not (self._closing or subscriber.gone):
            try:
                await self._catch_up(subscriber, lens)
            except Reset as reset:
                subscriber.position = self.feed.head
                await subscriber.send(_reset(lens, subscriber.position, reset.reason))
                continue
            if subscriber.position.place < self.feed.head.place:
                continue  # the feed went on while the last frame was sent
            if lens.test is None:
                await self._wait(subscriber)
            else:
                await subscriber.stay(self._group(lens, subscriber.position))

    async def _wait(self, subscriber: Subscriber) -> None:
        """Until the feed moves; meanwhile the connection is kept alive."""
        try:
            async with asyncio.timeout(self._heartbeat):
                await self._moved.wait()
        except TimeoutError:
            await subscriber.send(_alive(subscriber.position))

    async def _catch_up(self, subscriber: Subscriber, lens: Lens) -> None:
        """Send what lies between the subscriber's position and the feed's head."""
        async for batch in self.feed.read(subscriber.position):
            skip = subscriber.position.snapshot
            frame = lens.frame(batch, skip, None if lens.test else await self._judge(lens, batch))
            subscriber.position = batch.end.beyond(_rest(skip, batch))
            if frame:
                await subscriber.send(frame)

    async def _judge(self, lens: Lens, batch: Batch) -> Judgement:
        """The database's answer for a batch, asked once for all who look through the same lens."""
        key = (lens.name, batch.start, len(batch.events))
        judgement = self._judgements.get(key)
        if judgement is None:
            judgement = self._judgements[key] = asyncio.ensure_future(lens.judge(batch))
            if len(self._judgements) > JUDGEMENTS:
                self._judgements.popitem(last=False)
        try:
            return await asyncio.shield(judgement)
        except ApiError:
            self._judgements.pop(key, None)
            raise ConnectionResetError("the database cannot be asked") from None

    def _group(self, lens: Lens, position: Position) -> Group:
        """The group of a lens at the head of the feed."""
        key = (lens.name, position.snapshot)
        if key not in self._groups:
            self._groups[key] = Group(lens, position.snapshot, position, self._buffer)
        return self._groups[key]

    def _deliver(self, batch: Batch) -> None:
        """Take a batch from the feed to every group."""
        self._groups = {key: group for key, group in self._groups.items() if group.members}
        groups = list(self._groups.items())
        for _, group in groups:
            group.deliver(batch)
        for key, group in groups:
            if (
                group.skip is not None and _rest(group.skip, batch) is None
            ):  # nothing is left to skip: as everybody else
                del self._groups[key]
                plain = self._group(group.lens, group.position)
                plain.members |= group.members
                for member in group.members:
                    member.group = plain
        self._stir()

    def _reset(self, reason: Reason) -> None:
        """Tell everybody that the feed had to leave out something."""
        for group in self._groups.values():
            group.position = self.feed.head
            group.write(_reset(group.lens, group.position, reason))
        self._stir()

    def _stir(self) -> None:
        """Wake those who wait for the feed to move."""
        self._moved.set()
        self._moved = asyncio.Event()

    async def _keep_alive(self) -> None:
        """A comment and the newest position for everybody, so that proxies and positions stay fresh."""
        while True:
            await asyncio.sleep(self._heartbeat)
            for group in list(self._groups.values()):
                group.write(_alive(group.here))


def _rest(skip: Snapshot | None, batch: Batch) -> Snapshot | None:
    """What there is still to skip behind a batch: nothing once the batch has gone past the snapshot."""
    return None if skip is None or skip <= batch.snap else skip


def _alive(position: Position) -> bytes:
    """A comment with the newest position."""
    return b": keep-alive\nid: %b\n\n" % str(position).encode()


def _reset(lens: Lens, position: Position, reason: Reason) -> bytes:
    """The block that tells a client to load anew what it shows, and why."""
    told = orjson.dumps({"resource": lens.query.resource, "reason": reason})
    return b"event: reset\nid: %b\ndata: %b\n\n" % (str(position).encode(), told)


class _Response(EventSourceResponse):
    """aiohttp-sse's response without a ping of its own: the hub keeps every connection alive."""

    async def _ping(self) -> None:
        return


class StreamMixin(_Base):
    """``GET /tasks/stream/``"""

    async def stream(self, request: Request) -> web.StreamResponse:
        """Every committed change of the rows that ``list`` shows with the same filters."""
        given = request.query_params
        self.check_parameters(given)
        query = await self.get_list_query()
        serializer = self.current_serializer()
        projection = self.get_projection(serializer, {"fields": given["fields"]} if "fields" in given else {})
        resources = self.site.resources
        lens = Lens(
            query=Query(query.resource, query.where),
            projection=projection,
            resource=self.resource,
            test=matcher(resources, query.resource, query.where),
            store=self.site.store,
        )
        last = request.http.headers.get("Last-Event-ID") or given.get("last_event_id")
        return await self.site.hub.stream(request.http, lens, last)
