"""Addresses and methods: routes, their responses, and the parameters that shape a response."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from aiohttp.test_utils import make_mocked_request

from rowcast.configuration.settings import Server
from rowcast.rest.request import base_url

from ..databases import Databases
from .conftest import running
from .library import RESOURCES, Service, check_problem

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def a_book(library: Service) -> dict[str, Any]:
    """A book with an author, two tags and a review."""
    await library.post("/countries/", {"code": "fr", "name": "France"})
    author = await library.post("/authors/", {"name": "Anna", "country_id": "fr"})
    tags = [(await library.post("/tags/", {"name": name}))["id"] for name in ("red", "green")]
    book = await library.post("/books/", {"title": "One", "author_id": author["id"], "tags": tags})
    await library.post("/reviews/", {"book_id": book["id"], "stars": 4})
    return book


async def test_root_lists_every_resource_with_its_address(library: Service) -> None:
    """``GET /`` lists each resource by name, with an absolute URL that works."""
    root = await library.get("/")
    assert root.keys() == RESOURCES.keys()
    for url in root.values():
        path = urlsplit(url).path
        assert url == str(library.client.make_url(path))
        await library.get(path)


async def test_paths_work_with_and_without_the_slash(library: Service) -> None:
    """Neither form redirects, for any method; two slashes are another address."""
    book = await a_book(library)
    author = book["author_id"]
    for slash in ("", "/"):
        _, page = await library.ask("GET", f"/books{slash}", status=200, allow_redirects=False)
        assert page["count"] >= 1
        _, made = await library.ask("POST", f"/books{slash}", {"title": f"x{slash}", "author_id": author}, status=201)
        for method, body, status in (
            ("GET", None, 200),
            ("HEAD", None, 200),
            ("OPTIONS", None, 200),
            ("PATCH", {}, 200),
            ("PUT", made, 200),
            ("DELETE", None, 204),
        ):
            await library.ask(method, f"/books/{made['id']}{slash}", body, status=status, allow_redirects=False)
        await library.ask("GET", f"/health/ready{slash}", status=200, allow_redirects=False)
        await library.ask("GET", f"/openapi.json{slash}", status=200, allow_redirects=False)
    for path in ("/nothing/", "/books//", "/books/x/y/", "/Books/", "/books/x/y", "/books.json"):
        response, problem = await library.ask("GET", path, status=404, allow_redirects=False)
        assert problem["code"] == "not_found"
        assert response.headers["X-Request-ID"]


async def test_method_that_an_address_lacks_is_405_with_allow(library: Service) -> None:
    """``Allow`` names the methods that are there."""
    book = await a_book(library)
    for path, allowed in (
        ("/books/", {"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"}),
        (f"/books/{book['id']}/", {"GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"}),
        ("/books/stream/", {"GET", "HEAD", "OPTIONS"}),
    ):
        for method in {"POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"} - allowed:
            response, problem = await library.ask(method, path)
            assert response.status == 405, (method, path)
            assert set(response.headers["Allow"].split(", ")) == allowed
            assert problem["code"] == "method_not_allowed"
        response, document = await library.ask("OPTIONS", path, status=200)
        assert set(response.headers["Allow"].split(", ")) == allowed
        assert set(document["methods"]) == allowed
    for path in ("/", "/openapi.json"):
        response, _ = await library.ask("POST", path, {}, status=405)
        assert set(response.headers["Allow"].split(", ")) >= {"GET", "HEAD"}


async def test_head_mirrors_get(library: Service) -> None:
    """HEAD has GET's status and headers, and no body; on a stream it ends."""
    book = await a_book(library)
    for path in (
        "/books/",
        f"/books/{book['id']}/",
        "/books/?page=9",
        "/books/?nope=1",
        "/authors/x/",
        "/",
        "/nothing/",
    ):
        get, _ = await library.ask("GET", path)
        head, _ = await library.ask("HEAD", path, status=get.status)
        assert await head.read() == b""
        for name in ("Content-Type", "Content-Length"):
            assert head.headers[name] == get.headers[name], (path, name)
        assert (
            ("X-Stream-Position" in head.headers)
            == ("X-Stream-Position" in get.headers)
            == (get.status == 200 and path != "/")
        )


