"""Responses that are sent in one write are those that aiohttp would send, byte for byte."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from rowcast.server.plain_responses import send_plain

from .conftest import Run
from .library import OPEN, Service

NOTES = {
    "fields": {"id": {"type": "integer", "primary_key": True}, "text": {"type": "string", "max_length": 100_000}},
    "viewset": {"class": "views:Notes"},
}
VIEWS = """
from aiohttp import web
from rowcast import ModelViewSet, Response, action

class Notes(ModelViewSet):
    @action(detail=False, methods=["GET"])
    async def cookie(self, request):
        response = web.Response(body=b"x", content_type="text/plain")
        response.set_cookie("name", "value")
        return response

    @action(detail=False, methods=["GET"])
    async def own(self, request):
        return Response("text", content_type="text/plain", headers={"Server": "own", "Date": "never", "X-Own": "1"})

    @action(detail=False, methods=["GET"])
    async def untyped(self, request):
        return web.Response(body=b"x")

    @action(detail=False, methods=["GET"])
    async def closing(self, request):
        response = web.json_response({})
        response.force_close()
        return response

    @action(detail=False, methods=["GET"])
    async def compressed(self, request):
        response = web.json_response({"text": "x" * 1000})
        response.enable_compression()
        return response

    @action(detail=False, methods=["GET"])
    async def nothing(self, request):
        return web.Response(status=200)

    @action(detail=False, methods=["GET"])
    async def reason(self, request):
        return web.Response(status=299, reason="Of its own", text="x")

    @action(detail=False, methods=["GET"])
    async def early(self, request):
        return web.Response(status=103, text="x")

    @action(detail=False, methods=["GET"], url_path="half/(?P<how>[a-z]+)")
    async def half(self, request, how):
        response = web.StreamResponse(headers={} if how == "chunked" else {"Content-Length": "1000"})
        await response.prepare(request.http)
        await response.write(b"x" * 10)
        if how == "returned":
            return {}
        raise ValueError

    @action(detail=False, methods=["GET"])
    async def injected(self, request):
        return Response({}, headers={"X-Own": "1\\r\\nX-Other: 2"})
"""
BODY = b'{"text": "new"}'
JSON = b"Content-Type: application/json\r\n"
REQUESTS: tuple[bytes, ...] = (
    *(b"GET %b HTTP/1.1\r\n\r\n" % path for path in (
        b"/notes/", b"/notes/1/", b"/notes/99/", b"/notes/?x=1", b"/nothing", b"/", b"/openapi.json", b"/health/live",
        *(b"/notes/%b/" % name for name in (
            b"cookie", b"own", b"untyped", b"closing", b"compressed", b"nothing", b"reason", b"injected", b"early",
        )),
    )),
    b"GET /notes/compressed/ HTTP/1.1\r\nAccept-Encoding: gzip\r\n\r\n",
    b"GET /notes/1/ HTTP/1.1\r\nIf-None-Match: *\r\n\r\n",
    b"GET /notes/1/ HTTP/1.1\r\nConnection: close\r\n\r\n",
    b"GET /notes/1/ HTTP/1.0\r\n\r\n",
    b"GET /notes/1/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"HEAD /notes/1/ HTTP/1.1\r\n\r\n",
    b"OPTIONS /notes/ HTTP/1.1\r\n\r\n",
    b"GET /notes/1/ HTTP/1.1\r\nX-Request-ID: of-the-client\r\n\r\n",
    b"POST /notes/ HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (JSON, len(BODY), BODY),
    b"POST /notes/ HTTP/1.1\r\n%bExpect: 100-continue\r\nContent-Length: %d\r\n\r\n%b" % (JSON, len(BODY), BODY),
    b"POST /notes/ HTTP/1.1\r\n%bContent-Length: 2\r\n\r\n{}" % JSON,
    b"PATCH /notes/1/ HTTP/1.1\r\n%bPrefer: return=minimal\r\nContent-Length: %d\r\n\r\n%b" % (JSON, len(BODY), BODY),
    b"DELETE /notes/2/ HTTP/1.1\r\n\r\n",
)  # fmt: skip
GENERATED = (rb"X-Request-ID|Date|X-Stream-Position|X-Transaction|ETag", rb'"request_id":"[^"]*"')


async def exchange(service: Service, request: bytes) -> tuple[bytes, list[bytes], bytes]:
    """The status line, the headers without generated values, and the body of a response; nothing if there is none.

    100 Continue is left out.
    """
    reader, writer = await asyncio.open_connection(service.client.host, service.client.port)
    try:
        line, rest = request.split(b"\r\n", 1)
        writer.write(b"%b\r\nHost: localhost\r\n%b" % (line, rest))
        async with asyncio.timeout(30):
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"HTTP/1.1 100"):
                head = await reader.readuntil(b"\r\n\r\n")
            status, *lines = head.strip().split(b"\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            body = b"" if line.startswith(b"HEAD") or length is None else await reader.readexactly(int(length[1]))
            ends = b"close" in head or b"HTTP/1.0" in status
            if ends and b"keep-alive" not in head:
                assert await reader.read() == b""
            else:  # the connection goes on
                writer.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    except asyncio.IncompleteReadError:  # the connection has ended without a response
        return b"", [], b""
    finally:
        writer.close()
    names, ids = GENERATED
    lines = [re.sub(b"^(%b): .*" % names, rb"\1", each) for each in lines]
    return status, sorted(lines), re.sub(ids, b'"request_id":""', body)


@pytest.fixture
def written_at_once(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each response whether it was sent in one write."""
    found: list[bool] = []

    def noted(*arguments: object) -> bool:
        found.append(send_plain(*arguments))  # type: ignore[arg-type]
        return found[-1]

    monkeypatch.setattr("rowcast.server.connections.send_plain", noted)
    return found


