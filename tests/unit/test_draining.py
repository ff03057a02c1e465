"""The pace at which streams end when a service stops."""

from __future__ import annotations

import pytest

from rowcast.streams.open_streams import DRAIN_PER_SECOND, seconds_between


@pytest.mark.parametrize("most", [0.0, 0.05, 25.0, 3600.0])
@pytest.mark.parametrize("streams", [0, 1, 20, 1_000, 10_000, 1_000_000])
def test_streams_end_at_a_pace_and_within_a_time(streams: int, most: float) -> None:
    """Few take no longer than their pace however long it may take, and many as long as it may."""
    seconds = streams * seconds_between(streams, most)
    assert seconds == pytest.approx(min(streams / DRAIN_PER_SECOND, most))
