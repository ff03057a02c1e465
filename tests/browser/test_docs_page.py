"""The page ``/docs/`` in a browser: it shows the document and sends requests, and loads nothing from another place."""

from __future__ import annotations

import pytest

from ..conftest import Serve
from . import chromium

pytestmark = pytest.mark.skipif(chromium.FOUND is None, reason="there is no Chromium on PATH")

OPERATION = 'document.querySelector("#operations-tags-tags_list")'
TRY = f'{OPERATION}.querySelector(".try-out__btn")'
EXECUTE = f'{OPERATION}.querySelector(".execute")'
STATUS = f'{OPERATION}.querySelector(".live-responses-table .response .response-col_status")'


async def test_page_shows_the_operations_and_tries_them(serve: Serve) -> None:
    """OpenAPI 3.1, under the page's own policy; a request is sent and its response is shown."""
    client = await serve()
    document = await (await client.get("/openapi.json")).json()
    operations = [
        each for path in document["paths"].values() for name, each in path.items() if not name.startswith("x-")
    ]
    number = sum("tags" in operation for operation in operations)
    url = str(client.make_url("/docs/"))
    async with chromium.page(url) as page:
        await page.until('document.querySelector(".opblock")')
        assert await page.evaluate('document.querySelectorAll(".opblock").length') == number
        assert (await page.evaluate('document.querySelector(".info .title").textContent')).startswith("Rowcast")
        await page.evaluate(f'{OPERATION}.querySelector("button").click()')
        for element in (TRY, EXECUTE):
            await page.until(element)
            await page.evaluate(f"{element}.click()")
        await page.until(STATUS)
        assert "200" in await page.evaluate(f"{STATUS}.textContent")
        loaded = await page.evaluate('performance.getEntriesByType("resource").map(entry => entry.name)')
        origin = url.removesuffix("/docs/")
        assert {name for name in loaded if not name.startswith((origin, "data:"))} == set()


async def test_page_shows_the_events_of_a_stream(serve: Serve) -> None:
    """A stream does not end; what it has sent in a few seconds is shown as its response. The page is dark like the system."""
    client = await serve()
    stream = 'document.querySelector("#operations-tags-tags_stream")'
    async with chromium.page(str(client.make_url("/docs/"))) as page:
        await page.until(stream)
        await page.evaluate(f"{stream}.querySelector('button').click()")
        for button in (".try-out__btn", ".execute"):
            await page.until(f"{stream}.querySelector('{button}')")
            await page.evaluate(f"{stream}.querySelector('{button}').click()")
        shown = f"{stream}.querySelector('.live-responses-table .response-col_description .highlight-code')"
        await page.until(shown)
        assert "event: ready" in await page.evaluate(f"{shown}.textContent")
        dark = 'matchMedia("(prefers-color-scheme: dark)").matches'
        assert await page.evaluate(f'document.documentElement.classList.contains("dark-mode") === {dark}')
