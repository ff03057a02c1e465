"""Server-sent events in tests: a parser by the HTML specification, and streams that wait no longer than their deadline.

Specification: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import asyncio
import codecs
import json
import re
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient

DEADLINE_SECONDS: Final = 10.0  # for which a stream waits for the next event
_LINE_END = re.compile("\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Event:
    """One dispatched event. ``event`` is ``message`` where the stream names none; ``id`` is the last one so far."""

    id: str
    event: str
    data: str

    def json(self) -> Any:
        """The data, which is JSON in every event of the service."""
        return json.loads(self.data)


class Parser:
    """Bytes in, events out. ``last_id`` is where a client would resume and ``retry`` how many ms it would wait."""

    def __init__(self) -> None:
        self.last_id = ""
        self.retry: int | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()  # one leading BOM is dropped; wrong bytes raise
        self._rest = ""  # of a line whose end has not come
        self._after_cr = False  # a line feed that comes next belongs to the last line
        self._id = self._type = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that these bytes complete."""
        text = self._decoder.decode(chunk)
        if not text:
            return []
        if self._after_cr:
            text = text.removeprefix("\n")
        self._after_cr = text.endswith("\r")
        *lines, self._rest = _LINE_END.split(self._rest + text)
        return [event for line in lines if (event := self._interpret(line)) is not None]

    def _interpret(self, line: str) -> Event | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "data":
                self._data.append(value)
            case "event":
                self._type = value
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdigit():
                self.retry = int(value)
        return None  # comments, whose name is empty, and unknown fields say nothing

    def _dispatch(self) -> Event | None:
        """The event of a finished block; a block without data is none, though its id counts."""
        self.last_id = self._id
        kind, data = self._type or "message", self._data
        self._type, self._data = "", []
        return Event(self.last_id, kind, "\n".join(data)) if data else None


class EventSource:
    """The events of a response: ``async for event in source``, or ``await source.next()``.

    Each event has to arrive within ``deadline`` seconds of the wait for it; ``TimeoutError`` otherwise. The iteration
    ends when the response does, and an incomplete block is not an event.
    """

    def __init__(self, response: ClientResponse, deadline: float = DEADLINE_SECONDS) -> None:
        assert response.status == 200, f"status {response.status}"
        assert response.content_type == "text/event-stream", response.content_type
        self.response = response
        self.deadline = deadline
        self._parser = Parser()
        self._ready: deque[Event] = deque()
        self._returned = ""  # the id of the last event that was returned

    @property
    def last_id(self) -> str:
        """The position to resume from after the last event that was returned, which blocks without data move too."""
        return self._returned if self._ready else self._parser.last_id

    @property
    def retry(self) -> int | None:
        """The ms that clients have to wait before they connect again, as the stream sets it."""
        return self._parser.retry

    def __aiter__(self) -> EventSource:
        return self

    async def __anext__(self) -> Event:
        async with asyncio.timeout(self.deadline):
            while not self._ready:
                chunk = await self.response.content.readany()
                if not chunk:
                    raise StopAsyncIteration
                self._ready.extend(self._parser.feed(chunk))
        event = self._ready.popleft()
        self._returned = event.id
        return event

    async def next(self) -> Event:
        """The next event; ``EOFError`` when the stream has ended."""
        try:
            return await anext(self)
        except StopAsyncIteration:
            raise EOFError("the stream has ended") from None

    async def take(self, count: int) -> list[Event]:
        """The next ``count`` events."""
        return [await self.next() for _ in range(count)]


class Changes:
    """The changes that a stream sends: ``await changes.next()``, or ``async for change in changes``.

    A change is the JSON of an event, such as ``{"action": "INSERT", "id": 1, "data": {…}}``. Each has to arrive within
    the deadline; ``TimeoutError`` otherwise.

    Attributes:
        received: All changes that have been read so far, oldest first.
        source: The events themselves, ``ready`` and heartbeats included.
    """

    def __init__(self, source: EventSource) -> None:
        self.source = source
        self.received: list[Any] = []

    @property
    def position(self) -> str:
        """The position after the last change that was read, for ``last_event_id``."""
        return self.source.last_id

    def __aiter__(self) -> Changes:
        return self

    async def __anext__(self) -> Any:
        event = await anext(self.source)
        while event.event == "ready":
            event = await anext(self.source)
        if event.event == "reset":
            raise StreamReset(event.json().get("reason", ""))
        self.received.append(event.json())
        return self.received[-1]

    async def next(self) -> Any:
        """The next change.

        Raises:
            StreamReset: The stream has sent ``reset``: a client has to load its data again.
            EOFError: The stream has ended.
        """
        try:
            return await anext(self)
        except StopAsyncIteration:
            raise EOFError("the stream has ended") from None

    async def take(self, count: int) -> list[Any]:
        """The next ``count`` changes."""
        return [await self.next() for _ in range(count)]


class StreamReset(Exception):
    """A stream has sent ``reset``. The message is its reason."""


@asynccontextmanager
async def listen(
    client: TestClient[web.Request, web.Application],
    path: str,
    *,
    last_id: str | None = None,
    headers: Mapping[str, str] | None = None,
    deadline: float = DEADLINE_SECONDS,
) -> AsyncIterator[EventSource]:
    """Open a stream as a browser does, from ``last_id`` if given, and close it at the end of the block."""
    sent = {"Accept": "text/event-stream", **(headers or {})}
    if last_id is not None:
        sent["Last-Event-ID"] = last_id
    async with asyncio.timeout(deadline):
        response = await client.get(path, headers=sent)
    try:
        yield EventSource(response, deadline)
    finally:
        response.close()
