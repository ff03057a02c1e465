"""Viewsets and serializers as their authors may write them: every ordinary form works, and what cannot is a clear error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from textwrap import dedent
from typing import Any

import pytest
import pytest_asyncio
from yarl import URL

from ..databases import Databases
from .conftest import running
from .library import Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT: dict[str, Any] = {"type": "string", "max_length": 50}
NOTES: dict[str, Any] = {
    "id": {"type": "integer", "primary_key": True},
    "title": TEXT,
    "code": {**TEXT, "unique": True, "null": True},
    "at": {"type": "datetime", "unique": True, "null": True},
    "price": {"type": "decimal", "max_digits": 6, "decimal_places": 2, "unique": True, "null": True},
    "secret": {**TEXT, "default": ""},
    "parent": {"type": "foreign_key", "to": "parents", "null": True, "unique": True, "on_delete": "set_null"},
    "labels": {"type": "many_to_many", "to": "labels"},
}
LOOKUPS = ("code", "at", "price", "parent")
MODULE = dedent("""
    from marshmallow import fields
    from rowcast import CursorPagination, IsAdminUser, LimitOffsetPagination, ModelViewSet, Response, Serializer, ViewSet, action, model

    Label, Parent = model("labels"), model("parents")

    def hiding(resource, name):
        class Hiding(Serializer):
            class Meta:
                model = globals()["model"](resource)
                extra = {name: {"load_only": True}}
        return Hiding

    def computing(resource):
        class Computing(Serializer):
            shout = fields.Function(lambda row: row.title.upper())

            class Meta:
                model = globals()["model"](resource)
        return Computing
    """)


def notes(lookup: str, **options: Any) -> dict[str, Any]:
    """A resource whose rows are named by a field."""
    fields = {name: dict(field) for name, field in NOTES.items()}
    return {"fields": fields, "viewset": {"lookup_field": lookup, **options}}


RESOURCES: dict[str, Any] = {
    "parents": {"fields": {"id": {"type": "integer", "primary_key": True}, "name": TEXT}},
    "labels": {"fields": {"id": {"type": "integer", "primary_key": True}, "name": TEXT}},
    **{f"by-{name}": notes(name) for name in LOOKUPS},
    **{f"hiding-{name}": notes(name, serializer_class=f"viewsets:Hiding{name.title()}") for name in LOOKUPS},
    **{f"computing-{name}": notes(name, serializer_class=f"viewsets:Computing{name.title()}") for name in LOOKUPS},
}
for _name in LOOKUPS:
    MODULE += f'Hiding{_name.title()} = hiding("hiding-{_name}", "{_name}{"_id" * (_name == "parent")}")\n'
    MODULE += f'Computing{_name.title()} = computing("computing-{_name}")\n'

MODULE += dedent("""
    class Declaring(Serializer):
        title = fields.String(required=True)
        size = fields.Function(lambda row: len(row.title))

    class Naming(Serializer):
        class Meta:
            fields = ("title", "id", "parent")

    class NamingAndDeclaring(Serializer):
        size = fields.Function(lambda row: len(row.title))
        hidden = fields.Function(lambda row: row.code)

        class Meta:
            fields = ("title", "size", "id")

    class Full(Serializer):
        size = fields.Function(lambda row: len(row.title))

    class Short(Serializer):
        class Meta:
            fields = ("title", "id")

    class ShortInherited(Full):
        class Meta:
            fields = ("title", "id")

    class ShortComputed(Full):
        class Meta:
            fields = ("title", "id", "size")

    class ModellessViewSet(ModelViewSet):
        serializer_class = Declaring

        @action(detail=False, methods=["post"])
        async def twice(self, request):
            serializer = self.get_serializer(data=[request.data, request.data], many=True)
            serializer.is_valid(raise_exception=True)
            await serializer.save(code=None)
            return serializer.data
    """)
MODULE += dedent("""
    class PagesViewSet(ModelViewSet):
        \"\"\"Actions that read a page of rows in the form that each is named after.\"\"\"

        def answer(self, rows):
            page = self.paginate_queryset(rows)
            return self.get_paginated_response([row if isinstance(row, dict) else row.title for row in page])

        @action(detail=False)
        def query(self, request):
            return self.answer(self.get_queryset().order_by("title"))

        @action(detail=False)
        async def awaited(self, request):
            return self.answer(await self.get_queryset().order_by("title"))

        @action(detail=False)
        def sliced(self, request):
            return self.answer(self.get_queryset().order_by("title")[1:6])

        @action(detail=False)
        def titles(self, request):
            return self.answer(self.get_queryset().order_by("title").values("title"))

        @action(detail=False)
        def python(self, request):
            return self.answer(row for row in self.get_queryset().order_by("title"))

        @action(detail=False)
        def dictionaries(self, request):
            return self.answer([{"title": row.title} for row in self.get_queryset().order_by("title")])

        @action(detail=False)
        def coroutine(self, request):
            async def rows():
                return self.get_queryset().order_by("title")
            return self.answer(rows())

        @action(detail=False)
        def related(self, request):
            return self.answer(self.wait_for_parent().related_pages)

        def wait_for_parent(self):
            from rowcast import wait
            return wait(Parent.objects.get(name="of pages"))

        @action(detail=False)
        def labels(self, request):
            return Response([row.name for row in self.paginate_queryset(Label.objects.filter(name__startswith="page"))])

        @action(detail=False)
        def nothing(self, request):
            return self.answer(None)

        @action(detail=False)
        def early(self, request):
            return self.get_paginated_response([])

    class OffsetsViewSet(PagesViewSet):
        model = model("pages")
        pagination_class = LimitOffsetPagination

    class CursorsViewSet(PagesViewSet):
        model = model("pages")
        pagination_class = CursorPagination

    class UnpagedViewSet(PagesViewSet):
        model = model("pages")
        pagination_class = None
    """)
MODULE += dedent("""
    class LabelName(Serializer):
        class Meta:
            model = Label
            fields = ("name",)

    class Title(Serializer):
        class Meta:
            model = model("trunks")
            fields = ("title",)

    class ParentOfTrunks(Serializer):
        trunks = fields.Nested(Title, many=True)

        class Meta:
            model = Parent
            fields = ("name", "trunks")

    class Trunk(Serializer):
        parent = fields.Nested(lambda: ParentOfTrunks())
        labels = fields.Nested(LabelName, many=True)

        class Meta:
            model = model("trunks")
            fields = ("title", "parent", "labels")

    class Leaf(Serializer):
        trunk = fields.Nested(Trunk, dump_only=True)

        class Meta:
            model = model("leaves")
            fields = ("name", "trunk", "trunk_id")
            extra = {"trunk_id": {"load_only": True}}

    class LeafViewSet(ModelViewSet):
        model = model("leaves")
        serializer_class = Leaf

        @action(detail=False)
        async def all(self, request):
            return await model("leaves").objects.order_by("id")

        @action(detail=False)
        async def page(self, request):
            rows = self.paginate_queryset(await model("leaves").objects.order_by("id"))
            return self.get_paginated_response(rows)

        @action(detail=True)
        async def one(self, request, id):
            return self.serialize(await model("leaves").objects.get(pk=id))

        @action(detail=False)
        def data(self, request):
            return self.get_serializer(model("leaves").objects.order_by("id"), many=True).data

        @action(detail=False, methods=["post"])
        async def made(self, request):
            serializer = self.get_serializer(data=request.data)
            serializer.is_valid(raise_exception=True)
            await self.perform_create(serializer)
            return Response(serializer.data, status=201)

    class PlainViewSet(ViewSet):
        async def list(self, request):
            return {"action": self.action, "rows": await model("plain").objects.count()}

        async def retrieve(self, request, id):
            return {"id": id}

        async def create(self, request):
            return await model("plain").objects.create(**request.data), 201

        @action(detail=False, permission_classes=[IsAdminUser])
        async def closed(self, request):
            return {}

        @action(detail=True)
        async def open(self, request, id):
            return {"open": id}

    class GuardedViewSet(PlainViewSet):
        pass
    """)
RESOURCES |= {
    "trunks": {"fields": {**NOTES, "parent": {**NOTES["parent"], "unique": False, "related_name": "trunks"}}},
    "leaves": {
        "fields": {"id": NOTES["id"], "name": TEXT, "trunk": {"type": "foreign_key", "to": "trunks"}},
        "viewset": {"class": "viewsets:LeafViewSet", "ordering": ["id"]},
    },
    "plain": {"fields": {"id": NOTES["id"], "title": TEXT}, "viewset": "viewsets:PlainViewSet"},
    "guarded": {
        "fields": {"id": NOTES["id"], "plain": {"type": "foreign_key", "to": "plain", "null": True}},
        "viewset": {"class": "viewsets:GuardedViewSet", "permission_classes": ["IsAuthenticated"]},
    },
    "short-form": {"fields": {"plain": {"type": "foreign_key", "to": "plain"}}, "viewset": "ReadOnlyModelViewSet"},
}
URLS = dedent("""
    from rowcast import DefaultRouter
    from viewsets import CursorsViewSet, OffsetsViewSet, UnpagedViewSet

    router = DefaultRouter()
    for name, viewset in {"offsets": OffsetsViewSet, "cursors": CursorsViewSet, "unpaged": UnpagedViewSet}.items():
        router.register(name, viewset, basename=name)
    """)
RESOURCES |= {
    "pages": {
        "fields": {
            "id": NOTES["id"], "title": TEXT,
            "parent": {"type": "foreign_key", "to": "parents", "null": True, "related_name": "related_pages"},
        },
        "viewset": {"class": "viewsets:PagesViewSet", "page_size": 2},
    },
}  # fmt: skip
RESOURCES |= {
    f"short{name}": {
        "fields": NOTES,
        "viewset": {
            "list_serializer_class": f"viewsets:Short{name.title().strip('-')}",
            "select_related": ["parent"],
            "prefetch_related": ["labels"],
        },
    }
    for name in ("", "-inherited", "-computed")
}
RESOURCES |= {
    "declaring": {"fields": NOTES, "viewset": {"class": "viewsets:ModellessViewSet"}},
    "naming": {"fields": NOTES, "viewset": {"serializer_class": "viewsets:Naming"}},
    "naming-and-declaring": {"fields": NOTES, "viewset": {"serializer_class": "viewsets:NamingAndDeclaring"}},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """One service for all tests; each has resources, or rows, of its own."""
    directory = tmp_path_factory.mktemp("viewsets")
    async with running(databases, directory, RESOURCES, modules={"viewsets": MODULE, "urls": URLS}) as service:
        yield service


# --- the address of a new row


@pytest.mark.parametrize("lookup", LOOKUPS)
@pytest.mark.parametrize("kind", ["by", "hiding", "computing"])
async def test_location_of_a_new_row_is_its_address(service: Service, kind: str, lookup: str) -> None:
    """Whatever the serializer shows, and whatever type the field has that names rows."""
    await service.sql.execute("INSERT INTO parents (name) VALUES ('p')")
    parent = await service.sql.fetchval("SELECT max(id) FROM parents")
    body = {"title": "t", "code": "1/ü+ %", "at": "2026-01-02T03:04:05.5Z", "price": "12.50", "parent_id": parent}
    path = f"/{kind}-{lookup}/"
    response, row = await service.ask("POST", path, body, status=201)
    address = URL(response.headers["Location"], encoded=True)
    assert address.raw_path.startswith(path)
    _, found = await service.ask("GET", str(address.relative()), status=200)
    assert found == row


@pytest.mark.parametrize("kind", ["by", "hiding", "computing"])
async def test_row_without_an_address_has_no_location(service: Service, kind: str) -> None:
    """A row whose ``lookup_field`` is null."""
    response, _ = await service.ask("POST", f"/{kind}-code/", {"title": "none"}, status=201)
    assert "Location" not in response.headers


# --- serializers without a model of their own


async def test_serializer_without_a_model_saves_the_viewset_s_rows(service: Service) -> None:
    """It has the fields that it declares, for bodies and responses."""
    row = await service.post("/declaring/", {"title": "one"})
    assert row == {"title": "one", "size": 3}
    key = await service.sql.fetchval("SELECT id FROM declaring")
    assert await service.patch(f"/declaring/{key}/", {"title": "other"}) == {"title": "other", "size": 5}
    assert await service.put(f"/declaring/{key}/", {"title": "last"}) == {"title": "last", "size": 4}
    assert await service.post("/declaring/twice/", {"title": "x"}, 200) == [{"title": "x", "size": 1}] * 2
    assert await service.rows("/declaring/") == [{"title": "last", "size": 4}, *[{"title": "x", "size": 1}] * 2]
    await service.post("/declaring/", {"title": "one", "secret": "s"}, 400)
    problem = await service.post("/declaring/", {"title": "x" * 51}, 400)
    assert "title" in problem["errors"]


async def test_fields_of_a_serializer_without_a_model_are_the_viewset_s(service: Service) -> None:
    """Where ``Meta.fields`` names them, and no others; PostgreSQL makes the JSON unless there are fields with code."""
    row = await service.post("/naming/", {"title": "one"})
    assert list(row.items()) == [("title", "one"), ("id", row["id"]), ("parent", None)]
    assert await service.get(f"/naming/{row['id']}/") == row
    assert service.service.plans["naming"].serializer.plain
    row = await service.post("/naming-and-declaring/", {"title": "one"})
    assert row == {"title": "one", "size": 3, "id": row["id"]}
    assert await service.rows("/naming-and-declaring/") == [row]
    await service.post("/naming-and-declaring/", {"title": "one", "secret": "s"}, 400)


async def test_list_serializer_shows_the_fields_that_it_lists(service: Service) -> None:
    """And no others, in their order: neither relations of the options, nor fields that its parent declares."""
    parent = await service.post("/parents/", {"name": "p"})
    label = await service.post("/labels/", {"name": "l"})
    body = {"title": "one", "parent_id": parent["id"], "labels": [label["id"]]}
    for name in ("short", "short-inherited", "short-computed"):
        row = await service.post(f"/{name}/", body)
        assert (row["parent"], row["labels"]) == (parent, [label])
        [shown] = await service.rows(f"/{name}/")
        expected = {"title": "one", "id": row["id"]} | ({"size": 3} if name == "short-computed" else {})
        assert list(shown.items()) == list(expected.items())
        assert (await service.get(f"/{name}/", 400, expand="parent"))["code"] == "invalid_parameter"


# --- pages in handlers

PAGED = ("query", "awaited", "python", "dictionaries", "titles", "coroutine", "sliced", "related")


@pytest_asyncio.fixture(loop_scope="module")
async def pages(service: Service) -> AsyncIterator[Service]:
    """The service with the rows ``a`` to ``g`` in pages."""
    await service.sql.execute("TRUNCATE pages")
    parent = await service.sql.fetchval("INSERT INTO parents (name) VALUES ('of pages') RETURNING id")
    await service.sql.execute(
        "INSERT INTO pages (title, parent_id) SELECT unnest($1::text[]), $2", list("abcdefg"), parent
    )
    yield service
    await service.sql.execute("DELETE FROM pages; DELETE FROM parents WHERE name = 'of pages'")


@pytest.mark.parametrize("form", PAGED)
async def test_rows_of_every_form_are_paged(pages: Service, form: str) -> None:
    """A query set, a slice of one, its values, and rows that have been read already; with counts and links."""
    expected = list("bcdef" if form == "sliced" else "abcdefg")
    for prefix, page in (("pages", {"page_size": "3"}), ("offsets", {"limit": "3"})):
        path, found = f"/{prefix}/{form}/", []
        params = dict(page)
        while True:
            body = await pages.get(path, query=params)
            assert body["count"] == len(expected)
            found.append([row["title"] if isinstance(row, dict) else row for row in body["results"]])
            if body["next"] is None:
                break
            params = dict(URL(body["next"]).query)
        assert found == [expected[start : start + 3] for start in range(0, len(expected), 3)]
        assert body["previous"] is not None
    assert (await pages.get("/pages/" + form + "/", 404, page="9"))["code"] == "invalid_page"
    assert (await pages.get("/pages/" + form + "/", 400, page_size="0"))["code"] == "invalid_parameter"
    assert (await pages.get(f"/offsets/{form}/", offset="99"))["results"] == []


async def test_rows_of_another_model_are_paged(pages: Service) -> None:
    """As its own instances."""
    await pages.sql.execute("INSERT INTO labels (name) VALUES ('page 1'), ('page 2'), ('page 3')")
    assert await pages.get("/pages/labels/") == ["page 1", "page 2"]


MISTAKES = {
    "/cursors/awaited/": "CursorPagination needs a query set without slice and values(), not a list",
    "/cursors/sliced/": "CursorPagination needs a query set without slice and values()",
    "/pages/nothing/": "paginate_queryset() needs a query set or a list of rows, not None",
    "/pages/early/": "get_paginated_response() needs a page: call paginate_queryset() before it",
    "/unpaged/early/": "get_paginated_response() needs a page: call paginate_queryset() before it",
}


@pytest.mark.parametrize("path", MISTAKES)
async def test_page_that_cannot_be_read_is_logged_as_a_sentence(
    pages: Service, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its remedy."""
    response = await pages.client.get(path)
    assert response.status == 500
    assert MISTAKES[path] in capsys.readouterr().out
    assert (await pages.client.get("/cursors/query/")).status == 200


