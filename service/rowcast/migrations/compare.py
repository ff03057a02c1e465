"""The differences between the database and the config, as alembic's operations.

Alembic finds the differences in tables, columns, keys, indexes and comments. Types, defaults, check constraints and
primary keys are compared here, by their definitions in the catalog.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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

from rowcast.migrations.catalog import Definitions, missing_types, read_definitions
from rowcast.migrations.classify import classify, execution_order, is_named_by_rowcast, key_of, table_key, table_of
from rowcast.migrations.equivalence import find_references_to_others, is_unique, without_equivalents
from rowcast.migrations.expressions import find_wrong_expressions
from rowcast.migrations.generated_columns import find_recomputed
from rowcast.migrations.inheritance import find_parts
from rowcast.migrations.operations import Cast, Implementation, ddl_of
from rowcast.migrations.renaming import find_renames
from rowcast.migrations.rule_indexes import compare_rule_indexes
from rowcast.migrations.schemas import find_missing_schemas
from rowcast.migrations.transaction import await_step
from rowcast.migrations.unmanaged import find_unwritable_links, without_unmanaged
from rowcast.migrations.values import DdlStep
from rowcast.migrations.views import find_tables_that_are_views, find_view_problems
from rowcast.resources.exchanged import LocalTime
from rowcast.resources.rule_indexes import RULE_INDEXES
from rowcast.resources.sql import sql_text
from rowcast.resources.tables import CONFIGURED_DEFAULT, OWN_DEFAULT, RULE, WRITTEN, Tables

COMPARISON_LOCK_TIMEOUT: Final = "2s"  # for a table that is renamed while the rest is compared


@dataclass(frozen=True, slots=True)
class Difference:
    """A step between database and config: the operation that a revision writes, and the statement that runs."""

    operation: ops.MigrateOperation | None  # none for a problem
    statement: DdlStep


def find_differences(context: MigrationContext, tables: Tables) -> list[Difference]:
    """Every step from the database to the config, in an order in which it can run.

    Schemas and renames come first. They are done in a savepoint, which is rolled back, so that the rest is compared under the new names.
    """
    if misdeclared := await_step(context, lambda raw: find_tables_that_are_views(raw, tables)):
        return _sentences(misdeclared)  # nothing can be compared with them
    renames = await_step(context, lambda raw: find_renames(raw, tables))
    schemas = await_step(context, lambda raw: find_missing_schemas(raw, tables))
    fixed = _sentences(await_step(context, lambda raw: find_view_problems(raw, tables)))
    fixed += _sentences(await_step(context, lambda raw: find_parts(raw, tables.metadata.tables)))
    steps = [*(Difference(each, each.step) for each in schemas), *(Difference(each, each.step) for each in renames)]
    if not renames:
        return steps + fixed + _compare(context, tables)
    with _as_if_done(context, renames):
        return steps + fixed + _compare(context, tables)


@contextmanager
def _as_if_done(context: MigrationContext, steps: Iterable[ops.ExecuteSQLOp]) -> Iterator[None]:
    """Run statements in a savepoint that is rolled back."""
    assert context.connection is not None
    with context.connection.begin_nested() as savepoint:
        context.connection.execute(sa.text(f"SET LOCAL lock_timeout = '{COMPARISON_LOCK_TIMEOUT}'"))
        for each in steps:
            context.connection.execute(sql_text(str(each.sqltext)))
        yield
        savepoint.rollback()


def _sentences(problems: Iterable[str]) -> list[Difference]:
    """What no step can bring in line."""
    return [Difference(None, DdlStep(text, additive=False, needed=True, problem=True)) for text in problems]


def _compare(context: MigrationContext, tables: Tables, *, recomputing: bool = True) -> list[Difference]:
    """The differences under the present names. With ``recomputing`` changes of generated columns come first, as renames do."""
    if missing := await_step(context, lambda raw: missing_types(raw, tables)):
        return _sentences(missing)
    if wrong := await_step(context, lambda raw: find_wrong_expressions(raw, tables)):
        return _sentences(wrong)
    found, declared = await_step(context, lambda raw: read_definitions(raw, tables))
    assert context.connection is not None
    major = int(context.connection.dialect.server_version_info[0])  # type: ignore[index]
    if recomputing and (recomputed := list(find_recomputed(found, declared, tables, major))):
        steps = [Difference(each, each.step) for each in recomputed]
        with _as_if_done(context, recomputed):
            return steps + _compare(context, tables, recomputing=False)
    comparison = MigrationContext.configure(
        context.connection,
        opts={
            "definitions": (found, declared),
            "include_schemas": True,
            "include_name": lambda name, kind, parents: _is_declared(tables, found, name, kind, parents),
            "autogenerate_plugins": [
                *(f"alembic.autogenerate.{part}" for part in ("schemas", "tables", "constraints", "comments")),
                _COMPARATORS.name,
            ],
        },
    )
    comparison.impl = Implementation(context.dialect, context.connection, False, True, None, {})
    assert context.connection is not None
    context.connection.dialect.default_schema_name = None  # a table without a schema is not the one with the default
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Did not recognize type", sa.exc.SAWarning)
        script = produce_migrations(comparison, tables.metadata)
    assert script.upgrade_ops is not None
    operations = without_equivalents(list(_flatten(script.upgrade_ops.ops, found, declared, tables)), found, tables)
    operations, sentences = without_unmanaged(operations, found, declared, tables)
    sentences += [*find_unwritable_links(found, tables), *find_references_to_others(found, tables)]
    operations.sort(key=execution_order)
    return _problems(found, declared, tables, sentences) + [
        Difference(operation, DdlStep(ddl_of(context, operation), additive, needed))
        for operation, (additive, needed) in classify(operations, found, declared)
    ]


def _is_declared(tables: Tables, found: Definitions, name: str | None, kind: str, parents: Any) -> bool:
    """Whether the config has this table or schema, or what is asked about is part of a table.

    Indexes over expressions are compared elsewhere.
    """
    if kind == "index":
        return (table_key(parents["schema_name"], parents["table_name"]), str(name)) not in found.rule_indexes
    if kind == "schema":
        return any(table.schema == name for table in tables.metadata.tables.values())
    return kind != "table" or table_key(parents["schema_name"], str(name)) in tables.metadata.tables


def _problems(found: Definitions, declared: Definitions, tables: Tables, sentences: list[str]) -> list[Difference]:
    """``sentences``, and those about what the config expects of columns and cannot have."""
    for name, row in found.columns.items():
        column = tables.metadata.tables[name[0]].c.get(name[1])
        if column is None or not found.is_generated(name):
            continue
        if column.computed is not None:
            continue
        if WRITTEN in column.info:
            sentences.append(f"{'.'.join(name)} is generated by the database, so its field must be read_only")
        if row["type"] != (wanted := declared.columns[name]["type"]):
            sentences.append(f"{'.'.join(name)} is generated by the database as {row['type']}, not as {wanted}")
    for table in tables.metadata.tables.values():
        for each in table.c:
            if isinstance(each.type, LocalTime) and found.has_zone((table.key, each.name)):
                sentences.append(
                    f"{table.key}.{each.name} has a time zone in the database; remove `zone` from its field"
                )
            here = table.key, each.name
            if OWN_DEFAULT in each.info and here in found.columns and not found.fills(here):
                sentences.append(
                    f"{table.key}.{each.name} has no default in the database, as `default: database` expects"
                )
    found_problems = [(sentence, True) for sentence in sentences]
    found_problems += list(_differing_choices(found, tables))
    return [
        Difference(None, DdlStep(text, additive=False, needed=needed, problem=True)) for text, needed in found_problems
    ]


def _differing_choices(found: Definitions, tables: Tables) -> Iterator[tuple[str, bool]]:
    """Sentences about enums whose values are not the choices of their fields; a choice that the enum lacks is needed."""
    for resource in tables.resources.values():
        for field in resource.columns.values():
            column = resource.table, field.stored_column
            labels = found.labels(column) if column in found.columns else None
            if labels is None or not field.choices or set(labels) == set(field.choices):
                continue
            type_ = found.columns[column]["base"].removesuffix("[]")
            yield (
                f"{'.'.join(column)} has the choices {', '.join(map(str, field.choices))} in the config, "
                f"and its enum {type_} has the values {', '.join(labels)} in the database",
                not set(field.choices) <= set(labels),
            )


def _compare_type(
    context: AutogenContext,
    operation: ops.AlterColumnOp,
    schema: str | None,
    table: str,
    name: str,
    found: sa.Column[Any],
    declared: sa.Column[Any],
) -> PriorityDispatchResult:
    here, there = context.opts["definitions"]
    operation.existing_type = found.type
    column = table_key(schema, table), name
    if isinstance(declared.type, LocalTime) and here.has_zone(column):
        pass  # a problem, which no DDL solves
    elif here.columns[column]["type"] != there.columns[column]["type"]:
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
    schema: str | None,
    table: str,
    name: str,
    found: sa.Column[Any],
    declared: sa.Column[Any],
) -> PriorityDispatchResult:
    operation.existing_server_default = found.server_default
    here, there = context.opts["definitions"]
    if declared.computed is None and _default_differs(here, there, (table_key(schema, table), name), declared):
        operation.modify_server_default = declared.server_default
    return PriorityDispatchResult.CONTINUE


def _bare(default: str | None) -> str | None:
    """A default without the type of a number: ``'3'::smallint`` and ``3`` are equal in a column of any type."""
    match = _TYPED_NUMBER.fullmatch(default or "")
    return match[1] if match else default


_TYPED_NUMBER: Final = re.compile(
    r"'(-?[0-9]+(?:\.[0-9]+)?)'::(?:smallint|integer|bigint|real|double precision|numeric)"
)


def _default_differs(here: Definitions, there: Definitions, column: tuple[str, str], declared: sa.Column[Any]) -> bool:
    """Whether a column lacks the default that the config names.

    A default that the config does not name belongs to the table's owner. For keys and times that the database is to
    fill, any default does.
    """
    wanted = there.columns[column]["definition"]
    if CONFIGURED_DEFAULT in declared.info:
        return here.has_identity(column) or _bare(here.columns[column]["definition"]) != _bare(wanted)
    return there.fills(column) and not here.fills(column)


def _compare_constraints(
    context: AutogenContext,
    operations: ops.ModifyTableOps,
    schema: str | None,
    name: str,
    found: sa.Table | None,
    declared: sa.Table | None,
) -> PriorityDispatchResult:
    """Compare check constraints and the primary key, which alembic does not compare by their definitions.

    A check of another name with the same definition serves, and so does a unique rule on a key that is never null.
    """
    if found is None or declared is None:
        return PriorityDispatchResult.CONTINUE
    here, there = context.opts["definitions"]
    table = table_key(schema, name)
    declarations = {str(rule.name): rule for rule in declared.constraints if isinstance(rule, sa.CheckConstraint)}
    checks = {name: row for (owner, name), row in here.checks.items() if owner == table}
    given = {name for name, rule in declarations.items() if _is_given(rule, here, there)}
    wanted = {name: row["definition"] for (owner, name), row in there.checks.items() if owner == table}
    same = {name for name in checks if name in declarations and checks[name]["definition"] == wanted.get(name)}
    others = {row["definition"] for name, row in checks.items() if name not in declarations}
    served = {name for name in declarations.keys() - same - given if wanted[name] in others}
    serving = {wanted[name] for name in served}
    kept = same | {name for name in checks.keys() - declarations.keys() if checks[name]["definition"] in serving}
    for name in sorted(checks.keys() - kept):
        condition = sa.text(checks[name]["extra"].replace(":", r"\:"))
        rule = sa.CheckConstraint(condition, name=name, table=found)
        operations.ops.append(ops.DropConstraintOp.from_constraint(rule))
    same |= served | given
    for name in sorted(declarations.keys() - same):  # as text: a constraint would join the table of its columns
        condition = sa.text(context.migration_context.impl.render_ddl_sql_expr(declarations[name].sqltext))
        operations.ops.append(ops.CreateCheckConstraintOp(name, declared.name, condition, schema=schema))
    key = [column.name for column in declared.primary_key]
    if [column.name for column in found.primary_key] != key and not (
        is_unique(here, table, key) and all(not column.nullable for column in found.columns if column.name in key)
    ):
        if found.primary_key.columns:
            operations.ops.append(ops.DropConstraintOp.from_constraint(found.primary_key))
        operations.ops.append(ops.AddConstraintOp.from_constraint(declared.primary_key))
    return PriorityDispatchResult.CONTINUE


def _is_given(rule: sa.CheckConstraint, here: Definitions, there: Definitions) -> bool:
    """Whether a check is not made because its column is the owner's: generated, an enum, or an array that may have nulls."""
    assert isinstance(rule.table, sa.Table)
    table, (name, kind) = rule.table.key, rule.info[RULE]
    column, key = (table, name), (table, str(rule.name))
    if column not in here.columns:
        return False
    optional = kind == "items" and not here.is_own(rule.table) and key not in here.checks
    owners = here.is_generated(column) and rule.table.c[name].computed is None
    return optional or key not in there.checks or owners


