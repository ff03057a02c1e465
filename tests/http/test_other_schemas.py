"""Tables of the same name in two schemas and without one, through requests, streams and models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from rowcast.errors import ConfigurationError

from ..databases import Databases
from ..sse import EventSource, listen
from ..waiting import until
from .conftest import running
from .library import OPEN, Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

ITEM = {
    "id": {"type": "integer", "primary_key": True},
    "number": {"type": "integer", "min": 1, "unique": True},
    "name": {"type": "string", "max_length": 20, "null": True},
}
RESOURCES: dict[str, dict[str, Any]] = {
    "orders": {
        "table": "Sales Dept.Order",
        "fields": ITEM
        | {
            "customer": {"type": "foreign_key", "to": "customers", "null": True, "on_delete": "restrict"},
            "parent": {"type": "foreign_key", "to": "orders", "null": True, "on_delete": "cascade"},
            "tags": {"type": "many_to_many", "to": "tags"},
        },
        "viewset": {
            "class": "views:Orders",
            "filterset_fields": {
                "number": ["exact", "gte"], "customer__name": ["exact"], "tags__name": ["exact"], "parent": ["exact"],
            },
            "search_fields": ["name"],
            "ordering_fields": ["number", "customer__name"],
            "count": "estimated",
        },
    },
    "old-orders": {"table": "old.Order", "fields": ITEM},
    "new-orders": {"table": "Order", "fields": ITEM},
    "customers": {"table": "crm.customers", "fields": ITEM},
    "tags": {"fields": ITEM},
}  # fmt: skip
VIEWS = """
from rowcast import F, ModelViewSet, action, model

Order = model("orders")

class Orders(ModelViewSet):
    model = Order

    @action(detail=False, methods=["POST"])
    async def work(self, request):
        rows = await Order.objects.bulk_create([Order(number=501), Order(number=502, name="b")])
        await Order.objects.filter(number__gte=501).update(number=F("number") + 100)
        row = await Order.objects.select_related("customer").prefetch_related("tags").get(number=601)
        row.name = "saved"
        await row.save()
        found = await Order.objects.filter(number__gte=600).order_by("-number").values("number", "name")
        await Order.objects.filter(number__gte=600).delete()
        return {"found": found, "left": await Order.objects.filter(number__gte=600).count()}
"""
OWNERS = """
CREATE SCHEMA "Sales Dept"; CREATE SCHEMA old; CREATE SCHEMA crm;
CREATE TABLE old."Order" (id serial PRIMARY KEY, number integer NOT NULL CONSTRAINT twice UNIQUE, name varchar(20),
    CONSTRAINT small CHECK (number < 1000));
CREATE TABLE "Order" (id serial PRIMARY KEY, number integer NOT NULL, name varchar(20),
    CONSTRAINT twice CHECK (number < 1000), CONSTRAINT small UNIQUE (number));
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    directory = tmp_path_factory.mktemp("schemas")
    async with running(databases, directory, RESOURCES, OPEN, {"views": VIEWS}, prepare=OWNERS) as service:
        await service.post("/customers/", {"number": 1, "name": "ann"})
        await service.post("/tags/", {"number": 1, "name": "red"})
        yield service


@pytest.mark.parametrize("resource", ["orders", "old-orders", "new-orders", "customers"])
async def test_rows_are_made_read_changed_and_deleted(service: Service, resource: str) -> None:
    """Each violation names the field, whoever has made the constraint, and under whatever name."""
    row = await service.post(f"/{resource}/", {"number": 77, "name": "x"})
    address = f"/{resource}/{row['id']}/"
    assert (await service.get(address))["number"] == 77
    taken = await service.post(f"/{resource}/", {"number": 77}, 409)
    assert taken["errors"] == {"number": ["Another row has this value."]}
    response = await service.client.get(address)
    tag = {"If-Match": response.headers["ETag"]}
    assert (await service.client.patch(address, json={"name": "y"}, headers=tag)).status == 200
    assert (await service.client.patch(address, json={"name": "z"}, headers=tag)).status == 412
    await service.delete(address)
    await service.get(address, status=404)


async def test_constraints_of_the_same_name_are_told_apart(service: Service) -> None:
    """``small`` is a check in one schema and a unique rule in another."""
    for resource in ("old-orders", "new-orders"):
        document = await service.post(f"/{resource}/", {"number": 1000}, 400)
        assert document["errors"] == {"number": ["Must be less than 1000."]}


