"""The page of ``docs/adopting.md``: from the dump to a list in a browser that updates itself."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from rowcast.configuration.load import load
from rowcast.testing.client import running

from ..conftest import ROOT, rowcast
from . import chromium

pytestmark = [
    pytest.mark.skipif(chromium.FOUND is None, reason="there is no Chromium on PATH"),
    pytest.mark.empty_database,
]
PAGE = (ROOT / "docs" / "adopting.md").read_text()
SHOWN = '[...document.querySelectorAll("li")].map(li => li.textContent)'
Serve = Callable[[str], None]


def block(language: str) -> str:
    """The first fenced block of a language."""
    match = re.search(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert match is not None
    return match[1]


@pytest.fixture
async def site() -> AsyncIterator[tuple[str, Serve]]:
    """The origin of a site, and a function that sets its only page."""
    pages: list[str] = []

    async def index(_request: web.Request) -> web.Response:
        return web.Response(text=pages[-1], content_type="text/html")

    app = web.Application()
    app.router.add_get("/", index)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/"), pages.append


async def test_the_page_shows_what_the_owner_writes(
    database_url: str, sql: asyncpg.Connection, site: tuple[str, Serve], tmp_path: Path
) -> None:
    """Rows of the dump, a new one, a changed one and one that goes, all written by SQL."""
    origin, publish = site
    await sql.execute(block("sql"))
    for command in ("adopt", "check", "migrate"):
        code, output = rowcast(tmp_path, command, DATABASE_URL=database_url)
        assert code == 0, output
    albums = tmp_path / "config" / "resources" / "albums.yaml"
    albums.write_text(albums.read_text().replace("IsAdminUser", "IsAuthenticatedOrReadOnly"))
    configuration = load(tmp_path / "config", environ={}, overrides={"server.cors_origins": origin})
    async with running(configuration, database_url, migrated=True) as client:
        publish(block("html").replace("http://127.0.0.1:8000", str(client.make_url("")).rstrip("/")))
        async with chromium.page(f"{origin}/") as page:
            await page.until(f'({SHOWN}).join() === "Ella in Rome: 9.50"')
            await sql.execute("INSERT INTO album (title, artist_id, price) VALUES ('Pastel Blues', 2, 12)")
            await page.until(f'({SHOWN}).join() === "Ella in Rome: 9.50,Pastel Blues: 12.00"')
            await sql.execute(
                "UPDATE album SET price = price + 1 WHERE album_id = 1; DELETE FROM album WHERE album_id = 2"
            )
            await page.until(f'({SHOWN}).join() === "Ella in Rome: 10.50"')
