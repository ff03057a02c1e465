"""How many streams and connections may be open, of one caller and in all."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from unittest import mock

import jwt
import pytest
import pytest_asyncio

from rowcast.streams.admission import Admission
from rowcast.streams.subscription import Subscriptions

from ..databases import Databases
from ..http.conftest import running
from ..http.library import Service
from ..sse import EventSource, listen
from ..waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "a secret of at least 32 bytes, for tests"
SETTINGS = json.dumps(
    {
        "auth": {"default_permission_classes": ["AllowAny"], "jwt": {"secret": SECRET}},
        "stream": {"max_streams": 4, "max_streams_per_caller": 2},
    }
)
NOTES = {"fields": {"id": {"type": "integer", "primary_key": True}, "text": {"type": "text", "default": ""}}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    async with running(databases, tmp_path_factory.mktemp("limits"), {"notes": NOTES}, SETTINGS) as service:
        yield service


def user(name: str) -> dict[str, str]:
    """The credentials of a user."""
    token = jwt.encode({"sub": name, "aud": "rowcast", "exp": 4_000_000_000}, SECRET, "HS256")
    return {"Authorization": f"Bearer {token}"}


async def test_open_streams_are_limited_by_caller_and_in_all(service: Service) -> None:
    """A status of its own says so at once; a browser's EventSource, which would give up, gets the time to wait."""
    paths = ("/notes/stream/", "/notes/stream/?snapshot=true", "/stream/?resources=notes")
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(AsyncExitStack())
        await first.enter_async_context(listen(service.client, paths[0]))
        await stack.enter_async_context(listen(service.client, paths[2]))
        for path in paths:
            response, problem = await service.ask("GET", path, status=429)
            assert (problem["code"], response.headers["Retry-After"]) == ("too_many_streams", "30")
            assert problem["detail"].startswith("You have 2 open streams, which is the most.")
        assert (await service.client.head(paths[0])).status == 200
        for _ in range(2):
            await stack.enter_async_context(listen(service.client, paths[0], headers=user("ann")))
        admission = service.service.hub.admission
        with mock.patch.object(admission, "admit", wraps=admission.admit) as admit:
            response, problem = await service.ask("GET", paths[0], status=503, headers=user("bob"))
        assert admit.call_count == 2, "there was another attempt than those of both ways"
        assert (problem["code"], response.headers["Retry-After"]) == ("too_many_streams", "30")
        for headers, status in ((user("ann"), 429), (user("bob"), 503)):
            async with listen(service.client, paths[0], headers=headers) as source:
                busy = await source.next()
                problem = busy.json()
                assert (busy.event, problem["code"], problem["status"]) == ("busy", "too_many_streams", status)
                assert (source.last_id, 30_000 <= (source.retry or 0) <= 60_000) == ("", True)
                with pytest.raises(EOFError):
                    await source.next()
        await first.aclose()
        await until(lambda: service.service.hub.subscribers == 3)
        await stack.enter_async_context(listen(service.client, paths[0], headers=user("bob")))


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/notes/stream/", None),
        ("GET", "/notes/stream/?snapshot=true", None),
        ("GET", "/notes/aggregate/stream/?count=*", None),
        ("GET", "/stream/?resources=notes", None),
        ("QUERY", "/stream/", {"queries": {"a": {"resource": "notes"}, "b": {"resource": "notes"}}}),
    ],
)
async def test_a_stream_whose_client_has_left_is_not_counted(
    databases: Databases, tmp_path: Path, method: str, path: str, body: object
) -> None:
    """Its place is free at once, though nothing is written to it: clients that come and go are not refused."""
    settings = json.dumps(
        {"auth": {"default_permission_classes": ["AllowAny"]}, "stream": {"heartbeat": "1h", "max_streams": 1}}
    )
    async with running(
        databases, tmp_path, {"notes": NOTES | {"viewset": {"aggregates": {"group_by": ["text"]}}}}, settings
    ) as service:
        hub = service.service.hub
        for _ in range(3):
            async with service.client.request(method, path, json=body) as response:
                source = EventSource(response)
                while (event := (await source.next()).event) != "ready":
                    assert event != "busy"
                assert hub.subscribers
                response.close()
            await until(lambda: not hub.subscribers)


async def test_streams_end_at_an_age(databases: Databases, tmp_path: Path) -> None:
    """And their clients resume: a change in between is sent by the next stream."""
    settings = json.dumps({"auth": {"default_permission_classes": ["AllowAny"]}, "stream": {"max_age": "1s"}})
    async with running(databases, tmp_path, {"notes": NOTES}, settings) as service:
        async with listen(service.client, "/notes/stream/") as source:
            assert source.response.headers["Cache-Control"] == "no-cache, no-transform"
            assert [event.event async for event in source] == ["ready"]
        await service.ask("POST", "/notes/", {"text": "a"}, status=201)
        last = source.last_id
        async with listen(service.client, "/notes/stream/", last_id=last) as source:
            assert [(await source.next()).event for _ in range(2)] == ["ready", "message"]


async def test_bytes_that_wait_are_limited_in_all() -> None:
    """The more streams there are, the fewer bytes may wait for each of them."""
    admission = Admission(10_000, 10_000, 256 << 10)
    assert admission.buffer == 256 << 10
    with ExitStack() as stack:
        for _ in range(2048):
            stack.enter_context(admission.admit("ann", Subscriptions([])))
        assert admission.buffer == (128 << 20) // 2048
    assert admission.buffer == 256 << 10


@pytest.mark.parametrize(
    ("limits", "accepted"),
    [
        ({"max_connections": 3}, False),
        ({"max_connections_per_address": 3}, False),
        ({"max_connections_per_address": 3, "trusted_proxies": 1}, True),
    ],
)
async def test_connections_are_limited(
    databases: Databases, tmp_path: Path, limits: dict[str, int], accepted: bool
) -> None:
    """One too many gets a 503 without reading its request; when another one closes there is room again."""
    settings = json.dumps({"auth": {"default_permission_classes": ["AllowAny"]}, "server": limits})
    async with running(databases, tmp_path, {"notes": NOTES}, settings) as service:
        host, port = service.client.host, service.client.port
        held = [await asyncio.open_connection(host, port) for _ in range(3)]

        async def answer(request: bytes) -> bytes:
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(request)
            async with asyncio.timeout(30):
                received = await reader.read()
            writer.close()
            return received

        request = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        if accepted:
            assert (await answer(request)).startswith(b"HTTP/1.1 200 ")
        else:
            head, _, body = (await answer(b"")).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: 10" in head
            assert json.loads(body)["code"] == "overloaded"
        held.pop()[1].close()

        async def is_answered() -> bool:
            with contextlib.suppress(ConnectionError):
                return (await answer(request)).startswith(b"HTTP/1.1 200 ")
            return False

        await until(is_answered)
        for _, writer in held:
            writer.close()
