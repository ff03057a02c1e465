"""``rowcast adopt`` writes files for the tables that a config does not have, and nothing else."""

from __future__ import annotations

import asyncio
import doctest
import time
from urllib.parse import urlsplit

import asyncpg
import pytest

from rowcast.adoption import files, names
from rowcast.configuration.load import load
from rowcast.testing.client import running

from .conftest import Make, execute
from .walk import Walk, quoted

SHOP = """
CREATE TABLE customers (id serial PRIMARY KEY, name varchar(80) NOT NULL);
CREATE TABLE orders (id serial PRIMARY KEY, customer_id integer REFERENCES customers, created_at timestamptz NOT NULL);
CREATE INDEX ON orders (customer_id);
CREATE INDEX ON orders (created_at);
"""


@pytest.mark.parametrize("module", [names, files])
def test_examples_of_names(module: object) -> None:
    """The examples are run as doctests."""
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]


async def test_a_directory_without_a_config_gets_one(project: Make) -> None:
    """The files are accepted by `check`, and `plan` has nothing to do after the change log is installed."""
    shop = await project(SHOP)
    assert shop.run("adopt") == (
        0,
        "config/resources/customers.yaml: customers\nconfig/resources/orders.yaml: orders\n"
        "2 resources written, open to admins only. Next: `rowcast check`, then `rowcast migrate`.",
    )
    assert shop.resource("customers") == (
        "table: customers\n"
        "managed: false # Rowcast adds the triggers of its streams, and changes nothing else\n"
        "fields:\n"
        "  id: {type: integer, primary_key: true}\n"
        "  name: {type: string, max_length: 80, blank: true}\n"
        "viewset:\n"
        "  permission_classes: [IsAdminUser] # closed until you open it\n"
        "  filterset_fields:\n"
        "    id: [exact, in]\n"
        "  ordering_fields: [id]\n"
    )
    assert "  ordering: [-created_at]\n" in shop.resource("orders")
    assert shop.run("check") == (0, "config: 2 resources, no problems.")
    in_line = (0, "-- The database is in line with the config.")
    assert shop.run("plan") == shop.run("migrate") == shop.run("plan") == in_line
    assert shop.run("adopt", "--check") == (0, "The config has every table and column.")


async def test_files_are_never_overwritten(project: Make) -> None:
    """A second run writes what is new, with relations to what is there; a file in the way is named."""
    shop = await project(SHOP)
    shop.write("clients", "table: customers\nfields: {id: {type: integer, primary_key: true}, name: {type: string}}")
    assert shop.run("adopt")[0] == 0
    assert shop.resources() == ["clients", "orders"]
    assert "  customer: {type: foreign_key, to: clients, null: true}\n" in shop.resource("orders")
    assert shop.run("adopt") == (0, "The config has every table that can be adopted.")
    await execute(shop.url, "CREATE TABLE parcels (id serial PRIMARY KEY, order_id integer NOT NULL REFERENCES orders)")
    (shop.directory / "else").mkdir()
    (shop.directory / "else" / "parcels.yml").write_text("mine")
    code, output = shop.run("adopt", "--out", str(shop.directory / "else"))
    assert (code, output) == (0, "exists: else/parcels.yml, so parcels is not written")
    assert (shop.directory / "else" / "parcels.yml").read_text() == "mine"
    assert shop.run("adopt")[0] == 0
    assert shop.resources() == ["clients", "orders", "parcels"]


async def test_files_of_a_project_name_the_schema_for_editors(project: Make) -> None:
    """As those that `init` writes."""
    shop = await project(SHOP)
    schema = shop.directory / "config" / "schema"
    schema.mkdir(parents=True)
    (schema / "resource.schema.json").write_text("{}")
    assert shop.run("adopt")[0] == 0
    first, second, *_ = shop.resource("orders").splitlines()
    assert (first, second) == ("# yaml-language-server: $schema=../schema/resource.schema.json", "table: orders")
    assert shop.run("check")[0] == 0


