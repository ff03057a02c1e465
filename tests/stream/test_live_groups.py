"""Live aggregates: at each position that a client has, it has what the query gives there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Mapping
from dataclasses import replace
from decimal import Context, Decimal
from typing import Any

import asyncpg
import orjson
import pytest

from rowcast.changes.position import Position, Snapshot
from rowcast.query.tallies import average
from rowcast.resources.resource import Resources
from rowcast.resources.traits import TableTraits
from rowcast.rest.plan import SERVICE
from rowcast.streams import board
from tests.conftest import Client, Serve
from tests.sse import Event, EventSource, listen
from tests.stream.test_access import JWT, bearer
from tests.waiting import until

FIELDS = """
fields:
  id: {type: integer, primary_key: true}
  author: {type: foreign_key, to: authors, null: true, on_delete: set_null, related_name: %s}
  kind: {type: string, max_length: 20, null: true}
  price: {type: decimal, max_digits: 12, decimal_places: 3, null: true}
  pages: {type: integer, null: true}
  big: {type: big_integer, null: true}
  whole: {type: decimal, max_digits: 9, decimal_places: 0, default: 4}
  weight: {type: float, null: true}
  published: {type: datetime, null: true}
  bought: {type: date, null: true}
  hidden: {type: string, null: true, write_only: true}
viewset:
  permission_classes: [AllowAny]
  filterset_fields: {pages: [exact, gte], kind: [exact, ne, icontains, regex], author__name: [exact]}
  search_fields: [kind]
  max_page_size: 20
  aggregates:
    group_by: [author, author__name, kind, published, bought, price]
    count: [pages]
    sum: [price, pages, big, weight, whole]
    avg: [price, pages, big, weight]
    min: [price, kind, published]
    max: [price, kind, bought]
    count_distinct: [kind, author]
"""
AUTHORS = """
fields: {id: {type: integer, primary_key: true}, name: {type: string, max_length: 20}}
viewset: {permission_classes: [AllowAny]}
"""
RESOURCES = {"books": FIELDS % "books", "shadows": FIELDS % "shadows", "authors": AUTHORS}
STRINGS = {
    "books": (FIELDS % "books").replace("author__name, kind,", "author__name, kind, big,"),
    "authors": AUTHORS,
}
pytestmark = pytest.mark.tables(RESOURCES)
POSITIONS = 12  # that a client of the random tests has seen in the end
CHECKED = 5
Table = dict[str, dict[str, Any]]


def keyed(rows: list[dict[str, Any]], query: str) -> Table:
    """Rows of results by their group; the group has the names of ``group_by`` as rows show them."""
    names = dict(pair.split("=", 1) for pair in query.split("&")).get("group_by", "")
    groups = [{"author": "author_id"}.get(name, name) for name in names.split(",") if name]
    return {json.dumps([row[name] for name in groups]): row for row in rows}


async def results(client: Client, query: str, resource: str = "books") -> tuple[Table, str]:
    """The results of ``/aggregate/``, and the position from which their stream goes on."""
    response = await client.get(f"/{resource}/aggregate/?page_size=20&{query}")
    body = await response.json()
    assert response.status == 200, body
    assert body["next"] is None
    return keyed(body["results"], query), response.headers["X-Stream-Position"]


def apply(table: Table, event: Event) -> None:
    """Change a client's table as an event says."""
    body = event.json()
    key = json.dumps(list(body["group"].values()))
    table.pop(key, None)
    if body["data"] is not None:
        table[key] = body["data"]


async def begin(source: EventSource, query: str, before: str = "") -> tuple[Table, str]:
    """The table of a stream with ``snapshot=true``, and its position; ``before`` is the one that its client has."""
    table: Table = {}
    async for event in source:
        if event.event == "ready":
            assert event.id != before
            return table, event.id
        assert (event.event, event.id) == ("snapshot", before), "a client that comes back now needs all groups"
        table |= keyed(event.json()["rows"], query)
    raise AssertionError("the stream has ended")


async def settled(source: EventSource, table: Table, expected: Table) -> None:
    """Apply events until the table is as expected."""
    while table != expected:
        event = await source.next()
        assert event.event == "group"
        apply(table, event)


