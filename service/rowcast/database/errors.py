"""What the driver's errors mean: the only place where an error of PostgreSQL becomes one of the API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import asyncpg

from rowcast.errors import (
    ApiError,
    Conflict,
    DoesNotFit,
    InvalidPattern,
    OutsideScope,
    PermissionDenied,
    Unavailable,
    ValidationError,
)
from rowcast.resources.tables import Guard, not_null_of

CONNECTION_LOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleInTransactionSessionTimeoutError,  # after which PostgreSQL closes the connection
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that was lost in the middle of an exchange
)
DRIVER_ERRORS = (asyncpg.PostgresError, *CONNECTION_LOST)
UNREACHABLE = (
    *CONNECTION_LOST,
    asyncpg.InvalidAuthorizationSpecificationError,  # no such role, or a wrong password
    asyncpg.InvalidCatalogNameError,
    asyncpg.OperatorInterventionError,
    asyncpg.TooManyConnectionsError,
)
"""What an attempt to connect may raise: the database is away, or does not let this role in."""

POSTGRESQL_CLASSES = frozenset(
    [
        "00",
        "01",
        "02",
        "03",
        "08",
        "09",
        "0A",
        "0B",
        "0F",
        "0L",
        "0P",
        "0Z",
        "10",
        "20",
        "21",
        "22",
        "23",
        "24",
        "25",
        "26",
        "27",
        "28",
        "2B",
        "2D",
        "2F",
        "34",
        "38",
        "39",
        "3B",
        "3D",
        "3F",
        "40",
        "42",
        "44",
        "53",
        "54",
        "55",
        "57",
        "58",
        "72",
        "F0",
        "HV",
        "XX",
    ]
)
"""The first two characters of the SQLSTATEs that PostgreSQL defines, without those of PL/pgSQL (PostgreSQL, appendix A)."""

_CHECKS: Mapping[str, str] = {
    "blank": "May not be blank.",
    "choices": "Not one of the choices.",
    "min": "Too small.",
    "max": "Too large.",
    "min_length": "Too short.",
    "max_length": "Too long.",
    "pattern": "Does not match the pattern.",
    "format": "Not in the format of this field.",
    "items": "Items may not be null.",
}


NON_FIELD: Final = "non_field_errors"
NO_ROW: Final = "There is no row with this key."  # the same for a row that the caller may not see
MESSAGE_MAX_CHARACTERS: Final = 1000  # of a message of the database's owner
OUTSIDE_SCOPE: Final = "rowcast: outside the scope"  # what a statement casts to a boolean to undo what it has written
POLICY_REFUSES: Final = "A policy of the database does not allow this row."


def sqlstate(error: BaseException) -> str | None:
    """The SQLSTATE of an error of PostgreSQL, or of the one that an error of the service stands for."""
    for each in (error, error.__cause__):
        if isinstance(each, asyncpg.PostgresError):
            return str(each.sqlstate)
    return None


class TryAgain(Conflict):
    """Another attempt may succeed. A client gets it where the attempt cannot be repeated for it."""

    code = "serialization_failure"
    default_detail = "The request met a concurrent change; send it again."


class RefusedByRule(Conflict):
    """A rule of the table does not allow the statement in the form in which it was sent."""

    def __init__(self) -> None:
        super().__init__("A rule of the database does not allow this change.")


def translate(
    error: Exception, guards: Mapping[str, Guard], *, deleting: bool = False, trigger_messages: bool = False
) -> ApiError | None:
    """The API's error for an error of the driver, or ``None`` if that is a defect of the service.

    ``deleting`` distinguishes the two meanings of a foreign key violation: a row that is still referenced, and a
    reference to a row that does not exist. With ``trigger_messages`` clients get the messages that triggers raise.
    """
    if isinstance(error, CONNECTION_LOST) and not isinstance(error, asyncpg.DataError):
        return Unavailable("The database cannot be reached; try again.", code="database_unavailable")
    if not isinstance(error, asyncpg.PostgresError):
        return None
    meaning = _meaning(error, guards, deleting=deleting)
    if trigger_messages and isinstance(meaning, ValidationError | Conflict) and _has_owners_message(error):
        message = str(error.message)[:MESSAGE_MAX_CHARACTERS]
        if isinstance(meaning, Conflict):
            return Conflict(message, code=meaning.code)
        return ValidationError({_field_of(error, guards) or error.column_name or NON_FIELD: [message]})
    return meaning


def _meaning(error: asyncpg.PostgresError, guards: Mapping[str, Guard], *, deleting: bool) -> ApiError | None:
    guard = violated_guard(error, guards)
    match error:
        case asyncpg.UniqueViolationError() | asyncpg.ExclusionViolationError():
            return _unique(guard)
        case asyncpg.ForeignKeyViolationError() | asyncpg.RestrictViolationError():
            if deleting:
                referrer = f" by {guard.resource}" if guard else ""
                return Conflict(f"The row is still referenced{referrer}.", code="referenced")
            return _invalid(guard, NO_ROW, code="does_not_exist")
        case asyncpg.CheckViolationError():
            return _invalid(guard, "Not a valid value." if guard is None else _refusal(guard))
        case asyncpg.NotNullViolationError():
            field = _field_of(error, guards)
            if field is None and error.column_name and not _has_owners_message(error):
                return ValidationError("The table needs a value in a column that this resource does not have.")
            return ValidationError({field or error.column_name or NON_FIELD: ["May not be null."]})
        case asyncpg.GeneratedAlwaysError():
            return ValidationError("A value that the database generates cannot be written.")
        case asyncpg.InvalidRegularExpressionError():
            return InvalidPattern()
        case asyncpg.InvalidTextRepresentationError() if OUTSIDE_SCOPE in str(error):
            return OutsideScope()
        case asyncpg.DataError() | asyncpg.ProgramLimitExceededError():
            return DoesNotFit("A value does not fit its column.")
        case asyncpg.FeatureNotSupportedError() if error.server_source_function == "RewriteQuery":
            return RefusedByRule()
        case asyncpg.SerializationError() | asyncpg.DeadlockDetectedError():
            return TryAgain()
        case asyncpg.QueryCanceledError():
            return Unavailable("The query took too long.", code="statement_timeout")
        case asyncpg.ReadOnlySQLTransactionError():
            return Unavailable("The database is read-only.", code="read_only")
        case asyncpg.InsufficientPrivilegeError() if error.server_source_function == "ExecWithCheckOptions":
            return PermissionDenied(POLICY_REFUSES)
        case asyncpg.InsufficientPrivilegeError():
            return Unavailable("The service's role in the database may not do this.", code="database_forbidden")
        case asyncpg.LockNotAvailableError() | asyncpg.InsufficientResourcesError():
            return Unavailable("The database is busy; try again.", code="database_busy")
        case asyncpg.UndefinedTableError() | asyncpg.UndefinedColumnError():
            return Unavailable("The database's schema is not the one of the configuration.", code="schema_mismatch")
    return ValidationError("The database refused this change.") if _raised_by_owner(error) else None


def violated_guard(error: asyncpg.PostgresError, guards: Mapping[str, Guard]) -> Guard | None:
    """The guard of the constraint that an error names; ``None`` if there is none."""
    name, table = error.constraint_name or "", error.table_name
    qualified = guards.get(f"{error.schema_name}.{table}.{name}")
    return qualified or guards.get(f"{table}.{name}") or guards.get(name)


def _field_of(error: asyncpg.PostgresError, guards: Mapping[str, Guard]) -> str | None:
    """The field of the column that an error names; ``None`` if it names none, or no field."""
    tables = (f"{error.schema_name}.{error.table_name}", str(error.table_name))
    found = [guards[name] for table in tables if (name := not_null_of(table, str(error.column_name))) in guards]
    return found[0].fields[0] if found else None


def _has_owners_message(error: asyncpg.PostgresError) -> bool:
    """Whether the message of an error was written by the database's owner: by RAISE, or with a SQLSTATE of its own."""
    if error.server_source_function in ("exec_stmt_raise", "exec_stmt_assert"):
        return True
    return (error.sqlstate or "XX")[:2] not in (*POSTGRESQL_CLASSES, "P0")


