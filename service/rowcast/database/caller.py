"""Statements that run as the caller of a request, for tables with row-level security.

``database.session`` and ``database.role_claim`` say which settings and which role of PostgreSQL a caller has. They are set
with SET LOCAL at the beginning of each transaction, so they end with it, also behind a pooler that gives each transaction
another session. A statement that would be alone becomes such a transaction: one more round trip, since it is ended after
its rows have been returned; one that writes is committed before.

What the service does for itself (tokens, the change log, the traits of tables) runs as its own role.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import asyncpg
import orjson

from rowcast.configuration.caller_value import caller_value
from rowcast.configuration.settings import Database as Settings
from rowcast.database.connection import Connection
from rowcast.database.errors import DRIVER_ERRORS
from rowcast.database.pool import Database
from rowcast.database.transactions import Transaction
from rowcast.database.written import note
from rowcast.errors import PermissionDenied
from rowcast.resources.sql import quote_identifier
from rowcast.tasks import spawn

UserOf: TypeAlias = Callable[[], Any]  # the user of a request, who may still be unknown when it is called first
NO_ROLE: Final = "none"  # SET ROLE none would be the service's own role


@dataclass(frozen=True, slots=True)
class Caller:
    """The settings of PostgreSQL, and the role, with which the statements of one caller run."""

    settings: tuple[tuple[str, str], ...]
    role: str | None

    @property
    def sql(self) -> str:
        """The statements that set them, until the transaction ends."""
        made = [f"SET LOCAL {name} = {_literal(value)}" for name, value in self.settings]
        return ";".join(made if self.role is None else [*made, f"SET LOCAL ROLE {_literal(self.role)}"])


@dataclass(frozen=True, slots=True)
class CallerSettings:
    """How a caller's settings follow from its user: ``database.session``, ``role_claim``, ``roles``, ``default_role``."""

    session: tuple[tuple[str, str], ...]
    role_claim: str | None
    roles: tuple[str, ...]
    default_role: str | None

    @classmethod
    def of_settings(cls, settings: Settings) -> CallerSettings:
        """Those of a configuration that has callers."""
        return cls(tuple(settings.session.items()), settings.role_claim, settings.roles, settings.default_role)

    def caller(self, user: Any) -> Caller:
        """The settings for a user. A claim that is missing is the empty string.

        ``PermissionDenied`` if the user's role may not be used, or if there is none.
        """
        settings = []
        for name, reference in self.session:
            value = _text(caller_value(user, reference.removeprefix("$")))
            if "\0" in value or not _is_unicode(value):
                raise PermissionDenied("The credentials have a claim that the database cannot represent.")
            settings.append((_quoted(name), value))
        return Caller(tuple(settings), self._role(user))

    @property
    def sql_of_service(self) -> str:
        """The statements that end what a caller's have set, until the transaction ends."""
        return ";".join(
            f"SET LOCAL {name} TO DEFAULT" for name in (*(_quoted(name) for name, _ in self.session), "role")
        )

    def _role(self, user: Any) -> str | None:
        role = self.default_role
        if self.role_claim is not None:
            claimed = caller_value(user, f"claims.{self.role_claim}")
            role = role if claimed is None else claimed
            if role is None:
                raise PermissionDenied("These credentials have no role in the database.", code="database_role")
            known = not self.roles or role in self.roles or claimed is None
            if not isinstance(role, str) or not known or role.lower() == NO_ROLE or not role or "\0" in role:
                raise PermissionDenied(_ROLE_REFUSED, code="database_role")
            if not _is_unicode(role):
                raise PermissionDenied(_ROLE_REFUSED, code="database_role")
        return role


_ROLE_REFUSED: Final = "The role of these credentials may not be used."


def _text(value: Any) -> str:
    """A value as the string that a setting has."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else orjson.dumps(value, default=str).decode()


def _is_unicode(text: str) -> bool:
    """Whether a string can be sent: JSON may have halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _quoted(setting: str) -> str:
    """The name of a setting, each part as a quoted identifier."""
    return ".".join(map(quote_identifier, setting.split(".")))


