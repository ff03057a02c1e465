"""Models in viewsets: a query set inside another as the scope, rows without values, and what actions take and return."""

from __future__ import annotations

from typing import Any

import pytest

from rowcast.errors import ConfigurationError

from ..sse import listen
from .conftest import Run

KEY: dict[str, Any] = {"type": "integer", "primary_key": True}
NAME: dict[str, Any] = {"type": "string", "max_length": 20}
SCOPED = """
from rowcast import ModelViewSet, model

Member = model("members")


class NoteViewSet(ModelViewSet):
    model = model("notes")
    cache = "responses"

    def get_queryset(self):
        return super().get_queryset().filter(team__in=Member.objects.filter(name="me").values("team"))
"""


async def test_the_scope_may_be_a_query_set_inside_another(run: Run) -> None:
    """Lists, rows, writes and streams are within it, and a change of the inner rows is seen at once."""
    service = await run(
        {
            "members": {"fields": {"id": KEY, "name": NAME, "team": {"type": "integer"}}},
            "notes": {
                "fields": {"id": KEY, "team": {"type": "integer"}, "text": NAME},
                "viewset": {"class": "scoped:NoteViewSet"},
            },
        },
        modules={"scoped": SCOPED},
    )
    await service.sql.execute("INSERT INTO notes (id, team, text) VALUES (70, 1, 'one'), (71, 2, 'two')")
    assert await service.rows("/notes/") == []
    member = await service.post("/members/", {"name": "me", "team": 2})
    assert [row["text"] for row in await service.rows("/notes/")] == ["two"]
    await service.get("/notes/70/", status=404)
    problem = await service.post("/notes/", {"team": 1, "text": "no"}, status=403)
    assert problem["code"] == "outside_scope"
    async with listen(service.client, "/notes/stream/") as stream:
        await stream.next()
        await service.sql.execute("INSERT INTO notes (id, team, text) VALUES (72, 1, 'hidden')")
        await service.post("/notes/", {"team": 2, "text": "yes"})
        assert (await stream.next()).json()["data"]["text"] == "yes"
    await service.patch(f"/members/{member['id']}/", {"team": 1})
    assert [row["text"] for row in await service.rows("/notes/")] == ["one", "hidden"]


ACTIONS = """
from rowcast import ModelViewSet, action, model


class PlainViewSet(ModelViewSet):
    @action(detail=False, methods=["POST"])
    async def many(self, request):
        Plain = model("plain")
        return await Plain.objects.bulk_create([Plain(), {"note": "a"}, {}])
"""


async def test_rows_without_any_value(run: Run) -> None:
    """They have the defaults: from arrays, files and ``bulk_create``."""
    plain = {
        "fields": {"id": KEY, "note": {**NAME, "default": "x"}},
        "viewset": {"class": "plain_views:PlainViewSet", "import": True},
    }
    service = await run({"plain": plain}, modules={"plain_views": ACTIONS})
    _, rows = await service.ask("POST", "/plain/", [{}, {"note": "b"}, {}], status=201)
    assert [row["note"] for row in rows] == ["x", "b", "x"]
    made = await service.post("/plain/many/", None, status=200)
    assert [row["note"] for row in made] == ["x", "a", "x"]
    response = await service.client.post(
        "/plain/import/", data=b"{}\n{}\n", headers={"Content-Type": "application/x-ndjson"}
    )
    assert (await response.json())["created"] == 2
    assert await service.sql.fetchval("SELECT count(*) FROM plain WHERE note = 'x'") == 6


SERIALIZERS = """
from marshmallow import fields
from rowcast import ModelViewSet, Serializer, action, model


class Move(Serializer):
    to = fields.String(required=True)


class Moved(Serializer):
    where = fields.Function(lambda row: row.place.upper())

    class Meta:
        model = model("things")
        fields = ("id", "where")


class ThingViewSet(ModelViewSet):
    @action(detail=True, methods=["POST"], request_serializer=Move, response_serializer=Moved)
    async def move(self, request, id):
        thing = await self.get_object(id)
        body = self.get_serializer(data=request.data)
        body.is_valid(raise_exception=True)
        assert self.validate_data(request.data) == body.validated_data
        thing.place = body.validated_data["to"]
        await thing.save()
        return thing

    @action(detail=False, response_serializer=Moved)
    async def all(self, request):
        return await model("things").objects.order_by("id")

    @action(detail=True, methods=["POST"])
    async def touch(self, request, id):
        return {"thing": await self.get_object(id), "n": 1}
"""


async def test_what_actions_take_and_return(run: Run) -> None:
    """Bodies by one serializer, rows by another; without, rows inside anything are shown as ``retrieve`` shows them."""
    things = {"fields": {"id": KEY, "place": NAME}, "viewset": {"class": "things_views:ThingViewSet"}}
    service = await run({"things": things}, modules={"things_views": SERIALIZERS})
    row = await service.post("/things/", {"place": "here"})
    assert await service.post("/things/1/move/", {"to": "there"}, status=200) == {"id": 1, "where": "THERE"}
    problem = await service.post("/things/1/move/", {"place": "there"}, status=400)
    assert problem["errors"].keys() == {"to", "place"}
    assert await service.get("/things/all/") == [{"id": 1, "where": "THERE"}]
    assert await service.post("/things/1/touch/", {}, status=200) == {"thing": {**row, "place": "there"}, "n": 1}
    paths = (await service.get("/openapi.json"))["paths"]
    move = paths["/things/{id}/move/"]["post"]
    body = move["requestBody"]["content"]["application/json"]["schema"]
    assert (list(body["properties"]), body["required"]) == (["to"], ["to"])
    shown = move["responses"]["200"]["content"]["application/json"]["schema"]
    assert set(shown["properties"]) == {"id", "where"}
    many = paths["/things/all/"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert many["anyOf"][1]["items"] == many["anyOf"][0]


async def test_serializers_of_actions_that_are_wrong(run: Run) -> None:
    things = {"fields": {"id": KEY, "place": NAME}, "viewset": {"class": "wrong_views:ThingViewSet"}}
    for number, (text, message) in enumerate(
        (
            (
                "@action(detail=False, request_serializer=dict)\n    async def x(self, request): ...",
                "is not a serializer class",
            ),
            ("request_serializer = Serializer", "request_serializer is for actions"),
        )
    ):
        module = (
            f"from rowcast import ModelViewSet, Serializer, action\n\nclass ThingViewSet(ModelViewSet):\n    {text}\n"
        )
        name = f"wrong_views{number}"
        viewset = {"class": f"{name}:ThingViewSet"}
        with pytest.raises(ConfigurationError, match=message):
            await run({"things": {**things, "viewset": viewset}}, modules={name: module})
