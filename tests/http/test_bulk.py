"""Many rows at once in services of their own: by filter, limits, hooks, permissions, scopes and preconditions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Run

TASKS: dict[str, Any] = {
    "fields": {
        "id": {"type": "integer", "primary_key": True},
        "title": {"type": "string", "max_length": 20, "unique": True},
        "priority": {"type": "integer", "default": 3, "max": 9},
        "done": {"type": "boolean", "default": False},
        "changed_at": {"type": "datetime", "auto_now": True},
    },
    "viewset": {
        "filterset_fields": {"priority": ["exact", "lt"], "done": ["exact"], "title": ["icontains", "regex"]},
        "bulk": ["update", "destroy"],
        "max_bulk": 50,
    },
}


async def test_by_filter_where_it_is_open(run: Run) -> None:
    """A filter is required, ``max_bulk`` and ``Prefer: max-affected`` hold, and nothing is written beyond them."""
    service = await run({"tasks": TASKS})
    client = service.client
    made = await client.post("/tasks/", json=[{"title": f"Task {n}", "priority": n % 5} for n in range(20)])
    assert made.status == 201
    response = await client.patch("/tasks/?priority__lt=2", json={"done": True})
    assert (response.status, response.headers["X-Updated"]) == (200, "8")
    assert {row["done"] for row in await response.json()} == {True}
    assert await service.sql.fetchval("SELECT count(*) FROM tasks WHERE done") == 8

    for headers, status in (({"Prefer": "max-affected=7"}, 400), ({"Prefer": "max-affected=8"}, 200)):
        response = await client.patch("/tasks/?priority__lt=2", json={"priority": 9}, headers=headers)
        assert response.status == status
    assert response.headers["Preference-Applied"] == "max-affected=8"
    empty = ("/tasks/?title__icontains=", "/tasks/?title__regex=")  # as a form sends what nobody has filled in
    for path in ("/tasks/", "/tasks/?filter={}", '/tasks/?filter={"or":[{},{"done":true}]}', *empty):
        for response in (await client.patch(path, json={"done": True}), await client.delete(path)):
            assert (response.status, (await response.json())["code"]) == (400, "invalid_parameter")
    refused = await client.delete("/tasks/?done=true", headers={"Prefer": "max-affected=7"})
    assert (refused.status, (await refused.json())["code"]) == (400, "too_many_rows")
    assert await service.sql.fetchval("SELECT count(*) FROM tasks") == 20
    response = await client.delete("/tasks/?done=true", headers={"Prefer": "max-affected=8"})
    assert (response.status, response.headers["X-Deleted"]) == (204, "8")
    response = await client.patch("/tasks/?done=true", json={"priority": 12})
    assert response.status == 400  # also if no row matches
    response = await client.patch("/tasks/?done=true", json={"priority": 1})
    assert (response.status, await response.json()) == (200, [])


async def test_limits(run: Run) -> None:
    service = await run({"tasks": TASKS})
    client = service.client
    rows = [{"title": f"Task {n}"} for n in range(51)]
    assert (await client.post("/tasks/", json=rows)).status == 413
    assert (await client.patch("/tasks/", json=[{"id": n} for n in range(51)])).status == 413
    assert (await client.delete(f"/tasks/?id__in={','.join(map(str, range(51)))}")).status == 413
    assert (await client.post("/tasks/", json=rows[:50])).status == 201
    assert (await client.post("/tasks/", json=rows[50:])).status == 201
    response = await client.delete("/tasks/?done=false")
    assert (response.status, (await response.json())["code"]) == (400, "too_many_rows")
    for request in (
        client.post("/tasks/", json=[{"title": "x"}, {"title": "y"}], headers={"Prefer": "max-affected=1"}),
        client.delete("/tasks/?id__in=1,2", headers={"Prefer": "max-affected=1"}),
    ):
        response = await request
        assert (response.status, (await response.json())["code"]) == (400, "too_many_rows")
    response = await client.delete("/tasks/?id__in=1", headers={"Prefer": "max-affected=lots"})
    assert (response.status, (await response.json())["code"]) == (400, "invalid_parameter")
    assert await service.sql.fetchval("SELECT count(*) FROM tasks") == 51


NOTES: dict[str, Any] = {
    "fields": {
        "id": {"type": "integer", "primary_key": True},
        "owner": {"type": "integer"},
        "text": {"type": "string", "max_length": 20, "unique": True},
    },
    "viewset": {"class": "many_notes:NoteViewSet", "filterset_fields": ["owner"], "bulk": ["update", "destroy"]},
}
HOOKS = """
from rowcast import BasePermission, ModelViewSet, action, model

class NotLocked(BasePermission):
    def has_permission(self, request, view):
        SEEN.append(view.action)
        return True

    def has_object_permission(self, request, view, row):
        return row.text != "locked"

SEEN = []

