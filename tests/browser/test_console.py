"""The console in a browser: everything that a person does there, against the service and its database."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from rowcast.identity.tokens import create_token
from rowcast.rest.plan import SERVICE
from rowcast.server.assets import read_assets

from ..conftest import ROOT, Client, Serve
from ..waiting import until
from . import chromium
from .test_client import connections
from .test_live import Service

FILES = {name: asset for name, asset in read_assets().items() if name.startswith("console/")}
AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
pytestmark = [
    pytest.mark.skipif(chromium.FOUND is None, reason="there is no Chromium on PATH"),
    pytest.mark.skipif(not FILES, reason="the web files are not built; `make web` builds them"),
]
OPEN = json.dumps({"auth": {"default_permission_classes": ["AllowAny"]}})
EVERY = {
    "shelves": "fields: {name: {type: string}}\nviewset: {search_fields: [name]}",
    "labels": "fields: {name: {type: string}}\nviewset: {filterset_fields: {name: [icontains]}}",
    "things": """
        fields:
          id:       {type: integer, primary_key: true}
          name:     {type: string, max_length: 40, unique: true}
          note:     {type: text, default: ""}
          chosen:   {type: string, choices: [low, high], default: low}
          email:    {type: email, null: true}
          number:   {type: integer, min: 0, null: true}
          big:      {type: big_integer, null: true}
          price:    {type: decimal, max_digits: 6, decimal_places: 2, null: true}
          ratio:    {type: float, null: true}
          done:     {type: boolean, default: false}
          perhaps:  {type: boolean, null: true}
          day:      {type: date, null: true}
          clock:    {type: time, null: true}
          moment:   {type: datetime, null: true}
          length:   {type: duration, null: true}
          data:     {type: json, null: true}
          words:    {type: array, of: string, default: []}
          colours:  {type: array, of: string, choices: [red, green], default: []}
          shelf:    {type: foreign_key, to: shelves, null: true, on_delete: set_null}
          labels:   {type: many_to_many, to: labels}
        viewset:
          filterset_fields: {name: [exact, icontains], number: [exact, gte, lt], done: [exact], shelf: [exact, isnull]}
          search_fields: [name]
          ordering_fields: [name, number]
          ordering: [number]
          import: true
    """,
}


@asynccontextmanager
async def console(client: Client, place: str = "") -> AsyncIterator[chromium.Page]:
    """The console of a service at a place. Afterwards the page must have had no errors, but refusals of the service."""
    async with chromium.page(f"{client.make_url('/console/')}{place}") as page:
        await page.look()
        yield page
        assert [error for error in page.errors if "status of 4" not in error] == []


def shown(text: str) -> str:
    """Whether a row of the table has this text."""
    return f"[...document.querySelectorAll('tr[data-key]')].some(row => row.textContent.includes({json.dumps(text)}))"


def button(text: str, within: str = "document") -> str:
    """The button with this text."""
    return f"[...{within}.querySelectorAll('button, summary')].find(each => each.textContent.trim() === {json.dumps(text)})"


async def click(page: chromium.Page, text: str, within: str = "document") -> None:
    """Click the button with this text, once it is there and enabled."""
    await page.until(f"{button(text, within)} && !{button(text, within)}.disabled")
    await page.evaluate(f"{button(text, within)}.click()")


async def fill(page: chromium.Page, selector: str, value: str, event: str = "input") -> None:
    """Set the value of a control as a person does."""
    element = f"document.querySelector({json.dumps(selector)})"
    await page.until(element)
    await page.evaluate(
        f"""(() => {{
            const element = {element};
            const setter = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(element), "value").set;
            setter.call(element, {json.dumps(value)});
            element.dispatchEvent(new Event({json.dumps(event)}, {{bubbles: true}}));
        }})()"""
    )


async def test_a_row_changed_by_sql_shows_in_an_open_table(serve: Serve, sql: asyncpg.Connection) -> None:
    """New, changed and deleted rows, with a mark on what has changed; the count beside the resource follows."""
    client = await serve(EVERY, OPEN)
    await sql.execute("INSERT INTO things (name, number) SELECT 'thing ' || n, n FROM generate_series(1, 3) n")
    count = "document.querySelector('nav a[aria-current] .count').textContent"
    async with console(client, "#/things") as page:
        await page.until(shown("thing 3"))
        await page.until("document.querySelector('.bar .state').textContent === 'live'")
        await sql.execute("UPDATE things SET name = 'changed' WHERE number = 2")
        await page.until(shown("changed"))
        assert await page.evaluate("document.querySelector('td.fresh').textContent") == "changed"
        await sql.execute("INSERT INTO things (name, number) VALUES ('first', 0)")
        await page.until("document.querySelector('tr.new')?.textContent.includes('first')")
        assert await page.evaluate("document.querySelector('tr[data-key]').textContent.includes('first')")
        await sql.execute("DELETE FROM things WHERE number = 3")
        await page.until(f"!({shown('thing 3')})")
        await page.until(f"{count} === '3' && document.querySelector('.bar .count').textContent === '3 rows'")
        await sql.execute("TRUNCATE things CASCADE")
        await page.until("document.querySelector('.empty')")


async def test_rows_of_another_address_and_rows_without_a_stream(serve: Serve, sql: asyncpg.Connection) -> None:
    """Rows that their slug names, whose slug changes, and that go; a list that has no stream is shown all the same."""
    fields = "fields: {name: {type: slug, unique: true}, note: {type: string, default: a}}"
    resources = {
        "pages": f"{fields}\nviewset: {{lookup_field: name}}",
        "quiet": f"{fields}\nviewset: {{stream_enabled: false}}",
    }
    client = await serve(resources, OPEN)
    for table in resources:
        await sql.execute(f"INSERT INTO {table} (name) VALUES ('one'), ('two')")
    rows = "[...document.querySelectorAll('tr[data-key]')].map(row => row.dataset.key).sort().join()"
    async with console(client, "#/pages?row=one") as page:
        await page.until(f"{rows} === 'one,two' && document.querySelector('#field-note')")
        await page.until("document.querySelector('.bar .state').textContent === 'live'")
        await fill(page, "#field-note", "b")
        await click(page, "Save")
        await page.until("document.querySelector('.notice')?.textContent.includes('Saved')")
        await sql.execute("UPDATE pages SET name = 'three' WHERE name = 'two'")
        await page.until(f"{rows} === 'one,three'")
        await sql.execute("DELETE FROM pages WHERE name = 'three'")
        await page.until(f"{rows} === 'one'")
        await page.evaluate("location.hash = '#/quiet'; 0")
        await page.until(
            f"{rows}.split(',').length === 2 && document.querySelector('.bar .state').textContent === 'not live'"
        )


async def test_a_table_scrolls_over_all_its_pages(serve: Serve, sql: asyncpg.Connection) -> None:
    """The document has the rows on the screen alone, and the next page is loaded when its end is near."""
    client = await serve(EVERY, OPEN)
    await sql.execute("INSERT INTO things (name, number) SELECT 'thing ' || n, n FROM generate_series(1, 450) n")
    async with console(client, "#/things") as page:
        await page.until(shown("thing 1"))
        await page.until(
            """(() => {
                const scroller = document.querySelector(".scroller");
                scroller.scrollTop = scroller.scrollHeight;
                return [...document.querySelectorAll("tr[data-key]")].some(row => row.textContent.includes("thing 450"));
            })()"""
        )
        assert await page.evaluate("document.querySelectorAll('tr[data-key]').length") < 100
        assert await page.evaluate("document.querySelector('table').ariaRowCount") == "450"


async def test_a_view_is_in_its_address(serve: Serve, sql: asyncpg.Connection) -> None:
    """Groups of filters, search, order and columns are built on the page, and another page with the address is the same."""
    client = await serve(EVERY, OPEN)
    await sql.execute(
        "INSERT INTO things (name, number, done) SELECT 'thing ' || n, n, n > 8 FROM generate_series(1, 9) n"
    )
    names = "[...document.querySelectorAll('tr[data-key]')].map(row => /thing [0-9]/.exec(row.textContent)?.[0]).join()"
    async with console(client, "#/things") as page:
        await page.until(shown("thing 9"))
        await click(page, "Filters")
        await click(page, "Add group")
        await fill(page, ".group .group select[aria-label=Field]", "number", "change")
        await fill(page, ".group .group select[aria-label=Comparison]", "lt", "change")
        await fill(page, ".group .group input[aria-label=Value]", "3", "change")
        await click(page, "Add condition", "document.querySelector('.group .group')")
        await fill(page, ".group .group .condition:nth-of-type(2) select[aria-label=Field]", "done", "change")
        await page.until(f"{names}.split(',').length === 3")
        await click(page, "Name")
        await page.until(f"{names} === 'thing 1,thing 2,thing 9'")
        await click(page, "Name ↑")
        await page.until(f"{names} === 'thing 9,thing 2,thing 1'")
        await fill(page, "input[type=search]", "thing 9")
        await page.until(f"{names} === 'thing 9'")
        await page.evaluate("document.querySelectorAll('.menu input')[0].click()")
        await page.until("location.hash.includes('columns=')")
        address = await page.evaluate("location.hash")
        header = await page.evaluate("document.querySelector('thead').textContent")
    async with console(client, address) as page:
        await page.until(f"document.querySelector('thead')?.textContent === {json.dumps(header)}")
        await page.until("document.querySelectorAll('tr[data-key]').length === 1")
        assert await page.evaluate("document.querySelectorAll('.condition').length") == 2
        await sql.execute("UPDATE things SET done = false WHERE number = 9")  # it leaves the view
        await page.until("document.querySelectorAll('tr[data-key]').length === 0")


VALUES = {
    "name": "Thing", "note": "Two\nlines", "email": "a@example.com", "number": "7", "big": "9007199254740993",
    "price": "12.50", "ratio": "1.5", "day": "2026-02-28", "clock": "12:30:15", "length": "PT90M", "data": '{"a": [1, null]}',
    "words": '["x", "y"]',
}  # fmt: skip


async def pick(page: chromium.Page, field: str, text: str) -> None:
    """Choose a row in a control that suggests rows, with the keyboard."""
    box = f"#field-{field}"
    await page.until(f"document.querySelector('{box}')")
    await page.evaluate(f"document.querySelector('{box}').focus()")
    await page.write(text)
    option = f"document.querySelector('[data-field={field}] [role=option][aria-selected=true]')"
    await page.until(f"{option}?.textContent.includes({json.dumps(text)})")
    await page.press("Enter")


async def test_every_control_writes_its_value(serve: Serve, sql: asyncpg.Connection) -> None:
    """Each type has a control, relations are found by typing, and messages are at their fields."""
    client = await serve(EVERY, OPEN)
    for table in ("shelves", "labels"):
        await sql.execute(f"INSERT INTO {table} (name) SELECT 'row ' || n FROM generate_series(1, 30) n")
    async with console(client, "#/things?panel=new") as page:
        for name, value in (VALUES | {"number": "-1"}).items():
            await fill(page, f"#field-{name}", value)
        await fill(page, "#field-chosen", "1", "change")
        await fill(page, "#field-perhaps", "true", "change")
        await page.evaluate("document.querySelector('#field-done').click()")
        await page.evaluate("document.querySelectorAll('#field-colours input')[1].click()")
        await fill(page, "[data-field=moment] select", "Asia/Tokyo", "change")
        await fill(page, "#field-moment", "2026-01-31T09:00:00", "change")
        await pick(page, "shelf_id", "row 17")
        await pick(page, "labels", "row 21")
        await page.until("document.querySelectorAll('[data-field=labels] .chips li').length === 1")
        await pick(page, "labels", "row 22")
        await page.until("document.querySelectorAll('[data-field=labels] .chips li').length === 2")
        await click(page, "Create")
        await page.until("document.querySelector('#field-number-errors')")
        assert await page.evaluate("document.querySelector('#field-number').ariaInvalid") == "true"
        await page.until("document.activeElement.id === 'field-number'")
        assert await sql.fetchval("SELECT count(*) FROM things") == 0
        await fill(page, "#field-number", VALUES["number"])
        await click(page, "Create")
        await page.until("location.hash.includes('row=')")
        row = await (await client.get("/things/?expand=shelf,labels")).json()
        (made,) = row["results"]
        await page.until("document.querySelector('#field-shelf_id')?.value === 'row 17'")
        await page.until("document.querySelectorAll('[data-field=labels] .chips li').length === 2")
    expected = {
        "name": "Thing", "note": "Two\nlines", "email": "a@example.com", "number": 7, "big": 9007199254740993,
        "price": "12.50", "ratio": 1.5, "day": "2026-02-28", "clock": "12:30:15", "length": "PT1H30M",
        "data": {"a": [1, None]}, "words": ["x", "y"], "chosen": "high", "perhaps": True, "done": True,
        "colours": ["green"], "moment": "2026-01-31T00:00:00+00:00",
    }  # fmt: skip
    assert {name: made[name] for name in expected} == expected
    assert made["shelf"]["name"] == "row 17"
    assert sorted(label["name"] for label in made["labels"]) == ["row 21", "row 22"]


async def test_a_conflict_is_a_choice_and_a_change_can_be_undone(serve: Serve, sql: asyncpg.Connection) -> None:
    """Both sides' values and the one before, per field; what only one side has changed stays. Undo gives the old values back."""
    client = await serve(EVERY, OPEN)
    await sql.execute("INSERT INTO things (name, note, number, day) VALUES ('thing', 'before', 1, '2026-01-01')")
    async with console(client, "#/things?row=1") as page:
        await fill(page, "#field-note", "mine")
        await fill(page, "#field-number", "5")
        await sql.execute("UPDATE things SET note = 'theirs', name = 'their name', day = '2026-02-02'")
        await click(page, "Save")
        await page.until("document.querySelector('.conflict')")
        choices = "[...document.querySelectorAll('[data-field=note] label')].map(each => each.textContent)"
        assert await page.evaluate(choices) == ["yours mine", "theirs theirs", "before before"]
        await page.evaluate("document.querySelector('[data-field=note] input[value=theirs]').click()")
        await click(page, "Save these values")
        await page.until("document.querySelector('.notice')?.textContent.includes('Saved')")
        read = "SELECT name, note, number, day::text FROM things"
        assert tuple(await sql.fetchrow(read)) == ("their name", "theirs", 5, "2026-02-02")
        await click(page, "Undo")
        await page.until("document.querySelector('.notice')?.textContent.includes('Undone')")
        assert tuple(await sql.fetchrow(read)) == ("their name", "theirs", 1, "2026-02-02")
        await fill(page, "#field-number", "6")
        await click(page, "Save")
        await page.until("document.querySelector('.notice')?.textContent.includes('Saved')")
        await sql.execute("UPDATE things SET note = 'again'")
        await click(page, "Undo")
        await page.until("document.querySelector('.notice.failed')?.textContent.includes('changed since')")
        assert await sql.fetchval("SELECT number FROM things") == 6


