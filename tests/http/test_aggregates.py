"""``/aggregate/``: groups of the rows that a list shows, exactly as SQL has them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from rowcast.errors import ConfigurationError

from .conftest import Run, running
from .library import Service
from .test_declared_scope import SETTINGS, bearer

AUTHORS: dict[str, Any] = {
    "fields": {
        "id": {"type": "integer", "primary_key": True},
        "name": {"type": "string", "max_length": 20},
        "secret": {"type": "string", "max_length": 20, "write_only": True, "default": ""},
    }
}
FIELDS: dict[str, Any] = {
    "id": {"type": "integer", "primary_key": True},
    "author": {"type": "foreign_key", "to": "authors", "null": True},
    "title": {"type": "string", "max_length": 20, "default": ""},
    "kind": {"type": "string", "choices": ["short", "long"], "order": "choices", "default": "short"},
    "price": {"type": "decimal", "max_digits": 30, "decimal_places": 10, "null": True},
    "pages": {"type": "integer", "null": True},
    "big": {"type": "big_integer", "null": True},
    "weight": {"type": "float", "null": True},
    "read": {"type": "boolean", "default": False},
    "published": {"type": "datetime", "null": True},
    "bought": {"type": "date", "null": True},
    "hidden": {"type": "integer", "default": 0, "write_only": True},
}
OPENED = {
    "group_by": ["author", "author__name", "kind", "read", "published", "bought__trunc_month"],
    "sum": ["price", "pages", "big", "weight"],
    "avg": ["price", "pages", "weight"],
    "min": ["published", "title", "price"],
    "max": ["published", "title", "pages"],
    "count": ["pages"],
    "count_distinct": ["author", "kind"],
}
BOOKS: dict[str, Any] = {
    "fields": FIELDS,
    "viewset": {
        "filterset_fields": {"pages": ["gte"], "read": ["exact"], "author": ["exact"]},
        "search_fields": ["title"],
        "aggregates": OPENED,
        "page_size": 5,
    },
}
ROWS = """
    INSERT INTO authors (name) VALUES ('ann'), ('bob');
    INSERT INTO books (author_id, title, kind, price, pages, big, weight, read, published, bought) VALUES
        (1, 'a', 'long', 0.1, 100, 9223372036854775807, 0.5, true, '2024-02-29T23:30:00Z', '2024-02-29'),
        (1, 'b', 'short', 0.2, 300, 9223372036854775807, 1.5, false, '2024-03-31T22:30:00Z', '2024-03-01'),
        (2, 'c', 'long', 12345678901234567890.0000000001, null, 1, null, true, '2024-12-31T23:59:59Z', null),
        (null, 'd', 'short', null, 7, null, null, false, null, '2024-02-01')
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def books(databases: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """Four books of two authors and none."""
    resources = {
        "authors": AUTHORS, "books": BOOKS,
        "kept": {**BOOKS, "table": "kept", "viewset": {**BOOKS["viewset"], "cache": "responses"}},
        "lines": {**BOOKS, "table": "lines", "viewset": {**BOOKS["viewset"], "pagination_class": "CursorPagination"}},
        "spans": {**BOOKS, "table": "spans", "viewset": {**BOOKS["viewset"], "pagination_class": "LimitOffsetPagination"}},
    }  # fmt: skip
    for name in ("kept", "lines", "spans"):
        author = {"type": "foreign_key", "to": "authors", "null": True, "related_name": f"{name}_of"}
        resources[name] = {**resources[name], "fields": {**FIELDS, "author": author}}
    async with running(databases, tmp_path_factory.mktemp("books"), resources, SETTINGS) as service:
        await service.sql.execute(ROWS)
        for name in ("kept", "lines", "spans"):
            await service.sql.execute(f"INSERT INTO {name} SELECT * FROM books")
        yield service


GROUPS: list[tuple[str, list[dict[str, Any]]]] = [
    ("count=*", [{"count": 4}]),
    ("", [{"count": 4}]),
    ("count=pages,*", [{"count_pages": 3, "count": 4}]),
    ("group_by=author&count=*", [
        {"author_id": 1, "count": 2}, {"author_id": 2, "count": 1}, {"author_id": None, "count": 1},
    ]),
    ("group_by=author__name&sum=price", [
        {"author__name": "ann", "sum_price": "0.3000000000"},
        {"author__name": "bob", "sum_price": "12345678901234567890.0000000001"},
        {"author__name": None, "sum_price": None},
    ]),
    ("group_by=kind&sum=pages,big&avg=pages", [
        {"kind": "short", "sum_pages": 307, "sum_big": 9223372036854775807, "avg_pages": "153.5000000000000000"},
        {"kind": "long", "sum_pages": 100, "sum_big": 9223372036854775808, "avg_pages": "100.0000000000000000"},
    ]),
    ("group_by=read&avg=weight&sum=weight&max=pages,title", [
        {"read": False, "sum_weight": 1.5, "avg_weight": 1.5, "max_pages": 300, "max_title": "d"},
        {"read": True, "sum_weight": 0.5, "avg_weight": 0.5, "max_pages": 100, "max_title": "c"},
    ]),
    ("group_by=published__trunc_month&count=*", [
        {"published__trunc_month": "2024-02-01", "count": 1}, {"published__trunc_month": "2024-03-01", "count": 1},
        {"published__trunc_month": "2024-12-01", "count": 1}, {"published__trunc_month": None, "count": 1},
    ]),
    ("group_by=published__trunc_month&count=*&tz=Europe/Berlin", [
        {"published__trunc_month": "2024-03-01", "count": 1}, {"published__trunc_month": "2024-04-01", "count": 1},
        {"published__trunc_month": "2025-01-01", "count": 1}, {"published__trunc_month": None, "count": 1},
    ]),
    ("group_by=published__trunc_hour,published__trunc_year&tz=Asia/Kolkata&author=1", [
        {"published__trunc_hour": "2024-02-29T23:30:00+00:00", "published__trunc_year": "2024-01-01"},
        {"published__trunc_hour": "2024-03-31T22:30:00+00:00", "published__trunc_year": "2024-01-01"},
    ]),
    ("group_by=bought__trunc_month&count=*&ordering=-count", [
        {"bought__trunc_month": "2024-02-01", "count": 2}, {"bought__trunc_month": "2024-03-01", "count": 1},
        {"bought__trunc_month": None, "count": 1},
    ]),
    ("min=published,price&max=published&count_distinct=author,kind&pages__gte=100", [
        {"min_published": "2024-02-29T23:30:00+00:00", "min_price": "0.1000000000", "max_published": "2024-03-31T22:30:00+00:00",
         "count_distinct_author": 1, "count_distinct_kind": 2},
    ]),
    ("group_by=author&count=*&count__gte=2", [{"author_id": 1, "count": 2}]),
    ("group_by=author&sum=price&sum_price__lt=10", [{"author_id": 1, "sum_price": "0.3000000000"}]),
    ("group_by=author&max=published&max_published__gt=2024-06-01", [
        {"author_id": 2, "max_published": "2024-12-31T23:59:59+00:00"},
    ]),
    ("count=*&sum=pages&min=title&read=true&search=nothing", [{"count": 0, "sum_pages": None, "min_title": None}]),
    ("group_by=kind&count=*&search=nothing", []),
    ('count=*&filter={"or":[{"pages__gte":300},{"author":2}]}', [{"count": 2}]),
    ("group_by=author&ordering=-author_id", [{"author_id": None}, {"author_id": 2}, {"author_id": 1}]),
]  # fmt: skip


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("query", "expected"), GROUPS)
async def test_groups_are_those_of_sql(books: Service, query: str, expected: list[dict[str, Any]]) -> None:
    """Digits, names, nulls, buckets in a zone, conditions on results; in memory as well."""
    for path in ("/books/aggregate/", "/kept/aggregate/", "/kept/aggregate/", "/lines/aggregate/", "/spans/aggregate/"):
        response, page = await books.ask("GET", f"{path}?{query}", status=200)
        assert page["results"] == [
            {name: pytest.approx(value) if isinstance(value, float) else value for name, value in each.items()}
            for each in expected
        ]
        assert [*map(list, page["results"])] == [*map(list, expected)]
        assert (page["count"], page["next"], page["previous"]) == (len(expected), None, None)
        assert response.headers["ETag"]
        assert response.headers["X-Stream-Position"]


