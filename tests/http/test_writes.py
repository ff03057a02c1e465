"""Writing rows: the fields that a body changes, links between rows, and the effect of deleting one on others."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg
import pytest
import pytest_asyncio

from ..databases import Databases
from .conftest import running
from .library import Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOWHERE = "00000000-0000-4000-8000-000000000000"


async def some(library: Service) -> tuple[dict[str, Any], dict[str, Any], list[int]]:
    """An author, a book of theirs with two of the three tags, and the tags' keys."""
    await library.post("/countries/", {"code": "fr", "name": "France"})
    author = await library.post("/authors/", {"name": "Anna", "country_id": "fr"})
    tags = [(await library.post("/tags/", {"name": name}))["id"] for name in ("red", "green", "blue")]
    body = {"title": "One", "author_id": author["id"], "tags": tags[:2], "code": "secret", "year": 1999}
    return author, await library.post("/books/", body), tags


async def linked(library: Service, book: dict[str, Any]) -> list[int]:
    """The keys of a book's tags."""
    return [tag["id"] for tag in (await library.get(f"/books/{book['id']}/", expand="tags"))["tags"]]


async def test_created_row_is_shown_whole_at_its_location(library: Service) -> None:
    """POST gives 201, the row as ``retrieve`` shows it, and its absolute address."""
    response, row = await library.ask("POST", "/countries/", {"code": "de", "name": "x"}, status=201)
    assert row == {"code": "de", "name": "x"}
    location = urlsplit(response.headers["Location"])
    assert location.netloc == f"{library.client.host}:{library.client.port}"
    assert await library.get(location.path) == row
    response, row = await library.ask("POST", "/shelves/", {"name": "a b/ü", "place_id": "de"}, status=201)
    assert row["place"] == {"code": "de", "name": "x"}
    assert row["topics"] == []
    location = urlsplit(response.headers["Location"])
    assert await library.get(location.path) == row, "with lookup_field the address has that field"


async def test_write_only_is_never_shown_and_read_only_never_set(library: Service) -> None:
    """A ``write_only`` field is stored and never returned; read-only and automatic ones in a body are ignored."""
    author, book, _ = await some(library)
    assert await library.sql.fetchval("SELECT code FROM books") == "secret"
    path = f"/books/{book['id']}/"
    body = {
        **book,
        "views": 7,
        "created_at": "2000-01-01T00:00:00Z",
        "updated_at": None,
        "edited_on": "x",
        "id": NOWHERE,
    }
    changed = await library.put(path, body)
    for shown in (book, changed, await library.get(path), (await library.rows("/books/"))[0]):
        assert "code" not in shown
        assert shown["views"] == 0
        assert shown["created_at"] == book["created_at"]
        assert shown["id"] == book["id"]
    for query in ("fields=code", "code=secret", "ordering=code", "search=secret&fields=code"):
        await library.ask("GET", f"/books/?{query}", status=400)
    assert await library.rows("/books/", search="secret") == []
    nested = await library.get(f"/authors/{author['id']}/", expand="books")
    assert "code" not in nested["books"][0]
    _, described = await library.ask("OPTIONS", path, status=200)
    assert described["actions"]["PUT"]["code"]["write_only"] is True


