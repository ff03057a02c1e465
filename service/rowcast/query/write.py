"""Statements that write one row and return it as JSON, or delete rows.

Each function builds one statement from a shape, and its docstring names the values that the statement needs, in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from rowcast.database.errors import OUTSIDE_SCOPE
from rowcast.database.written import TRANSACTION, TRANSACTION_ID
from rowcast.query.compilation import Binds, GivenBinds, Statement, compiled, sql
from rowcast.query.condition_sql import Source
from rowcast.query.conditions import Shape
from rowcast.query.dependencies import dependents
from rowcast.query.documents import document
from rowcast.query.keys import has_key_in, key_columns, key_text
from rowcast.query.projection import Projection
from rowcast.query.unique_rules import conflict_target
from rowcast.query.versions import XMIN, stamp, version, xmin
from rowcast.resources.exchanged import LocalTime
from rowcast.resources.fields import Field
from rowcast.resources.resource import Resource
from rowcast.resources.rules import UniqueRule
from rowcast.resources.sql import quote_literal, quote_table
from rowcast.resources.tables import JOINS, Tables, generated_value

POSITION: Final = "position"  # of an execution among those of a statement, from 1


def insert(
    tables: Tables, projection: Projection, columns: tuple[str, ...], linked: str | None = None, within: Shape = ()
) -> Statement:
    """Insert a row, and its links of the field ``linked``. Returns ``result`` (a JSON object), ``key`` (text), ``version``.

    ``version`` is null if there are links, because the statement cannot see what it links, and if the table is
    partitioned, because PostgreSQL does not return ``xmin`` then. A row that does not meet the condition ``within`` is
    not written: the statement fails.
    Values: the columns', the list of keys, that condition's.
    """
    binds = Binds()
    table = tables.written(projection.resource)
    values = {name: binds(table.c[name].type) for name in columns}
    partitioned = tables.resources.traits_of(projection.resource).partitioned
    system = [] if partitioned else [xmin(quote_table(table.key))]
    values |= generated(tables, projection.resource, columns)
    new = sa.insert(table).values(values).returning(*table.c, *system).cte("_new")
    came = [] if linked is None else [_link(tables, projection.resource, linked, new, binds).cte("_came")]
    written = _written(tables, projection, new, binds, within, with_version=not came and not partitioned)
    return compiled(written.add_cte(*came), changes={projection.resource})


def insert_each(tables: Tables, projection: Projection, columns: tuple[str, ...]) -> Statement:
    """What ``insert`` returns for several lists of values, with the ``position`` of each list, from 1.

    The rows are inserted, and returned, in the order of the lists. It fails, and inserts nothing, if a trigger skips some of them:
    nobody could say which list a row belongs to. Values: an array for each value of ``insert``.
    """
    resource = projection.resource
    rows, given = given_rows_to_insert(tables, resource, columns)
    expected = sa.select(sa.func.count()).select_from(given).scalar_subquery()
    new = numbered_insert(
        tables, resource, columns, rows, POSITION, xmin(quote_table(tables.written(resource).key)), expected=expected
    )
    return compiled(_written_each(tables, projection, new), changes={resource})


def given_rows_to_insert(
    tables: Tables, resource: str, columns: tuple[str, ...]
) -> tuple[sa.Select[Any], sa.FromClause]:
    """The rows of ``GivenBinds`` in their order, with the columns that an insert sets itself; and the rows as they are given."""
    binds = GivenBinds()
    table = tables.written(resource)
    values = [binds(table.c[name].type) for name in columns]
    given = binds.rows()
    more = generated(tables, resource, columns).values()
    return sa.select(*values, *more).select_from(given).order_by(given.c.position), binds.rows()


def numbered_insert(
    tables: Tables,
    resource: str,
    columns: tuple[str, ...],
    rows: sa.Select[Any],
    place: str,
    *more: sa.ColumnElement[Any],
    expected: sa.ColumnElement[int] | None = None,
) -> sa.CTE:
    """Insert rows of these columns and those that an insert sets itself: the new rows with ``more``, numbered from 1 as ``place``.

    The statement fails if there are some, but not the ``expected`` number of them.
    """
    table = tables.written(resource)
    names = [*columns, *generated(tables, resource, columns)]
    new = sa.insert(table).from_select(names, rows).returning(*table.c, *more).cte("_new")
    number: sa.ColumnElement[int] = sa.func.row_number().over()
    if expected is not None:  # SQL has no way to raise an error but one that an expression has
        number = number.op("/")(sa.case((sa.func.count().over() == expected, sql("1")), else_=sql("0")))
    return sa.select(*new.c, number.label(place)).cte("_numbered")


def written_rows(
    tables: Tables, projection: Projection, new: sa.CTE, place: str, *more: sa.ColumnElement[Any]
) -> sa.Select[Any]:
    """The place, ``result`` (a JSON object) and ``key`` (text) of written rows, and ``more`` of each."""
    row = sa.select(*document(tables, projection, new)).correlate(new).lateral("_p")
    result = sa.func.row_to_json(row.table_valued()).label("result")
    columns = sa.select(new.c[place], result, key_text(tables, projection.resource, new), *more)
    return columns.select_from(new.join(row, sa.true()))


def update_each(tables: Tables, projection: Projection, columns: tuple[str, ...], where: Shape) -> Statement:
    """What ``update`` returns for several lists of values, with the ``position`` of each list, from 1.

    A row that another transaction has locked is left out, so that the others do not wait for it.
    Values: an array for each value of ``update``.
    """
    binds = GivenBinds()
    resource = projection.resource
    table, key = tables.written(resource), tables.resources[resource].key_columns
    locked_table = table.alias("_row")
    source = Source(tables, resource, binds, locked_table)
    one = sa.select(*(locked_table.c[name] for name in key)).select_from(source.clause).where(source.condition(where))
    one = one.with_for_update(skip_locked=True, of=locked_table)
    given_values = {name: binds(table.c[name].type) for name in columns}
    given = binds.rows()
    found = one.lateral("_found")
    labels = {name: value.label(f"set{number}") for number, (name, value) in enumerate(given_values.items())}
    rows = sa.select(given.c.position, *(found.c[name] for name in key), *labels.values())
    rows = rows.select_from(given.join(found, sa.true())).order_by(*(found.c[name] for name in key))
    locked = rows.cte("_locked")
    sets = {name: locked.c[label.name] for name, label in labels.items()} | touched(tables.resources[resource])
    same = sa.and_(*(table.c[name] == locked.c[name] for name in key))
    returned = [*table.c, xmin(quote_table(table.key)), locked.c[POSITION]]
    new = sa.update(table).where(same).values(sets).returning(*returned).cte("_new")
    return compiled(_written_each(tables, projection, new), changes=dependents(tables.resources, resource))


def insert_many(tables: Tables, resource: str, shapes: Sequence[tuple[str, ...]]) -> Statement:
    """Insert a row for each of some lists of columns, and return ``created`` for each. Values: the columns', row by row."""
    binds = Binds()
    table = tables.written(resource)
    every = dict.fromkeys(name for columns in shapes for name in columns)
    every = every or dict.fromkeys(tables.resources[resource].key_columns[:1])  # so that each row is one of the values
    default = sql("DEFAULT")
    values = [{name: binds(table.c[name].type) if name in columns else default for name in every} for columns in shapes]
    statement = postgresql.insert(table).values(values).returning(sql("true").label("created"))
    return compiled(statement, changes={resource})


