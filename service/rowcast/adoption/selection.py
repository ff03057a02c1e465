"""Which tables are adopted: those that the patterns name, without the bookkeeping of other programs, and with a key."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Final

import asyncpg

from rowcast.adoption.catalog import Database, Table, has_duplicates
from rowcast.adoption.drafts import choose_key
from rowcast.database.connection import Connection
from rowcast.errors import ConfigurationError, did_you_mean

_NOT: Final = "!"
_BOOKKEEPING: Final = re.compile(
    r"alembic_version|ar_internal_metadata|databasechangelog(?:lock)?|django_(?:migrations|session)|__drizzle_migrations"
    r"|__efmigrationshistory|flyway_schema_history|goose_db_version|knex_migrations(?:_lock)?|_prisma_migrations"
    r"|schema_migrations|sequelizemeta|_sqlx_migrations|typeorm_metadata|doctrine_migration_versions",
    re.IGNORECASE,
)
_LISTED: Final = 50  # names in a message
_SAMPLE_ROWS: Final = 100_000
_SAMPLE_TIMEOUT: Final = "2s"
_SAMPLING_SECONDS: Final = 10.0  # for all views together


def select_tables(tables: Iterable[Table], patterns: Sequence[str]) -> Iterator[tuple[Table, str | None]]:
    """The tables that patterns such as ``sales_*`` name, each with the reason to leave it out, if there is one.

    A pattern after ``!`` excludes tables. Without a pattern that includes some, all are included. Bookkeeping of other
    programs is left out unless a pattern is its very name.
    """
    wanted = [pattern for pattern in patterns if not pattern.startswith(_NOT)]
    unwanted = [pattern.removeprefix(_NOT) for pattern in patterns if pattern.startswith(_NOT)]
    for table in tables:
        labels = (table.name, f"{table.schema}.{table.name}")
        if wanted and not any(fnmatchcase(label, pattern) for label in labels for pattern in wanted):
            continue
        if any(fnmatchcase(label, pattern) for label in labels for pattern in unwanted):
            continue
        reason = None
        if _BOOKKEEPING.fullmatch(table.name) and not set(labels) & set(wanted):
            reason = f"it is the bookkeeping of another program; --tables {table.name} adopts it"
        elif table.parent is not None:
            reason = f"it inherits from {table.parent}, whose rows include its own"
        elif not table.readable:
            reason = "the role may not read it"
        yield table, reason


def check_patterns(
    database: Database, schemas: Sequence[str], patterns: Sequence[str], *, embedded: bool = False
) -> None:
    """Raise ``ConfigurationError`` for a schema or a pattern that no table has."""
    if not database.schemas:
        another = "the embedded database has no tables; name yours with DATABASE_URL or --database-url"
        raise ConfigurationError(another if embedded else "the database has no tables")
    where = f"schemas with tables: {', '.join(f'{name} ({number})' for name, number in database.schemas.items())}"
    for schema in schemas:
        if not any(table.schema == schema for table in database.tables.values()):
            raise ConfigurationError(f"--schema {schema}: there is no table in this schema; {where}")
    if not database.tables:
        raise ConfigurationError(f"no table is in a schema of the search path; name one with --schema ({where})")
    for pattern in patterns:
        if not any(True for _ in select_tables(database.tables.values(), [pattern.removeprefix(_NOT)])):
            labels = sorted(table.name for table in database.tables.values())
            near = did_you_mean(pattern, labels) if len(labels) <= _LISTED else f"there are {len(labels)} tables"
            raise ConfigurationError(f"--tables {pattern}: no table that is read has such a name; {near}")


async def find_keys(connection: Connection, tables: Iterable[Table], database: Database) -> dict[int, tuple[str, ...]]:
    """The key of each table that has one, by OID. Views are looked at for some seconds."""
    keys: dict[int, tuple[str, ...]] = {}
    deadline = time.monotonic() + _SAMPLING_SECONDS
    for table in tables:
        key = choose_key(table)
        if key is None and table.is_view and time.monotonic() < deadline:
            key = await _key_of_view(connection, table, database)
        if key is not None:
            keys[table.oid] = key
    return keys


async def _key_of_view(connection: Connection, table: Table, database: Database) -> tuple[str, ...] | None:
    """A column of a view that identifies its rows, as far as its first rows show it.

    Candidates are ``id``, and columns with the name of the key of a table that the view reads.
    """
    read = [database.tables[oid].key for oid in table.reads if oid in database.tables]
    candidates = ["id", *(key[0] for key in read if len(key) == 1)]
    for name in dict.fromkeys(candidates):
        if name not in table.columns:
            continue
        try:
            async with connection.transaction(readonly=True):
                await connection.execute(f"SET LOCAL statement_timeout = '{_SAMPLE_TIMEOUT}'")
                if not await has_duplicates(connection, table, [name], _SAMPLE_ROWS):
                    return (name,)
        except asyncpg.PostgresError:  # too slow, no right to read it, or a type that is not compared
            continue
    return None
