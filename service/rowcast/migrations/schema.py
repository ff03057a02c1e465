"""The difference between config and database, and how it is brought in line.

Alembic finds the differences in tables, columns, keys, indexes and comments. What can be written in many ways, a type,
a default, a check constraint, is compared as PostgreSQL itself understands it: the declared tables are made once more
as temporary ones in a savepoint that is rolled back, and both sides are read from the catalog in the same words.

A difference is *additive* when it only adds or loosens: no row is lost by it and, if the rows do not fit it, PostgreSQL
refuses it as a whole. Everything else is *destructive* and is done by written revisions alone. What the config does not
name and the service did not make is somebody else's and left out: other tables, and in the service's own tables the
indexes and constraints whose names do not begin as those of ``tables`` do.

To compare takes a few hundred milliseconds and is mostly in vain. So a comparison without a difference leaves a digest
of the declared tables and of what the catalog says of them, as the comment of the version table, and nothing is
compared while that digest is the same. A table altered by hand has another one.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import alembic
import asyncpg
import sqlalchemy as sa
from alembic.autogenerate import produce_migrations, render_python_code, renderers
from alembic.autogenerate.api import AutogenContext
from alembic.config import Config
from alembic.ddl.postgresql import PostgresqlImpl
from alembic.operations import Operations, ops
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.runtime.plugins import Plugin
from alembic.script import Script, ScriptDirectory
from alembic.util import CommandError, PriorityDispatchResult, rev_id
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateTable

from rowcast import __version__
from rowcast.errors import ConfigurationError
from rowcast.resources.tables import SCHEMA, Tables

Connection: TypeAlias = "asyncpg.Connection"
Connect: TypeAlias = Callable[[], Awaitable[Connection]]
Step: TypeAlias = Callable[[Connection], Awaitable[None]]
Result = TypeVar("Result")

DIALECT: Final = sa.make_url("postgresql+asyncpg://").get_dialect()()
VERSION_TABLE: Final = "alembic_version"
LOCK: Final = 0x726F7763617374  # the advisory lock of whoever migrates
PATIENCE: Final = 60.0  # seconds to wait for another one who does
LOCK_TIMEOUT: Final = "10s"  # for a table that is in use: everyone else waits behind the one who waits


class SchemaError(ConfigurationError):
    """The database is not brought in line and is as it was: the message has the statement, the reason and a way out."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One step from database to config: the DDL as it runs.

    ``needed`` tells whether the service cannot do its work before; a missing comment or a limit that the database does
    not know yet is not.
    """

    sql: str
    additive: bool
    needed: bool

    def __str__(self) -> str:
        return self.sql if self.additive else "\n".join(f"-- destructive: {line}" for line in self.sql.splitlines())


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything between database and config, in the order in which it runs, and the revisions not applied yet."""

    statements: list[Statement] = field(default_factory=list)
    revisions: list[str] = field(default_factory=list)

    @property
    def additive(self) -> list[Statement]:
        """What ``rowcast migrate --sync`` does."""
        return [statement for statement in self.statements if statement.additive]

    @property
    def destructive(self) -> list[Statement]:
        """What only a written revision does."""
        return [statement for statement in self.statements if not statement.additive]

    def __str__(self) -> str:
        """The text of ``rowcast plan``."""
        lines = [f"-- revision not applied yet: {name}" for name in self.revisions]
        if not self.statements:
            lines.append("-- The database is in line with the config.")
        lines += map(str, self.statements)
        if self.destructive:
            lines.append("-- What is destructive is only done by a revision: rowcast makemigrations -m 'what it does'")
        return "\n\n".join(lines)


@dataclass(frozen=True, slots=True)
class Migration:
    """What ``migrate`` did: the revisions and statements that ran, and the statements that are left to do."""

    revisions: list[str] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)
    left: list[Statement] = field(default_factory=list)

    @property
    def pending(self) -> list[str]:
        """What still keeps a service from running, as ``pending`` would say."""
        return [str(statement) for statement in self.left if statement.needed]


async def plan(connect: Connect, tables: Tables, directory: Path | None = None) -> Plan:
    """The DDL between database and config, and with a directory the unapplied revisions. Nothing is changed."""
    async with _session(connect) as connection:
        revisions = await _unapplied(connection, directory) if directory else []
        if await _is_in_line(connection, tables):
            return Plan([], revisions)
        differences = await _run(connection, lambda context: _differences(context, tables))
        return Plan([difference.statement for difference in differences], revisions)


async def pending(connect: Connect, tables: Tables, directory: Path) -> list[str]:
    """What keeps a service from running on this database: unapplied revisions and the statements that it needs."""
    found = await plan(connect, tables, directory)
    revisions = [f"revision not applied yet: {name}" for name in found.revisions]
    return revisions + [str(statement) for statement in found.statements if statement.needed]


