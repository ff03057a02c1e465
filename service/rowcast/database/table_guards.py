"""Reads which fields the constraints guard that the owner of a table has made, under whatever names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa

from rowcast.database.check_sentences import sentence_of
from rowcast.resources.sql import quote_table
from rowcast.resources.tables import RULE, Guard, Tables, not_null_of

# An index over expressions depends on the columns in them. Errors name the partition, or the table below, that a row is in.
_CONSTRAINTS_SQL: Final = """
WITH RECURSIVE member (name, oid) AS (
    SELECT name, to_regclass(name)::oid FROM unnest($1::text[]) AS name
    UNION
    SELECT name, inhrelid FROM member JOIN pg_inherits ON inhparent = member.oid
), part AS (
    SELECT member.name, member.oid,
        CASE WHEN member.oid <> to_regclass(member.name) THEN nspname || '.' || relname END AS below
    FROM member JOIN pg_class USING (oid) JOIN pg_namespace ON pg_namespace.oid = relnamespace
)
SELECT part.name AS table, below, conname AS name, contype::text AS type,
    ARRAY(
        SELECT attname::text FROM pg_attribute
        WHERE attrelid = conrelid AND attnum = ANY (conkey) ORDER BY array_position(conkey, attnum)
    ),
    CASE contype WHEN 'c' THEN pg_get_expr(conbin, conrelid) END AS expression
FROM part JOIN pg_constraint ON conrelid = part.oid
WHERE contype IN ('c', 'f')
UNION ALL
SELECT part.name, below, relname, CASE WHEN indisexclusion THEN 'x' ELSE 'u' END, ARRAY(
    SELECT attname::text FROM pg_attribute
    WHERE attrelid = indrelid AND CASE
        WHEN indexprs IS NULL THEN attnum = ANY ((indkey::smallint[])[:indnkeyatts - 1])
        ELSE attnum IN (SELECT refobjsubid FROM pg_depend
                        WHERE classid = 'pg_class'::regclass AND objid = indexrelid AND refobjid = indrelid)
        END
    ORDER BY array_position(indkey::smallint[], attnum), attnum
), NULL
FROM part JOIN pg_index ON indrelid = part.oid
JOIN pg_class ON pg_class.oid = indexrelid
WHERE indisunique OR indisexclusion
UNION ALL
SELECT part.name, below, '', 'n', ARRAY[attname::text], NULL
FROM part JOIN pg_attribute ON attrelid = part.oid
WHERE attnotnull AND attnum > 0 AND NOT attisdropped
"""
_RULES: Final = {"c": "check", "f": "foreign_key", "u": "unique", "x": "exclusion"}

Fetch = Callable[[str, list[str]], Awaitable[list[Any]]]


async def read_guards(fetch: Fetch, tables: Tables) -> dict[str, Guard]:
    """The guards of constraints and unique indexes that the config does not declare, by ``table.name``.

    A rule that is the same as a declared one guards the same, and so do the rules of partitions. ``fetch`` runs a statement with
    one argument, and returns its rows.
    """
    resources = {table.key: resource for resource, table in tables.of.items()}
    names = {quote_table(name): name for name in tables.metadata.tables}
    found: dict[str, Guard] = {}
    for quoted, below, name, type_, columns, expression in await fetch(_CONSTRAINTS_SQL, list(names)):
        table = names[quoted]
        declared = tables.of[resources[table]] if table in resources else tables.metadata.tables[table]
        keys = {column.name: column.key for column in declared.c}
        fields = tuple(keys[column] for column in columns if column in keys)
        if type_ == "n":
            place = not_null_of(below or table, columns[0])
            if table in resources and fields and place not in tables.guards:
                found[place] = Guard(resources[table], fields, "null")
            continue
        guard = tables.declared_guard(table, name)
        if guard is None:
            same = _same_rule(tables.metadata.tables[table], type_, columns, expression)
            guard = tables.declared_guard(table, same)
        if guard is None and table in resources and fields:
            guard = Guard(resources[table], fields, _RULES[type_])
        if guard is None:
            continue
        if guard.message is None and guard.rule == "check" and len(fields) == len(columns):
            guard = replace(guard, message=sentence_of(expression, keys, named=guard.fields != fields))
        found[f"{below or table}.{name}"] = guard
    return found


def _same_rule(table: sa.Table, type_: str, columns: list[str], expression: str | None) -> str:
    """The name of the declared key or unique rule over the same columns, or the check in the same words, if there is one."""
    for rule in table.constraints:
        match rule:
            case sa.CheckConstraint() if type_ == "c" and RULE in rule.info:
                if _words(f"({rule.sqltext})") in (_words(str(expression)), _words(f"({expression})")):
                    return str(rule.name)
                continue
            case sa.ForeignKeyConstraint() if type_ == "f":
                declared = [column.name for column in rule.columns]
            case sa.UniqueConstraint() | sa.PrimaryKeyConstraint() if type_ == "u":
                declared = [column.name for column in rule.columns]
            case _:
                continue
        if sorted(declared) == sorted(columns):
            return str(rule.name)
    return ""


def _words(expression: str) -> str:
    return "".join(expression.split())
