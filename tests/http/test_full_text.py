"""The option ``search``: PostgreSQL's full text search, with ranks and highlights."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

import pytest

from rowcast.errors import ConfigurationError

from ..sse import listen
from .conftest import Run

BOOKS: dict[str, Any] = {
    "fields": {
        "id": {"type": "integer", "primary_key": True},
        "title": {"type": "string", "max_length": 200},
        "body": {"type": "text", "null": True},
        "pages": {"type": "integer", "default": 1},
    },
    "search": {"language": "english", "fields": {"title": "A", "body": "B"}},
    "viewset": {
        "pagination_class": "CursorPagination",
        "filterset_fields": {"pages": ["gte"]},
        "ordering_fields": ["pages"],
        "bulk": ["update", "destroy"],
        "aggregates": {"sum": ["pages"], "count": []},
        "max_page_size": 1000,
        "cache": "responses",
    },
}
KINDS: dict[str, Any] = {
    **BOOKS,
    "fields": {**BOOKS["fields"], "kind": {"type": "string", "max_length": 5, "null": True}},
    "viewset": {**BOOKS["viewset"], "aggregates": {"group_by": ["kind"], "sum": ["pages"]}},
}
ROWS = [
    {"title": "Walking in the hills", "body": "A book about walks.", "pages": 100},
    {"title": "Cooking", "body": "Eat after you walked far.", "pages": 200},
    {"title": "<b>Tea</b> & 'walks'", "body": None, "pages": 300},
    {"title": "Nothing", "body": "Of the sort.", "pages": 400},
]


def address(url: str) -> str:
    """The path and the query of an absolute URL."""
    return "/" + url.split("/", 3)[3]


async def ids(client: Any, query: str) -> list[int]:
    response = await client.get(f"/books/?{query}")
    assert response.status == 200, await response.text()
    return [row["id"] for row in (await response.json())["results"]]


async def test_search(run: Run) -> None:
    """The syntax is that of web search engines, and words are found in any form."""
    service = await run({"books": BOOKS})
    client = service.client
    assert (await client.post("/books/", json=ROWS)).status == 201
    for text, found in (
        ("walk", [1, 2, 3]),
        ("walking hill", [1]),
        ("walk -hills", [2, 3]),
        ("hills or cooking", [1, 2]),
        ('"walks in the"', [1, 2, 3]),
        ('"walked far"', [2]),
        ("", [1, 2, 3, 4]),
        ("the", []),
        ("'&!:*()<->", []),
    ):
        response = await client.get("/books/", params={"search": text})
        assert [row["id"] for row in (await response.json())["results"]] == found, text
    row = await (await client.get("/books/1/")).json()
    assert list(row) == ["id", "title", "body", "pages"]  # and nothing of the column that is searched
    assert await ids(client, "search=walk&pages__gte=200&ordering=-pages") == [3, 2]
    changed = await client.patch("/books/4/", json={"body": "To walk"})
    assert await changed.json() == {"id": 4, "title": "Nothing", "body": "To walk", "pages": 400}
    assert await ids(client, "search=walk") == [1, 2, 3, 4]
    searched = await client.request("QUERY", "/books/", json={"search": "hills", "highlight": ["title"]})
    assert (await searched.json())["results"][0]["highlight"] == {"title": "Walking in the <mark>hills</mark>"}
    export = await client.get("/books/?search=walk&ordering=-rank", headers={"Accept": "application/x-ndjson"})
    assert json.loads((await export.text()).splitlines()[0])["id"] == 1
    summed = await client.get("/books/aggregate/?search=cook&sum=pages&count=*")
    assert (await summed.json())["results"] == [{"count": 1, "sum_pages": 200}]
    bulk = await client.patch("/books/?search=cooking", json={"pages": 7})
    assert bulk.status == 200, await bulk.text()
    assert await service.sql.fetch("SELECT id FROM books WHERE pages = 7") == [(2,)]
    assert (await client.delete("/books/?search=cooking")).status in (200, 204)
    assert await service.sql.fetchval("SELECT count(*) FROM books") == 3
    index = "SELECT indexdef FROM pg_indexes WHERE indexname = 'ix_books_search_vector'"
    plan = await service.sql.fetchval(index)
    assert "USING gin (search_vector)" in plan


async def test_rank_is_an_order_for_cursors(run: Run) -> None:
    """Every row is on one page, in both directions, with many rows of the same rank."""
    service = await run({"books": BOOKS})
    client = service.client
    rows = [{"title": "walk " * (n % 7 + 1), "body": "walks far away " * (n % 3) or None} for n in range(60)]
    await client.post("/books/", json=rows)
    for order in ("-rank", "rank", "-rank,-pages", "pages,-rank"):
        whole = await ids(client, f"search=walk&ordering={order}&page_size=100")
        assert sorted(whole) == list(range(1, 61))
        found: list[int] = []
        url: str | None = f"/books/?search=walk&ordering={order}&page_size=7"
        page: dict[str, Any] = {}
        while url:
            page = await (await client.get(url)).json()
            found += [row["id"] for row in page["results"]]
            url = page["next"] and address(page["next"])
        assert found == whole, order
        before = await (await client.get(address(page["previous"]))).json()
        assert [row["id"] for row in before["results"]] == whole[49:56]
    best = await service.sql.fetchval(
        "SELECT array_agg(id ORDER BY ts_rank(search_vector, websearch_to_tsquery('english', 'walk')) DESC, id) FROM books"
    )
    assert await ids(client, "search=walk&ordering=-rank&page_size=100") == best


@pytest.mark.parametrize("pagination", ["PageNumberPagination", "LimitOffsetPagination", "CursorPagination", None])
async def test_highlights_are_safe_html(run: Run, pagination: str | None) -> None:
    """Everything but ``<mark>`` is escaped, whatever the text is."""
    service = await run({"books": {**BOOKS, "viewset": {**BOOKS["viewset"], "pagination_class": pagination}}})
    client = service.client
    await client.post("/books/", json=ROWS)
    await client.post("/books/", json={"title": "</mark><script>walk()</script>", "body": 'a&lt;walk "x"'})
    response = await client.get("/books/?search=walk&highlight=title,body")
    assert response.status == 200, await response.text()
    body = await response.json()
    rows = {row["id"]: row["highlight"] for row in (body["results"] if pagination else body)}
    assert rows == {
        1: {"title": "<mark>Walking</mark> in the hills", "body": "A book about <mark>walks</mark>."},
        2: {"title": "Cooking", "body": "Eat after you <mark>walked</mark> far."},
        3: {"title": "&lt;b&gt;Tea&lt;/b&gt; &amp; &#39;<mark>walks</mark>&#39;", "body": None},
        5: {
            "title": "&lt;/mark&gt;&lt;script&gt;<mark>walk</mark>()&lt;/script&gt;",
            "body": "a&amp;lt;<mark>walk</mark> &quot;x&quot;",
        },
    }
    shown = await (await client.get("/books/?search=hills&fields=id&highlight=title")).json()
    assert (shown["results"] if pagination else shown) == [
        {"id": 1, "highlight": {"title": "Walking in the <mark>hills</mark>"}}
    ]


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("ordering=-rank", "ordering: rank is for ?search= only."),
        ("search=%20&ordering=-rank", "ordering: rank is for ?search= only."),
        ("highlight=title", "highlight: is for ?search= only."),
        ("search=a&highlight=titel", "highlight: 'titel' is not searched here; did you mean title?"),
        ("search=a&highlight=", "highlight: '' is not searched here; valid here: title, body"),
        ("search=a&highlight=pages", "highlight: 'pages' is not searched here"),
        ("search=a%00b", "search: the character U+0000 is not allowed."),
        (f"search={'a' * 1001}", "search: at most 1000 characters."),
        ("search=a&ordering=rnak", "ordering: 'rnak' is not allowed; did you mean rank?"),
    ],
)
async def test_mistakes(run: Run, query: str, detail: str) -> None:
    service = await run({"books": BOOKS})
    response = await service.client.get(f"/books/?{query}")
    body = await response.json()
    assert (response.status, body["detail"][: len(detail)]) == (400, detail)


WORDS = ["walk", "walks", "hills", "Tea", "<b>", "cooking", "the", "far", "e-mail", "x.y"]
SEARCHES = ["walk -hills", '"walk far"', "tea or cooking", "the", "email", "x.y", "-walk"]


async def test_streams_have_what_the_search_finds(run: Run) -> None:
    """After each block the client's rows are those that the list shows, for rows with random words."""
    service = await run({"books": BOOKS})
    client, chance = service.client, random.Random(1)
    await client.post("/books/", json=ROWS)
    async with AsyncExitStack() as stack:
        sources = {}
        for search in SEARCHES:
            source = await stack.enter_async_context(
                listen(client, f"/books/stream/?search={quote(search)}&snapshot=true")
            )
            sources[search] = source
        for _ in range(40):
            text = {name: " ".join(chance.choices(WORDS, k=chance.randint(1, 3))) for name in ("title", "body")}
            await client.post("/books/", json=text)
            key = chance.randint(1, 30)
            await client.patch(f"/books/{key}/", json={"title": chance.choice(WORDS), "body": None})
        await service.sql.execute("UPDATE books SET title = 'walk far tea', body = 'x.y e-mail' WHERE id = 1")
        await service.sql.execute("UPDATE books SET title = 'none', body = NULL WHERE id = 1")
        for search, source in sources.items():
            rows = await (await client.get("/books/", params={"search": search, "page_size": "1000"})).json()
            wanted = {row["id"]: row for row in rows["results"]}
            held: dict[int, Any] = {}
            while True:
                event = await asyncio.wait_for(source.next(), 20)
                if event.event == "snapshot":
                    held |= {row["id"]: row for row in event.json()["rows"]}
                elif event.event == "message":
                    change = event.json()
                    held.pop(change["id"], None)
                    if change["data"] is not None:
                        held[change["id"]] = change["data"]
                if event.event != "snapshot" and held == wanted:
                    break


