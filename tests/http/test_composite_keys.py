"""Rows whose key has several fields: addresses, writes, pages, relations, filters, and Python."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientResponse
from yarl import URL

from rowcast.database.sequences import sequences_behind

from ..databases import Databases
from ..sse import listen
from ..waiting import until
from .conftest import running
from .library import OPEN, Service

NAMED = {"id": {"type": "integer", "primary_key": True}, "name": {"type": "string", "max_length": 40}}
RESOURCES: dict[str, dict[str, Any]] = {
    "orders": {"fields": NAMED, "viewset": {"filterset_fields": {"lines": ["exact", "in", "isnull"]}}},
    "products": {"fields": NAMED},
    "lines": {
        "fields": {
            "order": {"type": "foreign_key", "to": "orders", "on_delete": "cascade"},
            "product": {"type": "foreign_key", "to": "products"},
            "quantity": {"type": "integer", "default": 1},
            "version": {"type": "integer", "default": 1},
        },
        "primary_key": ["order", "product"],
        "viewset": {
            "class": "views:Lines",
            "filterset_fields": {"order": ["exact"], "product__name": ["exact"], "quantity": ["exact", "gte"]},
            "ordering_fields": ["quantity", "product"],
            "page_size": 2,
            "cache": "responses",
        },
    },
    "places": {
        "fields": {
            "name": {"type": "string", "max_length": 40},
            "day": {"type": "date"},
            "open": {"type": "boolean"},
            "note": {"type": "text", "default": ""},
        },
        "primary_key": ["name", "day", "open"],
        "viewset": {"pagination_class": "CursorPagination", "page_size": 2, "cache": "responses"},
    },
    "notes": {
        "fields": {
            "order": {"type": "foreign_key", "to": "orders", "on_delete": "cascade"},
            "number": {"type": "integer"},
            "first": {
                "type": "foreign_key",
                "to": "products",
                "null": True,
                "on_delete": "set_null",
                "related_name": "first_notes",
            },
            "second": {
                "type": "foreign_key",
                "to": "products",
                "null": True,
                "on_delete": "set_null",
                "related_name": "second_notes",
            },
        },
        "primary_key": ["order", "number"],
        "viewset": {"scope": {"order__name__ne": "hidden"}},
    },
    "readings": {
        "fields": {"sensor": {"type": "text"}, "at": {"type": "datetime"}, "value": {"type": "integer", "null": True}},
        "primary_key": ["sensor", "at"],
    },
    "moods": {
        "fields": {
            "mood": {"type": "string", "choices": ["calm", "wild, free", "odd"]},
            "at": {"type": "datetime", "zone": "Europe/Berlin"},
            "n": {"type": "integer", "default": 0},
        },
        "primary_key": ["mood", "at"],
        "viewset": {"class": "views:Moods"},
    },
    "legacy": {
        "table": "Legacy",
        "fields": {
            "order": {"type": "foreign_key", "to": "orders", "column": "orderNo"},
            "place": {"type": "string", "column": "atPlace"},
            "n": {"type": "integer", "column": "howMany", "default": 0},
        },
        "primary_key": ["order", "place"],
        "viewset": {"ordering_fields": ["n"], "filterset_fields": {"order__name": ["exact"]}},
    },
    "items": {
        "fields": {
            "tenant": {"type": "string"},
            "number": {"type": "integer", "default": "database"},
            "text": {"type": "string", "unique": True},
        },
        "primary_key": ["tenant", "number"],
    },
    "codes": {
        "fields": {
            "a": {"type": "integer"},
            "b": {"type": "integer"},
            "code": {"type": "string", "max_length": 20, "unique": True},
        },
        "primary_key": ["a", "b"],
        "viewset": {"lookup_field": "code"},
    },
    "pairs": {
        "fields": {
            "a": {"type": "string", "max_length": 9},
            "b": {"type": "integer"},
            "n": {"type": "integer", "default": 0},
        },
        "primary_key": ["a", "b"],
        "viewset": {"class": "views:Pairs"},
    },
    "profiles": {
        "fields": {
            "order": {"type": "foreign_key", "to": "orders", "on_delete": "cascade"},
            "text": {"type": "string", "max_length": 40},
        },
        "primary_key": ["order"],
        "viewset": {"class": "views:Profiles", "filterset_fields": ["order"]},
    },
    "badges": {
        "fields": {"profile": {"type": "foreign_key", "to": "profiles", "on_delete": "cascade"}},
        "viewset": {"filterset_fields": ["profile", "profile__order__name"]},
    },
    "mine": {
        "table": "mine",
        "fields": {
            "tenant": {"type": "string", "max_length": 40},
            "number": {"type": "integer"},
            "text": {"type": "string", "max_length": 40},
        },
        "primary_key": ["tenant", "number"],
        "viewset": {"class": "views:Mine", "scope": {"tenant__ne": "closed"}},
    },
}
VIEWS = """
from rowcast import BasePermission, ModelViewSet, action, get_object_or_404, model

