"""The field types with PostgreSQL's own names: smallint, real, citext, bytea, and native."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from yarl import URL

from ..databases import Databases
from ..sse import listen
from .conftest import running
from .library import OPEN, Service


def native(type_: str, **options: Any) -> dict[str, Any]:
    return {"type": "native", "as": type_, "null": True, **options}


FIELDS: dict[str, dict[str, Any]] = {
    "id": {"type": "smallint", "primary_key": True},
    "title": {"type": "text", "blank": True, "default": ""},
    "small": {"type": "smallint", "null": True, "max": 9000},
    "single": {"type": "real", "null": True, "default": 0.1},
    "singles": {"type": "array", "of": "real", "null": True},
    "mail": {"type": "citext", "null": True, "unique": True},
    "data": {"type": "bytea", "null": True, "default": "AP8="},
    "ip": native("inet", index=True, default="10.0.0.1"),
    "span": native("int4range"),
    "place": native("point"),
    "doc": native("json"),
    "code": native("varchar(3)"),
    "bits": native("bit(3)"),
    "nets": native("cidr[]"),
    "period": native("tstzrange"),
    "ref": native("regclass"),
    "mood": native('"Mood"'),
}
EXACT = ["exact", "ne", "in", "isnull"]
SPOTS = {
    "spots": {
        "fields": FIELDS,
        "viewset": {
            "class": "views:Spots",
            "filterset_fields": {
                **{name: EXACT for name, field in FIELDS.items() if field["type"] in ("native", "bytea")},
                "title": ["icontains"],
                "mail": ["exact", "in", "ne"],
                "single": ["exact", "gt"],
                "singles": ["exact", "contains"],
            },
            "ordering_fields": ["ip", "place", "span", "small", "single"],
            "pagination_class": "CursorPagination",
        },
    }
}
VIEWS = """
from rowcast import ModelViewSet, action, model

Spot = model("spots")

class Spots(ModelViewSet):
    model = Spot

    @action(detail=False, methods=["POST"])
    async def make(self, request):
        row = await Spot.objects.create(**request.data)
        again = await Spot.objects.get(id=row.id)
        again.title = "again"
        await again.save()
        return again

    @action(detail=False, methods=["POST"])
    async def many(self, request):
        (row,) = await Spot.objects.bulk_create([Spot(**request.data)])
        return row

    @action(detail=False, methods=["POST"])
    async def set(self, request):
        (row,) = await Spot.objects.bulk_create([Spot(title="x")])
        await Spot.objects.filter(id=row.id).update(**request.data)
        return await Spot.objects.get(id=row.id)
"""
LONG = base64.b64encode(bytes(range(256)) * 2).decode()
ROW = {
    "small": -5, "single": 0.3, "singles": [0.1, 1e10], "mail": "Ann@x.org", "data": LONG, "ip": "192.168.0.1",
    "span": "[1,5)", "place": "(1,2)", 'doc': '{"a": 1}', "code": "abc", "bits": "101", "nets": "{10.0.0.0/8,::/0}",
    "period": '["2026-01-01 00:00:00+00",)', "ref": "pg_class", "mood": "so, so",
}  # fmt: skip

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def spots(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A table that Rowcast has made."""
    prepare = "CREATE EXTENSION citext; CREATE TYPE \"Mood\" AS ENUM ('sad', 'so, so')"
    async with running(
        databases, tmp_path_factory.mktemp("spots"), SPOTS, OPEN, {"views": VIEWS}, prepare=prepare
    ) as service:
        yield service


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def _no_rows(spots: Service) -> None:
    await spots.sql.execute("TRUNCATE spots RESTART IDENTITY")


@pytest.mark.parametrize("path", ["/spots/", "/spots/make/", "/spots/many/", "/spots/set/"])
async def test_values_are_written_and_read_back(spots: Service, path: str) -> None:
    """In the form that PostgreSQL has, from every way in."""
    response = await spots.client.post(path, json=ROW)
    assert response.status in (200, 201), await response.text()
    shown = await response.json()
    assert {name: shown[name] for name in ROW} == ROW
    again = await (await spots.client.get(f"/spots/{shown['id']}/")).json()
    assert again == shown
    response = await spots.client.put(f"/spots/{shown['id']}/", json=again)
    assert (response.status, await response.json()) == (200, again)
    assert await spots.sql.fetchval("SELECT data FROM spots") == bytes(range(256)) * 2


