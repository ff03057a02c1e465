"""Arrays in POST and PATCH, DELETE of many rows, and changes by filter: all or nothing, with errors by place."""

from __future__ import annotations

from typing import Any

import pytest

from .library import Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

ONE, OTHER = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2))  # keys of no row


async def authors(library: Service, *names: str) -> list[str]:
    """The keys of new authors."""
    response = await library.client.post("/authors/", json=[{"name": name} for name in names])
    assert response.status == 201, await response.text()
    return [row["id"] for row in await response.json()]


async def count(library: Service, table: str) -> int:
    return await library.sql.fetchval(f"SELECT count(*) FROM {table}")


async def test_an_array_is_created_in_its_order(library: Service) -> None:
    """Rows with different fields and links, as ``retrieve`` shows each."""
    first, second = await authors(library, "Eliot", "Austen")
    await library.sql.execute("INSERT INTO tags (id, name) VALUES (1, 'old'), (2, 'new')")
    books: list[dict[str, Any]] = [
        {"title": "Middlemarch", "author_id": first, "year": 1871},
        {"title": "Emma", "author_id": second},
        {"title": "Romola", "author_id": first, "tags": [2, 1], "moods": ["calm"]},
        {"title": "Silas Marner", "author_id": first, "year": 1861},
    ]
    response = await library.client.post("/books/", json=books)
    assert response.status == 201, await response.text()
    rows = await response.json()
    assert [row["title"] for row in rows] == [book["title"] for book in books]
    for row in rows:
        assert row == await (await library.client.get(f"/books/{row['id']}/")).json()
    assert await library.sql.fetchval("SELECT count(*) FROM books_tags") == 2


async def test_an_array_without_links_is_one_statement(library: Service) -> None:
    (author,) = await authors(library, "Eliot")
    before = library.service.store.database.statements
    body = [{"title": f"Book {n}", "author_id": author} for n in range(100)]
    response = await library.client.post("/books/", json=body)
    assert [row["title"] for row in await response.json()] == [each["title"] for each in body]
    assert library.service.store.database.statements - before == 1


async def test_every_type_is_created_as_alone(library: Service) -> None:
    """What one POST stores of a value, an array stores as well."""
    values: list[dict[str, Any]] = [
        {
            "decimal": "12.50",
            "float": 1e-300,
            "big_integer": -(2**63),
            "json": {"a": [1, None, 12345678901234567890.5]},
        },
        {"words": ["a", "b,c"], "amounts": ["1.10"], "duration": "P1DT2H", "time": "12:30:00", "date": "2026-01-02"},
        {
            "datetime": "2026-01-02T03:04:05+02:00",
            "boolean": True,
            "text": "",
            "uuid": "0190f0a4-7a5c-7000-8000-000000000000",
        },
        {"json": None, "words": [], "string": "é\\"},
    ]
    alone = [await (await library.client.post("/kinds/", json=each)).json() for each in values]
    together = await (await library.client.post("/kinds/", json=values)).json()
    assert [{**row, "id": None} for row in alone] == [{**row, "id": None} for row in together]
    changed = await library.client.patch(
        "/kinds/", json=[{"id": row["id"], **values[(n + 1) % 4]} for n, row in enumerate(together)]
    )
    assert changed.status == 200, await changed.text()
    for row in await changed.json():
        assert row == await (await library.client.get(f"/kinds/{row['id']}/")).json()


async def test_errors_have_the_place_of_the_row(library: Service) -> None:
    (author,) = await authors(library, "Eliot")
    response = await library.client.post(
        "/books/",
        json=[{"title": "A", "author_id": author}, {"author_id": author}, 5, {"title": "B", "author_id": "x"}],
    )
    problem = await response.json()
    assert (response.status, problem["code"]) == (400, "invalid")
    assert problem["errors"] == {
        "1": {"title": ["This field is required."]},
        "2": {"non_field_errors": ["The body must be a JSON object."]},
        "3": {"author_id": ["Not a valid UUID."]},
    }
    assert await count(library, "books") == 0


