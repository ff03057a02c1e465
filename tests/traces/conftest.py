"""The tests of traces have the spans of the services that they start."""

from __future__ import annotations

from tests.spans import spans

__all__ = ["spans"]
