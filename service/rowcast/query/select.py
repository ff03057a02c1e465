"""Statements that read: pages and single rows as JSON, and the rows of the change log that meet a condition.

Each function builds one statement from a shape, and its docstring names the values that the statement needs, in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from rowcast.query.compilation import Binds, GivenBinds, Statement, compiled, sql
from rowcast.query.condition_sql import Source, sort_key
from rowcast.query.conditions import Shape
from rowcast.query.documents import document, related_condition
from rowcast.query.keys import key_columns
from rowcast.query.pages import PageShape
from rowcast.query.projection import Projection
from rowcast.query.versions import stamp, version
from rowcast.resources.exchanged import Exchanged
from rowcast.resources.fields import Field
from rowcast.resources.full_text import RANK, RANK_FIELD
from rowcast.resources.resource import Resource
from rowcast.resources.sql import quote_literal, quote_table
from rowcast.resources.tables import Tables


def snapshot(tables: Tables) -> sa.ColumnElement[Any]:
    """The column ``snapshot``: which transactions the statement has seen."""
    return sql(tables.snapshot_sql).label("snapshot")


@dataclass(frozen=True, slots=True)
class SortStep:
    """One part of an ORDER BY: its column, the label of that among a page's rows, and the direction.

    ``declared`` is the field, and ``field`` that of its values.
    """

    column: sa.ColumnElement[Any]
    declared: Field
    field: Field
    label: str
    descending: bool

    def json(self, rows: sa.FromClause) -> sa.ColumnElement[Any]:
        """The JSON form of the copy among a page's rows."""
        return self.field.field_type.json(self.field, rows.c[self.label])

    def term(self, rows: sa.FromClause | None = None, *, reverse: bool = False) -> sa.UnaryExpression[Any]:
        """The term on the column itself or, with a page's rows, on its copy there."""
        column = sort_key(self.declared, self.column if rows is None else rows.c[self.label])
        return column.desc() if self.descending != reverse else column.asc()


def sort_steps(source: Source, order: tuple[str, ...]) -> list[SortStep]:
    """The parts of an order; the joins that they need are added to the source."""
    steps = []
    for n, step in enumerate(order):
        if step.removeprefix("-") == RANK:
            steps.append(SortStep(source.rank(), RANK_FIELD, RANK_FIELD, f"_{n}", step.startswith("-")))
            continue
        path = source.path(step.removeprefix("-"))
        steps.append(SortStep(source.column(path), path.field, path.values, f"_{n}", step.startswith("-")))
    return steps


def page(tables: Tables, shape: PageShape, where: Shape) -> Statement:
    """A page as one row: ``results`` (JSON objects with ``BETWEEN`` between them), ``size``, ``count``, ``snapshot``.

    ``results`` is null if the objects have more bytes than a page may have.

    One row beyond the page is read, to find out whether others follow (or precede, for a backward page); ``size``
    includes it. An exact count is only made if the page is not the last one, which gives the count itself. A keyset also
    returns ``keys``, for each row a JSON array with the values of its order.
    Values: the condition's, the cursor's, the limit and the offset, as far as the page has them, those for related rows.
    """
    binds = Binds()
    source = Source(tables, shape.projection.resource, binds)
    conditions = source.conditions(where, shape.after)
    steps = sort_steps(source, shape.order)
    limit: Any = binds(sa.BigInteger) if shape.limit is None else sql(shape.limit)
    one_more = limit + sql(1) if shape.limit is None else sql(shape.limit + 1)
    offset = binds(sa.BigInteger) if shape.has_offset else None
    number = sa.func.row_number().over().label("n")  # in the order in which the rows are read
    order: list[Any] = []
    keys = []
    if shape.keyset or shape.keys_first or shape.projection.related or shape.projection.highlight:
        rows = _page_rows(shape, source, conditions, steps, one_more, offset)
        item = sa.select(*document(tables, shape.projection, rows, binds)).correlate(rows).lateral("_d")
        if shape.keyset:
            keys = [sa.func.json_build_array(*(step.json(rows) for step in steps)).label("key")]
        copies = [rows.c[step.label] for step in steps] if shape.backward else []
        numbered = sa.select(json_text(item.table_valued()), number, *keys, *copies)
        items = numbered.select_from(rows.join(item, sa.true())).subquery("_q")
        order = [step.term(items) for step in steps] if shape.backward else []
    else:
        plain = sa.select(*document(tables, shape.projection, source.at(()))).select_from(source.clause)
        plain = plain.where(*conditions).order_by(*(step.term() for step in steps)).limit(one_more).offset(offset)
        items = sa.select(json_text(plain.subquery("_p").table_valued()), number).subquery("_q")
    on_page = items.c.n <= limit
    results = joined_documents(items.c.document, order, on_page, tables.page_max_bytes)
    columns = [results.label("results"), sa.func.count().label("size")]
    if keys:
        columns.append(_array(items.c.key, order, on_page).label("keys"))
    binds.rewind()
    count = _count(tables, shape, where, binds)
    if shape.count == "exact" and not shape.keyset:
        size, before = sa.func.count(), sql(0) if offset is None else offset
        is_unknown = sa.or_(size > limit, sa.and_(size == sql(0), before > sql(0)))
        count = sa.case((is_unknown, count), else_=before + size)
    return compiled(sa.select(*columns, count.label("count"), snapshot(tables)))


