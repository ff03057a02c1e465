"""Streams in tests, as ``rowcast.testing`` has them for every project."""

from __future__ import annotations

import re
from typing import Final

from rowcast.testing.events import Event, EventSource, Parser, listen

__all__ = ["Event", "EventSource", "Parser", "listen", "without_heartbeats"]

_HEARTBEAT: Final = re.compile(r"^: keep-alive\n(?:id: .*\n)?\n", re.MULTILINE)


def without_heartbeats(text: str) -> str:
    """The text of a stream without heartbeats, which come at no certain time."""
    return _HEARTBEAT.sub("", text)
