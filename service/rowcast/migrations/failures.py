"""What a failed statement of a migration means, and what its operator can do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb
from typing import Final

import asyncpg
import sqlalchemy as sa

from rowcast.errors import ConfigurationError

_ADVICE: Final = {
    "23502": "Rows exist that have no value for it: give the field a default or `null: true`, or write a revision that "
    "fills them (rowcast makemigrations --empty -m …).",
    "23505": "Rows exist that have the same value: change them, or leave the rule out.",
    "23514": "Rows exist that break the new rule: change them, or widen the rule.",
    "23503": "Rows exist that refer to nothing: change them, or make the field nullable and clear it.",
    "42501": "This role may not change the schema: run `rowcast migrate` as the role that owns the tables.",
    "25006": "This connection is read-only: name the primary server, and a role that may write.",
    "55P03": "The table is in use by a transaction that does not end: try again when there is less to do.",
}


class SchemaError(ConfigurationError):
    """The migration failed and nothing was changed. The message has the statement, the reason and a way out."""


class TableMissingError(Exception):
    """On a database without tables, a revision alters a table that no revision creates: a sync had created it."""


def sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's code of a failure."""
    return getattr(_driver_error(error), "sqlstate", None)


def is_of_alembic(error: BaseException) -> bool:
    """Whether it is a ``CommandError`` of alembic, which is loaded only where there is something to do for it."""
    return any(each.__module__ == "alembic.util.exc" for each in type(error).__mro__)


def explain(error: sa.exc.DBAPIError | asyncpg.PostgresError) -> str:
    """What failed, why, and what can be done."""
    lines = ["Nothing was changed in the database, because a statement failed."]
    if isinstance(error, sa.exc.DBAPIError) and error.statement:
        lines.append("\n".join(f"    {line}" for line in error.statement.strip().splitlines()))
    lines.append(f"PostgreSQL reported: {_driver_error(error) or error}")
    if advice := _ADVICE.get(sqlstate(error) or ""):
        lines.append(advice)
    return "\n".join(lines)


@contextmanager
def reports_python(directory: Path) -> Iterator[None]:
    """Raise ``SchemaError`` for an error in the Python of the revisions in ``directory``, with file and line."""
    try:
        yield
    except (ConfigurationError, TableMissingError, sa.exc.DBAPIError, asyncpg.PostgresError):
        raise
    except (Exception, SystemExit) as error:
        if is_of_alembic(error):
            raise
        where = _place(directory.resolve(), error)
        if where is None and not isinstance(error, KeyError):  # of alembic, for a revision that is not there
            raise
        reason = f"there is no revision {error}" if where is None else f"{where}: {type(error).__name__}: {error}"
        raise SchemaError(f"The revisions cannot be used: {reason}") from error


def _place(directory: Path, error: BaseException) -> str | None:
    """The last line in the files of a directory that an error passed through; ``None`` if there is none."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).resolve().parent == directory:
        return f"{Path(error.filename).name}:{error.lineno}"
    frames = [each for each in extract_tb(error.__traceback__) if Path(each.filename).resolve().parent == directory]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else None


def _driver_error(error: BaseException) -> asyncpg.PostgresError | None:
    """The driver's error inside SQLAlchemy's."""
    if isinstance(error, sa.exc.DBAPIError) and error.orig is not None:
        return error.orig.__cause__ if isinstance(error.orig.__cause__, asyncpg.PostgresError) else None
    return error if isinstance(error, asyncpg.PostgresError) else None
