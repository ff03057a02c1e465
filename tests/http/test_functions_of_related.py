"""Functions of related rows in filters and orders: `books__count__gte=2`, `ordering=-books__price__sum`."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from rowcast.errors import ConfigurationError
from rowcast.orm.expressions import F
from rowcast.orm.model import model
from rowcast.query.store import STORE

from ..sse import listen
from .conftest import Run, running
from .library import Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

NUMBERS = ["exact", "ne", "gte", "lt", "in", "isnull"]
PATHS = {
    "books__count": NUMBERS,
    "books__pages__count": NUMBERS,
    "books__pages__sum": NUMBERS,
    "books__pages__max": NUMBERS,
    "books__price__sum": NUMBERS,
    "books__price__avg": NUMBERS,
    "books__weight__sum": NUMBERS,
    "books__weight__avg": NUMBERS,
    "books__title__min": ["exact", "icontains", "isnull"],
    "books__published__max": ["exact", "isnull"],
    "books__tags__count": NUMBERS,
    "mentor__books__count": NUMBERS,
}
RESOURCES: dict[str, Any] = {
    "authors": {
        "fields": {
            "id": {"type": "integer", "primary_key": True},
            "name": {"type": "string", "max_length": 20},
            "mentor": {"type": "foreign_key", "to": "authors", "null": True, "related_name": "pupils"},
        },
        "viewset": {
            "filterset_fields": PATHS,
            "ordering_fields": list(PATHS),
            "pagination_class": "CursorPagination",
            "aggregates": {"group_by": ["name"]},
            "max_page_size": 1000,
        },
    },
    "books": {
        "soft_delete": "deleted_at",
        "fields": {
            "id": {"type": "integer", "primary_key": True},
            "title": {"type": "string", "max_length": 20},
            "pages": {"type": "integer", "null": True},
            "price": {"type": "decimal", "max_digits": 8, "decimal_places": 2, "null": True},
            "weight": {"type": "real", "null": True},
            "published": {"type": "datetime", "null": True},
            "author": {"type": "foreign_key", "to": "authors", "related_name": "books"},
            "tags": {"type": "many_to_many", "to": "tags", "related_name": "books"},
        },
    },
    "tags": {
        "fields": {"id": {"type": "integer", "primary_key": True}, "name": {"type": "string", "max_length": 5}},
        "viewset": {"filterset_fields": {"books__count": ["gte"]}, "ordering_fields": ["books__count"]},
    },
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(databases: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    async with running(databases, tmp_path_factory.mktemp("functions"), RESOURCES) as service:
        choose = random.Random(3)
        await service.post("/authors/", [{"name": f"a{n % 5}", "mentor_id": 1 if n % 3 else None} for n in range(24)])
        await service.post("/tags/", [{"name": name} for name in "ab"])
        for number in range(40):
            await service.post(
                "/books/",
                {
                    "title": choose.choice("bcd") * 2,
                    "pages": choose.choice([None, 1, 2, 3]),
                    "price": choose.choice([None, "0.10", "0.20", "999999.99"]),
                    "weight": choose.choice([None, 0.1, 0.2, 1.5]),
                    "published": choose.choice([None, "2024-01-01T00:00:00.000001+00:00"]),
                    "author_id": choose.randint(1, 16),
                    "tags": choose.sample([1, 2], number % 3),
                },
            )
        for key in (3, 7, 11):
            await service.delete(f"/books/{key}/")
        yield service


async def expected(service: Service) -> dict[int, dict[str, Any]]:
    """The values of every author, of the rows that the API shows."""
    books = await service.rows("/books/", expand="tags", page_size="100")
    found: dict[int, dict[str, Any]] = {}
    authors = await service.rows("/authors/", page_size="1000")
    for author in authors:
        own = [book for book in books if book["author_id"] == author["id"]]

        def values(name: str, of: type, own: list[dict[str, Any]] = own) -> list[Any]:
            return [of(book[name]) for book in own if book[name] is not None]

        def of(values: list[Any], function: Any) -> Any:
            return function(values) if values else None

        pages, prices, weights = values("pages", int), values("price", Decimal), values("weight", float)
        found[author["id"]] = {
            "books__count": len(own),
            "books__pages__count": len(pages),
            "books__pages__sum": of(pages, sum),
            "books__pages__max": of(pages, max),
            "books__price__sum": of(prices, sum),
            "books__price__avg": of(prices, lambda each: sum(each) / len(each)),
            "books__weight__sum": of(weights, sum),
            "books__weight__avg": of(weights, lambda each: sum(each) / len(each)),
            "books__title__min": of(values("title", str), min),
            "books__published__max": of(values("published", str), max),
            "books__tags__count": sum(len(book["tags"]) for book in own),
        }
    for author in authors:
        mentor = author["mentor_id"]
        found[author["id"]]["mentor__books__count"] = found[mentor]["books__count"] if mentor else 0
    return found


@pytest.mark.parametrize("path", PATHS)
async def test_filters_compare_what_the_rows_have(service: Service, path: str) -> None:
    """Every lookup finds the rows that Python finds; over no rows a count is 0, and any other function null."""
    rows = await expected(service)
    exact = [each[path] for each in rows.values()]
    if "avg" not in path and "weight" not in path:  # which Python rounds otherwise
        for value in {each for each in exact if each is not None}:
            found = await service.rows("/authors/", **{path: str(value), "page_size": "1000"})
            assert {row["id"] for row in found} == {key for key, each in rows.items() if each[path] == value}
    if "isnull" in PATHS[path]:
        found = await service.rows("/authors/", **{f"{path}__isnull": "true", "page_size": "1000"})
        assert {row["id"] for row in found} == {key for key, each in rows.items() if each[path] is None}
    if "gte" in PATHS[path]:
        limit: float = 2 if "count" in path or "max" in path else 1.25
        found = await service.rows("/authors/", **{f"{path}__gte": str(limit), "page_size": "1000"})
        assert {row["id"] for row in found} == {
            key for key, each in rows.items() if each[path] is not None and each[path] >= limit
        }


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("path", PATHS)
async def test_cursors_walk_every_row_in_both_directions(service: Service, path: str, sign: str) -> None:
    """The pages of any size have all rows once, in the order of the values, null being the largest; and so backwards."""
    rows = await expected(service)
    values = {key: each[path] for key, each in rows.items()}
    order = f"{sign}{path}"
    whole = [row["id"] for row in await service.rows("/authors/", ordering=order, page_size="1000")]
    ranks = [(values[key] is None, 0 if values[key] is None else values[key]) for key in whole]
    assert sorted(whole) == sorted(rows)
    assert [round(rank, 9) if isinstance(rank, float | Decimal) else rank for _, rank in ranks] == [
        round(rank, 9) if isinstance(rank, float | Decimal) else rank
        for _, rank in sorted(ranks, reverse=sign == "-")
    ]  # fmt: skip
    for size in ("1", "5"):
        page = await service.get("/authors/", query={"ordering": order, "page_size": size})
        pages = [page["results"]]
        while page["next"]:
            page = await service.get(_path(page["next"]))
            pages.append(page["results"])
        assert [row["id"] for each in pages for row in each] == whole
        for expected_page in reversed(pages[:-1]):
            page = await service.get(_path(page["previous"]))
            assert page["results"] == expected_page
        assert page["previous"] is None


def _path(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.path}?{parts.query}"


async def test_other_surfaces_follow(service: Service) -> None:
    """Groups of conditions, aggregates, exports, OPTIONS and OpenAPI have the same names."""
    rows = await expected(service)
    many = {key for key, each in rows.items() if each["books__count"] >= 3}
    assert many
    group = '{"or": [{"books__count__gte": 3}, {"books__price__sum__lt": -1}]}'
    assert {row["id"] for row in await service.rows("/authors/", filter=group)} == many
    found = await service.rows("/authors/aggregate/", books__count__gte="3")
    assert found == [{"count": len(many)}]
    export = await service.client.get(
        "/authors/?books__count__gte=3&ordering=-books__count&fields=id", headers={"Accept": "text/csv"}
    )
    assert {int(line) for line in (await export.text()).split()[1:]} == many
    listed = (await service.ask("OPTIONS", "/authors/"))[1]["list"]
    assert listed["filters"]["books__count"] == {"type": "big_integer", "lookups": NUMBERS}
    assert listed["filters"]["books__price__sum"]["type"] == "decimal"
    assert "books__count" in listed["ordering"]
    document = await service.get("/openapi.json")
    parameters = {each["name"]: each for each in document["paths"]["/authors/"]["get"]["parameters"] if "name" in each}
    assert parameters["books__count__gte"]["schema"]["type"] == "integer"
    for wrong, message in (("books__count__gte", "Not a valid integer"), ("books__count__gt", "unknown parameter")):
        problem = await service.get("/authors/", 400, query={wrong: "x"})
        assert message in problem["detail"]
    busy = [row["id"] for row in await service.rows("/tags/", ordering="-books__count", books__count__gte="1")]
    assert sorted(busy) == [1, 2]


async def test_answers_follow_the_related_rows(service: Service) -> None:
    """A cached answer is that of the related rows as they are, and so is what a stream sends."""
    made = await service.post("/authors/", {"name": "new"})
    assert await service.rows("/authors/", books__title__min="zz") == []
    book = await service.post("/books/", {"title": "zz", "author_id": made["id"], "tags": []})
    assert [row["id"] for row in await service.rows("/authors/", books__title__min="zz")] == [made["id"]]
    async with listen(service.client, "/authors/stream/?books__title__min=zz") as stream:
        assert (await stream.next()).event == "ready"
        await service.patch("/authors/1/", {"name": "else"})
        await service.patch(f"/authors/{made['id']}/", {"name": "seen"})
        event = (await stream.next()).json()
        assert (event["id"], event["data"]["name"]) == (made["id"], "seen")
    await service.delete(f"/books/{book['id']}/")
    assert await service.rows("/authors/", books__title__min="zz") == []


async def test_annotations_are_filtered_and_sorted_by_in_python(service: Service) -> None:
    """The names of annotations stand for their values in filters, with F, and in orders."""
    STORE.set(service.service.store)
    rows = await expected(service)
    authors = model("authors").objects.annotate(n=("count", "books"), total=("sum", "books__price"))
    found = await authors.filter(n__gte=3).order_by("-n", "id")
    assert [(row.pk, row.n) for row in found] == sorted(
        ((key, each["books__count"]) for key, each in rows.items() if each["books__count"] >= 3),
        key=lambda pair: (-pair[1], pair[0]),
    )
    assert await authors.filter(total__isnull=True).count() == sum(
        each["books__price__sum"] is None for each in rows.values()
    )
    assert await authors.filter(n=F("books__pages__count")).count() == sum(
        each["books__count"] == each["books__pages__count"] for each in rows.values()
    )
    assert await authors.exclude(n__gt=F("n") - 1).count() == 0
    with pytest.raises(ValueError, match="has no field 'm'"):
        await authors.filter(m=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ordering_fields": ["books__cuont"]}, "books has no field 'cuont'; did you mean count"),
        ({"ordering_fields": ["books"]}, "leads to many values"),
        ({"filterset_fields": ["books__title__sum"]}, "'title' of books is not a relation, so 'sum' cannot follow it"),
        ({"filterset_fields": ["name__count"]}, "'name' of authors is not a relation"),
        ({"filterset_fields": {"books__secret__max": ["exact"]}}, "is write_only"),
        ({"aggregates": {"sum": ["books__count"]}}, "is computed from a field"),
        ({"filterset_fields": {"books__count": ["year"]}}, "'year' does not suit 'books__count'"),
    ],
)
async def test_wrong_names_are_refused_at_start(run: Run, options: dict[str, Any], message: str) -> None:
    books = {
        **RESOURCES["books"],
        "fields": {**RESOURCES["books"]["fields"], "secret": {"type": "integer", "null": True, "write_only": True}},
    }
    with pytest.raises(ConfigurationError, match=message):
        await run({**RESOURCES, "books": books, "authors": {**RESOURCES["authors"], "viewset": options}})
