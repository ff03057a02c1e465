"""A query as a value, and the SQL that it becomes, compiled once a shape.

What a request asks for has a *shape* (which lookups on which fields, which order, which relations, which kind of page)
and *values*. Statements are built by SQLAlchemy from the shape alone, with every value a bound parameter, and kept;
from then on a request costs one look-up by shape and the statement's arguments in their order.

Conditions carry both: ``shape`` is hashable and says everything about the SQL, ``values`` are what it binds, in the
order of the shape.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from rowcast.query.conditions import (
    Shape,
)
from rowcast.query.projection import Projection
from rowcast.resources.fields import Field, Kind
from rowcast.resources.lookups import LOOKUPS, Lookup, Takes
from rowcast.resources.resource import Path, Relation, Resource, Through
from rowcast.resources.sql import DIALECT, quote_identifier, quote_literal
from rowcast.resources.tables import Tables
from rowcast.resources.types import make_field

BETWEEN: Final = b",\n"  # the documents of a page; inside of one there is no line break


@dataclass(frozen=True, slots=True)
class Statement:
    """Compiled SQL, where each of its arguments stands among the values given, and the resources that it may change."""

    sql: str
    order: tuple[int, ...]
    changes: frozenset[str] = frozenset()

    def arguments(self, values: Sequence[Any]) -> list[Any]:
        """The values in the order of ``$1, $2, …``."""
        return [values[position] for position in self.order]


@dataclass(frozen=True, slots=True)
class PageShape:
    """The shape of a page, all but its condition.

    ``count`` is ``exact``, ``estimated`` or ``none``. ``limit`` is the number of rows, where it is always the same:
    PostgreSQL then knows it when it plans. ``offset`` is whether the page starts at one. ``after`` is the shape of the
    cursor's condition, for a page that starts behind a row; ``backward`` reads such a page from its end; ``deep`` looks
    up the keys of the page before it joins the rows.
    """

    projection: Projection
    order: tuple[str, ...]
    count: str = "exact"
    limit: int | None = None
    offset: bool = False
    keyset: bool = False
    after: Shape = ()
    backward: bool = False
    deep: bool = False


class _Binds:
    """Bound parameters in the order in which their values are given; ``again`` hands the same ones out once more."""

    def __init__(self) -> None:
        self._made: list[sa.BindParameter[Any]] = []
        self._next = 0

    def __call__(self, type_: Any) -> sa.BindParameter[Any]:
        if self._next == len(self._made):
            self._made.append(sa.bindparam(f"v{self._next}", type_=type_))
        self._next += 1
        return self._made[self._next - 1]

    def again(self) -> None:
        self._next = 0


@dataclass(frozen=True, slots=True)
class _Step:
    """One part of an ORDER BY: what it sorts by, the name of that among a page's rows, and the direction."""

    column: sa.ColumnElement[Any]
    values: Field
    name: str
    down: bool

    def shown(self, rows: sa.FromClause) -> sa.ColumnElement[Any]:
        """The JSON form of its copy."""
        return self.values.field_type.json(self.values, rows.c[self.name])

    def by(self, rows: sa.FromClause | None = None, *, reverse: bool = False) -> sa.UnaryExpression[Any]:
        """The term on the column itself or, given a page's rows, on its copy there."""
        column = self.column if rows is None else rows.c[self.name]
        return column.desc() if self.down != reverse else column.asc()


class _Source:
    """A FROM clause that grows by the outer joins that paths over relations to one row need.

    ``logged`` is the JSON of ``base`` where that is a logged row, whose links are those that it had then.
    """

    def __init__(self, queries: Queries, resource: str, base: sa.FromClause, *, logged: str | None = None) -> None:
        self.queries = queries
        self.resource = resource
        self.logged = logged
        self.clause: sa.FromClause = base
        self._joined: dict[tuple[str, ...], sa.FromClause] = {(): base}

    def column(self, path: Path) -> sa.ColumnElement[Any]:
        """The column at the end of a path over relations to one row."""
        if path.steps and path.field.primary_key:
            return self.at(path.steps[:-1]).c[path.steps[-1].column]  # this side has the key, too
        return self.at(path.steps).c[path.column]

    def at(self, steps: tuple[Relation, ...]) -> sa.FromClause:
        """The table that the relations lead to, joined once."""
        names = tuple(step.name for step in steps)
        if names not in self._joined:
            near, step = self.at(steps[:-1]), steps[-1]
            far = self.queries.table(step.target).alias("_" + "__".join(names))
            self.clause = self.clause.outerjoin(far, near.c[step.column] == far.c[self.queries.key(step.target)])
            self._joined[names] = far
        return self._joined[names]