async def test_a_join_is_declared_where_a_file_is_written(project: Make) -> None:
    """A file that exists is not changed, so the other side declares the links; without another side they are left out."""
    tags = "CREATE TABLE tags (id serial PRIMARY KEY); CREATE TABLE customers_tags (customer_id integer REFERENCES customers, "
    shop = await project(SHOP + tags + "tag_id integer REFERENCES tags, PRIMARY KEY (customer_id, tag_id))")
    shop.write("customers", "fields: {id: {type: integer, primary_key: true}, name: {type: string}}")
    assert shop.run("adopt")[0] == 0
    through = "through: {table: customers_tags, near: tag_id, far: customer_id}"
    assert f"  customers: {{type: many_to_many, to: customers, {through}}}\n" in shop.resource("tags")
    assert shop.run("adopt") == (0, "The config has every table that can be adopted.")
    shop.write("tags", "fields: {id: {type: integer, primary_key: true}}")
    assert shop.run("adopt")[1].splitlines()[-1] == (
        "left out: customers_tags, because it joins customers and tags, whose files exist; "
        "add a many_to_many field to one of them"
    )


async def test_a_config_with_a_mistake_is_not_added_to(project: Make) -> None:
    """What it has cannot be known."""
    shop = await project(SHOP)
    shop.write("clients", "tabel: customers")
    code, output = shop.run("adopt")
    assert code == 1
    assert "did you mean table?" in output
    assert shop.resources() == ["clients"]


async def test_check_reports_drift(project: Make) -> None:
    """New tables, new columns and changed ones; a comment names a column that is left out on purpose."""
    shop = await project(SHOP)
    shop.run("adopt")
    await execute(
        shop.url,
        'CREATE TABLE notes (id serial PRIMARY KEY, body text); ALTER TABLE customers ADD vip boolean, ADD "nickName" text;'
        "CREATE TABLE lines (body text)",
    )
    code, output = shop.run("adopt", "--check")
    assert (code, output.splitlines()) == (
        1,
        [
            "notes: no resource has this table; `rowcast adopt` writes one",
            "config/resources/customers.yaml: no field has the column vip (boolean); add one, or a comment `# vip: …`",
            "config/resources/customers.yaml: no field has the column nickName (text); add one, or a comment `# nickName: …`",
            "left out: lines, because it has no primary key, and no unique index over columns that are never null",
        ],
    )
    shop.write("customers", shop.resource("customers") + "# vip: known to sales only\n#  nick_name: {type: string}\n")
    code, output = shop.run("adopt", "--check", "--tables", "!notes")
    assert (code, output.splitlines()[0]) == (0, "The config has every table and column.")
    await execute(shop.url, "ALTER TABLE customers ALTER name TYPE integer USING 1")
    code, output = shop.run("adopt", "--check", "--tables", "customers")
    assert code == 1
    assert "customers" in output
    assert shop.resources() == ["customers", "orders"]


async def test_patterns_and_schemas_choose_tables(project: Make) -> None:
    """A pattern or a schema that names nothing is an error, with what there is."""
    shop = await project(
        SHOP
        + 'CREATE SCHEMA "Sales"; CREATE TABLE "Sales"."Orders" (id serial PRIMARY KEY, body text);'
        + "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY); CREATE TABLE tmp_x (id serial PRIMARY KEY);"
    )
    assert shop.run("adopt", "--tables", "persons") == (
        1, "--tables persons: no table that is read has such a name; valid here: alembic_version, customers, orders, tmp_x",
    )  # fmt: skip
    assert shop.run("adopt", "--schema", "sales") == (
        1, "--schema sales: there is no table in this schema; schemas with tables: Sales (1), public (4)",
    )  # fmt: skip
    code, output = shop.run("adopt", "--tables", "!tmp_*", "--schema", "public", "--schema", "Sales")
    assert code == 0
    assert shop.resources() == ["customers", "orders", "sales_orders"]
    assert "table: Sales.Orders\n" in shop.resource("sales_orders")
    assert output.splitlines()[-1] == (
        "left out: alembic_version, because it is the bookkeeping of another program; --tables alembic_version adopts it"
    )
    assert shop.run("check")[0] == 0
    assert shop.run("plan") == (0, "-- The database is in line with the config.")


