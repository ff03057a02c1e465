"""The configurations of docs/deploy.md for proxies, with those that are installed here, in front of a service."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from ..conftest import ROOT, Client, Serve
from ..sse import Event, Parser
from ..tls import NAME, free_port, write_certificate
from ..waiting import until_listening

SETTINGS = json.dumps(
    {
        "server": {"allowed_hosts": [NAME], "trusted_proxies": 1},
        "auth": {"default_permission_classes": ["AllowAny"]},
    }
)
NOTES = {"notes": "fields: {id: {type: integer, primary_key: true}, text: {type: text}}\nviewset: {page_size: 1}"}
PROXIES = {  # by the language of the block in the page
    "nginx": ("nginx", ("-p", "{directory}", "-c", "{file}")),
    "haproxy": ("haproxy", ("-f", "{file}")),
    "caddyfile": ("caddy", ("run", "--adapter", "caddyfile", "--config", "{file}")),
}
LARGE_TEXT = "0123456789abcdef" * 60_000  # nearly server.body_limit
DEADLINE = 20.0

pytestmark = pytest.mark.tables(NOTES)


def written(language: str, directory: Path, client: Client, port: int) -> str:
    """The page's configuration; only its addresses and files differ."""
    block = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text(), re.DOTALL)[0]
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


@pytest.fixture(params=PROXIES)
async def port(request: pytest.FixtureRequest, serve: Serve, tmp_path: Path) -> AsyncIterator[int]:
    """The port of a proxy in front of a service."""
    program, arguments = PROXIES[request.param]
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"needs {program}")
    write_certificate(tmp_path)
    port = free_port()
    file = tmp_path / program
    file.write_text(written(request.param, tmp_path, await serve(NOTES, SETTINGS), port))
    process = await asyncio.create_subprocess_exec(
        path,
        *(each.format(directory=tmp_path, file=file) for each in arguments),
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        stderr=asyncio.subprocess.DEVNULL,
    )

    await until_listening(process, port)
    yield port
    process.kill()
    await process.wait()


@asynccontextmanager
async def stream(port: int, path: str, last: str = "") -> AsyncIterator[AsyncIterator[Event]]:
    """The events of a stream that curl reads over HTTP/2."""
    curl = await asyncio.create_subprocess_exec(
        "curl", "--silent", "--no-buffer", "--insecure", "--http2", "--dump-header", "-",
        "--resolve", f"{NAME}:{port}:127.0.0.1", "--header", "Accept: text/event-stream",
        "--header", f"Last-Event-ID: {last}" if last else "X-First: 1", f"https://{NAME}:{port}{path}",
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
async def test_streams_pass_at_once_and_resume(port: int, sql: asyncpg.Connection) -> None:
    """Over HTTP/2: each event when it happens, however small, and what has happened while there was no connection."""
    await sql.execute("INSERT INTO notes (text) VALUES ('a')")
    for path in ("/notes/stream/", "/notes/1/stream", "/stream/?resources=notes"):
        last = ""
        async with stream(port, path) as events:
            async for event in events:
                last = event.id
                if event.event != "ready":
                    assert '"UPDATE"' in event.data
                    break
                await sql.execute("UPDATE notes SET text = 'b' WHERE id = 1")
        await sql.execute("UPDATE notes SET text = 'c' WHERE id = 1")
        async with stream(port, path, last) as events:
            kinds = [await anext(events) for _ in range(2)]
            assert kinds[0].event == "ready"
            assert '"c"' in kinds[1].data


async def test_large_bodies_pass_both_ways(port: int) -> None:
    """Whole; one that is too large is refused with a 413, whoever does that. Links name what the client has sent."""
    own = f"https://{NAME}:{port}"
    host = {"Host": f"{NAME}:{port}"}
    forged = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http", "X-Forwarded-For": "192.0.2.1"}
    connector = aiohttp.TCPConnector(ssl=False)
    async with aiohttp.ClientSession(f"https://127.0.0.1:{port}", connector=connector, headers=host) as session:
        for _ in range(2):
            made = await session.post("/notes/", json={"text": LARGE_TEXT}, headers=forged, server_hostname=NAME)
            assert (made.status, (await made.json())["text"]) == (201, LARGE_TEXT)
        page = await session.get("/notes/", headers=forged, server_hostname=NAME)
        found = await page.json()
        assert (found["next"], found["results"][0]["text"]) == (f"{own}/notes/?page=2", LARGE_TEXT)
        over = await session.post("/notes/", json={"text": LARGE_TEXT * 2}, server_hostname=NAME)
        assert over.status == 413
