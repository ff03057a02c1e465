"""What runs beside requests: functions at start and stop, background tasks, and what follows a commit."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import structlog

from rowcast import background, on_startup
from rowcast.errors import ConfigurationError
from tests.conftest import Serve, configure, rowcast, rowcast_process

NOTES = """\
fields: {text: {type: string}}
viewset: {class: viewsets:NoteViewSet, permission_classes: [AllowAny]}
"""
HOOKS = """\
import asyncio
from rowcast import background, model, on_shutdown, on_startup

Note = model("notes")
happened = []
ticked = asyncio.Event()

@on_startup
async def open_client(state):
    state.client = "client"
    await Note.objects.create(text="made at start")

@on_startup
def count(state):
    state.count = 1

@on_shutdown
async def close_client(state):
    happened.append(("closed", state.client, await Note.objects.count()))

@on_shutdown
def first_to_stop():
    happened.append("stopping")

@background
async def follow(state):
    try:
        happened.append("following")
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        happened.append("cancelled")

@background
async def once():
    happened.append("once")

@background(every=0.01)
async def tick():
    happened.append("tick")
    if happened.count("tick") == 1:
        raise ValueError("a bad start")
    ticked.set()
"""
VIEWSETS = """\
import asyncio
from rowcast import Conflict, ModelViewSet, action, model, transaction

Note = model("notes")
ran, done = [], asyncio.Event()

async def remember(what):
    if what == "wrong":
        raise ValueError("in a function that follows a commit")
    seen = await Note.objects.filter(text=what).count()
    ran.append((what, seen))

def remember_plainly(what):
    ran.append((what, "plain"))
    done.set()

class NoteViewSet(ModelViewSet):
    model = Note

    @action(detail=False)
    async def state(self, request):
        return [request.state.client, request.state.count]

    @action(detail=False)
    async def missing(self, request):
        try:
            return request.state.clint
        except AttributeError as error:
            return str(error)

    async def perform_create(self, serializer):
        transaction.on_commit(remember, serializer.validated_data["text"])
        transaction.on_commit(remember, "wrong")
        try:
            async with transaction():
                transaction.on_commit(remember, "of a savepoint that is rolled back")
                raise Conflict()
        except Conflict:
            pass
        async with transaction.atomic():
            transaction.on_commit(remember_plainly, what="of a savepoint")
        await serializer.save()
        assert not ran
        if serializer.validated_data["text"] == "refused":
            raise Conflict("not this one")

    @action(detail=False)
    async def outside(self, request):
        transaction.on_commit(remember_plainly, "outside")

    @action(detail=False, methods=["post"])
    async def called(self, request):
        try:
            transaction.on_commit(remember("x"))
        except TypeError as error:
            return str(error)
"""


def module_of(directory: Path, name: str) -> Any:
    """A module of a config directory, as the service has imported it."""
    found: ModuleType = next(
        module
        for module in sys.modules.values()
        if (getattr(module, "__file__", None) or "") == str((directory / f"{name}.py").resolve())
    )
    return found


@pytest.mark.tables({"notes": NOTES.replace("class: viewsets:NoteViewSet, ", "")})
async def test_hooks_run_at_start_and_stop(serve: Serve, tmp_path: Path) -> None:
    """With the database, with their state, and tasks from start to stop, which are cancelled and awaited."""
    client = await serve({"notes": NOTES}, modules={"hooks": HOOKS, "viewsets": VIEWSETS})
    assert await (await client.get("/notes/state/")).json() == ["client", 1]
    assert (await (await client.get("/notes/")).json())["count"] == 1
    message = await (await client.get("/notes/missing/")).json()
    assert message == "the service's state has no 'clint'; did you mean client?"
    hooks = module_of(tmp_path / "config0", "hooks")
    await asyncio.wait_for(hooks.ticked.wait(), 10)
    assert (await client.get("/health/ready")).status == 200  # although a task of the user's has failed
    assert "closed" not in hooks.happened
    await client.close()
    happened = [each for each in hooks.happened if each != "tick"]
    assert happened == ["following", "once", "cancelled", "stopping", ("closed", "client", 1)]


@pytest.mark.tables({"notes": NOTES.replace("class: viewsets:NoteViewSet, ", "")})
async def test_functions_follow_a_commit(serve: Serve, tmp_path: Path) -> None:
    """In their order, with models, after the commit alone; errors are logged, and savepoints count."""
    client = await serve({"notes": NOTES}, modules={"viewsets": VIEWSETS})
    module = module_of(tmp_path / "config0", "viewsets")
    assert (await client.post("/notes/", json={"text": "refused"})).status == 409
    assert module.ran == []
    with structlog.testing.capture_logs() as logs:
        assert (await client.post("/notes/", json={"text": "kept"})).status == 201
        await asyncio.wait_for(module.done.wait(), 10)
    assert module.ran == [("kept", 1), ("of a savepoint", "plain")]
    failures = [entry for entry in logs if entry["event"] == "on_commit_failed"]
    assert len(failures) == 1
    assert "in a function that follows a commit" in str(failures[0]["exc_info"])
    module.done.clear()
    assert (await client.get("/notes/outside/")).status == 204
    await asyncio.wait_for(module.done.wait(), 10)
    message = await (await client.post("/notes/called/")).json()
    assert message == "on_commit() takes a function and its arguments, not coroutine: on_commit(send, 1)"


async def test_start_that_fails_is_a_line(tmp_path: Path, database_url: str) -> None:
    """With the file and the line; the service does not go on without what it needs."""
    hooks = "from rowcast import on_startup\n\n@on_startup\nasync def connect():\n    raise OSError('no broker')\n"
    configure(tmp_path / "config", {"notes": "fields: {text: {type: string}}"}, modules={"hooks": hooks})
    for workers in "12":
        code, output = rowcast_process(
            tmp_path, "serve", "--migrate", "--port", "0", "--workers", workers, "--database-url", database_url
        )
        assert code != 0
        assert "hooks.py:5: on_startup connect has failed: OSError: no broker" in output.splitlines(), output
        assert "Traceback" not in output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "class A:\n    @on_startup\n    def f(self): ...",
            "@on_startup: A.f must be a function at the top of a module",
        ),
        ("@on_startup\ndef f(a, b): ...", "@on_startup: f must have no argument, or one for the service's state"),
        ("@on_startup\nclass A: ...", "@on_startup is for functions, not for type"),
        ("@background(every='soon')\ndef f(): ...", "background(every='soon'): must be a duration such as"),
        ("@background(every=0)\ndef f(): ...", "background(every=0) must be longer than 0 seconds"),
    ],
)
def test_wrong_hooks_are_reported(tmp_path: Path, text: str, message: str) -> None:
    """When the config is checked."""
    hooks = f"from rowcast import background, on_startup\n{text}\n"
    configure(tmp_path / "config", {"notes": "fields: {text: {type: string}}"}, modules={"hooks": hooks})
    code, output = rowcast(tmp_path, "check")
    assert (code, output.startswith(f"{tmp_path}/config/hooks.py: hooks.py: {message}")) == (1, True), output


def test_functions_stay_what_they_are() -> None:
    """A decorator returns the function, which may be called."""

    def f() -> int:
        return 1

    f.__qualname__ = "f"
    assert on_startup(f)() == background(every="1s")(f)() == 1
    with pytest.raises(ConfigurationError):
        on_startup(1)  # type: ignore[type-var]
