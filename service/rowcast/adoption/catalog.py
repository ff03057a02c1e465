"""What a database has: its tables and views, with columns, constraints and indexes, in five statements of any size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rowcast.database.connection import Connection
from rowcast.resources.sql import SCHEMA, quote_identifier

# Partitions are part of their table, and tables of extensions are not the owner's.
_TABLES_SQL: Final = """
SELECT pg_class.oid, nspname AS schema, relname AS name, relkind::text AS kind, pg_table_is_visible(pg_class.oid) AS visible,
    has_table_privilege(pg_class.oid, 'SELECT') AND has_schema_privilege(relnamespace, 'USAGE') AS readable,
    row_security_active(pg_class.oid) AS guarded, obj_description(pg_class.oid, 'pg_class') AS comment,
    (SELECT min(inhparent::regclass::text) FROM pg_inherits WHERE inhrelid = pg_class.oid) AS parent,
    ARRAY(SELECT DISTINCT refobjid FROM pg_rewrite JOIN pg_depend ON classid = 'pg_rewrite'::regclass AND objid = pg_rewrite.oid
          WHERE ev_class = pg_class.oid AND refclassid = 'pg_class'::regclass AND refobjid <> pg_class.oid
          AND relkind IN ('v', 'm')) AS reads
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = ANY (coalesce($1::text[], current_schemas(false)::text[])) AND nspname <> $2
    AND relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT relispartition
    AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e')
ORDER BY nspname, relname
"""
_SCHEMAS_SQL: Final = """
SELECT nspname, count(*)::integer FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind IN ('r', 'p', 'v', 'm') AND NOT relispartition AND nspname <> $1 AND nspname <> 'information_schema'
    AND nspname NOT LIKE 'pg\\_%'
GROUP BY 1 ORDER BY 1
"""
_COLUMNS_SQL: Final = """
WITH RECURSIVE step (domain, type, modifier, needed) AS (
    SELECT oid, typbasetype, typtypmod, typnotnull FROM pg_type WHERE typtype = 'd'
    UNION ALL
    SELECT domain, typbasetype, typtypmod, needed OR typnotnull FROM step JOIN pg_type ON oid = type AND typtype = 'd'
), based AS (
    SELECT step.* FROM step JOIN pg_type ON oid = type WHERE typtype <> 'd'
), labels AS (
    SELECT enumtypid AS type, array_agg(enumlabel::text ORDER BY enumsortorder) AS labels FROM pg_enum GROUP BY 1
)
SELECT attrelid, attname, format_type(atttypid, atttypmod) AS type,
    format_type(base.oid, coalesce(based.modifier, atttypmod)) AS base,
    CASE WHEN base.typcategory = 'A' AND base.typelem <> 0
         THEN format_type(base.typelem, coalesce(based.modifier, atttypmod)) END AS element,
    coalesce(own.labels, items.labels, '{}') AS labels,
    attnotnull OR coalesce(needed, false) AS needed, pg_get_expr(adbin, adrelid) AS default,
    attidentity::text AS identity, attgenerated::text AS generated, col_description(attrelid, attnum) AS comment
FROM pg_attribute
JOIN pg_type AS declared ON declared.oid = atttypid
LEFT JOIN based ON domain = atttypid
JOIN pg_type AS base ON base.oid = coalesce(based.type, atttypid)
LEFT JOIN labels AS own ON own.type = base.oid
LEFT JOIN labels AS items ON items.type = base.typelem AND base.typcategory = 'A'
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE attrelid = ANY ($1::oid[]) AND attnum > 0 AND NOT attisdropped
ORDER BY attrelid, attnum
"""
_CONSTRAINTS_SQL: Final = """
SELECT conrelid, contype::text AS kind, confrelid, confdeltype::text AS action,
    ARRAY(SELECT attname::text FROM unnest(conkey) WITH ORDINALITY AS key (number, place)
          JOIN pg_attribute ON attrelid = conrelid AND attnum = number ORDER BY place) AS columns,
    ARRAY(SELECT attname::text FROM unnest(confkey) WITH ORDINALITY AS key (number, place)
          JOIN pg_attribute ON attrelid = confrelid AND attnum = number ORDER BY place) AS target_columns,
    pg_get_expr(conbin, conrelid) AS expr, pg_get_constraintdef(oid) AS definition