_COMPARATORS: Final = Plugin(__name__)
_COMPARATORS.add_autogenerate_comparator(_compare_type, "column", "types")
_COMPARATORS.add_autogenerate_comparator(_compare_default, "column", "defaults")
_COMPARATORS.add_autogenerate_comparator(_compare_constraints, "table", "constraints")
_COMPARATORS.add_autogenerate_comparator(compare_rule_indexes, "table", "rule indexes")


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
                operation.info.pop(RULE_INDEXES, None)  # which are steps of their own
                yield operation
                for foreign_key in late:
                    assert isinstance(foreign_key, sa.ForeignKeyConstraint)
                    step = ops.CreateForeignKeyOp.from_constraint(foreign_key)
                    del step.kw["use_alter"]
                    yield step
            case ops.AlterColumnOp() if _is_owners_expression(operation, found, tables):
                pass  # a fact of the table
            case ops.AlterColumnOp():
                yield from _split(operation, tables.metadata.tables[table_of(operation)].c[operation.column_name])
            case ops.DropConstraintOp() | ops.DropIndexOp() if not _is_managed(operation, found, tables):
                pass
            case ops.DropColumnOp() | ops.DropTableCommentOp():  # it belongs to the table's owner
                pass
            case _:
                yield operation


def _is_owners_expression(operation: ops.AlterColumnOp, found: Definitions, tables: Tables) -> bool:
    """Whether the database computes the values of a column, and the config does not have the expression."""
    table, column = table_of(operation), operation.column_name
    return found.is_generated((table, column)) and tables.metadata.tables[table].c[column].computed is None


def _split(operation: ops.AlterColumnOp, declared: sa.Column[Any]) -> Iterator[ops.AlterColumnOp]:
    """Split an alteration of several aspects of a column into one step for each."""
    existing = {
        "existing_type": operation.existing_type,
        "existing_server_default": operation.existing_server_default,
        "existing_nullable": operation.existing_nullable,
        "existing_comment": operation.existing_comment,
    }

    def step(kind: type[ops.AlterColumnOp] = ops.AlterColumnOp, **change: Any) -> ops.AlterColumnOp:
        return kind(operation.table_name, operation.column_name, schema=operation.schema, **{**existing, **change})

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
