"""Viewsets with Python code show the same rows as those whose JSON PostgreSQL makes."""

from __future__ import annotations

import asyncio
from textwrap import dedent
from typing import Any

from .conftest import Run
from .library import KINDS, RESOURCES

FOREIGN: dict[str, dict[str, str | None]] = {  # column → values that direct SQL may store and Python does not have, and what a method field makes of them
    "float": {"'NaN'": "nan", "'Infinity'": "inf", "'-Infinity'": "-inf", "0.1 + 0.2::float8": "0.30000000000000004"},
    "decimal": {"'NaN'": "NaN"},
    "date": {
        "'-infinity'": "0001-01-01", "'infinity'": "9999-12-31", "'0044-03-15 BC'": "0001-01-01",
        "'10000-01-01'": "9999-12-31",
    },
    "time": {"'24:00:00'": "23:59:59.999999"},
    "datetime": {
        "'-infinity'": "0001-01-01 00:00:00+00:00", "'infinity'": "9999-12-31 23:59:59.999999+00:00",
        "'4713-01-01 00:00:00+00 BC'": "0001-01-01 00:00:00+00:00",
        "'294276-12-31 23:59:59+00'": "9999-12-31 23:59:59.999999+00:00",
    },
    "duration": {
        "'1 year 2 months 3 days 04:05:06.7'": "423 days, 4:05:06.700000", "'-1 month -02:00'": "-31 days, 22:00:00",
        "'178000000 years'": "999999999 days, 23:59:59.999999", "'-178000000 years'": "-999999999 days, 0:00:00",
    },
    "json": {
        "'1e400'": "inf", "'[-1e400, {\"a\": 12345678901234567890123}]'": "[-inf, {'a': 1.2345678901234568e+22}]",
        "'0.1234567890123456789'": "0.12345678901234568", "('[' || repeat('[1],', 300) || '2]')::jsonb": None,
        "(repeat('[', 400) || repeat(']', 400))::jsonb": "[" * 400 + "]" * 400,
    },
    "amounts": {"'{NaN,1.50}'": "[Decimal('NaN'), Decimal('1.50')]"},
}  # fmt: skip
VIEWSETS = dedent("""
    from marshmallow import fields, post_dump
    from rowcast import AllowAny, BasePermission, ModelViewSet, Serializer, action, model

    Kind = model("kinds")

    class Shown(Serializer):
        texts = fields.Method("get_texts")

        def get_texts(self, row):
            return {name: str(getattr(row, name)) for name in row.resource().columns}

        class Meta:
            model = Kind

    class Even(BasePermission):
        def has_object_permission(self, request, view, row):
            return row.id is not None

    class ShownViewSet(ModelViewSet):
        model = Kind
        serializer_class = Shown
        max_page_size = 1000

        @action(detail=False)
        async def read(self, request):
            return await Kind.objects.all()

        @action(detail=False)
        def paged(self, request):
            rows = self.paginate_queryset(self.get_queryset())
            return self.get_paginated_response(self.get_serializer(rows, many=True).data)

    class AskedViewSet(ModelViewSet):
        model = Kind
        permission_classes = [Even]
        max_page_size = 1000
    """)
URLS = dedent("""
    from rowcast import DefaultRouter
    from viewsets import AskedViewSet, ShownViewSet

    router = DefaultRouter()
    router.register("shown", ShownViewSet, basename="shown")
    router.register("asked", AskedViewSet, basename="asked")
    """)


async def test_python_shows_what_it_cannot_hold_as_postgresql_does(run: Run) -> None:
    """A value that Python does not have is the nearest one as an attribute, and unchanged in a response."""
    service = await run({"kinds": {"fields": KINDS}}, modules={"viewsets": VIEWSETS, "urls": URLS})
    sought: dict[str, Any] = {}
    for column, values in FOREIGN.items():
        for value, text in values.items():
            key = await service.sql.fetchval(f'INSERT INTO kinds ("{column}") VALUES ({value}) RETURNING id')
            sought[str(key)] = column, text
    plain = {row["id"]: row for row in await service.rows("/kinds/", page_size="100")}
    assert len(plain) == len(sought)
    assert (await service.rows("/asked/", page_size="100")) == list(plain.values())
    for path in ("/shown/", "/shown/paged/"):
        for row in await service.rows(path, page_size="100"):
            texts = row.pop("texts")
            column, text = sought[row["id"]]
            assert row == plain[row["id"]]
            assert text is None or texts[column] == text, column
    for key, row in plain.items():
        column, _ = sought[key]
        shown = await service.get(f"/shown/{key}/")
        assert await service.get(f"/asked/{key}/") == {name: shown[name] for name in row} == row
        changed = await service.patch(f"/shown/{key}/", {"string": "x"})
        assert changed[column] == row[column]
        assert (await service.get(f"/kinds/{key}/"))[column] == row[column]
    assert len(await service.get("/shown/read/")) == len(plain)