async def test_options_describes_the_fields_of_each_writing_action(library: Service) -> None:
    """OPTIONS has the name, the description, and for POST, PUT and PATCH every field with its rules."""
    book = await a_book(library)
    _, document = await library.ask("OPTIONS", "/books/", status=200)
    assert document["name"]
    assert document["description"] == "", "books have no description"
    assert document["actions"].keys() == {"POST"}
    fields = document["actions"]["POST"]
    assert fields.keys() == {
        "id",
        "title",
        "summary",
        "author_id",
        "editor_id",
        "tags",
        "year",
        "code",
        "views",
        "state",
        "moods",
        "created_at",
        "updated_at",
        "edited_on",
    }
    assert (
        fields["title"].items() >= {"type": "string", "required": True, "read_only": False, "max_length": 100}.items()
    )
    assert fields["year"].items() >= {"type": "integer", "required": False, "null": True, "min": 0, "max": 9999}.items()
    assert fields["state"]["choices"] == ["draft", "out", "gone, long"]
    assert fields["state"]["default"] == "draft"
    assert fields["views"]["read_only"] is True
    assert fields["author_id"].items() >= {"type": "foreign_key", "to": "authors", "required": True}.items()
    assert fields["tags"].items() >= {"type": "many_to_many", "to": "tags", "required": False}.items()
    _, document = await library.ask("OPTIONS", f"/books/{book['id']}/", status=200)
    assert document["actions"].keys() == {"PUT", "PATCH"}
    assert document["actions"]["PUT"]["title"]["required"] is True
    assert document["actions"]["PATCH"]["title"]["required"] is False
    _, document = await library.ask("OPTIONS", "/tags/", status=200)
    assert document["actions"]["POST"]["id"]["read_only"] is True


async def test_fields_and_expand_shape_the_answer(library: Service) -> None:
    """``fields`` selects, ``expand`` adds related rows at any depth, in lists and single rows, in declared order."""
    book = await a_book(library)
    path = f"/books/{book['id']}/"
    assert list(await library.get(path, fields="year,id, title")) == ["id", "title", "year"]
    assert await library.get(path, fields="title,title") == {"title": "One"}
    found = await library.get(path, expand="author__country,tags,reviews,editor", fields="author,tags,reviews,editor")
    review = found["reviews"][0]
    assert found == {
        "author": {
            "id": book["author_id"],
            "name": "Anna",
            "country_id": "fr",
            "mentor_id": None,
            "country": {"code": "fr", "name": "France"},
        },
        "tags": [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}],
        "reviews": [{"id": review["id"], "book_id": book["id"], "stars": 4}],
        "editor": None,
    }
    listed = await library.rows(
        "/books/", expand="author__country,tags,reviews,editor", fields="author,tags,reviews,editor"
    )
    assert listed == [found]
    nested = await library.get("/countries/fr/", expand="authors__books__tags,authors__books__reviews")
    inner = nested["authors"][0]["books"][0]
    assert (inner["tags"], inner["reviews"]) == (found["tags"], found["reviews"])
    assert (await library.get(path, expand="author")).keys() == {*book, "author"}
    both = await library.get(path, expand="author__pupils,author__mentor, tags")
    assert (both["author"]["pupils"], both["author"]["mentor"]) == ([], None)
    tag = await library.get("/tags/1/", expand="books,shelves")
    assert ([each["id"] for each in tag["books"]], tag["shelves"]) == ([book["id"]], [])


async def test_fields_and_expand_refuse_unknown_names(library: Service) -> None:
    """An unknown or hidden name is a 400 that names the parameter and the nearest; so is an endless expansion."""
    book = await a_book(library)
    deep = "__".join(["author", "books"] * 400)
    many = ",".join("__".join(("author", *path)) for path in itertools.product(("mentor", "pupils"), repeat=6))
    for params, word in (
        ({"fields": "titel"}, "title"),
        ({"fields": "code"}, "fields"),
        ({"fields": "tags"}, "fields"),
        ({"fields": ","}, "fields"),
        ({"fields": "id,"}, "fields"),
        ({"fields": "author__name"}, "fields"),
        ({"fields": "*"}, "fields"),
        ({"expand": "autor"}, "author"),
        ({"expand": "author_id"}, "expand"),
        ({"expand": "author__titel"}, "expand"),
        ({"expand": "author__"}, "expand"),
        ({"expand": "__author"}, "expand"),
        ({"expand": ","}, "expand"),
        ({"expand": "title"}, "expand"),
        ({"expand": deep}, "expand"),
        ({"expand": many}, "expand"),
        ({"expand": "author", "fields": "tags"}, "fields"),
        ({"expand": "\0"}, "expand"),
        ({"page": "1"}, "page"),
    ):
        problem = await library.get(f"/books/{book['id']}/", 400, query=params)
        assert word in problem["detail"], params
        if "page" not in params:
            await library.get("/books/", 400, query=params)


