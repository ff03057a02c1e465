"""``scope`` as an option: conditions on rows whose values come from the caller, for every action and for the stream."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
import pytest_asyncio

from rowcast.errors import ConfigurationError

from ..databases import Databases
from ..sse import listen
from .conftest import Run, running
from .library import Service

SECRET = "a shared secret of 32 bytes or more"
SETTINGS = f"auth: {{jwt: {{secret: {SECRET}, audience: rowcast}}, default_permission_classes: [AllowAny]}}"
TENANTS = {"fields": {"id": {"type": "integer", "primary_key": True}, "name": {"type": "string", "max_length": 9}}}
FIELDS: dict[str, Any] = {
    "id": {"type": "integer", "primary_key": True},
    "tenant": {"type": "foreign_key", "to": "tenants"},
    "owner": {"type": "string", "max_length": 20, "default": "", "blank": True},
    "public": {"type": "boolean", "default": False},
    "level": {"type": "integer", "default": 0},
    "tags": {"type": "array", "of": "string", "default": []},
}
ROWS = """
    INSERT INTO tenants (name) VALUES ('a'), ('b');
    INSERT INTO notes (tenant_id, owner, public, level) VALUES
        (1, 'ann', false, 1), (1, 'bob', false, 2), (2, 'ann', true, 3), (2, 'cat', false, 4)
