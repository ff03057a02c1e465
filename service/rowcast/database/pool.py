"""Connections to PostgreSQL and what a request does with one.

A request on the fast path takes a connection, runs one statement and puts the connection back: no reset, since nothing
here changes a session, and last in, first out, so that few connections stay warm. JSON travels as bytes both ways.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, Final, TypeAlias, TypeVar

import asyncpg
import orjson

from rowcast.database.errors import CONNECTION_LOST, DRIVER_ERRORS, RETRIED, translate
from rowcast.errors import ApiError, Unavailable
from rowcast.resources.lossless_json import Raw, nearest
from rowcast.resources.tables import Guard
from rowcast.resources.types.temporal import timedelta_of_interval

Connection: TypeAlias = asyncpg.Connection
Result = TypeVar("Result")

ATTEMPTS: Final = 3  # of a transaction that collides with another
SESSION: Final[Mapping[str, str]] = {
    "timezone": "UTC",
    "intervalstyle": "iso_8601",
    "extra_float_digits": "1",
    "jit": "off",
}


class _Transaction:
    """An open transaction: its connection, whose turn it is to use it, and the resources that it may have changed."""

    __slots__ = ("changes", "connection", "open", "turn")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.changes: set[str] = set()
        self.open = True
        self.turn = asyncio.Lock()


class Database:
    """A bounded set of connections to one database.

    ``size`` is the most there are, ``statement_timeout`` and ``patience`` (the wait for a free connection) are in
    seconds. Driver errors leave here as ``ApiError``, told in the words of ``guards``.
    """

    def __init__(
        self,
        url: str,
        guards: Mapping[str, Guard],
        *,
        size: int = 10,
        statement_timeout: float = 5.0,
        patience: float = 5.0,
    ) -> None:
        self.url = url
        self.guards = guards
        self.patience = patience
        self.statements = 0  # run so far, for tests and metrics
        self.changed: Callable[[Collection[str]], object] = lambda _: None  # called with what was written from here
        self._settings = {**SESSION, "statement_timeout": str(int(statement_timeout * 1000))}
        self._size = size
        self._open = 0  # connections that there are, or that somebody is making
        self._idle: list[Connection] = []
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._closed = False
        self._transaction: ContextVar[_Transaction | None] = ContextVar("transaction", default=None)

    async def connect(self, **settings: str) -> Connection:
        """A connection outside the bound, with plain codecs, for the caller to close: LISTEN, migrations."""
        return await asyncpg.connect(self.url, timeout=10, server_settings={"application_name": "rowcast", **settings})

    async def fetch(
        self, sql: str, arguments: Sequence[Any], *, deleting: bool = False, changes: Collection[str] = ()
    ) -> asyncpg.Record | None:
        """Run one statement; its first row, or ``None``. Inside ``transaction()`` it is part of that.

        ``changes`` are the resources that it may change: what ``changed`` is told once it, or its transaction, is over.
        """
        row: asyncpg.Record | None = await self._run("fetchrow", sql, arguments, deleting, changes)
        return row

    async def fetch_all(
        self, sql: str, arguments: Sequence[Any], *, deleting: bool = False, changes: Collection[str] = ()
    ) -> list[asyncpg.Record]:
        """Run one statement; all its rows."""
        rows: list[asyncpg.Record] = await self._run("fetch", sql, arguments, deleting, changes)
        return rows

    async def read(self, sql: str, arguments: Sequence[Any]) -> asyncpg.Record | None:
        """``fetch`` for a statement that changes nothing: once more when its connection turns out to be lost."""
        try:
            return await self.fetch(sql, arguments)
        except Unavailable as error:
            if error.code != "database_unavailable" or self._inside() is not None:
                raise
            return await self.fetch(sql, arguments)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Everything fetched inside is one transaction, committed at the end and rolled back by an error.

        Inside another one it is a savepoint.
        """
        outer = self._inside()
        here = outer or _Transaction(await self._take())
        token = self._transaction.set(here)
        try:
            try:
                async with here.connection.transaction():
                    yield
            except DRIVER_ERRORS as error:
                raise self._failed(error) from error
        finally:
            self._transaction.reset(token)
            if outer is None:
                here.open = False
                self.changed(here.changes)  # also after a rollback: whether a COMMIT was lost is not always known
                self._give(here.connection)

    @property
    def in_transaction(self) -> bool:
        """Whether this is inside ``transaction()``."""
        return self._inside() is not None

    async def retrying(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """The result of ``work``, run again a few times when it collides with a concurrent transaction."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await work()
            except ApiError as error:
                if not isinstance(error.__cause__, RETRIED) or attempt == ATTEMPTS or self._inside():
                    raise
            await asyncio.sleep(random.uniform(0, 0.02 * attempt))
        raise AssertionError("the last attempt returns or raises")

    async def close(self) -> None:
        """Close every connection; those in use are closed when they come back."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close(timeout=2)

    async def _run(
        self, method: str, sql: str, arguments: Sequence[Any], deleting: bool, changes: Collection[str]
    ) -> Any:
        self.statements += 1
        if (inside := self._inside()) is not None:
            inside.changes.update(changes)
            async with inside.turn:  # tasks of one handler share its connection
                return await self._ask(inside.connection, method, sql, arguments, deleting)
        connection = await self._take()
        try:
            return await self._ask(connection, method, sql, arguments, deleting)
        finally:
            if changes:
                self.changed(changes)
            self._give(connection)

    async def _ask(
        self, connection: Connection, method: str, sql: str, arguments: Sequence[Any], deleting: bool
    ) -> Any:
        try:
            return await getattr(connection, method)(sql, *arguments)
        except DRIVER_ERRORS as error:
            if isinstance(error, CONNECTION_LOST):
                connection.terminate()  # it may not know yet that it is lost, and must not be used again
            raise self._failed(error, deleting=deleting) from error

    def _inside(self) -> _Transaction | None:
        """The transaction that is open here; a task that has outlived the one it was made in is in none."""
        here = self._transaction.get()
        return here if here is not None and here.open else None

    def _failed(self, error: Exception, *, deleting: bool = False) -> Exception:
        if isinstance(error, CONNECTION_LOST):  # so are the idle ones, likely, and the next request finds new ones
            idle, self._idle = self._idle, []
            for connection in idle:
                connection.terminate()
            self._open -= len(idle)
        return translate(error, self.guards, deleting=deleting) or error

    async def _take(self) -> Connection:
        """A free connection, or a new one within the bound; ``Unavailable`` when none comes free in time."""
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
        """What the next one who is done with a connection hands over: it, or leave to make one in its place."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[Connection | None] = loop.create_future()
        self._waiting.append(turn)
        timer = loop.call_later(self.patience, _refuse, turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._hand(turn.result())  # it came to a request that has ended meanwhile
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
        """Pass a connection, or the place of one, to whoever waits longest; else keep it."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(connection)
                return
        if connection is None:
            self._open -= 1
        else:
            self._idle.append(connection)

    async def _new(self) -> Connection:
        try:
            connection = await asyncpg.connect(
                self.url, timeout=self.patience, statement_cache_size=1024, max_cached_statement_lifetime=0,
                server_settings={"application_name": "rowcast", **self._settings},
            )  # fmt: skip
            await _set_codecs(connection)
        except (*CONNECTION_LOST, asyncpg.PostgresError, TimeoutError) as error:
            raise Unavailable("The database cannot be reached; try again.", code="database_unavailable") from error
        return connection


def _refuse(turn: asyncio.Future[Connection | None]) -> None:
    """Tell a request that it has waited long enough."""
    if not turn.done():
        turn.set_exception(Unavailable("Every database connection is busy; try again.", code="database_busy"))


def encode_jsonb(value: Any) -> bytes:
    """A Python value as PostgreSQL receives a jsonb: a version byte and the text."""
    return b"\x01" + orjson.dumps(value)


_EPOCH: Final = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_FIRST_DAY: Final = _EPOCH.toordinal()
_MICROSECOND: Final = dt.timedelta(microseconds=1)
_DAY: Final = 86_400_000_000  # microseconds


def _encode_date(value: dt.date) -> tuple[int]:
    return (value.toordinal() - _FIRST_DAY,)


def _decode_date(raw: tuple[int]) -> dt.date:
    """The day; what Python cannot say, infinity for one, is the first or the last that it can."""
    return dt.date.fromordinal(min(max(raw[0] + _FIRST_DAY, 1), dt.date.max.toordinal()))


def _encode_datetime(value: dt.datetime) -> tuple[int]:
    """Microseconds since 2000; without an offset the time is UTC."""
    aware = value if value.tzinfo is not None else value.replace(tzinfo=dt.UTC)
    return ((aware - _EPOCH) // _MICROSECOND,)


def _decode_datetime(raw: tuple[int]) -> dt.datetime:
    try:
        return _EPOCH + dt.timedelta(microseconds=raw[0])
    except OverflowError:
        return (dt.datetime.max if raw[0] > 0 else dt.datetime.min).replace(tzinfo=dt.UTC)


def _encode_time(value: dt.time) -> tuple[int]:
    span = dt.timedelta(hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond)
    return (span // _MICROSECOND,)


def _decode_time(raw: tuple[int]) -> dt.time:
    """The time; of 24:00 the last one before it."""
    return (dt.datetime.min + dt.timedelta(microseconds=raw[0])).time() if raw[0] < _DAY else dt.time.max


def _encode_interval(value: dt.timedelta) -> tuple[int, int, int]:
    return (0, value.days, value // _MICROSECOND - value.days * _DAY)


def _decode_jsonb(raw: bytes) -> Any:
    """The value; of a number beyond Python's floats infinity, of what is nested too deep the text."""
    return nearest(Raw(raw[1:]))[0]


async def _set_codecs(connection: Connection) -> None:
    """``json`` arrives as the bytes that PostgreSQL made; ``jsonb`` is a Python value.

    The driver's own codecs would store the first and the last moment of Python as PostgreSQL's infinity.
    """
    await connection.set_type_codec("json", schema="pg_catalog", encoder=bytes, decoder=bytes, format="binary")
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=encode_jsonb, decoder=_decode_jsonb, format="binary"
    )
    await connection.set_type_codec(
        "date", schema="pg_catalog", encoder=_encode_date, decoder=_decode_date, format="tuple"
    )
    await connection.set_type_codec(
        "timestamptz", schema="pg_catalog", encoder=_encode_datetime, decoder=_decode_datetime, format="tuple"
    )
    await connection.set_type_codec(
        "time", schema="pg_catalog", encoder=_encode_time, decoder=_decode_time, format="tuple"
    )
    await connection.set_type_codec(
        "interval",
        schema="pg_catalog",
        encoder=_encode_interval,
        decoder=lambda raw: timedelta_of_interval(*raw),
        format="tuple",
    )
