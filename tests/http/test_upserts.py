"""``PUT ?on=``: rows are inserted, or changed where a unique rule finds them; and ``put_creates``."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rowcast.errors import ConfigurationError

from .conftest import Run

BOOKS: dict[str, Any] = {
    "fields": {
        "id": {"type": "integer", "primary_key": True},
        "isbn": {"type": "string", "max_length": 20, "unique": True, "null": True},
        "author": {"type": "string", "max_length": 20, "default": "nobody"},
        "title": {"type": "string", "max_length": 20},
        "pages": {"type": "integer", "default": 1},
        "price": {"type": "decimal", "max_digits": 8, "decimal_places": 2, "null": True},
    },
    "unique": [["author", "title"]],
    "viewset": {"max_bulk": 50},
}


async def test_rows_are_inserted_or_changed_in_their_order(run: Run) -> None:
    """201 if all are new, else 200; what a body leaves out stays as it is."""
    service = await run({"books": BOOKS})
    client = service.client
    response = await client.put(
        "/books/?on=isbn", json=[{"isbn": "b", "title": "B", "pages": 5}, {"isbn": "a", "title": "A"}]
    )
    assert response.status == 201, await response.text()
    assert (response.headers["X-Created"], response.headers["X-Updated"]) == ("2", "0")
    assert [row["isbn"] for row in await response.json()] == ["b", "a"]
    response = await client.put(
        "/books/?on=isbn",
        json=[{"isbn": "c", "title": "C"}, {"isbn": "a", "title": "AA", "price": "1.50"}, {"isbn": "b", "title": "BB"}],
    )
    assert (response.status, response.headers["X-Created"], response.headers["X-Updated"]) == (200, "1", "2")
    rows = await response.json()
    assert [(row["isbn"], row["title"], row["pages"], row["price"]) for row in rows] == [
        ("c", "C", 1, None),
        ("a", "AA", 1, "1.50"),
        ("b", "BB", 5, None),
    ]
    for row in rows:
        assert row == await (await client.get(f"/books/{row['id']}/")).json()


async def test_one_object(run: Run) -> None:
    service = await run({"books": BOOKS})
    client = service.client
    response = await client.put("/books/?on=author,title", json={"author": "Eliot", "title": "Romola"})
    row = await response.json()
    assert (response.status, response.headers["X-Created"]) == (201, "1")
    assert response.headers["Location"].endswith(f"/books/{row['id']}/")
    response = await client.put("/books/?on=title,author", json={"author": "Eliot", "title": "Romola", "pages": 7})
    assert (response.status, await response.json()) == (200, {**row, "pages": 7})
    taken = await client.put("/books/?on=isbn", json={"isbn": "x", "author": "Eliot", "title": "Romola"})
    alone = await client.post("/books/", json={"isbn": "x", "author": "Eliot", "title": "Romola"})
    assert (taken.status, (await taken.json())["errors"]) == (409, (await alone.json())["errors"])


async def test_existing_rows_can_be_kept(run: Run) -> None:
    service = await run({"books": BOOKS})
    client = service.client
    made = await (await client.post("/books/", json={"isbn": "a", "title": "A"})).json()
    before = await service.sql.fetchval("SELECT xmin FROM books")
    response = await client.put(
        "/books/?on=isbn&existing=keep", json=[{"isbn": "b", "title": "B"}, {"isbn": "a", "title": "other"}]
    )
    assert (response.status, response.headers["X-Created"], response.headers["X-Updated"]) == (200, "1", "0")
    assert [row["title"] for row in await response.json()] == ["B", "A"]
    assert await service.sql.fetchval("SELECT xmin FROM books WHERE id = $1", made["id"]) == before


@pytest.mark.parametrize(
    ("query", "body", "detail"),
    [
        ("", [], "on: name a unique rule; valid here: isbn or author,title"),
        ("?on=titel", [], "on: 'titel' is not a unique rule; valid here: isbn, author,title"),
        ("?on=isbn&existing=skip", [], "existing: valid here: update, keep"),
        ("?on=isbn&pages=3", [], "pages: unknown parameter; valid here: on, existing"),
    ],
)
async def test_parameters_that_are_wrong(run: Run, query: str, body: Any, detail: str) -> None:
    service = await run({"books": BOOKS})
    response = await service.client.put(f"/books/{query}", json=body)
    assert (response.status, (await response.json())["detail"]) == (400, detail)


async def test_bodies_that_are_wrong(run: Run) -> None:
    service = await run({"books": BOOKS})
    response = await service.client.put(
        "/books/?on=isbn",
        json=[{"isbn": "a", "title": "A"}, {"title": "B"}, {"isbn": None, "title": "C"}, {"isbn": "a", "title": "D"}],
    )
    assert response.status == 400
    assert (await response.json())["errors"] == {
        "1": {"isbn": ["This field is required."]},
        "2": {"isbn": ["This field is required."]},
        "3": {"isbn": ["The same value as at 0."]},
    }
    for body, errors in (
        ({"isbn": "a"}, {"title": ["This field is required."]}),
        (5, {"non_field_errors": ["The body must be a JSON object."]}),
    ):
        response = await service.client.put("/books/?on=isbn", json=body)
        assert (response.status, (await response.json())["errors"]) == (400, errors)
    assert (await service.client.put("/books/?on=isbn", json=[{}] * 51)).status == 413
    assert await service.sql.fetchval("SELECT count(*) FROM books") == 0


async def test_preconditions(run: Run) -> None:
    """``If-None-Match: *`` inserts only; ``If-Match`` is about the list."""
    service = await run({"books": BOOKS})
    client = service.client
    only_new = {"If-None-Match": "*"}
    assert (await client.put("/books/?on=isbn", json={"isbn": "a", "title": "A"}, headers=only_new)).status == 201
    refused = await client.put(
        "/books/?on=isbn", json=[{"isbn": "b", "title": "B"}, {"isbn": "a", "title": "C"}], headers=only_new
    )
    assert refused.status == 412
    assert [row["title"] for row in await service.sql.fetch("SELECT title FROM books")] == ["A"]
    tag = (await client.get("/books/")).headers["ETag"]
    for status in (200, 412):
        response = await client.put("/books/?on=isbn", json={"isbn": "a", "title": "X"}, headers={"If-Match": tag})
        assert response.status == status


SCOPED: dict[str, Any] = {**BOOKS, "viewset": {"scope": {"author": "me"}, "put_creates": True}}


async def test_a_row_outside_the_scope_is_taken(run: Run) -> None:
    """It is a 409 ``unique`` with the place of the row, exactly as for POST, and stays as it is."""
    service = await run({"books": SCOPED})
    client = service.client
    await service.sql.execute("INSERT INTO books (id, isbn, author, title) VALUES (90, 'hidden', 'you', 'Yours')")
    body = [{"isbn": "a", "title": "A"}, {"isbn": "hidden", "title": "B"}]
    alone = await client.post("/books/", json=body)
    for path in ("/books/?on=isbn", "/books/?on=isbn&existing=keep"):
        response = await client.put(path, json=body)
        first, second = await response.json(), await alone.json()
        assert (response.status, first["code"], first["errors"]) == (409, "unique", second["errors"])
    outside = await client.put("/books/?on=isbn", json=[{"isbn": "a", "title": "A", "author": "you"}])
    assert (outside.status, list((await outside.json())["errors"])) == (403, ["0"])
    assert await service.sql.fetch("SELECT isbn, title FROM books") == [("hidden", "Yours")]
    assert (await client.put("/books/90/", json={"title": "Mine"})).status == 409
    mine = await client.put("/books/?on=isbn", json=[{"isbn": "a", "title": "A"}])
    assert [row["author"] for row in await mine.json()] == ["me"]


HOOKS = """
from rowcast import BasePermission, ModelViewSet, model