async def test_accept_that_leaves_json_out_is_406(library: Service) -> None:
    """A header that allows JSON is accepted; any other is a 406, and every error is a problem document."""
    for accept in (
        "",
        "*/*",
        "application/json",
        "application/*;q=0.1",
        "text/html, */*;q=0.8",
        "Application/JSON; indent=4",
        "application/problem+json",
        "text/html,application/json;q=0.001",
    ):
        await library.ask("GET", "/books/", status=200, headers={"Accept": accept})
    for accept in (
        "text/html",
        "image/png, text/*",
        "application/xml",
        "application/json;q=0",
        "nonsense",
        "*/*;q=0.0",
    ):
        response, problem = await library.ask("GET", "/books/", status=406, headers={"Accept": accept})
        assert problem["code"] == "not_acceptable"
    headers = [("Accept", "text/html"), ("Accept", "application/json")]
    await library.ask("GET", "/books/", status=200, headers=headers)
    for path in ("/nothing/", "/books/x/", "/books/?nope=1"):
        response, document = await library.ask("GET", path, headers={"Accept": "text/html"})
        check_problem(response, document)


async def test_errors_come_before_content_negotiation(library: Service) -> None:
    """A row that does not exist is a 404 for an ``EventSource`` too; nothing is written for an excluded type."""
    events = {"Accept": "text/event-stream"}
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        await library.ask(method, "/books/x/", status=404, headers=events)
    await library.ask("GET", "/books/", status=401, headers={**events, "Authorization": "Token nobody"})
    await library.ask("POST", "/authors/", {"name": "Ursula"}, status=406, headers=events)
    assert (await library.get("/authors/"))["count"] == 0


@pytest.mark.parametrize("accept", ["text/event-stream", "text/html", "image/png;q=0.5"])
async def test_errors_are_sent_whatever_is_accepted(closed: Service, accept: str) -> None:
    """On every kind of route an ``EventSource`` gets the problem that there is, as a problem document."""
    bad = {"Authorization": "Bearer rc_no"}
    for method, path, headers, status in (
        ("GET", "/nothing/", {}, 404), ("GET", "/default/x/y/", {}, 404), ("POST", "/nothing/", {}, 404),
        ("TRACE", "/default/", {}, 405), ("DELETE", "/default/", {}, 401), ("POST", "/default/stream/", {}, 405),
        ("POST", "/stream/", {}, 405), ("POST", "/", {}, 405), ("POST", "/openapi.json", {}, 405),
        ("PUT", "/health/ready", {}, 405), ("GET", "/default/x/", {}, 404), ("GET", "/default/x/stream/", {}, 404),
        ("GET", "/default/stream/?nope=1", {}, 400), ("GET", "/default/stream/?snapshot=maybe", {}, 400),
        ("GET", "/stream/", {}, 400), ("GET", "/stream/?resources=nothing", {}, 400),
        ("GET", "/stream/?resources=default&default.nope=1", {}, 400), ("GET", "/stream/?resources=default", bad, 401),
        ("GET", "/stream/?resources=default&access_token=x", {}, 401), ("GET", "/default/stream/", bad, 401),
        ("GET", "/default/stream/?access_token=x", {}, 401), ("GET", "/default/", bad, 401),
        ("POST", "/default/", {}, 401), ("PATCH", "/default/1/", {}, 401), ("OPTIONS", "/default/", bad, 401),
        ("GET", "/quiet/stream/", {}, 404), ("GET", "/stream/?resources=quiet", {}, 400),
    ):  # fmt: skip
        response, document = await closed.ask(method, path, headers={**headers, "Accept": accept})
        assert (response.status, method, path) == (status, method, path)
        check_problem(response, document)


async def test_options_of_a_malformed_key_is_404(library: Service) -> None:
    """``OPTIONS`` of an address that no row can have is a 404."""
    await library.ask("OPTIONS", "/books/x/", status=404)