Line, Order, Own = model("lines"), model("orders"), model("mine")

class Lines(ModelViewSet):
    model = Line

    @action(detail=True, methods=["POST"])
    async def double(self, request, id: str):
        line = await self.get_object(id)
        line.quantity *= 2
        await line.save()
        return {"pk": line.pk, "row": line, "address": self.reverse_action("double", line.pk), "id": id}

    @action(detail=False, methods=["POST"])
    async def python(self, request):
        made = await Line.objects.create(order=1, product=3, quantity=30)
        assert made.pk == (1, 3) and Line(pk=(7, 8)).product_id == 8
        assert Line().pk is None
        first = await Line.objects.get(pk=(1, 2))
        assert first == await Line.objects.get(pk="1,2") == await Line.objects.get(pk=[1, 2])
        assert len({first, await Line.objects.get(pk=(1, 2))}) == 1
        order = await Order.objects.get(pk=1)
        assert await Line.objects.get(pk=(order, 2)) == first
        among = await Line.objects.filter(pk__in=[(1, 2), (1, 3), (9, 9)]).order_by("-pk")
        assert [row.pk for row in among] == [(1, 3), (1, 2)]
        assert not await Line.objects.filter(pk__in=[]) and await Line.objects.exclude(pk__in=[]).exists()
        assert await Line.objects.exclude(pk=(1, 2)).count() == await Line.objects.count() - 1
        assert [row.pk for row in await Line.objects.filter(pk__ne=(1, 2), order=1)] == [(1, 3)]
        assert (await Line.objects.first()).pk == (1, 2) and (await Line.objects.last()).pk == (2, 2)
        assert await Order.objects.get(lines=(1, 3)) == order
        assert not await Order.objects.filter(lines=(2, 3))
        assert await Order.objects.get(lines__pk__in=[(1, 3), (8, 8)]) == order
        assert [row.pk for row in await Order.objects.filter(lines__isnull=True)] == [3]
        assert [row.pk for row in await order.lines.all().order_by("pk")] == [(1, 2), (1, 3)]
        (prefetched,) = await Order.objects.filter(pk=1).prefetch_related("lines__product")
        assert [row.product.name for row in prefetched.lines] == ["b", "c"]
        assert (await Line.objects.select_related("order").get(pk=(1, 3))).order.name == "first"
        assert [row.pk for row in await Line.objects.filter(order__pk=2)] == [(2, 2)]
        made.quantity = 31
        await made.save()
        await Line.objects.filter(pk=(1, 3)).update(quantity=32)
        await made.refresh()
        assert made.quantity == 32
        row, new = await Line.objects.get_or_create(pk=(2, 3), defaults={"quantity": 5})
        assert new and row.pk == (2, 3)
        assert await Line.objects.filter(pk__in=[(2, 3)]).delete() == 1
        many = await Line.objects.bulk_create([Line(order=2, product=1), Line(pk=(2, 3))])
        assert [row.pk for row in many] == [(2, 1), (2, 3)]
        for row in many:
            await row.delete()
        await made.delete()
        for wrong in ((1,), (1, 2, 3), ("x", 2), (1, None), "1", 7):
            try:
                await Line.objects.filter(pk=wrong)
            except Exception as error:
                assert type(error).__name__ == "ValidationError", repr(error)
            else:
                raise AssertionError(wrong)
        return {}


class Guarded(BasePermission):
    def has_object_permission(self, request, view, row):
        return row.pk != ("a", 9)


class Moods(ModelViewSet):
    @action(detail=False, methods=["POST"])
    async def python(self, request):
        Mood = model("moods")
        rows = await Mood.objects.order_by("-pk")
        assert len(rows) == 3
        some = await Mood.objects.filter(pk__in=[rows[2].pk, rows[0].pk, ("odd", rows[1].at)]).order_by("-pk")
        assert some == [rows[0], rows[2]], some
        assert await Mood.objects.get(pk=rows[1].pk) == rows[1]
        assert await Mood.objects.filter(pk__ne=rows[1].pk).count() == 2
        return await Mood.objects.filter(pk__in=[row.pk for row in rows[:2]]).delete()


class Pairs(ModelViewSet):
    lookup_url_kwarg = "pair"
    lookup_value_regex = "[^/]*[0-9]"

    async def get_object(self):
        return await get_object_or_404(self.get_queryset(), pk=self.kwargs["pair"])

    @action(detail=True, url_path="times/<int:times>", methods=["POST"])
    async def times(self, request, pair: str, times: str):
        row = await self.get_object()
        row.n += int(times)
        await row.save()
        again = self.reverse_action("times", kwargs={"pair": row.pk, "times": 7})
        return {"n": row.n, "again": again, "same": self.reverse_action("times", kwargs={"pair": pair, "times": 7})}


