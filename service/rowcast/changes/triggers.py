"""The triggers that fill the log: their text, bringing them to a database, and what is wrong with those it has.

A trigger runs once a statement and sees all the statement's rows, before and after, as two tables. It logs each row as
the JSON that clients see, made by the very expressions that responses are made with, so that nothing after it needs to
know column types. Triggers run in the writer's transaction and are held to three rules:

* They never make a writer fail for reasons of the log: there is a partition for every time, and nothing has a limit.
* They do not slow down with what others have logged: nothing in the ordinary path reads the log.
* Their plans are kept by a session for as long as it lives, so they must not be of a kind that suits the first, small
  statement and ruins a large one. A full join is either by hash or by merge; what else joins is planned anew when
  large.

What a row is, is more than the row where it declares many_to_many fields. Two transactions that change a row and its
links at the same time see nothing of each other, and the later event would undo the earlier. So a change of links takes
the lock of the owner's row first, and then looks: whoever comes second sees what the first has done.

A statement's trigger runs after everything that its rows' own triggers did, so changes nested in a statement are logged
before it. From the first nested change on, the transaction's triggers log rows as they now are rather than as their
statement left them, which makes the last event of a row true again. Cascades are not nested: PostgreSQL runs a table's
trigger once for all of them, after the statement's own, with the rows of all in the same two tables. A row that has
lost two references to what was deleted is in there twice, so tables where that can be are logged as they now are,
always.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg
import sqlalchemy as sa

from rowcast.changes import log
from rowcast.changes.log import GATE, INSTALLING, LOCKS, WAKE, Connection
from rowcast.errors import ConfigurationError
from rowcast.resources.fields import Field, Kind
from rowcast.resources.resource import Resource, link_columns, link_table
from rowcast.resources.sql import DIALECT, SCHEMA, cut_identifier, quote_identifier, quote_literal
from rowcast.resources.tables import Tables

OPERATIONS: Final = ("insert", "update", "delete", "truncate")
MARK: Final = "Rowcast: logs changes"  # begins the comment of what is ours; its digest follows
LARGE: Final = 100  # links changed by a statement that is planned anew

_TRANSITIONS: Final[Mapping[str, str]] = {
    "insert": "REFERENCING NEW TABLE AS rowcast_new",
    "update": "REFERENCING OLD TABLE AS rowcast_old NEW TABLE AS rowcast_new",
    "delete": "REFERENCING OLD TABLE AS rowcast_old",
    "truncate": "",
}


@dataclass(frozen=True, slots=True)
class Trigger:
    """What one operation on one table runs; ``table`` is as declared, and may be several relations in the database."""

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
        """The statement that makes the function or replaces it."""
        return (
            f"CREATE OR REPLACE FUNCTION {SCHEMA}.{quote_identifier(self.function)}() RETURNS trigger LANGUAGE plpgsql"
            " SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'"
            " SET intervalstyle = 'iso_8601' SET extra_float_digits = 1"
            f" AS {quote_literal(self.body)}"
        )

    def attach(self, relation: str) -> str:
        """The statement that makes a relation (quoted) run it."""
        return (
            f"CREATE OR REPLACE TRIGGER {self.name} AFTER {self.operation.upper()} ON {relation}"
            f" {_TRANSITIONS[self.operation]} FOR EACH STATEMENT EXECUTE FUNCTION {SCHEMA}.{quote_identifier(self.function)}()"
        )


# --- text -------------------------------------------------------------------------------------------------------------


def triggers(tables: Tables, schemas: Mapping[str, str], *, wakeup: str = "notify") -> Iterator[Trigger]:
    """Every trigger of every resource. ``schemas`` says where each table is; ``public`` is meant where it does not."""
    for resource in tables.resources.values():
        row = _Row(tables, resource, schemas, notify=wakeup == "notify")
        for operation, body in row.bodies():
            yield Trigger(resource.table, operation, _function(resource.name, operation), body)
        for field in row.lists:
            for operation, body in row.link_bodies(field):
                name = _function(f"{resource.name}.{field.name}", operation)
                yield Trigger(link_table(resource, field), operation, name, body)


def trigger_statements(tables: Tables, schemas: Mapping[str, str] | None = None) -> list[str]:
    """The DDL of all triggers on tables that are not partitioned, for reading."""
    where = schemas or {}
    made = list(triggers(tables, where))
    return [
        statement for trigger in made for statement in (trigger.create, trigger.attach(_relation(trigger.table, where)))
    ]


def _function(of: str, operation: str) -> str:
    return cut_identifier(f"{of}.{operation}")


def _relation(table: str, schemas: Mapping[str, str]) -> str:
    return f"{quote_identifier(schemas.get(table, 'public'))}.{quote_identifier(table)}"


def _sql(field: Field, relation: str, column: str) -> str:
    """The JSON form of a column of a relation, which is named as it stands."""
    source = sa.table(relation, sa.column(column, field.field_type.column(field))).c[column]
    return str(field.field_type.json(field, source).compile(dialect=DIALECT, compile_kwargs={"literal_binds": True}))


_INTO: Final = "INSERT INTO rowcast.change (resource, op, pk, old, new)"
_NESTED: Final = "current_setting('rowcast.nested', true) = 'on'"
_LINKED: Final = "current_setting('rowcast.linked', true) = 'on'"
_EMPTY: Final = "'[]'::jsonb"
_NEST: Final = "PERFORM set_config('rowcast.nested', 'on', true);"
_WAKE: Final = f"""
        IF pg_try_advisory_lock_shared({LOCKS}, {GATE}) THEN
            PERFORM pg_advisory_unlock_shared({LOCKS}, {GATE});
            PERFORM pg_notify('{WAKE}', '');
        END IF;"""
"""Wake the ticker if it sleeps: awake it holds the gate, so whoever gets that, if only for a moment, has to ring."""
_REMEMBER: Final = (
    "PERFORM set_config('rowcast.behind', (SELECT last_value FROM rowcast.change_seq)::text, true);\n    "
)


class _Row:
    """The trigger bodies of one resource.

    All names of ours begin with ``rowcast_``, and columns are always named with their relation, so that no column of a
    user's can be taken for anything else.
    """

    def __init__(self, tables: Tables, resource: Resource, schemas: Mapping[str, str], *, notify: bool) -> None:
        self._wake = _WAKE if notify else ""
        self._resources = tables.resources
        self._resource = resource
        self._schemas = schemas
        self._table = _relation(resource.table, schemas)
        self._key = quote_identifier(resource.key.column_name)
        self._name = quote_literal(resource.name)
        references = [field for field in resource.fields.values() if field.field_type.kind is Kind.RELATION]
        self._cascades = len(references) > 1 and any(field.on_delete == "set_null" for field in references)
        self.lists = [field for field in resource.links.values() if not field.write_only]

    def bodies(self) -> Iterator[tuple[str, str]]:
        """The operation and the body of the table's own triggers."""
        key, table, name = self._key, self._table, self._name
        into = f"{_INTO} SELECT {name},"

        inserted = f"{into} 'I', rowcast_new.{key}::text, NULL,"
        whole = f"{inserted} {self._json('rowcast_new')} FROM"
        alone = f"{inserted} {self._json('rowcast_new', linked=False)} FROM rowcast_new"
        these = f"rowcast_new WHERE rowcast_new.{key} IN (SELECT rowcast_new.{key} FROM rowcast_new)"
        either = f"IF {_LINKED} THEN {whole} rowcast_new; ELSE {alone}; END IF" if self.lists else alone
        yield "insert", self._body(kept=[either], large=_NESTED, anew=[f"{whole} {table} {these}"])

        def updated(new: str) -> str:
            return f"""{into} CASE WHEN rowcast_o IS NULL THEN 'I' WHEN rowcast_n IS NULL THEN 'D' ELSE 'U' END,
            rowcast_k, rowcast_o, rowcast_n
        FROM (
            SELECT coalesce(rowcast_new.{key}, rowcast_old.{key})::text AS rowcast_k,
                CASE WHEN rowcast_old.{key} IS NOT NULL THEN {self._json("rowcast_old")} END AS rowcast_o,
                CASE WHEN rowcast_new.{key} IS NOT NULL THEN {self._json("rowcast_new")} END AS rowcast_n
            FROM rowcast_old FULL JOIN {new} ON rowcast_new.{key} = rowcast_old.{key} OFFSET 0
        ) rowcast_pair WHERE rowcast_o IS DISTINCT FROM rowcast_n"""

        now = f"""(
                SELECT rowcast_row.* FROM {table} rowcast_row WHERE rowcast_row.{key} IN (
                    SELECT rowcast_old.{key} FROM rowcast_old UNION SELECT rowcast_new.{key} FROM rowcast_new
                )
            ) rowcast_new"""
        yield (
            "update",
            self._body(kept=[updated(now if self._cascades else "rowcast_new")], large=_NESTED, anew=[updated(now)]),
        )

        deleted = f"{into} 'D', rowcast_old.{key}::text, {self._json('rowcast_old')}, NULL FROM rowcast_old"
        gone = f"NOT EXISTS (SELECT FROM {table} rowcast_row WHERE rowcast_row.{key} = rowcast_old.{key})"
        yield "delete", self._body(
            before=_REMEMBER if self.lists else "",
            kept=[deleted], large=_NESTED, anew=[f"{deleted} WHERE {gone}"],
        )  # fmt: skip
        yield "truncate", self._truncated()

    def link_bodies(self, field: Field) -> Iterator[tuple[str, str]]:
        """The operation and the body of the triggers of a many_to_many field's table."""
        yield "insert", self._linked(field, new=True)
        yield "update", self._linked(field, old=True, new=True)
        yield "delete", self._linked(field, old=True)
        yield "truncate", self._truncated()

    def _linked(self, field: Field, *, old: bool = False, new: bool = False) -> str:
        """Log the owners of links that came or went, with their lists before and after."""
        link = self._link(field)
        near, far = quote_identifier(link.source_column), quote_identifier(link.target_column)
        key, name = self._key, quote_literal(field.name)
        changed = [relation for relation, has in (("rowcast_new", new), ("rowcast_old", old)) if has]
        owners = " UNION ".join(f"SELECT {relation}.{near} FROM {relation}" for relation in changed)
        was = "SELECT rowcast_is.near, rowcast_is.far FROM rowcast_is"
        if new:
            was += f" EXCEPT SELECT rowcast_new.{near}, rowcast_new.{far} FROM rowcast_new"
        if old:
            was = f"({was}) UNION SELECT rowcast_old.{near}, rowcast_old.{far} FROM rowcast_old"
        shown = _sql(link.element, "rowcast_list", "far")
        lists = f"SELECT rowcast_list.near, jsonb_agg({shown} ORDER BY rowcast_list.far) AS items FROM"
        locking = f"""FROM {self._table} rowcast_row WHERE rowcast_row.{key} IN ({owners})
            ORDER BY rowcast_row.{key} FOR NO KEY UPDATE"""
        logging = f"""WITH rowcast_owner (near) AS MATERIALIZED ({owners}),
        rowcast_is AS MATERIALIZED (
            SELECT rowcast_link.{near} AS near, rowcast_link.{far} AS far FROM {link.table} rowcast_link
            WHERE rowcast_link.{near} IN (SELECT near FROM rowcast_owner)
        ),
        rowcast_was (near, far) AS MATERIALIZED ({was}),
        rowcast_doc AS MATERIALIZED (
            SELECT rowcast_row.{key} AS near, rowcast_row.{key}::text AS pk,
                {self._json("rowcast_row", without=field)} AS doc
            FROM {self._table} rowcast_row WHERE rowcast_row.{key} IN (SELECT near FROM rowcast_owner)
        )
        {_INTO} SELECT {self._name}, 'U', rowcast_doc.pk,
            rowcast_doc.doc || jsonb_build_object({name}, coalesce(rowcast_before.items, '[]')),
            rowcast_doc.doc || jsonb_build_object({name}, coalesce(rowcast_after.items, '[]'))
        FROM rowcast_doc
        LEFT JOIN ({lists} rowcast_was rowcast_list GROUP BY 1) rowcast_before ON rowcast_before.near = rowcast_doc.near
        LEFT JOIN ({lists} rowcast_is rowcast_list GROUP BY 1) rowcast_after ON rowcast_after.near = rowcast_doc.near
        WHERE rowcast_before.items IS DISTINCT FROM rowcast_after.items"""
        return self._body(
            kept=[f"PERFORM {locking}", logging],
            large=f"(SELECT count(*) FROM {changed[0]}) > {LARGE}",
            anew=[f"SELECT {locking}", logging],
            before="PERFORM set_config('rowcast.linked', 'on', true);\n    ",
            after="" if new else self._tell_owners(link, name),
        )

    def _tell_owners(self, link: _Link, name: str) -> str:
        """Put links into the event of an owner that is gone: a cascade takes them along before that event is logged."""
        near, far = quote_identifier(link.source_column), quote_identifier(link.target_column)
        shown = _sql(link.element, "rowcast_old", link.target_column)
        statement = f"""UPDATE rowcast.change c SET old = c.old || jsonb_build_object({name}, l.items) FROM (
            SELECT rowcast_old.{near}::text AS pk, jsonb_agg({shown} ORDER BY rowcast_old.{far}) AS items
            FROM rowcast_old
            WHERE NOT EXISTS (SELECT FROM {self._table} rowcast_row WHERE rowcast_row.{self._key} = rowcast_old.{near})
            GROUP BY rowcast_old.{near}
        ) l WHERE c.xid = pg_current_xact_id() AND c.seq > current_setting('rowcast.behind')::bigint
            AND c.resource = {self._name} AND c.op = 'D' AND c.pk = l.pk"""
        return f"""
    IF current_setting('rowcast.behind', true) <> '' THEN
        EXECUTE {quote_literal(statement)};
    END IF;"""

    def _truncated(self) -> str:
        """TRUNCATE of a table, its partitions and its links is one event: of several in a row the first is logged."""
        logged = f"""{_INTO} SELECT {self._name}, 'T', NULL, NULL, NULL WHERE 'T' IS DISTINCT FROM (
            SELECT c.op FROM rowcast.change c WHERE c.xid = pg_current_xact_id() AND c.resource = {self._name}
            ORDER BY c.seq DESC LIMIT 1
        )"""
        return self._body(kept=[logged])

    def _body(
        self, *, kept: Sequence[str], large: str = "false", anew: Sequence[str] = (), before: str = "", after: str = ""
    ) -> str:
        """Statements that log: those whose plan is ``kept`` or, if ``large``, others planned ``anew``.

        The last of them says how many events there are. Settings that live as long as the transaction remember:
        ``rowcast.nested`` that rows may have changed since their statement, ``rowcast.linked`` that links have
        changed, so that a new row may have some, and ``rowcast.behind`` how far the numbers were before a DELETE.
        """
        rows = "        GET DIAGNOSTICS rowcast_rows = ROW_COUNT;\n"
        return (
            f"DECLARE rowcast_rows bigint;\nBEGIN\n    {before}IF {large} THEN\n"
            + "".join(f"        EXECUTE {quote_literal(statement)};\n" for statement in anew)
            + f"{rows}    ELSE\n"
            + "".join(f"        {statement};\n" for statement in kept)
            + f"""{rows}    END IF;{after}
    IF rowcast_rows > 0 THEN{self._wake}
        IF pg_trigger_depth() > 1 THEN
            {_NEST}
        END IF;
    END IF;
    RETURN NULL;
END"""
        )

    def _json(self, relation: str, *, without: Field | None = None, linked: bool = True) -> str:
        """The row of a relation as clients see it, but for what is write_only and the field ``without``.

        A row that is not ``linked`` yet has empty lists, and they need not be looked up.
        """
        pairs = [
            f"{quote_literal(name)}, {_sql(self._resources.key_of(field), relation, name)}"
            for name, field in self._resource.columns.items()
            if not field.write_only
        ]
        for field in self.lists:
            if field is not without:
                pairs.append(f"{quote_literal(field.name)}, {self._list(field, relation) if linked else _EMPTY}")
        chunks = [", ".join(pairs[start : start + 50]) for start in range(0, len(pairs), 50)]
        made = " || ".join(f"jsonb_build_object({chunk})" for chunk in chunks)  # takes 100 arguments
        return f"({made})"

    def _list(self, field: Field, relation: str) -> str:
        link = self._link(field)
        shown = _sql(link.element, "rowcast_link", link.target_column)
        return (
            f"(SELECT coalesce(jsonb_agg({shown} ORDER BY rowcast_link.{quote_identifier(link.target_column)}), '[]')"
            f" FROM {link.table} rowcast_link WHERE rowcast_link.{quote_identifier(link.source_column)} = {relation}.{self._key})"
        )

    def _link(self, field: Field) -> _Link:
        assert field.to is not None
        target = self._resources[field.to]
        near, far = link_columns(self._resource, target)
        relation = _relation(link_table(self._resource, field), self._schemas)
        return _Link(relation, near, far, self._resources.key_of(target.key))


