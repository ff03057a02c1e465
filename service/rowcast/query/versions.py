"""The SQL of a row's version."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from rowcast.query.compilation import sql
from rowcast.resources.tables import Tables

XMIN: Final = "_xmin"  # the label of ``xmin()``


def xmin(table: str) -> sa.ColumnElement[str]:
    """The number of the transaction that wrote a row, as text. (System columns, PostgreSQL 5.6)"""
    column: sa.ColumnElement[str] = sa.literal_column(f"{table}.xmin::text", sa.Text)
    return column.label(XMIN)


def stamp(tables: Tables, resource: str, row: str) -> sa.ColumnElement[str]:
    """What changes with each change of a row of the relation or alias ``row``: its ``xmin``, or a view's content."""
    if not tables.resources[resource].view:
        return xmin(row)
    content: sa.ColumnElement[str] = sa.literal_column(f"md5(({row}.*)::text)", sa.Text)
    return content.label(XMIN)


def version(
    tables: Tables, resource: str, written_by: sa.ColumnElement[str], base: sa.FromClause
) -> sa.ColumnElement[str]:
    """The version of a row of ``base``: every change of the row or of its links gives it another one.

    It is the transaction that wrote the row, and for each many_to_many field the number of links and the newest one's
    transaction.
    """
    parts = [written_by]
    for name in tables.resources[resource].links:
        relation = tables.resources.relations(resource)[name]
        assert relation.link is not None
        link = tables.links[relation.link.table].alias(f"_links_{name}")
        newest = sa.func.coalesce(sa.func.max(sa.cast(xmin(f"_links_{name}"), sa.BigInteger)), sql(0))
        links = sa.func.concat(sql("'.'"), sa.func.count(), sql("'.'"), newest)
        own = link.c[relation.link.source_column] == base.c[tables.resources[resource].key.column_name]
        parts.append(sa.select(links).where(own).correlate(base).scalar_subquery())
    return sa.func.concat(*parts) if len(parts) > 1 else written_by
