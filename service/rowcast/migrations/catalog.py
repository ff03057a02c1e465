"""What exists in the database and what the config declares, both as PostgreSQL's catalog prints it.

A type, a default or a check constraint can be written in many ways. So the declared tables are created once more as
temporary ones, in a savepoint that is rolled back, and both sides are read from the catalog.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import asyncpg
import sqlalchemy as sa
from sqlalchemy.schema import CreateTable

from rowcast import __version__
from rowcast.migrations.compatibility import serves
from rowcast.migrations.values import VERSION_TABLE, Connection
from rowcast.resources.exchanged import Exchanged, Native
from rowcast.resources.rule_indexes import RuleIndex, rule_indexes
from rowcast.resources.sql import DIALECT, SCHEMA, cut_identifier, quote_identifier, quote_table
from rowcast.resources.tables import IMPLIED_LIMIT, RULE, Tables, is_managed

CATALOG_SQL: Final = """
WITH relation AS (
    SELECT name, to_regclass(quoted) AS oid FROM unnest($1::text[], $2::text[]) AS given (name, quoted)
)
SELECT 'table' AS kind, relation.name AS table, '' AS name,
       relkind::text AS type, NULL AS definition, obj_description(relation.oid, 'pg_class') AS extra,
       '{}'::text[] AS columns, NULL AS base, NULL::text[] AS labels
