"""Whether a request that begins a trace is recorded, decided before anything is made for it.

The usual samplers decide by the id of the trace alone: ``TraceIdRatioBased``, also as the root of ``ParentBased``. For them the id
is drawn here and compared, and a request that is not recorded needs nothing else. If it is recorded, the SDK gives its trace
the same id. All other samplers, and requests with a parent, are left to the SDK.
"""

from __future__ import annotations

from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, ParentBasedTraceIdRatio, Sampler, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, Tracer

NO_PARENT: Final = Context()
UNDECIDED: Final = 0  # no trace has this id


class Sampling:
    """The decisions of a tracer's sampler about requests without a parent."""

    def __init__(self, tracer: Tracer) -> None:
        self._bound: int | None = None  # ids are recorded whose lower 64 bits are below
        if type(tracer) is SdkTracer and (bound := _bound(tracer.sampler)) is not None:
            self._bound = bound
            ids = tracer.id_generator
            self._ids = tracer.id_generator = ids if isinstance(ids, _Ids) else _Ids(ids)
        self._tracer = tracer

    def draw(self) -> int:
        """The id of a trace that begins; ``UNDECIDED`` if the SDK has to draw it."""
        return UNDECIDED if self._bound is None else self._ids.generate_trace_id()

    def drops(self, trace_id: int) -> bool:
        """Whether the trace of an id that was drawn is not recorded."""
        return (
            self._bound is not None
            and trace_id != UNDECIDED
            and trace_id & TraceIdRatioBased.TRACE_ID_LIMIT >= self._bound
        )

    def dropped(self, trace_id: int) -> Span:
        """The span of a request that is not recorded."""
        return _Dropped(self, trace_id)

    def keep(self, trace_id: int) -> None:
        """Let the next trace have this id; any one if it is ``UNDECIDED``."""
        if self._bound is not None:
            self._ids.next = trace_id

    def context_of(self, trace_id: int) -> SpanContext:
        """What the SDK makes of a dropped id."""
        self.keep(trace_id)
        return self._tracer.start_span("", NO_PARENT).get_span_context()


class _Dropped(NonRecordingSpan):
    """A span that is not recorded. What names it is made when Python asks for it, or has a span below it."""

    def __init__(self, sampling: Sampling, trace_id: int) -> None:
        self._sampling = sampling
        self._trace_id = trace_id
        self._made: SpanContext | None = None

    def get_span_context(self) -> SpanContext:
        if self._made is None:
            self._made = self._sampling.context_of(self._trace_id)
        return self._made


class _Ids(IdGenerator):
    """The ids of another generator. If ``next`` is set, it is the id of the next trace."""

    def __init__(self, ids: IdGenerator) -> None:
        self._ids = ids
        self.next = UNDECIDED

    def generate_trace_id(self) -> int:
        given, self.next = self.next, UNDECIDED
        return given or self._ids.generate_trace_id()

    def generate_span_id(self) -> int:
        return self._ids.generate_span_id()

    def is_trace_id_random(self) -> bool:
        return self._ids.is_trace_id_random()


def _bound(sampler: Sampler) -> int | None:
    """The bound of a sampler that decides by the id of a trace; ``None`` for any other one, a subclass of one's own, too."""
    if type(sampler) in (ParentBased, ParentBasedTraceIdRatio):
        sampler = vars(sampler)["_root"]
    return sampler.bound if type(sampler) is TraceIdRatioBased else None
