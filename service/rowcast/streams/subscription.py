"""Lenses: what a stream shows of the change log, as bytes.

A *lens* is on one resource: a condition, which is asked of the old and the new row of each event, and how a row is
shown. *Lenses* are those of one stream. Whoever looks through equal ones sees the same, so a batch of events becomes a
frame of bytes once for all of them.

Most lenses need nothing but the logged row: ``frame`` answers at once. Where the condition is for the database to judge
(other tables, collations, what Python has no value for), or Python of a viewset has a say (a serializer with code in
it, permissions about single rows), it raises ``NeedsAwait``, and ``look`` finds out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Protocol, TypeAlias

import orjson

from rowcast.changes.log import Batch, Event
from rowcast.changes.position import Snapshot
from rowcast.query.conditions import Query
from rowcast.query.matching import RoutingKey, Test
from rowcast.query.projection import Projection
from rowcast.query.statements import PageShape
from rowcast.query.store import Store
from rowcast.resources.lossless_json import Raw, encode, parse
from rowcast.resources.resource import Resource

BLOCK: Final = 100  # rows of a snapshot that are told at once

Match: TypeAlias = tuple[bool, bool]  # whether the old and the new row of an event are seen
Matches: TypeAlias = Mapping[int, Match]  # by the event's n


class NeedsAwait(Exception):
    """The logged rows alone do not say what is seen of them."""


class RowAccess(Protocol):
    """What Python of a viewset says about rows, which are given as logged.

    ``name`` is the same for callers who are shown the same. A ``plain`` one leaves it to the lens to show them.
    """

    name: str
    plain: bool

    async def sees(self, rows: Sequence[bytes]) -> list[bool]:
        """For each row whether the caller may see it."""

    async def shows(self, rows: Sequence[bytes]) -> list[bytes]:
        """Each row as the caller is shown it, as JSON."""


@dataclass(frozen=True)
class Subscription:
    """The rows of a query, and of a row what the projection shows or, if it has a say, the ``viewer``.

    ``test`` answers the query's condition for a logged row in memory; without it the database is asked. ``pin`` is what
    every row that is seen has. ``watched`` are the names that a change is told of. Lenses that show the same have the same
    ``name``.
    """

    query: Query
    projection: Projection
    watched: tuple[str, ...]
    resource: Resource
    test: Test | None
    pin: RoutingKey | None
    store: Store
    viewer: RowAccess | None = None

    @cached_property
    def name(self) -> Hashable:
        return self.query, self.projection, self.watched, self.viewer and self.viewer.name

    @cached_property
    def _floats(self) -> frozenset[str]:
        """The columns whose numbers are floats, so that a long number is no more than one."""
        return frozenset(name for name, field in self.resource.columns.items() if field.item_type.binary_float)

    # --- deciding

    def verdict(self, event: Event) -> Match:
        """Whether the old and the new row meet the condition; ``NeedsAwait`` where memory cannot tell."""
        before, after = event.before, event.after
        if not self.query.where:
            return before is not None, after is not None
        if self.test is None:
            raise NeedsAwait
        try:
            return before is not None and self.test(before), after is not None and self.test(after)
        except ValueError as error:  # infinity and the like, which are no values of Python's
            raise NeedsAwait from error

    async def judge(self, batch: Batch) -> Matches:
        """The verdict for each event of the resource, asked of the database in one query."""
        events = [event for event in batch.events if event.resource == self.query.resource and event.op != "T"]
        rows = [(place, row) for event in events for place, row in ((event.n, event.old), (-event.n, event.new)) if row]
        met = {rows[n - 1][0] for n in await self.store.matching(self.query, [row for _, row in rows])}
        return {event.n: (event.n in met, -event.n in met) for event in events}

    async def admit(self, events: Sequence[Event], verdicts: Matches) -> dict[int, Match]:
        """The verdicts without the rows that the viewer may not see."""
        if self.viewer is None:
            return dict(verdicts)
        asked = [
            (event.n, side, row)
            for event in events
            for side, row in enumerate((event.old, event.new))
            if row is not None and verdicts[event.n][side]
        ]
        answers = await self.viewer.sees([row for _, _, row in asked])
        seen = {(n, side) for (n, side, _), answer in zip(asked, answers, strict=True) if answer}
        return {event.n: ((event.n, 0) in seen, (event.n, 1) in seen) for event in events}

    async def present(self, events: Sequence[Event]) -> dict[int, bytes]:
        """The new row of each event as the viewer has it; none where the lens shows rows itself."""
        if self.viewer is None or self.viewer.plain:
            return {}
        shown = await self.viewer.shows([event.new for event in events if event.new is not None])
        return {event.n: data for event, data in zip(events, shown, strict=True)}

    # --- telling

    def block(self, event: Event, verdict: Match, shown: bytes | None = None) -> bytes | None:
        """What is told of an event, but for its position; ``None`` for nothing."""
        if event.op == "T":
            reason = {"resource": self.query.resource, "reason": "truncated"}
            return b"event: reset\ndata: %b\n" % orjson.dumps(reason)
        was, now = verdict
        if not (was or now):
            return None
        action = "UPDATE" if was and now else "INSERT" if now else "DELETE"
        before, after = event.before, event.after
        row = after if now else before
        assert row is not None
        told: dict[str, Any] = {
            "action": action,
            "resource": self.query.resource,
            "id": row[self.resource.key.column_name],
            "data": None,
        }
        if now:
            told["data"] = self.data(row) if shown is None else orjson.Fragment(shown)
        if action == "UPDATE":
            assert before is not None
            told["changed"] = [name for name in self.watched if row.get(name) != before.get(name)]
        elif event.op == "U":
            told["cause"] = "UPDATE"
        told |= {"at": event.at, "seq": event.seq}
        return b"data: %b\n" % encode(told)

    def data(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A logged row as a plain serializer shows it, with relations as keys."""
        data = {name: row.get(name) for name in self.projection.columns}
        data.update((name, row[name]) for name, _ in self.projection.related if name in row)
        for name in self._floats & data.keys():
            if isinstance(value := data[name], Raw):
                data[name] = orjson.loads(bytes(value))
        return data

    # --- all rows at once

    async def rows(self, limit: int) -> tuple[list[bytes], str]:
        """Up to ``limit`` rows in the form of logged ones, in the order of their keys, and the snapshot of PostgreSQL."""
        columns = tuple(name for name, field in self.resource.columns.items() if not field.write_only)
        links = tuple(
            (name, Projection(inner.resource, (self.store.queries.key(inner.resource),)))
            for name, inner in self.projection.related
            if name in self.resource.links
        )
        shown = Projection(self.query.resource, columns, links)
        page = PageShape(shown, (self.resource.key.name,), count="none")
        found = await self.store.page(self.query, page, (limit,))
        return found.documents, found.snapshot

    async def snapshot(self, rows: Sequence[bytes]) -> bytes:
        """The block that tells some rows of ``rows``."""
        if self.viewer is not None:
            rows = [row for row, may in zip(rows, await self.viewer.sees(rows), strict=True) if may]
        if self.viewer is None or self.viewer.plain:
            told: list[Any] = [self.data(self._logged(row)) for row in rows]
        else:
            told = [orjson.Fragment(row) for row in await self.viewer.shows(rows)]
        return b"event: snapshot\ndata: %b\n\n" % encode({"resource": self.query.resource, "rows": told})

    def _logged(self, row: bytes) -> dict[str, Any]:
        """A row of ``rows`` with its links as the log has them: keys."""
        parsed = parse(row)
        for name, inner in self.projection.related:
            if name in parsed and name in self.resource.links:
                key = self.store.queries.key(inner.resource)
                parsed[name] = [item[key] for item in parsed[name]]
        return parsed