async def test_request_id_is_the_client_s_or_made(library: Service) -> None:
    """A plain ``X-Request-ID`` is echoed, in errors too; anything else is replaced."""
    for given in ("abcdefgh", "A.b-c_1234567890", "x" * 64):
        for path in ("/books/", "/nothing/"):
            response, document = await library.ask("GET", path, headers={"X-Request-ID": given})
            assert response.headers["X-Request-ID"] == given
            assert path == "/books/" or document["request_id"] == given
    seen = set()
    for given in ("short", "x" * 65, "has space", "<script>", "é" * 10, '"quoted"'):
        response, _ = await library.ask("GET", "/nothing/", headers={"X-Request-ID": given})
        seen.add(response.headers["X-Request-ID"])
        assert given not in seen
    assert len(seen) == 6


async def test_every_read_has_a_stream_position(library: Service) -> None:
    """List and retrieve carry ``X-Stream-Position``, errors do not."""
    book = await a_book(library)
    for path, expected in (
        ("/books/", True),
        (f"/books/{book['id']}/", True),
        ("/books/?nope=1", False),
        ("/books/x/", False),
    ):
        response, _ = await library.ask("GET", path)
        assert ("X-Stream-Position" in response.headers) == expected, path
    response, _ = await library.ask("GET", "/books/stream/?last_event_id=x&nope=1", status=400)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def closed(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """Resources with some of their actions, under the default permissions."""
    fields: dict[str, Any] = {"name": {"type": "string", "max_length": 9}}
    resources: dict[str, Any] = {
        "few": {"fields": fields, "viewset": {"allowed_actions": ["list", "create"]}},
        "fewer": {"fields": fields, "viewset": {"excluded_actions": ["destroy", "stream", "list"]}},
        "quiet": {"fields": fields, "viewset": {"stream_enabled": False}},
        "default": {"fields": fields},
    }
    for name in ("few", "fewer", "quiet"):
        resources[name]["viewset"]["permission_classes"] = ["AllowAny"]
    async with running(databases, tmp_path_factory.mktemp("closed"), resources, "{}") as service:
        yield service


async def test_actions_that_are_left_out_have_no_method(closed: Service) -> None:
    """``allowed_actions`` and ``excluded_actions`` decide which methods a resource has."""
    await closed.post("/few/", {"name": "a"})
    assert len(await closed.rows("/few/")) == 1
    key = (await closed.rows("/few/"))[0]["id"]
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        response, _ = await closed.ask(method, f"/few/{key}/", {} if method[0] == "P" else None)
        assert response.status in (404, 405)
    made = await closed.post("/fewer/", {"name": "a"})
    response, _ = await closed.ask("DELETE", f"/fewer/{made['id']}/", status=405)
    assert "DELETE" not in response.headers["Allow"]
    response, _ = await closed.ask("GET", "/fewer/", status=405)
    assert set(response.headers["Allow"].split(", ")) == {"OPTIONS", "PATCH", "POST", "PUT"}
    for name in ("fewer", "quiet"):
        await closed.ask("GET", f"/{name}/stream/", status=404)


async def test_default_permissions_let_everybody_read_and_nobody_write(closed: Service) -> None:
    """Without ``permission_classes`` an anonymous caller may read; writing is a 401 with ``WWW-Authenticate``."""
    assert await closed.rows("/default/") == []
    await closed.ask("OPTIONS", "/default/", status=200)
    for method, path in (
        ("POST", "/default/"),
        ("PUT", "/default/x/"),
        ("PATCH", "/default/x/"),
        ("DELETE", "/default/x/"),
    ):
        response, problem = await closed.ask(method, path, {"name": 1}, status=401)
        assert response.headers["WWW-Authenticate"]
        assert problem["code"] == "not_authenticated"
    assert json.dumps(await closed.get("/default/")) == json.dumps(
        {"count": 0, "next": None, "previous": None, "results": []}
    )


async def test_every_response_forbids_sniffing(library: Service) -> None:
    """Browsers take a response's type as it is sent, that of an error too."""
    for path in ("/books/", "/nothing/", "/health/live"):
        response, _ = await library.ask("GET", path)
        assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(("sent", "scheme"), [("https", "https"), ("javascript", "http"), ("a://b/?", "http")])
async def test_forwarded_scheme_is_http_or_https(sent: str, scheme: str) -> None:
    """Any other ``X-Forwarded-Proto`` is ignored, so that it cannot get into an address."""
    request = make_mocked_request("GET", "/", headers={"Host": "api.test", "X-Forwarded-Proto": sent})
    assert base_url(Server(trusted_proxies=1), request) == f"{scheme}://api.test"
