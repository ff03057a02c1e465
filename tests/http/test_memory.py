"""The cache: it never has a value older than this process's writes, and soon none older than others' writes."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable
from typing import Any

import asyncpg
import pytest
from multidict import CIMultiDict

from rowcast.changes.cache import FEED_MAX_LAG_SECONDS, Cache, Dependencies
from rowcast.changes.events import Event
from rowcast.database.pool import Database
from rowcast.rest.plan import SERVICE

from ..conftest import Client, Serve
from ..waiting import until

OPEN = "viewset:\n  permission_classes: [AllowAny]\n"
GROUPS = "fields: {id: {type: integer, primary_key: true}, name: {type: string}}\n" + OPEN
ITEMS = (
    """
fields:
  id: {type: integer, primary_key: true}
  n: {type: integer, default: 0}
  group: {type: foreign_key, to: groups, null: true, on_delete: cascade}
  hidden: {type: integer, default: 0, write_only: true}
"""
    + OPEN
    + "  filterset_fields: {n: [exact, in], group__name: [exact]}\n  page_size: 2\n"
)
RESPONSES = {"groups": GROUPS, "items": ITEMS + "  cache: responses\n"}
COUNTS = {"groups": GROUPS, "items": ITEMS}
SCOPED = """
from rowcast import ModelViewSet, model

Item = model("items")

class Items(ModelViewSet):
    def get_queryset(self):
        return Item.objects.filter(hidden=0)
"""
ASKED = """
from rowcast import *

class ByPermissions(ModelViewSet):
    def get_permissions(self):
        return [IsAuthenticated() if "X-Refused" in self.request.headers else AllowAny()]

class ByPermission(BasePermission):
    def has_permission(self, request, view):
        return "X-Refused" not in request.headers

class BeforeAnything(ModelViewSet):
    async def initial(self, request):
        await super().initial(request)
        if "X-Refused" in request.headers:
            raise PermissionDenied()

class ByHeader(BaseFilterBackend):
    def filter_queryset(self, request, queryset, view):
        if "X-Refused" in request.headers:
            raise PermissionDenied()
        return queryset

class Wary(BaseAuthentication):
    def authenticate(self, request):
        if "X-Refused" in request.headers:
            raise AuthenticationFailed()
