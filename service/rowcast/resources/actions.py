"""The standard actions of a viewset, as a table: names, methods, and what each is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class StandardAction:
    """One action that has a route without ``@action``.

    ``detail`` actions are about one row. ``takes_body`` ones read a JSON body, and ``changes_row`` ones need the row to be
    there, so ``If-Match`` applies to them.
    """

    name: str
    method: str
    detail: bool
    takes_body: bool = False
    changes_row: bool = False


STANDARD_ACTIONS: Final[Mapping[str, StandardAction]] = {
    action.name: action
    for action in (
        StandardAction("list", "GET", detail=False),
        StandardAction("create", "POST", detail=False, takes_body=True),
        StandardAction("retrieve", "GET", detail=True),
        StandardAction("update", "PUT", detail=True, takes_body=True, changes_row=True),
        StandardAction("partial_update", "PATCH", detail=True, takes_body=True, changes_row=True),
        StandardAction("destroy", "DELETE", detail=True, changes_row=True),
    )
}
STREAM: Final = "stream"
AGGREGATE: Final = "aggregate"  # which the option ``aggregates`` opens
LIVE: Final = "aggregate_stream"  # the parameters and the description of ``aggregate`` as a stream
LIST_DELETED: Final = "list_deleted"  # ?deleted= of list and retrieve
RESTORE: Final = "restore"
PURGE: Final = "purge"  # ?hard=true of destroy
DELETION_ACTIONS: Final = (LIST_DELETED, RESTORE, PURGE)  # of a resource with ``soft_delete``
METADATA: Final = "metadata"  # the action of OPTIONS
ALLOWABLE_ACTIONS: Final = (
    *STANDARD_ACTIONS,
    AGGREGATE,
    STREAM,
)  # those that allowed_actions and excluded_actions may name
RESERVED_ACTIONS: Final = frozenset({*ALLOWABLE_ACTIONS, METADATA})  # names that @action may not take
CHANGING_ACTIONS: Final = frozenset(name for name, action in STANDARD_ACTIONS.items() if action.changes_row)
READING_ACTIONS: Final = frozenset(name for name, action in STANDARD_ACTIONS.items() if action.method == "GET")
BODY_ACTIONS: Final[Mapping[str, str]] = {  # method → the standard action that takes a body
    action.method: name for name, action in STANDARD_ACTIONS.items() if action.takes_body
}
