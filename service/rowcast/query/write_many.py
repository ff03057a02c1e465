"""Statements that write many rows at once and return them as JSON.

Each function builds one statement from a shape, and its docstring names the values that the statement needs, in order. The
rows are one value, a JSON array of objects: by column, and ``_n`` is the place of a row in the request. Those of an insert
are an array for each column where PostgreSQL can unnest them, which takes less time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from rowcast.query.compilation import Binds, Statement, compiled, sql
from rowcast.query.conditions import Shape
from rowcast.query.dependencies import dependents
from rowcast.query.keys import key_columns, key_text
from rowcast.query.projection import Projection
from rowcast.query.unique_rules import conflict_target, has_values
from rowcast.query.write import (
    generated,
    given_rows_to_insert,
    numbered_insert,
    restriction,
    touched,
    transaction_id,
    written_rows,
)
from rowcast.resources.exchanged import Exchanged
from rowcast.resources.rules import UniqueRule
from rowcast.resources.sql import quote_table, sql_text
from rowcast.resources.tables import Tables

PLACE: Final = "_n"
KEY_PREFIX: Final = "_key_"  # of the columns by which an update finds its rows; a column of the same name may be set


def given_rows(
    tables: Tables, resource: str, columns: tuple[str, ...], binds: Binds, by: Mapping[str, str] | None = None
) -> tuple[sa.FromClause, dict[str, sa.ColumnElement[Any]]]:
    """A JSON array of objects as rows, and the value of each of these columns.

    ``by`` has more members of the objects, each with the column whose type it has. ``_n`` is an integer.
    """
    table = tables.of[resource]
    members = {name: name for name in columns} | dict(by or {})
    rows = sa.func.jsonb_to_recordset(binds(postgresql.JSONB)).table_valued(
        *(sa.column(name, _json_type(table.c[column])) for name, column in members.items()),
        sa.column(PLACE, sa.Integer),
    )
    given = rows.render_derived(name="_given", with_types=True)
    return given, {name: _from_json(table.c[column], given.c[name]) for name, column in members.items()}


def _json_type(column: sa.Column[Any]) -> Any:
    """The type that the JSON form of a column's value is read as."""
    return (isinstance(column.type, Exchanged) and column.type.json_type) or column.type