ODD = """
CREATE DOMAIN "Percent" AS numeric(5, 2) CHECK (VALUE <= 100);
CREATE TYPE "Mood" AS ENUM ('so-so', 'very: good', 'null', '3');
CREATE TABLE "Straße der Wörter" (
    "2nd key" text PRIMARY KEY DEFAULT 'x', "createdAt" timestamp NOT NULL DEFAULT now(), "naïve Col" integer, "_x" integer,
    "__a__b" integer, x integer, search text NOT NULL, page integer, "class" boolean DEFAULT true, "%$" integer, ümläut "Percent",
    "Mood" "Mood" NOT NULL DEFAULT 'so-so', moods "Mood"[], "shareRate" real[], tree xml, "apiKey" text
);
CREATE INDEX ON "Straße der Wörter" (search, x);
CREATE INDEX ON "Straße der Wörter" (page) WHERE x > 0;
CREATE UNIQUE INDEX ON "Straße der Wörter" (lower(search));
CREATE UNIQUE INDEX ON "Straße der Wörter" ("_x", x);
CREATE TABLE metrics (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, metrics integer REFERENCES "metrics");
CREATE TABLE "stream" (id numeric PRIMARY KEY);
CREATE TABLE model (id uuid PRIMARY KEY, status text, status_id uuid UNIQUE REFERENCES model ON DELETE SET NULL);
CREATE TABLE models (status model, id smallint UNIQUE NOT NULL, other_id uuid REFERENCES model, FOREIGN KEY (id) REFERENCES models (id));
CREATE TABLE "with.dot" (id integer PRIMARY KEY);
CREATE TABLE model_of_2026 (PRIMARY KEY (id)) INHERITS (model);
COMMENT ON TABLE model IS 'A ${env:HOME}';
COMMENT ON TABLE "metrics" IS 'Two lines
of "text": # all of it';
"""


async def test_names_and_types_of_all_kinds_are_accepted_by_the_config(project: Make) -> None:
    """Or left out with a reason; the plan is empty in any case."""
    odd = await project(ODD)
    code, output = odd.run("adopt")
    assert code == 0
    assert [line for line in output.splitlines() if line.startswith("left out")] == [
        "left out: model_of_2026, because it inherits from model, whose rows include its own",
        "left out: stream, because its key id has the type numeric, which no key has",
        "left out: with.dot, because its name has a character that no config has in a name",
    ]
    assert odd.run("check") == (0, "config: 4 resources, no problems.")
    code, plan = odd.run("plan")
    assert (code, plan.splitlines()[0]) == (0, "-- The database is in line with the config.")
    assert odd.resources() == ["models", "public_metrics", "public_models", "strasse_der_worters"]
    assert odd.run("adopt", "--check")[0] == 0
    text = odd.resource("strasse_der_worters")
    for line in (
        'table: "Straße der Wörter"',
        '  column_2nd_key: {type: text, column: "2nd key", primary_key: true, default: database}',
        "  created_at: {type: datetime, column: createdAt, auto_now_add: true}",
        '  naive_col: {type: integer, column: "naïve Col", null: true}',
        "  x_2: {type: integer, column: _x, null: true}",
        "  x: {type: integer, null: true}",
        "  # %$: left out, because it has a character in its name that no config has",
        '  mood: {type: string, choices: [so-so, "very: good", "null", "3"], column: Mood, default: database}',
        "    search: [in]",
    ):
        assert line in text.splitlines(), line
    assert 'description: "Two lines of \\"text\\": # all of it"' in odd.resource("public_metrics")
    assert "description" not in odd.resource("models")


