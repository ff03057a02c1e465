"""Aggregates over groups of rows: their shape, and the statement that reads a page of groups as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from rowcast.query.compilation import Binds, Statement, bound_type, compiled, sql
from rowcast.query.condition_sql import Source, sort_key
from rowcast.query.conditions import Shape
from rowcast.query.select import joined_documents, json_text, logged_row, logged_rows, snapshot
from rowcast.resources.aggregates import STRING_SUM, result_field
from rowcast.resources.exchanged import readable
from rowcast.resources.fields import Field
from rowcast.resources.lookups import LOOKUPS
from rowcast.resources.resource import Path
from rowcast.resources.sql import IDENTIFIER_MAX_BYTES, quote_literal
from rowcast.resources.tables import Tables
from rowcast.resources.types import FIELD_TYPES

_DAY: Final = Field("day", FIELD_TYPES["date"])
_MOMENT: Final = Field("moment", FIELD_TYPES["datetime"])


@dataclass(frozen=True, slots=True)
class Group:
    """What rows are grouped by: the value at a path, or the ``bucket`` of time that it is in."""

    path: str
    bucket: str = ""

    def field(self, values: Field) -> Field:
        """The field of the group's values; ``values`` is that of the path."""
        if not self.bucket:
            return values
        return _MOMENT if self.bucket == "hour" else _DAY


@dataclass(frozen=True, slots=True)
class Calculation:
    """A function over the rows of a group; ``count`` without a path counts the rows."""

    function: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class AggregateShape:
    """Everything that the SQL of a page of groups depends on, without the condition.

    ``names`` are those of the results, first of the groups and then of the calculations. ``having`` has the position of a
    calculation and a lookup for each condition on results; ``order`` has positions in ``names`` and whether each descends.
    """

    resource: str
    groups: tuple[Group, ...]
    calculations: tuple[Calculation, ...]
    names: tuple[str, ...]
    having: tuple[tuple[int, str], ...] = ()
    order: tuple[tuple[int, bool], ...] = ()


def aggregate_page(tables: Tables, shape: AggregateShape, where: Shape) -> Statement:
    """A page of groups as one row: ``results``, ``size``, ``count`` and ``snapshot``, as a page of rows has them.

    Values: the condition's, the time zone of each bucket, those of the conditions on results, the limit and the offset.
    """
    binds = Binds()
    source = Source(tables, shape.resource, binds)
    conditions = source.conditions(where)
    paths = [source.path(group.path) for group in shape.groups]
    groups = [_bucket(source, path, group, binds) for path, group in zip(paths, shape.groups, strict=True)]
    arguments = [source.path(each.path) if each.path else None for each in shape.calculations]
    results = [
        _FUNCTIONS[each.function](sql("*") if path is None else source.column(path))
        for each, path in zip(shape.calculations, arguments, strict=True)
    ]
    fields = [group.field(path.values) for path, group in zip(paths, shape.groups, strict=True)]
    fields += [
        result_field(each.function, None if path is None else path.values)
        for each, path in zip(shape.calculations, arguments, strict=True)
    ]
    found = sa.select(*(column.label(f"_{n}") for n, column in enumerate((*groups, *results))))
    found = found.select_from(source.clause).where(*conditions)
    if groups:
        found = found.group_by(*(sql(n) for n in range(1, len(groups) + 1)))
    for position, lookup in shape.having:
        field = fields[len(groups) + position]
        compare = LOOKUPS[field.field_type.kind, lookup].compare
        found = found.having(compare(readable(results[position]), binds(bound_type(field))))
    all_groups = found.cte("_groups")
    limit, offset = binds(sa.BigInteger), binds(sa.BigInteger)
    columns = [_json(field, each, all_groups.c[f"_{n}"]) for n, (field, each) in enumerate(_described(shape, fields))]
    order = [_ordered(shape, paths, all_groups, position, descends) for position, descends in shape.order]
    page = sa.select(*_document(shape.names, columns)).select_from(all_groups)
    page = page.order_by(*order).limit(limit + sql(1)).offset(offset)
    rows = page.subquery("_p")
    document = (
        sa.cast(rows.c.document, sa.Text).label("document") if "document" in rows.c else json_text(rows.table_valued())
    )
    items = sa.select(document, sa.func.row_number().over().label("n")).select_from(rows).subquery("_q")
    count = sa.select(sa.func.count()).select_from(all_groups).scalar_subquery()
    return compiled(
        sa.select(
            joined_documents(items.c.document, [], items.c.n <= limit).label("results"),
            sa.func.count().label("size"),
            count.label("count"),
            snapshot(tables),
        )
    )


