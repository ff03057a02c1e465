"""Responses whose body is at hand, sent as aiohttp would send them, with the headers that all have made once as bytes.

aiohttp prepares any response in four coroutines, calls those who want to add headers, and keeps each header in a dictionary.
Most responses need none of that: their body is a string of bytes, their client keeps its connection, and nobody but the service
adds headers.

The names with an underscore are aiohttp's, which has no public ones; ``tests/http/test_plain_responses.py`` compares both ways.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import HttpVersion11
from aiohttp.http_writer import _serialize_headers

from rowcast.identity.throttling import RATE_LIMITS
from rowcast.server.middleware import COMMON_HEADERS, REQUEST_ID, add_headers
from rowcast.streams.sse import HEADERS

if TYPE_CHECKING:
    from multidict import CIMultiDict

_OWN: Final = ("Connection", "Content-Length", "Date", "Transfer-Encoding", "X-Request-ID", *COMMON_HEADERS)
_STREAM: Final = "".join(
    f"{line}\r\n"
    for line in (
        "HTTP/1.1 200 OK",
        *(f"{name}: {text}" for name, text in HEADERS.items()),
        "Transfer-Encoding: chunked",
    )
).encode()
_WITHOUT_BODY: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


def send_plain(request: web.BaseRequest, response: web.StreamResponse, transport: asyncio.WriteTransport) -> bool:
    """Send a response in one write; ``False`` for one that aiohttp has to prepare."""
    if not (
        type(response) is web.Response  # other classes may write themselves
        and isinstance(body := response.body or b"", bytes)
        and not (response._cookies or response.compression or response.chunked or response.prepared)
        and response.keep_alive is None
        and isinstance(request, web.Request)
        and request.version == HttpVersion11
        and request.keep_alive
        and request.method != "HEAD"
        and _adds_nothing(request)
    ):
        return False
    headers, status = response.headers, response.status
    if (
        status < HTTPStatus.OK
        or any(name in headers for name in _OWN)
        or (body and (status in _WITHOUT_BODY or "Content-Type" not in headers))
    ):
        return False
    transport.write(written(status, response.reason, headers, body, request[REQUEST_ID]))
    response._keep_alive = response._eof_sent = True
    return True


def written(status: int, reason: str, headers: Mapping[str, str], body: bytes, request_id: str) -> bytes:
    """A response as it is sent, with the headers that all have. A response without a body has none by its status, or an empty one."""
    length = b"" if status in _WITHOUT_BODY else b"Content-Length: %d\r\n" % len(body)
    head = _serialize_headers(f"HTTP/1.1 {status} {reason}", cast("CIMultiDict[str]", headers))[
        :-2
    ]  # it takes any mapping
    return b"%b%b%bX-Request-ID: %b\r\n\r\n%b" % (head, length, _common(int(time.time())), request_id.encode(), body)


def stream_head(request_id: str) -> bytes:
    """The header of a stream."""
    return b"%b%bX-Request-ID: %b\r\n\r\n" % (_STREAM, _common(int(time.time())), request_id.encode())


def _adds_nothing(request: web.Request) -> bool:
    """Whether nothing adds headers to the response to a request but ``add_headers``, and that only the common ones."""
    if REQUEST_ID not in request or request.get(RATE_LIMITS) or len(request.match_info.apps) > 1:
        return False
    signal = request.match_info.apps[0].on_response_prepare
    return len(signal) == 1 and signal[0] is add_headers


@lru_cache(maxsize=1)
def _common(_second: int) -> bytes:
    """The lines of the headers that all responses of a second have."""
    lines = {"Date": rfc822_formatted_time(), **COMMON_HEADERS}
    return "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode()