"""
SEED = int(os.environ.get("ROWCAST_TEST_SEED", random.randrange(2**32)))


pytestmark = pytest.mark.tables(RESPONSES)


def cache_of(client: Client) -> Cache:
    assert client.app is not None
    return client.app[SERVICE].cache


def database_of(client: Client) -> Database:
    assert client.app is not None
    return client.app[SERVICE].store.database


async def read(client: Client, path: str, **headers: str) -> Any:
    answer = await client.get(path, headers=headers)
    return await answer.json()


async def fill(client: Client, rows: int = 5) -> None:
    """A group and rows, which the feed has delivered."""
    assert client.app is not None
    heard: list[Event] = []
    stop = client.app[SERVICE].feed.subscribe(lambda batch: heard.extend(batch.events), lambda _: None)
    await client.post("/groups/", json={"name": "a"})
    for n in range(rows):
        await client.post("/items/", json={"n": n % 2, "group_id": 1})

    async def complete() -> bool:
        return len(heard) == rows + 1

    await until(complete)
    stop()


async def kept(client: Client, path: str) -> None:
    """Read a path that is now cached, as soon as the feed is current."""
    await until(lambda: cache_of(client).fresh)
    await client.get(path)


async def test_cached_responses_are_read_once(serve: Serve) -> None:
    """With ``cache: responses`` a second list and a second row cost no statement; ``no-cache`` reads them again."""
    client = await serve(RESPONSES)
    await fill(client)
    for path in ("/items/", "/items/1/", "/items/?n=1&page_size=1", "/items/?group__name=a"):
        await kept(client, path)
        before = database_of(client).statements
        first, second = await client.get(path), await client.get(path)
        assert database_of(client).statements == before
        assert await first.read() == await second.read()
        assert first.headers["ETag"] == second.headers["ETag"]
        assert "X-Stream-Position" in first.headers
        assert (await client.get(path, headers={"If-None-Match": first.headers["ETag"]})).status == 304
        await client.get(path, headers={"Cache-Control": "no-cache"})
        assert database_of(client).statements == before + 1
        lines = CIMultiDict([("Cache-Control", "max-age=0"), ("Cache-Control", "no-cache")])
        await client.get(path, headers=lines)
        assert database_of(client).statements == before + 2


async def test_the_rows_of_a_page_are_read_without_a_cached_count(serve: Serve) -> None:
    """By default only the count is cached: the response is the same, from one statement that does not count."""
    client = await serve(COUNTS)
    await fill(client)
    first = await read(client, "/items/")
    await kept(client, "/items/")
    assert first["count"] == 5
    assert await read(client, "/items/") == first
    for page, size in ((1, 2), (2, 2), (3, 1)):
        part = await read(client, f"/items/?page={page}")
        assert (part["count"], len(part["results"])) == (5, size)
        assert part["next"] is None if page == 3 else part["next"].endswith(f"page={page + 1}")


async def test_concurrent_requests_count_once(serve: Serve, sql: asyncpg.Connection) -> None:
    """A request during the count waits for its result; after a change in the meantime it counts again."""
    client = await serve(COUNTS)
    await fill(client)
    await kept(client, "/groups/")

    async def blocked() -> int:
        """The number of statements that wait for the table."""
        return int(await sql.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

    async def has_begun() -> bool:
        return await blocked() > 0

    async with sql.transaction():
        await sql.execute("LOCK TABLE items")
        reading = [asyncio.create_task(read(client, f"/items/?page={1 + n % 3}")) for n in range(8)]
        await until(has_begun)
        await read(client, "/groups/")  # all of them have come as far
        assert await blocked() == 1
        await sql.execute("INSERT INTO items (n) VALUES (1)")
    assert {answer["count"] for answer in await asyncio.gather(*reading)} == {6}
    assert (await read(client, "/items/"))["count"] == 6


@pytest.mark.parametrize("resources", [COUNTS, RESPONSES], ids=["counts", "responses"])
async def test_a_process_never_misses_its_own_write(serve: Serve, resources: dict[str, str]) -> None:
    """Cached values are invalidated before the response to a write is sent, those reached by a cascade too."""
    client = await serve(resources)
    await fill(client)
    for path in ("/items/", "/items/?group__name=a"):
        await kept(client, path)
    await client.post("/items/", json={"n": 3, "group_id": 1})
    assert (await read(client, "/items/"))["count"] == 6
    assert (await read(client, "/items/?group__name=a"))["count"] == 6
    await client.patch("/groups/1/", json={"name": "b"})
    assert (await read(client, "/items/?group__name=a"))["count"] == 0
    assert (await read(client, "/items/?group__name=b"))["count"] == 6
    assert (await read(client, "/items/1/"))["n"] == 0
    await client.patch("/items/1/", json={"n": 9})
    assert (await read(client, "/items/1/"))["n"] == 9
    await client.delete("/groups/1/")
    assert (await read(client, "/items/"))["count"] == 0
    assert (await client.get("/items/1/")).status == 404


async def test_other_writers_changes_invalidate_when_the_feed_delivers_them(
    serve: Serve, sql: asyncpg.Connection
) -> None:
    """Plain SQL: an insert, an update of a cached row, a truncate. A rollback changes nothing."""
    client = await serve(RESPONSES)
    await fill(client)
    for path in ("/items/", "/items/1/"):
        await kept(client, path)
    async with sql.transaction():
        await sql.execute("INSERT INTO items (n) VALUES (7)")
        await sql.execute("UPDATE items SET n = 8 WHERE id = 1")
    await until(lambda: _is(client, "/items/", "count", 6))
    await until(lambda: _is(client, "/items/1/", "n", 8))
    await kept(client, "/items/")
    await sql.execute("TRUNCATE items")
    await until(lambda: _is(client, "/items/", "count", 0))
    assert (await client.get("/items/1/", headers={"Cache-Control": "no-cache"})).status == 404


async def _is(client: Client, path: str, name: str, value: object) -> bool:
    return bool((await read(client, path)).get(name) == value)


async def test_invalidated_row_leaves_others_cached(serve: Serve, sql: asyncpg.Connection) -> None:
    """A change of one row that the feed delivers does not invalidate a cached response for another row."""
    client = await serve(RESPONSES)
    await fill(client)
    await kept(client, "/items/2/")
    await kept(client, "/items/1/")
    await sql.execute("UPDATE items SET n = 8 WHERE id = 1")
    await until(lambda: _is(client, "/items/1/", "n", 8))
    before = database_of(client).statements
    await client.get("/items/2/")
    assert database_of(client).statements == before


async def test_cache_is_not_used_while_the_feed_is_disconnected(serve: Serve, sql: asyncpg.Connection) -> None:
    """Without the feed every response is read from the database."""
    client = await serve(RESPONSES)
    await fill(client)
    await kept(client, "/items/")
    assert client.app is not None
    await client.app[SERVICE].feed.stop()
    await until(lambda: _stale(client))
    await sql.execute("INSERT INTO items (n) VALUES (7)")
    assert (await read(client, "/items/"))["count"] == 6


async def _stale(client: Client) -> bool:
    return not cache_of(client).fresh


async def test_a_scope_by_a_field_that_is_not_logged_is_never_cached(serve: Serve, sql: asyncpg.Connection) -> None:
    """The change log has no ``write_only`` fields, so a response that depends on one is read each time."""
    resources = {"groups": GROUPS, "items": ITEMS + "  cache: responses\n  class: views:Items\n"}
    client = await serve(resources, modules={"views": SCOPED})
    await fill(client)
    for _ in range(3):
        assert (await read(client, "/items/"))["count"] == 5
    await sql.execute("UPDATE items SET hidden = 1 WHERE id < 5")
    assert (await read(client, "/items/"))["count"] == 1
    assert (await client.get("/items/1/")).status == 404


SHARED = {
    "groups": GROUPS,
    "items": """
