"""When a step may run, and whether it is safe.

A step is *additive* when it only adds or loosens: it loses no row and, if the rows do not fit it, PostgreSQL refuses it
as a whole. Every other step is *destructive*, and only a written revision runs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import sqlalchemy as sa
from alembic.operations import ops

from rowcast.migrations.catalog import Definitions
from rowcast.resources.sql import split_table


def execution_order(step: ops.MigrateOperation) -> tuple[int, str, str]:
    """The sort key of a step: obstacles are dropped first, and a reference is created after its target.

    Tables and columns stay in the order in which they are declared; the rest is ordered by name.
    """
    match step:
        case ops.DropConstraintOp():
            return 0 if step.constraint_type == "foreignkey" else 1, *key_of(step)
        case ops.DropIndexOp():
            return 2, *key_of(step)
        case ops.AlterColumnOp():
            return 3, "", ""
        case ops.AddColumnOp():
            return 4, "", ""
        case ops.CreateTableOp():
            return 5, "", ""
        case ops.CreatePrimaryKeyOp() | ops.CreateUniqueConstraintOp():
            return 7, *key_of(step)
        case ops.CreateCheckConstraintOp():
            return 8, *key_of(step)
        case ops.CreateIndexOp():
            return 9, *key_of(step)
        case ops.CreateForeignKeyOp():
            return 10, *key_of(step)
    return 11, "", ""  # comments


def classify(
    operations: Sequence[ops.MigrateOperation], found: Definitions, declared: Definitions
) -> Iterator[tuple[ops.MigrateOperation, tuple[bool, bool]]]:
    """Each step with whether it is additive and whether it is needed.

    If a column waits for a revision, the steps that need this column wait too, and so do the drops of what these steps
    would replace.
    """
    waiting = {
        (table_of(step), step.column_name)
        for step in operations
        if isinstance(step, ops.AlterColumnOp) and _classify_alone(step, found, declared) == (False, True)
    }
    replaced = {
        (table_of(step), tuple(found.foreign_keys[key_of(step)]["columns"]))
        for step in operations
        if isinstance(step, ops.DropConstraintOp) and key_of(step) in found.foreign_keys
    }
    verdicts: dict[int, tuple[bool, bool]] = {}
    made: dict[tuple[str, str], bool] = {}
    for step in operations:
        if isinstance(step, ops.DropConstraintOp | ops.DropIndexOp):
            continue
        additive, needed = _classify_alone(step, found, declared)
        if additive and _columns_needed(step, declared) & waiting:
            additive = False
            waiting |= {(table_of(step), "")} if isinstance(step, ops.CreateTableOp) else set()
        if isinstance(step, ops.CreateForeignKeyOp) and key_of(step) not in found.foreign_keys:
            others = (table_of(step), tuple(step.local_cols)) in replaced  # a key that its owner has made
            additive, needed = additive and not others, needed and not others
        verdicts[id(step)] = additive, needed
        if isinstance(step, ops.AddConstraintOp | ops.CreateIndexOp):
            made[key_of(step)] = additive
    for step in operations:
        if isinstance(step, ops.DropConstraintOp | ops.DropIndexOp):
            key = key_of(step)
            if key in made:
                verdicts[id(step)] = made[key], True
            elif is_named_by_rowcast(*key):  # the rule is loosened to none
                columns = {(key[0], name) for name in found.columns_of_rule(*key)}
                verdicts[id(step)] = not columns & waiting, key in found.checks
            else:
                verdicts[id(step)] = False, False
        yield step, verdicts[id(step)]


def _classify_alone(step: ops.MigrateOperation, found: Definitions, declared: Definitions) -> tuple[bool, bool]:
    """Whether a step is additive and whether it is needed, without regard to the other steps."""
    match step:
        case ops.AlterColumnOp() if step.modify_type is not None:
            column = table_of(step), step.column_name
            old, new = found.columns[column]["type"], declared.columns[column]["type"]
            return widens(old, new), not widens(new, old)
        case ops.AlterColumnOp() if step.modify_server_default is not False:
            column = table_of(step), step.column_name
            return not (found.has_identity(column) or declared.has_identity(column)), True
        case ops.AlterColumnOp() if step.modify_comment is not False:
            return True, False
        case ops.CreatePrimaryKeyOp():
            return False, True
        case ops.CreateTableCommentOp():
            return True, False
    return True, True


def _columns_needed(step: ops.MigrateOperation, declared: Definitions) -> set[tuple[str, str]]:
    """The columns that a step needs in their declared form. The column ``""`` stands for the whole table."""
    match step:
        case ops.AlterColumnOp():
            return {(table_of(step), step.column_name)}
        case ops.CreateForeignKeyOp():
            near = {(table_of(step), name) for name in ["", *step.local_cols]}
            return near | {(target_of(step), name) for name in ["", *step.remote_cols]}
        case ops.CreateIndexOp():
            columns = [name for column in step.columns for name in _names_in(column)]
        case ops.CreatePrimaryKeyOp() | ops.CreateUniqueConstraintOp():
            columns = [str(column) for column in step.columns]
        case ops.CreateCheckConstraintOp():
            columns = declared.checks[key_of(step)]["columns"]
        case ops.CreateTableOp():
            keys = (item for item in step.columns if isinstance(item, sa.ForeignKeyConstraint))
            targets = {(key.referred_table.key, element.column.name) for key in keys for element in key.elements}
            return targets | {(table, "") for table, _ in targets if table != table_of(step)}
        case _:
            return set()
    return {(table_of(step), column) for column in ["", *columns]}


def _names_in(term: Any) -> list[str]:
    """The columns in a term of an index; an expression has them quoted."""
    if isinstance(term, sa.TextClause):
        return [name.replace('""', '"') for name in re.findall(r'"((?:[^"]|"")+)"', str(term))]
    return [str(getattr(term, "name", term))]


def is_named_by_rowcast(table: str, name: str) -> bool:
    """Whether a constraint or index of a table has a name as the service gives it."""
    table = split_table(table)[1]
    return name.startswith(tuple(f"{kind}_{table}_"[:54] for kind in ("ck", "fk", "ix", "uq")))


def table_key(schema: str | None, table: str) -> str:
    """The name of a table in the config: ``schema.table`` or ``table``."""
    return f"{schema}.{table}" if schema else table


def table_of(step: Any) -> str:
    """The table that a step is about, as the config names it."""
    if isinstance(step, ops.CreateForeignKeyOp):
        return table_key(step.kw.get("source_schema"), step.source_table)
    return table_key(step.schema, str(step.table_name))


def target_of(step: ops.CreateForeignKeyOp) -> str:
    """The table that a foreign key refers to, as the config names it."""
    return table_key(step.kw.get("referent_schema"), step.referent_table)


def key_of(step: ops.MigrateOperation) -> tuple[str, str]:
    """The table and the name of a constraint or index."""
    match step:
        case ops.CreateIndexOp() | ops.DropIndexOp():
            return table_of(step), str(step.index_name)
        case (
            ops.CreateForeignKeyOp()
            | ops.CreateUniqueConstraintOp()
            | ops.CreateCheckConstraintOp()
            | ops.CreatePrimaryKeyOp()
            | ops.DropConstraintOp()
        ):
            return table_of(step), str(step.constraint_name)
    raise AssertionError(f"{step} is not about a constraint or an index")


_SIZED_TYPE: Final = re.compile(r"([a-z ]+)(?:\((\d+)(?:,(\d+))?\))?")
_WIDENING_TYPES: Final = (
    ("smallint", "integer", "bigint"),
    ("real", "double precision"),
    ("character varying", "text"),
)


def widens(old: str, new: str) -> bool:
    """Whether every value of one type is a value of another; both as PostgreSQL prints them.

    >>> widens("character varying(20)", "text"), widens("bigint", "integer")
    (True, False)
    """
    if old.endswith("[]") and new.endswith("[]"):
        return widens(old[:-2], new[:-2])
    here, there = _SIZED_TYPE.fullmatch(old), _SIZED_TYPE.fullmatch(new)
    if here is None or there is None:
        return False
    for ladder in _WIDENING_TYPES:
        if here[1] in ladder and there[1] in ladder and here[1] != there[1]:
            return ladder.index(here[1]) < ladder.index(there[1])
    if here[1] != there[1] or here[1] not in ("character varying", "numeric"):
        return False
    if there[2] is None or here[2] is None:
        return there[2] is None
    scale = int(there[3] or 0) - int(here[3] or 0)
    return scale >= 0 and int(there[2]) - int(here[2]) >= scale
