"""Columns of existing tables whose types Rowcast does not make: enums, citext, timestamps without zone, narrower arrays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from yarl import URL

from ..databases import Databases
from ..sse import listen
from .conftest import running
from .library import OPEN, Service

TABLES = """
CREATE EXTENSION citext;
CREATE TYPE rating AS ENUM ('G', 'PG', 'R');
CREATE TYPE "Mood" AS ENUM ('sad', 'happy');
CREATE DOMAIN code AS text CHECK (VALUE ~ '^[A-Z]+$');
CREATE DOMAIN cents AS numeric(6,2) CHECK (VALUE >= 0);
CREATE DOMAIN wish AS rating;
CREATE TABLE films (
    id serial PRIMARY KEY, title text NOT NULL, rating rating DEFAULT 'G', wish wish, email citext UNIQUE,
    made timestamp, at timestamp(0) DEFAULT localtimestamp,
    small smallint, single real, sizes smallint[], tags varchar[], moods "Mood"[], plain_moods "Mood"[], mails citext[], code code, cost cents, codes code[]
);
"""
RATING = {"type": "string", "choices": ["G", "PG", "R"], "null": True}
TEXT = {"type": "text", "null": True, "blank": True}
FILMS = {
    "films": {
        "fields": {
            "id": {"type": "integer", "primary_key": True},
            "title": {"type": "text", "blank": True},
            "rating": RATING | {"default": "G"},
            "wish": {"type": "string", "null": True},
            "email": {"type": "email", "null": True, "unique": True},
            "made": {"type": "datetime", "null": True},
            "at": {"type": "datetime", "auto_now": True, "null": True},
            "small": {"type": "integer", "null": True},
            "single": {"type": "float", "null": True},
            "sizes": {"type": "array", "of": "integer", "null": True},
            "tags": {"type": "array", "of": "string", "null": True},
            "moods": {"type": "array", "of": "string", "null": True, "choices": ["sad", "happy"]},
            "plain_moods": {"type": "array", "of": "string", "null": True},
            "mails": {"type": "array", "of": "string", "null": True},
            "code": TEXT,
            "cost": {"type": "decimal", "null": True},
            "codes": {"type": "array", "of": "text", "null": True},
        },
        "viewset": {
            "class": "views:Films",
            "filterset_fields": {
                "title": ["icontains"],
                "rating": ["exact", "ne", "in", "gt", "range", "isnull", "icontains", "contains", "regex"],
                "wish": ["exact", "ne", "in"],
                "email": ["exact", "ne", "in", "contains", "gt"],
                "made": ["exact", "in", "gt", "lt", "range", "ne"],
                "sizes": ["exact", "contains", "isnull"],
                "tags": ["exact", "contains"],
                "moods": ["exact", "contains"],
                "mails": ["exact", "contains"],
                "code": ["exact"],
                "single": ["exact"],
            },
            "search_fields": ["rating", "title"],
            "ordering_fields": ["rating", "made", "email", "id"],
            "pagination_class": "CursorPagination",
        },
    }
}
VIEWS = """
from rowcast import ModelViewSet, action, model

Film = model("films")

class Films(ModelViewSet):
    model = Film

    @action(detail=False, methods=["POST"])
    async def make(self, request):
        row = await Film.objects.create(**request.data)
        again = await Film.objects.get(id=row.id)
        again.title = again.title + "!"
        await again.save()
        return again

    @action(detail=False, methods=["POST"])
    async def many(self, request):
        rows = await Film.objects.bulk_create([Film(title="bulk"), Film(title="bulk", **request.data)])
        return rows[1]

    @action(detail=False, methods=["POST"])
    async def set(self, request):
        await Film.objects.filter(id=1).update(**request.data)
        return await Film.objects.get(id=1)
