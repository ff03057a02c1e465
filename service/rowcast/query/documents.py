"""The SQL of a row's JSON document, and of its version."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from rowcast.query.compilation import sql
from rowcast.query.projection import Projection
from rowcast.resources.resource import Relation, Resource
from rowcast.resources.tables import Tables

XMIN: Final = "_xmin"  # the label of ``xmin()``


def document(tables: Tables, projection: Projection, base: sa.FromClause) -> list[sa.ColumnElement[Any]]:
    """The columns whose ``to_json`` is the JSON form of a row of ``base``."""
    resources = tables.resources
    resource = resources[projection.resource]
    columns: list[sa.ColumnElement[Any]] = []
    for name in projection.columns:
        field = resources.key_of(resource.columns[name])
        columns.append(field.field_type.json(field, base.c[name]).label(name))
    for name, inner in projection.related:
        columns.append(_related(tables, resources.relations(resource.name)[name], inner, resource, base).label(name))
    return columns


def _related(
    tables: Tables, relation: Relation, shown: Projection, resource: Resource, base: sa.FromClause
) -> sa.ScalarSelect[Any]:
    """The related row as a JSON object or null, or the related rows in the order of their keys as a JSON array."""
    target = tables.of[relation.target].alias()
    target_key = target.c[tables.resources[relation.target].key.column_name]
    rows = sa.select(*document(tables, shown, target)).correlate(base)
    if not relation.many:
        one = rows.where(target_key == base.c[relation.column]).subquery()
        return sa.select(sa.func.row_to_json(one.table_valued())).scalar_subquery()
    own_key = base.c[resource.key.column_name]
    if relation.link is None:
        rows = rows.where(target.c[relation.column] == own_key)
    else:
        link = tables.links[relation.link.table].alias()
        rows = rows.select_from(target.join(link, link.c[relation.link.target_column] == target_key))
        rows = rows.where(link.c[relation.link.source_column] == own_key)
    items = sa.func.json_agg(rows.order_by(target_key).subquery().table_valued())
    return sa.select(sa.func.coalesce(items, sa.literal_column("'[]'::json"))).scalar_subquery()


def xmin(table: str) -> sa.ColumnElement[str]:
    """The number of the transaction that wrote a row, as text. (System columns, PostgreSQL 5.6)"""
    column: sa.ColumnElement[str] = sa.literal_column(f"{table}.xmin::text", sa.Text)
    return column.label(XMIN)


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
