"""Requests that write a row about which data decide take a shorter way, with the same answers and the same rows."""

from __future__ import annotations

import gzip
import json
import re
import time
from typing import Any

import pytest

from .conftest import Run
from .library import Service
from .test_declared_scope import SETTINGS, bearer

LONG_WAY = {"Accept": "application/json;q=0.9"}  # which takes more than a look to understand
JSON = {"Content-Type": "application/json"}

BOOKS: dict[str, Any] = {
    "fields": {
        "id": {"type": "integer", "primary_key": True},
        "title": {"type": "string", "max_length": 20, "unique": True},
        "state": {"type": "string", "choices": ["draft", "out"], "default": "draft"},
        "year": {"type": "integer", "null": True, "min": 0},
        "price": {"type": "decimal", "max_digits": 6, "decimal_places": 2, "null": True},
        "words": {"type": "array", "of": "string", "default": []},
        "data": {"type": "json", "null": True},
        "author": {"type": "foreign_key", "to": "authors", "null": True, "on_delete": "restrict"},
        "tags": {"type": "many_to_many", "to": "authors"},
        "views": {"type": "integer", "default": 0, "read_only": True},
        "secret": {"type": "string", "max_length": 20, "default": "hidden", "write_only": True},
        "deleted_at": {"type": "datetime", "null": True, "read_only": True},
    },
    "soft_delete": "deleted_at",
    "viewset": {"select_related": ["author"]},
}  # fmt: skip
NOTES: dict[str, Any] = {  # of tenants, for callers with credentials
    "fields": {
        "id": {"type": "integer", "primary_key": True},
        "tenant": {"type": "integer"},
        "text": {"type": "string", "max_length": 20},
    },
    "viewset": {
        "permission_classes": ["IsAuthenticated"],
        "scope": {"tenant": "$claims.tenant"},
        "scope_unless": "IsAdminUser",
    },
}
NAMES: dict[str, Any] = {
    "fields": {"name": {"type": "slug", "max_length": 20, "unique": True}, "note": {"type": "text", "default": ""}},
    "viewset": {"lookup_field": "name", "permission_classes": ["IsAuthenticatedOrReadOnly"]},
}
RESOURCES: dict[str, Any] = {  # each with a twin, whose requests take the long way
    "authors": {"fields": {"id": {"type": "integer", "primary_key": True}, "name": {"type": "string", "max_length": 20}}},
    "books": BOOKS,
    "books2": BOOKS,
    "notes": NOTES,
    "notes2": NOTES,
    "names": NAMES,
    "names2": NAMES,
}  # fmt: skip
ROWS = """
    INSERT INTO authors (name) VALUES ('Ann'), ('Bob');
    INSERT INTO {books} (title, author_id, deleted_at) VALUES ('One', 1, NULL), ('Two', 2, NULL), ('Gone', NULL, now());
    INSERT INTO {notes} (tenant, text) VALUES (1, 'a'), (2, 'b'), (1, 'c');
    INSERT INTO {names} (id, name) VALUES ('00000000-0000-7000-8000-000000000001', 'ann'),
        ('00000000-0000-7000-8000-000000000002', 'bob');
"""

