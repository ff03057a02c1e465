"""``?filter=``: groups of conditions, in SQL and in memory alike."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from yarl import URL

from rowcast.orm.expressions import Q
from rowcast.query.conditions import Query
from rowcast.query.matching import matcher
from rowcast.query.pages import PageShape
from rowcast.query.projection import Projection

from ..sse import listen
from .library import Service
from .test_filters import ORACLE, VALUES, fill

pytestmark = pytest.mark.asyncio(loop_scope="module")

FIELDS = ("string", "integer", "boolean", "uuid", "float")
KEYS = Projection("kinds", ("id",))
LOOKUPS = ("exact", "ne", "gt", "lte", "in", "not_in", "isnull")


def random_group(choose: random.Random, depth: int = 0) -> dict[str, Any]:
    """A group of the conditions of some fields, with other groups inside."""
    group: dict[str, Any] = {}
    for _ in range(choose.randint(0, 2)):
        name = choose.choice(FIELDS)
        lookup = choose.choice([each for each in LOOKUPS if name != "boolean" or each not in ("gt", "lte")])
        if name in ("string", "uuid") and lookup in ("gt", "lte"):
            lookup = "ne"
        value: Any = choose.choice([*VALUES[name], None] if lookup in ("exact", "ne") else VALUES[name])
        if lookup in ("in", "not_in"):
            value = choose.sample(VALUES[name], choose.randint(0, 2))
        elif lookup == "isnull":
            value = choose.random() < 0.5
        group[name if lookup == "exact" else f"{name}__{lookup}"] = value
    if depth < 3:
        for operator in choose.sample(("and", "or", "not"), choose.randint(0, 2)):
            inner = [random_group(choose, depth + 1) for _ in range(choose.randint(1, 3))]
            group[operator] = inner[0] if operator == "not" else inner
    return group


def holds(group: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether a row meets a group, by Python's own logic: a comparison with null does not hold, unless it says so."""
    for name, argument in group.items():
        if name in ("and", "or"):
            found = (all if name == "and" else any)([holds(each, row) for each in argument])
        elif name == "not":
            found = not holds(argument, row)
        else:
            field, _, lookup = name.partition("__")
            value = row[field]
            if lookup == "isnull" or argument is None:
                found = (value is None) == (argument if lookup == "isnull" else lookup == "")
            elif value is None:
                found = lookup in ("ne", "not_in")
            else:
                found = ORACLE[lookup or "exact"](value, argument)
        if not found:
            return False
    return True


async def test_groups_find_what_python_finds(library: Service) -> None:
    """Random groups give the rows of a list for which they hold in Python, and hold in memory for the same rows."""
    rows = await fill(library)
    logged = {
        row["id"]: json.loads(row["row"])
        for row in await library.sql.fetch("SELECT id::text, to_jsonb(kinds)::text AS row FROM kinds")
    }
    resources, choose, in_memory = library.service.resources, random.Random(7), 0
    (backend,) = [each for each in library.service.plans["kinds"].filters if hasattr(each, "group")]
    for _ in range(150):
        group = random_group(choose)
        text = json.dumps(group)
        expected = {key for key, row in rows.items() if holds(group, row)}
        found = {row["id"] for row in await library.rows("/kinds/", filter=text, page_size="1000")}
        assert found == expected, text
        if (test := matcher(resources, "kinds", backend.group({"filter": text}))) is not None:
            in_memory += 1
            assert {key for key, row in logged.items() if test(row)} == expected, text
        named = {
            row["id"] for row in await library.rows("/kinds/", filter=text, page_size="1000", integer__isnull="false")
        }
        assert named == {key for key in expected if rows[key]["integer"] is not None}, text
    assert in_memory > 100