fields:
  id: {type: integer, primary_key: true}
  groups: {type: many_to_many, to: groups}
viewset: {permission_classes: [AllowAny], class: 'views:Shared', cache: responses, prefetch_related: [groups]}
""",
}
SHARED_VIEWS = """
from rowcast import ModelViewSet, action, model

Item = model("items")

class Shared(ModelViewSet):
    def get_queryset(self):
        group = self.request.headers.get("Group")
        return Item.objects.all() if group is None else Item.objects.filter(groups=int(group))

    @action(detail=True, methods=["POST"])
    async def share(self, request, id):
        item = await Item.objects.get(pk=id)
        item.groups = request.data["groups"]
        await item.save()
"""


@pytest.mark.parametrize("way", ["PATCH", "action"])
async def test_a_write_of_links_alone_counts_before_its_answer(serve: Serve, way: str) -> None:
    """A caller who has lost access by a change of links is not answered from memory, nor is anybody with the old links."""
    client = await serve(SHARED, modules={"views": SHARED_VIEWS})
    for name in "ab":
        await client.post("/groups/", json={"name": name})
    await client.post("/items/", json={"groups": [1]})
    await until(lambda: cache_of(client).fresh)
    for n in range(20):
        old, new = n % 2 + 1, (n + 1) % 2 + 1
        for _ in range(2):
            assert (await read(client, "/items/", Group=str(old)))["count"] == 1
            assert [group["id"] for group in (await read(client, "/items/1/"))["groups"]] == [old]
        if way == "PATCH":
            assert (await client.patch("/items/1/", json={"groups": [new]})).status == 200
        else:
            assert (await client.post("/items/1/share/", json={"groups": [new]})).status == 204
        assert (await read(client, "/items/", Group=str(old)))["count"] == 0
        assert (await client.get("/items/1/", headers={"Group": str(old)})).status == 404
        assert [group["id"] for group in (await read(client, "/items/1/"))["groups"]] == [new]


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ("class: 'views:ByPermissions'", 401),
        ("class: 'views:BeforeAnything'", 403),
        ("permission_classes: ['views:ByPermission']", 401),
        ("authentication_classes: ['views:Wary']", 403),
        ("filter_backends: ['views:ByHeader']", 403),
        ("throttle_classes: [AnonRateThrottle]", 429),
    ],
)
async def test_policies_apply_to_cached_responses(serve: Serve, options: str, status: int) -> None:
    """A viewset's own policies are applied to each request, also if the response is cached."""
    throttles = "throttle: {rates: {anon: 20/hour}}\n"
    items = ITEMS + f"  cache: responses\n  {options}\n"
    if options.startswith("permission"):
        items = items.replace("  permission_classes: [AllowAny]\n", "")
    if options.startswith("filter"):
        items = items.replace("  filterset_fields: {n: [exact, in], group__name: [exact]}\n", "")
    client = await serve({"groups": GROUPS, "items": items}, throttles, modules={"views": ASKED})
    await fill(client, 1)
    await kept(client, "/items/")
    statuses = [(await client.get("/items/", headers={"X-Refused": "yes"})).status for _ in range(20)]
    assert statuses[-1] == status
    assert status == 429 or set(statuses) == {status}