Sent = tuple[str, str, Any]  # method, address, body
WRITES: tuple[Sent, ...] = (
    ("POST", "/books/", {"title": "Three"}),
    ("POST", "/books", {"title": "Four", "state": "out", "year": 7, "price": "1.50", "words": ["a", "b"], "secret": "s",
                        "data": {"n": [1, {"x": None}]}, "author_id": 1, "tags": [1, 2]}),
    ("POST", "/books/", {"title": "Five", "views": 9, "author": {"id": 1}, "deleted_at": None}),
    ("POST", "/books/", b'{"title": "Six", "data": 1.10}'),
    ("POST", "/books/", {}),
    ("POST", "/books/", {"title": "x" * 21, "state": "none", "year": -1, "price": "x", "titel": "x"}),
    ("POST", "/books/", {"title": None, "year": 2**63}),
    ("POST", "/books/", {"title": "One"}),
    ("POST", "/books/", {"title": "Seven", "author_id": 99}),
    ("POST", "/books/", {"title": "Seven", "author_id": "x"}),
    ("POST", "/books/", {"title": "Seven", "tags": [99]}),
    ("POST", "/books/", {"title": "Seven\x00"}),
    ("POST", "/books/", b'{"title": "Seven", "title": "Eight"}'),
    ("POST", "/books/", b'{"title": "Seven"'),
    ("POST", "/books/", b""),
    ("POST", "/books/", b'"Seven"'),
    ("POST", "/books/", b"  [1]"),
    ("POST", "/books/", {"title": "Long", "data": "x" * 100_000}),
    ("POST", "/books/", {"title": "Too long", "data": "x" * 2_000_000}),
    ("PATCH", "/books/1/", {"year": 1}),
    ("PATCH", "/books/1", {}),
    ("PATCH", "/books/1/", {"id": 7, "tags": [2], "views": 4, "words": ["c"]}),
    ("PATCH", "/books/1/", {"title": "Two"}),
    ("PATCH", "/books/1/", {"title": None, "year": "x"}),
    ("PATCH", "/books/1/", [{"year": 1}]),
    ("PATCH", "/books/3/", {"year": 1}),
    ("PATCH", "/books/99/", {"year": 1}),
    ("PATCH", "/books/01/", {"year": 1}),
    ("PATCH", "/books/x/", b"{"),
    ("PATCH", "/books/1/", b"{"),
    ("PUT", "/books/2/", {"title": "Two b", "author_id": 2}),
    ("PUT", "/books/2/", {"year": 5}),
    ("PUT", "/books/99/", {"title": "Nobody"}),
    ("DELETE", "/books/2/", None),
    ("DELETE", "/books/2/", None),
    ("DELETE", "/books/x/", None),
)  # fmt: skip
SCOPED: tuple[Sent, ...] = (
    ("POST", "/notes/", {"text": "mine"}),
    ("POST", "/notes/", {"text": "mine", "tenant": 1}),
    ("POST", "/notes/", {"text": "theirs", "tenant": 2}),
    ("POST", "/notes/", {"tenant": 1}),
    ("PATCH", "/notes/1/", {"text": "z"}),
    ("PATCH", "/notes/2/", {"text": "z"}),
    ("PATCH", "/notes/3/", {"tenant": 2}),
    ("PUT", "/notes/3/", {"text": "y"}),
    ("DELETE", "/notes/2/", None),
    ("DELETE", "/notes/3/", None),
)
NAMED: tuple[Sent, ...] = (
    ("POST", "/names/", {"name": "cat"}),
    ("PATCH", "/names/ann/", {"name": "dan", "note": "x"}),
    ("PATCH", "/names/ann/", {"note": "y"}),
    ("PUT", "/names/bob/", {"note": "z"}),
    ("DELETE", "/names/bob/", None),
    ("DELETE", "/names/bob/", None),
)
CALLERS: tuple[dict[str, str], ...] = (
    {},
    {"Authorization": "Token wrong"},
    bearer(exp=time.time() - 100_000),
    bearer(),
    bearer(tenant=1),
    bearer(tenant="1"),
    bearer(tenant=[1]),
    bearer(is_staff=True),
)


@pytest.fixture
async def service(run: Run) -> Service:
    """Books, one of them marked as deleted, notes of two tenants and names, and the same again in the twins' tables."""
    service = await run(RESOURCES, SETTINGS)
    tables = ("books", "notes", "names")
    await service.sql.execute(ROWS.format(**{name: name for name in tables}))
    await service.sql.execute(ROWS.format(**{name: f"{name}2" for name in tables}))
    return service


def to_twin(path: str) -> str:
    """The address of the twin."""
    return re.sub(r"^/(books|notes|names)\b", r"/\g<1>2", path)


def from_twin(value: str) -> str:
    """A text about a twin as one about the other."""
    return re.sub(r"\b(books|notes|names)2\b", r"\1", value)