async def migrate(
    connect: Connect,
    tables: Tables,
    directory: Path,
    *,
    sync: bool,
    before: Step,
    after: Step,
    patience: float = PATIENCE,
) -> Migration:
    """Apply the revisions of ``directory/versions``, then with ``sync`` every additive difference that is left.

    ``before`` makes the service's own schema, which defaults of columns call, and ``after`` its triggers. All of it is
    one transaction under an advisory lock, for which others wait up to ``patience`` seconds; ``SchemaError`` says why
    nothing has changed. (A revision with ``autocommit_block`` commits what ran before it.)
    """
    try:
        return await _migrate(connect, tables, directory, sync, before, after, patience, create=False)
    except _Unfounded:
        return await _migrate(connect, tables, directory, sync, before, after, patience, create=True)


async def makemigrations(
    connect: Connect, tables: Tables, directory: Path, message: str, *, empty: bool = False
) -> Path:
    """Write a revision that brings the database in line, destructive steps included, and return its file.

    With ``empty`` it has no steps, to be written by hand. ``SchemaError`` when there is nothing to do, or when the
    database is not at the last revision, from which a new one starts.
    """
    async with _session(connect) as connection:
        if unapplied := await _unapplied(connection, directory):
            raise SchemaError(
                f"The database is not at the last revision: {', '.join(unapplied)} not applied yet. "
                "Run `rowcast migrate`, then make the revision."
            )
        if empty:
            return _write(directory, message, "", "")
        differences = await _run(connection, lambda context: _differences(context, tables))
        if not differences:
            raise SchemaError("The database is in line with the config: there is nothing to write a revision of.")
        steps = [difference.operation for difference in differences]
        back = [operation.reverse() for operation in reversed(steps)]
        return _write(directory, message, _render(steps), _render(back))


async def run_alembic(connect: Connect, environment: EnvironmentContext) -> None:
    """What ``migrations/env.py`` does: a command of alembic's own, such as a downgrade, under the same lock."""
    async with _session(connect) as connection:
        await _take_lock(connection, PATIENCE)
        await _run(connection, lambda _context: environment.run_migrations(), environment)


class _Unfounded(Exception):
    """On a database without tables a revision alters one that no revision makes: elsewhere a sync had made it."""


async def _migrate(
    connect: Connect,
    tables: Tables,
    directory: Path,
    sync: bool,
    before: Step,
    after: Step,
    patience: float,
    create: bool,
) -> Migration:
    """One attempt; with ``create`` the tables are made first and the revisions find them as the config wants them."""
    async with _session(connect) as connection:
        await _take_lock(connection, patience)
        revisions = await _unapplied(connection, directory)
        if not revisions and await _is_in_line(connection, tables):
            async with connection.transaction():
                await before(connection)
                await after(connection)
            return Migration()

        def work(context: MigrationContext) -> Migration:
            bare = sync and not create and not _wait(context, lambda raw: _catalog(raw, tables))
            context.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
            _wait(context, before)
            applied = _apply(context, tables) if create else []
            try:
                environment.run_migrations()
            except sa.exc.DBAPIError as error:
                if bare and _sqlstate(error) in ("42P01", "42703"):  # undefined table, undefined column
                    raise _Unfounded from error
                raise
            if sync:
                applied += _apply(context, tables)
            left = [difference.statement for difference in _differences(context, tables)]
            _wait(context, after)
            digest = "" if left else _digest(tables, _wait(context, lambda raw: _catalog(raw, tables)))
            context.execute(f"COMMENT ON TABLE {SCHEMA}.{VERSION_TABLE} IS '{digest}'")
            return Migration(revisions, applied, left)

        scripts = _scripts(directory)

        def steps(heads: Any, _context: MigrationContext) -> Any:
            return scripts._upgrade_revs("heads", heads)

        with EnvironmentContext(Config(), scripts, fn=steps) as environment:
            return await _run(connection, work, environment)


def _apply(context: MigrationContext, tables: Tables) -> list[Statement]:
    """Run the additive differences; the first that the rows do not allow ends it all."""
    operations = Operations(context)
    additive = [difference for difference in _differences(context, tables) if difference.statement.additive]
    for difference in additive:
        operations.invoke(difference.operation)
    return [difference.statement for difference in additive]


# For a role called like the service's schema "$user" is that schema, and tables would be made in it.
SESSION: Final = f"""
SET statement_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SELECT set_config('search_path', replace(current_setting('search_path'), '"$user"', 'public'), false)
WHERE current_user = '{SCHEMA}'
"""


@asynccontextmanager
async def _session(connect: Connect) -> AsyncIterator[Connection]:
    """A connection of its own without time limits; failures of statements leave as ``SchemaError``."""
    connection = await connect()
    try:
        await connection.execute(SESSION)
        yield connection
    except (sa.exc.DBAPIError, asyncpg.PostgresError) as error:
        raise SchemaError(_explain(error)) from error
    except CommandError as error:
        raise SchemaError(f"The revisions cannot be used: {error}") from error
    finally:
        await connection.close()


