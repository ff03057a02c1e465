"""``rowcast doctor``: checks whether changes of a database are delivered, and what prevents it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rowcast.changes import checks, retention
from rowcast.changes.bus import MESSAGE_MAX_BYTES, BusLost
from rowcast.changes.coordination import LEADER_TABLE
from rowcast.changes.install import PARTITIONS
from rowcast.changes.reader import prepare_session
from rowcast.changes.relay import open_bus
from rowcast.changes.state import LogState, read_state
from rowcast.changes.ticker import TICKER_NAME
from rowcast.configuration.settings import Stream
from rowcast.database.connection import Connect, Connection
from rowcast.database.engines import engine_problems
from rowcast.database.errors import CONNECTION_LOST, DRIVER_ERRORS
from rowcast.database.pool import Database
from rowcast.database.pooled import pooler_problems
from rowcast.database.sequences import SequenceBehind, sequences_behind
from rowcast.database.table_lock import lock_holder
from rowcast.database.table_traits import read_traits
from rowcast.errors import ConfigurationError
from rowcast.migrations import commands, failures
from rowcast.resources.sql import DIALECT
from rowcast.resources.tables import Tables
from rowcast.server.index_hints import index_hints

PROBE_TIMEOUT_SECONDS: Final = 2.0  # for a notification to arrive, and for waiting changes to be delivered
TICK_LATE_SECONDS: Final = 1.0  # that a change may wait for its tick


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: what was checked, the result, and whether it needs attention or is a hint."""

    about: str
    message: str
    wrong: bool = False
    hint: bool = False


async def examine(connect: Connect, tables: Tables, migrations: Path, stream: Stream) -> list[Finding]:
    """Check everything that changes of this database need to be delivered, in the order of dependence."""
    try:
        connection = await connect()
    except DRIVER_ERRORS as error:
        return [Finding("database", f"cannot be reached: {error or type(error).__name__}", wrong=True)]
    try:
        found = [await _database(connection)]
        if problems := await engine_problems(connection, tables):
            return [*found, *(Finding("database", problem, wrong=True) for problem in problems)]
        found.append(await _session(connect, stream.wakeup))
        if not any(finding.wrong for finding in found):
            found += await _schema(connect, tables, migrations)
        if not any(finding.wrong for finding in found):
            found += await _rows(connection, tables)
            found += [Finding("indexes", str(each), hint=True) for each in await index_hints(connect, tables)]
        problems = await checks.find_problems(connection, tables, wakeup=stream.wakeup)
        found += [Finding("changes", problem, wrong=True) for problem in problems]
        if not problems:
            found.append(await _triggers(connection))
        if await checks.log_is_usable(connection):
            found += [await _ticker(connection), *await _log(connection, stream)]
        return found
    except (*CONNECTION_LOST, TimeoutError) as error:
        return [Finding("database", f"was lost: {error or type(error).__name__}", wrong=True)]
    finally:
        connection.terminate()


async def examine_requests(database: Database) -> list[Finding]:
    """Check whether requests can use the database's URL, beside the direct one if there are two."""
    try:
        connection = await database.open()
        try:
            role = await connection.fetchval("SELECT current_user")
            if database.direct_url is None:
                return []
            problems = await pooler_problems(
                database.open, database.connect, prepared_statements=database.prepared_statements
            )
        finally:
            connection.terminate()
    except (*DRIVER_ERRORS, TimeoutError) as error:
        return [Finding("requests", f"cannot be served: {error or type(error).__name__}", wrong=True)]
    except ConfigurationError as error:
        return [Finding("requests", str(error), wrong=True)]
    if problems:
        return [Finding("requests", problem, wrong=True) for problem in problems]
    statements = "with" if database.prepared_statements else "without"
    return [Finding("requests", f"through a pooler as {role}, {statements} prepared statements")]