@dataclass(frozen=True, slots=True)
class _Link:
    """A many_to_many field's relation (quoted), its columns, and the field that the far one's values are of."""

    table: str
    source_column: str
    target_column: str
    element: Field


# --- bringing them to a database --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pending:
    """What a database lacks: a sentence for people, and the statement that mends it."""

    problem: str
    statement: str


async def pending(connection: Connection, tables: Tables, *, wakeup: str = "notify") -> list[Pending]:
    """What is to be done so that every change of every resource is logged, in order; nothing if all is well."""
    schemas = await _schemas(connection, {*(r.table for r in tables.resources.values()), *tables.links})
    found: list[Pending] = []
    comments: dict[str, str] = dict(
        await connection.fetch(
            """SELECT proname, obj_description(oid, 'pg_proc') FROM pg_proc
            WHERE pronamespace = to_regnamespace('rowcast') AND obj_description(oid, 'pg_proc') LIKE $1""",
            f"{MARK}%",
        )
    )
    placed: dict[tuple[str, str], str] = {
        (row["relation"], row["name"]): row["function"]
        for row in await connection.fetch(
            """SELECT format('%I.%I', n.nspname, c.relname) AS relation, t.tgname AS name, p.proname AS function
            FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_class c ON c.oid = t.tgrelid
            JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pronamespace = to_regnamespace('rowcast')"""
        )
    }

    def function(name: str, create: str) -> None:
        comment = f"{MARK} ({hashlib.blake2s(create.encode(), digest_size=16).hexdigest()})"
        if comments.pop(name, None) != comment:
            remember = f"COMMENT ON FUNCTION {SCHEMA}.{quote_identifier(name)} IS {quote_literal(comment)}"
            found.append(Pending(f"the function {SCHEMA}.{name} is missing or out of date", f"{create}; {remember}"))

    for trigger in triggers(tables, schemas, wakeup=wakeup):
        function(trigger.function, trigger.create)
        for relation in await _relations(connection, _relation(trigger.table, schemas)):
            if placed.pop((relation, trigger.name), None) != trigger.function:
                problem = f"the table {relation} has no trigger that logs {trigger.operation.upper()}"
                found.append(Pending(problem, trigger.attach(relation)))
    for relation, name in placed:
        problem = f"the table {relation} is logged and no resource's any more"
        found.append(Pending(problem, f"DROP TRIGGER {quote_identifier(name)} ON {relation}"))
    for name in comments:
        problem = f"the function {SCHEMA}.{name} belongs to no resource any more"
        found.append(Pending(problem, f"DROP FUNCTION {SCHEMA}.{quote_identifier(name)}"))
    return found


