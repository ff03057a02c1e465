"""``soft_delete`` with other options, with Python, with ``purge_after``, and with tables that others have made."""

from __future__ import annotations

from typing import Any

import pytest

from rowcast.errors import ConfigurationError
from rowcast.migrations import commands
from rowcast.query.removal import purge

from ..waiting import until
from .conftest import Run
from .test_declared_scope import SETTINGS, bearer

ADMIN = bearer("root", is_staff=True)
FIELDS: dict[str, Any] = {
    "id": {"type": "integer", "primary_key": True},
    "name": {"type": "string", "max_length": 20, "unique": True},
    "owner": {"type": "string", "max_length": 20, "default": ""},
    "updated_at": {"type": "datetime", "auto_now": True},
}
MODULE = """
from rowcast import BasePermission, Conflict, ModelViewSet, action, model, transaction

Note = model("notes")

class Mine(BasePermission):
    def has_object_permission(self, request, view, row):
        return row.owner == request.user.id

class Notes(ModelViewSet):
    asked = []

    def get_permissions(self):
        self.asked.append(self.action)
        return super().get_permissions()

    async def perform_destroy(self, instance):
        if instance.name == "kept":
            raise Conflict("It is kept.")
        await instance.delete()

    async def perform_restore(self, instance):
        if instance.name == "lost":
            raise Conflict("It is lost.")
        await instance.restore()

    @action(detail=False, methods=["POST"])
    async def everything(self, request):
        found = {}
        rows = Note.objects.order_by("id")
        found["all"] = [row.name for row in await rows]
        row = await Note.objects.get(name="a")
        before = row.updated_at
        await row.delete()
        found["deleted"] = row.deleted_at is not None and row.updated_at > before
        found["left"] = [row.name for row in await rows]
        found["count"] = await Note.objects.count()
        found["with"] = [row.name for row in await rows.with_deleted()]
        found["only"] = [row.name for row in await rows.only_deleted()]
        found["get"] = await Note.objects.filter(name="a").exists()
        row.owner = "changed"
        await row.save()
        await row.refresh()
        found["saved"] = row.owner, row.deleted_at is not None
        found["many"] = await Note.objects.filter(name__in=["a", "b"]).delete()
        found["restored"] = await Note.objects.only_deleted().filter(name="b").restore()
        await row.restore()
        found["back"] = row.deleted_at
        await Note.objects.create(name="a2")
        await row.delete(hard=True)
        found["hard"] = await Note.objects.with_deleted().filter(name="a").count()
        await Note.objects.filter(name="a2").delete()
        found["purged"] = await Note.objects.only_deleted().delete(hard=True)
        found["new"], _ = [each.name for each in [(await Note.objects.get_or_create(name="a"))[0]]], None
        return found

    @action(detail=False, methods=["POST"])
    async def plain(self, request):
        try:
            model("plains").objects.with_deleted()
        except ValueError as error:
            return {"error": str(error)}
"""


def notes(
    *, soft_delete: Any = "deleted_at", fields: Any = FIELDS, viewset: Any = None, **options: Any
) -> dict[str, Any]:
    """A resource of notes, with options of its viewset."""
    return {"soft_delete": soft_delete, "fields": fields, "viewset": {"ordering": ["id"], **(viewset or {}), **options}}


async def test_models_leave_deleted_rows_out_and_show_them_when_asked(run: Run) -> None:
    resources = {"notes": notes(viewset={"class": "views:Notes"}), "plains": {"fields": FIELDS}}
    service = await run(resources, SETTINGS, modules={"views": MODULE})
    await service.sql.execute("INSERT INTO notes (name) VALUES ('a'), ('b')")
    _, found = await service.ask("POST", "/notes/everything/", status=200)
    assert found == {
        "all": ["a", "b"], "deleted": True, "left": ["b"], "count": 1, "with": ["a", "b"], "only": ["a"], "get": False,
        "saved": ["changed", True], "many": 1, "restored": 1, "back": None, "hard": 0, "purged": 1, "new": ["a"],
    }  # fmt: skip
    _, plain = await service.ask("POST", "/notes/plain/", status=200)
    assert "soft_delete" in plain["error"]


