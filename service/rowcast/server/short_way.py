"""The short way: reads and writes of rows, answered by their connection.

For each message aiohttp makes a request, two tasks, and a response with its dictionaries. A request needs none of them if everybody may
read, or write, what its address names, data alone decide about the answer (``rest.direct_reading``, ``rest.direct_writing``), and none of
its headers asks for another one. With credentials, or where it depends on the caller what may be done, it needs the request and one
task. Any other message, what fails, and a caller who is refused are answered as always.

``tests/http/test_short_way.py`` and ``test_short_writes.py`` compare the responses of both ways.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Final, TypeAlias

from aiohttp import web
from aiohttp.http import HttpVersion11, RawRequestMessage
from aiohttp.typedefs import Middleware
from aiohttp.web_urldispatcher import UrlMappingMatchInfo

from rowcast.configuration.settings import Server
from rowcast.errors import ApiError, ParseError
from rowcast.identity.authentication import PARAMETERS_MAX, redeemed
from rowcast.identity.throttling import caller_at, caller_of, client_address
from rowcast.rest.direct_reading import Target, recognised
from rowcast.rest.direct_streams import CREDENTIALS, DirectStreams
from rowcast.rest.direct_writing import DirectWrite
from rowcast.rest.handlers import ways_of
from rowcast.rest.media_types import JSON
from rowcast.rest.plan import SERVICE
from rowcast.rest.request import Request, base_url, not_decoded
from rowcast.rest.response_cache import NOTHING_KEPT
from rowcast.server.health import Readiness
from rowcast.server.hosts import Hosts
from rowcast.server.middleware import Outcome, Requests
from rowcast.server.router import Router
from rowcast.server.short_answers import Connection, Handling, Reading, Writing
from rowcast.server.short_streams import ShortStream
from rowcast.streams.connection_stream import ConnectionStream
from rowcast.streams.subscription import Subscriptions

ORIGINS_MAX: Final = 1024  # combinations of headers whose meaning is remembered
ORIGIN_MAX_BYTES: Final = 512  # of the values of such headers
TARGET_MAX_LENGTH: Final = 1024
_MEANINGLESS: Final = (
    "User-Agent", "Accept-Encoding", "Accept-Language", "Referer", "DNT", "Priority", "Cookie", "Origin", "Pragma", "Via",
    "Upgrade-Insecure-Requests", "Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site", "Sec-Fetch-User", "Sec-CH-UA",
    "Sec-CH-UA-Mobile", "Sec-CH-UA-Platform", "Sec-GPC", "X-Real-IP", "X-Forwarded-For", "X-Forwarded-Port", "Traceparent", "Tracestate",
)  # fmt: skip
_OF_PROXIES: Final = ("X-Forwarded-Proto", "X-Forwarded-Host")  # which mean something with ``server.trusted_proxies``


def _spelt(*names: str) -> frozenset[bytes]:
    """Names of headers in the two ways in which nearly all clients spell them. Another spelling closes the way for a message."""
    return frozenset(spelt for name in names for spelt in (name.encode(), name.lower().encode()))


_CONDITION: Final = _spelt("If-None-Match")
_CREDENTIALS: Final = _spelt("Authorization")
_TYPE: Final = _spelt("Content-Type")
_LENGTH: Final = _spelt("Content-Length")
_JSON_TYPES: Final = frozenset(
    {b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"}
)
_POSITION: Final = _spelt("Last-Event-ID")
_MEANINGLESS_TO_STREAMS: Final = _spelt("Accept", "Cache-Control")  # which are sent as they are, whatever is accepted
_ACCEPTED: Final = frozenset(("*/*", JSON))
_TAG: Final = re.compile(rb'(?:W/)?"[0-9A-Za-z-]+"')  # the only form of a condition that this way understands

Observe: TypeAlias = Callable[[web.AbstractResource | None, str, int, float], None]
_Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class _Stream:
    """What a message asks for: a stream of an address with these parameters, after the position that the client has."""

    connection: Connection
    streams: DirectStreams
    params: Mapping[str, str]
    last: str | None


class ShortWay:
    """Finds the messages of an application that can be answered so, and answers them.

    It is made for an application that has the middleware and the signal which every response needs, and nothing else yet.
    """

    def __init__(
        self, app: web.Application, server: Server, hosts: Hosts, requests: Requests, readiness: Readiness
    ) -> None:
        self.requests = requests
        self._app = app
        self._server = server
        self._hosts = hosts
        self._readiness = readiness
        self._count: Observe | None = None
        self._middlewares, self._signals = list(app.middlewares), list(app.on_response_prepare)
        self._origins: dict[_Headers, str | None] = {}
        self._beginning: dict[Hashable, Reading] = {}  # of lists
        by_proxies = bool(server.trusted_proxies)
        self._meaningless = _spelt(*_MEANINGLESS, *(() if by_proxies else _OF_PROXIES))
        self._of_origin = _spelt("Host", "Accept", "Connection", "Cache-Control", *(_OF_PROXIES if by_proxies else ()))

    @property
    def is_open(self) -> bool:
        """Whether nothing else has a say about the requests and the responses of the application."""
        return list(self._app.middlewares) == self._middlewares and list(self._app.on_response_prepare) == self._signals

    def measure(self, middleware: Middleware, observe: Observe) -> None:
        """Call ``observe``, which the application's outermost middleware calls, with route, method, status and seconds of each request."""
        self._middlewares.insert(0, middleware)
        self._count = observe

    def takes(self, message: RawRequestMessage, connection: Connection, body: bytes = b"") -> bool:
        """Answer a message with its whole body, now or later; ``False`` if this way does not answer it."""
        sent = message.path
        if (
            message.version != HttpVersion11
            or message.should_close
            or message.upgrade
            or message.chunked
            or self._readiness.starting is not None
            or len(sent) > TARGET_MAX_LENGTH
            or "#" in sent
        ):
            return False
        path, _, query = sent.partition("?")
        router = self._app.router
        if not isinstance(router, Router) or query.count("&") >= PARAMETERS_MAX or (at := router.find(path)) is None:
            return False
        parts, route = at
        ways = ways_of(route.handler)
        if message.method != "GET":
            write = ways.writes.get(message.method)
            return write is not None and self._takes_write(message, connection, write, parts, route, body)
        if ways.streams is not None:
            return self._takes_stream(message, connection, ways.streams, route)
        if (read := ways.read) is None:
            return False
        understood = self._understand(message, connection, _CONDITION)
        if understood is None:
            return False
        base, condition, has_credentials = understood
        if condition is not None and not _TAG.fullmatch(condition):
            return False
        key = next(iter(parts.values()), "")
        reading = Reading(read, condition, self.requests, self._observe, connection, route)
        for_everybody = read.rows is not None and not has_credentials
        if for_everybody and (answer := read.kept(sent, base)) is not None:
            reading.respond(answer, kept=True)
            return True
        params = dict(message.url.query) if query else {}
        reading.target = target = Target(sent, path, query, params, partial(str, base), key)
        if query and (target.takes_longer or len(params) != len(message.url.query)):  # one is given twice
            return False
        if not for_everybody:
            request = Request(self._request(message, b"", parts, route, connection))
            connection.run(reading.finish(read.answer_to(request, target), reading.end))
        elif read.is_shared:
            self._read_list(reading, (sent, base))
        elif query or read.row is None or not read.row.offer(key, reading):
            connection.run(reading.finish(read.answer(target), reading.end))
        self.requests.active += 1
        return True

    def _takes_write(
        self,
        message: RawRequestMessage,
        connection: Connection,
        write: DirectWrite,
        parts: dict[str, str],
        route: web.AbstractRoute,
        body: bytes,
    ) -> bool:
        """Do a write of one row, now or later; ``False`` if this way does not do it."""
        method, path, key = message.method, message.path, next(iter(parts.values()), "")
        if "?" in path or len(body) > self._server.body_limit:
            return False
        if (method == "POST") == bool(key):  # neither a list to add to, nor a row to change
            return False
        if method != "DELETE" and body.lstrip()[:1] != b"{":  # many rows, or an error
            return False
        understood = self._understand(message, connection, _TYPE, _LENGTH)
        if understood is None:
            return False
        base, content_type, has_credentials = understood
        if method != "DELETE" and (content_type or b"").lower() not in _JSON_TYPES:
            return False
        self.requests.active += 1
        answering = method, self.requests, self._observe, connection, route
        if write.public is not None and not has_credentials:
            Writing(write.public, write.headers, base + path, *answering).begin(body, key)
        else:
            request = self._request(message, body, parts, route, connection)
            Handling(write.headers, *answering).begin(write, request)
        return True

    def _understand(
        self,
        message: RawRequestMessage,
        connection: Connection,
        wanted: frozenset[bytes],
        meaningless: frozenset[bytes] = frozenset(),
    ) -> tuple[str, bytes | None, bool] | None:
        """What the headers of a message mean; ``None`` if they ask for something else.

        It is the origin of the links that its client gets, the header of the ``wanted`` name, if there is one, and whether there
        are credentials.
        """
        value, has_credentials, headers = None, False, []
        for pair in message.raw_headers:
            name = pair[0]
            if name in self._meaningless or name in meaningless:
                continue
            if name in self._of_origin:
                headers.append(pair)
            elif name in _CREDENTIALS:
                has_credentials = True
            elif name in wanted and value is None:
                value = pair[1]
            else:
                return None
        base = self._base(tuple(headers), message, connection)
        return None if base is None else (base, value, has_credentials)

    def _read_list(self, reading: Reading, key: Hashable) -> None:
        """Read a list, or wait for the reading that has begun in the same turn of the event loop, and is of the same address."""
        if (first := self._beginning.get(key)) is not None:
            first.followers.append(reading)
            return
        self._beginning[key] = reading
        reading.connection.run(self._read_for_all(reading, key))

    async def _read_for_all(self, first: Reading, key: Hashable) -> None:
        """Read a list for all that wait for it. If that fails, each of the others reads alone."""
        del self._beginning[key]  # whoever comes now may have seen what this does not
        found = None
        try:
            found = await first.finish(first.read.answer(first.target), first.end)
        finally:
            for each in first.followers:
                if found is None:
                    each.connection.run(each.finish(each.read.answer(each.target), each.end))
                else:
                    each.end(found)

    def _observe(self, route: web.AbstractRoute, method: str, status: int, seconds: float) -> None:
        """Note a request that has been answered."""
        if self._count is not None:
            self._count(route.resource, method, status, seconds)

    def _takes_stream(
        self, message: RawRequestMessage, connection: Connection, streams: DirectStreams, route: web.AbstractRoute
    ) -> bool:
        """Send a stream, now or once its caller is recognised; ``False`` if this way does not send it."""
        understood = self._understand(message, connection, _POSITION, _MEANINGLESS_TO_STREAMS)
        if understood is None:
            return False
        _, position, has_credentials = understood
        found = message.url.query if message.url.raw_query_string else None
        params = dict(found) if found else {}
        given_twice = found is not None and len(params) != len(found)
        if given_twice or not_decoded(params):
            return False
        last = (position or b"").decode("utf-8", "surrogateescape") or params.get("last_event_id")
        if not streams.may_take(params):
            return False
        asked = _Stream(connection, streams, params, last)
        if streams.plan.is_public and not has_credentials and CREDENTIALS.isdisjoint(params):
            return self._takes_public_stream(message, asked)
        request = self._request(message, b"", {}, route, connection)
        connection.run(self._begin_later(asked, self._recognise(asked, Request(request)), request))
        self.requests.active += 1
        return True

    def _takes_public_stream(self, message: RawRequestMessage, asked: _Stream) -> bool:
        """Send a stream whose caller need not be recognised."""
        connection, subscriptions = asked.connection, asked.streams.find(asked.params)
        if subscriptions is None:
            return False
        proxies = self._server.trusted_proxies
        request = connection.request_of(message, b"") if proxies else None
        caller = caller_at(connection.address) if request is None else f"address:{client_address(request, proxies)}"
        try:
            if (limit := asked.streams.limit(asked.params)) is None:
                return self._send_stream(asked, subscriptions, caller, ())
        except ApiError:  # raised again where errors are answered
            return False
        connection.run(self._begin_later(asked, self._send_with_rows(asked, subscriptions, caller, (), limit)))
        self.requests.active += 1
        return True

    async def _begin_later(self, asked: _Stream, sending: Awaitable[bool], request: web.Request | None = None) -> None:
        """Begin a stream for which something has to be read. What is refused is answered as always, and needs no second ticket.

        An error that has come from what was read is passed on: it would be read a second time, with the same end.
        """
        begun, sent = perf_counter(), False
        failure: Exception | None = None
        try:
            sent = await sending
        except ParseError as error:  # such as too many rows
            failure = error
        except ApiError:  # raised again where errors are answered, or the event ``busy`` is
            pass
        except Exception as error:  # noqa: BLE001 - it is raised where errors are answered
            failure = error
        finally:
            self.requests.ended()
            if not sent:
                ticket = None if request is None else redeemed(request)
                asked.connection.pass_on(Outcome(failure, begun, ticket))

    async def _recognise(self, asked: _Stream, request: Request) -> bool:
        """Send the stream of a caller who has to be recognised first; ``False`` if it has to be refused."""
        scope = await recognised(asked.streams.plan, request, stream=True)
        subscriptions = None if scope is None else asked.streams.find(asked.params, scope)
        if subscriptions is None or asked.connection.transport is None:
            return False
        caller, auths = caller_of(request), (request.auth,)
        if (limit := asked.streams.limit(asked.params)) is None:
            return self._send_stream(asked, subscriptions, caller, auths)
        return await self._send_with_rows(asked, subscriptions, caller, auths, limit)

    def _send_stream(self, asked: _Stream, subscriptions: Subscriptions, caller: str, auths: Sequence[object]) -> bool:
        """Send a stream that begins without rows; ``False`` if the service is closing. Raises why it may not be opened."""
        hub = self._app[SERVICE].hub
        if hub.closing:
            return False
        hub.admission.admit(caller, subscriptions)
        connection = ShortStream(asked.connection, self.requests.new_id())
        ConnectionStream(hub, connection, subscriptions, auths, caller).begin(asked.last)
        return True

    async def _send_with_rows(
        self, asked: _Stream, subscriptions: Subscriptions, caller: str, auths: Sequence[object], limit: int
    ) -> bool:
        """Send a stream that begins with all rows if it cannot resume. Everything that may be refused comes before."""
        hub = self._app[SERVICE].hub
        with hub.admission.admit(caller, subscriptions):
            rows, reason = await hub.first_rows(subscriptions, asked.last, limit)
        if hub.closing or asked.connection.transport is None:
            if rows is not None:
                rows[0].close()
            return False
        connection = ShortStream(asked.connection, self.requests.new_id())
        stream = ConnectionStream(hub, connection, subscriptions, auths, caller, limit)
        if rows is None:
            stream.begin(asked.last)
        else:
            stream.begin_with(rows, reason)
        return True

    def _request(
        self,
        message: RawRequestMessage,
        body: bytes,
        parts: dict[str, str],
        route: web.AbstractRoute,
        connection: Connection,
    ) -> web.Request:
        """The request of a message for the address that was found."""
        http = connection.request_of(message, body)
        match = UrlMappingMatchInfo(parts, route)
        match.add_app(self._app)
        match.current_app = self._app
        http._match_info = match  # noqa: SLF001, as aiohttp's application does
        return http

    def _base(self, headers: _Headers, message: RawRequestMessage, connection: Connection) -> str | None:
        """The origin of the links that a client with these headers gets; ``None`` if they ask for something else."""
        try:
            return self._origins[headers]
        except KeyError:
            pass
        if sum(len(value) for _, value in headers) > ORIGIN_MAX_BYTES:
            return None
        base = self._read_headers(headers, connection.request_of(message, b""))
        if len(self._origins) >= ORIGINS_MAX:
            self._origins.clear()
        self._origins[headers] = base
        return base

    def _read_headers(self, headers: _Headers, request: web.Request) -> str | None:
        given = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
        if (
            len(given) != len(headers)
            or given.get("accept", "*/*") not in _ACCEPTED
            or given.get("connection", "keep-alive").lower() != "keep-alive"
            or given.get("cache-control", NOTHING_KEPT) != NOTHING_KEPT
            or not request.raw_path.startswith("/")
        ):
            return None
        try:
            self._hosts.check(request)
        except ParseError:
            return None
        shown = given.get("x-forwarded-host", given["host"])
        return base_url(self._server, request) if self._hosts.is_known(shown) else None


SHORT_WAY: Final = web.AppKey("short_way", ShortWay)
