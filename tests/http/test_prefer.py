"""``Prefer`` (RFC 7240): ``return``, ``count``, ``max-affected`` and ``handling``, on every method that they are about."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from ..databases import Databases
from .conftest import running
from .library import Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

FIELDS: dict[str, Any] = {
    "id": {"type": "integer", "primary_key": True},
    "title": {"type": "string", "max_length": 20},
    "isbn": {"type": "string", "unique": True, "null": True},
}
RESOURCES: dict[str, dict[str, Any]] = {
    "books": {"fields": FIELDS, "viewset": {"put_creates": True, "import": True}},
    "public": {"fields": FIELDS, "viewset": {"cache": "responses"}},
    "uncounted": {"fields": FIELDS, "viewset": {"count": "none", "pagination_class": "LimitOffsetPagination"}},
    "plain": {"fields": FIELDS, "viewset": {"pagination_class": None}},
    "hooked": {"fields": FIELDS, "viewset": {"class": "viewsets:Hooked"}},
}
VIEWSETS = """
from rowcast import ModelViewSet, action

class Hooked(ModelViewSet):
    async def perform_create(self, serializer):
        await serializer.save(title="hooked")

    @action(detail=False, methods=["POST"])
    async def act(self, request):
        return {"done": True}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    directory = tmp_path_factory.mktemp("prefer")
    async with running(databases, directory, RESOURCES, modules={"viewsets": VIEWSETS}) as service:
        yield service


@pytest_asyncio.fixture(loop_scope="module")
async def service(_service: Service) -> Service:
    await _service.sql.execute("TRUNCATE books, public, uncounted, plain, hooked RESTART IDENTITY CASCADE")
    return _service


def prefer(*wanted: str) -> dict[str, str]:
    return {"Prefer": ", ".join(wanted)}


WRITES: list[tuple[str, str, Any, int]] = [
    ("POST", "/books/", {"title": "new"}, 201),
    ("POST", "/books/", [{"title": "new"}, {"title": "more"}], 201),
    ("POST", "/hooked/", {"title": "new"}, 201),
    ("PUT", "/books/1/", {"title": "changed"}, 204),
    ("PUT", "/books/77/", {"title": "made"}, 201),
    ("PATCH", "/books/1/", {"title": "changed"}, 204),
    ("PATCH", "/books/", [{"id": 1, "title": "changed"}], 204),
    ("PUT", "/books/?on=isbn", {"isbn": "a", "title": "changed"}, 204),
    ("PUT", "/books/?on=isbn", [{"isbn": "b", "title": "new"}], 201),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), WRITES)
async def test_minimal_answers(service: Service, method: str, path: str, body: Any, status: int) -> None:
    """The same headers as with a body, and no body; the change is the same."""
    await service.client.post("/books/", json={"title": "first", "isbn": "a"})
    async with service.client.request(method, path, json=body, headers=prefer("return=minimal")) as response:
        assert (response.status, await response.read()) == (status, b"")
        assert response.headers["Preference-Applied"] == "return=minimal"
        assert "application/json" not in response.headers.get("Content-Type", "")
        if isinstance(body, dict) and "?" not in path:
            assert ("ETag" in response.headers, "Location" in response.headers) == (True, status == 201)
    title = "hooked" if path == "/hooked/" else (body[0] if isinstance(body, list) else body)["title"]
    table = path.split("/")[1]
    assert await service.sql.fetchval(f"SELECT count(*) FROM {table} WHERE title = $1", title) == 1


@pytest.mark.parametrize(("method", "path", "body", "status"), WRITES)
async def test_representation_is_what_is_sent_anyway(
    service: Service, method: str, path: str, body: Any, status: int
) -> None:
    await service.client.post("/books/", json={"title": "first", "isbn": "a"})
    async with service.client.request(method, path, json=body, headers=prefer("return=representation")) as response:
        assert response.status == (201 if status == 201 else 200)
        assert "title" in await response.text()
        assert response.headers["Preference-Applied"] == "return=representation"


async def test_minimal_is_not_about_other_answers(service: Service) -> None:
    """What an action returns, a report, a list and an error stay as they are."""
    client, wanted = service.client, prefer("return=minimal")
    for response in (
        await client.post("/hooked/act/", headers=wanted),
        await client.get("/books/", headers=wanted),
        await client.post("/books/", json={"title": 1}, headers=wanted),
        await client.post("/books/import/", data="title\nA\n", headers={**wanted, "Content-Type": "text/csv"}),
    ):
        assert await response.text()
        assert "Preference-Applied" not in response.headers