SCHEMAS = """
CREATE SCHEMA hr; CREATE SCHEMA "Weird Schema";
CREATE TABLE hr."Employee" (
    "EmployeeNo" integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "Name" text NOT NULL, "Boss" integer REFERENCES hr."Employee"
);
CREATE TABLE "Weird Schema"."order" (
    "user" integer NOT NULL REFERENCES hr."Employee", "select" text, "group" text[], at timestamptz DEFAULT now(), "from" timetz,
    amount money, bits bit(3), point point, range tstzrange, PRIMARY KEY ("user", at)
);
CREATE TABLE "user" (
    id serial PRIMARY KEY, "order" integer, emp integer UNIQUE REFERENCES hr."Employee", "desc" varchar(10) COLLATE "C", d date,
    t time(0), i interval, j json, n numeric, dp double precision, c char(3), u uuid DEFAULT gen_random_uuid()
);
CREATE TABLE "Weird Schema"."userRoles" (
    "userId" integer REFERENCES "user" ON DELETE CASCADE, "EMP_ID" integer REFERENCES hr."Employee" ON DELETE CASCADE,
    since date NOT NULL DEFAULT CURRENT_DATE, PRIMARY KEY ("userId", "EMP_ID")
);
CREATE TABLE hr.period (starts date, ends date, note text, PRIMARY KEY (starts, ends));
CREATE TABLE hr.absence (id bigserial PRIMARY KEY, starts date, ends date, FOREIGN KEY (starts, ends) REFERENCES hr.period);
CREATE VIEW hr.boss_list AS SELECT "EmployeeNo", "Name", "Boss" FROM hr."Employee";
CREATE TABLE hr.code (code text UNIQUE NOT NULL, label text);
CREATE TABLE hr.item (id serial PRIMARY KEY, code text REFERENCES hr.code (code));
INSERT INTO hr."Employee" ("Name", "Boss") VALUES ('a', NULL), ('b', 1);
INSERT INTO "Weird Schema"."order" VALUES (1, 's', '{a}', '2026-01-01Z', '10:00+02', 5, B'101', '(1,2)', '[2026-01-01Z,)');
INSERT INTO "user" ("order", emp, "desc", d, t, i, j, n, dp, c)
    VALUES (1, NULL, 'x', '2026-01-01', '10:00', '1 day', '{"b":1, "a": 2}', 1.10, 1.5, 'a');
INSERT INTO "Weird Schema"."userRoles" VALUES (1, 2);
INSERT INTO hr.period VALUES ('2026-01-01', '2026-01-05', 'x');
INSERT INTO hr.absence (starts, ends) VALUES ('2026-01-01', '2026-01-05');
INSERT INTO hr.code VALUES ('A,b%', 'l');
INSERT INTO hr.item (code) VALUES ('A,b%');
INSERT INTO "Straße der Wörter" ("2nd key", search) VALUES ('k', 's');
INSERT INTO metrics DEFAULT VALUES;
INSERT INTO model VALUES ('00000000-0000-4000-8000-000000000001', 's');
INSERT INTO models VALUES (NULL, 1);
"""


async def test_tables_of_several_schemas_and_names_of_all_kinds_are_served(project: Make) -> None:
    """They are read and written over HTTP as others are."""
    odd = await project(ODD + SCHEMAS)
    schemas = [argument for schema in ("public", "hr", "Weird Schema") for argument in ("--schema", schema)]
    for command in (["adopt", *schemas], ["check"], ["migrate"]):
        code, output = odd.run(*command)
        assert code == 0, output
    assert odd.run("plan")[1].splitlines()[0] == "-- The database is in line with the config."
    assert "  starts: {type: date, null: true} # refers to hr.period by several columns: starts, ends" in odd.resource(
        "absences"
    )
    assert "  boss: {type: foreign_key, to: employees, column: Boss, null: true}\n" in odd.resource("boss_list")
    configuration = load(odd.directory / "config", environ={})
    sql = await asyncpg.connect(odd.url)
    async with running(configuration, odd.url, migrated=True) as client:
        for name, resource in configuration.resources.items():
            walk = Walk(client.as_user("admin", staff=True), sql, configuration.resources, name)
            rows = await walk.read(await sql.fetchval(f"SELECT count(*) FROM {quoted(resource.table)}"))
            if not resource.view:
                await walk.write(rows, {"search": "another"} if name == "strasse_der_worters" else {})
    await sql.close()


