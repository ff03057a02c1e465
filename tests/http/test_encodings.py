"""``Content-Encoding`` of request bodies: inflated when they are read, within the limit, and refused without a traceback."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import http_parser

from ..databases import Databases
from .conftest import running
from .library import OPEN, Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOTES = {
    "notes": {"fields": {"text": {"type": "text"}}, "viewset": {"class": "views:Notes"}},
    "closed": {"fields": {"text": {"type": "text"}}, "viewset": {"permission_classes": ["IsAuthenticated"]}},
}
VIEWS = """
from rowcast import ModelViewSet, action

class Notes(ModelViewSet):
    @action(detail=False, methods=["POST"])
    async def echo(self, request):
        return {"data": request.data, "text": await request.text(), "json": await request.json()}
"""
SETTINGS = json.dumps({**json.loads(OPEN), "server": {"body_limit": "100KiB", "body_timeout": "300ms"}})
BODY = b'{"text": "compressed"}'
GZIPPED = gzip.compress(BODY, mtime=0)
BOMB = gzip.compress(b'{"text": "' + b"x" * 50_000_000 + b'"}')


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    async with running(databases, tmp_path_factory.mktemp("encodings"), NOTES, SETTINGS, {"views": VIEWS}) as service:
        yield service


def raw_deflate(data: bytes) -> bytes:
    made = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return made.compress(data) + made.flush()


async def post(
    service: Service, path: str, body: bytes, encoding: str
) -> tuple[int, dict[str, str], dict[str, object]]:
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    response = await service.client.post(path, data=body, headers=headers)
    return response.status, dict(response.headers), await response.json()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", GZIPPED),
        ("GZIP", GZIPPED),
        ("x-gzip", GZIPPED),
        ("deflate", zlib.compress(BODY)),
        ("deflate", raw_deflate(BODY)),
        ("identity", BODY),
    ],
)
async def test_compressed_bodies_are_read(service: Service, encoding: str, body: bytes) -> None:
    """By the standard actions, and by every way in which a handler of one's own may read them."""
    status, _, row = await post(service, "/notes/", body, encoding)
    assert (status, row["text"]) == (201, "compressed")
    status, _, echo = await post(service, "/notes/echo/", body, encoding)
    assert (status, echo) == (
        200,
        {"data": {"text": "compressed"}, "text": BODY.decode(), "json": {"text": "compressed"}},
    )


@pytest.mark.parametrize("encoding", ["br", "zstd", "nonsense", "gzip, gzip", "compress", "gzip;q=1", "\xff"])
@pytest.mark.parametrize("method", ["POST /notes/", "POST /notes/echo/", "PATCH /notes/{id}/"])
async def test_unknown_encodings_are_a_415(
    service: Service, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], encoding: str, method: str
) -> None:
    """With what is supported in ``Accept-Encoding`` (RFC 9110, 15.5.16); nothing is logged."""
    key = (await post(service, "/notes/", BODY, "identity"))[2]["id"]
    verb, path = method.format(id=key).split(" ")
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    response = await service.client.request(verb, path, data=BODY, headers=headers)
    assert (response.status, (await response.json())["code"]) == (415, "unsupported_media_type")
    assert response.headers["Accept-Encoding"] == "gzip, deflate"
    assert not caplog.records
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", BODY),
        ("deflate", b"\x08\xff" + BODY),
        ("deflate", b"\xff" + BODY),
        ("gzip", GZIPPED[:-3]),
        ("gzip", GZIPPED + b"more"),
        ("gzip", GZIPPED * 2),
        ("gzip", GZIPPED[:-8] + b"\0" * 8),
        ("gzip", gzip.compress(b"", mtime=0)),
        ("gzip", b""),
    ],
)
async def test_body_in_another_encoding_is_a_400(
    service: Service, caplog: pytest.LogCaptureFixture, encoding: str, body: bytes
) -> None:
    """Cut, damaged, glued, or not compressed at all; nothing is logged."""
    status, _, problem = await post(service, "/notes/", body, encoding)
    assert (status, problem["code"]) == (400, "parse_error")
    assert not caplog.records


async def test_small_body_cannot_become_a_large_one(service: Service) -> None:
    """The limit of bodies is that of the inflated body, and no more than it is inflated."""
    assert len(BOMB) < 100_000
    for path in ("/notes/", "/notes/echo/"):
        status, _, problem = await post(service, path, BOMB, "gzip")
        assert (status, problem["code"]) == (413, "payload_too_large")


async def test_body_that_nobody_reads_is_not_inflated(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is refused without its body costs no decompression, neither ours nor aiohttp's."""
    inflated: list[object] = []
    monkeypatch.setattr(zlib, "decompressobj", lambda *args: inflated.append(args))
    monkeypatch.setattr(http_parser.DeflateBuffer, "__init__", lambda *args: inflated.append(args))
    for path, status in (("/closed/", 401), ("/nothing/", 404)):
        assert (await post(service, path, BOMB, "gzip"))[0] == status
    response = await service.client.get("/notes/", data=BOMB, headers={"Content-Encoding": "gzip"})
    assert response.status == 200
    assert not inflated


@pytest.mark.parametrize("body", [b"zz\r\n{}\r\n0\r\n\r\n", b"2\r\n{}zz\r\n", b"2\r\n{", b"-1\r\n"])
@pytest.mark.parametrize("path", [b"/notes/", b"/closed/", b"/nothing/"])
async def test_broken_framing_leaves_no_traceback(
    service: Service, caplog: pytest.LogCaptureFixture, path: bytes, body: bytes
) -> None:
    """Chunks that are none, before and after the response: a 4xx, and nothing in the log."""
    for pause in (0, 0.1):
        reader, writer = await asyncio.open_connection(service.client.host, service.client.port)
        writer.write(
            b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" % path
        )
        await asyncio.sleep(pause)
        writer.write(body)
        async with asyncio.timeout(30):
            answer = await reader.read()
        writer.close()
        assert b" 4" in answer[:13]
    assert not caplog.records