@pytest.mark.parametrize("path", ["/books/", "/uncounted/", "/public/"])
@pytest.mark.parametrize("method", ["GET", "QUERY"])
async def test_count(service: Service, path: str, method: str) -> None:
    """The client decides how rows are counted; the answer without the preference is as it was before and after."""
    name = path.strip("/")
    await service.client.post(path, json=[{"title": "x"}] * 30)
    await service.sql.execute(f"ANALYZE {name}")
    expected = None if name == "uncounted" else 30
    body: dict[str, Any] = {"json": {}} if method == "QUERY" else {}
    for _ in range(2):
        for wanted, count in (("none", None), ("exact", 30), ("estimated", 30), (None, expected)):
            headers = {} if wanted is None else prefer(f"count={wanted}")
            response = await service.client.request(method, path, headers=headers, **body)
            page = await response.json()
            assert (response.status, page["count"], bool(page["next"])) == (200, count, True), wanted
            assert response.headers.get("Preference-Applied") == (wanted and f"count={wanted}")
            if method == "GET":
                assert "Prefer" in response.headers["Vary"].split(", ")


async def test_counts_have_tags_of_their_own(service: Service) -> None:
    """A cache that holds one of them does not take it for the other."""
    await service.client.post("/public/", json={"title": "x"})
    counted = await service.client.get("/public/")
    uncounted = await service.client.get("/public/", headers=prefer("count=none"))
    assert counted.headers["ETag"] != uncounted.headers["ETag"]
    again = {"If-None-Match": counted.headers["ETag"]}
    assert (await service.client.get("/public/", headers=again)).status == 304
    assert (await service.client.get("/public/", headers=again | prefer("count=none"))).status == 200
    held = await service.client.get(
        "/public/", headers={"If-None-Match": uncounted.headers["ETag"]} | prefer("count=none")
    )
    assert (held.status, held.headers["Vary"]) == (304, "Accept, Prefer")


async def test_count_is_not_about_other_answers(service: Service) -> None:
    made = await service.client.post("/plain/", json={"title": "x"}, headers=prefer("count=none"))
    whole = await service.client.get("/plain/", headers=prefer("count=exact"))
    row = await service.client.get("/plain/1/", headers=prefer("count=exact"))
    for response in (made, whole, row):
        assert response.status < 300
        assert "Preference-Applied" not in response.headers
        assert "Prefer" not in response.headers.get("Vary", "")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/books/", {"title": "x"}),
        ("POST", "/hooked/", {"title": "x"}),
        ("PUT", "/books/1/", {"title": "x"}),
        ("PATCH", "/books/1/", {"title": "x"}),
        ("DELETE", "/books/1/", None),
        ("PUT", "/books/?on=isbn", {"title": "x", "isbn": "a"}),
        ("POST", "/books/", [{"title": "x"}]),
        ("DELETE", "/books/?id__in=1", None),
    ],
)
async def test_max_affected(service: Service, method: str, path: str, body: Any) -> None:
    """Also for one row; nothing is written beyond it."""
    await service.client.post("/books/", json={"title": "first", "isbn": "a"})
    sent: dict[str, Any] = {} if body is None else {"json": body}
    response = await service.client.request(method, path, headers=prefer("max-affected=0"), **sent)
    assert (response.status, (await response.json())["code"]) == (400, "too_many_rows")
    rows = "SELECT array_agg(title) FROM (SELECT title FROM books UNION ALL SELECT title FROM hooked) t"
    assert await service.sql.fetchval(rows) == ["first"]
    response = await service.client.request(method, path, headers=prefer("max-affected=1"), **sent)
    assert (response.status // 100, response.headers["Preference-Applied"]) == (2, "max-affected=1")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("handling=strict, retrun=minimal", "Prefer: retrun: unknown preference; did you mean return?"),
        ("handling=strict, return=minimum", "Prefer: return=minimum: unknown preference; did you mean minimal?"),
        ("handling=strict, respond-async", "Prefer: respond-async: unknown preference; "),
        ('x="a, b"; p=1, handling=strict', "Prefer: x: unknown preference; "),
        ("Handling=Strict, count=all", "Prefer: count=all: unknown preference; "),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/books/"), ("GET", "/books/"), ("GET", "/books/1/"), ("POST", "/batch/")]
)
async def test_strict_handling(service: Service, wanted: str, message: str, method: str, path: str) -> None:
    body: dict[str, Any] = {"json": {"title": "x"}} if method == "POST" else {}
    response = await service.client.request(method, path, headers=prefer(wanted), **body)
    problem = await response.json()
    assert (response.status, problem["code"], problem["detail"][: len(message)]) == (400, "invalid_parameter", message)
    assert await service.sql.fetchval("SELECT count(*) FROM books") == 0


