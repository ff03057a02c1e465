"""Values that Python cannot represent: sent as the row shows them, and matched as in the list."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from tests.conftest import Client, Serve
from tests.sse import listen
from tests.stream.test_events import RESOURCES, next_change, ready

VALUES = """
fields:
  id: {type: integer, primary_key: true}
  number: {type: float, null: true}
  amount: {type: decimal, null: true}
  day: {type: date, null: true}
  moment: {type: datetime, null: true}
  hour: {type: time, null: true}
  span: {type: duration, null: true}
  document: {type: json, null: true}
  numbers: {type: array, of: float, null: true}
  word: {type: string, null: true}
viewset:
  permission_classes: [AllowAny]
  filterset_fields:
    number: [gt, lt, exact, ne]
    amount: [gt, lt]
    day: [gt, lt, isnull]
    moment: [gt, lt]
    hour: [gt]
    span: [gt]
    numbers: [exact]
    document: [isnull]
    word: [exact]
"""

ODD = [
    ("number", "'NaN'::float8"), ("number", "'Infinity'::float8"), ("number", "'-Infinity'::float8"),
    ("number", "1e23"), ("number", "1.7976931348623157e308"), ("number", "5e-324"), ("number", "0.1::float8 + 0.2"),
    ("amount", "'NaN'"), ("amount", "'Infinity'"), ("amount", "1e50"), ("amount", "0.12345678901234567890123"),
    ("day", "'infinity'"), ("day", "'-infinity'"), ("day", "'0044-03-15 BC'"), ("day", "'20000-01-01'"),
    ("moment", "'infinity'"), ("moment", "'0044-03-15 12:00 BC'"), ("moment", "'20000-01-01'"),
    ("hour", "'24:00'"), ("span", "'1 year 2 months'"), ("span", "'-3 days 4 hours'"), ("span", "'100000000 years'"),
    ("document", "'{\"a\": 1e400}'"), ("document", "'12345678901234567890123'"), ("document", "'[0.1000000000000000055]'"),
    ("document", "(repeat('[', 600) || repeat(']', 600))::jsonb"), ("document", "'{\"a,b\": {\"c\": \"}\\\\\\\"{\"}}'"),
    ("numbers", "'{NaN,Infinity,1e23,0.5}'"),
]  # fmt: skip


pytestmark = pytest.mark.tables({"values": VALUES})


def exactly(text: str) -> dict[str, Any]:
    """A row with every number as it is written, and those of float columns as floats."""
    row: dict[str, Any] = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    row = row.get("data", row)
    floats = row["number"], *(row["numbers"] or ())
    return {**row, "number": None, "numbers": [x if isinstance(x, str | None) else float(x) for x in floats]}


async def test_odd_values_are_sent_as_the_row_shows_them(serve: Serve, sql: asyncpg.Connection) -> None:
    """NaN, infinities, numbers without bounds, years BC, deep JSON: ``data`` equals the response of retrieve."""
    client = await serve({"values": VALUES})
    async with listen(client, "/values/stream/") as every, listen(client, "/values/stream/?day__isnull=true") as some:
        await ready(every)
        await ready(some)
        for n, (column, value) in enumerate(ODD):
            await sql.execute(f"INSERT INTO \"values\" (id, word, {column}) VALUES ({n}, 'w', {value})")
            shown = await (await client.get(f"/values/{n}/")).text()
            event = await every.next()
            assert exactly(event.data) == exactly(shown), (column, value)
            if column != "day":
                assert (await some.next()).data == event.data
            await sql.execute(f"UPDATE \"values\" SET word = 'x' WHERE id = {n}")
            assert (await every.next()).json()["changed"] == ["word"], (column, value)
            if column != "day":
                assert (await some.next()).json()["changed"] == ["word"]


@pytest.mark.parametrize(
    "query",
    ["number__gt=5", "number__lt=5", "number=5", "number__ne=5", "amount__gt=5", "amount__lt=5", "day__gt=2026-01-01",
     "day__lt=2026-01-01", "moment__gt=2026-01-01", "moment__lt=2026-01-01", "hour__gt=23:00", "span__gt=P1D",
     "numbers=1,2", "document__isnull=false"],
)  # fmt: skip
async def test_odd_values_match_as_in_the_list(serve: Serve, sql: asyncpg.Connection, query: str) -> None:
    """A filter on a value that memory cannot compare gives the result of the list."""
    client = await serve({"values": VALUES})
    async with listen(client, f"/values/stream/?{query}") as source:
        await ready(source)
        await sql.execute(
            "; ".join(
                f"INSERT INTO \"values\" (id, word, {column}) VALUES ({n}, 'w', {value})"
                for n, (column, value) in enumerate(ODD)
            )
        )
        expected = await listed(client, query)
        assert [(await next_change(source))["id"] for _ in expected] == expected
        await sql.execute("UPDATE \"values\" SET word = 'x'")
        assert sorted([(await next_change(source))["id"] for _ in expected]) == expected
        await sql.execute('DELETE FROM "values"')
        assert sorted([(await next_change(source))["id"] for _ in expected]) == expected


async def listed(client: Client, query: str) -> list[int]:
    """The keys of a list, in order."""
    found = json.loads(await (await client.get(f"/values/?{query}&page_size=100")).text())
    return sorted(row["id"] for row in found["results"])


async def test_patterns_are_checked_when_a_stream_opens(serve: Serve) -> None:
    """A regular expression that PostgreSQL cannot read is a 400 that names the parameter, as in a list."""
    notes = (
        RESOURCES["notes"]
        .replace("text: [exact, icontains]", "text: [exact, regex]")
        .replace("search_fields: [text]", "search_fields: [$text]")
    )
    client = await serve({**RESOURCES, "notes": notes})
    for query in ("text__regex=(", "search=(", "text__regex=a{2,1}"):
        for path in (f"/notes/stream/?{query}", f"/notes/?{query}"):
            response = await client.get(path)
            assert response.status == 400, path
            problem = await response.json()
            assert query.partition("=")[0] in problem["detail"]
            assert problem["code"] == "invalid_parameter"
    async with listen(client, "/notes/stream/?text__regex=^a.c$") as source:
        await ready(source)
        await client.post("/notes/", json={"text": "abx"})
        await client.post("/notes/", json={"text": "abc"})
        assert (await next_change(source))["data"]["text"] == "abc"
