"""The pool of connections to PostgreSQL, and what a request does with one: a statement, or a transaction.

A request on the fast path takes a connection, runs one statement and returns the connection. It is not reset, because
nothing here changes a session. Connections are used last in, first out, so few of them stay busy.
docs/decisions/0014-connection-pool.md has the reasons for a pool of the service's own.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Hashable,
    Mapping,
    Sequence,
)
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from contextvars import ContextVar
from time import monotonic
from typing import Any, Final, TypeVar
from weakref import WeakSet

import asyncpg
import structlog

from rowcast.database.codecs import set_codecs
from rowcast.database.connection import SESSION_SETTINGS, Connection, SparingConnection, open_connection
from rowcast.database.copying import Copying, Sink
from rowcast.database.errors import CONNECTION_LOST, DRIVER_ERRORS, TryAgain, translate
from rowcast.database.pool_load import PoolLoad
from rowcast.database.pooled import PooledConnection
from rowcast.database.traced import can_set_trace, set_trace
from rowcast.database.transactions import FollowingWork, Transaction, Work, begun
from rowcast.database.written import CURRENT_TRANSACTION, WRITTEN, Noting, note
from rowcast.errors import ApiError, ConfigurationError, Unavailable
from rowcast.resources.tables import Guard
from rowcast.traces import TRACE

Result = TypeVar("Result")
Note = Callable[[str, Sequence[Any], float, Any, Exception | None], None]  # SQL, values, seconds, result, error

CONNECT_TIMEOUT_SECONDS: Final = 10  # outside the pool, where the URL sets no other one
STATEMENTS_PER_CONNECTION: Final = 256  # prepared ones; each takes some 20 kB here, and more in PostgreSQL
TRANSACTION_ATTEMPTS: Final = 3  # if it collides with another transaction

_logger = structlog.get_logger(__name__)


class Database:
    """A pool of at most ``size`` connections to one database.

    ``statement_timeout``, ``idle_timeout`` (between two statements of a transaction) and ``patience``, the longest wait for
    a free connection, are in seconds. Errors of the driver are raised as ``ApiError``; ``guards`` names the fields of a
    violated constraint, and with ``trigger_messages`` clients get the messages that triggers raise.

    With ``direct_url`` the pool's connections go through a pooler in transaction mode at ``url``, and those outside the
    pool go to ``direct_url``.
    """

    acts_as_callers = False  # whether the statements of a request run with settings or a role of its caller

    def __init__(
        self,
        url: str,
        guards: Mapping[str, Guard],
        *,
        size: int = 10,
        statement_timeout: float = 5.0,
        idle_timeout: float = 30.0,
        patience: float = 5.0,
        trigger_messages: bool = False,
        direct_url: str | None = None,
        prepared_statements: bool = True,
    ) -> None:
        self.url = url
        self.direct_url = direct_url
        self.prepared_statements = prepared_statements
        self.trigger_messages = trigger_messages
        self.guards = guards
        self.patience = patience
        self.statements = 0  # the number of statements run so far
        self.changed: Callable[[Collection[str]], object] = lambda _: None  # called with written resources
        self.sets_trace: Callable[[Collection[str]], bool] = lambda _: False  # whether statements that write these do
        self._settings = {
            **SESSION_SETTINGS,
            "statement_timeout": str(int(statement_timeout * 1000)),
            "idle_in_transaction_session_timeout": str(int(idle_timeout * 1000)),
        }
        self._size = size
        self._open = 0  # connections that are open or being opened
        self._idle: list[Connection] = []
        self._all: WeakSet[Connection] = WeakSet()
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._closed = False
        self._outside = asyncio.Lock()
        self._following = FollowingWork()
        self._transaction: ContextVar[Transaction | None] = ContextVar("transaction", default=None)

    @property
    def load(self) -> PoolLoad:
        """The use of the pool now."""
        waiting = sum(not turn.done() for turn in self._waiting)
        return PoolLoad(self._size, self._open - len(self._idle), len(self._idle), waiting)

    @property
    def is_free(self) -> bool:
        """Whether a caller gets a connection, or may open one, without waiting for another caller."""
        return bool(self._idle) or self._open < self._size

    def lift_limits(self) -> None:
        """Let statements and transactions take any time: for what no client waits for. Connections are opened later."""
        self._settings |= {"statement_timeout": "0", "idle_in_transaction_session_timeout": "0"}

    async def connect(self, **settings: str) -> Connection:
        """A direct connection outside the pool, with the driver's codecs, for the caller to close: LISTEN, migrations."""
        connection = await open_connection(
            self.direct_url or self.url,
            CONNECT_TIMEOUT_SECONDS,
            server_settings={"application_name": "rowcast", **settings},
        )
        self._all.add(connection)
        return connection

    def observe(self, note: Note, wanted: Callable[[], bool] = lambda: True) -> None:
        """Call a function after each statement of the pool, with its result or the error that it has caused.

        ``wanted`` says, before a statement, whether that is to be done.
        """
        execute = self._execute

        def observing(
            connection: Connection, method: str, sql: str, arguments: Sequence[Any], deleting: bool
        ) -> Coroutine[Any, Any, Any]:
            each = observed if wanted() else execute
            return each(connection, method, sql, arguments, deleting)

        async def observed(
            connection: Connection, method: str, sql: str, arguments: Sequence[Any], deleting: bool
        ) -> Any:
            begun = monotonic()
            result: Any = None
            error: Exception | None = None
            try:
                result = await execute(connection, method, sql, arguments, deleting)
            except Exception as raised:
                error = raised
                raise
            finally:
                note(sql, arguments, monotonic() - begun, result, error)
            return result

        self._execute = observing  # type: ignore[method-assign]

    def observe_waits(self, note: Callable[[float, bool], None]) -> None:
        """Call a function after each wait for a connection, with its seconds and whether it has ended without one."""
        wait = self._wait

        async def observed() -> Connection | None:
            begun, refused = monotonic(), False
            try:
                return await wait()
            except Unavailable:
                refused = True
                raise
            finally:
                note(monotonic() - begun, refused)

        self._wait = observed  # type: ignore[method-assign]

    async def fetch(
        self, sql: str, arguments: Sequence[Any], *, deleting: bool = False, changes: Collection[str] = ()
    ) -> asyncpg.Record | None:
        """Run one statement and return its first row, or ``None``. Inside ``transaction()`` it is part of that.

        ``changes`` are the resources that it may change; ``changed`` is called with them after it, or its transaction.
        All rows are read, since PostgreSQL uses no parallel workers for a client that limits their number.
        """
        rows: list[asyncpg.Record] = await self._run(sql, arguments, deleting, changes)
        return rows[0] if rows else None

    def fetch_all(
        self, sql: str, arguments: Sequence[Any], *, deleting: bool = False, changes: Collection[str] = ()
    ) -> Coroutine[Any, Any, list[asyncpg.Record]]:
        """Run one statement and return all its rows."""
        return self._run(sql, arguments, deleting, changes)

    async def read(self, sql: str, arguments: Sequence[Any]) -> asyncpg.Record | None:
        """``fetch`` for a statement that changes nothing: it runs again if its connection was lost."""
        try:
            return await self.fetch(sql, arguments)
        except Unavailable as error:
            if error.code != "database_unavailable" or self._inside() is not None:
                raise
            return await self.fetch(sql, arguments)

    async def fetch_when_free(
        self, statement: Callable[[], tuple[str, Sequence[Any], Collection[str]]]
    ) -> list[asyncpg.Record]:
        """Wait for a free connection, outside of transactions; then make a statement, and run it.

        ``statement`` returns it with its arguments and the resources that it may change.
        """
        connection = await self._take()
        changes: Collection[str] = ()
        try:
            self.statements += 1
            sql, arguments, changes = statement()
            rows: list[asyncpg.Record] = await self._execute(connection, "fetch", sql, arguments, False)
            return rows
        finally:
            if changes:
                self.changed(changes)
            self._give(connection)

    async def copy(self, sql: str, arguments: Sequence[Any], sink: Sink, **form: str) -> None:
        """Send the rows of one statement to ``sink``, in the form of COPY's options, inside ``transaction()``.

        They come in pieces of whole rows, and the next piece when ``sink`` has taken one, so that memory holds few of them. An
        error of ``sink``, or a cancelled task, ends the statement; after an error of ``sink`` the connection is closed, so that the
        transaction ends with ``Unavailable``.
        """
        self.statements += 1
        inside = self._inside()
        assert inside is not None
        async with inside.turn:
            await self._execute(Copying(inside.connection, sink, form), "fetch", sql, arguments, False)

    async def fetch_outside(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """Run one statement outside the caller's transaction, which may have failed, and return its rows.

        It has a connection of its own, since callers in transactions may hold all those of the pool; one caller at a time.
        """
        async with self._outside:
            try:
                connection = await self.connect()
                try:
                    rows: list[asyncpg.Record] = await connection.fetch(sql, *arguments, timeout=self.patience)
                    return rows
                finally:
                    connection.terminate()
            except (*DRIVER_ERRORS, TimeoutError) as error:
                raise self._failed(error) from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Everything fetched inside is one transaction, committed at the end and rolled back by an error.

        Inside another transaction it is a savepoint.
        """
        outer = self._inside()
        here = outer or Transaction(await self._take())
        registered, caller = len(here.following), here.caller
        written = WRITTEN.get()
        earlier = None if written is None else written.transaction
        token = self._transaction.set(here)
        try:
            try:
                async with begun(here.connection):
                    if outer is None:
                        await self._prepare_transaction(here)
                    yield
                    if outer is None:
                        await self.note_transaction()
            except BaseException as error:
                if outer is None and written is not None:
                    written.transaction = earlier
                del here.following[registered:]
                here.caller = caller  # a savepoint that is rolled back restores the settings
                if isinstance(error, DRIVER_ERRORS):
                    raise self._failed(error) from error
                raise
        finally:
            self._transaction.reset(token)
            if outer is None:
                here.open = False
                self.changed(
                    here.changes
                )  # also after a rollback: a COMMIT may have succeeded before its reply was lost
                self._give(here.connection)
                if here.following:
                    self._following.begin(here.following)

    def noting(self) -> Noting:
        """What is written inside is noted, and inside another one by that.

        Statements that write a row return the id of their transaction. Otherwise it is read before the commit.
        """
        return Noting()

    async def note_transaction(self) -> None:
        """Note the id of the caller's transaction, if it has written and no statement has returned it."""
        written, inside = WRITTEN.get(), self._inside()
        if written is None or written.transaction is not None or inside is None or not inside.changes:
            return
        with suppress(asyncpg.InFailedSQLTransactionError):  # a caught error; there will be no commit
            row = await self.fetch(CURRENT_TRANSACTION, ())
            written.transaction = None if row is None else row[0]

    def on_commit(self, work: Work) -> None:
        """Do work once the caller's transaction has committed, in a task that nobody waits for; not if it is rolled back.

        Outside a transaction it begins at once. An error is logged.
        """
        if (inside := self._inside()) is not None:
            inside.following.append(work)
        else:
            self._following.begin([work])

    async def finish(self, seconds: float) -> None:
        """Wait until all that follows commits has been done, at most so many seconds; then cancel what is left."""
        await self._following.finish(seconds)

    def act_for(self, caller: Hashable) -> None:
        """Run the statements of this task as a caller; see ``CallerDatabase``."""

    def caller(self) -> Hashable:
        """The caller as whom the statements of this task run; ``None`` for the service itself."""
        return None

    def as_service(self) -> AbstractContextManager[None]:
        """Run the statements inside as the service's own role."""
        return nullcontext()

    @asynccontextmanager
    async def own_role(self) -> AsyncIterator[None]:
        """Inside a transaction: run the statements inside as the service's own role, and those after it as before."""
        yield

    @property
    def in_transaction(self) -> bool:
        """Whether the caller is inside ``transaction()``."""
        return self._inside() is not None

    async def retrying(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Run ``work``, again a few times if it collides with a concurrent transaction, and return its result."""
        for attempt in range(1, TRANSACTION_ATTEMPTS + 1):
            try:
                return await work()
            except ApiError as error:
                if not isinstance(error, TryAgain) or attempt == TRANSACTION_ATTEMPTS or self._inside():
                    raise
            await asyncio.sleep(random.uniform(0, 0.02 * attempt))
        raise AssertionError("the last attempt returns or raises")

    async def close(self) -> None:
        """Close every connection; those in use are closed when they are returned."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close(timeout=2)

    def abort(self) -> None:
        """Close every connection at once, also those outside the pool: no statement waits for a server that is lost."""
        idle, self._idle = self._idle, []
        self._open -= len(idle)
        for connection in tuple(self._all):
            if not connection.is_closed():
                connection.terminate()

    async def _run(self, sql: str, arguments: Sequence[Any], deleting: bool, changes: Collection[str]) -> Any:
        self.statements += 1
        if (inside := self._inside()) is not None:
            inside.changes.update(changes)
            async with inside.turn:  # tasks of one handler share its connection
                rows = await self._execute(inside.connection, "fetch", sql, arguments, deleting)
            if changes:
                note(rows[0] if rows else None)
            return rows
        if changes and (trace := TRACE.get()) is not None:
            if not (can_set_trace(sql) and self.sets_trace(changes)):
                async with self.transaction():
                    return await self._run(sql, arguments, deleting, changes)
            sql, arguments = set_trace(sql, arguments, trace.traceparent)
        connection = await self._take()
        try:
            rows = await self._execute(connection, "fetch", sql, arguments, deleting)
            if changes:
                note(rows[0] if rows else None)
            return rows
        finally:
            if changes:
                self.changed(changes)
            self._give(connection)

    async def _execute(
        self, connection: Connection, method: str, sql: str, arguments: Sequence[Any], deleting: bool
    ) -> Any:
        try:
            return await getattr(connection, method)(sql, *arguments)
        except DRIVER_ERRORS as error:
            if isinstance(error, CONNECTION_LOST):
                connection.terminate()  # the driver may not have noticed that it is lost
            raise self._failed(error, deleting=deleting) from error

    async def _prepare_transaction(self, transaction: Transaction) -> None:
        """Make a transaction that has just begun ready for its statements."""

    def _inside(self) -> Transaction | None:
        """The caller's open transaction; a task that has outlived the transaction that it was created in has none."""
        here = self._transaction.get()
        return here if here is not None and here.open else None

    def _failed(self, error: Exception, *, deleting: bool = False) -> Exception:
        if isinstance(error, CONNECTION_LOST):  # the idle ones probably are too, so the next request opens a new one
            idle, self._idle = self._idle, []
            for connection in idle:
                connection.terminate()
            self._open -= len(idle)
        meaning = translate(error, self.guards, deleting=deleting, trigger_messages=self.trigger_messages)
        return meaning or error

    async def _take(self) -> Connection:
        """A free connection, or a new one if the pool is not full; ``Unavailable`` if none becomes free in time."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
            self._open -= 1
        if self._open < self._size:
            self._open += 1
        elif (handed := await self._wait()) is not None and not handed.is_closed():
            return handed
        try:
            return await self._new()
        except BaseException:
            self._hand(None)
            raise

    async def _wait(self) -> Connection | None:
        """Wait for a connection that is returned; ``None`` is leave to open a new one in place of a lost one."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[Connection | None] = loop.create_future()
        self._waiting.append(turn)
        timer = loop.call_later(self.patience, _refuse, turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._hand(turn.result())  # this request has ended in the meantime
            raise
        finally:
            timer.cancel()

    def _give(self, connection: Connection) -> None:
        if self._closed or connection.is_closed() or connection.is_in_transaction():
            connection.terminate()
            self._hand(None)
        else:
            self._hand(connection)

    def _hand(self, connection: Connection | None) -> None:
        """Pass a connection, or leave to open one, to the request that waits longest; otherwise keep it."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(connection)
                return
        if connection is None:
            self._open -= 1
        else:
            self._idle.append(connection)

    async def open(self) -> Connection:
        """A new connection as those of the pool, for the caller to close. Raises the driver's errors as they are."""
        statements = STATEMENTS_PER_CONNECTION if self.prepared_statements else 0
        pooled = self.direct_url is not None
        connection = await open_connection(
            self.url, self.patience, statement_cache_size=statements, max_cached_statement_lifetime=0,
            connection_class=PooledConnection if pooled else SparingConnection,
            server_settings={"application_name": "rowcast", **({} if pooled else self._settings)},
        )  # fmt: skip
        if pooled:
            connection.begin_with(self._settings, self.patience)
        self._all.add(connection)
        await set_codecs(connection)
        return connection

    async def _new(self) -> Connection:
        try:
            return await self.open()
        except (*CONNECTION_LOST, asyncpg.PostgresError, ConfigurationError, TimeoutError) as error:
            if isinstance(error, ConfigurationError):
                _logger.error("database_url_refused", error=str(error))
            raise Unavailable("The database cannot be reached; try again.", code="database_unavailable") from error


def _refuse(turn: asyncio.Future[Connection | None]) -> None:
    """End the wait of a request with an error."""
    if not turn.done():
        turn.set_exception(Unavailable("Every database connection is busy; try again.", code="database_busy"))
