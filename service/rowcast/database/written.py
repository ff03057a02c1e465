"""Which transaction a request has written in: its responses name it, and so do the events of its changes."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar, Token
from typing import Any, Final

TRANSACTION_ID: Final = "_tx"  # the column with the id of the transaction, in what writing statements return
TRANSACTION: Final = "pg_current_xact_id()::text"
RETURNED_TRANSACTION: Final = f"{TRANSACTION} AS {TRANSACTION_ID}"
CURRENT_TRANSACTION: Final = "SELECT pg_current_xact_id_if_assigned()::text"


class Written:
    """What a request has changed: ``transaction`` is PostgreSQL's id of its last transaction that has written.

    ``changes`` is whether it has executed statements that change rows, also if the id of their transaction is not known.
    """

    __slots__ = ("changes", "transaction")

    def __init__(self) -> None:
        self.changes = False
        self.transaction: str | None = None


class Noting:
    """A context in which a ``Written`` notes what is written; inside another one it is the outer one's."""

    __slots__ = ("_token",)

    def __init__(self) -> None:
        self._token: Token[Written | None] | None = None

    def __enter__(self) -> Written:
        if (written := WRITTEN.get()) is None:
            self._token = WRITTEN.set(written := Written())
        return written

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            WRITTEN.reset(self._token)


WRITTEN: ContextVar[Written | None] = ContextVar("written", default=None)


def note(row: Mapping[str, Any] | None) -> None:
    """Note that a statement has changed rows, and the id of the transaction, if the statement has returned it with a row."""
    if (written := WRITTEN.get()) is not None:
        written.changes = True
        if row is not None:
            written.transaction = row.get(TRANSACTION_ID) or written.transaction
