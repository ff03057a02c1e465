"""``/console/``: where it is served, under which policy, and what OPTIONS tells it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from rowcast.configuration.settings import Database, Settings
from rowcast.errors import ConfigurationError
from rowcast.server import assets, console
from rowcast.server.assets import Asset

from ..conftest import Serve

NOTES = {"notes": "fields: {text: {type: string}}"}
BUILT = {
    name: Asset(name, b"/* */")
    for name in ("client.js", "console/main-ABCDEFG1.js", "console/main-ABCDEFG2.css", "console/preact.LICENSE.txt")
}


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation with the files of the console, whatever is built in this checkout."""
    for module in (assets, console):
        monkeypatch.setattr(module, "read_assets", lambda: BUILT)


@pytest.mark.usefixtures("built")
async def test_the_console_is_there_where_it_is_wanted(serve: Serve) -> None:
    """Its policy allows nothing but the service's own files; ``server.console: false`` takes it away."""
    client = await serve(NOTES, '{"api": {"title": "Notes & <more>"}}')
    for path in ("/console", "/console/"):
        response = await client.get(path)
        html = await response.text()
        assert (response.status, response.content_type) == (200, "text/html")
        policy = response.headers["Content-Security-Policy"]
        expected = {"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"}
        assert expected <= set(policy.split("; "))
        assert "unsafe" not in policy
        assert "<title>Notes &amp; &lt;more&gt;</title>" in html
        loaded = re.findall(r'(?:src|href)="(/console[^"]+)"', html)
        assert len(loaded) == 2
        for file in loaded:
            found = await client.get(file)
            assert (found.status, "immutable" in found.headers["Cache-Control"]) == (200, True)
    off = await serve(NOTES, '{"server": {"console": false}}')
    assert (await off.get("/console/")).status == 404


def test_the_console_is_on_with_the_embedded_database() -> None:
    """By default not with a database of one's own, nor where the descriptions that it reads are off."""

    def settings(url: str | None, **server: Any) -> Settings:
        return Settings(server=type(Settings().server)(**server), database=Database(url=url))

    own = "postgresql://host/name"
    assert console.is_on(settings(None))
    assert not console.is_on(settings(own))
    assert console.is_on(settings(own, console=True))
    assert not console.is_on(settings(None, console=False))
    assert not console.is_on(settings(None, openapi="off"))


async def test_a_console_that_cannot_be_is_refused(serve: Serve) -> None:
    """With the place of the setting, or of the resource."""
    message = r"service.yaml:1:\d+: console: the console reads / and /openapi.json"
    with pytest.raises(ConfigurationError, match=message):
        await serve({"notes": "fields: {}"}, '{"server": {"console": true, "openapi": "off"}}')
    with pytest.raises(ConfigurationError, match="'console' is a route of the service itself"):
        await serve({"console": "fields: {}"}, "{}")


async def test_an_installation_without_web_files_says_so(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 404 with the command that builds them."""
    monkeypatch.setattr(console, "read_assets", dict)
    client = await serve(NOTES)
    response = await client.get("/console/")
    assert response.status == 404
    assert "make web" in (await response.json())["detail"]


async def test_options_of_a_list_say_how_it_is_read(serve: Serve) -> None:
    """Fields without those that are never shown, filters with their lookups, orders, search and pagination."""
    resource = """
        fields:
          id: {type: integer, primary_key: true}
          name: {type: string}
          level: {type: string, choices: [low, high], default: low}
          secret: {type: string, write_only: true, null: true}
        viewset:
          filterset_fields: {name: [exact, icontains], level: [in]}
          search_fields: [name]
          ordering_fields: [name, level]
          ordering: [-name]
          pagination_class: CursorPagination
          max_page_size: 50
    """
    client = await serve({"notes": resource})
    body = await (await client.options("/notes/")).json()
    found = body["list"]
    assert list(found.pop("fields")) == ["id", "name", "level"]
    assert found == {
        "key": ["id"],
        "primary_key": ["id"],
        "filters": {
            "name": {"type": "string", "lookups": ["exact", "icontains"]},
            "level": {"type": "string", "lookups": ["in"], "choices": ["low", "high"]},
        },
        "search": True,
        "ordering": ["name", "level"],
        "ordered_by_choices": [],
        "default_ordering": ["-name"],
        "pagination": "cursor",
        "max_page_size": 50,
    }
    assert "list" not in await (await client.options("/notes/1/")).json()


async def test_filters_by_relations_name_their_resource(serve: Serve) -> None:
    """Those whose values are keys of its rows, over any number of relations; not those by other values."""
    resources = {
        "authors": "fields: {name: {type: string}}",
        "books": """
            fields: {author: {type: foreign_key, to: authors, related_name: books}, readers: {type: many_to_many, to: authors, related_name: read}}
            viewset: {filterset_fields: [id, author, author_id, readers, author__id, author__name, author__books, author__read__id]}
        """,
    }
    client = await serve(resources)
    found = (await (await client.options("/books/")).json())["list"]["filters"]
    assert {name: each["to"] for name, each in found.items() if "to" in each} == {
        "author": "authors", "author_id": "authors", "readers": "authors", "author__id": "authors", "author__books": "books",
        "author__read__id": "books",
    }  # fmt: skip
