"""Statements with their values as literals: COPY, which returns many rows fastest, takes no parameters."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from rowcast.database.connection import Connection
from rowcast.resources.sql import quote_identifier

Sink: TypeAlias = Callable[[bytes], Awaitable[object]]
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


class Copying:
    """A connection on which a statement's rows go to a sink."""

    def __init__(self, connection: Connection, sink: Sink, form: Mapping[str, str]) -> None:
        self._connection = connection
        self._sink = sink
        self._form = form

    async def fetch(self, sql: str, *arguments: Any) -> object:
        """Run a statement; the result has no rows."""
        text = await with_literals(self._connection, sql, arguments)
        return await self._connection.copy_from_query(text, output=self._take, **self._form)

    async def _take(self, data: bytes) -> None:
        try:
            await self._sink(data)
        except BaseException:
            self.terminate()  # the driver would wait for the end of a statement that may have ended already
            raise

    def terminate(self) -> None:
        """Close the connection at once."""
        self._connection.terminate()