class NotLocked(BasePermission):
    def has_permission(self, request, view):
        return request.headers.get("X-Deny") != f"{view.action} {request.method}"

    def has_object_permission(self, request, view, row):
        return row.title != "locked"

class BookViewSet(ModelViewSet):
    model = model("books")
    permission_classes = [NotLocked]

    async def perform_create(self, serializer):
        await serializer.save(author=f"new {self.action}")

    async def perform_update(self, serializer):
        await serializer.save(author=f"old {self.action} {self.kwargs['id']}")
"""


async def test_hooks_and_permissions_are_never_skipped(run: Run) -> None:
    """The rights of ``create`` and of ``update`` are needed, and those about each row that is there."""
    books = {**BOOKS, "viewset": {"class": "put_books:BookViewSet", "put_creates": True}}
    service = await run({"books": books}, modules={"put_books": HOOKS})
    client = service.client
    body = [{"isbn": "a", "title": "A"}]
    for denied in ("create POST", "update PUT"):
        assert (await client.put("/books/?on=isbn", json=body, headers={"X-Deny": denied})).status in (401, 403)
    assert (await client.put("/books/7/", json=body[0], headers={"X-Deny": "create POST"})).status in (401, 403)
    assert await service.sql.fetchval("SELECT count(*) FROM books") == 0
    response = await client.put("/books/?on=isbn", json=body)
    assert (response.status, (await response.json())[0]["author"]) == (201, "new create")
    response = await client.put("/books/?on=isbn", json=[*body, {"isbn": "b", "title": "B"}])
    assert response.status == 200, await response.text()
    assert [row["author"] for row in await response.json()] == ["old update 1", "new create"]
    assert response.headers["X-Created"] == response.headers["X-Updated"] == "1"
    kept = await client.put("/books/?on=isbn&existing=keep", json=[{"isbn": "b", "title": "C"}])
    assert [row["title"] for row in await kept.json()] == ["B"]
    await service.sql.execute("UPDATE books SET title = 'locked' WHERE isbn = 'b'")
    response = await client.put("/books/?on=isbn", json=[{"isbn": "c", "title": "C"}, {"isbn": "b", "title": "B"}])
    assert (response.status, list((await response.json())["errors"])) == (401, ["1"])
    assert await service.sql.fetchval("SELECT count(*) FROM books") == 2
    response = await client.put("/books/70/", json={"title": "Seventy"})
    assert (response.status, (await response.json())["author"]) == (201, "new create")


async def test_put_creates_where_it_is_open(run: Run) -> None:
    service = await run({"books": {**BOOKS, "viewset": {"put_creates": True}}, "closed": BOOKS})
    client = service.client
    assert (await client.put("/closed/5/", json={"title": "A"})).status == 404
    assert (await client.put("/books/5/", json={"title": "A"}, headers={"If-Match": "*"})).status == 412
    made = await client.put("/books/5/", json={"title": "A", "id": 6}, headers={"If-None-Match": "*"})
    row = await made.json()
    assert (made.status, row["id"], row["title"]) == (201, 5, "A")
    assert made.headers["Location"].endswith("/books/5/")
    assert "ETag" in made.headers
    assert (await client.put("/books/5/", json={"title": "B"}, headers={"If-None-Match": "*"})).status == 412
    changed = await client.put("/books/5/", json={"title": "B", "pages": 3})
    assert (changed.status, (await changed.json())["pages"]) == (200, 3)
    assert (await client.put("/books/6/", json={"pages": 3})).status == 400
    assert (await client.put("/books/x/", json={"title": "B"})).status == 404
    for number in range(6):  # the sequence of keys does not stop at a key that PUT has taken
        assert (await client.post("/books/", json={"title": f"T{number}"})).status == 201
    responses = await asyncio.gather(*(client.put("/books/50/", json={"title": "R"}) for _ in range(8)))
    assert sorted(each.status for each in responses) == [200] * 7 + [201]


async def test_put_creates_needs_both_actions(run: Run) -> None:
    with pytest.raises(ConfigurationError, match="put_creates: needs the action 'create'"):
        await run({"books": {**BOOKS, "viewset": {"put_creates": True, "excluded_actions": ["create"]}}})


async def test_without_the_right_to_create_there_is_no_upsert(run: Run) -> None:
    service = await run({"books": {**BOOKS, "viewset": {"excluded_actions": ["create"]}}})
    assert (await service.client.put("/books/?on=isbn", json=[])).status == 405


async def test_concurrent_upserts_of_the_same_rows(run: Run) -> None:
    """All succeed, in any order of rows, and there is one row of each."""
    service = await run({"books": BOOKS})
    rows = [{"isbn": str(n), "title": f"T{n}"} for n in range(20)]
    bodies = [rows if n % 2 else rows[::-1] for n in range(8)]
    responses = await asyncio.gather(*(service.client.put("/books/?on=isbn", json=body) for body in bodies))
    assert {each.status for each in responses} <= {200, 201, 409}
    assert sum(int(each.headers.get("X-Created", 0)) for each in responses) == 20
    assert await service.sql.fetchval("SELECT count(*) FROM books") == 20
