"""Rows in the order of a field's choices."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import product
from textwrap import dedent
from typing import Any

import pytest
import pytest_asyncio
from yarl import URL

from rowcast.query.pages import PageShape
from rowcast.query.projection import projection_of

from ..databases import Databases
from .conftest import running
from .library import Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

LEVELS = ["low", 'it\'s {n}, "x"', "high"]
PLACES = [3, -1, 2]
RANKED: dict[str, Any] = {"order": "choices", "null": True}
FIELDS: dict[str, Any] = {
    "id": {"type": "integer", "primary_key": True},
    "level": {"type": "string", "max_length": 20, "choices": LEVELS, **RANKED},
    "place": {"type": "integer", "choices": PLACES, "order": "choices"},
    "plain": {"type": "string", "choices": LEVELS, "null": True},
    "grade": {"type": "foreign_key", "to": "grades", "null": True},
}
ORDERING = ["level", "place", "plain", "grade__name"]
PAGINATIONS = ("PageNumberPagination", "LimitOffsetPagination", "CursorPagination")
RESOURCES: dict[str, Any] = {
    "grades": {
        "fields": {
            "id": FIELDS["id"],
            "name": {"type": "string", "choices": ["gamma", "alpha", "beta"], "order": "choices"},
        }
    },
    **{
        pagination.lower(): {
            "fields": FIELDS,
            "viewset": {"pagination_class": pagination, "ordering_fields": ORDERING, "ordering": ["-level"]},
        }
        for pagination in PAGINATIONS
    },
}
MODULES = {
    "urls": dedent("""
        from rowcast import DefaultRouter, ModelViewSet, action, model

        Row = model("cursorpagination")

        class Rows(ModelViewSet):
            model = Row

            @action(detail=False)
            async def sorted(self, request):
                rows = await Row.objects.order_by(*request.query_params["by"].split(","))
                return [row.id for row in rows]

        router = DefaultRouter()
        router.register("rows", Rows, basename="rows")
        """)
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """Three resources with the same rows: every combination of choices, nulls, and a value that is none of them."""
    directory = tmp_path_factory.mktemp("choices")
    async with running(databases, directory, RESOURCES, modules=MODULES) as service:
        await service.sql.execute("INSERT INTO grades (name) VALUES ('alpha'), ('beta'), ('gamma')")
        rows = list(product([*LEVELS, "other", None], PLACES, [*LEVELS[:2], None], [1, 2, 3, None]))
        rows = [row for n, row in enumerate(rows) if n % 4 != 1]
        for table in RESOURCES.keys() - {"grades"}:
            await service.sql.execute(f"ALTER TABLE {table} DROP CONSTRAINT ck_{table}_level_choices")
            await service.sql.executemany(
                f"INSERT INTO {table} (level, place, plain, grade_id) VALUES ($1, $2, $3, $4)", rows
            )
        yield service


def place(step: str, row: dict[str, Any]) -> Any:
    """What a row is sorted by in one step of an order."""
    ranked: dict[str, tuple[list[Any], Any]] = {
        "level": (LEVELS, row["level"]),
        "place": (PLACES, row["place"]),
        "grade__name": ([3, 1, 2], row["grade_id"]),
    }
    name = step.removeprefix("-")
    if name in ranked:
        choices, value = ranked[name]
        return choices.index(value) if value in choices else len(choices)
    return (row[name] is None, row[name] or "") if name == "plain" else row[name]


def in_order(rows: list[dict[str, Any]], ordering: str) -> list[int]:
    """The keys of rows in an order, by Python."""
    rows = sorted(rows, key=lambda row: row["id"])
    for step in reversed(ordering.split(",")):
        rows.sort(key=lambda row: place(step, row), reverse=step.startswith("-"))
    return [row["id"] for row in rows]


ORDERS = [
    "level",
    "-level",
    "place,-level",
    "-grade__name,level",
    "plain,place",
    "-place,grade__name,-level",
]


@pytest.mark.parametrize("ordering", ORDERS)
@pytest.mark.parametrize("pagination", PAGINATIONS)
async def test_rows_are_in_the_order_of_the_choices(service: Service, pagination: str, ordering: str) -> None:
    """Forwards and backwards, over every page, in both directions; null, and what is no choice, is last."""
    path, rows, last = f"/{pagination.lower()}/", [], ""
    size = "limit" if pagination.startswith("Limit") else "page_size"
    following: str | None = f"{path}?ordering={ordering}&{size}=7"
    pages = []
    while following:
        last = str(URL(following).relative()) if following.startswith("http") else following
        body = await service.get(last)
        pages.append([row["id"] for row in body["results"]])
        rows += body["results"]
        following = body["next"]
    assert [row["id"] for row in rows] == in_order(rows, ordering)
    assert len(rows) == await service.sql.fetchval("SELECT count(*) FROM cursorpagination")
    back: list[list[int]] = []
    previous: str | None = last
    while previous:
        body = await service.get(str(URL(previous).relative()) if previous.startswith("http") else previous)
        back.insert(0, [row["id"] for row in body["results"]])
        previous = body["previous"]
    assert back == pages


async def test_default_order_and_query_sets_follow_the_choices(service: Service) -> None:
    """As ``?ordering=`` does."""
    everything = await service.rows("/cursorpagination/", page_size="100")
    following = (await service.get("/cursorpagination/", page_size="100"))["next"]
    everything += (await service.get(str(URL(following).relative())))["results"] if following else []
    default = await service.rows("/pagenumberpagination/", page_size="100")
    assert [row["id"] for row in default] == in_order(everything, "-level")[:100]
    for ordering in ORDERS:
        assert await service.get("/rows/sorted/", by=ordering) == in_order(everything, ordering)


async def test_deep_pages_follow_the_choices(service: Service) -> None:
    """Those that find their keys first."""
    keys = await service.sql.fetch("SELECT id FROM limitoffsetpagination")
    await service.sql.execute(
        "INSERT INTO limitoffsetpagination (level, place) SELECT 'high', 2 FROM generate_series(1, 1000)"
    )
    everything = await service.get("/limitoffsetpagination/", limit="100", offset="1000", ordering="level,place")
    await service.sql.execute("DELETE FROM limitoffsetpagination WHERE NOT id = ANY ($1)", [row["id"] for row in keys])
    assert [place("level", row) for row in everything["results"]] == sorted(
        place("level", row) for row in everything["results"]
    )
    assert len({place("level", row) for row in everything["results"]}) > 1


async def test_documented_index_serves_the_order(service: Service) -> None:
    """The expression of the documentation is that of the statements."""
    await service.sql.execute(
        "CREATE INDEX ON cursorpagination (coalesce(array_position('{3,-1,2}'::integer[], place), 4), id)"
    )
    await service.sql.execute(
        "CREATE INDEX ON cursorpagination"
        r""" (coalesce(array_position('{low,"it''s {n}, \"x\"",high}'::text[], level), 4), id)"""
    )
    resource = service.service.resources["cursorpagination"]
    for name in ("place", "level"):
        page = PageShape(projection_of(resource), (name, "id"), count="none", limit=5)
        statement = service.queries.page(page, ())
        await service.sql.execute("SET enable_seqscan = off")
        plan = await service.sql.fetch(f"EXPLAIN {statement.sql}")
        assert any("Index Scan" in line[0] for line in plan), plan
        assert not any("Sort" in line[0] for line in plan), plan


async def test_document_says_which_orders_are_those_of_choices(service: Service) -> None:
    """In the description of ``ordering``."""
    document = await service.get("/openapi.json")
    parameters = document["paths"]["/pagenumberpagination/"]["get"]["parameters"]
    (ordering,) = [each for each in parameters if each.get("name") == "ordering"]
    assert "The order of level, place, grade__name is that of the choices." in ordering["description"]
