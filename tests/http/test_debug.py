"""``server.debug``: what a service shows while it is developed, and where it is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from textwrap import dedent
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from tests.conftest import Serve, configure, rowcast
from tests.waiting import until

TASKS = {
    "tasks": "fields: {title: {type: string}}\nviewset: {class: 'viewsets:TaskViewSet', permission_classes: [AllowAny]}"
}
VIEWSETS = dedent("""
    import helpers
    from rowcast import ModelViewSet, action, model, wait

    Task = model("tasks")


    class TaskViewSet(ModelViewSet):
        @action(detail=False)
        async def broken(self, request):
            return {"value": await helpers.divide(1, 0)}

        @action(detail=False)
        def plain(self, request):
            try:
                wait(helpers.divide(1, 0))
            except ZeroDivisionError as error:
                raise RuntimeError("cannot divide \\ud800") from error

        @action(detail=False, methods=["post"])
        async def dropped(self, request):
            await Task.objects.create(title="written")
            self.tell("somebody")
            return {}

        @action(detail=False, methods=["post"])
        async def kept(self, request):
            later = self.tell("somebody")
            return {}

        @action(detail=False, methods=["post"])
        async def marked(self, request):
            Task(title="x").save()

        @action(detail=True)
        def early(self, request, id):
            return self.get_object().title

        @action(detail=False)
        async def late(self, request):
            import asyncio
            told = asyncio.create_task(self.tell("somebody"))
            await told
            return {"tasks": await Task.objects.count()}

        async def tell(self, whom):
            return whom
    """)
HELPERS = "async def divide(a, b):\n    return a / b\n"
MODULES = {"viewsets": VIEWSETS, "helpers": HELPERS}


def line_of(code: str) -> int:
    return next(number for number, line in enumerate(VIEWSETS.splitlines(), 1) if code in line)


async def ask(client: Any, method: str, path: str, status: int = 500) -> dict[str, Any]:
    async with client.request(method, f"/tasks/{path}/") as response:
        assert response.status == status, await response.text()
        return await response.json()


async def test_a_500_has_the_exception_and_the_lines_of_ones_own_files(serve: Serve, tmp_path: Path) -> None:
    """Of each file of the config directory, and of the cause; in handlers of both kinds."""
    client = await serve(TASKS, "server: {debug: true}", modules=MODULES)
    found = await ask(client, "GET", "broken")
    assert (found["code"], found["detail"]) == ("internal_error", "ZeroDivisionError: division by zero")
    directory = tmp_path / "config0"
    frames = [
        {
            "file": str(directory / "viewsets.py"), "line": line_of("divide(1, 0)}"), "function": "broken",
            "code": 'return {"value": await helpers.divide(1, 0)}',
        },
        {"file": str(directory / "helpers.py"), "line": 2, "function": "divide", "code": "return a / b"},
    ]  # fmt: skip
    assert found["exception"] == {"type": "ZeroDivisionError", "message": "division by zero", "frames": frames}
    found = (await ask(client, "GET", "plain"))["exception"]
    assert (found["type"], found["message"]) == ("RuntimeError", "cannot divide ?")
    assert [frame["line"] for frame in found["frames"]] == [line_of("raise RuntimeError")]
    assert found["cause"]["frames"][-1] == frames[-1]


@pytest.mark.parametrize(
    ("name", "code"),
    [("dropped", "    self.tell("), ("kept", "later = self.tell"), ("marked", "Task(title=")],
)
async def test_a_coroutine_that_is_not_awaited_is_an_error(serve: Serve, name: str, code: str) -> None:
    """One of one's own, whether its value is dropped or kept: its line is named, and nothing is written."""
    client = await serve(TASKS, "server: {debug: true}", modules=MODULES)
    for _ in range(2):
        found = (await ask(client, "POST", name))["exception"]
        assert found["type"] == "NeverAwaited"
        assert f"viewsets.py:{line_of(code)}" in found["message"]
        assert found["frames"][-1]["code"] in VIEWSETS
        assert found["frames"][-1]["line"] == line_of(code)
    assert await ask(client, "GET", "late", 200) == {"tasks": 0}
    await asyncio.gather(*(ask(client, "POST", name) for _ in range(3)), ask(client, "GET", "late", 200))


async def test_a_coroutine_that_is_used_as_its_result_is_explained(serve: Serve) -> None:
    """As those write who know the synchronous frameworks."""
    client = await serve(TASKS, "server: {debug: true}", modules=MODULES)
    problem = await ask(client, "GET", "x/early")
    assert "has no attribute 'title'. Write await before the call" in problem["detail"]
    assert problem["exception"]["frames"][-1]["code"] == "return self.get_object().title"