FROM pg_constraint WHERE conrelid = ANY ($1::oid[]) AND contype IN ('p', 'f', 'c', 'x')
ORDER BY conrelid, conname
"""
# An expression among the columns of an index is an empty name. Operator classes tell trigrams from other GIN indexes.
_INDEXES_SQL: Final = """
SELECT indrelid, indisunique AS unique, amname AS method, pg_get_expr(indpred, indrelid) AS where,
    to_jsonb(pg_index) @> '{"indnullsnotdistinct": true}' AS nulls_equal,
    ARRAY(SELECT pg_get_indexdef(indexrelid, place, false) FROM generate_series(1, indnkeyatts::integer) AS place) AS terms,
    substring(pg_get_indexdef(indexrelid) FROM ' (USING .*)$') AS definition,
    ARRAY(SELECT coalesce(attname::text, '') FROM unnest(indkey::smallint[]) WITH ORDINALITY AS key (number, place)
          LEFT JOIN pg_attribute ON attrelid = indrelid AND attnum = number AND number > 0
          WHERE place <= indnkeyatts ORDER BY place) AS columns,
    ARRAY(SELECT opcname::text FROM unnest(indclass::oid[]) WITH ORDINALITY AS class (number, place)
          JOIN pg_opclass ON pg_opclass.oid = number ORDER BY place) AS classes
FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam
WHERE indrelid = ANY ($1::oid[]) AND indisvalid
ORDER BY indrelid, pg_class.relname
"""
_VIEW_KINDS: Final = ("v", "m", "f")


@dataclass(frozen=True, slots=True)
class Column:
    """A column. ``type`` and ``base`` are as PostgreSQL prints them; they differ for a domain, whose base type is ``base``.

    ``element`` is the type of an array's items, ``labels`` the values of an enum or of an array of enums.
    """

    name: str
    type: str
    base: str
    element: str | None = None
    labels: tuple[str, ...] = ()
    needed: bool = False  # NOT NULL
    default: str | None = None
    identity: str = ""  # a: GENERATED ALWAYS, d: BY DEFAULT
    generated: bool = False
    comment: str | None = None

    @property
    def filled(self) -> bool:
        """Whether the database gives a new row a value if an INSERT has none."""
        return self.default is not None or bool(self.identity)


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key. ``action`` is the letter that the catalog has for ON DELETE."""

    columns: tuple[str, ...]
    target: int  # OID
    target_columns: tuple[str, ...]
    action: str


@dataclass(frozen=True, slots=True)
class Index:
    """A valid index. An expression has an empty name among the columns."""

    columns: tuple[str, ...]
    unique: bool = False
    where: str | None = None  # the condition of an index over some of the rows
    method: str = "btree"
    classes: tuple[str, ...] = ()
    terms: tuple[str, ...] = ()  # the columns and expressions as SQL
    nulls_equal: bool = False
    definition: str = ""  # what stands after the name of the table in ``CREATE INDEX``

    @property
    def partial(self) -> bool:
        """Whether it is over some of the rows."""
        return self.where is not None

    @property
    def plain(self) -> bool:
        """Whether it is over all rows and over columns alone."""
        return not self.partial and "" not in self.columns


@dataclass(frozen=True, slots=True)
class Check:
    """A check constraint: the columns that it is about, its condition, and the whole constraint as SQL."""

    columns: tuple[str, ...]
    expr: str
    definition: str


@dataclass(slots=True)
class Table:
    """A table or a view. ``reads`` are the OIDs of what a view is made of.

    ``visible`` says that its name is found without the schema, ``readable`` that the role may read it, and
    ``guarded`` that row-level security applies to the role. ``parent`` is the table that it inherits from.
    """

    oid: int
    schema: str
    name: str
    kind: str = "r"  # as in pg_class
    visible: bool = True
    readable: bool = True
    guarded: bool = False
    parent: str | None = None
    comment: str | None = None
    reads: tuple[int, ...] = ()
    columns: dict[str, Column] = field(default_factory=dict)
    key: tuple[str, ...] = ()
    references: list[Reference] = field(default_factory=list)
    indexes: list[Index] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    exclusions: list[str] = field(default_factory=list)  # exclusion constraints as SQL

    def __str__(self) -> str:
        return self.name if self.visible else f"{self.schema}.{self.name}"

    @property
    def is_view(self) -> bool:
        """Whether rows are read and never written."""
        return self.kind in _VIEW_KINDS

    @property
    def unique(self) -> list[tuple[str, ...]]:
        """The columns of its unique rules, of any name, apart from the key."""
        rules = {
            index.columns
            for index in self.indexes
            if index.unique
            and index.plain
            and not (index.nulls_equal and any(not self.columns[name].needed for name in index.columns))
        }
        return sorted(columns for columns in rules if set(columns) != set(self.key))


