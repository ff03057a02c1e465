"""Reads what the rows, the processes and PostgreSQL show."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Final

import aiohttp
import asyncpg

from tests.fuzz.service import FAULT
from tests.operate.relays import Node

from .judge import Row
from .stage import Stage

STATEMENTS: Final = """
SELECT sum(calls)::bigint FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid
WHERE r.rolname = 'postgres' AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"""
CONNECTIONS: Final = """
SELECT count(*) FROM pg_stat_activity
WHERE usename = 'postgres' AND backend_type = 'client backend' AND datname = current_database()"""
LOG_BYTES: Final = """
SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'rowcast' AND c.relkind = 'r'"""
TAKE_JOURNAL: Final = "SELECT id, text, done, owner_id FROM soak.journal ORDER BY n"


@dataclass
class Reading:
    """What the processes and PostgreSQL have at a moment."""

    memory: float  # MiB
    files: int
    connections: int
    statements: int
    log: float  # MiB
    written: float  # KiB
    time: float = field(default_factory=monotonic)


async def read(stage: Stage, sql: asyncpg.Connection) -> Reading:
    """Measure now."""
    pids = [service.pid for service in stage.services]
    return Reading(
        memory=sum(_memory(pid) for pid in pids) / 1024,
        files=sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
        connections=await sql.fetchval(CONNECTIONS),
        statements=await sql.fetchval(STATEMENTS) or 0,
        log=await sql.fetchval(LOG_BYTES) / (1 << 20),
        written=sum(file.stat().st_size for file in service_logs(stage)) / 1024,
    )


def _memory(pid: int) -> int:
    """The resident memory of a process, in KiB."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1])


async def take_journal(sql: asyncpg.Connection) -> list[tuple[int, Row | None]]:
    """The changes since the last call, while nobody writes."""
    found = [
        (key, None if text is None else Row(text, done, owner))
        for key, text, done, owner in await sql.fetch(TAKE_JOURNAL)
    ]
    await sql.execute("TRUNCATE soak.journal")
    return found


async def stored(sql: asyncpg.Connection) -> dict[int, Row]:
    """The rows of the database."""
    found = await sql.fetch("SELECT id, text, done, owner_id FROM notes")
    return {key: Row(text, done, owner) for key, text, done, owner in found}


def service_logs(stage: Stage) -> list[Path]:
    return sorted(stage.directory.glob("service*.log"))


class Logs:
    """The services' own logs, of which each line is read once."""

    def __init__(self) -> None:
        self._read: dict[Path, int] = {}

    def faults(self, stage: Stage) -> list[str]:
        """Lines that must not be there: tracebacks, errors, and warnings of the interpreter."""
        found = []
        for file in service_logs(stage):
            with file.open("rb") as log:
                log.seek(self._read.get(file, 0))
                lines = log.read().decode().splitlines(keepends=True)
                self._read[file] = log.tell()
            found += [f"{file.name}: {each.strip()[:1000]}" for each in lines if FAULT.search(each)]
        return found


async def metrics(node: Node) -> dict[str, float]:
    """The metrics of a service, by name and labels."""
    async with aiohttp.ClientSession() as session, session.get(f"http://{node.admin}/metrics") as response:
        lines = re.findall(r"^(\w+(?:\{.*\})?) ([0-9.e+-]+)$", await response.text(), re.MULTILINE)
    return {name: float(value) for name, value in lines}


async def used(stage: Stage) -> dict[str, float]:
    """How much the parts of the stage are used, as their counters have it; those of a service start with it."""
    found = {"relay": 0.0, "standby": 0.0}
    for node in stage.services:
        for name, value in (await metrics(node)).items():
            if name.startswith("rowcast_relay_received_total"):
                found["relay"] += value
            if name.startswith("rowcast_reads_total") and 'server="primary"' not in name:
                found["standby"] += value
    log = (stage.pooler.directory / "log").read_text()
    found["pgbouncer"] = sum(int(count) for count in re.findall(r"stats: (\d+) xacts/s", log))
    return found
