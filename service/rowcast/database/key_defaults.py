"""The values that the database would give to the columns of a new row's key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from rowcast.resources.resource import Resource
from rowcast.resources.sql import quote_table

_DEFAULTS: Final = """
SELECT coalesce(
    pg_get_expr(adbin, adrelid), 'nextval(' || quote_literal(pg_get_serial_sequence($1, attname)) || ')'
) AS expression
FROM unnest($2::text[]) WITH ORDINALITY AS given (name, place)
JOIN pg_attribute ON attrelid = to_regclass($1) AND attname = name AND attidentity <> 'a' AND attgenerated = ''
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
ORDER BY place
"""

Fetch = Callable[[str, Sequence[Any]], Awaitable[list[Any]]]


async def key_defaults(fetch: Fetch, resource: Resource, columns: Sequence[str]) -> dict[str, Any]:
    """A new value for each of these columns of a key, by its default; empty if one has none."""
    if not columns:
        return {}
    stored = [resource.columns[name].stored_column for name in columns]
    rows = await fetch(_DEFAULTS, (quote_table(resource.table), stored))
    expressions = [row["expression"] for row in rows]
    if len(expressions) < len(columns) or None in expressions:
        return {}
    (values,) = await fetch(f"SELECT {', '.join(expressions)}", ())
    return dict(zip(columns, values, strict=True))
