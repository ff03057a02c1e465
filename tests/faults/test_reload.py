"""A service whose configuration is changed while it runs: by SIGHUP, and by ``rowcast reload``."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import pty
import signal
import sys
import termios
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from aiohttp import web

from rowcast.configuration.load import Configuration, load
from rowcast.server.admin import admin
from rowcast.server.app import create_app
from rowcast.server.http import Runner
from rowcast.server.lifecycle import STARTED
from rowcast.server.metrics import Metrics
from rowcast.server.reload import Reloader, Source
from tests.conftest import ROOT, configure, rowcast
from tests.sse import EventSource
from tests.waiting import until

from .clients import NOTES, RESOURCES, assert_equal, writing
from .conftest import Open
from .processes import Server

pytestmark = pytest.mark.tables(RESOURCES)
Start = Callable[..., Awaitable[Server]]
SMALL_PAGES = RESOURCES | {"notes": NOTES + "  page_size: 1\n"}
MISTAKE = RESOURCES | {"notes": NOTES + "  page_sise: 1\n"}
MORE = RESOURCES | {
    "owners": RESOURCES["owners"].replace("fields:\n", "fields:\n  email: {type: string, null: true}\n")
}
PERMISSION = """
import asyncio
from pathlib import Path
from rowcast import BasePermission

class Mine(BasePermission):
    async def has_permission(self, request, view):
        if "slow" in request.headers:
            begun, end = (Path(request.headers["slow"]) / name for name in ("begun", "end"))
            begun.touch()
            while not end.exists():
                await asyncio.sleep(0.01)
        return "%s" == request.headers.get("version", "old")
"""
WITH_MODULE = RESOURCES | {"notes": NOTES.replace("AllowAny", "'rules:Mine'")}


@pytest.fixture
async def start(database_url: str, tmp_path: Path) -> AsyncIterator[Start]:
    """Start the one process of a test: its config is in ``tmp_path / "config"``."""
    servers: list[Server] = []

    async def start(
        resources: dict[str, str] = RESOURCES,
        service: str = "{}",
        modules: dict[str, str] | None = None,
        *options: str,
        migrate: bool = True,
        **variables: str,
    ) -> Server:
        configure(tmp_path / "config", resources, service, modules)
        servers.append(Server(tmp_path / "config", database_url, *options, migrate=migrate))
        await servers[0].start(**variables)
        return servers[0]

    yield start
    for server in servers:
        await server.kill()


async def get(server: Server, path: str, **headers: str) -> tuple[int, Any]:
    """Status and body of an address, over a new connection."""
    async with aiohttp.ClientSession() as session, session.get(server.make_url(path), headers=headers) as response:
        return response.status, await response.json()


async def are_ready(server: Server, workers: int) -> bool:
    """Whether so many workers answer, each known by the beginning of its request ids, and all are ready."""

    async def ask(session: aiohttp.ClientSession) -> tuple[str, int]:
        async with session.get(server.make_url("/health/ready")) as response:
            return response.headers["X-Request-ID"][:12], response.status

    try:
        async with aiohttp.ClientSession() as session:
            found = set(await asyncio.gather(*(ask(session) for _ in range(20))))
    except aiohttp.ClientError:
        return False
    return len(found) == workers and all(status == 200 for _, status in found)


async def config_state(server: Server) -> dict[str, Any]:
    """What ``/health/ready``, which is a 200, has about the last reload."""
    status, body = await get(server, "/health/ready")
    assert status == 200, body
    return body.get("config", {"state": None})


async def until_state(server: Server, state: str) -> dict[str, Any]:
    async def reached() -> bool:
        return (await config_state(server))["state"] == state

    await until(reached)
    return await config_state(server)


def write(server: Server, resources: dict[str, str], service: str | None = None) -> None:
    """Change files of the config, which may then have mistakes."""
    for name, text in resources.items():
        (server.config / "resources" / f"{name}.yaml").write_text(text)
    if service is not None:
        (server.config / "service.yaml").write_text(service)


def children(server: Server) -> list[int]:
    """The ids of the worker processes."""
    return [int(each) for each in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]


def takes_hangups(server: Server) -> bool:
    """Whether the process ignores SIGHUP, or has a handler for it."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    masks = [line.split()[1] for line in status.splitlines() if line.startswith(("SigIgn", "SigCgt"))]
    return any(int(mask, 16) & 1 for mask in masks)


