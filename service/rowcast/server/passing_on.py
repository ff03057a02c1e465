"""Passing requests on: what an edge does not answer itself, it sends to its origin, and the answer back as it comes.

Request and response pass as they are, but for headers of the connection. The edge adds to ``X-Forwarded-…``, or to ``Forwarded``, what it
knows of the client, so it counts as one of the origin's ``server.trusted_proxies``. RFC 9110, section 7.6.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Final

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from rowcast.changes.origin import CONNECT_TIMEOUT_SECONDS
from rowcast.database.absent import NeedsDatabase
from rowcast.errors import BadGateway, NotFound, Unavailable
from rowcast.identity.authentication import redeemed_header
from rowcast.identity.proxies import FORWARDED, NAMES, header_of
from rowcast.identity.tickets import TICKET_PARAMETER
from rowcast.rest.request import named_host
from rowcast.server.middleware import COMMON_HEADERS, REQUEST_ID, REQUESTS, Requests
from rowcast.streams.forwarded import ForwardedRows
from rowcast.streams.open_streams import seconds_between
from rowcast.streams.sse import CONTENT_TYPE, StreamResponse

SILENCE_SECONDS: Final = 120.0  # between two pieces of an answer, after which the origin counts as lost
SILENT_HEARTBEATS: Final = 4  # the same of a stream, if that is longer
PIECE_BYTES: Final = 64 << 10
HEADER_MAX_BYTES: Final = 64 << 10  # of an answer, as of requests
OF_CONNECTION: Final = frozenset(
    [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
    ]
)
_AWAY: Final = "The origin of this edge cannot be reached; try again."
_CUT: Final = "The origin of this edge has ended the connection before its answer was complete."
_OWN: Final = frozenset(name.lower() for name in (*COMMON_HEADERS, "X-Request-ID"))


class Upstream:
    """The service at a URL, to which requests are passed on. ``heartbeat`` is that of its streams, in seconds."""

    def __init__(self, url: str, heartbeat: float) -> None:
        self._url = URL(url.rstrip("/"))
        self._silence = max(SILENCE_SECONDS, SILENT_HEARTBEATS * heartbeat)
        self._session: aiohttp.ClientSession | None = None
        self._streams: set[asyncio.Timeout] = set()
        self._none_left = asyncio.Event()

    async def close(self) -> None:
        """End all connections."""
        if self._session is not None:
            await self._session.close()

    async def drain(self, seconds: float) -> None:
        """End every stream as ``OpenStreams.drain`` does."""
        streams = list(self._streams)
        random.shuffle(streams)
        now = asyncio.get_running_loop().time()
        gap = seconds_between(len(streams), seconds)
        for number, stream in enumerate(streams):
            _end(stream, now + number * gap)
        await self.ended()

    async def ended(self) -> None:
        """Wait until no stream is open."""
        while self._streams:
            self._none_left.clear()
            await self._none_left.wait()

    async def pass_on(self, http: web.Request, body: bytes | None = None) -> web.StreamResponse:
        """The origin's answer to a request, whose body is ``body`` if it has been read.

        Raises:
            Unavailable: The origin cannot be reached.
            BadGateway: It has not answered, or not wholly; what was asked for may have been done.
        """
        http.app[REQUESTS].passed_on += 1
        asked = contextlib.AsyncExitStack()
        try:
            answer = await asked.enter_async_context(self._ask(http, body))
            if answer.content_type == CONTENT_TYPE and answer.status == 200 and http.method != "HEAD":
                return await self._stream(http, answer, asked.pop_all())
            return await _copied(http, answer)
        finally:
            await asked.aclose()

    async def pass_on_stream(self, http: web.Request, body: bytes | None = None) -> web.StreamResponse:
        """``pass_on`` for a stream: nothing is done twice by asking again, so whatever goes wrong is ``Unavailable``."""
        try:
            return await self.pass_on(http, body)
        except BadGateway as error:
            raise Unavailable(error.detail, code="origin_unavailable") from None

    async def begin(self, http: web.Request) -> ForwardedRows:
        """The beginning of a stream at the origin; ``NeedsDatabase`` if it is not one, so that the request is to be passed on.

        Raises ``Unavailable``.
        """
        asked = contextlib.AsyncExitStack()
        try:
            answer = await asked.enter_async_context(self._ask(http, None))
            if answer.content_type != CONTENT_TYPE or answer.status != 200:
                raise NeedsDatabase
            return ForwardedRows(_pieces(answer), asked.pop_all().aclose)
        except BadGateway as error:
            raise Unavailable(error.detail, code="origin_unavailable") from None
        finally:
            await asked.aclose()

    @contextlib.asynccontextmanager
    async def _ask(self, http: web.Request, body: bytes | None) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_SECONDS, sock_read=self._silence)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                max_line_size=HEADER_MAX_BYTES,
                max_field_size=HEADER_MAX_BYTES,
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            )
        data: Any = body
        if data is None and http.body_exists:
            data = http.content
        url = _address(self._url, http)
        try:
            async with self._session.request(
                http.method, url, headers=_request_headers(http), data=data, allow_redirects=False
            ) as answer:
                yield answer
        except aiohttp.ClientConnectorError:
            http.app[REQUESTS].origin_failures["unreachable"] += 1
            raise Unavailable(_AWAY, code="origin_unavailable") from None
        except (aiohttp.ClientError, TimeoutError):
            http.app[REQUESTS].origin_failures["incomplete"] += 1
            raise BadGateway(_CUT) from None

    async def _stream(
        self, http: web.Request, answer: aiohttp.ClientResponse, asked: contextlib.AsyncExitStack
    ) -> web.StreamResponse:
        """A stream of the origin, which is sent when the handler has returned the response."""
        response = StreamResponse()
        response.headers.update(_response_headers(answer))
        try:
            await response.prepare(http)
        except ConnectionResetError:  # the client has gone
            await asked.aclose()
            return response
        response.sending = self._send(response, answer, asked, http.app[REQUESTS])
        return response

    async def _send(
        self,
        response: StreamResponse,
        answer: aiohttp.ClientResponse,
        asked: contextlib.AsyncExitStack,
        requests: Requests,
    ) -> None:
        """Send a stream, until either side ends it; the client connects again by itself."""
        async with asked:
            with contextlib.suppress(TimeoutError, ConnectionError, aiohttp.ClientError):
                async with asyncio.timeout(None) as limit:
                    self._streams.add(limit)
                    response.client_left = partial(_end, limit)
                    requests.passed_streams += 1
                    try:
                        async for piece in answer.content.iter_any():
                            await response.write(piece)
                    finally:
                        response.client_left = None
                        requests.passed_streams -= 1
                        self._streams.discard(limit)
                        self._none_left.set()


def _end(stream: asyncio.Timeout, at: float = 0) -> None:
    """End a stream at a time of the event loop, unless it ends already."""
    if not stream.expired():
        stream.reschedule(at)


async def _pieces(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The bytes of a stream, as far as the origin sends them."""
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async for piece in answer.content.iter_any():
            yield piece