INCREMENTAL = "group_by=author&count=*,pages&sum=price,pages,big&avg=price,pages,big"
READ = "group_by=kind&min=price,published&max=bought,kind&count_distinct=author&sum=weight"
QUERIES = (
    INCREMENTAL,
    READ,
    "count=*&sum=price,whole&avg=pages",
    "count=*&min=price&pages__gte=3",
    "group_by=kind,author&count=*&pages__gte=3&count__gte=2",
    "group_by=published__trunc_month,bought__trunc_week&sum=pages&sum_pages__ne=3",
    "group_by=published__trunc_hour&count=*&tz=Asia/Kolkata",
    "group_by=author__name&count=*&avg=price",
    "group_by=kind&count=*&author__name=ann",
    "group_by=price&count=*&kind__icontains=A",
    "group_by=author&count=*&sum=price&search=a",
)


@pytest.mark.parametrize("query", QUERIES)
async def test_each_change_of_a_group_is_sent(serve: Serve, sql: asyncpg.Connection, query: str) -> None:
    """Inserts, moves, NULLs and deletes, alone and together, from a snapshot and from the position of the results."""
    client = await serve(RESOURCES)
    await sql.execute("INSERT INTO authors (name) VALUES ('ann'), ('bob')")
    steps = (
        "INSERT INTO books (author_id, kind, price, pages, big, weight, published, bought) VALUES"
        " (1, 'a', 0.1, 3, 9223372036854775807, 0.5, '2024-02-29T23:30:00Z', '2024-02-29'),"
        " (1, 'A', 0.2, 4, 9223372036854775807, 1.5, '2024-03-31T22:30:00Z', '2024-03-01'),"
        " (2, 'b', 99999999.999, NULL, 1, NULL, '1999-12-31T23:59:59Z', NULL), (NULL, NULL, NULL, 5, NULL, NULL, NULL, NULL)",
        "UPDATE books SET author_id = 2, kind = 'b', bought = '2020-02-02' WHERE id = 1",
        "UPDATE books SET author_id = NULL, price = -0.001, pages = 7 WHERE id = 2",
        "UPDATE books SET kind = NULL, published = NULL, pages = NULL, price = NULL WHERE id = 1",
        "UPDATE authors SET name = 'ann' WHERE id = 2",
        "DELETE FROM authors WHERE id = 2",
        "UPDATE books SET kind = 'aa', pages = 10, price = price * 2",
        "DELETE FROM books WHERE id = 4",
        "INSERT INTO books (kind) VALUES ('x'), ('x')",
        "TRUNCATE books",
        "INSERT INTO books (kind, pages) VALUES ('x', 2)",
        "DELETE FROM books",
    )
    async with contextlib.AsyncExitStack() as stack:
        address = f"/books/aggregate/stream/?{query}"
        whole = await stack.enter_async_context(listen(client, f"{address}&snapshot=true"))
        held, _ = await begin(whole, query)
        watched, position = await results(client, query)
        assert held == watched
        watcher = await stack.enter_async_context(listen(client, address, last_id=position))
        assert ((ready := await watcher.next()).event, ready.id) == ("ready", position)
        for step in steps:
            await sql.execute(step)
            expected, position = await results(client, query)
            await settled(whole, held, expected)
            await settled(watcher, watched, expected)
            async with listen(client, address, last_id=position) as source:
                assert (await source.next()).event == "ready"


async def test_form_of_events(serve: Serve, sql: asyncpg.Connection) -> None:
    """A group has the names that rows show; its results come with it, null when it is gone; the last block has the id."""
    client = await serve(RESOURCES)
    async with listen(client, "/books/aggregate/stream/?group_by=author,kind&sum=price&snapshot=true") as source:
        assert (await source.next()).json() == {"resource": "books", "rows": []}
        event = await source.next()
        assert (event.event, event.json()) == ("ready", {"resource": "books"})
        await sql.execute("INSERT INTO authors (name) VALUES ('ann')")
        await sql.execute("INSERT INTO books (author_id, kind, price) VALUES (1, 'a', 2), (NULL, 'b', NULL)")
        first, second = await source.take(2)
        assert first.id == event.id != second.id
        assert sorted((first.data, second.data)) == [
            '{"group":{"author_id":1,"kind":"a"},"data":{"author_id":1,"kind":"a","sum_price":"2.000"}}',
            '{"group":{"author_id":null,"kind":"b"},"data":{"author_id":null,"kind":"b","sum_price":null}}',
        ]
        await sql.execute("DELETE FROM books WHERE kind = 'a'")
        assert (await source.next()).data == '{"group":{"author_id":1,"kind":"a"},"data":null}'


