"""Background work that fails is logged and started again, and the service is not ready meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from unittest import mock

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from rowcast.changes import retention, ticks
from rowcast.changes.feed import Feed
from rowcast.server import lifecycle
from rowcast.streams import hub
from rowcast.streams.group import Group
from rowcast.tasks import Supervisor

from ..databases import Databases
from ..sse import EventSource, listen
from ..waiting import until
from .conftest import running
from .library import Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTINGS = json.dumps(
    {
        "auth": {"default_permission_classes": ["AllowAny"]},
        "stream": {"heartbeat": "100ms", "retention": "10s"},
    }
)
NOTES = {
    "fields": {"id": {"type": "integer", "primary_key": True}, "text": {"type": "text", "default": ""}},
    "viewset": {"filterset_fields": {"text": ["regex"]}},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    with (
        mock.patch.object(hub, "CREDENTIALS_CHECK_SECONDS", 0.05),
        mock.patch.object(lifecycle, "WATCH_SECONDS", 0.05),
    ):
        async with running(databases, tmp_path_factory.mktemp("tasks"), {"notes": NOTES}, SETTINGS) as service:
            yield service


class Broken:
    """A stream whose credentials cannot be read."""

    @property
    def auths(self) -> Any:
        raise RuntimeError("broken")

    def end(self) -> None:
        pass


@contextlib.contextmanager
def broken_stream(service: Service) -> Iterator[None]:
    stream: Any = Broken()
    service.service.hub.open_streams._open.add(stream)
    try:
        yield
    finally:
        service.service.hub.open_streams._open.discard(stream)


FAULTS: dict[str, Any] = {
    "feed": lambda _: mock.patch.object(ticks, "look", side_effect=RuntimeError("broken")),
    "ticker": lambda _: mock.patch.object(ticks, "make_tick", side_effect=RuntimeError("broken")),
    "log maintenance": lambda _: mock.patch.object(retention, "maintain", side_effect=RuntimeError("broken")),
    "stream heartbeats": lambda _: mock.patch.object(Group, "keep_alive", side_effect=RuntimeError("broken")),
    "stream credentials": broken_stream,
    "table watch": lambda _: mock.patch.object(Feed, "unlogged_tables", side_effect=RuntimeError("broken")),
}


async def next_row(source: EventSource) -> Any:
    """The next change of a row."""
    while (event := await source.next()).event != "message":
        pass
    return event.json()["data"]


@pytest.mark.parametrize("name", FAULTS)
async def test_background_task_that_fails_is_logged_and_started_again(service: Service, name: str) -> None:
    """However often it fails: readiness names it until it works again, and then nothing is missing."""

    async def failed() -> bool:
        response = await service.client.get("/health/ready")
        return response.status == 503 and f": {name};" in (await response.json())["reason"]

    async def is_ready() -> bool:
        return (await service.client.get("/health/ready")).status == 200

    async with listen(service.client, "/notes/stream/") as source:
        assert (await source.next()).event == "ready"
        with capture_logs() as logs:
            with FAULTS[name](service):
                await until(failed)
                await until(lambda: len([each for each in logs if each.get("task") == name]) >= 2)
            await until(is_ready)
        entry = next(each for each in logs if each.get("task") == name)
        assert (entry["event"], entry["log_level"], str(entry["exc_info"])) == (
            "background_task_failed", "error", "broken",
        )  # fmt: skip
        row = await service.post("/notes/", {"text": name})
        assert await next_row(source) == row


async def test_group_that_fails_ends_only_its_own_streams(service: Service) -> None:
    """Its clients connect again and miss nothing; the service stays ready."""
    async with (
        listen(service.client, "/notes/stream/?text__regex=a.c") as ends,
        listen(service.client, "/notes/stream/") as stays,
    ):
        assert [(await source.next()).event for source in (ends, stays)] == ["ready", "ready"]
        with capture_logs() as logs, mock.patch.object(Feed, "read", side_effect=RuntimeError("broken")):
            row = await service.post("/notes/", {"text": "abc"})
            assert await next_row(stays) == row
            with pytest.raises(EOFError):
                await ends.next()
        assert [each for each in logs if each["event"] == "streams_ended"]
        async with listen(service.client, "/notes/stream/?text__regex=a.c", last_id=ends.last_id) as again:
            assert await next_row(again) == row
    await service.get("/health/ready")


async def test_task_that_returns_or_is_cancelled_from_within_starts_again() -> None:
    """Neither end is meant, so both are failures."""
    supervisor, runs = Supervisor(), 0
    steady = asyncio.Event()

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            return
        if runs == 2:
            raise asyncio.CancelledError
        steady.set()
        await asyncio.Event().wait()

    with capture_logs() as logs:
        task = supervisor.run("work", work)
        await steady.wait()
        assert list(supervisor.down) == ["work"]
        await until(lambda: not supervisor.down)
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()
    assert [each["task"] for each in logs] == ["work", "work"]