class Load:
    """Requests without a pause, over connections that are kept and over new ones; each has to succeed."""

    def __init__(self, server: Server) -> None:
        self.sizes: set[int] = set()
        self.requests = 0
        self._server = server
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._run(closes=number % 2 == 0)) for number in range(4)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError), result

    async def _run(self, *, closes: bool) -> None:
        connector = aiohttp.TCPConnector(force_close=closes)
        async with aiohttp.ClientSession(connector=connector) as session:
            while True:
                async with session.get(self._server.make_url("/notes/")) as response:
                    assert response.status == 200, await response.text()
                    self.sizes.add(len((await response.json())["results"]))
                self.requests += 1

    async def more(self, count: int) -> None:
        """Wait until so many more requests have been answered."""
        target = self.requests + count
        await until(lambda: self.requests >= target or any(task.done() for task in self._tasks))


@pytest.mark.parametrize("workers", [1, 2])
async def test_no_request_is_refused_and_no_event_is_lost(
    start: Start, open_client: Open, sql: asyncpg.Connection, database_url: str, workers: int
) -> None:
    """Under requests, streams and writes: the new configuration answers on all connections, and streams go on."""
    await sql.execute("INSERT INTO notes (id, text) VALUES (1001, 'a'), (1002, 'b'), (1003, 'c')")
    server = await start(service=f"server: {{workers: {workers}}}")
    clients = [await open_client(server, query=query) for query in ("", "done=true")]
    async with writing(database_url) as writers, Load(server) as load:
        await load.more(20)
        for text in (SMALL_PAGES, RESOURCES, SMALL_PAGES):
            write(server, text)
            before = [client.connections for client in clients]
            os.kill(server.pid, signal.SIGHUP)
            for client, connections in zip(clients, before, strict=True):
                await client.until(lambda client=client, connections=connections: client.connections > connections)  # type: ignore[misc]
            await writers.more(20)
            await load.more(20)
    assert {1} < load.sizes
    async with Load(server) as load:
        await load.more(20)
    assert load.sizes == {1}
    await assert_equal(sql, *clients)
    assert [client.resets for client in clients] == [[], []]


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_mistake_leaves_the_last_good_configuration(start: Start, tmp_path: Path, workers: int) -> None:
    """It is in ``/health/ready``, in the log and in the output of the command, which exits 1; then it is put right."""
    server = await start(SMALL_PAGES, f"server: {{workers: {workers}}}")
    write(server, MISTAKE)
    os.kill(server.pid, signal.SIGHUP)
    problem = "notes.yaml:11:3: unknown key 'page_sise'; did you mean page_size?"
    (found,) = (await until_state(server, "rejected"))["problems"]
    assert found.endswith(problem)
    code, output = rowcast(tmp_path, "reload")
    assert (code, problem in output, "keeps its last good config" in output) == (1, True, True), output
    assert (await get(server, "/notes/"))[0] == 200
    write(server, RESOURCES)
    code, output = rowcast(tmp_path, "reload", "--pid", str(server.pid))
    assert (code, output) == (0, f"Process {server.pid} has the new config.")
    assert (await config_state(server))["state"] == "applied"
    os.kill(server.pid, signal.SIGTERM)
    log = await server.log()
    assert '"event": "config_rejected"' in log
    assert "page_sise" in log
    code, output = rowcast(tmp_path, "reload")
    assert (code, output.startswith(f"no service of {tmp_path / 'config'} has its file in ")) == (1, True)


async def test_the_level_of_the_log_follows_a_reload(start: Start, tmp_path: Path) -> None:
    """From the start on, and for the process as a whole."""
    server = await start(RESOURCES, "log: {level: error}")
    write(server, RESOURCES, "log: {level: info}")
    code, output = rowcast(tmp_path, "reload", "--pid", str(server.pid))
    assert code == 0, output
    os.kill(server.pid, signal.SIGTERM)
    log = await server.log()
    assert "config_reloaded" in log
    assert "feed_connected" not in log