@pytest.mark.tables(STRINGS)
async def test_big_integers_are_strings(serve: Serve, sql: asyncpg.Connection) -> None:
    """Sums that are counted, and groups, have the form of the results at each step; so do conditions on them."""
    client = await serve(STRINGS, "server: {big_integers: string}")
    query = "group_by=big&count=*&sum=big,pages,price&avg=big&sum_big__ne=3"
    async with listen(client, f"/books/aggregate/stream/?{query}&snapshot=true") as source:
        table, _ = await begin(source, query)
        for step in (
            "INSERT INTO books (big, pages, price) VALUES (9007199254740993, 2147483647, 0.5), (3, 1, NULL), (NULL, 5, 1)",
            "INSERT INTO books (big, pages) VALUES (9007199254740993, 2147483647), (3, NULL), (-3, 0)",
            "UPDATE books SET pages = 2, big = 9223372036854775807 WHERE big > 3",
            "DELETE FROM books WHERE id = 1",
        ):
            await sql.execute(step)
            expected, _ = await results(client, query)
            await settled(source, table, expected)
        assert table['["9223372036854775807"]'] == {
            "big": "9223372036854775807", "count": 1, "sum_big": "9223372036854775807", "sum_pages": "2",
            "sum_price": None, "avg_big": "9223372036854775807",
        }  # fmt: skip


async def test_averages_have_the_digits_of_postgresql(sql: asyncpg.Connection) -> None:
    """Sums of any size, with places and without, divided by counts."""
    chance = random.Random(7)
    cases = [(0, 3, 7), (0, 0, 1), (1, 0, 3), (-2, 0, 3), (-1, 4, 2), (10**40 + 5, 20, 10**6 - 1), (9999, 0, 9999)]
    for _ in range(2000):
        units = chance.randrange(10 ** chance.randrange(1, 45)) * chance.choice((1, -1))
        cases.append(
            (units, chance.choice((0, 1, 2, 3, 4, 5, 10, 25)), chance.randrange(1, 10 ** chance.randrange(1, 10)))
        )
    sums = [f"{Decimal(units).scaleb(-places, Context(prec=100)):f}" for units, places, _ in cases]
    expected = await sql.fetch(
        "SELECT (sum::numeric / count::numeric)::text FROM unnest($1::text[], $2::bigint[]) AS given (sum, count)",
        sums, [count for _, _, count in cases],
    )  # fmt: skip
    for case, (text,) in zip(cases, expected, strict=True):
        assert f"{average(*case):f}" == text, case


# --- at every position


async def write(url: str, seed: int, done: asyncio.Event) -> None:
    """Change books and authors at random, in transactions of several statements, some of which are rolled back."""
    chance = random.Random(seed)
    connection = await asyncpg.connect(url)
    while not done.is_set():
        with contextlib.suppress(asyncpg.DeadlockDetectedError):
            transaction = connection.transaction()
            await transaction.start()
            try:
                for _ in range(chance.randint(1, 3)):
                    await connection.execute(statement(chance))
                    await asyncio.sleep(chance.choice((0, 0, 0.005)))
            except asyncpg.DeadlockDetectedError:
                await transaction.rollback()
            else:
                await (transaction.rollback() if chance.random() < 0.2 else transaction.commit())
    await connection.close()