async def answer(service: Service, sent: Sent, headers: dict[str, str]) -> tuple[Any, ...]:
    """Everything about an answer that does not differ from request to request; its tag is that of a GET afterwards."""
    method, path, body = sent
    data = json.dumps(body).encode() if isinstance(body, dict | list) else body
    async with service.client.request(method, path, data=data, headers={**JSON, **headers}) as response:
        text = from_twin((await response.read()).decode())
        document = json.loads(text) if text else None
    if isinstance(document, dict):
        document.pop("request_id", None)
    changing = ("X-Request-Id", "X-Transaction", "Etag", "Date", "Content-Length" if response.status >= 400 else "")
    kept = {name.title(): from_twin(value) for name, value in response.headers.items() if name.title() not in changing}
    if tag := response.headers.get("ETag"):
        address = re.sub(r"^http://[^/]+", "", response.headers.get("Location", path))
        async with service.client.get(address, headers=headers) as found:
            assert found.status == 404 or found.headers["ETag"] == tag
    return response.status, document, kept, "X-Transaction" in response.headers, bool(tag)


async def rows(service: Service, table: str) -> list[str]:
    """The rows of a table without their times, and with random keys left out."""
    texts = await service.sql.fetch(f"SELECT (to_jsonb(t) - 'deleted_at')::text FROM {table} t ORDER BY 1")
    return [re.sub(r'"id": "0[^"]*7[^"]*-8000-[^"]*", |"id": "[0-9a-f-]{36}", ', "", row[0]) for row in texts]


async def compare(service: Service, dispatched: list[str], sent: Sent, headers: dict[str, str]) -> int:
    """Send a request the long way to the twin and the short way to the resource; the status of both."""
    method, path, body = sent
    expected = await answer(service, (method, to_twin(path), body), {**headers, **LONG_WAY})
    assert dispatched, sent
    dispatched.clear()
    found = await answer(service, sent, headers)
    if "names" in path and isinstance(expected[1], dict):  # random keys
        for each in (expected, found):
            each[1].pop("id", None)
    assert found == expected, sent
    return int(expected[0])


async def test_the_short_way_has_the_answers_of_the_long_one(service: Service, dispatched: list[str]) -> None:
    """Status, headers, body and tag of each request, and then the rows of the tables, links included."""
    statuses = []
    for sent in WRITES:
        statuses.append(await compare(service, dispatched, sent, {}))
        if not (isinstance(sent[2], bytes) and sent[2].lstrip()[:1] == b"["):
            assert not dispatched, sent
        dispatched.clear()
    assert {200, 201, 204, 400, 404, 409, 413} <= set(statuses)
    assert await rows(service, "books") == await rows(service, "books2")
    links = [await service.sql.fetch(f"SELECT * FROM {t}_tags ORDER BY 1, 2") for t in ("books", "books2")]
    assert [tuple(each) for each in links[0]] == [tuple(each) for each in links[1]]
    assert links[0]


async def test_each_caller_has_the_answers_of_the_long_way(service: Service, dispatched: list[str]) -> None:
    """Callers with and without a tenant, of all tenants, and without valid credentials."""
    statuses = []
    for headers in CALLERS:
        for sent in (*SCOPED, *NAMED):
            statuses.append(await compare(service, dispatched, sent, dict(headers)))
            dispatched.clear()
    assert {200, 201, 204, 400, 401, 403, 404} <= set(statuses)
    for name in ("notes", "names"):
        assert await rows(service, name) == await rows(service, f"{name}2")


async def test_callers_who_may_write_write_directly(service: Service, dispatched: list[str]) -> None:
    """Credentials and a scope do not need the long way; a refusal does."""
    mine = bearer(tenant=1)
    for method, path, body in (("POST", "/notes/", {"text": "x"}), ("PATCH", "/notes/1/", {"text": "y"}),
                               ("PUT", "/notes/1/", {"text": "z", "tenant": 1}), ("DELETE", "/notes/1/", None),
                               ("POST", "/names/", {"name": "zoe"})):  # fmt: skip
        response, _ = await service.ask(method, path, body, headers=mine)
        assert response.status < 300
    assert not dispatched
    await service.ask("POST", "/notes/", {"text": "x"}, status=401)
    assert dispatched


