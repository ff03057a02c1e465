"""Statements that come once evict none that are in use, neither here nor on the connections."""

from __future__ import annotations

import pytest

from rowcast.database.pool import STATEMENTS_PER_CONNECTION, Database

from ..databases import EMPTY, Databases
from ..waiting import until
from .conftest import Run

_NAMED = "SELECT statement FROM pg_prepared_statements"


async def test_statements_that_come_once_are_not_prepared_by_name(databases: Databases) -> None:
    """A thousand of them leave those that came twice prepared, and the connection has few."""
    async with databases.copy(EMPTY) as url:
        connection = await Database(url, {}).open()
        used = [f"SELECT {number} + $1::int" for number in range(200)]
        for sql in used * 2:
            await connection.fetchval(sql, 1)
        for number in range(1000):
            assert await connection.fetchval(f"SELECT $1::int AS once_{number}", number) == number
        named = {row["statement"] for row in await connection.fetch(_NAMED)}
        assert named == set(used)
        assert await connection.fetchval(used[0], 5) == 5
        for number in range(STATEMENTS_PER_CONNECTION + 50):
            for _ in range(2):
                await connection.fetchval(f"SELECT $1::int AS twice_{number}", 1)
        assert len(await connection.fetch(_NAMED)) <= STATEMENTS_PER_CONNECTION
        await connection.close()


async def test_shapes_of_one_caller_do_not_evict_those_of_others(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for few shapes: more than that, each once, and a list that is in use is not compiled again."""
    monkeypatch.setattr("rowcast.query.shape_cache.KEPT", 20)
    monkeypatch.setattr("rowcast.query.shape_cache.ON_TRIAL", 10)
    fields = {"id": {"type": "integer", "primary_key": True}}
    fields |= {f"n{number}": {"type": "integer", "default": 0} for number in range(10)}
    service = await run({"rows": {"fields": fields, "viewset": {"ordering_fields": [*fields]}}})

    async def is_kept() -> bool:
        before = service.queries.compilations
        for _ in range(3):
            await service.get("/rows/", ordering="-n1,n2")
        return service.queries.compilations == before

    await until(is_kept)  # at first the list is read with the count, and then without, since that is cached
    for first in range(10):
        for second in range(10):
            await service.get("/rows/", ordering=f"n{first},-n{second}")
    compiled = service.queries.compilations
    assert compiled >= 100
    await service.get("/rows/", ordering="-n1,n2")
    assert service.queries.compilations == compiled
