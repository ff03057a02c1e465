"""Four databases of other programs are adopted, served, read and written over HTTP, and streamed; no table is changed.

The schemas have the shape of a music store, a film rental, a project of Django and one of Prisma.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator

from rowcast.configuration.json_schema import json_schemas
from rowcast.configuration.load import Configuration, load
from rowcast.testing.client import Client, running

from ..databases import Databases
from .conftest import Project, execute
from .walk import Walk, quoted

SCHEMAS = Path(__file__).parent / "schemas"
IN_LINE = "-- The database is in line with the config."
NAMES: dict[str, dict[str, list[str]]] = {
    "music": {
        "album_list": [],
        "albums": ["artist", "tracks"],
        "artists": ["albums"],
        "chart_entries": ["track"],
        "customers": ["support_rep", "invoices"],
        "employees": ["reports_to", "customers", "employees"],
        "genres": ["tracks"],
        "invoice_lines": ["invoice", "track"],
        "invoices": ["customer", "invoice_lines"],
        "media_types": ["tracks"],
        "playlists": ["tracks"],
        "tracks": ["album", "media_type", "genre", "chart_entries", "invoice_lines", "playlists"],
    },
    "films": {
        "actors": ["films"],
        "addresses": ["city", "customers", "staff", "stores"],
        "categories": ["films"],
        "cities": ["country", "addresses"],
        "countries": ["cities"],
        "customer_list": [],
        "customers": ["store", "address", "payments", "rentals"],
        "films": ["language", "original_language", "actors", "categories", "inventories"],
        "inventories": ["film", "store", "rentals"],
        "languages": ["films", "original_language_films"],
        "payments": ["customer", "staff", "rental"],
        "rental_by_category": [],
        "rentals": ["inventory", "customer", "staff", "payments"],
        "staff": ["address", "store", "payments", "rentals", "stores"],
        "stores": ["manager_staff", "address", "customers", "inventories", "staff"],
        "terminals": [],
    },
    "django": {
        "categories": ["parent", "children", "products"],
        "content_types": [],
        "customers": ["user"],
        "groups": ["users"],
        "order_items": ["order", "product"],
        "orders": ["user", "packed_by", "order_items"],
        "products": ["category", "tags", "order_items"],
        "tags": ["products"],
        "users": ["groups", "customers", "orders", "packed_by_orders"],
    },
    "prisma": {
        "categories": ["posts"],
        "order_items": ["order", "post"],
        "orders": ["buyer", "order_items"],
        "posts": ["author", "categories", "order_items"],
        "profiles": ["user"],
        "users": ["orders", "posts", "profiles"],
    },
}
"""The resources of each schema, with the relations of each."""

LEFT_OUT = {
    "music": ["import_log", "sales_by_country"],
    "films": ["sales_by_store"],
    "django": ["django_migrations", "django_session"],
    "prisma": ["_prisma_migrations"],
}

NEW: dict[str, dict[str, dict[str, Any]]] = {
    "films": {"stores": {"manager_staff_id": 2}},
    "django": {
        "customers": {"user_id": 1},
        "order_items": {"product_id": "00000000-0000-4000-8000-000000000002"},
    },
    "prisma": {"profiles": {"user_id": "clx2"}},
}
"""Values of new rows that must be others than those of existing rows and refer to something."""

INSERTS: dict[str, dict[str, str]] = {
    "music": {
        "artists": "INSERT INTO artist (name) VALUES ('Nina Simone')",
        "invoices": "INSERT INTO invoice (customer_id) VALUES (1)",
        "tracks": "INSERT INTO track (name, media_type_id, milliseconds) VALUES ('Feeling Good', 1, 178000)",
        "chart_entries": "INSERT INTO chart_entry VALUES ('2026-01-19', 1, 1)",
    },
    "films": {
        "films": "INSERT INTO film (title, language_id, rating, release_year) VALUES ('ADAPTATION HOLES', 2, 'R', 2007)",
        "rentals": "INSERT INTO rental (rental_date, inventory_id, customer_id, staff_id) VALUES ('2026-02-03', 1, 2, 1)",
        "payments": "INSERT INTO payment (customer_id, staff_id, rental_id, amount, payment_date) VALUES (1, 1, 1, 5, '2026-02-07Z')",
        "terminals": "INSERT INTO terminal (address) VALUES ('::1')",
    },
    "django": {
        "tags": "INSERT INTO shop_tag (name) VALUES ('rare') RETURNING id",
        "users": "INSERT INTO auth_user (password, is_superuser, username, email, is_staff, date_joined) "
        "VALUES ('!', false, 'eve', '', false, now()) RETURNING id",
    },
    "prisma": {
        "users": """INSERT INTO "User" ("id", "email", "updatedAt") VALUES ('clx3', 'eve@example.com', CURRENT_TIMESTAMP)""",
        "posts": """INSERT INTO "Post" ("title", "authorId", "keywords") VALUES ('Third', 'clx1', '{c}')""",
        "order_items": """INSERT INTO "OrderItem" VALUES (1, 3, 2)""",
    },
}
"""What the program that owns the tables writes, by the resource that shows it."""

LINKS = {
    "music": ("playlists", "tracks", "INSERT INTO playlist_track VALUES (2, 1)"),
    "films": ("films", "actors", "INSERT INTO film_actor (actor_id, film_id) VALUES (1, 2)"),
    "django": ("users", "groups", "INSERT INTO auth_user_groups (user_id, group_id) VALUES (1, 1)"),
    "prisma": ("categories", "posts", """INSERT INTO "_CategoryToPost" VALUES (2, 2)"""),
}
"""A link that the owner writes, with the resource and the field that show it."""

CATALOG = """
SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull, attidentity, pg_get_expr(adbin, adrelid)
FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace) AND attnum > 0
UNION ALL
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated, '', NULL
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
ORDER BY 1, 2, 3
"""


@dataclass(frozen=True, slots=True)
class Adopted:
    """A schema that has been adopted and is served."""

    name: str
    project: Project
    configuration: Configuration
    output: str
    catalog: list[asyncpg.Record]  # as it was before
    client: Client
    sql: asyncpg.Connection


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=sorted(NAMES))
async def adopted(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Adopted]:
    """A new database with the schema, its config as `adopt` writes it, and the service after `migrate`."""
    async with databases.copy() as url:
        await execute(url, (SCHEMAS / f"{request.param}.sql").read_text())
        sql = await asyncpg.connect(url)
        catalog = await sql.fetch(CATALOG)
        project = Project(tmp_path_factory.mktemp(request.param), url)
        code, output = project.run("adopt")
        assert code == 0, output
        for command in ("check", "migrate"):
            code, printed = project.run(command)
            assert code == 0, printed
        configuration = load(project.directory / "config", environ={})
        async with running(configuration, url, migrated=True) as client:
            staff = client.as_user("admin", staff=True)
            yield Adopted(request.param, project, configuration, output, catalog, staff, sql)
        await sql.close()


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_resources_and_relations_have_names_that_read_well(adopted: Adopted) -> None:
    """In the plural and in snake case, without apps, prefixes and joins."""
    resources = adopted.configuration.resources
    found = {name: sorted(resources.relations(name)) for name in resources}
    assert found == {name: sorted(relations) for name, relations in NAMES[adopted.name].items()}
    left_out = [line.split()[2].rstrip(",") for line in adopted.output.splitlines() if line.startswith("left out")]
    assert left_out == LEFT_OUT[adopted.name]


async def test_nothing_is_open_to_others_than_admins(adopted: Adopted) -> None:
    """Until somebody edits the files."""
    for name in adopted.configuration.resources:
        assert (await adopted.client.as_user("ann").get(f"/{name}/")).status == 403
        assert (await adopted.client.with_headers({"Authorization": ""}).get(f"/{name}/")).status == 401


async def test_every_resource_is_read_and_written_over_http(adopted: Adopted) -> None:
    """Each row is listed, retrieved, found and put back; a new one is created, changed and deleted."""
    resources = adopted.configuration.resources
    for name, resource in resources.items():
        walk = Walk(adopted.client, adopted.sql, resources, name)
        count = await adopted.sql.fetchval(f"SELECT count(*) FROM {quoted(resource.table)}")
        rows = await walk.read(count)
        assert rows
        if not resource.view:
            await walk.write(rows, NEW.get(adopted.name, {}).get(name, {}))


async def test_what_the_owner_writes_is_streamed(adopted: Adopted) -> None:
    """As it is read; its statements know nothing of Rowcast."""
    for name, statement in INSERTS[adopted.name].items():
        async with adopted.client.stream(f"/{name}/stream/") as changes:
            await adopted.sql.execute(statement)
            change = await changes.next()
            assert (change["action"], change["resource"]) == ("INSERT", name)
            response = await adopted.client.get(f"/{name}/{change['id']}/")
            assert await response.json() == change["data"]


async def test_links_that_the_owner_writes_are_streamed(adopted: Adopted) -> None:
    """As changes of the row that declares them."""
    name, field, statement = LINKS[adopted.name]
    async with adopted.client.stream(f"/{name}/stream/") as changes:
        await adopted.sql.execute(statement)
        change = await changes.next()
        assert (change["action"], change["changed"]) == ("UPDATE", [field])


async def test_the_tables_stay_as_they_are(adopted: Adopted) -> None:
    """The plan stays empty, and no column or constraint is another one."""
    assert adopted.project.run("plan") == (0, IN_LINE)
    assert adopted.project.run("adopt", "--check")[0] == 0
    assert await adopted.sql.fetch(CATALOG) == adopted.catalog


async def test_the_files_are_what_editors_accept(adopted: Adopted) -> None:
    """They are valid by the JSON Schema of resource files."""
    schema = Draft202012Validator(json_schemas()["resource.schema.json"])
    for name in adopted.configuration.resources:
        assert not list(schema.iter_errors(adopted.configuration.files[name].data)), name


async def test_the_document_of_the_api_describes_all_of_it(adopted: Adopted) -> None:
    """OpenAPI has every resource, with its fields."""
    document = json.loads(await (await adopted.client.get("/openapi.json")).text())
    for name in adopted.configuration.resources:
        assert f"/{name}/" in document["paths"]
