"""Writers over HTTP and by SQL, which note what became of each of their writes."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from random import Random
from typing import Any, Final

import aiohttp
import asyncpg

from tests.faults.clients import LOST

from .judge import Fate, Row

HTTP_ROWS: Final = 40  # of each writer over HTTP, which has them for itself
SQL_KEYS: Final = 60  # which all writers by SQL share
BULK_FIRST: Final = 1000
BULK_ROWS: Final = 100
BULK_CHARACTERS: Final = 3000  # of each row: a service's memory of recent changes is full some minutes after its start
PACE_SECONDS: Final = 0.1  # between two writes of a writer: it is the same while the machine can do it
PATIENCE_SECONDS: Final = 60.0  # for an answer
AGAIN: Final = {502, 503, 504}  # of a proxy without a service, or a service without its database
LASTING_OWNERS: Final = (1, 2)
OWNERS: Final = (1, 2, 3, 4, 5)  # of rows by SQL; those that do not last take their rows with them


class Wrong(Exception):
    """An answer that must not be."""


class Writer:
    """Writes for ever, inside ``turn``. ``fates`` are its writes since the last check point."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.turn = asyncio.Lock()
        self.fates: dict[tuple[int, str], Fate] = {}
        self.chance = Random(f"{seed}/{name}")
        self._count = 0

    async def run(self) -> None:
        """Write until this is cancelled, or something is wrong."""
        while True:
            async with self.turn:
                await self.write()
            await asyncio.sleep(self.chance.uniform(0.5, 1.5) * PACE_SECONDS)

    async def write(self) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    def text(self) -> str:
        """A text that nobody has written."""
        self._count += 1
        return f"{self.name}/{self._count}{self.chance.choice(['', ' a', ' A'])}"


class HttpWriter(Writer):
    """Creates, changes and deletes its own rows, so that each answer is determined, and reads them again.

    A request is sent again with its ``Idempotency-Key`` until there is an answer.
    """

    def __init__(self, number: int, seed: int, origin: str) -> None:
        super().__init__(f"http{number}", seed)
        self._rows: dict[int, Row] = {}
        self._session = aiohttp.ClientSession(origin, timeout=aiohttp.ClientTimeout(10))

    async def close(self) -> None:
        await self._session.close()

    async def write(self) -> None:
        row = Row(self.text(), self.chance.random() < 0.5, self.chance.choice([*LASTING_OWNERS, None]))
        if (len(self._rows) < HTTP_ROWS and self.chance.random() < 0.4) or not self._rows:
            key, place = await self._write("POST", "/notes/", 201, row)
        else:
            key = self.chance.choice(list(self._rows))
            if self.chance.random() < 0.7:
                _, place = await self._write("PATCH", f"/notes/{key}/", 200, row, key)
            else:
                _, place = await self._request("DELETE", f"/notes/{key}/", 204)
                del self._rows[key]
        if place is not None:
            await self._read(key, place)

    async def _write(
        self, method: str, path: str, status: int, row: Row, key: int | None = None
    ) -> tuple[int, str | None]:
        """Write a row; its key, which the service chooses for a new one, and the transaction."""
        body, place = await self._request(method, path, status, json=row._asdict())
        key = body["id"] if key is None else key
        if body != {"id": key, **row._asdict()}:
            raise Wrong(f"{method} {path} of {row}: {body}")
        self.fates[key, row.text] = Fate.MADE
        self._rows[key] = row
        return key, place

    async def _read(self, key: int, place: str) -> None:
        """The row is as this writer has written it, wherever it is read."""
        row = self._rows.get(key)
        body, _ = await self._request("GET", f"/notes/{key}/", 200 if row else 404, {"X-Read-After": place})
        if row is not None and body != {"id": key, **row._asdict()}:
            raise Wrong(f"GET /notes/{key}/ after {row}: {body}")

    async def _request(
        self, method: str, path: str, status: int, headers: dict[str, str] | None = None, **options: Any
    ) -> tuple[Any, str | None]:
        """The body of the answer, and the transaction of a write."""
        key = str(uuid.UUID(int=self.chance.getrandbits(128)))
        headers = {"Idempotency-Key": key, **(headers or {})}
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        last: object = None
        while asyncio.get_running_loop().time() < deadline:
            try:
                async with self._session.request(method, path, headers=headers, **options) as response:
                    text = await response.text()
                    if response.status == status:
                        return (await response.json() if text else None), response.headers.get("X-Transaction")
                    last = f"{response.status} {text[:300]}"
                    if response.status not in AGAIN and "idempotency_key_in_use" not in text:
                        raise Wrong(f"{method} {path}: {last} instead of {status}")
            except (aiohttp.ClientError, TimeoutError) as error:
                last = repr(error)
            await asyncio.sleep(0.05)
        raise Wrong(f"{method} {path} had no answer for {PATIENCE_SECONDS:.0f} s, at last {last}")


