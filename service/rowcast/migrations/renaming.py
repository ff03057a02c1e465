"""Renamed columns and tables: the config names the former name, and the database still has it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import sqlalchemy as sa
from alembic.operations import ops

from rowcast.migrations.values import Connection, DdlStep
from rowcast.resources.sql import cut_identifier, quote_identifier, quote_literal, quote_table, split_table
from rowcast.resources.tables import RENAMED_FROM, Tables, is_managed

_COLUMNS_SQL: Final = """
SELECT name, array_remove(array_agg(attname::text), NULL) FROM unnest($1::text[]) AS name
LEFT JOIN pg_attribute ON attrelid = to_regclass(name) AND attnum > 0 AND NOT attisdropped
WHERE to_regclass(name) IS NOT NULL GROUP BY name
"""


class Rename(ops.ExecuteSQLOp):
    """A rename, which does nothing where a sync has done it already. ``step`` is what it runs otherwise."""

    def __init__(self, table: str, old: str, new: str, column: bool) -> None:
        self.table, self.old, self.new, self.column = table, old, new, column
        if column:
            statement = (
                f"ALTER TABLE {quote_table(table)} RENAME COLUMN {quote_identifier(old)} TO {quote_identifier(new)};"
            )
            needed, extra = f"{_has_column(table, old)} AND NOT {_has_column(table, new)}", ""
        else:
            statement = f"ALTER TABLE {quote_table(old)} RENAME TO {quote_identifier(split_table(new)[1])};"
            needed, extra = f"{_is_there(old)} AND NOT {_is_there(new)}", _rename_key(old, new)
        self.step = DdlStep(statement, additive=True, needed=True)
        super().__init__(f"DO $$ BEGIN IF {needed} THEN {statement} {extra}END IF; END $$")

    def reverse(self) -> Rename:
        """The rename back."""
        return Rename(self.table, self.new, self.old, self.column)


async def find_renames(connection: Connection, tables: Tables) -> list[Rename]:
    """The renames that the config declares and the database still needs, tables first."""
    declared = tables.metadata.tables
    former = [str(table.info[RENAMED_FROM]) for table in declared.values() if RENAMED_FROM in table.info]
    if not former and not any(RENAMED_FROM in column.info for table in declared.values() for column in table.c):
        return []
    names = {quote_table(name): name for name in (*declared, *former)}
    found = {names[name]: columns for name, columns in await connection.fetch(_COLUMNS_SQL, list(names))}
    return [*_renamed_tables(declared, found), *_renamed_columns(tables, found)]


def _renamed_tables(declared: Any, found: dict[str, list[str]]) -> Iterator[Rename]:
    for name, table in declared.items():
        old = table.info.get(RENAMED_FROM)
        if old in found and old not in declared and name not in found:
            found[name] = found.pop(old)
            yield Rename(name, old, name, column=False)


def _renamed_columns(tables: Tables, found: dict[str, list[str]]) -> Iterator[Rename]:
    for name, table in tables.metadata.tables.items():
        columns = found.get(name, [])
        for column in table.c:
            old = column.info.get(RENAMED_FROM)
            if old in columns and old not in table.c and column.name not in columns:
                yield Rename(name, old, column.name, column=True)
        if name in tables.links and is_managed(
            table
        ):  # the model of one of its sides may have another name than before
            missing = [column.name for column in table.c if column.name not in columns]
            unknown = [column for column in columns if column not in table.c]
            if len(missing) == len(unknown) == 1 and _has_renamed_side(table):
                yield Rename(name, unknown[0], missing[0], column=True)


def _has_renamed_side(table: sa.Table) -> bool:
    return any(RENAMED_FROM in key.column.table.info for key in table.foreign_keys)


def _is_there(table: str) -> str:
    return f"to_regclass({quote_literal(quote_table(table))}) IS NOT NULL"


def _has_column(table: str, column: str) -> str:
    return (
        f"EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass({quote_literal(quote_table(table))}) "
        f"AND attname = {quote_literal(column)} AND NOT attisdropped)"
    )


def _rename_key(old: str, new: str) -> str:
    """The primary key's name shows that the table is Rowcast's own."""
    here, there = (cut_identifier(f"pk_{split_table(name)[1]}") for name in (old, new))
    return (
        f"IF EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass({quote_literal(quote_table(new))}) "
        f"AND conname = {quote_literal(here)}) THEN "
        f"ALTER TABLE {quote_table(new)} RENAME CONSTRAINT {quote_identifier(here)} TO {quote_identifier(there)}; END IF; "
    )
