"""Which constraints and indexes of a table say what declared ones say, whatever their names are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import asyncpg
import sqlalchemy as sa
from alembic.operations import ops

from rowcast.migrations.catalog import Definitions
from rowcast.migrations.classify import is_named_by_rowcast, key_of, table_of, target_of
from rowcast.resources.tables import Tables

_ACTIONS: Final = {"RESTRICT": ("r", "a"), "CASCADE": ("c",), "SET NULL": ("n",)}
"""The letters in the catalog of the actions that do what is declared. NO ACTION refuses as RESTRICT does."""
_DESCENDING: Final = 3  # in ``indoption``: in the opposite order, with the nulls first


def without_equivalents(
    operations: Sequence[ops.MigrateOperation], found: Definitions, tables: Tables
) -> list[ops.MigrateOperation]:
    """The operations without those that make what is there under another name, and those that drop that."""
    any_action = {
        (resource.table, field.stored_column)
        for resource in tables.resources.values()
        for field in resource.columns.values()
        if field.to is not None and field.on_delete is None
    }

    def is_same(name: tuple[str, str], step: ops.CreateForeignKeyOp) -> bool:
        free = not is_named_by_rowcast(*name) and (name[0], step.local_cols[0]) in any_action
        return _is_same_reference(found.foreign_keys[name], step, any_action=free)

    dropped = {key_of(step) for step in operations if isinstance(step, ops.DropConstraintOp | ops.DropIndexOp)}
    kept = {
        name
        for step in operations
        if isinstance(step, ops.CreateForeignKeyOp)
        for name in found.foreign_keys
        if name[0] == table_of(step) and is_same(name, step)
    }
    kept |= {name for step in operations for name in _former_names(step, found, dropped)}
    return [step for step in operations if not _is_served(step, found, dropped - kept, kept)]


def _former_names(
    step: ops.MigrateOperation, found: Definitions, dropped: set[tuple[str, str]]
) -> Iterator[tuple[str, str]]:
    """The rules that would be dropped and are exactly what a step makes: a column or table of theirs has been renamed."""
    if not isinstance(step, ops.CreateUniqueConstraintOp | ops.CreateIndexOp):
        return
    for name, row in _plain_indexes(found):
        if name not in dropped or name[0] != table_of(step) or name == key_of(step):
            continue
        unique = row["extra"].startswith("t|")
        match step:
            case ops.CreateUniqueConstraintOp() if unique and sorted(row["columns"]) == sorted(map(str, step.columns)):
                yield name
            case ops.CreateIndexOp() if (
                is_over_columns(step) and not unique and len(row["columns"]) == len(step.columns)
            ):
                if _is_indexed(found, step, dropped - {name}):
                    yield name


def is_unique(found: Definitions, table: str, columns: Iterable[str], dropped: Iterable[tuple[str, str]] = ()) -> bool:
    """Whether a unique rule or index of a table, of any name, is about exactly these columns."""
    wanted = sorted(columns)
    return any(
        name[0] == table and name not in dropped and row["extra"].startswith("t|") and sorted(row["columns"]) == wanted
        for name, row in _plain_indexes(found)
    )


def _is_served(
    step: ops.MigrateOperation, found: Definitions, dropped: set[tuple[str, str]], kept: set[tuple[str, str]]
) -> bool:
    match step:
        case ops.CreateUniqueConstraintOp():
            return is_unique(found, table_of(step), map(str, step.columns), dropped)
        case ops.CreateIndexOp() if is_over_columns(step):
            return _is_indexed(found, step, dropped)
        case ops.CreateForeignKeyOp():
            return any(
                name[0] == table_of(step) and _is_same_reference(found.foreign_keys[name], step, any_action=True)
                for name in kept
            )
        case ops.DropConstraintOp() | ops.DropIndexOp():
            return key_of(step) in kept
    return False


def is_over_columns(step: ops.CreateIndexOp) -> bool:
    """Whether an index is over columns alone, and not unique; others have no equivalents but those that are the same."""
    return not (step.unique or any(isinstance(column, sa.TextClause) for column in step.columns))


def _plain_indexes(found: Definitions) -> Iterable[tuple[tuple[str, str], asyncpg.Record]]:
    """The valid indexes over all rows and over columns alone."""
    return ((name, row) for name, row in found.indexes.items() if row["type"] == "true")


def _is_indexed(found: Definitions, step: ops.CreateIndexOp, dropped: set[tuple[str, str]]) -> bool:
    """Whether an index of the table begins with the columns of the declared one, in its order or in the opposite one."""
    columns = [_column_and_order(column) for column in step.columns]
    names, orders = [name for name, _ in columns], [order for _, order in columns]
    for name, row in _plain_indexes(found):
        _, method, options = row["extra"].split("|")
        if name[0] != table_of(step) or name in dropped or method != "btree" or row["columns"][: len(names)] != names:
            continue
        existing = [int(option) for option in options.split()][: len(names)]
        if existing in (orders, [order ^ _DESCENDING for order in orders]):
            return True
    return False


def _column_and_order(term: Any) -> tuple[str, int]:
    descending = isinstance(term, sa.UnaryExpression)
    column = term.element if descending else term
    return str(getattr(column, "name", column)), _DESCENDING if descending else 0


def find_references_to_others(found: Definitions, tables: Tables) -> Iterator[str]:
    """Sentences about foreign keys that refer to a column of the target which is not its key."""
    for table in tables.metadata.tables.values():
        rows = [row for (owner, _), row in found.foreign_keys.items() if owner == table.key]
        for key in table.foreign_key_constraints:
            columns, target = [column.name for column in key.columns], key.referred_table.key
            remote = ",".join(element.column.name for element in key.elements)
            others = {
                row["base"] for row in rows if row["columns"] == columns and row["extra"].partition("|")[2] == target
            }
            if others and remote not in others:
                yield (
                    f"{table.key}.{','.join(columns)} refers to {target}.{min(others)} in the database, and the key of its "
                    f"target is {remote}: make {min(others)} the key there, or declare the field with the type of its "
                    "values instead of foreign_key"
                )


def _is_same_reference(row: asyncpg.Record, step: ops.CreateForeignKeyOp, *, any_action: bool) -> bool:
    action, target = row["extra"].split("|")
    return (
        row["columns"] == list(step.local_cols)
        and (target, row["base"]) == (target_of(step), ",".join(step.remote_cols))
        and (any_action or action in _ACTIONS[step.kw["ondelete"]])
    )