async def _take_lock(connection: Connection, patience: float) -> None:
    """Hold the advisory lock until the connection closes.

    Asking again and again, rather than waiting inside a statement, keeps no snapshot open: the one who migrates may
    be waiting for those to end (CREATE INDEX CONCURRENTLY).
    """
    deadline = asyncio.get_running_loop().time() + patience
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK):
        if asyncio.get_running_loop().time() > deadline:
            raise SchemaError(f"Another process has been migrating this database for {patience:g} s: try again later.")
        await asyncio.sleep(0.1)


async def _run(
    connection: Connection,
    work: Callable[[MigrationContext], Result],
    environment: EnvironmentContext | None = None,
) -> Result:
    """What ``work`` returns, run over the connection in one transaction, with alembic's blocking style made to wait.

    With an environment ``work`` may run its migrations; without one nothing is committed.
    """

    async def given() -> Connection:
        return connection

    def synchronous(bind: sa.Connection) -> Result:
        if environment is None:
            with bind.begin() as transaction:
                result = work(MigrationContext.configure(bind))
                transaction.rollback()
                return result
        environment.configure(bind, version_table=VERSION_TABLE, version_table_schema=SCHEMA)
        with environment.begin_transaction():
            return work(environment.get_context())

    engine = create_async_engine("postgresql+asyncpg://", async_creator=given, poolclass=NullPool)
    async with engine.connect() as bind:
        return await bind.run_sync(synchronous)


def _wait(context: MigrationContext, step: Callable[[Connection], Awaitable[Result]]) -> Result:
    """What ``step`` gives, awaited on the driver's connection within the context's transaction."""
    assert context.connection is not None
    context.connection.execute(sa.text("SELECT"))  # the transaction begins with the first statement
    result: Result = context.connection.connection.run_async(step)
    return result


def _scripts(directory: Path) -> ScriptDirectory:
    """The revisions of ``directory/versions``; all else that alembic wants there is its own."""
    return ScriptDirectory(
        Path(alembic.__file__).parent / "templates" / "generic",
        version_locations=[directory / "versions"],
        file_template="%(year)d%(month).2d%(day).2d_%(rev)s_%(slug)s",
        messaging_opts={"quiet": True},
    )


async def _unapplied(connection: Connection, directory: Path) -> list[str]:
    """The revisions that the database does not have yet, oldest first."""
    heads: list[str] = []
    if await connection.fetchval("SELECT to_regclass($1)", f"{SCHEMA}.{VERSION_TABLE}"):
        heads = [row[0] for row in await connection.fetch(f"SELECT version_num FROM {SCHEMA}.{VERSION_TABLE}")]
    scripts = _scripts(directory)
    known = {script.revision for script in scripts.walk_revisions()}
    if strange := sorted(set(heads) - known):
        raise SchemaError(
            f"The database is at revision {', '.join(strange)}, which {directory / 'versions'} does not have: "
            "use the configuration that it was migrated by, or a newer one."
        )
    return [f"{script.revision} ({script.doc})" for script in _steps(scripts, heads)]


def _steps(scripts: ScriptDirectory, heads: Sequence[str]) -> list[Script]:
    found = scripts.iterate_revisions("heads", tuple(heads) or "base", implicit_base=True)
    return list(found)[::-1]


def _write(directory: Path, message: str, upgrades: str, downgrades: str) -> Path:
    (directory / "versions").mkdir(parents=True, exist_ok=True)
    imports = "from sqlalchemy.dialects import postgresql" if "postgresql." in upgrades + downgrades else ""
    script = _scripts(directory).generate_revision(
        rev_id(), message, upgrades=upgrades, downgrades=downgrades, imports=imports
    )
    assert script is not None
    return Path(script.path)


BIND: Final = re.compile(r"(?<![:\w\\]):\w|\\:")


class _Impl(PostgresqlImpl):
    """Alembic's PostgreSQL, but a colon in SQL is never taken for a parameter by ``sa.text``."""

    def render_ddl_sql_expr(self, expr: sa.ClauseElement, *arguments: Any, **options: Any) -> str:
        """SQL such that ``sa.text`` reads it back."""
        text = super().render_ddl_sql_expr(expr, *arguments, **options)
        return text.replace(":", r"\:") if BIND.search(text) else text

    def autogen_column_reflect(self, inspector: sa.Inspector, table: sa.Table, column_info: dict[str, Any]) -> None:
        """A column as it is found."""
        super().autogen_column_reflect(inspector, table, column_info)  # type: ignore[no-untyped-call]
        if default := column_info.get("default"):
            column_info["default"] = default.replace(":", r"\:")


def _render(steps: Iterable[ops.MigrateOperation]) -> str:
    """The operations as the body of a function, such that they also run where a sync was faster."""
    context = MigrationContext.configure(dialect=DIALECT)
    context.impl = _Impl(DIALECT, None, False, True, None, {})
    return render_python_code(ops.UpgradeOps(list(_repeatable(steps))), migration_context=context)