@pytest.mark.parametrize("search", ["walk", "walk -hills", '"walk far"', "tea or cooking"])
async def test_live_groups_are_those_of_what_the_search_finds(run: Run, search: str) -> None:
    """Rows that enter and leave what is found, whose numbers change, and that are deleted; the groups end as a query has them."""
    service = await run({"books": KINDS})
    await service.client.post("/books/", json=ROWS)
    query = f"group_by=kind&count=*&sum=pages&search={quote(search)}"
    async with listen(service.client, f"/books/aggregate/stream/?{query}&snapshot=true") as source:
        held: dict[Any, Any] = {}
        while (event := await source.next()).event == "snapshot":
            held |= {row["kind"]: row for row in event.json()["rows"]}
        for step in (
            "INSERT INTO books (title, kind) VALUES ('walk far', 'a'), ('tea, cooking', 'a'), ('nothing', 'b')",
            "UPDATE books SET title = 'walks, hills' WHERE kind = 'a'",
            "UPDATE books SET title = title || ' tea walk far', pages = pages * 2",
            "UPDATE books SET kind = 'c' WHERE id > 2",
            "UPDATE books SET title = 'hills', body = NULL WHERE kind = 'c'",
            "DELETE FROM books",
        ):
            await service.sql.execute(step)
            rows = (await service.get(f"/books/aggregate/?{query}"))["results"]
            while held != {row["kind"]: row for row in rows}:
                change = (await source.next()).json()
                held.pop(change["group"]["kind"], None)
                if change["data"] is not None:
                    held[change["group"]["kind"]] = change["data"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": {"fields": {"titel": "A"}}}, "there is no field 'titel'; did you mean title?"),
        ({"search": {"fields": {"pages": "A"}}}, "'pages' is not a string; valid here: title, body"),
        ({"search": {"fields": {"title": "E"}}}, "'E' is unknown"),
        ({"search": {"fields": {}}}, "fields: may not be empty"),
        (
            {"search": {"language": "en glish", "fields": {"title": "A"}}},
            "must be the name of a text search configuration",
        ),
        ({"viewset": {"search_fields": ["title"]}}, "contradicts 'search' of the resource"),
        ({"managed": False}, "'search' contradicts 'managed: false'"),
    ],
)
async def test_wrong_options(run: Run, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message.replace("?", r"\?").replace("[", r"\[")):
        await run({"books": {**BOOKS, **changes}})


