"""The floor: the least that answers the same requests on the same stack, written by hand.

One statement a request on a held connection, the JSON made by PostgreSQL, and nothing else: no links to other pages, no
validation, no permissions, no errors in words, no positions of a stream. ``python -m bench.floor URL SCHEMA`` prints
where it listens.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import asyncpg
import orjson
import uvloop
from aiohttp import web

CONNECTIONS = 10  # as many as the service has
PAGE_SIZE = 20

GET = "SELECT row_to_json(t) FROM tasks t WHERE id = $1"
PAGE = """
    SELECT json_build_object('count', (SELECT count(*) FROM {table}), 'results', coalesce(json_agg(t), '[]'))
    FROM (SELECT * FROM {table} ORDER BY created_at DESC, id LIMIT 20 OFFSET $1) t
"""
FILTERED = """
    SELECT json_build_object(
        'count', (SELECT count(*) FROM tasks WHERE completed = $2 AND priority = $3),
        'results', coalesce(json_agg(t), '[]')
    ) FROM (
        SELECT * FROM tasks WHERE completed = $2 AND priority = $3 ORDER BY created_at DESC, id LIMIT 20 OFFSET $1
    ) t
"""
EMBEDDED = """
    SELECT json_build_object('count', (SELECT count(*) FROM tasks), 'results', coalesce(json_agg(t), '[]'))
    FROM (
        SELECT tasks.*, row_to_json(authors) AS author FROM tasks JOIN authors ON authors.id = author_id
        ORDER BY tasks.created_at DESC, tasks.id LIMIT 20 OFFSET $1
    ) t
"""
CREATE = "INSERT INTO tasks AS t (title, priority, author_id) VALUES ($1, $2, $3) RETURNING row_to_json(t)"
PATCH = "UPDATE tasks t SET title = $2, updated_at = now() WHERE id = $1 RETURNING row_to_json(t)"

POOL: web.AppKey[asyncio.LifoQueue[Any]] = web.AppKey("pool", asyncio.LifoQueue)


async def answer(request: web.Request, statement: str, *arguments: object, status: int = 200) -> web.Response:
    """The one value that a statement gives, as it is."""
    pool = request.app[POOL]
    connection = await pool.get()
    try:
        body = await connection.fetchval(statement, *arguments)
    finally:
        pool.put_nowait(connection)
    if body is None:
        raise web.HTTPNotFound
    return web.Response(body=body, status=status, content_type="application/json")


async def retrieve(request: web.Request) -> web.Response:
    return await answer(request, GET, request.match_info["id"])


async def list_tasks(request: web.Request) -> web.Response:
    given = request.query
    offset = (int(given.get("page", "1")) - 1) * PAGE_SIZE
    if "expand" in given:
        return await answer(request, EMBEDDED, offset)
    if "completed" in given:
        return await answer(request, FILTERED, offset, given["completed"] == "true", given["priority"])
    return await answer(request, PAGE.format(table="tasks"), offset)


async def list_authors(request: web.Request) -> web.Response:
    return await answer(request, PAGE.format(table="authors"), 0)


async def create(request: web.Request) -> web.Response:
    task = orjson.loads(await request.read())
    return await answer(request, CREATE, task["title"], task["priority"], task["author_id"], status=201)


async def patch(request: web.Request) -> web.Response:
    task = orjson.loads(await request.read())
    return await answer(request, PATCH, request.match_info["id"], task["title"])


async def main(url: str, schema: str) -> None:
    """Serve the tables of a schema until SIGTERM or SIGINT."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    pool: asyncio.LifoQueue[Any] = asyncio.LifoQueue()
    for _ in range(CONNECTIONS):
        connection = await asyncpg.connect(
            url, server_settings={"search_path": schema, "timezone": "UTC", "jit": "off"}
        )  # fmt: skip
        await connection.set_type_codec("json", schema="pg_catalog", encoder=bytes, decoder=bytes, format="binary")
        pool.put_nowait(connection)
    app = web.Application()
    app[POOL] = pool
    app.router.add_get("/tasks/{id}/", retrieve)
    app.router.add_patch("/tasks/{id}/", patch)
    app.router.add_get("/tasks/", list_tasks)
    app.router.add_post("/tasks/", create)
    app.router.add_get("/authors/", list_authors)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await ended.wait()
    await runner.cleanup()
    while not pool.empty():
        await pool.get_nowait().close()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