"""
FIRST = {
    "title": "one", "rating": "PG", "wish": "R", "email": "Ann@example.org", "made": "2026-01-31T12:00:00+00:00", "small": 1,
    "single": 0.1, "sizes": [1, 2], "tags": ["a", "b"], "moods": ["happy"], "mails": ["A@b.c"], "code": "ABC", "cost": "1.50",
    "codes": ["A"],
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def films(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A table with such columns and two rows; what a test adds has a key above 2 and goes before the next."""
    directory = tmp_path_factory.mktemp("films")
    async with running(databases, directory, FILMS, OPEN, {"views": VIEWS}, prepare=TABLES) as service:
        response = await service.client.post("/films/", json=FIRST)
        assert response.status == 201, await response.text()
        body = await response.json()
        assert {name: body[name] for name in FIRST} == FIRST
        response = await service.client.post("/films/", json={"title": "two", "rating": None})
        assert response.status == 201
        yield service


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def _two_rows(films: Service) -> None:
    await films.sql.execute("DELETE FROM films WHERE id > 2")


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("filters", "keys"),
    [
        ("rating=PG", [1]),
        ("rating__ne=PG", [2]),
        ("rating__ne=G", [1, 2]),
        ("rating__in=PG,R", [1]),
        ("rating__gt=G", [1]),
        ("rating__gt=PG", []),
        ("rating__gt=nothing", []),
        ("rating__range=G,R", [1]),
        ("rating__isnull=true", [2]),
        ("rating__icontains=p", [1]),
        ("rating__contains=p", []),
        ("rating__regex=^P", [1]),
        ("wish=R", [1]),
        ("wish=nothing", []),
        ("wish__ne=nothing", [1, 2]),
        ("wish__in=R,nothing", [1]),
        ("search=pg", [1]),
        ("email=ann@EXAMPLE.org", [1]),
        ("email__ne=ann@example.org", [2]),
        ("email__in=b,ANN@example.org", [1]),
        ("made=2026-01-31T13:00:00%2B01:00", [1]),
        ("made__in=2026-01-31T12:00:00Z,2026-01-01", [1]),
        ("made__gt=2026-01-31T11:59:59Z", [1]),
        ("made__lt=2026-01-31T11:59:59Z", []),
        ("made__range=2026-01-31,2026-02-01", [1]),
        ("made__ne=2026-01-31T12:00:00Z", [2]),
        ("sizes=1,2", [1]),
        ("sizes__contains=2", [1]),
        ("tags=a,b", [1]),
        ("tags__contains=b", [1]),
        ("moods=happy", [1]),
        ("moods__contains=sad", []),
        ("mails=a@B.c", [1]),
        ("mails__contains=a@B.C", [1]),
        ("code=ABC", [1]),
        ("single=0.1", [1]),
    ],
)
async def test_filters_compare_as_the_column_does(films: Service, filters: str, keys: list[int]) -> None:
    """Enums by their values, citext in any case, timestamps in UTC, arrays whatever their items are."""
    response = await films.client.get(f"/films/?{filters}&ordering=id")
    assert response.status == 200, await response.text()
    assert [row["id"] for row in (await response.json())["results"]] == keys


@pytest.mark.parametrize("order", ["rating", "-rating", "made", "-made", "email"])
async def test_pages_follow_the_order_of_the_column(films: Service, order: str) -> None:
    """That of an enum is the order of its values."""
    await films.sql.execute(
        "INSERT INTO films (title, rating, made, email) VALUES ('a', 'R', '2026-02-01', 'b@x.y'), ('b', 'G', '2025-01-01', 'C@x.y'),"
        " ('c', 'G', '2025-01-01', NULL)"
    )
    column, way = order.removeprefix("-"), "DESC" if order.startswith("-") else "ASC"
    expected = [row[0] for row in await films.sql.fetch(f"SELECT id FROM films ORDER BY {column} {way}, id")]
    found: list[int] = []
    following: str | None = f"/films/?ordering={order}&page_size=2"
    while following is not None and len(found) < 9:
        page = await (await films.client.get(following)).json()
        found += [row["id"] for row in page["results"]]
        following = page["next"] and str(URL(page["next"]).relative())
    assert found == expected