MISTAKES: list[tuple[Any, str]] = [
    (
        {"or": [{"integer__gte": 1}, {"intger__gte": 1}]},
        "filter.or[1].intger__gte: unknown; did you mean integer__gte?",
    ),
    ({"not": {"integer": "1"}}, "filter.not.integer: Not a valid integer."),
    ({"and": []}, "filter.and: must be a list with at least one object."),
    ({"or": {"integer": 1}}, "filter.or: must be a list with at least one object."),
    ({"or": [1]}, "filter.or[0]: must be an object"),
    ({"not": [{"integer": 1}]}, "filter.not: must be an object"),
    ([], "filter: must be an object"),
    (None, "filter: must be an object"),
    ({"integer__in": 1}, "filter.integer__in: must be a list of values."),
    ({"integer__in": [1, None]}, "filter.integer__in: must be a list of values."),
    ({"integer__range": [1]}, "filter.integer__range: must be a list of two values."),
    ({"integer__gt": None}, "filter.integer__gt: must not be null; use isnull."),
    ({"integer__isnull": 1}, "filter.integer__isnull: must be true or false."),
    ({"string__contains": 1}, "filter.string__contains: must be a string."),
    ({"string": "a\0"}, "filter.string: "),
    ({"string__regex": "a" * 201}, "filter.string__regex: A regular expression has at most 200 characters."),
    ({"string__regex": "("}, "filter: "),
    ({"not": {"not": {"not": {"not": {"not": {"not": {}}}}}}}, "at most 5 groups inside one another."),
    ({"or": [{"integer": n} for n in range(51)]}, "filter: at most 50 conditions."),
]


async def test_mistakes_name_their_place(library: Service) -> None:
    """A 400 with the path of the mistake, the nearest name, and the limits."""
    for group, message in MISTAKES:
        problem = await library.get("/kinds/", 400, filter=json.dumps(group))
        assert problem["code"] in ("invalid_parameter", "invalid_pattern"), problem
        assert message in problem["detail"], (group, problem["detail"])
    for text in ("", "{", '{"integer": 1, "integer": 2}', "{" * 5000, '{"integer": 1e400}'):
        problem = await library.get("/kinds/", 400, filter=text)
        assert problem["detail"].startswith("filter"), text
    problem = await library.get("/books/", 400, filter=json.dumps({"state": "lost"}))
    assert problem["detail"] == "filter.state: must be one of draft, out, gone, long."
    problem = await library.get("/tags/", 400, filter="{}")  # which opens no filter
    assert problem["code"] == "unknown_parameter"


async def test_empty_groups_hold_for_every_row(library: Service) -> None:
    """``{}`` is everything, and its complement nothing, at any depth."""
    rows = await fill(library)
    for group, everything in (({}, True), ({"or": [{}, {"integer": 7}]}, True), ({"not": {}}, False)):
        found = await library.rows("/kinds/", filter=json.dumps(group), page_size="1000")
        assert len(found) == (len(rows) if everything else 0)


async def test_streams_have_groups(library: Service) -> None:
    """A stream sends the rows for which its group holds, and those that leave it as deletes."""
    group = {"or": [{"integer__gte": 5}, {"not": {"string__startswith": "a"}}]}
    async with listen(library.client, f"/kinds/stream/?filter={json.dumps(group)}") as stream:
        assert (await stream.next()).event == "ready"
        await library.post("/kinds/", {"integer": 1, "string": "abc"})
        row = await library.post("/kinds/", {"integer": 5, "string": "abc"})
        await library.patch(f"/kinds/{row['id']}/", {"integer": 4})
        events = [(await stream.next()).json() for _ in range(2)]
        assert [(each["action"], each["id"]) for each in events] == [("INSERT", row["id"]), ("DELETE", row["id"])]
    values = json.dumps({"not": {"integer__in": list(range(1001))}})
    problem = await library.get("/kinds/stream/", 400, filter=values)
    assert problem["detail"] == "filter: at most 1000 values in a list on a stream."
    patterns = json.dumps({"or": [{"string__regex": f"a{n}"} for n in range(9)]})
    problem = await library.get("/kinds/stream/", 400, filter=patterns)
    assert "At most 8 regular expressions on a stream." in problem["detail"]