async def test_the_document_describes_it(run: Run) -> None:
    service = await run({"books": BOOKS})
    document = await (await service.client.get("/openapi.json")).json()
    parameters = {each["name"]: each for each in document["paths"]["/books/"]["get"]["parameters"]}
    assert parameters["search"]["schema"]["maxLength"] == 1000
    assert parameters["highlight"]["schema"]["items"] == {"enum": ["title", "body"]}
    assert parameters["ordering"]["schema"]["items"]["enum"][-2:] == ["rank", "-rank"]
    assert "highlight" in document["components"]["schemas"]["BookFound"]["properties"]
    streamed = {each["name"] for each in document["paths"]["/books/stream/"]["get"]["parameters"] if "name" in each}
    assert "search" in streamed
    assert "highlight" not in streamed


async def test_options_describe_it(run: Run) -> None:
    """With the language, the weights of the fields that rows show, and those that can be highlighted."""
    service = await run({"books": BOOKS, "plain": {"fields": {"id": BOOKS["fields"]["id"]}}})
    listed = (await service.ask("OPTIONS", "/books/"))[1]["list"]
    assert listed["search"] is True
    assert listed["full_text"] == {
        "language": "english", "fields": {"title": "A", "body": "B"}, "highlight": ["title", "body"],
    }  # fmt: skip
    assert listed["ordering"][-1] == "rank"
    plain = (await service.ask("OPTIONS", "/plain/"))[1]["list"]
    assert (plain["search"], "full_text" in plain) == (False, False)
