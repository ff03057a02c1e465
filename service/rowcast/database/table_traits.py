"""Reads the traits of the resources' tables from PostgreSQL's catalog."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

from rowcast.resources.sql import quote_table
from rowcast.resources.tables import Tables
from rowcast.resources.traits import TableTraits

# tgtype has 1 for a row trigger, 2 and 64 for BEFORE and INSTEAD OF, and 4, 8 and 16 for INSERT, DELETE and UPDATE.
_TRAITS_SQL: Final = """
WITH RECURSIVE member (name, oid) AS (
    SELECT name, to_regclass(name)::oid FROM unnest($1::text[]) AS name
    UNION
    SELECT name, inhrelid FROM member JOIN pg_inherits ON inhparent = member.oid
), string AS (
    SELECT name, attname, collisdeterministic, base.typname
    FROM member
    JOIN pg_attribute ON attrelid = member.oid AND attnum > 0 AND NOT attisdropped
    JOIN pg_type own ON own.oid = atttypid
    JOIN pg_type base ON base.oid = coalesce(nullif(own.typbasetype, 0), own.oid)
    LEFT JOIN pg_collation ON pg_collation.oid = attcollation
    WHERE own.typcategory = 'S'
)
SELECT name,
    EXISTS (SELECT FROM member JOIN pg_class USING (oid) WHERE member.name = given.name AND relkind = 'p') AS partitioned,
    ARRAY(
        SELECT DISTINCT event
        FROM member JOIN pg_class USING (oid)
        JOIN pg_trigger ON tgrelid = member.oid JOIN pg_proc ON pg_proc.oid = tgfoid,
            (VALUES (4, 'insert'), (8, 'delete'), (16, 'update')) AS events (bit, event)
        WHERE member.name = given.name AND relkind IN ('r', 'p') AND tgtype & 1 <> 0 AND tgtype & 66 <> 0 AND tgtype & bit <> 0
            AND tgenabled <> 'D' AND NOT tgisinternal AND pronamespace IS DISTINCT FROM to_regnamespace('rowcast')
    ) AS skipping,
    ARRAY(
        SELECT DISTINCT (ARRAY['', 'update', 'insert', 'delete'])[ev_type::text::integer]
        FROM member JOIN pg_class USING (oid) JOIN pg_rewrite ON ev_class = member.oid
        WHERE member.name = given.name AND relkind IN ('r', 'p') AND ev_type IN ('2', '3', '4') AND ev_enabled <> 'D'
    ) AS rules,
    EXISTS (
        SELECT FROM member
        JOIN pg_trigger ON tgrelid = member.oid JOIN pg_proc ON pg_proc.oid = tgfoid
        WHERE member.name = given.name AND tgenabled <> 'D' AND NOT tgisinternal
            AND pronamespace IS DISTINCT FROM to_regnamespace('rowcast')
    ) AS triggered,
    ARRAY(
        SELECT DISTINCT attname::text FROM string WHERE string.name = given.name AND NOT collisdeterministic
    ) AS patternless,
    ARRAY(
        SELECT DISTINCT attname::text FROM string
        WHERE string.name = given.name AND (NOT collisdeterministic OR typname NOT IN ('text', 'varchar'))
    ) AS loose,
    coalesce((SELECT relrowsecurity FROM pg_class WHERE oid = to_regclass(given.name)), false) AS policies,
    coalesce(row_security_active(to_regclass(given.name)::oid), false) AS policies_apply,
    (
        SELECT json_agg(json_build_array(attname, format_type(base, modifier), domain, labels, ordered))::text
        FROM pg_attribute, LATERAL (
            WITH RECURSIVE step (type, modifier, domain) AS (
                VALUES (atttypid, atttypmod, NULL::name)
                UNION ALL
                SELECT typbasetype, typtypmod, coalesce(domain, typname) FROM step JOIN pg_type ON oid = type WHERE typtype = 'd'
            ), item (type, domain) AS (
                SELECT CASE WHEN typcategory = 'A' THEN typelem ELSE type END, domain
                FROM step JOIN pg_type ON oid = type WHERE typtype <> 'd'
                UNION ALL
                SELECT typbasetype, coalesce(domain, typname) FROM item JOIN pg_type ON oid = type WHERE typtype = 'd'
            )
            SELECT step.type AS base, step.modifier, item.domain,
                CASE pg_type.typtype WHEN 'e' THEN ARRAY(
                    SELECT enumlabel::text FROM pg_enum WHERE enumtypid = item.type ORDER BY enumsortorder
                ) END AS labels,
                pg_type.typcategory IN ('B', 'D', 'N', 'S', 'T') OR EXISTS (
                    SELECT FROM pg_opclass JOIN pg_am ON pg_am.oid = opcmethod
                    WHERE amname = 'btree' AND opcdefault AND (
                        opcintype = item.type OR opcintype = CASE pg_type.typtype
                            WHEN 'e' THEN 'anyenum'::regtype WHEN 'r' THEN 'anyrange'::regtype
                            WHEN 'm' THEN 'anymultirange'::regtype WHEN 'c' THEN 'record'::regtype
                        END OR EXISTS (
                            SELECT FROM pg_cast
                            WHERE castsource = item.type AND casttarget = opcintype AND castmethod = 'b' AND castcontext = 'i'
                        )
                    )
                ) AS ordered
            FROM step JOIN pg_type own ON own.oid = step.type AND own.typtype <> 'd',
                item JOIN pg_type ON pg_type.oid = item.type AND pg_type.typtype <> 'd'
        ) AS found
        WHERE attrelid = to_regclass(given.name) AND attnum > 0 AND NOT attisdropped
    ) AS types,
    ARRAY(
        SELECT attname::text FROM pg_constraint JOIN pg_attribute ON attrelid = conrelid AND attnum = ANY (conkey)
        WHERE conrelid = to_regclass(given.name) AND contype = 'f' AND confdeltype IN ('c', 'n', 'd')
    ) AS passing
FROM unnest($1::text[]) AS given (name)
"""


Fetch = Callable[[str, list[str]], Awaitable[list[Any]]]


async def read_traits(fetch: Fetch, tables: Tables) -> dict[str, TableTraits]:
    """The traits of each resource's table; those of a table that does not exist are plain.

    ``fetch`` runs a statement with one argument, and returns its rows.
    """
    names = {quote_table(table.key): resource for resource, table in tables.of.items()}
    found = {}
    for row in await fetch(_TRAITS_SQL, list(names)):
        name, partitioned, skipping, rules, triggered, patternless, loose, policies, policies_apply, types, passing = (
            row
        )
        keys = {column.name: column.key for column in tables.of[names[name]].c}
        columns = [(keys[each[0]], *each[1:]) for each in json.loads(types or "[]") if each[0] in keys]
        found[names[name]] = TableTraits(
            partitioned,
            frozenset(skipping),
            frozenset(rules),
            triggered,
            frozenset(keys[column] for column in patternless if column in keys),
            frozenset(keys[column] for column in loose if column in keys),
            policies,
            policies_apply,
            types={column: type_ for column, type_, _, _, _ in columns},
            domains={column: domain for column, _, domain, _, _ in columns if domain},
            labels={column: tuple(labels) for column, _, _, labels, _ in columns if labels is not None},
            passing=frozenset(keys[column] for column in passing if column in keys),
            unordered=frozenset(column for column, _, _, _, ordered in columns if not ordered),
        )
    return found