async def test_group_is_a_q(library: Service) -> None:
    """Python has the same grammar: a group makes the condition that the list has."""
    await fill(library)
    resources, choose = library.service.resources, random.Random(8)
    for _ in range(50):
        group = random_group(choose)
        condition = Q.of(group).resolve(resources, "kinds")
        found = await library.service.store.page(Query("kinds", (condition,)), PageShape(KEYS, ("id",), limit=1000), ())
        listed = await library.rows("/kinds/", filter=json.dumps(group), page_size="1000")
        assert [row["id"] for row in json.loads(f"[{found.results.decode()}]")] == [row["id"] for row in listed]
    mistakes: list[Any] = [[], {"or": []}, {"not": 1}, {"and": [1]}]
    for wrong in mistakes:
        with pytest.raises(ValueError, match="group"):
            Q.of(wrong)


async def test_query_is_the_get_with_its_parameters_in_the_body(library: Service) -> None:
    """Rows, links, tag and kept bytes are those of the GET; a filter may be longer than an address."""
    await fill(library)
    body = {"filter": {"or": [{"integer__in": [0, 7]}, {"decimal": "0.10"}]}, "ordering": ["-id"], "page_size": 1}
    params = {"filter": '{"or":[{"integer__in":[0,7]},{"decimal":"0.10"}]}', "ordering": "-id", "page_size": "1"}
    get, expected = await library.ask("GET", "/kinds/", params=params, status=200)
    query, found = await library.ask("QUERY", "/kinds/", body, status=200)
    assert (found, query.headers["ETag"]) == (expected, get.headers["ETag"])
    assert found["next"]
    following = URL(found["next"]).relative()
    assert (await library.ask("GET", str(following), status=200))[1]["results"]
    for response in (get, query, (await library.ask("OPTIONS", "/kinds/", status=200))[0]):
        assert response.headers["Accept-Query"] == "application/json"
    many = {"filter": {"integer__in": list(range(20_000))}, "page_size": 1000}
    _, found = await library.ask("QUERY", "/kinds/", many, status=200)
    assert [row["integer"] for row in found["results"]] == [0]
    response, _ = await library.ask("QUERY", "/kinds/", body, headers={"If-None-Match": get.headers["ETag"]})
    assert response.status == 304


QUERIES: list[tuple[Any, dict[str, Any], int, str]] = [
    ({"pages__gte": 1}, {}, 400, "pages__gte: unknown member"),
    ({"orderng": ["id"]}, {}, 400, "orderng: unknown member; did you mean ordering?"),
    ({"page": 1.5}, {}, 400, "page: must be a string, an integer, or a list of names."),
    ({"page": True}, {}, 400, "page: must be a string"),
    ({"ordering": ["a,b"]}, {}, 400, "ordering: must be"),
    ({"ordering": ["nothing"]}, {}, 400, "ordering: 'nothing' is not allowed"),
    ({"filter": "{}"}, {}, 400, "filter: must be an object"),
    ({"filter": json.loads('{"not":' * 400 + "{}" + "}" * 400)}, {}, 400, "filter: is nested too deeply"),
    ([], {}, 400, "The body must be a JSON object."),
    ({}, {"params": {"page": "1"}}, 400, "A QUERY has its parameters in the body"),
    (None, {"data": "filter={}"}, 415, "application/json"),
    (None, {"data": "{", "headers": {"Content-Type": "application/json"}}, 400, "not valid JSON"),
]


async def test_wrong_queries_are_refused(library: Service) -> None:
    """Members, values, and media types; addresses without a list do not take the method."""
    for body, options, status, message in QUERIES:
        response, problem = await library.ask("QUERY", "/kinds/", body, status=status, **options)
        assert message in problem["detail"], problem
        if status == 415:
            assert response.headers["Accept-Query"] == "application/json"
    row = await library.post("/kinds/", {})
    await library.ask("QUERY", f"/kinds/{row['id']}/", {}, status=405)