def statement(chance: random.Random) -> str:
    """A change of some books."""

    def value(*some: str) -> str:
        return chance.choice((*some, "NULL"))

    values = {
        "author_id": value("1", "2", "3"), "kind": value("'a'", "'A'", "'b'"), "price": value("0.1", "-7.125", "1e8"),
        "pages": value("3", "4", "-5"), "big": value("9223372036854775807", "-1"), "weight": value("0.5", "-2.25"),
        "published": value("'2024-02-29T23:30Z'", "'2024-03-01T00:00Z'", "'1999-12-31T20:00Z'"),
        "bought": value("'2024-02-29'", "'2024-03-04'"),
    }  # fmt: skip
    key = chance.randrange(12)
    roll = chance.random()
    if roll < 0.3:
        return f"DELETE FROM books WHERE id = {key}"
    if roll < 0.33:
        return f"UPDATE authors SET name = '{chance.choice(('ann', 'bob'))}' WHERE id = {chance.randint(1, 3)}"
    if roll < 0.35:
        return "TRUNCATE books" if chance.random() < 0.3 else "DELETE FROM books"
    names, changes = ", ".join(values), ", ".join(f"{name} = {each}" for name, each in values.items())
    return f"INSERT INTO books (id, {names}) VALUES ({key}, {', '.join(values.values())}) ON CONFLICT (id) DO UPDATE SET {changes}"


async def follow(clients: list[Client], query: str, chance: random.Random) -> dict[str, Table]:
    """The tables of a client at positions. It disconnects at random, resumes on any replica, and begins in both ways."""
    found: dict[str, Table] = {}
    table: Table = {}
    last_id = ""
    address = f"/books/aggregate/stream/?{query}"
    while True:
        client, snapshot = chance.choice(clients), chance.random() < 0.5
        if not last_id and not snapshot:
            table, last_id = await results(client, query)
            found[last_id] = dict(table)
        path = f"{address}&snapshot=true" if snapshot else address
        async with listen(client, path, last_id=last_id or None, deadline=60) as source:
            for _ in range(chance.randrange(1, 25)):
                try:
                    event = await source.next()
                except EOFError:  # the service ends a stream that it cannot serve, and the client resumes
                    break
                match event.event:
                    case "reset":
                        table, last_id = {}, ""
                    case "snapshot":
                        table |= keyed(event.json()["rows"], query)
                    case "group":
                        apply(table, event)
                if event.event == "ready" or (event.event == "group" and event.id != last_id):
                    last_id = event.id
                    found[last_id] = dict(table)
                if event.event == "reset" and not snapshot:
                    break  # to load the results again
                if len(found) == POSITIONS:
                    return found
        if last_id in found:
            table = dict(found[last_id])  # what came after it is sent again


async def rows_at(sql: asyncpg.Connection, position: str) -> list[dict[str, Any]]:
    """The books at a position, from the log alone."""
    place = Position.parse(position)
    assert place.n == 0, "never within a transaction"
    (value,) = await sql.fetchrow("SELECT snap FROM rowcast.tick WHERE tick = $1", place.tick)
    snapshots = [Snapshot.of(value), *([place.snapshot] if place.snapshot else [])]
    rows: dict[int, dict[str, Any]] = {}
    for change in await sql.fetch("SELECT xid, op, old, new FROM rowcast.change WHERE resource = 'books' ORDER BY seq"):
        if not any(snapshot.sees(change["xid"]) for snapshot in snapshots):
            continue
        if change["op"] == b"T":
            rows.clear()
        if change["old"]:
            del rows[orjson.loads(change["old"])["id"]]
        if change["new"]:
            row = orjson.loads(change["new"])
            rows[row["id"]] = row
    return list(rows.values())


async def check(sql: asyncpg.Connection, client: Client, query: str, found: Mapping[str, Table]) -> None:
    """Compare tables with what the same query gives of the rows at their positions."""
    for position, table in found.items():
        rows = json.dumps(await rows_at(sql, position))
        await sql.execute("DELETE FROM shadows")
        await sql.execute(
            "INSERT INTO shadows SELECT * FROM jsonb_populate_recordset(NULL::shadows, $1::text::jsonb)", rows
        )
        expected, _ = await results(client, query, "shadows")
        assert table == expected, (query, position)


