"""Bringing the triggers to a database: which are missing or out of date, and the statements that fix it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from rowcast.changes import sql
from rowcast.changes.connection import session
from rowcast.changes.coordination import lock_installation
from rowcast.changes.triggers import WAKE_TICKER, create_function, logged_tables, qualified, triggers
from rowcast.database.connection import Connect, Connection
from rowcast.errors import ConfigurationError
from rowcast.migrations.inheritance import find_parts
from rowcast.resources.resource import Resource
from rowcast.resources.sql import SCHEMA, cut_identifier, quote_identifier, quote_literal, quote_table
from rowcast.resources.tables import Tables, is_managed

_COMMENT: Final = "Rowcast: logs changes"  # begins the comment of the service's functions; a digest follows
_TRIGGER_FUNCTIONS: Final = sql.load("trigger_functions")
_INSTALLED_TRIGGERS: Final = sql.load("installed_triggers")
_TABLE_SCHEMAS: Final = sql.load("table_schemas")
_NULLED_TABLES: Final = sql.load("nulled_tables")
_LOG_TRUNCATE: Final = sql.load("log_truncate")
_FUNCTIONS_TO_SUSPEND: Final = sql.load("functions_to_suspend")
_SUSPENDED_BODY: Final = sql.load("suspended_body")
_RELATIONS_OF_TABLES: Final = sql.load("relations_of_tables")


@dataclass(frozen=True, slots=True)
class Pending:
    """Something that a database lacks: the problem in a sentence, and the statement that fixes it.

    For something that it has and nobody needs, ``leftover`` is what that is.
    """

    problem: str
    statement: str
    leftover: str = ""


async def pending(connection: Connection, tables: Tables, *, wakeup: str = "notify") -> list[Pending]:
    """What is missing, in order, until every change of every resource is logged; empty if nothing is.

    A table that has taken the place of a logged one counts as truncated: readers of the log load it again. So does one with a
    field that has another name than before for the same column.
    """
    schemas = await _schemas(connection, tables)
    found: list[Pending] = []
    comments: dict[str, str] = dict(await connection.fetch(_TRIGGER_FUNCTIONS, f"{_COMMENT}%"))
    installed: dict[tuple[str, str], str] = {
        (row["relation"], row["name"]): row["function"] for row in await connection.fetch(_INSTALLED_TRIGGERS)
    }

    names = {
        cut_identifier(f"{resource.name}.insert"): _names(tables, resource) for resource in tables.resources.values()
    }

    def check_function(name: str, create: str) -> None:
        comment = f"{_COMMENT} ({hashlib.blake2s(create.encode(), digest_size=16).hexdigest()})"
        if name in names:
            comment += f" {json.dumps(names[name])}"
        before = comments.pop(name, "")
        if before != comment:
            remember = f"COMMENT ON FUNCTION {SCHEMA}.{quote_identifier(name)} IS {quote_literal(comment)}"
            statement = f"{create}; {remember}"
            if _is_renamed(before, names.get(name, {})):
                resource = quote_literal(name.partition(".")[0])
                statement = f"{statement}; {sql.fill(_LOG_TRUNCATE, resource=resource)}"
            found.append(Pending(f"the function {SCHEMA}.{name} is missing or out of date", statement))

    bare: dict[str, bool] = {}  # relation → whether its rows may be others than those in the log
    quoted = {qualified(name, schemas): name for name in schemas}
    nulled = {quoted[row["name"]] for row in await connection.fetch(_NULLED_TABLES, list(quoted))}
    relations = await _relations(connection, list(quoted))
    for trigger in triggers(tables, schemas, nulled, wakeup=wakeup):
        known = trigger.function in comments
        check_function(trigger.function, trigger.create)
        table = qualified(trigger.table, schemas)
        for relation, is_table in relations[table].items():
            if relation not in bare:
                none = known and not any(of == relation for of, _ in installed)
                bare[relation] = none and (is_table or await _has_rows(connection, relation))
            if installed.pop((relation, trigger.name), None) != trigger.function:
                problem = f"the table {relation} has no trigger that logs {trigger.operation.upper()}"
                statement = trigger.attach(relation)
                if bare[relation] and trigger.operation == "truncate":
                    resource = quote_literal(trigger.function.partition(".")[0])
                    statement = f"{statement}; {sql.fill(_LOG_TRUNCATE, resource=resource)}"
                found.append(Pending(problem, statement))
    for relation, name in installed:
        problem = f"the table {relation} is logged, but no longer belongs to a resource"
        found.append(Pending(problem, f"DROP TRIGGER {quote_identifier(name)} ON {relation}", relation))
    for name in comments:
        problem = f"the function {SCHEMA}.{name} no longer belongs to a resource"
        function = f"{SCHEMA}.{quote_identifier(name)}"
        found.append(Pending(problem, f"DROP FUNCTION {function}", function))
    return found


def _names(tables: Tables, resource: Resource) -> dict[str, str]:
    """The names in the log by column and, under an empty name, the columns whose big integers are strings there."""
    names = {field.stored_column: key for key, field in resource.columns.items()}
    values = {key: tables.resources.key_of(field).item_type for key, field in resource.columns.items()}
    strings = [key for key, type_ in values.items() if type_.name == "big_integer" and type_.sums_as_strings]
    return names | ({"": ",".join(strings)} if strings else {})


def _is_renamed(comment: str, names: Mapping[str, str]) -> bool:
    """Whether a column has another name or form in the log than when a function got this comment."""
    _, start, rest = comment.partition(" {")
    before: dict[str, str] = json.loads(f"{{{rest}") if start else {}
    renamed = any(before.get(column, key) != key for column, key in names.items() if column)
    return renamed or (bool(before) and before.get("", "") != names.get("", ""))


async def sync_triggers(connection: Connection, tables: Tables, *, wakeup: str = "notify") -> list[str]:
    """Create what is missing, in one transaction; return the statements that ran, none if nothing was missing.

    The tables must exist. ``wakeup`` is the setting ``stream.wakeup``.
    """
    try:
        async with connection.transaction():
            await lock_installation(connection)
            statements = [change.statement for change in await pending(connection, tables, wakeup=wakeup)]
            for statement in statements:
                await connection.execute(statement)
            return statements
    except asyncpg.ReadOnlySQLTransactionError:
        raise ConfigurationError("this database is read-only: triggers are created on the primary server") from None
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigurationError(
            f"the triggers cannot be created ({error}): the role must own the schema {SCHEMA} and the resources'"
            " tables, or have TRIGGER, SELECT and UPDATE on them"
        ) from None


async def log_reset(connection: Connection, resources: Sequence[str]) -> None:
    """Log that these resources are to be loaded again: the rows in the log have the names of former columns."""
    for resource in resources:
        await connection.execute(sql.fill(_LOG_TRUNCATE, resource=quote_literal(resource)))


async def suspend_triggers(connection: Connection, *, wakeup: str = "notify") -> None:
    """Let the triggers bear that their tables change, until ``sync_triggers`` renews them in the same transaction.

    A revision may rename or drop columns and write rows. From the first change of a table's columns on, writes to it are
    logged as if it had been truncated: readers of the log load it again. A role that does not own the functions leaves
    them as they are.
    """
    with contextlib.suppress(asyncpg.InsufficientPrivilegeError):
        async with connection.transaction():
            await lock_installation(connection)
            await _suspend(connection, wakeup)


async def _suspend(connection: Connection, wakeup: str) -> None:
    for name, body, columns, comment in await connection.fetch(_FUNCTIONS_TO_SUSPEND, f"{_COMMENT}%"):
        suspended = sql.fill(
            _SUSPENDED_BODY,
            body=body,
            columns=quote_literal(columns),
            truncated=sql.fill(_LOG_TRUNCATE, resource=quote_literal(name.partition(".")[0])),
            wake=WAKE_TICKER if wakeup == "notify" else "",
        )
        function = quote_identifier(name)
        names = "".join(comment.partition(" {")[1:])
        await connection.execute(
            f"{create_function(name, suspended)};"
            f"COMMENT ON FUNCTION {SCHEMA}.{function} IS {quote_literal(f'{_COMMENT} (suspended){names}')}"
        )


async def _schemas(connection: Connection, tables: Tables) -> dict[str, str]:
    """The schema in which each table is found."""
    declared = tables.metadata.tables
    quoted = {quote_table(name): name for name in sorted(declared)}
    found = {quoted[name]: schema for name, schema in await connection.fetch(_TABLE_SCHEMAS, list(quoted))}
    if missing := [name for name, schema in found.items() if schema is None and not is_managed(declared[name])]:
        raise ConfigurationError(f"there is no table {', '.join(missing)}: create it, or correct `table`")
    if missing := [name for name, schema in found.items() if schema is None]:
        names = ", ".join(missing)
        raise ConfigurationError(
            f"there is no table {names}, and no revision creates it: run `rowcast migrate --sync`, or write a revision "
            "with `rowcast makemigrations`"
        )
    relations = Counter(qualified(name, found) for name in found)
    if twice := [name for name in found if relations[qualified(name, found)] > 1]:
        raise ConfigurationError(f"{' and '.join(twice)} are the same table: give it to one resource")
    if parts := await find_parts(connection, declared):
        raise ConfigurationError("; ".join(parts))
    return found


async def qualified_names(connect: Connect, tables: Tables) -> list[str]:
    """The tables of the resources and of their links, as quoted SQL identifiers with their schemas."""
    async with session(connect) as connection:
        schemas = await _schemas(connection, tables)
        return [qualified(table, schemas) for table in logged_tables(tables)]


async def _has_rows(connection: Connection, relation: str) -> bool:
    return bool(await connection.fetchval(f"SELECT EXISTS (SELECT FROM {relation})"))


async def _relations(connection: Connection, tables: Sequence[str]) -> dict[str, dict[str, bool]]:
    """Each table with its partitions or children, and whether they are the table itself."""
    found: dict[str, dict[str, bool]] = {table: {} for table in tables}
    for table, relation, is_table in await connection.fetch(_RELATIONS_OF_TABLES, tables):
        found[table][relation] = is_table
    return found
