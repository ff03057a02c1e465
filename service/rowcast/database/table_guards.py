"""Reads which fields the constraints guard that the owner of a table has made, under whatever names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import sqlalchemy as sa

from rowcast.resources.sql import quote_table
from rowcast.resources.tables import Guard, Tables

# An index over expressions depends on the columns in them.
_CONSTRAINTS_SQL: Final = """
SELECT given.name AS table, conname AS name, contype::text AS type,
    ARRAY(SELECT attname::text FROM unnest(conkey) AS key JOIN pg_attribute ON attrelid = conrelid AND attnum = key)
FROM unnest($1::text[]) AS given (name) JOIN pg_constraint ON conrelid = to_regclass(given.name)
WHERE contype IN ('c', 'f')
UNION ALL
SELECT given.name, relname, 'u', ARRAY(
    SELECT DISTINCT attname::text FROM pg_attribute
    WHERE attrelid = indrelid AND CASE
        WHEN indexprs IS NULL THEN attnum = ANY ((indkey::smallint[])[:indnkeyatts - 1])
        ELSE attnum IN (SELECT refobjsubid FROM pg_depend
                        WHERE classid = 'pg_class'::regclass AND objid = indexrelid AND refobjid = indrelid)
        END
)
FROM unnest($1::text[]) AS given (name) JOIN pg_index ON indrelid = to_regclass(given.name)
JOIN pg_class ON pg_class.oid = indexrelid
WHERE indisunique OR indisexclusion
"""
_RULES: Final = {"c": "check", "f": "foreign_key", "u": "unique"}

Fetch = Callable[[str, list[str]], Awaitable[list[Any]]]


async def read_guards(fetch: Fetch, tables: Tables) -> dict[str, Guard]:
    """The guards of constraints and unique indexes that the config does not declare, by ``table.name``.

    A rule that is the same as a declared one guards the same. ``fetch`` runs a statement with one argument, and returns
    its rows.
    """
    resources = {table.key: resource for resource, table in tables.of.items()}
    names = {quote_table(name): name for name in tables.metadata.tables}
    found: dict[str, Guard] = {}
    for quoted, name, type_, columns in await fetch(_CONSTRAINTS_SQL, list(names)):
        table = names[quoted]
        if tables.declared_guard(table, name) is not None:
            continue
        declared = tables.of[resources[table]] if table in resources else tables.metadata.tables[table]
        keys = {column.name: column.key for column in declared.c}
        fields = tuple(keys[column] for column in columns if column in keys)
        same = tables.declared_guard(table, _same_rule(tables.metadata.tables[table], type_, columns))
        if same is not None:
            found[f"{table}.{name}"] = same
        elif table in resources and fields and (len(fields) == 1 or type_ != "c"):
            found[f"{table}.{name}"] = Guard(resources[table], fields, _RULES[type_])
    return found


def _same_rule(table: sa.Table, type_: str, columns: list[str]) -> str:
    """The name of the declared key or unique rule over the same columns, if there is one."""
    for rule in table.constraints:
        match rule:
            case sa.ForeignKeyConstraint() if type_ == "f":
                declared = [column.name for column in rule.columns]
            case sa.UniqueConstraint() | sa.PrimaryKeyConstraint() if type_ == "u":
                declared = [column.name for column in rule.columns]
            case _:
                continue
        if sorted(declared) == sorted(columns):
            return str(rule.name)
    return ""
