"""Servers that speak PostgreSQL's protocol and do not suit a service: the start, ``migrate`` and the doctor name them.

Functions and tables of a schema that is searched first answer in place of PostgreSQL's own.
"""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from rowcast.database.pool import Database
from rowcast.errors import Unavailable
from rowcast.resources.tables import Tables
from rowcast.server.prepare import prepare
from tests.conftest import configure, rowcast

RESOURCES = {"notes": "fields: {text: {type: string}}", "tags": "fields: {name: {type: string}}"}
ENGINES = {
    "PostgreSQL 15.2-YB-2025.1.0.0-b0 on x86_64-pc-linux-gnu": "YugabyteDB",
    "CockroachDB CCL v25.2.0 (x86_64-pc-linux-gnu)": "CockroachDB",
    "PostgreSQL 8.0.2 on i686-pc-linux-gnu, compiled by GCC, Redshift 1.0.77": "Amazon Redshift",
}
CITUS = """
CREATE TABLE fake.pg_dist_partition (logicalrelid regclass, partmethod "char", repmodel "char");
CREATE TABLE public.notes (); CREATE TABLE public.tags (); CREATE TABLE public.others ();
INSERT INTO fake.pg_dist_partition VALUES ('public.notes', 'h', 's'), ('public.others', 'h', 's'), ('public.tags', 'n', 's');
"""


async def refusal(url: str, directory: Path, *, migrate: bool) -> str:
    """Why a service does not start where the schema ``fake`` is searched first."""
    configuration = configure(directory / "config", RESOURCES)
    tables = Tables(configuration.resources)
    database = Database(f"{url}&search_path=fake,pg_catalog,public", tables.guards)
    with pytest.raises(Unavailable) as raised:
        await prepare(configuration, tables, database, migrate=migrate)
    return str(raised.value)


@pytest.mark.empty_database
@pytest.mark.parametrize("version", ENGINES)
async def test_other_engines(version: str, sql: asyncpg.Connection, database_url: str, tmp_path: Path) -> None:
    """Each is named, and nothing is written."""
    await sql.execute(
        f"CREATE SCHEMA fake; CREATE FUNCTION fake.version() RETURNS text LANGUAGE sql AS $$SELECT '{version}'$$"
    )
    for migrate in (True, False):
        message = await refusal(database_url, tmp_path, migrate=migrate)
        assert message.startswith(f"The database cannot be used: the database is {ENGINES[version]}, which lacks some")
        assert "it must be PostgreSQL 14 or newer" in message
    url = f"{database_url}&search_path=fake,pg_catalog,public"
    code, output = rowcast(tmp_path, "migrate", DATABASE_URL=url)
    assert code == 1, output
    assert f"the database is {ENGINES[version]}" in output
    code, output = rowcast(tmp_path, "doctor", DATABASE_URL=url)
    assert code == 1
    assert f"WRONG database   the database is {ENGINES[version]}" in output
    assert await sql.fetchval("SELECT to_regclass('public.notes')") is None
    assert await sql.fetchval("SELECT to_regnamespace('rowcast')") is None


@pytest.mark.empty_database
async def test_a_standby(sql: asyncpg.Connection, database_url: str, tmp_path: Path) -> None:
    """With and without ``--migrate`` the reason is the same."""
    await sql.execute(
        "CREATE SCHEMA fake; CREATE FUNCTION fake.pg_is_in_recovery() RETURNS bool LANGUAGE sql AS 'SELECT true'"
    )
    for migrate in (True, False):
        assert "the database is a standby" in await refusal(database_url, tmp_path, migrate=migrate)


@pytest.mark.empty_database
async def test_distributed_tables(sql: asyncpg.Connection, database_url: str, tmp_path: Path) -> None:
    """Of the tables that Citus knows, those that it distributes and a resource has are named; local ones are not."""
    await sql.execute(f"CREATE SCHEMA fake; {CITUS}")
    for migrate in (True, False):
        message = await refusal(database_url, tmp_path, migrate=migrate)
        assert "the table notes is distributed by Citus" in message
        assert "tags" not in message
        assert "others" not in message