def _raised_by_owner(error: asyncpg.PostgresError) -> bool:
    """Whether a trigger or a function of the database's owner has raised an error, with a SQLSTATE of its own choice."""
    if isinstance(error, asyncpg.PLPGSQLError) or error.server_source_function == "exec_stmt_raise":
        return True
    return (error.sqlstate or "XX")[:2] not in POSTGRESQL_CLASSES


def _unique(guard: Guard | None) -> Conflict:
    if guard is None:
        return Conflict("Another row has this value.", code="unique")
    verb = "is in conflict with" if guard.rule == "exclusion" else "has"
    values = "this value" if len(guard.fields) == 1 else f"these values of {', '.join(guard.fields)}"
    message = guard.message or f"Another row {verb} {values}."
    return Conflict(message, code="unique", errors={field: [message] for field in guard.fields})


def _refusal(guard: Guard) -> str:
    """What is wrong with values that a CHECK refuses."""
    if guard.message is None and len(guard.fields) > 1 and guard.rule == "check":
        return f"These values of {', '.join(guard.fields)} are not valid together."
    return guard.message or _CHECKS.get(guard.rule, "Not a valid value.")


def _invalid(guard: Guard | None, message: str, *, code: str | None = None) -> ValidationError:
    if guard is None:
        return ValidationError(message, code=code)
    return ValidationError({field: [message] for field in guard.fields}, code=code)
