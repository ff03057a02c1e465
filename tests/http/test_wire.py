"""Bytes that no well-behaved client sends: the response is a client error, or there is none, and never a 5xx."""

from __future__ import annotations

import asyncio
import json
import random

import pytest

from .library import Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

END = b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


BROKEN_SECONDS = 0.3  # for responses to what may not be whole, and so may never have one


async def answers(library: Service, data: bytes, seconds: float = 30) -> list[tuple[int, bytes]]:
    """The status and the body of each response to some bytes, until the server closes or has sent ``close``."""
    reader, writer = await asyncio.open_connection(library.client.host, library.client.port)
    writer.write(data)
    if b"connection: close" not in data.lower():
        writer.write_eof()
    rest = b""
    try:
        async with asyncio.timeout(seconds):
            while chunk := await reader.read(65536):
                rest += chunk
    except (TimeoutError, ConnectionResetError):
        pass
    writer.close()
    found = []
    while rest:
        head, _, rest = rest.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
        length = int(headers.get(b"content-length", b"0"))
        found.append((int(lines[0].split(b" ")[1]), rest[:length]))
        rest = rest[length:]
    return found


async def test_odd_targets_are_the_client_s_mistake(library: Service) -> None:
    """Malformed encodings, non-ASCII characters and odd forms of the target get a status below 500."""
    targets = [
        b"/%",
        b"/%zz/",
        b"/books/%/",
        b"/books/%ff%fe/",
        b"/books/\xff\xfe/",
        b"/\xff",
        b"/books/?%",
        b"/books/?year=%zz",
        b"/books/?year=%ff",
        b"/books/?year=\xff",
        b"/books/?search=\xff\xfe",
        b"/books/?search=%ff",
        b"/books/?\xff=1",
        b"/books/?search=%ed%a0%80",
        b"/books/?ordering=\xff",
        b"/books/?fields=\xff",
        b"/books/?expand=\xed\xa0\x80",
        b"/books/?cursor=\xff",
        b"/books/?author=\xff",
        b"/books/?author__name=\xff&page_size=1",
        b"/books/?search=" + b"%00",
        b"/books/?=",
        b"/books/?&&&",
        b"/books/?;",
        b"/books/??",
        b"/books/?#",
        b"/books/#x",
        b"/books/..",
        b"/books/../books/",
        b"/./books/",
        b"//books/",
        b"///",
        b"/books/%2e%2e/",
        b"/books/%2F/",
        b"/books/%5c",
        b"/countries/\xc3\xa9/",
        b"/countries/\xe9/",
        b"/countries/%e9/",
        b"/countries/%C3%A9/",
        b"/countries/%ED%A0%80/",
        b"/countries/%F4%90%80%80/",
        b"*",
        b"http://x/books/",
        b"http://x",
        b"http://[::1/books/",
        b"http://\xff/",
        b"https://user:pw@x:99999/books/",
        b"ftp://x/books/",
        b"x:y",
        b"books",
        b"?",
        b"#",
        b"/books/;a=b",
        b"/books/" + b"a" * 4000,
        b"/books/?search=" + b"a%20" * 1500,
        b"/" + b"a" * 9000,
        b"/books/?" + b"&".join(b"a%d=1" % n for n in range(900)),
        b"/books/stream/?last_event_id=\xff&nope=1",
        b"/health/ready?\xff",
        b"/openapi.json?x=\xff",
    ]
    for target in targets:
        for method in (b"GET", b"HEAD", b"DELETE", b"OPTIONS"):
            for status, body in await answers(library, method + b" " + target + END):
                assert status < 500, (method, target, body)
                if status >= 400 and body[:1] == b"{":
                    assert json.loads(body)["status"] == status
    await library.post("/countries/", {"code": "é", "name": "x"})
    ((status, body),) = await answers(library, b"GET http://localhost/countries/%C3%A9/" + END)
    assert status == 200, body


async def test_odd_messages_are_the_client_s_mistake(library: Service) -> None:
    """Old versions, odd methods, broken framing and long headers get a status below 500, or no response."""
    post = b"POST /authors/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for data in (
        b"GET /books/ HTTP/1.0\r\n\r\n",
        b"GET /books/?page_size=1 HTTP/1.0\r\nHost: \r\n\r\n",
        b"GET /books/ HTTP/0.9\r\n\r\n",
        b"GET /books/\r\n\r\n",
        b"GET /books/ HTTP/2.0\r\n\r\n",
        b"GET /books/ HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"BREW /books/" + END,
        b"get /books/" + END,
        b"\x00\x01\x02\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"CONNECT x:443" + END,
        b"TRACE /books/" + END,
        b"GET /books/ HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n",
        b'GET /books/ HTTP/1.1\r\nHost: \xff/"<\r\nConnection: close\r\n\r\n',
        b"GET /books/ HTTP/1.1\r\nHost: localhost\r\nAccept: \xff\r\nConnection: close\r\n\r\n",
        b"GET /books/ HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: \xff\xfe\xfd12345678\r\nConnection: close\r\n\r\n",
        b"GET /books/ HTTP/1.1\r\nHost: localhost\r\nAuthorization: \xff\r\nConnection: close\r\n\r\n",
        b"GET /books/ HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20000 + b"\r\n\r\n",
        b"GET /books/ HTTP/1.1\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(2000)) + b"\r\n",
        post + b"Content-Length: 5\r\n\r\n{",
        post + b"Content-Length: -1\r\n\r\n{}",
        post + b"Content-Length: x\r\n\r\n{}",
        post + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        post + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{",
        post + b"Transfer-Encoding: gzip\r\n\r\n{}",
        post + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        post + b"Content-Encoding: deflate\r\nContent-Length: 2\r\n\r\n{}",
        post + b"Content-Encoding: nonsense\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
        post + b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
        post + b"Expect: nonsense\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
        b"GET /books/ HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"POST /authors/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: \xff\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /authors/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json; charset=nonsense\r\n"
        b"Connection: close\r\nContent-Length: 2\r\n\r\n{}",
    ):
        for status, body in await answers(library, data, BROKEN_SECONDS):
            assert status < 500, (data[:100], body)
            assert b"Traceback" not in body


