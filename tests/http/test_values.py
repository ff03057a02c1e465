"""Bodies: the values that each type of field accepts, returns and refuses."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from .. import conftest
from ..conftest import configure
from ..databases import EMPTY, Databases
from .conftest import running
from .library import KINDS, OPEN, Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEEP = json.loads("[" * 199 + "]" * 199)
DOCUMENTS: list[Any] = [
    0,
    -1,
    1.5,
    "",
    "null",
    [],
    {},
    [None],
    {"": {"é\U0001f600": [1, 2.5, None, True]}},
    2**63 - 1,
    -(2**63),
    "\u2028\x01",
    DEEP,
]
GOOD: dict[str, list[tuple[Any, Any]]] = {  # what is sent, what is shown
    "string": [
        ("x", "x"),
        ("é" * 20, "é" * 20),
        ("\U0001f600" * 20, "\U0001f600" * 20),
        (" \t\n", " \t\n"),
        ("\x01\x7f", "\x01\x7f"),
    ],
    "text": [
        ("", ""),
        ("a" * 100_000, "a" * 100_000),
        ("\u202e\ufeff\ud7ff\ue000\uffff", "\u202e\ufeff\ud7ff\ue000\uffff"),
        ("'; DROP TABLE kinds; --", "'; DROP TABLE kinds; --"),
    ],
    "email": [("a.b+c@example.com", "a.b+c@example.com"), ("a@ex-ample.co.uk", "a@ex-ample.co.uk")],
    "url": [(u, u) for u in ("http://localhost", "https://user:pw@example.com:8080/a?b=c#d", "ftp://example.com/")],
    "slug": [("a-B_9", "a-B_9")],
    "uuid": [
        ("00000000-0000-0000-0000-000000000000",) * 2,
        ("ABCDEF00-0000-4000-8000-FFFFFFFFFFFF", "abcdef00-0000-4000-8000-ffffffffffff"),
    ],
    "integer": [(n, n) for n in (0, 2**31 - 1, -(2**31))],
    "big_integer": [(n, n) for n in (0, 2**63 - 1, -(2**63))],
    "float": [(n, n) for n in (0, -0.0, 0.1, 1.7976931348623157e308, -1.7976931348623157e308, 5e-324, 2**53, 1e30)],
    "decimal": [
        ("999999.99", "999999.99"),
        ("-999999.99", "-999999.99"),
        ("1", "1.00"),
        (".5", "0.50"),
        ("1.", "1.00"),
        ("1e2", "100.00"),
        ("-0", "0.00"),
        (1, "1.00"),
        (1.5, "1.50"),
        ("0e99", "0.00"),
    ],
    "boolean": [(True, True), (False, False)],
    "date": [(d, d) for d in ("0001-01-01", "9999-12-31", "2024-02-29")],
    "time": [
        ("00:00", "00:00:00"),
        ("23:59:59.999999", "23:59:59.999999"),
        ("12:00:00.500", "12:00:00.5"),
        ("12:00:00.1234567", "12:00:00.123457"),
        ("23:59:59.9999999", "23:59:59.999999"),
    ],
    "datetime": [
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+00:00"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999+00:00"),
        ("2024-01-01T00:00:00+14:00", "2023-12-31T10:00:00+00:00"),
        ("2024-01-01t00:00:00.1z", "2024-01-01T00:00:00.1+00:00"),
        ("2024-01-01T00:00:00", "2024-01-01T00:00:00+00:00"),
        ("2026-01-01T00:00:00.1234567Z", "2026-01-01T00:00:00.123457+00:00"),
        ("2026-01-01T00:00:00.12345612Z", "2026-01-01T00:00:00.123456+00:00"),
        ("2026-01-01T00:00:00.000000000Z", "2026-01-01T00:00:00+00:00"),
        ("2025-12-31T23:59:59.999999999z", "2026-01-01T00:00:00+00:00"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00+00:00"),
        ("1990-12-31T15:59:60.25-08:00", "1991-01-01T00:00:00.25+00:00"),
    ],
    "duration": [
        ("P1W", "P7D"),
        ("PT36H", "P1DT12H"),
        ("-PT0.5S", "PT-0.5S"),
        ("PT0S", "PT0S"),
        ("P999999999D", "P999999999D"),
        ("-P999999999D", "P-999999999D"),
        ("PT1,5S", "PT1.5S"),
        ("P1DT-1H", "PT23H"),
        ("PT-23H-59M-59.999999S", "PT-23H-59M-59.999999S"),
    ],
    "json": [(document, document) for document in DOCUMENTS],
    "words": [([], []), (["", 'a"b\\c', "d,e{}", "NULL", "null", " "],) * 2, (["\U0001f600\n"],) * 2],
    "amounts": [([], []), (["1.50", 2, "1e3"], ["1.50", "2", "1000"]), (["0." + "1" * 100] * 3,) * 2],
}
BAD: dict[str, list[Any]] = {
    "string": ["", "x" * 21, 1, True, [], {}, "a\0b"],
    "text": [0, False, "\0", ["a"]],
    "email": ["", "a", "a@", "@b.c", "a b@c.de", "a@b@c.de", "a" * 250 + "@b.cd", "a@example.com\n", 1],
    "url": [
        "",
        "x",
        "//example.com",
        "http://",
        "javascript:alert(1)",
        "http://exa mple.com",
        "http://example.com\n",
        1,
    ],
    "slug": ["", "a b", "é", "a/b", "a\n", 1],
    "uuid": ["", "x", "0" * 32, "00000000-0000-0000-0000-00000000000g", 1, "{00000000-0000-0000-0000-000000000000}"],
    "integer": [2**31, -(2**31) - 1, 1.5, 1.0, "1", True, 10**40, [], ""],
    "big_integer": [2**63, -(2**63) - 1, 10**40, "1", False],
    "float": ["1", True, "NaN", "Infinity", [], {}],
    "decimal": [
        "1000000",
        "0.001",
        "NaN",
        "Infinity",
        "-Infinity",
        "sNaN",
        "",
        "x",
        "1,5",
        True,
        [],
        "1e999999999",
        "9" * 5000,
        "0x10",
        "1_000",
        1e300,
        "\u0661",
    ],
    "boolean": [0, 1, "true", "", []],
    "date": [
        "2023-02-29",
        "0000-01-01",
        "10000-01-01",
        "2024-1-1",
        "20240101",
        "2024-01-01T00:00:00Z",
        "2024-W01-1",
        0,
        "",
    ],
    "time": ["24:00:01", "12", "12:60", "12:00:60", "12:00:00Z", "12:00:00.", "noon", 0, ""],
    "datetime": [
        "2024-01-01",
        "2024-13-01T00:00:00Z",
        "2024-01-01T00:00:60Z",
        "2024-01-30T23:59:60Z",
        "2024-12-31T23:59:60+01:00",
        "9999-12-31T23:59:60Z",
        "9999-12-31T23:59:59.9999999Z",
        "2024-01-01T00:00:00.Z",
        "6045-11-09 11:23Z",
        "2026-01-01 11:23:00Z",
        "2024-01-01 00:00:00",
        "2024-01-01_00:00:00Z",
        "6045-11-09T11:23Z",
        "2024-01-01T00:00:00+24:00",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        1704067200,
        "now",
        "infinity",
        "",
    ],
    "duration": [
        "",
        "P",
        "PT",
        "P1Y",
        "P1M",
        "1 day",
        "PT0.0000001S",
        "P1000000000D",
        "P" + "9" * 90 + "D",
        60,
        "P1D ",
    ],
    "json": ["\0", ["a", {"b\0": 1}], [[DEEP]], json.loads("[" * 600 + "]" * 600)],
    "words": ["a", {}, [None], [1], ["a", ["b"]], ["\0"]],
    "amounts": ["1", [None], ["x"], [True], ["NaN"]],
}


async def test_every_type_returns_the_value_it_was_sent(library: Service) -> None:
    """A value, extreme ones too, is returned in its one form by POST, GET, PUT, PATCH and the list."""
    for name, pairs in GOOD.items():
        for given, shown in pairs:
            row = await library.post("/kinds/", {name: given})
            assert row[name] == shown, (name, given)
            if name != "float":
                assert type(row[name]) is type(shown)
            assert all(row[other] is None for other in KINDS if other not in (name, "id"))
            path = f"/kinds/{row['id']}/"
            assert await library.get(path) == row
            assert await library.put(path, row) == row
            assert await library.patch(path, {name: shown}) == row
        if name != "text":
            listed = await library.rows("/kinds/", page_size="1000", **{f"{name}__isnull": "false"})
            missing = [shown for _, shown in pairs]
            for each in listed:
                missing.remove(each[name])
            assert missing == []
        cleared = await library.patch(path, {name: None})
        assert cleared == {**row, name: None}


async def test_every_type_refuses_invalid_values(library: Service) -> None:
    """A value that breaks a rule is a 400 that names the field, on create and on update, and nothing is written."""
    row = await library.post("/kinds/", {})
    for name, values in BAD.items():
        for value in values:
            for method, path in (
                ("POST", "/kinds/"),
                ("PUT", f"/kinds/{row['id']}/"),
                ("PATCH", f"/kinds/{row['id']}/"),
            ):
                _, problem = await library.ask(method, path, {name: value}, status=400)
                assert list(problem["errors"]) == [name], (name, value, problem)
                assert problem["code"] == "invalid"
    assert await library.rows("/kinds/") == [row]


async def test_all_invalid_fields_are_reported_at_once(library: Service) -> None:
    """One response has the messages of every field, unknown ones included."""
    body = {name: values[-1] for name, values in BAD.items()} | {"strnig": 1, "zzz": 2}
    problem = await library.post("/kinds/", body, 400)
    assert problem["errors"].keys() == body.keys()
    assert "string" in problem["errors"]["strnig"][0]


NUMBERS: dict[str, str] = {  # what is sent as a number, what the database stores
    "99999999999999.9999": "99999999999999.9999",
    "123456789012345.6789": "123456789012345.6789",
    "9007199254740993.0": "9007199254740993.0",
    "9007199254740993": "9007199254740993",
    "9007199254740993e0": "9007199254740993",
    "-12345678901234567890123.45": "-12345678901234567890123.45",
    "123456789012345678901234567890": "123456789012345678901234567890",
    "1.5e-400": "0." + "0" * 399 + "15",
    "5.4321e-310": "0." + "0" * 309 + "54321",
    "0.1": "0.1",
    "1e300": "1" + "0" * 300,
}


async def test_numbers_keep_their_digits(library: Service) -> None:
    """A number is stored with the digits that were sent, in ``decimal`` and ``json`` fields and at any depth."""
    json_type = {"Content-Type": "application/json"}
    for digits, stored in NUMBERS.items():
        body = f'{{"json": {{"x": [{digits}]}}, "amounts": [{digits}]}}'
        _, row = await library.ask("POST", "/kinds/", data=body, headers=json_type, status=201)
        found = await library.sql.fetchrow(
            "SELECT json#>>'{x,0}' AS json, amounts[1]::text AS amount FROM kinds WHERE id = $1",
            row["id"],
        )
        assert (found["json"], found["amount"]) == (stored, stored)
        response = await library.client.get(f"/kinds/{row['id']}/")
        for method in ("PUT", "PATCH"):  # what was read can be sent back
            await library.ask(method, f"/kinds/{row['id']}/", data=await response.read(), headers=json_type, status=200)
            assert await library.sql.fetchval("SELECT json#>>'{x,0}' FROM kinds WHERE id = $1", row["id"]) == stored
        await library.delete(f"/kinds/{row['id']}/")
    assert (await library.post("/kinds/", {"json": [None, "00000000000000001", {"a:b": "c:d"}]}))["json"]


def _digits(chance: Random) -> str:
    """A JSON number of 1 to 60 digits, perhaps with a sign, a point, zeros at the end and an exponent."""
    digits = "".join(chance.choice("0123456789") for _ in range(chance.randint(1, 60)))
    whole, fraction = digits[: (place := chance.randint(1, len(digits)))], digits[place:]
    number = chance.choice(("", "-")) + (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "")
    if chance.random() < 0.3:
        number += chance.choice("eE") + chance.choice(("", "+", "-")) + str(chance.randint(0, 40))
    return number


async def test_any_number_is_what_postgresql_makes_of_it(library: Service) -> None:
    """1 to 60 digits, exponents and -0, as numbers of decimals and within json, and again when it is sent back as it was read."""
    chance = Random(60)
    numbers = ["-0", "-0.0", "0.10", "1.50", "1e2", "100.0", "-0e3", *(_digits(chance) for _ in range(400))]
    body = ",".join(
        f'{{"text": "{n}", "json": {{"x": [{each}]}}, "amounts": [{each}]}}' for n, each in enumerate(numbers)
    )
    sent = {"data": f"[{body}]", "headers": {"Content-Type": "application/json"}}
    await library.ask("POST", "/kinds/", **sent, status=201)
    stored = "SELECT json#>>'{x,0}' AS json, amounts[1]::text AS amount FROM kinds ORDER BY text::int"
    expected = [
        (row["json"], row["amount"])
        for row in await library.sql.fetch(
            "SELECT n::jsonb#>>'{}' AS json, n::numeric::text AS amount FROM unnest($1::text[]) WITH ORDINALITY AS t(n, place)"
            " ORDER BY place",
            numbers,
        )
    ]
    assert [tuple(row) for row in await library.sql.fetch(stored)] == expected
    read = await (await library.client.get("/kinds/?page_size=1000")).read()
    rows = read[read.index(b'"results":') + len(b'"results":') : -1]
    await library.ask("PATCH", "/kinds/", data=rows, headers=sent["headers"], status=200)
    assert [tuple(row) for row in await library.sql.fetch(stored)] == expected


async def test_key_that_is_twice_in_an_object_is_refused(library: Service) -> None:
    """A body with a key twice is a 400 that names it, at any depth; nothing is written."""
    json_type = {"Content-Type": "application/json"}
    for body in (
        b'{"integer": 1, "integer": 2}',
        b'{"integer": 1, "integer": 1}',
        b'{"integer" : 1, "\\u0069nteger" :2}',
        b'{"json": [{"a": 1, "integer": {"integer": 2}, "integer": 3}]}',
        b'{"text": "a:b", "json": {"integer": 1, "b": "\\":", "integer": 1}}',
    ):
        _, problem = await library.ask("POST", "/kinds/", data=body, headers=json_type, status=400)
        assert problem["code"] == "parse_error"
        assert "'integer' is there twice" in problem["detail"]
    assert await library.rows("/kinds/") == []
    deep = b'{"x": ' * 900 + b"9007199254740993.0" + b"}" * 900
    await library.ask("POST", "/kinds/", data=deep, headers=json_type, status=400)


LIMITS: dict[str, dict[str, Any]] = {
    "ranged": {"type": "integer", "min": -2, "max": 3},
    "floated": {"type": "float", "min": 0.5, "max": 1.5},
    "priced": {"type": "decimal", "max_digits": 5, "decimal_places": 2, "min": "-1.5", "max": "99.5"},
    "dated": {"type": "date", "min": "2024-01-01", "max": "2024-12-31"},
    "timed": {"type": "time", "min": "09:00:00", "max": "17:00:00"},
    "stamped": {"type": "datetime", "min": "2024-01-01T00:00:00Z"},
    "lasting": {"type": "duration", "min": "PT1M", "max": "P1D"},
    "sized": {"type": "string", "min_length": 2, "max_length": 4},
    "coded": {"type": "string", "pattern": "^[A-Z]{2}[0-9]+$"},
    "chosen": {"type": "integer", "choices": [1, 2, 3]},
    "worded": {"type": "string", "choices": ["a", "b,c", "d'e"]},
    "listed": {"type": "array", "of": "integer", "min": 0, "max": 9, "min_length": 1, "max_length": 3},
    "picked": {"type": "array", "of": "string", "choices": ["x", "y"]},
    "flagged": {"type": "boolean"},
}
WITHIN: dict[str, list[Any]] = {
    "ranged": [-2, 3],
    "floated": [0.5, 1.5],
    "priced": ["-1.50", "99.50"],
    "dated": ["2024-01-01", "2024-12-31"],
    "timed": ["09:00:00", "17:00:00"],
    "stamped": ["2024-01-01T00:00:00+00:00"],
    "lasting": ["PT1M", "P1D"],
    "sized": ["ab", "abcd", "\U0001f600\U0001f600"],
    "coded": ["AB1"],
    "chosen": [1, 3],
    "worded": ["b,c", "d'e"],
    "listed": [[0], [9, 0, 9]],
    "picked": [[], ["x", "x"]],
    "flagged": [True],
}
BEYOND: dict[str, list[Any]] = {
    "ranged": [-3, 4],
    "floated": [0.4999, 1.5001],
    "priced": ["-1.51", "99.51"],
    "dated": ["2023-12-31", "2025-01-01"],
    "timed": ["08:59:59.999999", "17:00:00.000001"],
    "stamped": ["2024-01-01T00:00:00+00:01"],
    "lasting": ["PT59.999999S", "P1DT0.000001S", "P-1D"],
    "sized": ["a", "abcde", ""],
    "coded": ["ab1", "AB", "xAB1", "AB1\n", ""],
    "chosen": [0, 4, "1", 1.0, True],
    "worded": ["b", "A", ""],
    "listed": [[], [-1], [0, 10], [0, 0, 0, 0]],
    "picked": [["z"], ["x", "z"], [""]],
    "flagged": [None],
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def limits(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A resource of required fields, each with its own limit, and one whose limits only the database enforces."""
    resources: dict[str, dict[str, Any]] = {
        "limits": {"fields": LIMITS},
        "defaults": {
            "fields": {
                "name": {"type": "string", "max_length": 9, "required": False, "default": "it's: \\%"},
                "size": {"type": "decimal", "max_digits": 4, "decimal_places": 1, "default": "1.5"},
                "data": {"type": "json", "default": {"a": [1, "'"]}},
                "list": {"type": "array", "of": "string", "default": ["a,b", 'c"']},
                "span": {"type": "duration", "default": "PT90M"},
                "day": {"type": "date", "default": "2024-02-29"},
                "none": {"type": "integer", "null": True, "default": None},
                "flag": {"type": "boolean", "default": True},
                "seven": {"type": "integer", "null": True, "default": 7},
            }
        },
        "guarded": {"fields": {"a": {"type": "integer"}, "b": {"type": "integer", "null": True}}},
    }
    service = json.dumps({**json.loads(OPEN), "server": {"body_limit": "10KiB"}})
    async with running(databases, tmp_path_factory.mktemp("limits"), resources, service) as limited:
        yield limited