async def test_an_open_form_follows_its_row(serve: Serve, sql: asyncpg.Connection) -> None:
    """A change of somebody else is in the form at once; where one has written oneself, it is announced and nothing is lost."""
    client = await serve(EVERY, OPEN)
    await sql.execute("INSERT INTO things (name, number) VALUES ('thing', 1)")
    async with console(client, "#/things?row=1") as page:
        await page.until(f"{shown('thing')} && document.querySelector('#field-name')")
        await page.until("document.querySelector('.bar .state').textContent === 'live'")
        await sql.execute("UPDATE things SET name = 'theirs'")
        await page.until("document.querySelector('#field-name').value === 'theirs'")
        await fill(page, "#field-note", "mine")
        await sql.execute("UPDATE things SET name = 'theirs again'")
        await page.until("document.querySelector('.stale')?.textContent.includes('changed this row')")
        assert await page.evaluate("document.querySelector('#field-note').value") == "mine"
        await sql.execute("DELETE FROM things")
        await page.until("document.querySelector('.stale')?.textContent.includes('left the table')")


async def test_a_page_that_nobody_sees_has_no_stream(serve: Serve, sql: asyncpg.Connection) -> None:
    """It resumes when it is seen again, without a loss: browsers have six connections for all tabs."""
    client = await serve(EVERY, OPEN)
    state = "document.querySelector('.bar .state').textContent"

    def turn(visibility: str) -> str:
        return (
            f"Object.defineProperty(document, 'visibilityState', {{value: '{visibility}', configurable: true}});"
            "document.dispatchEvent(new Event('visibilitychange')); 0"
        )

    async with console(client, "#/things") as page:
        await page.until(f"document.querySelector('.bar .state') && {state} === 'live'")
        await page.evaluate(turn("hidden"))
        await page.until(f"{state} === 'paused'")
        await sql.execute("INSERT INTO things (name, number) VALUES ('meanwhile', 1)")
        await page.evaluate(turn("visible"))
        await page.until(f"{state} === 'live' && {shown('meanwhile')}")