@pytest.mark.asyncio(loop_scope="module")
async def test_groups_have_pages(books: Service) -> None:
    """Numbered pages, or limit and offset where the list has them; the order is total."""
    query = "group_by=author,published__trunc_day&count=*&ordering=count"
    _, whole = await books.ask("GET", f"/books/aggregate/?{query}", status=200)
    for path, size, number in (
        ("/books/", "page_size", "page"),
        ("/lines/", "page_size", "page"),
        ("/spans/", "limit", "offset"),
    ):
        found = []
        for n in range(4):
            place = n if number == "offset" else n + 1
            _, page = await books.ask("GET", f"{path}aggregate/?{query}&{size}=1&{number}={place}", status=200)
            found += page["results"]
            assert (page["count"], bool(page["next"])) == (4, n < 3)
        assert found == whole["results"]
    await books.ask("GET", "/books/aggregate/?count=*&page=2", status=404)


@pytest.mark.asyncio(loop_scope="module")
async def test_kept_groups_follow_changes(books: Service) -> None:
    """An answer in memory goes with a change of a row, or of a row that names a group."""
    path = "/kept/aggregate/?group_by=author__name&count=*&ordering=author__name"
    _, before = await books.ask("GET", path, status=200)
    _, row = await books.ask("POST", "/kept/", {"title": "new"}, status=201)
    await books.ask("PATCH", "/authors/1/", {"name": "zoe"}, status=200)
    _, after = await books.ask("GET", path, status=200)
    assert [each["author__name"] for each in before["results"]] == ["ann", "bob", None]
    assert [(each["author__name"], each["count"]) for each in after["results"]] == [("bob", 1), ("zoe", 2), (None, 2)]
    await books.ask("DELETE", f"/kept/{row['id']}/", status=204)
    await books.ask("PATCH", "/authors/1/", {"name": "ann"}, status=200)


