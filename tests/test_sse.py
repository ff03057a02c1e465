"""The tests' client of server-sent events reads a stream as a browser does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sse import Event, Parser

STREAM = (
    "\ufeff: a comment\nretry: 2000\nretry: 2s\nevent: ready\nid: 1\ndata: {}\n\n"
    "id: 2\n\n"  # moves the position, and is not an event
    "data\n\n"  # an event whose data is empty
    "data: two\ndata:lines\nunknown: x\n\n"
    "id: bad\0id\ndata:  é\n\n"
    "id\ndata\ndata\n\n"
    "data: unfinished\n"
)
EVENTS = [
    Event("1", "ready", "{}"),
    Event("2", "message", ""),
    Event("2", "message", "two\nlines"),
    Event("2", "message", " é"),
    Event("", "message", "\n"),
]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
@given(sizes=st.lists(st.integers(1, 40)))
def test_stream_reads_the_same_however_it_is_cut(end: str, sizes: list[int]) -> None:
    """Any division into chunks, and each of the three line ends, gives the events of the specification."""
    raw, parser, events = STREAM.replace("\n", end).encode(), Parser(), []
    for size in [*sizes, len(raw)]:
        events += parser.feed(raw[:size])
        raw = raw[size:]
    assert events == EVENTS
    assert parser.retry == 2000
    assert parser.last_id == ""


def test_event_is_dispatched_by_its_empty_line_alone() -> None:
    """Nothing waits for the byte after the empty line, not even where lines end with a carriage return."""
    assert Parser().feed(b"data: x\r\r") == [Event("", "message", "x")]


def test_wrong_bytes_are_an_error() -> None:
    """A stream that is not UTF-8 fails the test that reads it."""
    with pytest.raises(UnicodeDecodeError):
        Parser().feed(b"data: \xff\n\n")