async def test_json_of_any_depth_is_shown(run: Run) -> None:
    """JSON that is nested too deep for Python is sent unchanged, as bytes."""
    service = await run({"kinds": {"fields": KINDS}}, modules={"viewsets": VIEWSETS, "urls": URLS})
    deep = "[" * 3000 + "]" * 3000
    key = await service.sql.fetchval("INSERT INTO kinds (json) VALUES ($1) RETURNING id", deep)
    for path in (f"/kinds/{key}/", f"/shown/{key}/", "/shown/", f"/asked/{key}/"):
        async with service.client.get(path) as response:
            assert response.status == 200
            assert f'"json":{deep},' in await response.text()


READERS = dedent("""
    from asyncio import Barrier

    from marshmallow import fields
    from rowcast import AllowAny, BasePermission, F, ModelViewSet, Serializer, action, model, wait

    Book, Kind = model("books"), model("kinds")
    gate = Barrier(2)

    class Reading(Serializer):
        by = fields.Method("get_by")

        def get_by(self, book):
            return [book.author.name, book.author.country and book.author.country.name, *[t.name for t in book.tags]]

        class Meta:
            model = Book
            fields = ("title", "author_id", "by")

    class ByAuthor(BasePermission):
        def has_object_permission(self, request, view, book):
            return book.author.name != "Nobody"

    class BookViewSet(ModelViewSet):
        model = Book
        serializer_class = Reading
        permission_classes = [ByAuthor]
        select_related = ["author", "author__country"]
        prefetch_related = ["tags"]

        @action(detail=False)
        async def all(self, request):
            return await Book.objects.order_by("title")

    class Waiting(Serializer):
        caller = fields.Method("get_caller")

        def get_caller(self, row):
            wait(gate.wait())
            return self.context["request"].headers["X-Caller"]

        class Meta:
            model = Kind
            fields = ("id", "caller")

    class KindViewSet(ModelViewSet):
        model = Kind
        serializer_class = Waiting

        @action(detail=True, methods=["post"])
        async def grow(self, request, id):
            return await Kind.objects.filter(id=id).update(decimal=F("decimal") * 10, integer=5)
    """)
READING = {
    **RESOURCES,
    "books": {**RESOURCES["books"], "viewset": {"class": "viewsets:BookViewSet"}},
    "kinds": {"fields": KINDS, "viewset": {"class": "viewsets:KindViewSet"}},
}


async def test_relations_of_the_options_are_there_for_python(run: Run) -> None:
    """Method fields and permissions can read them, shown or not, and a list of any length takes one statement."""
    service = await run(READING, modules={"viewsets": READERS})
    await service.post("/countries/", {"code": "fr", "name": "France"})
    author = await service.post("/authors/", {"name": "Anna", "country_id": "fr"})
    tag = await service.post("/tags/", {"name": "red"})
    by = ["Anna", "France", "red"]
    for title in ("One", "Three", "Two"):
        body = {"title": title, "author_id": author["id"]}
        key = await service.sql.fetchval(
            "INSERT INTO books (title, author_id) VALUES ($1, $2) RETURNING id", *body.values()
        )
        await service.sql.execute("INSERT INTO books_tags (book_id, tag_id) VALUES ($1, $2)", key, tag["id"])
    for parameters in ("", "?fields=by", "?fields=by,title", "?expand=author"):
        before = service.database.statements
        assert (await service.get(f"/books/{key}/{parameters}"))["by"] == by
        assert [row["by"] for row in await service.rows(f"/books/{parameters}")] == [by] * 3
        assert service.database.statements - before == 2
    assert "author" not in await service.get(f"/books/{key}/")
    changed = await service.patch(f"/books/{key}/", {"title": "Four"})
    made = await service.post("/books/", {"title": "Five", "author_id": author["id"]})
    assert (changed["by"], made["by"]) == (by, by[:2])
    before = service.database.statements
    assert len(await service.get("/books/all/")) == 4
    first = service.database.statements - before
    await service.post("/books/", {"title": "Six", "author_id": author["id"]})
    before = service.database.statements
    assert len(await service.get("/books/all/")) == 5
    assert service.database.statements - before == first


async def test_context_is_that_of_the_request(run: Run) -> None:
    """Two requests whose serializers wait for each other show each its own caller."""
    service = await run(READING, modules={"viewsets": READERS})
    key = await service.sql.fetchval("INSERT INTO kinds DEFAULT VALUES RETURNING id")

    async def ask(path: str, caller: str) -> Any:
        return (await service.ask("GET", path, status=200, headers={"X-Caller": caller}))[1]

    async with asyncio.timeout(20):
        one, rows = await asyncio.gather(ask(f"/kinds/{key}/", "ann"), ask("/kinds/", "bob"))
    assert (one["caller"], rows["results"][0]["caller"]) == ("ann", "bob")