async def test_relations_cross_schemas(service: Service) -> None:
    order = await service.post("/orders/", {"number": 2, "name": "big", "customer_id": 1, "tags": [1]})
    child = await service.post("/orders/", {"number": 3, "parent_id": order["id"]})
    shown = await service.get(f"/orders/{order['id']}/?expand=customer,tags,orders")
    assert (shown["customer"]["name"], shown["tags"][0]["name"]) == ("ann", "red")
    for query in ("customer__name=ann", "tags__name=red", "search=bi", "ordering=-customer__name,number&number=2"):
        page = await service.get(f"/orders/?{query}")
        assert [row["id"] for row in page["results"]] == [order["id"]], query
    assert (await service.get("/orders/"))["count"] >= 2
    assert (await service.post("/orders/", {"number": 4, "customer_id": 9}, 400))["errors"].keys() == {"customer_id"}
    assert (await service.delete("/customers/1/", 409))["code"] == "referenced"
    await service.delete(f"/orders/{order['id']}/")
    await service.get(f"/orders/{child['id']}/", status=404)


async def test_models_work_on_them(service: Service) -> None:
    done = await service.post("/orders/work/", {}, 200)
    assert done == {"found": [{"number": 602, "name": "b"}, {"number": 601, "name": "saved"}], "left": 0}


async def _change(source: EventSource) -> tuple[Any, ...]:
    event = (await source.next()).json()
    return event["action"], event["resource"], event.get("changed"), event["data"] and event["data"]["name"]


async def test_streams_send_the_changes_of_the_right_table(service: Service) -> None:
    """Those of direct SQL, of links, and with a filter that the database evaluates."""
    sql = service.sql
    async with listen(service.client, "/orders/stream/?number__gte=900") as source, listen(
        service.client, "/orders/stream/?customer__name=ann&number__gte=900"
    ) as filtered, listen(service.client, "/old-orders/stream/") as old:  # fmt: skip
        for each in (source, filtered, old):
            assert (await each.next()).event == "ready"
        await sql.execute("""
            INSERT INTO "Order" (number, name) VALUES (900, 'other');
            INSERT INTO old."Order" (number, name) VALUES (900, 'old');
            INSERT INTO "Sales Dept"."Order" (number, name, customer_id) VALUES (900, 'sales', 1);
        """)
        assert await _change(old) == ("INSERT", "old-orders", None, "old")
        assert await _change(source) == ("INSERT", "orders", None, "sales")
        assert await _change(filtered) == ("INSERT", "orders", None, "sales")
        await sql.execute(
            """INSERT INTO "Sales Dept"."Order_tags" SELECT id, 1 FROM "Sales Dept"."Order" WHERE number = 900"""
        )
        assert await _change(source) == ("UPDATE", "orders", ["tags"], "sales")
        await sql.execute("""TRUNCATE old."Order" """)
        assert (await old.next()).event == "reset"
        await sql.execute('DELETE FROM "Sales Dept"."Order"')
        assert (await _change(source))[0] == "DELETE"


async def test_sequences_behind_are_moved_on(service: Service) -> None:
    await service.sql.execute("INSERT INTO crm.customers (id, number) VALUES (2, 20), (3, 30)")
    assert (await service.post("/customers/", {"number": 40}))["id"] == 4


async def test_a_table_that_is_replaced_gets_its_triggers_again(service: Service) -> None:
    await service.sql.execute("""
        CREATE TABLE old.made (LIKE old."Order" INCLUDING ALL); ALTER TABLE old."Order" RENAME TO gone;
        ALTER TABLE old.made RENAME TO "Order"; ALTER SEQUENCE old."Order_id_seq" OWNED BY old."Order".id
    """)

    async def triggers() -> bool:
        return (
            await service.sql.fetchval("""SELECT count(*) FROM pg_trigger WHERE tgrelid = 'old."Order"'::regclass""")
            == 4
        )

    await until(triggers)
    assert (await service.post("/old-orders/", {"number": 77}))["number"] == 77


async def test_one_table_under_two_names_is_refused(databases: Databases, tmp_path: Path) -> None:
    """``books`` and ``public.books`` are the same table where the search path has ``public``."""
    books = """
        CREATE TABLE books (id serial PRIMARY KEY, name varchar(20) CHECK (name <> ''),
            number integer NOT NULL UNIQUE CHECK (number >= 1))
    """
    resources: dict[str, dict[str, Any]] = {
        "books": {"fields": ITEM},
        "tomes": {"table": "public.books", "fields": ITEM},
    }
    with pytest.raises(ConfigurationError, match=r"books and public\.books are the same table"):
        async with running(databases, tmp_path, resources, OPEN, prepare=books):
            pass