async def sync_triggers(connection: Connection, tables: Tables, *, wakeup: str = "notify") -> list[str]:
    """Make every change of every resource logged, in one transaction; the statements run, none if all was well.

    The tables must exist. ``wakeup`` is the setting ``stream.wakeup``.
    """
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1, $2)", LOCKS, INSTALLING)
            statements = [change.statement for change in await pending(connection, tables, wakeup=wakeup)]
            for statement in statements:
                await connection.execute(statement)
            return statements
    except asyncpg.ReadOnlySQLTransactionError:
        raise ConfigurationError("this database is read-only: triggers are made on the primary server") from None
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigurationError(
            f"the triggers cannot be made ({error}): the role must own the schema {SCHEMA} and the resources' tables,"
            " or have TRIGGER, SELECT and UPDATE on them"
        ) from None


async def hindrances(connection: Connection) -> list[str]:
    """Why a service cannot work on this database at all, a sentence each: what it is, and what the role lacks."""
    if await connection.fetchval("SELECT pg_is_in_recovery()"):
        return ["the database is a standby: streams need a connection to the primary server"]
    found = []
    if await connection.fetchval("SELECT current_setting('default_transaction_read_only')::bool"):
        found.append("the database is read-only: default_transaction_read_only is on, for all or for this role")
    lacking = await _rights(connection, _LOOKING)
    if lacking is None and await log.version(connection) == log.VERSION:
        lacking = await _rights(connection, _WORKING)
    return found if lacking is None else [*found, lacking]