"""


def bearer(sub: str = "ann", **claims: Any) -> dict[str, str]:
    """The header of a caller with these claims."""
    token = {"sub": sub, "aud": "rowcast", "exp": time.time() + 86_400, **claims}
    return {"Authorization": f"Bearer {jwt.encode(token, SECRET, 'HS256')}"}


async def started(run: Run, scope: Any, modules: dict[str, str] | None = None, **viewset: Any) -> Service:
    """A service with four notes of two tenants, and a scope for them."""
    notes = {"fields": FIELDS, "viewset": {"scope": scope, **viewset}}
    service = await run({"tenants": TENANTS, "notes": notes}, SETTINGS, modules=modules)
    await service.sql.execute(ROWS)
    return service


async def ids(service: Service, headers: dict[str, str] | None = None, path: str = "/notes/") -> list[int]:
    """The keys of the rows in a list."""
    _, body = await service.ask("GET", path, headers=headers or {}, status=200)
    assert body["count"] == len(body["results"])
    return [row["id"] for row in body["results"]]


NAMESPACED: dict[str, Any] = {"https://x.example/org": 1}
SCOPES: list[tuple[Any, dict[str, str], list[int]]] = [
    ({"tenant": "$claims.org"}, bearer(org=1), [1, 2]),
    ({"tenant": "$claims.org"}, bearer(org="2"), [3, 4]),
    ({"tenant_id": "$claims.org"}, bearer(org=2), [3, 4]),
    ({"tenant__name": "$claims.org"}, bearer(org="b"), [3, 4]),
    ({"tenant": "$claims.app.org"}, bearer(app={"org": 1}), [1, 2]),
    ({"tenant": "$claims.https://x.example/org"}, bearer(**NAMESPACED), [1, 2]),
    ({"tenant__in": "$claims.orgs"}, bearer(orgs=[1, 2]), [1, 2, 3, 4]),
    ({"tenant__in": ["$claims.org", 2]}, bearer(org=1), [1, 2, 3, 4]),
    ({"owner": "$user.id"}, bearer("bob"), [2]),
    ({"or": [{"owner": "$user.id"}, {"public": True}]}, bearer("bob"), [2, 3]),
    ({"or": [{"owner": "$user.id"}, {"public": True}]}, {}, [3]),
    ({"tenant": "$claims.org", "not": {"owner": "$user.id"}}, bearer("ann", org=1), [2]),
    ({"not": {"or": [{"owner": "bob"}, {"level__gte": 4}]}}, {}, [1, 3]),
    ({"and": [{"level__gte": 2}, {"level__lt": 4}]}, {}, [2, 3]),
    ({"public": "$user.is_staff"}, bearer(is_staff=True), [3]),
    ({"owner": "$$user.id"}, bearer("ann"), []),
]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("scope", "headers", "expected"), SCOPES)
async def test_rows_are_those_of_the_caller(
    scopes: Service, scope: Any, headers: dict[str, str], expected: list[int]
) -> None:
    """List, count, retrieve, update and delete know the rows of the scope, and no others."""
    name = NAMES[json.dumps(scope)]
    assert await ids(scopes, headers, f"/{name}/") == expected
    for key in (1, 2, 3, 4):
        inside = key in expected
        response, _ = await scopes.ask("GET", f"/{name}/{key}/", headers=headers)
        assert response.status == (200 if inside else 404)
        if not inside:
            for method in ("PATCH", "DELETE"):
                response, _ = await scopes.ask(method, f"/{name}/{key}/", {"level": 9}, headers=headers)
                assert response.status == 404
    assert await scopes.sql.fetchval(f"SELECT count(*) FROM {name} WHERE level < 9") == 4


UNKNOWN: list[tuple[Any, dict[str, str]]] = [
    ({"tenant": "$claims.org"}, {}),
    ({"tenant": "$claims.org"}, bearer()),
    ({"tenant": "$claims.org"}, bearer(org=None)),
    ({"tenant": "$claims.org"}, bearer(org="one")),
    ({"tenant": "$claims.org"}, bearer(org=[1])),
    ({"tenant": "$claims.org"}, bearer(org={"id": 1})),
    ({"tenant": "$claims.org"}, bearer(org=True)),
    ({"tenant": "$claims.app.org"}, bearer(app="org")),
    ({"tenant__in": "$claims.orgs"}, bearer(orgs=1)),
    ({"tenant__in": "$claims.orgs"}, bearer(orgs="12")),
    ({"tenant__in": "$claims.orgs"}, bearer(orgs={"1": 2})),
    ({"not": {"tenant": "$claims.org"}}, bearer()),
    ({"not": {"tenant__in": "$claims.orgs"}}, bearer(orgs=[None])),
    ({"not": {"and": [{"level": 0}, {"tenant": "$claims.org"}]}}, bearer()),
    ({"tenant__ne": "$claims.org"}, bearer()),
    ({"owner__startswith": "$claims.team"}, bearer(team="")),
    ({"owner__startswith": "$claims.team"}, bearer(team="a\0")),
    ({"owner__regex": "$claims.team"}, bearer(team="a?" * 1000)),
    ({"level__range": "$claims.levels", "tenant": "$claims.org"}, bearer(levels=[1, 4, 2], org=1)),
    ({"level__range": "$claims.levels", "tenant": "$claims.org"}, bearer(levels=[1], org=1)),
    ({"owner__isnull": "$claims.none"}, bearer(none="false")),
    ({"or": [{"tenant": "$claims.org"}, {"owner": "$user.id"}]}, {}),
]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("scope", "headers"), UNKNOWN)
async def test_an_unknown_value_matches_nothing(scopes: Service, scope: Any, headers: dict[str, str]) -> None:
    """A claim that is missing or of another type shows no row, under ``not`` too, and lets nothing be created."""
    name = NAMES[json.dumps(scope)]
    assert await ids(scopes, headers, f"/{name}/") == []
    response, problem = await scopes.ask("POST", f"/{name}/", {"tenant_id": 1}, headers=headers)
    assert (response.status, problem["code"]) == (403, "outside_scope")
    assert await scopes.sql.fetchval(f"SELECT count(*) FROM {name}") == 4


NAMES = {text: f"notes{n}" for n, text in enumerate(sorted({json.dumps(each[0]) for each in [*SCOPES, *UNKNOWN]}))}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scopes(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A service with a resource of four notes for each scope."""
    resources = {name: {"fields": FIELDS, "viewset": {"scope": json.loads(text)}} for text, name in NAMES.items()}
    directory = tmp_path_factory.mktemp("scopes")
    async with running(databases, directory, {"tenants": TENANTS, **resources}, SETTINGS) as service:
        tenants, notes = ROWS.split(";")
        await service.sql.execute(tenants)
        for name in resources:
            await service.sql.execute(notes.replace("INTO notes", f"INTO {name}"))
        yield service


