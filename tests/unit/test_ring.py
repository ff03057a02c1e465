"""The limit of the feed's memory."""

from __future__ import annotations

import datetime as dt
import tracemalloc

import orjson
import pytest

from rowcast.changes.events import Event


@pytest.mark.parametrize(("fields", "length"), [(2, 5), (4, 10), (10, 20), (20, 30), (60, 10), (5, 1000), (1, 50_000)])
def test_an_event_takes_no_more_memory_than_it_counts_for(fields: int, length: int) -> None:
    """Its rows count as text and as the objects that delivery makes of them."""

    def row(number: int) -> bytes:
        return bytes(
            bytearray(orjson.dumps({f"f{k}": f"{number:0{length}}" if k % 2 else number for k in range(fields)}))
        )

    count = 500
    at = dt.datetime.now(dt.UTC)
    tracemalloc.start()
    events = [Event(i, 10**6 + i, 10**6 + i, at, "tasks", "U", str(i), row(i), row(i + 1)) for i in range(count)]
    for event in events:
        assert event.before != event.after
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    counted = sum(event.size for event in events)
    assert taken <= counted
