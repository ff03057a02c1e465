"""``Host``, absolute targets and ``X-Forwarded-…``: nothing that a client made up is in ``Location``, ``next`` or ``/``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from rowcast.configuration.settings import Server
from rowcast.server.hosts import host_name

from ..conftest import configure
from ..databases import Databases
from .conftest import running
from .library import OPEN, Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOTES = {"notes": {"fields": {"text": {"type": "text"}}, "viewset": {"page_size": 1}}}


def with_server(**server: object) -> str:
    return json.dumps({**json.loads(OPEN), "server": server})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A service without ``allowed_hosts``."""
    async with running(databases, tmp_path_factory.mktemp("local"), NOTES) as service:
        await service.sql.execute("INSERT INTO notes (text) VALUES ('a'), ('b')")
        yield service


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def public(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A service with names of its own, behind two proxies."""
    settings = with_server(
        allowed_hosts=["api.example.com", "*.internal", "192.0.2.7", "[2001:db8::1]"], trusted_proxies=2
    )
    async with running(databases, tmp_path_factory.mktemp("public"), NOTES, settings) as service:
        await service.sql.execute("INSERT INTO notes (text) VALUES ('a'), ('b')")
        yield service


async def send(
    service: Service, *lines: str, version: str = "1.1", body: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    """The status, the headers and the body of the response to a request line without version, and header lines."""
    reader, writer = await asyncio.open_connection(service.client.host, service.client.port)
    head = "\r\n".join((f"{lines[0]} HTTP/{version}", *lines[1:], "Connection: close", "", ""))
    writer.write(head.encode("latin-1") + body)
    async with asyncio.timeout(30):
        answer, _, content = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    first, *rest = answer.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in rest)
    assert headers["X-Content-Type-Options"] == "nosniff"
    return int(first.split(" ")[1]), headers, content


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8000", "127.0.0.1:{port}", "127.0.0.9", "[::1]:80", "app.localhost:3000", "localhost."],
)
async def test_loopback_needs_no_setting(local: Service, host: str) -> None:
    """Every name of the machine itself is accepted, with any port: compose may publish another one."""
    host = host.format(port=local.client.port)
    status, _, body = await send(local, "GET /notes/", f"Host: {host}")
    assert (status, json.loads(body)["next"].split("/notes/")[0]) == (200, f"http://{host}")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "192.0.2.1", "localhost.evil.example", "x", "[2001:db8::2]"]
)
@pytest.mark.parametrize(
    "request_", ["GET /notes/", "GET /", "POST /notes/", "GET /nothing/", "GET /notes/stream/", "GET /openapi.json"]
)
async def test_other_hosts_are_refused(local: Service, host: str, request_: str) -> None:
    """With a problem document that names the setting; nothing is written."""
    status, headers, body = await send(local, request_, f"Host: {host}")
    assert (status, json.loads(body)["code"]) == (400, "invalid_host")
    assert headers["Content-Type"] == "application/problem+json"
    assert "server.allowed_hosts" in json.loads(body)["detail"]


@pytest.mark.parametrize(
    "host",
    ["", "a b", "evil.example/", "local host", "localhost:", "localhost:x", "localhost:99999", "localhost:80:80", "[::1", "[zz]",
     "user@localhost", "localhost\\x", 'localhost"', "<localhost>", "localhost?x", "localhost#", "a\xe9", "-a", ".", "a,b"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/notes/", "/health/live"])
async def test_malformed_hosts_are_refused_everywhere(public: Service, host: str, path: str) -> None:
    """Whatever is allowed: what is not a host cannot be part of an address."""
    status, _, body = await send(public, f"GET {path}", f"Host: {host}")
    assert (status, json.loads(body)["status"]) == (400, 400)


async def test_http_1_1_needs_a_host(local: Service) -> None:
    """Exactly one; HTTP/1.0 needs none, and its links name the address of the connection."""
    assert (await send(local, "GET /notes/"))[0] == 400
    assert (await send(local, "GET /notes/", "Host: localhost", "Host: localhost"))[0] == 400
    assert (await send(local, "GET /notes/", "Host: localhost", "Host: evil.example"))[0] == 400
    status, _, body = await send(local, "GET /notes/", version="1.0")
    assert status == 200
    assert json.loads(body)["next"].startswith(f"http://127.0.0.1:{local.client.port}/notes/")


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://localhost:81/notes/", "localhost:82", 200),
        ("https://localhost:81/notes/", "localhost:82", 200),
        ("http://evil.example/notes/", "localhost", 400),
        ("http://localhost@evil.example/notes/", "localhost", 400),
        ("http://evil.example?/notes/", "localhost", 400),
        ("ftp://evil.example/notes/", "localhost", 400),
        ("http://localhost/notes/", "evil.example", 400),
        ("http:///notes/", "localhost", 400),
        ("//evil.example/notes/", "localhost", 404),
    ],
)
async def test_absolute_targets_are_checked_like_hosts(local: Service, target: str, host: str, status: int) -> None:
    """Their host replaces ``Host``, with its port; their scheme is not what the client uses."""
    found, _, body = await send(local, f"GET {target}", f"Host: {host}")
    assert found == status
    if status == 200:
        assert json.loads(body)["next"].startswith("http://localhost:81/notes/")


async def test_probes_may_name_any_host(public: Service) -> None:
    """Orchestrators send the address of a pod, which no setting lists."""
    for host in ("10.1.2.3:8000", "[fd00::5]:8000", "rowcast.svc"):
        for path in ("/health/live", "/health/ready", "/health/ready/"):
            assert (await send(public, f"GET {path}", f"Host: {host}"))[0] == 200
        assert (await send(public, "GET /notes/", f"Host: {host}"))[0] == 400


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("api.example.com", 200), ("API.example.com:8443", 200), ("a.b.internal", 200), ("192.0.2.7:1", 200),
        ("[2001:DB8:0::1]:1", 200), ("internal", 400), ("xinternal", 400), ("localhost", 400), ("127.0.0.1", 400),
        ("www.api.example.com", 400),
    ],
)  # fmt: skip
async def test_allowed_hosts_are_the_whole_list(public: Service, host: str, status: int) -> None:
    """With the setting, loopback is not accepted either, unless it is listed."""
    assert (await send(public, "GET /notes/", f"Host: {host}"))[0] == status


@pytest.mark.parametrize(
    ("forwarded", "host", "expected"),
    [
        ("api.example.com:8443", "upstream", "http://api.example.com:8443"),
        ("evil.example, a.internal, b.internal", "upstream", "http://a.internal"),
        ("evil.example", "api.example.com", None),
        ("a/b", "api.example.com", None),
        ("a.internal", "a/b", None),
        ("", "api.example.com", "http://api.example.com"),
    ],
)
async def test_forwarded_hosts_are_checked(public: Service, forwarded: str, host: str, expected: str | None) -> None:
    """Behind proxies their ``X-Forwarded-Host`` is shown, and ``Host`` may be the proxy's name for the service."""
    for request in ("GET /notes/", "GET /"):
        status, _, body = await send(public, request, f"Host: {host}", f"X-Forwarded-Host: {forwarded}")
        assert status == (400 if expected is None else 200)
        assert expected is None or f'"{expected}/notes/' in body.decode()


async def test_forwarded_headers_of_clients_have_no_effect(local: Service) -> None:
    """Without ``trusted_proxies`` they are neither shown nor checked."""
    body = b'{"text": "x"}'
    lines = (
        "Host: localhost",
        "X-Forwarded-Host: evil.example",
        "X-Forwarded-Proto: https",
        "Forwarded: host=evil.example",
    )
    status, headers, _ = await send(
        local, "POST /notes/", *lines, "Content-Type: application/json", f"Content-Length: {len(body)}", body=body
    )
    assert (status, headers["Location"].rpartition("/notes/")[0]) == (201, "http://localhost")


async def test_any_host_may_be_allowed(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> None:
    """``*`` allows every host that is one."""
    directory = tmp_path_factory.mktemp("any")
    async with running(databases, directory, NOTES, with_server(allowed_hosts=["*"])) as service:
        assert (await send(service, "GET /notes/", "Host: whatever.example:1"))[0] == 200
        assert (await send(service, "GET /notes/", "Host: what ever"))[0] == 400


@pytest.mark.parametrize(
    "host", ["api.example.com:80", "https://api.example.com", "*.", "a..b", "*.*", ".example.com", "", "[1.2.3.4]"]
)
async def test_setting_is_checked(host: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A name with a port or a scheme would never match."""
    with pytest.raises(Exception, match="allowed_hosts"):
        configure(tmp_path_factory.mktemp("wrong"), {}, json.dumps({"server": {"allowed_hosts": [host]}}))


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("A.example:80", "a.example"),
        ("[::0:1]:80", "::1"),
        ("1.2.3.4", "1.2.3.4"),
        ("a_b-c.d.", "a_b-c.d"),
        ("a:", None),
    ],
)
async def test_name_of_a_host(host: str, name: str | None) -> None:
    """Names are compared without case, port and the dot at their end, addresses in their canonical form."""
    assert host_name(host) == name
    assert Server().allowed_hosts == ()