async def test_limits_hold_at_their_boundary(limits: Service) -> None:
    """A value on a limit is valid, one beyond it a 400 on its field; an invalid body gets all messages at once."""
    whole = {name: values[0] for name, values in WITHIN.items()}
    assert (await limits.post("/limits/", whole)).items() >= whole.items()
    for name, values in WITHIN.items():
        for value in values:
            row = await limits.post("/limits/", {**whole, name: value})
            assert row[name] == value
    for name, values in BEYOND.items():
        for value in values:
            problem = await limits.post("/limits/", {**whole, name: value}, 400)
            assert list(problem["errors"]) == [name], (name, value)
    problem = await limits.post("/limits/", {name: values[0] for name, values in BEYOND.items()}, 400)
    assert problem["errors"].keys() == BEYOND.keys()
    assert "1, 2, 3" in problem["errors"]["chosen"][0]


async def test_required_fields_are_named_when_they_are_missing(limits: Service) -> None:
    """POST and PUT need every required field; PATCH needs none."""
    problem = await limits.post("/limits/", {}, 400)
    assert problem["errors"] == {name: ["This field is required."] for name in LIMITS}
    row = await limits.post("/limits/", {name: values[0] for name, values in WITHIN.items()})
    path = f"/limits/{row['id']}/"
    assert (await limits.put(path, {}, 400))["errors"].keys() == LIMITS.keys()
    assert await limits.patch(path, {}) == row
    problem = await limits.patch(path, dict.fromkeys(LIMITS), 400)
    assert problem["errors"] == {name: ["May not be null."] for name in LIMITS}