async def test_cached_response_has_every_form(serve: Serve) -> None:
    """A cached response is JSON, a HEAD has no body, and links have the host of the request."""
    client = await serve(RESPONSES)
    await fill(client)
    await kept(client, "/items/")
    assert (await client.get("/items/", headers={"Accept": "text/html"})).status == 406
    head = await client.head("/items/")
    assert (head.status, await head.read()) == (200, b"")
    for host in ("one.localhost", "two.localhost"):
        for _ in range(2):
            assert (await read(client, "/items/", Host=host))["next"].startswith(f"http://{host}/items/")


async def test_cache_is_bounded(serve: Serve) -> None:
    """The entry that was not used for longest is dropped first, and an entry that is too large is not cached."""
    client = await serve(RESPONSES)
    cache = Cache(cache_of(client)._feed, size=20_000)
    await until(lambda: cache.fresh)
    for n in range(20):
        cache.put(n, b"x", since=0, resources=["items"], size=1000)
        cache.get(0)
    assert cache.get(0) == b"x"
    assert cache.get(1) is None
    assert cache.get(19) == b"x"
    assert len(cache) <= 12
    cache.put("large", b"x", since=0, resources=["items"], size=10_000)
    assert cache.get("large") is None
    cache.put(("search", "x" * 10_000), b"x", since=0, resources=["items"])
    assert cache.get(("search", "x" * 10_000)) is None, "a client's text counts as well"


async def test_one_of_many_callers_loads(serve: Serve) -> None:
    """Callers that wait share one load and its value; without ``wait``, and after an error, each loads for itself."""
    client = await serve(RESPONSES)
    cache = cache_of(client)
    await until(lambda: cache.fresh)
    loads = 0
    release = asyncio.Event()

    async def load() -> str:
        nonlocal loads
        loads += 1
        await release.wait()
        return "value"

    async def fail() -> str:
        await release.wait()
        raise ValueError("cannot be read")

    def items() -> Dependencies:
        return Dependencies(["items"])

    async def all_of(*calls: Awaitable[Any]) -> list[Any]:
        tasks = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(0)
        release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        release.clear()
        return results

    waiting = [cache.get_or_load("a", items, load, wait=True) for _ in range(3)]
    assert await all_of(*waiting) == [("value", False), ("value", True), ("value", True)]
    assert loads == 1
    assert await all_of(*(cache.get_or_load("b", items, load) for _ in range(3))) == [("value", False)] * 3
    assert loads == 4
    failed, loaded = await all_of(
        cache.get_or_load("c", items, fail, wait=True), cache.get_or_load("c", items, load, wait=True)
    )
    assert isinstance(failed, ValueError)
    assert loaded == ("value", False)


