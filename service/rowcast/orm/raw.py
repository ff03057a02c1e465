"""``raw``: SQL of one's own with bound values, for what query sets cannot say."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa

from rowcast.orm.awaiting import must_be_awaited
from rowcast.query.store import current_store
from rowcast.resources.sql import DIALECT

CACHED_STATEMENTS: Final = 512
_CHANGES: Final = re.compile(r"\b(insert|update|delete|merge|truncate|copy|call|do|create|alter|drop)\b", re.IGNORECASE)


@must_be_awaited
async def raw(sql: str, /, **values: Any) -> list[dict[str, Any]]:
    """Run one SQL statement, and return its rows as dictionaries by column.

    Inside a handler it is part of the request's transaction, if there is one. No scope and no permission applies. After a
    statement that may change rows this process drops what it keeps of all resources.

    Args:
        sql: The statement, with ``:name`` in place of each value. A value is cast as ``(:name)::type``.
        values: By name, as the driver takes them. PostgreSQL finds their types; where it cannot, cast them.

    Raises:
        TypeError: a value is missing, or there is one too many.
    """
    text, names = _compiled(sql)
    if set(names) != set(values):
        wrong = sorted(set(names) ^ set(values))
        raise TypeError(
            f"raw(): the statement has the values {', '.join(sorted(set(names))) or 'none'}; check {', '.join(wrong)}"
        )
    store = current_store()
    changes = tuple(store.queries.resources) if _CHANGES.search(sql) else ()
    rows = await store.database.fetch_all(text, [values[name] for name in names], changes=changes)
    return [dict(row) for row in rows]


@lru_cache(CACHED_STATEMENTS)
def _compiled(sql: str) -> tuple[str, tuple[str, ...]]:
    """A statement with PostgreSQL's parameters, and the names of their values in order."""
    made = sa.text(sql).compile(dialect=DIALECT)
    return str(made), tuple(made.positiontup or ())
