"""``X-Stream-Position``: the header from which a stream continues exactly where a read ended.

A statement's snapshot says which transactions it saw. The feed turns it into a position, with the newest tick of which the
statement saw everything, and the transactions after it that the statement saw as well (``changes/position.py``).
"""

from __future__ import annotations

from typing import Final

from rowcast.rest.plan import ViewPlan

POSITION: Final = "X-Stream-Position"
REPLICA_MAX_LAG: Final = "X-Replica-Max-Lag"
"""For how many seconds a replica may lack what has been committed: for so long a client that must not miss it names it."""


def position_header(plan: ViewPlan, snapshot: str, *, kept: bool = False) -> dict[str, str]:
    """The header for what a statement with this snapshot saw, if the feed knows the position; and if there are replicas their lag.

    What was ``kept`` since is current, so it always has a position.
    """
    service = plan.service
    feed = service.feed
    position = feed.kept_position(snapshot) if kept else feed.stream_position(snapshot)
    headers = {} if position is None else {POSITION: position}
    if service.replicas is not None:
        headers[REPLICA_MAX_LAG] = f"{service.settings.database.replica_max_lag:g}"
    return headers