@dataclass(frozen=True, slots=True)
class Database:
    """The tables of some schemas by OID, the apps of Django in it, and how many tables each schema of it has."""

    tables: Mapping[int, Table]
    apps: tuple[str, ...] = ()
    schemas: Mapping[str, int] = field(default_factory=dict)


async def read_database(connection: Connection, schemas: Sequence[str] | None) -> Database:
    """Read the catalog. Without ``schemas`` these are the schemas in which names without a schema are looked up."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        tables = {
            row["oid"]: Table(**{**row, "reads": tuple(row["reads"])})
            for row in await connection.fetch(_TABLES_SQL, None if schemas is None else list(schemas), SCHEMA)
        }
        known = list(tables)
        for row in await connection.fetch(_COLUMNS_SQL, known):
            tables[row["attrelid"]].columns[row["attname"]] = _column(row)
        for row in await connection.fetch(_CONSTRAINTS_SQL, known):
            table = tables[row["conrelid"]]
            if row["kind"] == "p":
                table.key = tuple(row["columns"])
            elif row["kind"] == "c":
                table.checks.append(Check(tuple(row["columns"]), row["expr"], row["definition"]))
            elif row["kind"] == "x":
                table.exclusions.append(row["definition"])
            else:
                reference = Reference(
                    tuple(row["columns"]), row["confrelid"], tuple(row["target_columns"]), row["action"]
                )
                table.references.append(reference)
        for row in await connection.fetch(_INDEXES_SQL, known):
            index = Index(
                tuple(row["columns"]), row["unique"], row["where"], row["method"], tuple(row["classes"]),
                tuple(row["terms"]), row["nulls_equal"], row["definition"],
            )  # fmt: skip
            tables[row["indrelid"]].indexes.append(index)
        counts = {row[0]: row[1] for row in await connection.fetch(_SCHEMAS_SQL, SCHEMA)}
        return Database(tables, await _django_apps(connection, tables.values()), counts)


async def has_duplicates(connection: Connection, table: Table, columns: Sequence[str], rows: int) -> bool:
    """Whether two of the first rows of a view have the same values in some columns, or one of them has a null."""
    names = ", ".join(map(quote_identifier, columns))
    source = f"{quote_identifier(table.schema)}.{quote_identifier(table.name)}"
    some_null = " OR ".join(f"{quote_identifier(name)} IS NULL" for name in columns)
    return bool(
        await connection.fetchval(
            f"WITH sample AS MATERIALIZED (SELECT {names} FROM {source} LIMIT {rows}) "
            f"SELECT EXISTS (SELECT FROM sample WHERE {some_null}) "
            f"OR EXISTS (SELECT FROM sample GROUP BY {names} HAVING count(*) > 1)"
        )
    )


def _column(row: Any) -> Column:
    return Column(
        row["attname"],
        row["type"],
        row["base"],
        element=row["element"],
        labels=tuple(row["labels"]),
        needed=row["needed"],
        default=None if row["generated"] else row["default"],
        identity=row["identity"],
        generated=bool(row["generated"]),
        comment=row["comment"],
    )


async def _django_apps(connection: Connection, tables: Iterable[Table]) -> tuple[str, ...]:
    """The apps whose migrations Django has applied; they are the first part of its tables' names."""
    for table in tables:
        if table.name == "django_migrations" and "app" in table.columns:
            source = f"{quote_identifier(table.schema)}.{quote_identifier(table.name)}"
            if table.readable:
                apps = [row[0] for row in await connection.fetch(f"SELECT DISTINCT app FROM {source}")]
                return tuple(sorted({*apps, "auth", "django"}))
    return ()