async def test_true_and_one_are_different_values(run: Run) -> None:
    """A scope that is kept for one caller is not used for another whose claim only compares as equal."""
    service = await started(run, {"tenant": "$claims.org"})
    assert await ids(service, bearer(org=1)) == [1, 2]
    assert await ids(service, bearer(org=True)) == []
    assert await ids(service, bearer(org=1.0)) in ([], [1, 2])
    assert await ids(service, bearer(org=1)) == [1, 2]


@pytest.mark.parametrize("hook", [False, True])
async def test_a_new_row_gets_the_values_that_the_scope_fixes(run: Run, hook: bool) -> None:
    """A body may leave out a field that the scope fixes by equality; another value is a 403."""
    modules = {"viewsets": HOOKED} if hook else None
    more = {"class": "viewsets:NoteViewSet"} if hook else {}
    service = await started(run, {"tenant": "$claims.org", "owner": "$user.id"}, modules, **more)
    headers = bearer("bob", org=2)
    _, row = await service.ask("POST", "/notes/", {"level": 7}, headers=headers, status=201)
    assert (row["tenant_id"], row["owner"], row["level"]) == (2, "bob", 7)
    _, row = await service.ask("POST", "/notes/", {"tenant_id": 2, "owner": "bob"}, headers=headers, status=201)
    for body in ({"tenant_id": 1}, {"owner": "ann"}, {"owner": ""}):
        response, problem = await service.ask("POST", "/notes/", body, headers=headers)
        assert (response.status, problem["code"]) == (403, "outside_scope")
    response, problem = await service.ask("PATCH", f"/notes/{row['id']}/", {"tenant_id": 1}, headers=headers)
    assert (response.status, problem["code"]) == (403, "outside_scope")
    _, row = await service.ask("PUT", f"/notes/{row['id']}/", {"level": 8}, headers=headers, status=200)
    assert (row["tenant_id"], row["owner"], row["level"]) == (2, "bob", 8)


HOOKED = """
from rowcast import ModelViewSet, action, model
Note = model("notes")

class NoteViewSet(ModelViewSet):
    async def perform_create(self, serializer):
        await serializer.save()

    @action(detail=False)
    async def mine(self, request):
        return [row.id for row in await self.get_queryset().order_by("id")]

class LevelViewSet(ModelViewSet):
    def get_queryset(self):
        return Note.objects.filter(level__gte=2)

class StaticViewSet(ModelViewSet):
    queryset = Note.objects.filter(level__gte=2)

class ClassViewSet(ModelViewSet):
    scope = {"level__gte": 2, "tenant": "$claims.org"}
"""


async def test_actions_and_querysets_are_within_the_scope(run: Run) -> None:
    """``get_queryset()`` in a handler has the scope; a viewset's own query set and the option hold both."""
    service = await started(run, {"tenant": "$claims.org"}, {"viewsets": HOOKED}, **{"class": "viewsets:NoteViewSet"})
    _, body = await service.ask("GET", "/notes/mine/", headers=bearer(org=1), status=200)
    assert body == [1, 2]


@pytest.mark.parametrize("viewset", ["LevelViewSet", "StaticViewSet"])
async def test_a_queryset_of_the_class_holds_as_well(run: Run, viewset: str) -> None:
    """Rows are those of both."""
    service = await started(run, {"tenant": "$claims.org"}, {"viewsets": HOOKED}, **{"class": f"viewsets:{viewset}"})
    assert await ids(service, bearer(org=1)) == [2]
    response, problem = await service.ask("POST", "/notes/", {"level": 1}, headers=bearer(org=1))
    assert (response.status, problem["code"]) == (403, "outside_scope")
    await service.ask("POST", "/notes/", {"level": 2}, headers=bearer(org=1), status=201)


