"""A call that a handler or a hook forgets to await is an error, and nothing of its request is written."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from textwrap import dedent
from typing import Any

import pytest
import pytest_asyncio

from ..databases import Databases
from .conftest import running
from .library import Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

VIEWSETS = dedent("""
    import asyncio

    from rowcast import BasePermission, IsAuthenticatedOrReadOnly, ModelViewSet, NotFound, ViewSet, action, model, wait
    from rowcast import get_object_or_404

    Task = model("tasks")


    class Careless(BasePermission):
        async def has_permission(self, request, view):
            if view.action == "guarded":
                return bool(Task.objects.filter(title="member").exists())
            return True

        async def has_object_permission(self, request, view, row):
            if row.title == "object":
                Task.objects.count()
            return True


    class TaskViewSet(ModelViewSet):
        permission_classes = [Careless & IsAuthenticatedOrReadOnly | Careless]

        async def perform_create(self, serializer):
            await serializer.save()
            if serializer.instance.title == "hook":
                serializer.save()

        async def destroy(self, request, id):
            super().destroy(request, id=id)

        async def first_write(self):
            await Task.objects.create(title="first")

        @action(detail=False, methods=["post"])
        async def saved(self, request):
            await self.first_write()
            Task(title="x").save()

        @action(detail=False, methods=["post"])
        def plain(self, request):
            wait(self.first_write())
            Task(title="x").save()

        @action(detail=False, methods=["post"])
        async def created(self, request):
            await self.first_write()
            Task.objects.create(title="x")
            return {"status": "created"}

        @action(detail=False, methods=["post"])
        async def updated(self, request):
            await self.first_write()
            Task.objects.update(title="x")

        @action(detail=False, methods=["post"])
        async def deleted(self, request):
            await self.first_write()
            (await Task.objects.first()).delete()

        @action(detail=False, methods=["post"])
        async def returned(self, request):
            await self.first_write()
            return {"task": self.get_object("1")}

        @action(detail=False, methods=["post"])
        async def inside(self, request):
            await self.first_write()
            await self.helper()

        async def helper(self):
            get_object_or_404(Task, title="first")

        @action(detail=False, methods=["post"])
        async def unchecked(self, request):
            await self.first_write()
            self.check_object_permissions(request, await Task.objects.first())

        @action(detail=False)
        async def read(self, request):
            if Task.objects.filter(title="none").exists():
                return {"rows": 1}

        @action(detail=False)
        async def guarded(self, request):
            return {}

        @action(detail=False, methods=["post"])
        async def right(self, request):
            one, two, three, four = (Task(title=name) for name in ("a", "b", "c", "d"))
            early = one.save()
            await self.helper_of_others()
            await early
            await asyncio.gather(two.save(), self.later(three))
            task = asyncio.create_task(four.save())
            await task
            for number in range(3000):
                await Task.objects.filter(title=str(number)).exists()
            return await self.plainly()

        def plainly(self):
            return Task.objects.count()

        async def later(self, row):
            await asyncio.sleep(0)
            await row.save()

        async def helper_of_others(self):
            return await self.get_object((await Task.objects.create(title="other")).id)
    """)
CALLS = {
    "saved": ("Model.save", 'Task(title="x").save()'),
    "plain": ("Model.save", 'Task(title="x").save()'),
    "created": ("QuerySet.create", 'Task.objects.create(title="x")'),
    "updated": ("QuerySet.update", 'Task.objects.update(title="x")'),
    "deleted": ("Model.delete", "(await Task.objects.first()).delete()"),
    "returned": ("GenericViewSet.get_object", 'return {"task": self.get_object("1")}'),
    "inside": ("get_object_or_404", 'get_object_or_404(Task, title="first")'),
    "unchecked": (
        "ViewSet.check_object_permissions",
        "self.check_object_permissions(request, await Task.objects.first())",
    ),
}
FIELDS: dict[str, Any] = {
    "id": {"type": "integer", "primary_key": True},
    "title": {"type": "string", "max_length": 50},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    resources: dict[str, Any] = {"tasks": {"fields": FIELDS, "viewset": {"class": "viewsets:TaskViewSet"}}}
    directory = tmp_path_factory.mktemp("awaiting")
    async with running(databases, directory, resources, modules={"viewsets": VIEWSETS}) as service:
        yield service


@pytest_asyncio.fixture(loop_scope="module")
async def service(_service: Service) -> Service:
    """The service without rows."""
    await _service.sql.execute("TRUNCATE tasks RESTART IDENTITY")
    return _service


async def titles(service: Service) -> list[str]:
    """The titles of all rows, in order."""
    return [row["title"] for row in await service.sql.fetch("SELECT title FROM tasks ORDER BY id")]


@pytest.mark.parametrize("action", CALLS)
@pytest.mark.filterwarnings("error")
async def test_call_that_is_not_awaited_fails_the_request(
    service: Service, action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The transaction is rolled back, and the log names the call and its line."""
    response = await service.client.post(f"/tasks/{action}/")
    assert response.status == 500
    assert (await response.json())["code"] == "internal_error"
    logged = capsys.readouterr().out
    name, source = CALLS[action]
    assert re.search(rf"NeverAwaited: {name}\(\) in viewsets.py:[0-9]+ \({re.escape(source)}\)", logged)
    assert "was never awaited, so it has done nothing: put await before the call" in logged
    assert await titles(service) == []


async def test_hook_that_forgets_to_await_writes_nothing(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither what it has awaited before, nor what it calls without."""
    assert (await service.client.post("/tasks/", json={"title": "hook"})).status == 500
    assert re.search(
        r"NeverAwaited: Serializer.save\(\) in viewsets.py:[0-9]+ \(serializer.save", capsys.readouterr().out
    )
    assert await titles(service) == []
    row = await service.post("/tasks/", {"title": "right"})
    assert (await service.client.delete(f"/tasks/{row['id']}/")).status == 500
    assert "NeverAwaited: DestroyModelMixin.destroy()" in capsys.readouterr().out
    assert await titles(service) == ["right"]


async def test_reads_and_permissions_are_checked_too(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    """A coroutine is true, so a permission that compares it would let everybody in."""
    for path in ("/tasks/read/", "/tasks/guarded/"):
        assert (await service.client.get(path)).status == 500
        assert "NeverAwaited: QuerySet.exists()" in capsys.readouterr().out
    row = await service.post("/tasks/", {"title": "object"})
    assert (await service.client.get(f"/tasks/{row['id']}/")).status == 500
    assert "NeverAwaited: QuerySet.count()" in capsys.readouterr().out


async def test_calls_may_be_awaited_later_and_elsewhere(service: Service) -> None:
    """In tasks, in another order, and after thousands of others; a plain helper may return its coroutine."""
    assert await service.post("/tasks/right/", {}, 200) == 5
    assert await titles(service) == ["other", "a", "b", "c", "d"]