async def test_hooks_and_permissions_are_never_passed_by(run: Run) -> None:
    option = {"field": "deleted_at", "permission_classes": ["views:Mine"]}
    plain = notes(soft_delete=option)
    resources = {"notes": notes(viewset={"class": "views:Notes"}), "mine": {**plain, "table": "mine"}}
    service = await run(resources, SETTINGS, modules={"views": MODULE})
    await service.sql.execute("INSERT INTO notes (name) VALUES ('kept'), ('lost'), ('a')")
    await service.ask("DELETE", "/notes/1/", status=409)
    await service.ask("DELETE", "/notes/1/?hard=true", status=409, headers=ADMIN)
    await service.ask("DELETE", "/notes/2/", status=204)
    await service.ask("POST", "/notes/2/restore/", status=409, headers=ADMIN)
    await service.ask("DELETE", "/notes/2/?hard=true", status=204, headers=ADMIN)
    await service.ask("DELETE", "/notes/?id__in=3&hard=true", status=204, headers=ADMIN)
    assert [row["name"] for row in await service.sql.fetch("SELECT name FROM notes")] == ["kept"]
    await service.ask("GET", "/notes/?deleted=with", status=200, headers=ADMIN)
    from_class = service.service.viewsets["notes"].asked
    assert {"destroy", "purge", "restore", "list", "list_deleted"} <= set(from_class)

    await service.sql.execute("INSERT INTO mine (name, owner) VALUES ('x', 'ann'), ('y', 'bob')")
    for key in (1, 2):
        await service.ask("DELETE", f"/mine/{key}/", status=204)
    await service.ask("POST", "/mine/2/restore/", status=403, headers=bearer("ann"))
    await service.ask("GET", "/mine/2/?deleted=only", status=403, headers=bearer("ann"))
    await service.ask("DELETE", "/mine/2/?hard=true", status=403, headers=bearer("ann"))
    await service.ask("DELETE", "/mine/?id__in=1,2&hard=true", status=403, headers=bearer("ann"))
    await service.ask("POST", "/mine/1/restore/", status=200, headers=bearer("ann"))
    await service.ask("DELETE", "/mine/1/?hard=true", status=204, headers=bearer("ann"))


async def test_a_scope_bounds_deleted_rows_as_well(run: Run) -> None:
    option = {"field": "deleted_at", "permission_classes": ["IsAuthenticated"]}
    service = await run({"notes": notes(soft_delete=option, scope={"owner": "$user.id"})}, SETTINGS)
    await service.sql.execute("INSERT INTO notes (name, owner) VALUES ('a', 'ann'), ('b', 'bob')")
    ann, bob = bearer("ann"), bearer("bob")
    await service.ask("DELETE", "/notes/1/", status=404, headers=bob)
    await service.ask("DELETE", "/notes/1/", status=204, headers=ann)
    await service.ask("DELETE", "/notes/2/", status=204, headers=bob)
    for caller, key in ((ann, 1), (bob, 2)):
        assert (await service.ask("GET", "/notes/", headers=caller))[1]["results"] == []
        for shown in ("with", "only"):
            _, body = await service.ask("GET", f"/notes/?deleted={shown}", status=200, headers=caller)
            assert [row["id"] for row in body["results"]] == [key]
    await service.ask("POST", "/notes/1/restore/", status=404, headers=bob)
    await service.ask("DELETE", "/notes/1/?hard=true", status=404, headers=bob)
    await service.ask("POST", "/notes/1/restore/", status=200, headers=ann)
    await service.ask("POST", "/notes/", {"name": "c", "owner": "ann"}, status=201, headers=ann)


async def test_actions_are_closed_by_the_options_of_the_viewset(run: Run) -> None:
    service = await run(
        {
            "notes": notes(excluded_actions=["purge", "list_deleted"]),
            "shown": {**notes(allowed_actions=["list"]), "table": "shown"},
        },
        SETTINGS,
    )
    await service.sql.execute("INSERT INTO notes (name) VALUES ('a')")
    for method, path in (
        ("GET", "/notes/?deleted=with"),
        ("GET", "/notes/1/?deleted=with"),
        ("DELETE", "/notes/1/?hard=true"),
    ):
        _, problem = await service.ask(method, path, status=400, headers=ADMIN)
        assert problem["code"] == "unknown_parameter"
    await service.ask("POST", "/shown/1/restore/", status=404, headers=ADMIN)
    await service.ask("GET", "/shown/?deleted=only", status=200, headers=ADMIN)
    await service.ask("DELETE", "/notes/1/", status=204)
    await service.ask("POST", "/notes/1/restore/", status=200, headers=ADMIN)


