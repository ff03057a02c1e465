"""The differences between the database and the config, as alembic's operations.

Alembic finds the differences in tables, columns, keys, indexes and comments. Types, defaults, check constraints and
primary keys are compared here, by their definitions in the catalog.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from alembic.autogenerate import produce_migrations
from alembic.autogenerate.api import AutogenContext
from alembic.operations import ops
from alembic.runtime.migration import MigrationContext
from alembic.runtime.plugins import Plugin
from alembic.util import PriorityDispatchResult
from sqlalchemy.types import TypeEngine

from rowcast.migrations.catalog import Definitions, read_definitions
from rowcast.migrations.classify import classify, execution_order, is_named_by_rowcast, key_of
from rowcast.migrations.equivalence import is_unique, without_equivalents
from rowcast.migrations.operations import Cast, Implementation, ddl_of
from rowcast.migrations.session import await_step
from rowcast.migrations.values import DdlStep
from rowcast.resources.tables import CONFIGURED_DEFAULT, Tables


@dataclass(frozen=True, slots=True)
class Difference:
    """A step between database and config: the operation that a revision writes, and the statement that runs."""

    operation: ops.MigrateOperation
    statement: DdlStep


def find_differences(context: MigrationContext, tables: Tables) -> list[Difference]:
    """Every step from the database to the config, in an order in which it can run."""
    found, declared = await_step(context, lambda raw: read_definitions(raw, tables))
    comparison = MigrationContext.configure(
        context.connection,
        opts={
            "definitions": (found, declared),
            "include_name": lambda name, kind, _parents: kind != "table" or name in tables.metadata.tables,
            "autogenerate_plugins": [
                *(f"alembic.autogenerate.{part}" for part in ("schemas", "tables", "constraints", "comments")),
                _COMPARATORS.name,
            ],
        },
    )
    comparison.impl = Implementation(context.dialect, context.connection, False, True, None, {})
    script = produce_migrations(comparison, tables.metadata)
    assert script.upgrade_ops is not None
    operations = without_equivalents(list(_flatten(script.upgrade_ops.ops, found, declared, tables)), found)
    operations.sort(key=execution_order)
    return [
        Difference(operation, DdlStep(ddl_of(context, operation), additive, needed))
        for operation, (additive, needed) in classify(operations, found, declared)
    ]


def _compare_type(
    context: AutogenContext,
    operation: ops.AlterColumnOp,
    _schema: str | None,
    table: str,
    name: str,
    found: sa.Column[Any],
    declared: sa.Column[Any],
) -> PriorityDispatchResult:
    here, there = context.opts["definitions"]
    operation.existing_type = found.type
    if here.columns[table, name]["type"] != there.columns[table, name]["type"]:
        operation.modify_type = _in_collation(declared.type, found.type)
    return PriorityDispatchResult.CONTINUE


def _in_collation(declared: TypeEngine[Any], found: TypeEngine[Any]) -> TypeEngine[Any]:
    """A declared type with the collation that the column has: no config declares it, and PostgreSQL would drop it."""
    if not (isinstance(declared, sa.String) and isinstance(found, sa.String) and found.collation):
        return declared
    made = declared.copy()
    made.collation = found.collation
    return made


def _compare_default(
    context: AutogenContext,
    operation: ops.AlterColumnOp,
    _schema: str | None,
    table: str,
    name: str,
    found: sa.Column[Any],
    declared: sa.Column[Any],
) -> PriorityDispatchResult:
    operation.existing_server_default = found.server_default
    here, there = context.opts["definitions"]
    if _default_differs(here, there, (table, name), declared):
        operation.modify_server_default = declared.server_default
    return PriorityDispatchResult.CONTINUE


def _default_differs(here: Definitions, there: Definitions, column: tuple[str, str], declared: sa.Column[Any]) -> bool:
    """Whether a column lacks the default that the config names.

    A default that the config does not name belongs to the table's owner. For keys and times that the database is to
    fill, any default does.
    """
    wanted = there.columns[column]["definition"]
    if CONFIGURED_DEFAULT in declared.info:
        return here.has_identity(column) or bool(here.columns[column]["definition"] != wanted)
    return there.fills(column) and not here.fills(column)


def _compare_constraints(
    context: AutogenContext,
    operations: ops.ModifyTableOps,
    _schema: str | None,
    table: str,
    found: sa.Table | None,
    declared: sa.Table | None,
) -> PriorityDispatchResult:
    """Compare check constraints and the primary key, which alembic does not compare by their definitions.

    A check of another name with the same definition serves, and so does a unique rule on a key that is never null.
    """
    if found is None or declared is None:
        return PriorityDispatchResult.CONTINUE
    here, there = context.opts["definitions"]
    declarations = {str(rule.name): rule for rule in declared.constraints if isinstance(rule, sa.CheckConstraint)}
    checks = {name: row for (owner, name), row in here.checks.items() if owner == table}
    same = {n for n in checks if n in declarations and checks[n]["definition"] == there.checks[table, n]["definition"]}
    for name in sorted(checks.keys() - same):
        condition = sa.text(checks[name]["extra"].replace(":", r"\:"))
        rule = sa.CheckConstraint(condition, name=name, table=found)
        operations.ops.append(ops.DropConstraintOp.from_constraint(rule))
    others = {row["definition"] for name, row in checks.items() if not is_named_by_rowcast(table, name)}
    same |= {name for name in declarations if there.checks[table, name]["definition"] in others}
    for name in sorted(declarations.keys() - same):  # as text: a constraint would join the table of its columns
        condition = sa.text(context.migration_context.impl.render_ddl_sql_expr(declarations[name].sqltext))
        operations.ops.append(ops.CreateCheckConstraintOp(name, table, condition))
    key = [column.name for column in declared.primary_key]
    if [column.name for column in found.primary_key] != key and not (
        is_unique(here, table, key) and all(not column.nullable for column in found.columns if column.name in key)
    ):
        if found.primary_key.columns:
            operations.ops.append(ops.DropConstraintOp.from_constraint(found.primary_key))
        operations.ops.append(ops.AddConstraintOp.from_constraint(declared.primary_key))
    return PriorityDispatchResult.CONTINUE


_COMPARATORS: Final = Plugin(__name__)
_COMPARATORS.add_autogenerate_comparator(_compare_type, "column", "types")
_COMPARATORS.add_autogenerate_comparator(_compare_default, "column", "defaults")
_COMPARATORS.add_autogenerate_comparator(_compare_constraints, "table", "constraints")


def _flatten(
    operations: Iterable[ops.MigrateOperation], found: Definitions, declared: Definitions, tables: Tables
) -> Iterator[ops.MigrateOperation]:
    """Split the operations into steps that do one thing each, and omit drops of what the service did not create."""
    for operation in operations:
        match operation:
            case ops.ModifyTableOps():
                yield from _flatten(operation.ops, found, declared, tables)
            case ops.CreateTableOp():  # the foreign keys that close a circle come after all tables
                columns = [item for item in operation.columns if isinstance(item, sa.Column)]
                rules = [item for item in operation.columns if isinstance(item, sa.Constraint)]
                late = [rule for rule in rules if getattr(rule, "use_alter", False)]
                operation.columns = [*columns, *sorted(set(rules) - set(late), key=lambda rule: str(rule.name))]
                yield operation
                for foreign_key in late:
                    assert isinstance(foreign_key, sa.ForeignKeyConstraint)
                    step = ops.CreateForeignKeyOp.from_constraint(foreign_key)
                    del step.kw["use_alter"]
                    yield step
            case ops.AlterColumnOp():
                yield from _split(operation, tables.metadata.tables[operation.table_name].c[operation.column_name])
            case ops.DropConstraintOp() | ops.DropIndexOp() if not _is_managed(operation, found, tables):
                pass
            case ops.DropColumnOp() | ops.DropTableCommentOp():  # it belongs to the table's owner
                pass
            case _:
                yield operation


def _split(operation: ops.AlterColumnOp, declared: sa.Column[Any]) -> Iterator[ops.AlterColumnOp]:
    """Split an alteration of several aspects of a column into one step for each."""
    existing = {
        "existing_type": operation.existing_type,
        "existing_server_default": operation.existing_server_default,
        "existing_nullable": operation.existing_nullable,
        "existing_comment": operation.existing_comment,
    }

    def step(kind: type[ops.AlterColumnOp] = ops.AlterColumnOp, **change: Any) -> ops.AlterColumnOp:
        return kind(operation.table_name, operation.column_name, **{**existing, **change})

    default = operation.modify_server_default
    if operation.modify_type is not None:
        old, new = (kind._type_affinity for kind in (operation.existing_type, operation.modify_type))  # type: ignore[union-attr]
        if old is new:
            yield step(modify_type=operation.modify_type)
        else:  # PostgreSQL does not cast a default with its column
            if existing["existing_server_default"] is not None:
                yield step(modify_server_default=None)
                existing["existing_server_default"] = None
                default = declared.server_default or False
            yield step(Cast, modify_type=operation.modify_type)
    if default is not False:
        yield step(modify_server_default=default)
    if operation.modify_nullable is not None:
        yield step(modify_nullable=operation.modify_nullable)
    if operation.modify_comment:  # otherwise it belongs to the table's owner
        yield step(modify_comment=operation.modify_comment)


def _is_managed(operation: ops.DropConstraintOp | ops.DropIndexOp, found: Definitions, tables: Tables) -> bool:
    """Whether the service created the dropped constraint or index, or the config replaces it.

    What is only about columns that the config does not name is left alone with them.
    """
    table, name = key_of(operation)
    if isinstance(operation, ops.DropConstraintOp) and operation.constraint_type == "primary":
        return True
    if isinstance(operation, ops.DropConstraintOp) and operation.constraint_type == "foreignkey":
        dropped = operation.to_constraint()
        assert isinstance(dropped, sa.ForeignKeyConstraint)
        declared = tables.metadata.tables[table].foreign_key_constraints
        if any(list(dropped.column_keys) == list(key.column_keys) for key in declared):
            return True
    columns = tables.metadata.tables[table].c
    return is_named_by_rowcast(table, name) and any(column in columns for column in found.columns_of_rule(table, name))
