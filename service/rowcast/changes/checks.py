"""What keeps changes from being logged and delivered on a database, one sentence for each problem."""

from __future__ import annotations

from typing import Final, NamedTuple

from rowcast.changes import sql
from rowcast.changes.install import VERSION, describe_newer, installed_version, is_complete
from rowcast.changes.trigger_sync import pending
from rowcast.database.connection import Connection
from rowcast.database.engines import unsuitable_engine
from rowcast.errors import ConfigurationError
from rowcast.resources.sql import SCHEMA
from rowcast.resources.tables import Tables

_TABLES_WITH_DISABLED_TRIGGERS: Final = sql.load("tables_with_disabled_triggers")
_REPLICA_ROLES: Final = sql.load("replica_roles")
_MISSING_RIGHTS_TO_LOOK: Final = sql.load("missing_rights_to_look")
_MISSING_RIGHTS_TO_WORK: Final = sql.load("missing_rights_to_work")
_SEQUENCE_IS_ORDERED: Final = sql.load("sequence_is_ordered")


async def blocking_problems(connection: Connection) -> list[str]:
    """The problems with which a service cannot work on this database at all, missing rights of the role included."""
    if (unsuitable := await unsuitable_engine(connection)) is not None:
        return [unsuitable]
    problems = []
    if await connection.fetchval("SELECT current_setting('default_transaction_read_only')::bool"):
        problems.append("the database is read-only: default_transaction_read_only is on, for all or for this role")
    missing = await _missing_rights(connection, _MISSING_RIGHTS_TO_LOOK)
    if missing is None and await installed_version(connection) == VERSION:
        missing = await _missing_rights(connection, _MISSING_RIGHTS_TO_WORK)
    return problems if missing is None else [*problems, missing]


class Findings(NamedTuple):
    """What keeps changes from being delivered, one sentence for each problem, and the tables that are logged for nobody.

    These belong to no resource. A replica with another configuration may serve them.
    """

    problems: list[str]
    leftovers: list[str]


async def find_problems(connection: Connection, tables: Tables, *, wakeup: str = "notify") -> list[str]:
    """All problems that keep changes from being delivered; empty if there are none."""
    return (await examine(connection, tables, wakeup=wakeup)).problems


async def examine(connection: Connection, tables: Tables, *, wakeup: str = "notify") -> Findings:
    """All problems of the log. Tables that are logged for nobody are found only where the log is usable."""
    if problems := await blocking_problems(connection):
        return Findings(problems, [])
    installed = await installed_version(connection)
    if installed > VERSION:
        return Findings([describe_newer(installed)], [])
    if installed < VERSION:
        return Findings(["the change log is not installed: run `rowcast migrate`"], [])
    if not await is_complete(connection):
        return Findings(["the change log is that of an earlier Rowcast: run `rowcast migrate`"], [])
    try:
        missing = await pending(connection, tables, wakeup=wakeup)
    except ConfigurationError as error:
        return Findings([str(error)], [])
    problems = [f"{change.problem}: run `rowcast migrate`" for change in missing if not change.leftover]
    for (table,) in await connection.fetch(_TABLES_WITH_DISABLED_TRIGGERS):
        problems.append(
            f"triggers of {table} are disabled, so not every change is logged: ALTER TABLE {table} ENABLE TRIGGER USER"
        )
    if await connection.fetchval("SELECT current_setting('session_replication_role') = 'replica'"):
        problems.append("session_replication_role is replica, so no trigger runs: such changes are not logged")
    for (role,) in await connection.fetch(_REPLICA_ROLES):
        problems.append(f"session_replication_role is set to replica for {role}: its changes are not logged")
    if not await sequence_is_ordered(connection):
        problems.append(
            "the sequence rowcast.change_seq needs CACHE 1, INCREMENT 1 and NO CYCLE: the order of changes depends on it"
        )
    tables_left = {change.leftover for change in missing if change.leftover and " TRIGGER " in change.statement}
    return Findings(problems, sorted(tables_left))


async def log_is_usable(connection: Connection) -> bool:
    """Whether the log is installed in this version, and the role of the connection has the rights to use it."""
    if await _missing_rights(connection, _MISSING_RIGHTS_TO_LOOK) is not None:
        return False
    if await installed_version(connection) != VERSION:
        return False
    return await _missing_rights(connection, _MISSING_RIGHTS_TO_WORK) is None


async def sequence_is_ordered(connection: Connection) -> bool:
    """Whether numbers of changes are assigned in the order of the calls."""
    return bool(await connection.fetchval(_SEQUENCE_IS_ORDERED))


async def _missing_rights(connection: Connection, statement: str) -> str | None:
    """The problem if the role of the connection lacks rights on the log; ``None`` if it has them."""
    missing = await connection.fetch(statement)
    if not missing:
        return None
    role = await connection.fetchval("SELECT current_user")
    return (
        f"the role {role} lacks {'; '.join(right for (right,) in missing)}: it must own the schema {SCHEMA}, be a member"
        " of the role that does, or be granted these rights"
    )
