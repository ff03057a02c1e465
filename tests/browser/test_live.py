"""The page of ``examples/live`` in a real browser, against a service in a process of its own that may be killed."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from rowcast.server.assets import CLIENT, read_assets

from ..conftest import ROOT
from . import chromium

pytestmark = pytest.mark.skipif(chromium.FOUND is None, reason="there is no Chromium on PATH")

READY = "Rowcast is ready on "
LIVE = 'document.querySelector("#state").textContent === "live"'
FETCHES = 'performance.getEntriesByType("resource").filter(entry => entry.initiatorType === "fetch").length'
SHOWN = '[...document.querySelectorAll("li")].map(li => [li.querySelector("span").textContent, li.querySelector("input").checked])'


class Service:
    """The demo on a database, as a process: killed without warning, and started again at the same address."""

    def __init__(self, database_url: str, origin: str, **variables: str) -> None:
        self._command = [sys.executable, "-m", "rowcast", "serve", "--migrate", "--config", str(ROOT / "config")]
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "service"),
            "DATABASE_URL": database_url,
            "ROWCAST_SERVER_CORS_ORIGINS": origin,
            **variables,
        }
        self._process: asyncio.subprocess.Process | None = None
        self.url = ""

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        port = self.url.rpartition(":")[2] or "0"
        self._process = await asyncio.create_subprocess_exec(
            *self._command, "--port", port, env=self._environment, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(30):
            line = (await self._process.stdout.readline()).decode().strip()
        assert line.startswith(READY), line
        self.url = line.removeprefix(READY)

    async def kill(self) -> None:
        """Kill it without warning."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@pytest.fixture
async def origin() -> AsyncIterator[str]:
    """The origin of the page: a file server, as in the example's README."""
    app = web.Application()
    app.router.add_static("/", ROOT / "examples" / "live")
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


@pytest.fixture
async def service(database_url: str, origin: str) -> AsyncIterator[Service]:
    """The service, running, for pages of that origin."""
    service = Service(database_url, origin)
    await service.start()
    yield service
    await service.kill()


@asynccontextmanager
async def watching(origin: str, service: Service, query: str = "") -> AsyncIterator[chromium.Page]:
    """The page, live."""
    async with chromium.page(f"{origin}/index.html?api={service.url}&{query}") as page:
        await page.until(LIVE)
        yield page


async def showing(page: chromium.Page, title: str) -> None:
    """Wait until a row is on the page: a fence, because every earlier change is on the page before it."""
    await page.until(f"[...tasks.values()].some(task => task.title === {json.dumps(title)})")


async def same(page: chromium.Page, service: Service, sql: asyncpg.Connection, query: str = "") -> None:
    """See that the page has the rows of the list, and shows those of the table."""
    async with ClientSession() as client, client.get(f"{service.url}/tasks/?page_size=100&{query}") as response:
        listed = (await response.json())["results"]
    by_id = {row["id"]: row for row in await page.evaluate("[...tasks.values()]")}
    assert by_id == {row["id"]: row for row in listed}
    where = "WHERE NOT completed" if query == "completed=false" else ""
    rows = await sql.fetch(f"SELECT title, completed FROM tasks {where} ORDER BY created_at DESC")
    assert sorted(await page.evaluate(SHOWN)) == sorted(list(row) for row in rows)


@asynccontextmanager
async def requests(service: Service) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Requests of another client: ``await request("POST", "/tasks/", title="…")`` returns the response's JSON."""
    async with ClientSession() as client:

        async def request(method: str, path: str, **values: Any) -> Any:
            async with client.request(method, f"{service.url}{path}", json=values or None) as response:
                assert response.ok, await response.text()
                return await response.json() if response.status != 204 else None

        yield request


