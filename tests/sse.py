"""Streams in tests, as ``rowcast.testing`` has them for every project."""

from __future__ import annotations

from rowcast.testing.events import Event, EventSource, Parser, listen

__all__ = ["Event", "EventSource", "Parser", "listen"]