async def test_a_class_may_have_a_scope(run: Run) -> None:
    """The option is a class attribute as well."""
    notes = {"fields": FIELDS, "viewset": {"class": "viewsets:ClassViewSet"}}
    service = await run({"tenants": TENANTS, "notes": notes}, SETTINGS, modules={"viewsets": HOOKED})
    await service.sql.execute(ROWS)
    assert await ids(service, bearer(org=1)) == [2]


async def test_scope_unless_lifts_the_scope(run: Run) -> None:
    """Callers whom the permission allows see and write every row, and must send what a row requires."""
    service = await started(run, {"tenant": "$claims.org"}, scope_unless="IsAdminUser")
    staff = bearer(is_staff=True)
    assert await ids(service, staff) == [1, 2, 3, 4]
    assert await ids(service, bearer()) == []
    response, problem = await service.ask("POST", "/notes/", {"level": 1}, headers=staff)
    assert (response.status, problem["errors"]) == (400, {"tenant_id": ["This field is required."]})
    await service.ask("POST", "/notes/", {"tenant_id": 2}, headers=staff, status=201)
    await service.ask("PATCH", "/notes/1/", {"tenant_id": 2}, headers=staff, status=200)


async def test_fixed_fields_are_not_required(run: Run) -> None:
    """OPTIONS and OpenAPI say what a body needs."""
    service = await started(run, {"tenant": "$claims.org"})
    _, body = await service.ask("OPTIONS", "/notes/", headers=bearer(org=1), status=200)
    assert not body["actions"]["POST"]["tenant_id"]["required"]
    _, document = await service.ask("GET", "/openapi.json", status=200)
    assert "tenant_id" not in document["components"]["schemas"]["NoteCreate"].get("required", [])


async def test_a_stream_sends_the_rows_of_the_caller(run: Run) -> None:
    """Also those that enter and leave the scope, and none of others."""
    service = await started(run, {"tenant": "$claims.org"})
    async with (
        listen(service.client, "/notes/stream/", headers=bearer(org=1)) as mine,
        listen(service.client, "/notes/stream/", headers=bearer("zoe")) as nobody,
    ):
        assert [(await each.next()).event for each in (mine, nobody)] == ["ready", "ready"]
        await service.sql.execute("INSERT INTO notes (tenant_id, owner) VALUES (2, 'x'), (1, 'y')")
        await service.sql.execute("UPDATE notes SET tenant_id = 2 WHERE id = 1")
        events = [(await mine.next()).json() for _ in range(2)]
        assert [(each["action"], each["id"]) for each in events] == [("INSERT", 6), ("DELETE", 1)]


@pytest.mark.parametrize(
    ("viewset", "message"),
    [
        ({"scope": {"tennant": "$claims.org"}}, "notes has no field 'tennant'; did you mean tenant?"),
        ({"scope": {"tenant__nmae": 1}}, "nmae"),
        ({"scope": {"public__gte": True}}, "public__gte: gte does not suit a boolean field"),
        ({"scope": {"level": "high"}}, "level: Not a valid integer."),
        ({"scope": {"tenant": "$claim.org"}}, "'$claim.org' is not a value of the caller"),
        ({"scope": {"or": {"level": 1}}}, "must be a list of mappings"),
        ({"scope": {}}, "must be a mapping of conditions"),
        ({"scope": [{"level": 1}]}, "must be a mapping of conditions"),
        ({"scope_unless": "IsAdminUser"}, "there is no scope that it could lift"),
        ({"scope": {"level": 1}, "scope_unless": "IsAdmin"}, "IsAdminUser"),
    ],
)
async def test_mistakes_are_found_at_the_start(run: Run, viewset: dict[str, Any], message: str) -> None:
    """A path, lookup or value that does not exist names what is valid."""
    with pytest.raises(ConfigurationError) as error:
        await run({"tenants": TENANTS, "notes": {"fields": FIELDS, "viewset": viewset}}, SETTINGS)
    assert message in str(error.value)