async def test_page_shows_the_table_over_a_killed_service(
    origin: str, service: Service, sql: asyncpg.Connection
) -> None:
    """Changes by REST, by SQL, and while the service is dead are all on the page, which has loaded the list once."""
    async with requests(service) as request:
        old = await request("POST", "/tasks/", title="before the page")
        async with watching(origin, service) as page:
            made = [await request("POST", "/tasks/", title=f"REST {number}") for number in range(5)]
            await request("PATCH", f"/tasks/{made[0]['id']}/", completed=True)
            await request("DELETE", f"/tasks/{made[1]['id']}/")
            await sql.execute("INSERT INTO tasks (title) SELECT 'SQL ' || n FROM generate_series(1, 20) n")
            await sql.execute("UPDATE tasks SET completed = true WHERE title LIKE 'SQL 1%'")
            await sql.execute("DELETE FROM tasks WHERE id = $1::text::uuid", old["id"])
            await showing(page, "SQL 20")

            await service.kill()
            await page.until(f"!({LIVE})")
            await sql.execute("UPDATE tasks SET title = title || ' again', completed = false WHERE title LIKE 'SQL 1%'")
            await sql.execute("DELETE FROM tasks WHERE title LIKE 'SQL 2%'")
            await sql.execute("INSERT INTO tasks (title) VALUES ('while it was dead')")
            await service.start()

            await request("POST", "/tasks/", title="after it was dead")
            await sql.execute("INSERT INTO tasks (title) VALUES ('last')")
            await showing(page, "last")
            await same(page, service, sql)
            assert await page.evaluate(FETCHES) == 1


async def test_filtered_page_shows_its_list_over_a_reset(
    origin: str, service: Service, sql: asyncpg.Connection
) -> None:
    """Rows come into the page's filter and leave it; after TRUNCATE the page loads its list again."""
    query = "completed=false"
    async with requests(service) as request, watching(origin, service, query) as page:
        made = [await request("POST", "/tasks/", title=f"task {number}") for number in range(4)]
        await request("PATCH", f"/tasks/{made[0]['id']}/", completed=True)
        await sql.execute("UPDATE tasks SET completed = NOT completed WHERE title IN ('task 0', 'task 1')")
        await request("POST", "/tasks/", title="fence")
        await showing(page, "fence")
        await same(page, service, sql, query)
        assert await page.evaluate(FETCHES) == 1

        await sql.execute("TRUNCATE tasks CASCADE")
        await sql.execute("INSERT INTO tasks (title, completed) VALUES ('new', false), ('done', true)")
        await showing(page, "new")
        await page.until(f"({FETCHES}) === 2 && {LIVE}")
        await request("POST", "/tasks/", title="after the reset")
        await showing(page, "after the reset")
        await same(page, service, sql, query)


async def test_what_a_visitor_does_is_in_the_table(origin: str, service: Service, sql: asyncpg.Connection) -> None:
    """A task that is added, ticked and deleted on the page is so in the table, and on the page because of the stream."""
    async with watching(origin, service) as page:
        for title in ("one", "two <b>"):
            await page.evaluate(
                f"document.forms[0].title.value = {json.dumps(title)}; document.forms[0].requestSubmit()"
            )
            await showing(page, title)
        await page.evaluate('document.querySelector("li:last-child input").click()')
        await page.until("[...tasks.values()].some(task => task.completed)")
        await same(page, service, sql)
        assert {row["title"]: row["completed"] for row in await sql.fetch("SELECT title, completed FROM tasks")} == {
            "one": True,
            "two <b>": False,
        }
        await page.evaluate('document.querySelector("li:last-child button").click()')
        await page.until("tasks.size === 1")
        await same(page, service, sql)


@pytest.mark.skipif(CLIENT not in read_assets(), reason="the web files are not built; `make web` builds them")
async def test_page_of_ten_lines_is_live_on_another_origin(
    origin: str, service: Service, sql: asyncpg.Connection
) -> None:
    """With the client of the service, which the page imports from there, over a killed service."""
    shown = '[...document.querySelectorAll("li")].map(li => li.textContent).join()'
    async with chromium.page(f"{origin}/short.html?api={service.url}") as page, requests(service) as request:
        first = await request("POST", "/tasks/", title="one")
        await page.until(f"{shown} === 'one'")
        await service.kill()
        await sql.execute("INSERT INTO tasks (title) VALUES ('two')")
        await service.start()
        await page.until(f"{shown} === 'two,one'")
        await request("DELETE", f"/tasks/{first['id']}/")
        await page.until(f"{shown} === 'two'")