async def test_without_debug_nothing_is_shown(serve: Serve) -> None:
    """And coroutines of one's own are not watched, as they were not."""
    client = await serve(TASKS, modules=MODULES)
    found = await ask(client, "GET", "broken")
    assert found.keys() == {"type", "title", "status", "detail", "code", "request_id"}
    assert "zero" not in str(found)
    assert "exception" not in await ask(client, "POST", "marked")
    with pytest.warns(RuntimeWarning, match="never awaited"):
        await ask(client, "POST", "dropped", 200)


@pytest.mark.parametrize(
    ("service", "options", "reason"),
    [
        ("server: {debug: true, host: 0.0.0.0}", (), "service.yaml:1:17: debug: "),
        ("server: {debug: true}", ("--host", "::"), "it listens on ::, not on 127.0.0.1"),
        ("server: {debug: true, trusted_proxies: 1}", (), "is behind a proxy"),
        ("{}", ("--reload", "--host", "192.0.2.1"), "--reload: "),
    ],
)
def test_debug_is_refused_where_others_reach_the_service(
    tmp_path: Path, service: str, options: tuple[str, ...], reason: str
) -> None:
    """Before a database is started; ``check`` says so, too."""
    configure(tmp_path / "config", {"tasks": "fields: {title: {type: string}}"}, service)
    code, output = rowcast(tmp_path, "serve", "--port", "0", *options)
    assert (code, output.count("\n")) == (1, 0), output
    assert reason in output
    assert "--insecure-debug" in output
    assert not (tmp_path / "data").exists()
    if "--host" not in options:
        code, output = rowcast(tmp_path, "check")
        assert (code, "`rowcast serve` refuses this without --insecure-debug" in output) == (0, True)


LISTED = {
    "tasks": "fields: {title: {type: string}}\nviewset: {permission_classes: [AllowAny], filterset_fields: [title]}"
}


@pytest.mark.parametrize(
    ("service", "values"), [("log: {sql: all}", False), ("{log: {sql: all}, server: {debug: true}}", True)]
)
async def test_all_sql_is_logged(serve: Serve, service: str, values: bool) -> None:
    """Each statement with its time and the number of its rows; the values only in debug, and shortened."""
    client = await serve(LISTED, service)
    with capture_logs() as log:
        for title in ("a", "b", "x" * 250):
            await (await client.post("/tasks/", json={"title": title})).read()
        async with client.get("/tasks/?title__in=a,b") as response:
            assert (await response.json())["count"] == 2
        async with client.get("/tasks/?title=none") as response:
            assert (await response.json())["count"] == 0
    statements = [entry for entry in log if entry["event"] == "sql"]
    inserts = [entry for entry in statements if entry["db.query.summary"] == "INSERT tasks"]
    assert [entry["db.response.returned_rows"] for entry in inserts] == [1, 1, 1]
    assert [entry["db.response.returned_rows"] for entry in statements[-2:]] == [2, 0]
    for entry in statements:
        assert entry["db.client.operation.duration"] > 0
        assert "\n" not in entry["db.query.text"]
        assert ("db.query.parameter.0" in entry) == values
    assert ("xxx" in str(statements)) == values
    assert "x" * 250 not in str(statements)


async def test_slow_sql_is_logged(serve: Serve, sql: asyncpg.Connection) -> None:
    """From ``log.slow_after`` on, and what fails with its error; without the setting nothing is logged."""
    client = await serve(LISTED, "{log: {sql: slow, slow_after: 150ms}, database: {statement_timeout: 300ms}}")
    other = await serve(LISTED)
    with capture_logs() as log:
        await (await client.get("/tasks/")).read()
        async with sql.transaction():
            await sql.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
            assert (await client.get("/tasks/?title=a")).status == 503
            assert (await other.get("/tasks/?title=b")).status == 503
    (entry,) = [entry for entry in log if entry["event"] == "sql"]
    assert entry["error.type"] == "57014"
    assert entry["db.client.operation.duration"] >= 0.3


async def test_the_plan_of_a_slow_read_is_logged(serve: Serve) -> None:
    """Once for each statement, with the node that costs most, and without values; not that of a write."""
    client = await serve(LISTED, "log: {sql: slow, slow_after: 0s}")
    with capture_logs() as log:
        await (await client.post("/tasks/", json={"title": "secret"})).read()
        for title in ("secret", "other"):
            await (await client.get(f"/tasks/?title={title}")).read()
        await until(lambda: any(entry["event"] == "sql_plan" for entry in log))
        await (await client.get("/tasks/?title=third")).read()
    (entry,) = [entry for entry in log if entry["event"] == "sql_plan"]
    assert entry["db.query.summary"] == "SELECT tasks"
    assert "tasks" in entry["rowcast.plan.node"]
    assert 0 < entry["rowcast.plan.cost"] <= entry["rowcast.plan.total_cost"]
    assert "secret" not in str(entry)
