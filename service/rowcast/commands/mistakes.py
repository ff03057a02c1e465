"""Errors that are nobody's defect, such as a wrong password or a full disk, as the lines that a command prints."""

from __future__ import annotations

import errno
import os
import sys
from typing import Final

import asyncpg
import click

from rowcast.database.embedded import EmbeddedPostgresError
from rowcast.database.errors import UNREACHABLE
from rowcast.errors import ApiError, ConfigurationError

_OUTPUT: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)  # of writing to standard output
_NO_ANSWER: Final = "it does not answer"


def report(error: Exception) -> bool:
    """Print what there is to put right on standard error, for an exit with 1; whether it is such an error."""
    if (message := message_of(error)) is None:
        return False
    click.echo(message, err=True)
    try:
        sys.stdout.flush()
    except OSError:  # the end of the process would try again, and print a traceback
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def message_of(error: Exception) -> str | None:
    """What to print for an error; ``None`` if it is a defect, or an error that click reports itself."""
    match error:
        case ConfigurationError() | EmbeddedPostgresError():
            return str(error)
        case ApiError():
            return error.detail
        case BrokenPipeError():  # the reader of the output has gone
            return None
        case OSError(filename=str() | bytes() | int()):
            return f"{error.filename}: {error.strerror}"
        case OSError(errno=number) if number in _OUTPUT:
            return f"The output cannot be written: {error.strerror}"
        case _ if isinstance(error, UNREACHABLE):
            return f"The database cannot be reached: {_line(error) or _NO_ANSWER}"
        case asyncpg.InsufficientPrivilegeError():
            return (
                f"This role may not do that in the database: {_line(error)}; connect as the role that owns the tables"
            )
        case asyncpg.PostgresError():
            return f"The database refuses this: {_line(error)}"
    return None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
