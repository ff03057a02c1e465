"""``?expand=``: which relations a client may know of and follow, and how far."""

from __future__ import annotations

import json
from textwrap import dedent
from typing import Any

import pytest

from .conftest import Run
from .library import OPEN, Service

ID = {"id": {"type": "integer", "primary_key": True}}
NAME = {"name": {"type": "string", "max_length": 20, "default": ""}}
RESOURCES: dict[str, dict[str, Any]] = {
    "people": {
        "fields": {**ID, **NAME, "boss": {"type": "foreign_key", "to": "people", "null": True, "related_name": "staff"}}
    },
    "rooms": {"fields": {**ID, **NAME}},
    "topics": {"fields": {**ID, **NAME}},
    "ballots": {
        "fields": {
            **ID,
            **NAME,
            "voter": {"type": "foreign_key", "to": "people", "null": True},
            "room": {"type": "foreign_key", "to": "rooms", "null": True},
            "topics": {"type": "many_to_many", "to": "topics"},
        }
    },
}
VIEWSETS = dedent("""
    from marshmallow import fields, post_dump
    from rowcast import ModelViewSet, Serializer, model

    Ballot = model("ballots")

    class Excluding(Serializer):
        class Meta:
            model = Ballot
            exclude = ("voter_id", "topics")

    class Including(Serializer):
        class Meta:
            model = Ballot
            fields = ("id", "name", "room_id")

    class Loading(Serializer):
        class Meta:
            model = Ballot
            extra = {"voter_id": {"load_only": True}}
            exclude = ("topics",)

    class Replacing(Serializer):
        voter_id = fields.Function(lambda ballot: "***")

        class Meta:
            model = Ballot
            exclude = ("topics",)

    class Dropping(Serializer):
        class Meta:
            model = Ballot

        @post_dump
        def drop(self, data, **kwargs):
            return {name: value for name, value in data.items() if name != "voter_id"}

    class Masking(Serializer):
        class Meta:
            model = Ballot

        @post_dump
        def mask(self, data, **kwargs):
            return {**data, "voter_id": None}

    class DroppingView(ModelViewSet):
        serializer_class = Dropping

    class MaskingView(ModelViewSet):
        serializer_class = Masking

    class ExcludingView(ModelViewSet):
        serializer_class = Excluding

    class IncludingView(ModelViewSet):
        serializer_class = Including

    class LoadingView(ModelViewSet):
        serializer_class = Loading

    class ReplacingView(ModelViewSet):
        serializer_class = Replacing
    """)


async def started(run: Run, ballots: dict[str, Any] | None = None, **options: dict[str, Any]) -> Service:
    """A service with a ballot of person 1 in room 1 about topic 1, and the options of each viewset."""
    resources = {
        name: {**resource, "viewset": (ballots or {}) if name == "ballots" else options.get(name, {})}
        for name, resource in RESOURCES.items()
    }
    service = await run(resources, modules={"viewsets": VIEWSETS})
    await service.sql.execute(
        "INSERT INTO people (name) VALUES ('ann'); INSERT INTO rooms (name) VALUES ('hall'); INSERT INTO topics (name) VALUES ('x');"
        "INSERT INTO ballots (name, voter_id, room_id) VALUES ('b', 1, 1); INSERT INTO ballots_topics VALUES (1, 1)"
    )
    return service


async def expandable(service: Service, path: str) -> set[str]:
    """The relations that the document names for an address."""
    _, document = await service.ask("GET", "/openapi.json")
    parameters = {each["name"]: each for each in document["paths"][path]["get"]["parameters"]}
    return set(parameters["expand"]["schema"]["items"]["enum"]) if "expand" in parameters else set()


@pytest.mark.parametrize("viewset", ["ExcludingView", "IncludingView", "LoadingView", "ReplacingView"])
async def test_relation_is_visible_where_its_column_is_shown(run: Run, viewset: str) -> None:
    """A foreign key or links that the serializer hides are expanded neither forwards nor backwards, however deep."""
    service = await started(run, {"class": f"viewsets:{viewset}"})
    for path, name in (
        ("/ballots/?expand=voter", "voter"),
        ("/ballots/1/?expand=voter", "voter"),
        ("/ballots/1/?expand=room,voter", "voter"),
        ("/ballots/?expand=topics", "topics"),
        ("/people/?expand=ballots", "ballots"),
        ("/people/1/?expand=ballots__room", "ballots"),
        ("/topics/?expand=ballots", "ballots"),
        ("/rooms/?expand=ballots__voter", "voter"),
        ("/rooms/1/?expand=ballots__topics", "topics"),
    ):
        _, problem = await service.ask("GET", path, status=400)
        assert problem["code"] == "invalid_parameter"
        unknown = (await service.ask("GET", path.replace(name, "votre"), status=400))[1]["detail"]
        assert unknown.replace("votre", name).split(";")[0] == problem["detail"].split(";")[0]
        assert name not in unknown.split(";")[1]
    _, row = await service.ask("GET", "/rooms/1/?expand=ballots", status=200)
    assert row["ballots"][0]["name"] == "b"
    assert "voter" not in str(row).replace("voter_id': '***", "")
    assert await expandable(service, "/ballots/") == {"room"}
    assert await expandable(service, "/people/") == {"boss", "staff"}
    _, document = await service.ask("GET", "/openapi.json")
    assert "voter" not in document["components"]["schemas"]["BallotPart"]["properties"]
    assert "ballots" not in document["components"]["schemas"]["PersonPart"]["properties"]


