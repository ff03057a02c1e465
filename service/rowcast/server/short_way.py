"""The short way: GETs of rows and lists, answered by their connection.

For each message aiohttp makes a request, two tasks, and a response with its dictionaries. A GET needs none of them if everybody may
read its address, data alone decide about the answer (``rest.direct_reading``), and none of its headers asks for another one. With
credentials, or where it depends on the caller what may be read, it needs the request and one task. Any other message, a read that
fails, and a caller who is refused are answered as always.

``tests/http/test_short_way.py`` compares the responses of both ways.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Hashable
from functools import partial
from http import HTTPStatus
from time import perf_counter
from typing import Any, Final, Protocol, TypeAlias

from aiohttp import web
from aiohttp.http import HttpVersion11, RawRequestMessage
from aiohttp.typedefs import Middleware
from aiohttp.web_urldispatcher import UrlMappingMatchInfo

from rowcast.configuration.settings import Server
from rowcast.errors import ParseError
from rowcast.identity.authentication import PARAMETERS_MAX
from rowcast.query.coalescing import ALONE
from rowcast.rest.direct_reading import DirectRead, Target
from rowcast.rest.media_types import JSON
from rowcast.rest.request import Request, base_url
from rowcast.rest.response_cache import NOTHING_KEPT, Answer, headers_of
from rowcast.rest.viewset import direct_read_behind
from rowcast.server.health import Readiness
from rowcast.server.hosts import Hosts
from rowcast.server.middleware import UNCOUNTED_MAX_BYTES, Requests
from rowcast.server.plain_responses import written
from rowcast.server.router import Router

ORIGINS_MAX: Final = 1024  # combinations of headers whose meaning is remembered
TARGET_MAX_LENGTH: Final = 1024
_MEANINGLESS: Final = (
    "User-Agent", "Accept-Encoding", "Accept-Language", "Referer", "DNT", "Priority", "Cookie", "Origin", "Pragma", "Via",
    "Upgrade-Insecure-Requests", "Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site", "Sec-Fetch-User", "Sec-CH-UA",
    "Sec-CH-UA-Mobile", "Sec-CH-UA-Platform", "Sec-GPC", "X-Real-IP", "X-Forwarded-For",
)  # fmt: skip
_OF_PROXIES: Final = ("X-Forwarded-Proto", "X-Forwarded-Host")  # which mean something with ``server.trusted_proxies``
_ACCEPTED: Final = frozenset(("*/*", JSON))
_CONDITION: Final = frozenset((b"If-None-Match", b"if-none-match"))
_CREDENTIALS: Final = frozenset((b"Authorization", b"authorization"))
_TAG: Final = re.compile(rb'(?:W/)?"[0-9A-Za-z-]+"')  # the only form of a condition that this way understands

Observe: TypeAlias = Callable[[web.AbstractResource | None, str, int, float], None]
_Found: TypeAlias = tuple[DirectRead, str, web.AbstractRoute]
_Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]


class Connection(Protocol):
    """A connection whose client waits for the response to one message."""

    def request_of(self, message: RawRequestMessage) -> web.Request:
        """The request that aiohttp would make of the message."""

    def answered(self, response: bytes | None) -> None:
        """Send the response; ``None`` if the message has to be answered as always."""

    def read(self, reading: Coroutine[Any, Any, bytes | None]) -> None:
        """Await the response, and send it; an error of the action is answered as always."""


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
        self._observe: Observe | None = None
        self._middlewares, self._signals = list(app.middlewares), list(app.on_response_prepare)
        self._origins: dict[_Headers, str | None] = {}
        self._beginning: dict[Hashable, _Reading] = {}  # of lists
        meaningless = _MEANINGLESS if server.trusted_proxies else (*_MEANINGLESS, *_OF_PROXIES)
        self._meaningless = frozenset(spelt for name in meaningless for spelt in (name.encode(), name.lower().encode()))

    @property
    def is_open(self) -> bool:
        """Whether nothing else has a say about the requests and the responses of the application."""
        return list(self._app.middlewares) == self._middlewares and list(self._app.on_response_prepare) == self._signals

    def measure(self, middleware: Middleware, observe: Observe) -> None:
        """Call ``observe``, which the application's outermost middleware calls, with route, method, status and seconds of each request."""
        self._middlewares.insert(0, middleware)
        self._observe = observe

    def takes(self, message: RawRequestMessage, connection: Connection) -> bool:
        """Answer a message without a body, now or later; ``False`` if this way does not answer it."""
        if (
            message.method != "GET"
            or message.version != HttpVersion11
            or message.should_close
            or message.upgrade
            or message.chunked
            or self._readiness.starting is not None
            or len(message.path) > TARGET_MAX_LENGTH
        ):
            return False
        path, _, query = message.path.partition("?")
        if query.count("&") >= PARAMETERS_MAX:
            return False
        found = self._find(path)
        if found is None:
            return False
        condition, has_credentials, headers = None, False, []
        for pair in message.raw_headers:
            if pair[0] in _CREDENTIALS:
                has_credentials = True
            elif pair[0] in _CONDITION and condition is None:
                condition = pair[1]
            elif pair[0] not in self._meaningless:
                headers.append(pair)
        base = self._base(tuple(headers), message, connection)
        if base is None or (condition is not None and not _TAG.fullmatch(condition)):
            return False
        read, key, route = found
        reading = _Reading(self, connection, read, route, condition)
        for_everybody = read.rows is not None and not has_credentials
        if for_everybody and (answer := read.kept(message.path, base)) is not None:
            connection.answered(reading.response(answer, kept=True))
            return True
        params = dict(message.url.query) if query else {}
        reading.target = target = Target(message.path, path, query, params, partial(str, base), key)
        if query and (target.takes_longer or len(params) != len(message.url.query)):  # one is given twice
            return False
        self.requests.active += 1
        if not for_everybody:
            connection.read(reading.of_caller(self._request(message, found, connection)))
        elif read.is_shared:
            self._read_list(reading, (message.path, base))
        elif query or read.row is None or not read.row.offer(key, reading):
            connection.read(reading.alone())
        return True

    def _read_list(self, reading: _Reading, key: Hashable) -> None:
        """Read a list, or wait for the reading that has begun in the same turn of the event loop, and is of the same address."""
        if (first := self._beginning.get(key)) is not None:
            first.others.append(reading)
            return
        self._beginning[key] = reading
        reading.connection.read(self._read_for_all(reading, key))

    async def _read_for_all(self, first: _Reading, key: Hashable) -> bytes | None:
        """Read a list for all that wait for it. If that fails, each of the others reads alone."""
        del self._beginning[key]  # whoever comes now may have seen what this does not
        others = first.others
        try:
            answer, kept = await first.answer()
        except BaseException:
            for each in others:
                each.connection.read(each.alone())
            raise
        for each in others:
            self.requests.ended()
            each.connection.answered(each.response(answer, kept=kept))
        return first.response(answer, kept=kept)

    def observe(self, route: web.AbstractRoute, status: int, seconds: float) -> None:
        """Note a request that has been answered."""
        if self._observe is not None:
            self._observe(route.resource, "GET", status, seconds)

    def _request(self, message: RawRequestMessage, found: _Found, connection: Connection) -> Request:
        """The request of a message for the address that was found."""
        http = connection.request_of(message)
        _, key, route = found
        match = UrlMappingMatchInfo({found[0].plan.lookup_url_kwarg: key} if key else {}, route)
        match.add_app(self._app)
        match.current_app = self._app
        http._match_info = match  # noqa: SLF001, as aiohttp's application does
        return Request(http)

    def _find(self, path: str) -> _Found | None:
        """The reads of an address, the part of it that names a row, and its route."""
        router = self._app.router
        if not isinstance(router, Router) or (found := router.find(path)) is None:
            return None
        parts, route = found
        read = direct_read_behind(route.handler)
        return None if read is None else (read, next(iter(parts.values()), ""), route)

    def _base(self, headers: _Headers, message: RawRequestMessage, connection: Connection) -> str | None:
        """The origin of the links that a client with these headers gets; ``None`` if they ask for something else."""
        try:
            return self._origins[headers]
        except KeyError:
            base = self._read_headers(headers, connection.request_of(message))
        if len(self._origins) >= ORIGINS_MAX:
            self._origins.clear()
        self._origins[headers] = base
        return base

    def _read_headers(self, headers: _Headers, request: web.Request) -> str | None:
        given = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
        meaningful = {"host", "accept", "connection", "cache-control", *map(str.lower, _OF_PROXIES)}
        if (
            len(given) != len(headers)
            or not given.keys() <= meaningful
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


class _Reading:
    """One GET that is being answered. It waits for its row where it shares a statement with others.

    ``others`` wait for what it reads.
    """

    __slots__ = ("_begun", "_condition", "_read", "_route", "_way", "connection", "others", "target")

    target: Target

    def __init__(
        self, way: ShortWay, connection: Connection, read: DirectRead, route: web.AbstractRoute, condition: bytes | None
    ) -> None:
        self._way = way
        self.connection = connection
        self.others: list[_Reading] = []
        self._read = read
        self._route = route
        self._condition = condition
        self._begun = perf_counter()

    async def alone(self) -> bytes | None:
        """Read the answer, and return the response; raises the errors of the action."""
        answer, kept = await self.answer()
        return self.response(answer, kept=kept)

    async def answer(self) -> tuple[Answer, bool]:
        """Read the answer; raises the errors of the action."""
        try:
            return await self._read.answer(self.target)
        finally:
            self._way.requests.ended()

    async def of_caller(self, request: Request) -> bytes | None:
        """Read the answer for the caller of a request, and return the response; ``None`` for a caller who is refused."""
        try:
            found = await self._read.answer_to(request, self.target)
        finally:
            self._way.requests.ended()
        return None if found is None else self.response(found[0], kept=found[1])

    def done(self) -> bool:
        """A client that has left does not matter to a statement that others share."""
        return False

    def set_result(self, row: Any) -> None:
        """Answer with the row, or read alone if there is none, or it could not be read together with others."""
        if row is ALONE or row is None:
            self.connection.read(self.alone())
            return
        assert self._read.row is not None
        self._way.requests.ended()
        self.connection.answered(self.response(self._read.row.answer(row), kept=False))

    def set_exception(self, exception: BaseException) -> None:
        """No read gets one: each is done alone instead."""
        raise AssertionError from exception

    def response(self, answer: Answer, *, kept: bool) -> bytes | None:
        """The response with an answer; ``None`` if it is so large that its memory has to be counted."""
        body, tag, snapshot = answer
        if len(body) > UNCOUNTED_MAX_BYTES:
            return None
        headers = headers_of(self._read.plan, tag, snapshot, from_cache=kept)
        status, condition = HTTPStatus.OK, self._condition
        if condition is not None and condition.removeprefix(b"W/") == tag.encode():
            status, body = HTTPStatus.NOT_MODIFIED, b""
        else:
            headers["Content-Type"] = JSON
        headers.update(self._read.headers)
        self._way.observe(self._route, status, perf_counter() - self._begun)
        return written(status, status.phrase, headers, body, self._way.requests.new_id())


SHORT_WAY: Final = web.AppKey("short_way", ShortWay)
