"""A board: the results of some groups at one position of the log, for all streams that have equal groups.

A board is at rest until a change concerns it. Then its task brings it to the head of the feed: by counting the changed rows
in memory, or else by reading the groups again. Whatever differs is sent, at most ten times a second, and the last block has
the position. So a client that has a position has exactly the results at this position.

Results that the database has computed are those of a snapshot, and a position can name a snapshot (``changes/position``):
it is the newest tick that the snapshot includes, and the snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping, Sequence
from time import monotonic
from typing import Any, Final, Protocol

import structlog

from rowcast.changes.events import Batch
from rowcast.changes.position import Position, Snapshot
from rowcast.changes.tail import Reason, Reset, Tail
from rowcast.database.errors import DRIVER_ERRORS
from rowcast.errors import ParseError, Unavailable
from rowcast.query.aggregation import AggregateShape
from rowcast.query.live import read_groups
from rowcast.query.pages import FetchedPage
from rowcast.query.tallies import GroupKey, Tallies, Uncountable
from rowcast.streams.live_groups import LiveGroups
from rowcast.streams.members import Members, Sender
from rowcast.streams.sse import FILTER_TIMEOUT, end_block, http_chunk, keep_alive_block, reset_block
from rowcast.streams.subscriber import Subscriber
from rowcast.streams.subscription import remaining
from rowcast.tasks import spawn

PAUSE_SECONDS: Final = 0.1  # between two moments at which a board sends groups
READING_SHARE: Final = 10  # a board that takes a second to be read is read every ten seconds
DATABASE_RETRY_SECONDS: Final = 1.0
POSITIONS_KEPT: Final = 1000  # that clients were sent, and may resume from
NOT_RESUMABLE: Final = "not_resumable"  # the reason of a reset, if the log does not show which groups have changed
TOO_MANY_GROUPS: Final = "too_many_groups"
TRUNCATED: Final = "truncated"

_logger = structlog.get_logger(__name__)


class TooManyGroups(ParseError):
    """There are more groups than a stream may have."""


class Gap(Exception):
    """A client cannot go on from its position, for this ``reason``."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Owner(Protocol):
    """What a board uses of its hub."""

    feed: Tail
    resets: Counter[str]
    sender: Sender

    @property
    def buffer(self) -> int:
        """Bytes that may wait for one client."""

    def position_after(self, head: Position, snapshot: str) -> Position:
        """The position after the snapshot of a statement that began when the feed was at ``head``."""


