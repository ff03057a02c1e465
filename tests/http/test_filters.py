"""Filters, search and ordering: a list has the rows that its query string describes."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from .library import KINDS, Service, every_lookup

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Two or three values of each type in rising order, as JSON, and one that no row has.
VALUES: dict[str, list[Any]] = {
    "string": ["alpha", "al%_\\a", "beta, gamma"],
    "text": ["one", 'quo"te', "two\nlines"],
    "email": ["a@example.com", "b@example.com"],
    "url": ["http://a.example/?x=1&y=2", "https://b.example/"],
    "slug": ["a-b", "c_d"],
    "uuid": ["00000000-0000-0000-0000-000000000001", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    "integer": [-(2**31), 0, 2**31 - 1],
    "big_integer": [-(2**63), 0, 2**63 - 1],
    "float": [-1.5, 0.1, 1e300],
    "decimal": ["-999999.99", "0.10", "999999.99"],
    "boolean": [False, True],
    "date": ["0001-01-01", "2024-02-29", "9999-12-31"],
    "time": ["00:00:00", "12:30:00.000001", "23:59:59.999999"],
    "datetime": ["0001-01-01T00:00:00+00:00", "2024-02-29T12:00:00.5+00:00", "9999-12-31T23:59:59.999999+00:00"],
    "duration": ["P-3D", "PT0.000001S", "P400D"],
    "json": [{"a": [1, None, "x"]}, [1, 2], "text"],
    "words": [["a", "b"], ["b", "c, d"], []],
    "amounts": [["1.50", "2"], ["2"]],
}
PARSE: dict[str, Callable[[Any], Any]] = {
    "uuid": uuid.UUID,
    "decimal": Decimal,
    "date": dt.date.fromisoformat,
    "time": dt.time.fromisoformat,
    "datetime": dt.datetime.fromisoformat,
    "duration": {"P-3D": dt.timedelta(-3), "PT0.000001S": dt.timedelta(microseconds=1), "P400D": dt.timedelta(400)}.get,
    "amounts": lambda value: [Decimal(item) for item in value],
}
ORACLE: dict[str, Callable[[Any, Any], bool]] = {
    "exact": lambda value, argument: value == argument,
    "ne": lambda value, argument: value != argument,
    "gt": lambda value, argument: value > argument,
    "gte": lambda value, argument: value >= argument,
    "lt": lambda value, argument: value < argument,
    "lte": lambda value, argument: value <= argument,
    "in": lambda value, argument: value in argument,
    "not_in": lambda value, argument: value not in argument,
    "range": lambda value, argument: argument[0] <= value <= argument[1],
    "startswith": lambda value, argument: value.startswith(argument),
    "istartswith": lambda value, argument: value.lower().startswith(argument.lower()),
    "endswith": lambda value, argument: value.endswith(argument),
    "iendswith": lambda value, argument: value.lower().endswith(argument.lower()),
    "icontains": lambda value, argument: argument.lower() in value.lower(),
    "iexact": lambda value, argument: value.lower() == argument.lower(),
}


def text_of(value: Any) -> str:
    """A JSON value in the form of a query parameter."""
    match value:
        case bool():
            return str(value).lower()
        case list():
            return ",".join('"' + item.replace('"', '""') + '"' for item in value)
    return str(value)


def contains(value: Any, argument: Any) -> bool:
    return all(item in value for item in argument) if isinstance(value, list) else argument in value


async def fill(library: Service) -> dict[str, dict[str, Any]]:
    """One row for each value of each field, the others null; rows by id."""
    rows = {}
    for name, values in VALUES.items():
        for value in values:
            row = await library.post("/kinds/", {name: value})
            rows[row["id"]] = row
    row = await library.post("/kinds/", {})
    return rows | {row["id"]: row}


def cases(name: str, lookup: str) -> list[tuple[str, Any]]:
    """Parameters for a lookup: the text and its value."""
    values = VALUES[name]
    match lookup:
        case "isnull":
            return [("true", True), ("false", False)]
        case "in" | "not_in":
            return [(text_of([text_of(value) for value in chosen]), chosen) for chosen in (values[:2], values[1:], [])]
        case "range":
            return [
                (text_of([text_of(low), text_of(high)]), [low, high]) for low, high in itertools.product(values, values)
            ]
        case "exact" | "ne" | "gt" | "gte" | "lt" | "lte":
            return [(json.dumps(v) if name == "json" else text_of(v), v) for v in values]
    texts = [value for value in values if isinstance(value, str)]
    return [(part, part) for text in texts for part in (text[:3], text[-3:], text, text.upper(), text[1:-1])]


async def test_every_lookup_on_every_type_finds_what_python_finds(library: Service) -> None:
    """Each lookup of each kind of field gives the rows for which the same comparison holds in Python; null never does.

    The exceptions say so: ``ne`` holds for null, and ``isnull`` asks for it.
    """
    rows = await fill(library)
    for name, lookups in every_lookup(KINDS).items():
        if name == "id":
            continue
        load = PARSE.get(name, lambda value: value)
        for lookup in lookups:
            if lookup in ("regex", "iregex", "search", "contains", "overlap"):
                continue  # below
            for text, argument in cases(name, lookup):
                parameter = name if lookup == "exact" else f"{name}__{lookup}"
                found = {row["id"] for row in await library.rows("/kinds/", **{parameter: text, "page_size": "1000"})}
                expected = set()
                for key, row in rows.items():
                    value = row[name]
                    if lookup == "isnull":
                        holds = (value is None) == argument
                    elif value is None:
                        holds = lookup in ("ne", "not_in")
                    else:
                        meant = [load(v) for v in argument] if lookup in ("in", "not_in", "range") else load(argument)
                        holds = ORACLE[lookup](load(value), meant)
                    if holds:
                        expected.add(key)
                assert found == expected, (name, lookup, text)


MEANINGS: list[tuple[str, str, list[Any]]] = [
    ("string__contains", "%", ["al%_\\a"]),
    ("string__contains", "_", ["al%_\\a"]),
    ("string__contains", "\\", ["al%_\\a"]),
    ("string__icontains", "%_\\A", ["al%_\\a"]),
    ("string__startswith", "a%", []),
    ("string__contains", "", ["alpha", "al%_\\a", "beta, gamma"]),
    ("text__contains", '"', ['quo"te']),
    ("text__regex", "^(one|two)", ["one", "two\nlines"]),
    ("text__iregex", "^O.E$", ["one"]),
    ("text__search", "lines two", ["two\nlines"]),
    ("json", '"text"', ["text"]),
    ("json__contains", '{"a": [null]}', [{"a": [1, None, "x"]}]),
    ("json__contains", "[2]", [[1, 2]]),
    ("words", "", [[]]),
    ("words", '"b","c, d"', [["b", "c, d"]]),
    ("words__contains", "b", [["a", "b"], ["b", "c, d"]]),
    ("words__overlap", "a,x", [["a", "b"]]),
    ("words__overlap", '"c, d",b', [["a", "b"], ["b", "c, d"]]),
    ("words__overlap", "", []),
    ("amounts__overlap", "2.00,7", [["1.50", "2"], ["2"]]),
    ("amounts", "1.5,2.00", [["1.50", "2"]]),
    ("amounts__contains", "2.0", [["1.50", "2"], ["2"]]),
    ("datetime", "2024-02-29T12:00:00.5", ["2024-02-29T12:00:00.5+00:00"]),
    ("datetime", "2024-02-29T13:00:00.500+01:00", ["2024-02-29T12:00:00.5+00:00"]),
    ("datetime", "2024-02-29t12:00:00.500000000z", ["2024-02-29T12:00:00.5+00:00"]),
    ("datetime__range", "2024-02-29T12:00,2024-02-29T12:01", ["2024-02-29T12:00:00.5+00:00"]),
    ("datetime__gte", "9999-12-31", ["9999-12-31T23:59:59.999999+00:00"]),
    ("boolean", "1", [True]),
    ("boolean", "False", [False]),
    ("uuid", "FFFFFFFF-ffff-ffff-ffff-ffffffffffff", ["ffffffff-ffff-ffff-ffff-ffffffffffff"]),
    ("decimal", "+1e-1", ["0.10"]),
    ("integer__in", "", []),
]


async def test_lookup_means_what_it_says(library: Service) -> None:
    """Patterns are literal except in ``regex``; lists, moments and numbers are accepted in each of their forms."""
    await fill(library)
    for parameter, text, values in MEANINGS:
        name = parameter.partition("__")[0]
        found = [row[name] for row in await library.rows("/kinds/", **{parameter: text})]
        assert sorted(found, key=repr) == sorted(values, key=repr), (parameter, text)


WRONG = {
    "integer": ["x", "1.5", "2147483648", "9" * 40, "", "null", "\uff11"],
    "big_integer": ["9223372036854775808", " 1"],
    "float": ["x", "nan", "inf", "1e999", ""],
    "decimal": ["x", "NaN", "Infinity", "1" * 3000, "1e99999", "0.001"],
    "boolean": ["yes", "", "2"],
    "date": ["2023-02-29", "20240101", "x", "2024-1-1", "0000-01-01", "10000-01-01"],
    "time": ["24:61", "x"],
    "datetime": [
        "x",
        "2026-01-01 11:23:00Z",
        "2026-01-01 11:23",
        "2024-02-30T00:00:00Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
    ],
    "duration": ["1 day", "P", "PT", "P1Y", "P99999999999D"],
    "uuid": ["x", "0" * 32, "{00000000-0000-0000-0000-000000000001}"],
    "json": ["{", "NaN", "1e999", "[" * 2000, '"\\ud800"', '"\\u0000"'],
    "string": ["\0", "a\0b"],
    "words": ["\0"],
    "amounts": ["1,x"],
    "id": ["1"],
    "integer__in": ["1,x", "1,,2"],
    "integer__range": ["1", "1,2,3", "a,b", ""],
    "integer__isnull": ["", "null", "maybe"],
    "text__regex": ["(", "[", "*", "\0"],
    "text__iregex": ["(?"],
}


async def test_value_that_does_not_parse_is_refused_by_name(library: Service) -> None:
    """A value that the field cannot have is a 400 that names the parameter."""
    for parameter, text in [(name, text) for name, texts in WRONG.items() for text in texts]:
        problem = await library.get("/kinds/", 400, query={parameter: text})
        assert problem["detail"].startswith(parameter), problem


async def test_choices_are_named(library: Service) -> None:
    """A filter by a value outside the choices is a 400 that lists them, in a list too; a choice may contain a comma."""
    for parameter, text in (
        ("state", "lost"),
        ("state__ne", "lost"),
        ("state__in", "draft,lost"),
        ("moods", "calm,angry"),
    ):
        problem = await library.get("/books/", 400, query={parameter: text})
        assert problem["detail"].startswith(parameter), problem
        assert ("calm" if parameter == "moods" else "draft") in problem["detail"]
    author = await library.post("/authors/", {"name": "a"})
    for state in ("draft", "gone, long"):
        await library.post("/books/", {"title": state, "state": state, "author_id": author["id"], "moods": ["calm"]})
    assert [book["title"] for book in await library.rows("/books/", state__in='"gone, long",out')] == ["gone, long"]
    assert [book["title"] for book in await library.rows("/books/", state="gone, long")] == ["gone, long"]
    assert len(await library.rows("/books/", state__contains="raf")) == 1, (
        "a part of a choice is none, and may be asked for"
    )
    assert len(await library.rows("/books/", moods="calm")) == 2
    assert await library.rows("/books/", moods="wild") == []


UNKNOWN = [
    ("titel=x", "titel"),
    ("yeer=1", "year"),
    ("year__gt=1", "year__"),
    ("author__mentor=x", "author__"),
    ("summary=x", "summary"),
    ("code=x", "code"),
    ("cursor=x", "cursor"),
    ("limit=1", "limit"),
    ("last_event_id=1", "last_event_id"),
    ("=x", "parameter"),
    ("%00=x", "parameter"),
    ("page[]=1", "page"),
    ("year=1&year=2", "year"),
    ("page=1&page=1", "page"),
]


async def test_parameter_that_is_unknown_or_repeated_is_refused(library: Service) -> None:
    """No parameter is ever ignored."""
    for query, word in UNKNOWN:
        _, problem = await library.ask("GET", f"/books/?{query}", status=400)
        assert word in problem["detail"], query


async def test_parameter_that_is_no_text_is_refused_by_name(library: Service) -> None:
    """Bytes that are not UTF-8 are no value, on lists, rows and streams; the character that stands for them elsewhere is."""
    author = await library.post("/authors/", {"name": "Anna"})
    await library.post("/books/", {"title": "\N{REPLACEMENT CHARACTER}", "author_id": author["id"]})
    for path in ("/authors/", f"/authors/{author['id']}/", "/authors/stream/"):
        for query in ("name=%FF", "name=a&search=%C3%28", "%FF=1"):
            problem = await library.get(f"{path}?{query}", 400)
            assert problem["detail"].endswith("is not UTF-8 in percent-encoding."), (path, query)
    assert (await library.get("/books/?search=%EF%BF%BD"))["count"] == 1


async def test_a_request_has_at_most_a_thousand_parameters(library: Service) -> None:
    """More are a 400, on lists, rows and streams, also where unknown parameters are ignored."""
    row = await library.post("/loose/", {"name": "a"})
    for path in ("/books/", "/books/stream/", "/loose/", f"/loose/{row['id']}/"):
        problem = await library.get(f"{path}?{'&'.join(f'a{n}=' for n in range(1001))}", 400)
        assert problem["detail"] == "There are more than 1000 parameters."
    await library.get(f"/loose/?{'&'.join(f'a{n}=' for n in range(1000))}")


async def test_strict_query_off_ignores_unknown_parameters_only(library: Service) -> None:
    """With ``strict_query: false`` unknown parameters are ignored; all others are still checked."""
    await library.post("/loose/", {"name": "a"})
    assert len(await library.rows("/loose/", utm_source="x", nmae="y")) == 1
    assert len(await library.rows("/loose/", name="b", utm_source="x")) == 0
    await library.get("/loose/", 400, page="x")
    await library.get("/loose/", 400, ordering="id")
    row = (await library.rows("/loose/"))[0]
    await library.get(f"/loose/{row['id']}/", utm_source="x")


async def shelf(library: Service) -> dict[str, str]:
    """A few books with rows of every relation; titles by id."""
    for code, name in (("fr", "France"), ("jp", "Japan, far")):
        await library.post("/countries/", {"code": code, "name": name})
    authors = {}
    for name, country in (("Anna", "fr"), ("Bo", "jp"), ("Cy", None)):
        authors[name] = (await library.post("/authors/", {"name": name, "country_id": country}))["id"]
    await library.patch(f"/authors/{authors['Bo']}/", {"mentor_id": authors["Anna"]})
    tags = [(await library.post("/tags/", {"name": name}))["id"] for name in ("red", "reddish", "blue")]
    titles = {}
    for title, author, editor, linked, year, stars in (
        ("a1", "Anna", "Bo", tags[:2], 1999, [5, 1]),
        ("a2", "Anna", None, tags[2:], None, []),
        ("b1", "Bo", "Anna", [], 2001, [3]),
        ("c1", "Cy", "Cy", tags, None, [5]),
    ):
        body = {
            "title": title,
            "author_id": authors[author],
            "editor_id": authors.get(editor or ""),
            "tags": linked,
            "year": year,
        }
        book = await library.post("/books/", body)
        titles[book["id"]] = title
        for number in stars:
            await library.post("/reviews/", {"book_id": book["id"], "stars": number})
    return {"Anna": authors["Anna"], "red": str(tags[0]), "blue": str(tags[2]), **titles}


async def test_filters_cross_relations(library: Service) -> None:
    """A path may follow foreign keys, links and reverse relations; a row is found once, even if several rows match."""
    shelved = await shelf(library)
    for params, titles in (
        ({"author": shelved["Anna"]}, "a1 a2"),
        ({"author__in": shelved["Anna"]}, "a1 a2"),
        ({"author__name": "Bo"}, "b1"),
        ({"author__name__icontains": "N"}, "a1 a2"),
        ({"author__country": "jp"}, "b1"),
        ({"author__country__isnull": "true"}, "c1"),
        ({"author__country__name": "Japan, far"}, "b1"),
        ({"author__country__name__in": '"Japan, far",France'}, "a1 a2 b1"),
        ({"author__country__name__startswith": "F"}, "a1 a2"),
        ({"author__country__name__isnull": "true"}, "c1"),
        ({"author__country__name__isnull": "false"}, "a1 a2 b1"),
        ({"editor__name": "Anna"}, "b1"),
        ({"editor__name__ne": "Anna"}, "a1 a2 c1"),
        ({"editor__name__isnull": "true"}, "a2"),
        ({"tags": shelved["red"]}, "a1 c1"),
        ({"tags__in": f"{shelved['red']},{shelved['blue']}"}, "a1 a2 c1"),
        ({"tags__isnull": "true"}, "b1"),
        ({"tags__isnull": "false"}, "a1 a2 c1"),
        ({"tags__name": "blue"}, "a2 c1"),
        ({"tags__name__startswith": "red"}, "a1 c1"),
        ({"reviews__stars__gte": "3"}, "a1 b1 c1"),
        ({"reviews__stars": "5", "author__name": "Anna"}, "a1"),
        ({"year__isnull": "true", "author__name": "Anna"}, "a2"),
        ({"year__range": "1999,2000"}, "a1"),
    ):
        body = await library.get("/books/", query=params)
        assert " ".join(book["title"] for book in body["results"]) == titles, params
        assert body["count"] == len(titles.split())
    assert [row["name"] for row in await library.rows("/authors/", books__title="b1")] == ["Bo"]
    assert {row["name"] for row in await library.rows("/authors/", books__title__icontains="1")} == {"Anna", "Bo", "Cy"}
    assert [row["name"] for row in await library.rows("/authors/", mentor__name="Anna")] == ["Bo"]
    assert {row["name"] for row in await library.rows("/authors/", mentor__name__ne="Anna")} == {"Anna", "Cy"}


async def test_search_matches_all_words_in_any_field(library: Service) -> None:
    """Words may be anywhere, phrases match as a whole, case and field do not matter, ``% _ \\`` are literal."""
    author = (await library.post("/authors/", {"name": "Zoe Quill"}))["id"]
    for title, summary in (("Red house", "on a hill"), ("Blue House", "100% _sure_ a\\b"), ("hill red", "x")):
        await library.post("/books/", {"title": title, "summary": summary, "author_id": author})
    for text, titles in (
        ("red", {"Red house", "hill red"}),
        ("HOUSE hill", {"Red house"}),
        ('"red house"', {"Red house"}),
        ('"house red"', set()),
        ("quill zoe", {"Red house", "Blue House", "hill red"}),
        ("quill blue", {"Blue House"}),
        ("%", {"Blue House"}),
        ("_s", {"Blue House"}),
        ("a\\b", {"Blue House"}),
        ("\\", {"Blue House"}),
        ("h%e", set()),
        ("", {"Red house", "Blue House", "hill red"}),
        ("   ", {"Red house", "Blue House", "hill red"}),
        ('""', {"Red house", "Blue House", "hill red"}),
        ('"', set()),
        ('"hill', set()),
    ):
        assert {book["title"] for book in await library.rows("/books/", search=text)} == titles, text
    await library.get("/books/", 400, search="a\0b")
    problem = await library.get("/books/", 400, search=" ".join("abcdefghijklmnopqrs"))
    assert problem["detail"].startswith("search")
    await library.get("/tags/", 400, search="no search fields here")


async def test_search_prefixes(library: Service) -> None:
    """``^`` matches the beginning, ``=`` the whole, ``$`` a regular expression, ``@`` full text; no prefix matches a part."""
    for name, value in (
        ("plain", "xkey1y"),
        ("start", "Key1x"),
        ("whole", "KEY1"),
        ("pattern", "k.y key1"),
        ("full", "some key1 words"),
    ):
        await library.post("/finds/", {name: value})
    for name, value in (("start", "xkey1"), ("whole", "key1x"), ("full", "somekey1")):
        await library.post("/finds/", {name: value})

    async def found(text: str) -> set[str]:
        return {value for row in await library.rows("/finds/", search=text) for value in row.values() if value} - keys

    keys = {row["id"] for row in await library.rows("/finds/")}
    assert await found("key1") == {"xkey1y", "Key1x", "KEY1", "k.y key1", "some key1 words"}
    assert await found("^K.Y") == {"k.y key1"}
    assert await found('"words some"') == {"some key1 words"}
    problem = await library.get("/finds/", 400, search="(")
    assert problem["detail"].startswith("search"), problem


async def test_ordering_follows_every_step(library: Service) -> None:
    """Rows are in the requested order, over relations too, or in the default order; null is the largest value."""
    await shelf(library)
    for ordering, titles in (
        ("title", "a1 a2 b1 c1"),
        ("-title", "c1 b1 a2 a1"),
        ("year,title", "a1 b1 a2 c1"),
        ("-year,-title", "c1 a2 b1 a1"),
        ("-author__name,title", "c1 b1 a1 a2"),
        ("author__country__name,-title", "a2 a1 b1 c1"),
        ("editor__name", "b1 a1 c1 a2"),
        ("-editor__name", "a2 c1 a1 b1"),
        (" title , -year ", "a1 a2 b1 c1"),
        ("", "a1 a2 b1 c1"),
    ):
        rows = await library.rows("/books/", ordering=ordering)
        assert " ".join(book["title"] for book in rows) == titles, ordering
    assert [row["title"] for row in await library.rows("/books/")] == ["a1", "a2", "b1", "c1"]


async def test_ordering_by_another_field_is_refused(library: Service) -> None:
    """Only ``ordering_fields`` are allowed; the response names them or the nearest."""
    for ordering in ("id", "--title", "-", ",", "title,", "title;year", "author", "code", "titel", "?"):
        problem = await library.get("/books/", 400, ordering=ordering)
        assert problem["detail"].startswith("ordering"), ordering
        assert "title" in problem["detail"] or "author__name" in problem["detail"], ordering


async def test_every_type_can_be_ordered_by(library: Service) -> None:
    """Each type can be sorted in both directions; null is the largest value."""
    rows = await fill(library)
    for name, values in VALUES.items():
        if name in ("json", "words", "string", "text"):
            continue  # theirs is PostgreSQL's or the collation's
        expected = [rows[key][name] for key in rows if rows[key][name] is not None]
        nulls = [None] * (len(rows) - len(expected))
        if name == "amounts":
            expected.sort(key=lambda value: [Decimal(item) for item in value])
        up = [row[name] for row in await library.rows("/kinds/", ordering=name, page_size="1000")]
        down = [row[name] for row in await library.rows("/kinds/", ordering=f"-{name}", page_size="1000")]
        assert up == [*expected, *nulls], name
        assert down == [*nulls, *reversed(expected)], name
        assert len(values) == len(expected)