async def test_problems_in_health_have_no_secrets(start: Start, tmp_path: Path) -> None:
    """Neither what comes from variables and files, nor what an exception of a module has to say."""
    (tmp_path / "secret").write_text("written-in-a-file\n")
    server = await start(WITH_MODULE, modules={"rules": PERMISSION % "old"}, PASSWORD="kept-in-a-variable")
    write(
        server, {}, f"server: {{openapi: '${{env:PASSWORD}}'}}\nthrottle: {{storage: '${{file:{tmp_path}/secret}}'}}\n"
        "auth: {default_permission_classes: [written-in-a-file]}",
    )  # fmt: skip
    os.kill(server.pid, signal.SIGHUP)
    problems = (await until_state(server, "rejected"))["problems"]
    assert len(problems) == 3, problems
    assert "openapi: '…' is unknown" in "\n".join(problems)
    assert not any(word in "\n".join(problems) for word in ("kept-in", "written-in"))
    write(server, {}, "{}")
    (server.config / "rules.py").write_text("raise ValueError('a key: abc')")
    os.kill(server.pid, signal.SIGHUP)

    async def has_exception() -> bool:
        return "rules.py:1: ValueError; the service's log" in (await config_state(server))["problems"][0]

    await until(has_exception)
    assert "abc" not in str(await config_state(server))
    assert (await get(server, "/notes/"))[0] == 200


async def test_missing_ddl_leaves_the_last_good_configuration(start: Start, tmp_path: Path, database_url: str) -> None:
    """Without ``--migrate``: the DDL is named, and after ``rowcast migrate`` the same configuration is applied."""
    server = await start(migrate=False)
    write(server, MORE)
    code, output = rowcast(tmp_path, "reload")
    assert code == 1
    assert "ALTER TABLE owners ADD COLUMN email" in output
    assert "`rowcast migrate --sync`" in (await config_state(server))["problems"][0]
    assert rowcast(tmp_path, "migrate", "--sync", "--database-url", database_url)[0] == 0
    assert rowcast(tmp_path, "reload")[0] == 0
    assert (await get(server, "/owners/?fields=email"))[0] == 200


@pytest.mark.parametrize("workers", [1, 2])
async def test_additive_ddl_is_done_with_migrate(
    start: Start, sql: asyncpg.Connection, tmp_path: Path, workers: int
) -> None:
    """And nothing at all if a destructive step is left."""
    server = await start(service=f"server: {{workers: {workers}}}")
    destructive = MORE["owners"].replace("type: string}", "type: integer}")
    write(server, {"owners": destructive})
    assert rowcast(tmp_path, "reload")[0] == 1
    columns = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'owners' AND column_name = 'email'"
    assert await sql.fetchval(columns) == 0
    write(server, MORE)
    code, output = rowcast(tmp_path, "reload")
    assert code == 0, output
    assert (await get(server, "/owners/?fields=email"))[0] == 200


async def test_streams_end_as_a_response_ends(start: Start, tmp_path: Path) -> None:
    """With their time to connect again, and not as a lost connection does; the connection stays open."""
    server = await start()
    async with aiohttp.ClientSession() as session:
        async with session.get(server.make_url("/notes/stream/")) as response:
            source = EventSource(response)
            assert (await source.next()).event == "ready"
            assert (await asyncio.to_thread(rowcast, tmp_path, "reload"))[0] == 0
            assert [event async for event in source] == []
            assert source.retry in range(1000, 3001)
        async with session.get(server.make_url("/notes/stream/"), headers={"Last-Event-ID": source.last_id}) as again:
            assert (await EventSource(again).next()).event == "ready"


async def test_settings_of_a_process_take_a_restart(start: Start, tmp_path: Path) -> None:
    """Where it listens and how many processes there are: a changed one is a problem, at its place."""
    await start()
    for name, value in (("host", "0.0.0.0"), ("workers", 2)):
        (tmp_path / "config/service.yaml").write_text(f"server: {{{name}: {value}}}")
        code, output = rowcast(tmp_path, "reload")
        assert code == 1
        assert f"service.yaml:1:{16 + len(name) - 4}: {name}: was" in output
        assert "takes a restart" in output


