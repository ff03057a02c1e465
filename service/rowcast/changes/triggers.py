"""The text of the triggers that fill the log.

A trigger runs once per statement and sees all rows of the statement, before and after, as two tables. It logs each row
as the JSON that clients get, made by the same expressions as responses, so that readers of the log need not know column
types. Triggers run in the writer's transaction and follow three rules:

* They never make a writer fail for reasons of the log: there is a partition for every time, and nothing has a limit.
* They are not slowed down by what others have logged: nothing in the ordinary path reads the log.
* A session keeps their plans for as long as it lives. So a plan must not suit the first, small statement and be ruinous
  for a large one. A full join is either by hash or by merge; other joins are planned again for large statements.

If a row declares many_to_many fields, its links belong to it. Two transactions that change a row and its links at the
same time see nothing of each other, and the later event would undo the earlier one. So a change of links locks the
owner's row first and reads it afterwards: the second transaction sees what the first has done.

A statement's trigger runs after all triggers of its rows, so changes nested in a statement are logged before it. From
the first nested change on, the triggers of the transaction log rows as they are now, rather than as their statement
left them. The last event of a row is then true again. Cascades are not nested: PostgreSQL runs the trigger of a table
once for all of them, after the statement's own, with all rows in the same two tables. A row that has lost two
references to deleted rows is in there twice, so the rows of tables where this is possible are always logged as they are
now.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import sqlalchemy as sa

from rowcast.changes import sql
from rowcast.changes.coordination import GATE_SHUT, WAKE_CHANNEL
from rowcast.resources.composite import key_column
from rowcast.resources.fields import Field, Kind
from rowcast.resources.resource import Resource, link_columns, link_table
from rowcast.resources.sql import DIALECT, cut_identifier, quote_identifier, quote_literal, split_table
from rowcast.resources.tables import Tables

REPLANNED_LINKS: Final = 100  # a statement that changes more links is planned again

_TRANSITIONS: Final[Mapping[str, str]] = {
    "insert": "REFERENCING NEW TABLE AS rowcast_new",
    "update": "REFERENCING OLD TABLE AS rowcast_old NEW TABLE AS rowcast_new",
    "delete": "REFERENCING OLD TABLE AS rowcast_old",
    "truncate": "",
}

_FUNCTION: Final = sql.load("trigger_function")
_TRIGGER: Final = sql.load("trigger")
_BODY: Final = sql.load("trigger_body")
WAKE_TICKER: Final = sql.fill(sql.load("wake_ticker"), shut=str(GATE_SHUT), channel=WAKE_CHANNEL)
_LOG_INSERTED_ROWS: Final = sql.load("log_inserted_rows")
_LOG_UPDATED_ROWS: Final = sql.load("log_updated_rows")
_CURRENT_ROWS: Final = sql.load("current_rows")
_LOG_DELETED_ROWS: Final = sql.load("log_deleted_rows")
_LOG_TRUNCATE: Final = sql.load("log_truncate")
_LOCK_OWNERS: Final = sql.load("lock_owners")
_LOG_LINK_OWNERS: Final = sql.load("log_link_owners")
_COMPLETE_DELETED_OWNERS: Final = sql.load("complete_deleted_owners")
_LIST_OF_LINKS: Final = sql.load("list_of_links")

_NESTED: Final = "current_setting('rowcast.nested', true) = 'on'"
_LINKED: Final = "current_setting('rowcast.linked', true) = 'on'"
_SET_LINKED: Final = "PERFORM set_config('rowcast.linked', 'on', true);"
_IN_DELETE: Final = "current_setting('rowcast.before_delete', true) <> ''"
_SET_BEFORE_DELETE: Final = (
    "PERFORM set_config('rowcast.before_delete', (SELECT last_value FROM rowcast.change_seq)::text, true);"
)


@dataclass(frozen=True, slots=True)
class Trigger:
    """What one operation on one table runs. ``table`` is the declared one, and may be several relations."""

    table: str
    operation: str
    function: str
    body: str  # plpgsql

    @property
    def name(self) -> str:
        """The trigger's name on the table, the same for all tables."""
        return f"rowcast_{self.operation}"

    @property
    def create(self) -> str:
        """The statement that creates or replaces the function."""
        return create_function(self.function, self.body)

    def attach(self, relation: str) -> str:
        """The statement that creates the trigger on a relation (quoted)."""
        return sql.fill(
            _TRIGGER,
            name=self.name,
            operation=self.operation.upper(),
            relation=relation,
            transitions=_TRANSITIONS[self.operation],
            function=quote_identifier(self.function),
        )


