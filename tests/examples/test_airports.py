"""The airports example: 3,376 real rows go in by POST and by COPY, and come out of lists and streams as they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg
import pytest
from examples.airports import load

from rowcast.changes.position import Position
from tests.conftest import ROOT, Client, Serve
from tests.sse import Event, EventSource, listen

FILE = {row["iata"]: row for row in load.rows()}
TEXAS = {iata: row for iata, row in FILE.items() if row["state"] == "TX"}
FENCE = {"iata": "ZZZZ", "name": "Last", "state": "TX", "country": "USA", "latitude": -90.0, "longitude": 180.0}


async def start(serve: Serve) -> Client:
    """The service with the configuration of the example."""
    resources = ROOT / "examples" / "airports" / "resources"
    return await serve({path.stem: path.read_text() for path in resources.glob("*.yaml")})


async def fill(client: Client, sql: asyncpg.Connection, resource: str) -> None:
    """Load the file into a resource the way that the example does."""
    if resource == "airports":
        await load.post(client.session, str(client.make_url("/airports/")))
    else:
        await load.copy(sql)


async def stored(sql: asyncpg.Connection, resource: str) -> dict[str, dict[str, Any]]:
    """The rows that SELECT returns, by key."""
    return {row["iata"]: dict(row) for row in await sql.fetch(f"SELECT * FROM {resource}")}


async def insert_fence(sql: asyncpg.Connection, resource: str) -> None:
    """Insert one more row, in Texas: every earlier event of a stream arrives before it."""
    names, marks = ", ".join(FENCE), ", ".join(f"${place}" for place in range(1, len(FENCE) + 1))
    await sql.execute(f"INSERT INTO {resource} ({names}) VALUES ({marks})", *FENCE.values())


async def until_fence(source: EventSource) -> list[Event]:
    """The events before the fence."""
    events: list[Event] = []
    async for event in source:
        if event.event == "message" and event.json()["id"] == FENCE["iata"]:
            return events
        events.append(event)
    raise EOFError("the stream has ended")


def replay(events: list[Event], resource: str) -> dict[str, dict[str, Any]]:
    """The rows that a client has after these events: inserts only, each row once, at rising positions."""
    rows: dict[str, dict[str, Any]] = {}
    places = [Position.parse(event.id).sort_key for event in events]
    assert places == sorted(set(places)), "positions rise and never repeat"
    changes = [event.json() for event in events]
    assert len({one["seq"] for one in changes}) == len(changes)
    for event, one in zip(events, changes, strict=True):
        assert (event.event, one["action"], one["resource"]) == ("message", "INSERT", resource)
        assert one["id"] == one["data"]["iata"]
        assert one["id"] not in rows, "a row is sent once"
        rows[one["id"]] = one["data"]
    return rows


async def pages(client: Client, address: str | None, towards: str = "next") -> AsyncIterator[list[dict[str, Any]]]:
    """The results of a list's pages, following their links."""
    while address is not None:
        async with client.get(address) as response:
            assert response.status == 200, await response.text()
            body = await response.json()
        yield body["results"]
        following = body[towards]
        address = following and f"{urlsplit(following).path}?{urlsplit(following).query}"


async def walk(client: Client, address: str) -> list[dict[str, Any]]:
    """Every row of a list, page by page."""
    return [row async for page in pages(client, address) for row in page]


