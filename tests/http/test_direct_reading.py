"""Requests for rows and lists about which data decide take a shorter way, with the same answers."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import jwt
import pytest
from aiohttp import ClientResponse

from ..waiting import until
from .conftest import Run
from .library import Service

SECRET = "a shared secret of 32 bytes or more"
SETTINGS = f"auth: {{jwt: {{secret: {SECRET}, audience: rowcast}}, default_permission_classes: [AllowAny]}}"

BOOKS: dict[str, Any] = {
    "fields": {
        "id": {"type": "integer", "primary_key": True},
        "title": {"type": "string", "max_length": 50},
        "author": {"type": "foreign_key", "to": "authors", "null": True, "on_delete": "set_null"},
        "secret": {"type": "string", "max_length": 50, "default": "hidden", "write_only": True},
        "deleted_at": {"type": "datetime", "null": True, "read_only": True},
    },
    "soft_delete": "deleted_at",
    "viewset": {
        "select_related": ["author"], "filterset_fields": {"title": ["exact", "regex"]}, "search_fields": ["title"],
        "ordering_fields": ["title"], "page_size": 2,
    },
}  # fmt: skip
RESOURCES: dict[str, Any] = {
    "authors": {"fields": {"name": {"type": "string", "max_length": 50, "unique": True}},
                "viewset": {"lookup_field": "name"}},
    "books": BOOKS,
    "kept": {**BOOKS, "fields": {**BOOKS["fields"], "author": {"type": "integer", "null": True}},
             "viewset": {**BOOKS["viewset"], "select_related": [], "cache": "responses", "count": "none"}},
    "notes": {  # of tenants, for callers with credentials
        "fields": {"id": {"type": "integer", "primary_key": True}, "tenant": {"type": "integer"},
                   "text": {"type": "string", "max_length": 50}},
        "viewset": {"permission_classes": ["IsAuthenticated"], "scope": {"tenant": "$claims.tenant"},
                    "scope_unless": "IsAdminUser", "filterset_fields": ["text"], "cache": "responses"},
    },
}  # fmt: skip
ADDRESSES = (
    "/authors/", "/authors/Ann%20B/", "/authors/nobody/", "/authors/?name=x", "/authors", "/authors/Ann%20B",
    *(f"/{books}/{rest}" for books in ("books", "kept") for rest in (
        "", "?page=2", "?page=3", "?page_size=1", "?page_size=x", "?title=One", "?title=a%20b", "?search=tw", "?fields=title",
        "?ordering=-title", "?ordering=secret", "?titel=One", "?title__regex=(", "?title=One&title=One", "?secret=x",
        "1/", "1/?fields=id", "1/?fields=secret", "1/?x=1", "3/", "9/", "01/", "x/", "99999999999999999999/",
    )),
)  # fmt: skip
NOTES = ("/notes/", "/notes/?text=b", "/notes/?texd=b", "/notes/1/", "/notes/2/", "/notes/9/", "/notes/x/")
LONG_WAY = {"Accept": "application/json;q=0.9"}  # which takes more than a look to understand


@pytest.fixture
async def service(run: Run) -> Service:
    """Four books; the third one is marked as deleted."""
    service = await run(RESOURCES, SETTINGS)
    await service.sql.execute("INSERT INTO notes (id, tenant, text) VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 1, 'b')")
    await service.sql.execute("INSERT INTO authors (id, name) VALUES (gen_random_uuid(), 'Ann B')")
    rows = "(id, title, deleted_at) VALUES (1, 'One', NULL), (2, 'Two', NULL), (3, 'Three', now()), (4, 'Four', NULL)"
    await service.sql.execute(f"INSERT INTO books {rows}; INSERT INTO kept {rows}")
    await service.sql.execute("UPDATE books SET author_id = (SELECT id FROM authors) WHERE id < 3")
    return service


async def answer(service: Service, method: str, path: str, headers: dict[str, str]) -> tuple[Any, ...]:
    """Everything about an answer that does not differ from request to request."""
    response: ClientResponse = await service.client.request(method, path, headers=headers)
    document = (await response.json()) if response.content_type.endswith("json") else await response.read()
    if isinstance(document, dict):
        document.pop("request_id", None)
    changing = ("X-Request-ID", "X-Stream-Position", "Date", "Content-Length" if response.status >= 400 else "")
    kept = {name: value for name, value in response.headers.items() if name not in changing}
    return response.status, document, kept, "X-Stream-Position" in response.headers


def bearer(**claims: Any) -> dict[str, str]:
    """The header of a caller with these claims."""
    token = {"sub": "ann", "aud": "rowcast", "exp": time.time() + 86_400, **claims}
    return {"Authorization": f"Bearer {jwt.encode(token, SECRET, 'HS256')}"}


async def test_the_short_way_has_the_answers_of_the_long_one(service: Service, dispatched: list[str]) -> None:
    for path in ADDRESSES:
        expected = await answer(service, "GET", path, LONG_WAY)
        assert dispatched, path
        dispatched.clear()
        for headers in ({}, bearer()):
            found = await answer(service, "GET", path, headers)
            assert not dispatched, path
            assert found == expected, path
        tag = expected[2].get("ETag")
        for name in ("If-None-Match", "If-Match"):
            for value in (tag, '"other"', "*"):
                if value is not None:
                    conditional = {name: value}
                    expected = await answer(service, "GET", path, {**conditional, **LONG_WAY})
                    assert await answer(service, "GET", path, conditional) == expected, (path, conditional)
        dispatched.clear()


async def test_each_caller_has_the_answers_of_the_long_way(service: Service, dispatched: list[str]) -> None:
    callers = [
        bearer(tenant=1),
        bearer(tenant=2),
        bearer(tenant="1"),
        bearer(),
        bearer(tenant=[1]),
        bearer(is_staff=True),
    ]
    shown = []
    for headers in callers:
        for path in NOTES:
            expected = await answer(service, "GET", path, {**headers, **LONG_WAY})
            assert len(dispatched) == 1, path
            assert await answer(service, "GET", path, headers) == expected, path
            assert len(dispatched) == 1, path
            dispatched.clear()
        shown.append([row["id"] for row in (await answer(service, "GET", "/notes/", headers))[1]["results"]])
    assert shown == [[1, 3], [2], [1, 3], [], [], [1, 2, 3]]


async def test_refused_callers_have_the_answers_of_the_long_way(service: Service) -> None:
    expired = bearer(exp=time.time() - 100_000)
    for headers in ({}, {"Authorization": "Token wrong"}, {"Authorization": "Bearer x.y.z"}, expired):
        for path in ("/notes/", "/notes/1/", "/books/", "/books/1/?id=1&id=2"):
            expected = await answer(service, "GET", path, {**headers, **LONG_WAY})
            assert await answer(service, "GET", path, headers) == expected, path


UNDECIDED: tuple[tuple[str, dict[str, str]], ...] = (
    ("/books/?expand=author", {}),
    ("/books/?%65xpand=author", {}),
    ("/books/1/?expand=author", {}),
    ("/books/?deleted=with", {}),
    ("/books/3/?deleted=with", {}),
    ("/notes/", {}),
    ("/books/", {"Cache-Control": "no-cache"}),
    ("/books/", {"Prefer": "count=none"}),
    ("/books/", {"Accept": "text/csv"}),
    ("/books/", {"Accept": "text/html"}),
    ("/books/1/", {"Accept": "text/html"}),
)


async def test_a_request_about_which_somebody_decides_takes_the_long_way(
    service: Service, dispatched: list[str]
) -> None:
    for path, headers in UNDECIDED:
        await service.client.get(path, headers=headers)
        assert len(dispatched) == 1, (path, headers)
        dispatched.clear()


KEPT_LINKS: dict[str, Any] = {
    name: {
        "fields": {"id": {"type": "integer", "primary_key": True}, "name": {"type": "string", "default": "x"}, **{
            to: {"type": "foreign_key", "to": to, "null": True, "on_delete": "set_null"} for to in targets
        }},
        "viewset": {"cache": "responses", **viewset},
    }
    for name, targets, viewset in (
        ("groups", [], {}), ("members", [], {"permission_classes": ["IsAuthenticated"]}), ("links", ["groups", "members"], {}),
    )
}  # fmt: skip


async def test_an_expanded_answer_is_kept_for_everybody_where_everybody_may_read_the_rows(
    run: Run, dispatched: list[str]
) -> None:
    """Rows of a viewset that refuses some callers are never in an answer for everybody."""
    service = await run(KEPT_LINKS, SETTINGS)
    await service.sql.execute(
        "INSERT INTO groups (id, name) VALUES (1, 'x'); INSERT INTO members (id, name) VALUES (1, 'x')"
    )
    await service.sql.execute("INSERT INTO links (id, name, groups_id, members_id) VALUES (1, 'x', 1, 1)")
    for path in ("/links/?expand=groups", "/links/1/?expand=groups"):
        await until(partial(is_kept, service, path, dispatched))  # the feed reports the rows above first
        kept = await answer(service, "GET", path, {})
        await service.sql.execute("UPDATE groups SET name = name || '!'")  # which the feed reports
        await until(partial(shows_otherwise, service, path, kept))
        dispatched.clear()
    for path in ("/links/?expand=members", "/links/1/?expand=groups,members"):
        for _ in range(2):
            assert (await answer(service, "GET", path, bearer()))[0] == 200
            assert (await answer(service, "GET", path, {}))[0] == 401


async def is_kept(service: Service, path: str, dispatched: list[str]) -> bool:
    """Whether memory has the answer of an address."""
    dispatched.clear()
    await answer(service, "GET", path, {})
    return not dispatched


async def shows_otherwise(service: Service, path: str, kept: tuple[Any, ...]) -> bool:
    """Whether an address has another answer now."""
    return await answer(service, "GET", path, {}) != kept


PYTHON = """
from marshmallow import fields
from rowcast import BasePermission, ModelViewSet, Serializer