@pytest.mark.parametrize(
    "queries",
    [QUERIES[:2], QUERIES[2:4], QUERIES[4:6], (QUERIES[6], QUERIES[9])],
    ids=["all", "one", "having", "zones"],
)
async def test_a_client_has_what_the_query_gives_at_every_position(
    serve: Serve, sql: asyncpg.Connection, database_url: str, queries: tuple[str, ...]
) -> None:
    """Under concurrent transactions, on two replicas, for clients that come, go, resume and load again."""
    patient = '{"stream": {"filter_timeout": "30s"}}'  # a statement that waits for a core does not end the streams
    clients = [await serve(RESOURCES, patient) for _ in range(2)]
    await sql.execute("INSERT INTO authors (name) VALUES ('ann'), ('bob'), ('eve')")
    done = asyncio.Event()
    writers = [asyncio.create_task(write(database_url, seed, done)) for seed in range(3)]
    chances = [(query, random.Random(seed)) for query in queries for seed in range(2)]
    followers = [asyncio.create_task(follow(clients, query, chance)) for query, chance in chances]
    try:
        found = await asyncio.gather(*followers)
    finally:
        done.set()
        await asyncio.gather(*writers)
    for (query, chance), tables in zip(chances, found, strict=True):
        chosen = chance.sample(list(tables.items()), CHECKED)
        await check(sql, clients[0], query, dict(chosen))


# --- who receives what

SCOPED = """
from rowcast import BasePermission, IsAuthenticated, ModelViewSet

class Open(BasePermission):
    def has_permission(self, request, view):
        return view.action in request.user.claims.get("may", ["aggregate", "stream"])

class BookViewSet(ModelViewSet):
    permission_classes = [IsAuthenticated, Open]
    scope = {"kind": "$claims.kind"}
"""


async def test_rows_are_those_of_the_list(serve: Serve, sql: asyncpg.Connection) -> None:
    """A scope by claims holds for results and for the names of groups; both actions are needed; a token in the address."""
    books = RESOURCES["books"].replace("permission_classes: [AllowAny]", "class: viewsets:BookViewSet")
    client = await serve({**RESOURCES, "books": books}, service=JWT, modules={"viewsets": SCOPED})
    path = "/books/aggregate/stream/?group_by=kind,author&count=*"
    for may, status in ((["aggregate"], 403), (["stream"], 403), (["list"], 403)):
        response = await client.get(path, headers=bearer("ann", kind="a", may=may))
        assert response.status == status
    assert (await client.get(path)).status == 401
    await sql.execute("INSERT INTO authors (name) VALUES ('ann'), ('bob')")
    headers = bearer("ann", kind="a")
    response = await client.get("/books/aggregate/?count=*", headers=headers)
    start = response.headers["X-Stream-Position"]
    await sql.execute("INSERT INTO books (kind, author_id) VALUES ('b', 2), ('a', 1), ('b', 1)")
    await sql.execute("UPDATE books SET kind = 'c' WHERE author_id = 2")
    token = headers["Authorization"].removeprefix("Bearer ")
    for query in ("", "&min=price"):
        async with listen(client, f"{path}{query}&access_token={token}", last_id=start) as source:
            assert (await source.next()).event == "ready"
            assert (await source.next()).json()["group"] == {"kind": "a", "author_id": 1}
            await sql.execute("UPDATE books SET kind = 'b' WHERE kind = 'a'")
            event = (await source.next()).json()
            assert event == {"group": {"kind": "a", "author_id": 1}, "data": None}
            await sql.execute("UPDATE books SET kind = 'a' WHERE author_id = 1 AND id = 2")
            assert (await source.next()).json()["data"]["count"] == 1


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("count=*&ordering=count", "ordering: unknown parameter"),
        ("count=*&page=2", "page: unknown parameter"),
        ("count=*&fields=id", "fields: unknown parameter"),
        ("group_by=hidden", "group_by: cannot group by 'hidden'"),
        ("sum=pagse", "sum: 'pagse' is not allowed"),
        ("count=*&count__gte=x", "count__gte: "),
        ("count=*&sum_price__gte=1", "sum_price__gte: there is no result"),
        ("count=*&tz=Nowhere", "tz: 'Nowhere' is not a time zone"),
        ("count=*&kind__regex=(", "kind__regex: "),
        ("count=*&snapshot=maybe", "snapshot: "),
        ('count=*&filter={"or":[]}', "filter.or: "),
    ],
)
async def test_mistakes_are_those_of_the_results(serve: Serve, query: str, detail: str) -> None:
    """They are problem documents before the stream begins."""
    client = await serve(RESOURCES)
    response = await client.get(f"/books/aggregate/stream/?{query}")
    body = await response.json()
    assert (response.status, response.content_type) == (400, "application/problem+json")
    assert body["detail"].startswith(detail), body