class Queries:
    """The statements of one configuration, each compiled when its shape is first asked for and then kept.

    ``compilations`` counts them. The values that a statement's arguments come from are named at each method.
    """

    def __init__(self, tables: Tables, *, bound: int = 2048) -> None:
        self.tables = tables
        self.resources = tables.resources
        self.compilations = 0
        self.page = lru_cache(bound)(self._page)
        self.select_row = lru_cache(bound)(self._select_row)
        self.insert = lru_cache(bound)(self._insert)
        self.update = lru_cache(bound)(self._update)
        self.delete = lru_cache(bound)(self._delete)
        self.match_logged = lru_cache(bound)(self._match_logged)
        self.select_instances = lru_cache(bound)(self._select_rows)
        self.aggregate = lru_cache(bound)(self._aggregate)
        self.bulk_update = lru_cache(bound)(self._bulk_update)
        self.bulk_insert = lru_cache(bound)(self._bulk_insert)
        self.insert_row = lru_cache(bound)(self._insert_row)
        self.through_rows = lru_cache(bound)(self._through_rows)
        self.reads = lru_cache(bound)(self._reads)

    def table(self, resource: str) -> sa.Table:
        """The table of a resource."""
        return self.tables.of[resource]

    def key(self, resource: str) -> str:
        """The name of a resource's key column."""
        return self.resources[resource].key.column_name

    # --- reading

    def _page(self, page: PageShape, where: Shape) -> Statement:
        """A page as one row: ``results`` (JSON objects with ``BETWEEN`` them), ``size``, ``count`` and ``snapshot``.

        One row beyond the page is read, to know whether others follow or, for a backward page, precede: ``size`` counts
        it, too. An exact count is not made where the page is the last one, which says how many there are. A keyset also gives ``keys``, for each row a JSON array with the values of ``page.order``. Values: the
        condition's, the cursor's, the limit and the offset, of those that the page has.
        """
        resource = page.projection.resource
        binds = _Binds()
        source = _Source(self, resource, self.table(resource))
        conditions = [self._condition(shape, source, binds) for shape in (where, page.after) if shape]
        steps = []
        for n, step in enumerate(page.order):
            path = self.resources.resolve(resource, step.removeprefix("-"))
            steps.append(_Step(source.column(path), path.values, f"_{n}", step.startswith("-")))
        limit: Any = binds(sa.BigInteger) if page.limit is None else _sql(page.limit)
        with_snapshot = limit + _sql(1) if page.limit is None else _sql(page.limit + 1)
        offset = binds(sa.BigInteger) if page.offset else None
        number = sa.func.row_number().over().label("n")  # in the order in which the rows are read
        order: list[Any] = []
        sorted_by = []
        if page.keyset or page.deep or page.projection.related:
            rows = self._select_instances(page, source, conditions, steps, with_snapshot, offset)
            document = sa.select(*self._document(page.projection, rows)).correlate(rows).lateral("_d")
            if page.keyset:
                sorted_by = [sa.func.json_build_array(*(step.shown(rows) for step in steps)).label("key")]
            copies = [rows.c[step.name] for step in steps] if page.backward else []
            shown = sa.select(_json_text(document.table_valued()), number, *sorted_by, *copies)
            each = shown.select_from(rows.join(document, sa.true())).subquery("_q")
            order = [step.by(each) for step in steps] if page.backward else []
        else:
            plain = sa.select(*self._document(page.projection, source.at(()))).select_from(source.clause)
            plain = (
                plain.where(*conditions).order_by(*(step.by() for step in steps)).limit(with_snapshot).offset(offset)
            )
            each = sa.select(_json_text(plain.subquery("_p").table_valued()), number).subquery("_q")
        kept = each.c.n <= limit
        columns = [_joined(each.c.document, order, kept).label("results"), sa.func.count().label("size")]
        if sorted_by:
            columns.append(_list_of(each.c.key, order, kept).label("keys"))
        binds.again()
        count = self._count(resource, where, page.count, binds)
        if page.count == "exact" and not page.keyset:
            size, before = sa.func.count(), _sql(0) if offset is None else offset
            elsewhere = sa.or_(size > limit, sa.and_(size == _sql(0), before > _sql(0)))
            count = sa.case((elsewhere, count), else_=before + size)
        return self._statement(sa.select(*columns, count.label("count"), _SNAPSHOT))

    def _select_instances(
        self, page: PageShape, source: _Source, conditions: list[Any], steps: list[_Step], limit: Any, offset: Any
    ) -> sa.Subquery:
        """The rows of a page with all their columns and, by name, what the order sorts by."""
        base = source.at(())
        key = base.c[self.key(page.projection.resource)]
        columns = [step.column.label(step.name) for step in steps]
        rows = sa.select(*([key] if page.deep else base.c), *columns).select_from(source.clause).where(*conditions)
        rows = rows.order_by(*(step.by(reverse=page.backward) for step in steps)).limit(limit).offset(offset)
        if not page.deep:
            return rows.subquery("_t")
        keys = rows.subquery("_k")
        whole = self.table(page.projection.resource).alias("_w")
        joined = sa.select(*whole.c, *(keys.c[step.name] for step in steps))
        joined = joined.select_from(keys.join(whole, whole.c[key.name] == keys.c[key.name]))
        return joined.order_by(*(step.by(keys) for step in steps)).subquery("_t")

    def _count(self, resource: str, where: Shape, count: str, binds: _Binds) -> Any:
        if count == "none":
            return sa.cast(sa.null(), sa.BigInteger)
        source = _Source(self, resource, self.table(resource))
        condition = self._condition(where, source, binds) if where else None
        rows = sa.select(sa.func.count()).select_from(source.clause)
        if condition is not None:
            return rows.where(condition).scalar_subquery()
        if count == "exact":
            return rows.scalar_subquery()
        known: sa.ColumnElement[int] = sa.literal_column("nullif(reltuples, -1)::bigint")
        estimate = sa.select(known).select_from(sa.table("pg_class", schema="pg_catalog"))
        estimate = estimate.where(
            sa.literal_column(f"oid = {quote_literal(quote_identifier(self.table(resource).name))}::regclass")
        )
        return sa.func.coalesce(estimate.scalar_subquery(), rows.scalar_subquery())

    def _select_row(self, projection: Projection, where: Shape) -> Statement:
        """One row as ``result`` (a JSON object) with its ``version`` and ``snapshot``; no row where none matches.

        Every change of the row, and of its links, gives it another version. Values: the condition's.
        """
        resource, table = projection.resource, self.table(projection.resource)
        source = _Source(self, resource, table)
        condition = self._condition(where, source, _Binds())
        document = sa.select(*self._document(projection, table)).correlate(table).lateral("_d")
        row = sa.select(sa.func.row_to_json(document.table_valued()).label("result"))
        version = self._version(resource, _xmin(quote_identifier(table.name)), table).label("version")
        row = row.add_columns(version, _SNAPSHOT).select_from(source.clause.join(document, sa.true()))
        return self._statement(row.where(condition))

    def _version(self, resource: str, xmin: sa.ColumnElement[str], base: sa.FromClause) -> sa.ColumnElement[str]:
        """The transaction that wrote a row, and for each many_to_many field how many links it has and the newest."""
        parts = [xmin]
        for name in self.resources[resource].links:
            relation = self.resources.relations(resource)[name]
            assert relation.link is not None
            link = self.tables.links[relation.link.table].alias(f"_links_{name}")
            newest = sa.func.coalesce(sa.func.max(sa.cast(_xmin(f"_links_{name}"), sa.BigInteger)), _sql(0))
            told = sa.func.concat(_sql("'.'"), sa.func.count(), _sql("'.'"), newest)
            own = link.c[relation.link.source_column] == base.c[self.key(resource)]
            parts.append(sa.select(told).where(own).correlate(base).scalar_subquery())
        return sa.func.concat(*parts) if len(parts) > 1 else xmin

    def _match_logged(self, resource: str, where: Shape) -> Statement:
        """Which logged rows meet a condition: their ``position``, from 1. Values: the condition's, a list of rows."""
        binds = _Binds()
        table = self.table(resource)
        base = (
            sa.func.jsonb_populate_record(
                sa.literal_column(f"NULL::{quote_identifier(table.name)}"),
                sa.literal_column("_given.document", postgresql.JSONB),
            )
            .table_valued(*(sa.column(column.name, column.type) for column in table.c))
            .lateral("_logged")
        )
        source = _Source(self, resource, base, logged="_given.document")
        condition = self._condition(where, source, binds)
        rows = sa.func.unnest(binds(postgresql.ARRAY(postgresql.JSONB))).table_valued(
            sa.column("document", postgresql.JSONB), with_ordinality="position"
        ).render_derived(name="_given")  # fmt: skip
        query = sa.select(rows.c.position).select_from(rows).join(source.clause, sa.true()).where(condition)
        return self._statement(query)

    # --- writing

    def _insert(self, projection: Projection, columns: tuple[str, ...], links: tuple[str, ...]) -> Statement:
        """A new row and its links: ``result`` (a JSON object), ``key`` (text), and ``version`` unless links are given.

        Values: the columns', the links'.
        """
        binds = _Binds()
        table = self.table(projection.resource)
        given = {name: binds(table.c[name].type) for name in columns}
        new = sa.insert(table).values(given).returning(*table.c, _xmin(quote_identifier(table.name))).cte("_new")
        linked = [cte for name in links for cte in self._relink(projection.resource, name, new, binds, replace=False)]
        return self._statement(self._written(projection, new, links).add_cte(*linked), changes={projection.resource})

    def _update(
        self, projection: Projection, columns: tuple[str, ...], links: tuple[str, ...], where: Shape
    ) -> Statement:
        """A changed row and its links, as ``_insert``; no row where none matches. Values: the condition's come first.

        Fields with ``auto_now`` are set; a link field's list replaces the one before.
        """
        binds = _Binds()
        resource = self.resources[projection.resource]
        table = self.table(projection.resource)
        condition = self._restriction(projection.resource, where, binds)
        values: dict[str, Any] = {name: binds(table.c[name].type) for name in columns}
        if values or links:
            values |= {name: sa.func.now() for name, field in resource.columns.items() if field.auto_now}
        new: sa.CTE
        if values:
            new = (
                sa.update(table)
                .where(condition)
                .values(values)
                .returning(*table.c, _xmin(quote_identifier(table.name)))
                .cte("_new")
            )
        else:
            new = (
                sa.select(*table.c, _xmin(quote_identifier(table.name))).where(condition).with_for_update().cte("_new")
            )
        changed = [cte for name in links for cte in self._relink(projection.resource, name, new, binds, replace=True)]
        touched = self.dependents[projection.resource] if values else ()
        return self._statement(self._written(projection, new, links).add_cte(*changed), changes=touched)

    def _delete(self, resource: str, where: Shape) -> Statement:
        """Delete the rows that meet a condition; their keys as ``key`` (text). Values: the condition's."""
        table = self.table(resource)
        condition = self._restriction(resource, where, _Binds())
        return self._statement(
            sa.delete(table).where(condition).returning(sa.cast(table.c[self.key(resource)], sa.Text).label("key")),
            changes=self.dependents[resource],
        )

    def _written(self, projection: Projection, new: sa.CTE, links: tuple[str, ...]) -> sa.Select[Any]:
        """What is told of a written row. The version of one whose links change as well is not known yet: it is null."""
        resource = projection.resource
        row = sa.select(*self._document(projection, new)).subquery("_p")
        key = sa.cast(new.c[self.key(resource)], sa.Text).label("key")
        version = _sql("NULL") if links else self._version(resource, new.c[_XMIN], new)
        told = sa.select(sa.func.row_to_json(row.table_valued()).label("result"), key, version.label("version"))
        return told.select_from(row.join(new, sa.true()))

    def _relink(self, resource: str, field: str, new: sa.CTE, binds: _Binds, *, replace: bool) -> Iterator[sa.CTE]:
        """Statements that link the new row to a list of keys, and with ``replace`` to no others."""
        relation = self.resources.relations(resource)[field]
        assert relation.link is not None
        link, near, far = (
            self.tables.links[relation.link.table],
            relation.link.source_column,
            relation.link.target_column,
        )
        keys = binds(postgresql.ARRAY(link.c[far].type))
        owner = new.c[self.key(resource)]
        if replace:
            gone = sa.delete(link).where(
                link.c[near] == sa.select(owner).scalar_subquery(), link.c[far] != sa.all_(keys)
            )
            yield gone.cte(f"_gone_{field}")
        rows = postgresql.insert(link).from_select([near, far], sa.select(owner, sa.func.unnest(keys)))
        yield rows.on_conflict_do_nothing().cte(f"_came_{field}")

    # --- rows for Python

    def _select_rows(
        self, resource: str, related: tuple[str, ...], where: Shape, order: tuple[str, ...], limit: bool, offset: bool
    ) -> Statement:
        """Whole rows as Python values: the resource's columns, then those of each related row in turn.

        Values: the condition's, then the limit and the offset where there is one.
        """
        binds = _Binds()
        source = _Source(self, resource, self.table(resource))
        condition = [self._condition(where, source, binds)] if where else []
        tables = [source.at(()), *(source.at(self.resources.steps(resource, path)) for path in related)]
        columns = [column for table in tables for column in table.c]
        terms = [
            _Step(
                source.column(self.resources.resolve(resource, step.removeprefix("-"))), _KEY, "", step.startswith("-")
            )
            for step in order
        ]
        query = sa.select(*(column.label(f"c{n}") for n, column in enumerate(columns))).select_from(source.clause)
        query = query.where(*condition).order_by(*(term.by() for term in terms))
        if limit:
            query = query.limit(binds(sa.BigInteger))
        if offset:
            query = query.offset(binds(sa.BigInteger))
        return self._statement(query)

    def _aggregate(self, resource: str, what: tuple[tuple[str, str], ...], where: Shape) -> Statement:
        """Aggregates over rows: each of ``what`` is a function and a path; that of ``count`` may be empty."""
        binds = _Binds()
        source = _Source(self, resource, self.table(resource))
        condition = [self._condition(where, source, binds)] if where else []
        columns: list[sa.ColumnElement[Any]] = []
        for name, path in what:
            column = source.column(self.resources.resolve(resource, path)) if path else sa.literal_column("*")
            columns.append(AGGREGATES[name](column))
        return self._statement(sa.select(*columns).select_from(source.clause).where(*condition))

    def _bulk_update(
        self, resource: str, sets: tuple[tuple[str, Shape | None], ...], where: Shape, back: bool
    ) -> Statement:
        """Change every row that matches: each of ``sets`` is a column and, for arithmetic, its shape.

        Values: the condition's, then those of ``sets``. With ``back`` it gives the rows as Python values.
        """
        binds = _Binds()
        table = self.table(resource)
        condition = self._restriction(resource, where, binds) if where else sa.true()
        source = _Source(self, resource, table)
        values: dict[str, Any] = {
            name: sa.func.now() for name, field in self.resources[resource].columns.items() if field.auto_now
        }
        for name, shape in sets:
            field = self.resources.key_of(self.resources[resource].columns[name])
            values[name] = binds(table.c[name].type) if shape is None else self._expression(shape, field, source, binds)
        query = sa.update(table).where(condition).values(values)
        return self._statement(query.returning(*table.c) if back else query, changes=self.dependents[resource])

    def _bulk_insert(self, resource: str, columns: tuple[str, ...]) -> Statement:
        """Insert rows given as one JSON array of objects, and give them back as Python values."""
        table = self.table(resource)
        given = sa.func.jsonb_to_recordset(_Binds()(postgresql.JSONB)).table_valued(
            *(sa.column(name, table.c[name].type) for name in columns)
        )
        rows = sa.select(*given.render_derived(name="_given", with_types=True).c)
        return self._statement(
            sa.insert(table).from_select(list(columns), rows).returning(*table.c), changes={resource}
        )

    def _insert_row(self, resource: str, columns: tuple[str, ...]) -> Statement:
        """Insert one row, and give it back as Python values. Values: the columns'."""
        binds = _Binds()
        table = self.table(resource)
        given = {name: binds(table.c[name].type) for name in columns}
        return self._statement(sa.insert(table).values(given).returning(*table.c), changes={resource})

    def _through_rows(self, link: Through) -> Statement:
        """The links of some rows, both keys of each. Values: the keys on the near side."""
        table = self.tables.links[link.table]
        near, far = table.c[link.source_column], table.c[link.target_column]
        keys = _Binds()(postgresql.ARRAY(near.type))
        return self._statement(sa.select(near, far).where(near == sa.any_(keys)).order_by(near, far))

    # --- parts

    def _document(self, projection: Projection, base: sa.FromClause) -> list[sa.ColumnElement[Any]]:
        """The columns whose ``to_json`` is the JSON form of a row of ``base``."""
        resource = self.resources[projection.resource]
        columns: list[sa.ColumnElement[Any]] = []
        for name in projection.columns:
            values = self.resources.key_of(resource.columns[name])
            columns.append(values.field_type.json(values, base.c[name]).label(name))
        for name, inner in projection.related:
            columns.append(
                self._related(self.resources.relations(resource.name)[name], inner, resource, base).label(name)
            )
        return columns

    def _related(
        self, relation: Relation, shown: Projection, resource: Resource, base: sa.FromClause
    ) -> sa.ScalarSelect[Any]:
        """The related row as a JSON object or null, or the related rows in the order of their keys as a JSON array."""
        far = self.table(relation.target).alias()
        far_key = far.c[self.key(relation.target)]
        rows = sa.select(*self._document(shown, far)).correlate(base)
        if not relation.many:
            one = rows.where(far_key == base.c[relation.column]).subquery()
            return sa.select(sa.func.row_to_json(one.table_valued())).scalar_subquery()
        own_key = base.c[resource.key.column_name]
        if relation.link is None:
            rows = rows.where(far.c[relation.column] == own_key)
        else:
            link = self.tables.links[relation.link.table].alias()
            rows = rows.select_from(far.join(link, link.c[relation.link.target_column] == far_key))
            rows = rows.where(link.c[relation.link.source_column] == own_key)
        items = sa.func.json_agg(rows.order_by(far_key).subquery().table_valued())
        return sa.select(sa.func.coalesce(items, sa.literal_column("'[]'::json"))).scalar_subquery()

    def _restriction(self, resource: str, where: Shape, binds: _Binds) -> sa.ColumnElement[bool]:
        """A condition for UPDATE and DELETE, which have one table: one that needs joins picks the keys first."""
        table = self.table(resource)
        source = _Source(self, resource, table)
        condition = self._condition(where, source, binds)
        if source.clause is table:
            return condition
        binds.again()
        inner = table.alias("_scope")
        source = _Source(self, resource, inner)
        condition = self._condition(where, source, binds)
        key = self.key(resource)
        return table.c[key].in_(sa.select(inner.c[key]).select_from(source.clause).where(condition))

    def _condition(self, shape: Shape, source: _Source, binds: _Binds) -> sa.ColumnElement[bool]:
        """The SQL of a condition's shape, its values bound in order."""
        match shape:
            case ("and", *parts):
                return sa.and_(sa.true(), *(self._condition(part, source, binds) for part in parts))
            case ("or", *parts):
                return sa.or_(sa.false(), *(self._condition(part, source, binds) for part in parts))
            case ("not", part):
                return sa.func.coalesce(self._condition(part, source, binds), sa.false()).is_(sa.false())
            case ("is", path, lookup, flag):
                return self._comparison(self.resources.resolve(source.resource, path), lookup, flag, source, binds)
            case ("after", *steps):
                return self._after(steps, source, binds)
            case ("unchanged",):
                base = source.at(())
                name = quote_identifier(base.name) if isinstance(base, sa.Table) else str(base.name)  # type: ignore[attr-defined]
                return self._version(source.resource, _xmin(name), base) == sa.any_(binds(postgresql.ARRAY(sa.Text)))
        raise AssertionError(f"no condition has the shape {shape!r}")

    def _comparison(self, path: Path, lookup: str, flag: Any, source: _Source, binds: _Binds) -> sa.ColumnElement[bool]:
        lookup_spec = LOOKUPS[path.values.field_type.kind, lookup]
        if isinstance(flag, tuple):
            given = self._expression(flag, path.values, source, binds)
        else:
            given = _argument(lookup_spec, flag, path.values, binds)
        if not path.many:
            return lookup_spec.compare(source.column(path), given)
        if lookup == "isnull" and flag and path.field.primary_key:
            return ~self._exists(path, source, lambda column: column.is_not(None))
        return self._exists(path, source, lambda column: lookup_spec.compare(column, given))

    def _expression(self, shape: Shape, values: Field, source: _Source, binds: _Binds) -> Any:
        """The SQL of arithmetic whose constants are values of a field."""
        match shape:
            case ("column", path):
                return source.column(self.resources.resolve(source.resource, path))
            case ("value",):
                return binds(_bound(values))
            case (sign, left, right):
                sides = [self._expression(side, values, source, binds) for side in (left, right)]
                return ARITHMETIC[sign](*sides)
        raise AssertionError(f"no expression has the shape {shape!r}")

    def _exists(
        self, path: Path, source: _Source, test: Callable[[sa.ColumnElement[Any]], sa.ColumnElement[bool]]
    ) -> sa.ColumnElement[bool]:
        """Whether some row at the end of a path over relations to many rows passes the test."""
        first = next(n for n, step in enumerate(path.steps) if step.many)
        near = source.at(path.steps[:first])
        here = path.steps[first - 1].target if first else source.resource
        tables: list[sa.FromClause] = []
        joins: list[sa.ColumnElement[bool]] = []
        column: sa.ColumnElement[Any] | None = None
        for step in path.steps[first:]:
            far = self.table(step.target).alias()
            far_key, near_key = far.c[self.key(step.target)], near.c[self.key(here)]
            column = None
            if step.link is not None:
                link = self.tables.links[step.link.table].alias()
                if source.logged and step is path.steps[0] and self._lists(source.resource, step):
                    listed = _sql(f"{source.logged} -> {quote_literal(step.name)}")
                    keys = sa.func.jsonb_array_elements_text(listed).table_valued("_key").render_derived(name="_keys")
                    tables.append(keys)
                    column = sa.cast(keys.c._key, link.c[step.link.target_column].type)
                else:
                    tables.append(link)
                    joins.append(link.c[step.link.source_column] == near_key)
                    column = link.c[step.link.target_column]
                if step is path.steps[-1] and path.field.primary_key:
                    break  # the link has the key; the row behind it is not needed
                joins.append(far_key == column)
            else:
                joins.append(far.c[step.column] == near_key if step.many else near.c[step.column] == far_key)
            tables.append(far)
            near, here, column = far, step.target, far.c[path.column] if step is path.steps[-1] else None
        assert column is not None
        return sa.select(sa.literal_column("1")).select_from(*tables).where(*joins, test(column)).exists()

    def _lists(self, resource: str, step: Relation) -> bool:
        """Whether the change log has the keys that a relation links a resource's row to."""
        field = self.resources[resource].links.get(step.name)
        return field is not None and not field.write_only

    def _after(self, steps: Sequence[tuple[str, bool, bool]], source: _Source, binds: _Binds) -> sa.ColumnElement[bool]:
        """The rows behind a row: those that differ first in a column where they come later. Null is the largest."""
        behind: list[sa.ColumnElement[bool]] = []
        same: list[sa.ColumnElement[bool]] = []
        bound: list[sa.ColumnElement[bool]] = []
        for position, (name, down, null) in enumerate(steps):
            path = self.resources.resolve(source.resource, name)
            column = source.column(path)
            may_be_null = path.field.null or bool(path.steps)
            if null:
                if down:
                    behind.append(sa.and_(*same, column.is_not(None)))
                same.append(column.is_(None))
                continue
            value = binds(_bound(path.values))
            later = column < value if down else column > value
            behind.append(sa.and_(*same, sa.or_(later, column.is_(None)) if may_be_null and not down else later))
            same.append(column == value)
            if position == 0 and not may_be_null:  # implied, and what an index can start from
                bound.append(column <= value if down else column >= value)
        return sa.and_(*bound, sa.or_(sa.false(), *behind))

    def _reads(
        self, resource: str, where: Shape, order: tuple[str, ...] = (), shown: Projection | None = None
    ) -> frozenset[str] | None:
        """The resources that decide which rows meet a condition, in which order, and what is shown of them.

        The links of a many_to_many field belong to one of its ends. ``None`` where a ``write_only`` field decides, of which
        the change log does not tell.
        """
        found = {resource} if shown is None else {resource, *shown.resources}
        for mentioned in (*_mentioned(where), *(step.removeprefix("-") for step in order)):
            path = self.resources.resolve(resource, mentioned)
            if any(field.write_only for field in (path.field, *(step.field for step in path.steps))):
                return None
            found.update(step.target for step in path.steps)
        return frozenset(found)

    @cached_property
    def dependents(self) -> Mapping[str, frozenset[str]]:
        """For each resource those that change when its rows do: itself, and where cascades and links lead."""
        direct = {name: {name} for name in self.resources}
        for resource in self.resources.values():
            for field in resource.fields.values():
                if field.to is not None and field.on_delete != "restrict":
                    direct[field.to].add(resource.name)
        found = {}
        for name in direct:
            reached: set[str] = set()
            pending = [name]
            while pending:
                if (here := pending.pop()) not in reached:
                    reached.add(here)
                    pending += direct[here]
            found[name] = frozenset(reached)
        return found

    def _statement(
        self,
        query: sa.Select[Any] | sa.Insert | sa.Update | sa.Delete | sa.UpdateBase,
        *,
        changes: Collection[str] = (),
    ) -> Statement:
        """Compile: every bound parameter is one of ours, so each argument is a position among the values."""
        self.compilations += 1
        compiled = query.compile(dialect=DIALECT)
        order = tuple(int(name.removeprefix("v")) for name in compiled.positiontup or ())
        return Statement(str(compiled), order, frozenset(changes))


