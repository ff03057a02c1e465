"""Fields whose default only the table's owner has written: ``default: database``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from ..databases import Databases
from .conftest import running
from .library import OPEN, Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

RESOURCES: dict[str, dict[str, Any]] = {
    "invoices": {
        "fields": {
            "id": {"type": "integer", "primary_key": True, "default": "database"},
            "number": {"type": "string", "default": "database", "column": "No"},
            "state": {"type": "string", "choices": ["new", "paid"], "default": "database"},
            "place": {"type": "integer", "default": "database"},
            "token": {"type": "uuid", "default": "database", "read_only": True},
            "customer": {"type": "foreign_key", "to": "customers", "default": "database"},
            "note": {"type": "text", "null": True, "default": "database"},
        },
        "viewset": {"class": "views:Invoices"},
    },
    "customers": {
        "fields": {"code": {"type": "string", "primary_key": True, "default": "database"}, "name": {"type": "text"}}
    },
    "keys": {
        "managed": False,
        "fields": {"id": {"type": "uuid", "primary_key": True, "default": "database"}, "name": {"type": "text"}},
    },
}
VIEWS = """
from rowcast import ModelViewSet, action, model

Invoice = model("invoices")

class Invoices(ModelViewSet):
    model = Invoice

    @action(detail=False, methods=["POST"])
    async def make(self, request):
        one = await Invoice.objects.create(note="x")
        two, three = Invoice(state="paid"), Invoice(note="y")
        await Invoice.objects.bulk_create([two, three])
        return [[row.number, row.state, row.customer_id] for row in (one, two, three)]
"""
OWNERS = """
CREATE SEQUENCE numbers; CREATE SEQUENCE codes;
CREATE TABLE customers (code text PRIMARY KEY DEFAULT 'C' || nextval('codes'), name text NOT NULL);
INSERT INTO customers VALUES ('none', 'nobody');
CREATE TABLE invoices (
    id serial PRIMARY KEY, "No" text NOT NULL DEFAULT 'R-' || nextval('numbers'), state text NOT NULL DEFAULT 'new',
    place integer NOT NULL GENERATED ALWAYS AS IDENTITY, token uuid NOT NULL DEFAULT gen_random_uuid(),
    customer_id text NOT NULL DEFAULT 'none' REFERENCES customers, note text DEFAULT 'nothing'
);
CREATE TABLE keys (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text NOT NULL);
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    directory = tmp_path_factory.mktemp("defaults")
    async with running(databases, directory, RESOURCES, OPEN, {"views": VIEWS}, prepare=OWNERS) as service:
        yield service


async def test_a_body_may_leave_the_value_to_the_database(service: Service) -> None:
    """Which returns it; what a body has is written, null as well."""
    row = await service.post("/invoices/", {})
    assert (row["number"], row["state"], row["customer_id"], row["note"], len(row["token"])) == (
        "R-1", "new", "none", "nothing", 36
    )  # fmt: skip
    sent = {"id": 90, "number": "own", "state": "paid", "note": None}
    row = await service.post("/invoices/", sent)
    assert row | sent == row
    assert (await service.post("/invoices/", {"state": "lost"}, 400))["errors"].keys() == {"state"}
    assert (await service.post("/invoices/", {"number": None}, 400))["errors"].keys() == {"number"}
    changed = await service.put(f"/invoices/{row['id']}/", {"note": "n"})
    assert (changed["number"], changed["note"]) == ("own", "n")


async def test_a_value_that_the_database_always_generates_cannot_be_written(service: Service) -> None:
    document = await service.post("/invoices/", {"place": 7}, 400)
    assert document["errors"] == {"non_field_errors": ["A value that the database generates cannot be written."]}


async def test_a_table_that_is_not_managed_has_triggers_alone(service: Service) -> None:
    names = await service.sql.fetch("SELECT tgname FROM pg_trigger WHERE tgrelid = 'keys'::regclass ORDER BY 1")
    assert [name for (name,) in names] == ["rowcast_delete", "rowcast_insert", "rowcast_truncate", "rowcast_update"]
    assert not await service.sql.fetchval("SELECT count(*) FROM pg_constraint WHERE conname = 'ck_keys_name_blank'")


async def test_keys_of_any_type(service: Service) -> None:
    """A client may send one; a sequence that is behind is moved on."""
    assert (await service.post("/customers/", {"name": "a"}))["code"] == "C1"
    assert (await service.post("/customers/", {"name": "a", "code": "own"}))["code"] == "own"
    assert len((await service.post("/keys/", {"name": "a"}))["id"]) == 36
    await service.sql.execute("INSERT INTO invoices (id) SELECT last_value + 1 FROM invoices_id_seq")
    last = await service.sql.fetchval("SELECT max(id) FROM invoices")
    assert (await service.post("/invoices/", {}))["id"] == last + 1


async def test_models_leave_it_to_the_database(service: Service) -> None:
    rows = await service.post("/invoices/make/", {}, 200)
    assert [[state, customer] for _, state, customer in rows] == [["new", "none"], ["paid", "none"], ["new", "none"]]
    assert all(number.startswith("R-") for number, _, _ in rows)


async def test_the_documents_do_not_require_it(service: Service) -> None:
    document = await service.get("/openapi.json")
    schemas = document["components"]["schemas"]
    required = [
        schema.get("required", []) for name, schema in schemas.items() if "Invoice" in name and "Create" in name
    ]
    assert required, list(schemas)
    assert not any(required)
    _, options = await service.ask("OPTIONS", "/invoices/")
    assert not any(field["required"] for field in options["actions"]["POST"].values())
