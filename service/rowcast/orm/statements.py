"""Statements that read and write rows as Python values, for query sets and instances.

Each function builds one statement from a shape, for ``Queries.compiled``; its docstring names the values that the
statement needs, in order.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from rowcast.query.compilation import Binds, Statement, compiled
from rowcast.query.condition_sql import AGGREGATES, Source
from rowcast.query.conditions import Shape
from rowcast.query.dependencies import dependents
from rowcast.query.select import sort_steps
from rowcast.query.write import generated, restriction, touched
from rowcast.query.write_many import given_rows
from rowcast.resources.exchanged import readable
from rowcast.resources.resource import Through
from rowcast.resources.tables import Tables


def select_instances(
    tables: Tables,
    resource: str,
    related: tuple[str, ...],
    where: Shape,
    order: tuple[str, ...],
    has_limit: bool,
    has_offset: bool,
    lock: str = "",
    annotations: tuple[tuple[str, str], ...] = (),
) -> Statement:
    """All columns of rows, those of each related row in turn, and functions of related rows; ``lock`` is ``wait`` or ``skip``.

    Values: the condition's, then the limit and the offset, as far as there are any.
    """
    binds = Binds()
    source = Source(tables, resource, binds)
    conditions = source.conditions(where)
    joined = [source.at(()), *(source.at(tables.resources.steps(resource, path)) for path in related)]
    columns = [readable(column) for table in joined for column in table.c]
    columns += [source.function_of(name, source.path(path)) for name, path in annotations]
    steps = sort_steps(source, order)
    query = sa.select(*(column.label(f"c{n}") for n, column in enumerate(columns))).select_from(source.clause)
    query = query.where(*conditions).order_by(*(step.term() for step in steps))
    if has_limit:
        query = query.limit(binds(sa.BigInteger))
    if has_offset:
        query = query.offset(binds(sa.BigInteger))
    if lock:
        query = query.with_for_update(of=source.at(()), skip_locked=lock == "skip")
    return compiled(query)


def grouped(
    tables: Tables, resource: str, groups: tuple[str, ...], functions: tuple[tuple[str, str], ...], where: Shape
) -> Statement:
    """The values of groups, and aggregates over the rows of each, sorted by group. Values: the condition's."""
    source = Source(tables, resource, Binds())
    conditions = source.conditions(where)
    places: list[sa.ColumnElement[Any]] = [sa.literal_column(str(n)) for n in range(1, len(groups) + 1)]
    columns = [readable(source.column(source.path(path))) for path in groups]
    columns += [_aggregate(source, name, path) for name, path in functions]
    rows = sa.select(*columns).select_from(source.clause).where(*conditions)
    return compiled(rows.group_by(*places).order_by(*places))


def _aggregate(source: Source, name: str, path: str) -> sa.ColumnElement[Any]:
    counted = path in ("", "*")
    return readable(AGGREGATES[name](sa.literal_column("*") if counted else source.column(source.path(path))))


def aggregate(tables: Tables, resource: str, functions: tuple[tuple[str, str], ...], where: Shape) -> Statement:
    """Aggregates over rows: a function and a path for each; ``count`` takes ``*``. Values: the condition's."""
    source = Source(tables, resource, Binds())
    conditions = source.conditions(where)
    columns = [_aggregate(source, name, path) for name, path in functions]
    return compiled(sa.select(*columns).select_from(source.clause).where(*conditions))


def update_rows(
    tables: Tables, resource: str, sets: tuple[tuple[str, Shape | None], ...], where: Shape, by_rules: bool = False
) -> Statement:
    """Change every row that meets a condition, and return them; ``sets`` has columns, each with its arithmetic's shape.

    It does not return them ``by_rules`` of the table, which may not allow that. Without columns the rows are locked and
    nothing else. Values: the condition's, then those of ``sets``.
    """
    binds = Binds()
    table = tables.written(resource)
    condition = restriction(tables, resource, where, binds) if where else sa.true()
    source = Source(tables, resource, binds)
    values = touched(tables.resources[resource])
    for name, shape in sets:
        field = tables.resources.key_of(tables.resources[resource].columns[name])
        values[name] = binds(table.c[name].type) if shape is None else source.expression(shape, field)
    if not values:
        return compiled(sa.select(*map(readable, table.c)).where(condition).with_for_update())
    query = sa.update(table).where(condition).values(values)
    return compiled(
        query if by_rules else query.returning(*map(readable, table.c)),
        changes=dependents(tables.resources, resource),
    )


def insert_row(tables: Tables, resource: str, columns: tuple[str, ...]) -> Statement:
    """Insert one row, and return it. Values: the columns'."""
    binds = Binds()
    table = tables.written(resource)
    values = {name: binds(table.c[name].type) for name in columns} | generated(tables, resource, columns)
    return compiled(sa.insert(table).values(values).returning(*map(readable, table.c)), changes={resource})


def insert_rows(tables: Tables, resource: str, columns: tuple[str, ...]) -> Statement:
    """Insert rows, and return them. The one value is a JSON array of objects with these columns."""
    table = tables.written(resource)
    given, values = given_rows(tables, resource, columns, Binds())
    more = generated(tables, resource, columns)
    rows = sa.select(*(values[name] for name in columns), *more.values()).select_from(given)
    return compiled(
        sa.insert(table).from_select([*columns, *more], rows).returning(*map(readable, table.c)), changes={resource}
    )


def through_rows(tables: Tables, through: Through) -> Statement:
    """The links of some rows, both keys of each, in order. The one value is a list of keys of the source."""
    table = tables.links[through.table]
    source, target = table.c[through.source_column], table.c[through.target_column]
    keys = Binds()(postgresql.ARRAY(source.type))
    return compiled(sa.select(source, target).where(source == sa.any_(keys)).order_by(source, target))