MISTAKES: list[tuple[str, str]] = [
    ("group_by=autor", "group_by: cannot group by 'autor'; did you mean author?"),
    ("group_by=title", "group_by: cannot group by 'title'"),
    ("group_by=published__trunc_minute", "group_by: cannot group by 'published__trunc_minute'"),
    ("group_by=bought", "group_by: cannot group by 'bought'"),
    ("sum=title", "sum: 'title' is not allowed"),
    ("sum=*", "sum: '*' is not allowed"),
    ("count=title", "count: 'title' is not allowed"),
    ("count=*&ordering=sum_price", "ordering: 'sum_price' is not a result; valid here: count"),
    ("count=*&sum_price__gte=1", "sum_price__gte: there is no result 'sum_price'"),
    ("count=*&count__gte=many", "count__gte: Not a valid integer."),
    ("sum=price&sum_price__gte=x", "sum_price__gte: Not a valid decimal number."),
    ("count=*&count__in=1", "count__in: unknown parameter"),
    ("count=*&tz=Europe/Berln", "tz: 'Europe/Berln' is not a time zone; did you mean Europe/Berlin?"),
    ("count=*&pages__lte=1", "pages__lte: unknown parameter"),
    ("count=*&fields=id", "fields: unknown parameter"),
    ("count=*&count=pages", "count: is given twice."),
    ("count=*&page=x", "page: 'x' is not a whole number."),
    ("sum=hidden", "sum: 'hidden' is not allowed"),
    ("group_by=author__secret", "group_by: cannot group by"),
    (f"count=*&count__gte={'9' * 30}", "count__gte: Must be between"),
    ('count=*&filter={"x":1}', "filter.x: unknown"),
]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("query", "message"), MISTAKES)
async def test_mistakes_are_named(books: Service, query: str, message: str) -> None:
    """Unknown groups, functions, results, zones and parameters, and values that do not parse."""
    _, problem = await books.ask("GET", f"/books/aggregate/?{query}", status=400)
    assert message in problem["detail"], problem


