"""A field gets another name, and its column stays: rows in the log have the former name."""

from __future__ import annotations

import asyncpg

from tests.conftest import Serve
from tests.sse import listen
from tests.stream.test_events import ready

NOTES = "fields: {{id: {{type: integer, primary_key: true}}, {field}}}\nviewset: {{permission_classes: [AllowAny]}}"


async def test_a_stream_across_the_change_gets_a_reset(serve: Serve, sql: asyncpg.Connection) -> None:
    """And no reset if the configuration stays."""
    client = await serve({"notes": NOTES.format(field="text: {type: text}")})
    async with listen(client, "/notes/stream/") as source:
        before = (await ready(source)).id
    again = await serve({"notes": NOTES.format(field="text: {type: text}")})
    async with listen(again, "/notes/stream/", last_id=before) as source:
        assert (await source.next()).event == "ready"
        await sql.execute("INSERT INTO notes (text) VALUES ('a')")
        assert (await source.next()).json()["data"]["text"] == "a"
        before = source.last_id
    changed = await serve({"notes": NOTES.format(field="body: {type: text, column: text}")})
    async with listen(changed, "/notes/stream/", last_id=before) as source:
        assert [(await source.next()).event, (await source.next()).event] == ["ready", "reset"]
        await sql.execute("UPDATE notes SET text = 'b'")
        event = (await source.next()).json()
        assert (event["changed"], event["data"]["body"]) == (["body"], "b")