# --- a class in place of options


async def test_plain_viewset_is_a_resource_s_class(service: Service) -> None:
    """It has its own actions, with the config's policies, and neither rows for expansions nor a stream."""
    row = await service.post("/plain/", {"title": "x"})
    assert row == {"id": row["id"], "title": "x"}
    assert await service.get("/plain/") == {"action": "list", "rows": 1}
    assert await service.get("/plain/7/") == {"id": "7"}
    assert await service.get("/plain/7/open/") == {"open": "7"}
    await service.get("/plain/closed/", 401)
    await service.get("/plain/stream/", 200)  # a key like any other
    for path in ("/guarded/", "/guarded/7/", "/guarded/7/open/"):
        await service.get(path, 401)
    document = await service.get("/openapi.json")
    assert {"get", "post"} <= document["paths"]["/plain/"].keys()
    assert "plain" in await service.get("/")
    await service.ask("OPTIONS", "/plain/", status=200)
    await service.get("/stream/", 400, resources="plain")


async def test_short_form_names_the_class_alone(service: Service) -> None:
    """Of Rowcast or of the config directory; rows of a plain viewset are not expanded."""
    response, _ = await service.ask("POST", "/short-form/", {}, status=405)
    assert response.headers["Allow"] == "GET, HEAD, OPTIONS"
    key = (await service.post("/plain/", {"title": "x"}))["id"]
    await service.sql.execute("INSERT INTO short_form (plain_id) VALUES ($1)", key)
    assert len(await service.rows("/short-form/")) == 1
    assert (await service.get("/short-form/", 400, expand="plain"))["code"] == "invalid_parameter"


