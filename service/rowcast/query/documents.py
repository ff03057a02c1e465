"""The SQL of a row's JSON document."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from rowcast.query.compilation import Binds, sql
from rowcast.query.condition_sql import Source
from rowcast.query.dependencies import paths_in
from rowcast.query.keys import has_key_in, key_columns
from rowcast.query.projection import Projection
from rowcast.resources.full_text import HIGHLIGHT, FullText
from rowcast.resources.resource import Relation, Resource
from rowcast.resources.sql import quote_literal
from rowcast.resources.tables import Tables


def document(
    tables: Tables, projection: Projection, base: sa.FromClause, binds: Binds | None = None
) -> list[sa.ColumnElement[Any]]:
    """The columns whose ``to_json`` is the JSON form of a row of ``base``.

    ``binds`` are for the search whose findings are shown, and for the conditions on related rows, where the projection has
    some: first those of the rows that a related
    row is shown with, then its own.
    """
    resources = tables.resources
    resource = resources[projection.resource]
    columns: list[sa.ColumnElement[Any]] = []
    for name in projection.columns:
        field = resources.key_of(resource.columns[name])
        columns.append(field.field_type.json(field, base.c[name]).label(name))
    if projection.highlight:
        assert binds is not None
        assert resource.search is not None
        columns.append(_highlight(resource.search, projection.highlight, base, binds).label(HIGHLIGHT))
    for name, inner in projection.related:
        relation = resources.relations(resource.name)[name]
        columns.append(_related(tables, relation, inner, resource, base, binds).label(name))
    return columns


def _highlight(search: FullText, names: tuple[str, ...], base: sa.FromClause, binds: Binds) -> sa.ColumnElement[Any]:
    """A JSON object with what the search has found in each column."""
    query = search.query(binds(sa.Text()))
    parts: list[Any] = []
    for name in names:
        parts += [sql(quote_literal(name)), search.headline(base.c[name], query)]
    return sa.func.json_build_object(*parts)


def _related(
    tables: Tables,
    relation: Relation,
    shown: Projection,
    resource: Resource,
    base: sa.FromClause,
    binds: Binds | None,
) -> sa.ScalarSelect[Any]:
    """The related row as a JSON object or null, or the related rows in the order of their keys as a JSON array."""
    target = tables.of[relation.target].alias()
    target_key, *more = key_columns(tables, relation.target, target)  # only rows of a relation to many may have more
    rows = (
        sa.select(*document(tables, shown, target, binds)).correlate(base).where(*tables.live(relation.target, target))
    )
    if shown.where:
        assert binds is not None
        rows = rows.where(related_condition(tables, shown, target, binds))
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
    items = sa.func.json_agg(rows.order_by(target_key, *more).subquery().table_valued())
    return sa.select(sa.func.coalesce(items, sa.literal_column("'[]'::json"))).scalar_subquery()


def related_condition(tables: Tables, shown: Projection, target: sa.FromClause, binds: Binds) -> sa.ColumnElement[bool]:
    """The condition on the rows of a relation; if it needs joins, a subquery selects the keys."""
    direct = not any("__" in path for path in paths_in(shown.where))
    source = Source(tables, shown.resource, binds, target if direct else tables.of[shown.resource].alias())
    rows, condition = source.at(()), source.condition(shown.where)
    if direct:
        return condition
    found = sa.select(*key_columns(tables, shown.resource, rows)).select_from(source.clause).where(condition)
    return has_key_in(tables, shown.resource, target, found)