class Profiles(ModelViewSet):
    @action(detail=False, methods=["POST"])
    async def python(self, request):
        Profile = model("profiles")
        order = await Order.objects.get(pk=3)
        made = await Profile.objects.create(order=order, text="p")
        assert made.pk == 3 == (await Profile.objects.get(pk=order)).order_id
        (other,) = await Profile.objects.filter(pk__in=[3]).select_related("order").order_by("-pk")
        assert other.order == order
        assert (await Order.objects.get(profiles=3)) == order
        await other.delete()
        return {}


class Mine(ModelViewSet):
    model = Own
    permission_classes = [Guarded]

    async def perform_create(self, serializer):
        await serializer.save(text=serializer.validated_data["text"] + "!")

    async def perform_destroy(self, row):
        assert row.pk[1] < 100
        await row.delete()
"""
READINGS = """
CREATE TABLE items (tenant text CHECK (tenant <> ''), number serial, text text NOT NULL UNIQUE CHECK (text <> ''),
    PRIMARY KEY (number, tenant));
CREATE TABLE "Legacy" ("orderNo" integer, "atPlace" text CHECK ("atPlace" <> ''), "howMany" integer DEFAULT 0 NOT NULL,
    PRIMARY KEY ("orderNo", "atPlace"));
CREATE TYPE mood AS ENUM ('calm', 'wild, free', 'odd');
CREATE TABLE moods (mood mood NOT NULL, at timestamp NOT NULL, n integer NOT NULL DEFAULT 0, PRIMARY KEY (mood, at));
CREATE TABLE readings (sensor text NOT NULL CHECK (sensor <> ''), at timestamptz NOT NULL, value integer,
    PRIMARY KEY (sensor, at)) PARTITION BY RANGE (at);
