"""What each way to write is told as."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from .watching import Database, told


@pytest.mark.parametrize("wakeup", ["notify", "poll"])
async def test_insert_update_delete_are_told_in_order(database: Database, wakeup: str) -> None:
    """Each committed statement is one event with the row before and after."""
    await database.ticker(wakeup=wakeup)
    watch = await database.watch(wakeup=wakeup)
    connection = await database.connect()
    key = await connection.fetchval("INSERT INTO tasks (title, price) VALUES ('a', 1.5) RETURNING id")
    await connection.execute("UPDATE tasks SET title = 'b'")
    await connection.execute("DELETE FROM tasks")
    events = await watch.fence(connection)
    assert told(events) == [("I", "a"), ("U", "b"), ("D", "b")]
    assert [event.pk for event in events] == [str(key)] * 3
    assert events[1].before == events[0].after
    assert events[0].after["price"] == "1.50"