async def examine_relay(url: str) -> list[Finding]:
    """Check whether messages of ``stream.relay`` arrive, over a channel of the check's own."""
    bus, mark, arrived = open_bus(url), secrets.token_bytes(32), asyncio.Event()

    def receive(message: bytes) -> None:
        if message == mark:
            arrived.set()

    channel = f"rowcast.{secrets.token_hex(16)}"
    try:
        async with bus.session(channel, receive, _ignore), bus.session(channel, receive, _ignore) as session:
            await session.publish(mark)
            await asyncio.wait_for(arrived.wait(), PROBE_TIMEOUT_SECONDS)
    except BusLost as error:
        return [Finding("relay", f"{bus.place} cannot be reached: {error}. Changes arrive without it", wrong=True)]
    except TimeoutError:
        message = f"messages do not arrive over {bus.place}: the user needs to send to and receive from rowcast.*"
        return [Finding("relay", message, wrong=True)]
    return [
        Finding("relay", f"messages of up to {_size(min(session.limit, MESSAGE_MAX_BYTES))} arrive over {bus.place}")
    ]


def _ignore() -> None:
    """A connection that ends is found by what does not arrive."""


async def _database(connection: Connection) -> Finding:
    name, role, version, address, port = await connection.fetchrow(
        """SELECT current_database(), current_user, current_setting('server_version'),
            coalesce(host(inet_server_addr()), 'a local socket'), inet_server_port()"""
    )
    where = f"{address}:{port}" if port else address
    return Finding("database", f"{name} on {where} as {role}, PostgreSQL {version.partition(' ')[0]}")