# --- serializers within serializers


async def test_serializers_may_be_nested_to_any_depth(service: Service) -> None:
    """What they show is read for the whole page, in every action and in handlers; statements do not grow with the rows."""
    parent = await service.post("/parents/", {"name": "p"})
    label = await service.post("/labels/", {"name": "l"})
    leaves: list[str] = []
    for title in ("one", "two"):
        row = await service.post("/trunks/", {"title": title, "parent_id": parent["id"], "labels": [label["id"]]})
        leaf = await service.post("/leaves/", {"trunk_id": row["id"], "name": f"leaf of {title}"})
        shown_parent = {"name": "p", "trunks": [{"title": name} for name in [*dict.fromkeys([*leaves, title])]]}
        assert leaf == {
            "name": f"leaf of {title}",
            "trunk": {"title": title, "parent": shown_parent, "labels": [{"name": "l"}]},
        }
        leaves.append(title)
    shown = await service.rows("/leaves/")
    assert [leaf["trunk"]["parent"]["trunks"] for leaf in shown] == [[{"title": "one"}, {"title": "two"}]] * 2
    for path in ("/leaves/", "/leaves/all/", "/leaves/page/", "/leaves/data/"):
        before = service.database.statements
        body = await service.get(path)
        assert (body if isinstance(body, list) else body["results"]) == shown
        first = service.database.statements - before
        await service.sql.execute("INSERT INTO leaves (trunk_id, name) SELECT trunk_id, 'more' FROM leaves LIMIT 1")
        before = service.database.statements
        more = await service.get(path)
        assert len(more if isinstance(more, list) else more["results"]) == len(shown) + 1
        assert service.database.statements - before <= first
        await service.sql.execute("DELETE FROM leaves WHERE name = 'more'")
    key = await service.sql.fetchval("SELECT min(id) FROM leaves")
    assert await service.get(f"/leaves/{key}/") == shown[0]
    assert await service.patch(f"/leaves/{key}/", {}) == shown[0]
    assert await service.get(f"/leaves/{key}/one/") == shown[0]
    trunk = await service.sql.fetchval("SELECT trunk_id FROM leaves WHERE id = $1", key)
    assert await service.post("/leaves/made/", {"trunk_id": trunk, "name": "leaf of one"}) == shown[0]


async def test_what_a_serializer_only_shows_is_ignored_in_a_body(service: Service) -> None:
    """So that an object that was read can be sent back; other unknown keys are refused."""
    for path in ("/computing-code/", "/declaring/"):
        made = await service.post(path, {"title": "sent back", "code": "back"} if "code" in path else {"title": "x"})
        table = path.strip("/").replace("-", "_")
        key = made.get("code") or await service.sql.fetchval(f"SELECT max(id) FROM {table}")
        assert await service.put(f"{path}{key}/", made) == made
        await service.put(f"{path}{key}/", made | {"sized": 1}, 400)