async def test_two_tabs_share_one_connection(serve: Serve, sql: asyncpg.Connection) -> None:
    """Tables, counts and the inspector of all tabs: the policy of the page allows the client's worker."""
    client = await serve(EVERY, OPEN)
    live = "document.querySelector('.bar .state')?.textContent === 'live'"
    inspected = "document.querySelector('.events li')"
    async with console(client, "#/things?panel=stream") as page:
        await page.until(f"{live} && {inspected}")
        await page.open(f"{client.make_url('/console/')}#/labels")
        await page.until(live)
        streams = client.app[SERVICE].hub.open_streams
        await until(lambda: len(streams) == 1 + 2 + 2 * len(EVERY))  # two tables, the counts, and the inspector
        assert len(connections(client)) == 1
        await sql.execute("INSERT INTO labels (name) VALUES ('seen by both')")
        await page.until(shown("seen by both"))


async def test_a_deleted_row_can_be_brought_back(serve: Serve, sql: asyncpg.Connection) -> None:
    """Delete asks first, and undo inserts the row again."""
    client = await serve({"notes": "fields: {text: {type: string}}"}, OPEN)
    await sql.execute("INSERT INTO notes (id, text) VALUES ('0190b5a2-7c3e-7d41-9f6a-2b8c4d5e6f70', 'kept')")
    async with console(client, "#/notes?row=0190b5a2-7c3e-7d41-9f6a-2b8c4d5e6f70") as page:
        await page.until(button("Delete"))
        await page.evaluate("window.confirm = () => true")
        await click(page, "Delete")
        await page.until("document.querySelector('.empty')")
        await click(page, "Undo")
        await page.until(shown("kept"))
    assert await sql.fetchval("SELECT id::text FROM notes") == "0190b5a2-7c3e-7d41-9f6a-2b8c4d5e6f70"