ARITHMETIC: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": lambda left, right: left / right,
}
AGGREGATES: Final[Mapping[str, Callable[[Any], sa.ColumnElement[Any]]]] = {
    "count": sa.func.count,
    "sum": sa.func.sum,
    "avg": sa.func.avg,
    "min": sa.func.min,
    "max": sa.func.max,
}


_XMIN: Final = "_xmin"


def _xmin(table: str) -> sa.ColumnElement[str]:
    """The number of the transaction that wrote a row, as text. (System columns, PostgreSQL 5.6)"""
    column: sa.ColumnElement[str] = sa.literal_column(f"{table}.xmin::text", sa.Text)
    return column.label(_XMIN)


def _argument(lookup_spec: Lookup, flag: Any, values: Field, binds: _Binds) -> Any:
    """What a lookup compares with: bound parameters, or the flag itself."""
    type_ = _bound(values)
    match lookup_spec.takes:
        case Takes.FLAG:
            return flag
        case Takes.TEXT:
            return binds(sa.Text())
        case Takes.MANY:
            return binds(postgresql.ARRAY(type_))
        case Takes.PAIR:
            return binds(type_), binds(type_)
        case Takes.ONE:
            return binds(type_)


def _bound(values: Field) -> Any:
    """The type of a bound value: the field's without its limits, since a cast to those would cut the value."""
    if values.field_type.kind is Kind.TEXT:
        return sa.Text()
    return values.field_type.column(replace(values, max_digits=None, decimal_places=None))


