"""What exists in the database and what the config declares, both as PostgreSQL's catalog prints it.

A type, a default or a check constraint can be written in many ways. So the declared tables are created once more as
temporary ones, in a savepoint that is rolled back, and both sides are read from the catalog.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import asyncpg
import sqlalchemy as sa
from sqlalchemy.schema import CreateTable

from rowcast import __version__
from rowcast.migrations.values import VERSION_TABLE, Connection
from rowcast.resources.sql import DIALECT, SCHEMA, quote_identifier
from rowcast.resources.tables import Tables

CATALOG_SQL: Final = """
WITH relation AS (
    SELECT name, to_regclass($2 || quote_ident(name)) AS oid FROM unnest($1::text[]) AS name
)
SELECT 'table' AS kind, relation.name AS table, '' AS name,
       relkind::text AS type, NULL AS definition, obj_description(relation.oid, 'pg_class') AS extra,
       '{}'::text[] AS columns
FROM relation JOIN pg_class ON pg_class.oid = relation.oid
UNION ALL
SELECT 'column', relation.name, attname,
       format_type(atttypid, atttypmod), pg_get_expr(adbin, adrelid),
       concat_ws('|', attnotnull, attidentity, attgenerated, col_description(attrelid, attnum)),
       ARRAY[attname::text]
FROM relation
JOIN pg_attribute ON attrelid = relation.oid AND attnum > 0 AND NOT attisdropped
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
UNION ALL
SELECT 'constraint', relation.name, conname,
       contype::text, pg_get_constraintdef(pg_constraint.oid), pg_get_expr(conbin, conrelid),
       ARRAY(SELECT attname::text FROM unnest(conkey) AS key JOIN pg_attribute ON attrelid = conrelid AND attnum = key)
FROM relation JOIN pg_constraint ON conrelid = relation.oid
UNION ALL
SELECT 'index', relation.name, indexrelid::regclass::text, indisvalid::text, pg_get_indexdef(indexrelid), NULL, '{}'
FROM relation JOIN pg_index ON indrelid = relation.oid
ORDER BY 1, 2, 3
"""

Catalog: TypeAlias = "list[asyncpg.Record]"
_Rows: TypeAlias = "dict[tuple[str, str], asyncpg.Record]"


@dataclass(frozen=True, slots=True)
class Definitions:
    """One side of the comparison: the columns and checks of tables, by table and name, as PostgreSQL prints them."""

    columns: _Rows
    checks: _Rows

    @classmethod
    def of(cls, catalog: Catalog) -> Definitions:
        def of_kind(kind: str) -> _Rows:
            return {(row["table"], row["name"]): row for row in catalog if row["kind"] == kind}

        checks = {name: row for name, row in of_kind("constraint").items() if row["type"] == "c"}
        return cls(of_kind("column"), checks)

    def where_equal(self, found: Definitions, other: Definitions) -> Definitions:
        """These definitions, with those of ``other`` where they are spelled like the ones in the database."""

        def choose(mine: _Rows, theirs: _Rows, wanted: _Rows) -> _Rows:
            equal = {n for n in theirs.keys() & wanted.keys() if theirs[n]["definition"] == wanted[n]["definition"]}
            return {name: theirs[name] if name in equal else row for name, row in mine.items()}

        return Definitions(
            choose(self.columns, other.columns, found.columns), choose(self.checks, other.checks, found.checks)
        )

    def has_identity(self, column: tuple[str, str]) -> bool:
        """Whether the database generates the column's values, as an identity or a serial column."""
        return self._is_identity(column) or (self.columns[column]["definition"] or "").startswith("nextval(")

    def fills(self, column: tuple[str, str]) -> bool:
        """Whether the database gives the column a value of its own choice, by whatever default."""
        return self._is_identity(column) or self.columns[column]["definition"] is not None

    def _is_identity(self, column: tuple[str, str]) -> bool:
        _, identity, *_ = self.columns[column]["extra"].split("|")
        return bool(identity)


async def read_catalog(connection: Connection, tables: Tables, schema: str = "") -> Catalog:
    """The catalog's rows for those declared tables that exist, in a form that is the same in every database."""
    catalog: Catalog = await connection.fetch(CATALOG_SQL, list(tables.metadata.tables), schema)
    return catalog


def digest(tables: Tables, catalog: Catalog) -> str:
    """A digest of the declared tables and the existing ones."""
    declared: list[str] = []

    def record(ddl: sa.schema.ExecutableDDLElement, *_: object) -> None:
        declared.append(str(ddl.compile(dialect=DIALECT)))

    tables.metadata.create_all(sa.create_mock_engine("postgresql+asyncpg://", record), checkfirst=False)
    declared.sort()  # SQLAlchemy keeps the indexes of a table in a set, so their order differs between two starts
    lines = [__version__, *(repr(tuple(row)) for row in catalog), *declared]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


async def is_in_line(connection: Connection, tables: Tables) -> bool:
    """Whether an earlier comparison of these tables with this state of the database found no difference."""
    compared: str | None = await connection.fetchval(
        "SELECT obj_description(to_regclass($1), 'pg_class')", f"{SCHEMA}.{VERSION_TABLE}"
    )
    return bool(compared) and compared == digest(tables, await read_catalog(connection, tables))


async def read_definitions(connection: Connection, tables: Tables) -> tuple[Definitions, Definitions]:
    """The definitions in the database, and those of the config for the tables that exist."""
    catalog = await read_catalog(connection, tables)
    existing = {row["table"] for row in catalog}
    script = [STAND_IN_SQL] + [
        str(CreateTable(table.to_metadata(sa.MetaData(), schema="pg_temp"), []).compile(dialect=DIALECT))
        for table in tables.metadata.tables.values()
        if table.name in existing
    ]
    savepoint = connection.transaction()
    await savepoint.start()
    try:
        await connection.execute(";".join(script))
        found, declared = Definitions.of(catalog), Definitions.of(await read_catalog(connection, tables, "pg_temp."))
        if respelled := list(_respelled(found, declared)):
            await connection.execute(";".join(respelled))
            declared = declared.where_equal(found, Definitions.of(await read_catalog(connection, tables, "pg_temp.")))
    finally:
        await savepoint.rollback()
    return found, declared


def _respelled(found: Definitions, declared: Definitions) -> Iterator[str]:
    """DDL that creates again each declared default and check that seems to differ, from PostgreSQL's own spelling.

    PostgreSQL does not always print an expression that it has read back as it printed it before. An expression that
    went through ``pg_dump`` is therefore spelled as it is after being printed and read twice.
    """
    for (table, name), row in declared.columns.items():
        here = found.columns.get((table, name))
        if here is not None and row["definition"] not in (None, here["definition"]):
            yield f"ALTER TABLE pg_temp.{quote_identifier(table)} ALTER {quote_identifier(name)} SET DEFAULT {row['definition']}"
    for (table, name), row in declared.checks.items():
        here = found.checks.get((table, name))
        if here is not None and row["definition"] != here["definition"]:
            rule, definition = quote_identifier(name), row["definition"]
            yield f"ALTER TABLE pg_temp.{quote_identifier(table)} DROP CONSTRAINT {rule}, ADD CONSTRAINT {rule} {definition}"


# A default may call this function, and the tables may be older than the service.
STAND_IN_SQL: Final = f"""
DO $$ BEGIN
    IF to_regnamespace('{SCHEMA}') IS NULL THEN
        CREATE SCHEMA {SCHEMA};
        CREATE FUNCTION {SCHEMA}.uuid7() RETURNS uuid LANGUAGE sql AS 'SELECT gen_random_uuid()';
    END IF;
END $$
"""