async def test_an_address_of_several_rows_is_a_conflict(run: Run) -> None:
    service = await run({"notes": notes(lookup_field="name")}, SETTINGS)
    for _ in range(2):
        await service.ask("POST", "/notes/", {"name": "a"}, status=201)
        await service.ask("DELETE", "/notes/a/", status=204)
    for method, path in (
        ("POST", "/notes/a/restore/"),
        ("DELETE", "/notes/a/?hard=true"),
        ("GET", "/notes/a/?deleted=with"),
    ):
        await service.ask(method, path, status=409, headers=ADMIN)
    assert await service.sql.fetchval("SELECT count(*) FROM notes") == 2
    await service.sql.execute("DELETE FROM notes WHERE id = 2")
    await service.ask("POST", "/notes/a/restore/", status=200, headers=ADMIN)
    await service.ask("GET", "/notes/a/", status=200)


async def test_rows_are_purged_after_a_while(run: Run) -> None:
    children = {"fields": {"note": {"type": "foreign_key", "to": "notes", "null": True}}}
    service = await run({"notes": {**notes(), "purge_after": "1h"}, "children": children}, SETTINGS)
    # more rows than are deleted at once, one that others refer to, one that was deleted lately, and one that was not
    await service.sql.execute("""
        INSERT INTO notes (name, deleted_at) SELECT 'old' || n, now() - interval '2 hours' FROM generate_series(1, 250) n;
        INSERT INTO notes (name, deleted_at) VALUES ('late', now() - interval '30 minutes'), ('live', NULL);
        INSERT INTO children (note_id) VALUES (7)
    """)
    resource = service.service.resources["notes"]
    assert resource.soft_delete is not None
    assert resource.soft_delete.purge_after == 3600

    async def is_purged() -> bool:
        await purge(service.service.store, resource, 3600)  # the service may do it at the same time
        rows = await service.sql.fetch("SELECT name FROM notes ORDER BY id")
        return [row["name"] for row in rows] == ["old7", "late", "live"]

    await until(is_purged)
    indexes = await service.sql.fetch("SELECT indexdef FROM pg_indexes WHERE tablename = 'notes'")
    assert any("(deleted_at) WHERE (deleted_at IS NOT NULL)" in row["indexdef"] for row in indexes)


async def test_the_service_purges_by_itself(run: Run) -> None:
    service = await run({"notes": {**notes(), "purge_after": "1ms"}}, SETTINGS)
    await service.sql.execute("INSERT INTO notes (name, deleted_at) VALUES ('gone', now()), ('live', NULL)")

    async def is_purged() -> bool:
        rows = await service.sql.fetch("SELECT name FROM notes")
        return [row["name"] for row in rows] == ["live"]

    await until(is_purged)


async def test_columns_and_rules_are_made_once(run: Run) -> None:
    prepare = """
        CREATE TABLE notes (id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, name varchar(20) NOT NULL,
            owner varchar(20) NOT NULL DEFAULT '', updated_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT uq_notes_name UNIQUE (name));
        INSERT INTO notes (name) VALUES ('a')
    """
    service = await run({"notes": notes()}, SETTINGS, prepare=prepare)
    await service.ask("DELETE", "/notes/1/", status=204)
    await service.ask("POST", "/notes/", {"name": "a"}, status=201)
    rules = await service.sql.fetch("SELECT indexdef FROM pg_indexes WHERE indexname LIKE 'uq_notes_name%'")
    assert [row["indexdef"].partition(" USING ")[2] for row in rules] == ["btree (name) WHERE (deleted_at IS NULL)"]
    plan = await commands.plan(service.database.connect, service.queries.tables, None)
    assert [step.sql for step in plan.statements] == []


