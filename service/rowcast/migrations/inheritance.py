"""Tables that are part of another one: its partitions, and the tables that inherit from it.

A statement that names the other table changes their rows, and PostgreSQL fires the other table's triggers alone
(CREATE TRIGGER, Notes). So changes of such a table could be missed, and no resource may have it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from rowcast.migrations.values import Connection
from rowcast.resources.sql import quote_table

_PARENTS: Final = """
SELECT given.name, parent.relname AS parent, child.relispartition AS partition
FROM unnest($1::text[], $2::text[]) AS given (name, quoted)
JOIN pg_inherits ON inhrelid = to_regclass(quoted)
JOIN pg_class child ON child.oid = inhrelid JOIN pg_class parent ON parent.oid = inhparent
ORDER BY given.name, inhseqno
"""


async def find_parts(connection: Connection, tables: Collection[str]) -> list[str]:
    """A sentence for each of the tables that is part of another one."""
    names = sorted(tables)
    return [
        f"{name} {'is a partition of' if partition else 'inherits from'} {parent}, and a statement on {parent} changes its rows "
        f"without its triggers: serve {parent}, or make a view of {name} and serve that with `view: true`"
        for name, parent, partition in await connection.fetch(_PARENTS, names, list(map(quote_table, names)))
    ]