async def test_database_enforces_the_same_limits(limits: Service) -> None:
    """Direct SQL cannot store values that a body may not contain."""
    await limits.post("/limits/", {name: values[0] for name, values in WITHIN.items()})
    for name, values in BEYOND.items():
        for value in values:
            if value in ("1", 1.0, True) or value is None:
                continue  # another type in JSON is the same value in SQL
            with pytest.raises(asyncpg.PostgresError):
                await limits.sql.execute(
                    f"UPDATE limits SET {name} = (jsonb_populate_record(NULL::limits, $1::text::jsonb)).{name}",
                    json.dumps({name: value}),
                )


async def test_defaults_fill_missing_fields(limits: Service) -> None:
    """A field that a body or direct SQL leaves out gets its default; null is not the same as left out."""
    defaults = {
        "name": "it's: \\%",
        "size": "1.5",
        "data": {"a": [1, "'"]},
        "list": ["a,b", 'c"'],
        "span": "PT1H30M",
        "day": "2024-02-29",
        "none": None,
        "flag": True,
        "seven": 7,
    }
    row = await limits.post("/defaults/", {})
    assert row == {"id": row["id"], **defaults}
    key = await limits.sql.fetchval("INSERT INTO defaults DEFAULT VALUES RETURNING id::text")
    assert await limits.get(f"/defaults/{key}/") == {"id": key, **defaults}
    assert (await limits.post("/defaults/", {"seven": None}))["seven"] is None
    await limits.post("/defaults/", {"name": None}, 400)
    changed = await limits.put(f"/defaults/{key}/", {"name": "other"})
    assert changed == {"id": key, **defaults, "name": "other"}
    again = await limits.put(f"/defaults/{key}/", {})
    assert again == changed, "PUT leaves optional fields as they are"