def upsert_many(tables: Tables, resource: str, columns: tuple[str, ...], rows: int, on: UniqueRule) -> Statement:
    """Insert so many rows, or change those that exist, by the unique rule ``on``.

    Returns whether each row is new: ``created``. Values: the columns', row by row.
    """
    binds = Binds()
    table = tables.written(resource)
    values = [{name: binds(table.c[name].type) for name in columns} for _ in range(rows)]
    statement = postgresql.insert(table).values(values)
    changed: dict[str, Any] = {name: statement.excluded[name] for name in columns if name not in on.columns}
    first = on.columns[0]
    changed = touched(tables.resources[resource]) | changed or {first: statement.excluded[first]}
    statement = statement.on_conflict_do_update(**conflict_target(table, on), set_=changed)
    return compiled(
        statement.returning(sql("xmax = 0").label("created")), changes=dependents(tables.resources, resource)
    )


def update(
    tables: Tables,
    projection: Projection,
    columns: tuple[str, ...],
    where: Shape,
    within: Shape = (),
    touch: bool = False,
) -> Statement:
    """Change a row, and return it as ``insert`` does; no row if none matches.

    Columns with ``auto_now`` are set, too; without other columns only if ``touch`` is set. If nothing is, the row is
    locked and nothing else.
    Values: the condition's, the columns', those of ``within``.
    """
    binds = Binds()
    table = tables.of[projection.resource]
    condition = restriction(tables, projection.resource, where, binds)
    values: dict[str, Any] = {name: binds(table.c[name].type) for name in columns}
    if values or touch:
        values |= touched(tables.resources[projection.resource])
    new: sa.CTE
    if values:
        new = (
            sa.update(tables.written(projection.resource))
            .where(condition)
            .values(values)
            .returning(*table.c, xmin(quote_table(table.key)))
            .cte("_new")
        )
    else:
        by = stamp(tables, projection.resource, quote_table(table.key))
        locked = sa.select(*table.c, by).where(condition)
        new = (locked if tables.resources[projection.resource].view else locked.with_for_update()).cte("_new")
    changes = dependents(tables.resources, projection.resource) if values else ()
    return compiled(_written(tables, projection, new, binds, within, with_version=True), changes=changes)


