"""How the changes of a request get its trace: ``rowcast.traceparent``, a setting of their transaction, which the log reads.

A transaction is begun with the setting, in the same message. A statement that is alone sets it itself, where it returns the
id of its transaction: PostgreSQL computes what a statement returns before it runs the triggers that log its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rowcast.database.written import RETURNED_TRANSACTION
from rowcast.traces import TRACE

SETTING: Final = "rowcast.traceparent"


def begin_with_trace(statement: str) -> str:
    """The statement that begins a transaction; for a request with a trace, also what sets it."""
    trace = TRACE.get()
    return statement if trace is None else f"{statement};SET LOCAL {SETTING} = '{trace.traceparent}'"


def can_set_trace(statement: str) -> bool:
    """Whether a statement can set the trace itself."""
    return RETURNED_TRANSACTION in statement


def set_trace(statement: str, arguments: Sequence[Any], traceparent: str) -> tuple[str, list[Any]]:
    """Such a statement with the trace, and its arguments with one more."""
    assignment = f"(SELECT set_config('{SETTING}', ${len(arguments) + 1}, true)) AS _trace"
    return statement.replace(RETURNED_TRANSACTION, f"{RETURNED_TRANSACTION}, {assignment}", 1), [
        *arguments,
        traceparent,
    ]
