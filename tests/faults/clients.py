"""The oracle: clients that list and then watch, and whose rows must be those of the table in the end.

A client is strict. What is inserted must not have been there, and what is changed or deleted must; positions rise, over
reconnections and replicas. It connects again by itself wherever it can, and loads again only after a reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Self

import aiohttp
import asyncpg

from rowcast.changes.position import Position
from tests.sse import Event, EventSource

PATIENCE = 30.0
LOST = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
NOTES = """
fields:
  id: {type: integer, primary_key: true}
  text: {type: text, blank: true}
  done: {type: boolean, default: false}
  owner: {type: foreign_key, to: owners, null: true, on_delete: cascade}
viewset:
  permission_classes: [AllowAny]
  filterset_fields: {done: [exact], text: [exact, icontains], id: [lt], owner: [exact, in]}
  max_page_size: 200000
"""
OWNERS = """
fields:
  id: {type: integer, primary_key: true}
  name: {type: string}
viewset: {permission_classes: [AllowAny]}
"""
RESOURCES = {"notes": NOTES, "owners": OWNERS}
QUERIES = {  # and the same in SQL
    "": "true",
    "done=true": "done",
    "text__icontains=A": "text ILIKE '%a%'",
    "owner=1": "owner_id = 1",
    "owner__in=1,2&done=true": "owner_id IN (1, 2) AND done",
}
_marks = itertools.count(1_000_000_000)


class Client:
    """Lists ``/notes/`` with a query from one of several servers, watches, and goes on at the next one if that ends.

    A server is whatever has ``make_url``: a process, or a test client.
    """

    pause = 0.02  # seconds before it connects again: as a browser does, but sooner

    def __init__(self, servers: Sequence[Any], query: str = "", *, watch: bool = True) -> None:
        self.rows: dict[int, dict[str, Any]] = {}
        self.resets: list[str] = []
        self.connections = 0
        self.events = 0
        self.last: str | None = None  # the position to go on from, or None to load again
        self.query = query
        self._servers = itertools.cycle(servers)
        self._watching = watch  # from the beginning
        self._place: tuple[int, int] = (-1, -1)
        self._news = asyncio.Event()
        self._response: aiohttp.ClientResponse | None = None
        self._task: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = self.open_session()
        if self._watching:
            self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        await self._session.close()

    def open_session(self) -> aiohttp.ClientSession:
        """The session of all requests."""
        return aiohttp.ClientSession(read_bufsize=1 << 20, timeout=aiohttp.ClientTimeout(None))

    async def stop(self) -> None:
        """Go away; ``start`` comes back to the same place."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task  # which raises the error that the client found in its events
            self._task = None

    def start(self) -> None:
        """Come back, to the next server."""
        self._task = asyncio.create_task(self._run())

    def disconnect(self) -> None:
        """Lose the connection, if there is one; the client connects again by itself."""
        if self._response is not None:
            self._response.close()

    async def ready(self) -> None:
        """Wait until the stream is open."""
        await self.until(lambda: self._response is not None)

    async def until(self, condition: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Wait until a condition holds, looked at after each event; an error of the client is raised here."""
        async with asyncio.timeout(patience):
            while not condition():
                self._news.clear()
                assert self._task is not None, "the client has been stopped"
                waiting = asyncio.create_task(self._news.wait())
                await asyncio.wait([waiting, self._task], return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if self._task.done():
                    self._task.result()

    async def _run(self) -> None:
        while True:
            server = next(self._servers)
            try:
                if self.last is None:
                    await self.load(server)
                await self._watch(server)
            except (aiohttp.ClientError, ConnectionError, EOFError, TimeoutError):
                await asyncio.sleep(self.pause)
            finally:
                self._response = None

    async def load(self, server: Any) -> None:
        """List, and remember the position of the list."""
        url = server.make_url(f"/notes/?page_size=200000&{self.query}")
        async with self._session.get(url) as response:
            if response.status != 200:
                raise EOFError(response.status)
            rows = (await response.json())["results"]
            self.last = response.headers.get("X-Stream-Position")
        if self.last is None:
            raise EOFError("no position")
        self.rows = {row["id"]: row for row in rows}
        self._place = Position.parse(self.last).sort_key

    async def _watch(self, server: Any) -> None:
        assert self.last is not None
        url = server.make_url(f"/notes/stream/?{self.query}")
        async with self._session.get(url, headers={"Last-Event-ID": self.last}) as response:
            if response.status != 200:
                raise EOFError(response.status)
            source = EventSource(response, deadline=60)
            async for event in source:
                self.connections += event.event == "ready"
                self._response = response
                self._apply(event)
                self._news.set()
                if self.last is None:
                    return

    def _apply(self, event: Event) -> None:
        place = Position.parse(event.id).sort_key
        message = event.json()
        if event.event == "reset":
            self.resets.append(message["reason"])
            self.last = None
            return
        self.last = event.id
        if event.event == "ready":
            assert place == self._place, (place, self._place)
            return
        assert place > self._place, f"{place} after {self._place}: {message}"
        self._place = place
        self.events += 1
        self.change(message)

    def change(self, message: dict[str, Any]) -> None:
        """Apply a change to the rows; it fits them."""
        assert (message["id"] in self.rows) == (message["action"] != "INSERT"), message
        if message["data"] is None:
            del self.rows[message["id"]]
        else:
            self.rows[message["id"]] = message["data"]


async def assert_equal(sql: asyncpg.Connection, *clients: Client, patience: float = PATIENCE) -> None:
    """Each client's rows are those of the table under its query, once every change committed so far has been delivered."""
    mark = next(_marks)
    await sql.execute("INSERT INTO owners (id, name) VALUES (1, 'o') ON CONFLICT DO NOTHING")
    await sql.execute("INSERT INTO notes (id, text, done, owner_id) VALUES ($1, 'a fence', true, 1)", mark)
    for client in clients:
        await client.until(lambda client=client: mark in client.rows, patience)  # type: ignore[misc]
        stored = await sql.fetch(f"SELECT id, text, done, owner_id FROM notes WHERE {QUERIES[client.query]}")
        expected = {row["id"]: dict(row) for row in stored}
        wrong = {key for key in expected.keys() | client.rows.keys() if expected.get(key) != client.rows.get(key)}
        assert not wrong, {key: (expected.get(key), client.rows.get(key)) for key in sorted(wrong)[:5]}


class Writers:
    """Write notes until they are stopped, over new connections where the old ones are lost."""

    def __init__(self, url: str, count: int = 2) -> None:
        self.committed = 0
        self._url = url
        self._news = asyncio.Event()
        self._stopping = False
        self._tasks = [asyncio.create_task(self._write(number)) for number in range(count)]

    async def _write(self, number: int) -> None:
        connection: asyncpg.Connection | None = None
        for i in itertools.count():
            if self._stopping:
                break
            key = 1 + (7 * i + number) % 50
            try:
                if connection is None or connection.is_closed():
                    connection = await asyncpg.connect(self._url, timeout=5)
                await connection.execute(
                    "INSERT INTO notes (id, text, done) VALUES ($1, $2, $3)"
                    " ON CONFLICT (id) DO UPDATE SET text = excluded.text, done = excluded.done",
                    key, f"{number}/{i} {'a' * (i % 2)}", i % 3 == 0, timeout=5,
                )  # fmt: skip
                if i % 5 == 0:
                    await connection.execute("DELETE FROM notes WHERE id = $1", 1 + i % 50, timeout=5)
                self.committed += 1
                self._news.set()
            except LOST:
                if connection is not None:
                    connection.terminate()
                await asyncio.sleep(0.01)
        if connection is not None:
            connection.terminate()

    async def more(self, count: int, patience: float = PATIENCE) -> None:
        """Wait until so many more transactions have been committed."""
        target = self.committed + count
        async with asyncio.timeout(patience):
            while self.committed < target:
                self._news.clear()
                await self._news.wait()

    async def stop(self) -> None:
        """End after the statement that each has begun: one that is cut off may commit later, while rows are compared."""
        self._stopping = True
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*self._tasks)


@contextlib.asynccontextmanager
async def writing(url: str, count: int = 2) -> AsyncIterator[Writers]:
    """Have writers write inside the block."""
    writers = Writers(url, count)
    try:
        yield writers
    finally:
        await writers.stop()
