"""Integers of 64 bits as strings, for clients whose numbers are floats: ``json: string`` and ``server.big_integers``."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from rowcast.changes.trigger_sync import pending
from rowcast.errors import ConfigurationError

from ..databases import Databases
from .conftest import Run, running
from .library import OPEN, Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

BIG = 9007199254740993  # which no float holds
MOST, LEAST = 2**63 - 1, -(2**63)
SHELVES: dict[str, Any] = {
    "fields": {"id": {"type": "big_integer", "primary_key": True, "required": True}, "name": {"type": "string"}},
}
BOOKS: dict[str, Any] = {
    "fields": {
        "id": {"type": "big_integer", "primary_key": True, "required": True},
        "shelf": {"type": "foreign_key", "to": "shelves", "null": True},
        "others": {"type": "many_to_many", "to": "shelves", "related_name": "visitors"},
        "views": {"type": "big_integer", "default": 7, "min": -5},
        "rank": {"type": "big_integer", "choices": [1, 2, BIG], "default": 1},
        "plain": {"type": "big_integer", "json": "number", "default": 3},
        "marks": {"type": "array", "of": "big_integer", "default": [1]},
        "pages": {"type": "integer", "default": 0},
    },
    "viewset": {
        "filterset_fields": {
            "id": ["in", "gte"],
            "views": ["exact", "gt", "in"],
            "shelf": ["exact"],
            "marks": ["contains"],
        },
        "ordering_fields": ["views"],
        "pagination_class": "CursorPagination",
        "page_size": 1,
        "import": True,
        "aggregates": {
            "group_by": ["shelf", "views"],
            "sum": ["views", "pages", "plain"],
            "max": ["views"],
            "avg": ["views"],
        },
    },
}
LINES: dict[str, Any] = {
    "fields": {"book": {"type": "foreign_key", "to": "books"}, "number": {"type": "integer"}},
    "primary_key": ["book", "number"],
}
RESOURCES = {"shelves": SHELVES, "books": BOOKS, "lines": LINES}
STRINGS = json.dumps({**json.loads(OPEN), "server": {"big_integers": "string"}})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    directory = tmp_path_factory.mktemp("big")
    async with running(databases, directory, RESOURCES, service=STRINGS) as service:
        yield service


@pytest_asyncio.fixture(loop_scope="module")
async def service(_service: Service) -> Service:
    await _service.sql.execute("TRUNCATE shelves, books, lines, books_others RESTART IDENTITY CASCADE")
    return _service


async def shelved(service: Service) -> dict[str, Any]:
    """A shelf, and a book on it; both are sent once as numbers and once as strings."""
    await service.ask("POST", "/shelves/", {"id": BIG, "name": "top"}, status=201)
    body = {"id": str(BIG + 2), "shelf_id": str(BIG), "others": [BIG], "views": str(MOST), "marks": [BIG, str(LEAST)]}
    _, row = await service.ask("POST", "/books/", body, status=201)
    return dict(row)


async def test_values_keys_and_foreign_keys(service: Service) -> None:
    row = await shelved(service)
    expected = {
        "id": str(BIG + 2), "shelf_id": str(BIG), "views": str(MOST), "rank": "1", "plain": 3, "pages": 0,
        "marks": [str(BIG), str(LEAST)],
    }  # fmt: skip
    assert row == expected
    _, found = await service.ask("GET", f"/books/{BIG + 2}/?expand=shelf,others", status=200)
    assert found["shelf"] == {"id": str(BIG), "name": "top"}
    assert found["others"] == [{"id": str(BIG), "name": "top"}]
    _, shelf = await service.ask("GET", f"/shelves/{BIG}/?expand=visitors", status=200)
    assert shelf["visitors"][0]["views"] == str(MOST)
    response, _ = await service.ask("PUT", f"/books/{BIG + 2}/", row, status=200)
    assert response.headers["ETag"]
    response, line = await service.ask("POST", "/lines/", {"book_id": BIG + 2, "number": 1}, status=201)
    assert line == {"book_id": str(BIG + 2), "number": 1}
    assert response.headers["Location"].endswith(f"/lines/{BIG + 2},1/")


@pytest.mark.parametrize("value", [MOST, str(MOST), LEAST, str(LEAST), "0", 0, "-5"], ids=repr)
async def test_strings_and_numbers_are_accepted(service: Service, value: int | str) -> None:
    await service.ask("POST", "/shelves/", {"id": value, "name": "x"}, status=201)
    assert await service.sql.fetchval("SELECT id FROM shelves") == int(value)


@pytest.mark.parametrize(
    "value",
    [MOST + 1, str(MOST + 1), LEAST - 1, str(LEAST - 1), "1.0", 1.5, "x", "", " 1", "9" * 40, True, [], "\u0661"],
    ids=repr,
)
async def test_what_is_no_such_integer_is_refused(service: Service, value: Any) -> None:
    _, problem = await service.ask("POST", "/shelves/", {"id": value, "name": "x"}, status=400)
    assert list(problem["errors"]) == ["id"]
    assert await service.sql.fetchval("SELECT count(*) FROM shelves") == 0


async def test_limits_and_choices(service: Service) -> None:
    for body in ({"id": 1, "views": "-6"}, {"id": 1, "views": -6}, {"id": 1, "rank": "3"}, {"id": 1, "rank": 3}):
        assert (await service.ask("POST", "/books/", body, status=400))[1]["errors"]
    for number, rank in enumerate((str(BIG), BIG, "2", 2)):
        _, row = await service.ask("POST", "/books/", {"id": number, "rank": rank}, status=201)
        assert (row["rank"], row["views"]) == (str(rank), "7")


@pytest.mark.parametrize(
    "query",
    [
        f"?views={MOST}", f"?id__in={BIG + 2},5", f"?shelf={BIG}", f"?marks__contains={BIG}",
        f'?filter={{"views__gt":{MOST - 1}}}', f'?filter={{"views__gt":"{MOST - 1}"}}', f'?filter={{"id__in":["{BIG + 2}",5]}}',
    ],
)  # fmt: skip
async def test_filters(service: Service, query: str) -> None:
    row = await shelved(service)
    _, page = await service.ask("GET", f"/books/{query}", status=200)
    assert page["results"] == [row]


async def test_cursors(service: Service) -> None:
    """Pages follow the order of numbers, not that of strings."""
    values = [9, 10, BIG, BIG + 1, MOST, -5]
    await service.ask("POST", "/books/", [{"id": n, "views": value} for n, value in enumerate(values)], status=201)
    found, path = [], "/books/?ordering=views"
    while path:
        _, page = await service.ask("GET", path, status=200)
        found += [row["views"] for row in page["results"]]
        path = page["next"] and page["next"][page["next"].index("/books/") :]
    assert found == [str(value) for value in sorted(values)]


async def test_many_rows_upserts_import_and_export(service: Service) -> None:
    rows = [{"id": str(BIG + n), "views": str(BIG)} for n in range(3)]
    await service.ask("POST", "/books/", rows, status=201)
    _, changed = await service.ask(
        "PATCH", "/books/", [{"id": str(BIG), "views": 1}, {"id": BIG + 1, "views": "2"}], status=200
    )
    assert [row["views"] for row in changed] == ["1", "2"]
    _, found = await service.ask("PUT", "/books/?on=id", [{"id": str(BIG), "views": 5}, {"id": 4}], status=200)
    assert [(row["id"], row["views"]) for row in found] == [(str(BIG), "5"), ("4", "7")]
    text = f'{{"id": "{MOST}", "views": {MOST}}}\n{{"id": {MOST - 1}, "views": "{MOST}"}}\n'
    imported = await service.client.post("/books/import/", data=text, headers={"Content-Type": "application/x-ndjson"})
    csv = await service.client.post(
        "/books/import/", data=f"id,views\n{LEAST},{BIG}\n", headers={"Content-Type": "text/csv"}
    )
    assert ((await imported.json())["created"], (await csv.json())["created"]) == (2, 1)
    exported = await service.client.get("/books/", headers={"Accept": "application/x-ndjson"})
    lines = [json.loads(line) for line in (await exported.text()).splitlines()]
    assert {line["id"] for line in lines} >= {str(MOST), str(MOST - 1), str(LEAST), str(BIG)}
    table = await service.client.get(f"/books/?id__in={LEAST}", headers={"Accept": "text/csv"})
    assert (await table.text()).splitlines()[1].split(",")[0] == str(LEAST)


async def test_aggregates(service: Service) -> None:
    """Sums have more digits than a float: those of integers of any size are strings, and the rest is as values are."""
    await service.ask("POST", "/shelves/", {"id": BIG, "name": "x"}, status=201)
    rows = [{"id": n, "views": BIG, "pages": 2, "shelf_id": BIG} for n in range(2)]
    await service.ask("POST", "/books/", rows, status=201)
    path = "/books/aggregate/?group_by=shelf&sum=views,pages,plain&max=views&count=*&avg=views"
    _, page = await service.ask("GET", path, status=200)
    (group,) = page["results"]
    assert group.pop("avg_views").startswith(str(BIG))
    assert group == {
        "shelf_id": str(BIG), "sum_views": str(2 * BIG), "sum_pages": "4", "sum_plain": 6, "max_views": str(BIG), "count": 2,
    }  # fmt: skip
    _, page = await service.ask(
        "GET", f"/books/aggregate/?group_by=views&sum=views&sum_views__gte={2 * BIG}", status=200
    )
    assert page["results"] == [{"views": str(BIG), "sum_views": str(2 * BIG)}]


async def test_streams(service: Service) -> None:
    """Ids of events and their data; filters compare numbers."""
    async with service.client.stream(f"/books/stream/?views__gt={BIG - 1}") as events:
        row = await shelved(service)
        event = await events.next()
        assert (event["action"], event["id"]) == ("INSERT", row["id"])
        assert event["data"] == row
        await service.ask("DELETE", f"/books/{row['id']}/", status=204)
        event = await events.next()
        while event["action"] == "UPDATE":  # its links
            event = await events.next()
        assert (event["action"], event["id"]) == ("DELETE", row["id"])
    snapshot = await service.client.get("/shelves/")
    assert (await snapshot.json())["results"][0]["id"] == str(BIG)


async def test_options_and_openapi(service: Service) -> None:
    _, described = await service.ask("OPTIONS", "/books/", status=200)
    fields = described["actions"]["POST"]
    assert (fields["views"]["json"], fields["views"]["default"], fields["rank"]["choices"]) == (
        "string",
        "7",
        ["1", "2", str(BIG)],
    )
    assert fields["plain"]["json"] == "number"
    _, document = await service.ask("GET", "/openapi.json", status=200)
    body = json.dumps(document["components"]["schemas"])
    assert '"format": "int64", "pattern"' in body
    assert '"type": ["integer", "string"]' in body


@pytest.mark.asyncio(loop_scope="function")
async def test_one_field_alone(run: Run) -> None:
    """``json: string`` on a field; the others stay numbers. Without an option nothing is a string, and strings are refused."""
    fields = {
        "id": {"type": "integer", "primary_key": True},
        "views": {"type": "big_integer", "json": "string", "default": BIG},
        "plain": {"type": "big_integer", "default": BIG},
    }
    service = await run({"books": {"fields": fields}})
    _, row = await service.ask("POST", "/books/", {}, status=201)
    assert row == {"id": 1, "views": str(BIG), "plain": BIG}
    await service.ask("PATCH", "/books/1/", {"plain": "1"}, status=400)


@pytest.mark.asyncio(loop_scope="function")
async def test_the_schema_is_the_same_and_streams_begin_again(run: Run, databases: Databases) -> None:
    """Only the functions that log rows change with the form; what is in the log has the old form, so streams get a reset."""
    fields: dict[str, Any] = {
        "id": {"type": "integer", "primary_key": True},
        "views": {"type": "big_integer", "default": 5, "min": 1, "max": 9, "choices": [5, 6]},
    }
    service = await run({"books": {"fields": fields}})
    fields["views"]["json"] = "string"
    other = await run({"books": {"fields": fields}})
    found = await pending(service.sql, other.queries.tables)
    assert found
    assert all("function" in each.problem for each in found)
    assert any("'T'" in each.statement for each in found)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"type": "integer", "json": "string"}, "'json' does not apply to integer"),
        ({"type": "big_integer", "json": "text"}, "string"),
    ],
)
@pytest.mark.asyncio(loop_scope="function")
async def test_mistakes(run: Run, field: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        await run({"books": {"fields": {"views": field}}})
