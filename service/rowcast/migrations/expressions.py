"""The SQL expressions of the config, tried out by the database: sentences about those that it does not take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import asyncpg
import sqlalchemy as sa
from sqlalchemy.schema import CreateTable

from rowcast.migrations.catalog import STAND_IN_SQL, temporary
from rowcast.migrations.values import Connection
from rowcast.resources.full_text import VECTOR_COLUMN
from rowcast.resources.resource import Resource
from rowcast.resources.rule_indexes import rule_indexes
from rowcast.resources.sql import DIALECT, cut_identifier, quote_identifier
from rowcast.resources.tables import Tables

NULLS_EQUAL_VERSION: Final = 15  # of PostgreSQL, which has NULLS NOT DISTINCT


async def find_wrong_expressions(connection: Connection, tables: Tables) -> list[str]:
    """A sentence about each expression of a resource that PostgreSQL refuses, with what it says of it.

    Each is tried out on an empty temporary table in a savepoint, which is rolled back.
    """
    wrong: list[str] = []
    for resource in tables.resources.values():
        table = tables.metadata.tables.get(resource.table)
        if table is None or not (resource.checks or resource.search or rule_indexes(table) or _generated(resource)):
            continue
        savepoint = connection.transaction()
        await savepoint.start()
        try:
            await connection.execute(f"{STAND_IN_SQL}; {_bare_table(table)}")
            for what, statement, otherwise in _attempts(resource, table, connection.get_server_version().major):
                attempt = connection.transaction()
                await attempt.start()
                try:
                    await connection.execute(statement)
                    await attempt.commit()
                except asyncpg.PostgresError as error:
                    await attempt.rollback()
                    wrong.append(f"{what} of {resource.name}: {str(error.message).rstrip('.')}")
                    if otherwise:
                        await connection.execute(otherwise)
        finally:
            await savepoint.rollback()
    return wrong


def _generated(resource: Resource) -> bool:
    return any(field.generated for field in resource.columns.values())


def _bare_table(table: sa.Table) -> str:
    """DDL of a temporary table with the columns alone, without those that are generated."""
    columns = (sa.Column(column.name, column.type) for column in table.c if column.computed is None)
    made = sa.Table(cut_identifier(table.key), sa.MetaData(), *columns, schema="pg_temp")
    return str(CreateTable(made).compile(dialect=DIALECT))


def _attempts(resource: Resource, table: sa.Table, version: int) -> Iterator[tuple[str, str, str]]:
    """What is tried out, the statement, and one that serves the following attempts if it fails."""
    name = temporary(table.key)
    for field in resource.columns.values():
        if field.generated:
            column = (
                f"{quote_identifier(field.stored_column)} {table.c[field.stored_column].type.compile(dialect=DIALECT)}"
            )
            add = f"ALTER TABLE {name} ADD COLUMN {column}"
            what = f"`generated: {field.generated}` of the field {field.name}"
            yield what, f"{add} GENERATED ALWAYS AS ({field.generated}) STORED", add
    if resource.search is not None:
        expression = table.c[VECTOR_COLUMN].computed.sqltext  # type: ignore[union-attr]
        add = f"ALTER TABLE {name} ADD COLUMN {quote_identifier(VECTOR_COLUMN)} tsvector"
        yield "`search`", f"{add} GENERATED ALWAYS AS ({expression}) STORED".replace(r"\:", ":"), add
    for check in resource.checks:
        yield f"`expr: {check.expr}`", f"ALTER TABLE {name} ADD CHECK ({check.expr})", ""
    for rule in resource.rules:
        if rule.where:
            yield f"`where: {rule.where}`", f"CREATE INDEX ON {name} ((1)) WHERE ({rule.where})", ""
        if rule.nulls_equal and version < NULLS_EQUAL_VERSION:
            needed = f"it needs PostgreSQL {NULLS_EQUAL_VERSION}, and this is {version}"
            yield "`nulls: equal`", f"DO $$ BEGIN RAISE '{needed}'; END $$", ""
