"""What Python of a viewset sees and shows: the same rows as where PostgreSQL alone makes the answer."""

from __future__ import annotations

from textwrap import dedent

from .conftest import Run
from .library import KINDS

FOREIGN = {  # column → values that direct SQL may store and Python does not have, and what a method field makes of them
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
    from service.api import AllowAny, BasePermission, ModelViewSet, Serializer, action, model

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
    from service.api import DefaultRouter
    from viewsets import AskedViewSet, ShownViewSet

    router = DefaultRouter()
    router.register("shown", ShownViewSet, basename="shown")
    router.register("asked", AskedViewSet, basename="asked")
    """)


async def test_python_shows_what_it_cannot_hold_as_postgresql_does(run: Run) -> None:
    """A value without its like in Python is the nearest in an attribute, and in an answer what PostgreSQL says."""
    service = await run({"kinds": {"fields": KINDS}}, modules={"viewsets": VIEWSETS, "urls": URLS})
    sought = {}
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
    """JSON that is nested deeper than Python follows comes as the bytes that it is."""
    service = await run({"kinds": {"fields": KINDS}}, modules={"viewsets": VIEWSETS, "urls": URLS})
    deep = "[" * 3000 + "]" * 3000
    key = await service.sql.fetchval("INSERT INTO kinds (json) VALUES ($1) RETURNING id", deep)
    for path in (f"/kinds/{key}/", f"/shown/{key}/", "/shown/", f"/asked/{key}/"):
        async with service.client.get(path) as response:
            assert response.status == 200
            assert f'"json":{deep},' in await response.text()
