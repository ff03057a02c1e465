"""Subscriptions: what a stream sends for the changes in the log, as bytes.

A *subscription* is on one resource: a condition, which the old and the new row of each event are matched with, and the
form of a row. *Subscriptions* are those of one stream. Equal ones render the same bytes, so a batch of events becomes one
frame for all streams that have them.

Most subscriptions need nothing but the logged row: ``render_now`` returns at once. It raises ``NeedsAwait`` where the
database has to evaluate the condition (other tables, collations, values that Python cannot represent), or where a viewset
has Python for it (serializers with code, permissions for single rows). Then ``render`` does it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

import orjson

from rowcast.changes.events import Batch, Event
from rowcast.changes.position import Snapshot
from rowcast.errors import Unavailable
from rowcast.query.conditions import Query, total_order
from rowcast.query.cursor import read_in_parts
from rowcast.query.logged import matching
from rowcast.query.matching import RoutingKey, Test, patterns
from rowcast.query.pages import FetchedPage, PageShape
from rowcast.query.projection import Projection
from rowcast.query.store import Store
from rowcast.resources.lossless_json import Raw, encode, parse
from rowcast.resources.resource import Resource
from rowcast.streams.expansion import Expansion

SNAPSHOT_BLOCK_ROWS: Final = 100  # rows in one event of a snapshot
RENDERED_AT_ONCE_MAX_BYTES: Final = 32 << 10  # of rows, by the event loop itself

Match: TypeAlias = tuple[bool, bool]  # whether the old and the new row of an event are in the subscription
Matches: TypeAlias = Mapping[int, Match]  # by the event's n


class FilterTooSlow(Exception):
    """The database has not evaluated the filter of a stream, which has regular expressions, in time."""

    def __init__(self, query: Query) -> None:
        self.query = query
        super().__init__("the filter takes too long")


class NeedsAwait(Exception):
    """Rendering needs the database, or Python that waits."""


class RowAccess(Protocol):
    """The part of a viewset that is written in Python, for one caller. Rows are given as logged.

    ``key`` is equal for callers who receive the same. If ``plain`` is set only permissions are in Python, and the
    subscription renders the rows.
    """

    @property
    def key(self) -> Hashable: ...

    @property
    def plain(self) -> bool: ...

    async def may_see(self, rows: Sequence[bytes]) -> list[bool]:
        """For each row, whether the caller may see it."""

    async def render_rows(self, rows: Sequence[bytes]) -> list[bytes]:
        """Each row as the caller receives it, as JSON."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """The rows of a query, each in the form of a projection or, if it has one, of the viewset's ``access``.

    Attributes:
        query: The filter, without order and page.
        projection: The columns and relations of a row.
        watched: The names that ``changed`` of an UPDATE may list.
        resource: The resource of the query.
        test: Evaluates the condition in memory; ``None`` if only the database can.
        routing_key: A column whose values every matching row has; ``None`` if there is none.
        store: Evaluates the condition in the database, and reads snapshots.
        caller: As whom the database evaluates the condition; ``None`` for the service itself.
        access: Permissions for single rows, and Python serializers; ``None`` if the viewset has neither.
        expansion: The related rows that rows are shown with; ``None`` for a stream without ``?expand=``.
    """

    query: Query
    projection: Projection
    watched: tuple[str, ...]
    resource: Resource
    test: Test | None
    routing_key: RoutingKey | None
    store: Store
    access: RowAccess | None = None
    caller: Hashable = None
    expansion: Expansion | None = None

    @property
    def key(self) -> Hashable:
        """Subscriptions with equal keys render the same bytes."""
        return self.query, self.projection, self.watched, self.access and self.access.key, self.caller, self.expansion

    @property
    def needs_log_alone(self) -> bool:
        """Whether an event in the log is all that it takes to send it, but for values that Python cannot represent."""
        return self.access is None and self.expansion is None and (not self.query.where or self.test is not None)

    # --- matching

    def events(self, batch: Batch) -> list[Event]:
        """The events of a batch that may match: those of the resource, with the values of the routing key if there is one."""
        if (key := self.routing_key) is None:
            return batch.of(self.query.resource)
        return batch.with_values(self.query.resource, key.column, key.load, key.values)

    def match(self, event: Event) -> Match:
        """Whether the old and the new row meet the condition; ``NeedsAwait`` if only the database can evaluate it."""
        before, after = event.before, event.after
        if not self.query.where:
            return before is not None, after is not None
        if self.test is None:
            raise NeedsAwait
        try:
            return before is not None and self.test(before), after is not None and self.test(after)
        except ValueError as error:  # infinity and the like, which Python cannot represent
            raise NeedsAwait from error

    async def match_in_database(self, batch: Batch) -> Matches:
        """The match of each event of the resource, evaluated by the database in one query; see ``FilterTooSlow``."""
        self.store.judge.act_for(self.caller)
        events = [event for event in batch.events if event.resource == self.query.resource and event.op != "T"]
        rows = [(n, row) for event in events for n, row in ((event.n, event.old), (-event.n, event.new)) if row]
        try:
            places = await matching(self.store, self.query, [row for _, row in rows])
        except Unavailable as error:
            if error.code == "statement_timeout" and patterns(self.query.where):
                raise FilterTooSlow(self.query) from error
            raise
        met = {rows[place - 1][0] for place in places}
        return {event.n: (event.n in met, -event.n in met) for event in events}

    async def filter_permitted(self, events: Sequence[Event], matches: Matches) -> dict[int, Match]:
        """The matches without the rows that the caller may not see."""
        if self.access is None:
            return dict(matches)
        matching = [
            (event.n, side, row)
            for event in events
            for side, row in enumerate((event.old, event.new))
            if row is not None and matches[event.n][side]
        ]
        decisions = await self.access.may_see([row for _, _, row in matching])
        permitted = {(n, side) for (n, side, _), decision in zip(matching, decisions, strict=True) if decision}
        return {event.n: ((event.n, 0) in permitted, (event.n, 1) in permitted) for event in events}

    # --- rendering

    async def render_data(self, events: Sequence[Event], matches: Matches) -> dict[int, bytes | None]:
        """The new row of each event as the viewset's Python renders it; empty if the subscription renders rows.

        It is ``None`` for an UPDATE after which the row is rendered as before.
        """
        entered = [event for event in events if matches[event.n][1]]
        if self.access is None or self.access.plain:
            return await self._expanded([event for event in entered if not matches[event.n][0] or self._changed(event)])
        data: dict[int, bytes | None] = dict(await self._rendered(self.access, entered, "new"))
        hidden = [event for event in entered if matches[event.n][0] and not self._changed(event)]
        if hidden:  # Python may show a column under another name
            before = await self._rendered(self.access, hidden, "old")
            data |= {n: None for n, shown in before.items() if shown == data[n]}
        return data

    async def _expanded(self, events: Sequence[Event]) -> dict[int, bytes | None]:
        """The new row of each event with its related rows; empty if the subscription shows none."""
        if self.expansion is None or not events:
            return {}
        self.store.judge.act_for(self.caller)
        documents = await self.expansion.documents(self.store, [event.new for event in events if event.new is not None])
        return {event.n: document for event, document in zip(events, documents, strict=True)}

    async def _rendered(self, access: RowAccess, events: Sequence[Event], side: str) -> dict[int, bytes]:
        rendered = await access.render_rows([getattr(event, side) for event in events])
        return {event.n: data for event, data in zip(events, rendered, strict=True)}

    def _changed(self, event: Event) -> list[str]:
        """The watched names whose values an UPDATE has changed."""
        before, after = event.before, event.after
        assert before is not None
        assert after is not None
        return [name for name in self.watched if after.get(name) != before.get(name)]

    def block(self, event: Event, match: Match, rendered: bytes | None = None) -> bytes | None:
        """The block of an event without its position; ``None`` if neither row matches, or nothing shown has changed.

        ``rendered`` is the new row if the viewset's Python has rendered it, and it is shown otherwise than before.
        """
        if event.op == "T":
            reason = {"resource": self.query.resource, "reason": "truncated"}
            return b"event: reset\ndata: %b\n" % orjson.dumps(reason)
        old_matches, new_matches = match
        if not (old_matches or new_matches):
            return None
        action = "UPDATE" if old_matches and new_matches else "INSERT" if new_matches else "DELETE"
        before, after = event.before, event.after
        row = after if new_matches else before
        assert row is not None
        changed = self._changed(event) if action == "UPDATE" else []
        if action == "UPDATE" and not changed and rendered is None:
            return None
        message: dict[str, Any] = {
            "action": action,
            "resource": self.query.resource,
            "id": self.resource.id_in(row),
            "data": None,
        }
        if new_matches:
            message["data"] = self.data(row) if rendered is None else orjson.Fragment(rendered)
        if action == "UPDATE":
            message["changed"] = changed
        elif event.op == "U":
            message["cause"] = "UPDATE"
        message |= {"at": event.at, "seq": event.seq, "tx": str(event.xid)}
        if event.traceparent is not None:
            message["traceparent"] = event.traceparent
        return b"data: %b\n" % encode(message)

    def data(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A logged row as a serializer without Python renders it, with relations as keys."""
        data = {name: row.get(name) for name in self.projection.columns}
        data.update((name, row[name]) for name, _ in self.projection.related if name in row)
        for name in self.resource.float_columns & data.keys():  # their over-long JSON numbers may be rounded to a float
            if isinstance(value := data[name], Raw):
                data[name] = orjson.loads(bytes(value))
        return data

    # --- all rows at once

    async def read_rows(self, limit: int) -> FetchedPage:
        """Up to ``limit`` matching rows in the form of logged ones, ordered by key; ``ListTooLarge`` for many bytes."""
        page = PageShape(self._as_logged, total_order(self.resource, ()), count="none")
        return await self.store.page(self.query, page, (limit,))

    def rows_in_parts(self) -> AsyncIterator[list[bytes]]:
        """All of these rows, in parts, inside a transaction."""
        return read_in_parts(self.store, self.query.sort(total_order(self.resource, ())), self._as_logged)

    @property
    def _as_logged(self) -> Projection:
        """What logged rows have: the columns, and the keys that the row's own fields link it to."""
        columns = tuple(name for name, field in self.resource.columns.items() if not field.write_only)
        links = tuple(
            (name, Projection(inner.resource, (self.store.queries.key(inner.resource),)))
            for name, inner in self.projection.related
            if name in self.resource.links
        )
        return Projection(self.query.resource, columns, links)

    async def snapshot_block(self, rows: Sequence[bytes]) -> bytes:
        """The block with some rows of ``read_rows``."""
        if self.access is not None:
            rows = [row for row, may in zip(rows, await self.access.may_see(rows), strict=True) if may]
        if self.access is not None and not self.access.plain:
            return self._block([orjson.Fragment(row) for row in await self.access.render_rows(rows)])
        if self.expansion is not None:
            self.store.judge.act_for(self.caller)
            return self._block([orjson.Fragment(row) for row in await self.expansion.documents(self.store, rows)])
        if sum(map(len, rows)) > RENDERED_AT_ONCE_MAX_BYTES:  # a thread takes turns with the event loop
            return await asyncio.to_thread(self._block_of, rows)
        return self._block_of(rows)

    def _block_of(self, rows: Sequence[bytes]) -> bytes:
        return self._block([self.data(self._logged(row)) for row in rows])

    def _block(self, rendered: list[Any]) -> bytes:
        return b"event: snapshot\ndata: %b\n\n" % encode({"resource": self.query.resource, "rows": rendered})

    def _logged(self, row: bytes) -> dict[str, Any]:
        """A row of ``read_rows`` with its links as the log has them: keys."""
        parsed = parse(row)
        for name, inner in self.projection.related:
            if name in parsed and name in self.resource.links:
                key = self.store.queries.key(inner.resource)
                parsed[name] = [item[key] for item in parsed[name]]
        return parsed