def _repeatable(steps: Iterable[ops.MigrateOperation]) -> Iterator[ops.MigrateOperation]:
    """Operations that do nothing when what they make is there and what they drop is not."""
    dropped = set()
    for step in steps:
        match step:
            case ops.CreateTableOp() | ops.AddColumnOp() | ops.CreateIndexOp():
                step.if_not_exists = True
            case ops.DropConstraintOp():
                step.if_exists = True
                dropped.add((step.table_name, step.constraint_name))
            case ops.DropTableOp() | ops.DropColumnOp() | ops.DropIndexOp():
                step.if_exists = True
            case ops.AddConstraintOp():
                drop = step.reverse()
                if (drop.table_name, drop.constraint_name) not in dropped:
                    drop.if_exists = True
                    yield drop
        yield step


class Cast(ops.AlterColumnOp):
    """A change of type for which PostgreSQL is told how: by an explicit cast."""

    def __init__(self, table_name: str, column_name: str, **options: Any) -> None:
        super().__init__(table_name, column_name, **options)
        assert self.modify_type is not None
        type_ = self.modify_type.compile(dialect=DIALECT)
        self.kw["postgresql_using"] = f"{_quoted(column_name)}::{type_}"


@renderers.dispatch_for(Cast)
def _render_cast(context: AutogenContext, operation: Cast) -> str:
    rendered: str = renderers.dispatch(ops.AlterColumnOp(operation.table_name, operation.column_name))(
        context, operation
    )
    return f"{rendered[:-1]},\n{' ' * 11}postgresql_using={operation.kw['postgresql_using']!r})"


CATALOG: Final = """
WITH relation AS (
    SELECT name, to_regclass($2 || quote_ident(name)) AS oid FROM unnest($1::text[]) AS name
)
SELECT 'table' AS kind, relation.name AS table, '' AS name,
       relkind::text AS type, NULL AS definition, obj_description(relation.oid, 'pg_class') AS extra,
       '{}'::text[] AS columns
FROM relation JOIN pg_class ON pg_class.oid = relation.oid
UNION ALL
SELECT 'column', relation.name, attname,
       format_type(atttypid, atttypmod), pg_get_expr(adbin, adrelid),
       concat_ws('|', attnotnull, attidentity, attgenerated, col_description(attrelid, attnum)),
       ARRAY[attname::text]
FROM relation
JOIN pg_attribute ON attrelid = relation.oid AND attnum > 0 AND NOT attisdropped
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
UNION ALL
SELECT 'constraint', relation.name, conname,
       contype::text, pg_get_constraintdef(pg_constraint.oid), pg_get_expr(conbin, conrelid),
       ARRAY(SELECT attname::text FROM unnest(conkey) AS key JOIN pg_attribute ON attrelid = conrelid AND attnum = key)
FROM relation JOIN pg_constraint ON conrelid = relation.oid
UNION ALL
SELECT 'index', relation.name, indexrelid::regclass::text, indisvalid::text, pg_get_indexdef(indexrelid), NULL, '{}'
FROM relation JOIN pg_index ON indrelid = relation.oid
ORDER BY 1, 2, 3
"""

Catalog: TypeAlias = "list[asyncpg.Record]"
_Rows: TypeAlias = "dict[tuple[str, str], asyncpg.Record]"


@dataclass(frozen=True, slots=True)
class _Facts:
    """One side of the comparison: the columns and checks of tables, by table and name, in PostgreSQL's words."""

    columns: _Rows
    checks: _Rows

    @classmethod
    def of(cls, catalog: Catalog) -> _Facts:
        def of_kind(kind: str) -> _Rows:
            return {(row["table"], row["name"]): row for row in catalog if row["kind"] == kind}

        checks = {name: row for name, row in of_kind("constraint").items() if row["type"] == "c"}
        return cls(of_kind("column"), checks)

    def where_equal(self, found: _Facts, other: _Facts) -> _Facts:
        """These facts, with those of ``other`` that are spelled as they are found."""

        def choose(mine: _Rows, theirs: _Rows, wanted: _Rows) -> _Rows:
            equal = {n for n in theirs.keys() & wanted.keys() if theirs[n]["definition"] == wanted[n]["definition"]}
            return {name: theirs[name] if name in equal else row for name, row in mine.items()}

        return _Facts(
            choose(self.columns, other.columns, found.columns), choose(self.checks, other.checks, found.checks)
        )

    def has_identity(self, column: tuple[str, str]) -> bool:
        """Whether the database counts the column's values itself, as an identity or a serial column."""
        row = self.columns[column]
        _, identity, *_ = row["extra"].split("|")
        return bool(identity) or (row["definition"] or "").startswith("nextval(")


async def _catalog(connection: Connection, tables: Tables, schema: str = "") -> Catalog:
    """What the catalog says of the declared tables that exist, in the words of which two databases can be compared."""
    catalog: Catalog = await connection.fetch(CATALOG, list(tables.metadata.tables), schema)
    return catalog


