"""Services that are traced, and the spans that they have recorded."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from unittest import mock

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from rowcast.server.tracing import Traces
from rowcast.testing import client


class Spans:
    """The spans that have ended."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def clear(self) -> None:
        """Forget them."""
        self._exporter.clear()

    @property
    def all(self) -> list[ReadableSpan]:
        """All of them, in the order of their ends."""
        return list(self._exporter.get_finished_spans())

    @property
    def requests(self) -> list[ReadableSpan]:
        """Those of requests."""
        return [span for span in self.all if span.kind is SpanKind.SERVER]

    def below(self, parent: ReadableSpan) -> list[ReadableSpan]:
        """Those whose parent is this one."""
        context = parent.context
        assert context is not None
        return [span for span in self.all if span.parent is not None and span.parent.span_id == context.span_id]

    def traceparents(self) -> list[str]:
        """How the changes of requests name their traces."""
        return [
            f"00-{each.context.trace_id:032x}-{each.context.span_id:016x}-{each.context.trace_flags:02x}"
            for each in self.requests
            if each.context
        ]


@pytest.fixture
def spans() -> Iterator[Spans]:
    """The spans of all services of a test, each of which is traced."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    create = partial(vars(client)["create_app"], find_traces=lambda: Traces(provider))
    with mock.patch("rowcast.testing.client.create_app", create):
        yield Spans(exporter)
