"""Pagination: all pages together are the list, each row once, in both directions."""

from __future__ import annotations

import base64
import json
import random
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import pytest_asyncio

from ..databases import Databases
from .conftest import running
from .library import OPEN, Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

FIELDS: dict[str, Any] = {
    "n": {"type": "integer", "null": True},
    "word": {"type": "string", "max_length": 50, "null": True},
    "size": {"type": "float", "null": True},
    "at": {"type": "datetime", "null": True},
    "span": {"type": "duration", "null": True},
    "cost": {"type": "decimal", "null": True},
    "done": {"type": "boolean", "default": False},
    "box": {"type": "foreign_key", "to": "boxes", "null": True, "on_delete": "set_null"},
}
ORDERING = ["n", "word", "size", "at", "span", "cost", "done", "box__name", "box"]
VIEW: dict[str, Any] = {
    "filterset_fields": {"n": ["exact", "isnull", "gte"], "word": ["exact"]},
    "ordering_fields": ORDERING,
    "page_size": 10,
    "max_page_size": 50,
}
PAGINATIONS = {"numbers": "PageNumberPagination", "offsets": "LimitOffsetPagination", "cursors": "CursorPagination"}
RESOURCES: dict[str, Any] = {
    "boxes": {"fields": {"name": {"type": "string", "max_length": 20, "null": True}}},
    **{name: {"fields": FIELDS, "viewset": {**VIEW, "pagination_class": cls}} for name, cls in PAGINATIONS.items()},
    **{
        f"{name}-{count}": {
            "table": f"{name}_{count}",
            "model": f"{name.capitalize()}{count.capitalize()}",
            "fields": FIELDS,
            "viewset": {**VIEW, "pagination_class": cls, "count": count},
        }
        for name, cls in PAGINATIONS.items()
        for count in ("estimated", "none")
    },
    "plain": {"fields": FIELDS, "viewset": {**VIEW, "pagination_class": None, "page_size": 1, "max_page_size": 3}},
}
ROWS = 137


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pages(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """Each pagination with the same rows, full of ties and nulls."""
    chance = random.Random(7)
    boxes = [(uuid.UUID(int=n + 1), name) for n, name in enumerate(["x", "y", "y", None])]
    rows = [
        (
            uuid.UUID(int=chance.getrandbits(128)),
            *(
                None if chance.random() < 0.25 else chance.choice(values)
                for values in (
                    [-1, 0, 1],
                    ["a", "b", "b'\"\\", "ü\U0001f600"],
                    [0.1, -0.0, 0.0, 1e-320, 1.7e308],
                    ["0001-01-01T00:00:00Z", "2024-01-01T00:00:00.000001Z", "2024-01-01T00:00:00Z"],
                    ["1 day", "24 hours", "-00:00:00.000001", "999999 days"],
                    ["0.1", "0.10", "-1e30", "123456789012345678901234567890.123456789"],
                    [True, False],
                    [box for box, _ in boxes],
                )
            ),
        )
        for _ in range(ROWS)
    ]
    settings = json.dumps({**json.loads(OPEN), "server": {"allowed_hosts": ["127.0.0.1", "api.example"]}})
    async with running(databases, tmp_path_factory.mktemp("pages"), RESOURCES, settings) as service:
        await service.sql.executemany("INSERT INTO boxes (id, name) VALUES ($1, $2)", boxes)
        for resource in RESOURCES:
            if resource != "boxes":
                await service.sql.executemany(
                    f"INSERT INTO {resource.replace('-', '_')} (id, n, word, size, at, span, cost, done, box_id)"
                    " VALUES ($1, $2, $3, $4, $5::text::timestamptz, $6::text::interval, $7::text::numeric,"
                    " coalesce($8, false), $9)",
                    rows,
                )
        await service.sql.execute("ANALYZE")
        yield service


async def walk(pages: Service, url: str, direction: str = "next") -> list[list[str]]:
    """The ids of every page from one on, following its links."""
    found = []
    while url:
        _, page = await pages.ask("GET", url, status=200)
        found.append([row["id"] for row in page["results"]])
        here, url = url, page[direction]
        if url:
            assert url.startswith(str(pages.client.make_url("/"))), "links are absolute"
            url = url.removeprefix(str(pages.client.make_url("/")).rstrip("/"))
            kept = dict(parse_qsl(urlsplit(here).query))
            for name in ("ordering", "fields", "page_size", "n__isnull"):
                assert dict(parse_qsl(urlsplit(url).query)).get(name) == kept.get(name), "links keep the parameters"
            last = url
    else:
        found.append([last] if len(found) > 1 else [here])
    return found


async def test_pages_together_are_the_list_in_both_directions(pages: Service) -> None:
    """In any order, with ties and nulls, every row is on exactly one page; walking back gives the same pages."""
    chance = random.Random(11)
    _, plain = await pages.ask("GET", "/plain/", status=200)
    everything = {row["id"] for row in plain}
    assert len(everything) == ROWS
    orders = [""] + [
        ",".join(chance.choice(["", "-"]) + name for name in chance.sample(ORDERING, chance.randint(1, 3)))
        for _ in range(9)
    ]
    for ordering in [*orders, *ORDERING]:
        listings = []
        for resource in (*PAGINATIONS, "cursors-none", "numbers-none", "offsets-estimated"):
            size = "limit" if resource.startswith("offsets") else "page_size"
            url = f"/{resource}/?ordering={ordering}&fields=id&{size}=40"
            *ahead, (last,) = await walk(pages, url)
            flat = [key for page in ahead for key in page]
            assert len(flat) == len(set(flat)) == ROWS, (resource, ordering)
            assert [len(page) for page in ahead] == [40, 40, 40, 17]
            listings.append(flat)
            *back, _ = await walk(pages, last, "previous")
            assert list(reversed(back)) == ahead, (resource, ordering)
        assert all(listing == listings[0] for listing in listings), ordering


async def test_pages_keep_the_filter(pages: Service) -> None:
    """A filtered list is paged by itself, and its count is its own."""
    for resource in PAGINATIONS:
        url = f"/{resource}/?n__isnull=true&ordering=word"
        *found, _ = await walk(pages, url)
        _, first = await pages.ask("GET", url, status=200)
        assert (
            first["count"]
            == sum(map(len, found))
            == await pages.sql.fetchval("SELECT count(*) FROM numbers WHERE n IS NULL")
        )


async def test_count_is_exact_estimated_or_none(pages: Service) -> None:
    """``exact`` counts, ``estimated`` takes the planner's number unless a filter makes it count, ``none`` is null."""
    for resource in PAGINATIONS:
        assert (await pages.get(f"/{resource}/"))["count"] == ROWS
        assert (await pages.get(f"/{resource}-estimated/"))["count"] == ROWS
        known = await pages.sql.fetchval("SELECT count(*) FROM numbers WHERE n = 1")
        assert (await pages.get(f"/{resource}-estimated/", n="1"))["count"] == known
        assert (await pages.get(f"/{resource}-none/"))["count"] is None
        assert (await pages.get(f"/{resource}-none/", n="1"))["count"] is None


async def test_ends_of_a_list_have_no_link_beyond(pages: Service) -> None:
    """``previous`` of the first page and ``next`` of the last are null, of a full last page and without a count too."""
    for suffix in ("", "-estimated", "-none"):
        for name in PAGINATIONS:
            path, size = f"/{name}{suffix}/", "limit" if name == "offsets" else "page_size"
            first = await pages.get(path, query={size: "50"})
            assert first["previous"] is None
            assert first["next"]
            rows = await pages.get(path, query={size: "50", "n__gte": "2"})
            assert rows["results"] == []
            assert rows["next"] is None
            assert rows["previous"] is None
            few = await pages.get(path, query={size: "1", "word": "none such"})
            assert few["next"] is None
        count = await pages.sql.fetchval("SELECT count(*) FROM numbers WHERE n = 0")
        for path, size in ((f"/numbers{suffix}/", "page_size"), (f"/offsets{suffix}/", "limit")):
            full = await pages.get(path, query={size: str(count), "n": "0"})
            assert len(full["results"]) == count < 50
            assert full["next"] is None


async def test_sizes_are_clamped_or_refused(pages: Service) -> None:
    """A size above the maximum is the maximum; zero, negative and non-numeric ones are a 400 that names it."""
    for path, name in (("/numbers/", "page_size"), ("/offsets/", "limit"), ("/cursors/", "page_size")):
        assert len((await pages.get(path))["results"]) == 10
        for size in ("50", "51", "100000", "9" * 1000):
            assert len((await pages.get(path, query={name: size}))["results"]) == 50
        for size in (
            "0",
            "-1",
            "x",
            "",
            "1.5",
            "1e3",
            "٣",
            "9" * 1001,
            "+5",
            " 5",
            "0x10",
            "-",
            "--1",
            "null",
            "1,000",
        ):
            problem = await pages.get(path, 400, query={name: size})
            assert problem["detail"].startswith(name), size


async def test_page_out_of_range_is_404_and_not_a_number_400(pages: Service) -> None:
    """Pages before the first and after the last do not exist; a value that is not a number is invalid."""
    for page in ("15", "0", "-1", "9" * 1000, "-" + "9" * 29, "922337203685477581", str(2**63)):
        await pages.get("/numbers/", 404, page=page)
        await pages.get("/numbers-none/", 404, page=page)
    assert len((await pages.get("/numbers/", page="14"))["results"]) == 7
    assert len((await pages.get("/numbers/", page="0014"))["results"]) == 7
    for page in ("x", "", "1.0", "last", "9" * 1001, "1e1"):
        problem = await pages.get("/numbers/", 400, page=page)
        assert problem["detail"].startswith("page")
    empty = await pages.get("/numbers/", page="1", word="none such")
    assert empty == {"count": 0, "next": None, "previous": None, "results": []}
    second = await pages.get("/numbers/", page="2")
    assert "page=" not in second["previous"].partition("?")[2]


async def test_offsets_reach_from_zero_to_anywhere(pages: Service) -> None:
    """An offset after the end gives an empty page; one that is negative, too large or not a number is a 400."""
    for offset in ("137", "1000", "5000000", str(2**63 - 1)):
        page = await pages.get("/offsets/", offset=offset)
        assert page["results"] == []
        assert page["count"] == ROWS
        assert page["next"] is None
        assert page["previous"]
    for offset in ("-1", "x", "", "1.5", str(2**63), "9" * 40):
        problem = await pages.get("/offsets/", 400, offset=offset)
        assert problem["detail"].startswith("offset")


async def test_cursor_not_issued_here_is_refused(pages: Service) -> None:
    """Forged, damaged, of another order or of another resource: a 400 each time."""
    first = await pages.get("/cursors/", ordering="word")
    cursor = dict(parse_qsl(urlsplit(first["next"]).query))["cursor"]
    raw = bytearray(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    raw[-2] ^= 1
    forged = base64.urlsafe_b64encode(bytes(raw)).rstrip(b"=").decode()
    for text in (
        forged,
        cursor[:-3],
        cursor + "AAAA",
        cursor.swapcase(),
        "",
        "x",
        "a" * 5000,
        "é",
        "\0",
        "=",
        "%",
        "0",
    ):
        problem = await pages.get("/cursors/", 400, ordering="word", cursor=text)
        assert problem["detail"].startswith("cursor"), text
        assert problem["code"] == "invalid_cursor"
    for ordering in ("-word", "word,n", "n", ""):
        await pages.get("/cursors/", 400, ordering=ordering, cursor=cursor)
    await pages.get("/cursors-none/", 400, ordering="word", cursor=cursor)
    await pages.get("/cursors/", ordering="word", cursor=cursor, page_size="3", n="1")


async def test_cursor_does_not_show_what_rows_are_sorted_by(pages: Service) -> None:
    """A response may hide that field; equal pages have equal cursors."""
    first, again = [await pages.get("/cursors/", ordering="word", page_size="3") for _ in range(2)]
    assert first == again
    cursor = dict(parse_qsl(urlsplit(first["next"]).query))["cursor"]
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    words = [row["word"] for row in first["results"] if row["word"]]
    assert words
    assert not any(json.dumps(word).encode() in raw for word in words)  # one letter would be there by chance


async def test_cursor_is_stable_while_rows_come_and_go(pages: Service) -> None:
    """Rows added or removed before a cursor's position do not shift the rows after it."""
    table = "cursors_none"
    first = await pages.get("/cursors-none/", ordering="word", page_size="20")
    gone = [uuid.UUID(row["id"]) for row in first["results"]]
    second = await pages.get(f"/cursors-none/?{urlsplit(first['next']).query}")
    kept = await pages.sql.fetch(f"SELECT * FROM {table} WHERE id = ANY($1)", gone)
    await pages.sql.execute(f"DELETE FROM {table} WHERE id = ANY($1)", gone)
    try:
        assert await pages.get(f"/cursors-none/?{urlsplit(first['next']).query}") == second
    finally:
        for row in kept:
            names = ", ".join(row.keys())
            places = ", ".join(f"${n + 1}" for n in range(len(row)))
            await pages.sql.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", *row.values())


async def test_without_pagination_a_list_is_a_capped_array(pages: Service) -> None:
    """``pagination_class: null`` gives an array, of a hundred times ``max_page_size`` rows at most."""
    _, rows = await pages.ask("GET", "/plain/?ordering=-n&n__isnull=false", status=200)
    values = [row["n"] for row in rows]
    assert values == sorted(values, reverse=True)
    for name in ("page", "page_size", "limit", "offset", "cursor"):
        await pages.get("/plain/", 400, query={name: "1"})
    await pages.sql.execute("INSERT INTO plain (n) SELECT 5 FROM generate_series(1, 400)")
    try:
        _, rows = await pages.ask("GET", "/plain/", status=200)
        assert len(rows) == 300
    finally:
        await pages.sql.execute("DELETE FROM plain WHERE n = 5")


async def test_deep_pages_are_the_same_list(pages: Service) -> None:
    """After the thousandth row, where keys are looked up first, pages continue in the same order."""
    add = "INSERT INTO {} (n, word, box_id) SELECT 9, (g / 7)::text, $1 FROM generate_series(1, 1100) g"
    for table in ("numbers", "offsets"):
        await pages.sql.execute(add.format(table), uuid.UUID(int=2))
    try:
        for query in ("ordering=-word", "ordering=box__name,-word", "ordering=-at,word&expand=box"):
            url = f"/offsets/?{query}&n__gte=9&limit=50"
            *ahead, (last,) = await walk(pages, url)
            flat = [key for page in ahead for key in page]
            assert len(flat) == len(set(flat)) == 1100
            *back, _ = await walk(pages, last, "previous")
            assert list(reversed(back)) == ahead
            page = await pages.get(f"/numbers/?{query}&n__gte=9&page_size=50&page=22")
            assert len(page["results"]) == 50
            assert page["next"] is None
        deep = await pages.get("/offsets/?ordering=word&n__gte=9&offset=1099&expand=box&fields=word,box")
        assert deep["results"] == [{"word": "99", "box": {"id": str(uuid.UUID(int=2)), "name": "y"}}]
    finally:
        for table in ("numbers", "offsets"):
            await pages.sql.execute(f"DELETE FROM {table} WHERE n = 9")


async def test_links_name_the_address_that_the_client_used(pages: Service) -> None:
    """``next`` has the host, the path and every parameter of the request, correctly encoded."""
    response, page = await pages.ask(
        "GET",
        "/numbers",
        params={"n__gte": "-1", "page_size": "2", "fields": "id, word"},
        headers={"Host": "api.example:8443"},
    )
    assert response.status == 200
    url = urlsplit(page["next"])
    assert (url.scheme, url.netloc, url.path) == ("http", "api.example:8443", "/numbers")
    assert dict(parse_qsl(url.query)) == {"n__gte": "-1", "page_size": "2", "fields": "id, word", "page": "2"}
    page = await pages.get("/numbers/", word="b'\"\\", page_size="1")
    assert dict(parse_qsl(urlsplit(page["next"]).query))["word"] == "b'\"\\"


STORED: dict[str, tuple[str, list[str]]] = {  # columns, and values that only direct SQL can store
    "at": ("datetime", ["infinity", "-infinity", "0044-03-15 12:00:00.25 BC", "20000-01-01", "2024-01-01"]),
    "day": ("date", ["infinity", "-infinity", "0044-03-15 BC", "20000-01-01", "2024-01-01"]),
    "hour": ("time", ["24:00", "23:59:59.999999", "00:00"]),
    "span": ("duration", ["178000000 years", "-178000000 years", "1 year 2 months", "2562047788 hours", "1 day"]),
    "ratio": ("float", ["NaN", "Infinity", "-Infinity", "1.5"]),
    "cost": ("decimal", ["NaN", "1e2000", "-1e2000", "1.5"]),
    "exact": ("decimal", ["Infinity", "-Infinity", "NaN"]),
}


async def test_cursor_passes_every_stored_value(databases: Databases, tmp_path: Path) -> None:
    """Infinity, NaN, years BC and after 9999, 24:00 and endless durations have pages before and after them."""
    fields = {name: {"type": type_, "null": True} for name, (type_, _) in STORED.items()}
    view = {"ordering_fields": list(fields), "pagination_class": "CursorPagination", "page_size": 1}
    async with running(databases, tmp_path, {"things": {"fields": fields, "viewset": view}}) as service:
        for name, (_, values) in STORED.items():
            column = await service.sql.fetchval(
                "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'things'::regclass AND attname = $1",
                name,
            )
            for value in [value for value in values for _ in range(2)]:
                await service.sql.execute(f"INSERT INTO things ({name}) VALUES ('{value}'::{column})")
        total = await service.sql.fetchval("SELECT count(*) FROM things")
        for name in fields:
            for order in (name, f"-{name}"):
                expected = (await service.get("/things/", ordering=order, page_size=str(total)))["results"]
                pages = await walk(service, f"/things/?ordering={order}")
                assert [each for page in pages[:-1] for each in page] == [row["id"] for row in expected]
                back = await walk(service, pages[-1][0], "previous")
                assert [page[0] for page in back[:-1]][::-1] == [row["id"] for row in expected]