def unlink(tables: Tables, resource: str, field: str, where: Shape) -> Statement:
    """Remove the links of rows to all but some keys. Values: the condition's, a list of these keys.

    Links to deleted rows are not shown, and so they stay.
    """
    binds = Binds()
    table, (link, source_column, target_column) = tables.of[resource], _links(tables, resource, field)
    owners = sa.select(table.c[tables.resources[resource].key.column_name])
    condition = link.c[source_column].in_(owners.where(restriction(tables, resource, where, binds)))
    keys = binds(postgresql.ARRAY(link.c[target_column].type))
    gone = sa.delete(link).where(condition, link.c[target_column] != sa.all_(keys))
    target = tables.resources.relations(resource)[field].target
    if live := tables.live(target, tables.of[target]):
        shown = sa.select(*key_columns(tables, target, tables.of[target])).where(*live)
        gone = gone.where(link.c[target_column].in_(shown))
    return compiled(gone, changes={resource})


def link(tables: Tables, resource: str, field: str, where: Shape) -> Statement:
    """Link rows to keys, where they are not linked yet. Values: the condition's, a list of these keys."""
    binds = Binds()
    table = tables.of[resource]
    rows = sa.select(table).where(restriction(tables, resource, where, binds)).subquery("_owner")
    return compiled(_link(tables, resource, field, rows, binds), changes={resource})


def _link(tables: Tables, resource: str, field: str, rows: sa.FromClause, binds: Binds) -> postgresql.Insert:
    """Link rows of a resource to a list of keys, where they are not linked yet. Value: the list."""
    links, source_column, target_column = _links(tables, resource, field)
    owner = rows.c[tables.resources[resource].key.column_name]
    keys = binds(postgresql.ARRAY(links.c[target_column].type))
    pairs = sa.select(owner, sa.func.unnest(keys))
    if JOINS in links.info:  # which may have no unique rule
        given = sa.func.unnest(keys).table_valued("key").render_derived(name="_given")
        there, listed = links.alias("_there"), sa.cast(given.c.key, links.c[target_column].type)
        same = sa.and_(there.c[source_column] == owner, there.c[target_column] == listed)
        missing = ~sa.exists(sa.select(sql("1")).select_from(there).where(same).correlate(rows, given))
        pairs = sa.select(owner, listed).select_from(rows.join(given, sa.true())).where(missing).distinct()
    return postgresql.insert(links).from_select([source_column, target_column], pairs).on_conflict_do_nothing()