Ask: TypeAlias = Callable[[Subscription, Batch], Awaitable[Matches]]


class Subscriptions:
    """What one stream shows: at most one lens for each resource. Equal ones have the same ``name``."""

    def __init__(self, subscriptions: Iterable[Subscription]) -> None:
        self.of = {subscription.query.resource: subscription for subscription in subscriptions}
        self.name: Hashable = tuple([subscription.name for subscription in self.of.values()])
        self._viewed = any(subscription.viewer is not None for subscription in self.of.values())

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self.of.values())

    @property
    def told(self) -> dict[str, Any]:
        """What ``ready`` and ``reset`` say these are about."""
        names = list(self.of)
        return {"resource": names[0]} if len(names) == 1 else {"resources": names}

    def frame(self, batch: Batch, skip: Snapshot | None) -> bytes:
        """The blocks of a batch, one for each event that is seen; empty where there is none.

        What the snapshot ``skip`` sees is left out, and is said in the positions of the rest for as long as it matters.
        ``NeedsAwait`` if it takes more than the batch.
        """
        blocks: dict[int, bytes | None] = {}
        for event in self._events(batch, skip):
            subscription = self.of[event.resource]
            if event.op == "T":
                blocks[event.n] = subscription.block(event, (False, False))
                continue
            verdict = subscription.verdict(event)
            if self._viewed and subscription.viewer is not None and (verdict[0] or verdict[1]):
                raise NeedsAwait
            blocks[event.n] = subscription.block(event, verdict)
        return self._frame(batch, skip, blocks)

    async def look(self, batch: Batch, skip: Snapshot | None, ask: Ask) -> bytes:
        """``frame``, whatever it takes; ``ask`` is the database's judgement, which others may want as well."""
        events = self._events(batch, skip)
        blocks: dict[int, bytes | None] = {}
        for subscription in self:
            own = [event for event in events if event.resource == subscription.query.resource]
            blocks |= {event.n: subscription.block(event, (False, False)) for event in own if event.op == "T"}
            changes = [event for event in own if event.op != "T"]
            if not changes:
                continue
            try:
                verdicts: Matches = {event.n: subscription.verdict(event) for event in changes}
            except NeedsAwait:
                verdicts = await ask(subscription, batch)
            verdicts = await subscription.admit(changes, verdicts)
            shown = await subscription.present([event for event in changes if verdicts[event.n][1]])
            blocks |= {event.n: subscription.block(event, verdicts[event.n], shown.get(event.n)) for event in changes}
        return self._frame(batch, skip, blocks)

    def _events(self, batch: Batch, skip: Snapshot | None) -> list[Event]:
        return [
            event
            for event in batch.events
            if event.resource in self.of and not (skip is not None and skip.sees(event.xid))
        ]

    def _frame(self, batch: Batch, skip: Snapshot | None, blocks: Mapping[int, bytes | None]) -> bytes:
        within = None if passed(skip, batch) else skip
        told = []
        for event in batch.events:
            if (block := blocks.get(event.n)) is not None:
                place = str(batch.position(event).with_snapshot(within))
                told.append(b"id: %b\n%b\n" % (place.encode(), block))
        return b"".join(told)


def remaining(skip: Snapshot | None, batch: Batch) -> Snapshot | None:
    """What there is still to skip behind a batch: nothing once the tick that it ends has gone past the snapshot."""
    return None if passed(skip, batch) or (batch.last and skip is not None and skip <= batch.snap) else skip


def passed(skip: Snapshot | None, batch: Batch) -> bool:
    """Whether there is nothing to skip in the tick of a batch, nor behind it."""
    return skip is None or (skip <= batch.snap and not any(map(skip.sees, batch.xids)))