def row(tables: Tables, projection: Projection, where: Shape) -> Statement:
    """One row as ``result`` (a JSON object), ``version`` and ``snapshot``; no row if none matches.

    Values: the condition's, those for related rows.
    """
    return compiled(_row(tables, projection, where, Binds()).add_columns(snapshot(tables)))


def rows(tables: Tables, projection: Projection, where: Shape) -> Statement:
    """What ``row`` returns for several lists of values, each with the ``position`` of its list from 1.

    OFFSET keeps the look-up of each row an execution of its own: the planner cannot make one join of them, which might
    read the whole table. Values: an array for each value of ``row``.
    """
    binds = GivenBinds()
    one = _row(tables, projection, where, binds).offset(sql(0)).lateral("_row")
    given = binds.rows()
    return compiled(sa.select(given.c.position, *one.c, snapshot(tables)).select_from(given.join(one, sa.true())))


def _row(tables: Tables, projection: Projection, where: Shape, binds: Binds) -> sa.Select[Any]:
    resource, table = projection.resource, tables.of[projection.resource]
    source = Source(tables, resource, binds)
    condition = source.condition(where)
    item = sa.select(*document(tables, projection, table, binds)).correlate(table).lateral("_d")
    columns = sa.select(
        sa.func.row_to_json(item.table_valued()).label("result"),
        version(tables, resource, stamp(tables, resource, quote_table(table.key)), table).label("version"),
    )
    return columns.select_from(source.clause.join(item, sa.true())).where(condition)


def every_row(tables: Tables, projection: Projection) -> Statement:
    """All rows in the order of their keys, as JSON objects: ``result``. No values."""
    table, binds = tables.of[projection.resource], Binds()
    item = sa.select(*document(tables, projection, table, binds)).correlate(table).lateral("_d")
    rows = sa.select(sa.func.row_to_json(item.table_valued()).label("result"))
    rows = rows.select_from(table.join(item, sa.true()))
    return compiled(rows.order_by(*key_columns(tables, projection.resource, table)))


def match_logged(tables: Tables, resource: str, where: Shape) -> Statement:
    """The rows of the change log that meet a condition: their ``position`` in the list, from 1.

    Values: the condition's, a list of rows.
    """
    binds = Binds()
    source = Source(tables, resource, binds, logged_row(tables.of[resource]), logged="_given.document")
    condition = source.condition(where)
    rows = logged_rows(binds)
    return compiled(sa.select(rows.c.position).select_from(rows).join(source.clause, sa.true()).where(condition))


def show_logged(tables: Tables, projection: Projection) -> Statement:
    """Rows of the change log as JSON objects with their related rows: ``result``, in the order of the list.

    Values: those for related rows, a list of rows.
    """
    binds = Binds()
    base = logged_row(tables.of[projection.resource])
    item = sa.select(*document(tables, projection, base, binds)).correlate(base).lateral("_d")
    rows = logged_rows(binds)
    shown = sa.select(sa.func.row_to_json(item.table_valued()).label("result"))
    joined = rows.join(base, sa.true()).join(item, sa.true())
    return compiled(shown.select_from(joined).order_by(rows.c.position))


def logged_rows(binds: Binds) -> Any:
    """The list of logged rows that a statement is given, as rows with a ``document`` and a ``position``."""
    return sa.func.unnest(binds(postgresql.ARRAY(postgresql.JSONB))).table_valued(
        sa.column("document", postgresql.JSONB), with_ordinality="position"
    ).render_derived(name="_given")  # fmt: skip


