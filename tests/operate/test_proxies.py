"""The configurations of docs/deploy.md for proxies, with those that are installed here, in front of a service.

Each is tested with the service at the root of its host, and below a prefix that the proxy takes off.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp
import asyncpg
import pytest
from yarl import URL

from rowcast.server.assets import read_assets

from ..browser import chromium
from ..conftest import ROOT, Client, Serve
from ..programs import find
from ..sse import Event, Parser
from ..tls import NAME, free_port, write_certificate
from ..waiting import until_listening

SETTINGS = json.dumps(
    {
        "server": {"allowed_hosts": [NAME], "trusted_proxies": 1, "console": True},
        "auth": {"default_permission_classes": ["AllowAny"]},
    }
)
NOTES = {
    "notes": "fields: {id: {type: integer, primary_key: true}, text: {type: text}}\nviewset: {page_size: 1}",
    "files": "fields: {name: {type: text, primary_key: true}}",
}
PROXIES = {  # by the language of the block in the page
    "nginx": ("nginx", ("-p", "{directory}", "-c", "{file}")),
    "haproxy": ("haproxy", ("-f", "{file}")),
    "caddyfile": ("caddy", ("run", "--adapter", "caddyfile", "--config", "{file}")),
}
BROWSER = ("--ignore-certificate-errors", f"--host-resolver-rules=MAP {NAME} 127.0.0.1")
LARGE_TEXT = "0123456789abcdef" * 60_000  # nearly server.body_limit
DEADLINE = 20.0

pytestmark = pytest.mark.tables(NOTES)


class Proxy(NamedTuple):
    """Where a proxy is, and the path at which it has the service."""

    port: int
    prefix: str

    @property
    def url(self) -> str:
        """The address of the service, for clients that know the proxy's name."""
        return f"https://{NAME}:{self.port}{self.prefix}"


def configuration(language: str, prefix: str) -> str:
    """The page's configuration, with what it changes for a service below a prefix."""
    block, below = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text(), re.DOTALL)
    if not prefix:
        return str(block)
    if language == "nginx":
        rules, server = below.split("server {\n")
        header, locations = server.split("\n\n", 1)
        common, _ = block.split("    location / {")
        return rules + re.sub(r"    proxy_set_header X-Forwarded-Prefix .*", lambda _: header, common) + locations
    if language == "haproxy":
        front, back = re.fullmatch(r"frontend https\n(.*)\n\nbackend rowcast\n(.*)", below, re.DOTALL).groups()  # type: ignore[union-attr]
        return block.replace("    default_backend rowcast", front) + back
    first, rest = below.split("\n", 1)
    tls = re.search(r"    tls .*\n", block)
    assert tls is not None
    return f"{first}\n{tls[0]}{rest}"