@pytest.mark.parametrize("way", ["post", "patch", "make", "many", "set"])
async def test_every_way_writes_and_reads_back(films: Service, way: str) -> None:
    """Requests, models and bulk statements."""
    body = {key: value for key, value in FIRST.items() if key not in ("email", "title")} | {"rating": "R", "sizes": [7]}
    method, path = (
        ("patch", "/films/2/") if way == "patch" else ("post", "/films/" if way == "post" else f"/films/{way}/")
    )
    title = {"title": "x"} if way in ("post", "make") else {}
    before = await films.sql.fetch("SELECT * FROM films ORDER BY id")
    response = await getattr(films.client, method)(path, json=body | title)
    assert response.status in (200, 201), await response.text()
    shown = await response.json()
    for row in before:
        await films.sql.execute(
            "UPDATE films SET (title, rating, wish, made, sizes) = ($2, $3, $4, $5, $6) WHERE id = $1",
            *(row[name] for name in ("id", "title", "rating", "wish", "made", "sizes")),
        )
    assert {name: shown[name] for name in body} == body


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"rating": "X"}, "Must be one of: G, PG, R."),
        ({"wish": "X"}, "Must be one of: G, PG, R."),
        ({"sizes": [1, 40000]}, "Item 1: Must be between -32768 and 32767."),
        ({"moods": ["glad"]}, "Must be one of: sad, happy."),
        ({"plain_moods": ["sad", "glad"]}, "Item 1: Must be one of: sad, happy."),
        ({"code": "abc"}, "Not a valid value."),
        ({"codes": ["A", "abc"]}, "Not a valid value."),
        ({"cost": "-1"}, "Not a valid value."),
        ({"cost": "10000"}, "Must have at most 4 digits before the decimal point."),
        ({"small": 40000}, "Must be between -32768 and 32767."),
    ],
)
@pytest.mark.parametrize("path", ["/films/", "/films/make/", "/films/set/", "/films/many/"])
async def test_what_the_column_does_not_take_is_an_error_of_the_field(
    films: Service, path: str, body: dict[str, Any], message: str
) -> None:
    """From requests and from handlers."""
    response = await films.client.post(path, json=body if "many" in path or "set" in path else {"title": "x", **body})
    (found,) = (await response.json())["errors"].items()
    name = next(iter(body))
    assert (response.status, found[0], found[1][0].removeprefix("Item 0: ")) == (400, name, message)


@pytest.mark.parametrize(
    ("filters", "inside"),
    [
        ("rating=R", {"rating": "R"}),
        ("rating__gt=PG", {"rating": "R"}),
        ("rating=R&title__icontains=X", {"rating": "R", "made": "2026-05-01T00:00:00Z"}),
        ("email=NEW@example.org", {"email": "new@Example.org"}),
        ("made__gt=2026-04-30", {"made": "2026-05-01T00:00:00Z"}),
        ("made=2026-05-01&title__icontains=X", {"made": "2026-05-01T00:00:00Z"}),
        ("sizes=5&title__icontains=x", {"sizes": [5]}),
        ("moods__contains=sad", {"moods": ["sad"]}),
    ],
)
async def test_streams_send_what_the_list_shows(films: Service, filters: str, inside: dict[str, Any]) -> None:
    """In the form that the list has, for filters in memory and in the database."""
    async with listen(films.client, f"/films/stream/?{filters}") as stream:
        assert (await stream.next()).event == "ready"
        await films.client.post("/films/", json={"title": "outside"})
        made = await (await films.client.post("/films/", json={"title": "x", **inside})).json()
        event = (await stream.next()).json()
        assert (event["action"], event["data"]) == ("INSERT", made)
        listed = await (await films.client.get(f"/films/?{filters}")).json()
        assert listed["results"] == [made]


async def test_an_enum_that_has_grown_is_readable(films: Service) -> None:
    """Its new value is shown, in lists and streams, and may be sent once the config names it."""
    await films.sql.execute("ALTER TYPE \"Mood\" ADD VALUE IF NOT EXISTS 'calm'")
    async with listen(films.client, "/films/stream/") as stream:
        assert (await stream.next()).event == "ready"
        await films.sql.execute("INSERT INTO films (title, moods) VALUES ('grown', ARRAY['calm'::\"Mood\"])")
        assert (await stream.next()).json()["data"]["moods"] == ["calm"]
    (row,) = (await (await films.client.get("/films/?title__icontains=grown")).json())["results"]
    assert row["moods"] == ["calm"]
    response = await films.client.patch(f"/films/{row['id']}/", json={"moods": ["calm"]})
    assert response.status == 400
