"""What the log leaves out: entries below ``log.level``, and warnings that come again within a minute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from rowcast.server.log_entries import REQUEST, Repeats, drop_below_level, set_level

Entries = list[dict[str, Any]]


class Minutes:
    """Minutes that are over when the test says so."""

    def __init__(self) -> None:
        self.ends: list[Callable[[], None]] = []

    def begin(self, seconds: float, end: Callable[[], None]) -> None:
        """A minute begins."""
        self.ends.append(end)

    def pass_one(self) -> None:
        """The minute that began first is over."""
        self.ends.pop(0)()


@pytest.fixture
def minutes() -> Minutes:
    """The minutes of ``entries``."""
    return Minutes()


@pytest.fixture
def entries(minutes: Minutes) -> Iterator[Entries]:
    """What the log gets after the level and after repeats."""
    found: Entries = []
    before = structlog.get_config()

    def keep(_: Any, method: str, entry: Any) -> Any:
        found.append({**entry, "level": method})
        raise structlog.DropEvent

    structlog.configure(
        processors=[drop_below_level, Repeats(3600, minutes.begin), keep], cache_logger_on_first_use=False
    )
    yield found
    structlog.configure(**before)
    set_level("info")


@pytest.mark.parametrize(
    ("level", "left"),
    [("debug", ["debug", "info", "warning", "error"]), ("warning", ["warning", "error"]), ("error", ["error"])],
)
def test_entries_below_the_level_are_left_out(entries: Entries, level: str, left: list[str]) -> None:
    """But for those of requests and statements, for which there are other settings."""
    set_level(level)
    logger = structlog.get_logger()
    for method in ("debug", "info", "warning", "error"):
        getattr(logger, method)("something")
    assert [entry["level"] for entry in entries] == left
    logger.info(REQUEST)
    assert entries[-1]["event"] == REQUEST
    logger.critical("the end")
    assert entries[-1]["event"] == "the end"


def test_a_warning_that_repeats_is_logged_once_with_its_count(entries: Entries, minutes: Minutes) -> None:
    """At the end of each minute for as long as it comes again; errors are all logged."""
    logger = structlog.get_logger()
    for _ in range(4):
        logger.warning("lost", error="refused")
        logger.error("failed", error="refused")
    logger.warning("lost", error="too slow")
    assert [entry["event"] for entry in entries] == ["lost", *["failed"] * 4, "lost"]
    minutes.pass_one()
    assert entries[6:] == [{"event": "lost", "error": "refused", "repeated": 3, "level": "warning"}]
    logger.warning("lost", error="refused")
    minutes.pass_one()  # that of the warning which did not come again
    assert len(entries) == 7
    minutes.pass_one()
    assert entries[7:] == [{"event": "lost", "error": "refused", "repeated": 1, "level": "warning"}]
    minutes.pass_one()
    logger.warning("lost", error="refused")
    assert entries[8:] == [{"event": "lost", "error": "refused", "level": "warning"}]


def test_the_count_is_logged_without_an_event_loop(entries: Entries) -> None:
    """With the next warning of the kind."""
    logger, repeats = structlog.get_logger(), Repeats(0.0)
    structlog.configure(processors=[repeats, structlog.get_config()["processors"][-1]])
    logger.warning("lost")
    (remembered,) = repeats._warnings.values()
    remembered.until, remembered.count = 0.0, 2
    logger.warning("lost")
    assert [entry.get("repeated") for entry in entries] == [None, 2]