MatchInDatabase: TypeAlias = Callable[[Subscription, Batch], Awaitable[Matches]]


_NOTHING: Final[frozenset[str]] = frozenset()


class Subscriptions:
    """The subscriptions of one stream, at most one for each resource. Those with equal keys render the same bytes."""

    __slots__ = ("__weakref__", "_awaits", "expanded", "key", "of", "related")

    def __init__(self, subscriptions: Iterable[Subscription]) -> None:
        self.of = {subscription.query.resource: subscription for subscription in subscriptions}
        self.key: Hashable = tuple([subscription.key for subscription in self.of.values()])
        self.expanded = tuple([each for each in self.of.values() if each.expansion is not None])
        self.related = (
            _NOTHING.union(*(each.expansion.resources for each in self.expanded if each.expansion))
            if self.expanded
            else _NOTHING
        )
        self._awaits = any(each.access is not None or each.expansion is not None for each in self.of.values())

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self.of.values())

    @property
    def about(self) -> dict[str, Any]:
        """The resources, as ``ready`` and ``reset`` name them."""
        names = list(self.of)
        return {"resource": names[0]} if len(names) == 1 else {"resources": names}

    def render_now(self, batch: Batch, seen_snapshot: Snapshot | None) -> bytes:
        """Render the events of a batch that match, each as a block; empty if none does.

        Events that ``seen_snapshot`` already includes are omitted. The snapshot stays in event ids until it no longer
        matters. ``NeedsAwait`` if the batch alone does not suffice.
        """
        blocks: dict[int, bytes | None] = {}
        for event in self._events(batch, seen_snapshot):
            subscription = self.of[event.resource]
            if event.op == "T":
                blocks[event.n] = subscription.block(event, (False, False))
                continue
            match = subscription.match(event)
            if self._awaits and (subscription.access or subscription.expansion) is not None and (match[0] or match[1]):
                raise NeedsAwait
            blocks[event.n] = subscription.block(event, match)
        return self._frame(batch, seen_snapshot, blocks)

    async def render(self, batch: Batch, seen_snapshot: Snapshot | None, match_in_database: MatchInDatabase) -> bytes:
        """As ``render_now``, with whatever it needs. ``match_in_database`` may share one query among several streams."""
        events = self._events(batch, seen_snapshot)
        blocks: dict[int, bytes | None] = {}
        for subscription in self:
            own = [event for event in events if event.resource == subscription.query.resource]
            blocks |= {event.n: subscription.block(event, (False, False)) for event in own if event.op == "T"}
            changes = [event for event in own if event.op != "T"]
            if not changes:
                continue
            try:
                matches: Matches = {event.n: subscription.match(event) for event in changes}
            except NeedsAwait:
                matches = await match_in_database(subscription, batch)
            matches = await subscription.filter_permitted(changes, matches)
            data = await subscription.render_data(changes, matches)
            blocks |= {event.n: subscription.block(event, matches[event.n], data.get(event.n)) for event in changes}
        return self._frame(batch, seen_snapshot, blocks)

    def _events(self, batch: Batch, seen_snapshot: Snapshot | None) -> list[Event]:
        """The events that may match, in their order: only those with the values of a routing key, where there is one."""
        lists = [each.events(batch) for each in self]
        events = lists[0] if len(lists) == 1 else sorted((event for each in lists for event in each), key=_place)
        return _unseen(events, seen_snapshot)

    def _related_events(self, batch: Batch, seen_snapshot: Snapshot | None) -> list[Event]:
        return _unseen([event for event in batch.events if event.resource in self.related], seen_snapshot)

    def _stale(self, batch: Batch, seen_snapshot: Snapshot | None) -> dict[int, bytes]:
        """The blocks about related rows that have changed, by the event that they come before."""
        found: dict[int, bytes] = {}
        for each in self.expanded:
            assert each.expansion is not None
            related = self._related_events(batch, seen_snapshot)
            for n, block in each.expansion.stale_blocks(related, each.store.queries.resources).items():
                found[n] = found.get(n, b"") + block
        return found

    def _frame(self, batch: Batch, seen_snapshot: Snapshot | None, blocks: Mapping[int, bytes | None]) -> bytes:
        within = None if is_past(seen_snapshot, batch) else seen_snapshot
        stale = self._stale(batch, seen_snapshot) if self.expanded else {}
        lines = []
        for n in sorted({*blocks, *stale}):
            event, block, first = batch.events[n - batch.first], blocks.get(n), stale.get(n, b"")
            if (
                block is not None
            ):  # what comes first has no position: a client that resumes between the two gets both again
                position = str(batch.position(event).with_snapshot(within))
                lines.append(b"%bid: %b\n%b\n" % (first, position.encode(), block))
            elif first:
                lines.append(
                    b"%b: stale\nid: %b\n\n" % (first, str(batch.position(event).with_snapshot(within)).encode())
                )
        return b"".join(lines)


def _place(event: Event) -> int:
    return event.n


def _unseen(events: list[Event], seen_snapshot: Snapshot | None) -> list[Event]:
    """The events that a snapshot does not include."""
    return events if seen_snapshot is None else [event for event in events if not seen_snapshot.sees(event.xid)]


def remaining(seen_snapshot: Snapshot | None, batch: Batch) -> Snapshot | None:
    """The snapshot that later batches still have to be compared with; ``None`` once the log has gone past it."""
    if is_past(seen_snapshot, batch) or (batch.last and seen_snapshot is not None and seen_snapshot <= batch.snap):
        return None
    return seen_snapshot


def is_past(seen_snapshot: Snapshot | None, batch: Batch) -> bool:
    """Whether the tick of a batch, and all later ones, have no event that the snapshot already includes."""
    return seen_snapshot is None or (seen_snapshot <= batch.snap and not any(map(seen_snapshot.sees, batch.xids)))
