"""What the relay sends: batches of the log, and beats, which say how far the leader is.

A message is a code of its bytes (HMAC-SHA-256), the length of its head, the head as JSON, and the rows of its events, one after
the other, exactly as the log has them. Its key, and the name of the channel, follow from the secret of the database and
from its history. So a message of another database, of a copy, or of the same database before its failover has another
key. Only what was read from this log can be decoded.
"""

from __future__ import annotations

import datetime as dt
import hmac
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import orjson

from rowcast.changes.bus import MESSAGE_MAX_BYTES
from rowcast.changes.events import Batch, Event
from rowcast.changes.position import Position, Snapshot

FORMAT: Final = 2  # other formats have other keys, so that versions of Rowcast that differ do not read each other
_CODE: Final = "sha256"
_CODE_BYTES: Final = 32
_LENGTH: Final = struct.Struct(">I")
_EVENT_BYTES: Final = 220  # of an event in the head, about, beside its names
_BATCH_BYTES: Final = 400


class NotGenuine(Exception):
    """The message was not made with this key."""


@dataclass(frozen=True, slots=True)
class RelayKey:
    """The channel of one history of a database, and the key of its messages."""

    channel: str
    secret: bytes

    @classmethod
    def of(cls, secret: bytes, history: tuple[object, ...]) -> RelayKey:
        """From the secret of the database, and what identifies its history."""
        root = hmac.digest(secret, f"rowcast relay {FORMAT} {' '.join(map(str, history))}".encode(), _CODE)
        return cls(f"rowcast.{hmac.digest(root, b'channel', _CODE).hex()[:32]}", hmac.digest(root, b"message", _CODE))


@dataclass(frozen=True, slots=True)
class Beat:
    """How far the leader is: ``head``, which is the newest change if it is ``current``.

    ``alarms`` is how often it has found tables that are not logged. With ``ended`` it does not lead any more.
    """

    head: Position
    current: bool
    alarms: int = 0
    ended: bool = False


def encode(key: RelayKey, sender: str, at: float, message: Batch | Beat, limit: int) -> Iterator[bytes]:
    """The messages for a batch, in parts that are within the limit, or for a beat.

    ``at`` is when the sender looked at the log before, by the clock of the database, in seconds.
    A part with one event that is too large for a message is announced by a beat, so that it is read from the log.
    """
    if isinstance(message, Beat):
        yield _sealed(key, {"by": sender, "at": at, **_beat_head(message)}, [])
        return
    limit = min(limit, MESSAGE_MAX_BYTES)
    for part in _parts(message, limit):
        rows = [row for event in part.events for row in (event.old, event.new) if row is not None]
        sealed = _sealed(key, {"by": sender, "at": at, **_batch_head(part)}, rows)
        if len(sealed) > limit:
            sealed = _sealed(key, {"by": sender, "at": at, **_beat_head(Beat(part.end, current=False))}, [])
        yield sealed


def decode(key: RelayKey, message: bytes) -> tuple[str, float, Batch | Beat]:
    """The sender of a message, when it had looked at the log, and what it has sent. Raises ``NotGenuine`` for anything that was not made with the key."""
    body = memoryview(message)[_CODE_BYTES:]
    if len(message) > MESSAGE_MAX_BYTES or not hmac.compare_digest(
        message[:_CODE_BYTES], hmac.digest(key.secret, body, _CODE)
    ):
        raise NotGenuine
    head, rows = _opened(body)
    if "head" in head:
        return head["by"], head["at"], Beat(Position(*head["head"]), head["current"], head["alarms"], head["ended"])
    return head["by"], head["at"], _batch(head, rows)


def pack(batch: Batch) -> bytes:
    """A batch of any size as bytes, without a code."""
    rows = [row for event in batch.events for row in (event.old, event.new) if row is not None]
    return _body(_batch_head(batch), rows)


def unpack(body: bytes) -> Batch:
    """The batch that ``pack`` was called with."""
    return _batch(*_opened(memoryview(body)))


def _body(head: dict[str, Any], rows: list[bytes]) -> bytes:
    written = orjson.dumps(head)
    return b"".join((_LENGTH.pack(len(written)), written, *rows))


def _opened(body: memoryview) -> tuple[dict[str, Any], bytes]:
    """The head of a message, and its rows."""
    (length,) = _LENGTH.unpack_from(body)
    start = _LENGTH.size + length
    return orjson.loads(body[_LENGTH.size : start]), bytes(body[start:])


def _sealed(key: RelayKey, head: dict[str, Any], rows: list[bytes]) -> bytes:
    body = _body(head, rows)
    return hmac.digest(key.secret, body, _CODE) + body


def _beat_head(beat: Beat) -> dict[str, Any]:
    head = beat.head
    return {
        "head": [head.epoch, head.tick, head.n],
        "current": beat.current,
        "alarms": beat.alarms,
        "ended": beat.ended,
    }


def _batch_head(batch: Batch) -> dict[str, Any]:
    snap = batch.snap
    return {
        "tick": [batch.epoch, batch.tick],
        "snap": [snap.xmin, snap.xmax, snap.running],
        "first": batch.first,
        "last": batch.last,
        "xids": list(batch.xids),
        "events": [
            [
                event.xid,
                event.seq,
                event.at,
                event.resource,
                event.op,
                event.pk,
                _size(event.old),
                _size(event.new),
                event.traceparent,
            ]
            for event in batch.events
        ],
    }


def _size(row: bytes | None) -> int | None:
    return None if row is None else len(row)


def _batch(head: dict[str, Any], rows: bytes) -> Batch:
    place = 0

    def row(size: int | None) -> bytes | None:
        nonlocal place
        if size is None:
            return None
        place += size
        return rows[place - size : place]

    epoch, tick = head["tick"]
    xmin, xmax, running = head["snap"]
    events = tuple(
        Event(n, xid, seq, dt.datetime.fromisoformat(at), resource, op, pk, row(old), row(new), traceparent)
        for n, (xid, seq, at, resource, op, pk, old, new, traceparent) in enumerate(head["events"], start=head["first"])
    )
    snap = Snapshot(xmin, xmax, tuple(running))
    return Batch(epoch, tick, snap, head["first"], events, head["last"], frozenset(head["xids"]))


def _parts(batch: Batch, limit: int) -> Iterator[Batch]:
    """The batch in parts that are within the limit, about; one event is in one part."""
    room = limit - _CODE_BYTES - _BATCH_BYTES - 20 * (len(batch.snap.running) + len(batch.xids))
    cuts, size = [0], 0
    for index, event in enumerate(batch.events):
        added = _event_size(event)
        if index > cuts[-1] and size + added > room:
            cuts.append(index)
            size = 0
        size += added
    if len(cuts) == 1:
        yield batch
        return
    for start, end in pairwise((*cuts, len(batch.events))):
        yield replace(
            batch,
            first=batch.first + start,
            events=batch.events[start:end],
            last=batch.last and end == len(batch.events),
        )


def _event_size(event: Event) -> int:
    rows = sum(len(row) for row in (event.old, event.new) if row is not None)
    return _EVENT_BYTES + 6 * (len(event.pk or "") + len(event.resource)) + rows