async def test_computed_value_that_does_not_fit_names_its_field(run: Run) -> None:
    """Arithmetic in the database whose result its column cannot hold is a 400 that names the column."""
    service = await run(READING, modules={"viewsets": READERS})
    key = await service.sql.fetchval("INSERT INTO kinds (decimal) VALUES (999999) RETURNING id")
    _, problem = await service.ask("POST", f"/kinds/{key}/grow/", {}, status=400)
    assert problem["errors"] == {"decimal": ["The result does not fit."]}


async def test_names_of_missing_fields_are_invalid_parameters(run: Run) -> None:
    """``?fields=`` and ``?expand=`` fail in the same way, with the code of every other bad parameter."""
    service = await run(READING, modules={"viewsets": READERS})
    for path in ("/authors/?fields=zzz", "/authors/?expand=zzz", "/books/?fields=zzz", "/books/stream/?fields=zzz"):
        _, problem = await service.ask("GET", path, status=400)
        assert problem["code"] == "invalid_parameter"


async def test_field_that_a_serializer_only_loads_is_not_shown(run: Run) -> None:
    """``load_only`` in ``Meta.extra`` keeps a column out of every response, as ``write_only`` in YAML does."""
    text = """
    from rowcast import ModelViewSet, Serializer, model

    class CountrySerializer(Serializer):
        class Meta:
            model = model("countries")
            extra = {"name": {"load_only": True}}

    class CountryViewSet(ModelViewSet):
        serializer_class = CountrySerializer
    """
    countries = {**RESOURCES["countries"], "viewset": {"class": "viewsets:CountryViewSet"}}
    service = await run({**RESOURCES, "countries": countries}, modules={"viewsets": dedent(text)})
    assert await service.post("/countries/", {"code": "fr", "name": "France"}) == {"code": "fr"}
    assert await service.get("/countries/fr/") == {"code": "fr"}
    assert await service.rows("/countries/") == [{"code": "fr"}]
    author = await service.post("/authors/", {"name": "Anna", "country_id": "fr"})
    assert (await service.get(f"/authors/{author['id']}/", expand="country"))["country"] == {"code": "fr"}
    await service.get("/countries/", fields="name", status=400)
    async with service.client.get("/countries/stream/?snapshot=true") as stream:
        async for line in stream.content:
            if line.startswith(b"data:") and b"rows" in line:
                assert b'"rows":[{"code":"fr"}]' in line
                break


async def test_field_with_the_name_of_a_method_is_shown(run: Run) -> None:
    """A column may have the name of a method of rows: serializers show the column, and the method still works."""
    names = ("save", "delete", "refresh")
    text = """
    from marshmallow import fields
    from rowcast import ModelViewSet, Serializer, model

    class OddSerializer(Serializer):
        seen = fields.Method("look")

        def look(self, row):
            return row["save"]

        class Meta:
            model = model("odds")

    class OddViewSet(ModelViewSet):
        serializer_class = OddSerializer
    """
    odds = {"fields": {name: {"type": "string"} for name in names}, "viewset": {"class": "viewsets:OddViewSet"}}
    service = await run({"odds": odds}, modules={"viewsets": dedent(text)})
    made = await service.post("/odds/", {"save": "a", "delete": "b", "refresh": "c"})
    assert [made[name] for name in (*names, "seen")] == ["a", "b", "c", "a"]
    assert await service.get(f"/odds/{made['id']}/") == made
    await service.ask("PATCH", f"/odds/{made['id']}/", {"save": "z"}, status=200)
    assert (await service.get(f"/odds/{made['id']}/"))["seen"] == "z"
    await service.ask("DELETE", f"/odds/{made['id']}/", status=204)


EXTRA = """
from rowcast import ModelViewSet, Serializer, model

class ThingSerializer(Serializer):
    class Meta:
        model = model("things")
        extra = {"state": {"dump_only": False, "required": False}}

class ThingViewSet(ModelViewSet):
    model = model("things")
    serializer_class = ThingSerializer
"""


async def test_serializer_makes_a_read_only_field_writable(run: Run) -> None:
    """``dump_only: False`` in ``Meta.extra`` lets bodies set a field that is ``read_only`` in YAML; others stay ignored."""
    state = {"type": "string", "default": "new", "read_only": True}
    things = {"fields": {"state": state, "other": state}, "viewset": {"class": "viewsets:ThingViewSet"}}
    service = await run({"things": things}, modules={"viewsets": EXTRA})
    row = await service.post("/things/", {"state": "a", "other": "a"})
    assert (row["state"], row["other"]) == ("a", "new")
    row = await service.patch(f"/things/{row['id']}/", {"state": "b", "other": "b"})
    assert (row["state"], row["other"]) == ("b", "new")