def logged_row(table: sa.Table) -> sa.FromClause:
    """The logged row ``_given.document`` as a row of the table."""
    document = "_given.document"
    renamed = [column for column in table.c if column.name != column.key]
    if renamed:
        pairs = (f"{quote_literal(column.name)}, {document} -> {quote_literal(column.key)}" for column in renamed)
        document = f"({document} || {' || '.join(f'jsonb_build_object({pair})' for pair in pairs)})"
    record = sa.func.jsonb_populate_record(
        sa.literal_column(f"NULL::{quote_table(table.key)}"), sa.literal_column(document, postgresql.JSONB)
    ).table_valued(*(sa.column(column.name, column.type) for column in table.c))
    other: dict[str, sa.ColumnElement[Any]] = {}
    for column in table.c:
        if isinstance(column.type, Exchanged) and column.type.json_type is not None:
            text = sql(f"_given.document ->> {quote_literal(column.key)}")
            value = column.type.from_json(sa.cast(text, column.type.json_type))
            other[column.key] = sa.type_coerce(value, column.type).label(column.key)
    if not other and not renamed:
        return record.lateral("_logged")
    rows = record.alias("_row")
    columns = (other.get(column.key, rows.c[column.name].label(column.key)) for column in table.c)
    return sa.select(*columns).lateral("_logged")


def related_size(tables: Tables, shape: PageShape, where: Shape, already: Projection | None, most: int) -> Statement:
    """How many related rows a page would have, ``rows``, and how many bytes of JSON these are, about, ``bytes``.

    Related rows that ``already`` has are not counted, and at most ``most`` rows are. Values: as for ``page``, with those for
    related rows.
    """
    binds = Binds()
    source = Source(tables, shape.projection.resource, binds)
    conditions = source.conditions(where, shape.after)
    steps = sort_steps(source, shape.order)
    limit: Any = binds(sa.BigInteger) if shape.limit is None else sql(shape.limit)
    offset = binds(sa.BigInteger) if shape.has_offset else None
    found = _page_rows(shape, source, conditions, steps, limit, offset)
    base = sa.select(*found.c).cte("_page")
    return _total_size(list(_related_sizes(tables, shape.projection, already, base, base, binds)), most)


def related_size_of_logged(tables: Tables, projection: Projection, already: Projection | None, most: int) -> Statement:
    """``related_size`` for rows of the change log. Values: a list of rows, those for related rows."""
    binds = Binds()
    rows, logged = logged_rows(binds), logged_row(tables.of[projection.resource])
    base = sa.select(*logged.c).select_from(rows.join(logged, sa.true())).cte("_page")
    return _total_size(list(_related_sizes(tables, projection, already, base, base, binds)), most)


def _total_size(sizes: Sequence[sa.Select[Any]], most: int) -> Statement:
    """The number of rows of some queries, up to ``most``, and the sum of their ``bytes``."""
    related = sa.union_all(*sizes).limit(sql(most)).subquery("_related")
    total = sa.cast(sa.func.coalesce(sa.func.sum(related.c.bytes), sql(0)), sa.BigInteger)
    counted: Any = sa.select(sa.func.count().label("rows"), total.label("bytes"))
    return compiled(counted.select_from(related))


def _related_sizes(
    tables: Tables,
    shown: Projection,
    already: Projection | None,
    rows: sa.FromClause,
    joined: sa.FromClause,
    binds: Binds,
) -> Iterator[sa.Select[Any]]:
    """For each relation, at any depth, a query with one row for each related row: its ``bytes``, about.

    ``rows`` are those of the projection in ``joined``, the clause that leads to them. Conditions on related rows bind their
    values in the order of ``document``.
    """
    resource = tables.resources[shown.resource]
    known = {} if already is None else dict(already.related)
    for name, inner in shown.related:
        relation = tables.resources.relations(resource.name)[name]
        target = tables.of[relation.target].alias()
        target_key, own_key = (key_columns(tables, *of)[0] for of in ((relation.target, target), (resource.name, rows)))
        if relation.link is not None:
            link = tables.links[relation.link.table].alias()
            deeper = joined.join(link, link.c[relation.link.source_column] == own_key)
            deeper = deeper.join(target, link.c[relation.link.target_column] == target_key)
        elif relation.many:
            deeper = joined.join(target, target.c[relation.column] == own_key)
        else:
            deeper = joined.join(target, target_key == rows.c[relation.column])
        sizes = list(_related_sizes(tables, inner, known.get(name), target, deeper, binds))
        if name not in known:
            names = sum(len(column) + 4 for column in inner.columns)
            texts = [sa.cast(target.c[column], sa.Text) for column in inner.columns]
            lengths = [sa.func.coalesce(sa.func.octet_length(text), sql(4)) for text in texts]
            sizes.append(sa.select(sum(lengths, sql(names)).label("bytes")).select_from(deeper))
        if live := tables.live(relation.target, target):
            sizes = [size.where(*live) for size in sizes]
        if inner.where:
            condition = related_condition(tables, inner, target, binds)
            sizes = [size.where(condition) for size in sizes]
        yield from sizes