def _digest(tables: Tables, catalog: Catalog) -> str:
    """A digest of the declared tables and the found ones."""
    lines: list[str] = [__version__, *(repr(tuple(row)) for row in catalog)]

    def record(ddl: sa.schema.ExecutableDDLElement, *_: object) -> None:
        lines.append(str(ddl.compile(dialect=DIALECT)))

    tables.metadata.create_all(sa.create_mock_engine("postgresql+asyncpg://", record), checkfirst=False)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


async def _is_in_line(connection: Connection, tables: Tables) -> bool:
    """Whether these tables were compared with this state of the database before, and equal."""
    known: str | None = await connection.fetchval(
        "SELECT obj_description(to_regclass($1), 'pg_class')", f"{SCHEMA}.{VERSION_TABLE}"
    )
    return bool(known) and known == _digest(tables, await _catalog(connection, tables))


async def _facts(connection: Connection, tables: Tables) -> tuple[_Facts, _Facts]:
    """What is found and what is declared; of the latter only what concerns tables that exist."""
    catalog = await _catalog(connection, tables)
    existing = {row["table"] for row in catalog}
    script = [STAND_IN] + [
        str(CreateTable(table.to_metadata(sa.MetaData(), schema="pg_temp"), []).compile(dialect=DIALECT))
        for table in tables.metadata.tables.values()
        if table.name in existing
    ]
    savepoint = connection.transaction()
    await savepoint.start()
    try:
        await connection.execute(";".join(script))
        found, declared = _Facts.of(catalog), _Facts.of(await _catalog(connection, tables, "pg_temp."))
        if respelled := list(_respelled(found, declared)):
            await connection.execute(";".join(respelled))
            declared = declared.where_equal(found, _Facts.of(await _catalog(connection, tables, "pg_temp.")))
    finally:
        await savepoint.rollback()
    return found, declared


def _respelled(found: _Facts, declared: _Facts) -> Iterator[str]:
    """DDL that makes each declared default and check which looks different again, from what PostgreSQL says of it.

    PostgreSQL does not always read an expression as it has written it, so one that came through ``pg_dump`` is spelled
    as it is after being written and read twice.
    """
    for (table, name), row in declared.columns.items():
        here = found.columns.get((table, name))
        if here is not None and row["definition"] not in (None, here["definition"]):
            yield f"ALTER TABLE pg_temp.{_quoted(table)} ALTER {_quoted(name)} SET DEFAULT {row['definition']}"
    for (table, name), row in declared.checks.items():
        here = found.checks.get((table, name))
        if here is not None and row["definition"] != here["definition"]:
            rule, definition = _quoted(name), row["definition"]
            yield f"ALTER TABLE pg_temp.{_quoted(table)} DROP CONSTRAINT {rule}, ADD CONSTRAINT {rule} {definition}"