async def problems(connection: Connection, tables: Tables, *, wakeup: str = "notify") -> list[str]:
    """Why changes would not be told, a sentence each; empty if all is well."""
    if found := await hindrances(connection):
        return found
    present = await log.version(connection)
    if present > log.VERSION:
        return [log.newer(present)]
    if present < log.VERSION:
        told = f"is of version {present}, and this Rowcast needs {log.VERSION}" if present else "is not installed"
        return [f"the change log {told}: run `rowcast migrate`"]
    try:
        todo = await pending(connection, tables, wakeup=wakeup)
    except ConfigurationError as error:
        return [str(error)]
    found = [f"{change.problem}: run `rowcast migrate`" for change in todo]
    disabled = await connection.fetch(
        """SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
        WHERE p.pronamespace = to_regnamespace('rowcast') AND tgenabled NOT IN ('O', 'A') ORDER BY 1"""
    )
    for (table,) in disabled:
        found.append(f"triggers of {table} are disabled, so not all is told: ALTER TABLE {table} ENABLE TRIGGER USER")
    if await connection.fetchval("SELECT current_setting('session_replication_role') = 'replica'"):
        found.append("session_replication_role is replica, so no trigger runs: changes made like this are not told")
    for (who,) in await connection.fetch(_REPLICA_ROLES):
        found.append(f"session_replication_role is set to replica for {who}: changes made like this are not told")
    if not await orderly(connection):
        found.append("the sequence rowcast.change_seq needs CACHE 1, INCREMENT 1 and NO CYCLE: the order rests on it")
    return found


