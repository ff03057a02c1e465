"""Indexes over expressions or over some of the rows, which alembic does not compare by their definitions."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic.autogenerate.api import AutogenContext
from alembic.operations import ops
from alembic.util import PriorityDispatchResult

from rowcast.migrations.catalog import Definitions, index_stand_in_name
from rowcast.migrations.classify import table_key
from rowcast.resources.rule_indexes import RuleIndex, rule_indexes
from rowcast.resources.sql import quote_identifier, sql_text


def compare_rule_indexes(
    context: AutogenContext,
    operations: ops.ModifyTableOps,
    schema: str | None,
    name: str,
    found: sa.Table | None,
    declared: sa.Table | None,
) -> PriorityDispatchResult:
    """Compare the indexes of a table by their definitions: one of another name with the same definition serves."""
    if declared is None:
        return PriorityDispatchResult.CONTINUE
    here, there = context.opts["definitions"]
    table = table_key(schema, name)
    existing = {index: row for (owner, index), row in here.rule_indexes.items() if owner == table}
    wanted = {index.name: index for index in rule_indexes(declared)}
    if found is None:
        operations.ops.extend(_creation(declared, index) for index in wanted.values())
        return PriorityDispatchResult.CONTINUE
    definitions = {index: _definition(there, table, index_stand_in_name(table, index)) for index in wanted}
    serving = {_meaning(row) for row in existing.values()}
    for index, row in existing.items():
        if _meaning(row) not in definitions.values():
            operations.ops.append(_removal(declared, index, row))
    operations.ops.extend(
        _creation(declared, wanted[index]) for index, each in definitions.items() if each not in serving
    )
    return PriorityDispatchResult.CONTINUE


def _meaning(row: Any) -> tuple[str, str]:
    return row["type"], row["definition"]


def _definition(there: Definitions, table: str, index: str) -> tuple[str, str]:
    return _meaning(there.rule_indexes[table, index])


def _creation(table: sa.Table, index: RuleIndex) -> ops.CreateIndexOp:
    options: dict[str, Any] = {"postgresql_using": index.method} if index.method != "btree" else {}
    if index.where:
        options["postgresql_where"] = sql_text(index.where)
    if index.nulls_equal:
        options["postgresql_nulls_not_distinct"] = True
    terms = [sql_text(term) for term in index.terms]
    return ops.CreateIndexOp(index.name, table.name, terms, schema=table.schema, unique=index.unique, **options)


def _removal(table: sa.Table, name: str, row: Any) -> ops.DropIndexOp:
    """The drop of an index; its reverse creates it again."""
    method = row["definition"].split()[1]
    index = RuleIndex(
        name,
        (),
        tuple(term if term.startswith(("(", '"')) or "(" in term else quote_identifier(term) for term in row["labels"]),
        unique=row["type"] == "true",
        where=row["extra"],
        nulls_equal=" NULLS NOT DISTINCT" in row["definition"],
        method=method,
    )
    made = _creation(table, index)
    return ops.DropIndexOp(name, table.name, schema=table.schema, _reverse=made, unique=index.unique, **made.kw)
