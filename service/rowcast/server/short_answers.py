"""Requests that the short way (``server.short_way``) is answering: one read or write each, and the response to it.

Where a request shares a statement with others, no task waits for its row: it takes the place of the future.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from http import HTTPStatus
from time import perf_counter
from typing import Any, Protocol, TypeAlias, TypeVar

from aiohttp import web
from aiohttp.http import RawRequestMessage

from rowcast.query.coalescing import ALONE
from rowcast.query.store import StoredRow
from rowcast.rest.direct_reading import DirectRead, Target
from rowcast.rest.direct_writing import DirectWrite
from rowcast.rest.media_types import JSON
from rowcast.rest.public_writing import PublicWrite
from rowcast.rest.response_cache import Answer, headers_of
from rowcast.server.middleware import UNCOUNTED_MAX_BYTES, Outcome, Requests
from rowcast.server.plain_responses import written
from rowcast.streams.sse import Sent

Answered: TypeAlias = tuple[Answer, bool]  # and whether it was kept
Written: TypeAlias = tuple[StoredRow, str | None]  # with its transaction
Observe: TypeAlias = Callable[[web.AbstractRoute, str, int, float], None]
Result = TypeVar("Result")


class Connection(Protocol):
    """A connection whose client waits for the response to one message."""

    @property
    def transport(self) -> asyncio.Transport | None: ...

    @property
    def address(self) -> str:
        """Where it comes from."""

    def request_of(self, message: RawRequestMessage, body: bytes) -> web.Request:
        """The request that aiohttp would make of the message, whose body has been received."""

    def begin_stream(self, stream: Sent) -> None:
        """Send a stream in place of a response."""

    async def drain(self) -> None:
        """Wait until the client has taken most of what waits for it."""

    def answered(self, response: bytes) -> None:
        """Send the response."""

    def pass_on(self, outcome: Outcome) -> None:
        """Let the message be answered as always, with what has been found for it."""

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run what will call one of these two."""


class Answering:
    """One message of a connection that is being answered, by a method at a route.

    ``observe`` is called with both, the status of its response, and the seconds that it took.
    """

    __slots__ = ("_begun", "_method", "_observe", "_requests", "_route", "connection")

    def __init__(
        self, method: str, requests: Requests, observe: Observe, connection: Connection, route: web.AbstractRoute
    ) -> None:
        self.connection = connection
        self._requests = requests
        self._observe = observe
        self._route = route
        self._method = method
        self._begun = perf_counter()

    async def finish(self, answering: Awaitable[Result | None], respond: Callable[[Result], None]) -> Result | None:
        """Await an answer, and respond with it; returns it, or ``None`` if there is none: the caller is refused, or it has failed."""
        try:
            found = await answering
        except Exception as error:  # noqa: BLE001 - it is raised where errors are answered
            self.pass_on(error)
            return None
        except BaseException:
            self._requests.ended()
            raise
        if found is None:
            self.pass_on(None)
        else:
            respond(found)
        return found

    def done(self) -> bool:
        """A client that has left does not matter to a statement that others share."""
        return False

    def pass_on(self, result: Exception | None) -> None:
        """Let the message be answered as always, if it is not an error with that."""
        self._requests.ended()
        self.connection.pass_on(Outcome(result, self._begun))

    def send(self, status: int, reason: str, headers: Mapping[str, str], body: bytes) -> None:
        """Send a response. A large one is passed on, since its memory has to be counted."""
        if len(body) > UNCOUNTED_MAX_BYTES:
            self.connection.pass_on(Outcome(web.Response(body=body, status=status, headers=headers), self._begun))
            return
        self._observe(self._route, self._method, status, perf_counter() - self._begun)
        self.connection.answered(written(status, reason, headers, body, self._requests.new_id()))


