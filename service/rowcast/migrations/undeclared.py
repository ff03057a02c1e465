"""What the declared tables have in the database that the config does not name: reported, and dropped when asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from alembic.operations import ops
from alembic.runtime.migration import MigrationContext

from rowcast.errors import did_you_mean
from rowcast.migrations.catalog import Definitions
from rowcast.migrations.classify import table_of
from rowcast.migrations.failures import SchemaError
from rowcast.resources.rule_indexes import rule_indexes
from rowcast.resources.sql import DIALECT, quote_identifier, quote_table, split_table
from rowcast.resources.tables import JOINS, Tables, is_managed


@dataclass(frozen=True, slots=True)
class Drop:
    """Something to drop: the operation, and what is lost by it."""

    operation: ops.MigrateOperation
    message: str


def undeclared_columns(found: Definitions, tables: Tables) -> dict[tuple[str, str], bool]:
    """The columns of declared tables that the config does not name, with whether a new row needs a value for each."""
    return {
        (table, name): row["extra"].startswith("t|") and not found.fills((table, name))
        for (table, name), row in found.columns.items()
        if name not in tables.metadata.tables[table].c
    }


def notes(found: Definitions, tables: Tables) -> Iterator[str]:
    """Sentences about the columns that the config does not name, one a table."""
    columns: dict[str, list[str]] = {}
    for (table, name), needed in undeclared_columns(found, tables).items():
        managed = is_managed(tables.metadata.tables[table])
        if not (needed or managed) or JOINS in tables.metadata.tables[table].info:
            continue
        reason = " (NOT NULL without a default, so that the service cannot add rows)" if needed else ""
        columns.setdefault(table, []).append(f"{table}.{name}{reason}")
    for names in columns.values():
        yield f"not in the config: {', '.join(names)}"
    if droppable := [names[0] for table, names in columns.items() if is_managed(tables.metadata.tables[table])]:
        example = droppable[0].partition(" (")[0]
        yield f"They stay as they are. To drop one: rowcast makemigrations --drop {example} -m 'what it does'"


def rename_hints(
    operations: Iterable[ops.MigrateOperation | None], found: Definitions, tables: Tables
) -> Iterator[str]:
    """Sentences about columns that the config does not name, where it has a new one of the same type."""
    for step in operations:
        if not isinstance(step, ops.AddColumnOp):
            continue
        type_ = step.column.type.compile(dialect=DIALECT).lower().replace(", ", ",")
        type_ = re.sub("^varchar", "character varying", type_)
        for table, name in undeclared_columns(found, tables):
            if table == table_of(step) and found.columns[table, name]["type"] == type_:
                yield (
                    f"{table}.{step.column.name} is new and has the type of {table}.{name}, which is not in the config. "
                    f"If the field was renamed, add `renamed_from: {name}` to it."
                )


def drops(context: MigrationContext, tables: Tables, names: Sequence[str]) -> list[Drop]:
    """The operations that drop what these names stand for: ``table``, or ``table.`` and a column, constraint or index.

    Raises:
        SchemaError: A name stands for nothing in the database, or for something that the config has.
    """
    connection = context.connection
    assert connection is not None
    existing = _existing_tables(sa.inspect(connection), names) if names else []
    made: list[Drop] = []
    for name in names:
        words = name.split(".")
        qualified = ".".join(words[:2])
        in_schema = any(each.startswith(f"{words[0]}.") for each in existing)
        owner = qualified if qualified in existing or (in_schema and words[0] not in existing) else words[0]
        part = name[len(owner) + 1 :]
        if owner not in existing:
            raise SchemaError(f"--drop {name}: there is no table {owner!r}; {did_you_mean(owner, existing)}")
        schema, bare = split_table(owner)
        table = sa.Table(bare, sa.MetaData(), schema=schema, autoload_with=connection, resolve_fks=False)
        declared = tables.metadata.tables.get(owner)
        if declared is not None and not is_managed(declared):
            raise SchemaError(f"--drop {name}: the resource of this table has `managed: false`, so it is not changed.")
        made.append(
            _drop_part(connection, table, declared, name, part) if part else _drop_table(connection, table, declared)
        )
    return made


def _existing_tables(inspector: sa.Inspector, names: Sequence[str]) -> list[str]:
    """The tables of the search path, and those of the schemas that names begin with, as the config would name them."""
    schemas = {name.partition(".")[0] for name in names}.intersection(inspector.get_schema_names())
    return inspector.get_table_names() + [
        f"{schema}.{table}" for schema in sorted(schemas) for table in inspector.get_table_names(schema)
    ]


def _drop_table(connection: sa.Connection, table: sa.Table, declared: sa.Table | None) -> Drop:
    if declared is not None:
        raise SchemaError(f"--drop {table.key}: the config has this table; remove the resource first.")
    rows = connection.scalar(sa.text(f"SELECT count(*) FROM {quote_table(table.key)}"))
    return Drop(ops.DropTableOp.from_table(table), f"drops the table {table.key}, which has {_rows(rows)}")


def _drop_part(connection: sa.Connection, table: sa.Table, declared: sa.Table | None, name: str, part: str) -> Drop:
    if part in table.c:
        if declared is not None and part in declared.c:
            raise SchemaError(f"--drop {name}: the config has this column; remove the field first.")
        count = f"SELECT count({quote_identifier(part)}) FROM {quote_table(table.key)}"
        rows = connection.scalar(sa.text(count.replace(":", r"\:")))
        drop = ops.DropColumnOp.from_column_and_tablename(table.schema, table.name, table.c[part])
        return Drop(drop, f"drops the column {name}, in which {_rows(rows)} hold{'s' if rows == 1 else ''} data")
    constraints = {str(rule.name): rule for rule in table.constraints if rule.name}
    indexes = {str(index.name): index for index in table.indexes}
    rules: set[str] = set()
    if declared is not None:
        rules = {str(rule.name) for rule in declared.constraints} | {str(index.name) for index in declared.indexes}
        rules |= {index.name for index in rule_indexes(declared)}
    if part in rules:
        raise SchemaError(f"--drop {name}: the config has this rule; remove its option first.")
    if part in constraints:
        return Drop(ops.DropConstraintOp.from_constraint(constraints[part]), f"drops the constraint {name}")
    if part in indexes:
        return Drop(ops.DropIndexOp.from_index(indexes[part]), f"drops the index {name}")
    valid = [*table.c.keys(), *constraints, *indexes]
    raise SchemaError(
        f"--drop {name}: {table.key} has no column, constraint or index {part!r}; {did_you_mean(part, valid)}"
    )


def _rows(number: int | None) -> str:
    return "1 row" if number == 1 else f"{number} rows"