def written(language: str, prefix: str, directory: Path, client: Client, port: int) -> str:
    """The page's configuration; only its addresses and files differ."""
    block = configuration(language, prefix)
    here = {
        "127.0.0.1:8000": f"{client.host}:{client.port}",
        "8443": str(port),
        f"/etc/ssl/{NAME}.pem": f"{directory}/cert.pem",
        f"/etc/ssl/{NAME}.key": f"{directory}/cert.key",
        f"/etc/ssl/{NAME}.both.pem": f"{directory}/both.pem",
    }
    block = re.sub("|".join(map(re.escape, here)), lambda match: here[match[0]], block)
    if language == "nginx":
        temporary = "".join(
            f"{each}_temp_path {directory}; " for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        return (
            f"daemon off; master_process off; pid {directory}/pid; error_log stderr;\nevents {{}}\n"
            f"http {{ access_log off; {temporary}\n{block}\n}}\n"
        )
    if language == "caddyfile":
        return f"{{\n    admin off\n    auto_https disable_redirects\n}}\n{block}"
    return block


@pytest.fixture(params=[(language, prefix) for prefix in ("", "/api") for language in PROXIES], ids="".join)
async def proxy(request: pytest.FixtureRequest, serve: Serve, tmp_path: Path) -> AsyncIterator[Proxy]:
    """A proxy in front of a service."""
    language, prefix = request.param
    program, arguments = PROXIES[language]
    path = find(program)
    if path is None:
        pytest.skip(f"needs {program}")
    write_certificate(tmp_path)
    port = free_port()
    file = tmp_path / program
    file.write_text(written(language, prefix, tmp_path, await serve(NOTES, SETTINGS), port))
    process = await asyncio.create_subprocess_exec(
        path,
        *(each.format(directory=tmp_path, file=file) for each in arguments),
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        stderr=asyncio.subprocess.DEVNULL,
    )

    await until_listening(process, port)
    yield Proxy(port, prefix)
    process.kill()
    await process.wait()


@asynccontextmanager
async def stream(proxy: Proxy, path: str, last: str = "") -> AsyncIterator[AsyncIterator[Event]]:
    """The events of a stream that curl reads over HTTP/2."""
    curl = await asyncio.create_subprocess_exec(
        "curl", "--silent", "--no-buffer", "--insecure", "--http2", "--dump-header", "-",
        "--resolve", f"{NAME}:{proxy.port}:127.0.0.1", "--header", "Accept: text/event-stream",
        "--header", f"Last-Event-ID: {last}" if last else "X-First: 1", f"{proxy.url}{path}",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert curl.stdout is not None
    output = curl.stdout

    async def events() -> AsyncIterator[Event]:
        parser = Parser()
        while chunk := await output.read(1 << 16):
            for event in parser.feed(chunk):
                yield event

    try:
        async with asyncio.timeout(DEADLINE):
            head = await output.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/2 200"), head
            assert b"no-transform" in head
            yield events()
    finally:
        if curl.returncode is None:
            curl.kill()
        await curl.wait()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_streams_pass_at_once_and_resume(proxy: Proxy, sql: asyncpg.Connection) -> None:
    """Over HTTP/2: each event when it happens, however small, and what has happened while there was no connection."""
    await sql.execute("INSERT INTO notes (text) VALUES ('a')")
    for path in ("/notes/stream/", "/notes/1/stream", "/stream/?resources=notes"):
        last = ""
        async with stream(proxy, path) as events:
            async for event in events:
                last = event.id
                if event.event != "ready":
                    assert '"UPDATE"' in event.data
                    break
                await sql.execute("UPDATE notes SET text = 'b' WHERE id = 1")
        await sql.execute("UPDATE notes SET text = 'c' WHERE id = 1")
        async with stream(proxy, path, last) as events:
            kinds = [await anext(events) for _ in range(2)]
            assert kinds[0].event == "ready"
            assert '"c"' in kinds[1].data


@asynccontextmanager
async def session(proxy: Proxy) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the proxy that writes headers which only a proxy should."""
    forged = {
        "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http", "X-Forwarded-For": "192.0.2.1",
        "X-Forwarded-Prefix": "/evil", "Forwarded": "host=evil.example;proto=http",
    }  # fmt: skip
    async with aiohttp.ClientSession(
        f"https://127.0.0.1:{proxy.port}{proxy.prefix}/",
        connector=aiohttp.TCPConnector(ssl=False),
        headers={"Host": f"{NAME}:{proxy.port}", **forged},
    ) as client:
        yield client


async def test_large_bodies_pass_both_ways(proxy: Proxy) -> None:
    """Whole; one that is too large is refused with a 413, whoever does that."""
    async with session(proxy) as client:
        for _ in range(2):
            made = await client.post("notes/", json={"text": LARGE_TEXT}, server_hostname=NAME)
            assert (made.status, (await made.json())["text"]) == (201, LARGE_TEXT)
        page = await client.get("notes/", server_hostname=NAME)
        assert (await page.json())["results"][0]["text"] == LARGE_TEXT
        over = await client.post("notes/", json={"text": LARGE_TEXT * 2}, server_hostname=NAME)
        assert over.status == 413


async def test_addresses_name_what_the_client_sees(proxy: Proxy, sql: asyncpg.Connection) -> None:
    """Name, port and prefix, whatever the client writes into the headers of proxies."""
    await sql.execute("INSERT INTO notes (text) VALUES ('a'), ('b')")
    async with session(proxy) as client:
        page = await (await client.get("notes/", server_hostname=NAME)).json()
        assert page["next"] == f"{proxy.url}/notes/?page=2"
        made = await client.post("files/", json={"name": "a/b"}, server_hostname=NAME)
        assert made.headers["Location"] == f"{proxy.url}/files/a%2Fb/"
        found = await client.get(
            URL(f"https://127.0.0.1:{proxy.port}{proxy.prefix}/files/a%2Fb/", encoded=True), server_hostname=NAME
        )
        assert (found.status, await found.json()) == (200, {"name": "a/b"})
        refused = await (await client.get("notes/99/", server_hostname=NAME)).json()
        assert refused["type"] == f"{proxy.prefix}/docs/errors/not_found"
        document = await (await client.get("openapi.json", server_hostname=NAME)).json()
        assert document.get("servers") == ([{"url": proxy.prefix}] if proxy.prefix else None)


@pytest.mark.skipif(chromium.FOUND is None, reason="there is no Chromium on PATH")
@pytest.mark.skipif(not read_assets(), reason="the web files are not built; `make web` builds them")
async def test_pages_work_in_a_browser(proxy: Proxy, sql: asyncpg.Connection) -> None:
    """The console shows rows and follows them, and the page of the documentation sends requests."""
    await sql.execute("INSERT INTO notes (text) VALUES ('first')")
    async with chromium.page(f"{proxy.url}/console/#/notes", *BROWSER) as page:
        await page.until("document.querySelector('tr[data-key=\"1\"]')")
        await sql.execute("INSERT INTO notes (text) VALUES ('second')")
        await page.until("document.querySelector('tr[data-key=\"2\"]')")
        assert page.errors == []
    async with chromium.page(f"{proxy.url}/docs/", *BROWSER) as page:
        for button in (".opblock-summary-control", ".try-out__btn", ".execute"):
            element = f"document.querySelector('#operations-notes-notes_list {button}')"
            await page.until(element)
            await page.evaluate(f"{element}.click()")
        status = "document.querySelector('#operations-notes-notes_list .live-responses-table .response .response-col_status')"
        await page.until(status)
        assert "200" in await page.evaluate(f"{status}.textContent")
        assert page.errors == []
