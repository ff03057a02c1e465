"""``/client.js`` in a browser, against the service and its database: what its lists show is what the table has."""

from __future__ import annotations

import json
import random
from typing import Any

import asyncpg
import pytest

from rowcast.rest.plan import SERVICE
from rowcast.server.assets import CLIENT, read_assets

from ..conftest import Client, Serve
from ..waiting import until
from . import chromium

pytestmark = [
    pytest.mark.skipif(chromium.FOUND is None, reason="there is no Chromium on PATH"),
    pytest.mark.skipif(CLIENT not in read_assets(), reason="the web files are not built; `make web` builds them"),
]
NOTES = """
fields:
  id: {type: integer, primary_key: true}
  text: {type: string}
  rank: {type: integer, null: true}
  done: {type: boolean, default: false}
  owner: {type: foreign_key, to: owners, null: true, on_delete: set_null, related_name: notes}
viewset: {permission_classes: [AllowAny], filterset_fields: [done], ordering_fields: [rank, text], ordering: [rank]}
"""
OWNERS = (
    "fields: {id: {type: integer, primary_key: true}, name: {type: string}}\nviewset: {permission_classes: [AllowAny]}"
)
RESOURCES = {"notes": NOTES, "owners": OWNERS}
QUERIES: dict[str, dict[str, Any]] = {
    "all": {"expand": ["owner"]},
    "first": {"limit": 5, "ordering": "-rank", "expand": ["owner"]},
    "texts": {"limit": 7, "ordering": ["text"]},
    "open": {"filter": {"done": False}, "ordering": "rank"},
    "owners": {"expand": ["notes"]},
}
STEPS = 150


def connections(client: Client) -> set[int]:
    """The connections that streams are sent on."""
    return {id(each._transport) for each in client.app[SERVICE].hub.open_streams._open}


async def start(page: chromium.Page) -> None:
    """Make a live list of each query, on the page's own origin."""
    await page.evaluate(
        f"""import("/client.js").then(({{ rowcast }}) => {{
            const service = rowcast("/"), queries = {json.dumps(QUERIES)};
            window.lists = Object.fromEntries(Object.entries(queries).map(
                ([name, query]) => [name, service.live(name === "owners" ? "owners" : "notes", query)]));
        }})"""
    )
    await page.until("Object.values(lists).every(list => list.status === 'live')")


async def expected(client: Client, name: str) -> list[dict[str, Any]]:
    """The rows that a query has now, as the list shows them."""
    query = QUERIES[name]
    ordering = query.get("ordering")
    params = {
        "expand": ",".join(query.get("expand", ())),
        "filter": json.dumps(query.get("filter", {})),
        "page_size": "100",
        **({} if ordering is None else {"ordering": ordering if isinstance(ordering, str) else ",".join(ordering)}),
    }
    params = {key: value for key, value in params.items() if value and value != "{}"}
    path = "/owners/" if name == "owners" else "/notes/"
    async with client.get(path, params=params) as response:
        assert response.status == 200, await response.text()
        rows: list[dict[str, Any]] = (await response.json())["results"]
    return rows[: query.get("limit")]


async def shows_the_table(page: chromium.Page, client: Client) -> None:
    """Wait until each list has the rows that it has to show."""
    for name in QUERIES:
        rows = json.dumps(await expected(client, name))
        await page.until(f"JSON.stringify(lists.{name}.getSnapshot()) === JSON.stringify({rows})")


async def test_lists_are_the_table_after_a_random_run_with_faults(serve: Serve, sql: asyncpg.Connection) -> None:
    """Changes by SQL of rows and related rows, connections that are cut, a TRUNCATE, and limits that rows cross."""
    client = await serve(RESOURCES)
    chance = random.Random(11)
    await sql.execute("INSERT INTO owners VALUES (1, 'ann'), (2, 'bob')")
    async with chromium.page(str(client.make_url("/"))) as page:
        await start(page)
        for step in range(STEPS):
            key, rank = chance.randint(1, 40), chance.choice([None, *range(20)])
            match chance.randrange(8):
                case 0 | 1 | 2:
                    await sql.execute(
                        "INSERT INTO notes (id, text, rank, owner_id) VALUES ($1, $2, $3, $4)"
                        " ON CONFLICT (id) DO UPDATE SET text = $2, rank = $3",
                        key, f"{chance.choice('aBcÄ')}{key}", rank, chance.choice([None, 1, 2]),
                    )  # fmt: skip
                case 3 | 4:
                    await sql.execute("UPDATE notes SET done = NOT done, rank = $2 WHERE id % 5 = $1", key % 5, rank)
                case 5:
                    await sql.execute("DELETE FROM notes WHERE id = $1", key)
                case 6:
                    await sql.execute("UPDATE owners SET name = $1 WHERE id = $2", f"o{step}", key % 2 + 1)
                case 7:
                    await sql.execute("UPDATE notes SET owner_id = $1 WHERE id = $2", chance.choice([None, 1, 2]), key)
            if step % 40 == 20:
                for subscriber in list(client.app[SERVICE].hub.open_streams._open):
                    subscriber._transport.abort()
            if step == STEPS // 2:
                await sql.execute("TRUNCATE notes")
            if step % 50 == 49:
                await shows_the_table(page, client)
        await shows_the_table(page, client)


