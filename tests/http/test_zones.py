"""Datetimes over columns without a time zone, whose values are the times of a zone."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from yarl import URL

from ..databases import Databases
from ..sse import listen
from .conftest import running
from .library import OPEN, Service

ZONED = {"type": "datetime", "null": True, "zone": "Europe/Berlin"}
EVENTS = {
    "events": {
        "fields": {
            "id": {"type": "integer", "primary_key": True},
            "title": {"type": "text", "blank": True, "default": ""},
            "at": ZONED | {"min": "2000-01-01T00:00:00+01:00"},
            "until": ZONED | {"default": "2026-07-01T10:00:00Z", "null": False},
            "seen": {"type": "datetime", "zone": "Europe/Berlin", "auto_now": True},
        },
        "viewset": {
            "class": "views:Events",
            "filterset_fields": {"at": ["exact", "ne", "in", "gt", "lte", "range", "isnull"], "title": ["icontains"]},
            "ordering_fields": ["at"],
            "pagination_class": "CursorPagination",
        },
    }
}
VIEWS = """
from rowcast import ModelViewSet, action, model

Event = model("events")

class Events(ModelViewSet):
    model = Event

    @action(detail=False, methods=["POST"])
    async def make(self, request):
        row = await Event.objects.create(**request.data)
        (again,) = await Event.objects.filter(id=row.id, at=row.at)
        again.at = again.at
        again.title = "again"
        await again.save()
        return again

    @action(detail=False, methods=["POST"])
    async def many(self, request):
        (row,) = await Event.objects.bulk_create([Event(**request.data)])
        return row
"""
NOON = "2026-01-31T12:00:00+00:00"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def events(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A table that Rowcast has made."""
    async with running(databases, tmp_path_factory.mktemp("events"), EVENTS, OPEN, {"views": VIEWS}) as service:
        yield service


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def _no_rows(events: Service) -> None:
    await events.sql.execute("TRUNCATE events RESTART IDENTITY")


@pytest.mark.parametrize("path", ["/events/", "/events/make/", "/events/many/"])
async def test_the_column_has_the_time_of_the_zone(events: Service, path: str) -> None:
    """Values that are sent, defaults and the present; responses are in UTC."""
    response = await events.client.post(path, json={"at": NOON})
    assert response.status in (200, 201), await response.text()
    shown = await response.json()
    assert (shown["at"], shown["until"]) == (NOON, "2026-07-01T10:00:00+00:00")
    assert await events.sql.fetchrow(
        "SELECT at::text, until::text, abs(extract(epoch FROM seen - (now() AT TIME ZONE 'Europe/Berlin'))) < 9 FROM events"
    ) == ("2026-01-31 13:00:00", "2026-07-01 12:00:00", True)
    response = await events.client.patch("/events/1/", json={"at": "2026-07-01T12:00:00+02:00"})
    assert (await response.json())["at"] == "2026-07-01T10:00:00+00:00"
    assert await events.sql.fetchval(
        "SELECT abs(extract(epoch FROM seen - (now() AT TIME ZONE 'Europe/Berlin'))) < 9 FROM events"
    )
    assert (await events.client.post("/events/", json={"at": "1999-12-31T22:59:59Z"})).status == 400


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ("at=2026-01-31T13:00:00%2B01:00", True),
        ("at=2026-01-31T13:00:00Z", False),
        ("at__ne=2026-01-31T12:00:00Z", False),
        ("at__in=2026-01-31T12:00:00Z,2026-01-01", True),
        ("at__gt=2026-01-31T11:59:59Z", True),
        ("at__lte=2026-01-31T12:00:00Z", True),
        ("at__range=2026-01-31T12:00:00Z,2026-01-31T12:00:01Z", True),
        ("at__isnull=false", True),
    ],
)
async def test_filters_and_streams_compare_moments(events: Service, filters: str, found: bool) -> None:
    """In the list, and in the stream of it."""
    async with listen(events.client, f"/events/stream/?{filters}") as stream:
        assert (await stream.next()).event == "ready"
        row = await (await events.client.post("/events/", json={"at": NOON})).json()
        listed = (await (await events.client.get(f"/events/?{filters}")).json())["results"]
        assert listed == ([row] if found else [])
        if found:
            assert (await stream.next()).json()["data"] == row


async def test_pages_follow_the_order_of_the_column(events: Service) -> None:
    """Over an hour that the zone has twice."""
    await events.sql.execute(
        "INSERT INTO events (at, seen) SELECT '2026-10-25 00:30'::timestamp + n * interval '30 min', now() FROM generate_series(0, 8) n"
    )
    found: list[str] = []
    following: str | None = "/events/?ordering=-at&page_size=2"
    while following is not None and len(found) < 20:
        page = await (await events.client.get(following)).json()
        found += [row["at"] for row in page["results"]]
        following = page["next"] and str(URL(page["next"]).relative())
    assert len(found) == 9
    assert found == sorted(found, reverse=True)


async def test_the_first_of_two_equal_hours_is_refused(events: Service) -> None:
    """The column would hold the second one."""
    response = await events.client.post("/events/", json={"at": "2026-10-25T00:30:00Z"})
    message = "Europe/Berlin has this hour twice, and the column cannot hold the first one."
    assert (response.status, (await response.json())["errors"]) == (400, {"at": [message]})
    response = await events.client.post("/events/", json={"at": "2026-10-25T01:30:00Z"})
    assert (await response.json())["at"] == "2026-10-25T01:30:00+00:00"
    assert (await (await events.client.options("/events/")).json())["actions"]["POST"]["at"]["zone"] == "Europe/Berlin"