async def test_groups_are_within_the_scope_and_the_permissions(run: Run) -> None:
    """Another tenant's rows are in no group; the action is called ``aggregate``."""
    modules = {
        "viewsets": """
from rowcast import BasePermission, ModelViewSet

class NoGroups(BasePermission):
    def has_permission(self, request, view):
        return view.action != "aggregate" or request.user.is_staff

class SaleViewSet(ModelViewSet):
    permission_classes = [NoGroups]
"""
    }
    fields = {"tenant": {"type": "string", "max_length": 9}, "price": {"type": "integer"}}
    viewset = {"class": "viewsets:SaleViewSet", "scope": {"tenant": "$claims.org"},
               "aggregates": {"group_by": ["tenant"], "sum": ["price"]}}  # fmt: skip
    service = await run({"sales": {"fields": fields, "viewset": viewset}}, SETTINGS, modules=modules)
    await service.sql.execute(
        "INSERT INTO sales (id, tenant, price) VALUES (gen_random_uuid(), 'a', 1), (gen_random_uuid(), 'b', 2)"
    )
    _, page = await service.ask(
        "GET", "/sales/aggregate/?group_by=tenant&sum=price", headers=bearer(org="a", is_staff=True), status=200
    )
    assert page["results"] == [{"tenant": "a", "sum_price": 1}]
    await service.ask("GET", "/sales/aggregate/?sum=price", headers=bearer(org="a"), status=403)
    await service.ask("GET", "/sales/aggregate/?sum=price", status=401)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"aggregates": {"summ": ["pages"]}}, "unknown function 'summ'; did you mean sum?"),
    ({"aggregates": {"sum": ["title"]}}, "sum does not suit 'title', a string field"),
    ({"aggregates": {"sum": ["hidden"]}}, "'hidden' is write_only"),
    ({"aggregates": {"group_by": ["author__secret"]}}, "'secret' is write_only"),
    (
        {"aggregates": {"group_by": ["pages__trunc_month"]}},
        "'pages' cannot be truncated to 'month'; it has no buckets of time",
    ),
    ({"aggregates": {"group_by": ["bought__trunc_hour"]}}, "'bought' cannot be truncated to 'hour'"),
    ({"aggregates": {"min": ["read"]}}, "min does not suit 'read', a boolean field"),
    (
        {"aggregates": {"sum": ["pages"]}, "class": "viewsets:Hiding"},
        "aggregates: pages: the rows of books do not show 'pages'",
    ),
    (
        {"aggregates": {"group_by": ["author__name"]}, "class": "viewsets:Hiding"},
        "the rows of books do not show 'author'",
    ),
]
HIDING = """
from rowcast import ModelViewSet, Serializer, model

class HidingSerializer(Serializer):
    class Meta:
        model = model("books")
        fields = ("id", "title")

class Hiding(ModelViewSet):
    serializer_class = HidingSerializer
"""


@pytest.mark.parametrize(("viewset", "message"), REFUSED)
async def test_only_what_rows_show_can_be_opened(run: Run, viewset: dict[str, Any], message: str) -> None:
    """``write_only`` and hidden fields, and functions that do not suit, are found at the start."""
    with pytest.raises(ConfigurationError, match=message.replace("?", r"\?")):
        await run(
            {"authors": AUTHORS, "books": {"fields": FIELDS, "viewset": viewset}},
            SETTINGS,
            modules={"viewsets": HIDING},
        )


async def test_a_uuid_is_not_the_least_or_greatest(run: Run) -> None:
    """PostgreSQL has no ``min`` and ``max`` of UUIDs."""
    for function in ("min", "max"):
        viewset = {"aggregates": {function: ["token"], "count_distinct": ["token"]}}
        with pytest.raises(ConfigurationError, match=f"{function} does not suit 'token', a uuid field"):
            await run({"keys": {"fields": {"token": {"type": "uuid"}}, "viewset": viewset}}, SETTINGS)


async def test_nothing_is_opened_by_default(run: Run) -> None:
    """Without the option there is no address, nor with an action that is excluded."""
    excluded = {"excluded_actions": ["aggregate"], "aggregates": OPENED}
    service = await run({"authors": AUTHORS, "books": {"fields": FIELDS, "viewset": excluded}}, SETTINGS)
    for path in ("/authors/aggregate/", "/books/aggregate/"):
        await service.ask("GET", path, status=404)


@pytest.mark.asyncio(loop_scope="module")
async def test_document_describes_the_address(books: Service) -> None:
    """The functions with what they open, and the filters of the list."""
    _, document = await books.ask("GET", "/openapi.json", status=200)
    operation = document["paths"]["/books/aggregate/"]["get"]
    described = {each["name"]: each for each in operation["parameters"]}
    assert {
        "group_by",
        "count",
        "sum",
        "avg",
        "min",
        "max",
        "count_distinct",
        "tz",
        "pages__gte",
        "page",
    } <= described.keys()
    assert set(described["sum"]["schema"]["items"]["enum"]) == {"price", "pages", "big", "weight"}
    assert described["ordering"]["schema"] == {"type": "string"}
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/BookGroups"}
