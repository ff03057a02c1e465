"""Tables with ``managed: false``: nothing of them is changed, and what keeps a resource from being served is a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from alembic.operations import ops

from rowcast.migrations.catalog import Definitions
from rowcast.migrations.classify import table_of, widens
from rowcast.migrations.undeclared import undeclared_columns
from rowcast.resources.tables import CONFIGURED_DEFAULT, JOINS, WRITTEN, Tables, is_managed


def without_unmanaged(
    operations: Iterable[ops.MigrateOperation], found: Definitions, declared: Definitions, tables: Tables
) -> tuple[list[ops.MigrateOperation], list[str]]:
    """The operations on tables that may be changed, and what those on others mean for the service."""
    kept: list[ops.MigrateOperation] = []
    sentences: list[str] = []
    for step in operations:
        if is_managed(tables.metadata.tables[table_of(step)]):
            kept.append(step)
        elif (sentence := _problem(step, found, declared, tables)) is not None:
            sentences.append(sentence)
    return kept, sentences


def find_unwritable_links(found: Definitions, tables: Tables) -> Iterator[str]:
    """Sentences about tables of links in which the service cannot add rows, although their fields are written."""
    for (name, column), needed in undeclared_columns(found, tables).items():
        table = tables.metadata.tables[name]
        if needed and JOINS in table.info and table.info[WRITTEN]:
            yield (
                f"{name}.{column} is NOT NULL without a default, so no links of {table.info[JOINS]} can be added: give the "
                "column a default, or make the field `read_only`"
            )


def _problem(step: ops.MigrateOperation, found: Definitions, declared: Definitions, tables: Tables) -> str | None:
    """Why the table cannot be served as it is, and what to do; ``None`` if it can be."""
    table = table_of(step)
    joins = tables.metadata.tables[table].info.get(JOINS)
    match step:
        case ops.CreateTableOp() if joins:
            return f"there is no table {table}, which {joins} has links in: create it, or correct `through`"
        case ops.AddColumnOp() if joins:
            return f"there is no column {table}.{step.column.name}, which {joins} has links in: correct `through`"
        case ops.CreatePrimaryKeyOp() if joins:
            return None
        case ops.CreateTableOp():
            return (
                f"there is no table {table}, and `managed: false` forbids to create it: create it, or correct `table`"
            )
        case ops.AddColumnOp():
            name = f"{table}.{step.column.name}"
            return (
                f"there is no column {name}: add it to the table, name the right one with `column`, or remove the field"
            )
        case ops.AlterColumnOp() if step.modify_type is not None:
            column = table, step.column_name
            here, there = found.columns[column]["type"], declared.columns[column]["type"]
            refers = bool(tables.metadata.tables[table].c[step.column_name].foreign_keys)
            if widens(here, there) or (refers and widens(there, here)):  # a value that does not fit is a 400
                return None
            return f"{'.'.join(column)} has the type {here}, and its field is for {there}: give the field another type"
        case ops.AlterColumnOp() if step.modify_server_default is not False:
            name = f"{table}.{step.column_name}"
            if CONFIGURED_DEFAULT in tables.metadata.tables[table].c[step.column_name].info:
                return (
                    f"{name} does not have the default of its field: write `default: database`, or set it in the table"
                )
            if tables.metadata.tables[table].c[step.column_name].identity is None:
                return None  # the service generates the value
            return (
                f"{name} has no default, and the database is to generate it: set a default in the table, or let "
                "clients send the key (`required: true`)"
            )
        case ops.CreatePrimaryKeyOp():
            key = ", ".join(map(str, step.columns))
            return f"{table} has no unique rule on {key} without nulls, so it cannot be the key: name another one, or add the rule"
    return None
