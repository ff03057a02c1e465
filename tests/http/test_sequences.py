"""Messages of all kinds on one connection, whole or in pieces, have the responses that they have as always."""

from __future__ import annotations

import asyncio
import random
import re
from typing import Any

import pytest
import structlog

from ..waiting import until
from .conftest import Run
from .library import Service
from .test_short_streams import RESOURCES, SETTINGS
from .test_short_way import AS_ALWAYS, HOST, Client, bearer, connected

BODY = b'{"id":%d,"tenant":1,"text":"a"}'
MESSAGES = (
    b"GET /notes/stream/",
    b"GET /notes/stream/?tenant=1",
    b"GET /notes/stream/?tenant=x",
    b"GET /notes/stream/?snapshot=true",
    b"GET /own/stream/",
    b"GET /notes/1/",
    b"GET /notes/9/",
    b"GET /notes/?text=b",
    b"POST /notes/",
    b"PATCH /notes/1/",
    b"PATCH /notes/9/",
)
LONGEST = 7  # messages on one connection


def message(start: bytes, header: bytes, key: int) -> bytes:
    """A message as it is sent; that of a write has a body."""
    head = b"%b HTTP/1.1\r\n%b%b" % (start, HOST, header)
    if b"/own/" in start:
        head += bearer(tenant=1)
    if start.startswith(b"GET"):
        return head + b"\r\n"
    body = BODY % key if start.startswith(b"POST") else b'{"text":"a"}'
    return b"%bContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (head, len(body), body)


async def answer(client: Client) -> tuple[bytes, Any]:
    """The status of the next response, and its body; the events of a stream that has ended."""
    head = await client.reader.readuntil(b"\r\n\r\n")
    status = head.split()[1]
    if length := re.search(rb"Content-Length: (\d+)", head):
        body = await client.reader.readexactly(int(length[1]))
        return status, re.sub(rb'"(request_id|id)":[^,}]*', b"", body)
    events: list[bytes] = []
    while size := int(await client.reader.readline(), 16):
        events += re.findall(rb"^event: (\w+)", await client.reader.readexactly(size + 2), re.MULTILINE)
    assert await client.reader.readexactly(2) == b"\r\n"
    return status, events


async def send(client: Client, messages: list[bytes], pieces: random.Random) -> None:
    """Send messages at once, one after the other, or in pieces that are no messages."""
    most = pieces.choice((1, 50, 500, 50_000))
    data = b"".join(messages)
    while data:
        size = pieces.randint(1, most)
        client.writer.write(data[:size])
        data = data[size:]
        await client.writer.drain()
        await asyncio.sleep(0)


async def conversation(service: Service, seed: int, header: bytes) -> list[tuple[bytes, Any]]:
    """The responses on one connection to messages that follow from the seed."""
    chosen = random.Random(seed)
    key = 1000 * (seed + 1) + (500 if header else 0)
    starts = chosen.choices(MESSAGES, k=chosen.randint(2, LONGEST))
    messages = [message(start, header, key + number) for number, start in enumerate(starts)]
    async with connected(service) as client, asyncio.timeout(60):
        if chosen.random() < 0.3:  # each waits for the response before
            found = []
            for each in messages:
                client.writer.write(each)
                found.append(await answer(client))
            return found
        sending = asyncio.create_task(send(client, messages, chosen))
        found = [await answer(client) for _ in messages]
        await sending
        return found


@pytest.mark.parametrize("first", [0, 25])
async def test_conversations_are_alike(run: Run, first: int) -> None:
    """Streams end by themselves here, and what comes behind them is answered then."""
    service = await run(RESOURCES, f"{SETTINGS}stream: {{max_age: 100ms, heartbeat: 1h}}\n")
    await service.sql.execute("INSERT INTO notes VALUES (1, 1, 'a')")
    with structlog.testing.capture_logs() as logs:
        for seed in range(first, first + 25):
            both = (conversation(service, seed, header) for header in (b"", AS_ALWAYS))
            found, expected = await asyncio.gather(*both)
            assert found == expected, seed
    assert [log for log in logs if log["log_level"] == "error"] == []
    await until(lambda: not service.service.hub.subscribers)