async def test_the_transaction_is_that_of_the_row(service: Service, dispatched: list[str]) -> None:
    """``X-Transaction`` of a direct write names the transaction that has written the row."""
    for method, path, body in (("POST", "/books/", {"title": "T"}), ("PATCH", "/books/1/", {"year": 3})):
        response, row = await service.ask(method, path, body)
        written = await service.sql.fetchval("SELECT xmin::text FROM books WHERE id = $1", row["id"])
        assert response.headers["X-Transaction"] == written
    assert not dispatched


UNDECIDED: tuple[tuple[str, str, Any, dict[str, str]], ...] = (
    ("POST", "/books/", {"title": "A"}, {"Prefer": "return=minimal"}),
    ("POST", "/books/", {"title": "B"}, {"Idempotency-Key": "a-key-of-the-caller's"}),
    ("POST", "/books/", {"title": "C"}, {"Accept": "text/html"}),
    ("POST", "/books/?x=1", {"title": "C"}, {}),
    ("POST", "/books/", [{"title": "D"}], {}),
    ("PATCH", "/books/1/", {"year": 1}, {"If-Match": "*"}),
    ("PATCH", "/books/1/", {"year": 1}, {"If-None-Match": "*"}),
    ("PATCH", "/books/1/", {"year": 1}, {"Prefer": "return=minimal"}),
    ("PUT", "/books/?on=title", {"title": "One"}, {}),
    ("DELETE", "/books/1/?hard=true", None, {}),
    ("DELETE", "/books/1/", None, {"If-Match": '"x"'}),
    ("DELETE", "/books/1/", None, {"Idempotency-Key": "another-key-of-theirs"}),
    ("OPTIONS", "/books/1/", None, {}),
    ("HEAD", "/books/1/", None, {}),
)


async def test_a_request_about_which_somebody_decides_takes_the_long_way(
    service: Service, dispatched: list[str]
) -> None:
    for method, path, body, headers in UNDECIDED:
        await service.client.request(method, path, json=body, headers=headers)
        assert len(dispatched) == 1, (path, headers)
        dispatched.clear()


async def test_a_compressed_body_takes_the_long_way(service: Service, dispatched: list[str]) -> None:
    """It is inflated once."""
    packed = gzip.compress(b'{"title": "Packed"}')
    async with service.client.post("/books/", data=packed, headers={**JSON, "Content-Encoding": "gzip"}) as response:
        assert (response.status, (await response.json())["title"]) == (201, "Packed")
    assert len(dispatched) == 1


async def test_the_memory_of_an_array_is_counted_once(run: Run, dispatched: list[str]) -> None:
    """Both ways look at its body, and the bound for all bodies is not twice its size."""
    settings = {"auth": {"default_permission_classes": ["AllowAny"]}}
    limits = {"server": {"body_limit": "64KiB", "bodies_limit": "64KiB"}}
    fields = {"id": {"type": "integer", "primary_key": True}, "text": {"type": "text"}}
    service = await run({"notes": {"fields": fields}}, json.dumps({**settings, **limits}))
    await service.ask("POST", "/notes/", [{"text": "x" * 40_000}], status=201)
    assert len(dispatched) == 1


async def test_operations_of_a_batch_have_the_same_answers(service: Service) -> None:
    """A batch whose operations write directly, and one whose operations do not."""

    def operations(books: str) -> dict[str, Any]:
        return {"operations": [
            {"method": "POST", "path": f"/{books}/", "body": {"title": "Batch"}, "ref": "made"},
            {"method": "PATCH", "path": f"/{books}/1/", "body": {"year": 3}},
            {"method": "DELETE", "path": f"/{books}/2/"},
        ]}  # fmt: skip

    found = []
    for books, headers in (("books", {}), ("books2", LONG_WAY)):
        response, body = await service.ask("POST", "/batch/", operations(books), headers=headers, status=200)
        assert response.headers["X-Transaction"] == await service.sql.fetchval(f"SELECT max(xmin::text) FROM {books}")
        for each in body["results"]:
            each["headers"].pop("ETag", None)
        found.append(json.loads(from_twin(json.dumps(body))))
    assert found[0] == found[1]
    assert await rows(service, "books") == await rows(service, "books2")


