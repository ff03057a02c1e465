"""The rounds of a soak: something is killed in each, and at its end nobody writes, and everything is compared."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from time import monotonic
from typing import Final

import aiohttp
import asyncpg

from tests.faults.clients import LOST, QUERIES

from . import observer
from .judge import Fate, Row, faults_of_client, faults_of_writes
from .measures import HEAD, LEAST_SECONDS, Sample, comparison, growth, line, unseen
from .observer import Logs, Reading
from .stage import Stage, plan
from .watchers import MATCHES, Watcher, row_of
from .writers import HttpWriter, SqlWriter, Writers

HTTP_WRITERS: Final = 3
SQL_WRITERS: Final = 3
WATCHERS: Final = 2  # of each query, for the whole run
GUESTS: Final = 4  # further ones in each round, which list while things happen
PATIENCE_SECONDS: Final = 60.0
FENCE_KEY: Final = 0
FENCE: Final = """
INSERT INTO notes (id, text, done, owner_id) VALUES ($1, $2, true, 1) ON CONFLICT (id) DO UPDATE SET text = excluded.text"""


class Campaign:
    """A run. ``faults`` is empty if nothing was wrong."""

    def __init__(self, stage: Stage, seed: int, seconds: float, every: float, report: Callable[[str], None]) -> None:
        self.faults: list[str] = []
        self.seen: Counter[str] = Counter()
        self.samples: list[Sample] = []
        self._stage = stage
        self._seed = seed
        self._seconds = seconds
        self._every = every
        self._report = report
        self._chance = Random(f"{seed}/clients")
        self._watchers: list[Watcher] = []
        self._guests: list[Watcher] = []
        self._rows: dict[int, Row] = {}  # at the last check point
        self._counted: Counter[str] = Counter()  # up to the last sample
        self._logs = Logs()
        self._begun = monotonic()
        self._fences = 0
        self._writers: Writers
        self._reading: Reading

    async def run(self) -> None:
        """Do the rounds; a round with faults is the last."""
        async with contextlib.AsyncExitStack() as stack:
            self._watchers = [
                await stack.enter_async_context(
                    Watcher(f"client {number}.{query}", self._stage.proxy, query, primary=number % 2 == 0)
                )
                for number in range(WATCHERS)
                for query in QUERIES
            ]
            for watcher in self._watchers:
                await watcher.ready()
            async with self._stage.connected() as sql:
                self._reading = await observer.read(self._stage, sql)
            self._writers = await stack.enter_async_context(self._writing())
            self._begun = monotonic()
            self._report(HEAD)
            for kill in plan(Random(f"{self._seed}/kills"), max(1, int(self._seconds // self._every))):
                await self._round(kill)
                if self.faults:
                    return
        self._finish()

    def _writing(self) -> Writers:
        over_http = [HttpWriter(number, self._seed, self._stage.proxy.make_url("/")) for number in range(HTTP_WRITERS)]
        by_sql = [SqlWriter(number, self._seed, self._stage.url) for number in range(SQL_WRITERS)]
        return Writers([*over_http, *by_sql])

    async def _round(self, kill: str) -> None:
        end = monotonic() + self._every
        async with contextlib.AsyncExitStack() as stack:
            disturbed = asyncio.create_task(self._disturb(kill))
            await self._visit(stack, end)
            killed = await disturbed
            try:
                async with self._writers.quiet():
                    await self._check(killed)
            except (TimeoutError, AssertionError, *LOST, aiohttp.ClientError) as error:
                self.faults.append(f"the check point after {killed}: {error!r}")
            self.faults += self._writers.faults() + self._logs.faults(self._stage)
            self._guests = []

    async def _disturb(self, kill: str) -> str:
        """Kill something in the first half of a round; what it was."""
        await asyncio.sleep(self._chance.uniform(0.05, 0.4) * self._every)
        try:
            name = await self._stage.strike(kill)
            await self._stage.ready()
        except (TimeoutError, AssertionError, RuntimeError, *LOST) as error:
            self.faults.append(f"after {kill} was killed: {error!r}")
            return kill
        return name

    async def _visit(self, stack: contextlib.AsyncExitStack, end: float) -> None:
        """Until the round ends, clients lose their connections, and further ones come and list."""
        pause = self._every / (2 * GUESTS)
        while (left := end - monotonic()) > 0:
            await asyncio.sleep(min(left, pause * self._chance.uniform(0.5, 1.5)))
            self._chance.choice(self._watchers).disconnect()
            if len(self._guests) < GUESTS:
                number, query = len(self._guests), self._chance.choice(list(QUERIES))
                guest = Watcher(f"guest {number}", self._stage.proxy, query, primary=number % 2 == 0)
                self._guests.append(await stack.enter_async_context(guest))

    async def _check(self, killed: str) -> None:
        """Compare what clients, writers and the database have, while nobody writes."""
        clients = [*self._watchers, *self._guests]
        async with self._stage.connected() as sql:
            fence = await self._fence(sql)
            for client in clients:
                try:
                    await client.until(
                        lambda client=client: client.rows.get(FENCE_KEY, {}).get("text") == fence,  # type: ignore[misc]
                        PATIENCE_SECONDS,
                    )
                except Exception as error:  # whatever it has found in its events
                    self.faults.append(f"{client.name} does not get the last change: {error!r}")
            await self._stage.replayed()
            await self._compare(sql, clients, fence)
            await self._sample(sql, killed)

    async def _fence(self, sql: asyncpg.Connection) -> str:
        """Write the last change of a round, which every client is sent."""
        self._fences += 1
        text = f"fence/{self._fences} a"
        await sql.execute(FENCE, FENCE_KEY, text)
        return text

    async def _compare(self, sql: asyncpg.Connection, clients: list[Watcher], fence: str) -> None:
        journal, rows = await observer.take_journal(sql), await observer.stored(sql)
        fates = self._writers.take()
        self.faults += faults_of_writes({**fates, (FENCE_KEY, fence): Fate.MADE}, journal)
        for client in clients:
            record = client.take()
            found = faults_of_client(self._rows, journal, rows, client.matches, record)
            self.faults += [f"{client.name}: {fault}" for fault in found]
            self.faults += [f"{client.name}: reset, {reason}" for reason in client.resets]
            self.seen["events"] += len(record.events)
        await self._compare_lists(rows, str(clients[0].last))
        self._rows = rows
        self.seen["writes over HTTP"] += sum(text.startswith("http") for _, text in fates)
        self.seen["writes by SQL"] += sum(text.startswith("sql") for _, text in fates)
        self.seen["reconnections"] = sum(max(0, client.connections - 1) for client in self._watchers)

    async def _compare_lists(self, rows: dict[int, Row], position: str) -> None:
        """Both services list the rows of the database, from wherever they read."""
        async with aiohttp.ClientSession(headers={"X-Read-After": position}) as session:
            for number, service in enumerate(self._stage.services, 1):
                for query, matches in MATCHES.items():
                    async with session.get(service.make_url(f"/notes/?page_size=200000&{query}")) as response:
                        body = await response.json() if response.status == 200 else None
                    listed = None if body is None else {each["id"]: row_of(each) for each in body["results"]}
                    if listed != {key: row for key, row in rows.items() if matches(row)}:
                        shown = response.status if listed is None else f"{len(listed)} rows, not those of the database"
                        self.faults.append(f"service {number} lists ?{query}: {shown}")

    async def _sample(self, sql: asyncpg.Connection, killed: str) -> None:
        before, self._reading = self._reading, await observer.read(self._stage, sql)
        now = self._reading
        self.seen.update({f"used: {name}": int(count) for name, count in (await observer.used(self._stage)).items()})
        counts = Counter(
            writes=self.seen["writes over HTTP"] + self.seen["writes by SQL"],
            events=self.seen["events"],
            reconnections=self.seen["reconnections"],
        )
        passed = now.statements - before.statements
        sample = Sample(
            minute=(now.time - self._begun) / 60,
            killed=killed,
            writes=counts["writes"] - self._counted["writes"],
            events=counts["events"] - self._counted["events"],
            reconnections=counts["reconnections"] - self._counted["reconnections"],
            memory=now.memory,
            files=now.files,
            connections=now.connections,
            statements=passed / (now.time - before.time) if passed > 0 else None,
            log=now.log,
            written=now.written - before.written,
        )
        self._counted = counts
        self.samples.append(sample)
        self._report(line(sample))

    def _finish(self) -> None:
        """Compare both halves of the run, and find out whether it has seen anything."""
        parts = ("relay", "standby", "pgbouncer")
        whole = {name: self.seen[name] for name in ("writes over HTTP", "writes by SQL", "events", "reconnections")}
        self.faults += unseen({**whole, **{f"use of {name}": self.seen[f"used: {name}"] for name in parts}})
        self._report("")
        if self._seconds < LEAST_SECONDS:
            self._report(f"The halves of a run of less than {LEAST_SECONDS / 60:.0f} minutes are not compared.")
            return
        self._report("\n".join(comparison(self.samples)))
        self.faults += growth(self.samples)


@contextlib.asynccontextmanager
async def campaign(
    seed: int, seconds: float, every: float, report: Callable[[str], None], keep: Path | None
) -> AsyncIterator[Campaign]:
    """A campaign on a stage of its own."""
    async with Stage.running(Random(f"{seed}/stage"), every / 6, keep) as stage:
        yield Campaign(stage, seed, seconds, every, report)
