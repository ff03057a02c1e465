"""``soft_delete``: DELETE marks a row, and every surface leaves it out until it is restored or deleted for good."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from rowcast.testing.events import Changes

from ..sse import listen
from .conftest import running
from .library import Service
from .test_declared_scope import SETTINGS, bearer

ADMIN = bearer("root", is_staff=True)
ANN = bearer("ann")

RESOURCES: dict[str, Any] = {
    "authors": {
        "soft_delete": "deleted_at",
        "fields": {
            "id": {"type": "integer", "primary_key": True},
            "name": {"type": "string", "max_length": 20, "unique": True},
            "site": {"type": "string", "max_length": 20, "default": "x"},
            "rank": {"type": "integer", "null": True},
        },
        "unique": [["site", "rank"]],
        "viewset": {
            "filterset_fields": {"name": ["exact"], "rank": ["gte"], "books__title": ["exact"]},
            "search_fields": ["name"],
            "ordering_fields": ["name"],
            "ordering": ["id"],
            "aggregates": {"group_by": ["site"], "sum": ["rank"]},
            "bulk": ["update", "destroy"],
            "cache": "responses",
        },
    },
    "tags": {
        "soft_delete": {"field": "gone", "permission_classes": ["IsAuthenticated"]},
        "fields": {
            "id": {"type": "integer", "primary_key": True},
            "name": {"type": "string", "max_length": 20},
            "gone": {"type": "datetime", "null": True, "read_only": True, "zone": "Europe/Berlin"},
        },
        "viewset": {"ordering": ["id"]},
    },
    "books": {
        "fields": {
            "id": {"type": "integer", "primary_key": True},
            "title": {"type": "string", "max_length": 20},
            "author": {"type": "foreign_key", "to": "authors", "null": True, "related_name": "books"},
            "tags": {"type": "many_to_many", "to": "tags", "related_name": "books"},
        },
        "viewset": {
            "filterset_fields": {
                "author": ["exact", "isnull"], "author__name": ["exact"], "tags": ["exact"], "tags__name": ["exact"],
            },
            "ordering_fields": ["author__name"],
            "ordering": ["id"],
            "prefetch_related": ["tags"],
        },
    },
}  # fmt: skip
ROWS = """
    INSERT INTO authors (name, site, rank) VALUES ('ann', 'x', 1), ('bob', 'x', 2), ('cat', 'y', 3);
    INSERT INTO tags (name) VALUES ('old'), ('new');
    INSERT INTO books (title, author_id) VALUES ('a1', 1), ('a2', 1), ('b1', 2);
    INSERT INTO books_tags (book_id, tag_id) VALUES (1, 1), (1, 2), (2, 1)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _service(databases: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    async with running(databases, tmp_path_factory.mktemp("soft"), RESOURCES, SETTINGS) as service:
        yield service


@pytest_asyncio.fixture(loop_scope="module")
async def service(_service: Service) -> Service:
    """Three authors, two tags and three books."""
    await _service.sql.execute("TRUNCATE authors, tags, books, books_tags RESTART IDENTITY")
    await _service.sql.execute(ROWS)
    _service.service.cache.clear()
    return _service


def names(body: Any) -> list[str]:
    """The names in a list."""
    assert body["count"] == len(body["results"])
    return [row["name"] for row in body["results"]]


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_deleted_row_is_nowhere_and_comes_back(service: Service) -> None:
    await service.ask("GET", "/authors/1/", status=200)
    _, before = await service.ask("GET", "/authors/1/", status=200)
    assert before["deleted_at"] is None
    await service.ask("DELETE", "/authors/1/", status=204)
    await service.ask("DELETE", "/authors/1/", status=404)
    for method, body in (("GET", None), ("PATCH", {"rank": 9}), ("PUT", {"name": "x"})):
        await service.ask(method, "/authors/1/", body, status=404)
    assert names(await service.get("/authors/")) == ["bob", "cat"]
    assert names(await service.get("/authors/?search=ann")) == []
    assert await service.sql.fetchval("SELECT deleted_at <= now() FROM authors WHERE id = 1")
    assert await service.sql.fetchval("SELECT count(*) FROM books WHERE author_id = 1") == 2  # children are not touched

    await service.ask("POST", "/authors/1/restore/", status=401)
    await service.ask("POST", "/authors/1/restore/", status=403, headers=ANN)
    response, restored = await service.ask("POST", "/authors/1/restore/", status=200, headers=ADMIN)
    assert restored == before
    assert (await service.ask("GET", "/authors/1/", status=200))[0].headers["ETag"] == response.headers["ETag"]
    await service.ask("POST", "/authors/1/restore/", status=404, headers=ADMIN)
    await service.ask("POST", "/authors/99/restore/", status=404, headers=ADMIN)
    assert names(await service.get("/authors/")) == ["ann", "bob", "cat"]


async def test_relations_leave_deleted_rows_out(service: Service) -> None:
    await service.ask("DELETE", "/authors/1/", status=204)
    await service.ask("DELETE", "/tags/1/", status=204)
    books = (await service.get("/books/?expand=author"))["results"]
    assert [(row["author_id"], row["author"]) for row in books[:2]] == [(1, None), (1, None)]
    assert books[2]["author"]["name"] == "bob"
    assert [[tag["name"] for tag in row["tags"]] for row in books] == [["new"], [], []]
    assert [row["id"] for row in (await service.get("/books/?author__name=ann"))["results"]] == []
    assert [row["id"] for row in (await service.get("/books/?author=1"))["results"]] == [1, 2]
    for query, found in (("tags=1", []), ("tags=2", [1]), ("tags__name=old", []), ("tags__name=new", [1])):
        assert [row["id"] for row in (await service.get(f"/books/?{query}"))["results"]] == found, query
    assert [row["id"] for row in (await service.get("/books/?ordering=author__name"))["results"]] == [3, 1, 2]
    await service.ask("PUT", "/books/1/", {"title": "a1", "tags": [2]}, status=200)
    await service.ask("POST", "/tags/1/restore/", status=200, headers=ANN)
    _, book = await service.ask("GET", "/books/1/", status=200)
    assert [tag["name"] for tag in book["tags"]] == ["old", "new"]  # the link has stayed
    await service.ask("DELETE", "/tags/2/", status=204)
    tags = (await service.get("/tags/?expand=books"))["results"]
    assert [(tag["name"], len(tag["books"])) for tag in tags] == [("old", 2)]


async def test_new_keys_of_deleted_rows_are_refused(service: Service) -> None:
    await service.ask("DELETE", "/authors/1/", status=204)
    await service.ask("DELETE", "/tags/1/", status=204)
    for method, path, body in (
        ("POST", "/books/", {"title": "n", "author_id": 1}),
        ("PATCH", "/books/3/", {"author_id": 1}),
        ("PATCH", "/books/3/", {"tags": [1]}),
    ):
        _, problem = await service.ask(method, path, body, status=400)
        assert problem["code"] == "does_not_exist"
        assert set(problem["errors"]) == {next(name for name in body if name != "title")}
    _, problem = await service.ask("POST", "/books/", [{"title": "n"}, {"title": "m", "author_id": 1}], status=400)
    assert problem["errors"] == {"1": {"author_id": ["There is no row with this key."]}}
    await service.ask("PATCH", "/books/1/", {"title": "kept", "author_id": 1}, status=200)  # it has this key already
    operations = [
        {"method": "DELETE", "path": "/authors/2/"},
        {"method": "POST", "path": "/books/", "body": {"title": "n", "author_id": 2}},
    ]
    _, problem = await service.ask("POST", "/batch/", {"operations": operations}, status=400)
    assert problem["operation"] == 1
    await service.ask("GET", "/authors/2/", status=200)


async def test_unique_rules_are_about_rows_that_are_not_deleted(service: Service) -> None:
    await service.ask("DELETE", "/authors/1/", status=204)
    _, new = await service.ask("POST", "/authors/", {"name": "ann", "rank": 1}, status=201)
    _, problem = await service.ask("POST", "/authors/", {"name": "ann"}, status=409)
    assert set(problem["errors"]) == {"name"}
    _, problem = await service.ask("POST", "/authors/1/restore/", status=409, headers=ADMIN)
    assert (problem["code"], set(problem["errors"]) <= {"name", "site", "rank"}) == ("unique", True)
    await service.ask("DELETE", f"/authors/{new['id']}/", status=204)
    await service.ask("POST", "/authors/1/restore/", status=200, headers=ADMIN)
    _, problem = await service.ask("POST", f"/authors/{new['id']}/restore/", status=409, headers=ADMIN)
    assert problem["errors"]


async def test_upserts_do_not_find_deleted_rows(service: Service) -> None:
    await service.ask("DELETE", "/authors/1/", status=204)
    response, row = await service.ask("PUT", "/authors/?on=name", {"name": "ann", "rank": 7}, status=201)
    assert (row["rank"], response.headers["X-Created"]) == (7, "1")
    _, again = await service.ask("PUT", "/authors/?on=name", [{"name": "ann", "rank": 8}, {"name": "bob"}], status=200)
    assert [each["id"] for each in again] == [row["id"], 2]
    _, kept = await service.ask("PUT", "/authors/?on=name&existing=keep", {"name": "ann", "rank": 9}, status=200)
    assert kept["rank"] == 8
    await service.ask("PUT", "/authors/?on=site,rank", {"name": "new", "site": "x", "rank": 1}, status=201)


async def test_lists_show_deleted_rows_to_those_who_may_see_them(service: Service) -> None:
    await service.ask("DELETE", "/authors/1/", status=204)
    for shown in ("with", "only"):
        await service.ask("GET", f"/authors/?deleted={shown}", status=401)
        await service.ask("GET", f"/authors/?deleted={shown}", status=403, headers=ANN)
        await service.ask("GET", f"/authors/1/?deleted={shown}", status=403, headers=ANN)
    for _ in range(2):  # what an administrator has seen is in no cache of others
        assert names((await service.ask("GET", "/authors/?deleted=with", headers=ADMIN))[1]) == ["ann", "bob", "cat"]
        assert names((await service.ask("GET", "/authors/?deleted=only", headers=ADMIN))[1]) == ["ann"]
        await service.ask("GET", "/authors/?deleted=only", status=401)
        assert names(await service.get("/authors/")) == ["bob", "cat"]
    _, row = await service.ask("GET", "/authors/1/?deleted=with", status=200, headers=ADMIN)
    assert row["deleted_at"] is not None
    await service.ask("GET", "/authors/2/?deleted=only", status=404, headers=ADMIN)
    _, body = await service.ask("QUERY", "/authors/", {"deleted": "only"}, status=200, headers=ADMIN)
    assert names(body) == ["ann"]
    await service.ask("QUERY", "/authors/", {"deleted": "only"}, status=401)
    _, page = await service.ask("GET", "/authors/?deleted=with&page_size=2", status=200, headers=ADMIN)
    assert "deleted=with" in page["next"]
    lines = await service.client.get("/authors/?deleted=only", headers={**ADMIN, "Accept": "application/x-ndjson"})
    assert [json.loads(line)["name"] for line in (await lines.text()).splitlines()] == ["ann"]
    exported = await service.client.get("/authors/", headers={"Accept": "application/x-ndjson"})
    assert [json.loads(line)["name"] for line in (await exported.text()).splitlines()] == ["bob", "cat"]
    _, problem = await service.ask("GET", "/authors/?deleted=all", status=400, headers=ADMIN)
    assert problem["code"] == "invalid_parameter"
    assert "with" in problem["detail"]
    for path in ("/authors/stream/?deleted=with", "/authors/aggregate/?count=*&deleted=with", "/books/?deleted=with"):
        _, problem = await service.ask("GET", path, status=400, headers=ADMIN)
        assert problem["code"] == "unknown_parameter"


async def test_aggregates_leave_deleted_rows_out(service: Service) -> None:
    await service.ask("DELETE", "/authors/1/", status=204)
    groups = (await service.get("/authors/aggregate/?group_by=site&count=*&sum=rank"))["results"]
    assert groups == [{"site": "x", "count": 1, "sum_rank": 2}, {"site": "y", "count": 1, "sum_rank": 3}]


async def test_rows_are_deleted_for_good_by_those_who_may(service: Service) -> None:
    await service.ask("DELETE", "/authors/3/?hard=true", status=401)
    await service.ask("DELETE", "/authors/3/?hard=true", status=403, headers=ANN)
    await service.ask("DELETE", "/authors/1/?hard=true", status=409, headers=ADMIN)  # books refer to it
    await service.ask("DELETE", "/authors/3/?hard=true", status=204, headers=ADMIN)
    await service.ask("DELETE", "/authors/3/?hard=true", status=404, headers=ADMIN)
    await service.ask("DELETE", "/authors/2/?hard=false", status=204)
    await service.sql.execute("DELETE FROM books")
    await service.ask("DELETE", "/authors/2/?hard=true", status=204, headers=ADMIN)
    for query, code in (("hard=maybe", "invalid_parameter"), ("hrad=true", "unknown_parameter")):
        _, problem = await service.ask("DELETE", f"/authors/1/?{query}", status=400, headers=ADMIN)
        assert problem["code"] == code
    assert [row["id"] for row in await service.sql.fetch("SELECT id FROM authors WHERE deleted_at IS NULL")] == [1]
    assert await service.sql.fetchval("SELECT count(*) FROM authors") == 1


async def test_many_rows_are_deleted_at_once(service: Service) -> None:
    response, _ = await service.ask("DELETE", "/authors/?id__in=1,2,9", status=204)
    assert response.headers["X-Deleted"] == "2"
    response, _ = await service.ask("DELETE", "/authors/?id__in=1,3", status=204)
    assert response.headers["X-Deleted"] == "1"
    assert await service.sql.fetchval("SELECT count(*) FROM authors WHERE deleted_at IS NOT NULL") == 3
    await service.sql.execute("DELETE FROM books; UPDATE authors SET deleted_at = NULL WHERE id = 3")
    await service.ask("DELETE", "/authors/?rank__gte=2&hard=true", status=403, headers=ANN)
    response, _ = await service.ask("DELETE", "/authors/?rank__gte=2&hard=true", status=204, headers=ADMIN)
    assert response.headers["X-Deleted"] == "2"
    await service.ask("DELETE", "/authors/?hard=true", status=400, headers=ADMIN)
    response, _ = await service.ask("DELETE", "/authors/?id__in=1&hard=true", status=204, headers=ADMIN)
    assert response.headers["X-Deleted"] == "1"
    assert await service.sql.fetchval("SELECT count(*) FROM authors") == 0


async def test_conditional_requests_compare_versions(service: Service) -> None:
    response, _ = await service.ask("GET", "/authors/1/", status=200)
    tag = {"If-Match": response.headers["ETag"]}
    await service.ask("PATCH", "/authors/1/", {"rank": 5}, status=200)
    await service.ask("DELETE", "/authors/1/", status=412, headers=tag)
    response, _ = await service.ask("GET", "/authors/1/", status=200)
    await service.ask("DELETE", "/authors/1/", status=204, headers={"If-Match": response.headers["ETag"]})
    await service.ask("POST", "/authors/1/restore/", status=412, headers={**ADMIN, **tag})
    response, _ = await service.ask("GET", "/authors/1/?deleted=only", status=200, headers=ADMIN)
    current = {"If-Match": response.headers["ETag"]}
    await service.ask("POST", "/authors/1/restore/", status=200, headers={**ADMIN, **current})


async def test_a_key_of_a_client_makes_a_restore_safe_to_repeat(service: Service) -> None:
    await service.ask("DELETE", "/authors/1/", status=204)
    headers = {**ADMIN, "Idempotency-Key": "restore-author-number-one"}
    _, first = await service.ask("POST", "/authors/1/restore/", status=200, headers=headers)
    response, second = await service.ask("POST", "/authors/1/restore/", status=200, headers=headers)
    assert (first, response.headers["Idempotency-Replayed"]) == (second, "true")


async def test_streams_report_deletions_and_restorations(service: Service) -> None:
    async with (
        listen(service.client, "/authors/stream/") as events,
        listen(service.client, "/authors/stream/?rank__gte=2") as filtered,
        listen(service.client, "/authors/1/stream/") as one,
    ):
        await service.ask("DELETE", "/authors/1/", status=204)
        await service.ask("PATCH", "/authors/2/", {"rank": 22}, status=200)
        await service.sql.execute("UPDATE authors SET rank = 100 WHERE id = 1")  # of a deleted row, which nobody sees
        await service.ask("POST", "/authors/1/restore/", status=200, headers=ADMIN)
        await service.ask("DELETE", "/authors/3/", status=204)
        await service.ask("DELETE", "/authors/3/?hard=true", status=204, headers=ADMIN)
        await service.sql.execute("INSERT INTO authors (name, deleted_at) VALUES ('late', now())")
        await service.ask("POST", "/authors/", {"name": "end", "rank": 30}, status=201)

        async def until_end(source: Changes) -> list[tuple[str, int, Any]]:
            found = []
            while True:
                change = await source.next()
                found.append((change["action"], change["id"], change.get("cause")))
                if change["data"] and change["data"]["name"] == "end":
                    return found

        last = (await service.get("/authors/?name=end"))["results"][0]["id"]
        assert await until_end(Changes(events)) == [
            ("DELETE", 1, "UPDATE"), ("UPDATE", 2, None), ("INSERT", 1, "UPDATE"), ("DELETE", 3, "UPDATE"),
            ("INSERT", last, None),
        ]  # fmt: skip
        assert await until_end(Changes(filtered)) == [
            ("UPDATE", 2, None), ("INSERT", 1, "UPDATE"), ("DELETE", 3, "UPDATE"), ("INSERT", last, None),
        ]  # fmt: skip
        changes = await Changes(one).take(2)
        assert [(each["action"], each["id"]) for each in changes] == [("DELETE", 1), ("INSERT", 1)]


async def test_descriptions_have_the_forms(service: Service) -> None:
    _, options = await service.ask("OPTIONS", "/authors/", status=200)
    assert options["soft_delete"] == {"field": "deleted_at", "purge_after_seconds": None}
    assert "soft_delete" not in (await service.ask("OPTIONS", "/books/"))[1]
    _, document = await service.ask("GET", "/openapi.json", status=200)
    paths = document["paths"]

    def parameters(path: str, method: str) -> set[str]:
        return {each["name"] for each in paths[path][method]["parameters"]}

    assert "deleted" in parameters("/authors/", "get") & parameters("/authors/{id}/", "get")
    assert "hard" in parameters("/authors/", "delete") & parameters("/authors/{id}/", "delete")
    assert "deleted" not in parameters("/authors/stream/", "get") | parameters("/books/", "get")
    assert {"200", "404", "409"} <= paths["/authors/{id}/restore/"]["post"]["responses"].keys()
    assert {} not in paths["/authors/{id}/restore/"]["post"]["security"]
    assert "/books/{id}/restore/" not in paths