def groups_of_logged(tables: Tables, resource: str, groups: tuple[Group, ...]) -> Statement:
    """The groups that rows of the change log are in, each once, as JSON objects: ``document``.

    Values: the time zone of each bucket, and a list of rows.
    """
    binds = Binds()
    source = Source(tables, resource, binds, logged_row(tables.of[resource]), logged="_given.document")
    paths = [source.path(group.path) for group in groups]
    columns = [_bucket(source, path, group, binds) for path, group in zip(paths, groups, strict=True)]
    fields = [group.field(path.values) for path, group in zip(paths, groups, strict=True)]
    given = logged_rows(binds)
    found = sa.select(*(column.label(f"_{n}") for n, column in enumerate(columns))).distinct()
    rows = found.select_from(given.join(source.clause, sa.true())).subquery("_p")
    items = [_json(field, "", rows.c[f"_{n}"]).label(f"_{n}") for n, field in enumerate(fields)]
    return compiled(sa.select(json_text(sa.select(*items).select_from(rows).subquery("_q").table_valued())))


_FUNCTIONS: Final[Mapping[str, Callable[[Any], sa.ColumnElement[Any]]]] = {
    "count": sa.func.count,
    "count_distinct": lambda column: sa.func.count(sa.distinct(column)),
    "sum": lambda column: sa.func.sum(readable(column)),
    "avg": lambda column: sa.func.avg(readable(column)),
    "min": sa.func.min,
    "max": sa.func.max,
}


def _bucket(source: Source, path: Path, group: Group, binds: Binds) -> sa.ColumnElement[Any]:
    """The value that rows are grouped by. A moment is truncated in the time zone of the request."""
    column = source.column(path)
    if not group.bucket:
        return column
    unit = sql(quote_literal(group.bucket))
    if path.values.field_type.name == "date":
        return sa.cast(sa.func.date_trunc(unit, sa.cast(column, sa.DateTime())), sa.Date)
    moment, zone = readable(column), binds(sa.Text)
    if group.bucket == "hour":
        return sa.func.date_trunc(unit, moment, zone, type_=sa.DateTime(timezone=True))
    return sa.cast(sa.func.date_trunc(unit, sa.func.timezone(zone, moment, type_=sa.DateTime())), sa.Date)


def _described(shape: AggregateShape, fields: list[Field]) -> list[tuple[Field, str]]:
    """Each result's field and function; no function for a group."""
    functions = [*("" for _ in shape.groups), *(each.function for each in shape.calculations)]
    return list(zip(fields, functions, strict=True))


def _json(field: Field, function: str, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """The JSON form of a result. Sums of integers are numbers, however many digits they have."""
    if function == "sum" and isinstance(column.type, sa.Integer) and field is not STRING_SUM:
        return column
    return field.field_type.json(field, column)


def _ordered(
    shape: AggregateShape, paths: list[Path], groups: sa.FromClause, position: int, descends: bool
) -> sa.ColumnElement[Any]:
    column: sa.ColumnElement[Any] = groups.c[f"_{position}"]
    if position < len(paths) and not shape.groups[position].bucket:
        column = sort_key(paths[position].field, column)
    return column.desc() if descends else column.asc()


def _document(names: tuple[str, ...], columns: list[sa.ColumnElement[Any]]) -> list[sa.ColumnElement[Any]]:
    """The columns whose ``row_to_json`` is the document of a group, or if their names are too long the ``document``."""
    if all(len(name) <= IDENTIFIER_MAX_BYTES for name in names) and "document" not in names:
        return [column.label(name) for name, column in zip(names, columns, strict=True)]
    pairs = [each for name, column in zip(names, columns, strict=True) for each in (sql(quote_literal(name)), column)]
    return [sa.func.json_build_object(*pairs).label("document")]