async def test_violations_in_the_database_have_the_place_of_the_row(library: Service) -> None:
    """Unique rules, within the array as well, and foreign keys."""
    (author,) = await authors(library, "Eliot")
    response = await library.client.post("/authors/", json=[{"name": "Sand"}, {"name": "Eliot"}, {"name": "Sand"}])
    problem = await response.json()
    assert (response.status, problem["code"]) == (409, "unique")
    alone = await (await library.client.post("/authors/", json={"name": "Eliot"})).json()
    assert problem["errors"] == {"1": alone["errors"], "2": alone["errors"]}
    assert await count(library, "authors") == 1
    missing = await library.client.post(
        "/books/", json=[{"title": "A", "author_id": author}, {"title": "B", "author_id": ONE}]
    )
    assert missing.status == 400
    assert (await missing.json())["errors"] == {"1": {"author_id": ["There is no row with this key."]}}
    assert await count(library, "books") == 0


async def test_an_empty_array_is_nothing(library: Service) -> None:
    response = await library.client.post("/authors/", json=[])
    assert (response.status, await response.json()) == (201, [])
    response = await library.client.patch("/authors/", json=[])
    assert (response.status, await response.json()) == (200, [])


async def test_an_array_of_changes(library: Service) -> None:
    """Each object changes the fields that it has, and the answer is in its order."""
    first, second, third = await authors(library, "Eliot", "Austen", "Sand")
    await library.sql.execute("INSERT INTO countries (code, name) VALUES ('uk', 'Britain')")
    response = await library.client.patch(
        "/authors/", json=[{"id": third, "name": "Dudevant"}, {"id": first, "country_id": "uk"}, {"id": second}]
    )
    assert response.status == 200, await response.text()
    assert [(row["id"], row["name"], row["country_id"]) for row in await response.json()] == [
        (third, "Dudevant", None),
        (first, "Eliot", "uk"),
        (second, "Austen", None),
    ]


async def test_keys_that_name_no_row(library: Service) -> None:
    first, _ = await authors(library, "Eliot", "Austen")
    response = await library.client.patch(
        "/authors/", json=[{"id": first, "name": "A"}, {"id": ONE, "name": "B"}, {"id": OTHER}]
    )
    assert response.status == 404
    assert (await response.json())["errors"] == {"1": {"id": ["Not found."]}, "2": {"id": ["Not found."]}}
    assert await library.sql.fetchval("SELECT name FROM authors WHERE id = $1", first) == "Eliot"


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ([{"id": ONE}, {"id": ONE}], {"1": {"id": ["The same key as at 0."]}}),
        ([{"name": "x"}], {"0": {"id": ["This field is required."]}}),
        (
            [{"id": None}, "x"],
            {"0": {"id": ["This field is required."]}, "1": {"non_field_errors": ["The body must be a JSON object."]}},
        ),
        ([{"id": "x"}], {"0": {"id": ["Not a valid UUID."]}}),
        ([{"id": ONE, "nmae": "x"}], {"0": {"nmae": ["Unknown field; did you mean name?"]}}),
    ],
)
async def test_keys_that_are_wrong(library: Service, body: Any, errors: Any) -> None:
    await authors(library, "Eliot")
    response = await library.client.patch("/authors/", json=body)
    assert (response.status, (await response.json())["errors"]) == (400, errors)


async def test_rows_are_deleted_by_key(library: Service) -> None:
    first, second, third = await authors(library, "Eliot", "Austen", "Sand")
    response = await library.client.delete(f"/authors/?id__in={first},{third},{ONE}")
    assert (response.status, response.headers["X-Deleted"]) == (204, "2")
    assert [str(row["id"]) for row in await library.sql.fetch("SELECT id FROM authors")] == [second]


async def test_a_row_that_others_need_keeps_all(library: Service) -> None:
    first, second = await authors(library, "Eliot", "Austen")
    await library.client.post("/books/", json=[{"title": "A", "author_id": first}])
    response = await library.client.delete(f"/authors/?id__in={first},{second}")
    assert (response.status, (await response.json())["code"]) == (409, "referenced")
    assert await count(library, "authors") == 2


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/authors/", "Send the keys of rows in id__in: changes by filter are not open here."),
        ("/authors/?books__title=x", "books__title: unknown parameter; valid here: id__in"),
        ("/authors/?id_in=1", "id_in: unknown parameter; did you mean id__in?"),
        ("/authors/?id__in=x", "id__in: Not a valid UUID."),
    ],
)
async def test_deleting_without_keys_is_refused(library: Service, path: str, detail: str) -> None:
    await authors(library, "Eliot")
    response = await library.client.delete(path)
    assert (response.status, (await response.json())["detail"]) == (400, detail)
    assert await count(library, "authors") == 1
