"""Parts of times, members of JSON, lengths of arrays, and sets: in SQL and in memory as Python has them."""

from __future__ import annotations

import datetime as dt
import json
import operator
import random
import uuid
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import pytest_asyncio
import sqlalchemy as sa

from rowcast.errors import ConfigurationError
from rowcast.query.compilation import Binds, compiled
from rowcast.query.condition_sql import Source
from rowcast.query.conditions import Query
from rowcast.query.matching import matcher
from rowcast.rest.zones import zone_names

from ..sse import listen
from .conftest import Run, running
from .library import Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

NUMBERS = ["exact", "ne", "gt", "gte", "lt", "lte", "range", "in", "not_in", "isnull"]
SETS = ["exact", "ne", "in", "not_in", "isnull"]
PATHS = {
    "size": "integer", "a__b": "big_integer", "price": "decimal", "weight": "float", "open": "boolean", "title": "string",
    "on": "date", "ref": "uuid",
}  # fmt: skip
PARTS = ["year", "quarter", "month", "week", "day", "weekday"]
FILTERS: dict[str, list[str]] = {
    **{f"at__{part}": NUMBERS for part in (*PARTS, "hour", "date")},
    **{f"day__{part}": NUMBERS for part in PARTS},
    **{f"local__{part}": ["exact", "gte"] for part in ("year", "hour", "date")},
    "clock__hour": NUMBERS,
    "tags__len": NUMBERS, "numbers__len": NUMBERS,
    "tags": ["overlap"], "numbers": ["overlap"],
    **{f"meta__{path}": SETS if type_ in ("boolean", "string", "uuid") else NUMBERS for path, type_ in PATHS.items()},
    "name": ["exact", "in", "not_in"], "kind": ["not_in"], "parent": ["not_in"], "blob": ["not_in"],
}  # fmt: skip
EVENTS: dict[str, Any] = {
    "fields": {
        "id": {"type": "integer", "primary_key": True},
        "at": {"type": "datetime", "null": True},
        "day": {"type": "date", "null": True},
        "clock": {"type": "time", "null": True},
        "local": {"type": "datetime", "null": True, "zone": "Europe/Berlin"},
        "tags": {"type": "array", "of": "string", "null": True},
        "numbers": {"type": "array", "of": "integer", "null": True},
        "meta": {"type": "json", "null": True, "paths": PATHS},
        "name": {"type": "string", "null": True, "max_length": 20},
        "kind": {"type": "string", "null": True, "choices": ["small", "large"]},
        "blob": {"type": "bytea", "null": True},
        "parent": {"type": "foreign_key", "to": "events", "null": True, "related_name": "children"},
    },
    "viewset": {
        "filterset_fields": {**FILTERS, "parent__at__year": ["exact", "gte"], "children__name": ["in", "not_in"]},
        "search_fields": ["meta__title"],
        "ordering_fields": ["id", "tags__len", *(f"meta__{path}" for path in PATHS)],
        "aggregates": {"group_by": ["kind"]},
        "bulk": ["destroy"],
        "max_page_size": 1000,
    },
}  # fmt: skip
ZONES = ["UTC", "Europe/Berlin", "America/Havana", "Asia/Kathmandu", "Pacific/Apia", "America/Sao_Paulo"]
MOMENTS = [
    "2024-02-29T23:30:00Z", "2024-12-31T23:59:59.999999Z", "2025-01-01T00:00:00Z", "2023-12-31T23:00:00Z",
    "2024-03-31T00:59:59Z", "2024-03-31T01:00:00Z", "2024-10-27T00:30:00Z", "2024-10-27T01:30:00Z", "1970-01-01T00:00:00Z",
    "2011-12-30T09:59:00Z", "2011-12-30T10:01:00Z", "2018-02-18T01:30:00Z", "2018-02-18T02:30:00Z", "2024-11-03T04:30:00Z",
    "2024-11-03T05:30:00Z", "1871-06-01T12:00:00Z", "0001-01-01T12:00:00Z", "9999-12-30T12:00:00Z", "2021-01-03T22:00:00Z",
]  # fmt: skip
DAYS = ["2024-02-29", "2024-12-30", "2021-01-03", "2021-01-04", "0001-01-01", "9999-12-31", "2020-12-31", "1871-12-01"]
UUIDS = ["00000000-0000-4000-8000-00000000000A", "ffffffff-ffff-ffff-ffff-ffffffffffff"]
MEMBERS: list[Any] = [
    None, True, False, 0, 1, -1, 5, 5.0, 5.5, 2**31, 2**31 - 1, -(2**31), 2**53, 2**63 - 1, 1e20, 0.1, -0.25, "5", "", "abc",
    "true", [], [5], {}, {"b": 1}, "2024-02-29", "2023-02-29", "2024-13-01", "0000-01-01", "2024-04-31", "2024-01-01 ",
    *UUIDS, UUIDS[0].lower(), UUIDS[0] + "0",
]  # fmt: skip
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "exact": operator.eq, "ne": operator.ne, "gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le,
    "in": lambda value, given: value in given, "not_in": lambda value, given: value not in given,
    "range": lambda value, given: given[0] <= value <= given[1],
    "overlap": lambda value, given: bool(set(value) & set(given)),
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def events(databases: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """Rows with every moment, day and member, and a row of nulls."""
    async with running(databases, tmp_path_factory.mktemp("lookups"), {"events": EVENTS}) as service:
        choose = random.Random(5)
        rows: list[dict[str, Any]] = [
            {"at": at, "local": at if at.startswith(("2024-02", "2024-12", "2025")) else None} for at in MOMENTS
        ]
        rows += [{"day": day} for day in DAYS]
        rows += [{"clock": clock, "kind": kind} for clock, kind in (("00:00", "small"), ("23:59:59", "large"))]
        rows += [{"tags": tags} for tags in ([], ["a"], ["a", "b", "b"], ["c,d", "e"])]
        rows += [{"numbers": numbers} for numbers in ([], [1], [1, 2, 3])]
        rows += [{"meta": member} for member in MEMBERS]
        for _ in range(60):
            rows.append({"meta": {path.partition("__")[0]: choose.choice(MEMBERS) for path in PATHS}})
            rows.append({"meta": {"a": {"b": choose.choice(MEMBERS)}, "size": choose.choice(MEMBERS)}})
        rows += [{"name": name, "blob": "AAEC", "parent_id": 1} for name in ("ann", "bob")]
        for start in range(0, len(rows), 100):
            await service.post("/events/", rows[start : start + 100])
        await service.post("/events/", {})
        yield service


def moment(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


def part_of(value: dt.date | dt.time, part: str) -> Any:
    """A part of a local time."""
    match part:
        case "quarter":
            return (value.month - 1) // 3 + 1  # type: ignore[union-attr]
        case "week":
            return value.isocalendar()[1]  # type: ignore[union-attr]
        case "weekday":
            return value.isocalendar()[2]  # type: ignore[union-attr]
        case "date":
            return value.date()  # type: ignore[union-attr]
    return getattr(value, part)


def member_of(document: Any, path: str) -> Any:
    """The member of a document as a value of its declared type, or ``None``."""
    for name in path.split("__"):
        document = document.get(name) if isinstance(document, dict) else None
    type_, number = PATHS[path], isinstance(document, int | float) and not isinstance(document, bool)
    bits = {"integer": 31, "big_integer": 63}.get(type_)
    if bits:
        fits = number and document == int(document) and -(2**bits) <= document < 2**bits
        return int(document) if fits else None
    match type_:
        case "decimal":
            return Decimal(str(document)) if number else None
        case "float":
            return float(document) if number else None
        case "boolean" | "string":
            return document if isinstance(document, bool if type_ == "boolean" else str) else None
        case "uuid":
            right = isinstance(document, str) and len(document) == 36 and document.lower() in {u.lower() for u in UUIDS}
            return uuid.UUID(document) if right else None
    try:
        return dt.date.fromisoformat(document) if isinstance(document, str) else None
    except ValueError:
        return None


def value_of(row: dict[str, Any], path: str, zone: str) -> Any:
    """The value at a path of a row, as Python has it."""
    name, _, rest = path.partition("__")
    stored = row["parent_id" if name == "parent" else name]
    if name == "meta":
        return member_of(stored, rest)
    if stored is None or not rest:
        return stored
    match name:
        case "tags" | "numbers":
            return len(stored)
        case "day":
            return part_of(dt.date.fromisoformat(stored), rest)
        case "clock":
            return part_of(dt.time.fromisoformat(stored), rest)
    return part_of(local(stored, zone), rest)


def local(stored: str, zone: str) -> dt.datetime:
    """A moment as the clocks of a zone had it."""
    return moment(stored).astimezone(ZoneInfo(zone))


def as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_json(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def argument(choose: random.Random, path: str, lookup: str, values: list[Any]) -> Any:
    """An argument of a lookup, made of values that rows have or nearly have."""
    if lookup == "isnull":
        return choose.random() < 0.5
    if path in ("tags", "numbers"):
        return choose.sample(["a", "b", "x"] if path == "tags" else [1, 2, 9], choose.randint(1, 2))
    if lookup in ("in", "not_in"):
        return choose.sample(values, min(len(values), choose.randint(0, 3)))
    if lookup == "range":
        return [choose.choice(values), choose.choice(values)]
    return choose.choice(values)


async def test_every_lookup_is_the_same_in_sql_in_memory_and_in_python(events: Service) -> None:
    """Each lookup of each computed value finds the rows for which it holds in Python, in each of its forms and zones."""
    rows = {row["id"]: row for row in await events.rows("/events/", page_size="1000")}
    logged = {
        row["id"]: json.loads(row["row"])
        for row in await events.sql.fetch("SELECT id, to_jsonb(events)::text AS row FROM events")
    }
    (backend,) = [each for each in events.service.plans["events"].filters if hasattr(each, "group")]
    choose, in_memory = random.Random(11), 0
    for path, lookups in FILTERS.items():
        for lookup in lookups:
            for zone in choose.sample(ZONES, 2) if path.startswith(("at", "local")) else ["UTC"]:
                found_values = {
                    value_of(row, path, zone) if path not in ("tags", "numbers") else None for row in rows.values()
                }
                values = sorted(found_values - {None}, key=str)
                given = argument(choose, path, lookup, values)
                expected = set()
                for key, row in rows.items():
                    value = value_of(row, path, zone)
                    if lookup == "isnull":
                        holds = (value is None) == given
                    else:
                        holds = lookup in ("ne", "not_in") if value is None else COMPARE[lookup](value, given)
                    if holds:
                        expected.add(key)
                name = path if lookup == "exact" else f"{path}__{lookup}"
                text = ",".join(map(as_text, given)) if isinstance(given, list) else as_text(given)
                if "" in (given if isinstance(given, list) else []):
                    continue  # a list of one empty string has no form in an address
                params = {name: text, "tz": zone, "page_size": "1000"}
                assert {row["id"] for row in await events.rows("/events/", **params)} == expected, params
                group = json.dumps({name: [*map(as_json, given)] if isinstance(given, list) else as_json(given)})
                params = {"filter": group, "tz": zone, "page_size": "1000"}
                assert {row["id"] for row in await events.rows("/events/", **params)} == expected, params
                test = matcher(events.service.resources, "events", backend.group(params))
                if test is not None and path != "blob":  # whose form in the log is another one than here
                    in_memory += 1
                    assert {key for key, row in logged.items() if test(row)} == expected, params
    assert in_memory > 150


async def test_lookups_cross_relations(events: Service) -> None:
    """A part at the end of a path; ``not_in`` over many rows is the complement of ``in``."""
    names = {row["name"] for row in await events.rows("/events/", parent__at__year="2024")}
    assert names == {"ann", "bob"}
    assert not await events.rows("/events/", parent__at__year__gte="2025")
    assert [row["id"] for row in await events.rows("/events/", children__name__in="ann,x")] == [1]
    rest = await events.rows("/events/", children__name__not_in="ann,x", page_size="1000")
    assert len(rest) == len(await events.rows("/events/", page_size="1000")) - 1


@pytest.mark.parametrize("path", ["tags__len", *(f"meta__{path}" for path in PATHS)])
@pytest.mark.parametrize("sign", ["", "-"])
async def test_rows_are_ordered_by_computed_values(events: Service, path: str, sign: str) -> None:
    """The order of the values, nulls as the largest, then the key."""
    listed = await events.rows("/events/", ordering=f"{sign}{path}", page_size="1000")
    found = [(value_of(row, path, "UTC"), row["id"]) for row in listed]
    present = [pair for pair in found if pair[0] is not None]
    absent = [pair for pair in found if pair[0] is None]
    assert found == (absent + present if sign else present + absent)
    assert absent == sorted(absent)
    if path != "meta__title":  # which the database's collation orders
        assert present == sorted(sorted(present), key=lambda pair: pair[0], reverse=bool(sign))


async def test_filters_are_part_of_streams_aggregates_and_queries(events: Service) -> None:
    """A stream, an aggregate, a QUERY, an export and a search know the same names and the zone."""
    year = {"at__year": "2024", "tz": "Pacific/Apia"}
    listed = await events.rows("/events/", **year)
    assert listed
    grouped = await events.get("/events/aggregate/", query={"count": "*", **year})
    assert grouped["results"] == [{"count": len(listed)}]
    body = {"filter": {"at__year": 2024}, "tz": "Pacific/Apia"}
    _, asked = await events.ask("QUERY", "/events/", body, status=200)
    assert asked["results"] == listed
    exported = await events.client.get("/events/", params=year, headers={"Accept": "application/x-ndjson"})
    assert len((await exported.text()).splitlines()) == len(listed)
    assert {row["meta"]["title"] for row in await events.rows("/events/", search="ABC")} == {"abc"}
    async with listen(events.client, "/events/stream/?at__year=2024&tz=Europe/Berlin&meta__size__gte=5") as stream:
        assert (await stream.next()).event == "ready"
        await events.post("/events/", {"at": "2024-12-31T23:30:00Z", "meta": {"size": 7}})
        made = await events.post("/events/", {"at": "2023-12-31T23:30:00Z", "meta": {"size": 7}})
        assert (await stream.next()).json()["id"] == made["id"]
        await events.patch(f"/events/{made['id']}/", {"meta": {"size": "7"}})
        assert (await stream.next()).json()["action"] == "DELETE"
    await events.sql.execute("DELETE FROM events WHERE id >= $1", made["id"] - 1)


MISTAKES = [
    ({"at__yeer": "2024"}, "did you mean at__year?"),
    ({"at__year__gtee": "2024"}, "did you mean at__year__gte?"),
    ({"at__year": "0"}, "at__year: Must be between 1 and 9999."),
    ({"at__month": "13"}, "at__month: Must be between 1 and 12."),
    ({"at__month": "x"}, "at__month: Not a valid integer."),
    ({"at__date": "2024-02-30"}, "at__date: Not a valid date"),
    ({"at__year": "2024", "tz": "Europe/Berln"}, "did you mean Europe/Berlin?"),
    ({"meta__siz": "1"}, "did you mean meta__size?"),
    ({"meta__size": "x"}, "meta__size: Not a valid integer."),
    ({"meta__ref": "x"}, "meta__ref: Not a valid UUID."),
    ({"tags__len": "-1"}, "tags__len: Must be between 0 and 2147483647."),
    ({"kind__not_in": "tiny"}, "kind__not_in: must be one of small, large."),
    ({"ordering": "at__year"}, "ordering: 'at__year' is not allowed"),
    ({"filter": '{"or": [{"at__month": 13}]}'}, "filter.or[0].at__month: Must be between 1 and 12."),
    ({"filter": '{"numbers__overlap": 1}'}, "filter.numbers__overlap: Not a valid list."),
]


@pytest.mark.parametrize(("params", "message"), MISTAKES)
async def test_mistakes_are_named(events: Service, params: dict[str, str], message: str) -> None:
    """A 400 with the parameter, what is valid, and the nearest name."""
    for path in ("/events/", "/events/stream/"):
        if path == "/events/" or "ordering" not in params:
            problem = await events.get(path, 400, query=params)
            assert message in problem["detail"], problem["detail"]


async def test_a_filter_that_excludes_nothing_deletes_nothing(events: Service) -> None:
    """A zone is not a filter, and neither is an exclusion of no values."""
    for params in ({"tz": "UTC"}, {"name__not_in": ""}, {"filter": '{"name__not_in": []}'}):
        response = await events.client.delete("/events/", params=params)
        assert response.status == 400, params
        assert "A filter is required here" in (await response.json())["detail"]


async def test_every_zone_is_known_to_the_database(events: Service) -> None:
    """Each name that ``tz`` takes is one that PostgreSQL has."""

    there = {row[0] for row in await events.sql.fetch("SELECT name FROM pg_timezone_names")}
    for zone in sorted(zone_names() - there):
        await events.sql.fetchval("SELECT timezone($1, now())", zone)


async def test_bounds_let_an_index_serve(events: Service) -> None:
    """A year, and a date, are ranges of the column, in every zone; of a day as well."""
    for sql in ("CREATE INDEX ON events (at)", "CREATE INDEX ON events (day)", "SET enable_seqscan = off"):
        await events.sql.execute(sql)
    (backend,) = [each for each in events.service.plans["events"].filters if hasattr(each, "group")]

    for params in (
        {"at__year": "2024"}, {"at__date": "2024-02-29"}, {"at__year__gte": "2024", "tz": "Asia/Kathmandu"},
        {"at__date__range": "2024-01-01,2024-02-01", "tz": "America/Havana"}, {"day__year__lte": "1900"},
    ):  # fmt: skip
        query = backend.apply(Query("events"), params)
        source = Source(events.queries.tables, "events", Binds())
        statement = compiled(sa.select(source.at(()).c.name).where(source.condition(query.shape)))
        lines = await events.sql.fetch(f"EXPLAIN {statement.sql}", *statement.arguments(query.values))
        plan = "\n".join(line[0] for line in lines)
        assert "Index Cond" in plan, (params, plan)


def open_(name: str, value: Any) -> dict[str, Any]:
    return {"events": {**EVENTS, "viewset": {name: value}}}


REFUSED: list[tuple[dict[str, Any], str]] = [
    (open_("filterset_fields", {"at": ["yeer"]}), "did you mean year?"),
    (open_("filterset_fields", {"clock": ["year"]}), "'year' does not suit 'clock'"),
    (open_("filterset_fields", {"at": ["year__icontains"]}), "year__icontains"),
    (open_("filterset_fields", ["at__yeer"]), "did you mean year?"),
    (open_("filterset_fields", ["meta__siz"]), "did you mean size?"),
    (open_("filterset_fields", {"at": ["year"], "at__year": ["exact"]}), "a second time"),
    (open_("ordering_fields", ["at__year"]), "order by the time itself"),
    (open_("ordering", ["at__month"]), "order by the time itself"),
    (open_("aggregates", {"group_by": ["at__year"]}), "only fields can be aggregated"),
    ({"events": {"fields": {"meta": {"type": "json", "paths": {"a__in": "integer"}}}}}, "ends in the name of a lookup"),
    ({"events": {"fields": {"meta": {"type": "json", "paths": {"a b": "integer"}}}}}, "is not a path of names"),
    ({"events": {"fields": {"meta": {"type": "json", "paths": {"a": "integr"}}}}}, "did you mean integer?"),
    ({"events": {"fields": {"name": {"type": "string", "paths": {"a": "integer"}}}}}, "'paths' does not apply to string"),
    (
        {"events": {"fields": {"tz": {"type": "string"}, "at": {"type": "datetime"}},
                    "viewset": {"filterset_fields": {"tz": ["exact"], "at": ["year"]}}}},
        "?tz= is their time zone",
    ),
]  # fmt: skip


@pytest.mark.asyncio(loop_scope="function")
@pytest.mark.parametrize(("resources", "message"), REFUSED)
async def test_wrong_options_stop_the_start(run: Run, resources: dict[str, Any], message: str) -> None:
    """An error of the config says what is wrong, with the nearest valid name."""
    with pytest.raises(ConfigurationError) as error:
        await run(resources)
    assert message in str(error.value)


@pytest.mark.asyncio(loop_scope="function")
async def test_parts_are_opened_beside_lookups(run: Run) -> None:
    """``at: [year, year__gte]`` opens what ``at__year: [exact, gte]`` does; the document and OPTIONS describe it."""
    service = await run(
        open_("filterset_fields", {"at": ["gte", "year", "year__gte", "date__range"], "tags": ["len__gt"]})
    )
    await service.post("/events/", {"at": "2024-02-29T23:30:00Z", "tags": ["a"]})
    for query in ("at__year=2024", "at__year__gte=2024", "at__date__range=2024-02-29,2024-03-01", "tags__len__gt=0"):
        assert len((await service.get(f"/events/?{query}"))["results"]) == 1, query
    document = await service.get("/openapi.json")
    described = {each["name"]: each.get("schema") for each in document["paths"]["/events/"]["get"]["parameters"]}
    assert described["at__year"] == {"type": "integer", "minimum": 1, "maximum": 9999}
    assert {"at__gte", "at__year__gte", "at__date__range", "tags__len__gt", "tz"} <= described.keys()
    _, options = await service.ask("OPTIONS", "/events/", status=200)
    assert options["actions"]["POST"]["meta"]["paths"] == PATHS
