"""Reading many rows in parts, by a cursor of the database, so that memory holds few of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from rowcast.query.conditions import Query
from rowcast.query.projection import Projection
from rowcast.query.store import Store

PART_BYTES: Final = 2 << 20  # about so many are read at once
PART_ROWS: Final = (1000, 300, 100, 30, 10)
_CURSOR: Final = "rowcast_rows"


async def read_in_parts(store: Store, query: Query, projection: Projection) -> AsyncIterator[list[bytes]]:
    """The documents of all rows in the order of the query, in parts, inside a transaction; one reader at a time."""
    database = store.database
    statement = store.queries.export(projection, query.order, query.shape, False)
    arguments = statement.arguments([*query.values, *query.related_values])
    await database.fetch_all(f"DECLARE {_CURSOR} NO SCROLL CURSOR FOR {statement.sql}", arguments)
    size = PART_ROWS[-1]
    while records := await database.fetch_all(f"FETCH {size} FROM {_CURSOR}", ()):
        rows = [record["document"].encode() for record in records]
        width = max(1, sum(map(len, rows)) // len(rows))
        size = next((each for each in PART_ROWS if each * width <= PART_BYTES), PART_ROWS[-1])
        yield rows
    await database.fetch_all(f"CLOSE {_CURSOR}", ())