class Board:
    """The results of some groups. ``table`` has them as JSON at ``position``, and ``serial`` counts its changes.

    ``members`` have all changes. ``users`` are all streams that need the board, those that are catching up included.
    ``reading`` bounds how many boards are read at once.
    """

    def __init__(self, hub: Owner, groups: LiveGroups, reading: asyncio.Semaphore) -> None:
        self.groups = groups
        self.table: dict[GroupKey, bytes] = {}
        self.serial = 0
        self.members: Members[tuple[int, Position]] = Members(hub)  # marks are serials and positions
        self.users = 0
        self.ended = False
        self._hub = hub
        self._reading = reading
        self._position: Position | None = None  # ``None`` until the groups are read for the first time
        self._counted: Position | None = None  # where the tallies are: further on than the table, within a tick
        self._snapshots: tuple[Snapshot, ...] = ()  # everything that the table includes
        self._tallies: Tallies | None = None
        self._broken: str | None = None  # the reason for which the next reading resets all clients
        self._dirty = asyncio.Event()
        self._lock = asyncio.Lock()
        self._next = 0.0  # when groups may be sent again
        self._read_at = -math.inf
        self._changed: dict[GroupKey, int] = {}  # the serial of each group's last change
        self._floor = 0  # the serial up to which groups that are gone are forgotten
        self._sent: OrderedDict[str, int] = OrderedDict()  # the serials of positions that clients were sent
        self._left: dict[Subscriber, int] = {}  # the serials of members that have left
        self._task: asyncio.Task[None] | None = None

    @property
    def position(self) -> Position:
        """Where the table is in the log."""
        assert self._position is not None, "the groups have not been read yet"
        return self._position

    # --- subscribers

    def admit(self, subscriber: Subscriber) -> None:
        """Add a subscriber that has all changes."""
        self.members.add(subscriber)
        if self._task is None:
            self._task = spawn(self._follow(), "live groups")

    def dismiss(self, subscriber: Subscriber) -> None:
        """Remove a subscriber."""
        if subscriber in self.members:
            mark = self.members.discard(subscriber) or (self.serial, self.position)
            self._left[subscriber], subscriber.position = mark
        if not self.members:
            self._rest()

    def serial_of(self, subscriber: Subscriber) -> int:
        """The serial up to which a subscriber that has left has all changes."""
        return self._left.pop(subscriber, -1)

    def remember(self) -> Position:
        """The position, which a client is sent now and may resume from."""
        text = str(self.position)
        self._sent[text] = self.serial
        self._sent.move_to_end(text)
        if len(self._sent) > POSITIONS_KEPT:
            self._sent.popitem(last=False)
        return self.position

    def changed_after(self, serial: int) -> list[GroupKey]:
        """The groups that have changed since; ``Gap`` if that is not kept any more."""
        if serial < self._floor:
            raise Gap(Reason.EXPIRED)
        return [] if serial == self.serial else [key for key, changed in self._changed.items() if changed > serial]

    def frame(self, keys: Collection[GroupKey]) -> bytes:
        """The blocks of groups as they are now, the last one with the position."""
        blocks = [self.groups.block(key, self.table.get(key)) for key in keys]
        return b"%bid: %b\n%b" % (b"".join(blocks[:-1]), str(self.remember()).encode(), blocks[-1])

    # --- resuming

    async def resume(self, text: str) -> tuple[Collection[GroupKey], int]:
        """The groups that may have changed after a position, and the serial that they are as of; ``Gap`` if unknown."""
        if (serial := self._sent.get(text)) is not None and serial >= self._floor:
            return (), serial
        position = Position.parse(text)
        for _ in range(3):
            if self._includes(position):
                break
            await asyncio.sleep(PAUSE_SECONDS)
            await self.refresh()
        else:
            await self._read_again()
        serial = self.serial
        try:
            keys = await self._touched(position, self._snapshots)
        except Reset as reset:
            raise Gap(reset.reason) from None
        except DRIVER_ERRORS as error:
            _logger.warning("stream_not_resumed", error=str(error) or type(error).__name__, **self.groups.about)
            raise Unavailable from error
        return keys, serial

    def _includes(self, position: Position) -> bool:
        """Whether the table certainly includes everything before a position."""
        if position.sort_key > self.position.sort_key:
            return False
        return position.snapshot is None or any(position.snapshot <= each for each in self._snapshots)

    async def _touched(self, after: Position, snapshots: Sequence[Snapshot]) -> set[GroupKey]:
        """The groups of all rows that have changed between a position and some snapshots; ``Gap`` if unknown."""
        found: set[GroupKey] = set()
        groups = self.groups
        for snapshot in snapshots:
            async for batch in self._hub.feed.read_seen(after, snapshot):
                events = [
                    event
                    for event in batch.events
                    if event.resource in groups.of
                    and not (after.snapshot is not None and after.snapshot.sees(event.xid))
                ]
                if any(event.op == "T" for event in events):
                    raise Gap(TRUNCATED)
                if any(event.resource != groups.resource or not groups.exact_keys for event in events):
                    raise Gap(NOT_RESUMABLE)
                found |= await groups.keys_of(events)
                if len(found) > groups.limit:
                    raise Gap(Reason.EXPIRED)
        return found

    # --- changes

    def note(self, batch: Batch) -> None:
        """Go on to the head soon, because a batch concerns the groups."""
        if not self._dirty.is_set() and not self._lock.locked():
            self._move(batch.start)
        self._dirty.set()

    def restart(self, reason: str) -> None:
        """Read the groups again and reset all clients, because events are missing."""
        self._broken = reason
        self._dirty.set()

    async def prepare(self) -> None:
        """Have a table before a stream begins: one that includes what the feed has, unless others wait for that already."""
        if self._position is None:
            async with self._lock:
                if self._position is None:
                    self._dirty.clear()
                    await self._read()
        if self._task is None or self._tallies is not None:
            await self.refresh()

    async def refresh(self) -> None:
        """Go on to the head of the feed, if a change concerns the groups."""
        if self._dirty.is_set():
            await self._advance()
        elif not self._lock.locked():
            self._move(self._hub.feed.head)

    def _move(self, position: Position) -> None:
        """Move the position to one up to which no change concerns the groups."""
        here = self._position
        if here is None or here != self._counted or position.n or position.sort_key <= here.sort_key:
            return
        seen = here.snapshot
        if position == self._hub.feed.head:
            newest = self._hub.feed.snapshot
            self._snapshots = (newest,)
            if seen is not None and seen <= newest:
                seen = None
            elif seen is not None:
                self._snapshots = (newest, seen)
        self._position = self._counted = position.with_snapshot(seen)

    async def _follow(self) -> None:
        """Send what changes, as long as there are members; if that fails only these streams end."""
        try:
            while True:
                await self._dirty.wait()
                try:
                    await self._advance()
                except TooManyGroups:
                    return self._finish(TOO_MANY_GROUPS)
                except Unavailable as error:
                    if error.code == "statement_timeout":
                        return self._finish(FILTER_TIMEOUT)
                    self._dirty.set()
                    await asyncio.sleep(DATABASE_RETRY_SECONDS)
        except Exception:
            _logger.exception("stream_failed", **self.groups.about)
            self._task = None
            self._end()

    async def _advance(self) -> None:
        """Bring the table to the head of the feed, and send members what differs."""
        async with self._lock:
            if not self._dirty.is_set():
                return
            await asyncio.sleep(self._next - monotonic())
            self._dirty.clear()
            try:
                if not await self._count():
                    await self._read()
            except BaseException:
                self._dirty.set()
                raise

    def _count_batch(self, tallies: Tallies, batch: Batch, seen: Snapshot | None) -> bool:
        """Count the rows of the events that a snapshot does not already include; whether there are any."""
        events = [event for event in batch.events if event.resource == self.groups.resource]
        for event in events:
            if seen is not None and seen.sees(event.xid):
                continue
            if event.op == "T":
                raise Uncountable
            tallies.apply(event.before, event.after)
        return bool(events)

    async def _read_again(self) -> None:
        """Read the groups, so that the table includes everything that is committed."""
        waiting_since = monotonic()
        async with self._lock:
            if self._read_at < waiting_since:
                await asyncio.sleep(self._next - monotonic())
                await self._read()

    async def _count(self) -> bool:
        """Count the rows of all events up to the head of the feed; whether that is possible."""
        tallies, position = self._tallies, self._counted
        if tallies is None or position is None or self._broken is not None:
            return False
        snapshot, self._tallies = self._snapshots[0], None  # which an error leaves undefined
        try:
            async for batch in self._hub.feed.read(position):
                seen = position.snapshot
                if self._count_batch(tallies, batch, seen):
                    await asyncio.sleep(0)
                position = batch.end.with_snapshot(remaining(seen, batch))
                snapshot = batch.snap if batch.last else snapshot
            changes = {key: tallies.row(key) for key in tallies.touched}
        except Uncountable:
            return False
        except Reset as reset:
            self._broken = reset.reason
            return False
        if len(tallies) > self.groups.limit:
            raise self._too_many()
        self._tallies, self._counted = tallies, position
        self._next = monotonic() + PAUSE_SECONDS
        if position.n:  # within a tick, whose rest comes soon
            self._dirty.set()
            return True
        tallies.touched = set()
        self._commit(changes, position, (snapshot,) if position.snapshot is None else (snapshot, position.snapshot))
        return True

    async def _read(self) -> None:
        """Read the groups from the database."""
        groups, head, start = self.groups, self._hub.feed.head, monotonic()
        groups.store.judge.act_for(groups.caller)
        self._tallies = None
        if groups.form is not None:
            page = await self._page(groups.form.base, groups.zones)
            with contextlib.suppress(Uncountable):
                self._tallies = Tallies(groups.form, page.documents)
        if self._tallies is None:
            page = await self._page(groups.shape, groups.values)
            rows: dict[GroupKey, bytes | None] = {groups.key_in(row): row for row in page.documents}
        else:
            rows = {key: self._tallies.row(key) for key in self._tallies}
        self._read_at = start
        self._next = monotonic() + max(PAUSE_SECONDS, READING_SHARE * (monotonic() - start))
        seen = Snapshot.parse(page.snapshot)  # which a very long position would lack
        self._counted = position = self._hub.position_after(head, page.snapshot).with_snapshot(seen)
        gone: dict[GroupKey, bytes | None] = {key: None for key in self.table if key not in rows}
        self._commit({**gone, **rows}, position, (seen,))

    async def _page(self, shape: AggregateShape, values: Sequence[Any]) -> FetchedPage:
        groups = self.groups
        async with self._reading:
            page = await read_groups(groups.store, groups.query, shape, values, groups.limit)
        if page.size > groups.limit:
            raise self._too_many()
        return page

    def _too_many(self) -> TooManyGroups:
        message = (
            f"There are more than {self.groups.limit} groups, which is the most that a stream has; narrow the filter."
        )
        return TooManyGroups(message, code="invalid_parameter")

    def _commit(
        self, changes: Mapping[GroupKey, bytes | None], position: Position, snapshots: tuple[Snapshot, ...]
    ) -> None:
        """Change the table, and send members what differs. The members are those from before."""
        before = self.serial, self._position or position
        self._position, self._snapshots = position, snapshots
        changed = [key for key, row in changes.items() if self.table.get(key) != row]
        if changed:
            self.serial += 1
        for key in changed:
            self._changed[key] = self.serial
            row = changes[key]
            if row is None:
                del self.table[key]
            else:
                self.table[key] = row
        if self._broken is not None:
            self._reset(self._broken)
        elif changed and self.members:
            self.members.send(self.frame(changed), before)
        if len(self._changed) > 2 * self.groups.limit:
            self._changed = {key: serial for key, serial in self._changed.items() if key in self.table}
            self._floor = self.serial

    def _reset(self, reason: str) -> None:
        """Reset all clients: members now, and others when they find that their serial is not kept."""
        self._broken = None
        self._sent.clear()
        self.serial += 1
        self._floor = self.serial
        for member in [member for member in self.members if member.renews]:
            member.require_resync(reason)
        if self.members:
            self._hub.resets[reason] += len(self.members)
            block = reset_block(self.groups.about, self.remember(), reason)
            self.members.send(block, (self.serial, self.position))
            self.members.send_all()  # nobody may leave without it

    def keep_alive(self) -> None:
        """Send members a comment and the newest position."""
        if self._position is None:
            return
        if not (self._dirty.is_set() or self._lock.locked()):
            self._move(self._hub.feed.head)
        if self.members:
            self.members.send(keep_alive_block(self.remember()), (self.serial, self.position))

    # --- the end

    def close(self) -> None:
        """Stop; no stream uses the board any more, or all of them are ending."""
        self.ended = True
        self._rest()

    def _rest(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _finish(self, reason: str) -> None:
        """Send every member the block that ends a stream which takes too much, and end it."""
        self.members.send_all()
        for member in list(self.members):
            block = end_block(self.groups.about, None if member.renews else self.position, reason)
            member.write(http_chunk(block) if member.chunked else block, self._hub.buffer)
        self._end()

    def _end(self) -> None:
        """End the members' streams; the clients connect again."""
        self.ended = True
        self._task = None
        for member in list(self.members):
            member.end()