async def test_rule_of_the_database_alone_is_a_400(limits: Service) -> None:
    """A violation of a check constraint or trigger that was added by SQL is a 400 without any details of it."""
    await limits.sql.execute("ALTER TABLE guarded ADD CONSTRAINT ck_secret CHECK (a < 10)")
    problem = await limits.post("/guarded/", {"a": 10}, 400)
    assert "secret" not in json.dumps(problem)
    await limits.sql.execute(
        """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN IF NEW.b = 1 THEN RAISE EXCEPTION 'secret words'; END IF;
                 IF NEW.b = 2 THEN NEW.a := NULL; END IF; RETURN NEW; END $$;
        CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON guarded FOR EACH ROW EXECUTE FUNCTION refuse()"""
    )
    row = await limits.post("/guarded/", {"a": 1})
    assert "secret" not in json.dumps(await limits.patch(f"/guarded/{row['id']}/", {"b": 1}, 400))
    assert list((await limits.patch(f"/guarded/{row['id']}/", {"b": 2}, 400))["errors"]) == ["a"]


async def test_body_must_be_one_json_object_of_bounded_size(limits: Service) -> None:
    """Each other case has its status: 400 for anything but a JSON object, 413 for too many bytes, 415 for the media type."""
    json_type = {"Content-Type": "application/json"}
    path = f"/guarded/{(await limits.post('/guarded/', {'a': 1}))['id']}/"
    for data in (
        b"",
        b"{",
        b"nul",
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e400}',
        b'{"a": 01}',
        b"\xff\xfe",
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": "\\ud800"}',
        b'{"a": 1} x',
        b"\xef\xbb\xbf{}x",
        b"[" * 5000,
        b"[]",
        b"[{}]",
        b"null",
        b"1",
        b'"x"',
        b"true",
    ):
        for method, url in (("POST", "/limits/"), ("PUT", path), ("PATCH", path)):
            response, problem = await limits.ask(method, url, data=data, headers=json_type)
            no_rows = (method, data) == ("POST", b"[]")  # an array of rows, of which it has none
            assert response.status == (201 if no_rows else 400), (data, problem)
    for data in (b'{"a": "' + b"x" * 20_000 + b'"}', b" " * 10_241):
        await limits.ask("POST", "/guarded/", data=data, headers=json_type, status=413)

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    await limits.ask("POST", "/guarded/", data=endless(), headers=json_type, status=413)
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonx",
        "text/json",
        "",
        "nonsense",
    ):
        response, _ = await limits.ask(
            "POST", "/guarded/", data=b'{"a": 1}', headers={"Content-Type": kind}, status=415
        )
    for kind in ("application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.api+json"):
        await limits.ask("POST", "/guarded/", data=b'{"a": 1}', headers={"Content-Type": kind}, status=201)
    await limits.ask("POST", "/guarded/", data=b'{"a": 1, "a": 2}', headers=json_type, status=400)
    await limits.ask(
        "POST", "/guarded/", data=b"not gzip", headers={**json_type, "Content-Encoding": "gzip"}, status=400
    )


