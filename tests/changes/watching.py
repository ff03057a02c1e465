"""Shared by the tests: a small set of resources, a test's database, and a reader that replays its events."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
from sqlalchemy.schema import CreateIndex, CreateTable

from rowcast.changes.events import Batch, Event
from rowcast.changes.feed import Feed
from rowcast.changes.position import Position
from rowcast.changes.ticker import Ticker
from rowcast.resources.fields import Field
from rowcast.resources.resource import Resource, Resources
from rowcast.resources.sql import DIALECT
from rowcast.resources.tables import Tables
from rowcast.resources.types import make_field

from ..waiting import until

DEADLINE = 20.0
SESSION = {"search_path": "public"}  # the role has the name of the log's schema, which "$user" would put first


def resources() -> Resources:
    """Tasks with a category, tags and a secret; a category may have a parent."""

    def resource(name: str, model: str, *fields: Field) -> Resource:
        return Resource(name, name, model, {field.name: field for field in fields})

    declared = [
        resource(
            "categories",
            "Category",
            make_field("id", "integer", primary_key=True),
            make_field("name", "string", max_length=200),
            make_field("parent", "foreign_key", to="categories", null=True, on_delete="cascade"),
        ),
        resource(
            "moves",
            "Move",
            make_field("id", "integer", primary_key=True),
            make_field("source", "foreign_key", to="categories", null=True, on_delete="set_null", related_name="left"),
            make_field("target", "foreign_key", to="categories", null=True, on_delete="set_null", related_name="came"),
            make_field("via", "foreign_key", to="categories", null=True, on_delete="cascade", related_name="passed"),
        ),
        resource("fences", "Fence", make_field("id", "uuid", primary_key=True)),
        resource(
            "tags", "Tag", make_field("id", "integer", primary_key=True), make_field("name", "string", max_length=200)
        ),
        resource(
            "tasks",
            "Task",
            make_field("id", "uuid", primary_key=True),
            make_field("title", "string", max_length=200),
            make_field("n", "integer", default=0),
            make_field("price", "decimal", null=True, max_digits=12, decimal_places=2),
            make_field("took", "duration", null=True),
            make_field("due", "datetime", null=True),
            make_field("secret", "string", null=True, write_only=True),
            make_field("category", "foreign_key", to="categories", null=True, on_delete="set_null"),
            make_field("tags", "many_to_many", to="tags"),
        ),
    ]
    return Resources({resource.name: resource for resource in declared})


async def create(connection: asyncpg.Connection, tables: Tables) -> None:
    """The tables of the resources, made by plain DDL."""
    for table in tables.metadata.sorted_tables:
        await connection.execute(str(CreateTable(table).compile(dialect=DIALECT)))
        for index in table.indexes:
            await connection.execute(str(CreateIndex(index).compile(dialect=DIALECT)))


class Database:
    """One test's database: connections to it, and what follows its changes."""

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self.name = name
        self._exits = contextlib.AsyncExitStack()

    async def connect(self) -> asyncpg.Connection:
        """A connection for the caller to close; closed anyway at the end of the test."""
        connection = await asyncpg.connect(self.url, database=self.name, server_settings=SESSION)
        self._exits.callback(connection.terminate)
        return connection

    async def direct(self) -> asyncpg.Connection:
        """A connection that its user closes."""
        return await asyncpg.connect(self.url, database=self.name, server_settings=SESSION)

    async def ticker(self, **options: Any) -> Ticker:
        ticker: Ticker = await self._exits.enter_async_context(Ticker(self.direct, **options))
        return ticker

    async def feed(self, **options: Any) -> Feed:
        feed: Feed = await self._exits.enter_async_context(Feed(self.direct, **options))
        await within(feed.ready.wait())
        return feed

    async def watch(self, **options: Any) -> Watch:
        return Watch(await self.feed(**options))

    async def close(self) -> None:
        await self._exits.aclose()


async def within(awaitable: Awaitable[Any], seconds: float = DEADLINE) -> Any:
    """The awaitable's result, or a failure at the deadline."""
    return await asyncio.wait_for(awaitable, seconds)


async def blocked(database: Database, connection: asyncpg.Connection) -> None:
    """Wait until a connection's statement waits for a lock that another has."""
    looking = await database.connect()
    query = "SELECT pg_blocking_pids($1) <> '{}'"
    await until(lambda: looking.fetchval(query, connection.get_server_pid()), DEADLINE)


class Watch:
    """Subscribes to a feed, remembers its events, and replays them to the state that a client would have."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.batches: list[Batch] = []
        self.events: list[Event] = []
        self.positions: list[Position] = []
        self.state: dict[str, dict[str, dict[str, Any]]] = {}
        self.resets: list[str] = []
        self._news = asyncio.Event()
        self.stop = feed.subscribe(self.apply, self._reset)

    def apply(self, batch: Batch) -> None:
        self.batches.append(batch)
        for event in batch.events:
            self.events.append(event)
            self.positions.append(batch.position(event))
            self.replay(event)
        self._news.set()

    def replay(self, event: Event) -> None:
        rows = self.state.setdefault(event.resource, {})
        if event.op == "T":
            rows.clear()
        elif event.op == "D":
            rows.pop(event.pk or "", None)
        else:
            assert event.pk is not None
            assert event.after is not None
            rows[event.pk] = event.after

    def _reset(self, reason: str) -> None:
        self.resets.append(str(reason))
        self._news.set()

    async def until(self, condition: Callable[[], bool], seconds: float = DEADLINE) -> None:
        """Wait until a condition holds; it is checked after each batch."""
        async with asyncio.timeout(seconds):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def fence(self, connection: asyncpg.Connection) -> list[Event]:
        """Write a row and wait for its event: every change committed before has been delivered. Return the events before it."""
        mark = str(uuid.uuid4())
        await connection.execute("INSERT INTO public.fences (id) VALUES ($1)", mark)
        await self.until(lambda: mark in self.state.get("fences", {}))
        place = next(place for place, event in enumerate(self.events) if event.pk == mark)
        return [event for event in self.events[:place] if event.resource != "fences"]


def old(event: Event) -> dict[str, Any]:
    """The row before a change, for a change that has one."""
    assert event.before is not None
    return event.before


def new(event: Event) -> dict[str, Any]:
    """The row after a change, for a change that has one."""
    assert event.after is not None
    return event.after


def summary(events: list[Event], resource: str = "tasks") -> list[tuple[str, str | None]]:
    """Operation and title or name of each event of a resource."""
    rows = [(event.op, event.after or event.before or {}) for event in events if event.resource == resource]
    return [(op, row.get("title", row.get("name"))) for op, row in rows]