def create_function(name: str, body: str) -> str:
    """The statement that creates or replaces the function of a trigger."""
    return sql.fill(_FUNCTION, function=quote_identifier(name), body=quote_literal(body))


def triggers(
    tables: Tables, schemas: Mapping[str, str], nulled: Container[str] = (), *, wakeup: str = "notify"
) -> Iterator[Trigger]:
    """Every trigger of every resource.

    ``schemas`` is the schema of each table. Rows of the tables ``nulled`` may lose several references in one statement.
    """
    for resource in tables.resources.values():
        if resource.view:
            continue
        writer = _ResourceTriggers(
            tables, resource, schemas, notify=wakeup == "notify", nulled=resource.table in nulled
        )
        for operation, body in writer.bodies():
            yield Trigger(resource.table, operation, cut_identifier(f"{resource.name}.{operation}"), body)
        for field in writer.lists:
            for operation, body in writer.link_bodies(field):
                name = cut_identifier(f"{resource.name}.{field.name}.{operation}")
                yield Trigger(link_table(resource, field), operation, name, body)


def logged_tables(tables: Tables) -> Iterator[str]:
    """The tables that have triggers: those of the resources, and of the links that their rows show."""
    for resource in tables.resources.values():
        if not resource.view:
            yield resource.table
            yield from (link_table(resource, field) for field in _shown_links(resource))


def _shown_links(resource: Resource) -> list[Field]:
    return [field for field in resource.links.values() if not field.write_only]


def qualified(table: str, schemas: Mapping[str, str]) -> str:
    """The table as a quoted SQL identifier with its schema."""
    return f"{quote_identifier(schemas[table])}.{quote_identifier(split_table(table)[1])}"


def _json_of(field: Field, relation: str, column: str) -> str:
    """The JSON form of a column of a relation, whose name is used as it is."""
    source: sa.ColumnClause[Any] = sa.column(column, field.field_type.column(field))
    if field.field_type.json(field, source) is source:  # most are, and compiling takes ten times as long
        return f"{relation}.{DIALECT.identifier_preparer.quote(column)}"
    source = sa.table(relation, source).c[column]
    return str(field.field_type.json(field, source).compile(dialect=DIALECT, compile_kwargs={"literal_binds": True}))


@dataclass(frozen=True, slots=True)
class _Links:
    """The table of a many_to_many field (quoted), its columns (not quoted), and the field of its target's key."""

    table: str
    source_column: str
    target_column: str
    element: Field