async def test_automatic_times_are_set_by_the_database(library: Service) -> None:
    """``auto_now_add`` is the time of creation, ``auto_now`` of the last change; an empty PATCH is not a change."""
    _, book, tags = await some(library)
    path = f"/books/{book['id']}/"
    assert book["created_at"] == book["updated_at"]
    assert book["edited_on"] == str(await library.sql.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date"))
    assert await library.patch(path, {}) == book
    changed = await library.patch(path, {"year": 2000})
    assert changed["created_at"] == book["created_at"]
    assert changed["updated_at"] > book["updated_at"]
    relinked = await library.patch(path, {"tags": tags[:1]})
    assert relinked["updated_at"] > changed["updated_at"]


async def test_unknown_keys_are_refused_with_the_nearest(library: Service) -> None:
    """Only keys that responses have may be ignored; any other is an error with the nearest valid one."""
    author, book, _ = await some(library)
    body = {"title": "x", "author_id": author["id"]}
    for key, word in (
        ("titel", "title"),
        ("author", "author_id"),
        ("nothing_like_it", "valid here"),
        ("tag", "tags"),
        ("", ""),
    ):
        problem = await library.post("/books/", {**body, key: "x"}, 400)
        assert list(problem["errors"]) == [key]
        assert word in problem["errors"][key][0]
        assert (await library.patch(f"/books/{book['id']}/", {key: 1}, 400))["errors"].keys() == {key}
    assert len(await library.rows("/books/")) == 1


async def test_response_has_at_most_a_hundred_messages(library: Service) -> None:
    """Of many unknown keys, or of many wrong items, the first hundred are named and the others counted."""
    body: dict[str, Any] = {f"titl{n}": 1 for n in range(50_000)}
    response, problem = await library.ask("POST", "/books/", {"stars": 1, **body}, status=400)
    errors = problem["errors"]
    required = [name for name, texts in errors.items() if texts == ["This field is required."]]
    unknown = [name for name in errors if name not in (*required, "non_field_errors")]
    assert required
    assert len(required) + len(unknown) == 100
    assert errors["non_field_errors"] == [f"and {50_001 - len(unknown)} more"]
    assert sum("did you mean" in texts[0] for texts in errors.values()) <= 10
    assert len(await response.read()) < 20_000
    _, book, _ = await some(library)
    path = f"/books/{book['id']}/"
    for name, items in (("tags", ["x"] * 30_000), ("zzz" * 9_000, "x")):
        response, problem = await library.ask("PATCH", path, {name: items}, status=400)
        assert len(await response.read()) < 20_000
    problem = await library.patch(path, {"tags": ["x"] * 30_000}, 400)
    assert problem["errors"] == {"tags": [f"Item {n}: Not a valid integer." for n in range(100)],
                                 "non_field_errors": ["and 29900 more"]}  # fmt: skip
    exactly = await library.patch(path, {f"k{n}": 1 for n in range(100)}, 400)
    assert (len(exactly["errors"]), "non_field_errors" in exactly["errors"]) == (100, False)


async def test_object_that_was_read_can_be_put_back(library: Service) -> None:
    """PUT accepts the response of GET, with expansions and prefetched relations; only ``auto_now`` changes."""
    author, book, tags = await some(library)
    await library.patch(f"/books/{book['id']}/", {"editor_id": author["id"], "moods": ["calm"], "state": "gone, long"})
    review = await library.post("/reviews/", {"book_id": book["id"], "stars": 3})
    path = f"/books/{book['id']}/"
    for expand in (
        "",
        "author",
        "author,editor,tags,reviews",
        "author__country,tags,author__edited__tags",
        "tags__shelves",
    ):
        body = await library.get(path, query={"expand": expand} if expand else {})
        again = await library.put(path, body)
        plain = {name: value for name, value in again.items() if name not in ("updated_at", "edited_on")}
        assert plain.items() <= body.items(), expand
        assert await linked(library, book) == tags[:2]
    assert await library.sql.fetchval("SELECT code FROM books") == "secret"
    assert await library.get(f"/reviews/{review['id']}/") == review
    shelf = await library.post("/shelves/", {"name": "s", "place_id": "fr", "topics": tags})
    assert [topic["name"] for topic in shelf["topics"]] == ["red", "green", "blue"]
    assert await library.put("/shelves/s/", shelf) == shelf
    assert await library.put("/shelves/s/", {"name": "s"}) == shelf, "what PUT leaves out stays"
    assert await library.patch("/shelves/s/", {"topics": shelf["topics"][1:2]}) == {
        **shelf,
        "topics": shelf["topics"][1:2],
    }
    for name, listed in (("author", author), ("tags", shelf["topics"])):
        assert (await library.patch(path, {name: listed}))["id"] == book["id"]


async def test_patch_changes_only_the_fields_it_names(library: Service) -> None:
    """A PATCH writes only its own fields, so two with different fields do not undo each other."""
    _, book, tags = await some(library)
    path = f"/books/{book['id']}/"
    await asyncio.gather(*(library.patch(path, body) for body in ({"year": 5}, {"summary": "s"}, {"state": "out"})))
    found = await library.get(path)
    assert (found["year"], found["summary"], found["state"], found["title"]) == (5, "s", "out", "One")
    assert (await library.patch(path, {"year": None}))["year"] is None
    assert await linked(library, book) == tags[:2]
    for body in (
        {"title": None},
        {"author_id": None},
        {"tags": None},
        {"summary": None},
        {"state": None},
        {"moods": None},
    ):
        problem = await library.patch(path, body, 400)
        assert problem["errors"] == {name: ["May not be null."] for name in body}


async def test_links_are_written_as_keys_and_replaced_whole(library: Service) -> None:
    """A many_to_many field is a list of keys or of objects with keys; a repeated key is one link."""
    author, book, (red, green, blue) = await some(library)
    path = f"/books/{book['id']}/"
    for given, keys in (
        ([blue], [blue]),
        ([], []),
        ([blue, red, blue], [red, blue]),
        ([{"id": green, "name": "whatever"}, red], [red, green]),
        ([red, green, blue], [red, green, blue]),
    ):
        await library.patch(path, {"tags": given})
        assert await linked(library, book) == keys
        changed = await library.put(path, {"title": "One", "author_id": author["id"], "tags": given})
        assert changed["title"] == "One"
        assert await linked(library, book) == keys
    await library.put(path, {"title": "Two", "author_id": author["id"]})
    assert await linked(library, book) == [red, green, blue], "a PUT without the field leaves it"
    other = await library.post("/books/", {"title": "Three", "author_id": author["id"]})
    assert await linked(library, other) == []
    assert await library.sql.fetchval("SELECT count(*) FROM books_tags WHERE book_id = $1::text::uuid", book["id"]) == 3


async def test_invalid_links_are_reported_at_their_field(library: Service) -> None:
    """Keys of no row, or of the wrong type, are a 400 on the field, and nothing of the body is written."""
    author, book, (red, *_) = await some(library)
    path = f"/books/{book['id']}/"
    given: Any
    for given in (
        red,
        "x",
        {},
        {"id": red},
        True,
        [None],
        ["x"],
        [[red]],
        [{}],
        [{"name": "red"}],
        [2**31],
        [red, 99],
        [99, 98],
        [-1],
        [str(red)],
        [1.0],
        [True],
    ):
        problem = await library.patch(path, {"title": "changed", "tags": given}, 400)
        assert list(problem["errors"]) == ["tags"], given
        problem = await library.post("/books/", {"title": "new", "author_id": author["id"], "tags": given}, 400)
        assert list(problem["errors"]) == ["tags"], given
    assert [row["title"] for row in await library.rows("/books/")] == ["One"]


async def test_every_key_of_no_row_is_reported(library: Service) -> None:
    """All foreign keys and links that name missing rows have a message, of one row and of each row of an array."""
    author, book, tags = await some(library)
    missing = ["There is no row with this key."]
    body = {"title": "x", "author_id": NOWHERE, "editor_id": NOWHERE, "tags": [tags[0], 99_999]}
    wrong = {"author_id": missing, "editor_id": missing, "tags": missing}
    good = {"title": "y", "author_id": author["id"], "tags": tags}
    assert (await library.post("/books/", body, 400))["errors"] == wrong
    assert (await library.patch(f"/books/{book['id']}/", body, 400))["errors"] == wrong
    several = await library.post("/books/", [good, body, good, body], 400)
    assert (several["code"], several["errors"]["1"], several["errors"]["3"]) == ("does_not_exist", wrong, wrong)
    assert (await library.post("/books/", {**body, "editor_id": author["id"]}, 400))["errors"].keys() == {
        "author_id",
        "tags",
    }


async def test_foreign_key_of_no_row_is_reported_at_its_key(library: Service) -> None:
    """The error of a foreign key is under the name that the client sent, ``author_id``."""
    author, book, _ = await some(library)
    for key in ("author_id", "editor_id"):
        value: Any
        for value in (NOWHERE, "x", 1, [], {"id": author["id"]}):
            problem = await library.patch(f"/books/{book['id']}/", {key: value}, 400)
            assert list(problem["errors"]) == [key]
            body = {"title": "x", "author_id": author["id"], key: value}
            assert list((await library.post("/books/", body, 400))["errors"]) == [key]
    problem = await library.post("/authors/", {"name": "x", "country_id": "xx"}, 400)
    assert problem["errors"]["country_id"] == ["There is no row with this key."]
    problem = await library.post("/authors/", {"name": "x", "country_id": "x" * 41}, 400)
    assert list(problem["errors"]) == ["country_id"]
    problem = await library.post("/books/", {"title": "x"}, 400)
    assert problem["errors"] == {"author_id": ["This field is required."]}


async def test_unique_violation_is_409_on_its_fields(library: Service) -> None:
    """A second row with the same value, or the same values of several fields, is a conflict that names them."""
    author, book, _ = await some(library)
    problem = await library.post("/authors/", {"name": "Anna"}, 409)
    assert (problem["code"], list(problem["errors"])) == ("unique", ["name"])
    problem = await library.post("/books/", {"title": "One", "author_id": author["id"]}, 409)
    assert problem["errors"].keys() == {"author_id", "title"}
    problem = await library.post("/countries/", {"code": "fr", "name": "again"}, 409)
    assert problem["errors"].keys() == {"code"}
    other = await library.post("/authors/", {"name": "Bo", "id": str(uuid.uuid4())})
    problem = await library.post("/authors/", {"name": "Cy", "id": other["id"]}, 409)
    assert problem["errors"].keys() == {"id"}
    for method in ("PUT", "PATCH"):
        _, problem = await library.ask(method, f"/authors/{other['id']}/", {"name": "Anna"}, status=409)
        assert list(problem["errors"]) == ["name"]
    assert (await library.patch(f"/books/{book['id']}/", {"title": "One"}))["title"] == "One"


async def test_keys_come_from_client_or_database(library: Service) -> None:
    """A UUID is the client's or generated (version 7), an integer key the database's, a string key the client's."""
    key = str(uuid.uuid4())
    assert (await library.post("/authors/", {"id": key.upper(), "name": "a"}))["id"] == key
    made = await library.post("/authors/", {"name": "b"})
    assert uuid.UUID(made["id"]).version == 7
    await library.post("/authors/", {"id": None, "name": "c"}, 400)
    await library.post("/authors/", {"id": "x", "name": "c"}, 400)
    first = await library.post("/tags/", {"id": 77, "name": "a"})
    second = await library.post("/tags/", {"name": "b"})
    assert [first["id"], second["id"]] == [1, 2]
    assert (await library.post("/countries/", {"name": "x"}, 400))["errors"].keys() == {"code"}
    changed = await library.patch(f"/authors/{key}/", {"id": made["id"], "name": "d"})
    assert changed["id"] == key
    changed = await library.put("/tags/1/", {"id": 9, "name": "z"})
    assert changed == {"id": 1, "name": "z"}


ODD_KEYS = [
    "a b",
    "a/b",
    "a//b",
    "/",
    "%",
    "%2F",
    "a?b=c",
    "a#b",
    "é\U0001f600",
    "a+b",
    "a&b",
    "'\"",
    "\\",
    ":",
    "@",
    "~",
    "a;b=c",
    ",",
    "{id}",
    "\n",
    "\x7f",
    "a.",
    "...",
    "stream2",
    "-",
    " ",
]


async def test_text_keys_may_have_any_character(library: Service) -> None:
    """A row whose key has to be encoded in a URL can be read, changed and deleted at the address that POST gave."""
    for key in ODD_KEYS:
        response, row = await library.ask("POST", "/countries/", {"code": key, "name": "x"}, status=201)
        path = urlsplit(response.headers["Location"]).path
        url = library.client.make_url("/").with_path(path, encoded=True)
        for method, body, status in (
            ("GET", None, 200),
            ("PUT", row, 200),
            ("PATCH", {"name": "y"}, 200),
            ("DELETE", None, 204),
            ("GET", None, 404),
        ):
            for address in (url, url.with_path(path.rstrip("/"), encoded=True))[: 1 if method == "DELETE" else 2]:
                async with library.client.session.request(method, address, json=body) as answer:
                    assert answer.status == status, (key, method, str(address))
                    if method == "GET" and status == 200:
                        assert await answer.json() == row


async def test_id_of_the_wrong_shape_is_404(library: Service) -> None:
    """An address with an impossible key is a 404, for every method."""
    for prefix, keys in (
        ("/authors/", ["x", "1", "0" * 32, "%00", "%FF", "null", f"{NOWHERE}x", NOWHERE, "%7B%7D", "x" * 3000]),
        ("/tags/", ["x", "1.0", "9" * 40, "-1", "2147483648", "%00", "0", "true", "%D9%A1"]),
        ("/countries/", ["%00", "xx", "x" * 500, "%ED%A0%80"]),
        ("/shelves/", ["%00", "xx"]),
    ):
        for key in keys:
            url = library.client.make_url("/").with_path(f"{prefix}{key}/", encoded=True)
            for method in ("GET", "PATCH", "DELETE"):
                async with library.client.session.request(method, url, json={}) as answer:
                    assert answer.status == 404, (method, str(url))
                    assert answer.content_type == "application/problem+json"


async def test_deleted_row_is_gone(library: Service) -> None:
    """DELETE returns 204 without a body, once."""
    _, book, _ = await some(library)
    path = f"/books/{book['id']}/"
    response, _ = await library.ask("DELETE", path, status=204)
    assert await response.read() == b""
    assert "Content-Type" not in response.headers
    for method in ("DELETE", "GET"):
        await library.ask(method, path, status=404)
    await library.ask("PUT", path, book, status=404)
    await library.ask("PATCH", path, {}, status=404)
    assert await library.sql.fetchval("SELECT count(*) FROM books_tags") == 0


async def test_deleting_follows_on_delete(library: Service) -> None:
    """``restrict`` is a 409, ``cascade`` deletes the referring rows, ``set_null`` clears their key; links are deleted."""
    author, book, (red, *_) = await some(library)
    other = await library.post("/authors/", {"name": "Bo", "mentor_id": author["id"], "country_id": "fr"})
    await library.patch(f"/books/{book['id']}/", {"editor_id": other["id"]})
    review = await library.post("/reviews/", {"book_id": book["id"], "stars": 1})
    problem = await library.delete(f"/authors/{author['id']}/", 409)
    assert problem["code"] == "referenced"
    assert "books" in problem["detail"]
    await library.delete(f"/tags/{red}/")
    assert red not in await linked(library, book)
    await library.delete("/countries/fr/")
    assert (await library.get(f"/authors/{author['id']}/"))["country_id"] is None
    await library.delete(f"/authors/{other['id']}/")
    assert (await library.get(f"/books/{book['id']}/"))["editor_id"] is None
    await library.delete(f"/books/{book['id']}/")
    await library.get(f"/reviews/{review['id']}/", 404)
    await library.delete(f"/authors/{author['id']}/")


async def test_referenced_row_stays_unless_the_config_says_otherwise(databases: Databases, tmp_path: Path) -> None:
    """Without ``on_delete`` a row that is referenced cannot be deleted, by SQL neither; links to a row go with it."""
    resources: dict[str, dict[str, Any]] = {
        "owners": {"fields": {"name": {"type": "string"}}},
        "pets": {"fields": {"owner": {"type": "foreign_key", "to": "owners"}}},
        "clubs": {
            "fields": {"members": {"type": "many_to_many", "to": "owners"}},
            "viewset": {"prefetch_related": ["members"]},
        },
    }
    async with running(databases, tmp_path, resources) as service:
        owner = await service.post("/owners/", {"name": "Anna"})
        pet = await service.post("/pets/", {"owner_id": owner["id"]})
        club = await service.post("/clubs/", {"members": [owner["id"]]})
        assert [row["members"] for row in await service.rows("/clubs/")] == [[owner]]
        problem = await service.delete(f"/owners/{owner['id']}/", 409)
        assert problem["code"] == "referenced"
        with pytest.raises(asyncpg.IntegrityConstraintViolationError):
            await service.sql.execute("DELETE FROM owners")
        await service.delete(f"/pets/{pet['id']}/")
        await service.delete(f"/owners/{owner['id']}/")
        assert await service.rows("/clubs/") == [{**club, "members": []}]


async def test_update_shows_related_rows_as_they_are_now(library: Service) -> None:
    """The response to a write has the relations of the row as written, not the previous ones."""
    _, _, (red, green, blue) = await some(library)
    await library.post("/countries/", {"code": "jp", "name": "Japan"})
    shelf = await library.post("/shelves/", {"name": "s", "place_id": "fr", "topics": [red]})
    assert (shelf["place"]["code"], [topic["id"] for topic in shelf["topics"]]) == ("fr", [red])
    shelf = await library.patch("/shelves/s/", {"place_id": "jp"})
    assert (shelf["place"]["name"], [topic["id"] for topic in shelf["topics"]]) == ("Japan", [red])
    shelf = await library.put("/shelves/s/", {"name": "s", "place_id": None, "topics": [blue, green]})
    assert (shelf["place"], [topic["id"] for topic in shelf["topics"]]) == (None, [green, blue])
    renamed = await library.patch("/shelves/s/", {"name": "t"})
    assert renamed == {**shelf, "name": "t"}
    await library.get("/shelves/s/", 404)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def trees(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """Relations of a resource to itself."""
    resources: dict[str, Any] = {
        "nodes": {
            "fields": {
                "id": {"type": "string", "max_length": 9, "primary_key": True},
                "parent": {
                    "type": "foreign_key",
                    "to": "nodes",
                    "null": True,
                    "on_delete": "cascade",
                    "related_name": "children",
                },
                "friends": {"type": "many_to_many", "to": "nodes", "related_name": "admirers"},
                "name": {"type": "string", "max_length": 9, "default": "-"},
                "secret": {
                    "type": "foreign_key",
                    "to": "nodes",
                    "null": True,
                    "write_only": True,
                    "related_name": "secrets",
                },
            },
            "viewset": {
                "select_related": ["parent"],
                "prefetch_related": ["children", "friends"],
                "filterset_fields": {
                    "friends": ["exact"],
                    "parent__parent__name": ["exact"],
                    "children__name": ["exact"],
                },
            },
        }
    }
    async with running(databases, tmp_path_factory.mktemp("trees"), resources) as service:
        yield service


async def test_resource_may_relate_to_itself(trees: Service) -> None:
    """A row may be its own parent, child and friend; responses show its current state, also right after a write."""
    await trees.post("/nodes/", {"id": "a", "name": "top"})
    await trees.post("/nodes/", {"id": "b", "parent_id": "a", "friends": ["a"]})
    found = await trees.get("/nodes/a/", expand="admirers")
    assert [child["id"] for child in found["children"]] == ["b"]
    assert [node["id"] for node in found["admirers"]] == ["b"]
    assert found["friends"] == []
    own = await trees.patch("/nodes/a/", {"parent_id": "a", "friends": ["a", "b"], "name": "new"})
    assert own == await trees.get("/nodes/a/")
    assert own["parent"]["name"] == "new"
    assert [child["id"] for child in own["children"]] == ["a", "b"]
    assert [row["id"] for row in await trees.rows("/nodes/", friends="b")] == ["a"]
    assert {row["id"] for row in await trees.rows("/nodes/", parent__parent__name="new")} == {"a", "b"}
    assert [row["id"] for row in await trees.rows("/nodes/", children__name="-")] == ["a"]
    renamed = await trees.patch("/nodes/a/", {"name": "newer"})
    assert renamed == await trees.get("/nodes/a/")
    deleted = await trees.delete("/nodes/a/")
    assert deleted is None
    assert await trees.rows("/nodes/") == [], "cascade"


async def test_write_only_relation_is_never_expanded(trees: Service) -> None:
    """A ``write_only`` foreign key is visible neither from its side nor from the other one."""
    await trees.post("/nodes/", {"id": "x"})
    await trees.post("/nodes/", {"id": "y", "secret_id": "x"})
    for expand in ("secret", "secrets", "children__secret"):
        problem = await trees.get("/nodes/", 400, expand=expand)
        assert problem["detail"].startswith("expand")
    text = json.dumps(await trees.rows("/nodes/"))
    assert "secret" not in text
    assert quote("secret") not in text