async def test_tables_of_others_are_left_as_they_are(run: Run) -> None:
    prepare = """
        CREATE TABLE notes (id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, name varchar(20) NOT NULL UNIQUE,
            "removedAt" timestamp);
        CREATE FUNCTION soft() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN UPDATE notes SET "removedAt" = localtimestamp WHERE id = OLD.id; RETURN NULL; END $$;
        CREATE TRIGGER d BEFORE DELETE ON notes FOR EACH ROW EXECUTE FUNCTION soft();
        INSERT INTO notes (name) VALUES ('a'), ('b')
    """
    fields = {
        "id": {"type": "integer", "primary_key": True},
        "name": {"type": "string", "max_length": 20, "unique": True},
        "deleted_at": {
            "type": "datetime",
            "null": True,
            "read_only": True,
            "column": "removedAt",
            "zone": "Europe/Berlin",
        },
    }
    service = await run({"notes": {**notes(fields=fields), "managed": False}}, SETTINGS, prepare=prepare)
    await service.ask("DELETE", "/notes/1/", status=204)
    await service.ask("DELETE", "/notes/1/", status=404)
    stored = await service.sql.fetchval("""
        SELECT abs(extract(epoch FROM "removedAt" - (now() AT TIME ZONE 'Europe/Berlin'))) < 600
        FROM notes WHERE id = 1
    """)
    assert stored
    assert [row["id"] for row in (await service.get("/notes/"))["results"]] == [2]
    await service.ask("POST", "/notes/", {"name": "a"}, status=409)  # the owner's rule is about every row
    await service.ask("PUT", "/notes/?on=name", {"name": "a"}, status=409)
    await service.ask("POST", "/notes/1/restore/", status=200, headers=ADMIN)
    await service.sql.execute("""DELETE FROM notes WHERE id = 2""")
    assert [row["id"] for row in (await service.get("/notes/"))["results"]] == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"soft_delete": "name"}, "must have the type datetime"),
        ({"soft_delete": "updated_at"}, "needs null: true"),
        ({"soft_delete": "Deleted"}, "must be the name of a field such as deleted_at"),
        ({"soft_delete": {"permission_classes": ["IsAdminUser"]}}, "is required"),
        ({"soft_delete": {"field": "deleted_at", "permissions": []}}, "permission_classes"),
        (
            {"soft_delete": {"field": "deleted_at", "permission_classes": ["IsBoss"]}},
            "'IsBoss' is not a BasePermission",
        ),
        ({"purge_after": "30d"}, "'purge_after' needs 'soft_delete'"),
        ({"soft_delete": "deleted_at", "purge_after": "soon"}, "must be a duration"),
        ({"soft_delete": "deleted_at", "purge_after": "0s"}, "must be longer than 0"),
        ({"soft_delete": "at", "fields": {"at": {"type": "datetime", "null": True}}}, "needs read_only: true"),
        ({"soft_delete": "deleted", "viewset": {"filterset_fields": ["deleted"]}}, "?deleted= is a parameter"),
        ({"viewset": {"excluded_actions": ["purge"]}}, "unknown action 'purge'"),
        ({"view": True, "soft_delete": "deleted_at"}, "'soft_delete' does not apply to a view"),
    ],
)
async def test_mistakes_are_reported_at_start(run: Run, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await run({"notes": {"fields": FIELDS, **change}}, SETTINGS)
    assert message in str(caught.value)


async def test_estimated_counts_leave_deleted_rows_out(run: Run) -> None:
    """Statistics say how many rows are deleted, as old as they are; a filter, and a table without statistics, count."""
    resource = {
        "fields": {"id": FIELDS["id"], "size": {"type": "integer", "default": 0}},
        "soft_delete": {"field": "gone", "permission_classes": ["AllowAny"]},
        "viewset": {"count": "estimated", "filterset_fields": ["size"]},
    }
    service = await run({"notes": resource})
    await service.sql.execute(
        "ALTER TABLE notes SET (autovacuum_enabled = false);"
        "INSERT INTO notes (gone) SELECT CASE WHEN n % 4 = 0 THEN now() END FROM generate_series(1, 400) AS n"
    )

    async def count(query: str = "") -> int:
        found: int = (await service.get(f"/notes/?page_size=5{query}"))["count"]
        return found

    assert [await count(each) for each in ("", "&deleted=only", "&deleted=with")] == [300, 100, 400]
    await service.sql.execute("ANALYZE notes")
    await service.sql.execute("UPDATE notes SET gone = now()")
    assert [await count(each) for each in ("", "&deleted=only", "&deleted=with")] == [300, 100, 400]
    assert [await count(f"&size=0{each}") for each in ("", "&deleted=only", "&deleted=with")] == [0, 400, 400]