class NoteViewSet(ModelViewSet):
    model = model("notes")
    permission_classes = [NotLocked]

    async def perform_create(self, serializer):
        await serializer.save(text=serializer.validated_data["text"].upper())

    async def perform_update(self, serializer):
        SEEN.append(self.kwargs["id"])
        await serializer.save()

    @action(detail=False)
    async def seen(self, request):
        return SEEN

    async def perform_destroy(self, instance):
        SEEN.append(instance.text)
        await instance.delete()
"""


async def test_hooks_and_object_permissions_are_never_skipped(run: Run) -> None:
    service = await run({"notes": NOTES}, modules={"many_notes": HOOKS})
    client = service.client
    made = await client.post(
        "/notes/", json=[{"owner": 1, "text": "a"}, {"owner": 1, "text": "b"}, {"owner": 2, "text": "c"}]
    )
    assert made.status == 201, await made.text()
    assert [row["text"] for row in await made.json()] == ["A", "B", "C"]
    taken = await client.post("/notes/", json=[{"owner": 1, "text": "d"}, {"owner": 1, "text": "a"}])
    assert (taken.status, list((await taken.json())["errors"])) == (409, ["1"])
    invalid = await client.post("/notes/", json=[{"owner": 1, "text": "d"}, {"owner": 1}])
    assert (invalid.status, (await invalid.json())["errors"]) == (400, {"1": {"text": ["This field is required."]}})
    changed = await client.patch("/notes/", json=[{"id": 2, "text": "bb"}, {"id": 1, "owner": 5}])
    assert [row["text"] for row in await changed.json()] == ["bb", "A"]
    missing = await client.patch("/notes/", json=[{"id": 2, "text": "x"}, {"id": 9}])
    assert (missing.status, (await missing.json())["errors"]) == (404, {"1": {"id": ["Not found."]}})
    await service.sql.execute("UPDATE notes SET text = 'locked' WHERE id = 1")
    refused = await client.patch("/notes/", json=[{"id": 2, "text": "x"}, {"id": 1, "owner": 5}])
    assert (refused.status, list((await refused.json())["errors"])) == (401, ["1"])
    assert (await client.delete("/notes/?id__in=1,2")).status == 401
    assert (await client.delete("/notes/?owner=5")).status == 401
    assert (await client.patch("/notes/?owner=5", json={"owner": 6})).status == 401
    assert await service.sql.fetchval("SELECT count(*) FROM notes") == 3
    assert (await client.delete("/notes/?id__in=2,3")).headers["X-Deleted"] == "2"
    seen = await (await client.get("/notes/seen/")).json()
    assert {"create", "partial_update", "destroy", "2", "bb", "C"} <= set(seen)


SCOPED: dict[str, Any] = {
    "fields": {
        "id": {"type": "integer", "primary_key": True},
        "tenant": {"type": "integer"},
        "name": {"type": "string", "max_length": 20, "unique": True},
    },
    "viewset": {"scope": {"tenant": 7}, "filterset_fields": ["name", "tenant"], "bulk": ["update", "destroy"]},
}


async def test_the_scope_holds(run: Run) -> None:
    """Rows stay inside, and rows outside are not there."""
    service = await run({"things": SCOPED})
    client, sql = service.client, service.sql
    made = await client.post("/things/", json=[{"name": "a"}, {"name": "b", "tenant": 7}])
    assert [row["tenant"] for row in await made.json()] == [7, 7]
    outside = await client.post("/things/", json=[{"name": "c"}, {"name": "d", "tenant": 8}])
    assert (outside.status, list((await outside.json())["errors"])) == (403, ["1"])
    await sql.execute("INSERT INTO things (id, tenant, name) VALUES (50, 8, 'hidden')")
    taken = await client.post("/things/", json=[{"name": "c"}, {"name": "hidden"}])
    assert (taken.status, list((await taken.json())["errors"])) == (409, ["1"])
    hidden = await client.patch("/things/", json=[{"id": 1, "name": "x"}, {"id": 50, "name": "y"}])
    assert (hidden.status, (await hidden.json())["errors"]) == (404, {"1": {"id": ["Not found."]}})
    moved = await client.patch("/things/", json=[{"id": 1, "name": "x"}, {"id": 2, "tenant": 8}])
    assert (moved.status, list((await moved.json())["errors"])) == (403, ["1"])
    assert (await client.patch("/things/?name=a", json={"tenant": 8})).status == 403
    assert (await client.delete("/things/?tenant=8")).headers["X-Deleted"] == "0"
    assert (await client.delete("/things/?id__in=1,50")).headers["X-Deleted"] == "1"
    assert await sql.fetch("SELECT id, tenant, name FROM things ORDER BY id") == [(2, 7, "b"), (50, 8, "hidden")]


async def test_keys_of_several_fields(run: Run) -> None:
    lines = {
        "fields": {
            "order": {"type": "integer"},
            "product": {"type": "string", "max_length": 9},
            "qty": {"type": "integer"},
        },
        "primary_key": ["order", "product"],
    }
    service = await run({"lines": lines})
    client = service.client
    rows = [{"order": 1, "product": "a,b", "qty": 1}, {"order": 1, "product": "c", "qty": 2}]
    assert (await client.post("/lines/", json=rows)).status == 201
    response = await client.patch(
        "/lines/", json=[{"order": 1, "product": "c", "qty": 5}, {"order": 1, "product": "a,b", "qty": 6}]
    )
    assert [row["qty"] for row in await response.json()] == [5, 6], await response.text()
    wrong = await client.patch("/lines/", json=[{"order": 1, "qty": 5}, {"order": 2, "product": "c", "qty": 6}])
    assert (wrong.status, (await wrong.json())["errors"]) == (400, {"0": {"product": ["This field is required."]}})
    wrong = await client.patch("/lines/", json=[{"order": 2, "product": "c", "qty": 6}])
    assert (wrong.status, (await wrong.json())["errors"]) == (
        404,
        {"0": {"order": ["Not found."], "product": ["Not found."]}},
    )
    response = await client.delete('/lines/?pk__in="1,a%252Cb"')
    assert (response.status, response.headers.get("X-Deleted")) == (204, "1"), await response.text()


async def test_preconditions(run: Run) -> None:
    """``If-Match`` is about what the address shows; a viewset that requires one requires it for many rows, too."""
    tasks = {**TASKS, "viewset": {**TASKS["viewset"], "require_if_match": True}}
    service = await run({"tasks": tasks})
    client = service.client
    await client.post("/tasks/", json=[{"title": "A"}, {"title": "B"}])
    assert (await client.patch("/tasks/", json=[{"id": 1, "done": True}])).status == 428
    assert (await client.delete("/tasks/?done=false")).status == 428
    assert (await client.delete("/tasks/?id__in=1")).status == 428
    tag = (await client.get("/tasks/")).headers["ETag"]
    assert (await client.patch("/tasks/", json=[{"id": 1, "done": True}], headers={"If-Match": '"x"'})).status == 412
    assert (await client.patch("/tasks/", json=[{"id": 1, "done": True}], headers={"If-Match": tag})).status == 200
    assert (await client.patch("/tasks/", json=[{"id": 1, "done": True}], headers={"If-Match": tag})).status == 412
    tag = (await client.get("/tasks/?done=true")).headers["ETag"]
    assert (await client.delete("/tasks/?done=true", headers={"If-Match": tag})).headers["X-Deleted"] == "1"


async def test_triggers_that_skip_rows(run: Run) -> None:
    """A row that a trigger skips is an error with its place, and nothing is written; a deletion counts what is gone."""
    service = await run({"tasks": TASKS})
    client, sql = service.client, service.sql
    await sql.execute(
        """
        CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF coalesce(NEW.title, OLD.title) = 'skip' THEN RETURN NULL; END IF; RETURN coalesce(NEW, OLD); END $$;
        CREATE TRIGGER a_skip BEFORE INSERT OR UPDATE OR DELETE ON tasks FOR EACH ROW EXECUTE FUNCTION skip()
        """
    )
    rows = [{"title": "a"}, {"title": "skip"}, {"title": "b"}]
    for method, path in ((client.post, "/tasks/"), (client.put, "/tasks/?on=title")):
        response = await method(path, json=rows)
        assert (response.status, list((await response.json())["errors"])) == (409, ["1"]), path
    assert (await client.post("/tasks/", json=[rows[0], rows[2]])).status == 201
    assert await sql.fetchval("SELECT count(*) FROM tasks") == 2


async def test_what_the_users_class_writes_is_for_one_row(run: Run) -> None:
    """A viewset's own ``destroy`` is not called for many rows, nor gone around."""
    code = """
from rowcast import ModelViewSet, model

class TaskViewSet(ModelViewSet):
    model = model("tasks")

    async def destroy(self, request, id):
        return None
"""
    service = await run(
        {"tasks": {**TASKS, "viewset": {"class": "many_tasks:TaskViewSet"}}}, modules={"many_tasks": code}
    )
    response = await service.client.delete("/tasks/?id__in=1")
    assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD, OPTIONS, PATCH, POST, PUT")


async def test_options_shows_what_is_open(run: Run) -> None:
    service = await run({"tasks": TASKS})
    body = json.loads(await (await service.client.request("OPTIONS", "/tasks/")).text())
    assert body["many"] == {"max_bulk": 50, "by_filter": ["update", "destroy"], "key": ["id"], "on": [["title"]]}
    assert {"PATCH", "DELETE", "POST"} <= set(body["methods"])


async def test_bulk_needs_filters(run: Run) -> None:
    with pytest.raises(Exception, match="bulk"):
        await run({"tasks": {**TASKS, "viewset": {"bulk": ["update"]}}})