async def test_stream_exists_where_both_do(serve: Serve) -> None:
    """Without one of the two there is no such address; OPTIONS and HEAD describe it."""
    books = RESOURCES["books"]
    without = books.replace("permission_classes", "stream_enabled: false\n  permission_classes")
    closed = books[: books.index("  aggregates:")]
    for config in (
        without,
        closed,
        books.replace("permission_classes", "allowed_actions: [list]\n  permission_classes"),
    ):
        client = await serve({**RESOURCES, "books": config})
        expected = 200 if "allowed_actions" in config else 404
        assert (await client.head("/books/aggregate/stream/")).status == expected
        paths = (await (await client.get("/openapi.json")).json())["paths"]
        assert ("/books/aggregate/stream/" in paths) == (expected == 200)
    response = await client.options("/books/aggregate/stream")
    assert (await response.json())["renders"] == ["text/event-stream"]


@pytest.mark.parametrize("query", ["group_by=kind&count=*", "group_by=kind&min=price"])
async def test_groups_have_a_bound(serve: Serve, sql: asyncpg.Connection, query: str) -> None:
    """``max_page_size`` times 100: more are a 400, and end a stream with a reset and a long retry."""
    books = RESOURCES["books"].replace("max_page_size: 20", "max_page_size: 1\n  page_size: 1")
    client = await serve({**RESOURCES, "books": books})
    await sql.execute("INSERT INTO books (kind) SELECT i::text FROM generate_series(1, 100) i")
    async with listen(client, f"/books/aggregate/stream/?{query}&snapshot=true") as source:
        assert len((await begin(source, query))[0]) == 100
        await sql.execute("INSERT INTO books (kind) VALUES ('more')")
        event = await source.next()
        assert (event.event, event.json()["reason"], source.retry) == ("reset", "too_many_groups", 60_000)
        with pytest.raises(EOFError):
            await source.next()
    response = await client.get(f"/books/aggregate/stream/?{query}")
    assert response.status == 400
    assert "more than 100 groups" in (await response.json())["detail"]