EXACT = """
fields:
  id: {type: integer, primary_key: true}
  price: {type: decimal, default: 99999999999999.9999, min: -99999999999999.9999, max: 99999999999999.9999}
  data: {type: json, default: {a: 0.12345678901234567890, b: 123456789012345678901234567890}}
viewset: {permission_classes: [AllowAny]}
"""


async def test_unquoted_numbers_of_the_config_keep_their_digits(databases: Databases, tmp_path: Path) -> None:
    """In the rows, in the limits, and in what describes them."""
    configuration = configure(tmp_path, {"exact": EXACT})
    async with databases.copy(EMPTY) as url, conftest.running(configuration, url) as client:
        row = await (await client.post("/exact/", json={})).text()
        assert row == (
            '{"id":1,"price":"99999999999999.9999",'
            '"data":{"a": 0.12345678901234567890, "b": 123456789012345678901234567890}}'
        )
        for price, status in (
            ("-99999999999999.9999", 201),
            ("-99999999999999.99991", 400),
            ("99999999999999.99991", 400),
        ):
            assert (await client.post("/exact/", json={"price": price})).status == status
        for described in (await client.options("/exact/"), await client.get("/openapi.json")):
            text = await described.text()
            assert '"99999999999999.9999"' in text
            assert '{"a":0.12345678901234567890,"b":123456789012345678901234567890}' in text