async def usable(connection: Connection) -> bool:
    """Whether the log is there, of this version, and open to the role of the connection."""
    if await _rights(connection, _LOOKING) is not None or await log.version(connection) != log.VERSION:
        return False
    return await _rights(connection, _WORKING) is None


_REPLICA_ROLES: Final = """
    SELECT concat_ws(' in ', 'role ' || r.rolname, 'database ' || d.datname) FROM pg_db_role_setting s
    LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
    WHERE 'session_replication_role=replica' = ANY (s.setconfig)
        AND (d.oid IS NULL OR d.datname = current_database()) ORDER BY 1
"""

_LOOKING: Final = """
    SELECT 'USAGE on the schema rowcast' WHERE NOT coalesce(has_schema_privilege(n, 'USAGE'), true)
    UNION ALL SELECT 'SELECT on rowcast.version' WHERE coalesce(has_schema_privilege(n, 'USAGE'), true)
        AND NOT coalesce(has_table_privilege(to_regclass('rowcast.version'), 'SELECT'), true)
"""
_WORKING: Final = """
    SELECT string_agg(word, ', ') || ' on rowcast.' || name
    FROM (VALUES ('secret', ARRAY['SELECT']), ('epoch', ARRAY['SELECT', 'INSERT', 'UPDATE']), ('token', ARRAY['SELECT']),
        ('tick', ARRAY['SELECT', 'INSERT', 'DELETE']), ('change', ARRAY['SELECT']), ('change_part', ARRAY['UPDATE']),
        ('change_0', ARRAY['SELECT', 'TRUNCATE'])
    ) AS needed (name, words), unnest(words) word
    WHERE NOT has_table_privilege('rowcast.' || name, word) AND n IS NOT NULL GROUP BY name
"""