def _mentioned(shape: Shape) -> Iterator[str]:
    """The paths in a condition's shape."""
    match shape:
        case ("is", path, _, flag):
            yield path
            if isinstance(flag, tuple):
                yield from _mentioned(flag)
        case ("column", path):
            yield path
        case ("after", *steps):
            yield from (path for path, *_ in steps)
        case (_, *parts):
            yield from (path for part in parts if isinstance(part, tuple) for path in _mentioned(part))


def _list_of(items: sa.ColumnElement[Any], order: list[Any], kept: sa.ColumnElement[bool]) -> sa.ColumnElement[Any]:
    """The items that are kept as an array of PostgreSQL, in the order given or as they come."""
    listed = sa.func.array_agg(postgresql.aggregate_order_by(items, *order) if order else items).filter(kept)
    return sa.func.coalesce(listed, _sql("'{}'"))


def _joined(documents: sa.ColumnElement[Any], order: list[Any], kept: sa.ColumnElement[bool]) -> sa.ColumnElement[Any]:
    """The documents that are kept as bytes, with ``BETWEEN`` them, in the order given or as they come."""
    between: Any = _sql("E',\\n'")
    last = postgresql.aggregate_order_by(between, *order) if order else between
    text = sa.func.string_agg(documents, last).filter(kept)
    return sa.func.convert_to(sa.func.coalesce(text, _sql("''")), _sql("'UTF8'"))


def _json_text(row: sa.ColumnElement[Any]) -> sa.ColumnElement[str]:
    """The JSON of a row, as text."""
    return sa.cast(sa.func.row_to_json(row), sa.Text).label("document")


def _sql(text: object) -> sa.ColumnElement[Any]:
    """SQL of our own, as it is."""
    return sa.literal_column(str(text))


_KEY: Final = make_field("key", "uuid")
_SNAPSHOT: sa.ColumnElement[Any] = sa.literal_column("pg_current_snapshot()::text").label("snapshot")