MENTIONS: dict[str, Any] = {
    "id": {"type": "integer", "primary_key": True},
    "note": {"type": "foreign_key", "to": "notes", "on_delete": "cascade"},
    "others": {"type": "many_to_many", "to": "notes", "related_name": "mentioned_by"},
}


async def with_mentions(
    run: Run, scope: Any, notes: dict[str, Any] | None = None, modules: str | None = None, **viewset: Any
) -> Service:
    """Four mentions, one of each note, of which the first also links the second and the third note."""
    resources = {
        "tenants": TENANTS,
        "notes": {"fields": FIELDS, "viewset": {"scope": scope, **(notes or {})}},
        "mentions": {"fields": MENTIONS, "viewset": viewset},
    }
    service = await run(resources, SETTINGS, modules={"viewsets": modules or MENTIONED})
    await service.sql.execute(ROWS)
    await service.sql.execute("INSERT INTO mentions (note_id) VALUES (1), (2), (3), (4)")
    await service.sql.execute("INSERT INTO mentions_others VALUES (1, 2), (1, 3)")
    return service


MENTIONED = """
from marshmallow import fields
from rowcast import ModelViewSet, Serializer, model
Mention = model("mentions")

class MentionSerializer(Serializer):
    twice = fields.Function(lambda row: row.id * 2)
    class Meta:
        model = Mention
        fields = ("id", "twice", "note_id")

class PythonViewSet(ModelViewSet):
    serializer_class = MentionSerializer

class HandlerViewSet(ModelViewSet):
    async def list(self, request):
        rows = await self.paginate_queryset(self.get_queryset())
        return self.get_paginated_response(self.get_serializer(rows, many=True).data)

    async def retrieve(self, request, id):
        return await self.get_object()
"""


@pytest.mark.parametrize("scope", [{"tenant": "$claims.org"}, {"tenant__id": "$claims.org"}])
@pytest.mark.parametrize("viewset", [{}, {"class": "viewsets:PythonViewSet"}, {"cache": "responses"}])
async def test_expanded_rows_are_those_of_the_scope(run: Run, scope: Any, viewset: dict[str, Any]) -> None:
    """A related row outside the caller's scope is null, and is left out of a list; so for each caller in turn."""
    service = await with_mentions(run, scope, **viewset)
    for org, shown, linked in ((1, [1, 2, None, None], [2]), (2, [None, None, 3, 4], [3]), (9, [None] * 4, [])):
        for _ in range(2):
            paths = "note" if "class" in viewset else "note,others"  # the Python serializer hides others
            _, body = await service.ask("GET", f"/mentions/?expand={paths}", headers=bearer(org=org), status=200)
            assert [row["note"] and row["note"]["id"] for row in body["results"]] == shown
            if "others" in paths:
                assert [[each["id"] for each in row["others"]] for row in body["results"]] == [linked, [], [], []]
            _, row = await service.ask("GET", "/mentions/1/?expand=note", headers=bearer(org=org), status=200)
            assert (row["note"] and row["note"]["id"]) == shown[0]
    _, body = await service.ask("GET", "/mentions/?expand=note", status=200)
    assert [row["note"] for row in body["results"]] == [None] * 4


