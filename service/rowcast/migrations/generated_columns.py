"""Columns that the database computes: what changes when the config adds, changes or removes their expressions."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from alembic.operations import ops

from rowcast.migrations.catalog import SET_EXPRESSION_VERSION, Definitions
from rowcast.migrations.values import DdlStep
from rowcast.resources.full_text import VECTOR_COLUMN
from rowcast.resources.sql import DIALECT, quote_identifier, quote_table
from rowcast.resources.tables import WRITTEN, Tables, is_managed


class Recomputed(ops.ExecuteSQLOp):
    """A change of how a column gets its values. ``step`` is what runs, and ``back`` takes it back."""

    def __init__(self, sql: str, back: str, *, additive: bool, needed: bool = True) -> None:
        self.step = DdlStep(sql, additive=additive, needed=needed)
        self.back = back
        super().__init__(sql)

    def reverse(self) -> Recomputed:
        """The change back."""
        return Recomputed(self.back, str(self.sqltext), additive=False)


def find_recomputed(found: Definitions, declared: Definitions, tables: Tables, version: int) -> Iterator[Recomputed]:
    """The changes of columns of managed tables that are generated in the config, in the database, or in both.

    ``version`` is PostgreSQL's.
    """
    for table in tables.metadata.tables.values():
        if not is_managed(table):
            continue
        yield from _search_that_ended(table, found)
        for column in table.c:
            name = table.key, column.name
            if name not in found.columns:
                continue
            here = found.columns[name]["definition"] if found.is_generated(name) else None
            wanted = declared.columns[name]["definition"] if column.computed is not None else None
            if here == wanted:
                continue
            if wanted is None:
                if WRITTEN in column.info and found.is_own(table):
                    alter = f"ALTER TABLE {quote_table(table.key)} ALTER COLUMN {quote_identifier(column.name)}"
                    back = _made_again(table, column, found.columns[name]["type"], here)
                    yield Recomputed(f"{alter} DROP EXPRESSION", back, additive=False)
                continue
            yield _change(table, column, found, here, wanted, version)


def _search_that_ended(table: sa.Table, found: Definitions) -> Iterator[Recomputed]:
    """The drop of the column that was searched, of a table that Rowcast has made, with its index."""
    name = table.key, VECTOR_COLUMN
    if VECTOR_COLUMN in table.c or name not in found.columns or not (found.is_generated(name) and found.is_own(table)):
        return
    row = found.columns[name]
    alter, column = f"ALTER TABLE {quote_table(table.key)}", quote_identifier(VECTOR_COLUMN)
    back = f"{alter} ADD COLUMN {column} {row['type']} GENERATED ALWAYS AS ({row['definition']}) STORED"
    yield Recomputed(f"{alter} DROP COLUMN {column}", back, additive=False, needed=False)


def _change(
    table: sa.Table, column: sa.Column[object], found: Definitions, here: str | None, wanted: str, version: int
) -> Recomputed:
    name = quote_identifier(column.name)
    alter = f"ALTER TABLE {quote_table(table.key)} ALTER COLUMN {name}"
    type_ = column.type.compile(dialect=DIALECT)
    if here is None:
        back = f"{alter} DROP EXPRESSION"
        return Recomputed(_made_again(table, column, type_, wanted), back, additive=False)
    if version >= SET_EXPRESSION_VERSION:
        return Recomputed(f"{alter} SET EXPRESSION AS ({wanted})", f"{alter} SET EXPRESSION AS ({here})", additive=True)
    back = _made_again(table, column, found.columns[table.key, column.name]["type"], here)
    return Recomputed(_made_again(table, column, type_, wanted), back, additive=True)


def _made_again(table: sa.Table, column: sa.Column[object], type_: str, expression: str | None) -> str:
    """DDL that drops a column and adds it as a generated one; its indexes and checks are compared afterwards."""
    name, null = quote_identifier(column.name), "" if column.nullable else " NOT NULL"
    return (
        f"ALTER TABLE {quote_table(table.key)} DROP COLUMN {name}, "
        f"ADD COLUMN {name} {type_} GENERATED ALWAYS AS ({expression}) STORED{null}"
    )
