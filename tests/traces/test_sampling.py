"""Which requests are recorded where a sampler decides by the id of the trace, and what those that are not leave behind."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import cycle
from unittest import mock

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import get_current_span, set_span_in_context

from rowcast.server.sampling import NO_PARENT, Sampling
from rowcast.server.tracing import Traces
from rowcast.testing import client as testing_client
from tests.spans import Spans

from ..conftest import Serve
from .test_spans import PARENT, PYTHON, RESOURCES, TRACE_ID

RECORDED, DROPPED = (0xA << 64) + 1, (0xB << 64) + (1 << 64) - 1  # half of all ids are below the bound of one half


class InTurn(RandomIdGenerator):
    """Every other trace is below the bound."""

    def __init__(self) -> None:
        self._ids = cycle((DROPPED, RECORDED))

    def generate_trace_id(self) -> int:
        return next(self._ids)


def provider_of(sampler: Sampler) -> TracerProvider:
    """A provider whose traces have ids in turn."""
    return TracerProvider(sampler, shutdown_on_exit=False, id_generator=InTurn())


@pytest.fixture(params=[TraceIdRatioBased, lambda rate: ParentBased(TraceIdRatioBased(rate))])
def half(request: pytest.FixtureRequest) -> Iterator[Spans]:
    """The spans of services that record half of the requests without a parent."""
    exporter, provider = InMemorySpanExporter(), provider_of(request.param(0.5))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    create = partial(vars(testing_client)["create_app"], find_traces=lambda: Traces(provider))
    with mock.patch("rowcast.testing.client.create_app", create):
        yield Spans(exporter)


async def test_the_recorded_traces_are_those_of_the_sampler(serve: Serve, half: Spans) -> None:
    """Each trace has the id that decided about it, with its statements."""
    client = await serve(RESOURCES, modules={"viewsets": PYTHON})
    half.clear()
    for _ in range(6):
        assert (await client.get("/books/")).status == 200
    assert [each.context.trace_id for each in half.requests if each.context] == [RECORDED] * 3
    assert [[each.name for each in half.below(request)] for request in half.requests] == [["SELECT books"]] * 3


async def test_python_of_a_dropped_request_is_in_its_trace(serve: Serve, half: Spans) -> None:
    """The trace that it would hand on is the one that was dropped, for as long as the request lasts."""
    client = await serve(RESOURCES, modules={"viewsets": PYTHON})
    half.clear()
    found = [await (await client.get("/authors/trace/")).json() for _ in range(4)]
    assert found == [f"{DROPPED:032x}", f"{RECORDED:032x}"] * 2
    assert len(half.requests) == 2


async def test_a_parent_decides_for_its_children(serve: Serve, half: Spans) -> None:
    """The ids that were drawn before have no influence on a request that has a trace."""
    client = await serve(RESOURCES, modules={"viewsets": PYTHON})
    for _ in range(3):
        await client.get("/books/")  # the first, and every other one, is dropped
    half.clear()
    assert await (await client.get("/authors/trace/", headers={"traceparent": PARENT})).json() == TRACE_ID


@pytest.mark.parametrize("is_root", [True, False])
def test_a_dropped_span_is_what_the_sdk_makes(is_root: bool) -> None:
    """Its context has the flags of the SDK's own, and spans below it are not recorded."""
    sampler: Sampler = TraceIdRatioBased(0.5)
    theirs = provider_of(ParentBased(sampler) if is_root else sampler).get_tracer("x").start_span("x", NO_PARENT)
    tracer = provider_of(ParentBased(sampler) if is_root else sampler).get_tracer("x")
    sampling = Sampling(tracer)
    trace_id = sampling.draw()
    assert sampling.drops(trace_id)
    ours = sampling.dropped(trace_id)
    assert ours.get_span_context() is ours.get_span_context()
    about, expected = ours.get_span_context(), theirs.get_span_context()
    assert about.is_valid
    assert (about.trace_id, about.is_remote, about.trace_flags, about.trace_state) == (
        expected.trace_id, expected.is_remote, expected.trace_flags, expected.trace_state
    )  # fmt: skip
    below = tracer.start_span("below", set_span_in_context(ours, Context()))
    assert not below.is_recording()
    assert below.get_span_context().trace_id == DROPPED
    assert get_current_span().get_span_context().trace_id != DROPPED


class Own(TraceIdRatioBased):
    """A sampler of somebody's own, which may decide by anything."""


@pytest.mark.parametrize("sampler", [Own(0.5), ParentBased(Own(0.5))])
def test_other_samplers_decide_for_themselves(sampler: Sampler) -> None:
    """Nothing is dropped before they are asked."""
    sampling = Sampling(provider_of(sampler).get_tracer("x"))
    assert not any(sampling.drops(sampling.draw()) for _ in range(4))


def test_an_application_that_replaces_another_draws_the_same_ids() -> None:
    """A reload makes a second one for the same tracer, while the first still answers."""
    tracer = provider_of(TraceIdRatioBased(0.5)).get_tracer("x")
    first, second = Sampling(tracer), Sampling(tracer)
    assert [first.draw(), second.draw(), first.draw()] == [DROPPED, RECORDED, DROPPED]
    second.keep(RECORDED)
    assert tracer.start_span("x", NO_PARENT).get_span_context().trace_id == RECORDED
