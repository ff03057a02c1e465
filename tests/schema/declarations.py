"""Shared by the tests of the schema: declarations, and one database with its revisions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg

from rowcast.migrations import commands
from rowcast.migrations.values import LogSteps, Migration, Plan, Step
from rowcast.resources.fields import Field
from rowcast.resources.resource import Resource, Resources
from rowcast.resources.tables import Tables
from rowcast.resources.types import make_field

Rows: TypeAlias = list[tuple[Any, ...]]


def field(name: str, type_: str, **options: Any) -> Field:
    return make_field(name, type_, **options)


def key(type_: str = "uuid", name: str = "id", **options: Any) -> Field:
    return make_field(name, type_, primary_key=True, required=False, **options)


def resource(name: str, *fields: Field, **options: Any) -> Resource:
    """A resource of these fields; without a key it has a uuid ``id``."""
    if not any(each.primary_key for each in fields):
        fields = (key(), *fields)
    return Resource(name, options.pop("table", name), name.title(), {each.name: each for each in fields}, **options)


def declare(*resources: Resource) -> Tables:
    return Tables(Resources({each.name: each for each in resources}))


OWN = """
CREATE SCHEMA rowcast;
CREATE FUNCTION rowcast.uuid7() RETURNS uuid LANGUAGE sql AS 'SELECT gen_random_uuid()'
"""


async def install(connection: asyncpg.Connection) -> None:
    """Install the part of the service's own schema that tables refer to."""
    if not await connection.fetchval("SELECT to_regnamespace('rowcast')"):
        await connection.execute(OWN)


async def nothing(_connection: asyncpg.Connection) -> None:
    """A step that does nothing."""


async def no_reset(_connection: asyncpg.Connection, _resources: Sequence[str]) -> None:
    """A reset of a log that is not there."""


class Database:
    """One database, and the commands of ``migrations`` on it, with a directory for revisions."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        self.directory = directory

    async def connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(self.url)

    async def migrate(
        self,
        tables: Tables,
        *,
        sync: bool = True,
        before: Step = install,
        after: Step = nothing,
        patience: float = 30,
    ) -> Migration:
        return await commands.migrate(
            self.connect,
            tables,
            self.directory,
            sync=sync,
            steps=LogSteps(before, nothing, after, no_reset),
            patience=patience,
        )

    async def plan(self, tables: Tables) -> Plan:
        return await commands.plan(self.connect, tables, self.directory, annotate=True)

    async def compare(self, tables: Tables) -> Plan:
        """The plan of a real comparison, without the digest of an earlier one."""
        await self.execute("COMMENT ON TABLE rowcast.alembic_version IS NULL")
        return await self.plan(tables)

    async def pending(self, tables: Tables) -> list[str]:
        return await commands.pending(self.connect, tables, self.directory)

    async def makemigrations(
        self, tables: Tables, message: str = "change", *, empty: bool = False, drop: Sequence[str] = ()
    ) -> Path:
        made = await commands.makemigrations(self.connect, tables, self.directory, message, empty=empty, drop=drop)
        return made.path

    async def execute(self, sql: str) -> None:
        connection = await self.connect()
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    async def fetch(self, sql: str) -> Rows:
        connection = await self.connect()
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    async def column(self, sql: str) -> list[Any]:
        return [row[0] for row in await self.fetch(sql)]
