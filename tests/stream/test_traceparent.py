"""The events of a change have the trace that the writer has given it."""

from __future__ import annotations

import asyncpg
import pytest

from tests.conftest import Serve
from tests.sse import listen
from tests.stream.test_events import RESOURCES, next_change, ready

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
pytestmark = pytest.mark.tables(RESOURCES)


async def test_an_event_has_the_trace_of_its_change(serve: Serve, sql: asyncpg.Connection) -> None:
    """One with a trace has it, live and after a resume; one without is as it always was."""
    client = await serve(RESOURCES)
    async with listen(client, "/notes/stream/") as source, listen(client, "/stream/?resources=notes") as combined:
        position = (await ready(source)).id
        await ready(combined)
        async with sql.transaction():
            await sql.execute(f"SET LOCAL rowcast.traceparent = '{TRACEPARENT}'")
            await sql.execute("INSERT INTO notes (text) VALUES ('a')")
        await sql.execute("UPDATE notes SET text = 'b'")
        traced, plain = await next_change(source), await next_change(source)
        assert traced["traceparent"] == TRACEPARENT
        assert plain.keys() == (traced.keys() | {"changed"}) - {"traceparent"}
        assert [await next_change(combined) for _ in range(2)] == [traced, plain]
    async with listen(client, f"/notes/stream/?last_event_id={position}") as resumed:
        await ready(resumed)
        assert [await next_change(resumed) for _ in range(2)] == [traced, plain]
