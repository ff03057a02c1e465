"""``server.timing``: the header ``Server-Timing``."""

from __future__ import annotations

import asyncio
import re

import pytest
from aiohttp import ClientResponse

from ..conftest import Serve
from ..sse import listen

NOTES = {
    "notes": "fields: {id: {type: integer, primary_key: true}, text: {type: string}}\nviewset: {permission_classes: [AllowAny]}"
}
TIMED = "server: {timing: true}"

pytestmark = pytest.mark.tables(NOTES)


def timing(response: ClientResponse) -> tuple[float, float]:
    """The milliseconds of the statements and of the whole request."""
    match = re.fullmatch(r"db;dur=([0-9.]+), total;dur=([0-9.]+)", response.headers["Server-Timing"])
    assert match is not None
    return float(match[1]), float(match[2])


async def test_responses_have_their_times(serve: Serve) -> None:
    """Errors have the header, too. Without the setting no response has it."""
    client, other = await serve(NOTES, TIMED), await serve(NOTES)
    async with client.post("/notes/", json={"id": 1, "text": "a"}) as response:
        statements, total = timing(response)
    assert 0 < statements <= total
    async with client.get("/notes/7/") as response:
        assert response.status == 404
        assert timing(response)[0] > 0
    async with client.get("/nowhere/") as response:
        assert timing(response)[0] == 0
    async with other.get("/notes/") as response:
        assert "Server-Timing" not in response.headers


async def test_a_stream_has_the_time_until_it_begins(serve: Serve) -> None:
    """Its header is sent long before its end."""
    client = await serve(NOTES, TIMED)
    async with listen(client, "/notes/stream/") as stream:
        assert timing(stream.response)[1] > 0


async def test_requests_that_share_a_statement_each_have_its_time(serve: Serve) -> None:
    """The time of statements is at most the time of the whole request."""
    client = await serve(NOTES, TIMED)
    await client.post("/notes/", json={"id": 1, "text": "a"})

    async def read() -> tuple[float, float]:
        async with client.get("/notes/1/") as response:
            return timing(response)

    for statements, total in await asyncio.gather(*[read() for _ in range(30)]):
        assert 0 < statements <= total