class _ResourceTriggers:
    """Writes the trigger bodies of one resource.

    All names of the service begin with ``rowcast_``, and columns are always qualified by their relation, so that no
    column of a resource can be taken for anything else.
    """

    def __init__(
        self, tables: Tables, resource: Resource, schemas: Mapping[str, str], *, notify: bool, nulled: bool
    ) -> None:
        self._wake = WAKE_TICKER if notify else ""
        self._resources = tables.resources
        self._resource = resource
        self._schemas = schemas
        self._table = qualified(resource.table, schemas)
        self._keys = [quote_identifier(field.stored_column) for field in resource.key_fields]
        self._key = self._keys[0]  # the only one, if the resource has links
        self._name = quote_literal(resource.name)
        references = [field for field in resource.fields.values() if field.field_type.kind is Kind.RELATION]
        self._cascades = nulled or (len(references) > 1 and any(field.on_delete == "set_null" for field in references))
        self.lists = _shown_links(resource)
        self._row = cache(self._make_row)  # the bodies have some rows in common, each with an expression per column

    def bodies(self) -> Iterator[tuple[str, str]]:
        """Each operation and the body of the table's own trigger for it."""
        yield "insert", self._insert()
        yield "update", self._update()
        yield "delete", self._delete()
        yield "truncate", self._truncate()

    def link_bodies(self, field: Field) -> Iterator[tuple[str, str]]:
        """Each operation and the body of the trigger for it on the table of a many_to_many field."""
        yield "insert", self._link(field, new=True)
        yield "update", self._link(field, old=True, new=True)
        yield "delete", self._link(field, old=True)
        yield "truncate", self._truncate()

    def _insert(self) -> str:
        pk, key = self._text_of_key("rowcast_new"), self._columns_of_key("rowcast_new")

        def log(rows: str, *, linked: bool = True) -> str:
            new = self._row("rowcast_new", linked=linked or not self.lists)
            return sql.fill(_LOG_INSERTED_ROWS, resource=self._name, pk=pk, new=new, rows=rows)

        unlinked = log("rowcast_new", linked=False)
        planned = f"IF {_LINKED} THEN {log('rowcast_new')}; ELSE {unlinked}; END IF" if self.lists else unlinked
        now = f"{self._table} rowcast_new WHERE {self._row_of(key)} IN (SELECT {key} FROM rowcast_new)"
        return self._body([planned], large=_NESTED, replanned=[log(now)])

    def _update(self) -> str:
        old_key, new_key, row_key = map(self._columns_of_key, ("rowcast_old", "rowcast_new", "rowcast_row"))
        if len(self._keys) == 1:
            pk = f"coalesce({new_key}, {old_key})::text"
        else:
            pk = f"coalesce({self._text_of_key('rowcast_new')}, {self._text_of_key('rowcast_old')})"

        def log(rows: str) -> str:
            old, new = self._row("rowcast_old"), self._row("rowcast_new")
            same = self._same_key("rowcast_new", "rowcast_old")
            return sql.fill(
                _LOG_UPDATED_ROWS, resource=self._name, pk=pk, key=self._key, same=same, old=old, new=new, rows=rows
            )

        now = sql.fill(_CURRENT_ROWS, table=self._table, key=self._row_of(row_key), old=old_key, new=new_key)
        return self._body([log(now if self._cascades else "rowcast_new")], large=_NESTED, replanned=[log(now)])

    def _delete(self) -> str:
        pk, same = self._text_of_key("rowcast_old"), self._same_key("rowcast_row", "rowcast_old")
        log = sql.fill(_LOG_DELETED_ROWS, resource=self._name, pk=pk, old=self._row("rowcast_old"))
        gone = f"NOT EXISTS (SELECT FROM {self._table} rowcast_row WHERE {same})"
        before = _SET_BEFORE_DELETE if self.lists else ""
        return self._body([log], large=_NESTED, replanned=[f"{log} WHERE {gone}"], before=before)

    def _truncate(self) -> str:
        return self._body([sql.fill(_LOG_TRUNCATE, resource=self._name)])

    def _link(self, field: Field, *, old: bool = False, new: bool = False) -> str:
        """Log the owners of added (``new``) and removed (``old``) links, with their lists before and after."""
        links = self._links_of(field)
        source, target = quote_identifier(links.source_column), quote_identifier(links.target_column)
        changed = [relation for relation, has in (("rowcast_new", new), ("rowcast_old", old)) if has]
        owners = " UNION ".join(f"SELECT {relation}.{source} FROM {relation}" for relation in changed)
        before = "SELECT rowcast_is.source, rowcast_is.target FROM rowcast_is"
        if new:
            before += f" EXCEPT SELECT rowcast_new.{source}, rowcast_new.{target} FROM rowcast_new"
        if old:
            before = f"({before}) UNION SELECT rowcast_old.{source}, rowcast_old.{target} FROM rowcast_old"

        def lock(select: str) -> str:
            return sql.fill(_LOCK_OWNERS, select=select, table=self._table, key=self._key, owners=owners)

        log = sql.fill(
            _LOG_LINK_OWNERS,
            resource=self._name,
            table=self._table,
            key=self._key,
            row=self._row("rowcast_row", without=field),
            field=quote_literal(field.name),
            links=links.table,
            source=source,
            target=target,
            owners=owners,
            links_before=before,
            element=_json_of(links.element, "rowcast_list", "target"),
        )
        return self._body(
            [lock("PERFORM"), log],
            large=f"(SELECT count(*) FROM {changed[0]}) > {REPLANNED_LINKS}",
            replanned=[lock("SELECT"), log],
            before=_SET_LINKED,
            after="" if new else self._complete_deleted_owners(field, links),
        )

    def _complete_deleted_owners(self, field: Field, links: _Links) -> str:
        statement = sql.fill(
            _COMPLETE_DELETED_OWNERS,
            resource=self._name,
            table=self._table,
            key=self._key,
            field=quote_literal(field.name),
            source=quote_identifier(links.source_column),
            target=quote_identifier(links.target_column),
            element=_json_of(links.element, "rowcast_old", links.target_column),
        )
        return f"IF {_IN_DELETE} THEN EXECUTE {quote_literal(statement)}; END IF;"

    def _body(
        self,
        planned: Sequence[str],
        *,
        large: str = "false",
        replanned: Sequence[str] = (),
        before: str = "",
        after: str = "",
    ) -> str:
        """The body that runs the ``planned`` statements or, if ``large``, plans and runs the ``replanned`` ones."""
        return sql.fill(
            _BODY,
            before=before,
            large=large,
            replanned="\n        ".join(f"EXECUTE {quote_literal(statement)};" for statement in replanned),
            planned="\n        ".join(f"{statement};" for statement in planned),
            after=after,
            wake=self._wake,
        )

    def _columns_of_key(self, relation: str) -> str:
        """The columns of a relation's keys, as in SELECT."""
        return ", ".join(f"{relation}.{column}" for column in self._keys)

    def _row_of(self, columns: str) -> str:
        """Columns of a key, as on the left of IN."""
        return columns if len(self._keys) == 1 else f"({columns})"

    def _same_key(self, first: str, second: str) -> str:
        """Whether rows of two relations have the same key."""
        return " AND ".join(f"{first}.{column} = {second}.{column}" for column in self._keys)

    def _text_of_key(self, relation: str) -> str:
        """The key of a row of a relation as text; null if the row is missing."""
        if len(self._keys) == 1:
            return f"{relation}.{self._key}::text"
        names = [field.stored_column for field in self._resource.key_fields]
        parts = self._resources.key_of(self._resource.key).parts
        columns = [sa.column(name, part.field_type.column(part)) for name, part in zip(names, parts, strict=True)]
        source = sa.table(relation, *columns)
        text = key_column(parts, [source.c[name] for name in names])
        return str(text.compile(dialect=DIALECT, compile_kwargs={"literal_binds": True}))

    def _make_row(self, relation: str, *, without: Field | None = None, linked: bool = True) -> str:
        """The row of a relation as clients get it, without its ``write_only`` fields and the field ``without``.

        A row that is not ``linked`` yet has empty lists, which need not be read.
        """
        pairs = [
            f"{quote_literal(name)}, {_json_of(self._resources.key_of(field), relation, field.stored_column)}"
            for name, field in self._resource.columns.items()
            if not field.write_only
        ]
        for field in self.lists:
            if field is not without:
                items = self._list(field, relation) if linked else "'[]'::jsonb"
                pairs.append(f"{quote_literal(field.name)}, {items}")
        chunks = [", ".join(pairs[start : start + 50]) for start in range(0, len(pairs), 50)]
        objects = " || ".join(f"jsonb_build_object({chunk})" for chunk in chunks)  # takes 100 arguments
        return f"({objects})"

    def _list(self, field: Field, relation: str) -> str:
        links = self._links_of(field)
        return sql.fill(
            _LIST_OF_LINKS,
            relation=relation,
            key=self._key,
            links=links.table,
            source=quote_identifier(links.source_column),
            target=quote_identifier(links.target_column),
            element=_json_of(links.element, "rowcast_link", links.target_column),
        )

    def _links_of(self, field: Field) -> _Links:
        assert field.to is not None
        target = self._resources[field.to]
        source_column, target_column = link_columns(self._resource, field, target)
        table = qualified(link_table(self._resource, field), self._schemas)
        return _Links(table, source_column, target_column, self._resources.key_of(target.key))