async def test_message_with_two_lengths_is_refused_with_what_follows(library: Service) -> None:
    """If it is not clear where a body ends, no byte after it is taken for a request (RFC 9112, section 6.3)."""
    hidden = b"GET /health/live" + END
    body = b'{"name": "x"}'
    chunks = b"d\r\n" + body + b"\r\n0\r\n\r\n"
    post = b"POST /authors/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for lengths, rest in (
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", chunks),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 23\r\n", chunks),
        (b"Content-Length: 13\r\nContent-Length: 5\r\n", body),
        (b"Content-Length: 13, 5\r\n", body),
        (b"Content-Length: +13\r\n", body),
        (b"Transfer-Encoding: chunked, identity\r\n", chunks),
        (b"Transfer-Encoding: xchunked\r\n", chunks),
        (b"Transfer-Encoding: chunked\r\n", b"0x" + chunks),
        (b"Transfer-Encoding: chunked\r\n", chunks.replace(b"\r\n", b"\n")),
    ):
        found = await answers(library, post + lengths + b"\r\n" + rest + hidden)
        assert [status for status, _ in found] == [400], (lengths, found)
    assert await library.rows("/authors/") == []


async def test_path_of_many_segments_is_a_404(library: Service) -> None:
    """Slashes in parameters are not counted, and requests before it on the connection get their responses."""
    path = b"/" + b"a/" * 20_000
    ((status, body),) = await answers(library, b"GET " + path + END)
    assert (status, json.loads(body)["code"]) == (404, "not_found")
    get = b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    found = await answers(library, get % b"/books/" + get % (b"/books/?search=" + b"/" * 2000) + b"GET " + path + END)
    assert [status for status, _ in found] == [200, 200, 404]
    reader, writer = await asyncio.open_connection(library.client.host, library.client.port)
    writer.write(b"HEAD " + path + END)
    header, _, rest = (await reader.read()).partition(b"\r\n\r\n")
    assert (header.split()[1], rest) == (b"404", b"")
    writer.close()


async def test_unknown_expectation_is_a_417(library: Service) -> None:
    """``Expect`` with anything but ``100-continue`` is a problem document, although aiohttp itself refuses it."""
    request = b"GET %b HTTP/1.1\r\nHost: x\r\nExpect: %b\r\nConnection: close\r\n\r\n"
    for target, expected in ((b"/books/", b"x"), (b"/nothing/", b"x"), (b"/books/", b"\xff\xfe")):
        ((status, body),) = await answers(library, request % (target, expected))
        assert (status, json.loads(body)["code"]) == (417, "expectation_failed")


async def test_pipelined_requests_are_answered_in_their_order(library: Service) -> None:
    """Several requests in one packet get their responses one after the other, errors included."""
    body = b'{"name": "x"}'
    post = (
        b"POST /authors/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (
            len(body),
            body,
        )
    )
    get = b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n"
    found = await answers(library, post + get % b"/books/" + get % b"/nothing/" + post + b"GET /authors/x/" + END)
    assert [status for status, _ in found] == [201, 200, 404, 409, 404]


async def test_random_bytes_do_no_harm(library: Service) -> None:
    """After a thousand damaged requests the service works as before, and none of them was a 500."""
    chance = random.Random(5)
    whole = (
        b"PATCH /books/?a=b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nContent-Length: 13\r\n\r\n" + b'{"title": "x"}'
    )
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            place = chance.randrange(len(data))
            match chance.randrange(3):
                case 0:
                    data[place] = chance.randrange(256)
                case 1:
                    del data[place : place + chance.randint(1, 8)]
                case _:
                    data[place:place] = bytes(chance.choices(b'%\r\n\0 ?/:\xff"{[', k=chance.randint(1, 4)))
        for status, body in await answers(library, bytes(data), BROKEN_SECONDS):
            assert status < 500, (bytes(data), body)
    assert await library.rows("/books/") == []