async def test_visible_relations_are_expanded_both_ways(run: Run) -> None:
    """Foreign keys and links that rows show are expanded as before."""
    service = await started(run)
    _, row = await service.ask("GET", "/ballots/1/?expand=voter,topics,room", status=200)
    assert (row["voter"]["name"], row["topics"][0]["name"], row["room"]["name"]) == ("ann", "x", "hall")
    _, row = await service.ask("GET", "/people/1/?expand=ballots__topics", status=200)
    assert row["ballots"][0]["topics"] == [{"id": 1, "name": "x"}]


@pytest.mark.parametrize("path", ["topics__ballots", "voter__ballots", "room__ballots__voter", "voter__staff__boss"])
async def test_expand_does_not_go_back_over_the_same_relation(run: Run, path: str) -> None:
    """A path that returns over the relation that it came by would repeat rows without end."""
    service = await started(run)
    _, problem = await service.ask("GET", f"/ballots/?expand={path}", status=400)
    assert (
        f"expand: {path}: {path.split('__')[-1 if path != 'room__ballots__voter' else 1]!r} leads back"
        in problem["detail"]
    )
    await service.ask("GET", "/people/?expand=boss__boss", status=200)
    await service.ask("GET", "/people/?expand=staff__staff__ballots__topics", status=200)


async def test_expandable_names_what_may_be_expanded(run: Run) -> None:
    """A list allows its paths and their beginnings alone; an empty list nothing, also not on the way from others."""
    service = await started(run, {"expandable": ["voter__boss", "topics"]})
    for path in ("voter", "voter__boss", "topics"):
        await service.ask("GET", f"/ballots/1/?expand={path}", status=200)
    for path in ("room", "voter__staff", "topics__ballots"):
        _, problem = await service.ask("GET", f"/ballots/?expand={path}", status=400)
        assert f"expand: {path!r} cannot be expanded" in problem["detail"]
    assert await expandable(service, "/ballots/") == {"voter", "topics"}
    service = await started(run, {"expandable": []}, people={"expandable": ["boss"]})
    for path in ("/ballots/?expand=voter", "/rooms/?expand=ballots__voter", "/people/?expand=ballots"):
        await service.ask("GET", path, status=400)
    await service.ask("GET", "/rooms/?expand=ballots", status=200)
    assert await expandable(service, "/ballots/") == set()


async def test_expandable_may_name_a_relation_that_rows_hide(run: Run) -> None:
    """The author's list is the author's word, as ``select_related`` is."""
    service = await started(run, {"class": "viewsets:ExcludingView", "expandable": ["voter"]})
    _, row = await service.ask("GET", "/ballots/1/?expand=voter", status=200)
    assert row["voter"] == {"id": 1, "name": "ann", "boss_id": None}


@pytest.mark.parametrize(("setting", "value"), [("expand_limit", 20), ("expand_size_limit", "600B")])
async def test_expansion_has_a_budget_of_rows_and_bytes(run: Run, setting: str, value: Any) -> None:
    """More related rows or bytes than that are a 400 that names the budget, in lists, rows and pages of handlers."""
    settings = {**json.loads(OPEN), "server": {setting: value}}
    module = """
        from rowcast import ModelViewSet, action

        class People(ModelViewSet):
            async def list(self, request):
                page = await self.paginate_queryset(self.filter_queryset(self.get_queryset()))
                return self.get_paginated_response([self.serialize(person) for person in page])
    """
    people = {**RESOURCES["people"], "viewset": {"class": "viewsets:People"}}
    resources = {**RESOURCES, "people": people}
    service = await run(resources, json.dumps(settings), modules={"viewsets": dedent(module)})
    await service.sql.execute(
        "INSERT INTO people (name) VALUES ('ann'), ('bob'); INSERT INTO rooms (name) VALUES ('hall'), ('den');"
        "INSERT INTO topics (name) SELECT 'topic' FROM generate_series(1, 4);"
        "INSERT INTO ballots (name, voter_id, room_id) SELECT 'ballot', n % 2 + 1, 1 FROM generate_series(1, 8) n;"
        "INSERT INTO ballots_topics SELECT b.id, t.id FROM ballots b, topics t"
    )
    for path in (
        "/rooms/?expand=ballots",
        "/rooms/1/?expand=ballots",
        "/people/?expand=ballots",
        "/ballots/1/?expand=topics,voter,room",
        "/ballots/?expand=topics&page_size=2",
        "/ballots/?expand=topics&page_size=2&page=4",
        "/rooms/?expand=ballots__topics&page=2&page_size=1",
        "/ballots/?expand=voter,room",
    ):
        await service.ask("GET", path, status=200)
    for path in (
        "/rooms/?expand=ballots__topics",
        "/rooms/1/?expand=ballots__topics",
        "/people/?expand=ballots__topics",
        "/ballots/?expand=topics",
    ):
        _, problem = await service.ask("GET", path, status=400)
        assert problem["code"] == "expansion_too_large"
        assert str(20 if setting == "expand_limit" else 600) in problem["detail"]


@pytest.mark.parametrize("viewset", ["DroppingView", "MaskingView"])
async def test_key_that_python_takes_out_of_a_row_is_not_expanded(run: Run, viewset: str) -> None:
    """Where a hook drops or masks a foreign key, ``?expand=`` does not add the row; other relations are added."""
    service = await started(run, {"class": f"viewsets:{viewset}"})
    for path in ("/ballots/?expand=voter,room", "/ballots/1/?expand=voter,room"):
        text = str((await service.ask("GET", path, status=200))[1])
        assert ("ann" in text, "hall" in text) == (False, True)
    for path in ("/people/?expand=ballots", "/people/1/?expand=ballots"):
        await service.ask("GET", path, status=400)