@pytest.mark.parametrize(
    ("scope", "claims"),
    [
        ({"data": "$claims.value"}, [1, True, 1, {"a": 1}, {"a": True}, [1], [True], "1"]),
        ({"tags": "$claims.value"}, [["x"], ["y"], ["x", "y"], []]),
        ({"tags__contains": "$claims.value"}, [["x"], ["y"], ["x", "y"]]),
    ],
)
async def test_answers_with_expanded_rows_are_kept_by_scope(run: Run, scope: Any, claims: list[Any]) -> None:
    """Scopes whose values are equal in Python, or cannot be keys there, are different scopes to the cache."""
    fields: dict[str, Any] = {
        "id": {"type": "integer", "primary_key": True},
        "data": {"type": "json"},
        "tags": {"type": "array", "of": "string", "default": []},
    }
    mentions = {"fields": {"note": {"type": "foreign_key", "to": "notes"}}, "viewset": {"cache": "responses"}}
    service = await run({"notes": {"fields": fields, "viewset": {"scope": scope}}, "mentions": mentions}, SETTINGS)
    for value in claims:
        tags = value if "data" not in scope else []
        await service.sql.execute("INSERT INTO notes (data, tags) VALUES ($1, $2)", json.dumps(value), tags)
    await service.sql.execute("INSERT INTO mentions (note_id) SELECT id FROM notes")
    for value in [*claims, *claims]:
        _, notes = await service.ask("GET", "/notes/", headers=bearer(value=value), status=200)
        _, body = await service.ask("GET", "/mentions/?expand=note", headers=bearer(value=value), status=200)
        assert [row["note"] for row in body["results"] if row["note"]] == notes["results"]
        for row in body["results"]:
            _, one = await service.ask("GET", f"/mentions/{row['id']}/?expand=note", headers=bearer(value=value))
            assert one == row


async def test_relations_back_are_within_the_scope(run: Run) -> None:
    """A list of the rows that refer to one has those of the scope, at every depth, and filters keep their values."""
    service = await with_mentions(run, {"tenant": "$claims.org", "level__gte": 2}, {"filterset_fields": ["owner"]})
    _, body = await service.ask("GET", "/tenants/?expand=notes,notes__mentions", headers=bearer(org=1), status=200)
    assert [[note["id"] for note in tenant["notes"]] for tenant in body["results"]] == [[2], []]
    assert [each["id"] for each in body["results"][0]["notes"][0]["mentions"]] == [2]
    _, body = await service.ask(
        "GET", "/notes/?owner=bob&expand=mentions,mentioned_by&page=1", headers=bearer(org=1), status=200
    )
    assert [(row["id"], [each["id"] for each in row["mentioned_by"]]) for row in body["results"]] == [(2, [1])]


async def test_callers_without_a_scope_see_all_expanded_rows(run: Run) -> None:
    """``scope_unless`` holds for expansions as well."""
    service = await with_mentions(run, {"tenant": "$claims.org"}, {"scope_unless": "IsAdminUser"})
    _, body = await service.ask("GET", "/mentions/?expand=note", headers=bearer(is_staff=True), status=200)
    assert [row["note"]["id"] for row in body["results"]] == [1, 2, 3, 4]


READ_BY_PYTHON = """
from marshmallow import fields
from rowcast import BasePermission, ModelViewSet, Serializer, model
Mention = model("mentions")

class NotesOfAnn(BasePermission):
    def has_object_permission(self, request, view, row):
        return row.note is None or row.note.owner == "ann"

class OwnerSerializer(Serializer):
    owner = fields.Function(lambda row: row.note.owner)
    class Meta:
        model = Mention
        fields = ("id", "owner", "note_id")

class PermissionViewSet(ModelViewSet):
    permission_classes = [NotesOfAnn]
    def get_queryset(self):
        return Mention.objects.select_related("note")

class SerializerViewSet(ModelViewSet):
    serializer_class = OwnerSerializer
    def get_queryset(self):
        return Mention.objects.select_related("note")
"""