class Reading(Answering):
    """One GET. ``followers`` wait for what it reads. It reads what is newer than ``since``, a generation of the cache."""

    __slots__ = ("_condition", "followers", "read", "since", "target")

    target: Target

    def __init__(self, read: DirectRead, condition: bytes | None, *answering: Any) -> None:
        super().__init__("GET", *answering)
        self.read = read
        self.followers: list[Reading] = []
        self.since = read.plan.service.cache.generation
        self._condition = condition

    def end(self, found: Answered) -> None:
        """Respond with an answer that was read."""
        self._requests.ended()
        answer, kept = found
        self.respond(answer, kept=kept)

    def set_result(self, row: Any) -> None:
        """Respond with the row, or read it alone if there is none, or it could not be read together with others."""
        if row is ALONE or row is None:
            self.connection.run(self.finish(self.read.answer(self.target, alone=True), self.end))
            return
        public = self.read.row
        assert public is not None
        answer = public.answer(row)
        self.end((answer, False))
        public.keep(answer, self.target, self.since)

    def set_exception(self, exception: BaseException) -> None:
        """No read gets one: each is done alone instead."""
        raise AssertionError from exception

    def respond(self, answer: Answer, *, kept: bool) -> None:
        """Send the response with an answer."""
        body, tag, snapshot = answer
        headers = headers_of(self.read.plan, tag, snapshot, from_cache=kept)
        status, condition = HTTPStatus.OK, self._condition
        if condition is not None and condition.removeprefix(b"W/") == tag.encode():
            status, body = HTTPStatus.NOT_MODIFIED, b""
        else:
            headers["Content-Type"] = JSON
        headers.update(self.read.headers)
        self.send(status, status.phrase, headers, body)


class Writing(Answering):
    """One write of a row that everybody may write. ``address`` is that of the request, as the client sees it.

    It is never executed a second time after it may have happened: what fails is passed on as its error.
    """

    __slots__ = ("_address", "_more", "_wanted", "_write")

    def __init__(self, write: PublicWrite, more: Mapping[str, str], address: str, *answering: Any) -> None:
        super().__init__(*answering)
        self._write = write
        self._more = more
        self._address = address

    def begin(self, body: bytes, key: str) -> None:
        """Write what a body wants, together with others or alone."""
        try:
            wanted = self._wanted = self._write.read(body, key)
            offered = self._write.offer(wanted, self)
        except Exception as error:  # noqa: BLE001 - it is raised where errors are answered
            self.pass_on(error)
            return
        if not offered:
            self.connection.run(self.finish(self._write.write(wanted), self._end))

    def set_result(self, record: Any) -> None:
        """Respond with the row, or write it alone if it could not be written together with others."""
        if record is ALONE:
            self.connection.run(self.finish(self._write.write(self._wanted, alone=True), self._end))
        else:
            self._end(self._write.written(record))

    def set_exception(self, exception: Exception) -> None:
        """Nobody knows whether the row has been written."""
        self.pass_on(exception)

    def _end(self, found: Written) -> None:
        row, transaction = found
        try:
            headers = self._write.headers(row, transaction, self._address)
        except Exception as error:  # noqa: BLE001 - it is raised where errors are answered
            self.pass_on(error)
            return
        self._requests.ended()
        headers.update(self._more)
        status = self._write.status
        self.send(status, status.phrase, headers, row.body)


class Handling(Answering):
    """One write for a caller who has to be recognised, or that no other one shares: by a request, as aiohttp's task does it."""

    __slots__ = ("_more",)

    def __init__(self, more: Mapping[str, str], *answering: Any) -> None:
        super().__init__(*answering)
        self._more = more

    def begin(self, write: DirectWrite, request: web.Request) -> None:
        """Do the write of a request."""
        self.connection.run(self.finish(write.answer(request), self._end))

    def _end(self, response: web.Response) -> None:
        self._requests.ended()
        response.headers.update(self._more)
        body = response.body or b""
        assert isinstance(body, bytes)
        self.send(response.status, response.reason, response.headers, body)
