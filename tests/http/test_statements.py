"""The cost of a request in the database: the number of statements, and shapes that are compiled once."""

from __future__ import annotations

import pytest

from .library import Service

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_request_is_one_statement(library: Service) -> None:
    """Page, count and nested rows come from one statement, and so does a write; one that removes links takes three.

    Lists that ``?expand=`` adds are counted first, in one statement more.
    """
    await library.post("/countries/", {"code": "fr", "name": "France"})
    author = await library.post("/authors/", {"name": "Anna", "country_id": "fr"})
    tag = await library.post("/tags/", {"name": "red"})
    book = await library.post("/books/", {"title": "One", "author_id": author["id"], "tags": [tag["id"]]})
    path = f"/books/{book['id']}/"
    for method, url, body in (
        ("GET", "/books/", None),
        ("GET", "/books/?expand=author__country,tags,reviews&search=one&ordering=-author__name&page_size=5", None),
        ("GET", "/books/?page_size=1000&tags__name=red&author__country__name=France", None),
        ("GET", f"{path}?expand=author__country,tags,reviews", None),
        ("POST", "/authors/", {"name": "Bo", "country_id": "fr"}),
        ("POST", "/books/", {"title": "Two", "author_id": author["id"], "tags": [tag["id"]]}),
        ("PUT", path, {"title": "Three", "author_id": author["id"], "tags": []}),
        ("PATCH", path, {"year": 1}),
        ("PATCH", path, {}),
        ("DELETE", path, None),
        ("OPTIONS", path, None),
    ):
        before = library.database.statements
        await library.ask(method, url, body)
        assert library.database.statements - before == {"OPTIONS": 0, "PUT": 3}.get(method, 1) + (
            "tags,reviews" in url
        ), (method, url)


async def test_shape_is_compiled_once(library: Service) -> None:
    """A request of a shape that has occurred before compiles nothing, for any values."""
    author = await library.post("/authors/", {"name": "Anna"})
    tags = [(await library.post("/tags/", {"name": name}))["id"] for name in ("red", "blue")]
    books = [
        await library.post("/books/", {"title": f"t{n}", "author_id": author["id"], "year": n, "tags": tags[:n]})
        for n in range(3)
    ]

    async def round_of(n: int) -> None:
        path = f"/books/{books[n]['id']}/"
        await library.get("/books/", year=str(n), state__in=["draft", "draft,out", "out"][n], page=str(1))
        await library.get("/books/", search=f"word{n}", page_size=str(n + 1))
        await library.get("/books/", author__name__icontains=str(n), ordering="-year", expand="tags")
        await library.get("/kinds/", ordering="integer", decimal__range=f"{n},{n + 1}")
        await library.get(path, expand="author,tags")
        await library.patch(path, {"year": 10 + n})
        await library.put(path, {"title": f"x{n}", "author_id": author["id"], "tags": tags[n:]})
        made = await library.post("/books/", {"title": f"n{n}", "author_id": author["id"], "tags": tags[n - 1 :]})
        await library.delete(f"/books/{made['id']}/")

    await round_of(0)
    compiled = library.queries.compilations
    await round_of(1)
    await round_of(2)
    assert library.queries.compilations == compiled


async def test_refused_request_costs_no_statement(library: Service) -> None:
    """An invalid request is refused without a statement."""
    before = library.database.statements
    for path in ("/books/?nope=1", "/books/?year=x", "/books/?page_size=0", "/books/?ordering=x", "/authors/x/"):
        await library.ask("GET", path)
    await library.post("/books/", {"title": 1}, 400)
    assert library.database.statements == before