async def _copied(http: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    """An answer that ends."""
    headers = _response_headers(answer)
    length = answer.content_length
    if http.method == "HEAD" or (length is not None and length <= PIECE_BYTES):
        body = None if http.method == "HEAD" else await answer.read()
        return web.Response(status=answer.status, headers=headers, body=body)
    response = web.StreamResponse(status=answer.status, headers=headers)
    try:
        await response.prepare(http)
        async for piece in answer.content.iter_chunked(PIECE_BYTES):
            await response.write(piece)
        await response.write_eof()
    except ConnectionError:  # the client has gone
        pass
    return response


def _address(origin: URL, http: web.Request) -> URL:
    """The address of a request at the origin; without a ticket that has been redeemed. ``NotFound`` for a target without a path."""
    asked = http.rel_url.relative() if http.rel_url.absolute else http.rel_url
    if not asked.raw_path.startswith("/"):  # OPTIONS *
        raise NotFound("There is nothing at this address.")
    if redeemed_header(http) is not None:
        asked = asked.without_query_params(TICKET_PARAMETER)
    return URL(str(origin) + str(asked), encoded=True)


def _request_headers(http: web.Request) -> CIMultiDict[str]:
    headers = _end_to_end(http.headers)
    headers.popall("Host", None)  # what the client has named is in what is reported
    headers["X-Request-ID"] = http[REQUEST_ID]
    if (authorization := redeemed_header(http)) is not None:
        headers["Authorization"] = authorization
    known = {"for": http.remote or "unknown", "host": named_host(http), "proto": http.scheme}
    if header_of(http, "for") == FORWARDED:
        address = f'"[{known["for"]}]"' if ":" in known["for"] else known["for"]
        added = f'for={address};host="{known["host"]}";proto={known["proto"]}'
        _append(headers, FORWARDED, added)
        return headers
    for fact, name in NAMES.items():
        _append(headers, name, known[fact])
    return headers


def _append(headers: CIMultiDict[str], name: str, entry: str) -> None:
    entries = [*headers.getall(name, ()), entry]
    headers.popall(name, None)
    headers[name] = ", ".join(entries)


def _response_headers(answer: aiohttp.ClientResponse) -> CIMultiDict[str]:
    headers = _end_to_end(answer.headers)
    for name in _OWN:
        headers.popall(name, None)
    return headers


def _end_to_end(headers: Any) -> CIMultiDict[str]:
    """The headers that are not about the connection."""
    named = {name.strip().lower() for line in headers.getall("Connection", ()) for name in line.split(",")}
    return CIMultiDict((name, text) for name, text in headers.items() if name.lower() not in OF_CONNECTION | named)
