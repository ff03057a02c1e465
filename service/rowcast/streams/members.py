"""Sending to many: a frame goes to a slice of the members in each turn of the event loop, so that requests run in between.

A write to a socket costs about ten microseconds, so ten thousand of them would stop everything else for a tenth of a second.
A frame that arrives while an earlier one is still being sent does not wait for its last member: each member gets everything
that it lacks in one write, and those who lack the most are the first.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator
from itertools import chain
from typing import Any, Final, Generic, Protocol, TypeVar

import structlog

from rowcast.streams.few import Few, few, many, with_one, without
from rowcast.streams.sse import http_chunk
from rowcast.streams.subscriber import Subscriber

SLICE_WRITES: Final = 200  # in one turn of the event loop, about 2 ms

Mark = TypeVar("Mark")

_logger = structlog.get_logger(__name__)


class Owner(Protocol):
    """What members use of their hub."""

    sender: Sender

    @property
    def buffer(self) -> int:
        """Bytes that may wait for one client."""


class Sender:
    """Sends a slice in each turn of the event loop. Groups whose members lack something take turns."""

    def __init__(self) -> None:
        self._sending: dict[Members[Any], None] = {}  # in the order of their turns
        self._awaited: deque[tuple[list[tuple[Members[Any], int]], Callable[[], None]]] = deque()
        self._scheduled = False

    def add(self, members: Members[Any]) -> None:
        """Let members take turns, too, until they lack nothing."""
        self._sending.setdefault(members)
        if not self._scheduled:
            self._schedule()

    def when_sent(self, call: Callable[[], None]) -> None:
        """Call a function as soon as everything has been written that was to be sent before."""
        self._awaited.append(([(members, members.end) for members in self._sending], call))
        self._call_awaited()

    def _schedule(self) -> None:
        self._scheduled = True
        asyncio.get_running_loop().call_soon(self._send_slice)

    def _send_slice(self) -> None:
        left = SLICE_WRITES
        while self._sending and left > 0:
            members = next(iter(self._sending))
            del self._sending[members]
            try:
                left -= members.send_some(left)
            except Exception:  # of one connection, which has had its turn
                _logger.exception("stream_failed")
            if members.lack:
                self._sending.setdefault(members)
        self._call_awaited()
        self._scheduled = False
        if self._sending:
            self._schedule()

    def _call_awaited(self) -> None:
        while self._awaited:
            waiting, call = self._awaited[0]
            while waiting and waiting[-1][0].have(waiting[-1][1]):
                waiting.pop()
            if waiting:
                return
            self._awaited.popleft()
            call()


class _Backlog(Generic[Mark]):
    """The frames that some members lack, and all members of the group, while there are such.

    ``frames`` are the newest ones, from the first that a member lacks, each with the mark of those that have everything before it. The
    members are in ``cohorts``, by the number of the first frame that they lack.
    """

    __slots__ = ("cohorts", "frames")

    def __init__(self) -> None:
        self.frames: list[tuple[bytes, Mark]] = []
        self.cohorts: dict[int, set[Subscriber]] = {}


class Members(Collection[Subscriber], Generic[Mark]):
    """The members of a group, and the frames that some of them still lack.

    Frames are numbered, and ``end`` is the number of the next one. A ``Mark`` is where a member was before a frame, which is how
    it goes on if it leaves.
    """

    __slots__ = ("_backlog", "_current", "_hub", "end")

    def __init__(self, hub: Owner) -> None:
        self.end = 0
        self._hub = hub
        self._current: Few[Subscriber] = ()  # the members, while none lacks a frame
        self._backlog: _Backlog[Mark] | None = None

    def __len__(self) -> int:
        return sum(map(len, self._cohorts()))

    def __iter__(self) -> Iterator[Subscriber]:
        return chain.from_iterable(self._cohorts())

    def __contains__(self, member: object) -> bool:
        return any(member in cohort for cohort in self._cohorts())

    def _cohorts(self) -> Collection[Collection[Subscriber]]:
        return (self._current,) if self._backlog is None else self._backlog.cohorts.values()

    @property
    def lack(self) -> bool:
        """Whether a member lacks a frame."""
        return self._backlog is not None

    def have(self, end: int) -> bool:
        """Whether all members have the frames before a number."""
        return self._backlog is None or all(start >= end for start, cohort in self._backlog.cohorts.items() if cohort)

    def add(self, member: Subscriber) -> None:
        """Add a member that lacks nothing."""
        if self._backlog is None:
            self._current = with_one(self._current, member)
        else:
            self._backlog.cohorts.setdefault(self.end, set()).add(member)

    def discard(self, member: Subscriber) -> Mark | None:
        """Remove a member, and return where it was before the first frame that it lacks; ``None`` if it lacks nothing."""
        if self._backlog is None:
            self._current = without(self._current, member)
            return None
        for start, cohort in self._backlog.cohorts.items():
            if member in cohort:
                cohort.remove(member)
                return None if start == self.end else self._backlog.frames[start - self.end][1]
        return None

    def take(self, other: Members[Mark]) -> None:
        """Take over the members of another group, which has none afterwards."""
        other.send_all()
        for member in other:
            self.add(member)
        other._current = ()

    # --- sending

    def send(self, frame: bytes, before: Mark) -> None:
        """Send all members a frame in the next turns; ``before`` is where those are that lack nothing now."""
        if not self:
            return
        if self._backlog is None:
            self._backlog = _Backlog()
            self._backlog.cohorts[self.end] = many(self._current)
            self._current = ()
        self._backlog.frames.append((frame, before))
        self.end += 1
        self._hub.sender.add(self)

    def send_all(self) -> None:
        """Send each member at once everything that it lacks, in one write."""
        self.send_some(sys.maxsize, sys.maxsize)

    def send_some(self, most: int, size: int = 0) -> int:
        """Send members what they lack, with at most so many writes, and return how many there were.

        A write has frames of ``size`` bytes at most, or one frame. That is how much may wait for a client, unless it is given:
        a client that takes everything stays a member.
        """
        size = size or self._hub.buffer
        written = 0
        while (backlog := self._backlog) is not None and written < most:
            start = min(backlog.cohorts, default=self.end)
            cohort = backlog.cohorts.get(start, set())
            if cohort and start < self.end:
                written += self._send_cohort(backlog, cohort, start, most - written, size)
            if not cohort or start == self.end:
                self._forget(backlog)
        return written

    def _send_cohort(self, backlog: _Backlog[Mark], cohort: set[Subscriber], start: int, most: int, size: int) -> int:
        buffer = self._hub.buffer
        frame, end = self._join(backlog, start, size)
        chunk = http_chunk(frame)
        reached = backlog.cohorts.setdefault(end, set())
        count = min(most, len(cohort))
        for _ in range(count):
            member = cohort.pop()
            reached.add(member)  # before the write, after which it may leave
            member.write(chunk if member.chunked else frame, buffer)
        return count

    def _join(self, backlog: _Backlog[Mark], start: int, size: int) -> tuple[bytes, int]:
        """The frames from a number on that have ``size`` bytes at most, or one frame, and the number of the next."""
        parts: list[bytes] = []
        for number in range(start, self.end):
            frame = backlog.frames[number - self.end][0]
            size -= len(frame)
            if parts and size < 0:
                break
            parts.append(frame)
        return b"".join(parts) if len(parts) > 1 else parts[0], start + len(parts)

    def _forget(self, backlog: _Backlog[Mark]) -> None:
        """Forget cohorts without members, frames that no member lacks, and the backlog if there is none left."""
        backlog.cohorts = {start: cohort for start, cohort in backlog.cohorts.items() if cohort}
        lacking = self.end - min(backlog.cohorts, default=self.end)
        del backlog.frames[: len(backlog.frames) - lacking]
        if not lacking:
            self._current = few(backlog.cohorts.get(self.end, set()))
            self._backlog = None