class Nobody(BasePermission):
    def has_permission(self, request, view):
        return False

class Even(BasePermission):
    def has_object_permission(self, request, view, row):
        return row.id % 2 == 0

class Shouting(Serializer):
    id = fields.Integer()
    title = fields.Method("shout")

    def shout(self, row):
        return row.title.upper()

class Everybody(BasePermission):
    def has_permission(self, request, view):
        return view.action != "list"

class Own(ModelViewSet):
    def get_queryset(self):
        return super().get_queryset().filter(id=2)

class Retrieving(ModelViewSet):
    async def retrieve(self, request, id):
        return {"own": True}

class Choosing(ModelViewSet):
    def get_serializer_class(self):
        return Shouting if self.action == "retrieve" else super().get_serializer_class()

class ListsOwn(ModelViewSet):
    list_serializer_class = Shouting
"""


@pytest.mark.parametrize(
    ("viewset", "path", "status", "document"),
    [
        ({"permission_classes": ["views:Nobody"]}, "/notes/1/", 401, None),
        ({"permission_classes": ["IsAuthenticated"]}, "/notes/", 401, None),
        ({"permission_classes": ["views:Even"]}, "/notes/1/", 401, None),
        ({"class": "views:Own"}, "/notes/1/", 404, None),
        ({"scope": {"id": 2}, "scope_unless": "views:Everybody"}, "/notes/1/", 200, {"id": 1, "title": "One"}),
        ({"class": "views:Retrieving"}, "/notes/1/", 200, {"own": True}),
        ({"class": "views:Choosing"}, "/notes/1/", 200, {"id": 1, "title": "ONE"}),
        ({"serializer_class": "views:Shouting"}, "/notes/1/", 200, {"id": 1, "title": "ONE"}),
        ({"class": "views:ListsOwn"}, "/notes/?page_size=1", 200, [{"id": 1, "title": "ONE"}]),
        ({"scope": {"title": "Two"}}, "/notes/1/", 404, None),
        ({"throttle_classes": ["AnonRateThrottle"]}, "/notes/1/", 429, None),
        ({"excluded_actions": ["retrieve"]}, "/notes/1/", 405, None),
    ],
)  # fmt: skip
async def test_where_python_or_a_caller_decides_nothing_is_direct(
    run: Run, viewset: dict[str, Any], path: str, status: int, document: Any
) -> None:
    fields = {"id": {"type": "integer", "primary_key": True}, "title": {"type": "string", "max_length": 50}}
    settings = '{"auth": {"default_permission_classes": ["AllowAny"]}, "throttle": {"rates": {"anon": "1/day"}}}'
    service = await run({"notes": {"fields": fields, "viewset": viewset}}, settings, {"views": PYTHON})
    await service.sql.execute("INSERT INTO notes (id, title) VALUES (1, 'One'), (2, 'Two')")
    if status == 429:
        await service.get("/notes/1/")
    found = await service.get(path, status)
    if document is not None:
        assert found.get("results", found) == document
