"""``server.max_active_requests``, and the count of what each limit has refused."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack

import pytest

from rowcast.errors import ConfigurationError
from rowcast.server.middleware import REQUESTS

from ..conftest import Serve, configure
from ..sse import listen
from ..waiting import until
from .conftest import Run
from .library import OPEN, Service

NOTES = {"notes": {"fields": {"text": {"type": "text"}}}, "other": {"fields": {"text": {"type": "text"}}}}


def limited(most: int, **server: object) -> str:
    return json.dumps({**json.loads(OPEN), "server": {"max_active_requests": most, **server}})


def refused(service: Service) -> dict[str, int]:
    return dict(service.client.app[REQUESTS].refused)


async def test_requests_above_the_limit_are_refused(run: Run) -> None:
    """With a 503 that says when to come back; not streams and health, and not once others have been answered."""
    service = await run(NOTES, limited(2))
    client, active = service.client, service.client.app[REQUESTS]
    async with AsyncExitStack() as stack:
        for _ in range(3):
            stream = await stack.enter_async_context(listen(client, "/other/stream/"))
            assert (await stream.next()).event == "ready"
        assert (await client.get("/notes/")).status == 200
        async with service.sql.transaction():
            await service.sql.execute("LOCK TABLE notes")  # what reads it waits
            waiting = [asyncio.create_task(client.get("/notes/")) for _ in range(2)]
            await until(lambda: active.active == 2)
            for method, path in (
                ("GET", "/other/"),
                ("POST", "/other/"),
                ("GET", "/nothing/"),
                ("GET", "/openapi.json"),
            ):
                response, problem = await service.ask(method, path, status=503)
                assert (problem["code"], response.headers["Retry-After"]) == ("overloaded", "1")
            for path in ("/health/live", "/health/ready", "/health/ready/"):
                assert (await client.get(path)).status == 200
            stream = await stack.enter_async_context(listen(client, "/other/stream/"))
            assert (await stream.next()).event == "ready"
        assert [(await each).status for each in waiting] == [200, 200]
        assert (await client.get("/other/")).status == 200
    assert refused(service) == {"max_active_requests": 4}


async def test_requests_that_fail_or_leave_make_room(run: Run) -> None:
    """Also a client that leaves before it is answered."""
    service = await run(NOTES, limited(1))
    client, active = service.client, service.client.app[REQUESTS]
    for _ in range(3):
        await service.ask("GET", "/nothing/", status=404)
        await service.ask("POST", "/notes/", {"no": 1}, status=400)
    async with service.sql.transaction():
        await service.sql.execute("LOCK TABLE notes")
        leaving = asyncio.create_task(client.get("/notes/"))
        await until(lambda: active.active == 1)
        await service.ask("GET", "/other/", status=503)
        leaving.cancel()
    await until(lambda: active.active == 0)
    await service.ask("GET", "/other/")


async def test_preflight_is_answered_and_pages_may_read_the_refusal(run: Run) -> None:
    """A browser would otherwise report a failure of CORS."""
    service = await run(NOTES, limited(1, cors_origins=["https://app.example.com"]))
    origin = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "POST"}
    async with service.sql.transaction():
        await service.sql.execute("LOCK TABLE notes")
        waiting = asyncio.create_task(service.client.get("/notes/"))
        await until(lambda: service.client.app[REQUESTS].active == 1)
        assert (await service.client.options("/other/", headers=origin)).status in (200, 204)
        response = await service.client.get("/other/", headers=origin)
        assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (503, "https://app.example.com")
    await waiting


async def test_each_limit_is_counted(run: Run) -> None:
    """By the name of its setting, whoever finds that it is reached."""
    settings = json.loads(OPEN) | {
        "server": {
            "header_timeout": "100ms", "body_timeout": "100ms", "send_timeout": "200ms",
            "max_connections": 5, "max_connections_per_address": 4,
        },
        "stream": {"max_streams": 1, "max_streams_per_caller": 1},
    }  # fmt: skip
    service = await run(NOTES, json.dumps(settings))
    address = service.client.host, service.client.port
    async with AsyncExitStack() as stack:
        stream = await stack.enter_async_context(listen(service.client, "/notes/stream/"))
        await stream.next()
        for headers in ({}, {"Accept": "text/event-stream"}):
            await service.client.get("/notes/stream/", headers=headers)
    for sent in (
        b"GET /notes/ HTTP/1.1\r\nHost: local",
        b"POST /notes/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
    ):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(sent)
        assert b" 408 " in await reader.readline()
        writer.close()
    connections = [await asyncio.open_connection(*address) for _ in range(5)]
    await until(lambda: "max_connections_per_address" in refused(service))
    for _, writer in connections:
        writer.close()
    found = refused(service)
    assert found.pop("max_connections_per_address") >= 1
    assert found == {"max_streams_per_caller": 2, "header_timeout": 1, "body_timeout": 1}


@pytest.mark.parametrize("most", [0, -1, 1.5, "many"])
async def test_setting_is_checked(most: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A limit of nothing would refuse everything."""
    with pytest.raises(ConfigurationError, match="max_active_requests"):
        configure(tmp_path_factory.mktemp("wrong"), {}, json.dumps({"server": {"max_active_requests": most}}))


async def test_without_the_setting_there_is_nothing_to_pass(serve: Serve) -> None:
    """Requests then go through no further layer."""
    client = await serve()
    assert [each.__module__.rpartition(".")[2] for each in client.app.middlewares] == ["middleware"]