def _links(tables: Tables, resource: str, field: str) -> tuple[sa.Table, str, str]:
    """The table of a many_to_many field, and its columns with the keys of both sides."""
    through = tables.resources.relations(resource)[field].link
    assert through is not None
    return tables.links[through.table], through.source_column, through.target_column


def delete(tables: Tables, resource: str, where: Shape) -> Statement:
    """Delete the rows that meet a condition, and return their keys as ``key`` (text). Values: the condition's."""
    deleted = sa.delete(tables.written(resource)).where(restriction(tables, resource, where, Binds()))
    return compiled(
        deleted.returning(_key(tables, resource), transaction_id()), changes=dependents(tables.resources, resource)
    )


def delete_and_compare(tables: Tables, resource: str, where: Shape) -> Statement:
    """Delete the rows that meet a condition, and return all that met it: ``key`` (text), ``place``, ``deleted``.

    A trigger may keep a row from being deleted; so may a concurrent change. Values: the condition's.
    """
    binds = Binds()
    condition = restriction(tables, resource, where, binds)
    gone = sa.delete(tables.written(resource)).where(condition).returning(_key(tables, resource)).cte("_gone")
    binds.rewind()
    deleted = _key(tables, resource).element.in_(sa.select(gone.c.key)).label("deleted")
    rows = sa.select(*[_key(tables, resource), _place(tables, resource), deleted, transaction_id()])
    rows = rows.where(restriction(tables, resource, where, binds)).add_cte(gone)
    return compiled(rows, changes=dependents(tables.resources, resource))


def mark(tables: Tables, resource: str, where: Shape, deleted: bool, by_rules: bool = False) -> Statement:
    """Mark the rows that meet a condition as deleted, or as not deleted, and return their keys as ``key`` (text).

    It does not return them ``by_rules`` of the table, which may not allow that. Values: the condition's.
    """
    table, declared = tables.written(resource), tables.resources[resource]
    marks = declared.soft_delete
    assert marks is not None
    values = touched(declared) | {marks.field: present(declared.fields[marks.field]) if deleted else sa.null()}
    statement = sa.update(table).where(restriction(tables, resource, where, Binds())).values(values)
    return compiled(
        statement if by_rules else statement.returning(_key(tables, resource)),
        changes=dependents(tables.resources, resource),
    )


def expired(tables: Tables, resource: str) -> Statement:
    """The keys (text) of rows that were deleted longer ago than some seconds, the first ones first.

    Values: the seconds, the greatest number of rows, and how many to leave out before.
    """
    binds, table, declared = Binds(), tables.of[resource], tables.resources[resource]
    marks = declared.soft_delete
    assert marks is not None
    column = table.c[marks.field]
    age = sql("interval '1 second'") * binds(sa.Double)
    rows = sa.select(_key(tables, resource)).where(column < present(declared.fields[marks.field], age))
    rows = rows.order_by(column, *key_columns(tables, resource, table))
    return compiled(rows.limit(binds(sa.BigInteger)).offset(binds(sa.BigInteger)))


def lock_rows(tables: Tables, resource: str, where: Shape) -> Statement:
    """Lock the rows that meet a condition: ``key`` (text) and ``place``, another one after each change.

    Values: the condition's.
    """
    rows = sa.select(*[_key(tables, resource), _place(tables, resource)])
    return compiled(rows.where(restriction(tables, resource, where, Binds())).with_for_update())


def update_by_rules(tables: Tables, resource: str, columns: tuple[str, ...], where: Shape) -> Statement:
    """Change rows without returning them, which a table's rules may not allow. Values: the condition's, the columns'."""
    binds = Binds()
    table = tables.of[resource]
    condition = restriction(tables, resource, where, binds)
    values = {name: binds(table.c[name].type) for name in columns} | touched(tables.resources[resource])
    statement = sa.update(tables.written(resource)).where(condition).values(values)
    return compiled(statement, changes=dependents(tables.resources, resource))


def delete_by_rules(tables: Tables, resource: str, where: Shape) -> Statement:
    """Delete rows without returning them, which a table's rules may not allow. Values: the condition's."""
    deleted = sa.delete(tables.written(resource)).where(restriction(tables, resource, where, Binds()))
    return compiled(deleted, changes=dependents(tables.resources, resource))