@pytest.mark.parametrize("resource", ["airports", "imports"])
async def test_load_is_sent_row_by_row(serve: Serve, sql: asyncpg.Connection, resource: str) -> None:
    """A stream sends every loaded row once and unchanged; with a filter, the matching rows; resumed, the remaining ones."""
    client = await start(serve)
    async with (
        listen(client, f"/{resource}/stream/") as everything,
        listen(client, f"/{resource}/stream/?state=TX") as texas,
    ):
        for source in (everything, texas):
            assert (await source.next()).event == "ready"
        await fill(client, sql, resource)
        async with client.get(f"/{resource}/?page_size=1") as response:
            after_load = response.headers["X-Stream-Position"]
        assert await stored(sql, resource) == FILE
        await insert_fence(sql, resource)
        events = await until_fence(everything)
        assert replay(events, resource) == FILE
        assert replay(await until_fence(texas), resource) == TEXAS

    for middle in (events[0], events[len(events) // 2], events[-1]):
        async with listen(client, f"/{resource}/stream/", last_id=middle.id) as source:
            ready, *rest = await until_fence(source)
            assert ready.event == "ready"
            assert [event.id for event in rest] == [event.id for event in events[events.index(middle) + 1 :]]
            assert [event.data for event in rest] == [event.data for event in events[events.index(middle) + 1 :]]
    async with listen(client, f"/{resource}/stream/", last_id=after_load) as source:
        assert [event.event for event in await until_fence(source)] == ["ready"]


async def test_pages_by_number_have_every_row_once(serve: Serve, sql: asyncpg.Connection) -> None:
    """The pages contain the airports of the file in the requested order, even if thousands have equal values."""
    client = await start(serve)
    await sql.copy_records_to_table("airports", records=[tuple(row.values()) for row in FILE.values()])
    by_key = sorted(FILE.values(), key=lambda row: row["iata"].encode())
    assert await walk(client, "/airports/") == by_key
    assert await walk(client, "/airports/?page_size=37&ordering=-latitude") == sorted(
        by_key, key=lambda row: row["latitude"], reverse=True
    )
    assert await walk(client, "/airports/?page_size=500&ordering=state") == sorted(by_key, key=lambda row: row["state"])
    async with client.get("/airports/?page=34") as response:
        body = await response.json()
        assert (body["count"], body["next"], len(body["results"])) == (3376, None, 76)
    async with client.get("/airports/?page=35") as response:
        assert response.status == 404
    for row in by_key[::20]:
        async with client.get(f"/airports/{row['iata']}/") as response:
            assert await response.json() == row


async def test_pages_by_cursor_have_every_row_once(serve: Serve, sql: asyncpg.Connection) -> None:
    """Cursors lead through all imports and back, in the requested order."""
    client = await start(serve)
    await load.copy(sql)
    by_key = sorted(FILE.values(), key=lambda row: row["iata"].encode())
    by_state = sorted(by_key, key=lambda row: row["state"])
    assert await walk(client, "/imports/") == by_state
    assert await walk(client, "/imports/?ordering=-latitude&page_size=41") == sorted(
        by_key, key=lambda row: row["latitude"], reverse=True
    )
    forth = [page async for page in pages(client, "/imports/?page_size=500")]
    assert [len(page) for page in forth] == [500] * 6 + [376]
    back = [page async for page in pages(client, await last_page(client), "previous")]
    assert [row for page in reversed(back) for row in page] == by_state


async def last_page(client: Client) -> str:
    """The address of the last page of imports."""
    address = "/imports/?page_size=500"
    while True:
        async with client.get(address) as response:
            following = (await response.json())["next"]
        if following is None:
            return address
        address = f"{urlsplit(following).path}?{urlsplit(following).query}"


QUERIES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "latitude__gte=70": lambda row: row["latitude"] >= 70,
    "latitude=71.2854475": lambda row: row["latitude"] == 71.2854475,
    "latitude__range=30,31&longitude__lte=-97": lambda row: 30 <= row["latitude"] <= 31 and row["longitude"] <= -97,
    "state=NA": lambda row: row["state"] == "NA",
    "state__ne=AK": lambda row: row["state"] != "AK",
    "state__isnull=true": lambda row: False,
    "state__in=PR,VI": lambda row: row["state"] in ("PR", "VI"),
    "country__ne=USA": lambda row: row["country"] != "USA",
    'name=W. H. "Bud" Barron': lambda row: row["iata"] == "DBN",
    "name__icontains=moton  ": lambda row: row["name"] == "Moton  Municipal",
    'search="bud" dublin': lambda row: row["iata"] == "DBN",
    "search=dfw": lambda row: row["iata"] == "DFW",
}


async def test_filters_find_what_the_file_has(serve: Serve, sql: asyncpg.Connection) -> None:
    """The list and the stream of a filter contain exactly the rows that match it."""
    client = await start(serve)
    addresses = {query: f"?{quote(query, safe='=&,')}" for query in QUERIES}
    async with AsyncExitStack() as open_streams:
        sources = {
            query: await open_streams.enter_async_context(listen(client, f"/airports/stream/{address}"))
            for query, address in addresses.items()
        }
        for source in sources.values():
            assert (await source.next()).event == "ready"
        await sql.copy_records_to_table("airports", records=[tuple(row.values()) for row in FILE.values()])
        expected = {query: [row for row in FILE.values() if holds(row)] for query, holds in QUERIES.items()}
        for query, address in addresses.items():
            listed = await walk(client, f"/airports/{address}")
            assert listed == sorted(expected[query], key=lambda row: row["iata"]), query
        await sql.execute("TRUNCATE airports")
        for query, source in sources.items():
            changes = [event async for event in until_reset(source)]
            assert list(replay(changes, "airports").values()) == expected[query], query


async def until_reset(source: EventSource) -> AsyncIterator[Event]:
    """The events before the table was emptied."""
    while (event := await source.next()).event != "reset":
        yield event
    assert event.json() == {"resource": "airports", "reason": "truncated"}


async def test_wrong_row_changes_nothing(serve: Serve, sql: asyncpg.Connection) -> None:
    """An invalid row is refused over HTTP, with its field, and fails a whole COPY."""
    client = await start(serve)
    row = FILE["AUS"]
    for field, value in {"iata": "aus", "latitude": 90.5, "longitude": None, "state": "TEX", "name": ""}.items():
        async with client.post("/airports/", json={**row, field: value}) as response:
            assert response.status == 400
            assert list((await response.json())["errors"]) == [field]
        wrong = [tuple(each.values()) for each in (*FILE.values(), {**row, "iata": "AUX", field: value})]
        with pytest.raises(asyncpg.PostgresError):
            await sql.copy_records_to_table("imports", records=wrong)
    await load.copy(sql)
    with pytest.raises(asyncpg.UniqueViolationError):
        await load.copy(sql)
    async with client.post("/airports/", json=row) as response:
        assert response.status == 201
    async with client.post("/airports/", json=row) as response:
        assert response.status == 409
        assert list((await response.json())["errors"]) == ["iata"]
    assert await stored(sql, "airports") == {"AUS": row}
    assert await stored(sql, "imports") == FILE