async def test_rows_of_callers_need_their_credentials(serve: Serve, sql: asyncpg.Connection) -> None:
    """A wrong token is refused with the service's reason; a right one stays in the tab, and in no address."""
    resource = {"secrets": "fields: {text: {type: string}}\nviewset: {permission_classes: [IsAuthenticated]}"}
    client = await serve(resource)
    await sql.execute("INSERT INTO secrets (text) VALUES ('hidden')")
    token = await create_token(sql, "ann")
    async with console(client, "#/secrets") as page:
        await page.until("document.querySelector('main .error')?.textContent.includes('Sign in')")
        assert not await page.evaluate("document.body.textContent.includes('hidden')")
        await click(page, "Sign in")
        await fill(page, "#token", "rc_wrong")
        await click(page, "Sign in")
        await page.until("document.querySelector('#token-error').textContent !== ''")
        await fill(page, "#token", token)
        await click(page, "Sign in")
        await page.until(shown("hidden"))
        await sql.execute("INSERT INTO secrets (text) VALUES ('also live')")
        await page.until(shown("also live"))
        assert await page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 1, ""]
        entries = await page.evaluate("performance.getEntriesByType('resource').map(each => each.name)")
        assert not [entry for entry in entries if "rc_" in entry]
        await click(page, "Sign out")
        await page.until(f"!({shown('hidden')})")


