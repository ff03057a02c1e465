"""The rows of a run: the service's tables, and the floor's, which are the same without triggers."""

from __future__ import annotations

import asyncpg

from bench.cases import AUTHORS, TASKS

KEY = "('00000000-0000-7000-8000-' || lpad(to_hex({}), 12, '0'))::uuid"
ROWS = f"""
    SET session_replication_role = replica; -- loading is not part of the measurement: nothing is logged
    INSERT INTO authors (id, name, email, created_at)
    SELECT {KEY.format("n")}, 'Author ' || n, 'author' || n || '@example.com',
           '2026-01-01'::timestamptz + n * interval '1h'
    FROM generate_series(1, {AUTHORS}) n;
    INSERT INTO tasks (
        id, title, description, completed, priority, view_count, author_id, due_date, created_at, updated_at
    )
    SELECT {KEY.format("n")}, 'Task ' || n, repeat('What there is to do. ', n % 10),
           n % 4 = 0, CASE n / 4 % 10 WHEN 0 THEN 'high' WHEN 1 THEN 'low' ELSE 'normal' END, n % 1000,
           {KEY.format(f"n * 7 % {AUTHORS} + 1")},
           CASE WHEN n % 3 > 0 THEN '2027-01-01'::timestamptz + n * interval '1min' END,
           '2026-01-01'::timestamptz + n * interval '1min', '2026-01-01'::timestamptz + n * interval '1min'
    FROM generate_series(1, {TASKS}) n;
    RESET session_replication_role;
"""
COPY = """
    CREATE SCHEMA floor;
    CREATE TABLE floor.authors (LIKE public.authors INCLUDING ALL);
    CREATE TABLE floor.tasks (LIKE public.tasks INCLUDING ALL);
    INSERT INTO floor.authors SELECT * FROM public.authors ORDER BY id;
    INSERT INTO floor.tasks SELECT * FROM public.tasks ORDER BY id;
    ALTER TABLE floor.tasks ADD FOREIGN KEY (author_id) REFERENCES floor.authors ON DELETE CASCADE;
"""


async def load(url: str) -> str:
    """Fill the service's tables, which are there and empty, and make the floor's; the server's version."""
    connection = await asyncpg.connect(url, server_settings={"timezone": "UTC"})
    try:
        await connection.execute(ROWS)
        await connection.execute(COPY)
        await connection.execute("VACUUM ANALYZE")
        await connection.execute("CHECKPOINT")
        return str(await connection.fetchval("SHOW server_version")).split()[0]
    finally:
        await connection.close()