@pytest.mark.parametrize("viewset", ["PermissionViewSet", "SerializerViewSet"])
async def test_an_expansion_takes_no_row_from_permissions_and_serializers(run: Run, viewset: str) -> None:
    """Python that reads a related row goes on to find it: the expansion is refused where the scope might hide the row."""
    service = await with_mentions(
        run,
        {"tenant": "$claims.org"},
        {"scope_unless": "IsAdminUser"},
        modules=READ_BY_PYTHON,
        **{"class": f"viewsets:{viewset}"},
    )
    for key, status in ((1, 200), (4, 403 if viewset == "PermissionViewSet" else 200)):
        await service.ask("GET", f"/mentions/{key}/", headers=bearer(org=1), status=status)
        await service.ask("GET", f"/mentions/{key}/?expand=note", headers=bearer(org=1), status=400)
        await service.ask("GET", f"/mentions/{key}/?expand=note", headers=bearer(is_staff=True), status=status)


async def test_rows_that_python_reads_are_not_expanded_within_a_scope(run: Run) -> None:
    """A handler of the author's reads related rows itself, so the expansion is refused."""
    viewset: dict[str, Any] = {"class": "viewsets:HandlerViewSet"}
    service = await with_mentions(run, {"tenant": "$claims.org"}, **viewset)
    for path in ("/mentions/?expand=note", "/mentions/1/?expand=note"):
        response, problem = await service.ask("GET", path, headers=bearer(org=1))
        assert (response.status, "own address only" in problem["detail"]) == (400, True)


@pytest.mark.parametrize("scope", [{"tenant": "$claims.org"}, {"tenant__name": "$claims.name", "level__lt": 9}])
async def test_writes_within_a_scope_are_one_statement(run: Run, scope: Any) -> None:
    """The statement that writes the row checks it, and writes nothing if the row is outside."""
    service = await started(run, scope)
    headers = bearer(org=1, name="a")
    for method, path, inside, outside in (
        ("POST", "/notes/", {"tenant_id": 1}, {"tenant_id": 2}),
        ("PATCH", "/notes/1/", {"level": 5}, {"tenant_id": 2}),
        ("PUT", "/notes/1/", {"tenant_id": 1, "level": 6}, {"tenant_id": 2}),
    ):
        for body, allowed in ((inside, True), (outside, False), (inside, True), (outside, False)):
            before = service.database.statements
            response, answer = await service.ask(method, path, body, headers=headers)
            assert response.status < 300 if allowed else answer["code"] == "outside_scope"
            assert service.database.statements == before + 1
    assert await service.sql.fetchval("SELECT count(*) FROM notes WHERE tenant_id = 2") == 2


@pytest.mark.parametrize(
    "trigger",
    [
        "BEFORE INSERT OR UPDATE ON notes FOR EACH ROW WHEN (NEW.level = 7) EXECUTE FUNCTION give()",
        "AFTER INSERT OR UPDATE ON notes FOR EACH ROW WHEN (NEW.level = 7) EXECUTE FUNCTION give_later()",
    ],
)
async def test_rows_that_a_trigger_moves_out_of_the_scope_are_not_written(run: Run, trigger: str) -> None:
    """What counts is the row that would be there."""
    service = await started(run, {"tenant": "$claims.org"})
    await service.sql.execute(f"""
        CREATE FUNCTION give() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN NEW.tenant_id := 2; NEW.level := 8; RETURN NEW; END $$;
        CREATE FUNCTION give_later() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN UPDATE notes SET tenant_id = 2, level = 8 WHERE id = NEW.id; RETURN NULL; END $$;
        CREATE TRIGGER moves {trigger}""")
    await service.service.store.read_traits()  # as at start
    for method, path in (("POST", "/notes/"), ("PATCH", "/notes/1/")):
        response, problem = await service.ask(method, path, {"level": 7}, headers=bearer(org=1))
        assert (response.status, problem["code"]) == (403, "outside_scope")
        _, row = await service.ask(method, path, {"level": 5}, headers=bearer(org=1))
        assert (row["tenant_id"], row["level"]) == (1, 5)
    assert await service.sql.fetchval("SELECT count(*) FROM notes WHERE tenant_id = 2") == 2