class SqlWriter(Writer):
    """Transactions of several statements, some of which are rolled back, over new connections where the old ones are lost."""

    def __init__(self, number: int, seed: int, url: str) -> None:
        super().__init__(f"sql{number}", seed)
        self._url = url
        self._connection: asyncpg.Connection | None = None

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()

    async def write(self) -> None:
        written: dict[tuple[int, str], Fate] = {}
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await asyncpg.connect(self._url, timeout=5, command_timeout=10)
            await self._transact(self._connection, written)
        except (asyncpg.DeadlockDetectedError, asyncpg.IntegrityConstraintViolationError):
            pass
        except LOST:
            if self._connection is not None:
                self._connection.terminate()
            await asyncio.sleep(0.05)
        self.fates |= written

    async def _transact(self, connection: asyncpg.Connection, written: dict[tuple[int, str], Fate]) -> None:
        """A transaction. ``written`` has the fates of its writes, also if it fails."""
        transaction = connection.transaction()
        await transaction.start()
        try:
            for _ in range(self.chance.choice([1, 1, 1, 2, 4])):
                inner = connection.transaction()
                await inner.start()
                text, keys = await self._statement(connection, self.text())
                undone = self.chance.random() < 0.15
                written.update({(key, text): Fate.UNDONE if undone else Fate.MADE for key in keys})
                await (inner.rollback() if undone else inner.commit())
            if self.chance.random() < 0.1:
                await asyncio.sleep(self.chance.random() / 2)
        except BaseException:
            _settle(written, Fate.UNDONE)
            if not connection.is_closed():
                with contextlib.suppress(*LOST):
                    await transaction.rollback()
            raise
        if self.chance.random() < 0.15:
            _settle(written, Fate.UNDONE)
            await transaction.rollback()
            return
        try:
            await transaction.commit()
        except BaseException:
            _settle(written, Fate.UNSURE)
            raise

    async def _statement(self, connection: asyncpg.Connection, text: str) -> tuple[str, list[int]]:
        """Run a statement, and return the text that it has written, and the keys of the rows that have got it."""
        chance = self.chance
        key, done, owner = chance.randrange(1, SQL_KEYS), chance.random() < 0.5, chance.choice(OWNERS)
        match chance.randrange(10):
            case 0 | 1 | 2 | 3:
                statement, arguments = UPSERT, [key, text, done]
            case 4 | 5 | 6:
                statement, arguments = UPDATE, [key, text]
            case 7:
                await connection.execute("DELETE FROM notes WHERE id BETWEEN $1 AND $1 + 3", key)
                return text, []
            case 8:
                if chance.random() < 0.2:
                    text = text.ljust(BULK_CHARACTERS, "x")
                    statement, arguments = BULK, [BULK_FIRST + 50 * (key % 5), BULK_ROWS, text]
                else:
                    await connection.execute(OWNER, owner)
                    statement, arguments = OWNED, [key, text, owner]
            case _:
                await connection.execute("DELETE FROM owners WHERE id = $1 AND NOT id = ANY($2)", owner, LASTING_OWNERS)
                return text, []
        return text, [found for (found,) in await connection.fetch(statement, *arguments)]


UPSERT: Final = (
    "INSERT INTO notes (id, text, done) VALUES ($1, $2, $3)"
    " ON CONFLICT (id) DO UPDATE SET text = excluded.text, done = excluded.done RETURNING id"
)
UPDATE: Final = "UPDATE notes SET text = $2, done = NOT done WHERE id BETWEEN $1 AND $1 + 1 RETURNING id"
BULK: Final = (
    "INSERT INTO notes (id, text, done) SELECT i, $3, false FROM generate_series($1::int, $1::int + $2::int) i"
    " ON CONFLICT (id) DO UPDATE SET text = excluded.text RETURNING id"
)
OWNER: Final = "INSERT INTO owners (id, name) VALUES ($1, 'o') ON CONFLICT DO NOTHING"
OWNED: Final = "UPDATE notes SET text = $2, owner_id = $3 WHERE id = $1 RETURNING id"


def _settle(written: dict[tuple[int, str], Fate], fate: Fate) -> None:
    """The fate of a transaction is that of all its writes but those that were rolled back before."""
    written.update({write: fate for write, each in written.items() if each is not Fate.UNDONE})


class Writers:
    """All writers, inside ``async with``."""

    def __init__(self, writers: list[Writer]) -> None:
        self._all = writers
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Writers:
        self._tasks = [asyncio.create_task(writer.run()) for writer in self._all]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._all:
            await writer.close()

    @contextlib.asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """Inside, nobody writes."""
        async with contextlib.AsyncExitStack() as stack:
            for writer in self._all:
                await stack.enter_async_context(writer.turn)
            yield

    def take(self) -> dict[tuple[int, str], Fate]:
        """The fates of all writes since the last call."""
        taken: dict[tuple[int, str], Fate] = {}
        for writer in self._all:
            taken |= writer.fates
            writer.fates = {}
        return taken

    def faults(self) -> list[str]:
        """Why writers have ended."""
        return [
            f"{writer.name}: {task.exception()!r}"
            for writer, task in zip(self._all, self._tasks, strict=True)
            if task.done() and not task.cancelled()
        ]