# A default may call the function below, and the tables may be older than the service.
STAND_IN: Final = f"""
DO $$ BEGIN
    IF to_regnamespace('{SCHEMA}') IS NULL THEN
        CREATE SCHEMA {SCHEMA};
        CREATE FUNCTION {SCHEMA}.uuid7() RETURNS uuid LANGUAGE sql AS 'SELECT gen_random_uuid()';
    END IF;
END $$
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """A step between database and config, to be run or to be written into a revision."""

    operation: ops.MigrateOperation
    statement: Statement


def _differences(context: MigrationContext, tables: Tables) -> list[Difference]:
    """Every step from the database to the config, in an order in which they can run."""
    found, declared = _wait(context, lambda raw: _facts(raw, tables))
    comparison = MigrationContext.configure(
        context.connection,
        opts={
            "facts": (found, declared),
            "include_name": lambda name, kind, _parents: kind != "table" or name in tables.metadata.tables,
            "autogenerate_plugins": [
                *(f"alembic.autogenerate.{part}" for part in ("schemas", "tables", "constraints", "comments")),
                PLUGIN.name,
            ],
        },
    )
    comparison.impl = _Impl(context.dialect, context.connection, False, True, None, {})
    script = produce_migrations(comparison, tables.metadata)
    assert script.upgrade_ops is not None
    operations = sorted(_flat(script.upgrade_ops.ops, found, declared, tables), key=_order)
    return [
        Difference(operation, Statement(_sql(context, operation), additive, needed))
        for operation, (additive, needed) in _judge(operations, found, declared)
    ]


def _compare_type(
    context: AutogenContext,
    operation: ops.AlterColumnOp,
    _schema: str | None,
    table: str,
    name: str,
    found: sa.Column[Any],
    declared: sa.Column[Any],
) -> PriorityDispatchResult:
    here, there = context.opts["facts"]
    operation.existing_type = found.type
    if here.columns[table, name]["type"] != there.columns[table, name]["type"]:
        operation.modify_type = declared.type
    return PriorityDispatchResult.CONTINUE


def _compare_default(
    context: AutogenContext,
    operation: ops.AlterColumnOp,
    _schema: str | None,
    table: str,
    name: str,
    found: sa.Column[Any],
    declared: sa.Column[Any],
) -> PriorityDispatchResult:
    here, there = context.opts["facts"]
    column = (table, name)
    operation.existing_server_default = found.server_default
    counted = here.has_identity(column), there.has_identity(column)
    if any(counted) and all(counted):
        return PriorityDispatchResult.CONTINUE
    if any(counted) or here.columns[column]["definition"] != there.columns[column]["definition"]:
        operation.modify_server_default = declared.server_default
    return PriorityDispatchResult.CONTINUE


def _compare_constraints(
    context: AutogenContext,
    operations: ops.ModifyTableOps,
    _schema: str | None,
    table: str,
    found: sa.Table | None,
    declared: sa.Table | None,
) -> PriorityDispatchResult:
    """Check constraints and the primary key, which alembic does not compare by what they say."""
    if found is None or declared is None:
        return PriorityDispatchResult.CONTINUE
    here, there = context.opts["facts"]
    declarations = {str(rule.name): rule for rule in declared.constraints if isinstance(rule, sa.CheckConstraint)}
    checks = {name: row for (owner, name), row in here.checks.items() if owner == table}
    same = {n for n in checks if n in declarations and checks[n]["definition"] == there.checks[table, n]["definition"]}
    for name in sorted(checks.keys() - same):
        condition = sa.text(checks[name]["extra"].replace(":", r"\:"))
        rule = sa.CheckConstraint(condition, name=name, table=found)
        operations.ops.append(ops.DropConstraintOp.from_constraint(rule))
    for name in sorted(declarations.keys() - same):  # as text: a constraint joins the table of the columns in it
        condition = sa.text(context.migration_context.impl.render_ddl_sql_expr(declarations[name].sqltext))
        operations.ops.append(ops.CreateCheckConstraintOp(name, table, condition))
    if [column.name for column in found.primary_key] != [column.name for column in declared.primary_key]:
        if found.primary_key.columns:
            operations.ops.append(ops.DropConstraintOp.from_constraint(found.primary_key))
        operations.ops.append(ops.AddConstraintOp.from_constraint(declared.primary_key))
    return PriorityDispatchResult.CONTINUE


PLUGIN: Final = Plugin(__name__)
PLUGIN.add_autogenerate_comparator(_compare_type, "column", "types")
PLUGIN.add_autogenerate_comparator(_compare_default, "column", "defaults")
PLUGIN.add_autogenerate_comparator(_compare_constraints, "table", "constraints")


def _flat(
    operations: Iterable[ops.MigrateOperation], found: _Facts, declared: _Facts, tables: Tables
) -> Iterator[ops.MigrateOperation]:
    """Each operation as steps of which each does one thing, without those on what the service did not make."""
    for operation in operations:
        match operation:
            case ops.ModifyTableOps():
                yield from _flat(operation.ops, found, declared, tables)
            case ops.CreateTableOp():  # the foreign keys that close a circle come when all tables are there
                columns = [item for item in operation.columns if isinstance(item, sa.Column)]
                rules = [item for item in operation.columns if isinstance(item, sa.Constraint)]
                late = [rule for rule in rules if getattr(rule, "use_alter", False)]
                operation.columns = [*columns, *sorted(set(rules) - set(late), key=lambda rule: str(rule.name))]
                yield operation
                for foreign_key in late:
                    assert isinstance(foreign_key, sa.ForeignKeyConstraint)
                    step = ops.CreateForeignKeyOp.from_constraint(foreign_key)
                    del step.kw["use_alter"]
                    yield step
            case ops.AlterColumnOp():
                yield from _split(operation, tables.metadata.tables[operation.table_name].c[operation.column_name])
            case ops.DropConstraintOp() | ops.DropIndexOp() if not _is_own(operation, tables):
                pass
            case _:
                yield operation


def _split(operation: ops.AlterColumnOp, declared: sa.Column[Any]) -> Iterator[ops.AlterColumnOp]:
    """An alteration of several aspects of a column as one step for each."""
    existing = {
        "existing_type": operation.existing_type,
        "existing_server_default": operation.existing_server_default,
        "existing_nullable": operation.existing_nullable,
        "existing_comment": operation.existing_comment,
    }

    def step(kind: type[ops.AlterColumnOp] = ops.AlterColumnOp, **change: Any) -> ops.AlterColumnOp:
        return kind(operation.table_name, operation.column_name, **{**existing, **change})

    default = operation.modify_server_default
    if operation.modify_type is not None:
        old, new = (kind._type_affinity for kind in (operation.existing_type, operation.modify_type))  # type: ignore[union-attr]
        if old is new:
            yield step(modify_type=operation.modify_type)
        else:  # a default is not cast with the column
            if existing["existing_server_default"] is not None:
                yield step(modify_server_default=None)
                existing["existing_server_default"] = None
                default = declared.server_default or False
            yield step(Cast, modify_type=operation.modify_type)
    if default is not False:
        yield step(modify_server_default=default)
    if operation.modify_nullable is not None:
        yield step(modify_nullable=operation.modify_nullable)
    if operation.modify_comment is not False:
        yield step(modify_comment=operation.modify_comment)


def _is_own(operation: ops.DropConstraintOp | ops.DropIndexOp, tables: Tables) -> bool:
    """Whether the service made what is dropped, or the config wants another in its place."""
    table, name = _key(operation)
    if isinstance(operation, ops.DropConstraintOp) and operation.constraint_type == "primary":
        return True
    if isinstance(operation, ops.DropConstraintOp) and operation.constraint_type == "foreignkey":
        dropped = operation.to_constraint()
        assert isinstance(dropped, sa.ForeignKeyConstraint)
        declared = tables.metadata.tables[table].foreign_key_constraints
        if any(list(dropped.column_keys) == list(key.column_keys) for key in declared):
            return True
    return name.startswith(tuple(f"{kind}_{table}_"[:54] for kind in ("ck", "fk", "ix", "uq")))


def _order(step: ops.MigrateOperation) -> tuple[int, str, str]:
    """When a step may run: what is in the way goes first, and what refers to something comes after it.

    Tables and columns stay in the order in which they are declared, the rest goes by name.
    """
    match step:
        case ops.DropConstraintOp():
            return 0 if step.constraint_type == "foreignkey" else 1, *_key(step)
        case ops.DropIndexOp():
            return 2, *_key(step)
        case ops.AlterColumnOp():
            return 3, "", ""
        case ops.AddColumnOp():
            return 4, "", ""
        case ops.CreateTableOp():
            return 5, "", ""
        case ops.DropColumnOp():
            return 6, step.table_name, step.column_name
        case ops.CreatePrimaryKeyOp() | ops.CreateUniqueConstraintOp():
            return 7, *_key(step)
        case ops.CreateCheckConstraintOp():
            return 8, *_key(step)
        case ops.CreateIndexOp():
            return 9, *_key(step)
        case ops.CreateForeignKeyOp():
            return 10, *_key(step)
    return 11, "", ""  # comments


def _judge(
    operations: Sequence[ops.MigrateOperation], found: _Facts, declared: _Facts
) -> Iterator[tuple[ops.MigrateOperation, tuple[bool, bool]]]:
    """Each step with whether it is additive and whether it is needed.

    What touches a column that waits for a revision waits with it, and so does what would be replaced by that.
    """
    waiting = {
        (step.table_name, step.column_name)
        for step in operations
        if isinstance(step, ops.AlterColumnOp) and _judge_one(step, found, declared) == (False, True)
    }
    leaving = {(step.table_name, step.column_name) for step in operations if isinstance(step, ops.DropColumnOp)}
    verdicts: dict[int, tuple[bool, bool]] = {}
    made: dict[tuple[str, str], bool] = {}
    for step in operations:
        if isinstance(step, ops.DropConstraintOp | ops.DropIndexOp):
            continue
        additive, needed = _judge_one(step, found, declared)
        if additive and _touched(step, declared) & waiting:
            additive = False
            waiting |= {(step.table_name, "")} if isinstance(step, ops.CreateTableOp) else set()
        verdicts[id(step)] = additive, needed
        if isinstance(step, ops.AddConstraintOp | ops.CreateIndexOp):
            made[_key(step)] = additive
    for step in operations:
        if isinstance(step, ops.DropConstraintOp | ops.DropIndexOp):
            key = _key(step)
            if key in made:
                verdicts[id(step)] = made[key], True
            elif key in found.checks and isinstance(step, ops.DropConstraintOp):  # the rule is loosened to none
                columns = {(key[0], name) for name in found.checks[key]["columns"]}
                verdicts[id(step)] = not columns & (waiting | leaving), not columns & leaving
            else:
                verdicts[id(step)] = False, False
        yield step, verdicts[id(step)]


def _judge_one(step: ops.MigrateOperation, found: _Facts, declared: _Facts) -> tuple[bool, bool]:
    """Whether a step is additive and whether it is needed, seen by itself."""
    match step:
        case ops.DropColumnOp():
            row = found.columns[step.table_name, step.column_name]
            fills_itself = row["definition"] is not None or not row["extra"].startswith("t||")
            return False, not fills_itself
        case ops.AlterColumnOp() if step.modify_type is not None:
            column = step.table_name, step.column_name
            old, new = found.columns[column]["type"], declared.columns[column]["type"]
            return widens(old, new), not widens(new, old)
        case ops.AlterColumnOp() if step.modify_server_default is not False:
            column = step.table_name, step.column_name
            return not (found.has_identity(column) or declared.has_identity(column)), True
        case ops.AlterColumnOp() if step.modify_comment is not False:
            return True, False
        case ops.CreatePrimaryKeyOp():
            return False, True
        case ops.CreateTableCommentOp() | ops.DropTableCommentOp():
            return True, False
    return True, True


def _touched(step: ops.MigrateOperation, declared: _Facts) -> set[tuple[str, str]]:
    """The columns that a step needs as the config wants them; a table as a whole is its column without a name."""
    match step:
        case ops.AlterColumnOp():
            return {(step.table_name, step.column_name)}
        case ops.CreateForeignKeyOp():
            near = {(step.source_table, name) for name in ["", *step.local_cols]}
            return near | {(step.referent_table, name) for name in ["", *step.remote_cols]}
        case ops.CreateIndexOp():
            columns = [str(getattr(column, "name", column)) for column in step.columns]
        case ops.CreatePrimaryKeyOp() | ops.CreateUniqueConstraintOp():
            columns = [str(column) for column in step.columns]
        case ops.CreateCheckConstraintOp():
            columns = declared.checks[_key(step)]["columns"]
        case ops.CreateTableOp():
            keys = (item for item in step.columns if isinstance(item, sa.ForeignKeyConstraint))
            targets = {(key.referred_table.name, element.column.name) for key in keys for element in key.elements}
            return targets | {(table, "") for table, _ in targets if table != step.table_name}
        case _:
            return set()
    return {(str(step.table_name), column) for column in ["", *columns]}


def _key(step: ops.MigrateOperation) -> tuple[str, str]:
    """The table and the name of a constraint or index."""
    match step:
        case ops.CreateIndexOp() | ops.DropIndexOp():
            return str(step.table_name), str(step.index_name)
        case ops.CreateForeignKeyOp():
            return step.source_table, str(step.constraint_name)
        case (
            ops.CreateUniqueConstraintOp()
            | ops.CreateCheckConstraintOp()
            | ops.CreatePrimaryKeyOp()
            | ops.DropConstraintOp()
        ):
            return step.table_name, str(step.constraint_name)
    raise AssertionError(f"{step} makes and drops nothing that has a name")


SIZED: Final = re.compile(r"([a-z ]+)(?:\((\d+)(?:,(\d+))?\))?")
LADDERS: Final = (("smallint", "integer", "bigint"), ("real", "double precision"), ("character varying", "text"))


def widens(old: str, new: str) -> bool:
    """Whether every value of a type fits another as it is; both in PostgreSQL's words.

    >>> widens("character varying(20)", "text"), widens("bigint", "integer")
    (True, False)
    """
    if old.endswith("[]") and new.endswith("[]"):
        return widens(old[:-2], new[:-2])
    here, there = SIZED.fullmatch(old), SIZED.fullmatch(new)
    if here is None or there is None:
        return False
    for ladder in LADDERS:
        if here[1] in ladder and there[1] in ladder and here[1] != there[1]:
            return ladder.index(here[1]) < ladder.index(there[1])
    if here[1] != there[1] or here[1] not in ("character varying", "numeric"):
        return False
    if there[2] is None or here[2] is None:
        return there[2] is None
    scale = int(there[3] or 0) - int(here[3] or 0)
    return scale >= 0 and int(there[2]) - int(here[2]) >= scale


def _sql(context: MigrationContext, operation: ops.MigrateOperation) -> str:
    """The DDL of an operation, as it would run."""
    buffer = io.StringIO()
    offline = MigrationContext.configure(dialect=context.dialect, opts={"as_sql": True, "output_buffer": buffer})
    Operations(offline).invoke(operation)
    return buffer.getvalue().strip()


ADVICE: Final = {
    "23502": "Rows exist that have no value for it: give the field a default or `null: true`, or write a revision that "
    "fills them (rowcast makemigrations --empty -m …).",
    "23505": "Rows exist that have the same value: change them, or leave the rule out.",
    "23514": "Rows exist that break the new rule: change them, or widen the rule.",
    "23503": "Rows exist that refer to nothing: change them, or make the field nullable and clear it.",
    "42501": "This role may not change the schema: run `rowcast migrate` as the role that owns the tables.",
    "25006": "This connection is read-only: name the primary server, and a role that may write.",
    "55P03": "The table is in use by a transaction that does not end: try again when there is less to do.",
}


def _driver_error(error: BaseException) -> asyncpg.PostgresError | None:
    """The driver's error under SQLAlchemy's."""
    if isinstance(error, sa.exc.DBAPIError) and error.orig is not None:
        return error.orig.__cause__ if isinstance(error.orig.__cause__, asyncpg.PostgresError) else None
    return error if isinstance(error, asyncpg.PostgresError) else None


def _sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's code of a failure."""
    return getattr(_driver_error(error), "sqlstate", None)


def _explain(error: sa.exc.DBAPIError | asyncpg.PostgresError) -> str:
    """What failed, why, and what can be done."""
    lines = ["Nothing was changed in the database, because a statement failed."]
    if isinstance(error, sa.exc.DBAPIError) and error.statement:
        lines.append("\n".join(f"    {line}" for line in error.statement.strip().splitlines()))
    lines.append(f"PostgreSQL says: {_driver_error(error) or error}")
    if advice := ADVICE.get(_sqlstate(error) or ""):
        lines.append(advice)
    return "\n".join(lines)


def _quoted(name: str) -> str:
    return DIALECT.identifier_preparer.quote(name)