async def _rights(connection: Connection, needed: str) -> str | None:
    """What to say when the role of the connection lacks rights on the log; ``None`` if it has them."""
    lacking = await connection.fetch(f"SELECT found.* FROM to_regnamespace('rowcast') n, LATERAL ({needed}) found")
    if not lacking:
        return None
    role = await connection.fetchval("SELECT current_user")
    return (
        f"the role {role} lacks {'; '.join(right for (right,) in lacking)}: it must own the schema {SCHEMA}, be a member"
        " of the role that does, or be granted this"
    )


async def orderly(connection: Connection) -> bool:
    """Whether numbers of changes are given out in the order of asking."""
    return bool(
        await connection.fetchval(
            """SELECT seqcache = 1 AND seqincrement = 1 AND NOT seqcycle
            FROM pg_sequence WHERE seqrelid = 'rowcast.change_seq'::regclass"""
        )
    )


async def _schemas(connection: Connection, tables: set[str]) -> dict[str, str]:
    """The schema that each table is found in."""
    rows = await connection.fetch(
        """SELECT t.name, (SELECT relnamespace::regnamespace FROM pg_class WHERE oid = to_regclass(quote_ident(t.name)))
        FROM unnest($1::text[]) AS t (name)""",
        sorted(tables),
    )
    if missing := [name for name, schema in rows if schema is None]:
        names = ", ".join(missing)
        raise ConfigurationError(
            f"there is no table {names}, and no revision makes it: run `rowcast migrate --sync`, or write a revision "
            "with `rowcast makemigrations`"
        )
    return dict(rows)


async def _relations(connection: Connection, table: str) -> list[str]:
    """The table and its partitions or children: a statement fires the triggers of the one that it names."""
    rows = await connection.fetch(
        """WITH RECURSIVE tree (oid) AS (
            SELECT to_regclass($1)::oid
            UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid
        )
        SELECT format('%I.%I', n.nspname, c.relname) FROM tree JOIN pg_class c USING (oid)
        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') ORDER BY c.oid""",
        table,
    )
    return [relation for (relation,) in rows]
