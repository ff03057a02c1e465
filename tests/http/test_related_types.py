"""Enums, citext and the like as keys, behind relations, in scopes and in Python."""

from __future__ import annotations

from yarl import URL

from ..sse import listen
from .conftest import Run
from .library import OPEN

RELATED = {
    "ratings": {
        "fields": {
            "code": {"type": "string", "primary_key": True, "choices": ["G", "PG"]},
            "name": {"type": "citext", "unique": True},
        },
        "viewset": {"filterset_fields": {"shows__mood": ["exact", "ne", "in"]}, "page_size": 5},
    },
    "shows": {
        "fields": {
            "id": {"type": "smallint", "primary_key": True},
            "rating": {"type": "foreign_key", "to": "ratings"},
            "mood": {"type": "string", "choices": ["happy", "sad"], "order": "choices"},
            "at": {"type": "array", "of": "datetime", "null": True},
            "tags": {"type": "many_to_many", "to": "shows", "related_name": "tagged"},
        },
        "viewset": {
            "class": "views:Shows",
            "scope": {"mood__in": ["happy", "sad"]},
            "filterset_fields": {"rating": ["exact", "in"], "rating__name": ["exact"], "tags__mood": ["exact"]},
            "ordering_fields": ["mood", "rating", "rating__name"],
            "pagination_class": "CursorPagination",
        },
    },
}
RELATED_TABLES = """
CREATE EXTENSION citext;
CREATE TYPE rating AS ENUM ('G', 'PG');
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TABLE ratings (code rating PRIMARY KEY, name citext UNIQUE);
CREATE TABLE shows (id smallserial PRIMARY KEY, rating_id rating NOT NULL REFERENCES ratings, mood mood NOT NULL, at timestamp[]);
CREATE TABLE shows_tags (from_show_id smallint REFERENCES shows ON DELETE CASCADE, to_show_id smallint REFERENCES shows
    ON DELETE CASCADE, PRIMARY KEY (from_show_id, to_show_id));
INSERT INTO ratings VALUES ('PG', 'Parents'), ('G', 'General');
"""
RELATED_VIEWS = """
from rowcast import ModelViewSet, action, model

Show = model("shows")

class Shows(ModelViewSet):
    model = Show

    @action(detail=False, methods=["GET"])
    async def python(self, request):
        rows = await Show.objects.select_related("rating").prefetch_related("tags").filter(rating__name="PARENTS", mood="sad")
        first = await Show.objects.filter(pk__in=[rows[0].pk]).order_by("-mood").first()
        named = await rows[0].rating.shows.filter(mood__in=["sad"]).count()
        return {"name": rows[0].rating.name, "tags": len(rows[0].tags), "first": first.mood, "named": named, "most": (await Show.objects.aggregate(m=("max", "mood")))["m"]}
"""


async def test_keys_and_relations_have_such_types(run: Run) -> None:
    """A key may be an enum, and conditions, orders, scopes and related rows work over it."""
    service = await run(RELATED, OPEN, {"views": RELATED_VIEWS}, prepare=RELATED_TABLES)
    client = service.client
    body = {"rating_id": "PG", "mood": "sad", "at": ["2026-01-01T00:00:00+00:00"], "tags": []}
    async with listen(client, "/shows/stream/?tags__mood=happy") as stream:
        assert (await stream.next()).event == "ready"
        response = await client.post("/shows/", json=body)
        assert (response.status, (await response.json())["at"]) == (201, body["at"])
        response = await client.post("/shows/", json=body | {"rating_id": "G", "mood": "happy", "tags": [1]})
        assert response.status == 201, await response.text()
        response = await client.patch("/shows/1/", json={"tags": [2]})
        assert response.status == 200
        assert (await stream.next()).json()["id"] == 1
    for query, ids in (
        ("rating=PG", [1]), ("rating=none", []), ("rating__in=PG,G", [2, 1]), ("rating__name=parents", [1]),
        ("tags__mood=happy", [1]), ("ordering=mood", [2, 1]), ("ordering=-mood", [1, 2]), ("ordering=rating", [2, 1]),
        ("ordering=-rating__name&expand=rating,tags", [1, 2]),
    ):  # fmt: skip
        if query == "rating=none":
            assert (await client.get(f"/shows/?{query}")).status == 400
            continue
        found = await (await client.get(f"/shows/?{query}&page_size=1")).json()
        rows = found["results"]
        while found["next"]:
            found = await (await client.get(str(URL(found["next"]).relative()))).json()
            rows += found["results"]
        assert sorted(row["id"] for row in rows) == sorted(ids), query
        assert "ordering" not in query or [row["id"] for row in rows] == ids, query
    for query, count in (("shows__mood=sad", 1), ("shows__mood__ne=sad", 1), ("shows__mood__in=sad,happy", 2)):
        assert (await (await client.get(f"/ratings/?{query}")).json())["count"] == count, query
    assert (await client.get("/ratings/none/")).status == 404
    assert (await (await client.get("/ratings/PG/")).json())["name"] == "Parents"
    assert (await client.post("/ratings/", json={"code": "PG", "name": "x"})).status == 409
    response = await client.patch("/ratings/G/", json={"name": "PARENTS"})
    assert (response.status, list((await response.json())["errors"])) == (409, ["name"])
    shown = await (await client.get("/shows/python/")).json()
    assert shown == {"name": "Parents", "tags": 1, "first": "sad", "named": 1, "most": "happy"}
    await service.sql.execute(
        "INSERT INTO shows (rating_id, mood, at) VALUES ('G', 'sad', ARRAY[NULL, '2026-01-01'::timestamp])"
    )
    response = await client.get("/shows/3/")
    assert (await response.json())["at"] == [None, "2026-01-01T00:00:00+00:00"]
