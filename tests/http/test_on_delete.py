"""Foreign keys of an existing table without ``on_delete``: what the database does with the rows is seen everywhere."""

from __future__ import annotations

from ..sse import listen
from .conftest import Run
from .library import OPEN

TABLES = """
CREATE TABLE parents (id serial PRIMARY KEY);
CREATE TABLE kids (id serial PRIMARY KEY, mother_id integer REFERENCES parents ON DELETE SET NULL,
    father_id integer REFERENCES parents ON DELETE SET NULL);
CREATE TABLE toys (id serial PRIMARY KEY, kid_id integer NOT NULL REFERENCES kids ON DELETE CASCADE);
INSERT INTO parents VALUES (1), (2);
INSERT INTO kids VALUES (1, 1, 2);
INSERT INTO toys VALUES (1, 1);
"""
KEY = {"type": "integer", "primary_key": True}


async def test_rows_are_set_null_and_deleted_with_their_targets(run: Run) -> None:
    """Streams have the rows as they are afterwards, and cached counts are right."""
    parent = {"type": "foreign_key", "to": "parents", "null": True}
    service = await run(
        {
            "parents": {"fields": {"id": KEY}},
            "kids": {
                "fields": {
                    "id": KEY,
                    "mother": parent | {"related_name": "a"},
                    "father": parent | {"related_name": "b"},
                }
            },
            "toys": {
                "fields": {"id": KEY, "kid": {"type": "foreign_key", "to": "kids"}},
                "viewset": {"cache": "responses"},
            },
        },
        OPEN,
        prepare=TABLES,
    )
    async with listen(service.client, "/kids/stream/") as stream:
        assert (await stream.next()).event == "ready"
        await service.sql.execute("DELETE FROM parents")
        found = [(await stream.next()).json()["data"]]
        while found[-1] != {"id": 1, "mother_id": None, "father_id": None}:
            found.append((await stream.next()).json()["data"])
    for count in (1, 0):
        assert (await (await service.client.get("/toys/")).json())["count"] == count
        if count:
            assert (await service.client.delete("/kids/1/")).status == 204