async def _session(connect: Connect, wakeup: str) -> Finding:
    """Check that a connection is a session of its own: settings stay, locks stay held, and notifications arrive.

    Two connections that take turns, the second in a transaction, make a pooler give the first another session. Only simple
    statements are sent, since some poolers do not support prepared ones.
    """
    mark, notified = secrets.token_hex(8), asyncio.Event()
    try:
        async with asyncio.timeout(5 * PROBE_TIMEOUT_SECONDS), _closing(connect) as one, _closing(connect) as two:
            await one.execute(f"SET rowcast.probe = '{mark}'")
            await two.execute("BEGIN; SELECT")
            kept = await one.execute(f"SELECT WHERE current_setting('rowcast.probe', true) = '{mark}'")
            await two.execute("ROLLBACK")
            if kept != "SELECT 1":
                return Finding("session", f"is shared with others. {_POOLER}", wrong=True)
            await one.add_listener(f"rowcast_{mark}", lambda *_: notified.set())
            await two.execute(f"NOTIFY rowcast_{mark}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(notified.wait(), PROBE_TIMEOUT_SECONDS)
    except DRIVER_ERRORS as error:
        return Finding("session", f"cannot be kept ({error or type(error).__name__}). {_POOLER}", wrong=True)
    if not notified.is_set() and wakeup == "notify":
        return Finding("session", f"NOTIFY does not arrive. {_POOLER}, or set stream.wakeup to poll", wrong=True)
    return Finding("session", "is the connection's own, and NOTIFY arrives" if notified.is_set() else "is kept")


_POOLER: Final = "Connect to PostgreSQL itself with database.direct_url, or to a pooler in session mode"


@contextlib.asynccontextmanager
async def _closing(connect: Connect) -> AsyncIterator[Connection]:
    connection = await connect()
    try:
        yield connection
    finally:
        connection.terminate()


async def _schema(connect: Connect, tables: Tables, migrations: Path) -> list[Finding]:
    try:
        plan = await commands.plan(connect, tables, migrations)
    except failures.SchemaError as error:
        return [Finding("schema", "cannot be read: " + " ".join(str(error).splitlines()[1:]), wrong=True)]
    if not plan.pending:
        return [Finding("schema", f"{len(tables.resources)} resources, in line with the config")]
    found = [Finding("schema", f"pending: {line}", wrong=True) for line in plan.pending]
    return [*found, Finding("schema", f"next: {plan.advice}", wrong=True)] if plan.advice else found


async def _rows(connection: Connection, tables: Tables) -> list[Finding]:
    """What is wrong with the rows of the tables: policies that hide them from the service, keys that are taken."""
    traits = await read_traits(connection.fetch, tables)
    quote = DIALECT.identifier_preparer.format_table
    forced = [quote(tables.of[name]) for name, table in traits.items() if table.policies_apply]
    if forced:  # whose largest keys the service may not see
        return [Finding("policies", _FORCED.format(table=table), wrong=True) for table in forced]
    return [
        Finding("keys", _behind(sequence), wrong=True) for sequence in await sequences_behind(connection.fetch, tables)
    ]


_FORCED: Final = (
    "row-level security of {table} applies to the service's own role, so its changes may be logged wrongly: ALTER TABLE"
    " {table} NO FORCE ROW LEVEL SECURITY, and set database.default_role"
)


def _behind(found: SequenceBehind) -> str:
    return f"{found.column}: the sequence is at {found.last}, the largest key is {found.largest}: {found.repair}"


async def _triggers(connection: Connection) -> Finding:
    number, relations = await connection.fetchrow(
        """SELECT count(*), count(DISTINCT tgrelid) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
        WHERE p.pronamespace = to_regnamespace('rowcast')"""
    )
    return Finding("changes", f"are logged by {number} triggers, all enabled, on {relations} tables and partitions")


async def _ticker(connection: Connection) -> Finding:
    leader = await connection.fetchrow(
        """SELECT pid, application_name, usename, coalesce(host(client_addr), 'a local socket'), backend_start
        FROM pg_stat_activity WHERE pid = $1""",
        await lock_holder(connection, LEADER_TABLE),
    )
    if leader is None:
        return Finding(
            "ticker", "there is none: no service runs on this database, or none can become the leader", wrong=True
        )
    pid, name, role, address, began = leader
    since = "" if began is None else f", since {_time(began)}"  # of another role it is not shown
    if name != TICKER_NAME:
        return Finding(
            "ticker",
            f"there is none: process {pid} of PostgreSQL, {name or 'unnamed'} of role {role} from {address}{since}, has a"
            f" lock on {LEADER_TABLE}. End it, or SELECT pg_terminate_backend({pid})",
            wrong=True,
        )
    return Finding("ticker", f"process {pid} of PostgreSQL, {name} from {address}{since}")


async def _log(connection: Connection, stream: Stream) -> list[Finding]:
    await prepare_session(connection)
    state = await _settled(connection)
    parts = await retention.partitions(connection)
    size = f"{_size(state.size)} of {_size(stream.max_log_size)}, in {len(parts)} of {PARTITIONS} partitions"
    kept = (state.newest_at - state.oldest_at).total_seconds()
    lag = "every change has been delivered"
    if state.waiting > TICK_LATE_SECONDS:
        lag = f"changes have been waiting for {state.waiting:.0f} s; the ticker has stopped"
    return [
        Finding("lag", lag, wrong=state.waiting > TICK_LATE_SECONDS),
        Finding("log", size, wrong=state.size > 2 * stream.max_log_size + (64 << 20)),
        Finding("positions", f"{state.oldest} of {_time(state.oldest_at)} to {state.newest}, {_span(kept)}"),
    ]


async def _settled(connection: Connection) -> LogState:
    """The state, read again while changes are waiting, since they may have been committed just now."""
    state = await read_state(connection)
    deadline = asyncio.get_running_loop().time() + PROBE_TIMEOUT_SECONDS
    while state.waiting > TICK_LATE_SECONDS and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(PROBE_TIMEOUT_SECONDS / 10)
        again = await read_state(connection)
        if again.newest != state.newest:
            return again
        state = again
    return state


def _time(moment: dt.datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"