async def test_tables_that_the_role_may_not_read_are_left_out(project: Make) -> None:
    """They could not be served."""
    shop = await project(SHOP)
    role = f"{urlsplit(shop.url).path[1:]}_reader"  # roles are of the server
    await execute(shop.url, f"CREATE ROLE {role} LOGIN; GRANT SELECT ON customers TO {role}")
    url = shop.url.replace("postgresql://postgres@", f"postgresql://{role}@")
    code, output = shop.run("adopt", "--database-url", url)
    assert (code, output.splitlines()[-1]) == (0, "left out: orders, because the role may not read it")
    assert shop.resources() == ["customers"]
    await execute(shop.url, f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_tables_with_policies_have_no_stream(project: Make) -> None:
    """It would show all rows; the same is true if the callers have roles of their own."""
    shop = await project(SHOP + "ALTER TABLE orders ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    role = f"{urlsplit(shop.url).path[1:]}_owner"
    await execute(
        shop.url, f"CREATE ROLE {role} LOGIN; GRANT CREATE ON SCHEMA public TO {role}; ALTER TABLE orders OWNER TO {role};"
        f"ALTER TABLE customers OWNER TO {role}"
    )  # fmt: skip
    url = shop.url.replace("postgresql://postgres@", f"postgresql://{role}@")
    assert shop.run("adopt", "--database-url", url)[0] == 0
    assert "stream_enabled: false" in shop.resource("orders")
    assert "stream_enabled" not in shop.resource("customers")
    (shop.directory / "config" / "service.yaml").write_text(f"database: {{default_role: {role}}}")
    for name in shop.resources():
        (shop.directory / "config" / "resources" / f"{name}.yaml").unlink()
    assert shop.run("adopt")[0] == 0
    assert "stream_enabled: false" in shop.resource("customers")
    assert shop.run("check")[0] == 0
    await execute(shop.url, f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_a_database_without_tables_is_an_error(project: Make) -> None:
    """It may be another one than the user means, or the tables are in other schemas."""
    shop = await project("SELECT")
    assert shop.run("adopt") == (1, "the database has no tables")
    await execute(shop.url, 'CREATE SCHEMA "Sales"; CREATE TABLE "Sales".orders (id serial PRIMARY KEY)')
    assert shop.run("adopt") == (
        1, "no table is in a schema of the search path; name one with --schema (schemas with tables: Sales (1))",
    )  # fmt: skip


async def test_a_thousand_tables_take_seconds(project: Make) -> None:
    """The catalog is read in a few statements, whatever its size."""
    shop = await project("SELECT")
    columns = ", ".join(f"column_{number} varchar(100)" for number in range(10))
    connection = await asyncpg.connect(shop.url)
    for hundred in range(10):
        await connection.execute(
            "".join(
                f"CREATE TABLE thing_{number} (id integer PRIMARY KEY, {columns}, parent_id integer REFERENCES thing_0);"
                if number
                else f"CREATE TABLE thing_0 (id integer PRIMARY KEY, {columns});"
                for number in range(100 * hundred, 100 * hundred + 100)
            )
        )
    await connection.close()
    begin = time.monotonic()
    code, _ = await asyncio.to_thread(shop.run, "adopt")
    assert code == 0
    assert time.monotonic() - begin < 10
    assert len(shop.resources()) == 1000