async def test_tables_with_policies_have_no_live_groups(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL applies policies to rows of tables, not to logged ones; the same for a table that groups only read."""
    client = await serve(RESOURCES)
    traits_of = Resources.traits_of

    def with_policies(resources: Resources, name: str) -> TableTraits:
        return replace(traits_of(resources, name), policies_apply=name == "authors")

    monkeypatch.setattr(Resources, "traits_of", with_policies)
    for path, expected in (("group_by=author__name", 404), ("author__name=x", 404), ("group_by=author", 200)):
        response = await client.head(f"/books/aggregate/stream/?{path}")
        assert response.status == expected
    response = await client.get("/books/aggregate/stream/?min=price&author__name=x")
    assert (await response.json())["code"] == "no_stream"


# --- positions


async def test_bad_positions_are_resets(serve: Serve, sql: asyncpg.Connection) -> None:
    """With a fresh position, or with all groups; then the stream goes on."""
    client = await serve(RESOURCES)
    await sql.execute("INSERT INTO books (kind) VALUES ('a')")
    path = "/books/aggregate/stream/?group_by=kind&count=*"
    async with listen(client, path, last_id="nonsense") as source:
        event = await source.next()
        assert (event.event, event.json()["reason"], bool(event.id)) == ("reset", "malformed", True)
        assert (await source.next()).event == "ready"
        await sql.execute("INSERT INTO books (kind) VALUES ('a')")
        assert (await source.next()).json()["data"] == {"kind": "a", "count": 2}
    async with listen(client, f"{path}&snapshot=true", last_id="nonsense") as source:
        event = await source.next()
        assert (event.event, event.json()["reason"], event.id) == ("reset", "malformed", "")
        assert (await begin(source, "group_by=kind"))[0] == {'["a"]': {"kind": "a", "count": 2}}
    _, position = await results(client, "group_by=kind&count=*")
    await sql.execute("TRUNCATE books")
    async with listen(client, path, last_id=position) as source:
        assert (await source.next()).event == "ready"
        assert (await source.next()).json()["reason"] == "truncated"
    _, position = await results(client, "group_by=author__name&count=*")
    await sql.execute("INSERT INTO authors (name) VALUES ('ann')")
    async with listen(client, "/books/aggregate/stream/?group_by=author__name&count=*", last_id=position) as source:
        assert (await source.next()).event == "ready"
        assert (await source.next()).json()["reason"] == "not_resumable"


async def test_clients_are_reset_when_the_feed_has_lost_events(serve: Serve, sql: asyncpg.Connection) -> None:
    """Those with all groups are sent them again."""
    client = await serve(RESOURCES)
    path = "/books/aggregate/stream/?group_by=kind&count=*"
    async with listen(client, path) as plain, listen(client, f"{path}&snapshot=true") as whole:
        assert (await plain.next()).event == "ready"
        await begin(whole, "group_by=kind")
        (found,) = await settled_boards(client, 1)
        found.restart("expired")
        event = await plain.next()
        assert (event.event, event.json()["reason"], bool(event.id)) == ("reset", "expired", True)
        event = await whole.next()
        assert event.event == "reset"
        assert (await begin(whole, "group_by=kind", event.id))[0] == {}
        await sql.execute("INSERT INTO books (kind) VALUES ('a')")
        for source in (plain, whole):
            assert (await source.next()).json()["data"] == {"kind": "a", "count": 1}


async def settled_boards(client: Client, number: int) -> list[board.Board]:
    """The boards of a service, once there are so many with all their streams live."""
    aggregates = client.app[SERVICE].hub.aggregates
    await until(lambda: len(aggregates.boards) == number and all(len(b.members) == b.users for b in aggregates.boards))
    return list(aggregates.boards)


async def test_equal_streams_share_a_board(serve: Serve, sql: asyncpg.Connection) -> None:
    """Equal requests have one state; the last one to leave lets the next heartbeat forget it."""
    client = await serve(RESOURCES, service="stream: {heartbeat: 100ms}")
    path = "/books/aggregate/stream/?group_by=kind&count=*"
    async with (
        listen(client, path) as first,
        listen(client, f"{path}&kind__ne=x") as other,
        listen(client, path) as second,
    ):
        for source in (first, other, second):
            await source.next()
        assert sorted(each.users for each in await settled_boards(client, 2)) == [1, 2]
        await sql.execute("INSERT INTO books (kind) VALUES ('a')")
        assert (await first.next()).data == (await second.next()).data
    await settled_boards(client, 0)


async def test_groups_are_sent_ten_times_a_second(serve: Serve, sql: asyncpg.Connection) -> None:
    """However many changes there are in between, they are one frame."""
    client = await serve(RESOURCES)
    async with listen(client, "/books/aggregate/stream/?count=*") as source:
        start = (await source.next()).id
        (found,) = await settled_boards(client, 1)
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(100):
            await sql.execute("INSERT INTO books (kind) VALUES ('a')")
        table: Table = {}
        await settled(source, table, {"[]": {"count": 100}})
        assert found.serial <= 2 + (loop.time() - began) / board.PAUSE_SECONDS
        assert source.last_id != start


async def test_slow_client_gets_the_newest_groups(
    serve: Serve, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member whose buffer is full leaves, and later gets what has changed in the meantime, each group once."""
    client = await serve(RESOURCES)
    async with listen(client, "/books/aggregate/stream/?group_by=kind&count=*&snapshot=true") as source:
        table, _ = await begin(source, "group_by=kind")
        (found,) = await settled_boards(client, 1)
        (member,) = found.members
        member.leave()
        for kind in "abcab":
            await sql.execute("INSERT INTO books (kind) VALUES ($1)", kind)
        expected, _ = await results(client, "group_by=kind&count=*")
        await settled(source, table, expected)
