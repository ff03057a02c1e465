"""Sequences that give keys: one that is behind the rows' keys gives each key that a row has already.

Rows that are loaded with their keys (COPY, a restored dump, INSERT with ids) leave the sequence where it is.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import structlog

from rowcast.resources.fields import Field, Kind
from rowcast.resources.resource import Resource
from rowcast.resources.sql import quote_identifier, quote_literal, quote_table
from rowcast.resources.tables import Tables

_logger = structlog.get_logger(__name__)

Fetch = Callable[..., Awaitable[list[Any]]]


@dataclass(frozen=True, slots=True)
class SequenceBehind:
    """A sequence that is at ``last``, though the largest key is ``largest``; ``repair`` is the SQL that moves it on."""

    column: str
    last: int
    largest: int
    repair: str


def counted_field(resource: Resource) -> Field | None:
    """The key, or the part of it, whose values the database counts; ``None`` if there is none, or several."""
    counted = [
        field
        for field in resource.key_fields
        if field.is_counted or (field.database_default and field.field_type.kind is Kind.NUMBER)
    ]
    return counted[0] if len(counted) == 1 else None


async def sequences_behind(fetch: Fetch, tables: Tables) -> list[SequenceBehind]:
    """The sequences that will give a key that a row has; ``fetch`` runs a statement and returns its rows."""
    found = [await _behind(fetch, resource) for resource in tables.resources.values()]
    return [each for each in found if each is not None]


async def move_behind(fetch: Fetch, resource: Resource) -> None:
    """Move the sequence of a resource's keys on to the largest key, if it is behind."""
    if (found := await _behind(fetch, resource)) is not None:
        await fetch(found.repair)


async def _behind(fetch: Fetch, resource: Resource) -> SequenceBehind | None:
    field = counted_field(resource)
    if resource.view or field is None:
        return None
    table, column, key = _names(resource, field)
    rows = await fetch(f"SELECT pg_get_serial_sequence({table}, {column}) AS sequence")
    sequence = rows[0]["sequence"]
    if sequence is None:
        return None
    (row,) = await fetch(
        f"SELECT last_value, is_called, (SELECT max({key}) FROM {quote_table(resource.table)}) AS largest FROM {sequence}"
    )
    last, called, largest = row["last_value"], row["is_called"], row["largest"]
    if largest is None or last > largest or (last == largest and called):
        return None
    repair = f"SELECT setval({quote_literal(sequence)}, {largest})"
    return SequenceBehind(f"{resource.table}.{field.stored_column}", last, largest, repair)


async def move_sequence(fetch: Fetch, resource: Resource, field: Field, taken: asyncpg.UniqueViolationError) -> bool:
    """Move the sequence of a resource's keys on to the largest key if it has given one that is ``taken``.

    ``field`` is the counted one of the key.

    Returns whether another attempt gets another key: not if something else than the resource's key was taken.
    """
    if _is_about_others(taken, {each.stored_column for each in resource.key_fields}):
        return False
    table, column, key = _names(resource, field)
    rows = await fetch(_SEQUENCE_SQL.format(table=table, column=column), taken.constraint_name)
    if not rows:
        return False
    sequence = rows[0]["sequence"]
    moved = await fetch(
        f"SELECT setval({quote_literal(sequence)}, largest) FROM {sequence},"
        f" (SELECT max({key}) AS largest FROM {quote_table(resource.table)}) AS keys"
        " WHERE last_value < largest OR NOT is_called"  # otherwise another caller has moved it
    )
    if moved:
        _logger.warning(
            "sequence_was_behind",
            table=resource.table,
            column=field.stored_column,
            sequence=sequence,
            now=moved[0]["setval"],
        )
    return True


def _is_about_others(taken: asyncpg.UniqueViolationError, columns: set[str]) -> bool:
    """Whether PostgreSQL reports other columns than these: ``Key (name)=(x) already exists.``, in any language.

    A caller inside a transaction needs a second connection to ask the database, so it must not ask for each violation.
    """
    found = _COLUMNS.search(taken.detail or "")
    return found is not None and {name.strip('"') for name in found[1].split(", ")} != columns


_COLUMNS: Final = re.compile(r"\(([^()]*)\)=\(")
_SEQUENCE_SQL: Final = """
SELECT sequence FROM (SELECT {table}::regclass AS oid, pg_get_serial_sequence({table}, {column}) AS sequence) AS given
WHERE sequence IS NOT NULL AND EXISTS (
    SELECT FROM pg_constraint WHERE conname = $1 AND contype = 'p'
    AND (conrelid = given.oid OR conrelid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = given.oid))
)
"""


def _names(resource: Resource, field: Field) -> tuple[str, str, str]:
    """The table and a column of the key as arguments of ``pg_get_serial_sequence``, and the column in SQL."""
    column = field.stored_column
    return quote_literal(quote_table(resource.table)), quote_literal(column), quote_identifier(column)
