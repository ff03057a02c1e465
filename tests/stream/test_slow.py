"""Clients that stop reading: they lose nothing, and no other client waits for them."""

from __future__ import annotations

import asyncpg
import pytest

from tests.conftest import Serve
from tests.sse import listen
from tests.stream.test_events import next_change, ready

PAGES = """
fields:
  id: {type: integer, primary_key: true}
  text: {type: text}
viewset:
  class: viewsets:PageViewSet
  search_fields: [text]
"""
PLAIN = """
from rowcast import AllowAny, ModelViewSet

class PageViewSet(ModelViewSet):
    permission_classes = [AllowAny]
"""
PYTHON = """
from marshmallow import fields
from rowcast import AllowAny, ModelViewSet, Serializer, model
PageShape = model("pages")

class PageSerializer(Serializer):
    length = fields.Function(lambda page: len(page.text))

    class Meta:
        model = PageShape

class PageViewSet(ModelViewSet):
    permission_classes = [AllowAny]
    serializer_class = PageSerializer
"""


@pytest.mark.parametrize(
    ("path", "module"),
    [("/pages/stream/", PLAIN), ("/pages/stream/?search=AB", PLAIN), ("/pages/stream/", PYTHON)],
    ids=["plain", "by the database", "python"],
)
async def test_client_that_does_not_read_gets_everything_later(
    serve: Serve, sql: asyncpg.Connection, path: str, module: str
) -> None:
    """20 MB wait for a client that has stopped; another gets them at once; the first goes on in order, without a gap."""
    client = await serve({"pages": PAGES}, service="stream: {buffer: 64KiB}", modules={"viewsets": module})
    async with listen(client, path, deadline=30) as slow, listen(client, path, deadline=30) as other:
        await ready(slow)
        await ready(other)
        for n in range(100):
            await sql.execute("INSERT INTO pages (id, text) VALUES ($1, repeat('ab', 100000))", n)
            assert (await next_change(other))["id"] == n
        await sql.execute("DELETE FROM pages WHERE id < 50")
        assert [(await next_change(other))["id"] for _ in range(50)] == list(range(50))
        events = await slow.take(150)
        assert [event.json()["id"] for event in events] == [*range(100), *range(50)]
        assert len({event.id for event in events}) == 150
        await sql.execute("INSERT INTO pages (id, text) VALUES (200, 'abfence')")
        assert (await next_change(slow))["id"] == (await next_change(other))["id"] == 200


async def test_little_waits_in_the_service_for_a_client_that_does_not_read(
    serve: Serve, sql: asyncpg.Connection
) -> None:
    """What exceeds its buffer stays in the log, however slowly the changes come."""
    client = await serve({"pages": PAGES}, service="stream: {buffer: 64KiB}", modules={"viewsets": PLAIN})
    async with listen(client, "/pages/stream/") as slow, listen(client, "/pages/stream/", deadline=30) as other:
        await ready(slow)
        await ready(other)
        waiting = 0
        for n in range(100):
            await sql.execute("INSERT INTO pages (id, text) VALUES ($1, repeat('ab', 100000))", n)
            assert (await next_change(other))["id"] == n
            transports = [each.transport for each in client.server.handler.connections]
            waiting = max(waiting, *(each.get_write_buffer_size() for each in transports if each is not None))
        assert waiting < 500_000  # the buffer and two changes