async def test_a_value_that_changed_while_it_was_read_is_not_cached(serve: Serve) -> None:
    """Neither is one without a key, or one whose dependencies are unknown."""
    client = await serve(RESPONSES)
    cache = cache_of(client)
    await until(lambda: cache.fresh)

    async def load() -> str:
        return "value"

    async def load_during_a_change() -> str:
        cache.invalidate(["items"])
        return "old"

    def item() -> Dependencies:
        return Dependencies(["items"], row=("items", "1"))

    assert await cache.get_or_load("a", item, load_during_a_change) == ("old", False)
    assert await cache.get_or_load("a", lambda: None, load) == ("value", False)
    assert await cache.get_or_load("a", item, load) == ("value", False)
    assert await cache.get_or_load("a", item, load) == ("value", True)
    cache.invalidate(["items"])
    assert await cache.get_or_load("a", item, load) == ("value", False)


async def test_a_value_that_was_read_before_the_cache_was_cleared_is_not_cached(serve: Serve) -> None:
    """Changes may not have been counted before that, such as those that a reset of the feed leaves out."""
    client = await serve(RESPONSES)
    cache = cache_of(client)
    await until(lambda: cache.fresh)

    async def load() -> str:
        cache.clear()
        return "old"

    assert await cache.get_or_load("key", lambda: Dependencies(["items"]), load) == ("old", False)
    assert cache.get("key") is None


async def test_a_value_as_of_an_earlier_generation_is_compared_with_that(serve: Serve) -> None:
    """It is cached unless something of it has changed since then."""
    client = await serve(RESPONSES)
    cache = cache_of(client)
    await until(lambda: cache.fresh)
    before = cache.generation
    cache.invalidate(["items"])

    async def load() -> str:
        return "read"

    for resource in ("items", "others"):
        await cache.get_or_load(resource, lambda: Dependencies([resource]), load, as_of=lambda: before)  # noqa: B023
    assert cache.get("items") is None
    assert cache.get("others") == "read"


