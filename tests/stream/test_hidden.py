"""Streams whose visible rows depend on ``write_only`` fields, which the change log does not have."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from tests.conftest import Client, Serve
from tests.sse import listen
from tests.stream.test_events import next_change, ready

NOTES = """
fields:
  id: {type: integer, primary_key: true}
  text: {type: string, max_length: 50}
  hidden: {type: boolean, default: false, write_only: true}
  level: {type: integer, null: true, write_only: true}
  vault: {type: foreign_key, to: vaults, null: true, on_delete: set_null, write_only: true}
  seals: {type: many_to_many, to: vaults, write_only: true, related_name: sealed_notes}
  owner: {type: foreign_key, to: vaults, null: true, on_delete: set_null, related_name: owned_notes}
viewset: {class: 'viewsets:Notes'}
"""
VAULTS = """
fields:
  id: {type: integer, primary_key: true}
  open: {type: boolean, default: true, write_only: true}
viewset: {permission_classes: [AllowAny]}
"""
RESOURCES = {"notes": NOTES, "vaults": VAULTS}
OPEN = "auth: {default_permission_classes: [AllowAny]}"
SCOPE = """
from rowcast import ModelViewSet, Q, F, model
Note = model("notes")

class Notes(ModelViewSet):
    def get_queryset(self):
        return Note.objects.{}
"""
SEALED = """
from rowcast import BasePermission, ModelViewSet

class Unsealed(BasePermission):
    def has_object_permission(self, request, view, obj):
        {}

class Notes(ModelViewSet):
    permission_classes = [Unsealed]
"""
PYTHON = """
from marshmallow import fields
from rowcast import ModelViewSet, Serializer, model

class NoteSerializer(Serializer):
    is_public = fields.Function(lambda note: not note.hidden)

    class Meta:
        model = model("notes")
        fields = ("id", "text", "is_public")

class Notes(ModelViewSet):
    serializer_class = NoteSerializer
"""

pytestmark = pytest.mark.tables(RESOURCES)


async def stream(client: Client, path: str, **params: str) -> tuple[int, Any]:
    """The status of a stream that is refused, and the problem."""
    answer = await client.get(path, params=params)
    return answer.status, await answer.json()


@pytest.mark.parametrize(
    "scope",
    [
        "filter(hidden=False)",
        "exclude(hidden=True)",
        "filter(hidden__ne=True)",
        "filter(~Q(hidden=True))",
        "filter(level__isnull=True)",
        "exclude(level__isnull=False)",
        "filter(Q(text='a') | ~Q(level__gt=1))",
        "filter(id__gt=F('level') + 1)",
        "filter(vault__isnull=True)",
        "exclude(vault__open=False)",
        "exclude(seals=1)",
        "exclude(seals__open=False)",
    ],
)
async def test_a_scope_by_a_field_that_is_not_logged_has_no_stream(serve: Serve, scope: str) -> None:
    """The stream of all rows, of one row, of several resources: each is a 404 with a sentence that names no field."""
    client = await serve(RESOURCES, OPEN, modules={"viewsets": SCOPE.format(scope)})
    await client.post("/notes/", json={"text": "a"})
    assert (await client.get("/notes/")).status == 200
    for path in (
        "/notes/stream/",
        "/notes/stream/?snapshot=true",
        "/notes/1/stream/",
        "/stream/?resources=vaults,notes",
    ):
        status, problem = await stream(client, path)
        assert (status, problem["code"]) == (404, "no_stream")
        assert "write_only" in problem["detail"]
        assert not {"hidden", "level", "vault", "seals"} & set(problem["detail"].replace(".", " ").split())


@pytest.mark.parametrize("scope", ["exclude(owner__open=False)", "filter(owner__isnull=True)"])
async def test_fields_of_other_rows_are_read_as_they_are(serve: Serve, sql: asyncpg.Connection, scope: str) -> None:
    """A ``write_only`` field of a related row is read from that row, so it can decide."""
    client = await serve(RESOURCES, OPEN, modules={"viewsets": SCOPE.format(scope)})
    await sql.execute("INSERT INTO vaults (id, open) VALUES (1, false), (2, true)")
    async with listen(client, "/notes/stream/") as source:
        await ready(source)
        await sql.execute("INSERT INTO notes (id, text, owner_id) VALUES (1, 'closed', 1), (2, 'fence', NULL)")
        assert (await next_change(source))["id"] == 2


@pytest.mark.parametrize(
    "read", ["return not obj.hidden", "return not obj['hidden']", "return not getattr(obj, 'hidden', False)"]
)
async def test_object_permissions_read_what_is_not_logged_from_the_row(
    serve: Serve, sql: asyncpg.Connection, read: str
) -> None:
    """A hidden row is never sent: inserted, changed, deleted, live and after a resume. Of a row that is gone nothing is known."""
    client = await serve(RESOURCES, OPEN, modules={"viewsets": SEALED.format(read)})
    async with listen(client, "/notes/stream/") as source:
        start = (await ready(source)).id

        async def fence(number: int) -> list[dict[str, Any]]:
            await sql.execute("INSERT INTO notes (id, text) VALUES ($1, 'fence')", number)
            events = [await next_change(source)]
            while events[-1]["id"] != number:
                events.append(await next_change(source))
            return events[:-1]

        await sql.execute("INSERT INTO notes (id, text, hidden) VALUES (1, 'secret', true), (2, 'open', false)")
        assert [(event["action"], event["id"]) for event in await fence(100)] == [("INSERT", 2)]
        await sql.execute("UPDATE notes SET text = text || '!' WHERE id < 100")
        assert [(event["action"], event["id"]) for event in await fence(101)] == [("UPDATE", 2)]
        await sql.execute("DELETE FROM notes WHERE id = 1")
        assert await fence(102) == []
        await sql.execute(
            "INSERT INTO notes (id, text, hidden) VALUES (3, 'brief', true); DELETE FROM notes WHERE id = 3"
        )
        assert await fence(103) == []
    async with listen(client, "/notes/stream/", last_id=start) as again:
        await ready(again)
        sent = [await next_change(again)]
        while sent[-1]["id"] != 103:
            sent.append(await next_change(again))
        assert {event["id"] for event in sent} == {2, 100, 101, 102, 103}
    async with listen(client, "/notes/stream/?snapshot=true") as snapshot:
        await sql.execute("INSERT INTO notes (id, text, hidden) VALUES (4, 'secret', true)")
        rows = (await snapshot.next()).json()["rows"]
        assert {row["id"] for row in rows} == {2, 100, 101, 102, 103}


async def test_serializers_read_what_is_not_logged_from_the_row(serve: Serve, sql: asyncpg.Connection) -> None:
    """``data`` is what retrieve shows, also if the serializer computes it from a ``write_only`` field."""
    client = await serve(RESOURCES, OPEN, modules={"viewsets": PYTHON})
    async with listen(client, "/notes/stream/") as source:
        await ready(source)
        await sql.execute("INSERT INTO notes (id, text, hidden) VALUES (1, 'secret', true), (2, 'open', false)")
        assert [(await next_change(source))["data"]["is_public"] for _ in range(2)] == [False, True]