@pytest.mark.parametrize(
    ("wanted", "applied"),
    [
        ("retrun=minimal, respond-async, wait=10", None),
        ("handling=lenient, return=minimum", "handling=lenient"),
        ('return="minimal"; x=1, foo', "return=minimal"),
        ("RETURN=Minimal, return=representation", "return=minimal"),
        (
            "handling=strict, return=representation, max-affected=3",
            "handling=strict, max-affected=3, return=representation",
        ),
        (', ,;,=,"', None),
    ],
)
async def test_what_is_honoured_is_named(service: Service, wanted: str, applied: str | None) -> None:
    response = await service.client.post("/books/", json={"title": "x"}, headers=prefer(wanted))
    assert (response.status, response.headers.get("Preference-Applied")) == (201, applied)


async def test_several_headers_are_one(service: Service) -> None:
    headers = [("Prefer", "return=minimal"), ("Prefer", "handling=strict")]
    response = await service.client.post("/books/", json={"title": "x"}, headers=headers)
    assert response.headers["Preference-Applied"] == "handling=strict, return=minimal"


async def test_batch_with_minimal_answers(service: Service) -> None:
    """Operations have no bodies in the answer; later ones can still refer to their rows."""
    operations = [
        {"method": "POST", "path": "/books/", "body": {"title": "a"}, "ref": "a"},
        {"method": "PATCH", "path": "/books/{a}/", "body": {"title": "b"}},
        {"method": "POST", "path": "/hooked/act/"},
    ]
    response = await service.client.post("/batch/", json={"operations": operations}, headers=prefer("return=minimal"))
    results = (await response.json())["results"]
    assert [(each["status"], each["body"]) for each in results] == [(201, None), (204, None), (200, {"done": True})]
    assert results[0]["headers"]["Preference-Applied"] == "return=minimal"
    assert await service.sql.fetchval("SELECT title FROM books") == "b"


async def test_max_affected_is_about_all_operations_of_a_batch(service: Service) -> None:
    """The operation with which there are too many rows is named, and nothing is written; of one fewer, all are."""
    one = {"method": "POST", "path": "/books/", "body": {"title": "a"}}
    two = {"method": "POST", "path": "/books/", "body": [{"title": "b"}, {"title": "c"}]}
    changed = {"method": "PATCH", "path": "/books/", "body": [{"id": 1, "title": "d"}]}
    gone = {"method": "DELETE", "path": "/books/?id__in=1,2,77"}
    upserted = {"method": "PUT", "path": "/books/?on=isbn", "body": [{"isbn": "x", "title": "e"}]}
    operations = [one, two, {**one, "method": "PATCH", "path": "/books/1/"}, changed, gone, upserted]
    for most, failing in ((0, 0), (2, 1), (3, 2), (4, 3), (6, 4), (7, 5)):
        await service.sql.execute("TRUNCATE books RESTART IDENTITY")
        headers = prefer(f"max-affected={most}")
        response = await service.client.post("/batch/", json={"operations": operations}, headers=headers)
        problem = await response.json()
        assert (response.status, problem["code"], problem["operation"]) == (400, "too_many_rows", failing), most
        assert await service.sql.fetchval("SELECT count(*) FROM books") == 0
    await service.sql.execute("TRUNCATE books RESTART IDENTITY")
    response = await service.client.post("/batch/", json={"operations": operations}, headers=prefer("max-affected=8"))
    results = (await response.json())["results"]
    assert [each["headers"]["Preference-Applied"] for each in results] == ["max-affected=8"] * len(operations)
    again = await service.client.post("/batch/", json={"operations": [one] * 8}, headers=prefer("max-affected=8"))
    assert again.status == 200, "each batch counts its own rows"


async def test_replayed_answers_are_as_the_client_prefers_them_now(service: Service) -> None:
    key = {"Idempotency-Key": "0123456789-prefer"}
    first = await service.client.post("/books/", json={"title": "x"}, headers=key | prefer("return=minimal"))
    again = await service.client.post("/books/", json={"title": "x"}, headers=key)
    assert (first.status, await first.read(), again.status) == (201, b"", 201)
    assert (again.headers["Idempotency-Replayed"], (await again.json())["title"]) == ("true", "x")
    assert first.headers["ETag"] == again.headers["ETag"]
    assert "Preference-Applied" not in again.headers


async def test_options_and_openapi(service: Service) -> None:
    described = await (await service.client.options("/books/")).json()
    assert described["prefer"] == ["handling", "return", "count", "max-affected"]
    assert (await (await service.client.options("/plain/")).json())["prefer"] == ["handling", "return", "max-affected"]
    assert (await (await service.client.options("/books/import/")).json())["prefer"] == ["handling", "max-affected"]
    document = await (await service.client.get("/openapi.json")).json()
    operations = document["paths"]["/books/"]
    for method in ("get", "post", "put", "patch", "delete"):
        assert any(each.get("name") == "Prefer" for each in operations[method]["parameters"]), method
    assert {"200", "204"} <= document["paths"]["/books/{id}/"]["patch"]["responses"].keys()