async def test_every_response_was_true_a_moment_ago(serve: Serve, sql: asyncpg.Connection, database_url: str) -> None:
    """Readers and writers on two replicas and plain SQL, with rollbacks and a feed that is cut off and comes back.

    The oracle: every committed total with the time at which it was superseded. An answer must be a total that held at
    some moment between the promised freshness before its request and its end; a process must not miss its own writes.
    """
    print(f"ROWCAST_TEST_SEED={SEED}")
    choose = random.Random(SEED)
    replicas = [await serve(RESPONSES), await serve(RESPONSES)]
    await fill(replicas[0], 3)
    promised = FEED_MAX_LAG_SECONDS + 0.5
    history: list[tuple[float, int, int]] = []  # the latest time at which it held, count, sum of the first row
    wrong: list[str] = []
    turn = asyncio.Lock()  # writers take turns, so each total is recorded
    count, value = 3, 0
    ended = asyncio.Event()

    def note() -> None:
        history.append((time.monotonic(), count, value))

    note()

    async def write(number: int) -> None:
        nonlocal count, value
        mine = random.Random(SEED + number)
        while not ended.is_set():
            kind = mine.choice(("api", "api", "sql", "rollback", "row"))
            client = mine.choice(replicas)
            async with turn:
                if kind == "rollback":
                    transaction = sql.transaction()
                    await transaction.start()
                    await sql.execute("INSERT INTO items (n) SELECT 1 FROM generate_series(1, 50)")
                    await transaction.rollback()
                elif kind == "row":
                    await client.patch("/items/1/", json={"n": value + 1})
                    value += 1
                    note()
                    if (seen := (await read(client, "/items/1/"))["n"]) != value:
                        wrong.append(f"its own write: row {seen}, not {value}")
                else:
                    if kind == "sql":
                        await sql.execute("INSERT INTO items (n) VALUES (1)")
                    else:
                        await client.post("/items/", json={"n": 1})
                    count += 1
                    note()
                    if kind == "api" and (seen := (await read(client, "/items/"))["count"]) != count:
                        wrong.append(f"its own write: count {seen}, not {count}")
            await asyncio.sleep(mine.random() * 0.02)

    async def look(number: int) -> None:
        mine = random.Random(SEED - number)
        while not ended.is_set():
            client = mine.choice(replicas)
            start = time.monotonic()
            counted = (await read(client, "/items/"))["count"]
            row = (await read(client, "/items/1/"))["n"]
            end = time.monotonic()
            for seen, place in ((counted, 1), (row, 2)):
                if (
                    not any(
                        entry[place] == seen and (until is None or until >= start - promised)
                        for entry, until in zip(history, [*(entry[0] for entry in history[1:]), None], strict=True)
                    )
                    and seen != (count + 1, value + 1)[place - 1]
                ):
                    wrong.append(f"{seen} at {start - history[0][0]:.3f}-{end - history[0][0]:.3f}")
            await asyncio.sleep(0)

    async def disturb() -> None:
        admin = await asyncpg.connect(database_url)
        for _ in range(3):
            await asyncio.sleep(0.3 + choose.random() * 0.4)
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                " AND datname = current_database() AND query ~ 'rowcast.tick|LISTEN'"
            )
        await asyncio.sleep(0.5)
        await admin.close()
        ended.set()

    async with asyncio.timeout(60):
        await asyncio.gather(disturb(), *(write(n) for n in range(3)), *(look(n) for n in range(4)))
    assert not wrong, wrong[:5]
    assert count > 10
    for client in replicas:
        await until(lambda client=client: _is(client, "/items/", "count", count))  # type: ignore[misc]
        await until(lambda client=client: _is(client, "/items/1/", "n", value))  # type: ignore[misc]


@pytest.mark.parametrize("path", ["/items/?n=0", "/items/1/"])
async def test_memory_has_what_a_client_names(serve: Serve, sql: asyncpg.Connection, path: str) -> None:
    """With ``X-Read-After`` nothing comes from memory that may be older than what another process has written.

    The row is changed without triggers, so memory never learns of it: what is newer has been read again.
    """
    client = await serve(RESPONSES)
    await sql.execute("INSERT INTO items (id, n) VALUES (1, 0)")

    async def shown(*lines: str, **headers: str) -> int:
        """The row's group, or 0."""
        named = CIMultiDict([*headers.items(), *(("X-Read-After", line) for line in lines)])
        found = await (await client.get(path, headers=named)).json()
        rows = found.get("results", [found])
        return rows[0]["group_id"] or 0

    await sql.execute("INSERT INTO groups (id, name) VALUES (7, 'new')")
    async with client.stream("/items/stream/") as changes:
        await sql.execute("INSERT INTO items (id, n) VALUES (2, 1)")
        written = (await changes.next())["tx"]
        before = changes.position
    assert await shown() == 0
    await sql.execute("SET session_replication_role = replica")
    await sql.execute("UPDATE items SET group_id = 7 WHERE id = 1")
    await sql.execute("SET session_replication_role = origin")
    assert await shown() == 0
    for named in (before, written, f"{before} {written}"):
        assert await shown(named) == 0
    assert await shown(before, written) == 0
    assert await shown(**{"Cache-Control": "max-age=0"}) == 0  # which only says that the browser has something older
    for named in ("9" * 15, "now", f"{before} {'9' * 15}"):
        assert await shown(named) == 7
    await sql.execute("SET session_replication_role = replica")
    await sql.execute("UPDATE items SET group_id = NULL WHERE id = 1")
    await sql.execute("SET session_replication_role = origin")
    assert await shown(before, "9" * 15) == 0  # each line counts