def _literal(text: str) -> str:
    """The string as an SQL literal, whatever ``standard_conforming_strings`` is."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


class CallerDatabase(Database):
    """A pool whose statements run as the caller of the current request, if there is one.

    ``first`` are statements that the service's own role executes at the beginning of each transaction of one statement.
    """

    acts_as_callers = True

    def __init__(
        self, url: str, guards: Mapping[str, Any], callers: CallerSettings, *, first: str = "", **options: Any
    ) -> None:
        super().__init__(url, guards, **options)
        self._callers = callers
        self._first = first
        self._caller: ContextVar[Caller | UserOf | None] = ContextVar("caller", default=None)
        self._ending: set[asyncio.Task[None]] = set()

    def act_for(self, caller: Hashable) -> None:
        """Run the statements of this task as a caller: one of ``caller()``, or a function that returns the user."""
        self._caller.set(caller)  # type: ignore[arg-type]

    def caller(self) -> Caller | None:
        """The caller of the current request; ``None`` for the service itself. ``PermissionDenied`` for a wrong role."""
        current = self._caller.get()
        return current if current is None or isinstance(current, Caller) else self._callers.caller(current())

    @contextlib.contextmanager
    def as_service(self) -> Iterator[None]:
        """Run the statements inside as the service's own role."""
        token = self._caller.set(None)
        try:
            yield
        finally:
            self._caller.reset(token)

    @contextlib.asynccontextmanager
    async def own_role(self) -> AsyncIterator[None]:
        caller = self.caller()
        if caller is None or caller.role is None:
            yield
            return
        await self.fetch("SET LOCAL role TO DEFAULT", ())
        yield
        await self.fetch(f"SET LOCAL ROLE {_literal(caller.role)}", ())

    async def close(self) -> None:
        if self._ending:
            await asyncio.wait(self._ending, timeout=2)
        await super().close()

    async def _run(self, sql: str, arguments: Sequence[Any], deleting: bool, changes: Collection[str]) -> Any:
        inside = self._inside()
        if inside is not None and inside.follows_callers:
            await self._follow_caller(inside)
        caller = None if inside is not None else self.caller()
        if inside is not None or (caller is None and not self._first):
            return await super()._run(sql, arguments, deleting, changes)
        self.statements += 1
        connection = await self._take()
        try:
            await self._become(connection, f"BEGIN;{self._first}{'' if caller is None else caller.sql}")
            rows = await self._execute(connection, "fetch", sql, arguments, deleting)
            if changes or deleting:
                await self._execute(connection, "execute", "COMMIT", (), deleting)
                note(rows[0] if rows else None)
            return rows
        finally:
            if changes:
                self.changed(changes)
            if connection.is_closed() or not connection.is_in_transaction():
                self._give(connection)
            else:
                task = spawn(self._end(connection), "end of a caller's transaction")
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)

    async def _end(self, connection: Connection) -> None:
        """End a transaction that has read, or failed, and return its connection to the pool."""
        try:
            await connection.execute("COMMIT")
        except DRIVER_ERRORS:
            connection.terminate()
        finally:
            self._give(connection)

    async def _prepare_transaction(self, transaction: Transaction) -> None:
        """Begin as the caller. A transaction that the service itself begins can have several, one after the other."""
        if (caller := self.caller()) is not None:
            await self._become(transaction.connection, caller.sql)
        transaction.follows_callers = caller is None

    async def _follow_caller(self, transaction: Transaction) -> None:
        """Let the next statements of a transaction run as the caller of now, or as the service itself."""
        if (caller := self.caller()) != transaction.caller:
            async with transaction.turn:
                sql = self._callers.sql_of_service if caller is None else caller.sql
                await self._become(transaction.connection, sql)
                transaction.caller = caller

    async def _become(self, connection: Connection, sql: str) -> None:
        try:
            await connection.execute(sql)
        except (asyncpg.InvalidParameterValueError, asyncpg.InsufficientPrivilegeError) as error:
            raise PermissionDenied(_ROLE_REFUSED, code="database_role") from error
        except DRIVER_ERRORS as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception, *, deleting: bool = False) -> Exception:
        refused = (
            isinstance(error, asyncpg.InsufficientPrivilegeError) and error.server_source_function == "aclcheck_error"
        )
        if refused and (caller := self.caller()) is not None and caller.role is not None:
            return PermissionDenied("The role of these credentials may not do this.", code="database_role")
        return super()._failed(error, deleting=deleting)