async def test_all_lists_of_all_tabs_have_one_connection(serve: Serve, sql: asyncpg.Connection) -> None:
    """Two documents of one origin; one that goes takes its queries with it, and without a worker each has its own."""
    client = await serve(RESOURCES)
    async with chromium.page(str(client.make_url("/"))) as page:
        await start(page)
        await page.evaluate(
            """new Promise(resolve => {
                const frame = document.body.appendChild(document.createElement("iframe"));
                frame.onload = resolve; frame.src = "/openapi.json";
            })"""
        )
        await page.evaluate(
            """(async () => {
                const other = document.querySelector("iframe").contentWindow;
                const { rowcast } = await other.eval('import("/client.js")');
                window.other = rowcast("/").live("notes", { ordering: "rank" });
            })()"""
        )
        await page.until("other.status === 'live'")
        await until(lambda: len(client.app[SERVICE].hub.open_streams) == len(QUERIES) + 1)
        assert len(connections(client)) == 1
        await sql.execute("INSERT INTO notes (id, text) VALUES (1, 'one')")
        await page.until("[lists.all, lists.open, other].every(list => list.getSnapshot().length === 1)")
        await page.evaluate("document.querySelector('iframe').remove()")
        await page.evaluate(
            "import('/client.js').then(({ rowcast }) => { window.alone = rowcast('/', { worker: false }).live('notes'); })"
        )
        await page.until("alone.status === 'live'")
        assert len(connections(client)) == 2
        await page.evaluate("[...Object.values(lists), alone].forEach(list => list.close())")
        await until(lambda: not connections(client))


async def test_own_changes_are_shown_at_once_and_refused_ones_go(serve: Serve, sql: asyncpg.Connection) -> None:
    """Created, changed and deleted by the page, which shows the stored rows in the end."""
    client = await serve(RESOURCES)
    await sql.execute("INSERT INTO owners VALUES (1, 'ann')")
    async with chromium.page(str(client.make_url("/"))) as page:
        await start(page)
        shown = "lists.all.getSnapshot().map(row => row.text).join()"
        await page.evaluate("void (window.creating = lists.all.create({ text: 'x', owner_id: 1 }))")
        await page.until(f"{shown} === 'x'")
        await page.evaluate("creating.then(row => lists.all.update(row.id, { text: 'y' }))")
        await page.until(f"{shown} === 'y' && lists.all.getSnapshot()[0].owner?.name === 'ann'")
        for change in ("create({ text: null })", "update(1, { owner_id: 99 })"):
            error = await page.evaluate(f"lists.all.{change}.catch(error => error.name + error.status)")
            assert error == "Refused400"
            await page.until(f"{shown} === 'y'")
        await page.evaluate("lists.all.delete(1)")
        await page.until(f"{shown} === ''")
        await shows_the_table(page, client)


async def test_a_list_that_the_browser_has_is_not_sent_again(serve: Serve, sql: asyncpg.Connection) -> None:
    """The service is asked each time. Its 304 has the position of now, and the client has the rows, as after a 200."""
    client = await serve(RESOURCES)
    await sql.execute("INSERT INTO notes (id, text) SELECT i, repeat('x', 100) FROM generate_series(1, 15) i")
    async with chromium.page(str(client.make_url("/"))) as page:
        await page.evaluate("import('/client.js').then(({ rowcast }) => { window.service = rowcast('/'); })")
        read = """service.send("GET", "notes/").then(async response => {
            const found = [response.status, response.headers.get("X-Stream-Position"), (await response.json()).results.length];
            await new Promise(resolve => setTimeout(resolve));
            const { transferSize, encodedBodySize } = performance.getEntriesByType("resource").at(-1);
            return [...found, transferSize > encodedBodySize];
        })"""
        first = await page.evaluate(read)
        async with client.stream("/owners/stream/") as changes:
            await sql.execute("INSERT INTO owners (id, name) VALUES (1, 'a')")
            await changes.next()
        second = await page.evaluate(read)
        await sql.execute("INSERT INTO notes (id, text) VALUES (21, 'b')")
        third = await page.evaluate(read)
    assert [each[0] for each in (first, second, third)] == [200] * 3
    assert [each[2] for each in (first, second, third)] == [15, 15, 16]
    assert [each[3] for each in (first, second, third)] == [True, False, True]
    assert first[1] != second[1]
