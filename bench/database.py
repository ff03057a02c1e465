"""The rows of a run: the service's tables, and the same without triggers for everybody else."""

from __future__ import annotations

import asyncpg

from bench.cases import AUTHORS, TASKS

PLAIN = "plain"  # a role, and the schema that it finds its tables in

KEY = "('00000000-0000-7000-8000-' || lpad(to_hex({}), 12, '0'))::uuid"
ROWS = f"""
    SET session_replication_role = replica; -- loading is not part of the measurement: nothing is logged
    TRUNCATE authors, tasks;
    INSERT INTO authors (id, name, email, created_at, updated_at)
    SELECT {KEY.format("n")}, 'Author ' || n, 'author' || n || '@example.com',
           '2026-01-01'::timestamptz + n * interval '1h', '2026-01-01'::timestamptz + n * interval '1h'
    FROM generate_series(1, {AUTHORS}) n;
    INSERT INTO tasks (
        id, title, description, completed, priority, view_count, author_id, due_date, created_at, updated_at
    )
    SELECT {KEY.format("n")}, 'Task ' || n, repeat('What there is to do. ', (n % 10)::int),
           n % 4 = 0, CASE n / 4 % 10 WHEN 0 THEN 'high' WHEN 1 THEN 'low' ELSE 'normal' END, n % 1000,
           {KEY.format(f"n * 7 % {AUTHORS} + 1")},
           CASE WHEN n % 3 > 0 THEN '2027-01-01'::timestamptz + n * interval '1min' END,
           '2026-01-01'::timestamptz + n * interval '1min', '2026-01-01'::timestamptz + n * interval '1min'
    FROM generate_series(1, $tasks::bigint) n;
    RESET session_replication_role;
"""
COPY = f"""
    CREATE ROLE {PLAIN} LOGIN SUPERUSER;
    CREATE SCHEMA {PLAIN};
    CREATE TABLE {PLAIN}.authors (LIKE public.authors INCLUDING ALL);
    CREATE TABLE {PLAIN}.tasks (LIKE public.tasks INCLUDING ALL);
    ALTER TABLE {PLAIN}.tasks ADD FOREIGN KEY (author_id) REFERENCES {PLAIN}.authors ON DELETE CASCADE;
"""
FILL = f"""
    TRUNCATE {PLAIN}.authors, {PLAIN}.tasks;
    INSERT INTO {PLAIN}.authors SELECT * FROM public.authors ORDER BY id;
    INSERT INTO {PLAIN}.tasks SELECT * FROM public.tasks ORDER BY id;
"""


async def load(url: str, tasks: int = TASKS, *, plain: bool = True) -> str:
    """Fill the service's tables again, and those of the peers if they take part. Returns the server's version."""
    connection = await asyncpg.connect(url, server_settings={"timezone": "UTC"})
    try:
        await connection.execute(ROWS.replace("$tasks", str(tasks)))
        if plain:
            if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", PLAIN):
                await connection.execute(COPY)
            await connection.execute(FILL)
        await connection.execute("VACUUM ANALYZE")
        await connection.execute("CHECKPOINT")
        return str(await connection.fetchval("SHOW server_version")).split()[0]
    finally:
        await connection.close()
