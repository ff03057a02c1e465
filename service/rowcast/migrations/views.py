"""Views in the database: whether those that the config names are there, and have the columns of their fields.

They are never made or altered, so each difference is a sentence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import asyncpg
import sqlalchemy as sa

from rowcast.migrations.catalog import Catalog, Definitions, columns_as_declared, read_catalog
from rowcast.migrations.compatibility import serves
from rowcast.migrations.values import Connection
from rowcast.resources.tables import IMPLIED_LIMIT, Tables

VIEW_KINDS: Final[Mapping[str, str]] = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}
_Columns = Mapping[tuple[str, str], asyncpg.Record]


async def find_tables_that_are_views(connection: Connection, tables: Tables) -> list[str]:
    """A sentence for each resource over a view that is declared as one over a table."""
    kinds = _kinds(await read_catalog(connection, tables.metadata))
    return [
        f"{name} is {VIEW_KINDS[kind]}: give its resource `view: true`"
        for name, kind in kinds.items()
        if kind in VIEW_KINDS
    ]


async def find_view_problems(connection: Connection, tables: Tables) -> list[str]:
    """A sentence for each declared view that is missing, is a table, or does not have the columns of its fields."""
    views = tables.views.tables
    if not views:
        return []
    catalog = await read_catalog(connection, tables.views)
    kinds = _kinds(catalog)
    found = Definitions.of(catalog)
    present = [view for name, view in views.items() if kinds.get(name) in VIEW_KINDS]
    declared = await columns_as_declared(connection, present)
    problems = [sentence for view in present for sentence in _of_columns(view, found, declared)]
    for name in views:
        if name not in kinds:
            problems.append(
                f"there is no view {name}: create it, since Rowcast makes no views; or name another `table`"
            )
        elif kinds[name] not in VIEW_KINDS:
            problems.append(f"{name} is a table: remove `view: true`; the class ReadOnlyModelViewSet only reads it")
    return problems


def _kinds(catalog: Catalog) -> dict[str, str]:
    """What each relation is, as one character (``pg_class.relkind``)."""
    return {row["table"]: row["type"] for row in catalog if row["kind"] == "table"}


def _of_columns(view: sa.Table, found: Definitions, declared: _Columns) -> Iterator[str]:
    """The columns that a view lacks, and those whose type does not serve its field."""
    for name, column in view.c.items():
        row = found.columns.get((view.key, name))
        if row is None:
            yield f"the view {view.key} has no column {name}"
            continue
        wanted = declared[view.key, name]["type"]
        enum = found.labels((view.key, name)) is not None
        implied = IMPLIED_LIMIT in column.info
        if row["type"] != wanted and not serves(row["base"], wanted, own=False, implied=implied, enum=enum):
            yield f"{view.key}.{name} of the view is {row['type']}, and its field needs {wanted}: change its type, or cast it"