PYTHON = """
from marshmallow import ValidationError, validates
from rowcast import BasePermission, ModelViewSet, Serializer, model

Note = model("notes")

class Even(BasePermission):
    def has_object_permission(self, request, view, row):
        return row.id % 2 == 0

class Saving(ModelViewSet):
    async def perform_create(self, serializer):
        await serializer.save(title="saved")

class Own(ModelViewSet):
    def get_queryset(self):
        return super().get_queryset().filter(id__gte=0)

class Checked(Serializer):
    class Meta:
        model = Note

    @validates("title")
    def check_title(self, value, **kwargs):
        if self.context["request"].method != "POST":
            raise ValidationError("Only when it is made.")

class Extra(Serializer):
    class Meta:
        model = Note
        extra = {"title": {"validate": lambda value: value}}

class Chosen(Serializer):
    class Meta:
        model = Note
        fields = ("title",)
"""


@pytest.mark.parametrize(
    ("viewset", "direct"),
    [
        ({}, {"POST", "PATCH", "PUT", "DELETE"}),
        ({"serializer_class": "views:Chosen"}, {"POST", "PATCH", "PUT", "DELETE"}),
        ({"serializer_class": "views:Checked"}, set()),
        ({"serializer_class": "views:Extra"}, set()),
        ({"class": "views:Saving"}, set()),
        ({"class": "views:Own"}, set()),
        ({"permission_classes": ["views:Even"]}, set()),
        ({"permission_classes": ["AllowAny & IsAuthenticatedOrReadOnly"]}, set()),
        ({"throttle_classes": ["AnonRateThrottle"]}, set()),
        ({"require_if_match": True}, set()),
        ({"require_idempotency_key": True}, set()),
        ({"put_creates": True}, {"POST", "PATCH", "DELETE"}),
    ],
)  # fmt: skip
async def test_where_python_or_the_request_decides_nothing_is_direct(
    run: Run, dispatched: list[str], viewset: dict[str, Any], direct: set[str]
) -> None:
    """Which methods are direct, by the options of the viewset."""
    fields = {"id": {"type": "integer", "primary_key": True}, "title": {"type": "string", "max_length": 50}}
    settings = '{"auth": {"default_permission_classes": ["AllowAny"]}, "throttle": {"rates": {"anon": "100/day"}}}'
    service = await run({"notes": {"fields": fields, "viewset": viewset}}, settings, {"views": PYTHON})
    await service.sql.execute("INSERT INTO notes (title) VALUES ('One'), ('Two')")
    found = set()
    for method, path in (("POST", "/notes/"), ("PATCH", "/notes/2/"), ("PUT", "/notes/2/"), ("DELETE", "/notes/2/")):
        await service.client.request(method, path, json=None if method == "DELETE" else {"title": "x"})
        found |= set() if dispatched else {method}
        dispatched.clear()
    assert found == direct


async def test_keys_of_hidden_rows_are_checked_the_long_way(run: Run, dispatched: list[str]) -> None:
    """A body may name only rows that its caller could see, which another viewset decides."""
    notes = {"fields": {"id": {"type": "integer", "primary_key": True},
                        "place": {"type": "foreign_key", "to": "places", "null": True}}}  # fmt: skip
    places = {"fields": {"id": {"type": "integer", "primary_key": True}, "open": {"type": "boolean"}},
              "viewset": {"scope": {"open": True}}}  # fmt: skip
    service = await run({"notes": notes, "places": places})
    await service.sql.execute("INSERT INTO places (open) VALUES (true), (false)")
    await service.ask("POST", "/notes/", {"place_id": 1}, status=201)
    await service.ask("POST", "/notes/", {"place_id": 2}, status=400)
    assert len(dispatched) == 2