async def test_the_inspector_shows_events_and_resumes(serve: Serve, sql: asyncpg.Connection) -> None:
    """Events with their positions; from a position the later ones come again; a reset is shown."""
    client = await serve(EVERY, OPEN)
    events = "[...document.querySelectorAll('.events li strong')].map(each => each.textContent).join()"
    async with console(client, "#/things?panel=stream") as page:
        await page.until(f"{events} === 'ready'")
        for number in range(3):
            await sql.execute("INSERT INTO things (name, number) VALUES ($1, $2)", f"thing {number}", number)
            await page.until(f"{events}.split('INSERT').length === {number + 2}")
        await page.evaluate("document.querySelector('.events li:nth-child(3) button').click()")
        await page.until(f"{events}.split('INSERT').length === 6")  # the two after it once more
        inserted = "[...document.querySelectorAll('.events li')].find(each => /INSERT/.test(each.textContent))"
        assert "thing 2" in await page.evaluate(f"{inserted}.textContent")
        await sql.execute("TRUNCATE things CASCADE")
        await page.until(f"{events}.startsWith('reset')")


async def test_a_file_is_tried_and_imported(serve: Serve, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """Errors are shown by line and nothing is written; without the wrong line the rows are imported, and in the table."""
    client = await serve(EVERY, OPEN)
    (file := tmp_path / "things.csv").write_text("name,number\nfirst,1\nsecond,-2\nthird,3\n")
    async with console(client, "#/things?panel=import") as page:
        await page.until("document.querySelector('input[type=file]')")
        await page.choose_file("input[type=file]", str(file))
        await page.until("document.querySelector('.errors tbody td')")
        cells = "[...document.querySelectorAll('.errors tbody td')].map(each => each.textContent)"
        assert (await page.evaluate(cells))[:2] == ["3", "number"]
        assert await sql.fetchval("SELECT count(*) FROM things") == 0
        assert await page.evaluate(f"{button('Import', 'document.querySelector(`.panel`)')}.disabled")
        await page.evaluate("document.querySelector('.panel input[type=checkbox]').click()")
        await click(page, "Import", "document.querySelector('.panel')")
        await page.until(f"{shown('first')} && {shown('third')}")
    assert [row["number"] for row in await sql.fetch("SELECT number FROM things ORDER BY number")] == [1, 3]


async def test_actions_are_buttons(serve: Serve, sql: asyncpg.Connection) -> None:
    """Of the list, and of a row; the table shows what an action has changed."""
    client = await serve()
    await client.post("/tasks/", json={"title": "Write"})
    key = str(await sql.fetchval("SELECT id FROM tasks"))
    async with console(client, f"#/tasks?row={quote(key)}") as page:
        await click(page, "Stats")
        await page.until("document.querySelector('.actions pre')?.textContent.includes('remaining')")
        await click(page, "Complete")
        await page.until(
            "document.querySelector('tr[data-key] .yes') && document.querySelector('#field-completed').checked"
        )
    assert await sql.fetchval("SELECT completed FROM tasks")


ORDERS = {
    "customers": "fields: {id: {type: integer, primary_key: true}, code: {type: slug, unique: true}, name: {type: string}}\n"
    "viewset: {lookup_field: code, search_fields: [name], filterset_fields: [id]}",
    "orders": """
        fields:
          id: {type: integer, primary_key: true}
          note: {type: string, default: ""}
          customer: {type: foreign_key, to: customers}
        viewset: {class: viewsets:Orders, filterset_fields: {customer: [exact, in], customer__name: [exact], id: [gte]}, ordering: [id]}
    """,
}
SENDING = """
from marshmallow import fields, validate
from rowcast import ModelViewSet, Response, Serializer, action, model

class Sending(Serializer):
    carrier = fields.String(required=True, validate=validate.OneOf(["post", "bike"]))
    weight = fields.Integer(required=True, validate=validate.Range(min=1))
    express = fields.Boolean(load_default=False)
    on = fields.Date(allow_none=True)
    data = fields.Dict()

class Orders(ModelViewSet):
    model = model("orders")

    @action(detail=True, methods=["post"], request_serializer=Sending)
    async def send(self, request, **kwargs):
        return Response(self.validate_data(request.data))

    @action(detail=False, methods=["post"])
    async def echo(self, request):
        return Response({"received": request.data})
"""


async def orders(serve: Serve, sql: asyncpg.Connection) -> Client:
    """Orders of thirty customers, whose addresses have a code."""
    client = await serve(ORDERS, OPEN, modules={"viewsets": SENDING})
    await sql.execute(
        "INSERT INTO customers (id, code, name) SELECT n, 'c-' || n, 'customer ' || n FROM generate_series(1, 30) n;"
        "INSERT INTO orders (id, note, customer_id) SELECT n, 'order ' || n, n FROM generate_series(1, 30) n"
    )
    return client


async def test_a_filter_by_related_rows_is_found_by_typing(serve: Serve, sql: asyncpg.Connection) -> None:
    """One row, and several; a view that is opened by its address shows their labels, also where addresses have no key."""
    client = await orders(serve, sql)
    value = "document.querySelector('.condition [role=combobox]')"
    option = "document.querySelector('.condition [role=option][aria-selected=true]')"
    keys = "[...document.querySelectorAll('tr[data-key]')].map(row => row.dataset.key).join()"
    async with console(client, "#/orders") as page:
        await page.until(f"{keys}.startsWith('1,2,3')")
        await click(page, "Filters")
        await click(page, "Add condition")
        await page.until(value)
        await page.evaluate(f"{value}.focus()")
        await page.write("customer 17")
        await page.until(f"{option}?.textContent === 'customer 17'")
        await page.press("Enter")
        await page.until(f"{keys} === '17'")
        await fill(page, ".condition select[aria-label=Comparison]", "in", "change")
        for name in ("customer 21", "customer 22"):
            await page.until(value)
            await page.evaluate(f"{value}.blur(); {value}.focus()")
            await page.write(name)
            await page.until(f"{option}?.textContent === {json.dumps(name)}")
            await page.press("Enter")
            await page.until(f"document.querySelector('.condition .chips').textContent.includes({json.dumps(name)})")
        await page.until(f"{keys} === '17,21,22'")
        address = await page.evaluate("location.hash")
    async with console(client, address) as page:
        chips = "[...document.querySelectorAll('.condition .chips li')].map(each => each.firstChild.textContent).join()"
        await page.until(f"{keys} === '17,21,22' && {chips} === 'customer 17,customer 21,customer 22'")
        await page.evaluate("document.querySelector('.condition .chips button').click()")
        await page.until(f"{keys} === '21,22'")


async def test_the_body_of_an_action_is_a_form(serve: Serve, sql: asyncpg.Connection) -> None:
    """Made from its serializer, with the service's messages at their fields; any other action takes JSON."""
    client = await orders(serve, sql)
    async with console(client, "#/orders?row=3") as page:
        await page.until("document.querySelector('.panel .actions')")
        await click(page, "Send", "document.querySelector('.panel')")
        await page.until("document.querySelector('#action-carrier')?.tagName === 'SELECT'")
        await fill(page, "#action-weight", "0")
        await fill(page, "#action-data", '{"a": 1}')
        await click(page, "Send", "document.querySelector('.body .buttons')")
        await page.until(
            "document.querySelector('#action-weight-errors') && document.querySelector('#action-carrier-errors')"
        )
        await fill(page, "#action-carrier", "1", "change")
        await fill(page, "#action-weight", "12")
        await fill(page, "#action-on", "2026-03-04")
        await page.evaluate("document.querySelector('#action-express').click()")
        await click(page, "Send", "document.querySelector('.body .buttons')")
        await page.until("document.querySelector('.panel .actions pre')")
        sent = json.loads(await page.evaluate("document.querySelector('.panel .actions pre').textContent"))
        assert sent == {"carrier": "bike", "weight": 12, "express": True, "on": "2026-03-04", "data": {"a": 1}}
        await page.evaluate("document.querySelector('[aria-label=\"Echo, with a body\"]').click()")
        await fill(page, "#action-body", '{"any": [9007199254740993]}')
        await click(page, "Send", "document.querySelector('.main .body')")
        await page.until("document.querySelector('.main .actions pre')?.textContent.includes('9007199254740993')")


async def test_an_edit_survives_a_killed_service(database_url: str, sql: asyncpg.Connection) -> None:
    """What somebody has written stays in the form, the table says that it is not live, and both go on after the restart."""
    service = Service(database_url, "http://127.0.0.1:1", ROWCAST_SERVER_CONSOLE="true")
    await service.start()
    try:
        await sql.execute("INSERT INTO tasks (title) VALUES ('Write')")
        key = await sql.fetchval("SELECT id FROM tasks")
        state = "document.querySelector('.bar .state').textContent"
        async with chromium.page(f"{service.url}/console/#/tasks?row={key}") as page:
            await fill(page, "#field-title", "Write more")
            await page.until(f"{state} === 'live'")
            await service.kill()
            await page.until(f"{state} === 'reconnecting'")
            await click(page, "Save")
            await page.until("document.querySelector('.panel .error')?.textContent.includes('cannot be reached')")
            await sql.execute("INSERT INTO tasks (title) VALUES ('while it was dead')")
            await service.start()
            await page.until(shown("while it was dead"))
            assert await page.evaluate("document.querySelector('#field-title').value") == "Write more"
            await click(page, "Save")
            await page.until(shown("Write more"))
        assert await sql.fetchval("SELECT title FROM tasks WHERE id = $1", key) == "Write more"
    finally:
        await service.kill()


async def test_rows_are_reached_with_the_keyboard(serve: Serve, sql: asyncpg.Connection) -> None:
    """Arrows move over rows, Enter opens one, Escape closes it, and a slash is the search."""
    client = await serve(EVERY, OPEN)
    await sql.execute("INSERT INTO things (name, number) SELECT 'thing ' || n, n FROM generate_series(1, 5) n")
    async with console(client, "#/things") as page:
        await page.until(shown("thing 5"))
        await page.evaluate("document.querySelector('tr[data-key]').focus()")
        for _ in range(2):
            await page.press("ArrowDown")
        await page.until("document.activeElement.dataset.place === '2'")
        await page.press("Enter")
        await page.until("document.querySelector('#field-name')?.value === 'thing 3'")
        await page.until("document.activeElement.matches('.panel h2')")
        await page.press("Escape")
        await page.until("!document.querySelector('.panel')")
        await page.press("/", "/")
        await page.until("document.activeElement.type === 'search'")


async def tab(page: chromium.Page, condition: str, *, backwards: bool = False) -> None:
    """Press Tab until the focused element, ``here``, meets a condition. It has an outline then."""
    for _ in range(80):
        await page.press("Tab", shift=backwards)
        if await page.evaluate(f"(here => Boolean({condition}))(document.activeElement)"):
            assert await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", condition
            return
    raise AssertionError(f"Tab does not reach what meets {condition}")


def says(text: str) -> str:
    return f"here.textContent.trim() === {json.dumps(text)}"


async def test_the_focus_stays_in_a_panel_that_covers_the_page(serve: Serve, sql: asyncpg.Connection) -> None:
    """On a narrow screen Tab does not go to what is behind it; closed, it gives the focus back to the row."""
    client = await serve(EVERY, OPEN)
    await sql.execute("INSERT INTO things (name, number) VALUES ('a thing', 1)")
    async with console(client, "#/things") as page:
        await page.look(width=500)
        await page.until(shown("a thing"))
        await page.evaluate("document.querySelector('tr[data-key]').focus()")
        await page.press("Enter")
        await page.until("document.activeElement.matches('.panel h2')")
        for _ in range(60):
            await page.press("Tab")
            assert await page.evaluate(
                "document.activeElement === document.body || Boolean(document.activeElement.closest('.panel'))"
            )
        await page.evaluate("document.querySelector('.panel h2').focus()")
        await page.press("Escape")
        await page.until("!document.querySelector('.panel') && document.activeElement.matches('tr')")


FOCUSED_ROW = "document.activeElement.dataset.key"


async def test_the_console_without_a_mouse(serve: Serve, sql: asyncpg.Connection) -> None:
    """Everything is reached by Tab, and the focus is never lost: what closes gives it back to what has opened it."""
    client = await serve(EVERY, OPEN)
    await sql.execute("INSERT INTO things (name, number) SELECT 'thing ' || n, n FROM generate_series(1, 5) n")
    await sql.execute("INSERT INTO labels (name) VALUES ('red'), ('blue')")
    async with console(client, "#/things") as page:
        await page.until(shown("thing 5"))
        await page.press("Tab")
        assert await page.evaluate("document.activeElement.textContent") == "To the rows"
        await page.press("Enter")
        assert await page.evaluate("document.activeElement.id") == "content"
        for title in ("Columns", "Export"):
            await tab(page, says(title))
            await page.press("Enter")
            await page.press("Tab")
            await page.until("document.activeElement.closest('.sheet')")
            await page.press("Escape")
            await page.until("!document.querySelector('details[open]')")
            assert await page.evaluate("document.activeElement.textContent") == title
            await tab(page, "here.matches('tr')") if title == "Export" else None
        await page.press("ArrowDown")
        await page.until(f"{FOCUSED_ROW} === '2'")
        await page.press("Enter")
        await page.until("document.activeElement.matches('.panel h2')")
        await tab(page, "here.id === 'field-name'")
        await page.evaluate("document.activeElement.select()")
        await page.write("changed")
        await page.press("Enter")
        await page.until(shown("changed"))
        await page.until("document.activeElement.closest('.panel')")
        await tab(page, "here.id === 'field-labels'")
        await page.until("document.querySelectorAll('[data-field=labels] [role=option]').length === 2")
        await page.press("Enter")  # saves, and picks no row that nobody has chosen
        await page.press("ArrowDown")
        await page.press("ArrowUp")
        await page.press("Enter")
        await page.until("document.querySelectorAll('[data-field=labels] .chips li').length === 1")
        assert await page.evaluate("document.activeElement.id") == "field-labels"
        await tab(page, "here.matches('[data-field=labels] .chips button')", backwards=True)
        await page.press("Enter")
        await page.until("document.activeElement.id === 'field-labels'")
        await page.press("Escape")  # the suggestions
        await page.press("Escape")
        await page.until("!document.querySelector('.panel')")
        await page.until(f"{FOCUSED_ROW} === '2'")
        for opener in ("Stream", "Import", "New"):
            await tab(page, says(opener), backwards=True)
            await page.press("Enter")
            await page.until("document.activeElement.matches('.panel h2')")
            await page.press("Escape")
            await page.until("!document.querySelector('.panel')")
            await page.until(f"(here => {says(opener)})(document.activeElement)")
        await tab(page, "here.textContent.trim() === 'Sign in'", backwards=True)
        await page.press("Enter")
        await page.until("document.activeElement.id === 'token'")
        await page.press("Escape")
        await page.until("document.activeElement.textContent === 'Sign in'")
        await tab(page, says("Filters"))
        await page.press("Enter")
        await tab(page, says("Add condition"))
        await page.press("Enter")
        await tab(page, "here.ariaLabel === 'Remove this condition'", backwards=True)
        await page.press("Enter")
        await page.until("document.activeElement.textContent === 'Add condition'")


KEYED = {
    "things": """
        fields:
          shop:  {type: string}
          code:  {type: string}
          on:    {type: date}
          fresh: {type: boolean}
          note:  {type: string, blank: true, default: ""}
        primary_key: [shop, code, on]
        viewset: {ordering: [shop, code]}
    """,
}


async def test_rows_with_keys_of_several_fields(serve: Serve, sql: asyncpg.Connection) -> None:
    """They are made, opened, changed, followed and deleted, whatever characters their keys have; a box is sent as it is shown."""
    client = await serve(KEYED, OPEN)
    await sql.execute("INSERT INTO things (shop, code, \"on\", fresh) VALUES ('a,b', 'c/d%', '2026-01-02', true)")
    async with console(client, "#/things?panel=new") as page:
        for name, value in {"shop": "x y", "code": "ü?&", "on": "2026-02-03"}.items():
            await fill(page, f"#field-{name}", value)
        await click(page, "Create")
        await page.until("location.hash.includes('row=') && document.querySelector('#field-note')")
        assert await sql.fetchval("SELECT fresh FROM things WHERE shop = 'x y'") is False
        await page.press("Escape")
        await page.evaluate(
            "[...document.querySelectorAll('tr[data-key]')].find(row => row.textContent.includes('a,b')).click()"
        )
        await page.until("document.querySelector('#field-code')?.value === 'c/d%'")
        await fill(page, "#field-note", "changed")
        await click(page, "Save")
        await page.until(shown("changed"))
        await sql.execute("UPDATE things SET note = 'by others' WHERE shop = 'a,b'")
        await page.until(shown("by others"))
        await page.until("document.querySelector('#field-note').value === 'by others'")
        await page.evaluate("window.confirm = () => true")
        await click(page, "Delete")
        await page.until(f"!({shown('a,b')})")
        assert await sql.fetchval("SELECT count(*) FROM things") == 1
        await click(page, "Undo")
        await page.until(shown("a,b"))
    assert await sql.fetchval("SELECT note FROM things WHERE shop = 'a,b'") == "by others"


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed; `make web` installs it")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_axe_finds_nothing_serious(serve: Serve, sql: asyncpg.Connection, dark: bool) -> None:
    """No serious or critical violation of WCAG in any view, wide and on a phone."""
    client = await serve(EVERY, OPEN)
    await sql.execute("INSERT INTO things (name, number) SELECT 'thing ' || n, n FROM generate_series(1, 60) n")
    script = AXE.read_text()
    group = quote('{"or":[{"done":true},{"number__lt":5}]}')
    views = (
        "#/things",
        f"#/things?filter={group}",
        "#/things?row=1",
        "#/things?panel=new",
        "#/things?panel=stream",
        "#/things?panel=import",
    )
    async with console(client) as page:
        await page.evaluate(f"{script}; 0")
        for view in views:
            for width in (1280, 390):
                await page.look(width=width, dark=dark)
                await page.evaluate(f"location.hash = {json.dumps(view)}; 0")
                ready = (
                    "document.querySelector('.panel h2, .panel label')"
                    if "row=" in view or "panel=" in view
                    else "!document.querySelector('.panel')"
                )
                await page.until(f"document.querySelector('tr[data-key]') && {ready}")
                found: list[dict[str, Any]] = await page.evaluate(
                    "axe.run().then(found => found.violations.map(({id, impact, nodes}) => "
                    "({id, impact, nodes: nodes.map(node => node.html.slice(0, 200))})))"
                )
                serious = [each for each in found if each["impact"] in ("serious", "critical")]
                assert serious == [], (view, width)


def test_the_console_is_small() -> None:
    """All of it is less than 300 kB as it is sent."""
    assert sum(len(gzip.compress(asset.body)) for asset in FILES.values()) < 300_000
