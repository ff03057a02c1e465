"""``X-Stream-Position``: the header from which a stream continues exactly where a read ended.

A statement's snapshot says which transactions it saw. The feed turns it into a position, with the newest tick of which the
statement saw everything, and the transactions after it that the statement saw as well (``changes/position.py``).
"""

from __future__ import annotations

from rowcast.rest.plan import ViewPlan


def position_header(plan: ViewPlan, snapshot: str) -> dict[str, str]:
    """The header for what a statement with this snapshot saw; empty if the feed does not know the position."""
    position = plan.service.feed.stream_position(snapshot)
    return {} if position is None else {"X-Stream-Position": position}