def _page_rows(
    shape: PageShape, source: Source, conditions: list[Any], steps: list[SortStep], limit: Any, offset: Any
) -> sa.Subquery:
    """The rows of a page with all their columns and, by label, the columns of its order."""
    table = source.at(())
    key = key_columns(source.tables, source.resource, table)
    columns = [step.column.label(step.label) for step in steps]
    rows = sa.select(*(key if shape.keys_first else table.c), *columns).select_from(source.clause).where(*conditions)
    rows = rows.order_by(*(step.term(reverse=shape.backward) for step in steps)).limit(limit).offset(offset)
    if not shape.keys_first:
        return rows.subquery("_t")
    keys = rows.subquery("_k")
    joined = source.tables.of[source.resource].alias("_w")
    found = sa.select(*joined.c, *(keys.c[step.label] for step in steps))
    same = sa.and_(*(joined.c[name] == keys.c[name] for name in (str(column.key) for column in key)))
    found = found.select_from(keys.join(joined, same))
    return found.order_by(*(step.term(keys) for step in steps)).subquery("_t")


def _count(tables: Tables, shape: PageShape, where: Shape, binds: Binds) -> Any:
    """The number of rows that meet the condition: exact, PostgreSQL's estimate if there is none of a client's, or null."""
    if shape.count == "none":
        return sa.cast(sa.null(), sa.BigInteger)
    source = Source(tables, shape.projection.resource, binds)
    conditions = source.conditions(where)
    counted = sa.select(sa.func.count()).select_from(source.clause).where(*conditions).scalar_subquery()
    resource = tables.resources[shape.projection.resource]
    part = _estimated_part(resource, where)
    if part is None or shape.count == "exact" or tables.resources.traits_of(resource.name).policies:
        return counted  # the estimate counts rows that a policy hides
    analyzed: sa.ColumnElement[int] = sa.literal_column(f"(nullif(reltuples, -1) * {part})::bigint")
    table = quote_literal(quote_table(tables.of[resource.name].key))
    estimate = sa.select(analyzed).select_from(sa.table("pg_class", schema="pg_catalog"))
    estimate = estimate.where(sa.literal_column(f"pg_class.oid = {table}::regclass AND relkind <> 'v'"))
    return sa.func.coalesce(estimate.scalar_subquery(), counted)


def _estimated_part(resource: Resource, where: Shape) -> str | None:
    """Which part of the table's rows meets a condition, as SQL beside ``pg_class``, by statistics; ``None`` if they do not say.

    Without a condition that is all of them, and the rows that are marked as deleted, and the others, have a part of their own.
    """
    if not where:
        return "1"
    marks = resource.soft_delete
    if marks is None:
        return None
    nulls = _NULLS_SQL.format(quote_literal(resource.columns[marks.field].stored_column))
    parts = {True: nulls, False: f"(1 - {nulls})"}
    return next((part for null, part in parts.items() if where == ("and", ("is", marks.field, "isnull", null))), None)


# Statistics that include inheriting tables are the only ones of a partitioned table.
_NULLS_SQL: Final = (
    "(SELECT null_frac FROM pg_catalog.pg_stats"
    " WHERE schemaname = (SELECT nspname FROM pg_catalog.pg_namespace WHERE pg_namespace.oid = relnamespace)"
    " AND tablename = relname AND attname = {}"
    " ORDER BY inherited LIMIT 1)"
)


def _array(items: sa.ColumnElement[Any], order: list[Any], chosen: sa.ColumnElement[bool]) -> sa.ColumnElement[Any]:
    """The chosen items as an array of PostgreSQL, in an order or as they come."""
    listed = sa.func.array_agg(postgresql.aggregate_order_by(items, *order) if order else items).filter(chosen)
    return sa.func.coalesce(listed, sql("'{}'"))


def joined_documents(
    documents: sa.ColumnElement[Any], order: list[Any], chosen: sa.ColumnElement[bool], max_bytes: int | None = None
) -> sa.ColumnElement[Any]:
    """The chosen documents as bytes, with ``BETWEEN`` between them, in an order or as they come; null for more bytes."""
    between: Any = sql("E',\\n'")
    last = postgresql.aggregate_order_by(between, *order) if order else between
    text = sa.func.string_agg(documents, last).filter(chosen)
    joined = sa.func.convert_to(sa.func.coalesce(text, sql("''")), sql("'UTF8'"))
    if max_bytes is None:
        return joined
    return sa.case((sa.func.octet_length(text) > sql(max_bytes), sa.null()), else_=joined)  # one aggregate, seen twice


def json_text(row: sa.ColumnElement[Any]) -> sa.ColumnElement[str]:
    """The JSON of a row, as text."""
    return sa.cast(sa.func.row_to_json(row), sa.Text).label("document")
