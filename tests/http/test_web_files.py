"""The files for browsers: what an installation carries of them, and what caches may keep."""

from __future__ import annotations

import gzip

import pytest

from rowcast.server import assets
from rowcast.server.assets import Asset, read_assets

from ..conftest import Serve

SCRIPT = b"export const answer = 42;\n" * 100


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation with a script of some size, whatever is built in this checkout."""
    monkeypatch.setattr(assets, "read_assets", lambda: {"client.js": Asset("client.js", SCRIPT)})


@pytest.mark.usefixtures("built")
async def test_the_client_is_sent_with_a_tag(serve: Serve) -> None:
    """By its plain address it is asked for again; by an address with its hash it may be kept for ever."""
    client = await serve()
    response = await client.get("/client.js")
    assert (response.status, await response.read()) == (200, SCRIPT)
    assert response.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-cache"
    tag = response.headers["ETag"]
    again = await client.get("/client.js", headers={"If-None-Match": tag})
    assert (again.status, await again.read(), again.headers["ETag"]) == (304, b"", tag)
    kept = await client.get("/client.js", params={"v": tag.strip('"')})
    assert kept.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    old = await client.get("/client.js", params={"v": "0" * 16})
    assert old.headers["Cache-Control"] == "no-cache"


@pytest.mark.usefixtures("built")
async def test_the_client_is_compressed_and_may_be_imported_by_other_origins(serve: Serve) -> None:
    """A module of another origin needs a header that allows it; the file is public."""
    client = await serve()
    response = await client.get("/client.js", headers={"Accept-Encoding": "gzip", "Origin": "https://shop.example"})
    assert response.headers["Content-Encoding"] == "gzip"
    assert int(response.headers["Content-Length"]) == len(gzip.compress(SCRIPT, mtime=0))
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert "Accept-Encoding" in response.headers["Vary"]
    assert await response.read() == SCRIPT


async def test_an_installation_without_web_files_says_so(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 404 with the command that builds them; everything else works."""
    monkeypatch.setattr(assets, "read_assets", dict)
    client = await serve()
    response = await client.get("/client.js")
    assert response.status == 404
    assert "make web" in (await response.json())["detail"]
    assert (await client.get("/tasks/")).status == 200


def test_files_with_a_hash_in_their_name_never_change() -> None:
    """As esbuild names them; a word of eight letters is none."""
    assert assets.HASHED_NAME.search("console/app-4NQ7L2XA.js")
    assert not assets.HASHED_NAME.search("console/app-settings.js")
    assert all(asset.content_type != "application/octet-stream" for asset in read_assets().values())