async def test_responses_are_those_that_aiohttp_sends(run: Run, written_at_once: list[bool]) -> None:
    """Of two equal services one has CORS, which adds a header, so that aiohttp prepares its responses."""
    with_cors = json.dumps({**json.loads(OPEN), "server": {"cors_origins": ["https://example.com"]}})
    services = [await run({"notes": NOTES}, settings, {"views": VIEWS}) for settings in (OPEN, with_cors)]
    for service in services:
        await service.sql.execute("INSERT INTO notes (text) VALUES ('one'), ('two')")
    at_once = []
    for request in REQUESTS:
        written_at_once.clear()
        plain = await exchange(services[0], request)
        at_once.append(any(written_at_once[:1]))  # the second one is of /health/live
        written_at_once.clear()
        status, headers, body = await exchange(services[1], request)
        assert not any(written_at_once), request
        if status:
            headers.remove(b"Vary: Origin")
        assert plain == (status, headers, body), request
    sent = [request.split(b" HTTP")[0] for request, once in zip(REQUESTS, at_once, strict=True) if once]
    assert {b"GET /notes/", b"GET /notes/1/", b"GET /notes/99/", b"POST /notes/", b"DELETE /notes/2/"} <= set(sent)
    assert sent.count(b"GET /notes/1/") == 3  # not for HTTP/1.0, nor before the connection ends


async def test_pipelined_requests_are_answered_in_order(run: Run, written_at_once: list[bool]) -> None:
    """Requests that a client sends without waiting, and a client that reads late, get all of each response."""
    service = await run({"notes": NOTES}, OPEN, {"views": VIEWS})
    await service.sql.execute("INSERT INTO notes (text) SELECT repeat(n::text, 90000) FROM generate_series(1, 9) n")
    reader, writer = await asyncio.open_connection(service.client.host, service.client.port, limit=1 << 10)
    order = [1 + n % 9 for n in range(60)]
    for key in order:
        writer.write(b"GET /notes/%d/ HTTP/1.1\r\nHost: localhost\r\n\r\n" % key)
    for key in order:
        async with asyncio.timeout(60):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            assert length is not None
            row = json.loads(await reader.readexactly(int(length[1])))
        assert row == {"id": key, "text": str(key) * 90_000}
    assert written_at_once == [True] * len(order)
    writer.close()


@pytest.mark.parametrize("how", ["chunked", "sized", "returned"])
async def test_nothing_follows_a_part_of_a_response(run: Run, how: str) -> None:
    """A handler that fails after it has begun to send: neither an error nor the next response is read as the rest of its body."""
    service = await run({"notes": NOTES}, OPEN, {"views": VIEWS})
    reader, writer = await asyncio.open_connection(service.client.host, service.client.port)
    writer.write(b"GET /notes/half/%b/ HTTP/1.1\r\nHost: localhost\r\n\r\n" % how.encode())
    writer.write(b"GET /notes/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
    received = b""
    async with asyncio.timeout(30):
        try:
            while piece := await reader.read(1 << 16):
                received += piece
        except ConnectionResetError:
            pass
    writer.close()
    assert received.count(b"HTTP/1.1") <= 1
    assert not received.endswith(b"0\r\n\r\n")