async def test_defaults_are_in_the_database_too(spots: Service) -> None:
    """As for all types."""
    await spots.sql.execute("INSERT INTO spots DEFAULT VALUES")
    row = await (await spots.client.get("/spots/1/")).json()
    assert (row["single"], row["data"], row["ip"]) == (0.1, "AP8=", "10.0.0.1")
    assert await spots.sql.fetchval("SELECT data FROM spots") == b"\x00\xff"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("small", 40000, "Must be between -32768 and 32767."),
        ("single", 1e300, "Does not fit a number of single precision."),
        ("data", "no base64!", "Not valid base64."),
        ("data", 5, "Not valid base64."),
        ("ip", "10.0.0.256", "Not a valid inet."),
        ("ip", 5, "Not a valid string."),
        ("span", "[5,1)", "Not a valid int4range."),
        ("doc", "{", "Not a valid json."),
        ("bits", "1010", "Not a valid bit(3)."),
        ("nets", "{1}}", "Not a valid cidr[]."),
        ("ref", "nothing", "Not a valid regclass."),
        ("mood", "glad", "Must be one of: sad, so, so."),
    ],
)
async def test_what_postgresql_does_not_take_is_an_error_of_the_field(
    spots: Service, name: str, value: object, message: str
) -> None:
    """Also from handlers, in which a transaction has failed."""
    for path in ("/spots/", "/spots/make/", "/spots/set/", "/spots/many/"):
        response = await spots.client.post(path, json={"place": "(1,2)", name: value})
        assert (response.status, (await response.json()).get("errors")) == (400, {name: [message]}), path
    assert (await spots.client.post("/spots/", json={"ip": "x", "span": "y"})).status == 400
    response = await spots.client.post("/spots/", json={"code": "abcd"})
    assert response.status == 400


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ("ip=192.168.0.1/32", True),
        ("ip=192.168.0.2", False),
        ("ip__ne=192.168.0.1", False),
        ("ip__in=10.0.0.1,192.168.0.1", True),
        ("ip__isnull=false", True),
        ("span=[1,4]", False),
        ("span__in=%22[1,4]%22,empty", True),
        ("place=(1.0,2)", True),
        ("place__ne=(1,3)", True),
        ("place__in=%22(1,2)%22", True),
        ('doc={"a": 1}', True),
        ("nets={10.0.0.0/8,::/0}", True),
        ("nets__in=%22{10.0.0.0/8,::/0}%22", True),
        ("mood=so, so", True),
        ("mood__in=sad", False),
        ("code=abc", True),
        ("ref=pg_class", True),
        ("mail=ANN@x.org", True),
        ("mail__in=ann@X.ORG", True),
        ("mail__ne=ann@X.ORG", False),
        ("single=0.3", True),
        ("single__gt=0.3", False),
        ("singles__contains=0.1", True),
        (f"data={LONG.replace('+', '%2B')}", True),
        (f"data={LONG}", True),
        ("data__ne=AA==", True),
        ("data__in=AA==", False),
        (f"data={LONG}&title__icontains=T", True),
    ],
)
async def test_filters_and_streams_compare_as_the_type_does(spots: Service, filters: str, found: bool) -> None:
    """In the list, and in the stream of it; a type without an order is compared as text."""
    if filters == "span=[1,4]":
        found = True
    async with listen(spots.client, f"/spots/stream/?{filters}") as stream:
        assert (await stream.next()).event == "ready"
        row = await (await spots.client.post("/spots/", json=ROW | {"title": "the title"})).json()
        response = await spots.client.get(f"/spots/?{filters}")
        assert response.status == 200, await response.text()
        assert (await response.json())["results"] == ([row] if found else [])
        if found:
            assert (await stream.next()).json()["data"] == row


@pytest.mark.parametrize(
    ("filters", "detail"),
    [
        ("ip=x", "ip: not a valid inet."),
        ("ip__in=10.0.0.1,x", "ip__in: not a valid inet."),
        ("span__ne=5", "span__ne: not a valid int4range."),
        ("mood=glad", 'mood: not a valid "Mood".'),
        ('filter={"or":[{"ip":"10.0.0.1"},{"not":{"ip__in":["x"]}}]}', "filter.or[1].not.ip__in: not a valid inet."),
        ("data=x", "data: Not valid base64."),
    ],
)
async def test_a_wrong_filter_is_a_400(spots: Service, filters: str, detail: str) -> None:
    """Of lists and of streams."""
    for path in ("/spots/", "/spots/stream/"):
        response = await spots.client.get(f"{path}?{filters}")
        problem = await response.json()
        assert (response.status, problem["code"], problem["detail"]) == (400, "invalid_parameter", detail)


@pytest.mark.parametrize(
    ("order", "sorted_by"),
    [("ip", "ip"), ("-ip", "ip DESC"), ("place", "place::text"), ("-span", "span DESC"), ("single", "single")],
)
async def test_pages_follow_the_order_of_the_type(spots: Service, order: str, sorted_by: str) -> None:
    """Of its text, if it has none."""
    await spots.sql.execute(
        "INSERT INTO spots (ip, place, span, single) SELECT ('10.0.0.' || 9 - n)::inet, point(n % 2, n),"
        " int4range(n % 3, 9), n % 2 + 0.1 FROM generate_series(1, 7) n"
    )
    expected = [row[0] for row in await spots.sql.fetch(f"SELECT id FROM spots ORDER BY {sorted_by}, id")]
    found: list[int] = []
    following: str | None = f"/spots/?ordering={order}&page_size=2"
    while following is not None and len(found) < 20:
        response = await spots.client.get(following)
        page = await response.json()
        assert response.status == 200, page
        found += [row["id"] for row in page["results"]]
        following = page["next"] and str(URL(page["next"]).relative())
    assert found == expected


async def test_documents_describe_the_types(spots: Service) -> None:
    """OPTIONS names the type of the column, OpenAPI has what JSON Schema can express."""
    described = (await (await spots.client.options("/spots/")).json())["actions"]["POST"]
    assert (described["ip"]["type"], described["ip"]["as"], described["data"]["type"]) == ("native", "inet", "bytea")
    schema = (await (await spots.client.get("/openapi.json")).json())["components"]["schemas"]["SpotPart"]["properties"]
    assert schema["small"] == {"type": ["integer", "null"], "format": "int16", "minimum": -32768, "maximum": 9000}
    assert schema["data"]["contentEncoding"] == "base64"
    assert schema["ip"]["type"] == ["string", "null"]