def _from_json(column: sa.Column[Any], value: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    exchanged = column.type if isinstance(column.type, Exchanged) else None
    return value if exchanged is None or exchanged.json_type is None else exchanged.from_json(value)


def can_unnest(tables: Tables, resource: str, columns: tuple[str, ...]) -> bool:
    """Whether the values of columns may be arrays: none is an array itself, or JSON, which may be a list."""
    types = [tables.of[resource].c[name].type for name in columns]
    drivers = [type_.driver if isinstance(type_, Exchanged) else type_ for type_ in types]
    return not any(isinstance(type_, postgresql.ARRAY | sa.JSON) for type_ in drivers)


def insert_many(tables: Tables, projection: Projection, columns: tuple[str, ...]) -> Statement:
    """Insert rows, and return ``result`` (a JSON object) and ``key`` (text) of each, in their order.

    Values: an array for each column if these ``can_unnest``, otherwise the rows.
    """
    resource = projection.resource
    if can_unnest(tables, resource, columns):
        rows, _ = given_rows_to_insert(tables, resource, columns)
    else:
        given, values = given_rows(tables, resource, columns, Binds())
        more = generated(tables, resource, columns).values()
        rows = sa.select(*(values[name] for name in columns), *more).select_from(given)
    new = numbered_insert(tables, resource, columns, rows, PLACE)
    return compiled(_documents(tables, projection, new, transaction_id()), changes={resource})


def update_many(
    tables: Tables, projection: Projection, by: tuple[str, ...], columns: tuple[str, ...], where: Shape
) -> Statement:
    """Change the rows that meet a condition and have one of the keys in ``by``; ``_n``, ``result`` and ``key`` of each.

    Without columns the rows are locked and nothing else. Values: the rows, the condition's.
    """
    binds = Binds()
    resource = projection.resource
    table = tables.written(resource)
    named = {f"{KEY_PREFIX}{number}": name for number, name in enumerate(by)}
    given, values = given_rows(tables, resource, columns, binds, named)
    condition = _after_first(tables, resource, where, binds)
    same = [table.c[name] == values[member] for member, name in named.items()]
    returned = [*table.c, given.c[PLACE]]
    if columns:
        sets: dict[str, Any] = {name: values[name] for name in columns} | touched(tables.resources[resource])
        new = sa.update(table).where(*same, condition).values(sets).returning(*returned).cte("_new")
    else:
        locked = sa.select(*returned).select_from(table.join(given, sa.and_(*same))).where(condition)
        new = locked.with_for_update(of=table).cte("_new")
    changes = dependents(tables.resources, resource) if columns else ()
    written = [transaction_id()] if columns else []
    return compiled(_documents(tables, projection, new, *written), changes=changes)


def upsert_many(
    tables: Tables,
    projection: Projection,
    on: UniqueRule,
    columns: tuple[str, ...],
    where: Shape,
    keep: bool,
) -> Statement:
    """Insert rows, or change those that have the same values of the rule ``on`` and meet a condition.

    With ``keep`` none is changed. Returns ``_n``, ``result``, ``key`` and ``created`` of each row that was written.
    Values: the rows, and without ``keep`` the condition's.
    """
    binds = Binds()
    resource = projection.resource
    table = tables.written(resource)
    source, values = given_rows(tables, resource, columns, binds)
    given = sa.select(*(values[name].label(name) for name in columns), source.c[PLACE]).select_from(source).cte("_rows")
    more = generated(tables, resource, columns)
    rows = sa.select(*(given.c[name] for name in columns), *more.values()).select_from(given)
    # In the order of the rule, so that two requests for the same rows do not deadlock.
    rows = rows.order_by(*(given.c[name] for name in on.columns))
    insert = postgresql.insert(table).from_select([*columns, *more], rows)
    target = conflict_target(table, on)
    if keep:
        insert = insert.on_conflict_do_nothing(**target)
    else:
        fixed = {*on.columns, *tables.resources[resource].key_columns}
        sets = {name: insert.excluded[name] for name in columns if name not in fixed}
        sets |= touched(tables.resources[resource])
        if not sets:  # a row has to be written to be returned
            sets = {on.columns[0]: table.c[on.columns[0]]}
        condition = _after_first(tables, resource, where, binds)
        insert = insert.on_conflict_do_update(**target, set_=sets, where=condition)
    created: sa.ColumnElement[Any] = sql(f"{quote_table(table.key)}.xmax = 0").label("_created")
    new = insert.returning(*table.c, created).cte("_new")
    same = sa.and_(*has_values(on, new.c, given.c))
    placed = sa.select(*new.c, given.c[PLACE]).select_from(new.join(given, same)).cte("_placed")
    changes = dependents(tables.resources, resource)
    return compiled(
        _documents(tables, projection, placed, placed.c["_created"].label("created"), transaction_id()), changes=changes
    )


def select_many(tables: Tables, projection: Projection, rule: UniqueRule, where: Shape) -> Statement:
    """The rows that meet a condition and have one of the values of a rule: ``_n``, ``result`` and ``key``.

    Values: the rows, the condition's.
    """
    binds = Binds()
    resource = projection.resource
    table = tables.of[resource]
    given, same = _given_by_rule(tables, resource, rule, binds)
    condition = _after_first(tables, resource, where, binds)
    found = sa.select(*table.c, given.c[PLACE]).select_from(table.join(given, same)).where(condition).cte("_found")
    return compiled(_documents(tables, projection, found))


def lock_by_rule(tables: Tables, resource: str, rule: UniqueRule, where: Shape, by: tuple[str, ...] = ()) -> Statement:
    """Lock the rows that meet a condition and have the values of a rule: ``key`` and the columns ``by`` as text.

    Values: the rows, the condition's.
    """
    binds = Binds()
    table = tables.of[resource]
    given, same = _given_by_rule(tables, resource, rule, binds)
    condition = _after_first(tables, resource, where, binds)
    found = sa.select(key_text(tables, resource, table), *(sa.cast(table.c[name], sa.Text).label(name) for name in by))
    return compiled(found.select_from(table.join(given, same)).where(condition).with_for_update(of=table))


def _given_by_rule(
    tables: Tables, resource: str, rule: UniqueRule, binds: Binds
) -> tuple[sa.FromClause, sa.ColumnElement[bool]]:
    """Values of a rule as rows, and the condition that a row of the table has them."""
    named = {f"{KEY_PREFIX}{number}": name for number, name in enumerate(rule.columns)}
    given, values = given_rows(tables, resource, (), binds, named)
    by_name = {name: values[member] for member, name in named.items()}
    conditions = has_values(rule, tables.of[resource].c, by_name)
    return given, sa.and_(*conditions, *([sql_text(f"({rule.where})")] if rule.where else []))


def lock_keys(tables: Tables, resource: str, where: Shape, by: tuple[str, ...]) -> Statement:
    """Lock the first rows that meet a condition, in the order of their keys: their ``key`` (text) and the columns ``by``.

    Values: the condition's, the greatest number of rows.
    """
    binds = Binds()
    table = tables.of[resource]
    condition = restriction(tables, resource, where, binds) if where else sa.true()
    found = sa.select(key_text(tables, resource, table), *(sa.cast(table.c[name], sa.Text).label(name) for name in by))
    found = found.where(condition).order_by(*key_columns(tables, resource, table))
    return compiled(found.limit(binds(sa.BigInteger)).with_for_update())


def _after_first(tables: Tables, resource: str, where: Shape, binds: Binds) -> sa.ColumnElement[bool]:
    """A condition whose values come after one that is bound already."""
    if not where:
        return sa.true()
    return restriction(tables, resource, where, binds.following())


def _documents(tables: Tables, projection: Projection, new: sa.CTE, *more: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """The JSON of rows with their keys and places, in the order of these."""
    return written_rows(tables, projection, new, PLACE, *more).order_by(new.c[PLACE])
