"""The trace that a request belongs to, where the service is traced (``server/tracing.py``).

Nothing here needs OpenTelemetry. For a request that is not recorded, all of this is a look-up of a context variable.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Trace:
    """The trace of a request that is recorded.

    ``traceparent`` names the request in it, as W3C Trace Context writes it; the changes of the request are logged with it.
    ``record`` makes a span of what happens inside.
    """

    traceparent: str
    record: Callable[[str], AbstractContextManager[object]]

    @property
    def trace_id(self) -> str:
        """The id of the trace, 32 hexadecimal digits."""
        return self.traceparent[3:35]

    @property
    def span_id(self) -> str:
        """The id of the request's span, 16 hexadecimal digits."""
        return self.traceparent[36:52]


TRACE: Final[ContextVar[Trace | None]] = ContextVar("trace", default=None)
_NOT_RECORDED: Final = nullcontext()


def recorded(action: str, by: object) -> AbstractContextManager[object]:
    """What happens inside is a part of the request, which is recorded if the request is, as an action of ``by``'s class."""
    trace = TRACE.get()
    return _NOT_RECORDED if trace is None else trace.record(f"{action} {type(by).__name__}")
