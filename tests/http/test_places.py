"""Pages far from the beginning are read from places that are known, and are the same pages."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from rowcast.query.pages import PageShape
from rowcast.rest.places import PLACES_MAX, Places

from ..databases import Databases
from ..waiting import until
from .conftest import running
from .library import Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

FIELDS: dict[str, Any] = {
    "word": {"type": "string", "max_length": 1000},
    "cost": {"type": "decimal", "max_digits": 12, "decimal_places": 2},
    "size": {"type": "float"},
    "at": {"type": "datetime"},
    "day": {"type": "date", "null": True},
    "owner": {"type": "integer"},
    "box": {"type": "foreign_key", "to": "boxes", "null": True},
}
ORDERING = ["word", "cost", "size", "at", "day", "owner", "box__name"]
VIEW = {
    "filterset_fields": {"owner": ["exact", "lt"]},
    "ordering_fields": ORDERING,
    "expandable": ["box"],
    "page_size": 20,
    "max_page_size": 100,
}
RESOURCES: dict[str, Any] = {
    "boxes": {"fields": {"name": {"type": "string", "max_length": 20}}},
    "things": {"fields": FIELDS, "viewset": VIEW},
    "slices": {"fields": FIELDS, "viewset": {**VIEW, "pagination_class": "LimitOffsetPagination", "count": "none"}},
}
ROWS = 3000
FRESH = {"Cache-Control": "no-cache"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def long(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """Two lists of 3,000 rows, with many ties."""
    async with running(databases, tmp_path_factory.mktemp("places"), RESOURCES) as service:
        await service.sql.execute("INSERT INTO boxes (name) SELECT 'box ' || n FROM generate_series(1, 3) n")
        for table in ("things", "slices"):
            await service.sql.execute(
                f"INSERT INTO {table} (word, cost, size, at, day, owner, box_id) SELECT"
                f" 'w' || n % 7, n % 100 / 8.0, n % 11 / 3.0, '2026-01-01'::timestamptz + n % 500 * interval '1 microsecond',"
                f" nullif(n % 4, 0) + '2026-01-01'::date, n % 2, (SELECT id FROM boxes ORDER BY name LIMIT 1 OFFSET n % 3)"
                f" FROM generate_series(1, {ROWS}) n"
            )
        await service.sql.execute("ANALYZE")
        yield service


@pytest.fixture
def shapes(long: Service, monkeypatch: pytest.MonkeyPatch) -> list[PageShape]:
    """The shapes of the pages that are read while a test runs."""
    read: list[PageShape] = []
    page = long.queries.page

    def note(shape: PageShape, where: Any) -> Any:
        read.append(shape)
        return page(shape, where)

    monkeypatch.setattr(long.queries, "page", note)
    return read


async def same(long: Service, path: str, **params: str) -> Any:
    """A page, which is the one that is read without what is kept."""
    shown = await long.get(path, query=params)
    _, fresh = await long.ask("GET", path, params=params, headers=FRESH, status=200)
    assert shown == fresh
    return shown


async def quiet(long: Service) -> None:
    """The feed has told of every change, so that what is kept may be used."""
    await until(lambda: long.service.cache.fresh)


async def by_sql(long: Service, statement: str) -> None:
    """Change rows, until the feed has told of that."""
    generation = long.service.cache.generation
    await long.sql.execute(statement)
    await until(lambda: long.service.cache.generation > generation and long.service.cache.fresh)


async def test_a_list_is_read_from_page_to_page(long: Service, shapes: list[PageShape]) -> None:
    """Without the rows before each page, whose place the page before has left."""
    await quiet(long)
    seen, address = [], "/things/?page=51&page_size=50&ordering=-word"
    while address:
        shown = await same(long, address)
        seen += [row["id"] for row in shown["results"]]
        address = str(shown["next"] or "").removeprefix(str(long.client.make_url("")).rstrip("/"))
    assert len(set(seen)) == len(seen) == ROWS - 2500
    assert sum(bool(shape.after) for shape in shapes) >= 8, "most pages are read from a place"


async def test_a_page_that_is_read_again_begins_at_its_place(long: Service, shapes: list[PageShape]) -> None:
    await quiet(long)
    for _ in range(3):
        await same(long, "/slices/", offset="2000", ordering="cost")
    kept, fresh = shapes[0::2], shapes[1::2]
    assert [shape.has_offset for shape in kept] == [True, False, False]
    assert [shape.keyset for shape in kept] == [True, False, False]
    assert all(shape.has_offset and not shape.keyset for shape in fresh)


@pytest.mark.parametrize("seed", range(6))
async def test_pages_from_places_are_those_at_offsets(long: Service, shapes: list[PageShape], seed: int) -> None:
    """In any order, with filters and related rows, at offsets that are visited in any order."""
    await quiet(long)
    chance = random.Random(seed)
    for _ in range(12):
        order = ",".join(chance.choice(("", "-")) + name for name in chance.sample(ORDERING, chance.randint(1, 3)))
        more = chance.choice(({}, {"owner": "1"}, {"owner__lt": "1"}, {"expand": "box"}, {"fields": "word,id"}))
        for number in chance.choices((40, 41, 42, 55, 60, 61, 74, 75), k=6):
            await same(
                long, "/slices/", ordering=order, limit="20", offset=str(number * 20 + chance.randint(0, 1)), **more
            )
            if "owner" not in more and "owner__lt" not in more:
                await same(long, "/things/", ordering=order, page=str(2 * number), **more)
    assert any(shape.after and shape.has_offset for shape in shapes)
    assert any(shape.after and not shape.has_offset for shape in shapes)


async def test_places_move_with_the_rows(long: Service) -> None:
    """A write through the service counts at once, and one by SQL when the feed has told of it."""
    await quiet(long)
    body = {"word": "a", "cost": "0.00", "size": 0.0, "at": "2020-01-01T00:00:00Z", "owner": 5}
    for ordering in ("at", "word"):
        before = await same(long, "/things/", ordering=ordering, page="101")
        await quiet(long)
        await same(long, "/things/", ordering=ordering, page="101")
        made = await long.post("/things/", body)
        after = await same(long, "/things/", ordering=ordering, page="101")
        assert after["results"][1:] == before["results"][:-1]
        await long.delete(f"/things/{made['id']}/")
        assert await same(long, "/things/", ordering=ordering, page="101") == before
        await quiet(long)
        await same(long, "/things/", ordering=ordering, page="101")
        await by_sql(long, "DELETE FROM things WHERE id = (SELECT id FROM things ORDER BY at, word, id LIMIT 1)")
        await same(long, "/things/", ordering=ordering, page="101")


async def test_a_page_after_the_last_is_none(long: Service) -> None:
    await quiet(long)
    for _ in range(2):
        await same(long, "/slices/", offset="2990")
        await same(long, "/slices/", offset="4000")
        await long.get("/things/", status=404, page="500")


async def test_no_place_where_no_index_leads_to_it(long: Service, shapes: list[PageShape]) -> None:
    """Where null sorts with the first values, and where these are of another row."""
    await quiet(long)
    for ordering, _ in itertools.product(("day", "-day", "box__name"), range(2)):
        await same(long, "/slices/", offset="1500", ordering=ordering)
    assert not any(shape.after for shape in shapes)


async def test_long_values_are_not_kept(long: Service, shapes: list[PageShape]) -> None:
    await by_sql(long, "UPDATE slices SET word = repeat('é', 900) WHERE id IN (SELECT id FROM slices LIMIT 900)")
    for _ in range(2):
        await same(long, "/slices/", offset="2200", ordering="word")
    assert not any(shape.after for shape in shapes)


async def test_places_are_bounded(long: Service) -> None:
    """The oldest ones of a list are dropped, and what is kept is counted."""
    await quiet(long)
    for offset in range(1000, 1000 + 2 * PLACES_MAX):
        await long.get("/slices/", query={"offset": str(offset), "ordering": "size"})
    found = [value.value for value in long.service.cache._entries.values() if isinstance(value.value, Places)]
    assert max(len(places.by_offset) for places in found) == PLACES_MAX
    assert long.service.cache.held >= 1500 * PLACES_MAX
