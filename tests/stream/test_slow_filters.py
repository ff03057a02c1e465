"""Filters that take too long end their own streams, and delay nobody else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from urllib.parse import quote

import pytest
import pytest_asyncio

from ..databases import Databases
from ..http.conftest import running
from ..http.library import Service
from ..sse import listen
from ..waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTINGS = json.dumps({"auth": {"default_permission_classes": ["AllowAny"]}, "stream": {"filter_timeout": "250ms"}})
NOTES = {
    "fields": {"id": {"type": "integer", "primary_key": True}, "text": {"type": "text", "default": ""}},
    "viewset": {"filterset_fields": {"text": ["exact", "regex", "in"], "id": ["in"]}, "search_fields": ["$text"]},
}
EXPLODES = r"(.+)(.+)(.+)\3\2\1"
LONG = "".join(chr(0x4E00 + n) for n in range(3000))  # no character twice, so that every attempt fails


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    async with running(databases, tmp_path_factory.mktemp("slow"), {"notes": NOTES}, SETTINGS) as service:
        yield service


@pytest.mark.parametrize("snapshot", ["", "&snapshot=true"])
async def test_stream_whose_filter_takes_too_long_ends(service: Service, snapshot: str) -> None:
    """With a reason and a long time until the client comes back; requests and other streams are as fast as before."""
    await service.sql.execute("DELETE FROM notes")
    first = 10 if snapshot else 0
    paths = [f"/notes/stream/?text__regex={quote(EXPLODES)}x{{0,{n}}}{snapshot}" for n in range(first, first + 10)]
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(listen(service.client, path)) for path in paths]
        other = await stack.enter_async_context(listen(service.client, "/notes/stream/?text__regex=^"))
        for source in (*slow, other):
            assert (await source.next()).event in ("ready", "snapshot")
        row = await service.post("/notes/", {"text": LONG})
        for _ in range(20):
            start = loop.time()
            await service.rows("/notes/")
            assert loop.time() - start < 0.25
        for source in slow:
            event = await source.next()
            assert (event.event, event.json()) == ("reset", {"resource": "notes", "reason": "filter_timeout"})
            assert bool(event.id) is not bool(snapshot)  # without an id, all rows are sent again
            assert source.retry == 60_000
            with pytest.raises(EOFError):
                await source.next()
        while (event := await other.next()).event != "message":
            pass
        assert event.json()["data"] == row
    _, problem = await service.ask("GET", paths[0], status=503)
    assert problem["code"] == "statement_timeout"
    assert (await service.client.get(paths[0])).headers["Retry-After"] in ("49", "50", "51")


@pytest.mark.parametrize(
    ("parameters", "detail"),
    [
        ({"text__regex": "a" * 201}, "text__regex: A regular expression has at most 200 characters."),
        ({"search": "a" * 201}, "search: A regular expression has at most 200 characters."),
    ],
)
async def test_regular_expressions_have_a_length(service: Service, parameters: dict[str, str], detail: str) -> None:
    """For lists and streams."""
    for path in ("/notes/", "/notes/stream/"):
        assert (await service.get(path, 400, parameters))["detail"] == detail


async def test_streams_have_few_expressions_and_values(service: Service) -> None:
    """A stream keeps its filter as long as it is open; a list takes more."""
    words, many = " ".join(map(str, range(9))), ",".join(map(str, range(1001)))
    problem = await service.get("/notes/stream/", 400, {"search": words})
    assert problem["detail"] == "At most 8 regular expressions on a stream."
    for name in ("text__in", "id__in"):
        problem = await service.get("/notes/stream/", 400, {name: many})
        assert problem["detail"] == f"{name}: at most 1000 values on a stream."
        await service.get("/notes/", 200, {name: many})
    await service.get("/notes/", 200, {"search": words})


async def test_stream_that_has_been_admitted_begins(service: Service) -> None:
    """Also if its filter is refused while its rows are read: its client has a response, and can get no error any more."""
    hub = service.service.hub
    path = "/notes/stream/?text__regex=late$&snapshot=true"
    async with AsyncExitStack() as stack:
        async with service.sql.transaction():
            await service.sql.execute("LOCK TABLE notes")
            opening = asyncio.create_task(stack.enter_async_context(listen(service.client, path)))
            await until(lambda: _waits_for_lock(service))
            for subscriptions in hub._subscriptions.values():
                for each in subscriptions:
                    hub.admission.refuse(each.query)
        source = await opening
        assert (await source.next()).event in ("snapshot", "ready")
    await service.get(path.partition("?")[0], 503, {"text__regex": "late$"})


async def _waits_for_lock(service: Service) -> bool:
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    return bool(await service.sql.fetchval(waiting))
