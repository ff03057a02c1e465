"""The floor: the least code that serves the same requests on the same stack, written by hand, in three forms.

``json``: PostgreSQL makes the JSON. ``rows``: rows of asyncpg become dictionaries, and those JSON by orjson. ``bytes``:
a response is made once and then repeated, which is the cost of aiohttp alone. The first two run one statement per
request on a connection that stays open, and nothing else: no links to other pages, no validation, no permissions, no
errors in words, no positions of a stream. ``DATABASE_URL=… python -m bench.floor FORM PORT WORKERS``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg
import orjson
import uvloop
from aiohttp import web

PAGE_SIZE = 20
ORDER = "ORDER BY created_at DESC, id LIMIT 20 OFFSET $1"
AS_JSON = "SELECT json_build_object('count', {count}, 'results', coalesce(json_agg(t), '[]')) FROM ({rows}) t"
JOIN = "FROM tasks t JOIN authors a ON a.id = author_id ORDER BY t.created_at DESC, t.id LIMIT 20 OFFSET $1"
INSERT = "INSERT INTO tasks AS t (title, priority, author_id) VALUES ($1, $2, $3) RETURNING "
UPDATE = "UPDATE tasks t SET title = $2, updated_at = now() WHERE id = $1 RETURNING "


def page(table: str, where: str = "") -> dict[str, str]:
    """The statement of a page in both forms."""
    count, rows = f"(SELECT count(*) FROM {table} {where})", f"FROM {table} {where} {ORDER}"
    return {"json": AS_JSON.format(count=count, rows=f"SELECT * {rows}"), "rows": f"SELECT *, {count} AS count {rows}"}


ROW = {"json": "row_to_json(t)", "rows": "t.*"}
GET = {form: f"SELECT {row} FROM tasks t WHERE id = $1" for form, row in ROW.items()}
CREATE = {form: INSERT + row for form, row in ROW.items()}
PATCH = {form: UPDATE + row for form, row in ROW.items()}
TASKS, AUTHORS = page("tasks"), page("authors")
FILTERED = page("tasks", "WHERE completed = $2 AND priority = $3")
UNCOUNTED = {
    "json": AS_JSON.format(count="NULL", rows=f"SELECT * FROM tasks {ORDER}"),
    "rows": f"SELECT *, NULL AS count FROM tasks {ORDER}",
}
EMBEDDED = {
    "json": AS_JSON.format(count="(SELECT count(*) FROM tasks)", rows=f"SELECT t.*, row_to_json(a) AS author {JOIN}"),
    "rows": "SELECT t.*, (SELECT count(*) FROM tasks) AS count, a.id AS a_id, a.name AS a_name, a.email AS a_email, "
    f"a.created_at AS a_created_at, a.updated_at AS a_updated_at {JOIN}",
}

FORM: web.AppKey[str] = web.AppKey("form", str)
POOL: web.AppKey[asyncio.LifoQueue[Any]] = web.AppKey("pool", asyncio.LifoQueue)

Rows = Sequence[asyncpg.Record]
Handler = Callable[[web.Request], Awaitable[web.Response]]


def one(rows: Rows) -> object:
    return dict(rows[0])


def many(rows: Rows) -> object:
    results = [dict(row) for row in rows]
    for row in results:
        count = row.pop("count")
    return {"count": count, "results": results}


def many_with_author(rows: Rows) -> object:
    document: Any = many(rows)
    for row in document["results"]:
        row["author"] = {name: row.pop(f"a_{name}") for name in ("id", "name", "email", "created_at", "updated_at")}
    return document


async def answer(
    request: web.Request,
    statements: dict[str, str],
    shape: Callable[[Rows], object],
    *arguments: object,
    status: int = 200,
) -> web.Response:
    """Respond with the result of a statement, unchanged."""
    pool, form = request.app[POOL], request.app[FORM]
    connection = await pool.get()
    try:
        if form == "json":
            body = await connection.fetchval(statements[form], *arguments)
        else:
            rows = await connection.fetch(statements[form], *arguments)
            body = orjson.dumps(shape(rows), default=str) if rows else None
    finally:
        pool.put_nowait(connection)
    if body is None:
        raise web.HTTPNotFound
    return web.Response(body=body, status=status, content_type="application/json")


async def retrieve(request: web.Request) -> web.Response:
    return await answer(request, GET, one, request.match_info["id"])


async def list_tasks(request: web.Request) -> web.Response:
    given = request.query
    offset = (int(given.get("page", "1")) - 1) * PAGE_SIZE
    if "expand" in given:
        return await answer(request, EMBEDDED, many_with_author, offset)
    if "completed" in given:
        return await answer(request, FILTERED, many, offset, given["completed"] == "true", given["priority"])
    return await answer(request, TASKS, many, offset)


async def list_uncounted(request: web.Request) -> web.Response:
    return await answer(request, UNCOUNTED, many, 0)


async def list_authors(request: web.Request) -> web.Response:
    return await answer(request, AUTHORS, many, 0)


async def create(request: web.Request) -> web.Response:
    task = orjson.loads(await request.read())
    return await answer(request, CREATE, one, task["title"], task["priority"], task["author_id"], status=201)


async def patch(request: web.Request) -> web.Response:
    task = orjson.loads(await request.read())
    return await answer(request, PATCH, one, request.match_info["id"], task["title"])


def repeated(read: Handler) -> Handler:
    """A handler that repeats the first response of each address."""
    made: dict[str, bytes] = {}

    async def repeat(request: web.Request) -> web.Response:
        body = made.get(request.raw_path)
        if body is None:
            response = await read(request)
            assert isinstance(response.body, bytes)
            body = made[request.raw_path] = response.body
        return web.Response(body=body, content_type="application/json")

    return repeat


async def main(form: str, listening: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    pool: asyncio.LifoQueue[Any] = asyncio.LifoQueue()
    for _ in range(int(os.environ["CONNECTIONS"])):
        connection = await asyncpg.connect(
            os.environ["DATABASE_URL"], server_settings={"timezone": "UTC", "jit": "off"}
        )
        await connection.set_type_codec("json", schema="pg_catalog", encoder=bytes, decoder=bytes, format="binary")
        pool.put_nowait(connection)
    app = web.Application()
    app[FORM], app[POOL] = "rows" if form == "rows" else "json", pool
    for path, read in {"/tasks/{id}/": retrieve, "/tasks/": list_tasks, "/authors/": list_authors}.items():
        app.router.add_get(path, repeated(read) if form == "bytes" else read)
    app.router.add_patch("/tasks/{id}/", patch)
    app.router.add_get("/uncounted-tasks/", list_uncounted)
    app.router.add_post("/tasks/", create)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listening).start()
    await ended.wait()
    await runner.cleanup()
    while not pool.empty():
        await pool.get_nowait().close()


if __name__ == "__main__":
    form, port, workers = sys.argv[1:]
    listening = socket.create_server(("127.0.0.1", int(port)), backlog=128)
    for _ in range(int(workers) - 1):
        if not os.fork():
            break
    uvloop.run(main(form, listening))
