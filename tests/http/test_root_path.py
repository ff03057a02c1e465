"""A service below a prefix that a proxy takes off: ``server.root_path``, ``X-Forwarded-Prefix`` and ``Forwarded``."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from rowcast.server import assets

from ..conftest import configure
from ..databases import Databases
from .conftest import running
from .library import OPEN, Service
from .test_hosts import send

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOTES = {
    "notes": {
        "fields": {"id": {"type": "integer", "primary_key": True}, "text": {"type": "text", "unique": True}},
        "viewset": {"page_size": 1, "class": "viewsets:Notes", "cache": "responses"},
    },
    "plain": {"fields": {"text": {"type": "text"}}, "viewset": {"page_size": 1, "cache": "responses"}},
}
VIEWSETS = {
    "viewsets": """
from rowcast import ModelViewSet, Response, action

class Notes(ModelViewSet):
    @action(detail=True)
    async def address(self, request, pk=None):
        return Response(self.reverse_action("detail", pk))
"""
}
HOST = "Host: api.example.com"


def with_server(**server: object) -> str:
    return json.dumps({**json.loads(OPEN), "server": {"allowed_hosts": ["api.example.com"], "console": True, **server}})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fixed(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A service with a ``root_path``."""
    settings = with_server(root_path="/v1/api")
    directory = tmp_path_factory.mktemp("fixed")
    with pytest.MonkeyPatch.context() as patch:
        names = ("client.js", "console/main-ABCDEFG1.js", "console/main-ABCDEFG2.css")
        patch.setattr(assets, "read_assets", lambda: {name: assets.Asset(name, b"") for name in names})
        patch.setattr("rowcast.server.console.read_assets", assets.read_assets)
        async with running(databases, directory, NOTES, settings, VIEWSETS) as service:
            await fill(service)
            yield service


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def behind(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A service behind two proxies, with a ``root_path`` for requests without a report of theirs."""
    settings = with_server(root_path="/own", trusted_proxies=2)
    async with running(databases, tmp_path_factory.mktemp("behind"), NOTES, settings, VIEWSETS) as service:
        await fill(service)
        yield service


async def fill(service: Service) -> None:
    await service.sql.execute("INSERT INTO notes (text) VALUES ('a'), ('b'), ('c')")
    await service.sql.execute("INSERT INTO plain (text) VALUES ('a'), ('b')")


def written(service: Service, address: str) -> str:
    """An absolute path of a page or document, without its origin."""
    assert address.startswith("http://api.example.com/"), address
    return address.removeprefix("http://api.example.com")


async def test_every_address_of_a_response_is_below_the_path(fixed: Service) -> None:
    """Pages, rows, actions, documents and links; requests come without the path."""
    page = json.loads((await send(fixed, "GET /notes/?page=2", HOST))[2])
    assert written(fixed, page["next"]) == "/v1/api/notes/?page=3"
    assert written(fixed, page["previous"]) == "/v1/api/notes/"
    _, headers, _ = await send(fixed, "GET /plain/", HOST)
    assert re.findall("<([^>]*)>", headers["Link"]) == ["/v1/api/plain/stream/", "/v1/api/openapi.json"]
    body = b'{"text": "d"}'
    sent = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    _, made, _ = await send(fixed, "POST /notes", HOST, *sent, body=body)
    assert written(fixed, made["Location"]) == "/v1/api/notes/4/"
    address = json.loads((await send(fixed, "GET /notes/4/address/", HOST))[2])
    assert written(fixed, address) == "/v1/api/notes/4/"
    root = json.loads((await send(fixed, "GET /", HOST))[2])
    assert written(fixed, root["notes"]) == "/v1/api/notes/"
    batch = b'{"operations": [{"method": "POST", "path": "/notes/", "body": {"text": "e"}}]}'
    sent = ("Content-Type: application/json", f"Content-Length: {len(batch)}")
    result = json.loads((await send(fixed, "POST /batch/", HOST, *sent, body=batch))[2])["results"][0]
    assert written(fixed, result["headers"]["Location"]) == "/v1/api/notes/5/"


async def test_documents_name_the_path(fixed: Service) -> None:
    """OpenAPI as its server, for everybody and for one caller; AsyncAPI as a part of the address; the catalog in links."""
    for target in ("/openapi.json", "/openapi.json?as=me"):
        document = json.loads((await send(fixed, f"GET {target}", HOST))[2])
        assert document["servers"] == [{"url": "/v1/api"}]
        assert "/notes/" in document["paths"]
    streams = json.loads((await send(fixed, "GET /asyncapi.json", HOST))[2])
    assert [each["pathname"] for each in streams["servers"].values()] == ["/v1/api"]
    _, headers, body = await send(fixed, "GET /.well-known/api-catalog", HOST)
    assert headers["Link"] == '</v1/api/.well-known/api-catalog>; rel="api-catalog"'
    context = json.loads(body)["linkset"][0]
    links = [written(fixed, each["href"]) for some in context.values() if isinstance(some, list) for each in some]
    assert links
    assert all(link.startswith("/v1/api/") for link in links)


async def test_servers_of_the_config_are_not_changed(
    databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """``api.servers`` has the addresses that clients use, with whatever path they have."""
    settings = json.loads(with_server(root_path="/api")) | {"api": {"servers": ["https://example.com/other"]}}
    async with running(databases, tmp_path_factory.mktemp("named"), NOTES, json.dumps(settings), VIEWSETS) as service:
        for target in ("/openapi.json", "/openapi.json?as=me"):
            document = json.loads((await send(service, f"GET {target}", HOST))[2])
            assert document["servers"] == [{"url": "https://example.com/other"}]


@pytest.mark.parametrize("page", ["/docs", "/docs/", "/console/", "/docs/errors", "/docs/errors/unique"])
async def test_pages_load_their_files_from_below_the_path(fixed: Service, page: str) -> None:
    """Also those whose own address has no slash at its end. The files are there, without the path."""
    status, _, body = await send(fixed, f"GET {page}", HOST)
    found = re.findall(r'(?:href|src)="(?!data:)([^"]*)"', body.decode())
    assert (status, bool(found)) == (200, True)
    for address in found:
        assert address.startswith("/v1/api/")
        assert (await send(fixed, f"GET {address.removeprefix('/v1/api')}", HOST))[0] == 200


async def test_problems_name_their_page_below_the_path(fixed: Service) -> None:
    """From whatever layer they come; a code without a page stays ``about:blank``."""
    body = b'{"text": "a"}'
    sent = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    for lines, content in (
        (("POST /notes/", HOST, *sent), body),
        (("GET /nothing/", HOST), b""),
        (("GET /notes/", "Host: evil.example"), b""),
        (("POST /notes/", HOST, "Expect: nonsense"), b""),
        ((f"GET /{'a/' * 2000}", HOST), b""),
        (("GET /notes/", HOST, "Malformed"), b""),
    ):
        status, _, answer = await send(fixed, *lines, body=content)
        problem = json.loads(answer)
        assert status >= 400
        assert problem["type"] == f"/v1/api/docs/errors/{problem['code']}"
    queries = json.dumps({"queries": {"a": {"resource": "nothing"}, "b": {"resource": "notes"}}})
    async with fixed.client.request(
        "QUERY", "/stream/", data=queries, headers={"Content-Type": "application/json", "Host": "api.example.com"}
    ) as stream:
        async for line in stream.content:
            if b'"code"' in line:
                assert b'"type":"/v1/api/docs/errors/' in line
                break


@pytest.mark.parametrize(
    ("lines", "prefix"),
    [
        ((), "/own"),
        (("X-Forwarded-Prefix: /api",), "/api"),
        (("X-Forwarded-Prefix: /api/",), "/api"),
        (("X-Forwarded-Prefix: /",), ""),
        (("X-Forwarded-Prefix:",), ""),
        (("X-Forwarded-Prefix: /outer, /inner",), "/outer/inner"),
        (("X-Forwarded-Prefix: /outer", "X-Forwarded-Prefix: /inner/"), "/outer/inner"),
        (("X-Forwarded-Prefix: /evil, /outer, /inner",), "/outer/inner"),
        (("X-Forwarded-Prefix: //evil.example, /outer, /inner",), "/outer/inner"),
    ],
)
async def test_prefixes_of_proxies(behind: Service, lines: tuple[str, ...], prefix: str) -> None:
    """Each trusted proxy has taken off its own; what a client wrote before them has no effect."""
    for target in ("/notes/", "/plain/"):
        _, _, body = await send(behind, f"GET {target}", HOST, *lines)
        assert written(behind, json.loads(body)["next"]) == f"{prefix}{target}?page=2"
    _, _, body = await send(behind, "GET /openapi.json", HOST, *lines)
    assert json.loads(body).get("servers") == ([{"url": prefix}] if prefix else None)
    _, headers, _ = await send(behind, "GET /plain/", HOST, *lines)
    assert headers["Link"].startswith(f"<{prefix}/plain/stream/>")
    _, _, body = await send(behind, "GET /notes/0/", HOST, *lines)
    assert json.loads(body)["type"] == f"{prefix}/docs/errors/not_found"


@pytest.mark.parametrize(
    "prefix",
    [
        "//evil.example", "/api//evil", "/api/../admin", "/..", "/.", "/api/.", "api", "https://evil.example", "/a b", "/a?b", "/a#b",
        "/<script>", '/"x', "/a\\b", "/%2e%2e", "/%0d%0aX: 1", "/a\tb", "/\xe9", "/" + "a" * 200, "/a;b", "/{id}", "///", "/@host",
    ],
)  # fmt: skip
async def test_hostile_prefixes_are_refused(behind: Service, prefix: str) -> None:
    """Nothing of them is in the response, its links or its headers."""
    for target in ("/notes/", "/docs/", "/health/live"):
        status, headers, body = await send(behind, f"GET {target}", HOST, f"X-Forwarded-Prefix: {prefix}")
        problem = json.loads(body)
        assert (status, problem["type"]) == (400, "/own/docs/errors/parse_error")
        assert prefix not in "".join((*headers.values(), problem["detail"])).replace("/api.", "")


async def test_prefixes_of_clients_have_no_effect(fixed: Service) -> None:
    """Without ``trusted_proxies`` they are neither shown nor checked."""
    for prefix in ("/evil", "//evil.example"):
        status, _, body = await send(fixed, "GET /notes/", HOST, f"X-Forwarded-Prefix: {prefix}")
        assert (status, written(fixed, json.loads(body)["next"])) == (200, "/v1/api/notes/?page=2")


@pytest.mark.parametrize("target", ["/plain/", "/notes/", "/plain/?page=2", "/"])
async def test_kept_answers_do_not_mix_prefixes(behind: Service, target: str) -> None:
    """However often and in whatever order callers come by one address and another."""
    for prefix in ("/a", "/b", "/a", "", "/b", "/a"):
        _, _, body = await send(behind, f"GET {target}", HOST, f"X-Forwarded-Prefix: {prefix}")
        found = re.findall(r"http://api\.example\.com([^\"]*?)/(?:notes|plain)/", body.decode())
        assert set(found) == {prefix}


@pytest.mark.parametrize(
    ("lines", "origin"),
    [
        (("Forwarded: for=192.0.2.1;host=api.example.com;proto=https",), "https://api.example.com"),
        (("Forwarded: HOST=\"api.example.com:8443\" ; Proto=HTTPS",), "https://api.example.com:8443"),
        (("Forwarded: host=api.example.com:8443",), "http://api.example.com:8443"),
        (("Forwarded: host=evil.example, host=api.example.com, host=inner",), "http://api.example.com"),
        (("Forwarded: host=evil.example", "Forwarded: host=api.example.com", "Forwarded: for=_x"), "http://api.example.com"),
        (("Forwarded: for=\"a, host=evil.example;b\\\"\", host=api.example.com, for=x",), "http://api.example.com"),
        (("Forwarded: host=evil.example", "X-Forwarded-For: 192.0.2.1"), "http://api.example.com"),
        (("Forwarded: by=", ), None),
        (("Forwarded: for=\"192.0.2.1", ), None),
        # what a client has left open would hide what the proxies have written behind it
        (("Forwarded: host=api.example.com;by=\", for=192.0.2.1;host=\"inner\", for=192.0.2.2",), None),
        (("Forwarded: host=evil.example, for=192.0.2.1",), None),
        (("Forwarded: host=\"a b\", for=192.0.2.1",), None),
        (("Forwarded: host",), None),
        (("Forwarded: a=b c=d",), None),
    ],
)  # fmt: skip
async def test_forwarded(behind: Service, lines: tuple[str, ...], origin: str | None) -> None:
    """The entry of the outermost trusted proxy counts, in the form that the proxies use; a malformed header is a 400."""
    status, _, body = await send(behind, "GET /notes/", HOST, *lines)
    assert status == (400 if origin is None else 200)
    if origin is not None:
        assert json.loads(body)["next"] == f"{origin}/own/notes/?page=2"


@pytest.mark.parametrize(
    "path", ["api", "/api/", "//api", "/a/../b", "/a b", "/", "/" + "a" * 200, "https://example.com/api"]
)
async def test_setting_is_checked(path: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A path that would make wrong links is an error of the config."""
    with pytest.raises(Exception, match="root_path"):
        configure(tmp_path_factory.mktemp("wrong"), {}, json.dumps({"server": {"root_path": path}}))
