"""What of a request stays in memory while its stream is open, and what the user's methods around it see."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from rowcast.rest.plan import SERVICE

from ..conftest import Serve
from ..waiting import until

FIELDS = "fields: {id: {type: integer, primary_key: true}}\n"
NOTES = {"notes": f"{FIELDS}viewset: {{class: viewsets:Notes, permission_classes: [AllowAny]}}"}
PYTHON = """
from rowcast import ModelViewSet, action

STEPS = []

class Notes(ModelViewSet):
    async def stream(self, request, **kwargs):
        STEPS.append("opened")
        try:
            return await super().stream(request, **kwargs)
        finally:
            STEPS.append("ended")

    @action(detail=False)
    async def steps(self, request):
        return STEPS
"""
PATHS = (
    "/notes/stream/?expand=",
    "/notes/stream/?snapshot=true&expand=",
    "/stream/?resources=notes",
    "/notes/aggregate/stream/?group_by=id",
)

pytestmark = pytest.mark.tables({"notes": FIELDS})


def senders() -> Iterator[list[str]]:
    """The coroutines that wait for each other in each task that sends a stream."""
    for task in asyncio.all_tasks():
        names: list[str] = []
        waiting: Any = task.get_coro()
        while waiting is not None:
            names.append(getattr(waiting, "__qualname__", ""))
            waiting = getattr(waiting, "cr_await", None)
        if "StreamResponse.write_eof" in names:
            yield names


@pytest.mark.parametrize("path", PATHS)
async def test_an_open_stream_keeps_no_handler(serve: Serve, path: str) -> None:
    """Its coroutines have returned, and with them its request and its viewset are gone."""
    client = await serve(
        {"notes": f"{FIELDS}viewset: {{permission_classes: [AllowAny], aggregates: {{group_by: [id]}}}}"}
    )
    async with client.stream(path):
        await until(lambda: any(senders()))
        (names,) = senders()
        assert not [name for name in names if "dispatch" in name or "handler" in name]


async def test_a_method_of_the_users_waits_for_the_end_of_its_stream(serve: Serve) -> None:
    """What it does when the stream has ended is done then."""
    client = await serve(NOTES, modules={"viewsets": PYTHON})

    async def steps() -> list[str]:
        found: list[str] = await (await client.get("/notes/steps/")).json()
        return found

    async with client.stream("/notes/stream/"):
        assert await steps() == ["opened"]
        client.app[SERVICE].hub.open_streams.end()
        assert await steps() == ["opened", "ended"]


async def test_a_stream_is_logged_when_it_ends(serve: Serve) -> None:
    """With ``log.access: all``."""
    client = await serve(
        {"notes": f"{FIELDS}viewset: {{permission_classes: [AllowAny]}}"}, json.dumps({"log": {"access": "all"}})
    )
    with capture_logs() as logs:
        async with client.stream("/notes/stream/"):
            await client.get("/notes/")
            assert [entry["url.path"] for entry in logs if entry["event"] == "request"] == ["/notes/"]
            client.app[SERVICE].hub.open_streams.end()
        await until(lambda: any(entry.get("url.path") == "/notes/stream/" for entry in logs))