FROM relation JOIN pg_class ON pg_class.oid = relation.oid
UNION ALL
SELECT 'column', relation.name, attname,
       format_type(atttypid, atttypmod), pg_get_expr(adbin, adrelid),
       concat_ws('|', attnotnull, attidentity, attgenerated, col_description(attrelid, attnum)),
       ARRAY[attname::text],
       base, (SELECT array_agg(enumlabel::text ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = item)
FROM relation
JOIN pg_attribute ON attrelid = relation.oid AND attnum > 0 AND NOT attisdropped
CROSS JOIN LATERAL (
    WITH RECURSIVE item (type, modifier, dimension) AS (
        VALUES (atttypid, atttypmod, '')
        UNION ALL
        SELECT CASE typtype WHEN 'd' THEN typbasetype ELSE typelem END,
               CASE typtype WHEN 'd' THEN typtypmod ELSE modifier END,
               CASE typtype WHEN 'd' THEN dimension ELSE '[]' END
        FROM item JOIN pg_type ON oid = type WHERE typtype = 'd' OR typcategory = 'A'
    )
    SELECT format_type(type, modifier) || dimension AS base, type AS item
    FROM item JOIN pg_type ON oid = type WHERE typtype <> 'd' AND typcategory <> 'A'
) AS found
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
UNION ALL
SELECT 'constraint', relation.name, conname,
       contype::text, pg_get_constraintdef(pg_constraint.oid),
       coalesce(pg_get_expr(conbin, conrelid), concat_ws('|', confdeltype, coalesce(
           (SELECT min(target.name) FROM relation AS target WHERE target.oid = confrelid),
           (SELECT relname FROM pg_class WHERE oid = confrelid)
       ))),
       ARRAY(SELECT attname::text FROM unnest(conkey) AS key JOIN pg_attribute ON attrelid = conrelid AND attnum = key),
       (SELECT string_agg(attname, ',' ORDER BY place)
        FROM unnest(confkey) WITH ORDINALITY AS key (key, place) JOIN pg_attribute ON attrelid = confrelid AND attnum = key),
       NULL
FROM relation JOIN pg_constraint ON conrelid = relation.oid
UNION ALL
SELECT 'index', relation.name, pg_class.relname, (indisvalid AND indpred IS NULL AND indexprs IS NULL)::text,
       pg_get_indexdef(indexrelid), concat_ws('|', indisunique, amname, indoption::text),
       ARRAY(SELECT attname::text
             FROM unnest(indkey::smallint[]) WITH ORDINALITY AS key (key, place)
             JOIN pg_attribute ON attrelid = indrelid AND attnum = key
             WHERE place <= indnkeyatts ORDER BY place),
       NULL, NULL
FROM relation JOIN pg_index ON indrelid = relation.oid
JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam
UNION ALL
SELECT 'rule index', relation.name, pg_class.relname, indisunique::text,
       substring(pg_get_indexdef(indexrelid) FROM ' (USING .*)$'), pg_get_expr(indpred, indrelid),
       ARRAY(SELECT DISTINCT attname::text FROM pg_depend JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
             WHERE classid = 'pg_class'::regclass AND objid = indexrelid AND refobjid = indrelid),
       NULL, ARRAY(SELECT pg_get_indexdef(indexrelid, place, true) FROM generate_series(1, indnkeyatts::integer) AS place)
FROM relation JOIN pg_index ON indrelid = relation.oid
JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam
WHERE indisvalid AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
    AND (indpred IS NOT NULL OR indexprs IS NOT NULL OR amname = 'gin' OR to_jsonb(pg_index) @> '{"indnullsnotdistinct": true}')
ORDER BY 1, 2, 3
"""

SET_EXPRESSION_VERSION: Final = 17  # of PostgreSQL, which can change the expression of a column in place

Catalog: TypeAlias = "list[asyncpg.Record]"
_Rows: TypeAlias = "dict[tuple[str, str], asyncpg.Record]"


@dataclass(frozen=True, slots=True)
class Definitions:
    """One side of the comparison: the parts of tables, by table and name, as PostgreSQL prints them."""

    columns: _Rows
    checks: _Rows
    primary_keys: _Rows
    foreign_keys: _Rows
    indexes: _Rows
    rule_indexes: _Rows  # over expressions, over some of the rows, or with a meaning of their own for nulls

    @classmethod
    def of(cls, catalog: Catalog) -> Definitions:
        def of_kind(kind: str) -> _Rows:
            return {(row["table"], row["name"]): row for row in catalog if row["kind"] == kind}

        def of_type(type_: str) -> _Rows:
            return {name: row for name, row in of_kind("constraint").items() if row["type"] == type_}

        return cls(of_kind("column"), of_type("c"), of_type("p"), of_type("f"), of_kind("index"), of_kind("rule index"))

    def where_equal(self, found: Definitions, other: Definitions) -> Definitions:
        """These definitions, with those of ``other`` where the database has them in that spelling."""

        columns, checks = found.columns, found.checks_of_tables()
        defaults = {
            n for n in other.columns if n in columns and other.columns[n]["definition"] == columns[n]["definition"]
        }
        rules = {n for n, row in other.checks.items() if row["definition"] in checks.get(n[0], ())}
        indexed = found.rule_indexes_of_tables()
        indexes = {
            n for n, row in other.rule_indexes.items() if (row["type"], row["definition"]) in indexed.get(n[0], ())
        }
        return replace(
            self,
            columns={name: other.columns[name] if name in defaults else row for name, row in self.columns.items()},
            checks={name: other.checks[name] if name in rules else row for name, row in self.checks.items()},
            rule_indexes={
                name: other.rule_indexes[name] if name in indexes else row for name, row in self.rule_indexes.items()
            },
        )

    def columns_of_rule(self, table: str, name: str) -> list[str]:
        """The columns that a constraint or index is about; empty for one over expressions alone."""
        for rows in (self.checks, self.foreign_keys, self.rule_indexes, self.indexes):
            if (table, name) in rows:
                columns: list[str] = rows[table, name]["columns"]
                return columns
        return []

    def checks_of_tables(self) -> dict[str, set[str]]:
        """The definitions of the checks of each table."""
        definitions: dict[str, set[str]] = {}
        for (table, _), row in self.checks.items():
            definitions.setdefault(table, set()).add(row["definition"])
        return definitions

    def rule_indexes_of_tables(self) -> dict[str, set[tuple[str, str]]]:
        """Whether each index over expressions or some of the rows of a table is unique, and its definition."""
        definitions: dict[str, set[tuple[str, str]]] = {}
        for (table, _), row in self.rule_indexes.items():
            definitions.setdefault(table, set()).add((row["type"], row["definition"]))
        return definitions

    def is_own(self, table: sa.Table) -> bool:
        """Whether Rowcast has made a table: its primary key has the name that Rowcast gives."""
        return is_managed(table) and (table.key, str(table.primary_key.name)) in self.primary_keys

    def has_identity(self, column: tuple[str, str]) -> bool:
        """Whether the database generates the column's values, as an identity or a serial column."""
        return self._is_identity(column) or (self.columns[column]["definition"] or "").startswith("nextval(")

    def fills(self, column: tuple[str, str]) -> bool:
        """Whether the database gives the column a value of its own choice, by whatever default."""
        return self._is_identity(column) or self.columns[column]["definition"] is not None

    def is_generated(self, column: tuple[str, str]) -> bool:
        """Whether the database computes the column's values from other columns."""
        _, _, generated, *_ = self.columns[column]["extra"].split("|")
        return bool(generated)

    def has_zone(self, column: tuple[str, str]) -> bool:
        """Whether a column is a ``timestamp with time zone``."""
        type_: str = self.columns[column]["base"] if column in self.columns else ""
        return type_.startswith("timestamp") and type_.endswith(" with time zone")

    def labels(self, column: tuple[str, str]) -> list[str] | None:
        """The values of a column that is an enum, or of the items of its array; ``None`` for any other type."""
        labels: list[str] | None = self.columns[column]["labels"]
        return labels

    def _is_identity(self, column: tuple[str, str]) -> bool:
        _, identity, *_ = self.columns[column]["extra"].split("|")
        return bool(identity)


async def read_catalog(
    connection: Connection, declared: sa.MetaData, relation: Callable[[str], str] = quote_table
) -> Catalog:
    """The catalog's rows for those declared tables that exist, in a form that is the same in every database.

    ``relation`` is the quoted name of what is read in the place of a table.
    """
    names = list(declared.tables)
    catalog: Catalog = await connection.fetch(CATALOG_SQL, names, list(map(relation, names)))
    return catalog


def temporary(table: str) -> str:
    """The quoted name of the temporary table that stands for a declared one."""
    return f"pg_temp.{quote_identifier(cut_identifier(table))}"


async def digest(connection: Connection, tables: Tables) -> str:
    """A digest of the declared tables and views and the existing ones."""
    catalog = [*await read_catalog(connection, tables.metadata), *await read_catalog(connection, tables.views)]
    declared: list[str] = []

    def record(ddl: sa.schema.ExecutableDDLElement, *_: object) -> None:
        declared.append(str(ddl.compile(dialect=DIALECT)))

    for metadata in (tables.metadata, tables.views):
        metadata.create_all(sa.create_mock_engine("postgresql+asyncpg://", record), checkfirst=False)
    declared.sort()  # SQLAlchemy keeps the indexes of a table in a set, so their order differs between two starts
    lines = [__version__, *(repr(tuple(row)) for row in catalog), *declared]
    lines += [
        f"{index.name} on {name} {index}"
        for name, table in tables.metadata.tables.items()
        for index in rule_indexes(table)
    ]
    lines += [f"unmanaged {name}" for name, table in tables.metadata.tables.items() if not is_managed(table)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


async def is_in_line(connection: Connection, tables: Tables) -> bool:
    """Whether an earlier comparison of these tables with this state of the database found no difference."""
    compared: str | None = await connection.fetchval(
        "SELECT obj_description(to_regclass($1), 'pg_class')", f"{SCHEMA}.{VERSION_TABLE}"
    )
    return bool(compared) and compared == await digest(connection, tables)


async def read_definitions(connection: Connection, tables: Tables) -> tuple[Definitions, Definitions]:
    """The definitions in the database, and those of the config for the tables that exist."""
    catalog = await read_catalog(connection, tables.metadata)
    existing = {row["table"] for row in catalog}
    found = Definitions.of(catalog)
    present = [table for table in tables.metadata.tables.values() if table.key in existing]
    script = [STAND_IN_SQL] + [_stand_in(table, {}) for table in present]
    rules = [_index_stand_in(table, index) for table in present for index in rule_indexes(table)]
    savepoint = connection.transaction()
    await savepoint.start()
    try:
        await connection.execute(";".join(script))
        declared = Definitions.of(await read_catalog(connection, tables.metadata, temporary))
        if served := {table: types for table in present if (types := _served(table, found, declared))}:
            script = [f"DROP TABLE {temporary(table.key)}" for table in served]
            script += [_stand_in(table, types) for table, types in served.items()]
            await connection.execute(";".join(script))
            declared = Definitions.of(await read_catalog(connection, tables.metadata, temporary))
        if rules:
            await connection.execute(";".join(rules))
            catalog = await read_catalog(connection, tables.metadata, temporary)
            declared = replace(declared, rule_indexes=Definitions.of(catalog).rule_indexes)
        if respelled := list(_respelled(found, declared, connection.get_server_version().major)):
            await connection.execute(";".join(respelled))
            declared = declared.where_equal(
                found, Definitions.of(await read_catalog(connection, tables.metadata, temporary))
            )
    finally:
        await savepoint.rollback()
    return found, declared


async def columns_as_declared(connection: Connection, declared: Sequence[sa.Table]) -> _Rows:
    """The columns of tables as the catalog prints them once they are made."""
    made = sa.MetaData()
    for table in declared:
        table.to_metadata(made)
    savepoint = connection.transaction()
    await savepoint.start()
    try:
        await connection.execute(";".join([STAND_IN_SQL, *(_stand_in(table, {}) for table in declared)]))
        return Definitions.of(await read_catalog(connection, made, temporary)).columns
    finally:
        await savepoint.rollback()


async def missing_types(connection: Connection, tables: Tables) -> list[str]:
    """A sentence about each column whose type the database does not have; without its type nothing can be compared."""
    types = {
        f"{table.key}.{column.name}": column.type.printed
        for table in tables.metadata.tables.values()
        for column in table.c
        if isinstance(column.type, Native) or type(column.type) is Exchanged
    }
    if not types:
        return []
    sql = "SELECT type FROM unnest($1::text[]) AS type WHERE to_regtype(type) IS NULL"
    missing = {row["type"] for row in await connection.fetch(sql, list(set(types.values())))}
    return [
        f"{column}: this database has no type {type_}; {_advice(type_)}"
        for column, type_ in types.items()
        if type_ in missing
    ]


def _advice(type_: str) -> str:
    if type_.lower() in _EXTENSIONS:
        return f"run `CREATE EXTENSION {_EXTENSIONS[type_.lower()]}`"
    return "correct `as`, or create the type first"


_EXTENSIONS: Final = {
    **{name: name for name in ("citext", "hstore", "ltree", "cube", "vector")},
    **dict.fromkeys(("geometry", "geography"), "postgis"),
}


class _ExistingType(sa.types.UserDefinedType[object]):
    """A type of an existing column, as PostgreSQL prints it."""

    def __init__(self, printed: str) -> None:
        self.printed = printed

    def get_col_spec(self, **_: object) -> str:
        return self.printed


def _served(table: sa.Table, found: Definitions, declared: Definitions) -> dict[str, asyncpg.Record]:
    """The existing columns whose type is not the declared one and serves as well."""
    own = found.is_own(table)
    existing = {name: row for (owner, name), row in found.columns.items() if owner == table.key and name in table.c}
    return {
        name: row
        for name, row in existing.items()
        if row["type"] != (wanted := declared.columns[table.key, name]["type"])
        and serves(
            row["base"], wanted, own=own, implied=IMPLIED_LIMIT in table.c[name].info, enum=row["labels"] is not None
        )
    }


def _stand_in(table: sa.Table, served: Mapping[str, asyncpg.Record]) -> str:
    """DDL of a temporary table like the declared one, in which the ``served`` columns have the types that exist."""
    made = table.to_metadata(sa.MetaData(), schema="pg_temp", name=cut_identifier(table.key))
    for rule in made.constraints:
        if isinstance(rule, sa.PrimaryKeyConstraint | sa.UniqueConstraint):
            rule.name = None  # tables of two schemas may have rules of the same name
    enums = {name for name, row in served.items() if row["labels"] is not None}
    for rule in [rule for rule in made.constraints if isinstance(rule, sa.CheckConstraint)]:
        if rule.info[RULE][0] in enums:  # it is about strings
            made.constraints.remove(rule)
    for name, row in served.items():
        made.c[name].type = _ExistingType(row["type"])
        made.c[name].autoincrement = False  # SQLAlchemy takes only its own types for serial columns
        if row["type"] != row["base"]:  # a domain, which cannot be an identity
            made.c[name].identity = None
            made.c[name].server_default = None if table.c[name].identity else made.c[name].server_default
    return str(CreateTable(made, []).compile(dialect=DIALECT))


def index_stand_in_name(table: str, index: str) -> str:
    """The name of the index of a temporary table, where the tables of all schemas are in one."""
    return cut_identifier(f"{table}.{index}")


def _index_stand_in(table: sa.Table, index: RuleIndex) -> str:
    name = quote_identifier(index_stand_in_name(table.key, index.name))
    unique = "UNIQUE " if index.unique else ""
    return f"CREATE {unique}INDEX {name} ON {temporary(table.key)} {index.definition}"


def _respelled(found: Definitions, declared: Definitions, version: int) -> Iterator[str]:
    """DDL that creates again each declared expression that seems to differ, from PostgreSQL's own spelling.

    PostgreSQL does not always print an expression that it has read back as it printed it before. An expression that
    went through ``pg_dump`` is therefore spelled as it is after being printed and read twice.
    """
    for (table, name), row in declared.columns.items():
        here = found.columns.get((table, name))
        generated = bool(row["extra"].split("|")[2])
        if here is None or row["definition"] in (None, here["definition"]):
            continue
        alter = f"ALTER TABLE {temporary(table)} ALTER {quote_identifier(name)}"
        if not generated:
            yield f"{alter} SET DEFAULT {row['definition']}"
        elif version >= SET_EXPRESSION_VERSION:
            yield f"{alter} SET EXPRESSION AS ({row['definition']})"
    indexed = found.rule_indexes_of_tables()
    for (table, name), row in declared.rule_indexes.items():
        if (row["type"], row["definition"]) not in indexed.get(table, ()):
            index, unique = quote_identifier(name), "UNIQUE " if row["type"] == "true" else ""
            yield f"DROP INDEX pg_temp.{index}"
            yield f"CREATE {unique}INDEX {index} ON {temporary(table)} {row['definition']}"
    checks = found.checks_of_tables()
    for (table, name), row in declared.checks.items():
        if row["definition"] not in checks.get(table, {row["definition"]}):
            rule, definition = quote_identifier(name), row["definition"]
            yield f"ALTER TABLE {temporary(table)} DROP CONSTRAINT {rule}, ADD CONSTRAINT {rule} {definition}"


# A default may call this function, and the tables may be older than the service.
STAND_IN_SQL: Final = f"""
DO $$ BEGIN
    IF to_regnamespace('{SCHEMA}') IS NULL THEN
        CREATE SCHEMA {SCHEMA};
        CREATE FUNCTION {SCHEMA}.uuid7() RETURNS uuid LANGUAGE sql AS 'SELECT gen_random_uuid()';
    END IF;
END $$
"""