CREATE TABLE readings_of_2026 PARTITION OF readings FOR VALUES FROM ('2026-01-01Z') TO ('2027-01-01Z');
"""
ROWS = """
INSERT INTO orders (id, name) OVERRIDING SYSTEM VALUE VALUES (1, 'first'), (2, 'second'), (3, 'third');
INSERT INTO products (id, name) OVERRIDING SYSTEM VALUE VALUES (1, 'a'), (2, 'b'), (3, 'c');
INSERT INTO lines (order_id, product_id, quantity) VALUES (1, 2, 10), (2, 2, 20);
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _shop(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    directory: Path = tmp_path_factory.mktemp("shop")
    async with running(databases, directory, RESOURCES, OPEN, {"views": VIEWS}, prepare=READINGS) as service:
        yield service


@pytest_asyncio.fixture(loop_scope="module")
async def shop(_shop: Service) -> Service:
    """The shop with two lines: the second product in the first two of three orders."""
    await _shop.sql.execute(
        'TRUNCATE orders, products, lines, places, mine, "Legacy", items, moods, notes, codes, pairs, profiles, badges RESTART IDENTITY'
    )
    await _shop.sql.execute(ROWS)
    return _shop


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def get(shop: Service, address: str, status: int = 200) -> Any:
    response = await shop.client.get(URL(address, encoded=True))
    assert response.status == status, await response.text()
    return await response.json()


def path_of(response: ClientResponse) -> str:
    return URL(response.headers["Location"], encoded=True).raw_path


async def test_a_row_has_an_address(shop: Service) -> None:
    """It can be made, read, changed, replaced and deleted at its Location; its key stays as it is."""
    made = await shop.client.post("/lines/", json={"order_id": 3, "product_id": 1, "quantity": 4})
    row = {"order_id": 3, "product_id": 1, "quantity": 4, "version": 1}
    assert (made.status, await made.json(), path_of(made)) == (201, row, "/lines/3,1/")
    assert await get(shop, "/lines/3,1/") == await get(shop, "/lines/3,1") == row
    for method, body in (
        ("patch", {"quantity": 5, "order_id": 2}),
        ("put", {"quantity": 5}),
        ("put", {"quantity": 5, "order_id": 1, "product_id": 2}),
    ):
        changed = await shop.client.request(method, "/lines/3,1/", json=body)
        assert (changed.status, await changed.json()) == (200, row | {"quantity": 5})
    assert (await shop.client.delete("/lines/3,1/")).status == 204
    assert (await shop.client.get("/lines/3,1/")).status == 404
    assert (await shop.client.delete("/lines/3,1/")).status == 404
    assert await shop.sql.fetchval("SELECT count(*) FROM lines") == 2


@pytest.mark.parametrize(
    "part",
    [
        "1",
        "1,",
        ",2",
        "1,2,3",
        "1,x",
        "01,2",
        "1,+2",
        "1,%32%",
        "1%2C",
        "1,2%00",
        "1,%FF",
        "1;2",
        "99999999999,1",
        "1,2,",
    ],
)
async def test_an_address_of_another_form_is_a_404(shop: Service, part: str) -> None:
    """As the key of any other resource that no row can have."""
    assert (await get(shop, f"/lines/{part}/", 404))["code"] == "not_found"


async def test_the_key_of_a_new_row_is_required_and_unique(shop: Service) -> None:
    """All of its fields are; a key that is taken is a 409 on them, and a part that refers to no row a 400."""
    missing = await shop.client.post("/lines/", json={"product_id": 1})
    assert (missing.status, (await missing.json())["errors"]) == (400, {"order_id": ["This field is required."]})
    taken = await shop.client.post("/lines/", json={"order_id": 1, "product_id": 2})
    assert (taken.status, set((await taken.json())["errors"])) == (409, {"order_id", "product_id"})
    wrong = await shop.client.post("/lines/", json={"order_id": 9, "product_id": 2})
    assert (wrong.status, set((await wrong.json())["errors"])) == (400, {"order_id"})


async def test_parts_are_percent_encoded(shop: Service) -> None:
    """A comma, a percent sign, a slash or any other character of a value does not change what a key means."""
    for name in ("a,b", "100%", "%2C", "x/y z", "ä?#", "a+b", '"'):
        body = {"name": name, "day": "2026-01-02", "open": True}
        made = await shop.client.post("/places/", json=body)
        assert made.status == 201, await made.text()
        address = path_of(made)
        assert address.endswith(",2026-01-02,true/")
        assert address.count(",") == 2
        assert await get(shop, address) == body | {"note": ""}
        whole = address.removeprefix("/places/").removesuffix("/").replace("%", "%25").replace(",", "%2C")
        assert await get(shop, f"/places/{whole}/") == body | {"note": ""}  # a client that encodes every part of a path
        changed = await shop.client.patch(URL(address, encoded=True), json={"note": "n"})
        assert (await changed.json())["note"] == "n"
        assert (await get(shop, address))["note"] == "n"  # which was in the cache
        assert (await shop.client.delete(URL(address, encoded=True))).status == 204
        await get(shop, address, 404)


async def test_a_cached_row_is_dropped_when_it_changes(shop: Service) -> None:
    """Also by another program."""

    async def shows(quantity: int) -> bool:
        found: int = (await get(shop, "/lines/1,2/"))["quantity"]
        return found == quantity

    await until(lambda: shows(10))
    for quantity in (11, 12):
        await shop.sql.execute("UPDATE lines SET quantity = $1 WHERE order_id = 1", quantity)
        await until(lambda quantity=quantity: shows(quantity))  # type: ignore[misc]
    await shop.sql.execute("DELETE FROM lines")
    await until(lambda: is_gone(shop, "/lines/1,2/"))


async def is_gone(shop: Service, address: str) -> bool:
    return (await shop.client.get(address)).status == 404


async def test_conditions_of_requests(shop: Service) -> None:
    """ETag, If-None-Match and If-Match are those of the row."""
    tag = (await shop.client.get("/lines/1,2/", headers={"Cache-Control": "no-cache"})).headers["ETag"]
    assert (await shop.client.get("/lines/1,2/", headers={"If-None-Match": tag})).status == 304
    changed = await shop.client.patch("/lines/1,2/", json={"quantity": 7}, headers={"If-Match": tag})
    assert changed.status == 200
    for method in ("patch", "put", "delete"):
        refused = await shop.client.request(method, "/lines/1,2/", json={"quantity": 8}, headers={"If-Match": tag})
        assert refused.status == 412
    assert (await shop.client.delete("/lines/1,2/", headers={"If-Match": changed.headers["ETag"]})).status == 204


async def test_pages_have_a_total_order(shop: Service) -> None:
    """The parts of the key are appended, so pages never overlap: by number, at depth, and by cursor."""
    await shop.sql.execute("INSERT INTO orders (id, name) SELECT n, 'x' FROM generate_series(10, 1500) n")
    await shop.sql.execute(
        "INSERT INTO lines (order_id, product_id) SELECT n, 1 + n % 3 FROM generate_series(10, 1500) n"
    )
    first = await get(shop, "/lines/?ordering=-quantity&page=1")
    assert [(row["order_id"], row["product_id"]) for row in first["results"]] == [(2, 2), (1, 2)]
    keys = [
        (row["order_id"], row["product_id"])
        for page in range(1, 5)
        for row in (await get(shop, f"/lines/?ordering=product&page_size=100&page={page}&quantity=1"))["results"]
    ]
    assert keys == sorted(keys, key=lambda key: (key[1], key[0]))
    deep = await get(shop, "/lines/?page=600&ordering=product")
    assert len(deep["results"]) == 2
    await shop.sql.execute("INSERT INTO places SELECT 'p,' || n, '2026-01-01', n % 2 = 0 FROM generate_series(1, 5) n")
    seen, address = [], "/places/"
    while address:
        page = await get(shop, address)
        seen += [row["name"] for row in page["results"]]
        address = page["next"] and URL(page["next"], encoded=True).raw_path_qs
    assert seen == [f"p,{n}" for n in range(1, 6)]


async def test_relations_from_both_sides(shop: Service) -> None:
    """The rows expand to their parents, and a parent to its rows in the order of their keys."""
    line = await get(shop, "/lines/1,2/?expand=order,product")
    assert (line["order"]["name"], line["product"]["name"]) == ("first", "b")
    await shop.sql.execute("INSERT INTO lines (order_id, product_id) VALUES (1, 3), (1, 1)")
    await shop.sql.execute("INSERT INTO notes VALUES (1, 2), (1, 1)")
    around = await get(shop, "/lines/1,2/?expand=order__notes__first")
    assert [row["number"] for row in around["order"]["notes"]] == [1, 2]
    order = await get(shop, "/orders/1/?expand=lines__product")
    assert [row["product"]["name"] for row in order["lines"]] == ["a", "b", "c"]
    listed = await get(shop, "/orders/?expand=lines")
    assert [[row["product_id"] for row in each["lines"]] for each in listed["results"]] == [[1, 2, 3], [2], []]
    assert (await shop.client.delete("/products/2/")).status == 409
    assert (await shop.client.delete("/orders/1/")).status == 204
    await get(shop, "/lines/1,2/", 404)


async def test_filters(shop: Service) -> None:
    """By the parts, by fields of the parents, and of a parent by the whole keys of its rows."""
    assert [row["order_id"] for row in (await get(shop, "/lines/?order=2"))["results"]] == [2]
    assert (await get(shop, "/lines/?product__name=b&quantity__gte=11"))["count"] == 1
    for query, found in (
        ("lines=1,2", [1]),
        ("lines=1%2C2", [1]),
        ('lines__in="1,2","2,2","3,3"', [1, 2]),
        ("lines__in=", []),
        ("lines__isnull=true", [3]),
        ("lines__isnull=false", [1, 2]),
    ):
        assert [row["id"] for row in (await get(shop, f"/orders/?{query}"))["results"]] == found, query
    wrong = await get(shop, "/orders/?lines=1", 400)
    assert (wrong["code"], wrong["detail"]) == (
        "invalid_parameter", "lines: Not a valid key: it has the form order,product, each percent-encoded.",
    )  # fmt: skip


async def test_handlers_get_the_key_as_it_is_in_the_address(shop: Service) -> None:
    """``get_object`` takes it, and ``reverse_action`` takes the row's key."""
    response = await shop.client.post("/lines/1,2/double/")
    assert response.status == 200, await response.text()
    body = await response.json()
    assert (body["pk"], body["row"]["quantity"], body["id"]) == ([1, 2], 20, "1,2")
    assert body["address"].endswith("/lines/1,2/double/")
    assert (await shop.client.post("/lines/1,9/double/")).status == 404
    assert (await shop.client.post("/lines/19/double/")).status == 404


async def test_models(shop: Service) -> None:
    """``pk`` is a tuple wherever Python reads or writes rows."""
    response = await shop.client.post("/lines/python/")
    assert response.status == 200, await response.text()


async def test_scope_permissions_and_hooks(shop: Service) -> None:
    """A scope bounds what is read and written, permissions see the row, and the ``perform_`` hooks save and delete it."""
    made = await shop.client.post("/mine/", json={"tenant": "a,b", "number": 1, "text": "x"})
    assert (made.status, (await made.json())["text"], path_of(made)) == (201, "x!", "/mine/a%2Cb,1/")
    outside = await shop.client.post("/mine/", json={"tenant": "closed", "number": 1, "text": "x"})
    assert outside.status == 403, await outside.text()
    async with listen(shop.client, "/mine/stream/") as source:
        assert (await source.next()).event == "ready"
        await shop.sql.execute("INSERT INTO mine VALUES ('closed', 2, 't'), ('a', 9, 't'), ('a', 8, 't')")
        assert (await source.next()).json()["id"] == "a,8"
    await get(shop, "/mine/closed,2/", 404)
    await get(shop, "/mine/a,9/", 401)  # nobody is signed in
    address = URL("/mine/a%2Cb,1/", encoded=True)
    assert (await shop.client.patch(address, json={"text": "y"})).status == 200
    assert (await shop.client.delete(address)).status == 204
    assert (await shop.client.delete("/mine/closed,2/")).status == 404


async def test_a_foreign_key_alone(shop: Service) -> None:
    """A row for each row of another resource has its key, and others can refer to it."""
    async with listen(shop.client, "/profiles/stream/") as source:
        assert (await source.next()).event == "ready"
        made = await shop.client.post("/profiles/", json={"order_id": 2, "text": "x"})
        assert (made.status, path_of(made)) == (201, "/profiles/2/")
        assert (await source.next()).json()["id"] == 2
    assert (await shop.client.post("/profiles/", json={"order_id": 2, "text": "y"})).status == 409
    assert (await shop.client.patch("/profiles/2/", json={"text": "y", "order_id": 1})).status == 200
    assert (await get(shop, "/profiles/2/?expand=order"))["order"]["name"] == "second"
    assert (await get(shop, "/orders/2/?expand=profiles"))["profiles"] == [{"order_id": 2, "text": "y"}]
    badge = await shop.client.post("/badges/", json={"profile_id": 2})
    assert badge.status == 201, await badge.text()
    assert (await get(shop, "/badges/?profile=2&profile__order__name=second&expand=profile__order"))["count"] == 1
    assert (await shop.client.post("/profiles/python/")).status == 200
    assert (await shop.client.delete("/profiles/2/")).status == 204
    assert (await get(shop, "/badges/"))["count"] == 0


async def test_options_and_openapi(shop: Service) -> None:
    """The key is an array in the path, its fields are required on create and ignored by changes."""
    document = await get(shop, "/openapi.json")
    (parameter,) = document["paths"]["/lines/{id}/"]["parameters"]
    assert (parameter["style"], parameter["explode"], parameter["schema"]["minItems"]) == ("simple", False, 2)
    assert [part["type"] for part in parameter["schema"]["prefixItems"]] == ["integer", "integer"]
    schemas = document["components"]["schemas"]
    assert {"order_id", "product_id"} <= set(schemas["LineCreate"]["required"])
    assert "Ignored" in schemas["LinePatch"]["properties"]["order_id"]["description"]
    assert schemas["LineEvent"]["properties"]["id"]["type"] == "string"
    actions = (await (await shop.client.options("/lines/1,2/")).json())["actions"]
    assert actions["PUT"]["order_id"] == actions["PUT"]["order_id"] | {"read_only": True, "required": False}
    created = (await (await shop.client.options("/lines/")).json())["actions"]["POST"]
    assert created["order_id"]["required"]


async def test_streams(shop: Service) -> None:
    """Events have the key as in addresses; a change of it is a DELETE and an INSERT; a row has a stream of its own."""
    async with (
        listen(shop.client, "/lines/stream/?snapshot=true") as all_lines,
        listen(shop.client, "/lines/1,2/stream/") as one,
        listen(shop.client, "/lines/stream/?order=2") as second,
        listen(shop.client, "/places/stream/") as places,
    ):
        block = await all_lines.next()
        assert [row["order_id"] for row in block.json()["rows"]] == [1, 2]
        for source in (all_lines, one, second, places):
            assert (await source.next()).event == "ready"
        await shop.sql.execute("UPDATE lines SET quantity = 5")
        await shop.sql.execute("UPDATE lines SET product_id = 3 WHERE order_id = 1")
        await shop.sql.execute("DELETE FROM lines WHERE order_id = 2")
        await shop.sql.execute("INSERT INTO places VALUES ('a,b %', '2026-01-02', false)")
        found = [json.loads((await all_lines.next()).data) for _ in range(5)]
        events = [(event["action"], event["id"], event.get("changed")) for event in found]
        assert sorted(events[:2]) == [("UPDATE", "1,2", ["quantity"]), ("UPDATE", "2,2", ["quantity"])]
        assert sorted(events[2:4]) == [("DELETE", "1,2", None), ("INSERT", "1,3", None)]
        assert events[4] == ("DELETE", "2,2", None)
        assert [(await one.next()).json()["action"] for _ in range(2)] == ["UPDATE", "DELETE"]
        assert [(await second.next()).json()["id"] for _ in range(2)] == ["2,2", "2,2"]
        event = (await places.next()).json()
        assert (event["action"], event["id"]) == ("INSERT", "a%2Cb%20%25,2026-01-02,false")
        assert await get(shop, f"/places/{event['id']}/") == event["data"]
    logged = await shop.sql.fetch("SELECT pk FROM rowcast.change WHERE resource = 'places' AND op = 'I' ORDER BY seq")
    assert logged[-1]["pk"] == "a%2Cb %25,2026-01-02,false"


async def test_a_scope_over_a_relation(shop: Service) -> None:
    """What is read, written, expanded and streamed is bounded by it, where the condition needs a join."""
    await shop.sql.execute("INSERT INTO orders (id, name) OVERRIDING SYSTEM VALUE VALUES (4, 'hidden')")
    await shop.sql.execute("INSERT INTO notes VALUES (1, 1), (4, 1)")
    async with listen(shop.client, "/notes/stream/") as source:
        assert (await source.next()).event == "ready"
        assert (await get(shop, "/notes/"))["count"] == 1
        for address, status in (("/notes/1,1/", 200), ("/notes/4,1/", 404)):
            assert (await shop.client.patch(address, json={"first_id": 1})).status == status
            assert (await shop.client.put(address, json={})).status == status
        refused = await shop.client.post("/notes/", json={"order_id": 4, "number": 2})
        assert refused.status == 403
        assert (await shop.client.post("/notes/", json={"order_id": 1, "number": 2})).status == 201
        orders = (await get(shop, "/orders/?expand=notes"))["results"]
        assert [[note["number"] for note in order["notes"]] for order in orders] == [[1, 2], [], [], []]
        assert (await shop.client.delete("/notes/4,1/")).status == 404
        assert (await shop.client.delete("/notes/1,1/")).status == 204
        events = [(await source.next()).json() for _ in range(3)]
        assert [(event["action"], event["id"]) for event in events] == [
            ("UPDATE", "1,1"), ("INSERT", "1,2"), ("DELETE", "1,1"),
        ]  # fmt: skip


async def test_rows_that_change_twice_in_a_transaction(shop: Service) -> None:
    """The triggers log rows as they are after nested changes, and after a cascade that takes two references of a row."""
    await shop.sql.execute("INSERT INTO notes VALUES (1, 1, 1, 3), (2, 1, 3, 3)")
    async with listen(shop.client, "/stream/?resources=notes,lines") as source:
        assert (await source.next()).event == "ready"
        await shop.sql.execute("DELETE FROM products WHERE id IN (1, 3)")
        await shop.sql.execute("INSERT INTO products (id, name) OVERRIDING SYSTEM VALUE VALUES (1, 'a')")
        last: dict[str, Any] = {}
        while last.keys() != {"1,1", "2,1"} or last["2,1"]["first_id"]:
            event = (await source.next()).json()
            last[event["id"]] = event["data"]
        empty = {"number": 1, "first_id": None, "second_id": None}
        assert last == {"1,1": empty | {"order_id": 1}, "2,1": empty | {"order_id": 2}}
        await shop.sql.execute(
            """
            CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                UPDATE lines SET version = version + 1 WHERE order_id = NEW.order_id AND product_id = NEW.product_id;
                RETURN NULL;
            END $$;
            CREATE TRIGGER again AFTER INSERT ON lines FOR EACH ROW EXECUTE FUNCTION again();
            """
        )
        async with shop.sql.transaction():
            await shop.sql.execute("INSERT INTO lines (order_id, product_id) VALUES (3, 2)")
            await shop.sql.execute("UPDATE lines SET quantity = 99 WHERE order_id = 3")
            await shop.sql.execute("UPDATE lines SET product_id = 3 - product_id WHERE order_id = 2")
            await shop.sql.execute("DELETE FROM lines WHERE order_id = 1")
        await shop.sql.execute("DROP FUNCTION again CASCADE")
        last = {}
        while last.keys() != {"3,2", "2,2", "2,1", "1,2"}:
            event = (await source.next()).json()
            if event["resource"] == "lines":
                last[event["id"]] = event["data"]
        assert (last["1,2"], last["2,2"], last["2,1"]["quantity"]) == (None, None, 20)
    assert (await get(shop, "/lines/3,2/"))["quantity"] == 99


async def test_a_partitioned_table_with_time_in_its_key(shop: Service) -> None:
    """The row is read again by its key, and an address may have any form of the time."""
    body = {"sensor": "a/b", "at": "2026-03-01T12:00:00.123456Z", "value": 1}
    made = await shop.client.post("/readings/", json=body)
    assert made.status == 201, await made.text()
    row = await made.json()
    address = path_of(made)
    assert address == "/readings/a%2Fb,2026-03-01T12%3A00%3A00.123456%2B00%3A00/"
    assert await get(shop, address) == await get(shop, "/readings/a%2Fb,2026-03-01T13:00:00.123456+01:00/") == row
    changed = await shop.client.patch(URL(address, encoded=True), json={"value": 2})
    assert (changed.status, await changed.json()) == (200, row | {"value": 2})
    assert (await shop.client.post("/readings/", json=body)).status == 409
    assert (await shop.client.delete(URL(address, encoded=True))).status == 204


async def test_another_field_in_addresses(shop: Service) -> None:
    """``lookup_field`` names rows as of any resource; events have the key."""
    async with listen(shop.client, "/codes/stream/") as source:
        assert (await source.next()).event == "ready"
        made = await shop.client.post("/codes/", json={"a": 1, "b": 2, "code": "x,y"})
        assert (made.status, path_of(made)) == (201, "/codes/x%2Cy/")
        assert (await source.next()).json()["id"] == "1,2"
    assert (await get(shop, "/codes/x%2Cy/"))["b"] == 2
    changed = await shop.client.patch("/codes/x%2Cy/", json={"a": 3, "code": "z"})
    assert await changed.json() == {"a": 1, "b": 2, "code": "z"}
    assert (await shop.client.delete("/codes/z/")).status == 204
    await get(shop, "/codes/1,2/", 404)


async def test_an_address_of_ones_own(shop: Service) -> None:
    """The key is as it was sent in ``kwargs``, whatever its part is called, and beside other parts."""
    made = await shop.client.post("/pairs/", json={"a": "x,/", "b": 2})
    assert (made.status, path_of(made)) == (201, "/pairs/x%2C%2F,2/")
    assert (await get(shop, "/pairs/x%2C%2F,2/"))["a"] == "x,/"
    await get(shop, "/pairs/x,2,2/", 404)
    changed = await shop.client.patch(URL("/pairs/x%2C%2F,2/", encoded=True), json={"n": 1})
    assert (changed.status, (await changed.json())["n"]) == (200, 1)
    times = await shop.client.post(URL("/pairs/x%2C%2F,2/times/5/", encoded=True))
    assert times.status == 200, await times.text()
    body = await times.json()
    assert body["n"] == 6
    assert body["again"] == body["same"]
    assert body["again"].endswith("/pairs/x%2C%2F,2/times/7/")
    assert (await shop.client.delete(URL("/pairs/x%2C%2F,2/", encoded=True))).status == 204


async def test_parts_whose_columns_have_types_of_their_own(shop: Service) -> None:
    """An enum, and a time of a zone: their order, addresses and events are those of the field."""
    async with listen(shop.client, "/moods/stream/") as source:
        assert (await source.next()).event == "ready"
        for mood in ("calm", "wild, free", "calm"):
            hour = "12" if mood == "calm" else "13"
            made = await shop.client.post("/moods/", json={"mood": mood, "at": f"2026-07-01T{hour}:00:00Z"})
            assert made.status in (201, 409), await made.text()
        await shop.sql.execute("INSERT INTO moods VALUES ('odd', '2026-07-01 10:00')")
        listed = (await get(shop, "/moods/"))["results"]
        assert [row["mood"] for row in listed] == ["calm", "wild, free", "odd"]
        for row in listed:
            event = (await source.next()).json()
            assert event["data"] == row
            assert await get(shop, f"/moods/{event['id']}/") == row
            changed = await shop.client.patch(URL(f"/moods/{event['id']}/", encoded=True), json={"n": 1})
            assert changed.status == 200
    await get(shop, "/moods/none,2026-07-01T12:00:00Z/", 404)
    response = await shop.client.post("/moods/python/")
    assert (response.status, await response.json()) == (200, 2)


async def test_columns_of_other_names(shop: Service) -> None:
    """The key is that of the fields, in addresses, events, deep pages and errors."""
    async with listen(shop.client, "/legacy/stream/?order__name=second") as source:
        assert (await source.next()).event == "ready"
        row = {"order_id": 2, "place": "x,", "n": 3}
        made = await shop.client.post("/legacy/", json=row)
        assert (made.status, await made.json(), path_of(made)) == (201, row, "/legacy/2,x%2C/")
        assert (await source.next()).json()["id"] == "2,x%2C"
        taken = await shop.client.post("/legacy/", json=row)
        assert (taken.status, set((await taken.json())["errors"])) == (409, {"order_id", "place"})
        await shop.sql.execute("""UPDATE "Legacy" SET "atPlace" = 'y'""")
        events = [(await source.next()).json() for _ in range(2)]
        assert sorted((event["action"], event["id"]) for event in events) == [("DELETE", "2,x%2C"), ("INSERT", "2,y")]
    await shop.sql.execute("""INSERT INTO "Legacy" SELECT 1, 'p' || n FROM generate_series(1, 1100) n""")
    assert [row["n"] for row in (await get(shop, "/legacy/?ordering=n&page=56"))["results"]] == [3]
    assert (await get(shop, "/orders/2/?expand=legacy"))["legacy"] == [row | {"place": "y"}]
    assert (await shop.client.delete("/legacy/2,y/")).status == 204


async def test_a_part_that_the_database_counts(shop: Service) -> None:
    """It is not required; a sequence behind the rows is moved on, unless it is another rule that is violated."""
    made = await shop.client.post("/items/", json={"tenant": "t", "text": "a"})
    assert (made.status, path_of(made)) == (201, "/items/t,1/")
    await shop.sql.execute("INSERT INTO items VALUES ('t', 2, 'b'), ('u', 9, 'c')")
    async with shop.sql.transaction():
        behind = await sequences_behind(shop.sql.fetch, shop.queries.tables)
        assert ("items.number", 1, 9) in [(found.column, found.last, found.largest) for found in behind]
    taken = await shop.client.post("/items/", json={"tenant": "u", "text": "a"})
    assert (taken.status, list((await taken.json())["errors"])) == (409, ["text"])
    await shop.sql.execute("SELECT setval('items_number_seq', 1)")
    moved = await shop.client.post("/items/", json={"tenant": "t", "text": "d"})
    assert (moved.status, path_of(moved)) == (201, "/items/t,10/")
    sent = await shop.client.post("/items/", json={"tenant": "t", "number": 2, "text": "e"})
    assert sent.status == 409
