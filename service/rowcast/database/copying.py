"""Statements with their values as literals: COPY, which returns many rows fastest, takes no parameters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from rowcast.database.connection import Connection
from rowcast.resources.sql import quote_identifier

_TOKEN: Final = re.compile(r"""[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|\$([0-9]+)""", re.DOTALL)


async def with_literals(connection: Connection, sql: str, arguments: Sequence[Any]) -> str:
    """The statement with literals in place of ``$1, $2, …``. PostgreSQL itself makes and quotes them.

    What looks like a parameter inside a string or a quoted name is left alone.
    """
    prepared = await connection.prepare(sql)
    types = [_type_name(each.schema, each.name) for each in prepared.get_parameters()]
    if not types:
        return sql
    made = ", ".join(f"quote_nullable(${number}::{name}::text)" for number, name in enumerate(types, 1))
    literals = await connection.fetchrow(f"SELECT {made}", *arguments)
    return _TOKEN.sub(lambda found: literals[int(found[1]) - 1] if found[1] else found[0], sql)


def _type_name(schema: str, name: str) -> str:
    """A type as it is written in SQL; the driver calls an array of a type ``type[]``."""
    item = name.removesuffix("[]")
    return f"{quote_identifier(schema)}.{quote_identifier(item if item == name else f'_{item}')}"
