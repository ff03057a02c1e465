"""Which entries the log has: those from ``log.level`` on, and a warning that comes again and again once a minute.

What ``log.access`` and ``log.sql`` ask for is logged at every level. Entries have OpenTelemetry's names where it has some.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, Final, TypeAlias

import structlog
from structlog.typing import EventDict, WrappedLogger

from rowcast.traces import TRACE

REQUEST: Final = "request"
SQL: Final = "sql"
SQL_PLAN: Final = "sql_plan"
ASKED_FOR: Final = frozenset((REQUEST, SQL, SQL_PLAN))  # events with settings of their own
REPEAT_SECONDS: Final = 60.0  # for which a warning is not logged again
WARNINGS_MAX: Final = 1000  # that are remembered
REPEATED: Final = "repeated"  # how often a warning came without being logged

Later: TypeAlias = Callable[[float, Callable[[], None]], None]  # calls a function after some seconds

_NUMBERS: Final = {name.lower(): number for name, number in logging.getLevelNamesMapping().items()}
_levels = {"least": _NUMBERS["info"]}
_logger = structlog.get_logger(__name__)


def set_level(level: str) -> None:
    """Log nothing that is below a level of ``log.level``; for the whole process."""
    _levels["least"] = _NUMBERS[level]


def drop_below_level(logger: WrappedLogger, method: str, entry: EventDict) -> EventDict:
    """Leave out what is below the level."""
    if _NUMBERS[method] < _levels["least"] and entry["event"] not in ASKED_FOR:
        raise structlog.DropEvent
    return entry


@dataclass(slots=True)
class _Warning:
    """A warning that was logged, until when it is not logged again, and how often it has come since."""

    entry: EventDict
    until: float
    count: int = 0


def _call_later(seconds: float, function: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # this thread has no event loop
        asyncio.get_running_loop().call_later(seconds, function)


class Repeats:
    """Leaves out warnings that are equal to one of the last minute, and logs how many they were when the minute is over."""

    def __init__(self, seconds: float = REPEAT_SECONDS, later: Later | None = None) -> None:
        self._seconds = seconds
        self._later = later or _call_later
        self._warnings: dict[Hashable, _Warning] = {}

    def __call__(self, logger: WrappedLogger, method: str, entry: EventDict) -> EventDict:
        """Let an entry pass if it is not a warning that was logged in the last minute."""
        if method != "warning" or REPEATED in entry:
            return entry
        key = tuple((name, repr(value)) for name, value in sorted(entry.items()))
        earlier = self._warnings.get(key)
        if earlier is not None and monotonic() < earlier.until:
            earlier.count += 1
            raise structlog.DropEvent
        if earlier is not None and earlier.count:  # nothing has run at the end of the minute
            entry = {**entry, REPEATED: earlier.count}
        self._begin(key, entry)
        return entry

    def _begin(self, key: Hashable, entry: EventDict) -> None:
        if len(self._warnings) >= WARNINGS_MAX:
            self._warnings.clear()
        begun = self._warnings[key] = _Warning({**entry}, monotonic() + self._seconds)
        begun.entry.pop(REPEATED, None)
        self._later(self._seconds, partial(self._end, key, begun))

    def _end(self, key: Hashable, ended: _Warning) -> None:
        """The minute is over: log how often the warning has come, or forget it."""
        if self._warnings.get(key) is not ended:
            return
        del self._warnings[key]
        if ended.count:
            self._begin(key, ended.entry)
            fields: dict[str, Any] = {**ended.entry, REPEATED: ended.count}
            _logger.warning(fields.pop("event"), **fields)


def name_trace(logger: WrappedLogger, method: str, entry: EventDict) -> EventDict:
    """Add the trace of the request that an entry is about, if that is recorded."""
    if (trace := TRACE.get()) is not None:
        entry["trace_id"], entry["span_id"] = trace.trace_id, trace.span_id
    return entry


def name_exception(logger: WrappedLogger, method: str, entry: EventDict) -> EventDict:
    """Give a formatted traceback OpenTelemetry's name."""
    if (text := entry.pop("exception", None)) is not None:
        entry["exception.stacktrace"] = text
    return entry
