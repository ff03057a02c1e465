"""The nginx configuration of docs/deploy.md, with an nginx that is installed here, in front of a service."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from ..conftest import ROOT, Client, Serve
from ..programs import find
from ..tls import NAME, free_port, write_certificate
from ..waiting import until_listening

NGINX = find("nginx")
SETTINGS = json.dumps(
    {
        "server": {"allowed_hosts": [NAME], "trusted_proxies": 1},
        "throttle": {"classes": ["AnonRateThrottle"], "rates": {"anon": "40/min"}},
        "auth": {"default_permission_classes": ["AllowAny"]},
    }
)
NOTES = {"notes": "fields: {id: {type: integer, primary_key: true}, text: {type: text}}\nviewset: {page_size: 1}"}

pytestmark = [
    pytest.mark.skipif(NGINX is None, reason="needs nginx"),
    pytest.mark.tables({"notes": NOTES["notes"]}),
]


@pytest.fixture
async def client(serve: Serve) -> Client:
    return await serve(NOTES, SETTINGS)


@pytest.fixture
async def port(client: Client, tmp_path: Path) -> AsyncIterator[int]:
    """The port of an nginx with the page's configuration; only its addresses and files differ."""
    write_certificate(tmp_path)
    port = free_port()
    block = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text(), re.DOTALL)[0]
    here = {
        "127.0.0.1:8000": f"{client.host}:{client.port}",
        "8443": str(port),
        f"/etc/ssl/{NAME}.pem": str(tmp_path / "cert.pem"),
        f"/etc/ssl/{NAME}.key": str(tmp_path / "cert.key"),
    }
    assert all(written in block for written in here)
    # All at once: what has been replaced may have 8443 in it, as the port 38443 has.
    block = re.sub("|".join(map(re.escape, here)), lambda match: here[match[0]], block)
    temporary = "".join(
        f"{each}_temp_path {tmp_path}; " for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {tmp_path}/pid; error_log stderr;\nevents {{}}\n"
        f"http {{ access_log off; {temporary}\n{block}\n}}\n"
    )
    assert NGINX is not None
    process = await asyncio.create_subprocess_exec(NGINX, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"))

    await until_listening(process, port)
    yield port
    process.terminate()
    await process.wait()


async def test_links_and_addresses_pass_through_the_proxy(port: int, sql: asyncpg.Connection) -> None:
    """Links have scheme, name and port; another name is refused; ``X-Forwarded-…`` of the client have no effect."""
    await sql.execute("INSERT INTO notes (text) VALUES ('a'), ('b')")
    own = f"https://{NAME}:{port}"
    forged = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http"}
    async with aiohttp.ClientSession(f"https://127.0.0.1:{port}", connector=aiohttp.TCPConnector(ssl=False)) as session:
        async with session.get("/notes/", headers={"Host": f"{NAME}:{port}", **forged}) as page:
            assert (page.status, (await page.json())["next"]) == (200, f"{own}/notes/?page=2")
        async with session.post("/notes/", json={"text": "c"}, headers={"Host": f"{NAME}:{port}", **forged}) as made:
            assert (made.status, made.headers["Location"]) == (201, f"{own}/notes/3/")
        async with session.get("/notes/", headers={"Host": "evil.example", "X-Forwarded-Host": NAME}) as refused:
            assert (refused.status, (await refused.json())["code"]) == (400, "invalid_host")
        remaining = [
            (await session.get("/notes/", headers={"Host": NAME, "X-Forwarded-For": f"192.0.2.{n}"})).headers[
                "RateLimit"
            ]
            for n in range(3)
        ]
        assert len({re.sub(r";t=\d+", "", text) for text in remaining}) == 3, "one count, whatever the client writes"


async def test_streams_pass_through_the_proxy_at_once(port: int, sql: asyncpg.Connection) -> None:
    """On each of their addresses: an event is with the client when it happens, and not when a buffer is full."""
    await sql.execute("INSERT INTO notes (text) VALUES ('a')")
    for path in ("/notes/stream/", "/notes/stream", "/stream/?resources=notes", "/notes/1/stream"):
        connector = aiohttp.TCPConnector(ssl=False)
        async with (
            aiohttp.ClientSession(f"https://127.0.0.1:{port}", connector=connector) as session,
            session.get(path, headers={"Host": NAME}) as response,
            asyncio.timeout(30),
        ):
            assert response.content_type == "text/event-stream"
            async for line in response.content:
                if line.startswith(b"event: ready"):
                    await sql.execute("UPDATE notes SET text = text || 'x' WHERE id = 1")
                if b'"UPDATE"' in line:
                    break
