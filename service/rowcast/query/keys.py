"""The SQL of rows' keys, which may have several columns."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from rowcast.resources.composite import key_column
from rowcast.resources.tables import Tables


def key_columns(tables: Tables, resource: str, rows: sa.FromClause) -> list[sa.ColumnElement[Any]]:
    """The columns of the key among some rows of a resource."""
    return [rows.c[name] for name in tables.resources[resource].key_columns]


def key_text(tables: Tables, resource: str, rows: sa.FromClause) -> sa.Label[Any]:
    """The key of a row as text: ``key``."""
    columns = key_columns(tables, resource, rows)
    parts = tables.resources.key_of(tables.resources[resource].key).parts
    return (key_column(parts, columns) if parts else sa.cast(columns[0], sa.Text)).label("key")


def has_key_in(tables: Tables, resource: str, rows: sa.FromClause, found: sa.Select[Any]) -> sa.ColumnElement[bool]:
    """Whether the key of a row is among those that a query selects, with all their columns."""
    columns = key_columns(tables, resource, rows)
    return columns[0].in_(found) if len(columns) == 1 else sa.tuple_(*columns).in_(found)
