"""The pictures of docs/console.md: ``make screenshots`` takes them of the demo, with rows that are always the same."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final
from urllib.parse import quote

from rowcast.configuration.load import load
from rowcast.testing.client import Client, running

from ..conftest import ROOT
from ..databases import EMPTY, Databases, databases_of, temporary_server
from . import chromium

FOLDER: Final = ROOT / "docs" / "console"
ROW: Final = "document.querySelector('tr[data-key]')"
TITLES: Final = (
    "Write the announcement", "Review the contract", "Order new chairs", "Plan the workshop", "Answer the survey",
    "Renew the certificate", "Describe the new filters", "Call the printer", "Sort the archive", "Invite the speakers",
    "Check the invoices", "Prepare the demo", "Translate the leaflet", "Test the backup", "Update the timetable",
)  # fmt: skip


async def rows(client: Client) -> str:
    """Make the rows; the key of a task."""

    async def post(path: str, body: Any) -> Any:
        response = await client.post(path, json=body)
        assert response.ok, await response.text()
        return await response.json()

    categories = await post("/categories/", [{"name": name} for name in ("Office", "Product", "Events")])
    tags = await post("/tags/", [{"name": name} for name in ("urgent", "waiting")])
    first = ""
    for number, title in enumerate(reversed(TITLES)):
        task = {
            "title": title,
            "priority": ("low", "normal", "high")[number % 3],
            "completed": number % 4 == 0,
            "category_id": categories[number % 3]["id"],
            "due_date": f"2026-12-{number + 1:02}T12:00:00Z",
            "tags": [tags[number % 2]["id"]],
        }
        first = (await post("/tasks/", task))["id"]
    return first


async def take(
    client: Client, name: str, place: str, ready: str, *, act: str = "", dark: bool = False, width: int = 1200
) -> None:
    """Take one picture, once the page is ready."""
    async with chromium.page(f"{client.make_url('/console/')}{place}") as page:
        await page.look(width=width, height=720, dark=dark)
        await page.until(ready)
        if act:
            await page.evaluate(act)
            await asyncio.sleep(1)
        await asyncio.sleep(0.5)  # labels of relations
        (FOLDER / f"{name}.png").write_bytes(await page.screenshot())


async def take_all(databases: Databases) -> None:
    """Take all of them."""
    FOLDER.mkdir(exist_ok=True)
    async with databases.copy(EMPTY) as url, running(load(ROOT / "config", environ={}), url) as client:
        key = await rows(client)
        group = quote(json.dumps({"or": [{"priority": "high"}, {"completed": True}]}))
        panel = "document.querySelector('.panel h2')"
        await take(client, "table", "#/tasks", ROW)
        await take(client, "filters", f"#/tasks?filter={group}", ROW, dark=True)
        await take(client, "form", f"#/tasks?row={key}", f"{ROW} && {panel}")
        change = f"fetch('/tasks/{key}/', {{method: 'PATCH', headers: {{'Content-Type': 'application/json'}}, body: '{{\"priority\": \"high\"}}'}})"
        await take(
            client, "stream", "#/tasks?panel=stream", f"{ROW} && document.querySelector('.events li')", act=change
        )
        await take(client, "phone", "#/tasks", ROW, width=390)


if __name__ == "__main__":
    with temporary_server({}) as server, databases_of(server.url) as databases:
        asyncio.run(take_all(databases))
