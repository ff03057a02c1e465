"""LISTEN that fails in PostgreSQL, as where a transaction of its queue has been vacuumed away: it is healed, or changes are polled."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from tests.conftest import Serve

from .clients import RESOURCES
from .pooler import NOTIFICATION, Pooler

pytestmark = pytest.mark.tables(RESOURCES)
PARSE, BIND, ERROR = b"P", b"B", b"E"


class Queue:
    """The queue of notifications as a proxy plays it: LISTEN fails until it is drained, or for ever if ``kept``."""

    def __init__(self, *, kept: bool) -> None:
        self.kept = kept
        self.drained = 0
        self.failed = 0
        self.failed_twice = asyncio.Event()
        self.notified = asyncio.Event()
        self._statements: set[bytes] = set()  # the names of prepared LISTENs

    def alter(self, message: bytes) -> bytes:
        """Let LISTEN name a statement that does not exist, and the error be that of a queue that cannot be read."""
        kind = message[:1]
        if kind == NOTIFICATION:
            self.notified.set()
        elif b"pg_notification_queue_usage" in message:
            self.drained += 1
        elif kind == PARSE and b"LISTEN" in message:
            self._statements.add(message[5:].partition(b"\0")[0])
        elif kind == BIND and (not self.drained or self.kept):
            name = message[6:].partition(b"\0")[0]  # after that of the portal, which is empty
            if name in self._statements:
                self.failed += 1
                if self.failed > 1:
                    self.failed_twice.set()
                return message.replace(b"stmt", b"gone", 1)
        elif kind == ERROR:
            return message.replace(b"C26000\0", b"C58P01\0")
        return message


async def test_the_queue_is_drained(serve: Serve, sql: asyncpg.Connection, database_url: str) -> None:
    """After a look at the queue LISTEN succeeds, and notifications arrive."""
    queue = Queue(kept=False)
    async with Pooler(database_url, shared=False, alter=queue.alter).listening() as url:
        service = await serve(RESOURCES, url=url)
        async with service.stream("/notes/stream/") as changes:
            await sql.execute("INSERT INTO notes (id, text, done) VALUES (1, 'a', true)")
            await changes.next()
        await asyncio.wait_for(queue.notified.wait(), 20)
    assert queue.failed
    assert queue.drained


async def test_a_queue_that_is_kept(
    serve: Serve, sql: asyncpg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes arrive by polling; once the queue can be read, a new connection listens."""
    monkeypatch.setattr("rowcast.changes.connection.LISTEN_RETRY_SECONDS", 0.3)
    queue = Queue(kept=True)
    async with Pooler(database_url, shared=False, alter=queue.alter).listening() as url:
        service = await serve(RESOURCES, url=url)
        await asyncio.wait_for(queue.failed_twice.wait(), 20)
        async with service.stream("/notes/stream/") as changes:
            await sql.execute("INSERT INTO notes (id, text, done) VALUES (1, 'a', true)")
            await changes.next()
            assert not queue.notified.is_set()
            queue.kept = False
            for key in range(2, 200):
                await sql.execute("INSERT INTO notes (id, text, done) VALUES ($1, 'a', true)", key)
                await changes.next()
                if queue.notified.is_set():
                    break
                await asyncio.sleep(0.1)
        assert queue.notified.is_set()
