"""A primary and its standby, and services that read from both."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Self
from urllib.parse import urlsplit

import asyncpg
import pytest

from rowcast.database.embedded import EmbeddedPostgres
from rowcast.query.replicas import Replica, Replicas
from rowcast.rest.plan import SERVICE
from rowcast.testing.client import Client
from tests.conftest import Serve
from tests.databases import SETTINGS, Databases, at_database, databases_of, needs_embedded_server
from tests.standbys import PATIENCE, Standby, until_replayed
from tests.waiting import until

NOTES = """
fields:
  id: {type: integer, primary_key: true}
  text: {type: text, blank: true}
  owner: {type: foreign_key, to: owners, null: true, on_delete: cascade}
viewset:
  permission_classes: [AllowAny]
  filterset_fields: {text: [exact], owner: [exact], owner__name: [exact]}
  aggregates: {group_by: [text]}
  page_size: 1000
  max_page_size: 100000
"""
OWNERS = """
fields: {id: {type: integer, primary_key: true}, name: {type: string}}
viewset: {permission_classes: [AllowAny]}
"""
RESOURCES = {"notes": NOTES, "owners": OWNERS}


WAITING = {**SETTINGS, "synchronous_commit": "on"}  # what has been committed is sent at once


@dataclass
class Pair:
    """A primary and a standby, with a connection to each for the test's database."""

    url: str
    replica_url: str
    sql: asyncpg.Connection
    replica: asyncpg.Connection

    async def replayed(self) -> None:
        """Wait until the standby has what has been committed."""
        await until_replayed(self.sql, self.replica)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedPostgres, EmbeddedPostgres]]:
    """A primary and its standby."""
    needs_embedded_server()
    directory = tmp_path_factory.mktemp("servers")
    with EmbeddedPostgres(directory / "primary", settings=WAITING) as primary:
        standby = Standby(primary.url, directory / "standby")
        asyncio.run(_start(standby))
        yield primary, standby.server
        standby.server.stop()


async def _start(standby: Standby) -> None:
    connection = await standby.start()
    await connection.close()


@pytest.fixture(scope="module")
def copies(servers: tuple[EmbeddedPostgres, EmbeddedPostgres]) -> Iterator[Databases]:
    with databases_of(servers[0].url) as found:
        yield found


@pytest.fixture
async def pair(servers: tuple[EmbeddedPostgres, EmbeddedPostgres], copies: Databases) -> AsyncIterator[Pair]:
    """A new database, on both servers."""
    async with copies.copy() as url:
        name = urlsplit(url).path[1:]
        async with connected(url, at_database(servers[1].url, name)) as found:
            yield found


@contextlib.asynccontextmanager
async def connected(url: str, replica_url: str) -> AsyncIterator[Pair]:
    sql, replica = await asyncpg.connect(url), await _connect(replica_url)
    try:
        yield Pair(url, replica_url, sql, replica)
    finally:
        sql.terminate()
        replica.terminate()


async def _connect(url: str) -> asyncpg.Connection:
    """A connection to a database that the standby may not have yet."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await asyncpg.connect(url)
            except asyncpg.InvalidCatalogNameError:
                await asyncio.sleep(0.01)


def replicas_of(client: Client) -> Replicas:
    found = client.app[SERVICE].replicas
    assert found is not None
    return found


def only(client: Client) -> Replica:
    """The only replica of a service."""
    (found,) = replicas_of(client).all
    return found


async def until_read(client: Client) -> None:
    """Wait until a replica has everything that has been committed so far, as far as the service can tell."""
    now = monotonic()
    await until(
        lambda: all(each.watch.moment is not None and each.watch.moment.time >= now for each in replicas_of(client).all)
    )


def settings_of(pair: Pair, **settings: object) -> str:
    return json.dumps({"database": {"url": pair.url, "replicas": [pair.replica_url], **settings}})


async def read_from(
    serve: Serve, pair: Pair, rows: str = "SELECT", *, resources: dict[str, str] = RESOURCES, **options: object
) -> Client:
    """A service that is read from the replica, once that has some ``rows``: the SQL that makes them."""
    client = await serve(resources, settings_of(pair, **options), url=pair.url)
    async with pair.sql.transaction():
        await pair.sql.execute(rows)
        written = await pair.sql.fetchval("SELECT pg_current_xact_id_if_assigned()::text::bigint")
    if written is not None:  # what the feed has not delivered would drop from memory what is read now
        await until(lambda: client.app[SERVICE].feed.has_delivered(written))
    await pair.replayed()
    await until_read(client)
    return client


class Writers:
    """Four writers of notes, whose transactions overlap, inside ``async with``; ``quiet()`` lets them end what they do."""

    def __init__(self, url: str, dice: random.Random) -> None:
        self._url = url
        self._dice = dice
        self._going = asyncio.Event()
        self._active = 0

    async def __aenter__(self) -> Self:
        self._going.set()
        self._tasks = [asyncio.create_task(self._write(100 * number)) for number in range(1, 5)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        self._going.clear()
        await until(lambda: not self._active)
        yield
        self._going.set()

    async def _write(self, first: int) -> None:
        dice = self._dice
        async with opened(self._url) as sql:
            while True:
                await self._going.wait()
                self._active += 1
                async with sql.transaction():
                    for _ in range(dice.randrange(1, 4)):
                        await sql.execute(WRITE, first + dice.randrange(20), str(dice.random()))
                    await sql.execute("DELETE FROM notes WHERE id = $1", first + dice.randrange(20))
                    await sql.execute("SELECT pg_sleep($1)", dice.random() * 0.02)
                self._active -= 1


WRITE = "INSERT INTO notes (id, text) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET text = excluded.text"


@contextlib.asynccontextmanager
async def own_pair(tmp_path: Path) -> AsyncIterator[tuple[Standby, EmbeddedPostgres, Pair]]:
    """Servers that a test may stop: the standby, the primary, and their databases."""
    needs_embedded_server()
    with EmbeddedPostgres(tmp_path / "primary", settings=WAITING) as primary:
        standby = Standby(primary.url, tmp_path / "standby")
        connection = await standby.start()
        await connection.close()
        try:
            async with connected(primary.url, standby.server.url) as pair:
                yield standby, primary, pair
        finally:
            await asyncio.to_thread(standby.server.stop)


def children_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        connection.terminate()