async def test_modules_are_imported_again(start: Start, tmp_path: Path) -> None:
    """Also if size and time of the file are the same; a request that has begun ends with the code that it began with."""
    server = await start(WITH_MODULE, modules={"rules": PERMISSION % "old"})
    slow = asyncio.create_task(get(server, "/notes/", slow=str(tmp_path)))
    await until((tmp_path / "begun").exists)
    stat = (server.config / "rules.py").stat()
    (server.config / "rules.py").write_text(PERMISSION % "new")
    os.utime(server.config / "rules.py", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert await asyncio.to_thread(rowcast, tmp_path, "reload") == (0, f"Process {server.pid} has the new config.")
    assert not slow.done()
    assert (await get(server, "/notes/", version="new"))[0] == 200
    assert (await get(server, "/notes/", version="old"))[0] in (401, 403)
    (tmp_path / "end").touch()
    assert (await slow)[0] == 200
    (server.config / "rules.py").write_text(PERMISSION % "other" + "oops")
    assert (await asyncio.to_thread(rowcast, tmp_path, "reload"))[0] == 1
    assert (await get(server, "/notes/", version="new"))[0] == 200


async def test_a_worker_that_dies_is_replaced_by_one_with_the_last_good_configuration(
    start: Start, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """Not by one with the configuration of the start, nor with one that was rejected."""
    server = await start(service="server: {workers: 2}")
    write(server, SMALL_PAGES)
    assert rowcast(tmp_path, "reload")[0] == 0
    write(server, MISTAKE)
    assert rowcast(tmp_path, "reload")[0] == 1
    await sql.execute("INSERT INTO notes (id, text) VALUES (1001, 'a'), (1002, 'b')")
    for worker in children(server):
        os.kill(worker, signal.SIGKILL)

    await until(lambda: are_ready(server, workers=2))
    async with Load(server) as load:
        await load.more(20)
    assert load.sizes == {1}


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_hangup_never_kills(start: Start, tmp_path: Path, database_url: str, workers: int) -> None:
    """Neither before the service is ready, nor many at once; it becomes ready, and stops when it is told to."""
    configure(tmp_path / "config", RESOURCES, f"server: {{workers: {workers}}}")
    server = Server(tmp_path / "config", database_url)
    await server.launch()

    await until(lambda: takes_hangups(server))  # before Python runs, one ends any process
    ready = asyncio.create_task(server.ready())
    while not ready.done():
        os.kill(server.pid, signal.SIGHUP)
        await asyncio.sleep(0.02)
    await ready
    await until_state(server, "applied")
    os.kill(server.pid, signal.SIGTERM)
    assert await server.ended() == 0


@asynccontextmanager
async def reloadable(
    configuration: Configuration, url: str, metrics: Metrics | None = None
) -> AsyncIterator[tuple[Runner, Reloader]]:
    """A service in the process of the tests, and what reloads it."""

    def make(configuration: Configuration, once: bool) -> web.Application:
        return create_app(configuration, url, migrate=True, once=once, metrics=metrics)

    async def set_up() -> Runner:
        runner = Runner(make(configuration, False), configuration.settings.server)
        await runner.setup()
        await runner.app[STARTED]
        return runner

    source = Source(lambda: load(configuration.directory, environ={}), make)
    runner = await asyncio.create_task(set_up())
    try:
        yield runner, Reloader(runner, configuration, source, lambda _: None)
    finally:
        await runner.cleanup()
        gc.unfreeze()


async def has_log_size(session: aiohttp.ClientSession, url: str) -> bool:
    """Whether metrics have what only a connected feed can tell; they leave it out while the database is slow."""
    async with session.get(url) as response:
        return "\nrowcast_log_bytes " in await response.text()


async def test_a_replaced_application_is_freed(tmp_path: Path, database_url: str) -> None:
    """With its modules: reloads do not fill the memory. The address of metrics stays open."""
    configuration = configure(
        tmp_path, WITH_MODULE, "server: {admin: '127.0.0.1:0'}", modules={"rules": PERMISSION % "old"}
    )
    with admin(configuration.settings.server) as served:
        assert served is not None
        async with reloadable(configuration, database_url, served.metrics) as (runner, reloader), served.serving():
            for _ in range(2):
                before = weakref.ref(runner.app), weakref.ref(sys.modules["rules"])
                assert (await reloader.reload()).problems == ()
                async with aiohttp.ClientSession() as session:
                    await until(partial(has_log_size, session, served.url))

                def is_freed(before: tuple[Any, ...] = before) -> bool:
                    gc.collect()
                    return [each() for each in before] == [None, None]

                await until(is_freed)


async def test_a_start_that_fails_or_takes_too_long_is_a_rejection(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a function of ``@on_startup``; what had been started is stopped, and the service goes on as it was."""
    configuration = configure(tmp_path, RESOURCES)
    async with reloadable(configuration, database_url) as (runner, reloader):
        app, tasks = runner.app, len(asyncio.all_tasks())
        hooks = "from rowcast import on_startup\nimport asyncio\n@on_startup\nasync def begin(): "
        (tmp_path / "hooks.py").write_text(hooks + "1 / 0")
        (problem,) = (await reloader.reload()).problems
        assert "hooks.py:4" in problem
        with monkeypatch.context() as patched:
            patched.setattr("rowcast.server.reload.START_SECONDS", 1)
            (tmp_path / "hooks.py").write_text(hooks + "await asyncio.sleep(60)")
            (problem,) = (await reloader.reload()).problems
            assert problem.startswith("The new config was not ready in time")
        assert runner.app is app
        assert len(asyncio.all_tasks()) == tasks
        (tmp_path / "hooks.py").write_text(hooks + "pass")
        assert (await reloader.reload()).problems == ()
        assert runner.app is not app


HOOKS = """
from pathlib import Path
from rowcast import background, on_shutdown, on_startup

def note(what):
    with (Path(__file__).parent / "happened").open("a") as file:
        file.write(what + "-%(version)s\\n")

@on_startup
def start(state):
    note("start")
    %(start)s

@on_shutdown
def stop(state):
    note("stop")

@background
async def follow():
    note("follow")
"""


async def test_hooks_run_for_each_configuration(start: Start) -> None:
    """The new ones start before the old ones stop; if one of them fails, the old configuration goes on."""
    server = await start(modules={"hooks": HOOKS % {"version": "1", "start": ""}})
    happened = server.config / "happened"
    (server.config / "hooks.py").write_text(HOOKS % {"version": "2", "start": "raise OSError('no broker')"})
    os.kill(server.pid, signal.SIGHUP)
    (problem,) = (await until_state(server, "rejected"))["problems"]
    assert problem == "hooks.py:12: on_startup start has failed: OSError; the service's log has its message"
    (server.config / "hooks.py").write_text(HOOKS % {"version": "3", "start": ""})
    os.kill(server.pid, signal.SIGHUP)
    await until_state(server, "applied")
    await until(lambda: "stop-1" in happened.read_text())
    os.kill(server.pid, signal.SIGTERM)
    assert await server.ended() == 0
    assert happened.read_text().split() == [
        "start-1", "follow-1", "start-2", "start-3", "follow-3", "stop-1", "stop-3",
    ]  # fmt: skip


async def printed(server: Server) -> str:
    """The next line on standard error that is not one of the log."""
    while (line := await server.complaint()).startswith("{"):
        pass
    return line


async def test_with_reload_each_change_of_a_file_is_applied(
    start: Start, open_client: Open, sql: asyncpg.Connection
) -> None:
    """YAML and Python; a mistake is printed with its place, and the last good configuration goes on; streams come back."""
    await sql.execute("INSERT INTO notes (id, text) VALUES (1001, 'a'), (1002, 'b')")
    server = await start(WITH_MODULE, "{}", {"rules": PERMISSION % "old"}, "--reload")
    client = await open_client(server)

    async def shows(status: int, rows: int, version: str = "old") -> None:
        async def reached() -> bool:
            found, body = await get(server, "/notes/", version=version)
            return (found, len(body.get("results", ()))) == (status, rows)

        await until(reached)

    write(server, {"notes": WITH_MODULE["notes"] + "  page_size: 1\n"})
    await shows(200, 1)
    line = await printed(server)
    assert line.startswith("Reloaded in "), line
    assert 0 < float(line.split()[2]) < 30
    await client.until(lambda: client.connections == 2)
    write(server, {"notes": WITH_MODULE["notes"] + "  page_sise: 1\n"})
    assert "notes.yaml:11:3: unknown key 'page_sise'; did you mean page_size?" in await printed(server)
    assert await printed(server) == "The last good config goes on.\n"
    await shows(200, 1)
    write(server, {"notes": WITH_MODULE["notes"]})
    await shows(200, 2)
    (server.config / "rules.py").write_text("class:\n")
    assert (await printed(server)).startswith("Reloaded in ")
    assert "rules cannot be imported" in await printed(server)
    (server.config / "rules.py").write_text(PERMISSION % "new")
    await shows(200, 2, version="new")
    (server.config / "resources/more.yaml").write_text("fields: {title: {type: string}}")
    await until(lambda: found(server, "/more/"))
    (server.config / "resources/more.yaml").unlink()
    await until(lambda: missing(server, "/more/"))
    await sql.execute("INSERT INTO notes (id, text) VALUES (1003, 'c')")
    assert client.resets == []


async def found(server: Server, path: str) -> bool:
    return (await get(server, path))[0] == 200


async def missing(server: Server, path: str) -> bool:
    return (await get(server, path))[0] == 404


async def test_with_reload_a_first_config_with_a_mistake_is_waited_for(tmp_path: Path, database_url: str) -> None:
    """In YAML or in Python: it is printed, and served as soon as it has been put right."""
    configure(tmp_path / "config", WITH_MODULE, modules={"rules": PERMISSION % "old" + "import helpers"})
    (tmp_path / "config/helpers.py").write_text("oops")
    server = Server(tmp_path / "config", database_url, "--reload")
    write(server, {"notes": MISTAKE["notes"]})
    await server.launch()
    try:
        assert "notes.yaml:11:3: unknown key 'page_sise'" in await printed(server)
        assert await printed(server) == f"Waiting for a change in {server.config}.\n"
        write(server, WITH_MODULE)
        assert "helpers.py:1: NameError: name 'oops' is not defined" in await printed(server)
        await printed(server)
        (tmp_path / "config/helpers.py").write_text("")
        await server.ready()
        assert await found(server, "/notes/")
        os.kill(server.pid, signal.SIGTERM)
        assert await server.ended() == 0
    finally:
        await server.kill()


async def test_with_reload_ddl_of_others_is_waited_for(start: Start, tmp_path: Path, database_url: str) -> None:
    """Without ``--migrate``: once the database fits, the configuration that was rejected is applied."""
    server = await start(RESOURCES, "{}", None, "--reload", migrate=False)
    write(server, MORE)
    assert "ALTER TABLE owners ADD COLUMN email" in await printed(server)
    assert rowcast(tmp_path, "migrate", "--sync", "--database-url", database_url)[0] == 0
    await until(lambda: found(server, "/owners/?fields=email"))


def test_reload_serves_with_one_process(tmp_path: Path) -> None:
    """Whatever ``server.workers`` is, and not with ``--workers``."""
    configure(tmp_path / "config", RESOURCES)
    code, output = rowcast(tmp_path, "serve", "--reload", "--workers", "2")
    assert (code, "--reload serves with one process" in output) == (2, True)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_closed_terminal_ends_the_service(tmp_path: Path, database_url: str, workers: int) -> None:
    """As it ends other programs: nobody would be left to stop it. A hangup while it is open is a reload."""
    configure(tmp_path / "config", RESOURCES, f"server: {{workers: {workers}}}")
    terminal, own = pty.openpty()
    command = [
        sys.executable, "-m", "rowcast", "serve", "--config", str(tmp_path / "config"), "--database-url", database_url,
        "--port", "0", "--migrate",
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command, stdin=own, stdout=own, stderr=own, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        env={**os.environ, "PYTHONPATH": str(ROOT / "service"), "ROWCAST_DATA": str(tmp_path / "data")},
    )  # fmt: skip
    os.close(own)
    output, reader = asyncio.StreamReader(), os.fdopen(terminal, "rb", 0)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(output), reader
    )
    try:
        async with asyncio.timeout(60):
            await output.readuntil(b" is ready on http://")
            process.send_signal(signal.SIGHUP)
            await output.readuntil(b"config_reloaded")
            transport.close()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
