"""How the process logs."""

from __future__ import annotations

import sys

import structlog

from rowcast.server.log_entries import Repeats, drop_below_level, name_exception, name_trace


def configure_logs() -> None:
    """JSON lines on standard error, or coloured lines on a terminal; tracebacks without local variables."""
    plain = structlog.dev.plain_traceback  # without local variables, among which credentials may be
    last: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        name_exception,
        structlog.processors.JSONRenderer(),
    ]
    if sys.stderr.isatty():
        last = [structlog.dev.ConsoleRenderer(exception_formatter=plain)]
    structlog.configure(
        processors=[
            drop_below_level,
            Repeats(),
            name_trace,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            *last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("debug"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