def insert_by_rules(tables: Tables, resource: str, columns: tuple[str, ...]) -> Statement:
    """Insert a row and return its ``key`` (text), by a statement that a table's rules may add others to.

    Values: the columns'.
    """
    binds = Binds()
    table = tables.of[resource]
    values = {name: binds(table.c[name].type) for name in columns} | generated(tables, resource, columns)
    return compiled(
        sa.insert(tables.written(resource)).values(values).returning(_key(tables, resource)), changes={resource}
    )


def transaction_id() -> sa.Label[Any]:
    """The id of the transaction, by which a client recognises the events of its own change."""
    return sql(TRANSACTION).label(TRANSACTION_ID)


def _key(tables: Tables, resource: str) -> sa.Label[Any]:
    return key_text(tables, resource, tables.of[resource])


def _place(tables: Tables, resource: str) -> sa.ColumnElement[Any]:
    """Where the current version of a row is stored (System columns, PostgreSQL 5.6)."""
    name = quote_table(tables.of[resource].key)
    return sql(f"{name}.tableoid::text || {name}.ctid::text").label("place")


def touched(resource: Resource) -> dict[str, Any]:
    """The columns that every update of a row sets to the present: those with ``auto_now``."""
    return {name: present(field) for name, field in resource.columns.items() if field.auto_now}


def present(field: Field, ago: Any = None) -> Any:
    """The present, or the time so long ``ago``, as a value of a field."""
    now: Any = sa.func.now() if ago is None else sa.func.now() - ago
    return LocalTime(field.zone).stored(now) if field.zone else now


def generated(tables: Tables, resource: str, columns: tuple[str, ...]) -> dict[str, Any]:
    """The columns besides ``columns`` that an insert sets itself: a table of others may not have the default for them."""
    declared = tables.resources[resource]
    if declared.managed:
        return {}
    fields = ((name, field) for name, field in declared.columns.items() if name not in columns)
    return {name: sql(value) for name, field in fields if (value := generated_value(field)) is not None}


def restriction(tables: Tables, resource: str, where: Shape, binds: Binds) -> sa.ColumnElement[bool]:
    """A condition for UPDATE and DELETE, which have one table; if it needs joins, a subquery selects the keys."""
    table = tables.of[resource]
    source = Source(tables, resource, binds)
    condition = source.condition(where)
    if source.clause is table:
        return condition
    binds.rewind()
    scope = table.alias("_scope")
    source = Source(tables, resource, binds, scope)
    condition = source.condition(where)
    found = sa.select(*key_columns(tables, resource, scope)).select_from(source.clause).where(condition)
    return has_key_in(tables, resource, table, found)


def _written(
    tables: Tables, projection: Projection, new: sa.CTE, binds: Binds, within: Shape, *, with_version: bool
) -> sa.Select[Any]:
    """The row that a statement has written; its version is null if the statement does not have it.

    If the row does not meet the condition ``within``, a cast fails, and with it the statement.
    """
    resource = projection.resource
    row = sa.select(*document(tables, projection, new)).subquery("_p")
    key = key_text(tables, resource, new)
    current = version(tables, resource, new.c[XMIN], new) if with_version else sql("NULL")
    shown = sa.func.row_to_json(row.table_valued()).label("result")
    columns = sa.select(shown, key, current.label("version"), transaction_id())
    if not within:
        return columns.select_from(row.join(new, sa.true()))
    source = Source(tables, resource, binds, new)
    condition = source.condition(within)
    failure = sa.cast(sa.func.concat(sql(quote_literal(OUTSIDE_SCOPE)), sa.func.left(key.element, sql(0))), sa.Boolean)
    met = sa.case((sa.func.coalesce(condition, sa.false()), sa.true()), else_=failure)
    return columns.select_from(row.join(source.clause, sa.true())).where(met)


def _written_each(tables: Tables, projection: Projection, new: sa.CTE) -> sa.Select[Any]:
    """The rows that a statement has written, with their positions."""
    current = version(tables, projection.resource, new.c[XMIN], new).label("version")
    return written_rows(tables, projection, new, POSITION, current, transaction_id())
